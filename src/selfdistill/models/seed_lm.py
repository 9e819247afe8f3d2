"""Load a seed LM: a local folder, a hub name, or `embedded`.

In:  a name. Out: model, tokenizer and what was chosen for them (device, data type), with the reasons.
Safetensors only, no remote code.
"""

from __future__ import annotations

import difflib
import gc
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfdistill.core.adapters import is_adapter
from selfdistill.core.digests import digest_weights
from selfdistill.core.errors import UserError
from selfdistill.core.launch import launched_with
from selfdistill.core.store import digest_file, digest_of
from selfdistill.core.worlds import MODELS, model_folder
from selfdistill.data.packed import refuse_pointer

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass
class SeedLM:
    """A seed LM. `context` is the number of tokens that prompt and response may have together. The weights are loaded
    when `model` is first asked for; `unload` gives their memory back."""

    name: str
    tokenizer: Any
    config: Any
    device: str
    dtype: str
    context: int
    digest: str
    quantized: bool = False

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
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config, trust_remote_code=False)

    def unload(self) -> None:
        """Forget the weights, for another process that needs the device."""
        import torch

        self.__dict__.pop("model", None)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def resolve(name: str) -> str:
    """`embedded` as the folder inside the package; everything else as it stands."""
    return model_folder(name) or name


def load_model(name: str, dtype: str = "auto", quantized: bool = False) -> SeedLM:
    """Read configuration and tokenizer of a model for generating and training; its weights are loaded later.

    `dtype` is float32 or bfloat16; "auto" takes bf16 where a CUDA device has units for it. `quantized` weights lie in 4
    bits (NF4, Dettmers et al. 2023). Raises UserError for a folder without weights or tokenizer, for a name that is
    neither here nor on the hub, and where 4 bits cannot be had.
    """
    where = resolve(name)
    _complain_early(where)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # PEFT asks transformers by an old name, whatever we do.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
    device = pick_device()
    with _explained(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    chosen = pick_dtype(device) if dtype == "auto" else dtype
    if quantized and (device != "cuda" or find_spec("bitsandbytes") is None):
        lacking = "bitsandbytes is not installed" if device == "cuda" else f"this machine's device is {device}"
        raise UserError(f'4 bits (tune = "qlora"): need bitsandbytes and a CUDA device; {lacking}. Take tune = "lora".')
    identity = digest(where) + ("+nf4" if quantized else "")
    return SeedLM(name, tokenizer, config, device, chosen, context(config), identity, quantized)


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
    with _explained(lm.name):
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            resolve(lm.name),
            dtype=getattr(torch, lm.dtype),
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
    embeddings = model.get_input_embeddings().num_embeddings
    if len(lm.tokenizer) > embeddings:
        raise UserError(
            f"model {lm.name}: the tokenizer knows {len(lm.tokenizer)} tokens, the model only {embeddings}. "
            "They do not belong together."
        )
    return model


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
                _nowhere(name, "no such model on the hub, or none without a login (hf auth login)")
            ) from None
        raise UserError(f"model {name}: cannot be loaded: {first}") from None


def _complain_early(where: str) -> None:
    """Name what a local folder lacks before any heavy import."""
    path = Path(where)
    if not path.exists():
        if where.startswith((".", "/", "~")) or where.count("/") > 1:
            raise UserError(f"model {where}: no such folder.")
        from huggingface_hub import constants, try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(where, "config.json")
        except ValueError:
            raise UserError(_nowhere(where, "no name that the hub could have")) from None
        if constants.HF_HUB_OFFLINE and not isinstance(cached, str):
            raise UserError(_nowhere(where, "not in the hub's cache (HF_HUB_OFFLINE is set)"))
        return
    if not path.is_dir():
        single = " A single GGUF file is no such folder." if path.suffix == ".gguf" else ""
        raise UserError(f"model {where}: expected a folder in Hugging Face format, got a file.{single}")
    weights = [f for f in sorted(path.glob("*.safetensors")) if not f.name.startswith("adapter_")]
    if is_adapter(path) and not weights:
        raise UserError(_is_an_adapter(path))
    if not (path / "config.json").is_file():
        raise UserError(
            f"model {where}: no config.json in the folder. Expected a model in Hugging Face format.{_other(path)}"
        )
    if not weights:
        raise UserError(f"model {where}: no weights (*.safetensors) in the folder.{_other(path)}")
    tokenizers = [path / f for f in TOKENIZERS if (path / f).is_file()]
    if not tokenizers:
        raise UserError(f"model {where}: no tokenizer (tokenizer.json or tokenizer.model) in the folder.")
    for file in (path / "config.json", *tokenizers, *weights):
        refuse_pointer(file)
    _check_weights(path, weights)


def _nowhere(name: str, else_where: str) -> str:
    near = difflib.get_close_matches(name, MODELS, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"model {name}: no such folder, and {else_where}.{hint}"


def _is_an_adapter(path: Path) -> str:
    try:
        base = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, LookupError, TypeError):
        base = None
    named = base or "its base model"
    return (
        f"model {path}: a PEFT adapter of {named}, not a model. Name the base as --model and this folder as --adapter, "
        f"or merge the two: selfdistill merge --model {base or 'BASE'} --adapter {path} --out FOLDER."
    )


def _other(path: Path) -> str:
    """What a folder without safetensors holds instead."""
    if list(path.glob("*.gguf")):
        return " There are GGUF files, which cannot be trained on; take the model that they were made from."
    if [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]:
        return " The .bin files there are pickles and refused; convert them to safetensors."
    return ""


def _check_weights(path: Path, weights: list[Path]) -> None:
    """Raises UserError for a file of weights that is not whole, and for one that the index names and is not there."""
    from safetensors import SafetensorError, safe_open

    index = path / "model.safetensors.index.json"
    if index.is_file():
        refuse_pointer(index)
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(f"model {path}: {index.name} is broken. Fetch the model again.") from None
        if lacking := sorted(named - {f.name for f in weights}):
            raise UserError(
                f"model {path}: {len(lacking)} of {len(named)} files of weights are missing ({lacking[0]}, ...). Fetch "
                "the model again."
            )
    for file in weights:
        try:
            with safe_open(file, "np"):  # looks whether the header fits the file's size
                pass
        except SafetensorError as error:
            raise UserError(f"{file}: broken or cut short ({error}). Fetch the file again.") from None


def context(config: Any) -> int:
    """The context length in tokens of a model with this configuration."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1 << 20)


def digest(where: str) -> str:
    """What identifies the model in records: a hash of its files, or the hub name and revision."""
    path = Path(where)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in (".safetensors", ".json", ".jinja", ".model"))
        return digest_of([[f.name, digest_weights(f) if f.suffix == ".safetensors" else digest_file(f)] for f in files])
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(where, "config.json")
    revision = Path(cached).parent.name if isinstance(cached, (str, os.PathLike)) else "unknown"
    return f"{where}@{revision}"


def adapter_digest(path: str | None) -> str | None:
    """What identifies an adapter, or a fully tuned model, in records. Raises UserError for a folder that is neither."""
    if path is None:
        return None
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"adapter {path}: {'a file; expected a folder' if folder.exists() else 'no such folder'}.")
    if (folder / "adapter_model.safetensors").is_file():
        refuse_pointer(folder / "adapter_model.safetensors")
        return digest_of([digest_file(folder / f"adapter_{part}") for part in ("model.safetensors", "config.json")])
    if (folder / "config.json").is_file():
        return digest(path)
    raise UserError(f"adapter {path}: no adapter_model.safetensors in the folder. Expected a PEFT adapter or a model.")
