"""Conversations: from messages in any of their usual forms to turns.

In:  messages as {role, content} or {from, value}, or texts in turn; contents as text or as parts; calls of tools and
     what the tools gave back, in OpenAI's or ShareGPT's form.
Out: the turns up to the last question, and the answer to it. Assistant turns that their row excludes from training
     (`"weight": 0`) are marked, and stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from selfdistill.core.errors import UserError
from selfdistill.core.syntax import literal
from selfdistill.core.turns import ToolCall, Turn
from selfdistill.data.calls import calls_of

Role = Literal["system", "user", "assistant", "tool"]

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "chatbot": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "function_response": "tool",
    "tool_result": "tool", "ipython": "tool",
}  # fmt: skip
"""What the usual forms call the four roles. `developer` is the newer name of `system`."""

CALL_ROLES = ("function_call", "tool_call")
"""Roles whose content is a call, or a list of them, as JSON."""

AFTER: dict[str | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Which roles may follow which."""

TRAINS = ("weight", "loss_weight", "loss", "train", "training")
"""What says of a message whether it trains; of these one is usual in OpenAI's form, the others in other trainers'."""

TEXT_PARTS = {"text", "input_text", "output_text"}

REFUSED = ("images", "videos", "audios", "audio", "train_detail", "training_detail")
"""Of a message: without them its content is another one than was meant."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What the usual forms call the thoughts before an answer."""


def missing(value: Any) -> bool:
    """Whether a value says nothing: None, NaN (what pandas makes of None), or empty."""
    return value is None or value != value or (isinstance(value, (str, list, dict)) and not value)


def whole(text: str, where: str) -> str:
    """The text, if it can be written as UTF-8: JSON can hold half of a surrogate pair, a file cannot."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half a character (a lone surrogate). Repair or remove it.") from None
    return text


def listed(value: Any) -> Any:
    """The list that a text spells, as JSON or as Python prints it, for tables whose cells hold only text; else the
    value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for read in (json.loads, literal):
            try:
                found = read(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list):
                return found
    return value


def conversation(
    messages: Any, system: str, where: str, need_response: bool, note: Callable[[str], None]
) -> tuple[list[Turn], Turn]:
    """(turns up to the last question, its answer): an optional system turn, then user and assistant in turn, and
    between an assistant's turns those of tools.

    `system` is the text of a column beside the messages. The answer is the last assistant turn that trains; what
    follows it is left out. Without `need_response`, a conversation may end with a question, and the answer is empty.
    `note` is told what of the messages is not used. Raises UserError for anything else.
    """
    messages = listed(messages)
    if not isinstance(messages, list) or missing(messages):
        raise UserError(f"{where}: messages must be a list of {{role, content}} objects and not be empty.")
    turns: list[Turn] = [Turn(role="system", content=system)] if system else []
    for number, message in enumerate(messages, 1):
        if isinstance(message, str):  # texts in turn, as LIMA has them
            message = {"role": "assistant" if turns and turns[-1]["role"] == "user" else "user", "content": message}
        turn = _turn(message, turns, where, number, note)
        if turn is not None:
            turns.append(turn)
    last = turns[-1]["role"] if turns else "no"
    if last != "assistant":
        if need_response or last not in ("user", "tool"):
            raise UserError(f"{where}: the conversation ends with a {last} turn, expected an assistant's.")
        return turns, Turn(role="assistant", content="")
    while turns[-1]["role"] != "assistant" or "train" in turns[-1]:
        turns.pop()
        if not turns:
            raise UserError(f"{where}: no assistant turn trains, all have the weight 0. Remove the row.")
    *turns, answer = turns
    return turns, answer


def from_pairs(value: Any, where: str) -> list[Turn]:
    """The turns of a history of [question, answer] pairs."""
    if missing(value):
        return []
    if not isinstance(value := listed(value), list):
        raise UserError(f"{where}: history holds {type(value).__name__}, expected a list of [question, answer] pairs.")
    turns: list[Turn] = []
    for pair in value:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(t, str) and t for t in pair)):
            raise UserError(f"{where}: history must be a list of [question, answer] pairs of text.")
        question, answer = (whole(text, where) for text in pair)
        turns += [Turn(role="user", content=question), Turn(role="assistant", content=answer)]
    return turns


def _turn(message: Any, before: list[Turn], where: str, number: int, note: Callable[[str], None]) -> Turn | None:
    """One message as a turn; None for an empty system message, which is none."""
    what = f"message {number}"
    if not isinstance(message, dict):
        raise UserError(f"{where}: {what} needs a role and a text content.")
    name = next((message[key] for key in ("role", "from") if not missing(message.get(key))), None)
    what = f"{where}: {what}"
    for key in REFUSED:
        if not missing(message.get(key)):
            raise UserError(f"{what} has {key}, which cannot be trained on yet. Remove the row.")
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    called = _called(message, str(name), what)
    content = "" if called and name in CALL_ROLES else _content(message, what, bool(called))
    if role == "system" and not content.strip():
        return None
    if role == "system" and len(before) == 1 and before[0] == Turn(role="system", content=content):
        return None  # it stands in a column, too
    expected = AFTER[before[-1]["role"] if before else None]
    if role not in expected:
        raise UserError(f"{what} has role {name!r}, expected {' or '.join(expected)}.")
    if called and role != "assistant":
        raise UserError(f"{what} ({name}) calls tools, which only an assistant does.")
    if not (content.strip() or called or role == "tool"):
        raise UserError(f"{what} ({name}) is empty. Fill it or remove the row.")
    if name == "developer":
        note("have a developer turn, which is read as the system turn")
    turn = Turn(role=role, content=whole(content, where))
    if called:
        turn["tool_calls"] = called
    _more(turn, message, what, note)
    return turn


def _called(message: dict[str, Any], name: str, what: str) -> list[ToolCall]:
    """The calls of a message."""
    if name in CALL_ROLES:
        content = next((message[key] for key in CONTENTS if not missing(message.get(key))), "")
        return calls_of(content, what)
    found = [calls_of(message[key], what) for key in ("tool_calls", "function_call") if not missing(message.get(key))]
    for call in (call for calls in found for call in calls):
        whole(json.dumps(call, ensure_ascii=False, default=str), what)
    return found[0] if found else []


def _more(turn: Turn, message: dict[str, Any], what: str, note: Callable[[str], None]) -> None:
    """What a turn has beside its content: thoughts, whose result it is, whether it trains."""
    for key in THOUGHTS:
        if missing(message.get(key)):
            continue
        if turn["role"] != "assistant":
            note(f"have {key!r} in messages of others than the assistant, which is not used")
        elif not isinstance(thought := message[key], str):
            raise UserError(f"{what} has {key} that holds {type(thought).__name__}, expected text.")
        elif turn.setdefault("reasoning", whole(thought, what)) != thought:
            raise UserError(f"{what} has several texts of thoughts. Keep one of {', '.join(THOUGHTS)}.")
        else:
            note(f"have {key!r} in their messages, which exports keep and only prompt.thinking = 'keep' trains")
    for key in ("name", "tool_call_id"):
        if missing(message.get(key)):
            continue
        if turn["role"] == "tool" and isinstance(message[key], str):
            turn[key] = whole(message[key], what)  # type: ignore[literal-required]
        else:
            note(f"have {key!r} in their messages, which is not used")
    trains = _trains(message, what)
    if turn["role"] == "assistant" and trains is False:
        turn["train"] = False
    elif turn["role"] != "assistant" and trains:
        note("give weight to turns of the system, the user or a tool, which do not train")


CONTENTS = ("content", "value", "text")
"""What the usual forms call the text of a message."""


def _content(message: dict[str, Any], what: str, may_lack: bool) -> str:
    """The text of a message; text parts are joined."""
    keys = [key for key in CONTENTS if key in message]
    if not keys and not may_lack:
        raise UserError(f"{what} needs a role and a text content.")
    return text_of(next((message[key] for key in keys if not missing(message[key])), ""), what)


def text_of(content: Any, what: str) -> str:
    """A text as it is, or the text parts of a list joined. Raises UserError for parts of another kind."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UserError(f"{what} holds {type(content).__name__}, expected text or a list of parts.")
    texts = []
    for part in content:
        part = {"text": part} if isinstance(part, str) else part
        kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else type(part).__name__
        if kind not in TEXT_PARTS:
            raise UserError(f"{what} has a part of the kind {kind!r}; only text can be trained on. Remove the row.")
        text = next((part[key] for key in ("text", "value") if not missing(part.get(key))), "")
        if not isinstance(text, str):
            raise UserError(f"{what} has a text part that holds {type(text).__name__}.")
        texts.append(text)
    return "".join(texts)


def _trains(message: dict[str, Any], what: str) -> bool | None:
    """Whether a message is to train; None where it does not say."""
    said = {key: message[key] for key in TRAINS if not missing(message.get(key))}
    for key, value in said.items():
        if value not in (0, 1):  # False and True, too
            raise UserError(f"{what} has {key} = {value!r}, expected 0 or 1: a turn trains, or it does not.")
    return all(said.values()) if said else None
