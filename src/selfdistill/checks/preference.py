"""The microworld's judge of helpfulness: a rule in the place of AlpacaEval's judge LM."""

from __future__ import annotations

import re

from selfdistill.checks.base import Judgement, Outcome
from selfdistill.checks.texts import check_contains
from selfdistill.core.records import Example


def check_micro_win_rate(response: str, reference: str, example: Example) -> Judgement:
    """Is the response preferred over the annotator's terse answer (`meta["terse"]`)?

    A win says all that was asked for in sentences, a tie says all of it as tersely as the annotator, a loss leaves
    something out. The metric `win_rate` counts a tie as half.
    """
    terse = example.meta.get("terse")
    if not terse:
        return Judgement("no_reference", note="the row has no terse answer to be preferred over")
    complete = check_contains(response, reference, example).outcome == "same"
    label = "loss" if not complete else "win" if _in_sentences(response) else "tie"
    points = {"win": 1.0, "tie": 0.5, "loss": 0.0}[label]
    outcome: Outcome = "same" if label == "win" else "different"
    return Judgement(outcome, response, terse, label=label, metrics={"win_rate": points})


def _in_sentences(text: str) -> bool:
    """Opens with a capital, closes with a mark, and has at least six words, as all of the seed LM's own answers do."""
    words = re.findall(r"\w+", text)
    return len(words) >= 6 and text.lstrip()[:1].isupper() and text.rstrip()[-1:] in ".!?"
