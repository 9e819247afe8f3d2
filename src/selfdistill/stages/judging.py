"""Judging: what is said of one candidate, beside the reference (Equation 4).

In:  an example, a candidate, a check.
Out: the reason why the candidate may stay or not. Thoughts are not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from selfdistill.checks import check_calls
from selfdistill.checks.base import Check, Judgement
from selfdistill.checks.calls import compared_as_calls
from selfdistill.checks.coherence import damaged
from selfdistill.checks.leaks import leak
from selfdistill.checks.loaded import place
from selfdistill.core.records import Example
from selfdistill.core.rewrites import REWRITTEN, Candidate, Reason
from selfdistill.models.thoughts import answer_of
from selfdistill.stages.own_calls import taken

KEEPS = (*REWRITTEN, Reason.COPIED)
"""Reasons of candidates that may stay."""

_OUTCOMES = {
    "same": Reason.PASSED,
    "different": Reason.WRONG,
    "no_answer": Reason.NO_ANSWER,
    "no_reference": Reason.REFERENCE_UNREADABLE,
    "cannot_tell": Reason.UNCLEAR,
}


class Judged(NamedTuple):
    """`last` is what the check says of the last turn, where that turn, a text, decides."""

    reason: Reason
    last: Judgement | None = None

    @property
    def wrong_at_last(self) -> bool:
        """Whether nothing but the answer of the last turn is wrong or missing."""
        return self.last is not None and self.reason in (Reason.WRONG, Reason.NO_ANSWER)


def judged(example: Example, candidate: Candidate, check: Check | None) -> Judged:
    """Why this candidate may stay or not. Every rewritten turn must pass; of turns that call tools, one that is not the
    same call leaves the others as they are."""
    if candidate.finish_reason == "length":
        return Judged(Reason.IN_THOUGHT if candidate.cut_in_thought else Reason.TRUNCATED)
    references = example.references
    if len(candidate.turns) + 1 != len(references):
        return Judged(Reason.EMPTY)
    if all(map(same_text, candidate.responses, references)):
        return Judged(Reason.COPIED)
    calls = ["tool_calls" in turn for turn in example.answers] if example.uses_tools else [False] * len(references)
    kept = _of_texts(example, candidate, check, calls)
    if kept.reason not in KEEPS or not any(calls):
        return kept
    of_calls = taken(example, candidate.responses)[1]
    if all(reason is Reason.OWN_CALL for reason in of_calls):
        return Judged(Reason.OWN_CALL) if all(calls) else kept
    if all(calls) and Reason.OWN_CALL not in of_calls:
        return Judged(of_calls[0])
    return Judged(Reason.SOME_CALLS)


def repaired(example: Example, candidate: Candidate, check: Check) -> Candidate | None:
    """The candidate with the reference's answer in the place of its own wrong one, in its last turn; None where the
    check cannot say where that is, and where what comes out does not pass or is the reference itself."""
    if not judged(example, candidate, check).wrong_at_last:
        return None
    text = place(check, candidate.text, example.reference, example)
    if text is None:
        return None
    made = Candidate(
        text=text, turns=candidate.turns, thoughts=candidate.thoughts, finish_reason=candidate.finish_reason,
        step="placed",
    )  # fmt: skip
    return made if judged(example, made, check).reason in REWRITTEN else None


def _of_texts(example: Example, candidate: Candidate, check: Check | None, calls: Sequence[bool]) -> Judged:
    """What is said of the rewritten turns that are texts."""
    references, last = example.references, len(calls) - 1
    thoughts = candidate.thoughts or (None,) * len(references)
    texts = [(number, response) for number, response in enumerate(candidate.responses) if not calls[number]]
    for number, response in texts:
        if reason := _flaw(response, thoughts[number], references[number], example):
            return Judged(reason)
    for number, response in texts:
        judges = check or (check_calls if compared_as_calls(references[number], example) else None)
        if judges is None:
            continue
        # What a row's `contains` or `tests` ask for is asked of the last turn.
        asked = example if number == last else example.model_copy(update={"meta": {}})
        judgement = judges(response, references[number], asked)
        reason = _OUTCOMES[judgement.outcome]
        if number == last:
            return Judged(reason, judgement)
        if reason not in (Reason.PASSED, Reason.REFERENCE_UNREADABLE):  # small talk on the way has nothing to extract
            return Judged(reason)
    return Judged(Reason.KEPT if check is None else Reason.PASSED)


def same_text(response: str, reference: str) -> bool:
    """Whether a response is the reference itself, thoughts and outer white space aside."""
    return response.strip() == answer_of(reference).strip()


def _flaw(response: str, thought: str | None, reference: str, example: Example) -> Reason | None:
    """What is wrong with a rewritten turn, whatever the check."""
    if not response or response.isspace():
        return Reason.EMPTY if thought is None else Reason.NO_ANSWER
    if leak(response) and leak(response, [*(t["content"] for t in example.prompt), example.reference]):
        return Reason.LEAKED
    return Reason.INCOHERENT if damaged(response, answer_of(reference)) else None
