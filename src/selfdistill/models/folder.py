"""What is known of a model before its weights are loaded: whether its folder is whole, and what identifies it.

In:  a folder or a hub name. Out: nothing where it is whole, a digest. Raises UserError, which names what is missing.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

from selfdistill.core.adapters import is_adapter
from selfdistill.core.digests import digest_weights
from selfdistill.core.errors import UserError
from selfdistill.core.store import digest_file, digest_of
from selfdistill.core.worlds import MODELS
from selfdistill.data.packed import refuse_pointer

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def refuse_incomplete(where: str, revision: str | None = None) -> None:
    """Raises UserError for a folder that lacks something and a hub name that cannot be had, before heavy imports."""
    path = Path(where)
    if revision and path.exists():
        raise UserError(f"model {where}: a folder, which has no revision. Leave revision = {revision!r} out.")
    if not path.exists():
        if where.startswith((".", "/", "~")) or where.count("/") > 1:
            raise UserError(f"model {where}: no such folder.")
        from huggingface_hub import constants, try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(where, "config.json", revision=revision)
        except ValueError:
            raise UserError(nowhere(where, "no name that the hub could have")) from None
        if constants.HF_HUB_OFFLINE and not isinstance(cached, str):
            at = f" at revision {revision!r}" if revision else ""
            raise UserError(nowhere(where, f"not in the hub's cache{at} (HF_HUB_OFFLINE is set)"))
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


def nowhere(name: str, else_where: str) -> str:
    """The line for a name that is no folder, and why the hub has none."""
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


def digest(where: str, revision: str | None = None) -> str:
    """What identifies the model in records: a hash of its files, or the hub name and the commit that `revision` is."""
    path = Path(where)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in (".safetensors", ".json", ".jinja", ".model"))
        return digest_of([[f.name, digest_weights(f) if f.suffix == ".safetensors" else digest_file(f)] for f in files])
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(where, "config.json", revision=revision)
    commit = Path(cached).parent.name if isinstance(cached, (str, os.PathLike)) else "unknown"
    return f"{where}@{commit}"


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
