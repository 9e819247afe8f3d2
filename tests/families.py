"""Chat templates of model families, from the installed trl package, with a tokenizer that has their special tokens."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path

FOLDER = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
FAMILIES = sorted(f.stem for f in FOLDER.glob("*.jinja") if not f.stem.endswith("_training"))
TOKEN = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|<\|?[a-z_]+\|?>|\[gMASK\]|<(?:start|end)_of_(?:turn|utterance)>|</s>"
)
PLAIN = (
    "<think>",
    "</think>",
    "<tools>",
    "</tools>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<function>",
)
"""What looks like a token and is text, or an added token that is not special."""


def tokenizer_of(family, base):
    """The tokenizer `base` with the template of a family and what looks like a special token in it."""
    made = copy.deepcopy(base)
    made.chat_template = (FOLDER / f"{family}.jinja").read_text(encoding="utf-8")
    found = dict.fromkeys(TOKEN.findall(made.chat_template))
    made.add_tokens(list(PLAIN[:2]))
    made.add_special_tokens({"bos_token": "<|bos|>", "eos_token": "<|eos|>"})
    made.add_special_tokens({"additional_special_tokens": [t for t in found if t not in PLAIN]})
    return made
