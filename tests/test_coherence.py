"""Which rewrites are damaged, and which only look so. All examples are made by hand."""

from __future__ import annotations

import base64
import json
import random
import re
import time

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks.coherence import damaged
from selfdistill.checks.leaks import leak

ANIMALS = re.findall(r"\w+", "ant bee cat dog eel fox gnu hen ibex jay kite lion mole newt owl pig quail rat seal toad")
BYTES = random.Random(1).randbytes(300)
DAMAGED = {
    "the call again and again": "f(a=1)\n" * 30,
    "brackets": "f(a=1" + ")" * 60,
    "a number before the answer": "18 " * 60 + "The answer is 18.",
    "lines": "f(a=1)" + "\n" * 40,
    "fences": "```\nf(a=1)\n```\nNote: it is right and good to go.\n" + "```\n" * 60,
    "exclamation marks": "Great" + "!" * 50,
    "one word": "The answer is the the the the the the the the the the the the",
    "a sentence": "Take flour. " + "I hope this helps. " * 12,
    "a paragraph": "We see that the sum of the two is ten and so the answer must be ten. Let us check it again now. "
    * 9,
    "in the middle": "The answer is " + "very " * 60 + "good. I hope that this is of help to you and to your friends.",
    "items": "\n".join(f"{i}. Be careful with it." for i in range(1, 200)),
    "one item": "\n".join(f"{i}. Paris" for i in range(1, 200)),
    "empty items": "Sure:\n" + "\n".join(f"{i}." for i in range(1, 100)),
    "numbers": ", ".join(map(str, range(1, 300))),
    "numbers without commas": " ".join(map(str, range(1, 400))),
    "wrong encoding": "Ã©tÃ© Ã  la plage, câ€™est trÃ¨s bien, dÃ©jÃ  vu, Ã©lÃ¨ve Ã  lâ€™Ã©cole",
    "no characters": "The \ufffd\ufffd is \ufffd.",
    "turns": "Paris.<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>",
    "next text": "Paris.<|endoftext|>The following is a",
    "a conversation": "Paris.\n\nHuman: What is the capital of Spain?\n\nAssistant: Madrid.",
    "other turns": "Paris [/INST] Good [INST] next",
    "ends": "Paris</s></s></s>",
    "unknown tokens": "<unk><unk> the <unk> of <unk>",
    "scripts": "функция the 的 และ dolor المدينة привет qué 日本 है the",
    "base64": f"The answer is 5. {base64.b64encode(BYTES).decode()}",
    "signs": "( ) the , . import ; of ) } : and ( return , the ; ) . if",
    "salad": "warm the of Tuesday and is scalar into whom the and fridge of or to and an is value",
    "words twice": "def def import import os os return return ( ( :",
}
SOUND = {
    "code": "def f(x):\n    for i in range(10):\n        if x == i:\n            return i\n    return None\n",
    "code in blocks": "```python\ndef helper(x):\n    return x\n```\nand\n```python\ndef add(a, b):\n    return helper(a) + b\n```",
    "lisp": "(defun f (x) (if (> x 1) (* x (f (- x 1))) 1))",
    "sql": "SELECT a , b , c FROM t WHERE ( x = 1 ) AND ( y = 2 ) ;",
    "html": "<ul><li>a</li><li>b</li></ul>",
    "struck out": "<s>old</s> new <s>x</s> y",
    "json": json.dumps([{"id": i, "name": name, "ok": True} for i, name in enumerate(ANIMALS)], indent=1),
    "csv": "id,name,ok\n" + "\n".join(f"{i},{name},yes" for i, name in enumerate(ANIMALS)),
    "table": "| a | b |\n|---|---|\n" + "\n".join(f"| {name} | {i * 3} |" for i, name in enumerate(ANIMALS)),
    "list": "\n".join(f"{i}. {name.title()} is item number {i} of them" for i, name in enumerate(ANIMALS)),
    "long list": "\n".join(f"{i}. {a} and {b}" for i, (a, b) in enumerate((a, b) for a in ANIMALS for b in ANIMALS)),
    "multiplication": "\n".join(f"{i} x 8 = {i * 8}" for i in range(1, 21)),
    "primes": ", ".join(str(p) for p in range(2, 300) if all(p % d for d in range(2, p))),
    "sums": "2 + 3 = 5, 5 * 4 = 20, 20 - 3 = 17, so x = 17 and y = 4.",
    "formula": "Let α and β be angles; then sin²α + cos²α = 1 and π ≈ 3.14.",
    "googol": "1" + "0" * 100,
    "digest": "The digest is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "address": "See https://example.com/abc/def?x=1&y=2#frag for more on this and that.",
    "refrain": "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\nLife is a dream.\n"
    * 2,
    "blank to fill in": "Name: " + "_" * 60,
    "rule": "Title\n" + "-" * 120,
    "board": "r n b q k b n r\np p p p p p p p\n. . . . . . . .\nP P P P P P P P\nR N B Q K B N R",
    "drawing": "  /\\_/\\\n ( o.o )\n  > ^ <\n",
    "laughter": "Hahahahahahaha, that is funny!!!",
    "tokenized": "The cat , which sat on the mat , was black .",
    "tool call": "<|tool_call_start|>[f(a=1)]<|tool_call_end|>",
    "Japanese": "東京は日本の首都であり、世界最大の都市の一つです。人口は約千四百万人で、政治と経済の中心地です。",
    "Japanese with names": "私はPythonとJavaScriptを使ってWebアプリを開発しています。APIはRESTです。",
    "Russian with names": "Столица Франции — Париж, а API называется REST. Это хорошо известно всем людям.",
    "Thai": "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย",
    "translations": "Hello: English\nПривет: Russian\nこんにちは: Japanese\nمرحبا: Arabic\n안녕: Korean",
    "FAQ": "Q: May I?\nA: Yes.\n\nQ: Must I?\nA: No.\n",
    "an end token": "Paris.<|im_end|>",
    "a letter": "B",
    "a sign": "+",
    "an emoji": "👍",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_rewrites_are_found_but_where_the_reference_is_so_itself(name):
    text = DAMAGED[name]
    assert damaged(text, "f(a=1)")
    assert not damaged(text, text)


@pytest.mark.parametrize("name", SOUND)
def test_sound_rewrites_are_left_alone(name):
    assert not damaged(SOUND[name], "f(a=1)")


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_text_is_worse_than_itself_and_none_breaks_the_rule(text, other):
    assert not damaged(text, text)
    damaged(text, other)


@given(st.sampled_from(sorted(SOUND.values())), st.sampled_from([". I hope this helps", "\nEnd of task", " ok"]))
def test_any_rewrite_that_goes_on_and_on_is_damaged(text, unit):
    assert damaged(text + unit * (40 + 2 * len(text) // len(unit)), "f(a=1)")


@pytest.mark.parametrize("unit", ["a", "a b ", "<", "</s>", "é ", ")", ") , ", "1 ", "aB1", "Ã©", "的a "])
def test_no_long_text_makes_it_slow(unit):
    text = (unit * 100_000)[:100_000]
    for answer in (text, f"{text}x", f"A fair answer of some words. {text}"):
        start = time.thread_time()
        damaged(answer, "f(a=1)")
        assert time.thread_time() - start < 5


def test_ordinary_texts_take_little_time():
    text = (
        "Ponies have been bred on the moors for centuries, and people have loved them since. Miners took them "
        "underground, where many went blind; farmers had them carry peat. In the nineties a charity bought the last "
        "herd. Each spring buyers come from the coast with lorries that no inspector has seen, and pay next to nothing."
    )
    best = 9.0
    for _ in range(20):
        start = time.thread_time()
        for _ in range(100):
            damaged(text, "x")
        best = min(best, (time.thread_time() - start) / 100)
    assert best < 100e-6  # about 4 on a fast idle core, hundreds where every rule is tried


@pytest.mark.parametrize("name", ["alpaca_eval", "alpaca_train_2000", "dolly_train_2000", "lima_train"])
def test_real_references_are_sound_and_speak_of_no_template(name):
    path = SHARED / f"{name}.json"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    texts = [row["output"] for row in json.loads(path.read_text(encoding="utf-8"))]
    assert sum(damaged(text, "x") for text in texts) <= 2  # dots to fill in, two drawings made of letters and signs
    assert not any(map(leak, texts))


LEAKS = [
    "Based on the reference answer, 4.",
    "Based on the reference answer, my response is: Paris.",
    "Using the reference answer as a guide, 4.",
    "According to the provided reference, 4.",
    "As the reference says, 4.",
    "Your turn: 4",
    "Now it’s your turn!",
    "Here is my response: x",
    "Sure! Here's my own response:\n4",
    "I will write my own response.",
    "**Your response:** 4",
    "### Response:\n4",
    "### Instruction:\nName a town.",
]
NO_LEAKS = [
    "I look forward to your response.",
    "Thank you for your response to our survey.",
    "Interviewer: Thank you for your response. What came next?",
    "I hope I did not miss anything in my response. Let me know if the ticket can be closed.",
    "How would you rate our response time?",
    "Your response has been recorded.",
    "Let your humor guide your response.",
    "The immune response is fast.",
    "It serves as a reference for students.",
    "Assign it to the reference, then return.",
    "In reference to your letter of May",
    "It is your turn to play.",
    "### Solution 1: add salt",
]


@pytest.mark.parametrize("text", LEAKS)
def test_what_speaks_of_the_template_leaks(text):
    assert leak(text)
    assert leak(text, [text]) is None  # the data itself speaks so


@pytest.mark.parametrize("text", NO_LEAKS)
def test_letters_surveys_and_lessons_do_not(text):
    assert leak(text) is None
