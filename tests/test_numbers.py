"""`last_number`: what is read, what is no answer, and that equality is one of exact values."""

from __future__ import annotations

import json
import re
import time
from fractions import Fraction
from itertools import combinations

import pytest
from conftest import SHARED
from hypothesis import assume, given
from hypothesis import strategies as st

from selfdistill.checks.numbers import check_last_number, last_number, next_of
from selfdistill.checks.quantities import Whole, show
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn

ROW = Example(id="0", prompt=(Turn(role="user", content="x"),), reference="r", task="t")


def outcome(response: str, reference: str) -> str:
    return check_last_number(response, reference, ROW).outcome


SAME = [
    # dress
    ("42", ["42.0", "$42", "42 dollars", "**42**", r"\boxed{42}", "__42__", "`42`", "<b>42</b>", "“42”", "*42*"]),
    ("42", ["The answer is ~~24~~ 42.", "<answer>\n42\n</answer>", "**Answer:** 42", "### Final Answer\n\n**42**"]),
    ("42", ["The correct answer would be **42**", "Ans: 42", "#### **42**", "Answer:\n\n* 42", "The answer to it is 42!"]),
    ("42", ["Die Antwort lautet **42**.", "La réponse est 42.", "答案是**42**。", "答えは42です", "Ответ: 42"]),
    ("42", ["The answer is ۴۲.", "４２", "The answer is 42\u200b.", "The answer is\u00a042."]),
    # remarks
    ("42", ["The answer is 42, not 24.", "The answer is 42 (or 4200 cents).", "The answer is 42 since 6 * 7 = 42."]),
    ("42", [r"so $\boxed{42}$. (Step 7 was hard.)", "#### 42\n\nStep 7 was hard.", "Answer: 42\nOthers say 24."]),
    ("42", ["The answer is 24. No, wait. The answer is 42.", r"\boxed{24}. I was wrong: the answer is 42."]),
    ("42", ["The answer is 6 × 7 = 42.", "The answer is 42 = 6 * 7", "y = 42", r"\boxed{y = 42}", "6 * <<6*7=42>>7 = 42"]),
    ("42", ["She gets **$42** a day from selling 7 eggs at $6 each.", "It is **42** (7 eggs × $6).", "**7 × 6** = 42"]),
    ("42", ["The answer is 42 (42).", "To convert the answer to days: 48 / 2 = 24. In all:\n\n**42**"]),
    # arrows, dashes, bullets, display mathematics
    ("42", ["=> 42", "Answer -> 42", "Total ⇒ $42", "6 × 7 → 42", "Answer - 42", "Answer – **42**", "Total — $42"]),
    ("42", ["The answer is:\n- 42", "Final Answer:\n$$\n42\n$$", "the answer to this question: 42"]),
    ("42", ["**42**\n\nLet me know if you want any of the 3 steps explained!", "She has 42. Would you like 2 more examples?",
            "If you have 6 and take 7 of each you get 42."]),
    # units
    ("42", ["42 m^2", "42 m²", "42 km/h", "42kg", "$42/hour", "42 CO2", "42°", "42%", "USD 42", "42nd", r"42\text{ m}^{2}"]),
    # numbers
    ("1/2", ["0.5", "½", r"\frac{1}{2}", r"\dfrac12", "2/4", ".5", "5e-1", "1 / 2", "**1/2** cup"]),
    ("3/2", ["1 1/2", "1½", r"1\frac{1}{2}", "1.50", "1 and 1/2 cups", "The answer is 1 and a half hours"]),
    ("2.5 million", ["2500000", "2,500,000", "2.5e6", "2.5 × 10^6", r"2.5 \times 10^{6}", "25 lakh", "$2.5M", "250万"]),
    ("1234567", ["1,234,567", "12,34,567", "1'234'567", "1_234_567", "1\u202f234\u202f567", r"1{,}234{,}567", "1.234.567"]),
    ("1234567.89", ["1.234.567,89", "1,234,567.89", "1 234 567,89".replace(" ", "\u2009")]),
    ("-7", ["−7", "–7", "-$7", "$-7", "**-7**", "−$7", "Profit: – 7", "it is - 7", "negative 7", "It is minus $7.", r"-\frac{14}{2}", "(-7)"]),
    ("8", ["2^3", "2**3", "2³", r"2^{3}", "The answer is 2^3 = 8."]),
    # several numbers
    ("10:30", ["It begins at 10:30.", "**10:30**"]),
    ("5 pm", ["The answer is 5:00 PM.", "5 p.m.", "At 5 P.M. we met.", "5 p. m."]),
    ("5 feet 6 inches", ["5'6\"", "5 ft 6 in", "5 feet and 6 inches", "**5 feet 6 inches** tall"]),
    ("2 hours 30 minutes", ["2 h 30 min", "2 hours and 30 minutes"]),
    ("May 6, 2024", ["6 May 2024", "2024-05-06"]),
    ("(3, 4)", ["The point is (3,4).", r"\boxed{(3, 4)}", r"\left(3, 4\right)"]),
    (r"\{2, 1\}", [r"\boxed{\{1,2\}}"]),
    ("3:4", ["The ratio is 3 : 4."]),
    ("3-5", ["The answer is 3–5.", "between 3 and 5"]),
    ("x = 3, y = 4", [r"\boxed{x=3, y=4}"]),
    ("0.5%", ["The answer is 0.5 %."]),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "answers"), SAME)
def test_one_value_in_many_writings(reference, answers):
    for answer in answers:
        assert outcome(answer, reference) == outcome(reference, answer) == "same", answer


def test_other_values_differ():
    for (one, ones), (two, twos) in combinations(SAME, 2):
        if one != two:
            for a, b in [(one, t) for t in twos] + [(t, two) for t in ones]:
                assert outcome(a, b) != "same", (a, b)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("10:30 AM", "10:30 PM"), ("10:30 a.m.", "10:30 p.m."), ("3 a.m. or 4 a.m.", "3 a.m."), ("3:4", "4"),
        ("1 1/3", "1 1/2"), ("1 1/2", "1/2"), ("(3, 5)", "(3, 4)"),
        ("(3, 4)", "4"), ("[3, 4)", "(3, 4)"), ("The answer is 3-6.", "3-5"), ("The answer is 3-5.", "5"),
        ("5 feet 7 inches", "5 feet 6 inches"), ("2.5 billion", "2.5 million"), ("2.5 million", "2.5"),
        ("0.5%", "0.5"), ("3 × 10^6", "3e5"), ("2^3", "3"), ("2**3", "2"), ("2024-05-07", "2024-05-06"),
        ("1.2.4", "1.2.3"), ("May 6, 2024", "June 6, 2024"), ("3 or 4", "3"), ("The answer is 3 or 4.", "4"),
        ("1,00,000", "0"), ("1 234", "234"), ("0.333", "1/3"), ("2 hours 30 minutes", "2"), ("I am GPT-4", "-4"),
        ("100000000000000000000", "100000000000000000001"), ("0.10000000000000000001", "0.1"),
        ("The answer is 18 apples and 2 pears", "18 pears and 2 apples"), ("12 m²", "2"), ("H2O", "2"),
        ("The answer is:\n- 3\n- 4", "3"), ("Answer:\n* 3\n* 4", "3"), ("Answer:\n1. 3\n2. 4", "3"),
        ("2 hours **30** minutes", "30"), ("3 -> 4", "4"), ("**3** or 4", "3"), ("minus 3", "3"), ("3 out of 4", "4"), ("3 remainder 4", "4"), ("The answer is 5(5)", "5"),
        ("x = 4, y = 3", "x = 3, y = 4"), ("10:05", "10:50"), ("3 of 4", "3"), ("1/3/2024", "1/2/2024"),
    ],
)  # fmt: skip
def test_these_are_not_the_same(answer, reference):
    assert outcome(answer, reference) != "same" and outcome(reference, answer) != "same"


@pytest.mark.parametrize(
    "text",
    [
        "", "none", "The answer is unknown.", "I have 7 eggs. The answer is unknown.", "The answer is not 7.",
        "The answer isn't 7.", "There are 7. Answer: twenty", r"7 but \boxed{}", r"\boxed{\text{no solution}}", "5x", "2x+3",
        r"\boxed{2\sqrt{3}}", r"\sqrt{2}", "2π", r"\boxed{2\pi}", r"\boxed{\infty}", r"\boxed{x^5}", "3 + 2i",
        "Die Antwort ist 3,5.", "1e999999999", "9^999999999", "10^10^10", "18/0", "GPT-4", "0.333...", r"0.\overline{3}",
        r"\boxed{7!}", "The answer is x > 5", "x >= 5", r"\boxed{5 \le x \le 6}", "5 squared", "The answer is 5 thirds.", "The answer is more than 5",
    ],
)  # fmt: skip
def test_these_are_no_answer(text):
    assert last_number(text) is None
    assert outcome(text, text) == "no_reference" and outcome(text, "7") == "no_answer"


def test_what_is_shown_is_canonical():
    shown = [(check_last_number(a, "7", ROW).extracted, a) for a in ("0.50", "1/2", "1/3", "1,000.10", "-½", "3:4")]
    assert [text for text, _ in shown] == ["0.5", "0.5", "1/3", "1000.1", "-0.5", "3:4"]


def test_a_wrong_answer_is_made_of_any_value():
    for text in ("7", "1/2", "3:4", "2024-05-06", "(3, 4)", "5 feet 6 inches", "x = 3, y = 4"):
        assert outcome(f"The answer is {next_of(last_number(text))}.", text) == "different", text


values = st.one_of(
    st.integers(-(10**7), 10**7).map(Fraction),
    st.fractions(-1000, 1000, max_denominator=60),
    st.decimals(-(10**5), 10**5, places=3).map(Fraction),
)


def writings(value: Fraction) -> list[str]:
    sign, size = ("-" if value < 0 else ""), abs(value)
    over, under = size.numerator, size.denominator
    forms = [
        f"{sign}{over}/{under}",
        f"{sign}\\frac{{{over}}}{{{under}}}",
        show(value),
        f"{sign}\\dfrac{{{over}}}{{{under}}}",
    ]
    if under == 1:
        forms += [
            f"{sign}{over:,}",
            f"{sign}${over}",
            f"{sign}{over}.00",
            f"{sign}{over:,}".replace(",", "{,}"),
            f"−{over}",
        ]
        forms[-1] = f"{sign.replace('-', '−')}{over}"
    elif size > 1:
        whole, rest = divmod(over, under)
        forms += [f"{sign}{whole} {rest}/{under}", f"{sign}{whole}\\frac{{{rest}}}{{{under}}}"]
    return forms


frames = st.sampled_from(
    ["{}", "The answer is {}.", "#### {}", r"so \boxed{{{}}}", "**Answer:** {}", "I had 7 and got {} apples", "x = {}",
     "The answer is **{}**.", "<answer>{}</answer>", "The answer is {} dollars (or 3 more).", "The answer is:\n\n{}"]
)  # fmt: skip


@given(values, values, st.data())
def test_the_same_exactly_where_values_are_equal(one, two, data):
    a = data.draw(frames).format(data.draw(st.sampled_from(writings(one))))
    b = data.draw(frames).format(data.draw(st.sampled_from(writings(data.draw(st.sampled_from([one, two]))))))
    assert last_number(a) == one, a
    assert (outcome(a, b) == "same") == (last_number(b) == one)
    assert (show(last_number(a)) == show(last_number(b))) == (last_number(a) == last_number(b))


@given(st.lists(st.sampled_from([t for s in SAME for t in (s[0], *s[1])]) | st.text("0123456789.,/:-x()%^ {}$*", max_size=9),
                min_size=3, max_size=3))  # fmt: skip
def test_symmetric_and_transitive(texts):
    a, b, c = texts
    assert (outcome(a, b) == "same") == (outcome(b, a) == "same")
    assert not (outcome(a, b) == outcome(b, c) == "same") or outcome(a, c) == "same"
    for text in texts:
        value = last_number(text)
        assert value is None or (outcome(text, text) == "same" and isinstance(value, int | Fraction | Whole))


@pytest.mark.heavy
@pytest.mark.parametrize(
    "piece",
    ["1", "**", "(", "\\boxed{", ",", " ", "1,", "answer ", "answer: ", "####", "<answer>", "</answer>", "{", "[1", "~~", "<",
     "2^", "-", "\n", "\\frac{", "答案", "3 and ", "9 ", "1/", "1:", "e", "²", "*", "_", "1.", "'"],
)  # fmt: skip
def test_a_megabyte_takes_no_second(piece):
    many = piece * (10**6 // len(piece))
    for text in (many, many + " 7", "The answer is " + many, "\\boxed{" + many, "7 " + many + "7"):
        start = time.process_time()
        last_number(text)
        assert time.process_time() - start < 3  # a tenth of that on an idle machine


@given(st.text("0123456789.,/:-+x()[]%^ {}$*\\_~<>#=\n'\"½²πi", max_size=60))
def test_no_text_breaks_it(text):
    for said in (text, f"The answer is {text}", f"\\boxed{{{text}}}"):
        assert check_last_number(said, "7", ROW).extracted is None or last_number(said) is not None


def test_deep_and_large_expressions_are_no_answer():
    for text in (
        "(" * 290 + "7" + ")" * 290,
        "-" * 500 + "7",
        "+".join(f"1/{3**i}" for i in range(30)),
        "2^-4000 + 3^-2500",
    ):
        check_last_number(f"The answer is {text}", "7", ROW)


WORDINGS = [
    "The answer is {}.", "#### {}", "**{}**", r"$\boxed{{{}}}$. I hope it is correct.", "The answer is **${}**.",
    "The final answer is: {}", "So she has {} of them left.\n\n**Answer:** {}", "Step 1: 3 + 4 = 7. So the total is {}.",
    "The answer is {}, because 7 were left.", "The answer is {} dollars (see step 3).", "### Answer\n\n{} apples", "x = {}",
    "Therefore, the answer should be {}!", "<answer>{}</answer>",
]  # fmt: skip


@pytest.mark.heavy
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real datasets in ../shared/data")
def test_gsm8k_golds_in_many_wordings():
    rows = [json.loads(line) for line in (SHARED / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()]
    golds = [re.search(r"####.*", row["answer"])[0] for row in rows]
    assert len(golds) == 1319
    for gold in set(golds):
        number = int(gold[4:].strip().replace(",", ""))
        assert last_number(gold) == number
        for wording in WORDINGS:
            for said in (f"{number}", f"{number:,}"):
                assert outcome(wording.replace("{}", said).replace("{{", "{").replace("}}", "}"), gold) == "same", (
                    wording
                )
            for wrong in (number + 1, -number or 1, number * 10 or 10):
                said = wording.replace("{}", str(wrong)).replace("{{", "{").replace("}}", "}")
                assert outcome(said, gold) == "different", said


@given(values, st.data())
def test_agrees_with_math_verify(value, data):
    """The field's parser as an oracle: exact where both read LaTeX."""
    verify = pytest.importorskip("math_verify", reason="needs math-verify")
    assume(abs(value) < 10**6)
    text = f"\\boxed{{{data.draw(st.sampled_from(writings(value)))}}}"
    assume(" " not in text)  # it reads 1 1/1000 as 1/500
    theirs = verify.parse(text, parsing_timeout=None)
    if theirs and getattr(theirs[0], "is_Rational", False):
        assert Fraction(int(theirs[0].p), int(theirs[0].q)) == last_number(text) == value
