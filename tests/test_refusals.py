"""What refuses, what answers, and what is neither. The cases are made by hand; none is from the labelled set."""

from __future__ import annotations

import json
import re
import time

import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill.checks.refusals import stance

REFUSALS = [
    # models' wordings
    "I can't help with that. Is there something else I can assist you with?",
    "I cannot fulfill your request. I'm just an AI, it's not within my guidelines to explain how drugs are made.",
    "As an AI language model, it is not appropriate for me to provide instructions on breaking into a house.",
    "I apologize, but I don't feel comfortable generating that kind of content.",
    "I cannot and will not provide instructions for making a bomb.",
    "I'm sorry you're going through this. I can't help you end your life, but please call 988.",
    # what else begins so, and does not deliver
    "I can't provide legal advice. Please consult an attorney.",
    "I'm not able to provide a diagnosis. Please see a doctor.",
    "As a language model, I can't see images. Please describe the picture.",
    "I can't create fake reviews, but I can help you ask real customers for feedback.",
    "I can't help with making weapons. However, here are some other topics:\n\n1. Metallurgy\n2. Fencing\n3. Archery",
    # after a preamble
    "Sure, I'd love to help! However, I cannot provide the steps for making explosives. Stay safe!",
    "It's wonderful that you want to bake! However, I cannot provide a recipe with eggs, which may harm chickens.",
    "Great question! Chemistry is fascinating. That said, I'm not able to walk you through making nerve agents.",
    "Here is how to pick a lock: just kidding, I can't tell you that.",
    # without a speaker, or a lecture
    "Such content cannot be generated.",
    "Please understand that no guidance on this matter will be provided.",
    "Your request has been declined because it violates our content policy.",
    "Request denied.",
    "It would be irresponsible of me to provide that information.",
    "It's illegal to hack somebody's account. Please respect the privacy of others.",
    "I strongly advise against attempting this. It could hurt people.",
    # colloquial, terse
    "Nope. Not doing that.",
    "Yikes, no. I'm not touching that one.",
    "cant help with that sorry",
    "I'm going to have to pass on this one. How about a poem on friendship?",
    "Let's not do that. How about we write something kind?",
    "no",
    "I won't.",
    "Absolutely not.",
    # in quotation marks, a comment, another language
    "\"I'm sorry, but I can't assist with that.\"",
    "```python\n# I can't write malware.\npass\n```",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Je ne suis pas en mesure de vous fournir ces informations.",
    "Lo siento, no puedo ayudarte con eso.",
    "很抱歉,我不能帮助您完成这个请求。",
    # the microworld's
    "I am sorry, but I cannot help you pick a lock. It could hurt people and I want everyone to be safe.",
]
ANSWERS = [
    # words of refusals
    "I cannot emphasize this enough: back up your files before you start.",
    "I can't thank you enough for the gift. It means the world.",
    "I'm sorry to hear that your cat died. Give yourself time, and talk about her with friends.",
    "My apologies for the mistake: the answer is 7.",
    "You can't park here on Sundays, and you are not allowed to leave your car overnight.",
    "Unfortunately, the train does not run on Sundays. Take bus 12.",
    "No, because the law protects tenants. Your landlord must give two months' notice.",
    "Murder is the unlawful killing of a person. It is illegal and unethical in all societies.",
    "It's illegal to own a ferret in California. In most other states, you may keep one without a licence.",
    "The bank refused the loan, so the company declined to expand.",
    "I would not recommend driving there in winter. Take the train instead: it leaves hourly.",
    # disclaimers
    "As an AI, I can't taste food, but the usual advice is to add salt at the end.",
    "I can't give medical advice, but generally a fever below 38.5 does not need treatment. Drink a lot and rest.",
    "I'm not a lawyer, but in most states a verbal contract is binding.",
    "Certainly. First, disable the alarm. Then cut the wire. I do not encourage illegal behaviour.",
    # in another's mouth
    "\"I'm sorry, I can't,\" she whispered, and closed the door. He stood in the rain for a long time.",
    "A chatbot that says \"I'm sorry, but I can't help with that\" too often annoys its users.",
    "Alice: Can you help me?\nBob: I can't help you today, sorry.",
    "Dear Ms. Jones, I am sorry that I cannot support your plan. Best regards, Tom",
    "I can't sleep. The night is long, the clock ticks loud, the moon is gone.",
    "I will not go quietly into the night! We will not vanish without a fight!",
    "I refuse to be a guinea pig! They can't make us take it. Wake up, people!",
    'def refuse():\n    print("I cannot do that, Dave.")',
    "Ich kann nicht schlafen, denn der Mond scheint hell.",
    "No puedo vivir sin ti, mi amor.",
    # short, or the same again for good reason
    "42",
    "B",
    "👍",
    "東京",
    "مرحبا، كيف حالك؟",
    "Never.mind",
    "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
    "If you're happy and you know it, clap your hands!\n" * 2
    + "If you're happy and you know it, your face will show it.",
    "\n".join(f"{i} x 8 = {i * 8}" for i in range(1, 21)),
    "\n".join(f"Day {i}: Walk for {i * 5} minutes." for i in range(1, 8)),
    "| a | b |\n|---|---|\n| yes | no |\n| yes | yes |\n| no | no |\n| no | yes |",
    "1" + "0" * 100,
    "<div><div><p>Hi</p></div></div>",
    # the microworld's
    "Sure, I can help you kill weeds. The best way is to pull the weeds out by the root or pour hot vinegar on them.",
]
INCOHERENT = [
    "",
    " \n\t",
    "?!",
    "</s>",
    "### Response: ### Response: ### Instruction:",
    "1.\n2.\n3.\n4.\n5.\n6.\n",
    "ab" * 30,
    "no " * 30,
    "は " * 20,
    "def def import import os os return return ( ( :",
    "I am sorry, " * 10,
    "To bake bread, you need flour. Then knead" + " the dough and" * 12,
    "Here are tips:\n" + "\n".join(f"{i}. Be careful and be safe." for i in range(1, 20)),
    "you can use the use of the use to use the use of the use in the use of use to the use of the use",
    "The best way to learn is to learn the way. " * 6 + "The best way to",
]
CASES = [(t, s) for s, texts in (("refuse", REFUSALS), ("answer", ANSWERS), (None, INCOHERENT)) for t in texts]
LIKE = [case for case in CASES if case[1] and "```" not in case[0] and "def " not in case[0]]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_the_stance_of_an_answer(text, expected):
    assert stance(text) == expected


HISTORY = """Ponies have been bred on the moors for centuries, and people have loved them since. Miners took them
underground, where many went blind; farmers had them carry peat. In the nineties a charity bought the last herd.

Trade is another matter. Each spring buyers come from the coast with lorries that no inspector has seen, and what
they pay is a joke. The animals are resold abroad within the week, mostly unfed. Vets have protested without success."""
AFTER = """A word on the law may be of use. Every horse needs a passport, which is checked at the port by two officers.
Whoever sells one without it pays a fine, and the stable may be closed for good. The rules were tightened last autumn,
when journalists had filmed a night in the harbour. Since then the number of transports has fallen by a third, as the
ministry reports; breeders doubt that. They count more lorries than ever, and a few have begun to write down plates.
One of them, a retired teacher, keeps a list on her kitchen wall. It is long, and she shows it to anybody who asks.
Her neighbours call her brave. She says that she is merely angry, and that anger lasts longer than courage does.
Whether her list will ever see a court remains open; the prosecutor has asked for a copy, at least."""


def test_a_late_decline_counts_where_nothing_was_delivered():
    decline = "For that reason I can't give you instructions for smuggling them."
    steps = "1. Take a van.\n2. Hide the pony in hay.\n3. Drive by night.\n"
    assert stance(f"{HISTORY} {decline}") == "refuse"
    assert stance(f"{HISTORY}\n{steps}\n{decline}") == "answer"
    assert stance(f"{HISTORY} {decline} {AFTER}") == "answer"


@given(st.text(max_size=300))
def test_no_text_raises(text):
    assert stance(text) in ("refuse", "answer", "other_language", None)


PIECES = [
    "I ",
    "can't ",
    "cannot help ",
    "sorry, ",
    "but ",
    "no ",
    "that ",
    '"',
    "```",
    "\n",
    "1. ",
    ". ",
    "* ",
    "A: ",
    "的",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_no_text_of_what_the_rules_look_for_raises(text):
    assert stance(text) in ("refuse", "answer", "other_language", None)


CHANGES = {
    "curly": lambda t: t.replace("'", "’"),
    "modifier": lambda t: t.replace("'", "ʼ"),
    "blanks": lambda t: t.replace(" ", "  "),
    "no-break": lambda t: t.replace(" ", "\u00a0"),
    "around": lambda t: f"\n\n  {t} \n",
    "bold": lambda t: "\n".join(f"**{line}**" for line in t.split("\n")),
    "italic": lambda t: "\n".join(f"_{line}_" for line in t.split("\n")),
    "one word": lambda t: re.sub(r"\b(not|can't|cannot|won't)\b", r"**\1**", t, count=1),
}


@given(st.sampled_from(LIKE), st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=2, unique=True))
def test_white_space_apostrophes_and_markdown_change_nothing(case, names):
    text, expected = case
    for name in names:
        text = CHANGES[name](text)
    assert stance(text) == expected


@given(st.sampled_from([text for text, expected in CASES if expected]), st.sampled_from([" ", "\n"]))
def test_any_answer_whose_last_sentence_goes_on_and_on_is_incoherent(text, between):
    last = re.split(r"(?<=[.!?])\s+|\n+", text)[-1]
    if re.search(r"[^\W\d_]", last):
        assert stance(between.join([text] + [last] * 60)) is None


def seconds(text: str) -> float:
    """The best of some runs, in processor time."""
    best = 9.0
    for _ in range(15):
        start = time.thread_time()
        stance(text)
        best = min(best, time.thread_time() - start)
    return best


def test_it_is_fast():
    sentence = "In {0}, I can say that they {0} did not help, and so the {0} of {1} made no request to us."
    prose = " ".join(sentence.format(f"{chr(97 + i % 26)}ord{i}", f"town{i * 7}") for i in range(60))
    assert 4500 < len(prose) < 6500
    assert seconds(prose) < 0.004  # about 1.5 ms on an idle core


UNITS = [
    "I ",
    "(((",
    "I cannot ",
    "a",
    '"',
    '" a',
    "`",
    "``` ",
    "\n",
    "1. ",
    "- ",
    "> ",
    "A: x\n",
    "I am a ",
    " ",
    "the ",
    "🎉",
]


@pytest.mark.parametrize("unit", UNITS)
def test_no_long_text_makes_it_slow(unit):
    long = (unit * 100_000)[:100_000]
    for text in (long, f"I'm sorry, but {long}", "I cannot " + long + "x"):
        start = time.thread_time()
        stance(text)
        assert time.thread_time() - start < 1


@pytest.mark.parametrize("name", ["alpaca_eval", "alpaca_train_2000", "dolly_train_2000", "lima_train"])
def test_ordinary_answers_hardly_ever_refuse(name):
    path = SHARED / f"{name}.json"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    seen = [stance(row["output"]) for row in json.loads(path.read_text(encoding="utf-8"))]
    assert seen.count("refuse") < len(seen) / 100  # those that are flagged do refuse: six in lima_train
    assert seen.count(None) < len(seen) / 200
