"""Conversations: from messages in any of their usual forms to turns.

In:  messages as {role, content} or {from, value}, or texts in turn; contents as text or as parts.
Out: the turns up to the last question, and the answer to it. Assistant turns that their row excludes from training
     (`"weight": 0`) are marked, and stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from selfdistill.core.errors import UserError
from selfdistill.core.records import Turn
from selfdistill.core.syntax import literal

Role = Literal["system", "user", "assistant"]

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "chatbot": "assistant",
}  # fmt: skip
"""What the usual forms call the three roles. `developer` is the newer name of `system`."""

TOOL_ROLES = {"tool", "function", "function_call", "function_response", "observation", "ipython", "tool_call", "tools"}

TRAINS = ("weight", "loss_weight", "loss", "train", "training")
"""What says of a message whether it trains; of these one is usual in OpenAI's form, the others in other trainers'."""

TEXT_PARTS = {"text", "input_text", "output_text"}

REFUSED = ("tool_calls", "function_call", "images", "videos", "audios", "audio", "train_detail", "training_detail")
"""Of a message: without them its content is another one than was meant."""

UNUSED = ("reasoning_content", "reasoning", "thinking", "name")
"""Of a message: what a model may see or learn from, and does not here."""


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
) -> tuple[list[Turn], str]:
    """(turns up to the last question, its answer): an optional system turn, then user and assistant in turn.

    `system` is the text of a column beside the messages. The answer is the last assistant turn that trains; what
    follows it is left out. Without `need_response`, a conversation may end with a question, and the answer is "".
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
        if need_response or last != "user":
            raise UserError(f"{where}: the conversation ends with a {last} turn, expected an assistant's.")
        return turns, ""
    while turns[-1]["role"] != "assistant" or "train" in turns[-1]:
        turns.pop()
        if not turns:
            raise UserError(f"{where}: no assistant turn trains, all have the weight 0. Remove the row.")
    *turns, answer = turns
    return turns, answer["content"]


def _turn(message: Any, before: list[Turn], where: str, number: int, note: Callable[[str], None]) -> Turn | None:
    """One message as a turn; None for an empty system message, which is none."""
    what = f"message {number}"
    if not isinstance(message, dict):
        raise UserError(f"{where}: {what} needs a role and a text content.")
    name = next((message[key] for key in ("role", "from") if not missing(message.get(key))), None)
    for key in REFUSED:
        if not missing(message.get(key)):
            raise UserError(f"{where}: {what} has {key}, which cannot be trained on yet. Remove the row.")
    content = _content(message, f"{where}: {what}")
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role == "system" and not content.strip():
        return None
    if role == "system" and len(before) == 1 and before[0] == Turn(role="system", content=content):
        return None  # it stands in a column, too
    _expect(role, name, before, f"{where}: {what}")
    if not content.strip():
        raise UserError(f"{where}: {what} ({name}) is empty. Fill it or remove the row.")
    if name == "developer":
        note("have a developer turn, which is read as the system turn")
    for key in UNUSED:
        if not missing(message.get(key)):
            note(f"have {key!r} in their messages, which is not used")
    turn = Turn(role=role, content=whole(content, where))  # type: ignore[typeddict-item]  # _expect knows
    trains = _trains(message, f"{where}: {what}")
    if role == "assistant" and trains is False:
        turn["train"] = False
    elif role != "assistant" and trains:
        note("give weight to turns of the system or the user, which do not train")
    return turn


def _expect(role: Role | None, name: Any, before: list[Turn], what: str) -> None:
    last = before[-1]["role"] if before else None
    expected = ("user",) if last in ("system", "assistant") else ("assistant",) if last else ("system", "user")
    if role not in expected:
        tools = " Turns of tools cannot be trained on yet." if name in TOOL_ROLES else ""
        raise UserError(f"{what} has role {name!r}, expected {' or '.join(expected)}.{tools}")


def _content(message: dict[str, Any], what: str) -> str:
    """The text of a message; text parts are joined."""
    keys = [key for key in ("content", "value", "text") if key in message]
    if not keys:
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
