"""Items that cannot be judged: in no score, counted and shown everywhere, and never a help to pass."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import cli, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks.base import Judgement
from selfdistill.comparison import gate as stage
from selfdistill.comparison.differences import compare
from selfdistill.comparison.gate import gate
from selfdistill.comparison.scores import Answers, given_result
from selfdistill.core.config import Recipe, TaskSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Prediction, Verdict, read_records
from selfdistill.core.settings import checked
from selfdistill.microworld.world import items
from selfdistill.models.prompts import Prompter
from selfdistill.pipeline import run
from selfdistill.report.build import build
from selfdistill.report.tables import score_cell
from selfdistill.stages.evaluate import _judged, evaluate, regrade, task_result
from selfdistill.studies.lab import item_values
from selfdistill.tasks.base import Permissions, Task
from selfdistill.tasks.load import load_tasks
from selfdistill.tasks.validate import validate

WIDE = os.environ | {"COLUMNS": "200"}
WHY = "the reference has no answer"
UNREADABLE = "see the solution"


def questions(count: int, readable: int) -> list[dict]:
    """Word problems, of which the first `readable` have a reference with a number."""
    made = items("word_problems", "test")
    return [
        {"prompt": item.prompt, "response": item.expected if k < readable else UNREADABLE}
        for k, item in zip(range(count), made, strict=False)
    ]


def task_of(tmp_path, readable: int, count: int = 6, **more) -> Task:
    path = write_jsonl(tmp_path / f"{readable}.jsonl", questions(count, readable))
    settings = TaskSettings(name="w", path=str(path), check="last_number", max_new_tokens=64, **more)
    return load_tasks([settings], 0, Permissions(), Progress())[0]


@pytest.fixture
def ask(tmp_path, embedded, engine):
    prompter = Prompter.create(embedded.tokenizer)

    def asked(task: Task, name: str = "e"):
        return evaluate([task], tmp_path / name, embedded.digest, engine, prompter)[0], tmp_path / name

    return asked


# --- one evaluation ------------------------------------------------------------------------------------------------


def test_an_unreadable_reference_is_in_no_count_but_its_own(tmp_path, ask):
    whole, _ = ask(task_of(tmp_path, 4, count=4), "whole")
    result, folder = ask(task_of(tmp_path, 4, samples=2))
    assert result.unjudgeable == {WHY: 2} and result.n == whole.n == 4
    assert (result.score, result.low, result.high, result.errors) == (whole.score, whole.low, whole.high, 0)
    assert result.metrics["pass@1"].n == 4
    left_out = [p for p in read_records(folder / "predictions.jsonl", Prediction) if not p.verdict.judged]
    assert {(p.verdict, p.note) for p in left_out} == {(Verdict.UNJUDGEABLE, WHY)} and len(left_out) == 2
    assert all(s.passed is None for p in left_out for s in p.samples) and all(p.text for p in left_out)
    assert len(item_values(folder / "predictions.jsonl", None)) == 4
    assert regrade(folder, Permissions()) == [result]


def test_nothing_to_judge_is_no_score_of_zero(tmp_path, ask):
    result, folder = ask(task_of(tmp_path, 0))
    assert (result.n, result.score, result.low, result.note) == (0, None, None, "nothing to judge")
    shutil.copytree(folder, tmp_path / "copy")
    done = cli("gate", folder, tmp_path / "copy")
    assert done.returncode == 2 and "nothing to judge: none of its 6 items" in done.stderr and not done.stdout
    done = cli("compare", folder, tmp_path / "copy")
    assert done.returncode == 0 and "nothing to judge" in done.stdout and "6 of 6" in done.stdout
    assert "0.0 [" not in done.stdout


def test_what_a_check_cannot_tell_is_counted_by_its_reason_and_keeps_its_class():
    def check(response, reference, example):
        told = {"yes": "same", "no": "different"}
        if response in told:
            return Judgement(told[response], response, reference, label=response, metrics={"m": 1.0})
        return Judgement("cannot_tell", note=f"written in {response}", label="other", metrics={"m": 0.0})

    task = Task(TaskSettings(name="t", path="x", check="none"), "own:check", check)
    blank = Prediction(id="1", task="t", prompt="p", text="", finish_reason="stop", verdict="unjudged")
    texts = ["yes", "no", "yes", "Thai", "Thai", "Lao"]
    item = Example(id="1", prompt=({"role": "user", "content": "x"},), reference="y", task="t")
    answers = [
        _judged(task, item, blank.model_copy(update={"text": text, "finish_reason": "length"})) for text in texts
    ]
    result = task_result(task, answers)
    assert (result.n, result.correct, result.truncated) == (3, 2, 1)
    assert result.unjudgeable == {"written in Thai": 2, "written in Lao": 1}
    assert result.labels == {"yes": 2, "no": 1, "other": 3} and result.metrics["m"].n == 3


def test_validate_counts_unreadable_references_apart_from_wrong_verdicts(tmp_path):
    task = task_of(tmp_path, 4)
    found = validate(task)
    assert not found.failures and not found.good
    assert found.unjudgeable == {e.id: WHY for e in task.items if e.reference == UNREADABLE}
    done = cli("validate", "--task", f"name=w,path={tmp_path / '4.jsonl'},check=last_number")
    assert done.returncode == 1 and "6 items, 0 answers judged wrongly" in done.stdout
    assert f"2 items cannot be judged: {WHY}: w/" in done.stdout


# --- two models ----------------------------------------------------------------------------------------------------

SCORES = st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, None])] * 2), min_size=1, max_size=40)


def answers(scores) -> Answers:
    return Answers({"t": given_result("t", list(scores))}, {"t": {str(k): s for k, s in enumerate(scores)}})


def gated(base, new, **settings):
    """The gate on two lists of scores."""
    sides = {Path("base"): answers(base), Path("new"): answers(new)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "read_answers", sides.__getitem__)
        return gate(Path("base"), Path("new"), **settings)


@given(SCORES)
def test_a_difference_is_over_the_items_that_both_could_be_judged_on(pairs):
    with pytest.MonkeyPatch.context() as patch:
        sides = {Path("a"): answers([a for a, _ in pairs]), Path("b"): answers([b for _, b in pairs])}
        patch.setattr("selfdistill.comparison.differences.read_answers", sides.__getitem__)
        (task,) = compare({"a": Path("a"), "b": Path("b")})
        both = [(a, b) for a, b in pairs if None not in (a, b)]
        assert len(task["differences"]) == bool(both)
        for d in task["differences"]:
            assert d["n"] == len(both) and d["n"] + d["left_out"] == len(pairs)
            assert d["value"] == pytest.approx(sum(b - a for a, b in both) / len(both))
    for name, k in (("a", 0), ("b", 1)):
        judged = [pair[k] for pair in pairs if pair[k] is not None]
        assert task["arms"][name]["n"] == len(judged)
        assert task["arms"][name]["score"] == (pytest.approx(sum(judged) / len(judged)) if judged else None)


@given(SCORES, st.sampled_from([0.02, 0.3]))
def test_what_cannot_be_judged_in_new_is_lost_and_what_cannot_be_in_base_is_left_out(pairs, margin):
    base, new = [a for a, _ in pairs], [b for _, b in pairs]
    if all(a is None for a in base):
        with pytest.raises(UserError, match="nothing to judge"):
            gated(base, new, margin=margin)
        return
    found = gated(base, new, margin=margin).probes[0]
    held = [(a, b or 0.0) for a, b in pairs if a is not None]
    plain = gated([a for a, _ in held], [b for _, b in held], margin=margin).probes[0]
    for name in ("n", "base", "new", "difference", "low", "p", "verdict"):
        assert getattr(found, name) == getattr(plain, name)
    assert found.left_out == base.count(None)
    assert found.taken_as_wrong == sum(a is not None and b is None for a, b in pairs)


def test_the_gate_says_what_it_did_with_them(tmp_path):
    rows = [{"id": k, "correct": True if k else None} for k in range(200)]
    base = write_jsonl(tmp_path / "base.jsonl", rows)
    silent = write_jsonl(tmp_path / "silent.jsonl", [r | {"correct": None} if r["id"] > 150 else r for r in rows])
    done = cli("gate", base, silent, "--junit", tmp_path / "g.xml")
    assert done.returncode == 1  # 49 answers that nobody can read are 49 losses
    said = "1 item of BASE cannot be judged (left out); 49 items of NEW cannot be judged (taken as wrong)"
    assert said in done.stdout and said in (tmp_path / "g.xml").read_text()
    done = cli("gate", base, write_jsonl(tmp_path / "same.jsonl", rows))
    assert done.returncode == 0 and "1 item of BASE cannot be judged" in done.stdout


@pytest.mark.parametrize("text", [
    '{"id": 1, "correct": true}\n{"id": 2, "correct": null}\n{"id": 3, "score": null, "correct": null}\n',
    '[{"id": 1, "score": 1}, {"id": 2, "score": null}, {"id": 3, "correct": null, "score": null}]',
    "id,score\n1,1\n2,\n3,\n",
])  # fmt: skip
def test_a_score_of_null_says_that_the_item_cannot_be_judged(tmp_path, text):
    path = tmp_path / f"a.{'csv' if text.startswith('id') else 'json' if text.startswith('[') else 'jsonl'}"
    path.write_text(text)
    (task,) = compare({"a": path, "b": path})
    assert (task["arms"]["a"]["n"], task["arms"]["a"]["score"]) == (1, 1)
    assert task["arms"]["a"]["unjudgeable"] == {"the file gives no score": 2}
    assert task["differences"][0]["left_out"] == 2


def test_trainings_that_share_no_judged_item_have_no_score(tmp_path):
    def given(name, *scores):
        return write_jsonl(tmp_path / f"{name}.jsonl", [{"id": k, "score": s} for k, s in enumerate(scores)])

    several = [given("a", 1, None, 1), given("b", None, 0, None)]
    (task,) = compare({"several": several, "one": given("c", 1, 1, 1)})
    arm = task["arms"]["several"]
    assert (arm["score"], arm["n"], arm["note"]) == (None, 3, "nothing to judge")
    assert arm["unjudgeable"] == {"the file gives no score": 3} and not task["differences"]
    assert score_cell(arm) == "nothing to judge"


# --- a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that measures on four items and on two that cannot be judged, and trains on two of the four; one training
    row is too long, but not as the seed LM rewrites it."""
    folder = tmp_path_factory.mktemp("judgeable")
    test = questions(6, 4)
    train = [{"prompt": i.prompt, "response": i.terse} for i, _ in zip(items("word_problems", "train"), range(6))]  # noqa: B905
    train += [r | {"prompt": f"  {r['prompt'].upper()}\n"} for r in test[:2]]
    train[0]["response"] = "so " * 200 + train[0]["response"]
    tasks = [{"name": "w", "path": str(write_jsonl(folder / "test.jsonl", test)), "check": "last_number"}]
    recipe = {
        "model": "embedded",
        "data": {"path": str(write_jsonl(folder / "train.jsonl", train))},
        "distill": {"max_new_tokens": 64},
        "train": {"epochs": 1, "max_length": 200},
        "tasks": [t | {"max_new_tokens": 64, "role": "target"} for t in tasks],
        "seeds": [0, 1],
    }
    run(checked(Recipe, recipe, "recipe"), folder / "run")
    return folder / "run"


@pytest.mark.heavy
def test_a_report_lists_them_apart_in_every_form(finished):
    report = json.loads((finished / "report.json").read_text())
    (task,) = report["tasks"]
    assert task["arms"]["seed"]["n"] == 4 and task["arms"]["seed"]["unjudgeable"] == {WHY: 2}
    assert task["arms"]["sdft"]["n"] == 8 and task["arms"]["sdft"]["unjudgeable"] == {WHY: 4}  # of two seeds
    assert all(d["left_out"] == 2 and d["n"] == 4 for d in task["differences"])
    row = f"| w | seed | 2 of 6 | {WHY} |"
    assert row in (finished / "report.md").read_text()
    html = (finished / "report.html").read_text()
    assert "Items that cannot be judged" in html and f"<bdi>{WHY}</bdi>" in html and '"cannot_be_judged"' in html
    done = cli("report", finished)
    assert "items that cannot be judged" in done.stdout and "2 of 6" in done.stdout
    assert "4 (2 more cannot be judged)" in (finished / "vanilla-seed0" / "adapter" / "README.md").read_text()
    unread = next(
        p for p in read_records(finished / "seed" / "predictions.jsonl", Prediction) if p.verdict == "cannot_be_judged"
    )
    assert f"cannot be judged; {WHY}" in cli("show", finished, "--id", unread.id).stdout


def test_a_run_of_which_nothing_can_be_judged_says_so(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    for arm in ("seed", "vanilla-seed0", "sdft-seed0", "vanilla-seed1", "sdft-seed1"):
        answers = [json.loads(line) for line in (run / arm / "predictions.jsonl").read_text().splitlines()]
        write_jsonl(
            run / arm / "predictions.jsonl", [a | {"verdict": "cannot_be_judged", "note": WHY} for a in answers]
        )
        (result,) = json.loads((run / arm / "result.json").read_text())
        result |= {"n": 0, "correct": 0, "wrong": 0, "truncated": 0, "score": None, "low": None, "high": None}
        (run / arm / "result.json").write_text(json.dumps([result | {"unjudgeable": {WHY: 6}}]))
    report = build(run)
    said = "Nothing to compare: no task has items that could be judged in both arms."
    assert report["summary"] == said and (run / "report.html").read_text().count(said) == 2


def test_training_rows_that_are_test_items_are_named(finished):
    kept = json.loads((finished / "run.json").read_text())["overlap"]
    ids = [json.loads(line)["id"] for line in (finished / "examples.jsonl").read_text().splitlines()]
    assert kept == {"w": {"rows": 2, "of": 8, "examples": ids[6:]}}
    said = "2 of 8 training rows are items of task w ("
    for text in ("report.md", "report.html"):
        assert said in (finished / text).read_text()
    assert said in " ".join(cli("report", finished).stdout.split())


def test_a_row_too_long_for_one_arm_trains_in_none(finished):
    made = [json.loads((finished / arm / "adapter" / "training.json").read_text()) for arm in (
        "vanilla-seed0", "sdft-seed0", "vanilla-seed1", "sdft-seed1")]  # fmt: skip
    rows = [json.loads(line) for line in (finished / "selected.jsonl").read_text().splitlines()]
    assert rows[0]["source"] == "distilled" and len(rows[0]["response"]) < 300  # short enough as it is rewritten
    for record in made:
        assert [d["id"] for d in record["dropped"]] == [rows[0]["id"]] and record["rows"] == 7


def test_an_arm_of_several_trainings_carries_both_spreads(finished):
    (task,) = json.loads((finished / "report.json").read_text())["tasks"]
    arm = task["arms"]["vanilla"]
    assert len(arm["seeds"]) == 2 and arm["low"] <= arm["score"] <= arm["high"]
    said = f"], sd {100 * arm['spread']:.1f} over 2 seeds"
    for text in ((finished / "report.md").read_text(), (finished / "report.html").read_text()):
        assert said in text
    assert "over 2 seeds" in " ".join(cli("report", finished, env=WIDE).stdout.split())
