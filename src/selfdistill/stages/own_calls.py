"""Turns that call tools, in distilling: the seed LM's own call where it is the same, else the reference's.

In:  what the seed LM answered to the conversation, without the reference in sight.
Out: the turn as `core.turns.spoken` has it, which trains in the seed LM's own form; or None.
"""

from __future__ import annotations

from selfdistill.checks.calls import check_function_call, find_calls
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.rewrites import Reason
from selfdistill.core.turns import Turn, heard, is_call, spoken
from selfdistill.data.calls import calls_of
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.thoughts import answer_of
from selfdistill.models.tool_turns import in_form

_REASONS = {"same": Reason.CALL_FORM, "different": Reason.OTHER_CALL}


def own_call(example: Example, number: int, text: str, prompt: Prompt, prompter: Prompter) -> str | None:
    """The seed LM's answer to assistant turn `number`, as a turn with its own text; None where it makes another call,
    or the same one not as its chat template writes calls. `prompt` is the one without the reference.

    Behind an endpoint a call arrives as data, without a text: it trains in the template's form.
    """
    text = as_heard(text, prompt, prompter)
    if not same_call(example, number, text):
        return None
    reference = example.answers[number]
    calls = reference["tool_calls"]  # in their order and with their ids, which results of tools refer to
    if is_call(text):
        return spoken(Turn(role="assistant", content=heard(text)["content"], tool_calls=calls))
    if prompter.tokenizer is None:
        return None
    bare = Turn(role="assistant", content="", tool_calls=calls)
    try:
        rendered = prompter.tokenizer.decode(prompter.chat.called(prompt.turns, bare, prompt.tools)[:-1])
    except UserError:
        return None
    words = in_form(text, rendered, calls)
    if words is None:
        return None
    own = Turn(role="assistant", content=words, tool_calls=calls, written=answer_of(text).strip())
    return spoken(own)


def as_heard(text: str, prompt: Prompt, prompter: Prompter) -> str:
    """An answer as it is. Where no call can be read in it, and the tokenizer brings a reader of its own that hears one
    (`parse_response`), the turn that it hears, as `spoken` has it."""
    tokenizer = prompter.tokenizer
    own_reader = prompt.tools and getattr(tokenizer, "response_template", None) is not None
    if not own_reader or is_call(text) or find_calls(answer_of(text)):
        return text
    try:
        said = tokenizer.parse_response(text, prefix=tokenizer.decode(prompt.ids), tools=list(prompt.tools))
        calls = calls_of(said.get("tool_calls") or [], "the answer")
    except Exception:  # a reader that a tokenizer brings raises what it pleases
        return text
    turn = Turn(role="assistant", content=str(said.get("content") or "").strip(), tool_calls=calls)
    return spoken(turn) if calls else text


def same_call(example: Example, number: int, response: str) -> bool:
    """Whether a response makes the calls of assistant turn `number`."""
    answer = response if is_call(response) else answer_of(response)
    return check_function_call(answer, example.references[number], example).outcome == "same"


def taken(example: Example, responses: tuple[str, ...]) -> tuple[tuple[str, ...], list[Reason]]:
    """(what trains of a candidate's turns, what is said of each turn that calls tools): the own call where it is the
    reference's and was heard as a turn, else the reference's."""
    made, reasons = list(responses), []
    for number, turn in enumerate(example.answers):
        if "tool_calls" not in turn:
            continue
        response = responses[number]
        if is_call(response) and same_call(example, number, response):
            reasons.append(Reason.OWN_CALL)
            continue
        made[number] = example.references[number]
        outcome = check_function_call(answer_of(response), example.references[number], example).outcome
        reasons.append(_REASONS.get(outcome, Reason.NO_CALL))
    return tuple(made), reasons
