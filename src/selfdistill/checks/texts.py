"""Checks that compare texts, and the one form in which texts are compared."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from selfdistill.checks.base import Judgement, Outcome, compare
from selfdistill.core.records import Example

# ---- One form

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛ʼ´‹›′׳", "'"),
        **dict.fromkeys("“”„‟«»″״", '"'),
        **dict.fromkeys("‐‑‒–—―−﹣", "-"),
        "…": "...",
        # soft hyphen, Arabic stretch, zero-width space and non-joiner, direction, word joiner, BOM, emoji styles
        **dict.fromkeys(
            "\u00ad\u0640\u200b\u200c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\ufe0e\ufe0f"
        ),
    }
)
_WIDTHS = re.compile("[\uff00-\uffef\ufb00-\ufb06]+")  # wide and narrow forms, ligatures
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_GROUPED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")


def same_form(text: str) -> str:
    """The text in one normal form: NFC, plain quotation marks and hyphens, digits 0 to 9, usual widths, nothing
    invisible, no white space but single blanks.

    It is not NFKC, in which `5²` is 52.
    """
    if not text.isascii():
        text = _GROUPED.sub("", unicodedata.normalize("NFC", text))
        text = _WIDTHS.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text).translate(_SIGNS)
        text = _OTHER_DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)
    return " ".join(text.split())


def _caseless(text: str) -> str:
    """In one form, and case aside. A dotted capital I is the capital of i, as Turkish has it."""
    text = same_form(text).casefold()
    return text if text.isascii() else unicodedata.normalize("NFC", text).replace("i\u0307", "i")


# ---- Checks


def check_exact(response: str, reference: str, example: Example) -> Judgement:
    """The same text in one form (`same_form`): white space, kinds of quotation marks and hyphens aside."""
    return compare(same_form(response) or None, same_form(reference) or None)


def check_contains(response: str, reference: str, example: Example) -> Judgement:
    """Every expected text occurs in the response as whole words and whole numbers, case aside.

    Expected is the list `contains` of the row, else the reference itself.
    """
    wanted = example.meta.get("contains")
    wanted = [reference] if wanted is None else [wanted] if isinstance(wanted, str) else [str(w) for w in wanted]
    wanted = [w for w in wanted if w.strip()]
    if not wanted:
        return Judgement("no_reference")
    said = _numbers_plain(_caseless(response))
    missing = [w for w in wanted if not _contains(said, _numbers_plain(_caseless(w)))]
    outcome: Outcome = "same" if not missing else "different"
    return Judgement(outcome, "; ".join(w for w in wanted if w not in missing) or None, "; ".join(wanted))


def check_regex(pattern: re.Pattern[str], response: str, reference: str, example: Example) -> Judgement:
    """The last match of the pattern says the same in both: its first group that took part, without groups the whole.

    A match that says nothing (empty, or no group took part in it) is none.
    """

    mine, theirs = _said(pattern, response), _said(pattern, reference)
    return compare(mine[-1].text if mine else None, theirs[-1].text if theirs else None)


def place_regex(pattern: re.Pattern[str], response: str, reference: str, example: Example) -> str | None:
    """The response with what the reference's last match says in the place of what its own match says. None where the
    pattern matches more than once, where the wrong answer stands in the rest of the response, too, and for a number
    that stands among others: these lead to it."""
    mine, theirs = _said(pattern, response), _said(pattern, reference)
    if len(mine) != 1 or not theirs or response != unicodedata.normalize("NFC", response):
        return None
    start, end, said = mine[0]
    rest = response[:start] + "\n" + response[end:]
    if _contains(_caseless(rest), _caseless(said)):
        return None
    if any(map(str.isdigit, said)) and any(map(str.isdigit, rest)):
        return None
    answer = unicodedata.normalize("NFC", reference)[theirs[-1].start : theirs[-1].end]
    made = response[:start] + answer + response[end:]
    same = check_regex(pattern, made, reference, example).outcome == "same"
    return made if same and said != theirs[-1].text else None


class _Said(NamedTuple):
    """What a match says, in one form, and where that stands in the text's NFC form."""

    start: int
    end: int
    text: str


def _said(pattern: re.Pattern[str], text: str) -> list[_Said]:
    """What the matches of a pattern say, without those that say nothing."""
    found = []
    for match in pattern.finditer(unicodedata.normalize("NFC", text)):
        number = next((n for n, group in enumerate(match.groups(), 1) if group is not None), None)
        if number is not None or not pattern.groups:
            said = same_form(match[number or 0])
            found += [_Said(*match.span(number or 0), said)] if said else []
    return found


# ---- Where a word or a number ends

_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
_EMPHASIS = re.compile(
    r"(?<![\d*])(\*{1,3}|~~)(?=[^\s*])(.{1,200}?)(?<=[^\s*])\1(?!\d)|(?<!\w)(_{1,3})(?=\S)(.{1,200}?)(?<=\S)\3(?!\w)"
)
# Scripts that put no blanks between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han.
_NO_BLANKS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uaa60-\uaa7f\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U000323af]"
)
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
# Before a number: the rest of a number, the base of a power.
_NUMBER_BEFORE = re.compile(
    r"(?<=\d[.,:/])|(?<=\^)|(?<=\.)(?<![^\W\d]\.)|(?<=-[$€£¥])|(?<=\d )(?=\d+/\d)"
    r"|(?<=\d')(?=\d{3}(?!\d))|(?<=\d )(?<!\d{4} )(?=\d{3}(?!\d))|(?<=\}\{)"
)
_NUMBER_AFTER = re.compile(
    r"[.,:/]\d|\^|⁄|'\d{3}(?!\d)|\}\{|\\%|[万萬亿億兆千百]| ?[¼-¾⅐-⅞]| ?[×x] ?10[\^⁰¹²³⁴-⁹]"
    r"|(?<!\d{4}) \d{3}(?!\d)| \d+/\d| ?(?:[%‰]|(?:percent|per cent|bn|dozen|hundred|thousand|[mbtr]+illion)\b)"
)
_WORD_AFTER = re.compile(r"'t\b|\+\+|[+#](?!\w)")  # "can" is not in "can't", "C" not in "C++", "C#"


def _numbers_plain(text: str) -> str:
    """1,000 as 1000, and 5 % as 5%."""
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return re.sub(r"(?<=\d) %", "%", text) if "%" in text else text


def _contains(text: str, wanted: str) -> bool:
    bare = _bare(text) if "*" in text or "_" in text or "~~" in text else text
    strong = wanted.strip("*")
    if _occurs(text, wanted) and (bare == text or not wanted.isdecimal()):  # 3 is not in **3**.5
        return True
    return (bare != text or strong != wanted) and bool(strong) and _occurs(bare, strong)


def _bare(text: str) -> str:
    """Without the marks of emphasis."""
    return _EMPHASIS.sub(lambda found: found[2] or found[4], text)


def _occurs(text: str, wanted: str) -> bool:
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if not _goes_on_before(text, at) and not _goes_on_after(text, end):
            return True
        at = text.find(wanted, at + 1)
    return False


def _goes_on_before(text: str, at: int) -> bool:
    """Whether what begins here is only the end of a word or number."""
    if at == 0:
        return False
    first, before = text[at], text[at - 1]
    if first.isdecimal() and (_NUMBER_BEFORE.match(text, at) or (before == "-" and not _hyphen(text, at - 1))):
        return True
    if first in "-." and text[at + 1 : at + 2].isdecimal():  # a sign or point of its own
        return _hyphen(text, at)
    if _HANGUL.match(first):
        return bool(_HANGUL.match(before))
    return _one_word(before, first)


def _hyphen(text: str, at: int) -> bool:
    """Whether the sign here belongs to what stands before it, as in F-16 and 5-10; else it is a minus."""
    return at > 0 and text[at - 1].isalnum() and not _NO_BLANKS.match(text[at - 1])


def _goes_on_after(text: str, end: int) -> bool:
    """Whether what ends here is only the beginning of a word or number."""
    if end == len(text):
        return False
    last, after = text[end - 1], text[end]
    if unicodedata.combining(after) or unicodedata.category(after) == "Mc":
        return True
    if last.isdecimal():
        return bool(_NUMBER_AFTER.match(text, end)) or _one_word(last, after)
    if _HANGUL.match(after):  # a particle
        return False
    return _one_word(last, after) or (last.isalpha() and bool(_WORD_AFTER.match(text, end)))


def _one_word(left: str, right: str) -> bool:
    """Whether a word can go on from one character to the next."""
    if _NO_BLANKS.match(left) or _NO_BLANKS.match(right):
        return False
    return all(c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M" for c in (left, right))
