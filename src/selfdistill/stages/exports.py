"""Hand-over: selected rows in the forms of other trainers.

In:  examples with what was selected for them.
Out: files of `messages` and `prompt-completion` (TRL, Axolotl), `alpaca` and `sharegpt` (LLaMA-Factory, Axolotl). What
     a form cannot say is refused by name. All of them are read back as the same conversations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json

from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.core.turns import ToolCall, Turn
from selfdistill.models.thoughts import joined, split


class Exports:
    """The files for other trainers, written row by row. They are given by format and name.

    `.json` gives one array, anything else JSON lines. Every row carries its source and its id: the user's own where
    the data has an `id` column, else the hash.
    """

    def __init__(self, files: Mapping[tuple[str, Path], BinaryIO], keep_thoughts: bool = False) -> None:
        self.files = [(form, file, path.suffix == ".json") for (form, path), file in files.items()]
        self.begun, self.keep_thoughts = False, keep_thoughts

    def add(self, examples: Sequence[Example], rows: Sequence[Selected]) -> None:
        """Write some rows. Raises UserError for one that a form cannot say."""
        for form, file, array in self.files:
            pairs = zip(examples, rows, strict=True)
            lines = [to_json(exported(example, row, form, self.keep_thoughts)) for example, row in pairs]
            if array:
                file.write((b",\n" if self.begun else b"[\n") + b",\n".join(lines))
            else:
                file.write(b"\n".join(lines) + b"\n")
        self.begun = True

    def end(self) -> None:
        """Close the arrays."""
        for _, file, array in self.files:
            if array:
                file.write(b"\n]\n")


def exported(example: Example, row: Selected, form: str, keep_thoughts: bool = False) -> dict[str, Any]:
    """A row in one of the forms. Tools are the text of a list: tables would fill in null where schemas differ. Thoughts
    in texts are left out, or with `keep_thoughts` stand apart where the form knows that (`reasoning_content`), else
    before the answer in `<think>`; a row's own `reasoning_content` stays where it was."""
    responses = tuple(map(joined, row.thoughts, row.responses)) if row.thoughts else row.responses
    turns = [_shown(turn, form, keep_thoughts) for turn in example.with_responses(responses)]
    tail: dict[str, Any] = {"id": example.meta.get("source_id", example.id), "source": row.source}
    functions = [tool["function"] for tool in example.tools] if form == "sharegpt" else example.tools
    tools = {"tools": json.dumps(functions, ensure_ascii=False)} if example.tools else {}
    if form == "messages":
        return {"messages": [_message(t) for t in turns], **tools, **tail}
    if form == "prompt-completion":
        prompt, completion = [_message(t) for t in turns[:-1]], [_message(t) for t in turns[-1:]]
        return {"prompt": prompt, "completion": completion, **tools, **tail}
    if form == "sharegpt":
        return {"conversations": _sharegpt(turns, tail["id"]), **tools, **tail}
    if any("train" in t for t in turns):
        raise UserError(f"export alpaca: row {tail['id']} has turns that do not train, which only messages can say.")
    if example.uses_tools or any("reasoning" in t for t in turns):
        what = "tools" if example.uses_tools else "thoughts"
        raise UserError(f"export alpaca: row {tail['id']} has {what}, which its form cannot say. Export messages.")
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    pairs = [[turns[i]["content"], turns[i + 1]["content"]] for i in range(0, len(turns), 2)]
    (instruction, output), history = pairs[-1], pairs[:-1]
    return {"instruction": instruction, "input": "", "output": output, "system": system, "history": history, **tail}


def _shown(turn: Turn, form: str, keep_thoughts: bool) -> Turn:
    """A turn with what is exported of the thoughts in its text."""
    if turn["role"] != "assistant" or (parts := split(turn["content"])).answer in (turn["content"], ""):
        return turn  # no thought in it, or nothing else: what has no answer stays as it stands
    bare: Turn = {**turn, "content": parts.answer}
    if not keep_thoughts:
        return bare
    if form in ("messages", "prompt-completion") and parts.thought is not None:
        return {**bare, "reasoning": parts.thought}
    return turn


def _message(turn: Turn) -> dict[str, Any]:
    """A turn in OpenAI's form, with arguments as objects, as chat templates take them."""
    message: dict[str, Any] = {"role": turn["role"], "content": turn["content"], **_more(turn)}
    if calls := turn.get("tool_calls"):
        message["tool_calls"] = [_call(call) for call in calls]
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    id = {"id": call["id"]} if "id" in call else {}
    return {**id, "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}


def _more(turn: Turn) -> dict[str, Any]:
    """What a turn has beside its content and calls. A weight says in OpenAI's form that it does not train."""
    more: dict[str, Any] = {"weight": 0} if "train" in turn else {}
    if "reasoning" in turn:
        more["reasoning_content"] = turn["reasoning"]
    return more | {key: turn[key] for key in ("name", "tool_call_id") if key in turn}


_NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt(turns: Sequence[Turn], id: str) -> list[dict[str, Any]]:
    """The conversation as LLaMA-Factory takes it; its own keys aside, it leaves alone what stands beside them."""
    said: list[dict[str, Any]] = []
    for turn in turns:
        calls = turn.get("tool_calls")
        if calls and turn["content"]:
            raise UserError(f"export sharegpt: row {id} has words beside a call, which it cannot say. Export messages.")
        if turn["role"] == "tool" and said[-1]["from"] == "observation":
            raise UserError(
                f"export sharegpt: row {id} has several results of tools in a row, which it cannot say. Export "
                "messages."
            )
        name = "function_call" if calls else _NAMES[turn["role"]]
        value = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False) if calls else turn["content"]
        said.append({"from": name, "value": value, **_more(turn)})
    return said
