"""Chat templates of model families, from the installed trl package, with a tokenizer that has their special tokens.

python tests/families.py            # the table of docs/models.md
"""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path

from selfdistill.core.config import PromptSettings
from selfdistill.core.records import Example
from selfdistill.models.prompts import Prompter
from selfdistill.stages.asked import difference

FOLDER = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
FAMILIES = sorted(f.stem for f in FOLDER.glob("*.jinja") if not f.stem.endswith("_training"))
_TOKEN = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|<\|?[a-z_]+\|?>|\[gMASK\]|<(?:start|end)_of_(?:turn|utterance)>|</s>"
)
_PLAIN = (
    "<think>", "</think>", "<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<function>",
)  # fmt: skip
"""What looks like a token and is text, or an added token that is not special."""

SYSTEM, QUESTION = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}
ANSWER = {"role": "assistant", "content": "It is."}
SHAPES = ((QUESTION,), (SYSTEM, QUESTION), (QUESTION, ANSWER, QUESTION))


def tokenizer_of(family, base):
    """The tokenizer `base` with the template of a family and what looks like a special token in it."""
    made = copy.deepcopy(base)
    made.chat_template = (FOLDER / f"{family}.jinja").read_text(encoding="utf-8")
    found = dict.fromkeys(_TOKEN.findall(made.chat_template))
    made.add_tokens(list(_PLAIN[:2]))
    made.add_special_tokens({"bos_token": "<|bos|>", "eos_token": "<|eos|>"})
    made.add_special_tokens({"additional_special_tokens": [t for t in found if t not in _PLAIN]})
    return made


def prompter_of(tokenizer, thinking, date="2026-11-28"):
    return Prompter.create(tokenizer, PromptSettings(thinking=thinking, date=date))


def row_of(family, tokenizer):
    """What is known of a family's template, as a row of the table."""
    fits = {}
    for thinking in ("off", "strip", "keep"):
        prompter = prompter_of(tokenizer, thinking)
        examples = (Example(id="1", prompt=turns, reference="No.", task="") for turns in SHAPES)
        fits[thinking] = not any(difference(example, prompter) for example in examples)
    chat = prompter_of(tokenizer, "off").chat
    lacking = [thinking for thinking, fit in fits.items() if not fit]
    switch = ", ".join(f"`{name} = {str(value).lower()}`" for name, value in chat.switch.items())
    cells = [
        f"`{family}`",
        f"not with {', '.join(lacking)}" if lacking else "yes",
        "no" if not chat.form.thinks else "yes",
        switch or ("closed in the prompt" if chat.form.tail else "-"),
        "known" if chat.knows_system else "folded",
        "written" if chat.writes_date else "-",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    from selfdistill.models.seed_lm import load_model

    base = load_model("embedded").tokenizer
    for name in FAMILIES:
        print(row_of(name, tokenizer_of(name, base)))
