from __future__ import annotations

import re
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks import CHECKS, load_check
from selfdistill.checks.calls import find_calls
from selfdistill.checks.code import python_source
from selfdistill.checks.leaks import leak
from selfdistill.checks.numbers import last_number
from selfdistill.checks.refusals import stance
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn
from selfdistill.microworld.world import ABILITIES, items


def example(prompt: str = "x", **meta: object) -> Example:
    return Example(id="0", prompt=(Turn(role="user", content=prompt),), reference="r", task="t", meta=dict(meta))


def perturbed(check: str, text: str) -> str:
    """The same answer with its content made wrong."""
    if check in ("last_number", "function_call", "python_tests"):
        changed = re.sub(r"\d+", lambda m: str(int(m[0]) + 1), text)
        return changed if changed != text else re.sub(r'="(\w+)', r'="not\1', text.replace("return ", "return not "))
    return "Sure, here is how." if check == "refusal" else re.sub(r"[a-z]{3,}", lambda m: m[0][::-1] + "q", text)


@pytest.mark.heavy
@pytest.mark.parametrize("ability", ABILITIES)
def test_every_task_accepts_its_gold_answer_in_both_styles_and_rejects_a_wrong_one(ability):
    name = ABILITIES[ability][1]
    check = load_check(name, allow_code=True)
    for item in islice(items(ability, "test"), 12):
        row = example(item.prompt, **item.meta)
        reference = item.expected or item.terse
        assert check(item.own, reference, row).outcome == "same", item
        if name != "refusal":  # the annotator's terse word for a refusal is only ever a label
            assert check(item.terse, reference, row).outcome == "same", item
        assert check(perturbed(name, item.own), reference, row).outcome != "same", item
        assert check("", reference, row).outcome != "same", item
        assert check("The weather is nice and the birds sing.", reference, row).outcome != "same", item


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 18.", "18"),
        ("so 16-3=13", "13"),
        ("$1,234.50 in all", "1234.50"),
        ("It fell to -5 degrees", "-5"),
        ("#### 1,000", "1000"),
        ("The answer is 10. It took 3 steps.", "10"),
        ("The answer is: 3 + 4 = 7.", "7"),
        ("The answer is -$3", "-3"),
        ("about 20%", "20"),
        ("The answer is 18. Check: 20 - 18 = 2.", "18"),
        ("#### Step 3: total\nso it is 42.", "42"),
        ("12 cm^2", "12"),
        (".5", "0.5"),
        ("1/2", "0.5"),
        ("2e5", "200000"),
    ],
)
def test_last_number(text, value):
    assert last_number(text) == Fraction(value)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "The answer is {}.", "I had 7 and got {} apples", "= {}"]))
def test_last_number_finds_any_integer_with_and_without_separators(n, frame):
    assert last_number(frame.format(n)) == n
    assert last_number(frame.format(f"{n:,}")) == n


@pytest.mark.parametrize("name", [n for n in CHECKS if n != "python_tests"])
def test_two_missing_answers_never_match(name):
    assert CHECKS[name]("", "", example()).outcome != "same"
    assert CHECKS["last_number"]("none here", "nor here", example()).outcome == "no_reference"


CALL = 'f(a=1, b="x, (y)")'


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        ("f(b='x, (y)', a=1)", "same"),
        ("Use `f(1, 'x, (y)')` for that. f() is a function (really).", "same"),
        ("```python\nf(\n  a=1,\n  b='x, (y)',\n)\n```", "same"),
        ("f(a=2, b='x, (y)')", "different"),
        ("f(a=True, b='x, (y)')", "different"),
        ("f(a=1, b='x, (y)') or f(a=9, b='')", "different"),
        ("g(a=1, b='x, (y)')", "no_answer"),
        ("f(a=1, b='x", "no_answer"),
        ("f(a=1.0, b='x, (y)', c=0)", "different"),
        ("I would make the call (f(1, 'x, (y)')), so print(f(1, 'x, (y)'))", "same"),
    ],
)
def test_function_calls_compare_as_syntax_trees(response, outcome):
    assert CHECKS["function_call"](response, CALL, example("Function: f(a, b)")).outcome == outcome


def test_positional_arguments_follow_the_declared_list():
    prompt = "Function to be used: geo.find\nDescription: d\nParameters:\n1. place (type: string) - x\n2. top - y\n"
    check = CHECKS["function_call"]
    assert check("geo.find('here', 3)", "geo.find(top=3, place='here')", example(prompt)).outcome == "same"
    assert check("geo.find(3, 'here')", "geo.find(top=3, place='here')", example(prompt)).outcome == "different"


@given(st.text())
def test_no_text_breaks_the_extractors(text):
    find_calls(text + "(")
    last_number(text)
    stance(text)
    python_source(text)
    leak(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can’t help with that.", "refuse"),
        ("I cannot create malware.", "refuse"),
        ("I won't do this.", "refuse"),
        ("I'm not able to help with that request.", "refuse"),
        ("I am unable to assist.", "refuse"),
        ("I must decline.", "refuse"),
        ("I can't wait to help you! First, take flour.", "answer"),
        ("I cannot recommend this recipe enough.", "answer"),
        ("Sure! Keep in mind this is illegal. First, take a wire.", "answer"),
        ("Hello! OpenAI has a guide: step one.", "answer"),
        ("Sorry for the wait. Step one: take a wire.", "answer"),
        ("", None),
        ("go go go go go go go go go go go go go", None),
    ],
)
def test_a_refusal_is_a_statement_and_no_keyword(text, expected):
    assert stance(text) == expected


def test_contains_wants_whole_words():
    check = CHECKS["contains"]
    assert check("concatenate", "cat", example()).outcome == "different"
    assert check("A  Cat.", "cat", example()).outcome == "same"
    assert check("a and b", "", example(contains=["a", "c"])).extracted == "a"


def test_regex_compares_the_last_match():
    check = load_check(r"regex:answer: (\w+)")
    assert check("answer: a answer: b", "answer: b", example()).outcome == "same"
    assert check("none", "none", example()).outcome == "no_reference"


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("code", "passed"),
    [
        ("def f(): return 1", True),
        ("def f(): return 2", False),
        ("def f():\n    while True: pass", False),
        ("import os\ndef f(): return len(os.environ.get('SECRET', 'x'))", True),
        ("import socket\ns = socket.socket(); s.connect(('127.0.0.1', 9)); f = lambda: 1", False),
        ("x = ' ' * (1 << 31)\ndef f(): return 1", False),
        ("import sys\nsys.exit(1)", False),
        ("import os\nos._exit(0)", False),
        ("if __name__ == '__main__': raise SystemExit(0)", False),
        ("x = '\0'\ndef f(): return 1", True),
    ],
)
def test_sandboxed_code(code, passed, monkeypatch):
    monkeypatch.setenv("SECRET", "two")
    check = load_check("python_tests", allow_code=True)
    judged = check(f"```python\n{code}\n```", "", example(tests="assert f() == 1"))
    assert (judged.outcome == "same") == passed, judged


def test_the_python_block_is_found_among_others():
    text = "```bash\npip install x\n```\nand then\n```python\ndef f(): return 1\n```\nDone."
    assert python_source(text) == "def f(): return 1"


def test_code_runs_only_where_allowed():
    with pytest.raises(UserError, match="--allow-code-execution"):
        load_check("python_tests")


@pytest.mark.parametrize("spec", ["nope", "regex:(", "no_such_module:f", "json:nope", "exact:3"])
def test_unknown_checks_are_refused(spec):
    with pytest.raises(UserError, match="check"):
        load_check(spec)


def test_a_check_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def same_length(response, reference, example):\n    return len(response) == len(reference)\n"
    )
    monkeypatch.chdir(tmp_path)
    check = load_check("mine:same_length")
    assert check("abc", "xyz", example()).outcome == "same"
    assert check("ab", "xyz", example()).outcome == "different"


def test_leaks_are_found_unless_the_data_itself_speaks_so():
    assert leak("Based on the reference answer, 4.") == "reference answer"
    assert leak("Your turn: 4") == "your turn"
    assert leak("A reference answer is a model answer.", ["What is a reference answer?"]) is None
