"""Exports of rows with tools: read back they are the same conversations, and TRL tokenizes them as we do."""

from __future__ import annotations

import json

import pytest
from conftest import write_jsonl
from test_tool_rows import CALL, GLAIVE, TOOLS, WEATHER, messages
from tool_models import template, tokenizer_with

import selfdistill as sd
from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import dump
from selfdistill.core.rewrites import Candidate, Rewrite
from selfdistill.core.turns import spoken
from selfdistill.data.examples import read_examples
from selfdistill.models.prompts import Prompter
from selfdistill.stages.select import select
from selfdistill.training.tokens import sequences

ADD = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "null"}}}}
ROWS = [
    {"messages": messages({"tool_calls": [{**CALL, "id": "call_1"}]}, name="get_weather", tool_call_id="call_1"), "tools": TOOLS},
    {"messages": messages({"tool_calls": [{"name": "add", "arguments": {"a": 1.5, "b": None}}]}), "tools": [ADD, WEATHER]},
    {"messages": [*messages({"tool_calls": [CALL], "weight": 0}), {"role": "user", "content": "Thanks."},
                  {"role": "assistant", "content": "Welcome.", "reasoning_content": "polite"}], "tools": TOOLS},
    {"messages": [{"role": "user", "content": "Both?"}, {"role": "assistant", "tool_calls": [CALL, CALL]}], "tools": TOOLS},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"chat": GLAIVE},
]  # fmt: skip


def exported(tmp_path, examples, form, rewrites=()):
    made = tmp_path / "r.jsonl"
    made.write_bytes(b"".join(map(dump, rewrites)))
    select(examples, made, tmp_path / "s.jsonl", None, exports={form: tmp_path / "x.jsonl"})
    return tmp_path / "x.jsonl"


def read(path, **settings):
    return read_examples(DataSettings(path=str(path), **settings))


def all_rows(tmp_path):
    return [e for n, row in enumerate(ROWS) for e in read(write_jsonl(tmp_path / f"d{n}.jsonl", [row]))]


@pytest.mark.parametrize("form", ["messages", "prompt-completion", "sharegpt"])
def test_what_is_exported_is_read_as_the_same_conversation(tmp_path, form):
    examples = all_rows(tmp_path)
    again = read(exported(tmp_path, examples, form))
    assert [e.id for e in again] == [e.id for e in examples]
    assert [(e.prompt, e.answer, e.tools) for e in again] == [(e.prompt, e.answer, e.tools) for e in examples]


def test_own_calls_are_exported_with_their_words_and_sharegpt_refuses_them(tmp_path):
    (example,) = read(write_jsonl(tmp_path / "d.jsonl", [ROWS[0]]))
    own = spoken({**example.answers[0], "content": "I look.", "written": "I look. <tool_call>..."})
    rewrite = Rewrite(id=example.id, candidates=(Candidate(turns=(own,), text="Sun in Oslo."),))
    row = json.loads(exported(tmp_path, [example], "messages", [rewrite]).read_text())
    assert row["messages"][2]["content"] == "I look." and "written" not in row["messages"][2]
    assert row["messages"][2]["tool_calls"][0]["function"] == CALL and row["source"] == "distilled"
    with pytest.raises(UserError, match="words beside a call"):
        exported(tmp_path, [example], "sharegpt", [rewrite])
    with pytest.raises(UserError, match="has tools, which its form cannot say"):
        exported(tmp_path, [example], "alpaca", [rewrite])


def test_llama_factory_gets_one_result_behind_a_call_or_a_refusal(tmp_path):
    row = {"messages": [
        {"role": "user", "content": "Both?"}, {"role": "assistant", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "a"}, {"role": "tool", "content": "b"}, {"role": "assistant", "content": "Done."},
    ], "tools": TOOLS}  # fmt: skip
    examples = read(write_jsonl(tmp_path / "d.jsonl", [row]))
    with pytest.raises(UserError, match="several results of tools"):
        exported(tmp_path, examples, "sharegpt")
    assert [e.id for e in read(exported(tmp_path, examples, "messages"))] == [e.id for e in examples]
    plain = json.loads(exported(tmp_path, read(write_jsonl(tmp_path / "e.jsonl", [ROWS[0]])), "sharegpt").read_text())
    assert [t["from"] for t in plain["conversations"]] == ["system", "human", "function_call", "observation", "gpt"]
    assert (
        json.loads(plain["tools"]) == [WEATHER]
        and json.loads(plain["conversations"][2]["value"])["name"] == "get_weather"
    )


@pytest.mark.parametrize("form", ["messages", "prompt-completion"])
def test_trl_tokenizes_an_export_as_we_do(tmp_path, form):
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = tokenizer_with(template("qwen2_5"))
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size))
    examples = [e for e in all_rows(tmp_path) if not any("reasoning" in t for t in e.answers)]
    path = exported(tmp_path, examples, form)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_length=None),
        train_dataset=datasets.load_dataset("json", data_files=str(path), split="train"),
        processing_class=tokenizer,
    )
    prompter = Prompter.create(tokenizer)
    for example, theirs in zip(examples, trainer.train_dataset["input_ids"], strict=True):
        ours = sequences(example, example.references, prompter)
        assert len(ours) == 1 and ours[0][0] == theirs[: len(ours[0][0])]
        assert not tokenizer.decode(theirs[len(ours[0][0]) :]).strip()


def test_a_dataset_of_the_api_has_no_values_filled_in(tmp_path):
    examples = all_rows(tmp_path)
    rows = sd.read(str(write_jsonl(tmp_path / "two.jsonl", ROWS[:2])))
    made = rows.to_dataset()
    assert made[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"a": 1.5, "b": None}
    assert made[0]["messages"][2]["tool_calls"][0]["function"]["arguments"] == CALL["arguments"]
    assert json.loads(made[0]["tools"]) == TOOLS and len(examples) == len(ROWS)
