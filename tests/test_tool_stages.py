"""Rows with tools through the stages: the embedded model with a chat template that shows it tools."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice

import pytest
from conftest import write_jsonl
from tool_models import tool_model

import selfdistill as sd
from selfdistill.core.config import DataSettings, DistillSettings, Recipe, TaskSettings
from selfdistill.core.engine_settings import TransformersSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Prediction, Verdict, dump, read_records
from selfdistill.core.rewrites import Candidate, Reason, Rewrite, Selected
from selfdistill.core.settings import checked
from selfdistill.core.turns import heard, spoken
from selfdistill.data.examples import read_examples
from selfdistill.engines.open import make_engine
from selfdistill.microworld.world import items
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.stages.distill import distill
from selfdistill.stages.evaluate import evaluate
from selfdistill.stages.own_calls import as_heard, own_call
from selfdistill.stages.select import choose, judge, select
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks
from selfdistill.tasks.validate import validate
from selfdistill.training.tokens import sequences


def tool_rows(count, split="train"):
    """Rows of messages with a call from the model's world: every third one ends with the call, the others go on with
    what the tool gave back and a text; the call of every fourth has another argument than was asked for."""
    rows = []
    fitting = (item for item in items("tools", split) if item.prompt.rpartition("\n")[2].startswith("Function: "))
    for n, item in enumerate(islice(fitting, count)):
        question, _, signature = item.prompt.rpartition("\nFunction: ")
        name, _, names = signature.rstrip(")").partition("(")
        arguments = {k: json.loads(v) for k, v in re.findall(r'(\w+)=("[^"]*"|\d+)', item.terse)}
        if n % 4 == 3:
            arguments |= dict.fromkeys(list(arguments)[:1], "other")
        schema = {"type": "object", "properties": {key: {"type": "string"} for key in names.split(", ")}}
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}]},
        ]  # fmt: skip
        if n % 3:
            messages += [
                {"role": "tool", "content": "done", "tool_call_id": f"call_{n}"},
                {"role": "assistant", "content": "It is done."},
            ]
        tools = [{"type": "function", "function": {"name": name, "description": "A tool.", "parameters": schema}}]
        rows.append({"messages": messages, "tools": tools})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tool_model(tmp_path_factory.mktemp("tools") / "model")


@pytest.fixture(scope="module")
def able(folder):
    lm = load_model(folder)
    prompter = Prompter.create(lm.tokenizer)
    return lm, prompter, make_engine(TransformersSettings(rows=16), lm, prompter)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, able):
    """(examples, rewrites.jsonl)"""
    lm, prompter, engine = able
    out = tmp_path_factory.mktemp("distilled")
    examples = read_examples(DataSettings(path=str(write_jsonl(out / "d.jsonl", tool_rows(12)))))
    settings = DistillSettings(max_new_tokens=64)
    assert distill(examples, out / "r.jsonl", lm.digest, engine, prompter, settings) == 0
    return examples, out / "r.jsonl"


@pytest.mark.heavy
def test_an_own_call_that_is_the_same_is_taken_and_another_one_is_not(tmp_path, distilled):
    examples, rewrites = distilled
    reasons = select(examples, rewrites, tmp_path / "s.jsonl", None)
    rows = {row.id: row for row in read_records(tmp_path / "s.jsonl", Selected)}
    made = {row.id: row for row in read_records(rewrites, Rewrite)}
    assert reasons[Reason.OWN_CALL] >= 2 and reasons[Reason.KEPT] >= 3 and reasons[Reason.SOME_CALLS] >= 1
    for n, example in enumerate(examples):
        row, call = rows[example.id], rows[example.id].responses[0]
        if n % 4 == 3:  # the reference calls otherwise than was asked
            assert row.reason in (Reason.OTHER_CALL, Reason.SOME_CALLS) and call == example.references[0]
            assert "I would use the function" in made[example.id].candidates[0].responses[0]  # what it said instead
        if row.reason is Reason.OWN_CALL or (row.reason is Reason.KEPT and n % 3):
            turn = heard(call)
            assert turn["tool_calls"] == example.answers[0]["tool_calls"]
            assert turn["written"].startswith(turn["content"]) and turn["content"].startswith("To ")
        assert row.rewritten == (row.source == "distilled")
    assert not reasons[Reason.CALL_FORM] and not reasons[Reason.NO_CALL]


def test_own_calls_lie_closer_to_the_seed_lm(distilled):
    closer = [
        row.candidates[0].seed_nll < row.reference_nll
        for row, example in zip(read_records(distilled[1], Rewrite), distilled[0], strict=True)
        if len(example.references) == 1 and "written" in row.candidates[0].text
    ]
    assert len(closer) >= 2 and all(closer)


def test_an_own_call_trains_as_it_was_written_and_a_references_call_as_the_template_writes_it(
    tmp_path, able, distilled
):
    _, prompter, _ = able
    examples, rewrites = distilled
    select(examples, rewrites, tmp_path / "s.jsonl", None)
    decode = prompter.tokenizer.decode
    for example, row in zip(examples, read_records(tmp_path / "s.jsonl", Selected), strict=True):
        for responses in (example.references, row.responses):
            for ids, labels in sequences(example, responses, prompter):
                assert "The function returned: done" not in decode([t for t in labels if t != -100])
                assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
            first = decode([t for t in sequences(example, responses, prompter)[0][1] if t != -100])
            turn = heard(responses[0])
            assert first.startswith(turn.get("written", "I would use the function like this"))
            assert turn["tool_calls"][0]["name"] in first


@pytest.mark.heavy
def test_resuming_gives_the_same_bytes(tmp_path, able, distilled):
    lm, prompter, engine = able
    examples, rewrites = distilled
    out = tmp_path / "r.jsonl"
    distill(examples, out, lm.digest, engine, prompter, DistillSettings(max_new_tokens=64))
    assert out.read_bytes() == rewrites.read_bytes()


def test_a_call_in_another_form_keeps_the_references(able, distilled):
    _, prompter, _ = able
    example = distilled[0][0]
    call = example.answers[0]["tool_calls"][0]
    prompt = prompter.train(example.prompt, example.tools)
    arguments = ", ".join(f"{k}={v!r}" for k, v in call["arguments"].items())
    plain = f"{call['name']}({arguments})"
    assert own_call(example, 0, plain, prompt, prompter) is None
    data = spoken({"role": "assistant", "content": "So.", "tool_calls": [{**call, "id": "x"}]})
    assert heard(own_call(example, 0, data, prompt, prompter)) == {
        "role": "assistant", "content": "So.", "tool_calls": [call],
    }  # fmt: skip
    for text, reason in ((plain, Reason.CALL_FORM), ("No.", Reason.NO_CALL), (plain.replace("(", "_x("), Reason.NO_CALL),
                         ("", Reason.NO_CALL), (data, Reason.OWN_CALL), (example.reference, Reason.COPIED)):  # fmt: skip
        rewrite = Rewrite(id=example.id, candidates=(Candidate(text=text, finish_reason="stop"),))
        judged = judge(example, rewrite, None)
        assert judged == [reason]
        chosen = choose(example, rewrite, judged)
        assert chosen.response == (text if reason in (Reason.OWN_CALL, Reason.COPIED) else example.reference)


def test_a_call_that_is_a_text_is_compared_as_a_call_whatever_the_check(tmp_path):
    row = {"conversations": [
        {"from": "user", "value": "Weather?"}, {"from": "assistant", "value": "[weather(city='Oslo')]"},
        {"from": "tool", "value": "sunny"}, {"from": "assistant", "value": "Sunny."},
    ]}  # fmt: skip
    (example,) = read_examples(DataSettings(path=str(write_jsonl(tmp_path / "d.jsonl", [row]))))
    for first, reason in (('[weather(city="Oslo")]', Reason.KEPT), ("I ask for the weather.", Reason.NO_ANSWER),
                          ("[weather(city='Rome')]", Reason.WRONG)):  # fmt: skip
        rewrite = Rewrite(id=example.id, candidates=(Candidate(turns=(first,), text="It is sunny."),))
        assert judge(example, rewrite, None) == [reason]


def test_the_answer_of_a_task_is_compared_as_a_call(tmp_path, able):
    lm, prompter, engine = able
    path = write_jsonl(tmp_path / "t.jsonl", [row for n, row in enumerate(tool_rows(12, "test")) if n % 3 == 0])
    settings = TaskSettings(name="t", path=str(path), check="exact", max_new_tokens=64)
    tasks = load_tasks([settings], 0, Permissions(), Progress())
    assert validate(tasks[0]).good
    (result,) = evaluate(tasks, tmp_path / "e", lm.digest, engine, prompter)
    predictions = list(read_records(tmp_path / "e" / "predictions.jsonl", Prediction))
    assert result.n == 4 and result.correct >= 2 and result.wrong >= 1
    assert all("(" in p.extracted and "(" in p.expected for p in predictions if p.verdict is Verdict.CORRECT)


@pytest.mark.heavy
def test_a_whole_run_and_its_page_and_exports(tmp_path, folder):
    from selfdistill.pipeline import run

    recipe = {
        "model": folder,
        "data": {"path": str(write_jsonl(tmp_path / "d.jsonl", tool_rows(12)))},
        "distill": {"max_new_tokens": 64},
        "select": {"export": {"messages": "out.jsonl"}},
        "train": {"epochs": 1, "batch_size": 4},
        "tasks": [{"name": "t", "path": str(write_jsonl(tmp_path / "t.jsonl", tool_rows(4, "test"))), "check": "exact",
                   "max_new_tokens": 64}],
    }  # fmt: skip
    report = run(checked(Recipe, recipe, "recipe"), tmp_path / "run")
    assert report["yield"]["own_call"] >= 2
    page = (tmp_path / "run" / "report.html").read_text()
    shown = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.S)[1])["items"]
    rows = [item for item in shown if item["kind"] == "row"]
    assert rows[0]["prompt"][0][0] == "tools" and rows[0]["prompt"][0][1].endswith("): A tool.")
    assert all(row["references"][0].startswith("calls ") for row in rows) and "tool_calls" not in json.dumps(shown)
    assert {"user", "assistant", "tool", "tools"} == {role for row in rows for role, _ in row["prompt"]}
    told = sd.Run(tmp_path / "run").show(rows[1]["id"])
    assert "The function returned" not in told and "done" in told and "calls " in told and "tool_calls" not in told
    again = read_examples(DataSettings(path=str(tmp_path / "run" / "out.jsonl")))
    assert len(again) == 12 and all(e.tools for e in again)


def test_tools_that_the_model_cannot_see_stop_a_run_before_it_begins(tmp_path):
    from selfdistill.pipeline import run

    path = str(write_jsonl(tmp_path / "d.jsonl", tool_rows(2)))
    with pytest.raises(UserError, match="2 rows declare tools") as caught:
        run(checked(Recipe, {"model": "embedded", "data": {"path": path}}, "recipe"), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_rewrites_of_other_programs_may_be_whole_datasets_with_tools(tmp_path, distilled):
    examples, rewrites = distilled
    select(examples, rewrites, tmp_path / "s.jsonl", None, exports={"messages": tmp_path / "x.jsonl"})
    reasons = select(examples, tmp_path / "x.jsonl", tmp_path / "s2.jsonl", None)
    assert reasons[Reason.OWN_CALL] + reasons[Reason.KEPT] >= 4
    assert b"written" not in b"".join(map(dump, read_records(tmp_path / "s2.jsonl", Selected)))


def test_a_reader_that_the_tokenizer_brings_is_asked_where_ours_reads_no_call(able, distilled):
    import copy

    _, prompter, _ = able
    example = distilled[0][0]
    prompt = prompter.train(example.prompt, example.tools)
    text = "So. <odd>get_weather Oslo</odd>"
    assert as_heard(text, prompt, prompter) == text

    class Reading(type(prompter.tokenizer)):
        def parse_response(self, response, prefix, tools):
            assert prefix.endswith("<|assistant|>") and tools == list(example.tools)
            call = {
                "function": {"name": "get_weather", "arguments": {"city": response.split()[2].removesuffix("</odd>")}}
            }
            return {"role": "assistant", "content": "So.", "tool_calls": [call]}

    tokenizer = copy.copy(prompter.tokenizer)
    tokenizer.__class__ = Reading
    tokenizer.response_template = {"fields": {}}
    heard_there = heard(as_heard(text, prompt, replace(prompter, tokenizer=tokenizer)))
    assert heard_there["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Oslo"}}]
    plain = 'add_event(title="x")'
    assert as_heard(plain, prompt, replace(prompter, tokenizer=tokenizer)) == plain
