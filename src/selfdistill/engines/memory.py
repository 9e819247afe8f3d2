"""How much memory a device has left, and what it says when it has none."""

from __future__ import annotations


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
