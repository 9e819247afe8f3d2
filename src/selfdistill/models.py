"""Load a seed LM: a local folder, a hub name, or `embedded`.

In:  a name. Out: model, tokenizer and what was chosen for them (device, data type), with the reasons.
Safetensors only, no remote code.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from selfdistill.errors import UserError
from selfdistill.store import digest_file, digest_of


@dataclass
class SeedLM:
    """A loaded seed LM. `context` is the number of tokens that prompt and response may have together."""

    name: str
    model: Any
    tokenizer: Any
    device: str
    dtype: str
    context: int
    digest: str


def resolve(name: str) -> str:
    """`embedded` as the folder inside the package; everything else as it stands."""
    if name == "embedded":
        return str(resources.files("selfdistill.microworld") / "model")
    return name


def load_model(name: str) -> SeedLM:
    """Load model and tokenizer for generating and training.

    Raises UserError for a folder without weights or tokenizer, and for a name that is neither here nor on the hub.
    """
    where = resolve(name)
    _complain_early(where)
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    # bf16 has no units of its own on most CPUs and is emulated there, many times slower than fp32.
    dtype = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise UserError(f"model {name}: cannot be loaded: {first}") from None
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise UserError(
            f"model {name}: {len(missing)} weights of the model are not in its files (for example {missing[0]}). "
            "The folder is incomplete."
        )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"model {name}: the tokenizer knows {len(tokenizer)} tokens, the model only "
            f"{model.get_input_embeddings().num_embeddings}. They do not belong together."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.to(device).eval()
    return SeedLM(name, model, tokenizer, device, str(dtype).removeprefix("torch."), context(model), digest(where))


def _complain_early(where: str) -> None:
    """Name what a local folder lacks before any heavy import."""
    path = Path(where)
    if not path.exists():
        if where.startswith((".", "/", "~")) or where.count("/") > 1:
            raise UserError(f"model {where}: no such folder.")
        return
    if not path.is_dir():
        raise UserError(f"model {where}: expected a folder in Hugging Face format, got a file.")
    if not (path / "config.json").is_file():
        raise UserError(f"model {where}: no config.json in the folder. Expected a model in Hugging Face format.")
    if not list(path.glob("*.safetensors")):
        other = "; the .bin files there are refused, convert them to safetensors" if list(path.glob("*.bin")) else ""
        raise UserError(f"model {where}: no weights (*.safetensors) in the folder{other}.")
    if not any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise UserError(f"model {where}: no tokenizer (tokenizer.json or tokenizer.model) in the folder.")


def context(model: Any) -> int:
    """The model's context length in tokens."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20)


def digest(where: str) -> str:
    """What identifies the model in records: a hash of its files, or the hub name and revision."""
    path = Path(where)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in (".safetensors", ".json", ".jinja", ".model"))
        return digest_of([[f.name, digest_file(f)] for f in files])
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(where, "config.json")
    revision = Path(cached).parent.name if isinstance(cached, (str, os.PathLike)) else "unknown"
    return f"{where}@{revision}"
