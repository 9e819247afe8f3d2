"""Answers: what a response says, and whether that is what the reference says (Extract of Equation 4).

In:  a response, a reference, and the example they belong to.
Out: a `Judgement`: what was extracted from each, and the outcome.

A missing answer never equals anything, not even another missing answer. Adding a check is one function here and one
line in CHECKS.
"""

from __future__ import annotations

import importlib
import re
import sys
import unicodedata
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

from selfdistill.checks.authors import (
    check_authors_general,
    check_authors_magicoder,
    check_authors_math,
    check_authors_openfunctions,
)
from selfdistill.checks.base import Check, Judgement, Outcome, Place
from selfdistill.checks.call_places import place_call
from selfdistill.checks.calls import check_function_call
from selfdistill.checks.code import check_python_tests
from selfdistill.checks.loaded import LoadedCheck
from selfdistill.checks.numbers import check_last_number
from selfdistill.checks.preference import check_micro_win_rate
from selfdistill.checks.refusals import check_refusal
from selfdistill.checks.sandbox import describe, require_walls, walls
from selfdistill.checks.texts import check_contains, check_exact, check_regex, place_regex
from selfdistill.core.engine_settings import JudgeSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.store import digest_file, digest_of

CHECKS: dict[str, Check] = {
    "last_number": check_last_number,
    "exact": check_exact,
    "contains": check_contains,
    "function_call": check_function_call,
    "refusal": check_refusal,
    "python_tests": check_python_tests,
    "authors_general": check_authors_general,
    "authors_math": check_authors_math,
    "authors_openfunctions": check_authors_openfunctions,
    "authors_magicoder": check_authors_magicoder,
    "micro_win_rate": check_micro_win_rate,
}
PLACES: dict[str, Place] = {"function_call": place_call}
"""Of the checks that can say where an answer lies, what puts the reference's there; `regex:PATTERN` is another."""
NEED_NO_REFERENCE = ("python_tests", "contains")
_SEE_NO_REFERENCE = (*NEED_NO_REFERENCE, "authors_general", "authors_magicoder")


def load_check(
    spec: str,
    allow_code: bool = False,
    judge: JudgeSettings | None = None,
    without_walls: bool = False,
    progress: Progress | None = None,
) -> LoadedCheck | None:
    """A check by name, `regex:PATTERN`, or the user's own `module:function`; None for "none".

    The user's function takes (response, reference, example) and returns a bool or a Judgement; it may bring a `place`
    (`base.Place`) as an attribute. No check sees thoughts
    (`thoughts.answer_of`), neither a response's nor a reference's. Raises UserError for an unknown name, a bad pattern,
    and for python_tests where running code was not allowed, or where walls of the sandbox are missing and
    `without_walls` does not allow that. Says on `progress` which walls hold.
    """
    if spec == "none":
        return None
    check, placer = _load(spec, allow_code, judge, without_walls, progress)
    return LoadedCheck(spec, check, placer, spec in _SEE_NO_REFERENCE)


def check_calls(response: str, reference: str, example: Example) -> Judgement:
    """`function_call`, of what stands behind the thoughts: for turns that call tools in rows without a check."""
    return LoadedCheck("function_call", check_function_call)(response, reference, example)


def _load(
    spec: str, allow_code: bool, judge: JudgeSettings | None, without_walls: bool, progress: Progress | None
) -> tuple[Check, Place | None]:
    name, colon, argument = spec.partition(":")
    if spec == "python_tests" and not allow_code:
        raise UserError(
            "check python_tests runs code that a model wrote. Allow it with --allow-code-execution "
            "(in a recipe: allow_code_execution = true)."
        )
    if spec == "python_tests":
        if not without_walls:
            require_walls()
        if progress:
            progress.note(describe(walls()), once=True)
        return partial(check_python_tests, without_walls=without_walls), None
    if spec == "win_rate":
        if judge is None:
            raise UserError(
                "check win_rate asks a judge. Name one: [judge] in a recipe, or --judge-url, --judge-model."
            )
        from selfdistill.checks.judge import Judge

        return Judge(judge).check, None
    if spec in CHECKS:
        return CHECKS[spec], PLACES.get(spec)
    if name == "regex" and colon:
        try:
            pattern = re.compile(unicodedata.normalize("NFC", argument))
        except re.error as error:
            raise UserError(f"check {spec!r}: not a regular expression: {error}.") from None
        return partial(check_regex, pattern), partial(place_regex, pattern)
    if colon and name not in CHECKS:
        return _user_check(name, argument, spec)
    raise UserError(
        f"unknown check {spec!r}. There are: {', '.join(CHECKS)}, win_rate, regex:PATTERN, none, module:function."
    )


@cache
def source_digest(spec: str) -> str:
    """Digest of the source that decides what a loaded check says: of one of ours all checks with what they run and ask,
    of `module:function` the module's file (not what that imports)."""
    module = spec.partition(":")[0]
    ours = Path(__file__).parent
    if ":" in spec and module != "regex":
        named = getattr(sys.modules.get(module), "__file__", None)
        files = [Path(named)] if named else []
    else:
        files = [*sorted(ours.rglob("*.py")), ours.parent / "models" / "thoughts.py"]
    return digest_of([[file.name, digest_file(file)] for file in files])


def _user_check(module: str, function: str, spec: str) -> tuple[Check, Place | None]:
    sys.path.insert(0, "")  # as `python -m` does: a module in the working directory is found
    try:
        own = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module raises
        raise UserError(
            f"check {spec!r}: {error}. Expected module:function, with the module in this folder or on PYTHONPATH."
        ) from None
    finally:
        sys.path.remove("")
    if not callable(own):
        raise UserError(f"check {spec!r}: {function} is no function.")
    placer = getattr(own, "place", None)
    if placer is not None and not callable(placer):
        raise UserError(f"check {spec!r}: the place of {function} is no function.")

    def asked(of: Any, what: str, response: str, reference: str, example: Example) -> Any:
        try:
            return of(response, reference, example)
        except Exception as error:
            kind = type(error).__name__
            raise UserError(f"{what} failed on id {example.id}: {kind}: {error}. Mend the function.") from None

    def check(response: str, reference: str, example: Example) -> Judgement:
        result = asked(own, f"check {spec!r}", response, reference, example)
        if isinstance(result, bool):
            return Judgement("same" if result else "different", response, reference)
        if not isinstance(result, Judgement):
            raise UserError(f"check {spec!r} returned {result!r}, expected True, False or a Judgement.")
        if result.outcome not in get_args(Outcome):
            raise UserError(
                f"check {spec!r}: outcome {result.outcome!r}, expected one of {', '.join(get_args(Outcome))}."
            )
        for field in ("extracted", "expected", "note", "label"):
            if not isinstance(value := getattr(result, field), str | None):
                raise UserError(f"check {spec!r}: {field} is {value!r}, expected a text or None.")
        return result

    def place(response: str, reference: str, example: Example) -> str | None:
        made = asked(placer, f"check {spec!r}: place", response, reference, example)
        if not isinstance(made, str | None):
            raise UserError(f"check {spec!r}: place returned {made!r}, expected a text or None.")
        return made

    return check, place if placer else None
