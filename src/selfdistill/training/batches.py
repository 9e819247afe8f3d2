"""Batches: which rows make a step, in which order, and how they lie in tensors.

In:  rows of token ids with labels.
Out: the same rows a step for any cut into batches, accumulation and processes; whether a model can have rows packed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from selfdistill.training.objective import IGNORED

WINDOW = 100
"""Steps' worth of rows that are sorted by length together. The whole set would order the training by length; one step's
worth would not sort at all."""


NOISE = {"float32": 1e-5, "bfloat16": 1e-3}
"""How far the logits of a row may differ, in shares of their spread, in two lines of one shape. Another shape rounds
otherwise, up to `ROUNDING` times as far."""
ROUNDING = 50


Laid = tuple[np.ndarray, ...]
"""Input ids and labels of a row, and where its tokens differ in weight the weights: three arrays of one length."""


class Rows(Dataset[Laid]):
    """(input ids, labels) of every row, in 8 bytes a token; the weights of its tokens behind them, where they are not
    all 1, in 4 more. What carries no loss has a weight of 0."""

    def __init__(self, rows: Sequence[Sequence[Sequence[int] | Sequence[float] | None]]) -> None:
        self.rows: list[Laid] = []
        for ids, labels, *weights in rows:
            row: Laid = (np.asarray(ids, np.int32), np.asarray(labels, np.int32))
            self.rows.append((*row, np.asarray(weights[0], np.float32)) if weights and weights[0] is not None else row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Laid:
        return self.rows[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens of every row."""
        return [len(row[0]) for row in self.rows]

    @property
    def targets(self) -> int:
        """Tokens that carry loss."""
        return sum(int((row[1][1:] != IGNORED).sum()) for row in self.rows)


def weights_of(row: Laid) -> np.ndarray:
    """What each token of a row weighs: as the row says, or 1 where it carries loss."""
    return row[2] if len(row) > 2 else (row[1] != IGNORED).astype(np.float32)


class Batches(Sampler[list[int]]):
    """The order of the training: lists of row numbers, one a batch, of this process.

    Every epoch draws its own order from the seed. Rows of similar length make a step, steps come in random order. A
    step's rows are the same for every number of processes and every accumulation that give `step_rows`; a process for
    which none is left in the one short step of an epoch gets an empty batch, so that all take part in each step. Where
    `over` is set, none comes any more.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, accumulation: int, processes: int, rank: int, seed: int
    ) -> None:
        self.lengths, self.batch_size, self.accumulation = lengths, batch_size, accumulation
        self.processes, self.rank, self.seed, self.epoch, self.over = processes, rank, seed, 0, False
        self.step_rows = batch_size * accumulation * processes

    def __len__(self) -> int:
        return self.steps_an_epoch * self.accumulation

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return math.ceil(len(self.lengths) / self.step_rows)

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order comes next, from 0."""
        self.epoch = epoch

    def steps(self) -> list[list[int]]:
        """Row numbers of each step, longest first within it."""
        chance = random.Random(f"{self.seed}-{self.epoch}")
        order = chance.sample(range(len(self.lengths)), len(self.lengths))
        found: list[list[int]] = []
        window = WINDOW * self.step_rows
        for start in range(0, len(order), window):
            near = sorted(order[start : start + window], key=lambda row: -self.lengths[row])
            found += [near[at : at + self.step_rows] for at in range(0, len(near), self.step_rows)]
        chance.shuffle(found)
        return found

    def __iter__(self) -> Iterator[list[int]]:
        for step in () if self.over else self.steps():
            parts = [step[at : at + self.batch_size] for at in range(0, len(step), self.batch_size)]
            for turn in range(self.accumulation):
                at = turn * self.processes + self.rank
                yield parts[at] if at < len(parts) else []

    def padding(self) -> float:
        """The share of tokens that are padding, where batches are padded to their longest row."""
        tokens = padded = 0
        for step in self.steps():
            for at in range(0, len(step), self.batch_size):
                sizes = [self.lengths[row] for row in step[at : at + self.batch_size]]
                tokens, padded = tokens + sum(sizes), padded + max(sizes) * len(sizes)
        return 1 - tokens / padded


@dataclass(frozen=True)
class Layout:
    """How the rows of a batch lie in its tensors: one a line, padded on the right; or packed in one line.

    No attention mask is made. In a causal model a token sees none behind it, so padding on the right is seen by padding
    only, and the attention takes its faster path. Packed rows are told apart by their positions, which begin anew.
    """

    pad_id: int
    packed: bool

    def __call__(self, rows: Sequence[Laid]) -> dict[str, torch.Tensor]:
        """input_ids and labels, both (rows, longest), or (1, all tokens) and position_ids beside them; weights, which
        lie as the labels do, where some row has any."""
        filler = np.array([self.pad_id] * 2), np.array([IGNORED] * 2)
        rows = rows or [filler]  # an empty batch takes part without a loss
        weighed = any(len(row) > 2 for row in rows)
        if self.packed:
            labels = [np.concatenate(([IGNORED], row[1][1:])) for row in rows]  # no row predicts the next one's begin
            packed = {
                "input_ids": _line(np.concatenate([row[0] for row in rows])),
                "labels": _line(np.concatenate(labels)),
                "position_ids": _line(np.concatenate([np.arange(len(row[0])) for row in rows])),
            }
            if weighed:
                packed["weights"] = torch.from_numpy(np.concatenate([weights_of(row) for row in rows]))[None]
            return packed
        longest = max(len(row[0]) for row in rows)
        ids = np.full((len(rows), longest), self.pad_id)
        targets = np.full((len(rows), longest), IGNORED)
        for line, (x, y, *_) in enumerate(rows):
            ids[line, : len(x)], targets[line, : len(y)] = x, y
        laid = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(targets)}
        if weighed:
            weights = np.zeros((len(rows), longest), np.float32)
            for line, row in enumerate(rows):
                weights[line, : len(row[0])] = weights_of(row)
            laid["weights"] = torch.from_numpy(weights)
        return laid


def packing_mixes(model: Any, tokenizer: Any, dtype: str) -> str | None:
    """What goes wrong where this model has rows packed; None where each is as if alone.

    Found by three runs over a short row: alone, and packed behind two others. `dtype` is that of training.
    """
    words = sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.all_special_ids))
    last = words[:: math.ceil(len(words) / 16)]
    lines = [[last], [last[::-1], last], [last, last]]  # a convolution sees but the end of the row before
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            alone, one, other = (_logits(model, line, device)[-len(last) :] for line in lines)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"this model cannot take packed rows ({str(error).strip().splitlines()[0][:120]})"
    finally:
        model.train(training)
    seen, moved = ((a - b).square().mean(-1).sqrt().max() / alone.std() for a, b in ((one, other), (one, alone)))
    if not seen <= NOISE[dtype]:
        return "in this model a row sees those packed before it"
    if not moved <= ROUNDING * NOISE[dtype]:
        return "in this model a row has other logits packed than alone"
    return None


def _logits(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    packed = Layout(0, packed=True)([(np.asarray(ids), np.asarray(ids)) for ids in rows])
    inputs = {name: packed[name].to(device) for name in ("input_ids", "position_ids")}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits[0].float()
    return logits


def _line(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))[None]
