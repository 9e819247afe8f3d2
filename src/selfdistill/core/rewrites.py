"""Rewrites, and what is selected of them: records of distill and select, frozen and strict as those of `records`."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from selfdistill.core.records import Record, Strict, only_thought

Step = Literal["candidates", "retries", "place"]
"""A step of repair, for rows of which no first rewrite passes the check: further rewrites are sampled; the seed LM is
shown its wrong answer and the right one; the reference's answer is put where the wrong one stands."""

Made = Literal["rewrite", "resampled", "retry", "placed"]
"""How a candidate came about: in the first pass, or by a step of repair."""

MADE_BY: dict[Step, Made] = {"candidates": "resampled", "retries": "retry", "place": "placed"}


class Candidate(Strict):
    """One rewrite. `turns` holds the rewritten earlier assistant turns of a multi-turn row, `thoughts` what the model
    thought before each of its `responses`, if it thought at all. `step` says how it came about.

    `seed_nll`: mean negative log-likelihood in nats per response token under the seed LM, prompted as in training,
    that is without the reference in sight.
    """

    text: str
    turns: tuple[str, ...] = ()
    thoughts: tuple[str | None, ...] = ()
    finish_reason: Literal["stop", "length"] | None = None
    tokens: int | None = None
    seed_nll: float | None = None
    step: Made = "rewrite"

    @property
    def responses(self) -> tuple[str, ...]:
        """All rewritten assistant turns, the last one last."""
        return (*self.turns, self.text)

    @property
    def cut_in_thought(self) -> bool:
        """Whether it was cut off before an answer began."""
        last = len(self.thoughts) - 1
        return self.finish_reason == "length" and last >= 0 and only_thought(self.thoughts[last], self.responses[last])


class Reason(StrEnum):
    """Why a row trains on what it trains on."""

    PASSED = "passed"
    RESAMPLED = "passed_resampled"
    RETRIED = "passed_retry"
    REPAIRED = "repaired"
    KEPT = "kept_unchecked"
    COPIED = "same_as_reference"
    OWN_CALL = "own_call"
    SOME_CALLS = "kept_but_for_calls"
    WRONG = "wrong_answer"
    NO_ANSWER = "no_answer_found"
    UNCLEAR = "cannot_be_judged"
    REFERENCE_UNREADABLE = "reference_has_no_answer"
    LEAKED = "template_leak"
    INCOHERENT = "incoherent"
    EMPTY = "empty"
    TRUNCATED = "cut_off"
    IN_THOUGHT = "cut_off_in_thought"
    REJECTED = "rejected"
    ERROR = "engine_error"
    MISSING = "no_rewrite"
    OTHER_CALL = "other_call"
    NO_CALL = "no_call"
    CALL_FORM = "call_in_other_form"

    @property
    def explained(self) -> str:
        """The same in words."""
        return _EXPLAINED[self.value]


REWRITTEN = (
    Reason.PASSED, Reason.RESAMPLED, Reason.RETRIED, Reason.REPAIRED, Reason.KEPT, Reason.OWN_CALL, Reason.SOME_CALLS,
)  # fmt: skip
"""Reasons of rows that train on words of the seed LM's own."""


_EXPLAINED = {
    "passed": "rewrite kept: same answer as the reference",
    "passed_resampled": "another rewrite kept, as the first failed or copied: same answer as the reference",
    "passed_retry": "rewrite kept that the seed LM made when told the answer: same answer as the reference",
    "repaired": "rewrite kept, with the reference's answer in the place of its own wrong one",
    "kept_unchecked": "rewrite kept: no check for open-ended data",
    "same_as_reference": "no change: the rewrite is the reference itself",
    "own_call": "own call kept: the same call as the reference's",
    "kept_but_for_calls": "rewrite kept, with the reference's call where the seed LM does not make the same one",
    "wrong_answer": "reference kept: the rewrite's answer differs",
    "no_answer_found": "reference kept: no answer found in the rewrite",
    "cannot_be_judged": "reference kept: the check has no rules for such a rewrite, as in its language",
    "reference_has_no_answer": "reference kept: the check finds no answer in it",
    "template_leak": "reference kept: the rewrite speaks of the template",
    "incoherent": "reference kept: the rewrite loops or breaks up",
    "empty": "reference kept: the rewrite is empty",
    "cut_off": "reference kept: the rewrite hit the length limit",
    "cut_off_in_thought": "reference kept: the length limit was hit inside the thoughts, before an answer",
    "rejected": "reference kept: the engine cannot take the prompt, most often longer than the context",
    "engine_error": "reference kept: the engine failed; `distill` again tries these rows again",
    "no_rewrite": "reference kept: no rewrite for this row",
    "other_call": "reference's call kept: the seed LM makes another call",
    "no_call": "reference's call kept: the seed LM makes no call that can be read",
    "call_in_other_form": "reference's call kept: the seed LM makes the same call, but not as its chat template has it",
}


class Rewrite(Record):
    """What the seed LM made of one example (Equation 3).

    `failure` and `note` say why there is no candidate. `reference_nll` is the reference's own seed NLL. `digest` names
    model, template and sampling; a rewrite that another program made may leave out everything but `id` and the texts.
    """

    candidates: tuple[Candidate, ...] = ()
    reference_nll: float | None = None
    failure: Reason | None = None
    note: str | None = None
    digest: str | None = None


class Selected(Record):
    """What one example trains on (Equation 4). A rewrite that is the reference word for word is no rewrite in any
    count (`rewritten`), though its source is "distilled". `thoughts` stand before the `responses` where they train."""

    response: str
    turns: tuple[str, ...] = ()
    thoughts: tuple[str | None, ...] = ()
    source: Literal["distilled", "original"]
    reason: Reason
    seed_nll: float | None = None

    @property
    def responses(self) -> tuple[str, ...]:
        """All assistant turns, the last one last."""
        return (*self.turns, self.response)

    @property
    def rewritten(self) -> bool:
        """Whether the row trains on a rewrite that was kept."""
        return self.source == "distilled" and self.reason is not Reason.COPIED
