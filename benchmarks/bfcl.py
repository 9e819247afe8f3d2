"""The check `function_call` over the Berkeley Function-Calling Leaderboard, held against BFCL's own checker.

    pip install --no-deps bfcl-eval            # its pins are heavy: the data and the checker need none of them
    python benchmarks/bfcl.py

For each of the 1,000 items of BFCL v4 simple (Python), multiple, parallel and parallel_multiple one right answer is
made of the first accepted value of each parameter. It goes through both checkers as it is, in other words that mean the
same, and made wrong. Prints where either is not as expected, and all counts; docs/calls.md explains them.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from selfdistill.checks.calls import check_function_call
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple")
Answer = list[tuple[str, dict[str, Any]]]
"""The calls of one answer: names and arguments."""


def load(category: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(item, its possible answers) of a category."""
    spec = find_spec("bfcl_eval")
    assert spec and spec.origin, "bfcl-eval is not installed: pip install --no-deps bfcl-eval"
    data = Path(spec.origin).parent / "data"
    name = f"BFCL_v4_{category}.json"
    items, answers = ((folder / name).read_text("utf-8").splitlines() for folder in (data, data / "possible_answer"))
    for item, answer in zip(map(json.loads, items), map(json.loads, answers), strict=True):
        assert item["id"] == answer["id"]
        yield item, answer["ground_truth"]


def bfcl_checker() -> Any:
    """BFCL's AST checker. It imports the client of every model provider for one flag, which is False here: dots in
    names stay."""
    stand_in: Any = ModuleType("bfcl_eval.constants.model_config")
    stand_in.MODEL_CONFIG_MAPPING = defaultdict(lambda: SimpleNamespace(underscore_to_dot=False))
    sys.modules.setdefault(stand_in.__name__, stand_in)
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def accepts(item: dict[str, Any], answer: Answer, possible: list[dict[str, Any]], category: str) -> bool:
        calls = [{name: arguments} for name, arguments in answer]
        try:
            return bool(ast_checker(item["function"], calls, possible, Language.PYTHON, category, "any")["valid"])
        except (AttributeError, TypeError, KeyError):  # it falls over answers of a type that it does not expect
            return False

    return accepts


def first(values: list[Any]) -> Any:
    """The first accepted value, and inside dicts the first of each key."""
    return plain(next(v for v in values if v != ""))


def plain(value: Any) -> Any:
    """A value as it stands in an answer: BFCL gives a list of accepted ones at every level."""
    if isinstance(value, dict):
        return {
            k: first(v) if isinstance(v, list) else v for k, v in value.items() if not (isinstance(v, list) and "" in v)
        }
    return [plain(v) for v in value] if isinstance(value, list) else value


def concrete(possible: list[dict[str, Any]]) -> Answer:
    """One right answer; what may be left out is."""
    return [(n, {k: first(v) for k, v in a.items() if "" not in v}) for call in possible for n, a in call.items()]


def python(answer: Answer) -> str:
    """As BFCL asks models to write it."""
    return "[" + ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in answer) + "]"


def as_json(answer: Answer) -> str:
    """As OpenAI's `tool_calls`."""
    return json.dumps([{"type": "function", "function": {"name": n, "arguments": json.dumps(a)}} for n, a in answer])


def wrong(answer: Answer) -> Iterator[tuple[str, Answer]]:
    """The answer made wrong in one place."""
    (name, arguments), rest = answer[0], answer[1:]
    yield "other function", [(f"other_{name}", arguments), *rest]
    yield "argument more", [(name, {**arguments, "one_more": 1}), *rest]
    for key in list(arguments)[:1]:
        yield "other value", [(name, {**arguments, key: "something else"}), *rest]
        yield "argument left out", [(name, {k: v for k, v in arguments.items() if k != key}), *rest]
    yield "call twice", [answer[0], *answer]
    if rest:
        yield "call left out", rest


def alike(item: dict[str, Any], possible: list[dict[str, Any]], answer: Answer) -> Iterator[tuple[str, Answer]]:
    """Other answers that one of the two may take for the same."""
    (name, arguments), rest = answer[0], answer[1:]
    accepted = possible[0][name]
    (tool,) = [t for t in item["function"] if t["name"] == name][:1]
    for key, value in arguments.items():
        others = [v for v in accepted[key] if v not in ("", value)]
        if others and not isinstance(value, (dict, list)):
            yield "another accepted value", [(name, {**arguments, key: others[0]}), *rest]
            break
    for key, values in accepted.items():
        if "" in values and len(values) > 1:
            yield "an optional argument given", [(name, {**arguments, key: first(values)}), *rest]
            break
    for key, value in arguments.items():
        if isinstance(value, str) and value.upper() != value:
            yield "a text in capitals", [(name, {**arguments, key: value.upper()}), *rest]
            spaced = re.sub(r"[ ,./_*^-]", "", value)
            if spaced != value:
                yield "a text without blanks and punctuation", [(name, {**arguments, key: spaced}), *rest]
            break
    for key, value in arguments.items():
        kind = tool["parameters"]["properties"][key]["type"]
        if isinstance(value, int) and not isinstance(value, bool) and kind == "integer":
            yield "5.0 where an integer is declared", [(name, {**arguments, key: float(value)}), *rest]
            break
    for key, value in arguments.items():
        if value in (0, 1) and isinstance(value, bool):
            yield "1 for True", [(name, {**arguments, key: int(value)}), *rest]
            break
    for key, value in arguments.items():
        if isinstance(value, list):
            yield "a list as its text", [(name, {**arguments, key: str(value)}), *rest]
            break


def main() -> None:
    """Command line."""
    theirs = bfcl_checker()
    counts: Counter[tuple[str, str, str]] = Counter()
    for category in CATEGORIES:
        for item, possible in load(category):
            answer = concrete(possible)
            turns = (Turn(role="user", content=item["question"][0][-1]["content"]),)
            example = Example(id=item["id"], prompt=turns, reference=python(answer), task="bfcl")

            def ours(response: str, reference: str, example: Example = example) -> bool:
                return check_function_call(response, reference, example).outcome == "same"

            for form, text in (("Python", python(answer)), ("JSON", as_json(answer))):
                for other, reference in (("Python", python(answer)), ("JSON", as_json(answer))):
                    counts[f"right: {form} against {other}", category, f"accepted {ours(text, reference)}"] += 1
            tried = [("right", answer), ("right: calls in another order", answer[::-1])][: len(answer)]
            tried += [(f"wrong: {what}", made) for what, made in wrong(answer)]
            tried += [(f"alike: {what}", made) for what, made in alike(item, possible, answer)]
            for what, made in tried:
                verdicts = [ours(python(made), python(answer)), ours(as_json(made), python(answer))]
                if verdicts[0] != verdicts[1]:
                    counts[what, category, "OURS DIFFER BY FORM"] += 1
                counts[what, "all", f"ours {verdicts[0]}, BFCL {theirs(item, made, possible, category)}"] += 1
    for key, count in sorted(counts.items()):
        print(f"{count:5} ", *key, sep="  ")


if __name__ == "__main__":
    main()
