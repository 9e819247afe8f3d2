"""Requests that wait for a slot, in an order that lets rows share what their prompts begin with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from selfdistill.engines.protocol import Request

if TYPE_CHECKING:
    import torch

WORTH_SHARING = 8
"""Tokens that a common prefix must have at least."""


@dataclass
class Row:
    """A request on its way."""

    request: Request
    room: int
    generator: Any = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt's tokens."""
        return self.request.prompt.ids


class Queue:
    """Rows that wait, the longest prompt first. `prefix` is what all prompts begin with, `longest` the most tokens that
    one row may come to; `states` keeps the prefix' keys and values by layer once they are computed."""

    def __init__(self, shares: bool) -> None:
        self.shares = shares
        self.rows: list[Row] = []
        self.prefix: tuple[int, ...] = ()
        self.longest = 0
        self.states: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def put(self, rows: Iterable[Row]) -> None:
        """Add rows, new ones or such as must begin anew."""
        self.rows = sorted([*self.rows, *rows], key=lambda row: (-len(row.ids), row.request.id))
        self.longest = max((len(row.ids) + row.room for row in self.rows), default=0)
        prefix = common_prefix(self.rows) if self.shares else ()
        if prefix != self.prefix:
            self.prefix, self.states = prefix, None


def common_prefix(rows: Sequence[Row]) -> tuple[int, ...]:
    """What all prompts begin with, leaving each at least one token; empty where it would not pay."""
    if len(rows) < 2:
        return ()
    prompts = [row.ids for row in rows]
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = min(shared, min(map(len, prompts)) - 1)
    return first[:shared] if shared >= WORTH_SHARING else ()


def generator_of(request: Request) -> Any:
    """A row's own random numbers, from the seed and its id; None is greedy."""
    import torch

    if request.sampling.temperature == 0:
        return None
    return torch.Generator().manual_seed(request.sampling.number(request.id))


def draw(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """One token a row from the smallest set of tokens that reaches top_p; logits: (rows, vocabulary)."""
    import torch

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    top_p = column([row.request.sampling.top_p for row in rows])
    chances = torch.softmax(logits.float() / column([row.request.sampling.temperature for row in rows]), -1)
    ordered, order = chances.sort(-1, descending=True)
    total = ordered.cumsum(-1)
    ordered[(total - ordered) >= top_p] = 0.0
    total = ordered.cumsum(-1)
    draws = column([float(torch.rand((), generator=row.generator)) for row in rows])
    picked = (total < draws * total[:, -1:]).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return [int(token) for token in order.gather(-1, picked).squeeze(-1).tolist()]
