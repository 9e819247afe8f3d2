"""Rows with tools, as datasets have them: OpenAI's and TRL's messages, LLaMA-Factory's ShareGPT, Glaive, ToolACE."""

from __future__ import annotations

import io
import json

import pytest
from conftest import write_jsonl
from rich.console import Console

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, dump, parse
from selfdistill.core.turns import heard, is_call, spoken
from selfdistill.data.examples import read_examples
from selfdistill.data.notes import Notes

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                   "required": ["city"]},
}  # fmt: skip
TOOLS = [{"type": "function", "function": WEATHER}]
CALL = {"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}


def read(tmp_path, *rows, **settings):
    """The examples of rows, and what is said of them."""
    console = Console(file=io.StringIO(), record=True, width=1000)
    need = settings.pop("need_response", True)
    path = write_jsonl(tmp_path / "d.jsonl", list(rows))
    notes = Notes(Progress(console))
    found = read_examples(DataSettings(path=str(path), **settings), need_response=need, notes=notes)
    return found, console.export_text()


def messages(call, result="sunny", **of_result):
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", **call},
        {"role": "tool", "content": result, **of_result},
        {"role": "assistant", "content": "It is sunny."},
    ]


def test_every_form_of_a_call_gives_the_same_example(tmp_path):
    as_text = {"name": CALL["name"], "arguments": json.dumps(CALL["arguments"])}
    nested = {"type": "function", "function": CALL}
    rows = [
        {"messages": messages({"content": None, "tool_calls": [nested]}), "tools": TOOLS},
        {"messages": messages({"content": "", "tool_calls": [{"type": "function", "function": as_text}]}), "tools": [WEATHER]},
        {"messages": messages({"tool_calls": [CALL]}), "tools": json.dumps(TOOLS)},
        {"messages": messages({"tool_calls": json.dumps([CALL])}), "tools": repr([WEATHER])},
        {"messages": messages({"content": None, "function_call": as_text}), "functions": [WEATHER]},
        {"messages": messages({"content": [], "tool_calls": [nested]}, [{"type": "text", "text": "sunny"}]), "tools": TOOLS},
        {"prompt": messages({"tool_calls": [CALL]})[:-1], "completion": [{"role": "assistant", "content": "It is sunny."}],
         "tools": TOOLS},
        {"prompt": messages({"tool_calls": [CALL]})[:2], "completion": messages({"tool_calls": [CALL]})[2:], "tools": TOOLS},
        {"conversations": [
            {"from": "human", "value": "Weather in Oslo?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "It is sunny."},
         ], "system": "Be brief.", "tools": json.dumps([WEATHER])},
        {"conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Weather in Oslo?"},
            {"from": "tool_call", "value": json.dumps([CALL])},
            {"from": "tool_response", "value": "sunny"},
            {"from": "gpt", "value": "It is sunny."},
         ], "tools": TOOLS},
    ]  # fmt: skip
    found = [read(tmp_path, row)[0][0] for row in rows]
    assert {e.id for e in found} == {found[0].id}
    first = found[0]
    assert first.tools == tuple(TOOLS)
    assert [t["role"] for t in first.prompt] == ["system", "user", "assistant", "tool"]
    assert first.prompt[2] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert first.references == (spoken(first.prompt[2]), "It is sunny.")
    assert parse(dump(first), Example, "") == first


def test_ids_of_calls_and_names_of_results_stay(tmp_path):
    call = {"id": "call_1", "type": "function", "function": CALL}
    (example,), _ = read(
        tmp_path, {"messages": messages({"tool_calls": [call]}, name="get_weather", tool_call_id="call_1")}
    )
    assert example.prompt[2]["tool_calls"] == [{**CALL, "id": "call_1"}]
    assert example.prompt[3] == {"role": "tool", "content": "sunny", "name": "get_weather", "tool_call_id": "call_1"}
    assert example.uses_tools and not example.tools


def test_a_row_may_end_with_a_call_and_words_beside_it(tmp_path):
    asked = {"role": "user", "content": "Weather?"}
    said = {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL], "reasoning_content": "hm"}
    (example,), told = read(tmp_path, {"messages": [asked, said], "tools": TOOLS})
    assert is_call(example.reference) and heard(example.reference) == example.answer
    assert example.answer["content"] == "I look." and len(example.answer["tool_calls"]) == 2
    assert example.answer["reasoning"] == "hm" and "'reasoning_content'" in told and "1 rows" in told


def test_thoughts_are_carried_and_said(tmp_path):
    asked = {"role": "user", "content": "1 + 1?"}
    for key in ("reasoning_content", "thinking", "reasoning"):
        (example,), told = read(
            tmp_path, {"messages": [asked, {"role": "assistant", "content": "2", key: "one and one"}]}
        )
        assert example.reference == "2" and example.answer["reasoning"] == "one and one" and f"'{key}'" in told
    plain = read(tmp_path, {"messages": [asked, {"role": "assistant", "content": "2"}]})[0][0]
    assert plain.answer is None and plain.id != example.id
    assert example.with_responses(("two",))[-1] == {"role": "assistant", "content": "two"}
    assert example.with_responses(("2",))[-1]["reasoning"] == "one and one"


def test_calls_that_do_not_train_are_marked(tmp_path):
    row = {"messages": messages({"tool_calls": [CALL], "weight": 0}), "tools": TOOLS}
    (example,), _ = read(tmp_path, row)
    assert example.references == ("It is sunny.",)
    assert example.prompt[2]["train"] is False and "train" not in example.up_to(())[2]
    assert example.with_responses(("x",))[2] == example.prompt[2]


GLAIVE = (
    "USER: Weather in Oslo?\n\n\nASSISTANT: <functioncall> "
    '{"name": "get_weather", "arguments": \'{"city": "Oslo", "days": 2}\'} <|endoftext|>\n\n\n'
    "FUNCTION RESPONSE: sunny\n\n\nASSISTANT: It is sunny. <|endoftext|>"
)
ACCESS = "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"


def test_glaives_texts_are_messages_with_tools(tmp_path):
    system = ACCESS + json.dumps(WEATHER, indent=4)
    (two,), told = read(tmp_path, {"system": system, "chat": GLAIVE})
    (one,), _ = read(tmp_path, {"sample": f"{system}\n{GLAIVE}"})
    assert one.id == two.id and two.tools == tuple(TOOLS) and "as Glaive does" in told and "endoftext" not in told
    assert [t["content"] for t in two.prompt] == ["You are a helpful assistant.", "Weather in Oslo?", "", "sunny"]
    assert two.prompt[2]["tool_calls"] == [CALL]
    (plain,), _ = read(tmp_path, {"system": "SYSTEM: You help.", "chat": "USER: a\n\n\nASSISTANT: b <|endoftext|>"})
    assert plain.references == ("b",) and not plain.uses_tools
    bad = GLAIVE.replace('\'{"city"', "'{city")
    with pytest.raises(UserError, match="the arguments of the call of get_weather are no JSON object"):
        read(tmp_path, {"system": system, "chat": bad})


def test_toolaces_calls_are_texts_between_turns_of_tools(tmp_path):
    listed = "You can call functions: " + json.dumps([WEATHER]) + " Answer with [f(x=1)]."
    row = {"system": listed, "conversations": [
        {"from": "user", "value": "Weather in Oslo?"}, {"from": "assistant", "value": '[get_weather(city="Oslo", days=2)]'},
        {"from": "tool", "value": '[{"name": "get_weather", "results": "sunny"}]'}, {"from": "assistant", "value": "Sunny."},
    ]}  # fmt: skip
    (example,), told = read(tmp_path, row)
    assert example.prompt[0]["content"] == listed and "warning" not in told
    assert example.references == ('[get_weather(city="Oslo", days=2)]', "Sunny.")
    assert example.prompt[3]["role"] == "tool" and example.uses_tools


def test_what_a_table_fills_in_is_left_out_and_said(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"messages": messages({"tool_calls": [CALL]}), "tools": TOOLS},
        {"messages": messages({"tool_calls": [{"name": "get_weather", "arguments": {"city": "Rome"}}]}), "tools": TOOLS},
        {"messages": messages({"tool_calls": [{"name": "add", "arguments": {"a": None}}]}),
         "tools": [{"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": ["null", "string"]}}}}]},
    ]  # fmt: skip
    exact, told = read(tmp_path, *rows)
    assert "null" not in told and exact[2].prompt[2]["tool_calls"][0]["arguments"] == {"a": None}
    parquet.write_table(pyarrow.Table.from_pylist(rows[:2]), tmp_path / "d.parquet")
    console = Console(file=io.StringIO(), record=True, width=1000)
    table = read_examples(DataSettings(path=str(tmp_path / "d.parquet")), notes=Notes(Progress(console)))
    assert [e.id for e in table] == [e.id for e in exact[:2]] and "1 rows have null" in console.export_text()


def test_a_prompt_may_end_with_what_a_tool_gave_back(tmp_path):
    row = {"messages": messages({"tool_calls": [CALL]})[:-1], "tools": TOOLS}
    (example,), _ = read(tmp_path, row, need_response=False)
    assert example.reference == "" and example.prompt[-1]["role"] == "tool"
    with pytest.raises(UserError, match="ends with a tool turn"):
        read(tmp_path, row)


def test_records_refuse_an_answer_that_is_not_the_reference():
    turn = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    row = {"id": "a", "prompt": [{"role": "user", "content": "q"}], "reference": "x", "task": "", "answer": turn}
    with pytest.raises(UserError, match="answer and reference"):
        parse(row, Example, "here")
    for wrong in ({**turn, "colour": "red"}, {**turn, "tool_calls": [{**CALL, "colour": "red"}]}):
        with pytest.raises(UserError, match="colour"):
            parse({**row, "reference": spoken(turn), "answer": wrong}, Example, "here")


def test_rows_without_tools_keep_their_ids(tmp_path):
    rows = [
        {"prompt": "a", "response": "b"},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "c", "weight": 0},
                {"role": "user", "content": "é"},
                {"role": "assistant", "content": "b"},
            ]
        },
    ]
    found = [read(tmp_path, row)[0][0].id for row in rows]
    assert found == ["5d1692bff6edbc64", "e138547ceab98529"]
