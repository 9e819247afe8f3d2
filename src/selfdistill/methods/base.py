"""Method: what trains and how, and how its arms are shown. All defaults together are vanilla fine-tuning.

A method is one file that says what differs from vanilla, and one line in `METHODS` (`methods/__init__.py`). Nothing
else knows a method by its name: the run, the reports, the page and the model card ask its record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import Settings
from selfdistill.training.objective import NLL, Loss, Objective


class Need(StrEnum):
    """What the seed LM is asked for before anything trains; made once for all arms. The values are those of the
    seconds in run.json."""

    REWRITES = "distill"
    OWN = "own answers"
    TOKENS = "score tokens"
    GENERAL = "replay"

    @property
    def explained(self) -> str:
        """The same in words."""
        return {
            "distill": "rewrites",
            "score tokens": "likelihoods of tokens",
            "replay": "answers to general prompts",
        }.get(self.value, self.value)


class Terms(Protocol):
    """What the seed LM thinks of every token of the rows that train."""

    def nll(self, id: str) -> Any:
        """Negative log-likelihoods in nats of the response tokens of a row, as a float32 array, end tokens included;
        None where the row could not be scored."""
        ...

    def ends(self, id: str) -> Any:
        """Which of these tokens end a turn, as an array of booleans of the same length; None as there."""
        ...


UNSCORED = "not scored"
"""The reason of a row whose weights do not come from its tokens, since it is longer than the engine's context."""


@dataclass(frozen=True)
class Seen:
    """What an arm may look at: its rows, and what the seed LM made of them before.

    `selected` holds what was selected of the rewrites, by id; `own` the right ones of the seed LM's own answers, those
    nearest to it first (a row without one has none); `general` what it answered to general prompts, in an
    order of chance that is the same for all arms; None where that is no answer. `mix_ratio` of the
    rows take what the seed LM wrote, the rest their references; `seed` draws them.
    """

    examples: Sequence[Example]
    selected: Mapping[str, Selected] = field(default_factory=dict)
    own: Mapping[str, Sequence[Selected]] = field(default_factory=dict)
    general: Sequence[TrainingRow | None] = ()
    mix_ratio: float = 1.0
    seed: int = 0


class NoSettings(Settings):
    """A method without settings."""


Rows = Callable[[Seen, Any], list[TrainingRow]]
"""(what was seen, the method's settings) -> rows, in the order of the examples."""

Weigh = Callable[[Sequence[TrainingRow], Terms, Any], list[TrainingRow]]
"""(rows, what the seed LM thinks of their tokens, settings) -> the same rows with weights."""

After = Callable[[Path, Path, Any, Any], None]
"""(folder of the trained weights, folder to write, seed LM, settings): what becomes of weights after a training."""


def references(seen: Seen, settings: Any = None) -> list[TrainingRow]:
    """The references as they stand."""
    return [TrainingRow(e, e.references) for e in seen.examples]


@dataclass(frozen=True)
class Method:
    """`label` names the method in a sentence, `short` where room is scarce, `doc` says what it does in one, with its
    source. `base` is the method that its arms are compared with, trained on the same rows; None is compared with the
    seed LM alone.

    What differs from vanilla: the `rows` that train; `more` rows beside them, made of so many `general` prompts
    for a number of rows; what their tokens `weigh`, and whether a
    step's loss is divided by the number of tokens or by their weights (`over`); the `loss` of a token; what becomes of
    the weights `after` the training. `needs` is what these ask of the seed LM, `leaves_out` says that rows may be left
    out, `several` that one may train in several versions, `settings` are the method's own.

    `shape` (circle, square, diamond, triangle) and `colours` (on light and on dark ground) are those of its marks.
    `card` says in a model card what the weights are, after "A LoRA adapter, " or the like; `tag` is the hub's.
    """

    label: str
    short: str
    doc: str
    card: str
    tag: str
    shape: str
    colours: tuple[str, str]
    base: str | None = "vanilla"
    needs: frozenset[Need] = frozenset()
    rows: Rows = references
    leaves_out: bool = False
    several: bool = False
    more: Rows | None = None
    general: Callable[[int, Any], int] | None = None
    weigh: Weigh | None = None
    over: Literal["tokens", "weights"] = "tokens"
    loss: Loss = NLL
    after: tuple[After, ...] = ()
    settings: type[Settings] = NoSettings

    @property
    def rewrites(self) -> bool:
        """Whether words of the seed LM's own train on the task's prompts, so that the mix ratio makes arms of its
        own."""
        return bool(self.needs & {Need.REWRITES, Need.OWN})

    def objective(self, settings: Settings) -> Objective:
        """What its trainings minimise."""
        over = getattr(settings, "over", self.over)
        return Objective(self.loss, over, settings if self.loss.per_token else None)
