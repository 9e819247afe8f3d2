"""Load a seed LM: a local folder, a hub name, or `embedded`.

In:  a name. Out: model, tokenizer and what was chosen for them (device, data type), with the reasons.
Safetensors only, no remote code.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from selfdistill.core.errors import UserError
from selfdistill.core.launch import launched_with
from selfdistill.models import resolve
from selfdistill.models.classes import auto_class
from selfdistill.models.folder import digest, nowhere, refuse_incomplete

ATTENTION = {"auto": None, "sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}
"""What `attention` may be, with transformers' names."""


@dataclass
class SeedLM:
    """A seed LM. `context` is the number of tokens that prompt and response may have together, `revision` a commit,
    branch or tag on the hub. The weights are loaded when `model` is first asked for; `unload` gives their memory
    back."""

    name: str
    tokenizer: Any
    config: Any
    device: str
    dtype: str
    context: int
    digest: str
    quantized: bool = False
    revision: str | None = None
    attention: str = "auto"

    @cached_property
    def model(self) -> Any:
        """The model with its weights, on its device."""
        gc.collect()  # what a training left
        model = self.fresh()
        return model if self.quantized else model.to(self.device)

    def fresh(self) -> Any:
        """A model of its own with the weights, in the memory of the host, but for 4 bits."""
        return _with_weights(self).eval()

    def skeleton(self) -> Any:
        """The model's modules without memory for weights."""
        import torch

        with torch.device("meta"):
            return auto_class(self.config).from_config(self.config, trust_remote_code=False)

    def unload(self) -> None:
        """Forget the weights, for another process that needs the device."""
        import torch

        self.__dict__.pop("model", None)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def load_model(
    name: str, dtype: str = "auto", quantized: bool = False, revision: str | None = None, attention: str = "auto"
) -> SeedLM:
    """Read configuration and tokenizer of a model for generating and training; its weights are loaded later.

    `dtype` is float32 or bfloat16; "auto" takes bf16 where a CUDA device has units for it. `quantized` weights lie in 4
    bits (NF4, Dettmers et al. 2023). `revision` is a commit, branch or tag on the hub. `attention` is a name of
    `ATTENTION`. Raises UserError for a folder without weights or tokenizer, for a name that is neither here nor on the
    hub, where 4 bits cannot be had, and for an attention that is not installed.
    """
    where = resolve(name)
    refuse_incomplete(where, revision)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # PEFT asks transformers by an old name, whatever we do.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
    device = pick_device()
    with _explained(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
        config = transformers.AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    attention_kernel(attention, device)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    chosen = pick_dtype(device) if dtype == "auto" else dtype
    if quantized and (device != "cuda" or find_spec("bitsandbytes") is None):
        lacking = "bitsandbytes is not installed" if device == "cuda" else f"this machine's device is {device}"
        raise UserError(f'4 bits (tune = "qlora"): need bitsandbytes and a CUDA device; {lacking}. Take tune = "lora".')
    identity = digest(where, revision) + ("+nf4" if quantized else "")
    length = context(config)
    return SeedLM(name, tokenizer, config, device, chosen, length, identity, quantized, revision, attention)


def attention_kernel(name: str, device: str) -> str | None:
    """What transformers calls an attention of `ATTENTION`; None is its own choice. Raises UserError where it is not
    installed or not for this device."""
    if name == "flash" and (device != "cuda" or find_spec("flash_attn") is None):
        lacking = "flash-attn is not installed" if device == "cuda" else f"this machine's device is {device}"
        raise UserError(
            f'attention = "flash": needs the package flash-attn and a CUDA device; {lacking}. Take attention = "auto".'
        )
    return ATTENTION[name]


def pick_device() -> str:
    """cuda, mps or cpu: the first that is there. Each process of a launcher takes its own CUDA device."""
    import torch

    if launched_with("USE_CPU"):
        return "cpu"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(device: str) -> str:
    """bf16 where a CUDA device has units for it, else fp32. On a CPU always fp32: few have such units, the others are
    many times slower, and the same run gives the same numbers on any."""
    import torch

    bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if bf16 else "float32"


def _with_weights(lm: SeedLM) -> Any:
    import torch
    import transformers

    more: dict[str, Any] = {}
    if lm.quantized:
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, lm.dtype),
        )
        more = {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}
    elif unpacked := _unpacked(lm.config):
        more = {"quantization_config": unpacked}
    if kernel := attention_kernel(lm.attention, lm.device):
        more["attn_implementation"] = kernel
    with _explained(lm.name):
        model, loaded = auto_class(lm.config).from_pretrained(
            resolve(lm.name),
            dtype="auto" if lm.dtype == "auto" else getattr(torch, lm.dtype),  # "auto": as it is in the files
            revision=lm.revision,
            **more,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise UserError(
            f"model {lm.name}: {len(missing)} weights of the model are not in its files (for example {missing[0]}). "
            "The folder is incomplete."
        )
    if _unpacked(lm.config):
        model._weight_conversions = []  # saved as they are now: the way back would name them as packed ones
    embeddings = model.get_input_embeddings().num_embeddings
    if len(lm.tokenizer) > embeddings:
        raise UserError(
            f"model {lm.name}: the tokenizer knows {len(lm.tokenizer)} tokens, the model only {embeddings}. "
            "They do not belong together."
        )
    return model


def quantization(config: Any) -> str | None:
    """The form that a model's weights are packed in, such as gptq; None where they are plain, or become so on
    loading."""
    method = _packed_as(config)
    return None if _unpacked(config) else method


def _packed_as(config: Any) -> str | None:
    packed = getattr(config, "quantization_config", None)
    method = packed.get("quant_method") if isinstance(packed, dict) else getattr(packed, "quant_method", None)
    return None if packed is None else str(getattr(method, "value", method))


def _unpacked(config: Any) -> Any:
    """The settings that give plain weights where transformers can unpack them: MXFP4 as of gpt-oss, and FP8. On these
    an adapter trains and merges as on any others."""
    import transformers

    kinds = {"mxfp4": transformers.Mxfp4Config, "fp8": transformers.FineGrainedFP8Config}
    kind = kinds.get(_packed_as(config) or "")
    return kind(dequantize=True) if kind else None


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What goes wrong while loading, as one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        if "not a valid model identifier" in first:
            raise UserError(
                nowhere(name, "no such model on the hub, or none without a login (hf auth login)")
            ) from None
        raise UserError(f"model {name}: cannot be loaded: {first}") from None


def context(config: Any) -> int:
    """The context length in tokens of a model with this configuration."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1 << 20)
