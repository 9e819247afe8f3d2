"""The seed pass: what the seed LM makes of the rows before anything trains, once for all arms that need it.

In:  the loaded recipe of a run.
Out: rewrites.jsonl and a selection of it for each way of repairing, own.jsonl (the seed LM's own answers, of which
     own-STEPS.jsonl has the right ones), general-N.jsonl (its answers to N general prompts), tokens/ (what it thinks of
     every token that trains).

Rewrites are always made, the other parts where an arm needs them. What an arm gets does not depend on the other arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from selfdistill.checks.base import Check
from selfdistill.core.config import DistillSettings, Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, read_records
from selfdistill.core.rewrites import Selected, Step
from selfdistill.core.rows import TrainingRow
from selfdistill.core.store import digest_of, write_records
from selfdistill.data.examples import drawn
from selfdistill.engines.protocol import Engine
from selfdistill.methods import method_named
from selfdistill.methods.arms import general_of, settings_of
from selfdistill.methods.base import Need, Seen
from selfdistill.methods.rows import training_rows
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM
from selfdistill.report.tables import yield_sentence
from selfdistill.run_folder import Arm, Manifest, selection
from selfdistill.stages.distill import distill
from selfdistill.stages.scoring import turn_by_turn
from selfdistill.stages.select import read_selected, right_answers, select
from selfdistill.stages.token_scores import TokenScores, score_tokens
from selfdistill.tasks.base import Task


@dataclass(frozen=True)
class Loaded:
    """What a run works with. `writer` rewrites, asked by `asker`; `engine` measures the arms, asked by `prompter`: the
    same pair, but for an endpoint. `general` are prompts that are none of the task's."""

    check: Check | None
    examples: list[Example]
    general: list[Example]
    tasks: list[Task]
    arms: list[Arm]
    seed_lm: SeedLM
    asker: Prompter
    writer: Engine
    prompter: Prompter
    engine: Engine


@dataclass(frozen=True)
class _Terms:
    """What the seed LM thinks of every token of some rows (`methods.base.Terms`)."""

    scores: TokenScores
    rows: Mapping[str, TrainingRow]
    prompter: Prompter

    def nll(self, id: str) -> Any:
        return self.scores.nll(id)

    def ends(self, id: str) -> Any:
        row, found = self.rows[id], list[bool]()
        for scoring in turn_by_turn(id, row.example, row.responses, self.prompter):
            response, end = scoring.response, self.prompter.end_id
            last = max((n for n, token in enumerate(response) if token == end), default=len(response) - 1)
            found += [n >= last for n in range(len(response))]
        return np.array(found)


def replayed(example: Example, said: Sequence[Selected]) -> TrainingRow | None:
    """The row of a general prompt with what the seed LM said to it."""
    return TrainingRow(example, said[0].responses, "replay", said[0].reason.value) if said else None


def _own_file(repair: Sequence[Step]) -> str:
    return f"own-{'-'.join(repair) or 'unrepaired'}.jsonl"


def _general_file(count: int) -> str:
    return f"general-{count}.jsonl"


@dataclass
class SeedPass:
    """What was made, as arms see it. The first process of a launcher makes it, the others read it (`makes`)."""

    recipe: Recipe
    out: Path
    loaded: Loaded
    progress: Progress
    makes: bool = True
    seconds: Manifest | None = None
    _tokens: dict[str, _Terms] = field(default_factory=dict)

    def needs(self, need: Need) -> bool:
        """Whether some arm asks for it."""
        return any(need.value in arm.needs for arm in self.loaded.arms)

    def make(self) -> None:
        """Everything but what depends on the rows of an arm."""
        recipe, loaded = self.recipe, self.loaded
        repairs: set[tuple[Step, ...]] = {arm.repair for arm in loaded.arms}
        steps = tuple(step for step in get_args(Step) if any(step in repair for repair in repairs))
        repair = recipe.repair.model_copy(update={"steps": steps}) if steps else None
        with closing(loaded.writer):
            with self._timed(Need.REWRITES):
                self._written(loaded.examples, "rewrites.jsonl", check=loaded.check, repair=repair)
            if self.needs(Need.OWN):
                with self._timed(Need.OWN):
                    self._written(loaded.examples, "own.jsonl", own=True, check=loaded.check, repair=repair)
            greedy = {"candidates": 1, "temperature": 0.0, "top_p": 1.0}
            for count in sorted({self._asks_for(arm) for arm in loaded.arms} - {0}):
                with self._timed(Need.GENERAL):
                    settings = recipe.distill.model_copy(update=greedy)
                    self._written(loaded.general[:count], _general_file(count), settings, own=True)
        keeps = recipe.prompt.thinking == "keep"
        for repaired in sorted({arm.repair for arm in loaded.arms if Need.OWN.value in arm.needs}, key=len):
            self._judge_own(repaired, keeps)
        for repaired in sorted(repairs, key=len):
            file = self._selection(repaired)
            forms = recipe.select.export.items() if file == "selected.jsonl" else ()
            reasons = select(
                loaded.examples,
                self.out / "rewrites.jsonl",
                self.out / file,
                loaded.check,
                self.progress,
                None,
                {form: self.out / name for form, name in forms},
                keeps,
                repair=repaired,
            )
            how = f" with repair by {', '.join(repaired)}" if repaired else ""
            self.progress.note(f"{yield_sentence(reasons)}{how} ({', '.join(f'{r} {n}' for r, n in reasons.items())})")

    def rows(self, arm: Arm) -> list[TrainingRow]:
        """What trains in an arm."""
        method, settings = method_named(arm.method, "arms"), settings_of(arm)
        examples = drawn(self.loaded.examples, arm.size, self.recipe.seed)
        seen = Seen(
            examples,
            self.selected(arm.repair),
            self._own(arm.repair) if Need.OWN in method.needs else {},
            self._general(self._asks_for(arm)),
            arm.mix_ratio,
            self.recipe.seed,
        )
        return training_rows(method, seen, settings, f"arm {arm.name}", self._terms)

    def selected(self, repair: Sequence[Step] = ()) -> dict[str, Selected]:
        """What was selected of the rewrites, by id."""
        return read_selected(self.loaded.examples, self.out / self._selection(repair))

    def _selection(self, repair: Sequence[Step]) -> str:
        return selection(repair, [arm.repair for arm in self.loaded.arms])

    def _judge_own(self, repair: Sequence[Step], keeps: bool) -> None:
        """Write down which own answers are right. It is judged once, for all arms, processes and calls: a check that
        runs code may say something else the next time."""
        if not (out := self.out / _own_file(repair)).is_file():
            loaded = self.loaded
            right = right_answers(loaded.examples, self.out / "own.jsonl", loaded.check, repair, keeps)
            write_records(out, (one for e in loaded.examples for one in right.get(e.id, ())))

    def _own(self, repair: Sequence[Step]) -> Mapping[str, Sequence[Selected]]:
        right: dict[str, list[Selected]] = {}
        for one in read_records(self.out / _own_file(repair), Selected):
            right.setdefault(one.id, []).append(one)
        return right

    def _asks_for(self, arm: Arm) -> int:
        """How many general prompts an arm takes, as far as there are so many."""
        return min(general_of(arm, len(self.loaded.examples)), len(self.loaded.general))

    def _general(self, count: int) -> list[TrainingRow | None]:
        """What the seed LM said to the first `count` general prompts; what was cut off or is empty is none. Arms that
        take another number have a file of their own, so that none depends on another."""
        if not count:
            return []
        asked, keeps = self.loaded.general[:count], self.recipe.prompt.thinking == "keep"
        said = right_answers(asked, self.out / _general_file(count), None, (), keeps)
        return [replayed(example, said.get(example.id, ())) for example in asked]

    def _terms(self, rows: Sequence[TrainingRow]) -> _Terms:
        """What the seed LM thinks of the tokens of these rows, made at the first need."""
        key = digest_of([[row.id, row.responses] for row in rows])
        if key not in self._tokens:
            loaded = self.loaded
            with self._timed(Need.TOKENS):
                place, model = self.out / "tokens" / key, loaded.seed_lm.digest
                if self.makes:
                    scores = score_tokens(rows, place, model, loaded.engine, loaded.prompter, progress=self.progress)
                else:
                    scores = TokenScores(place)
            self._tokens[key] = _Terms(scores, {row.id: row for row in rows}, loaded.prompter)
        return self._tokens[key]

    def _written(self, examples: list[Example], name: str, settings: DistillSettings | None = None, **how: Any) -> None:
        loaded, recipe = self.loaded, self.recipe
        errors = distill(
            examples,
            self.out / name,
            loaded.seed_lm.digest,
            loaded.writer,
            loaded.asker,
            settings or recipe.distill,
            recipe.seed,
            self.progress,
            **how,
        )
        if errors:
            raise UserError(
                f"{self.out / name}: the engine failed on {errors} of {len(examples)} rows (their notes say why). "
                "Nothing is lost: the same command tries them again."
            )

    @contextmanager
    def _timed(self, need: Need) -> Iterator[None]:
        if self.seconds is None:
            yield
        else:
            with self.seconds.timed(need.value):
                yield
