"""More than one training in a run: seeds, mix ratios and numbers of rows, from one distillation."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from statistics import mean, stdev

import pytest
from conftest import cli
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.comparison.intervals import paired, repeated
from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.records import Prediction, Verdict, read_records
from selfdistill.core.settings import checked
from selfdistill.methods import METHODS
from selfdistill.methods.arms import arms_of
from selfdistill.run_folder import Arm, same_arms

pytestmark = pytest.mark.heavy

RECIPE = """
model = "embedded"
seeds = [3, 4]
data = { path = "micro:rare_tools", sample = 24 }
distill = { max_new_tokens = 96 }
select = { check = "function_call" }
train = { epochs = 1, lr = 3e-3, mix_ratio = [0.5, 1.0], size = [8, 16] }

[[tasks]]
name = "target"
path = "micro:rare_tools"
check = "function_call"
role = "target"
limit = 6
max_new_tokens = 32

[[tasks]]
name = "other"
path = "micro:facts"
check = "contains"
limit = 6
max_new_tokens = 32
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "recipe.toml").write_text(RECIPE)
    done = cli("run", folder / "recipe.toml", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder / "out"


def right(folder, task):
    rows = read_records(folder / "predictions.jsonl", Prediction)
    return {p.id: p.verdict is Verdict.CORRECT for p in rows if p.task == task}


def test_every_point_is_trained_once_from_one_distillation(swept):
    arms = {a["name"]: a for a in json.loads((swept / "run.json").read_text())["arms"]}
    points = [
        f"{arm}-size{n}-seed{s}" for n in (8, 16) for s in (3, 4) for arm in ("vanilla", "sdft-mix0.5", "sdft-mix1")
    ]
    assert list(arms) == points
    training = {name: json.loads((swept / name / "adapter" / "training.json").read_text()) for name in arms}
    assert all(training[name]["rows"] == arm["size"] for name, arm in arms.items())
    assert [f.name for f in swept.glob("rewrites*.jsonl")] == ["rewrites.jsonl"]
    by_data = {}
    for name, arm in arms.items():
        by_data.setdefault(training[name]["identity"]["data"], set()).add((arm["size"], arm["mix_ratio"]))
    assert all(len(points) == 1 for points in by_data.values()) and len(by_data) == 6
    losses = [training[f"vanilla-size16-seed{s}"]["loss"] for s in (3, 4)]
    assert losses[0] != losses[1]


def test_the_report_has_means_over_seeds_their_spread_and_the_error_of_the_items(swept):
    report = json.loads((swept / "report.json").read_text())
    assert [a["name"] for a in report["arms"]] == [
        f"{arm}-size{n}" for n in (8, 16) for arm in ("vanilla", "sdft-mix0.5", "sdft-mix1")
    ]
    for task in report["tasks"]:
        for arm in report["arms"]:
            result, folders = task["arms"][arm["name"]], [swept / f for f in arm["folders"]]
            seeds = [right(f, task["task"]) for f in folders]
            assert result["seeds"] == pytest.approx([mean(s.values()) for s in seeds])
            assert result["score"] == pytest.approx(mean(result["seeds"]))
            assert result["spread"] == pytest.approx(stdev(result["seeds"]))
            assert result["low"] <= result["score"] <= result["high"]
            assert result["n"] == sum(map(len, seeds))
            assert result["n"] == result["correct"] + result["wrong"] + result["truncated"] + result["errors"]
        difference = next(d for d in task["differences"] if (d["a"], d["b"]) == ("vanilla-size16", "sdft-mix1-size16"))
        a, b = (task["arms"][difference[x]]["score"] for x in "ab")
        assert difference["value"] == pytest.approx(b - a)
        assert difference["n"] == 6  # an item counts once, however many seeds answered it
    text = (swept / "report.md").read_text()
    assert "sd between seeds" in text and "sdft-mix0.5-size8 against vanilla-size8" in text
    shown = (swept.parent / "stdout").read_text()
    assert "trainings with other seeds" in shown and "sdft-mix0.5-size16" in shown


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_with_one_seed_each_the_two_ways_to_compare_agree_in_what_they_measure(pairs):
    one = paired([a for a, _ in pairs], [b for _, b in pairs])
    many = repeated([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    assert (many.n, many.gained, many.lost) == (one.n, one.gained, one.lost)
    assert many.value == pytest.approx(one.value) and many.low <= many.value <= many.high and 0 <= many.p <= 1


def test_values_that_stand_twice_and_more_rows_than_there_are_are_refused():
    def arms(**train):
        return arms_of(checked(Recipe, {"model": "m", "data": {"path": "d"}, "train": train}, "r"), 10)

    assert [a.name for a in arms()] == ["vanilla", "sdft"]
    assert [a.name for a in arms(mix_ratio=[0.5], size=[4])] == ["vanilla", "sdft"]
    with pytest.raises(UserError, match=r"train\.size = 11: the data has 10"):
        arms(size=[3, 11])
    with pytest.raises(UserError, match=r"train\.mix_ratio: a value stands there twice"):
        arms(mix_ratio=[0.5, 0.5])


def test_a_recipe_names_its_arms():
    def arms(*tables, **train):
        values = {"model": "m", "data": {"path": "d"}, "train": train, "arms": tables}
        return [(a.name, a.method, a.base) for a in arms_of(checked(Recipe, values, "r"), 10)]

    assert arms({"method": "sdft"}) == [("sdft", "sdft", None)]
    two = arms({"method": "sdft", "name": "ours"}, {"method": "vanilla", "name": "plain"}, {"method": "vanilla"})
    assert two == [("ours", "sdft", "plain"), ("plain", "vanilla", None), ("vanilla", "vanilla", None)]
    swept = arms({"method": "sdft", "name": "ours"}, {"method": "vanilla"}, mix_ratio=[0.5, 1.0], size=[4, 5])
    assert swept[0] == ("ours-mix0.5-size4", "sdft", "vanilla-size4") and len(swept) == 6
    with pytest.raises(UserError, match=r"arms: no method is named 'sdtf'\. There are: vanilla, sdft"):
        arms({"method": "sdtf"})
    for tables, said in (
        ([{"method": "sdft"}, {"method": "vanilla", "name": "sdft"}], "two arms are named sdft"),
        ([{"method": "sdft", "name": "seed"}], "a run has a file of that name"),
        ([{"method": "sdft", "name": "a/b"}], r"arms\[1\] \(a/b\): name"),
        ([{"method": "sdft", "nam": "x"}], "Did you mean 'name'"),
    ):
        with pytest.raises(UserError, match=said):
            arms(*tables)


def test_an_arm_is_compared_with_its_base_of_the_same_mix_ratio(monkeypatch):
    monkeypatch.setitem(METHODS, "shorter", replace(METHODS["sdft"], base="sdft"))
    monkeypatch.setitem(METHODS, "plain", replace(METHODS["vanilla"], base="sdft"))
    tables = [{"method": name} for name in ("vanilla", "sdft", "shorter", "plain")]
    recipe = {"model": "m", "data": {"path": "d"}, "train": {"mix_ratio": [0.5, 1.0]}, "arms": tables}
    arms = arms_of(checked(Recipe, recipe, "r"), 10)
    names = {a.name for a in arms}
    assert {a.name: a.base for a in arms if a.method in ("shorter", "plain")} == {
        "shorter-mix0.5": "sdft-mix0.5", "shorter-mix1": "sdft-mix1", "plain": "sdft-mix1",
    }  # fmt: skip
    assert all(a.base in names for a in arms if a.base)


def test_arms_may_come_to_a_run_but_not_change(tmp_path):
    manifest = tmp_path / "run.json"
    first = [Arm("sdft", "sdft", None, 1.0, None, 0)]
    same_arms(manifest, first)  # there is none yet
    manifest.write_text(json.dumps({"arms": [asdict(arm) for arm in first]}))
    same_arms(manifest, first)
    same_arms(manifest, [replace(first[0], base="more"), Arm("more", "vanilla", None, 0.0, None, 0)])
    with pytest.raises(UserError, match=r"holds an arm sdft with other settings \(mix_ratio: 1\.0 -> 0\.5\)\. Give"):
        same_arms(manifest, [replace(first[0], mix_ratio=0.5)])
