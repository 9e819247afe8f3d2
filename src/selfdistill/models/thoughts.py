"""What a reasoning model answers: the text behind its thoughts.

Thoughts stand before the answer, between markers that differ by family: `<think>` (Qwen, DeepSeek, GLM and most
others), `<seed:think>`, `[THINK]` (Magistral), `<|START_THINKING|>` (Command A), `<|begin_of_thought|>` (OpenThoughts),
`◁think▷` (Kimi), channels (gpt-oss, Gemma 4, Muse Glimmer), and sentences (Granite, Apriel). Many templates open the
thoughts in the prompt, so that a response may hold the closing marker alone.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence
from typing import NamedTuple

# Names that say so anywhere, and names that data in XML may have as well: these count where the text begins with them.
_NAME = r"(?:\w+:)?think(?:ing)?"
_LOOSE = re.compile(r"\s*<(thoughts?|reason(?:ing)?)>", re.I)
_MARK = re.compile(
    rf"""
    (?P<open> <{_NAME}> | \[THINK\] | ◁think▷ | <\|begin_of_thought\|> | <\|START_THINKING\|>
        | <\|channel\|>(?:analysis|thought)\b[^<]{{0,40}}(?:<\|message\|>)? | <\|channel>thought\b
        | to=self<\|message\|> | \A\s*Here(?:'s|\ is)\ my\ thought\ process: | \A\s*Here\ are\ my\ reasoning\ steps:
        | \A\s*analysis(?=[A-Z]) )
    | (?P<close> </{_NAME}> | \[/THINK\] | ◁/think▷ | <\|end_of_thought\|> | <\|END_THINKING\|> | <channel\|>
        | <\|channel\|>(?:final|commentary)\b(?!\ to=)[^<]{{0,40}}(?:<\|constrain\|>\w*)?<\|message\|>
        | to=user<\|message\|> | Here(?:'s|\ is)\ my\ response: | \[BEGIN\ FINAL\ RESPONSE\]
        | assistantfinal(?=\W|[A-Z\d]) )
    | (?P<call> (?:<\|channel\|>|assistant)commentary\ to= )  # a call is an answer, its header says what is called
    """,
    re.I | re.X,
)
_SENTENCES = ("here", "assistantfinal")  # markers that are words: they close what was opened, and nothing else
_BEGINS_WORDS = "aHh \t\r\n"  # or white space before them
_ANSWER_BEGINS = re.compile(r"\s*(?:<(?:answer|response)>|<\|begin_of_solution\|>|<\|START_RESPONSE\|>)", re.I)
_ANSWER_ENDS = re.compile(
    r"(?:\s|</(?:answer|response)>|<\|end_of_solution\|>|<\|END_RESPONSE\|>|\[END FINAL RESPONSE\]"
    r"|<\|(?:return|end|eom|eot|im_end)\|>|<turn\|>)+\Z",
    re.I,
)
_CHANNEL_ENDS = re.compile(r"(?:\s|<\|(?:end|eom|eot|start)\|>(?:assistant)?)+\Z")
PAIRS = {
    "<think>": "</think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<seed:think>": "</seed:think>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>thought": "<channel|>",
}
"""Markers of thoughts that stand around them, for where a template does not write a thought itself."""
_FENCE = re.compile(r"^```.*?^```", re.S | re.M)
# A marker that is spoken of is none: in quotation marks, in `code`, or as a word of a sentence.
_QUOTED_BEFORE = re.compile(r"(?<!\w)[rfbu]{0,2}[\"'“‘«][^\"'”’»\n]*\Z")
_QUOTED_AFTER = re.compile(r"[^\"'“‘«\n]*[\"'”’»](?!\w)")
_SPOKEN_BEFORE = re.compile(r"\b(?:tags?|tokens?|markers?|strings?|and|with|by|before|after|until|to|the|a) \Z", re.I)
_SPOKEN_AFTER = re.compile(r" [a-z]|[.,;:?)]")


MORE_ROOM = (
    'Set prompt.thinking_tokens, so that thoughts have room of their own, or prompt.thinking = "off"; behind an '
    "endpoint, what its chat template takes, as prompt.chat_template_kwargs = { enable_thinking = false }."
)
"""What helps where answers are cut off inside thoughts."""


class Parts(NamedTuple):
    """A response taken apart: `thought` is None where there is none, `answer` "" where there is none. `open`: the
    thought has no end; the response was cut off in it, or ended there."""

    thought: str | None
    answer: str
    open: bool = False


def split(text: str, opened: str = "") -> Parts:
    """Thought and answer of a response. What stands up to the last closing marker is thought. `opened` is the marker
    with which the prompt has opened a thought already."""
    if opened:
        text = opened + text
    if "<" not in text and "]" not in text and "▷" not in text and text[:1] not in _BEGINS_WORDS:
        return Parts(None, text)
    if loose := _LOOSE.match(text):
        thought, close, after = text[loose.end() :].rpartition(f"</{loose[1]}>")
        return Parts(_bare(thought), _unwrapped(after)) if close else Parts(_bare(after) or "", "", True)
    marks = list(_MARK.finditer(text))
    shown = _in_examples(text, marks)
    cut, before, thinking = 0, 0, False
    for mark in marks:
        if mark.start() in shown or _quoted(text, mark):
            continue
        if mark["open"]:
            thinking = thinking or _begins_a_line(text, mark.start())
        elif thinking or not (_spoken_of(text, mark) or mark[0].lower().startswith(_SENTENCES)):
            cut, before, thinking = mark.start() if mark["call"] else mark.end(), mark.start(), False
    if thinking:
        return Parts(_bare(text) or "", "", True)
    return Parts(_bare(text[:before]), _unwrapped(text[cut:])) if cut else Parts(None, text)


def answer_of(text: str) -> str:
    """The text without the thoughts before it; the same text where it holds none, "" where they do not end."""
    return split(text).answer


def opened_by(prompt: str) -> str:
    """The marker with which a prompt opens a thought at its very end, with the white space behind it; "" without."""
    marks = [mark for mark in _MARK.finditer(prompt[-200:]) if not mark["call"]]
    ends = marks and marks[-1]["open"] and not prompt[-200:][marks[-1].end() :].strip()
    return prompt[-200:][marks[-1].start() :] if ends else ""


def markers_only(text: str) -> bool:
    """Whether a text is nothing but an empty thought, or the beginning of one."""
    return not _MARK.sub("", text).strip()


def closed(opened: str) -> str:
    """What ends a thought, with the white space that stands around it, by what `opened` it."""
    mark = opened.strip()
    end = PAIRS.get(mark) or re.sub(r"^<", "</", mark)
    return f"\n{end}\n\n"


def joined(thought: str | None, answer: str) -> str:
    """Thought and answer as one text, as most datasets write them: `split` takes it apart again."""
    return answer if thought is None else f"<think>\n{thought}\n</think>\n\n{answer}"


def _unwrapped(answer: str) -> str:
    begin = _ANSWER_BEGINS.match(answer)
    return _ANSWER_ENDS.sub("", answer[begin.end() :] if begin else answer).strip()


def _bare(thought: str) -> str | None:
    """A thought without the marker before it, and without what channels write behind it; None where nothing is left."""
    thought = thought.lstrip()
    mark = _MARK.match(thought)
    return _CHANNEL_ENDS.sub("", thought[mark.end() if mark and mark["open"] else 0 :]).strip() or None


def _begins_a_line(text: str, at: int) -> bool:
    before = text[max(0, at - 200) : at].rpartition("\n")[2]
    return not before.strip() or before.rstrip().endswith(">")  # or stands behind another marker


def _in_examples(text: str, marks: Sequence[re.Match[str]]) -> set[int]:
    """Where markers stand in a fenced block that shows thoughts from beginning to end, as an answer about them does."""
    places = [m.start() for m in marks]
    found: set[int] = set()
    for block in _FENCE.finditer(text) if marks else ():
        inside = slice(bisect(places, block.start()), bisect(places, block.end()))
        kinds = [m.lastgroup for m in marks[inside]]
        if "open" in kinds and kinds.count("open") == kinds.count("close"):
            found.update(places[inside])
    return found


def _quoted(text: str, mark: re.Match[str]) -> bool:
    before = text[max(0, mark.start() - 200) : mark.start()].rpartition("\n")[2]
    after = text[mark.end() : mark.end() + 200].partition("\n")[0]
    if "`" in after and before.count("`") % 2:
        return True
    return bool(_QUOTED_BEFORE.search(before) and _QUOTED_AFTER.match(after))


def _spoken_of(text: str, mark: re.Match[str]) -> bool:
    before = text[max(0, mark.start() - 20) : mark.start()]
    return bool(_SPOKEN_BEFORE.search(before) and _SPOKEN_AFTER.match(text, mark.end()))
