"""Adapter folders: what is one, and whether it is a plain LoRA, whose change of the weights is s B A and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfdistill.core.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FACTORS = (".lora_A.weight", ".lora_B.weight")

# What may stand in adapter_config.json without touching the product B A, beside rank and alpha. Everything else that is
# set (use_dora, modules_to_save, target_parameters, what PEFT will think of next) is refused.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "lora_dropout", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip

# The others (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) change the base weights too, and the factors do not show it.
_HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")


def is_adapter(folder: str | Path) -> bool:
    """Whether the folder holds an adapter in PEFT's format, and no whole model."""
    return (Path(folder) / CONFIG).is_file()


def plain_lora(folder: Path, instead: str) -> dict[str, Any]:
    """adapter_config.json of a plain LoRA. Raises UserError for a damaged one, and for an adapter that is more than the
    product of two factors (DoRA, trained biases or embeddings); `instead` says what to do with that."""
    from safetensors import SafetensorError, safe_open

    path = folder / CONFIG
    try:
        config: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{path}: damaged; expected a JSON object as PEFT writes it.") from None
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: no weights ({WEIGHTS}) in the folder. Only safetensors are read.")
    odd = sorted(key for key, value in config.items() if value and key not in _HARMLESS)
    for key, good in (("peft_type", ("LORA",)), ("init_lora_weights", (None, *_HARMLESS_STARTS))):
        if config.get(key) not in good:
            odd.append(f"{key} = {json.dumps(config.get(key))}")
    try:
        with safe_open(folder / WEIGHTS, "np") as tensors:
            odd += [f"the adapter's tensor {name}" for name in tensors.keys() if not name.endswith(FACTORS)][:1]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read as safetensors: {error}") from None
    if odd:
        raise UserError(f"{folder}: not supported: {', '.join(odd)}. {instead}")
    return config
