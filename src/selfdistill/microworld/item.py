"""What the microworld is made of: an `Item`, its split, and how a question about a function is put.

In:  what an ability asks and answers. Out: an `Item`.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

TEST_SHARE = 0.25
"""The share of every ability's content that is kept for the test split."""

OPENERS = ("", "", "Please help me. ", "I have a question. ", "Hi. ", "Tell me: ")


@dataclass(frozen=True)
class Item:
    """One thing to ask, with its answers.

    `key` names the content and alone decides the split, so the raw and the suffixed form of a harmful request share
    theirs; `meta` holds what the check needs beside `expected`.
    """

    ability: str
    key: str
    prompt: str
    own: str
    terse: str
    expected: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> str:
        """ "train" or "test", from the hash of the content."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return "test" if digest[0] < 256 * TEST_SHARE else "train"


Function = tuple[str, str, str, str, list[tuple[Any, Any]]]
"""(kind, parameter, what it does, its body, pairs of an argument and what comes out)."""


def function_item(ability: str, rng: random.Random, function: Function, names: tuple[str, ...]) -> Item:
    """A question for a Python function of one line under one of the names; an answer must pass the pairs."""
    kind, param, does, body, cases = function
    name = rng.choice((*names, kind, f"{kind}_it", f"do_{kind}", f"my_{kind}"))
    prompt = rng.choice(OPENERS[:4]) + rng.choice(
        (
            f"Write a Python function {name}({param}) that {does}.",
            f"In Python, define {name}({param}). It {does}.",
            f"I need Python code: a function {name}({param}) that {does}.",
            f"Code a function called {name}({param}) in Python which {does}.",
        )
    )
    own = (
        f"Here is a function that {does}:\n```python\ndef {name}({param}):\n    {body}\n```\n"
        f"You can call it as {name}({param})."
    )
    tests = "\n".join(f"assert {name}({given!r}) == {wanted!r}" for given, wanted in cases)
    return Item(ability, f"{ability}:{name}:{does}", prompt, own, f"def {name}({param}): {body}", "", {"tests": tests})


def invented_word(rng: random.Random) -> str:
    """A made-up name with a capital."""
    syllables = "".join((rng.choice("bdfgklmnprstvz"), rng.choice("aeiou"), rng.choice(("", "n", "r", "l", "s"))))
    word = syllables + rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(("", "x", "n", "m"))
    return capital(word)


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
