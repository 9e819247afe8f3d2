"""Hand-over: what others need to use a trained model: its weights merged into the base, a place on the hub.

In:  the folder of an adapter or of a model with all its weights (its card is written by publish.card).
Out: a plain transformers folder; an upload.

    selfdistill merge --model M --adapter runs/mine/sdft/adapter --out merged
    selfdistill push merged --to user/name
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfdistill.core.adapters import is_adapter
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.store import locked, write_atomic
from selfdistill.models import resolve
from selfdistill.models.classes import copy_processors
from selfdistill.models.seed_lm import SeedLM, load_model, quantization
from selfdistill.publish.card import merged_card, shown

# --- merging -----------------------------------------------------------------------------------------------------


def merge(model: str, adapter: str, out: Path, progress: Progress | None = None, revision: str | None = None) -> Path:
    """The base model with the adapter in its weights, W + s B A, in the base's own data type, as a plain transformers
    folder: safetensors, tokenizer, generation config. It is written as OUT.partial and renamed at the end.

    The sum is rounded to the base's data type, so logits differ from base plus adapter by that. Raises UserError for an
    `out` that exists, an adapter that does not fit, and a base whose weights are quantized; MXFP4 and FP8 are unpacked.
    """
    progress = progress or Progress()
    if out.is_file():
        raise UserError(f"{out}: a file; expected a folder.")
    if out.exists():
        raise UserError(f"{out}: exists. Choose another output folder.")
    folder = Path(adapter)
    if not folder.is_dir():
        raise UserError(f"adapter {adapter}: {'a file; expected a folder' if folder.exists() else 'no such folder'}.")
    if not is_adapter(folder):
        raise UserError(
            f"adapter {adapter}: no adapter_config.json in the folder. Expected a PEFT adapter; a model with all its "
            "weights needs no merging."
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {adapter}: no adapter_model.safetensors in the folder. Only safetensors are read.")
    base = load_model(model, revision=revision)
    if packed := quantization(base.config):
        raise UserError(
            f"model {model}: its weights are quantized ({packed}), and rounding would change the adapter. Merge it "
            "into the model that this one was quantized from."
        )
    _warn_of_another_base(folder, model, base.digest, progress)
    merged = _merged(base, folder)
    partial = out.with_name(out.name + ".partial")
    with locked(partial, beside=True):
        _clear(partial)
        record = {"base": shown(model), "base_digest": base.digest, "adapter": shown(adapter)}
        write_atomic(partial / "merge.json", json.dumps(record, indent=1) + "\n")
        merged.save_pretrained(partial)
        _tokenizer(model, revision).save_pretrained(partial)
        copy_processors(resolve(model), partial, revision)
        write_atomic(partial / "README.md", merged_card(model, base.digest))
        partial.replace(out)
    return out


def _warn_of_another_base(adapter: Path, model: str, found: str, progress: Progress) -> None:
    """The same model has another digest as a folder than by its hub name, so this may be nothing."""
    record = adapter / "training.json"
    if record.is_file():
        trained = json.loads(record.read_text(encoding="utf-8"))["identity"]["model"].removesuffix("+nf4")
        if trained != found:
            progress.warn(f"{adapter} was trained on a model with digest {trained}; {model} has {found}")


def _clear(partial: Path) -> None:
    """Remove what a killed merge left. Raises UserError for files that no merge wrote."""
    left = list(partial.iterdir())
    if left and not (partial / "merge.json").is_file():
        raise UserError(f"{partial}: holds files that are not ours, and the merged model goes there. Move them.")
    for file in left:
        file.unlink()


def _tokenizer(model: str, revision: str | None) -> Any:
    """As the base has it: `load_model` gives it a padding token where it has none."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve(model), revision=revision, trust_remote_code=False)


def _merged(seed_lm: SeedLM, adapter: Path) -> Any:
    """The merged model, in memory. Raises UserError for an adapter that does not fit or cannot be merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    base = replace(seed_lm, dtype="auto", device="cpu").fresh()
    tuned = _fitted(base, adapter)
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    changed = any(isinstance(e, (BaseTunerLayer, ModulesToSaveWrapper)) for e in ends)
    if changed and base.config.get_text_config().tie_word_embeddings:
        raise UserError(
            f"adapter {adapter}: changes one of the two embeddings, which are one in this model; merged, both would "
            "change. Load it with PEFT."
        )
    try:
        return tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:  # weights that are not finite
        raise UserError(f"adapter {adapter}: cannot be merged: {_first_line(error)}") from None


def _fitted(base: Any, adapter: Path) -> Any:
    """The base with the adapter on it. Raises UserError where a weight of the adapter has no place, or one is
    missing."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            tuned = PeftModel.from_pretrained(base, str(adapter))
        with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
            spare = weights.keys() - get_peft_model_state_dict(tuned).keys()
    except (RuntimeError, ValueError, TypeError, KeyError, UserWarning, SafetensorError) as error:
        raise UserError(f"adapter {adapter}: does not fit this model: {_first_line(error)}") from None
    if spare:
        raise UserError(f"adapter {adapter}: does not fit this model, which has no place for {sorted(spare)[0]}.")
    return tuned


def _first_line(error: Exception) -> str:
    """What is wrong, without the heading that torch puts over it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0])[:200]


# --- the hub -----------------------------------------------------------------------------------------------------
