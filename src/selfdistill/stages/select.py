"""Select: a rewrite is kept where it is verifiably as good as the reference, else the reference stays (Equation 4).

In:  examples and rewrites.jsonl, joined by id; a check.
Out: selected.jsonl, one `Selected` per example with its reason, and the export formats of other trainers.

    selfdistill select --data train.jsonl --rewrites rewrites.jsonl --check last_number --out selected.jsonl

One pass over the examples writes everything. Memory holds the rewrites' ids and where they lie, not their texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path

from selfdistill.checks.base import Check
from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, dump, read_records
from selfdistill.core.rewrites import MADE_BY, Candidate, Made, Reason, Rewrite, Selected, Step
from selfdistill.core.store import new_files
from selfdistill.core.turns import is_call
from selfdistill.data.joins import BATCH, open_rewrites
from selfdistill.models.thoughts import Parts, answer_of, split
from selfdistill.stages.exports import Exports
from selfdistill.stages.judging import KEEPS, judged, repaired, same_text
from selfdistill.stages.own_calls import taken


def select(
    examples: Iterable[Example],
    rewrites: Path,
    out: Path,
    check: Check | None,
    progress: Progress | None = None,
    form: DataSettings | None = None,
    exports: Mapping[str, Path] | None = None,
    keep_thoughts: bool = False,
    repair: Collection[Step] = (),
) -> Counter[Reason]:
    """Write `out`, in the order of the examples, and `exports` (format: file); all of them, or none if
    anything is wrong. Returns the count of rows by reason.

    `rewrites` is what distill writes, or a whole distilled dataset in a form that datasets come in (`form` tells its
    columns), such as the authors published. Thoughts before an answer are not judged; with `keep_thoughts` they stay in
    what is selected and exported. `repair` are the steps whose candidates may be taken where no first rewrite passes;
    "place" also puts the reference's answer into rewrites of a file that has no such candidates. Raises UserError for
    rewrites that cannot be joined to the examples.
    """
    exports = exports or {}
    reasons: Counter[Reason] = Counter()
    found = open_rewrites(rewrites, form, out.parent)
    # A stream does not know its length; there are about as many rewrites.
    total = len(examples) if isinstance(examples, Sized) else len(found)
    with (
        found,
        new_files(out, *exports.values()) as (file, *others),
        (progress or Progress()).bar("select", total) as advance,
    ):
        export_files = Exports(dict(zip(exports.items(), others, strict=True)), keep_thoughts)
        stream = iter(found.join(examples))
        while pairs := list(islice(stream, BATCH)):
            batch = [example for example, _ in pairs]
            made = [visible(apart(_rewrite(example, row)), repair, keep_thoughts) for example, row in pairs]
            said = [judge(example, rewrite, check) for example, rewrite in zip(batch, made, strict=True)]
            judgements = list(zip(batch, made, said, strict=True))
            if check and "place" in repair:
                judgements = [(row[0], *with_placed(*row, check, keep_thoughts)) for row in judgements]
            rows = [choose(*row, keep_thoughts) for row in judgements]
            file.write(b"".join(map(dump, rows)))
            export_files.add(batch, rows)
            reasons.update(row.reason for row in rows)
            advance(len(batch))
        export_files.end()
    return reasons


def _rewrite(example: Example, row: Rewrite | Example | None) -> Rewrite | None:
    """What was joined to an example as its rewrite. It may be a row of a distilled dataset: one that is the reference
    may be a copy that the model made, or what another program fell back to; that cannot be told, and is no rewrite."""
    if not isinstance(row, Example):
        return row
    if len(row.references) == len(example.references) and all(map(same_text, row.references, example.references)):
        return Rewrite(id=example.id, failure=Reason.COPIED)
    return Rewrite(id=example.id, candidates=(Candidate(text=row.reference, turns=row.references[:-1]),))


def apart(rewrite: Rewrite | None) -> Rewrite | None:
    """The rewrite with thoughts apart from answers, where another program wrote them into the texts."""
    if rewrite is None or not any(answer_of(text) != text for c in rewrite.candidates for text in c.responses):
        return rewrite
    candidates = []
    for candidate in rewrite.candidates:
        parts = [Parts(None, text) if is_call(text) else split(text) for text in candidate.responses]
        answers = [part.answer for part in parts]
        update: dict[str, object] = {"text": answers[-1], "turns": tuple(answers[:-1])}
        if any(part.thought is not None for part in parts):
            update["thoughts"] = tuple(part.thought for part in parts)
        candidates.append(candidate.model_copy(update=update))
    return rewrite.model_copy(update={"candidates": tuple(candidates)})


def judge(example: Example, rewrite: Rewrite | None, check: Check | None) -> list[Reason]:
    """What is said of each candidate."""
    return [judged(example, candidate, check).reason for candidate in rewrite.candidates] if rewrite else []


def visible(rewrite: Rewrite | None, repair: Collection[Step], keep_thoughts: bool = False) -> Rewrite | None:
    """The rewrite with the candidates of the first pass and of these steps, in this order. What was placed behind a
    thought that trains is no candidate: the thought argues for another answer."""
    if rewrite is None or all(c.step == "rewrite" for c in rewrite.candidates):  # as most are
        return rewrite
    allowed = ("rewrite", *(MADE_BY[step] for step in repair))
    seen = [
        candidate
        for candidate in sorted(rewrite.candidates, key=lambda c: _ORDER.index(c.step))
        if candidate.step in allowed
        and not (keep_thoughts and candidate.step == "placed" and any(candidate.thoughts[-1:]))
    ]
    return rewrite.model_copy(update={"candidates": tuple(seen)})


_ORDER: tuple[Made, ...] = ("rewrite", *MADE_BY.values())
_REASONS: dict[Made, Reason] = {"resampled": Reason.RESAMPLED, "retry": Reason.RETRIED, "placed": Reason.REPAIRED}


def with_placed(
    example: Example, rewrite: Rewrite | None, reasons: list[Reason], check: Check, keep_thoughts: bool = False
) -> tuple[Rewrite | None, list[Reason]]:
    """The rewrite, and what is said of its candidates; where none of them passes, with the first of them into which the
    check can put the reference's answer. Its seed NLL is not known."""
    if rewrite is None or Reason.WRONG not in reasons or any(reason in KEEPS for reason in reasons):
        return rewrite, reasons
    for candidate in rewrite.candidates:
        if candidate.step == "placed" or (keep_thoughts and any(candidate.thoughts[-1:])):
            continue
        if made := repaired(example, candidate, check):
            return rewrite.model_copy(update={"candidates": (*rewrite.candidates, made)}), [*reasons, Reason.PASSED]
    return rewrite, reasons


def choose(example: Example, rewrite: Rewrite | None, said: Sequence[Reason], keep_thoughts: bool = False) -> Selected:
    """The row's training response. Of the candidates that pass, those of the first step that has any; among them the
    one with the lowest seed NLL. A copy of the reference only where no other passes."""
    passed = [n for n, reason in enumerate(said) if reason in KEEPS]
    if rewrite and passed:
        own = [n for n in passed if said[n] is not Reason.COPIED] or passed
        number = min(own, key=lambda n: _rank(rewrite.candidates[n])) if len(own) > 1 else own[0]
        best, reason = rewrite.candidates[number], said[number]
        *turns, response = taken(example, best.responses)[0]
        return Selected(
            id=example.id,
            response=response,
            turns=tuple(turns),
            thoughts=best.thoughts if keep_thoughts else (),
            source="distilled",
            reason=reason if reason in (Reason.KEPT, Reason.COPIED) else _REASONS.get(best.step, reason),
            seed_nll=best.seed_nll,
        )
    failure = rewrite.failure if rewrite else Reason.MISSING
    return Selected(
        id=example.id,
        response=example.reference,
        turns=example.references[:-1],
        source="original",
        reason=said[0] if said else failure or Reason.MISSING,
        seed_nll=rewrite.reference_nll if rewrite else None,
    )


def _rank(candidate: Candidate) -> tuple[int, float]:
    return _ORDER.index(candidate.step), float("inf") if candidate.seed_nll is None else candidate.seed_nll


def right_answers(
    examples: Sequence[Example],
    answers: Path,
    check: Check | None,
    repair: Collection[Step] = (),
    keep_thoughts: bool = False,
) -> dict[str, list[Selected]]:
    """What `distill` wrote of the seed LM's own answers: of every row those that pass, no text twice, those of the
    first pass first, and among them those with the lowest seed NLL. Rows without one are not there. Raises UserError as
    `select` does."""
    right: dict[str, list[Selected]] = {}
    with open_rewrites(answers, None, answers.parent) as found:
        for example, row in found.join(examples):
            rewrite = visible(apart(_rewrite(example, row)), repair, keep_thoughts)
            reasons = judge(example, rewrite, check)
            if rewrite is None:
                continue
            passed = [(c, r) for c, r in zip(rewrite.candidates, reasons, strict=True) if r in KEEPS]
            chosen: dict[tuple[str, ...], Selected] = {}
            for candidate, reason in sorted(passed, key=lambda pair: _rank(pair[0])):
                one = choose(example, rewrite.model_copy(update={"candidates": (candidate,)}), [reason], keep_thoughts)
                chosen.setdefault(one.responses, one)
            if chosen:
                right[example.id] = list(chosen.values())
    return right


def read_selected(examples: Sequence[Example], path: Path) -> dict[str, Selected]:
    """Selected rows by id. Raises UserError for an example without a row, a row twice or too many, and a row whose
    number of turns is not the example's."""
    chosen: dict[str, Selected] = {}
    for row in read_records(path, Selected):
        if row.id in chosen:
            raise UserError(f"{path}: id {row.id!r} occurs twice. Keep one row per id.")
        chosen[row.id] = row
    for example in examples:
        if example.id not in chosen:
            raise UserError(f"{path}: no row for id {example.id!r} of the data.")
        if len(chosen[example.id].responses) != len(example.references):
            raise UserError(f"{path}: id {example.id!r} needs {len(example.references)} turns (turns and response).")
    if len(chosen) > len(examples):
        raise UserError(f"{path}: {len(chosen) - len(examples)} rows belong to no row of the data.")
    return chosen
