from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
from itertools import islice

import pytest
from conftest import random_adapter, write_jsonl

from selfdistill.core.config import PromptSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Prediction, Verdict, dump, parse
from selfdistill.engines.protocol import Scoring
from selfdistill.microworld.quizzes import CHANCE, QUIZZES, write_quizzes
from selfdistill.microworld.world import items
from selfdistill.models.chat import ChatTemplate
from selfdistill.models.prompts import Prompter
from selfdistill.tasks.harness import HARNESS, harness_predictions

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="needs lm-evaluation-harness: pip install 'selfdistill[paper]'",
)

TASK = {
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "question",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROWS = [
    {"question": "What is the capital of Italy?", "choices": ["It is Rome.", "It is Oslo."], "label": 0},
    {"question": "What is the capital of Norway?", "choices": ["It is Rome.", "It is Oslo."], "label": 1},
]


def write_task(folder, name, rows, **changes):
    """A task file of the harness' form. JSON is YAML, but for the tag of a function."""
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / f"{name}.jsonl", rows)
    functions = {k: v for k, v in changes.items() if isinstance(v, str) and v.startswith("!function")}
    task = TASK | {"task": name, "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}} | changes
    lines = [f"{k}: {v if k in functions else json.dumps(v)}\n" for k, v in task.items() if v is not None]
    (folder / f"{name}.yaml").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def quizzes(tmp_path_factory):
    return write_quizzes(tmp_path_factory.mktemp("quizzes"), 24, 0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> str:
    """An adapter that moves every likelihood."""
    return random_adapter(tmp_path_factory.mktemp("adapter"), std=0.05)


@pytest.fixture
def spied(monkeypatch):
    """What the harness itself reports, a result a run."""
    import lm_eval

    seen, original = [], lm_eval.simple_evaluate
    monkeypatch.setattr(lm_eval, "simple_evaluate", lambda **kw: seen.append(original(**kw)) or seen[-1])
    return seen


def ask(name, lm, folder, model=None, limit=None, rows=8, chat=True):
    template = ChatTemplate(lm.tokenizer, PromptSettings()) if chat else None
    return harness_predictions(name, lm, model or lm.model, limit, folder, rows, template)


# --- the quizzes -------------------------------------------------------------------------------------------------


def test_the_same_arguments_write_the_same_quizzes_from_the_test_split(tmp_path, quizzes):
    def content(folder):
        return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}

    assert content(write_quizzes(tmp_path / "again", 24, 0)) == content(quizzes)
    other = content(write_quizzes(tmp_path / "other", 24, 1))
    assert all((other[k] == v) == k.endswith(".yaml") for k, v in content(quizzes).items())
    trained = {i.prompt for a in ("facts", "chat") for i in islice(items(a, "train"), 1500)}
    for path in quizzes.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == (12 if "mmlu" in path.name else 24)
        for row in rows:
            assert row["question"].partition(" I think")[0] not in trained
            assert len(set(row["choices"])) == len(row["choices"])
    with pytest.raises(UserError, match="at least 2"):
        write_quizzes(tmp_path, 1, 0)


@pytest.mark.heavy
@needs_harness
@pytest.mark.parametrize("name", QUIZZES)
def test_the_seed_lm_knows_the_answers_and_verdicts_agree_with_the_harness(name, embedded, quizzes, spied):
    predictions = ask(name, embedded, quizzes)
    assert len({p.id for p in predictions}) == len(predictions) == 24
    assert all(parse(dump(p), Prediction, "") == p and p.task == name for p in predictions)
    score = sum(p.verdict is Verdict.CORRECT for p in predictions) / 24
    assert score > CHANCE[name] + 0.3
    reported = spied[0]["results"][name]
    for metric in predictions[0].metrics:
        assert sum(p.metrics[metric] for p in predictions) / 24 == pytest.approx(reported[f"{metric},none"])
    if name == "micro_truthfulqa":
        assert any(0 < p.metrics["acc"] < 1 for p in predictions)
        assert all((p.metrics["acc"] > 0.5) == (p.verdict is Verdict.CORRECT) for p in predictions)
    else:
        metric = "acc_norm" if "acc_norm" in predictions[0].metrics else "acc"
        assert score == reported[f"{metric},none"]
        assert all((p.extracted == p.expected) == (p.verdict is Verdict.CORRECT) for p in predictions)


# --- the same items for every arm, and a model that stays as it is ------------------------------------------------


@pytest.mark.heavy
@needs_harness
def test_an_adapter_changes_likelihoods_but_neither_the_items_nor_the_model(
    embedded, engine, quizzes, adapter, spied, capfd
):
    import torch

    before = {k: v.clone() for k, v in embedded.model.state_dict().items()}
    numbers, layer = (random.getstate(), torch.get_rng_state()), embedded.model.model.layers[0]
    layer.train()  # an odd mode, to be found again
    try:
        first = ask("micro_mmlu", embedded, quizzes)
        assert layer.training and not embedded.model.training
    finally:
        layer.eval()
    assert random.getstate() == numbers[0] and torch.equal(torch.get_rng_state(), numbers[1])
    with engine.adapter(adapter):
        tuned = ask("micro_mmlu", embedded, quizzes, engine.model)
    last = ask("micro_mmlu", embedded, quizzes)
    assert [(p.id, p.prompt, p.expected) for p in first] == [(p.id, p.prompt, p.expected) for p in tuned]
    assert first == last
    likelihoods = [[s["filtered_resps"] for t in r["samples"].values() for s in t] for r in spied]
    assert likelihoods[0] == likelihoods[2]
    assert all(a != b for a, b in zip(likelihoods[0], likelihoods[1], strict=True))
    after = embedded.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.heavy
@needs_harness
@pytest.mark.parametrize("name", QUIZZES)
def test_log_likelihoods_are_those_of_the_engine(name, embedded, engine, quizzes, spied):
    ask(name, embedded, quizzes, limit=4)
    prompter, tokenizer = Prompter.create(embedded.tokenizer), embedded.tokenizer
    ours, theirs = [], {}
    for task, samples in spied[0]["samples"].items():
        for sample in samples:
            beginning = sample["doc"].get("beginning", "")
            prompt = prompter.evaluate([{"role": "user", "content": sample["doc"]["question"]}]).ids
            prompt += tuple(tokenizer(beginning, add_special_tokens=False)["input_ids"])
            for i, (choice, answer) in enumerate(zip(sample["doc"]["choices"], sample["filtered_resps"], strict=True)):
                text = f" {choice}" if beginning else choice
                key = f"{task} {sample['doc_id']} {i}"
                ours.append(Scoring(key, prompt, tuple(tokenizer(text, add_special_tokens=False)["input_ids"])))
                theirs[key] = -answer[0]
    assert len(theirs) >= 8
    (scores,) = engine.score([ours])
    assert {s.id: s.nll for s in scores} == pytest.approx(theirs, rel=1e-4, abs=1e-4)


# --- forms of task files -----------------------------------------------------------------------------------------


@pytest.mark.heavy
@needs_harness
def test_a_group_holds_every_subtask_and_an_item_that_occurs_twice_counts_twice(tmp_path, embedded):
    write_task(tmp_path, "north", ROWS[1:])
    write_task(tmp_path, "south", [*ROWS, ROWS[0]])
    (tmp_path / "europe.yaml").write_text("group: europe\ntask: [north, south]\n")
    predictions = ask("europe", embedded, tmp_path)
    parts = [p.id.split("/") for p in predictions]
    assert [(a, b) for a, b, _ in parts] == [("europe", "north"), *[("europe", "south")] * 3]
    assert parts[0][2] == parts[2][2] and parts[3][2] == f"{parts[1][2]}-2"
    assert [p.expected for p in predictions] == ["It is Oslo.", "It is Rome.", "It is Oslo.", "It is Rome."]
    assert len(ask("europe", embedded, tmp_path, limit=1)) == 2
    assert [p.id.count("/") for p in ask("north", embedded, tmp_path)] == [1]


@pytest.mark.heavy
@needs_harness
def test_a_benchmark_has_the_shots_and_the_metric_of_the_leaderboard(tmp_path, embedded, spied):
    rows = [r | {"question": f"{r['question']} ({i})"} for i in range(20) for r in ROWS]
    metrics = [*TASK["metric_list"], {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}]
    write_task(tmp_path, "arc_challenge", rows, fewshot_split="test", metric_list=metrics)
    arc = ask("arc", embedded, tmp_path, limit=4, chat=False)
    sample = spied[0]["samples"]["arc_challenge"][0]
    assert sample["arguments"][0][0].count("What is the capital") == 26 and sample["arguments"][0][1] == " It is Rome."
    assert [p.verdict is Verdict.CORRECT for p in arc] == [p.metrics["acc_norm"] == 1 for p in arc]
    assert all(p.id.startswith("arc/") and p.task == "arc" and p.id.count("/") == 1 for p in arc)
    assert HARNESS["mmlu"] == ("mmlu", 5, "acc") and HARNESS["truthfulqa"] == ("truthfulqa_mc2", 0, "acc")


@pytest.mark.heavy
@needs_harness
def test_winogrande_puts_the_choices_into_the_context(tmp_path, embedded, spied):
    rows = [
        {"sentence": f"Ada thanks Ben since _ gave {x}.", "option1": "Ada", "option2": "Ben", "answer": "2"}
        for x in ("help", "cake", "advice", "flowers", "money", "time", "tea")
    ]
    functions = {
        f"doc_to_{x}": f"!function lm_eval.tasks.winogrande.preprocess_winogrande.doc_to_{x}"
        for x in ("text", "choice", "target")
    }
    write_task(tmp_path, "winogrande", rows, fewshot_split="test", **functions)
    predictions = ask("winogrande", embedded, tmp_path, chat=False)
    assert len(predictions) == 7 and all(p.expected == "Ada thanks Ben since Ben" for p in predictions)
    score = sum(p.verdict is Verdict.CORRECT for p in predictions) / 7
    assert score == spied[0]["results"]["winogrande"]["acc,none"]
    assert all((p.extracted == p.expected) == (p.verdict is Verdict.CORRECT) for p in predictions)
    assert spied[0]["samples"]["winogrande"][0]["arguments"][0][0].count("gave") == 5  # five shots, and the blank


# --- what does not fit -------------------------------------------------------------------------------------------


@pytest.mark.heavy
@needs_harness
def test_a_prompt_that_was_cut_says_so_and_no_likelihood_is_an_error(tmp_path, embedded, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    write_task(tmp_path, "capitals", [*ROWS, {**ROWS[0], "question": "long " * 40}])
    short = dataclasses.replace(embedded, context=40)
    assert ["context of 40" in (p.note or "") for p in ask("capitals", short, tmp_path)] == [False, False, True]
    original = HFLM._loglikelihood_tokens
    monkeypatch.setattr(
        HFLM, "_loglikelihood_tokens", lambda self, r, **kw: [(float("nan"), b) for _, b in original(self, r, **kw)]
    )
    assert {(p.verdict, p.finish_reason) for p in ask("capitals", embedded, tmp_path)} == {(Verdict.ERROR, "error")}


@needs_harness
def test_out_of_memory_halves_the_batch(tmp_path, embedded, monkeypatch):
    import lm_eval
    import torch

    rows, original = [], lm_eval.simple_evaluate

    def scarce(**arguments):
        rows.append(arguments["model"].batch_size)
        if rows[-1] > 2:
            raise torch.OutOfMemoryError
        return original(**arguments)

    monkeypatch.setattr(lm_eval, "simple_evaluate", scarce)
    assert len(ask("capitals", embedded, write_task(tmp_path, "capitals", ROWS))) == 2
    assert rows == [8, 4, 2]


@needs_harness
@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (ROWS, {"dataset_kwargs": {"data_files": {"test": "absent.jsonl"}}}, "absent.jsonl"),
        ([*ROWS, {**ROWS[0], "label": 2}], {}, "item 3: the label 2 names none of the 2 choices"),
        ([*ROWS, {**ROWS[0], "choices": ["It is Rome.", None]}], {}, "item 3: a choice is missing or no text"),
        ([*ROWS, {"question": "?", "label": 0}], {}, "item 3: a choice is missing or no text"),
        ([*ROWS, {**ROWS[0], "question": None}], {}, "item 3: the question is missing or no text"),
        ([], {}, "a data file is empty"),
        (ROWS, {"doc_to_text": "{{nothing}}"}, "'nothing' is undefined"),
        (ROWS, {"output_type": "generate_until"}, "expected multiple_choice"),
        (ROWS, {"output_type": "song"}, "song"),
        (ROWS, {"test_split": "train"}, "KeyError: 'train'"),
        (ROWS, {"colour": "red"}, "colour"),
        (ROWS, {"doc_to_text": "!function absent.text"}, "absent"),
        (ROWS, {"metric_list": [{"metric": "brier_score", "aggregation": "brier_score"}]}, "reports no acc"),
    ],
)
def test_a_broken_task_file_is_one_line(tmp_path, embedded, rows, changes, message):
    write_task(tmp_path, "broken", rows, **changes)
    with pytest.raises(UserError, match=message) as error:
        ask("broken", embedded, tmp_path)
    assert "\n" not in str(error.value) and str(error.value).startswith("knowledge task broken: ")


@needs_harness
def test_what_is_not_there_is_one_line(tmp_path, embedded, capfd):
    write_task(tmp_path, "capitals", ROWS)
    with pytest.raises(UserError, match=r"no task other in .*It has: capitals"):
        ask("other", embedded, tmp_path)
    (tmp_path / "other.yaml").write_text("task: [other\n")
    with pytest.raises(UserError, match=r"other\.yaml: cannot be read") as error:
        ask("other", embedded, tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "capitals.jsonl").write_text('{"question": \n')
    with pytest.raises(UserError, match=r"JSON parse error") as error:
        ask("capitals", embedded, tmp_path)
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match="no such folder"):
        ask("arc", embedded, tmp_path / "absent")
    with pytest.raises(UserError, match=r"knowledge task history: unknown. Expected one of mmlu, truthfulqa"):
        ask("history", embedded, None)
    for name in HARNESS:
        with pytest.raises(UserError, match=rf"knowledge task {name}: .*folder of local task files") as error:
            ask(name, embedded, None, limit=1, chat=False)
        assert "\n" not in str(error.value)


def test_without_the_harness_the_message_says_what_to_install(embedded, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'selfdistill\[paper\]'"):
        ask("arc", embedded, None)
