"""How far the weights moved: Frobenius norms of the change, by module."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from selfdistill.core.adapters import FACTORS, WEIGHTS, is_adapter, plain_lora
from selfdistill.core.errors import UserError


def parameter_shift(folder: Path, seed_folder: Path | None = None) -> float:
    """The Frobenius norm of all weights' change by tuning: the distance ||tuned - seed|| over all parameters as one
    vector (Section 5), in the units of the weights, computed in fp64. See `module_shifts`."""
    return math.sqrt(math.fsum(norm * norm for norm in module_shifts(folder, seed_folder).values()))


def module_shifts(folder: Path, seed_folder: Path | None = None) -> dict[str, float]:
    """The Frobenius norm of the change of every module that an adapter holds, or of every tensor of a model.

    `folder` is a LoRA adapter in PEFT format, for which the seed LM is not needed: the change of a module is
    s B A with s = alpha / r (alpha / sqrt(r) for rsLoRA), and its norm follows from the factors. Or it is a model with
    all its weights, which is subtracted, tensor by tensor, from that in `seed_folder`.

    Raises UserError for a folder without such weights or with damaged ones, for adapters that are more than the product
    of two factors (DoRA, trained biases or embeddings), and for two models whose tensors differ in name or shape.
    """
    if is_adapter(folder):
        squares = dict(_adapter_squares(folder))
    elif not any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{folder}: holds no tuned weights. Expected adapter_config.json with adapter_model.safetensors, or a "
            "model.safetensors."
        )
    elif seed_folder is None:
        raise UserError(f"{folder}: holds a whole model, not an adapter. Give the seed LM's folder too.")
    else:
        squares = dict(_model_squares(folder, seed_folder))
    if not all(map(math.isfinite, squares.values())):
        raise UserError(f"{folder}: holds weights that are not finite. The training has diverged; train again.")
    return {module: math.sqrt(square) for module, square in squares.items()}


def _adapter_squares(folder: Path) -> Iterator[tuple[str, float]]:
    """The squared norm of the change of each module of an adapter."""
    config = plain_lora(folder, _MERGE)
    first, second = FACTORS
    with _weights(folder, WEIGHTS) as tensors:
        modules = {name.removesuffix(first).removesuffix(second) for name in tensors}
        for module in sorted(modules):
            if module + first not in tensors or module + second not in tensors:
                raise UserError(f"{folder}: {module} has one factor only. The file is damaged; train again.")
            a, b = (tensors[module + x].get_tensor(module + x) for x in (first, second))
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                shapes = f"{tuple(b.shape)} times {tuple(a.shape)}"
                raise UserError(f"{folder}: not supported: {module} with factors {shapes}. {_MERGE}")
            own = module.removeprefix("base_model.model.")
            yield own, _scale(own, a.shape[0], config) ** 2 * _square_of_product(b, a)


_MERGE = "Merge the adapter into its base, and give the merged folder and the seed LM's."


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """s of one module. The rank is the factors' own, so `rank_pattern` is not needed; patterns match as in PEFT."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _square_of_product(b: Any, a: Any) -> float:
    """||B A||^2 = trace((B^T B)(A A^T)): two r x r matrices in place of the full one."""
    a, b = a.double(), b.double()
    square = float(((b.T @ b) * (a @ a.T)).sum())  # both are symmetric, so the trace is a sum of products
    return 0.0 if square < 0 else square  # rounding may go below 0; not max(), which would hide a NaN


def _model_squares(folder: Path, seed_folder: Path) -> Iterator[tuple[str, float]]:
    """The squared norm of the change of each tensor of a whole model."""
    with _weights(folder, "model*.safetensors") as new, _weights(seed_folder, "model*.safetensors") as old:
        if lonely := sorted(new.keys() ^ old.keys()):
            here, there = (folder, seed_folder) if lonely[0] in new else (seed_folder, folder)
            raise UserError(f"{there}: has no tensor {lonely[0]}, which {here} has. Is this its seed LM?")
        for name in sorted(new):
            x, y = new[name].get_tensor(name), old[name].get_tensor(name)
            if x.shape != y.shape:
                raise UserError(f"{folder}: {name} is {tuple(x.shape)}, in {seed_folder} {tuple(y.shape)}.")
            if not (x.is_floating_point() and y.is_floating_point()):
                raise UserError(f"{folder}: not supported: {name} in {x.dtype}. Give weights that are not quantized.")
            # In pieces of 128 MiB, so that fp64 does not need several times a large embedding's memory.
            pieces = zip(x.flatten().split(1 << 24), y.flatten().split(1 << 24), strict=True)
            yield name, math.fsum(float((p.double() - q.double()).square().sum()) for p, q in pieces)


@contextmanager
def _weights(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """Tensor name -> open safetensors file, over all files of the folder that match."""
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for path in sorted(folder.glob(pattern)):
            try:
                file: Any = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: cannot be read as safetensors: {error}") from None
            tensors |= dict.fromkeys(file.keys(), file)
        if not tensors:
            raise UserError(f"{folder}: no weights ({pattern}) in the folder. Only safetensors are read.")
        yield tensors
