"""Tokenizers and a model that know tools, for tests: the embedded one with a chat template of TRL's."""

from __future__ import annotations

import re
from pathlib import Path

import trl
from transformers import AutoTokenizer

from selfdistill.models import resolve

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
_MARK = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|<[a-z_]+_of_turn>|<turn\|>|<\|turn>|<\|tool[a-z_]*>|<tool[a-z_]*\|>|</?s>"
    r"|<[be]os>|\[/?[A-Z_]{3,}\]"
)

MISTRAL = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{%- set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{%- for m in messages %}{%- if m['role'] == 'user' %}{%- if tools and loop.index0 == ns.last %}"
    "[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST]{{ m['content'] }}[/INST]"
    "{%- elif m['tool_calls'] is defined %}[TOOL_CALLS][{% for c in m['tool_calls'] %}"
    "{%- if c['id'] | length != 9 %}{{ raise_exception('Tool call IDs should be 9 letters') }}{% endif %}"
    "{\"name\": \"{{ c['function']['name'] }}\", \"arguments\": {{ c['function']['arguments'] | tojson }}, "
    '"id": "{{ c[\'id\'] }}"}{% if not loop.last %}, {% endif %}{% endfor %}]</s>'
    "{%- elif m['role'] == 'tool' %}[TOOL_RESULTS]{\"content\": {{ m['content'] | tojson }}, "
    '"call_id": "{{ m[\'tool_call_id\'] }}"}[/TOOL_RESULTS]'
    "{%- elif m['role'] == 'assistant' %}{{ m['content'] }}</s>{% endif %}{%- endfor %}"
)
"""The form of Mistral's templates before v11, with their check of ids."""


def template(name: str) -> str:
    """The text of one of TRL's templates."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def tokenizer_with(text: str):
    """The embedded tokenizer with this chat template, which knows the template's marks as special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(resolve("embedded"))
    tokenizer.chat_template = text
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(_MARK.findall(text)))})
    tokenizer.bos_token = tokenizer.bos_token or "<s>"
    return tokenizer


EMBEDDED = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{%- set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{%- for m in messages %}{%- if m['role'] == 'tool' %}<|user|>The function returned: {{ m['content'] }}"
    "{%- else %}<|{{ m['role'] }}|>{{ m['content'] }}{% endif %}"
    "{%- if tools and loop.index0 == ns.last %}{% for t in tools %}{{ '\nFunction: ' + t['function']['name'] }}("
    "{{ t['function']['parameters']['properties'] | join(', ') }}){% endfor %}{% endif %}"
    "{%- for c in m['tool_calls'] or [] %}{% if m['content'] %} {% endif %}I would use the function like this: "
    "`{{ c['function']['name'] }}({%- for k, v in c['function']['arguments'].items() %}{{ k }}={{ v | tojson }}"
    "{%- if not loop.last %}, {% endif %}{%- endfor %})`. This call should do what you asked for.{% endfor %}<|end|>"
    "{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A template of the embedded model that shows tools in the words that it knows from its world."""


def tool_model(folder):
    """The embedded model with that template, as a folder."""
    import shutil

    shutil.copytree(resolve("embedded"), folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = EMBEDDED
    tokenizer.save_pretrained(folder)
    return str(folder)
