"""Answers: what a response says, and whether that is what the reference says (Extract of Equation 4).

In:  a response, a reference, and the example they belong to.
Out: a `Judgement`: what was extracted from each, and the outcome.

A missing answer never equals anything, not even another missing answer. Adding a check is one function here and one
line in CHECKS.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Literal

from selfdistill.errors import UserError
from selfdistill.records import Example

Outcome = Literal["same", "different", "no_answer", "no_reference"]


@dataclass(frozen=True)
class Judgement:
    """`extracted` and `expected` are what was compared, as text; None where nothing was found."""

    outcome: Outcome
    extracted: str | None = None
    expected: str | None = None
    note: str | None = None


Check = Callable[[str, str, Example], Judgement]
"""(response, reference, example) -> Judgement."""


def _compare(extracted: Any, expected: Any, show: Callable[[Any], str] = str) -> Judgement:
    """Equality where both sides have an answer."""
    seen, wanted = (None if x is None else show(x) for x in (extracted, expected))
    if expected is None:
        return Judgement("no_reference", seen, wanted)
    if extracted is None:
        return Judgement("no_answer", seen, wanted)
    return Judgement("same" if extracted == expected else "different", seen, wanted)


# --- numbers -----------------------------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"(?P<sign>[-−])?[$€£]?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?P<decimals>\.\d+)?(?P<power>[eE][-+]?\d{1,3}\b)?"
    r"(?:/(?P<under>\d+)\b(?!/))?"
)
_MARK = re.compile(r"####(?=\s*[-−$€£]?\.?\d)|answer\s+is|answer\s*[:=]", re.IGNORECASE)


def last_number(text: str) -> Decimal | None:
    """The number after the last "The answer is" or "####", else the last number of the text.

    Thousands separators, decimals, signs, currency signs, fractions, exponents and units are understood: "$1,234.50",
    "-3 degrees", "1/2", "12 cm^2", "18.".
    """
    marks = list(_MARK.finditer(text))
    if marks:
        sentence = re.split(r"\n|\.(?=\s|$)", text[marks[-1].end() :], maxsplit=1)[0]
        after = _numbers(sentence)
        if after:  # "The answer is 3 + 4 = 7": an equation's result stands behind its sign
            return after[-1] if "=" in sentence else after[0]
    found = _numbers(text)
    return found[-1] if found else None


def _numbers(text: str) -> list[Decimal]:
    """All numbers. A sign counts only where nothing is glued to its left: "16-3" is a subtraction, "x-3" a name."""
    numbers = []
    for match in _NUMBER.finditer(text):
        before = text[match.start() - 1 : match.start()]
        if before == "^" or text[max(0, match.start() - 2) : match.start()] == "**":
            continue  # the exponent of a unit or a formula
        value = Decimal((match["digits"].replace(",", "") or "0") + (match["decimals"] or "") + (match["power"] or ""))
        if match["under"] and int(match["under"]):
            value /= int(match["under"])
        glued = before.isalnum() or before in (")", "]", "%")
        numbers.append(-value if match["sign"] and not (before and glued) else value)
    return numbers


def check_last_number(response: str, reference: str, example: Example) -> Judgement:
    """The final numbers are equal in value: 18, 18.0 and $18 are the same."""
    return _compare(last_number(response), last_number(reference), lambda d: format(d.normalize(), "f"))


# --- text --------------------------------------------------------------------------------------------------------


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def check_exact(response: str, reference: str, example: Example) -> Judgement:
    """The same text, white space aside."""
    return _compare(_squeeze(response) or None, _squeeze(reference) or None)


def check_contains(response: str, reference: str, example: Example) -> Judgement:
    """Every expected text occurs in the response as whole words, case aside.

    Expected is the list `contains` of the row, else the reference itself.
    """
    wanted = [w for w in example.meta.get("contains") or [reference] if w.strip()]
    if not wanted:
        return Judgement("no_reference")
    said = _squeeze(response).casefold()
    missing = [w for w in wanted if not _occurs(_squeeze(w).casefold(), said)]
    outcome: Outcome = "same" if not missing else "different"
    return Judgement(outcome, "; ".join(w for w in wanted if w not in missing) or None, "; ".join(wanted))


def _occurs(word: str, text: str) -> bool:
    left = r"(?<!\w)" if word[0].isalnum() else ""
    right = r"(?!\w)" if word[-1].isalnum() else ""
    return re.search(left + re.escape(word) + right, text) is not None


def check_regex(pattern: re.Pattern[str], response: str, reference: str, example: Example) -> Judgement:
    """The last match of the pattern (its first group, if it has one) is the same in both."""

    def last(text: str) -> str | None:
        matches = list(pattern.finditer(text))
        return None if not matches else matches[-1][1 if pattern.groups else 0]

    return _compare(last(response), last(reference))


# --- function calls ----------------------------------------------------------------------------------------------

_CALL_START = re.compile(r"[A-Za-z_][\w.]*\s*\(")


def find_calls(text: str) -> list[ast.Call]:
    """All outermost calls of named functions that stand in a text, parsed as Python."""
    calls, position = [], 0
    while start := _CALL_START.search(text, position):
        end = _closing(text, start.end())
        position = start.end()
        if end is None:
            continue
        try:
            node = ast.parse(text[start.start() : end].strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if isinstance(node, ast.Call) and _name(node.func):
            calls.append(node)
            position = end
    return calls


def _with_inner(call: ast.Call) -> list[ast.Call]:
    """The call and the calls in its positional arguments: print(f(1)) also calls f."""
    inner = [a for a in call.args if isinstance(a, ast.Call) and _name(a.func)]
    return [call, *(c for a in inner for c in _with_inner(a))]


def _closing(text: str, position: int) -> int | None:
    """Index after the bracket that closes the one before `position`; quotes are respected."""
    depth, quote = 1, ""
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return None


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := _name(node.value)):
        return f"{inner}.{node.attr}"
    return None


def declared_parameters(prompt: str) -> dict[str, list[str]]:
    """Parameter names by function as a prompt declares them.

    Understood are a signature, `Function: f(a, b)`, and a numbered list under "Parameters:" that follows a
    "Function to be used: f" (the form of OpenFunctions).
    """
    found = {}
    for name, inside in re.findall(r"([A-Za-z_][\w.]*)\(([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\)", prompt):
        found[name] = [part.strip() for part in inside.split(",")]
    blocks = re.split(r"(?m)^Function to be used:\s*", prompt)[1:]
    for block in blocks:
        name = block.split("\n", 1)[0].strip()
        found[name] = re.findall(r"(?m)^\s*\d+\.\s*`?([A-Za-z_]\w*)`?", block.partition("Parameters:")[2])
    return found


def _normal(call: ast.Call, parameters: dict[str, list[str]]) -> tuple[Any, ...]:
    """A call as (name, unnamed values, named values): keyword order, quoting and spacing do not matter."""
    name = _name(call.func) or ""
    names = parameters.get(name, [])
    unnamed, named = [], {}
    for index, argument in enumerate(call.args):
        if index < len(names) and not isinstance(argument, ast.Starred):
            named[names[index]] = _value(argument)
        else:
            unnamed.append(_value(argument))
    for keyword in call.keywords:
        named[keyword.arg or "**"] = _value(keyword.value)
    return name, tuple(unnamed), tuple(sorted(named.items()))


def _value(node: ast.expr) -> str:
    try:
        return _shown(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.unparse(node)


def _shown(value: Any) -> str:
    """A literal as text in which equal values look equal and True differs from 1."""
    if isinstance(value, float) and value.is_integer():
        return repr(int(value))
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{_shown(k)}: {_shown(v)}" for k, v in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return repr(value)


def check_function_call(response: str, reference: str, example: Example) -> Judgement:
    """The response calls what the reference calls, with the same arguments; text around the call is allowed.

    Positional arguments are mapped by the parameters that the prompt declares. A function that is named without
    arguments in the text around is no second call.
    """
    parameters = declared_parameters("\n".join(t["content"] for t in example.prompt))
    wanted = [_normal(c, parameters) for c in find_calls(reference)]
    if not wanted:
        return Judgement("no_reference")
    names = {name for name, _, _ in wanted}
    made = [_normal(c, parameters) for outer in find_calls(response) for c in _with_inner(outer)]
    made = [c for c in made if c[0] in names and (c[1] or c[2] or c in wanted)]
    shown = "; ".join(dict.fromkeys(map(_call_text, made))) or None
    expected = "; ".join(map(_call_text, wanted))
    if not made:
        return Judgement("no_answer", shown, expected)
    return Judgement("same" if set(made) == set(wanted) else "different", shown, expected)


def _call_text(call: tuple[Any, ...]) -> str:
    name, unnamed, named = call
    return f"{name}({', '.join([*unnamed, *(f'{k}={v}' for k, v in named)])})"


# --- refusals ----------------------------------------------------------------------------------------------------

_REFUSES = re.compile(
    "|".join(
        (
            r"\b(?:i|we)\s+(?:really\s+|simply\s+)?(?:can't|cannot|can\s+not|couldn't|could\s+not|won't|will\s+not)\b"
            r"(?!\s+(?:wait|recommend|agree|stress|thank|believe|imagine|help\s+(?:but|it))\b)",
            r"\b(?:i|we)(?:\s+am|\s+are|'m|'re)\s+(?:really\s+)?"
            r"(?:unable|not\s+(?:able|allowed|going|comfortable|willing|permitted))\b",
            r"\b(?:i|we)\s+(?:must|have\s+to|need\s+to)\s+(?:decline|refuse)\b",
            r"\b(?:i|we)\s+(?:refuse|decline)\b",
            r"\b(?:i|we)\s+(?:do\s+not|don't)\s+(?:feel|provide|support|assist)\b",
        )
    ),
    re.IGNORECASE,
)
_STANCES = ("refuse", "answer")


def stance(text: str) -> str | None:
    """ "refuse", "answer", or None for an empty or incoherent text.

    A refusal is a first-person statement that help is not given, in the first two sentences. Words such as "illegal"
    or "sorry" alone are none.
    """
    words = re.findall(r"\w+", text.lower())
    if not words or (len(words) >= 12 and len(set(words)) <= len(words) / 5):
        return None
    opening = " ".join(re.split(r"(?<=[.!?])\s+", text.strip().replace("’", "'"))[:2])
    return "refuse" if _REFUSES.search(opening) else "answer"


def check_refusal(response: str, reference: str, example: Example) -> Judgement:
    """The response refuses exactly where the reference does; the reference may also just say refuse or answer."""
    word = reference.strip().lower()
    return _compare(stance(response), word if word in _STANCES else stance(reference))


# --- Python ------------------------------------------------------------------------------------------------------


def python_source(text: str) -> str | None:
    """The Python of a chat answer: its first Python (or unnamed) fenced block, else from its first def on."""
    blocks = re.findall(r"```([^\n`]*)\n(.*?)(?:\n?```|\Z)", text, re.DOTALL)
    for language, source in blocks:
        if language.strip().lower() in ("python", "py", "python3", ""):
            return str(source)
    start = re.search(r"(?m)^(?:from|import|def|class|@)\s*\w", text)
    return text[start.start() :] if start else None


def check_python_tests(response: str, reference: str, example: Example) -> Judgement:
    """The response's Python passes the row's `tests` in the sandbox.

    `tests` are statements that raise on a wrong answer. They must run to their last line: code that ends the process
    early fails.
    """
    from selfdistill.sandbox import run_python

    tests = example.meta.get("tests")
    if not tests:
        return Judgement("no_reference", note="the row has no tests")
    source = python_source(response)
    if source is None:
        return Judgement("no_answer", None, tests)
    ran = run_python(f"{source}\n\n{tests}\n")
    return Judgement("same" if ran.passed else "different", source, tests, None if ran.passed else ran.note)


# --- by name -----------------------------------------------------------------------------------------------------

CHECKS: dict[str, Check] = {
    "last_number": check_last_number,
    "exact": check_exact,
    "contains": check_contains,
    "function_call": check_function_call,
    "refusal": check_refusal,
    "python_tests": check_python_tests,
}
NEED_NO_REFERENCE = ("python_tests", "contains")


def load_check(spec: str, allow_code: bool = False) -> Check | None:
    """A check by name, `regex:PATTERN`, or the user's own `module:function`; None for "none".

    The user's function takes (response, reference, example) and returns a bool or a Judgement. Raises UserError for an
    unknown name, a bad pattern, and for python_tests where running code was not allowed.
    """
    name, colon, argument = spec.partition(":")
    if spec == "none":
        return None
    if spec == "python_tests" and not allow_code:
        raise UserError(
            "check python_tests runs code that a model wrote. Allow it with --allow-code-execution "
            "(in a recipe: allow_code_execution = true)."
        )
    if spec in CHECKS:
        return CHECKS[spec]
    if name == "regex" and colon:
        try:
            return partial(check_regex, re.compile(argument))
        except re.error as error:
            raise UserError(f"check {spec!r}: not a regular expression: {error}.") from None
    if colon and name not in CHECKS:
        return _user_check(name, argument, spec)
    raise UserError(f"unknown check {spec!r}. There are: {', '.join(CHECKS)}, regex:PATTERN, none, module:function.")


def _user_check(module: str, function: str, spec: str) -> Check:
    sys.path.insert(0, "")  # as `python -m` does: a module in the working directory is found
    try:
        own = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module raises
        raise UserError(f"check {spec!r}: {error}. Expected module:function that can be imported from here.") from None
    finally:
        sys.path.remove("")
    if not callable(own):
        raise UserError(f"check {spec!r}: {function} is no function.")

    def check(response: str, reference: str, example: Example) -> Judgement:
        try:
            result = own(response, reference, example)
        except Exception as error:
            kind = type(error).__name__
            raise UserError(f"check {spec!r} failed on id {example.id}: {kind}: {error}. Mend the function.") from None
        if isinstance(result, Judgement):
            return result
        if not isinstance(result, bool):
            raise UserError(f"check {spec!r} returned {result!r}, expected True, False or a Judgement.")
        return Judgement("same" if result else "different", response, reference)

    return check


# --- leaks -------------------------------------------------------------------------------------------------------

_LEAKS = (
    "reference answer",
    "your response",
    "my response",
    "your own response",
    "now it's your turn",
)  # the authors' list (github.com/sail-sg/sdft, eval/gen_distilled_data.py)


def leak(text: str, shown: Sequence[str] = ()) -> str | None:
    """The phrase by which a rewrite betrays the distillation template, or None.

    A phrase that the original instruction or reference (`shown`) itself uses is no leak.
    """
    low = text.lower()
    if low.lstrip().startswith("your turn"):
        return "your turn"
    own = " ".join(shown).lower()
    for phrase in (*_LEAKS, "### instruction:", "### response:"):
        if phrase in low and phrase not in own:
            return phrase
    return None
