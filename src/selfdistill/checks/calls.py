"""Function calls: the same functions, with the same arguments, as often. In Python, JSON and chat templates' forms."""

from __future__ import annotations

import builtins
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selfdistill.checks.authors import same_string
from selfdistill.checks.base import Judgement, Outcome
from selfdistill.checks.call_forms import Broken, is_declaration
from selfdistill.checks.call_texts import Brackets, Types, call_blocks, json_values
from selfdistill.checks.call_values import UNSURE, Call, parsed_parameters
from selfdistill.core.records import Example
from selfdistill.core.turns import is_call

_SIGNATURE = re.compile(r"(?<![\w.])(def )?+([^\W\d][\w.]*+)\(")
_NUMBERED = re.compile(r"(?m)^[ \t]*+\d++\.[ \t]*+`?([A-Za-z_]\w*+)`?(?: \(type: (\w++)\))?")
_LONGEST_SIGNATURE = 1000


def find_calls(text: str) -> list[Call]:
    """The outermost calls of a text, in its order; none for a text whose calls cannot be read."""
    try:
        return [call for block in call_blocks(text, {}) for call in block]
    except Broken:
        return []


def declared_tools(prompt: str) -> Types:
    """The functions that a prompt declares as tools, with their parameters in order and the types it states.

    Understood are JSON schemas, `def f(a: str, b=1)`, and a numbered list under "Parameters:" that follows a "Function
    to be used: f" (the form of OpenFunctions).
    """
    tools: dict[str, dict[str, str]] = {}
    try:
        for value in json_values(prompt):
            tools.update(_schemas(value))
    except Broken:
        tools = {}
    tools.update((name, parameters) for name, parameters, is_def in _signatures(prompt) if is_def)
    for block in re.split(r"(?m)^Function to be used:\s*", prompt)[1:]:
        name = block.split("\n", 1)[0].strip()
        tools[name] = dict(_NUMBERED.findall(block.partition("Parameters:")[2]))
    return tools


def _schemas(value: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, parameters with their types) of all tools that a value of JSON describes."""
    if isinstance(value, list):
        for item in value:
            yield from _schemas(item)
    elif isinstance(value, dict) and isinstance(name := value.get("name"), str) and is_declaration(value):
        schema = value.get("parameters") or value["input_schema"]
        kinds = {k: v.get("type") if isinstance(v, dict) else "" for k, v in schema["properties"].items()}
        yield name, {key: kind if isinstance(kind, str) else "" for key, kind in kinds.items()}
    elif isinstance(value, dict):
        for item in value.values():
            yield from _schemas(item)


def _signatures(prompt: str) -> Iterator[tuple[str, dict[str, str], bool]]:
    """(name, parameters, whether `def` stands before it) of each signature in a prompt."""
    brackets = Brackets(prompt)
    for match in _SIGNATURE.finditer(prompt):
        try:
            end = brackets.end(match.end() - 1)
        except Broken:
            return
        if end and end - match.end() < _LONGEST_SIGNATURE:
            parameters = parsed_parameters(prompt[match.end() : end - 1])
            if parameters:
                yield match[2], parameters, bool(match[1])


def declared_parameters(prompt: str, tools: Types) -> Types:
    """The parameters of all functions of which a prompt shows a signature, `f(a, b)`, tools among them. One that it
    shows in two ways is left out."""
    shown: dict[str, dict[str, str]] = {}
    for name, parameters, _ in _signatures(prompt):
        if list(shown.setdefault(name, parameters)) != list(parameters):
            shown[name] = {}
    return {**shown, **tools}


def _normal(call: Call, parameters: Types) -> Call:
    """The call with its unnamed values named as declared, and in one order."""
    names = list(parameters.get(call.name, ()))
    named, unnamed = dict(call.named), list(call.unnamed)
    while unnamed and names and not unnamed[0].startswith("*") and names[0] not in named:
        named[names.pop(0)] = unnamed.pop(0)
    return Call(call.name, tuple(unnamed), tuple(sorted(named.items())), call.certain)


def _read(text: str, parameters: Types) -> list[list[Call]]:
    """The blocks of a text's calls, those inside of arguments among them."""
    blocks = call_blocks(text, parameters)
    return [[_normal(c, parameters) for outer in block for c in outer.everything()] for block in blocks]


def _is_mention(call: Call, arguments: set[str]) -> bool:
    """f(), f(a, b) or f(...) that speaks of the function: only names of its arguments stand in it."""
    values = [*call.unnamed, *(value for key, value in call.named if value != key)]
    return not call.certain and all(v in arguments or v == "Ellipsis" for v in values)


def _counted(blocks: list[list[Call]]) -> Counter[str]:
    """How often each call is made: as often as in the block that has it most. A repeat in another block is no call."""
    counts: Counter[str] = Counter()
    for block in blocks:
        counts |= Counter(map(str, block))
    return counts


def _arguments(blocks: list[list[Call]], parameters: Types) -> dict[str, set[str]]:
    """The names of arguments by function: those that calls use, and those that the prompt declares."""
    names = {name: set(declared) for name, declared in parameters.items()}
    for call in (c for block in blocks for c in block):
        names.setdefault(call.name, set()).update(key for key, _ in call.named)
    return names


def _kept(blocks: list[list[Call]], keep: Callable[[Call], bool]) -> list[list[Call]]:
    return [kept for block in blocks if (kept := [c for c in block if keep(c)])]


def _wanted(blocks: list[list[Call]], tools: Types, arguments: dict[str, set[str]]) -> Counter[str]:
    """The calls that a reference makes: without Python's helpers around them (print) and without mentions, unless there
    is nothing else."""
    blocks = _kept(blocks, lambda c: c.name in tools or c.certain or not hasattr(builtins, c.name)) or blocks
    return _counted(_kept(blocks, lambda c: not _is_mention(c, arguments[c.name])) or blocks)


@dataclass(frozen=True)
class Wanted:
    """What a reference calls, and how calls of a response are read beside it.

    `calls`: how often it makes each call, as text. `names`: the functions whose calls count. `arguments`: the names of
    arguments by function. `parameters`: those that the prompt declares.
    """

    calls: Counter[str]
    names: set[str]
    arguments: Mapping[str, set[str]]
    parameters: Types

    def counts(self, call: Call) -> bool:
        """Whether a response makes this call, and does not only speak of it."""
        mention = _is_mention(call, self.arguments.get(call.name, set())) and str(call) not in self.calls
        return (call.name in self.names or call.certain) and not mention

    def made(self, outer: Call) -> list[str]:
        """The calls that count of one and of those inside of its arguments, as text."""
        read = (_normal(call, self.parameters) for call in outer.everything())
        return [str(call) for call in read if self.counts(call)]


def wanted(reference: str, example: Example) -> Wanted | None:
    """What a reference calls; None where that cannot be told."""
    prompt = "\n".join([*(t["content"] for t in example.prompt), *map(json.dumps, example.tools)])
    tools = declared_tools(prompt)
    parameters = declared_parameters(prompt, tools)
    try:
        references = _read(reference, parameters)
    except Broken:
        references = []
    arguments = _arguments(references, parameters)
    calls = _wanted(references, tools, arguments)
    if not calls or any(UNSURE in call for call in calls):
        return None
    names = {c.name for block in references for c in block if str(c) in calls} | tools.keys()
    return Wanted(calls, names, arguments, parameters)


def check_function_call(response: str, reference: str, example: Example) -> Judgement:
    """The response calls what the reference calls, with the same arguments and as often; the order does not matter, nor
    the form (Python, JSON, tags), and text around the calls is allowed.

    Positional arguments are mapped by the parameters that the prompt declares. Calls of other functions count where
    the prompt declares them as tools or only tools are called so. A function that is named in an explanation is no
    second call. The paper's stricter rule is the metric `paper_string_match`.
    """
    metrics = {"paper_string_match": float(bool(same_string(response, reference)))}
    asked = wanted(reference, example)
    if asked is None:
        return Judgement("no_reference", metrics=metrics)
    try:
        made = _counted(_kept(_read(response, asked.parameters), asked.counts))
    except Broken:
        made = Counter()
    expected = "; ".join(asked.calls.elements())
    if not made or any(UNSURE in call for call in made):
        return Judgement("no_answer", None, expected, metrics=metrics)
    outcome: Outcome = "same" if made == asked.calls else "different"
    return Judgement(outcome, "; ".join(made.elements()), expected, metrics=metrics)


def only_calls(text: str) -> bool:
    """Whether a text is a list of calls and nothing else, [f(a=1), g()], or one of JSON."""
    try:
        blocks = call_blocks(text.strip(), {})
    except Broken:
        return False
    whole = text.strip()
    listed = (whole[:1], whole[-1:]) in (("[", "]"), ("{", "}"))
    return listed and len(blocks) == 1 and all(call.certain for call in blocks[0])


def compared_as_calls(reference: str, example: Example) -> bool:
    """Whether a reference is compared as a call, whatever the check: it calls tools, or it is a text of calls alone in
    a conversation with tools."""
    return example.uses_tools and (is_call(reference) or only_calls(reference))
