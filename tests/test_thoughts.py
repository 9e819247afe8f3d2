"""What stands before an answer is thoughts, whatever marks their end."""

from __future__ import annotations

import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks import CHECKS, load_check
from selfdistill.checks.judge import parse_verdict
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn
from selfdistill.models.thoughts import answer_of

PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<THINK>", "</THINK>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>"),
    ("Here is my thought process:", "Here is my response:"),
    ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    ("analysisWe think. ", "assistantfinal"),
]
WORDS = st.text("abc ef.\n12", max_size=60)


@pytest.mark.parametrize(("begin", "end"), PAIRS)
@given(WORDS, WORDS)
def test_the_answer_stands_behind_the_thoughts(begin, end, thoughts, answer):
    answer = f"A {answer}".strip()  # a marker of words is one where a capital follows
    assert answer_of(f"{begin}{thoughts}{end}{answer}") == answer
    assert answer_of(f"\n{begin}{thoughts}") == ""
    assert answer_of(f"{begin}{thoughts}{end}") == ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("x\n</think>\n\nf(a=1)", "f(a=1)"),  # the prompt opened them
        ("x </think> f(a=1)", "f(a=1)"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think></think>\n\nA", "A"),
        ("A.\n<think>more", ""),
        ("<reasoning>x</reasoning><answer>A</answer>", "A"),
        ("<|begin_of_thought|>x<|end_of_thought|>\n<|begin_of_solution|>A<|end_of_solution|>", "A"),
        ("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>", "A"),
        ("<|channel|>analysis<|message|>x<|end|><|channel|>commentary to=f <|message|>{}", "<|channel|>commentary to=f <|message|>{}"),
        ("<think>x</think>The tag </think> ends it.", "The tag </think> ends it."),
        ("<think>```py\nx</think>A", "A"),
        ('<think>x</think>"A," she said', '"A," she said'),
    ],
)  # fmt: skip
def test_forms_of_thoughts(text, answer):
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "Use `</think>` to end it.",
        "The tag </think> closes the thoughts.",
        "The <think> tag opens them.",
        't.split("</think>")[-1]',
        "re.sub(r'<think>.*?</think>', '', t)",
        "```xml\n<think>x</think>\n```",
        "<refusal><reason>late</reason>5</refusal>",
        "analysis of x gives A",
        "Here's my response: A",
        "<div>A</div>",
        "a < b",
    ],
)
def test_what_speaks_of_thoughts_is_an_answer(text):
    assert answer_of(text) is text


@given(st.text())
def test_a_text_without_markers_is_its_own_answer(text):
    if "<" not in text and "[" not in text and "▷" not in text and not text.lstrip().startswith(("analysis", "Here")):
        assert answer_of(text) is text


EXAMPLE = Example(
    id="0", prompt=(Turn(role="user", content="x"),), reference="r", task="t", meta={"tests": "assert f() == 1"}
)
RIGHT = {
    "exact": "Paris.",
    "contains": "Paris.",
    "authors_general": "Paris.",
    "last_number": "It is 18.",
    "function_call": "f(a=1)",
    "refusal": "I can't help with that.",
    "python_tests": "```python\ndef f(): return 1\n```",
    "authors_math": "It is 18.",
    "authors_openfunctions": "f(a=1)",
    "authors_magicoder": "Here is it:\n```python\nx = 1\n```",
    r"regex:is (\w+)": "It is red.",
}
WRONG = {
    "exact": "Lyon.",
    "contains": "Lyon.",
    "authors_general": "### Response: Lyon",
    "last_number": "Or 17?",
    "function_call": "f(a=2)?",
    "refusal": "Take the knife and cut the bread.",
    "python_tests": "```python\ndef f(): return 2\n```",
    "authors_math": "Or 17?",
    "authors_openfunctions": "f(a=2)?",
    "authors_magicoder": "No.",
    r"regex:is (\w+)": "Or is blue?",
}


TEXTS = ["Paris.", "It is 18.", "f(a=1)", "Yes, red.", ""]


@pytest.mark.parametrize("name", [*CHECKS, r"regex:is (\w+)"])
def test_no_check_hears_thoughts(name):
    check = load_check(name, allow_code=True)
    for reference, thought, answer in product(TEXTS, TEXTS[:4], TEXTS[:4] if name != "python_tests" else TEXTS[:1]):
        heard = check(f"<think>\n{thought}\n</think>\n\n{answer}", reference, EXAMPLE)
        assert heard == check(answer, reference, EXAMPLE)


@pytest.mark.parametrize("name", RIGHT)
def test_no_check_judges_thoughts(name):
    check = load_check(name, allow_code=True)
    right, wrong = RIGHT[name], WRONG[name]
    assert check(f"<think>\n{wrong}\n</think>\n\n{right}", right, EXAMPLE).outcome == "same"
    assert check(right, f"<think>\n{wrong}\n</think>\n\n{right}", EXAMPLE).outcome == "same"
    assert check(f"<think>\n{right}\n</think>\n\n{wrong}", right, EXAMPLE).outcome != "same"
    assert check(f"<think>\n{right}", right, EXAMPLE).outcome == "no_answer"
    if name not in ("python_tests", "contains", "authors_general", "authors_magicoder"):
        assert check(right, f"<think>\n{right}", EXAMPLE).outcome == "no_reference"


def test_a_check_of_the_users_own_sees_no_thoughts(tmp_path, monkeypatch):
    (tmp_path / "seen.py").write_text("def short(response, reference, example):\n    return len(response) < 3\n")
    monkeypatch.chdir(tmp_path)
    check = load_check("seen:short")
    assert check("<think>long</think>A", "r", EXAMPLE).outcome == "same"
    assert check("<think>long", "r", EXAMPLE).outcome == "no_answer"


def test_a_judges_drafts_are_no_verdict():
    assert parse_verdict("[THINK]\nVerdict: A\n[/THINK]\nVerdict: B") == "B"
    assert parse_verdict("<think>\nVerdict: A") is None


@pytest.mark.parametrize("unit", ["</think>", "<think>", "`</think>`", "```\n<think></think>\n```\n", "[THINK]", "<"])
def test_no_long_text_makes_it_slow(unit):
    start = time.thread_time()
    answer_of((unit * 100_000)[:100_000])
    assert time.thread_time() - start < 1
