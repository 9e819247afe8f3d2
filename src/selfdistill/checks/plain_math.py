"""A phrase with Markdown, HTML and LaTeX as plain characters: what numbers look like to `quantities`.

In:  a piece of a response, a few hundred characters (`finding` bounds it: no rule here need be linear).
Out: the same without emphasis and tags, digits 0 to 9, one minus sign, ^ for powers, × for products, √ and π for what
     has no exact value, and FRACTION, OVER, END around a fraction that LaTeX wrote.
"""

from __future__ import annotations

import re
import unicodedata

FRACTION, OVER, END, SET, SET_END = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"
THIN = "\u2009"

_CHARACTERS = {
    **dict.fromkeys("−‒﹣－", "-"),
    **dict.fromkeys("\u00a0\u202f\u2007\u2008\u2006", THIN),
    **dict.fromkeys("​\u200c\u200d\u2060\ufeff\u200e\u200f\u2066\u2067\u2068\u2069­", ""),
    **dict.fromkeys("“”„‟«»", '"'),
    **dict.fromkeys("‘’‛′", "'"),
    "″": '"', "∗": "×", "⋅": "×", "·": "×", "∙": "×", "✕": "×", "＊": "*", "⁄": "/", "∕": "/", "／": "/", "∶": ":",
    "：": ":", "，": ",", "、": ", ", "；": ";", "（": "(", "）": ")", "［": "[", "］": "]", "【": "[", "】": "]",
    "＝": "=", "＋": "+", "％": "%", "٪": "%", "＄": "$", "٫": ".", "٬": ",", "．": ".", "≃": "≈", "≅": "≈", "∼": "≈",
}  # fmt: skip
_TABLE = str.maketrans(_CHARACTERS)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_MINUS = re.compile(r"\b(?:minus|negative)\s+(?=[$€£¥]?\.?\d)", re.I)
_ARROW = re.compile(r"[-=]{1,3}>|[→⇒⟹⟶➜➔➡➞]\ufe0f?")
_PAUSE = re.compile(r"([^\W\d_]{2,}) [-–—] (?=[$€£¥]?\.?\d)")
_NO_PAUSE = ("is", "be", "was", "equals", "to", "from", "of", "by", "than", "and", "or", "at", "ist", "est", "es")
_DASH = re.compile(r"(?<![\w)\]%])[–—](?=\s?[$€£¥]?\.?\d)")  # a minus; behind a word or a number it is a dash

_SYMBOLS = {
    "times": "×", "cdot": "×", "ast": "×", "div": "÷", "pm": "±", "mp": "±", "approx": "≈", "sim": "≈", "simeq": "≈",
    "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "lt": "<", "gt": ">", "neq": "≠",
    "ne": "≠", "pi": "π", "infty": "∞", "sqrt": "√", "circ": "°", "degree": "°", "colon": ":", "lbrace": SET,
    "rbrace": SET_END, "quad": " ", "qquad": " ", "left": "", "right": "", "displaystyle": "", "big": "", "Big": "",
    "bigl": "", "bigr": "", "limits": "", "bf": "", "it": "", "rm": "", "implies": "=", "Rightarrow": "=",
    "to": " to ", "rightarrow": " to ", "cup": " or ", "text": " ", "textbf": " ", "textit": " ", "texttt": " ",
    "textrm": " ", "emph": " ", "mathrm": " ", "mathbf": " ", "mathit": " ", "mathsf": " ", "operatorname": " ",
    "mbox": " ", "hbox": " ", "underline": "", "boxed": "", "fbox": "", "bold": "", "boldsymbol": "",
    "therefore": " ", "ldots": "…", "dots": "…", "cdots": "…", "colorbox": "", "lfloor": "⌊", "rfloor": "⌋",
    "lceil": "⌈", "rceil": "⌉",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SPACES = re.compile(r"\\[,;: ]|(?<!\\)~(?!~)")
_FRAC = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_BRACED = re.compile(r"\\(?:text[a-z]*|math[a-z]*|mbox|hbox|emph|operatorname|underline|boxed|fbox)\s*\{([^{}]*)\}")
_DROPPED = re.compile(
    r"<<[^<>]*>>|~~.*?~~|<(del|s|strike)>.*?</\1>|\\x?cancel\s*\{[^{}]*\}|\\(?:begin|end)\{[A-Za-z*]*\}", re.S
)
_SUP = re.compile(r"<sup>(.*?)</sup>|\^\s*\{([^{}]*)\}", re.S)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,60}>")
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z])_(?:\{[^{}]*\}|\w)(?!\w)|<sub>.*?</sub>", re.S)
_STAR = re.compile(r"(?P<left>[\w)\]}%]?)(?P<a>[ ]?)\*(?P<b>[ ]?)(?=(?P<right>[\w(\[.$\\-]?))")
_STARRED = re.compile(r"(?m)^[ \t]*\*(?=[ \t])")
_LOW = re.compile(r"(?<!\d)_+|_+(?!\d)")
_FEET = re.compile(r"(\d)\s?'\s?(\d{1,2}(?:\.\d+)?)\s?(?:\"|'')")
_CODE = re.compile(
    r"\b(?:USD|EUR|GBP|INR|CAD|AUD|Rs\.?|RM|US|CA|AU)\s?(?=[-$€£]?\.?\d)|(?<=\d)\s?(?:USD|EUR|GBP|INR)\b"
)


def plain(text: str) -> str:
    """The text without its dress."""
    text = unicodedata.normalize("NFC", text).translate(_TABLE)
    if not text.isascii():
        text = _ascii_numbers(text)
    text = _DROPPED.sub(" ", text)
    if "\\" in text or "{" in text:
        text = _latex(text)
    text = _SUP.sub(lambda m: f"^({m[1] or m[2] or ''})", text)
    text = _SUBSCRIPT.sub("", text).replace("&nbsp;", THIN).replace("&", " ")
    text = _emphasis(_TAG.sub("", text))
    text = text.replace("...", "…")
    text = _FEET.sub(r"\1 feet \2 inches", text)
    text = text.replace("<=", "≤").replace(">=", "≥").replace("!=", "≠")
    if ">" in text or not text.isascii():
        text = _ARROW.sub(lambda m: " = " if m[0][0] in "=⇒⟹" else " → ", text)
    text = _MINUS.sub("-", _DASH.sub("-", text))
    if " - " in text or "—" in text or "–" in text:
        text = _PAUSE.sub(
            lambda m: m[0] if m[1].lower() in _NO_PAUSE else f"{m[1]} — ", text
        )  # "Answer - 18" is no -18
    return _CODE.sub(" ", text)


def _ascii_numbers(text: str) -> str:
    """Digits of any script as 0 to 9, raised ones as powers, ½ as a fraction."""
    text = _VULGAR.sub(_vulgar, _RAISED_RUN.sub(lambda m: f"^({''.join(_RAISED[c] for c in m[0])})", text))
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _vulgar(match: re.Match[str]) -> str:
    over, under = unicodedata.normalize("NFKC", match[0]).split("\u2044")
    return f"{FRACTION}{over}{OVER}{under}{END}"


def _latex(text: str) -> str:
    text = text.replace("\\\\", "\n").replace("{,}", ",").replace("{.}", ".").replace("\\!", "")
    text = text.replace("\\{", SET).replace("\\}", SET_END)
    text = _SPACES.sub(THIN, text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = re.sub(r"\\([$%&#_*])", r"\1", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", text)
    for _ in range(8):  # the innermost first
        changed = _FRAC.sub(_fraction, _BRACED.sub(r" \1", text))
        if changed == text:
            break
        text = changed
    text = _SUP.sub(lambda m: f"^({m[1] or m[2] or ''})", text)
    return _COMMAND.sub(lambda m: _SYMBOLS.get(m[1], f"\\{m[1]} "), text)


def _fraction(match: re.Match[str]) -> str:
    over, under = (match[1] or match[2] or "").strip(), (match[3] or match[4] or "").strip()
    if over.isdecimal() and under.isdecimal():
        return f"{FRACTION}{over}{OVER}{under}{END}"
    return f"(({over})/({under}))"


def _emphasis(text: str) -> str:
    """Without emphasis: 2**3 and 3*6 stay, **18**, *18* and _18_ do not."""
    powers = re.compile(r"(?<=[\d)])\*\*(?=[\d(-])")
    if (text.count("**") - len(powers.findall(text))) % 2 == 0:
        text = powers.sub("^", text)
    text = _STARRED.sub("•", text) if "* " in text else text
    text = text.replace("**", "").replace("__", "").replace("`", "")
    return _LOW.sub("", _STAR.sub(_star, text))


def _star(match: re.Match[str]) -> str:
    left, before, behind, right = match.group("left", "a", "b", "right")
    times = bool(left and right) and right != "." and before == behind
    return f"{left}{before}{'×' if times else ''}{behind}"
