"""Validate: does a task's check accept every gold answer, and reject the same answer made wrong?

In:  a task with its items.
Out: the answers that the check judges wrongly, and the items that it cannot judge at all.

    selfdistill validate --task paper:openfunctions --data-dir data

Each item's gold answer must pass; an empty one, an off-topic one and, for the checks in `PERTURB`, the gold answer made
wrong must not. Where the check finds no answer in the reference, it cannot be tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from selfdistill.checks.base import UNREADABLE
from selfdistill.checks.call_values import Call
from selfdistill.checks.calls import find_calls
from selfdistill.checks.numbers import last_number, next_of
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.tasks.base import JUDGED_AT_ONCE, Task

OFF_TOPIC = "The weather is nice today and the birds sing."
REFUSAL = "I cannot help you with that."
COMPLIANCE = "Sure, here is how to do it. First, get what you need."


@dataclass(frozen=True)
class Failure:
    """A gold answer that was not accepted, or a wrong one that was; `what` says which, `outcome` how it was judged."""

    id: str
    what: str
    answer: str
    outcome: str


@dataclass(frozen=True)
class Validation:
    """What the check did wrong, and the ids of the items whose reference it cannot read, with how it judged their gold
    answer."""

    failures: list[Failure]
    unjudgeable: dict[str, str]

    @property
    def good(self) -> bool:
        """Whether every item can be judged, and is judged rightly."""
        return not self.failures and not self.unjudgeable


def validate(task: Task) -> Validation:
    """Try the task's check over its items. Raises UserError for a check that cannot be tried this way (a judge,
    lm-evaluation-harness, one that was not permitted)."""
    name, check = task.check_name, task.check
    if check is None or name == "win_rate":
        why = task.missing or "a judge and lm-evaluation-harness know no right answer"
        raise UserError(f"task {task.settings.name}: check {name} cannot be tried: {why}.")

    def one(item: Example) -> list[Failure] | str:
        gold = _gold(name, item)
        if (outcome := check(gold, item.reference, item).outcome) in UNREADABLE:
            return UNREADABLE[outcome]
        perturb = PERTURB.get(name)
        wrong = [(what, answer) for what, answer in perturb(gold, item) if answer != gold] if perturb else []
        tried = [("gold", gold), *wrong, ("empty", "")]
        if name != "refusal":  # there an answer beside the topic is an answer
            tried.append(("off-topic", OFF_TOPIC))
        found = [(what, answer, check(answer, item.reference, item).outcome) for what, answer in tried]
        return [Failure(item.id, w, a, o) for w, a, o in found if (o == "same") != (w == "gold")]

    with ThreadPoolExecutor(JUDGED_AT_ONCE) as pool:
        found = list(zip(task.items, pool.map(one, task.items), strict=True))
    failures = [failure for _, result in found if not isinstance(result, str) for failure in result]
    return Validation(failures, {item.id: result for item, result in found if isinstance(result, str)})


def _gold(check: str, item: Example) -> str:
    """The answer that must pass: the reference, or words for it where it only names a class."""
    if check == "refusal":
        return REFUSAL if item.reference == "refuse" else COMPLIANCE
    return str(item.meta.get("own") or item.reference)


Perturb = Callable[[str, Example], Iterator[tuple[str, str]]]
"""(gold answer, item) -> (what was changed, the wrong answer)."""


def _other_number(gold: str, item: Example) -> Iterator[tuple[str, str]]:
    value = last_number(gold)
    if value is not None:
        told = next_of(value)
        yield "number + 1", f"The answer is {told}."
        yield "no number", "The answer is unknown to me."


def _other_call(gold: str, item: Example) -> Iterator[tuple[str, str]]:
    calls = find_calls(gold)
    if not calls:
        return
    first, rest = calls[0], calls[1:]
    changed = [
        ("other function", replace(first, name=f"other_{first.name}")),
        ("one argument more", replace(first, named=(*first.named, ("one_more", "1")))),
    ]
    other = "'something else entirely'"
    if first.unnamed:
        changed.append(("other value", replace(first, unnamed=(other, *first.unnamed[1:]))))
        changed.append(("argument left out", replace(first, unnamed=first.unnamed[1:])))
    if first.named:
        (name, _), *more = first.named
        changed.append(("other value", replace(first, named=((name, other), *more))))
        changed.append(("argument left out", replace(first, named=tuple(more))))
    for what, call in changed:
        yield what, _list_of(call, *rest)
    if rest:
        yield "a call left out", _list_of(*rest)
    yield "a call twice", _list_of(first, *calls)


def _list_of(*calls: Call) -> str:
    return str(calls[0]) if len(calls) == 1 else f"[{', '.join(map(str, calls))}]"


def _other_code(gold: str, item: Example) -> Iterator[tuple[str, str]]:
    entry = item.meta.get("entry_point")
    if entry is None:
        yield "returns a new object", re.sub(r"return .*", "return object()", gold)
        return
    for what, body in (
        ("returns a new object", "return object()"),
        ("leaves early", "import os; os._exit(0)"),
        ("broken", "return ("),
    ):
        yield what, f"```python\ndef {entry}(*args, **kwargs):\n    {body}\n```"


def _other_stance(gold: str, item: Example) -> Iterator[tuple[str, str]]:
    yield "the other stance", COMPLIANCE if item.reference == "refuse" else REFUSAL
    yield "incoherent", "of of of of of of of of of of of of of of of of of of of of"


def _other_words(gold: str, item: Example) -> Iterator[tuple[str, str]]:
    yield "letters turned round", re.sub(r"\w{3,}", lambda m: m[0][::-1] + "q", gold)


PERTURB: dict[str, Perturb] = {
    "last_number": _other_number,
    "function_call": _other_call,
    "python_tests": _other_code,
    "refusal": _other_stance,
    "contains": _other_words,
    "exact": _other_words,
    "micro_win_rate": _other_words,
}
