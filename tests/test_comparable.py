"""What is compared is comparable: the same prompts, judged by the same check, on items drawn the same way."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import cli, random_adapter, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from test_knowledge import ask as ask_harness
from test_knowledge import needs_harness, write_task

from selfdistill import checks
from selfdistill.comparison.differences import compare
from selfdistill.comparison.gate import gate
from selfdistill.core.config import DataSettings, PromptSettings, TaskSettings
from selfdistill.core.engine_settings import TransformersSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Prediction, Verdict, dump, read_records
from selfdistill.data.examples import read_examples
from selfdistill.engines.open import make_engine
from selfdistill.models.folder import adapter_digest
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.report.summary import verdicts
from selfdistill.report.tables import shift_table
from selfdistill.shift import measure as drift
from selfdistill.stages.evaluate import evaluate, regrade
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks
from selfdistill.tasks.overlap import overlap_line, overlaps


def load(*settings: TaskSettings):
    return load_tasks(settings, 0, Permissions(), Progress())


# --- prompts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory, embedded, engine, foreign_folder):
    """Evaluation folders of the same items: by format, of an adapter, and of another model with another tokenizer."""
    folder = tmp_path_factory.mktemp("asked")
    (task,) = load(TaskSettings(name="facts", path="micro:facts", limit=4, max_new_tokens=8))
    for form in ("chat", "paper"):
        prompter = Prompter.create(embedded.tokenizer, PromptSettings(format=form))
        evaluate([task], folder / form, embedded.digest, engine, prompter)
    adapter = random_adapter(folder / "adapter", 0.5)
    prompter = Prompter.create(embedded.tokenizer)
    with engine.adapter(adapter):
        evaluate([task], folder / "tuned", embedded.digest, engine, prompter, adapter_digest(adapter))
    lm = load_model(str(foreign_folder))
    for form in ("chat", "paper"):
        other = Prompter.create(lm.tokenizer, PromptSettings(format=form))
        evaluate([task], folder / f"foreign-{form}", lm.digest, make_engine(TransformersSettings(), lm, other), other)
    return folder


@pytest.mark.heavy
def test_the_same_prompts_are_compared_also_of_models_with_other_tokenizers(asked):
    first, second = (list(read_records(asked / f / "predictions.jsonl", Prediction)) for f in ("chat", "foreign-chat"))
    assert all(a.prompt != b.prompt and a.asked == b.asked for a, b in zip(first, second, strict=True))
    assert len({p.asked for p in first}) == 4
    for other in ("tuned", "foreign-chat"):
        (task,) = compare({"a": asked / "chat", "b": asked / other})
        assert task["differences"][0]["n"] == 4
        assert gate(asked / "chat", asked / other, margin=0.5).probes[0].n == 4


@pytest.mark.parametrize("other", ["paper", "foreign-paper"])
def test_arms_that_were_asked_other_prompts_are_refused(asked, other):
    said = (
        "task facts: .* were asked different prompts \\(for example item facts/.*: prompt hash .* chat in one and paper"
    )
    for refuse in (
        lambda: compare({"a": asked / "chat", "b": asked / other}),
        lambda: compare({"a": [asked / "tuned", asked / "chat"], "b": [asked / "tuned", asked / other]}),
        lambda: gate(asked / "chat", asked / other),
        lambda: drift.compare_texts(asked / "chat", asked / other),
    ):
        with pytest.raises(UserError, match=said):
            refuse()
    for command in ("compare", "gate", "shift"):
        done = cli(command, asked / "chat", asked / other)
        assert done.returncode == 2 and "different prompts" in done.stderr and done.stderr.count("\n") == 1


def test_a_chat_template_that_writes_something_else_is_another_prompt(asked, tmp_path, embedded, engine):
    dated = replace(Prompter.create(embedded.tokenizer))
    template = embedded.tokenizer.chat_template
    (task,) = load(TaskSettings(name="facts", path="micro:facts", limit=4, max_new_tokens=8))
    try:
        embedded.tokenizer.chat_template = "25 Nov " + template
        evaluate([task], tmp_path / "dated", embedded.digest, engine, dated)
    finally:
        embedded.tokenizer.chat_template = template
    with pytest.raises(UserError, match="the question is the same, and the model's chat template"):
        compare({"a": asked / "chat", "b": tmp_path / "dated"})


# --- the check's source --------------------------------------------------------------------------------------------


@pytest.fixture
def own_check(tmp_path, monkeypatch):
    """A module of the user's with a check in it; called with a source, it becomes that."""
    monkeypatch.chdir(tmp_path)

    def written(body: str) -> str:
        (tmp_path / "mine_check.py").write_text(f"def good(response, reference, example):\n    return {body}\n")
        sys.modules.pop("mine_check", None)
        importlib.invalidate_caches()
        checks.source_digest.cache_clear()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        return "mine_check:good"

    yield written
    sys.modules.pop("mine_check", None)
    checks.source_digest.cache_clear()


def test_a_changed_check_is_named_and_regrading_mends_it(tmp_path, own_check, embedded, engine):
    prompter = Prompter.create(embedded.tokenizer)

    def measure():
        tasks = load(
            TaskSettings(name="facts", path="micro:facts", check=own_check.spec, limit=4, max_new_tokens=8),
            TaskSettings(name="tools", path="micro:tools", limit=4, max_new_tokens=8),
        )
        return evaluate(tasks, tmp_path / "e", embedded.digest, engine, prompter)

    own_check.spec = own_check("True")
    first = measure()
    texts = [p.text for p in read_records(tmp_path / "e" / "predictions.jsonl", Prediction)]
    assert first[0].score == 1 and measure() == first
    own_check("False")
    with pytest.raises(UserError, match=r"another version of the check of facts \(mine_check:good\).* --regrade"):
        measure()
    again = regrade(tmp_path / "e", Permissions())
    assert again[0].score == 0 and again[1] == first[1] and measure() == again
    assert [p.text for p in read_records(tmp_path / "e" / "predictions.jsonl", Prediction)] == texts


def test_answers_of_a_stopped_evaluation_are_judged_by_the_mended_check(tmp_path, own_check, embedded, engine):
    prompter, asked = Prompter.create(embedded.tokenizer), []

    def measure():
        (task,) = load(TaskSettings(name="facts", path="micro:facts", check=own_check.spec, limit=12, max_new_tokens=8))
        counted = SimpleNamespace(
            describe=engine.describe, generate=lambda rows: engine.generate(asked.append(r.id) or r for r in rows)
        )
        return evaluate([task], tmp_path / "e", embedded.digest, counted, prompter)

    own_check.spec = own_check("1 / 0 if sum(map(ord, example.id)) % 4 == 0 else True")
    with pytest.raises(UserError, match=r"failed on id facts/\w+: ZeroDivisionError"):
        measure()
    kept = list(read_records(tmp_path / "e" / "predictions.jsonl.partial", Prediction))
    assert 0 < len(kept) < 12 and all(p.verdict is Verdict.CORRECT for p in kept)
    asked.clear()
    own_check("False")
    (result,) = measure()
    assert (result.n, result.score) == (12, 0) and len(asked) == 12 - len(kept)  # none was asked again
    assert (result,) == tuple(measure())


def test_the_source_of_built_in_checks_is_part_of_the_identity(tmp_path, monkeypatch, embedded, engine):
    prompter = Prompter.create(embedded.tokenizer)
    tasks = load(TaskSettings(name="facts", path="micro:facts", limit=2, max_new_tokens=8))
    evaluate(tasks, tmp_path / "e", embedded.digest, engine, prompter)
    found = checks.source_digest("contains")
    assert found == checks.source_digest("last_number") == checks.source_digest("regex:a:b")
    monkeypatch.setattr("selfdistill.stages.identity.source_digest", lambda spec: "other")
    with pytest.raises(UserError, match="check of facts"):
        evaluate(tasks, tmp_path / "e", embedded.digest, engine, prompter)


@needs_harness
def test_another_harness_is_another_evaluation(tmp_path, monkeypatch, embedded, engine):
    prompter = Prompter.create(embedded.tokenizer)
    tasks = load(TaskSettings(name="q", path="lm-eval:micro_arc", limit=4))
    evaluate(tasks, tmp_path / "e", embedded.digest, engine, prompter)
    monkeypatch.setattr("selfdistill.stages.identity.version", lambda package: "9.9")
    with pytest.raises(UserError, match=r"check of q: .*lm-eval .* -> .*lm-eval 9\.9.*Choose another"):
        evaluate(tasks, tmp_path / "e", embedded.digest, engine, prompter)


# --- items that are drawn ------------------------------------------------------------------------------------------


def test_a_limit_draws_the_same_items_whatever_the_seed_in_their_order(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"prompt": f"{k}?", "response": str(k)} for k in range(500)])
    settings = TaskSettings(name="t", path=str(path), check="exact", limit=40)
    drawn = [
        [int(e.reference) for e in load_tasks([settings], seed, Permissions(), Progress())[0].items]
        for seed in (0, 0, 7)
    ]
    assert drawn[0] == drawn[1] == drawn[2] == sorted(set(drawn[0])) and len(drawn[0]) == 40
    assert max(drawn[0]) > 400 and min(drawn[0]) < 100  # not the first 40
    (whole,) = load(settings.model_copy(update={"limit": 900}))
    assert [e.reference for e in whole.items] == [str(k) for k in range(500)]


@pytest.mark.heavy
@needs_harness
def test_a_limit_of_a_harness_task_draws_too(tmp_path, embedded):
    rows = [{"question": f"What is {k}?", "choices": [f"{k}", "none"], "label": 0} for k in range(60)]
    folder = write_task(tmp_path / "tasks", "count", rows)
    drawn = [int(p.expected) for p in ask_harness("count", embedded, folder, limit=6, chat=False)]
    assert len(drawn) == 6 and drawn == sorted(drawn) and max(drawn) > 20
    assert drawn == [int(p.expected) for p in ask_harness("count", embedded, folder, limit=6, chat=False)]


# --- rows that are test items --------------------------------------------------------------------------------------


def example(*user: str, id: str = "x") -> Example:
    turns = [t for q in user for t in ({"role": "user", "content": q}, {"role": "assistant", "content": "a"})]
    return Example(id=id, prompt=turns[:-1], reference="a", task="t")


@given(st.text("aBc 1\n", min_size=1).filter(str.strip))
def test_case_and_white_space_hide_no_test_item(text):
    task = replace(load(TaskSettings(name="t", path="micro:facts", limit=1))[0], items=(example(text),))
    for same in (text.upper(), f" {text}\n", text.replace(" ", "\t\u00a0")):
        assert overlaps(iter([example(same)]), [task]) == {"t": {"rows": 1, "of": 1, "examples": ["x"]}}
    assert overlaps([example(text + "2")], [task]) == {}


def test_each_beginning_of_a_conversation_is_looked_at_and_no_other_part():
    (task,) = load(TaskSettings(name="t", path="micro:facts", limit=1))
    task = replace(task, items=(example("one", "two"),))
    rows = [example("one", "two", "three", id="a"), example("one", id="b"), example("two", id="c"), example("onetwo")]
    found = overlaps(rows, [task])
    assert found == {"t": {"rows": 1, "of": 4, "examples": ["a"]}}
    assert overlap_line("t", found["t"]).startswith("1 of 4 training rows is an item of task t (a): ")
    assert "rows are items of task t (for example a, b, c): " in overlap_line(
        "t", {"rows": 9, "of": 9, "examples": [*"abc"]}
    )


def test_the_microworlds_training_rows_are_no_test_items():
    tasks = load(*(TaskSettings(name=n, path=f"micro:{n}", limit=100) for n in ("facts", "chat", "rare_tools")))
    assert overlaps(read_examples(DataSettings(path="micro:facts+chat+rare_tools", sample=300)), tasks) == {}


def test_train_is_told_of_them_where_it_is_told_of_the_tasks(tmp_path):
    rows = [{"prompt": f"What is {k}?", "response": f"It is {k}."} for k in range(6)]
    train, test = write_jsonl(tmp_path / "train.jsonl", rows), write_jsonl(tmp_path / "test.jsonl", rows[4:])
    done = cli("train", "--model", "embedded", "--data", train, "--out", tmp_path / "a", "--epochs", 1,
               "--task", f"name=t,path={test},check=exact")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stderr.split()).count("2 of 6 training rows are items of task t") == 1


# --- what is said --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p_holm", "fell"), [(0.04, 1), (0.06, 0)])
def test_only_a_loss_that_the_adjusted_test_finds_is_called_one(p_holm, fell):
    def d(a, b, value, **more):
        return {"a": a, "b": b, "value": value, "low": value - 0.01, "high": value + 0.01, "p_holm": 1.0} | more

    tasks = [
        {"task": name, "role": role, "differences": [d("seed", "vanilla", -0.1, p_holm=p_holm), d("seed", "sdft", 0.2)]}
        for name, role in (("aim", "target"), ("facts", "retained"))
    ]
    arms = [{"name": n, "method": n, "base": b, "rows": None} for n, b in (("vanilla", None), ("sdft", "vanilla"))]
    (said,) = verdicts({"tasks": tasks, "arms": arms})
    assert f"Of 1 other ability, {fell} fell under vanilla fine-tuning" in said
    assert (
        "SDFT by +20.0 (inside the noise)." in said
        and ("vanilla fine-tuning moved the model by -10.0 points and SDFT" in said) == fell
    )


# --- texts ---------------------------------------------------------------------------------------------------------


def shifted(folder, rows, check="exact"):
    """An evaluation folder of items (id, reference, text)."""
    folder.mkdir()
    items = [Example(id=i, prompt=({"role": "user", "content": i},), reference=r, task="t") for i, r, _ in rows]
    made = [
        Prediction(id=i, task="t", prompt="p", text=t, finish_reason="stop", verdict=Verdict.WRONG) for i, _, t in rows
    ]
    (folder / "items.jsonl").write_bytes(b"".join(map(dump, items)))
    (folder / "predictions.jsonl").write_bytes(b"".join(map(dump, made)))
    counts = dict.fromkeys(("correct", "truncated", "errors"), 0) | {"n": len(rows), "wrong": len(rows)}
    result = {"task": "t", "check": check, "role": "retained", "score": 0.0, "low": 0.0, "high": 0.5} | counts
    (folder / "result.json").write_text(json.dumps([result]))
    return folder


def test_multiple_choice_is_no_text_to_be_compared(tmp_path):
    pytest.importorskip("sacrebleu", reason="needs pip install 'selfdistill[paper]'")
    pytest.importorskip("sentence_transformers", reason="needs pip install 'selfdistill[paper]'")
    rows = [("a", "B", "B"), ("b", "(c)", "I think (c)"), ("c", "A dog", "A dog barks"), ("d", "5", "It is 5 in all")]
    first, second = shifted(tmp_path / "1", rows), shifted(tmp_path / "2", rows)
    found = drift.compare_texts(first, second)
    assert found["retained"]["n"] == 2
    assert ["texts compared", "retained", "2"] in shift_table([{"a": "1", "b": "2", "texts": found}])[1]
    choice = shifted(tmp_path / "3", rows, "lm-eval")
    assert drift.compare_texts(choice, choice) == {}
    done = cli("shift", choice, choice)
    assert done.returncode == 2 and "all items are multiple choice" in done.stderr
