"""What can train, and where adapters go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfdistill.core.config import TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.launch import process, sharded
from selfdistill.models.seed_lm import SeedLM

TRACKERS = ("wandb", "trackio", "tensorboard")
"""What `report_to` may name; each is a package of that name."""


def check_trainable(seed_lm: SeedLM, settings: TrainSettings) -> None:
    """Raises UserError for settings that this model or this machine cannot train with."""
    if settings.tune != "full":
        check_targets(seed_lm.skeleton(), settings)
    if settings.tune == "qlora" and not seed_lm.quantized:
        raise UserError('train.tune = "qlora": the model was not loaded in 4 bits.')
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


def check_targets(model: Any, settings: TrainSettings) -> None:
    """Raises UserError where a LoRA target names no module that can have an adapter, and lists those that can."""
    targets = settings.lora()["targets"]
    if isinstance(targets, str):
        if targets != "all-linear":
            raise UserError(f'train.targets = {targets!r}: expected a list of module names, or "all-linear".')
        return
    named = {t: [m for n, m in model.named_modules() if n == t or n.endswith(f".{t}")] for t in targets}
    missing = [t for t, found in named.items() if not found]
    other = [t for t, found in named.items() if not all(_takes_adapter(m) for m in found)]
    if missing or other or not named:
        wrong = f"{', '.join(other)} is no linear layer of this model" if other else "the list is empty"
        wrong = f"this model has no module {', '.join(missing)}" if missing else wrong
        raise UserError(
            f"train.targets: {wrong}. Its linear layers: {', '.join(_linear_names(model))}. Name some of them, or "
            '"all-linear".'
        )


def _takes_adapter(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, Conv1D))


def _linear_names(model: Any) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D))}
    return sorted(linear - {"lm_head"})


def put_in_order(config: Path) -> None:
    """PEFT keeps names of modules as sets, whose order is another in every process."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values["target_modules"] = sorted(values["target_modules"])
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def tuned_model(seed_lm: SeedLM, settings: TrainSettings) -> Iterator[Any]:
    """The model that trains; the seed LM is as it was afterwards."""
    if settings.tune == "full" or sharded():
        seed_lm.unload()  # makes room for weights that are not as they were afterwards
        if settings.tune != "full":
            yield _with_lora(seed_lm.fresh(), settings)
            return
        own = replace(seed_lm, dtype="float32")  # in bf16 small steps would be rounded away
        yield (own.fresh() if sharded() else own.model).requires_grad_(True)
        return
    base = seed_lm.model
    model = _with_lora(base, settings)
    try:
        yield model
    finally:
        model.disable_input_require_grads()
        for module in base.modules():  # transformers renames the functions that do this
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = False
        model.unload()
        base.eval()


def _with_lora(base: Any, settings: TrainSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = settings.lora()
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=lora["targets"] if isinstance(lora["targets"], str) else list(lora["targets"]),
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=not sharded())  # shards want one data type
    # PEFT writes a form for a model card with every checkpoint, which takes longer than the weights.
    model.create_or_update_model_card = lambda folder: None
    return model
