"""A check as the stages have it: of answers, without thoughts, and with the place where an answer lies."""

from __future__ import annotations

from dataclasses import dataclass

from selfdistill.checks.base import Check, Judgement, Place
from selfdistill.checks.call_places import place_call
from selfdistill.checks.calls import check_function_call, compared_as_calls
from selfdistill.core.records import Example
from selfdistill.models.thoughts import answer_of


@dataclass(frozen=True)
class LoadedCheck:
    """The check that `spec` names, of what stands behind the thoughts. Thoughts without an end are no answer, whatever
    it says of "". A turn that calls tools is compared as a call, whatever the check.

    `placer` puts a reference's answer into a response; None where the check cannot say where an answer lies.
    """

    spec: str
    check: Check
    placer: Place | None = None
    sees_no_reference: bool = False

    def __call__(self, response: str, reference: str, example: Example) -> Judgement:
        """What the check says."""
        answer, wanted = answer_of(response), answer_of(reference)
        of_turn = check_function_call if compared_as_calls(wanted, example) else self.check
        judgement = of_turn(answer, wanted, example)
        if answer is response and wanted is reference:
            return judgement
        if reference.strip() and not wanted and not self.sees_no_reference:
            return judgement._replace(outcome="no_reference")
        if response.strip() and not answer and judgement.outcome != "no_reference":
            return judgement._replace(outcome="no_answer")
        return judgement

    @property
    def places(self) -> bool:
        """Whether it can say where an answer lies."""
        return self.placer is not None

    def place(self, response: str, reference: str, example: Example) -> str | None:
        """The response with the reference's answer in the place where its own wrong one stands, which passes the check;
        None where there is no such place, or more than one, and for a response with thoughts in it."""
        wanted = answer_of(reference)
        placer = place_call if compared_as_calls(wanted, example) else self.placer
        if placer is None or answer_of(response) != response:
            return None
        if self(response, reference, example).outcome != "different":
            return None
        made = placer(response, wanted, example)
        return made if made is not None and self(made, reference, example).outcome == "same" else None


def place(check: Check, response: str, reference: str, example: Example) -> str | None:
    """What `LoadedCheck.place` says; None for a plain function, which says nothing of places."""
    return check.place(response, reference, example) if isinstance(check, LoadedCheck) else None
