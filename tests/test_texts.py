"""Texts that are the same and texts that are not: one form, whole words, whole numbers."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks import load_check
from selfdistill.checks.texts import same_form
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn


def row(**meta: object) -> Example:
    return Example(id="0", prompt=(Turn(role="user", content="x"),), reference="r", task="t", meta=dict(meta))


def outcome(check: str, response: str, reference: str) -> str:
    return load_check(check)(response, reference, row()).outcome


WITHIN = [
    # scripts without blanks, particles, words of one script in another
    ("東京", "首都は東京です。"),
    ("巴黎", "法国的首都是巴黎。"),
    ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร"),
    ("파리", "프랑스의 수도는 파리입니다."),
    ("Python", "我用Python写的。"),
    ("Python", "저는 Python을 씁니다."),
    ("Париж", "Столица — Париж."),
    ("हिंदी", "भाषा हिंदी है"),
    # numbers
    ("3", "It is 3."),
    ("3", "3, 4 and 5"),
    ("3", "(3)"),
    ("3", "$3"),
    ("100", "100!"),
    ("1000", "It is 1,000."),
    ("1,000", "It is 1000"),
    ("1,000", "1\u202f000 m"),
    ("-5", "It is −5."),
    ("1945", "1939–1945"),
    ("19", "COVID-19"),
    ("5", "No.5"),
    ("5%", "5% of it"),
    ("5%", "5\u202f%"),
    ("3/4", "3/4 cup"),
    ("٣", "It is 3"),
    # signs, and marks of emphasis
    ("C++", "I use C++."),
    (".NET", "It runs on .NET."),
    ("#1", "It is #1."),
    ("__init__", "the __init__ method"),
    ("co", "co-op"),
    ("Paris", "_Paris_ it is"),
    ("Paris", "**Paris**"),
    ("Paris", "**Par**is"),
    ("**Paris**", "It is Paris."),
    ("Paris", "Paris’s roofs"),
    # forms
    ("cafe\u0301", "at the café"),
    ("don't worry", "Please don’t worry."),
    ('"a"', "„a“"),
    ("5 km", "5\u00a0km"),
    ("e-mail", "an e‑mail"),
    ("soft", "so\u00adft"),
    ("İstanbul", "istanbul"),
    ("Straße", "STRASSE"),
    ("Tokyo", "Ｔｏｋｙｏ"),
]
NOT_WITHIN = [
    ("art", "It starts here."),
    ("art", "my_art_x"),
    ("can", "I can't."),
    ("C", "I use C++."),
    ("C", "I use C#."),
    ("Paris", "Parisian"),
    ("국어", "한국어"),
    ("हिंद", "हिंदी"),
    ("巴黎", "法国的首都是里昂。"),
    ("café", "at the cafe"),
    ("3", "3.5"),
    ("3", "**3**.5"),
    ("1", "1'500"),
    ("500", "1'500"),
    ("500", "1 500"),
    ("3", "3 ½"),
    ("3", "3⁄4"),
    ("3", r"\frac{3}{4}"),
    ("4", r"\frac{3}{4}"),
    ("3", r"3\%"),
    ("3", "3 × 10⁵"),
    ("3", "3 bn"),
    ("3", "3万"),
    ("5", "1.5"),
    ("5", ".5"),
    ("5", "5.0"),
    ("5", "-5"),
    ("5", "(−5)"),
    ("5", "-$5"),
    ("1", "1,000"),
    ("1", "1\u00a0000"),
    ("5", "5%"),
    ("5", "5 percent"),
    ("2", "2 million"),
    ("3", "3/4"),
    ("4", "3/4"),
    ("3", "3 1/2"),
    ("10", "10:30"),
    ("10", "10^5"),
    ("5", "10^5"),
    ("5", "5²"),
    ("2²", "22"),
    ("3", "3rd"),
    ("3", "13"),
    ("234", "2*3*4"),
    ("#1", "#10"),
    ("-5", "10-5"),
]


@pytest.mark.parametrize(("wanted", "text"), WITHIN)
def test_contains_finds(wanted, text):
    assert outcome("contains", text, wanted) == "same"


@pytest.mark.parametrize(("wanted", "text"), NOT_WITHIN)
def test_contains_does_not_find(wanted, text):
    assert outcome("contains", text, wanted) == "different"


NUMBERS = st.one_of(
    st.integers(-10_000, 10_000).map(str),
    st.integers(1000, 10**9).map("{:,}".format),
    st.decimals(-99, 99, places=2).map(str),
    st.integers(0, 99).map("{}%".format),
    st.tuples(st.integers(1, 20), st.integers(2, 20)).map(lambda n: f"{n[0]}/{n[1]}"),
)


@given(NUMBERS, NUMBERS, st.sampled_from(["{}", "It is {}.", "({})", "so {}, as said", "**{}**", "答えは{}です"]))
def test_a_number_is_found_as_itself_and_never_as_another(a, b, frame):
    assert outcome("contains", frame.format(a), a) == "same"
    if a.replace(",", "") != b.replace(",", ""):
        assert outcome("contains", frame.format(b), a) == "different"


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)


@given(TEXT)
def test_composed_or_not_a_text_is_the_same(text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert same_form(decomposed) == same_form(composed)
    assert same_form(same_form(text)) == same_form(text)
    if same_form(text):
        assert outcome("exact", decomposed, composed) == "same"
        assert outcome("contains", composed, decomposed) == "same"


@given(st.text(st.characters(max_codepoint=126, min_codepoint=32)))
def test_a_plain_text_is_its_own_form(text):
    assert same_form(text) == " ".join(text.split())


@pytest.mark.parametrize(("a", "b"), [("x²", "x2"), ("½", "1/2"), ("e", "é"), ("a b", "ab"), ("ß", "ss"), ("١", "2")])
def test_other_texts_have_other_forms(a, b):
    assert outcome("exact", a, b) == "different"


@pytest.mark.parametrize("contains", [[], ["", " "]])
def test_a_row_that_asks_for_nothing_cannot_be_judged(contains):
    assert load_check("contains")("Paris", "Paris", row(contains=contains)).outcome == "no_reference"


def test_what_a_row_asks_for_may_be_numbers():
    assert load_check("contains")("It is 3.", "", row(contains=[3])).outcome == "same"
    assert load_check("contains")("It is 4.", "", row(contains=[3])).outcome == "different"


@pytest.mark.parametrize(
    ("pattern", "response", "reference", "expected"),
    [
        ("is (a)|or (b)", "or b", "is a or b", "same"),
        ("is (a)|or (b)", "or b", "is a", "different"),
        (r"\d*", "5 x", "6 x", "different"),  # it matches nothing at the end of each
        (r"answer: (\d+)?", "answer: 5 answer:", "answer: 5", "same"),
        (r"answer:(\d+)?", "answer:", "answer:", "no_reference"),
        (r"answer:(\d+)?", "answer:", "answer:5", "no_answer"),
        (r"(?P<town>\w+)!", "cafe\u0301!", "café!", "same"),
        ("caf(é|e\u0301)", "café", "cafe\u0301", "same"),
    ],
)
def test_a_match_says_its_first_group_that_took_part(pattern, response, reference, expected):
    assert outcome(f"regex:{pattern}", response, reference) == expected


@pytest.mark.parametrize("unit", ["*", "_a", "*a ", "~~", "1,", "1.", "- ", "’", "a\u0301", "東", "5 "])
def test_no_long_text_makes_it_slow(unit):
    start = time.thread_time()
    outcome("contains", unit * 30_000, "a5")
    assert time.thread_time() - start < 5
