"""The paper's texts (Figures 3 and 10 to 13), byte for byte, and the user's own.

In:  a name, or a text file. Out: a `Template`: what is shown for distilling, for training and for evaluating.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from selfdistill.core.errors import UserError


@dataclass(frozen=True)
class Template:
    """One way to ask for a rewrite, and the prompts that go with it.

    `intro` + `turn` is the text shown for distilling, `train` and `evaluate` are (intro, turn) pairs without a
    reference. `heading` closes a turn where no chat template does. `prefill` opens the assistant's turn and is no part
    of the rewrite. `in_chat` says that the `paper` format, too, puts this text into the model's chat template, as the
    authors did for GSM8K.
    """

    name: str
    intro: str
    turn: str
    train: tuple[str, str]
    evaluate: tuple[str, str]
    heading: str = ""
    prefill: str = ""
    in_chat: bool = False


_ALPACA = (
    "Below are an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\n{instruction}",
)  # Figure 10
_DISTILL_TURN = "### Instruction:\n{instruction}\n\n### Reference Answer:\n{reference}"
_RESPONSE = "\n\n### Response:\n"

USING = Template(
    "using",  # Figure 3
    "Below are an instruction that describes a task along with a reference answer. "
    "Using the reference answer as a guide, write your own response.",
    _DISTILL_TURN,
    train=_ALPACA,
    evaluate=_ALPACA,
    heading=_RESPONSE,
)
REFER = Template(
    "refer",
    "Below are an instruction that describes a task along with a reference answer. "
    "Refer to the reference answer and write your own response.",
    _DISTILL_TURN,
    train=_ALPACA,
    evaluate=_ALPACA,
    heading=_RESPONSE,
)
MATH = Template(
    "math",  # Figure 12; training is Figure 11, evaluation Figure 13
    "You are an expert in math. Below are a math question and its reference answer. "
    "Refer to the reference answer and write a response that appropriately answers the question.",
    "{instruction}\n\n{reference}",
    train=(
        "You are an expert in math. Below is a math question. "
        "Write a response that appropriately answers the question.",
        "{instruction}",
    ),
    evaluate=(
        "You are an expert in math. Below is a math question. "
        "Write a response that appropriately answers the question. Your final answer should be an integer at the end "
        "of your response, formatted as: The answer is {answer}.",
        "{instruction}",
    ),
    heading="\n\n",
    prefill="Great! Let's think step by step. ",
    in_chat=True,
)

RETRY = (
    "The answer in this response is not the one in the reference answer. The answer must be: {answer}\n"
    "Write your own response again so that it comes to this answer."
)
"""What is said to the seed LM after a rewrite with another answer than the reference's."""

TEMPLATES = {"using": USING, "refer": REFER, "math": MATH}


def load_template(name: str) -> Template:
    """A template by name, or the user's own from a text file that holds {instruction} and {reference}.

    Raises UserError for an unknown name, a missing file or a missing placeholder.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"prompt.template: {name!r} is neither a template ({', '.join(TEMPLATES)}) nor a file. "
            "Name one of them, or a text file with {instruction} and {reference}."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text. Convert the template to UTF-8.") from None
    for placeholder in ("{instruction}", "{reference}"):
        if placeholder not in text:
            raise UserError(f"{path}: the template has no {placeholder}. Put it where the text belongs.")
    return Template(path.stem, "", text.rstrip("\n"), train=_ALPACA, evaluate=_ALPACA, heading=_RESPONSE)


def fill(text: str, **values: str) -> str:
    """Put values into {instruction}, {reference} and {answer} in one pass: braces inside a value are left alone."""
    return re.sub(r"\{(instruction|reference|answer)\}", lambda m: values.get(m[1], m[0]), text)
