"""Does a text make sense at all? Damaged models loop, write tokens, or fall into pieces.

`incoherent` judges a text alone, `damaged` a rewrite beside its reference, at 100,000 ordinary texts a second.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from functools import lru_cache
from itertools import pairwise

_LABELS = re.compile(r"\b(?:user|assistant|human|system|instruction|response|input|output|bot)\b", re.I)
_TOKENS = re.compile(r"</?(?:s|unk|pad|eos|bos)>|<\|\w+\|>|\\n|(?:^[ \t]*\d+[.)][ \t]*$\n?){4,}", re.M)
_NUMBERED = re.compile(r"^([^\w\n]{0,9}[^\W\d]{0,12}\W?)\d+", re.M)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+")
_NOISE = re.compile(r"[^\w\s'’]|\d|\n")
_FORMULA = re.compile(r"[\d={}<>\\`]|\w\(|[^\x00-\x7f]")  # short names stand in code and in formulas
_STUMP = re.compile(r"(?<![\w'&./-])[b-df-hj-np-tv-xz]{1,4}(?![\w'&./-])")


def incoherent(text: str) -> bool:
    """Empty; nothing but signs, list numbers or template labels; a loop for most of its length; token soup."""
    left = text
    if len(text) < 2000:
        left = _TOKENS.sub("", text)
        left = _LABELS.sub("", left) if len(_LABELS.findall(left)) >= 3 else left
    if not any(c.isalnum() or unicodedata.category(c) == "So" for c in left):
        return True
    return _loops(text) or _loops(_NUMBERED.sub(r"\1", text), least=12) or _repeats(text) or _soup(text[-2000:])


def damaged(text: str, reference: str) -> bool:
    """A rewrite that is incoherent, runs on after its end or breaks into tokens, where its reference does not.

    A text that is asked to repeat a word fifty times is not damaged, and neither is one that is no more repetitive
    than the reference.
    """
    if not _strange(text) or not _broken(text) or _broken(reference):
        return False
    size, length = _size(reference), len(reference)
    return not (size < length / 2 and size / length < 1.2 * _size(text) / len(text))


def _loops(text: str, least: int = 1) -> bool:
    """The end is one unit over and over: most of the text, or twenty times. A unit has `least` letters or more."""
    text = " ".join(text.split())
    if len(text) < 40:
        return False
    key, at = text[-20:], len(text) - 20
    for _ in range(8):  # the unit ends where the last 20 characters were seen before, or further ahead
        at = text.rfind(key, 0, at + 19)
        if at < 0:
            return False
        size = len(text) - 20 - at
        unit, times = text[-size:], 1
        while text.endswith(unit, 0, len(text) - times * size):
            times += 1
        letters, length = sum(map(str.isalpha, unit)), times * size
        if letters < least and not (least == 1 and " " in unit):
            continue
        if letters and times >= 20 and (size > 1 or length > len(text) / 2):
            return True
        if length >= len(text) / 2 and (times >= 8 or (times >= 5 and length >= 100) or (times >= 4 and length >= 160)):
            return True
    return False


def _repeats(text: str) -> bool:
    """A long text of which half was said before, word for word."""
    if len(text) < 120 or _size(text) > len(text) / 4:
        return False
    words = [word for word in text.split() if any(map(str.isalpha, word))]
    seen: set[tuple[str, ...]] = set()
    again = [False] * len(words)
    for at in range(len(words) - 7):
        run = tuple(words[at : at + 8])
        if run in seen:
            again[at : at + 8] = [True] * 8
        seen.add(run)
    return sum(len(word) + 1 for word, said in zip(words, again, strict=True) if said) >= 0.45 * len(text)


def _soup(text: str) -> bool:
    """Few words again and again without a period; words said twice; words cut to consonants."""
    words = [w for w in _WORD.findall(text.lower()) if len(w) > 1 or w > "z"]
    if len(words) >= 100 and len(set(pairwise(words))) <= len(words) / 5:
        return True
    tokens = text.split()
    twice = [a for a, b in pairwise(tokens) if a == b and a.isalpha()]
    if len(set(twice)) >= 3 and len(twice) >= len(words) / 10:
        return True
    stumps = _STUMP.findall(text)
    if len(words) >= 10 and len(set(stumps)) >= 2 and len(stumps) >= len(words) / 12 and not _FORMULA.search(text):
        return True
    tail = words[-40:]
    if len(_NOISE.findall(text)) <= len(text) / 25:  # prose, not a table, a list or a program
        return len(tail) >= 12 and len(set(tail)) <= len(tail) * (0.2 if len(tail) < 20 else 0.3)
    return len(tail) == 40 and len(set(tail)) <= 4


# ---- Of a rewrite

_CONTROL = re.compile(
    r"<\|(?:im_(?:start|end)|endof(?:text|prompt)|(?:begin|end|start)_of_(?:text|turn|sentence)|eo[tm](?:_id)?|(?:start|end)_header_id"
    r"|user|assistant|system|end|return|pad|unk|reserved\w*)\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:pad|unk|eos|bos)>"
    r"|</s>|<｜[^｜<>]{1,30}｜>|\ufffd",
    re.I,
)
_MOJIBAKE = re.compile("[ÃÂÐÑØÙ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€")
_GARBAGE = re.compile(r"[A-Za-z0-9+/=_-]{60,}")
_CASES = re.compile(r"[a-z][A-Z]|[A-Z][a-z]")
_LONE = re.compile(r"(?<!\S)[,.;:(){}\[\]'\"`]{1,2}(?!\S)")
_ITEM = re.compile(r"^[ \t]*\d{1,4}[.)][ \t]*(.*?)[ \t]*$", re.M)
_TURNS = re.compile(r"\n(?:### )?(?:Human|User): [^\n]*\n\s*(?:### )?Assistant:")
_ODD_PAIR = re.compile(
    r"\b(?:the|an) (?:of|and|is|was|are|the|an?|or|to|with|from|for|in|that|this)\b"
    r"|\b(?:of|into|from|with|and|to) (?:of|and|is|was|are|or)\b|\b(?:is|are|was) (?:of|and|is|are|was)\b"
)
_STUTTER = re.compile(r"(?<!\S)(?=\S{0,29}\w)(\S{1,30})(?:\s+\1(?!\S)){49}")  # a word fifty times, wherever it stands
_FILLERS = "-=_.*#~|"  # of rules, tables, blanks to fill in


def _size(text: str) -> int:
    """Bytes that the text takes when compressed."""
    return len(zlib.compress(text.encode("utf-8", "replace"), 1))


def _strange(text: str) -> bool:
    """Whether a text is worth looking at: short, with signs of tokens, few words said often, or no words at all."""
    length, end = len(text), text[-20:]
    if length < 120:
        return length > 12 or "<" in text or "\ufffd" in text
    if not text.isascii() or "<" in text or "[INST]" in text or " , " in text or " ) " in text:
        return True
    if "Assistant:" in text or text.count("\n") >= 30:
        return True
    words = text.split()
    return end.upper() == end.lower() or len(set(words)) < 0.45 * len(words) or length > 8 * len(words)


def _broken(text: str) -> bool:
    return (
        (len(text) > 12 and incoherent(text))
        or _ends_in_signs(text)
        or _STUTTER.search(text) is not None
        or _counts_on(text)
        or _garbage(text)
        or _lone_signs(text)
        or _salad(text)
        or _same_items(text)
        or _runs_on(text)
        or (not text.isascii() and _mixed(text))
    )


def _ends_in_signs(text: str) -> bool:
    """One sign over and over, or nothing but white space."""
    end = text.rstrip()
    if len(text) - len(end) >= 20:
        return True
    sign = end[-1:]
    run = end[len(end.rstrip(f"{sign} \t\n")) :].count(sign) if sign else 0
    return not sign.isalnum() and run >= (200 if sign in _FILLERS else 20)


def _same_items(text: str) -> bool:
    """A numbered list that says one thing, or nothing, twenty times."""
    items = Counter(_ITEM.findall(text))
    return items.total() >= 20 and items.most_common(1)[0][1] >= items.total() / 2


def _runs_on(text: str) -> bool:
    """Control tokens written out, before other text or several; the next turns of a conversation."""
    tokens = [] if "<s>" in text else [m.span() for m in _CONTROL.finditer(text)]
    if len(tokens) >= 2 or any(text[:a].strip() and text[b:].strip() for a, b in tokens):
        return True
    return "Assistant:" in text and _TURNS.search(text) is not None


def _counts_on(text: str) -> bool:
    """The end is a row of at least fifty numbers, each as much greater than the one before."""
    tail = text[-400:]
    numbers = [int(n) for n in re.findall(r"\d{1,9}", tail)][1:-1]
    steps = {b - a for a, b in pairwise(numbers)}
    return len(numbers) >= 50 and len(steps) == 1 and 0 not in steps and not re.search(r"[^\W\d_]{2}", tail)


def _garbage(text: str) -> bool:
    """A long token such as base64 makes: digits, and letters of both cases without order."""
    return any(
        5 * len(_CASES.findall(token)) > len(token) and 20 * sum(map(str.isdigit, token)) > len(token)
        for token in _GARBAGE.findall(text)
    )


def _mixed(text: str) -> bool:
    """Words of three scripts or more in turn, scripts changing inside words, or text in the wrong encoding."""
    if 20 * len(_MOJIBAKE.findall(text)) >= max(100, len(text)):
        return True
    if len({_script(c) for c in set(text)} - {None}) < 3:
        return False
    scripts = [[_script(c) for c in word] for word in _WORD.findall(text)]
    inside = sum(a != b for word in scripts for a, b in pairwise(word) if a and b)
    words = [word[0] for word in scripts]
    changes = sum(a != b for a, b in pairwise(words))
    order = len(re.findall(r"[\n:=,;()/\"|-]", text))  # as in a list of translations
    return inside >= 3 or (len(words) >= 8 and changes >= 0.4 * len(words) and order < changes / 2)


@lru_cache(maxsize=4096)
def _script(character: str) -> str | None:
    """The script of a letter. Han and kana count as one, and Greek, which formulas have, as none."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "").partition(" ")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else None if name in ("GREEK", "MICRO", "") else name


def _salad(text: str) -> bool:
    """English words in an order that no sentence has: "the of", "of is", "to and"."""
    found = _ODD_PAIR.findall(text)
    return len(set(found)) >= 3 and len(found) >= len(text.split()) / 20


def _lone_signs(text: str) -> bool:
    """Brackets and commas that stand alone, as tokens do, and no order in them."""
    found = Counter(_LONE.findall(text))
    return (
        found.total() >= 8 and len(found) >= 3 and found.total() >= len(text.split()) / 4 and "\n" not in text.strip()
    )
