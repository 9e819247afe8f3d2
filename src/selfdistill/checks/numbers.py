"""The final number of a response: GSM8K, MultiArith, word problems.

Here the answer's place is found and values are compared; `quantities` says what a phrase is worth. The package
math-verify is not used: it compares roundings of floats and asks for signals, which only a main thread can have.
"""

from __future__ import annotations

import re

from selfdistill.checks.base import Judgement, compare
from selfdistill.checks.plain_math import plain
from selfdistill.checks.quantities import Value, Whole, show, value_of, value_of_tokens, without_asides
from selfdistill.checks.tokens import Token, tokens
from selfdistill.checks.words import DIRECT, JOINED, MONTHS, REMARKS, UNITS, is_negation
from selfdistill.core.records import Example

_MOST = 600
"""Characters of a phrase that are read. A phrase that is longer is cut at its last blank before."""
_USUAL = ("####", "answer is", "answer is:", "answer:")

_VERB = r"(?:=|:|\b(?:is|would\s+be|should\s+be|must\s+be|will\s+be|was|equals))"
_ABOUT = r"(?:\s+(?:to|for|of)\s+[^.:=\n\d]{1,60}?)?"
_MARK = re.compile(
    rf"(?:answer|ans|solution){_ABOUT}\s*{_VERB}(?!\w)(?:\s*[:=])?|answer\s*(?=\n)|answer\s+(?=isn't|cannot|can't)"
    r"|ans\s*[.:=]"
    r"|(?:antwort|réponse|respuesta|risposta|resposta|antwoord|odpowiedź|svar|ответ|cevap|jawaban|الجواب|الإجابة|उत्तर)"
    r"\s*(?:\w{1,12}\s+)?(?:ist|est|es|è|é|is|jest|är|er|adalah|هو|هي|है|это|[:=])?\s*[:=-]?"
    r"|(?:答案|答え|答|정답|답)\s*(?:应该)?(?:是|为|為|は|:|=|은|는)?\s*:?",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"\b(?:convert|express|round|write|check|verify|find|get|give)\w*\s+(?:the|our|this|that)\s+$", re.I
)
_WORDS = (
    "answer", "ans:", "ans.", "ans =", "antwort", "réponse", "respuesta", "risposta", "resposta", "antwoord",
    "odpowiedź", "svar", "ответ", "cevap", "jawaban", "الجواب", "الإجابة", "उत्तर", "答案", "答え", "答:", "정답", "답:",
)  # fmt: skip
_NUMBERLIKE = re.compile(r"\d|[²³¹⁰-⁹¼-¾⅐-⅞]")
_STARTS = re.compile(r"\s*[-+(\[{$€£¥\ue000\ue003]*\s*[-$]?\s*[.\d\ue000]")
_SENTENCE = re.compile(
    r"\n|[!?]+(?=[\s\"')]|$)|[。！？।]|(?<!\b[A-E])(?<!approx)(?<!\bca)(?<!\bRs)(?<!\bNo)(?<![AaPp]\.[Mm])"
    r"(?<!\d [AaPp])\.(?=\s|$)"
)
_BULLET = re.compile(r"(?:[-*•#>]+\s+|\s+)+")
_ITEM = re.compile(r"[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+")
_LIST = re.compile(rf"(?:{_ITEM.pattern}.*(?:\n|$)){{2,}}")
_BEFORE = re.compile(r"(?:\s|\$\$)+")
_NUMBERS = ("number", "whole", "bad")
_STRONG = "\ue005"
_BOLD = re.compile(r"\*\*([-−]?[$€£¥]?\d[^*:=\n]{0,40})\*\*(?!\s?[*:\d])")
"""A number that is set in bold in the last sentence is the answer; what else the sentence says is a remark."""
_OFFER = re.compile(
    r"\W*(?:please )?(?:let me know|feel free|would you like|i hope|if you (?:have|need|want) (?:any|more|other)\b)",
    re.I,
)
"""How chat models end: what numbers such a sentence has are no answer."""
_LINES = re.compile(r"\n\s*[-•*#>]+\s+")


def last_number(text: str) -> Value | int | None:
    r"""The value of the last \boxed or <answer>, else behind the last mark ("The answer is", "####"), else the last.

    A mark without a number is no answer, and no earlier number is taken for it.
    """
    before, _, last = text[-40:].rstrip().removesuffix(".").rpartition(" ")
    if last.isdigit() and last.isascii() and before[-10:].lower().endswith(_USUAL):  # as most are: no need to read
        return int(last)
    at, boxed = _boxed(text)
    mark, phrase = _marked(text)
    if boxed is not None and mark < at:
        return value_of(plain(boxed))
    if boxed is not None:
        later = value_of(phrase or "")
        return value_of(plain(boxed)) if later is None else later
    return value_of(phrase) if phrase is not None else _unmarked(text)


def _boxed(text: str) -> tuple[int, str | None]:
    r"""The last \boxed{...} or <answer>...</answer>, and where it begins. Boxes side by side are one answer."""
    at, found = -1, None
    end = len(text)
    for _ in range(8):  # unclosed ones are passed over, but not a million of them
        end = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if end < 0:
            break
        if (inside := _braces(text, text.find("x", end + 4) if text[end + 1] == "f" else end + 6)) is not None:
            at, found = end, inside
            break
    close = text.rfind("</answer>")
    opened = text.rfind("<answer>", 0, close) if close >= 0 else -1
    if opened > at:
        inside = text[opened + 8 : close]
        nested = _boxed(inside)[1] if "\\boxed" in inside else None
        return opened, (nested or inside)[-_MOST:] if len(inside) < _MOST else ""
    if at >= 0 and found is not None:
        before = text[max(0, at - 200) : at]
        if other := re.search(r"\\boxed\{([^{}]*)\}[$\\)\s]*(?:,|and|or)[$\\(\s]*(?:[a-z]\s*=\s*)?$", before):
            found = f"{other[1]}, {found}"
    return at, found


def _braces(text: str, at: int) -> str | None:
    """What stands in the braces that open at `at`, blanks aside."""
    piece = text[at : at + 2 * _MOST].lstrip().removeprefix("x").lstrip()
    if not piece.startswith("{"):
        return None
    depth = 0
    for i, character in enumerate(piece):
        if character in "{}" and piece[i - 1 : i] != "\\":
            depth += 1 if character == "{" else -1
            if not depth:
                return piece[1:i]
    return None


def _marked(text: str) -> tuple[int, str | None]:
    """Where the last mark is, and the phrase behind it in plain characters."""
    low = text.replace("İ", "I").lower()  # the one letter whose small form is longer
    at = len(text)
    for _ in range(40):
        at = max(text.rfind("####", 0, at), *(low.rfind(word, 0, at) for word in _WORDS))
        if at < 0:
            break
        if (phrase := _behind(text, at)) is not None:
            return at, phrase
    return -1, None


def _behind(text: str, at: int) -> str | None:
    """The phrase behind the mark that begins at `at`; None where it is no mark."""
    window = _bounded(text, at, at + _MOST)
    if window.startswith("####"):
        rest = plain(window[4:])
        line = _BULLET.sub("", rest.split("\n", 1)[0], count=1) if rest[:1] != " " else rest.split("\n", 1)[0]
        return _first(line) if _STARTS.match(line) or ("\n" not in text[at:].strip() and "nswer" not in line) else None
    if at and (text[at - 1].isalnum() and text[at - 1].isascii()):
        return None
    read = plain(window)
    mark = _MARK.match(read)
    if not mark or not mark[0]:
        return None
    rest = read[mark.end() :]
    if mark[0].rstrip().endswith(":") and _ASKED.search(text, max(0, at - 40), at):
        return None  # "convert the answer to weeks: 28 / 7 = 4"
    if not text[:at].strip(" \n*#_") and mark[0].rstrip().endswith(":") and _is_prose(rest):
        return None  # "Answer: Janet sells 16 - 7 = 9 eggs. She ...": what follows is the whole response
    return _first(rest)


def _is_prose(rest: str) -> bool:
    first = _first(rest)
    return len(first.split()) > 5 and len(rest.strip()) > len(first) + 8


def _first(rest: str) -> str:
    """The first sentence that says something."""
    begin = _BEFORE.match(rest)
    rest, on_its_line = rest[begin.end() :] if begin else rest, bool(begin and "\n" in begin[0])
    if on_its_line and (listed := _LIST.match(rest)):
        items = [_ITEM.sub("", line, count=1) for line in listed[0].splitlines()]
        if all(_STARTS.match(item) for item in items):
            return ", ".join(items)
    bullet = re.match(r"[-*•#>]+\s+", rest)
    rest = rest[bullet.end() :] if bullet and (on_its_line or not bullet[0].startswith("-")) else rest
    end = _SENTENCE.search(rest)
    return rest[: end.start()] if end else rest


def _bounded(text: str, start: int, end: int) -> str:
    """A piece that cuts no number: blank to blank."""
    piece = text[start:end]
    if end < len(text):
        blank = max(piece.rfind(" "), piece.rfind("\n"))
        piece = piece[:blank] if blank > 0 else ""
    return piece


def _unmarked(text: str) -> Value | None:
    """The value of the text's last number, with all that is one with it."""
    behind = _NUMBERLIKE.search(text[::-1])
    if not behind:
        return None
    at = len(text) - behind.start()
    start = max(0, at - _MOST)
    if start:
        blank = re.search(r"\s", text[start:at])
        if not blank:
            return None
        start += blank.end()
    piece = _bounded(text, start, at + _MOST // 4)
    piece = _BOLD.sub(rf"**\1**{_STRONG}", piece) if "**" in piece else piece
    for sentence in reversed(_sentences(_LINES.sub("\n", plain(piece)))):
        if _OFFER.match(sentence):
            continue
        found = without_asides(tokens(sentence))
        if (run := _last_run(found, _behind_bold(sentence, found))) is not None:
            return value_of_tokens(run)
    return None


def _sentences(text: str) -> list[str]:
    return _SENTENCE.split(text)


def _behind_bold(sentence: str, found: list[Token]) -> int:
    """How many of the numbers found stand behind the bold one; none where that leads on to a result."""
    before, strong, after = sentence.rpartition(_STRONG)
    if not strong or any(token.kind == "relation" for token in tokens(after)):
        return 0
    upto = without_asides(tokens(before))
    return max(0, sum(token.kind in _NUMBERS for token in found) - sum(token.kind in _NUMBERS for token in upto))


def _last_run(found: list[Token], behind: int) -> list[Token] | None:
    """The last number but those `behind` it, and what belongs to it, to both sides; None where there is none but those
    said not to be it."""
    end = len(found)
    while end:
        end -= 1
        if found[end].kind not in _NUMBERS:
            continue
        if behind:
            behind -= 1
            continue
        start = end
        while start and _belongs(found, start - 1):
            start -= 1
        words = [token.text.lower() for token in found[max(0, start - 3) : start]]
        if any(is_negation(word) for word in words) or words[-2:] in (["instead", "of"], ["rather", "than"]):
            end = start
            continue
        if words[-1:] == ["from"]:
            to = [i for i in range(start, end) if found[i].text == "to"]
            start = to[-1] + 1 if to else start
        if words[-1:] and words[-1].removeprefix("\\") in ("sqrt", "log", "ln", "sin", "cos"):
            return []
        month = max(0, start - 1) if words else start
        return found[month:]
    return None


def _belongs(found: list[Token], i: int) -> bool:
    """Whether the token at `i` is one answer with the number to its right."""
    token, before = found[i], found[i - 1] if i else None
    numeric = ("number", "whole", "bad", "close")
    word = token.text.lower()
    if token.kind in (*numeric, "open", "relation", "variable") or (token.kind == "sign" and token.text not in ",;:!"):
        return token.text != "!"
    if token.text in (",", ";"):
        return before is not None and before.kind in numeric
    if token.kind != "word" or before is None:
        return False
    if word in (*DIRECT, "r", "remainder") and before.kind in numeric:
        return True
    if word == "of" and before.text == "out" and i > 1 and found[i - 2].kind in numeric:
        return True
    if (word in UNITS or word in MONTHS) and before.kind in numeric:
        return True
    is_unit = before.kind == "word" and before.text.lower() not in REMARKS
    if word in JOINED and is_unit and i > 1 and found[i - 2].kind in numeric:
        return True
    follows = found[i + 1].text.lower() if i + 1 < len(found) else ""
    return before.kind in numeric and word not in REMARKS and follows in JOINED


def check_last_number(response: str, reference: str, example: Example) -> Judgement:
    """The final numbers are equal in value: 18, 18.0 and $18 are the same."""
    return compare(last_number(response), last_number(reference), show)


def next_of(value: Value | int) -> str:
    """A wrong answer beside `value`, as text: one more, or a whole whose first number is one more."""
    if isinstance(value, Whole):
        return re.sub(r"\d+", lambda m: str(int(m[0]) + 1), value, count=1)
    return show(value + 1)
