"""How much memory a device has left, what it says when it has none, and how much a row's cache takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def out_of_memory(error: Exception) -> bool:
    """CUDA has an error of its own for it; MPS and the CPU's allocator have words only."""
    import torch

    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def free_bytes(device: str) -> float:
    """Memory that is free on the device."""
    import torch

    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return float(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    if device == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    import psutil

    return float(psutil.virtual_memory().available)


@dataclass(frozen=True)
class LayerSize:
    """What one layer of a cache takes for one row, in bytes: for each token, and whatever its length. `most` tokens are
    kept at most, as in a window; -1 is no limit."""

    token: float
    row: float
    most: int


def row_bytes(layers: Sequence[LayerSize], tokens: int) -> float:
    """Bytes of one row of so many tokens in all layers; at least 1."""
    kept = ((layer, min(tokens, layer.most) if layer.most > 0 else tokens) for layer in layers)
    return max(1.0, sum(layer.row + layer.token * count for layer, count in kept))


def layer_bytes(layer: Any) -> int:
    """Bytes of all tensors that a layer of a cache holds."""
    import torch

    def size(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(map(size, value.values()))
        return sum(map(size, value)) if isinstance(value, (list, tuple)) else 0

    return size(vars(layer))
