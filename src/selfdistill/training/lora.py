"""What can train, and where adapters go."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfdistill.core.config import TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.launch import process, sharded
from selfdistill.models.seed_lm import SeedLM, attention_kernel, quantization
from selfdistill.training.targets import find_targets, freeze_all_but_language

TRACKERS = ("wandb", "trackio", "tensorboard")
"""What `report_to` may name; each is a package of that name."""


def check_trainable(seed_lm: SeedLM, settings: TrainSettings) -> None:
    """Raises UserError for settings that this model or this machine cannot train with."""
    if settings.tune == "qlora" and not seed_lm.quantized:
        raise UserError('train.tune = "qlora": the model was not loaded in 4 bits.')
    attention_kernel(settings.attention, seed_lm.device)
    if packed := quantization(seed_lm.config):
        raise UserError(
            f"model {seed_lm.name}: its weights are quantized ({packed}), and what trains on them could not be merged "
            'without rounding. Train the model that it was quantized from, in 4 bits with train.tune = "qlora".'
        )
    if settings.tune != "full":
        find_targets(seed_lm.skeleton(), settings)
    if settings.packing and process().main and (mixes := _packing_mixes(seed_lm)):
        raise UserError(f"train.packing = true: {mixes}, so packed rows would train on each other. Leave it out.")
    for tracker in settings.report_to:
        if tracker not in TRACKERS:
            raise UserError(f"train.report_to: unknown tracker {tracker!r}. There are: {', '.join(TRACKERS)}.")
        if find_spec(tracker) is None:
            raise UserError(f"train.report_to: {tracker} is not installed. pip install {tracker}")


def _packing_mixes(seed_lm: SeedLM) -> str | None:
    from selfdistill.training.batches import packing_mixes

    model = seed_lm.fresh() if sharded() else seed_lm.model  # what is to be cut into shards may fit no device
    return packing_mixes(model, seed_lm.tokenizer, seed_lm.dtype)


def put_in_order(config: Path) -> None:
    """PEFT keeps names of modules as sets, whose order is another in every process."""
    values = json.loads(config.read_text(encoding="utf-8"))
    for key in ("target_modules", "target_parameters"):
        if isinstance(values.get(key), list):
            values[key] = sorted(values[key])
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def tuned_model(seed_lm: SeedLM, settings: TrainSettings) -> Iterator[Any]:
    """The model that trains; the seed LM is as it was afterwards."""
    if settings.attention not in ("auto", seed_lm.attention):
        seed_lm.unload()  # two whole models are one too many
        seed_lm = replace(seed_lm, attention=settings.attention)
    if settings.tune == "full" or sharded():
        seed_lm.unload()  # makes room for weights that are not as they were afterwards
        if settings.tune != "full":
            yield _with_lora(seed_lm.fresh(), settings, seed_lm.revision)
            return
        own = replace(seed_lm, dtype="float32")  # in bf16 small steps would be rounded away
        model = (own.fresh() if sharded() else own.model).requires_grad_(True)
        freeze_all_but_language(model)
        yield model
        return
    base = seed_lm.model
    model = _with_lora(base, settings, seed_lm.revision)
    try:
        yield model
    finally:
        model.disable_input_require_grads()
        for module in base.modules():  # transformers renames the functions that do this
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = False
        model.unload()
        base.eval()


def _with_lora(base: Any, settings: TrainSettings, revision: str | None) -> Any:
    from peft import LoraConfig, get_peft_model

    lora, targets = settings.lora(), find_targets(base, settings)
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        exclude_modules=targets.exclude,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        task_type="CAUSAL_LM",
        revision=revision,
    )
    with warnings.catch_warnings():  # PEFT's own translation of some experts names more than it uses
        warnings.filterwarnings("ignore", ".*_pattern keys did not match", RuntimeWarning)
        model = get_peft_model(base, config, autocast_adapter_dtype=not sharded())  # shards want one data type
    # PEFT writes a form for a model card with every checkpoint, which takes longer than the weights.
    model.create_or_update_model_card = lambda folder: None
    return model
