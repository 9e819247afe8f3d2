"""Launch: which of a launcher's processes this is, and whether they share one model."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """Which of `count` processes of one launcher this is, over all machines."""

    rank: int
    count: int

    @property
    def main(self) -> bool:
        """The one that writes."""
        return self.rank == 0


def process() -> Process:
    """This process, as `accelerate launch` and `torchrun` name it; alone without them."""
    return Process(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def sharded() -> bool:
    """Whether the launcher was asked to cut the model into shards (FSDP, DeepSpeed)."""
    return launched_with("USE_FSDP") or launched_with("USE_DEEPSPEED")


def launched_with(option: str) -> bool:
    """Whether `accelerate launch` was asked for this, such as USE_FSDP."""
    return os.environ.get(f"ACCELERATE_{option}", "").lower() in ("true", "1", "yes", "on")
