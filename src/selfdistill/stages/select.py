"""Select: a rewrite is kept where it is verifiably as good as the reference, else the reference stays (Equation 4).

In:  examples and rewrites.jsonl, joined by id; a check.
Out: selected.jsonl, one `Selected` per example with its reason, and the export formats of other trainers.

    selfdistill select --data train.jsonl --rewrites rewrites.jsonl --check last_number --out selected.jsonl

One pass over the examples writes everything. Memory holds the rewrites' ids and where they lie, not their texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path

from selfdistill.checks import check_calls
from selfdistill.checks.base import Check
from selfdistill.checks.calls import compared_as_calls
from selfdistill.checks.coherence import damaged
from selfdistill.checks.leaks import leak
from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, dump, read_records
from selfdistill.core.rewrites import REWRITTEN, Candidate, Reason, Rewrite, Selected
from selfdistill.core.store import new_files
from selfdistill.core.turns import is_call
from selfdistill.data.joins import BATCH, open_rewrites
from selfdistill.models.thoughts import Parts, answer_of, split
from selfdistill.stages.exports import Exports
from selfdistill.stages.own_calls import taken

_OUTCOMES = {
    "same": Reason.PASSED,
    "different": Reason.WRONG,
    "no_answer": Reason.NO_ANSWER,
    "no_reference": Reason.REFERENCE_UNREADABLE,
    "cannot_tell": Reason.UNCLEAR,
}
_KEEPS = (*REWRITTEN, Reason.COPIED)


def select(
    examples: Iterable[Example],
    rewrites: Path,
    out: Path,
    check: Check | None,
    progress: Progress | None = None,
    form: DataSettings | None = None,
    exports: Mapping[str, Path] | None = None,
    keep_thoughts: bool = False,
) -> Counter[Reason]:
    """Write `out`, in the order of the examples, and `exports` (format: file); all of them, or none if
    anything is wrong. Returns the count of rows by reason.

    `rewrites` is what distill writes, or a whole distilled dataset in a form that datasets come in (`form` tells its
    columns), such as the authors published. Thoughts before an answer are not judged; with `keep_thoughts` they stay in
    what is selected and exported. Raises UserError for rewrites that cannot be joined to the examples.
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
            made = [apart(_rewrite(example, row)) for example, row in pairs]
            judged = [judge(example, rewrite, check) for example, rewrite in zip(batch, made, strict=True)]
            rows = [choose(*row, keep_thoughts) for row in zip(batch, made, judged, strict=True)]
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
    if len(row.references) == len(example.references) and all(map(_same, row.references, example.references)):
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
    return [_reason(example, candidate, check) for candidate in rewrite.candidates] if rewrite else []


def choose(
    example: Example, rewrite: Rewrite | None, judged: Sequence[Reason], keep_thoughts: bool = False
) -> Selected:
    """The row's training response. Among the candidates that pass, the one with the lowest seed NLL; a copy of the
    reference only where no other passes."""
    passed = [n for n, reason in enumerate(judged) if reason in _KEEPS]
    if rewrite and passed:
        own = [n for n in passed if judged[n] is not Reason.COPIED] or passed
        number = min(own, key=lambda n: _nll(rewrite.candidates[n])) if len(own) > 1 else own[0]
        best = rewrite.candidates[number]
        *turns, response = taken(example, best.responses)[0]
        return Selected(
            id=example.id,
            response=response,
            turns=tuple(turns),
            thoughts=best.thoughts if keep_thoughts else (),
            source="distilled",
            reason=judged[number],
            seed_nll=best.seed_nll,
        )
    failure = rewrite.failure if rewrite else Reason.MISSING
    return Selected(
        id=example.id,
        response=example.reference,
        turns=example.references[:-1],
        source="original",
        reason=judged[0] if judged else failure or Reason.MISSING,
        seed_nll=rewrite.reference_nll if rewrite else None,
    )


def _nll(candidate: Candidate) -> float:
    return float("inf") if candidate.seed_nll is None else candidate.seed_nll


def _reason(example: Example, candidate: Candidate, check: Check | None) -> Reason:
    """Why this candidate may stay or not. Every rewritten turn must pass; of turns that call tools, one that is not the
    same call leaves the others as they are. Thoughts are not judged."""
    if candidate.finish_reason == "length":
        return Reason.IN_THOUGHT if candidate.cut_in_thought else Reason.TRUNCATED
    references = example.references
    if len(candidate.turns) + 1 != len(references):
        return Reason.EMPTY
    if all(map(_same, candidate.responses, references)):
        return Reason.COPIED
    calls = ["tool_calls" in turn for turn in example.answers] if example.uses_tools else [False] * len(references)
    kept = _of_texts(example, candidate, check, calls)
    if kept not in _KEEPS or not any(calls):
        return kept
    of_calls = taken(example, candidate.responses)[1]
    if all(reason is Reason.OWN_CALL for reason in of_calls):
        return Reason.OWN_CALL if all(calls) else kept
    if all(calls) and Reason.OWN_CALL not in of_calls:
        return of_calls[0]
    return Reason.SOME_CALLS


def _of_texts(example: Example, candidate: Candidate, check: Check | None, calls: Sequence[bool]) -> Reason:
    """What is said of the rewritten turns that are texts."""
    references, last = example.references, len(calls) - 1
    thoughts = candidate.thoughts or (None,) * len(references)
    texts = [(number, response) for number, response in enumerate(candidate.responses) if not calls[number]]
    for number, response in texts:
        if reason := _flaw(response, thoughts[number], references[number], example):
            return reason
    reason = Reason.KEPT
    for number, response in texts:
        judges = check or (check_calls if compared_as_calls(references[number], example) else None)
        if judges is None:
            continue
        # What a row's `contains` or `tests` ask for is asked of the last turn.
        asked = example if number == last else example.model_copy(update={"meta": {}})
        reason = _OUTCOMES[judges(response, references[number], asked).outcome]
        if number == last:
            return reason
        if reason not in (Reason.PASSED, Reason.REFERENCE_UNREADABLE):  # small talk on the way has nothing to extract
            return reason
    return Reason.KEPT if check is None else Reason.PASSED


def _same(response: str, reference: str) -> bool:
    return response.strip() == answer_of(reference).strip()


def _flaw(response: str, thought: str | None, reference: str, example: Example) -> Reason | None:
    """What is wrong with a rewritten turn, whatever the check."""
    if not response or response.isspace():
        return Reason.EMPTY if thought is None else Reason.NO_ANSWER
    if leak(response) and leak(response, [*(t["content"] for t in example.prompt), example.reference]):
        return Reason.LEAKED
    return Reason.INCOHERENT if damaged(response, answer_of(reference)) else None


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
