"""The Python of a chat answer is found as a reader finds it: in any fence or none, in parts, mended, with usage around."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from conftest import SHARED

from selfdistill.checks import load_check
from selfdistill.checks.code import program
from selfdistill.core.records import Example

ADD = "def add(a, b):\n    return a + b"
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"


def fenced(source: str, header: str = "python", fence: str = "```") -> str:
    return f"{fence}{header}\n{source}\n{fence}"


def outcome(answer: str, tests: str = TESTS, **meta: str) -> str:
    turns = ({"role": "user", "content": "Write it."},)
    example = Example(id="x", prompt=turns, reference=ADD, task="t", meta={"tests": tests, **meta})
    check = load_check("python_tests", allow_code=True)
    assert check is not None
    return check(answer, ADD, example).outcome


RIGHT = {
    "no fence": ADD,
    "prose around": f"Here it is:\n\n{ADD}\n\nIt adds a to b. Import it where you need it.",
    "prose that begins like code": f"from the task we know the rest.\n{ADD}\nimport this into your code.",
    "a version in the header": fenced(ADD, "Python3.11"),
    "a title in the header": fenced(ADD, 'py title="add.py"'),
    "R Markdown": fenced(ADD, "{python, echo=FALSE}"),
    "IPython": fenced(ADD, "ipython"),
    "tildes": fenced(ADD, "python", "~~~"),
    "a longer fence": fenced(ADD, "python", "````"),
    "never closed": f"```python\n{ADD}",
    "Windows' lines": fenced(ADD).replace("\n", "\r\n"),
    "in a quotation": "> " + fenced(ADD).replace("\n", "\n> "),
    "in a list": "1. First:\n\n   " + fenced(ADD).replace("\n", "\n   ") + "\n\n2. Done.",
    "shell first": "```\npip install numpy\n```\nThen:\n" + fenced(ADD),
    "output first": "It prints:\n```\n3\n```\n" + fenced(ADD),
    "a helper of its own": fenced("def same(x):\n    return x") + "\nand\n" + fenced("def add(a, b):\n    return same(a) + b"),
    "a constant of its own": fenced("ZERO = 0") + "\n" + fenced("def add(a, b):\n    return a + b + ZERO"),
    "mended": fenced("def add(a, b):\n    return a - b") + "\nThat is wrong. Mended:\n" + fenced(ADD),
    "a fence in the docstring": fenced('def add(a, b):\n    """Add.\n\n    ```\n    >>> add(1, 2)\n    3\n    ```\n    """\n    return a + b'),
    "a fence in a text": fenced(f'FENCE = "```"\n{ADD}'),
    "a lambda": fenced("add = lambda a, b: a + b"),
    "imported": fenced("from operator import add"),
    "decorated": fenced(f"import functools\n\n\n@functools.lru_cache\n{ADD}"),
    "a program's guard": fenced(f'{ADD}\n\n\nif __name__ == "__main__":\n    import sys\n\n    sys.exit(int(input()))'),
    "usage that reads": fenced(ADD) + "\nUse it:\n" + fenced("print(add(int(input()), 1))"),
    "usage without end": fenced(ADD) + "\n" + fenced("while True:\n    add(1, 2)"),
    "usage that fails": fenced(ADD) + "\n" + fenced("assert add(1, 1) == 3"),
    "usage first": fenced("add(1, 2)") + "\n" + fenced(ADD),
    "from __future__ in the second block": fenced("import os") + "\n" + fenced(f"from __future__ import annotations\n\n\n{ADD}"),
    "a dataclass": fenced(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Pair:\n    a: int\n    b: int\n\n\n"
        "def add(a, b):\n    pair = Pair(a, b)\n    return pair.a + pair.b"
    ),
    "pickled": fenced("import pickle\n\n\nclass P:\n    pass\n\n\ndef add(a, b):\n    pickle.loads(pickle.dumps(P()))\n    return a + b"),
}  # fmt: skip
WRONG = {
    "wrong": fenced("def add(a, b):\n    return a * b"),
    "made worse": fenced(ADD) + "\nBetter:\n" + fenced("def add(a, b):\n    return a - b"),
    "another language": fenced("function add(a, b) { return a + b }", "javascript"),
    "leaves early": fenced("import os\n\n\ndef add(a, b):\n    os._exit(0)"),
    "ends the program": fenced("import sys\n\nsys.exit(0)"),
    "a coroutine": fenced("async def add(a, b):\n    return a + b"),
    "nothing": "",
    "no code": "I cannot.",
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", RIGHT)
def test_right_code_is_found(name):
    assert outcome(RIGHT[name]) == "same"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_code_is_not_made_right(name):
    assert outcome(WRONG[name]) != "same"


BEGUN = 'from math import floor\n\n\ndef whole(x):\n    """The whole part of x."""\n'


@pytest.mark.parametrize(
    "answer",
    [
        "    return floor(x)", "return floor(x)", f"{BEGUN}    return floor(x)", fenced(f"{BEGUN}    return floor(x)"),
        fenced("    return floor(x)"), "Like this:\n" + fenced("def whole(y):\n    return floor(y)") + "\nDone.",
        fenced("def whole(x):\n    return part(x)\n\n\ndef part(x):\n    return floor(x)"),
    ],
)  # fmt: skip
def test_begun_code_is_completed_or_written_anew(answer):
    asked = {"code": BEGUN, "entry_point": "whole"}
    assert outcome(answer, "assert whole(2.5) == 2", **asked) == "same"
    assert outcome(answer.replace("floor(", "-floor("), "assert whole(2.5) == 2", **asked) != "same"


@pytest.mark.heavy
@pytest.mark.skipif(not SHARED.exists(), reason="the real HumanEval lies in ../shared/data, which is not here")
def test_humanevals_own_solutions_pass_in_many_forms():
    with gzip.open(SHARED / "HumanEval.jsonl.gz", "rt") as lines:
        items = [json.loads(line) for line in lines][::20]
    assert len(items) == 9
    for item in items:
        whole = item["prompt"] + item["canonical_solution"]
        asked = {"code": item["prompt"], "entry_point": item["entry_point"]}
        tests = f"{item['test']}\ncheck({item['entry_point']})"
        wrong = f"def {item['entry_point']}(*args):\n    return object()"
        for answer in (
            item["canonical_solution"],
            whole,
            f"Here:\n{fenced(whole)}\nDone.",
            fenced(wrong) + "\n" + fenced(whole),
        ):
            assert outcome(answer, tests, **asked) == "same", item["task_id"]
        assert outcome(fenced(whole) + "\n" + fenced(wrong), tests, **asked) != "same", item["task_id"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "unit", ["`", "(", "def ", "```python\n", "x = 1\n", "~~~\n", "> ", "- ", "def f(:\n", "import a\n"]
)
def test_any_text_of_100_000_characters_is_read_in_two_seconds(unit):
    turns = ({"role": "user", "content": "?"},)
    example = Example(id="x", prompt=turns, reference=ADD, task="t", meta={"tests": TESTS})
    began = time.process_time()
    program(unit * (100_000 // len(unit)), example, ["add"])
    assert time.process_time() - began < 2
