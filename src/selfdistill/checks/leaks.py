"""Does a rewrite speak of the template it was asked with?

Letters and e-mails wait for "your response", tutorials say "my response": such words count where they speak of the
task, which is to write a response of one's own after a reference answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEAK = re.compile(
    r"""
    \breference[ ](?:answer|response|solution|output)s?\b
    | \b(?:according[ ]to|based[ ]on|as[ ]per|following|using)[ ]the[ ](?:given[ ]|provided[ ])?reference(?=[ ]?[,.;:])
    | \bthe[ ](?:given[ ]|provided[ ])?reference[ ](?:says?|said|states?|stated|suggests?|mentions?)\b
    | \b(?:my|your)[ ]own[ ]response\b | \bmy[ ](?:own[ ](?:answer|version)|response[ ]is)\b
    | \bhere(?:'s|[ ]is)[ ](?:my|your|the)[ ](?:own[ ]|rewritten[ ]|revised[ ])?response\b
    | (?:^|\n)\W*(?:my|your)[ ](?:response|own[ ]answer)[ ]?\W?:
    | \bnow[ ]it(?:'s|[ ]is)[ ]your[ ]turn\b | \A\W*your[ ]turn\b
    | \#\#\#[ ](?:instruction|response|your[ ]response|reference[ ]answer|input):
    """,
    re.X,
)


def leak(text: str, shown: Iterable[str] = ()) -> str | None:
    """The phrase by which a rewrite betrays the distillation template, or None.

    A phrase that the original instruction or reference (`shown`) itself uses is no leak.
    """
    low = text.lower()
    # Most texts have no hint of one. Spelt out: a loop over the hints takes three times as long.
    if not (
        "response" in low or "reference" in low or "your turn" in low or "my own" in low or "own answer" in low
        or "###" in low
    ):  # fmt: skip
        return None
    known = None
    for found in _LEAK.finditer(low.replace("’", "'")):
        phrase = found[0].strip(" \n*_#:>-")
        known = " ".join(shown).lower().replace("’", "'") if known is None else known
        if phrase not in known:
            return phrase
    return None
