"""Comparing what other programs measured, and models that were not asked yet."""

from __future__ import annotations

import json

import pytest
from conftest import cli, random_adapter, write_jsonl

from selfdistill.comparison.differences import compare
from selfdistill.comparison.intervals import holm
from selfdistill.comparison.scores import read_answers
from selfdistill.core.errors import UserError
from selfdistill.stages.answers import kind_of


def rows(**columns: list) -> list[dict]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


RIGHT = [{"id": i, "task": "t", "correct": i % 3 > 0} for i in range(30)]


def test_one_set_of_scores_in_every_form_is_the_same(tmp_path):
    forms = {
        "a.jsonl": "".join(json.dumps(r) + "\n" for r in RIGHT),
        "b.json": json.dumps(RIGHT),
        "c.csv": "id,task,correct\n" + "".join(f"{r['id']},t,{r['correct']}\n" for r in RIGHT),
        "d.csv": "doc_id,correct,task\n" + "".join(f"{r['id']},{int(r['correct'])},t\n" for r in RIGHT),
        "e.tsv": "id\ttask\tscore\n" + "".join(f"{r['id']}\tt\t{float(r['correct'])}\n" for r in RIGHT),
        "f.jsonl": "".join(json.dumps(r | {"id": str(r["id"]), "correct": int(r["correct"]), "more": [1]}) + "\n" for r in RIGHT),
    }  # fmt: skip
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
    first, *others = [read_answers(tmp_path / name) for name in forms]
    assert all(other == first for other in others) and first.scores["t"]["1"] == 1
    (result,) = compare({name: tmp_path / name for name in list(forms)[:2]})
    assert result["arms"]["a.jsonl"]["score"] == pytest.approx(20 / 30)
    (d,) = result["differences"]
    assert (d["method"], d["n"], d["value"], d["p"], d["p_holm"]) == ("exact McNemar", 30, 0, 1, 1) and d[
        "detectable"
    ] > 0


def test_samples_of_the_harness_are_read_by_task_filter_and_question(tmp_path):
    def sample(i: int, right: float, **more) -> dict:
        return {"doc_id": i, "doc": {"q": i}, "target": "x", "resps": [["x"]], "filter": "none", "doc_hash": f"{i:064x}"[::-1]} | {
            "metrics": ["acc"], "acc": right} | more  # fmt: skip

    for model in ("base", "new"):
        folder = tmp_path / model
        folder.mkdir()
        arc = [sample(i, float(i < (8 if model == "new" else 6))) for i in range(10)]
        write_jsonl(folder / "samples_arc_easy_2026-01-02T03-04-05.123456.jsonl", arc)
        gsm = [
            {k: v for k, v in sample(i, 0.0, filter=f, exact_match=float(f == "strict-match"), metrics=["exact_match"]).items() if k != "acc"}
            for f in ("strict-match", "flexible-extract")
            for i in range(4)
        ]  # fmt: skip
        write_jsonl(folder / "samples_gsm8k_2026-01-02T03-04-05.123456.jsonl", gsm)
    table = {t["task"]: t for t in compare({"base": tmp_path / "base", "new": tmp_path / "new"})}
    assert list(table) == ["arc_easy", "gsm8k/strict-match", "gsm8k/flexible-extract"]
    assert table["arc_easy"]["differences"][0]["value"] == pytest.approx(0.2)
    assert [table[t]["arms"]["base"]["score"] for t in list(table)[1:]] == [1, 0]
    done = cli("compare", tmp_path / "base", *(tmp_path / "new").glob("*arc*"))
    assert done.returncode == 0 and "arc_easy" in done.stdout, done.stderr
    moved = [
        sample(i, 1.0, doc_hash=f"{i + 1:064x}"[::-1]) for i in range(10)
    ]  # other questions behind the same numbers
    file = write_jsonl(tmp_path / "samples_arc_easy.jsonl", moved)
    with pytest.raises(UserError, match=r"task arc_easy: .* did not answer the same items"):
        compare({"base": tmp_path / "base", "moved": file})


def test_scores_and_clusters_choose_the_method(tmp_path):
    scores = [round(0.1 + (i * 7 % 10) / 13, 3) for i in range(40)]
    a = rows(id=list(range(40)), score=scores)
    b = rows(
        id=list(range(40)), score=[s + (i % 3) / 10 for i, s in enumerate(scores)], cluster=[i // 4 for i in range(40)]
    )
    plain = [{k: v for k, v in r.items() if k != "cluster"} for r in b]
    files = [write_jsonl(tmp_path / f"{n}.jsonl", r) for n, r in (("a", a), ("b", b), ("plain", plain))]
    (table,) = compare(dict(zip(("a", "b", "plain"), files, strict=True)))
    assert table["task"] == "all" and [d["method"] for d in table["differences"]] == [
        "clusters",
        "bootstrap",
        "clusters",
    ]
    assert table["differences"][0]["units"] == 10
    other = write_jsonl(tmp_path / "other.jsonl", [r | {"cluster": 1} for r in b])
    with pytest.raises(UserError, match=r"item \d+ lies in cluster 0 and in 1"):
        compare({"b": files[1], "other": other})


def test_p_is_adjusted_over_the_tasks_of_a_pair(tmp_path):
    def answers(name: str, wrong: dict[str, int]):
        made = [{"id": i, "task": t, "correct": i >= k} for t, k in wrong.items() for i in range(40)]
        return write_jsonl(tmp_path / f"{name}.jsonl", made)

    arms = {"a": answers("a", {"x": 0, "y": 0, "z": 0}), "b": answers("b", {"x": 8, "y": 7, "z": 0}), "c": answers("c", {"x": 9, "y": 0, "z": 0})}  # fmt: skip
    table = compare(arms)
    for pair in (("a", "b"), ("a", "c"), ("b", "c")):
        found = [d for t in table for d in t["differences"] if (d["a"], d["b"]) == pair]
        assert [d["p_holm"] for d in found] == holm([d["p"] for d in found])
    done = cli("compare", *arms.values())
    assert done.returncode == 0 and "p, Holm" in done.stdout and "MDE" in done.stdout


@pytest.mark.parametrize("text, said", [
    ('{"id": 1, "correct": true}\n{"id": 2}\n', r"line 2: the row has no score\. Expected `id`"),
    ('{"id": 1, "correct": true}\n{"correct": true}\n', r"line 2: the row has no id\. Expected"),
    ('{"id": 1, "correct": true}\n{"id": 1, "correct": true}\n', r"line 2: item 1 of task all is there twice"),
    ('{"id": 1, "correct": 0.5}\n', r"line 1: correct is '0.5'\. Expected true, false, 0 or 1"),
    ('{"id": 1, "score": 1.5}\n', r"line 1: score is '1.5'\. Expected a number from 0 to 1"),
    ('{"id": 1, "score": NaN}\n', r"line 1: score is 'nan'"),
    ('{"id": 1, "score": "high"}\n', r"line 1: score is 'high'"),
    ('{"id": [1], "score": 1}\n', r"line 1: the row has the id '\[1\]'"),
    ('{"id": 1, "task": 3, "score": 1}\n', r"line 1: task is '3'\. Expected a name"),
    ('{"id": 1, "score": 1, "cluster": "a"}\n{"id": 2, "score": 1}\n', r"line 2: some rows of task all have a `cluster`"),
    ('{"id": 1, "score": 1}\n{"id": 2, "score"\n', r"line 2: broken JSON"),
    ("[1]\n", r"row 1: expected an object"),
    ('{"doc_id": 0, "doc_hash": "a", "metrics": ["bleu"], "bleu": 3}\n', r"metrics \['bleu'\]; name one of them `score`"),
    ("", "empty file"),
    ("\n", "no rows"),
])  # fmt: skip
def test_broken_files_are_named_with_their_line(tmp_path, text, said):
    (tmp_path / "broken.jsonl").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_answers(tmp_path / "broken.jsonl")
    assert "broken.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_what_a_name_means(tmp_path):
    for name, file in (("model", "config.json"), ("adapter", "adapter_config.json"), ("answers", "result.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
        assert kind_of(str(tmp_path / name)) == name
    assert kind_of("embedded") == kind_of("org/model") == kind_of("org/Model-1.5") == "model"
    assert kind_of("nowhere/x.jsonl") == kind_of("./x") == kind_of(str(tmp_path)) == "answers"


@pytest.mark.heavy
def test_models_and_adapters_are_asked_once_and_compared(tmp_path):
    random_adapter(tmp_path / "adapter", 0.5)
    command = ("compare", "embedded", tmp_path / "adapter", "--model", "embedded", "--out", tmp_path / "work",
               "--task", "name=facts,path=micro:facts,limit=12,max_new_tokens=24")  # fmt: skip
    done = cli(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert "adapter -" in done.stderr and "embedded" in done.stderr
    (task,) = json.loads(done.stdout)
    assert task["task"] == "facts" and task["differences"][0]["n"] == 12
    folders = sorted((tmp_path / "work").iterdir())
    assert [f.name.rpartition("-")[0] for f in folders] == ["adapter", "embedded"]
    gated = cli("gate", folders[1], folders[0])
    assert gated.returncode in (1, 3) and "facts, lost: facts/" in gated.stdout, gated.stderr
    twice = cli("gate", folders[1], folders[1])
    assert twice.returncode == 2 and "named twice" in twice.stderr
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "work").rglob("predictions.jsonl")}
    again = cli("compare", tmp_path / "adapter", folders[1], *command[3:])
    assert again.returncode == 0, again.stderr
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "work").rglob("predictions.jsonl")}
    changed = cli(*command[:-1], "name=facts,path=micro:facts,limit=13,max_new_tokens=24")
    assert changed.returncode == 2 and "task facts" in changed.stderr


@pytest.mark.parametrize("arguments, said", [
    (["embedded", "ADAPTER", "--out", "w", "--task", "micro:facts"], "--model"),
    (["embedded", "FILE", "--task", "micro:facts"], "--out"),
    (["embedded", "FILE", "--out", "w"], "--task"),
    (["FILE", "FILE"], "two different"),
    (["FILE", "none.jsonl"], "no such file"),
])  # fmt: skip
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(tmp_path, arguments, said):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    places = {"ADAPTER": tmp_path / "adapter", "FILE": write_jsonl(tmp_path / "f.jsonl", RIGHT)}
    done = cli("compare", *(places.get(a, a) for a in arguments), cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error:")
