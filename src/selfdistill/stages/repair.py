"""Repair: what is tried for rows of which no first rewrite passes the check, so that they train on words of the seed
LM's own all the same.

In:  the texts of the first pass, a check, what is to be tried.
Out: further candidates of these rows: sampled again ("resampled"), asked for again with the wrong answer and the right
     one in sight ("retry"), and with the reference's answer put in the place of the wrong one ("placed").

No step looks at what another made, so one file serves selections that allow different steps (`select --repair`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from selfdistill.checks.base import Check
from selfdistill.core.config import RepairSettings
from selfdistill.core.records import Example
from selfdistill.core.rewrites import MADE_BY, REWRITTEN, Candidate, Made, Reason, Rewrite
from selfdistill.core.store import Journal
from selfdistill.engines.protocol import Request, Sampling
from selfdistill.models.thoughts import answer_of
from selfdistill.stages.chains import Chains, Text, candidate_of, with_thoughts
from selfdistill.stages.judging import judged, repaired
from selfdistill.stages.scoring import Row, in_batches, seed_nll

Trains = tuple[str, ...]


@dataclass
class Repair:
    """The steps of repair. `first` are the chains of the first pass, `sampling` is theirs, `resampling` that of further
    rewrites and of later retries. `rows` are those to repair, with the chain whose last answer alone is wrong, if one
    is."""

    chains: Chains
    check: Check
    settings: RepairSettings
    first: tuple[str, ...]
    sampling: Sampling
    resampling: Sampling
    rows: dict[str, str | None] = field(default_factory=dict)

    def generate(self, examples: Collection[Example]) -> None:
        """Find the rows to repair, and ask the seed LM what the steps ask."""
        with self.chains.progress.bar("check", len(examples)) as advance:
            for example in examples:
                self._look(example)
                advance(1)
        rows = [example for example in examples if example.id in self.rows]
        if "candidates" in self.settings.steps:
            self.chains.generate(rows, self._resampled, self.resampling, "resample")
        wrong = [example for example in rows if self.rows[example.id] is not None]
        for number in range(self.settings.retries if "retries" in self.settings.steps and wrong else 0):
            with self.chains.progress.bar(f"retry {number + 1}", len(wrong)) as advance:
                self.chains.answer(self._requests(wrong, number, advance), advance)

    def score(self, examples: Collection[Example], made: Journal[Rewrite]) -> None:
        """Write the further candidates of every row, with their scores, in batches of their own: those of the first
        pass keep their bits."""

        def batches() -> Iterator[list[Row]]:
            for batch in in_batches(examples, lambda e: e.references):
                if all(e.id in made.done for e in batch if e.id in self.rows):
                    continue
                found = [(e, self._candidates(e)) for e in batch if e.id in self.rows]
                for step in MADE_BY.values():  # apart: what one step makes moves no bit of another's scores
                    rows = [_to_score(e, [one for one in candidates if one[1].step == step]) for e, candidates in found]
                    yield [row for row in rows if any(row.responses)]
                ready.append([(e, [c for _, c in candidates]) for e, candidates in found])

        nlls: dict[tuple[str, Made], list[float | None]] = {}
        ready: list[list[tuple[Example, list[Candidate]]]] = []

        def write() -> None:
            for batch in ready:
                rows = [self._record(e, candidates, nlls) for e, candidates in batch]
                made.append([row for row in rows if row.id not in made.done])
                advance(len(rows))
            ready.clear()

        with self.chains.progress.bar("score repairs", len(self.rows)) as advance:
            scoreable = (batch for batch in batches() if batch)
            for scored in seed_nll(scoreable, self.chains.engine, self.chains.prompter):
                nlls |= {(row.example.id, row.kept[0].step): nll for row, nll in scored}
                write()
            write()

    def _record(
        self, example: Example, candidates: list[Candidate], nlls: dict[tuple[str, Made], list[float | None]]
    ) -> Rewrite:
        """The record of a row's further candidates with their scores; what could not be scored has none."""
        if not candidates:
            return self._bare(example)
        scores = {step: iter(nlls.pop((example.id, step), ())) for step in MADE_BY.values()}
        return Rewrite(id=example.id, candidates=tuple(_scored(c, next(scores[c.step], None)) for c in candidates))

    # --- which rows ----------------------------------------------------------------------------------------------

    def _look(self, example: Example) -> None:
        """Note whether this row is to be repaired: no candidate of its passes, and one could. A row on which the engine
        failed waits for the next time."""
        wrong = None
        texts = [text for name in self.first for text in self.chains.chain(example, name)]
        if any(text.finish_reason == "error" for text in texts):
            return
        for name in self.first:
            candidate = self._candidate(example, name)
            if candidate is None:
                continue
            said = judged(example, candidate, self.check)
            copied = said.reason is Reason.COPIED
            if said.reason in REWRITTEN or said.reason is Reason.REFERENCE_UNREADABLE or (copied and self.chains.own):
                self.rows.pop(example.id, None)
                return
            wrong = wrong or (name if said.wrong_at_last else None)
            self.rows[example.id] = wrong

    def _candidate(self, example: Example, name: str) -> Candidate | None:
        """The candidate of a chain; None for one that could not be made."""
        chain = self.chains.chain(example, name)
        if not chain or any(t.finish_reason in ("rejected", "error") for t in chain):
            return None
        return candidate_of(example, chain, self.chains.resolved(example, chain)[1], "resampled")

    # --- retries -------------------------------------------------------------------------------------------------

    def _requests(self, rows: Collection[Example], number: int, advance: Callable[[int], None]) -> Iterator[Request]:
        """What asks for retry `number` of each row: where the one before is wrong, too."""
        for example in rows:
            id = f"{example.id}/{len(example.references) - 1}/r{number}"
            before = self._retried(example, number - 1)
            said = before and judged(example, before[1], self.check)
            if id in self.chains.texts.done or not before or not said or not said.wrong_at_last:
                advance(1)
                continue
            trains, candidate = before
            known = said.last.expected if said.last and said.last.extracted else None
            prompt = self.chains.retry(example, trains[:-1], candidate.text, known or answer_of(example.reference))
            # The same words would come again, were a wrong retry shown to a greedy model once more.
            yield Request(id, prompt, self.resampling if number else self.sampling)

    def _retried(self, example: Example, number: int) -> tuple[Trains, Candidate] | None:
        """(what trains, the candidate) of a retry; of number -1 the rewrite that it begins with. None where there is
        none."""
        name, last = self.rows[example.id], len(example.references) - 1
        if name is None:
            return None
        chain = self.chains.chain(example, name)
        if number >= 0:
            id = f"{example.id}/{last}/r{number}"
            if id not in self.chains.texts.done:
                return None
            chain = [*chain[:last], self.chains.texts.read(id)]
        if _failed(chain):
            return None
        trains, recorded = self.chains.resolved(example, chain)
        return trains, candidate_of(example, chain, recorded, "retry")

    # --- candidates ----------------------------------------------------------------------------------------------

    @property
    def _resampled(self) -> list[str]:
        return [f"s{number}" for number in range(self.settings.candidates)]

    def _candidates(self, example: Example) -> list[tuple[Trains, Candidate]]:
        """(what trains, the candidate) of all steps, in their order; none where the engine failed on one."""
        steps, found = self.settings.steps, list[tuple[Trains, Candidate] | None]()
        if self._error(example) is not None:
            return []
        for name in self._resampled if "candidates" in steps else ():
            chain = self.chains.chain(example, name)
            if chain and not _failed(chain):
                trains, recorded = self.chains.resolved(example, chain)
                whole = len(trains) == len(example.references)
                found.append((trains if whole else ("",), candidate_of(example, chain, recorded, "resampled")))
        found += [self._retried(example, n) for n in range(self.settings.retries if "retries" in steps else 0)]
        found.append(self._placed(example) if "place" in steps else None)
        keeps = self.chains.prompter.settings.thinking == "keep"
        return [(with_thoughts(t, c.thoughts) if keeps and c.thoughts else t, c) for t, c in filter(None, found)]

    def _placed(self, example: Example) -> tuple[Trains, Candidate] | None:
        """The first rewrite into which the reference's answer can be put. A thought that trains argues for the answer
        behind it, so there it cannot."""
        for name in self.first if self.rows[example.id] is not None else ():
            candidate = self._candidate(example, name)
            if candidate is None or (self.chains.prompter.settings.thinking == "keep" and any(candidate.thoughts[-1:])):
                continue
            if made := repaired(example, candidate, self.check):
                trains = self.chains.resolved(example, self.chains.chain(example, name))[0]
                return (*trains[:-1], made.text), made
        return None

    def _error(self, example: Example) -> str | None:
        """What the engine said where it failed on a further text of this row, which may pass."""
        turns = range(len(example.references))
        ids = [f"{example.id}/{turn}/{name}" for turn in turns for name in self._resampled]
        ids += [f"{example.id}/{turns[-1]}/r{number}" for number in range(self.settings.retries)]
        texts = (self.chains.texts.read(id) for id in ids if id in self.chains.texts.done)
        return next((text.error or "" for text in texts if text.finish_reason == "error"), None)

    def _bare(self, example: Example) -> Rewrite:
        """The record of a row without a further candidate."""
        error = self._error(example)
        return Rewrite(id=example.id, failure=None if error is None else Reason.ERROR, note=error)


def _failed(chain: list[Text]) -> bool:
    return any(text.finish_reason in ("rejected", "error") for text in chain)


def _to_score(example: Example, candidates: list[tuple[Trains, Candidate]]) -> Row:
    """What is scored of one step's candidates of a row; a candidate without a text is not."""
    return Row(example, [trains if all(trains) else None for trains, _ in candidates], [c for _, c in candidates])


def _scored(candidate: Candidate, nll: float | None) -> Candidate:
    return candidate.model_copy(update={"seed_nll": nll})
