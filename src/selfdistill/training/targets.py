"""Targets: the modules and parameters of a model that get an adapter.

In:  a model (its skeleton is enough) and settings.
Out: what PEFT's `LoraConfig` takes, what is left out and why, how many layers the adapter reaches.

Of a model that also sees or hears, only the language model trains: texts never touch the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from selfdistill.core.config import TrainSettings
from selfdistill.core.errors import UserError

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Targets:
    """`modules`, `parameters` and `exclude` as `LoraConfig` takes them; `left_out` are the linear layers that cannot
    have an adapter, `experts` the experts' weights that could train and do not."""

    modules: str | list[str]
    parameters: list[str]
    exclude: str | None
    left_out: list[str]
    experts: list[str]


def find_targets(model: Any, settings: TrainSettings) -> Targets:
    """What trains. Raises UserError where a target names nothing that can have an adapter, and lists what can."""
    wanted = settings.lora()["targets"]
    if isinstance(wanted, str) and wanted != ALL_LINEAR:
        raise UserError(f'train.targets = {wanted!r}: expected a list of module names, or "{ALL_LINEAR}".')
    outside = _outside_language(model)
    inside = [(n, m) for n, m in model.named_modules() if not (outside and re.fullmatch(outside, n))]
    unfit = sorted({_last(n) for n, m in inside if _is_linear(m) and not _takes_adapter(model, n, m)})
    experts = _experts(model, outside)
    if wanted == ALL_LINEAR:
        parts = [p for p in (outside, rf".*\.(?:{'|'.join(map(re.escape, unfit))})" if unfit else None) if p]
        return Targets(ALL_LINEAR, [], "|".join(parts) or None, unfit, experts)
    named = {t: [(n, m) for n, m in inside if n == t or n.endswith(f".{t}")] for t in wanted}
    parameters = [t for t, found in named.items() if not found and t in experts]
    missing = [t for t, found in named.items() if not found and t not in parameters]
    other = [t for t, found in named.items() if not all(_takes_adapter(model, n, m) for n, m in found)]
    if missing or other or not named:
        raise UserError(_wrong(model, inside, missing, other, experts, bool(outside)))
    if parameters and (settings.dora or settings.dropout):
        raise UserError(
            f"train.targets: {parameters[0]} holds experts, and PEFT trains these without dora and without dropout. "
            "Leave these settings out."
        )
    left = [e for e in experts if e not in parameters]
    return Targets([t for t in wanted if t not in parameters], parameters, outside, [], left)


def _wrong(model: Any, inside: Any, missing: list[str], other: list[str], experts: list[str], towers: bool) -> str:
    wrong = f"{', '.join(other)} is no linear layer of this model" if other else "the list is empty"
    place = "the language model of this model" if towers else "this model"
    wrong = f"{place} has no module {', '.join(missing)}" if missing else wrong
    names = sorted({_last(n) for n, m in inside if _is_linear(m) and _takes_adapter(model, n, m)} - {"lm_head"})
    beside = f" (and experts: {', '.join(experts)})" if experts else ""
    return (
        f'train.targets: {wrong}. Its linear layers: {", ".join(names)}{beside}. Name some of them, or "{ALL_LINEAR}".'
    )


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def _takes_adapter(model: Any, name: str, module: Any) -> bool:
    """Whether PEFT puts an adapter on the module, and it then computes what the module would with other weights."""
    import torch
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    try:  # some kernels read these weights beside the module
        _check_lora_target_modules_mamba(LoraConfig(), model, _last(name))
    except ValueError:
        return False
    kinds = (torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d)
    return isinstance(module, kinds) or (_is_linear(module) and _acts_linear(module))


def _acts_linear(module: Any) -> bool:
    """Routers and grouped layers are linear layers by their class only: they give pairs, or another shape."""
    import torch

    kind = type(module)
    own = kind.__module__.startswith("transformers.models.") and isinstance(module, torch.nn.Linear)
    if not own or kind.forward is torch.nn.Linear.forward:
        return True
    row = torch.zeros(1, 1, module.in_features, device=module.weight.device, dtype=module.weight.dtype)
    try:
        with torch.no_grad():
            made = module(row)
    except (RuntimeError, ValueError, TypeError):
        return False
    return isinstance(made, torch.Tensor) and made.shape == (1, 1, module.out_features)


# --- parts of a model --------------------------------------------------------------------------------------------


def _outside_language(model: Any) -> str | None:
    """A pattern of the modules outside the language model; None where there is nothing else."""
    if model.config.get_text_config(decoder=True) is model.config:
        return None
    names = {id(module): name for name, module in model.named_modules()}
    inside = [(names.get(id(model.get_decoder())), r"\..*"), (names.get(id(model.get_output_embeddings())), "")]
    if not inside[0][0]:
        raise UserError(
            f"{type(model).__name__}: which part of it is the language model cannot be told, so an adapter might go on "
            "another part. It cannot be trained here."
        )
    return "(?!{}).*".format("|".join(re.escape(name) + more for name, more in inside if name))


def freeze_all_but_language(model: Any) -> None:
    """Of a model that also sees or hears, only the language model keeps its gradients."""
    if outside := _outside_language(model):
        for name, weight in model.named_parameters():
            weight.requires_grad_(not re.fullmatch(outside, name.rpartition(".")[0]))


def _experts(model: Any, outside: str | None) -> list[str]:
    """Names, such as experts.down_proj, of the weights that hold all experts of a layer in one."""
    found = set()
    for name, weight in model.named_parameters():
        owner = name.rpartition(".")[0]
        if weight.ndim == 3 and "expert" in owner and not (outside and re.fullmatch(outside, name)):
            found.add(".".join(name.split(".")[-2:]))
    return sorted(found)


# --- what the adapter reaches ------------------------------------------------------------------------------------


def coverage(model: Any, targets: Targets) -> str:
    """How many layers of the language model a PEFT model's adapter reaches, and what would reach the others."""
    import torch

    base = model.get_base_model()
    count = base.config.get_text_config(decoder=True).num_hidden_layers
    decoder = base.get_decoder()
    stacks = [m for m in decoder.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not stacks:
        return "how many layers it reaches is not known"
    reached = [any("lora_" in name for name, _ in layer.named_parameters()) for layer in stacks[0]]
    said = f"LoRA on {sum(reached)} of {count} layers"
    if not all(reached):
        others = (layer for layer, has in zip(stacks[0], reached, strict=True) if not has)
        linear = [(n, m) for layer in others for n, m in layer.named_modules() if _is_linear(m)]
        names = sorted({_last(n) for n, m in linear if _takes_adapter(base, n, m)})
        said += f": add {', '.join(names)} to train.targets for the others" if names else ": the others have none"
    return said + "".join(_left_out(targets))


def _left_out(targets: Targets) -> Iterator[str]:
    if targets.left_out:
        yield f"; without {', '.join(targets.left_out)}, which cannot have one"
    if targets.experts:
        yield f"; the experts do not train (name {', '.join(targets.experts)} in train.targets if they should)"
