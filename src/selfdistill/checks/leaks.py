"""Does a rewrite speak of the template it was asked with?"""

from __future__ import annotations

from collections.abc import Sequence

_LEAKS = (
    # the authors' list (github.com/sail-sg/sdft, eval/gen_distilled_data.py)
    "reference answer",
    "your response",
    "my response",
    "your own response",
    "now it's your turn",
    # the paper's own format
    "### instruction:",
    "### response:",
)


def leak(text: str, shown: Sequence[str] = ()) -> str | None:
    """The phrase by which a rewrite betrays the distillation template, or None.

    A phrase that the original instruction or reference (`shown`) itself uses is no leak.
    """
    low = text.lower()
    if low.lstrip().startswith("your turn"):
        return "your turn"
    for phrase in _LEAKS:
        if phrase in low and phrase not in " ".join(shown).lower():
            return phrase
    return None
