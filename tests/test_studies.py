"""The studies: what they declare, that arms are made once, and that tables and figures say what the runs say."""

from __future__ import annotations

import csv
import json
import re
import time

import forked
import pytest
from conftest import SHARED, cli, write_jsonl

from selfdistill.core.records import Prediction, Verdict, read_records
from selfdistill.studies.grid import studies
from selfdistill.studies.lab import SEED, Arm, load_world
from selfdistill.studies.tables import NAMES
from selfdistill.studies.values import paper_numbers

pytestmark = pytest.mark.heavy

SMALL = ["--world", "micro", "--quick", "--limit", "4"]
SMALL += ["--set", "data.sample=8", "--set", "train.epochs=1", "--set", "distill.max_new_tokens=24"]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_grid_has_every_table_and_figure_and_asks_only_for_what_its_world_has():
    listed = studies(quick=False)
    assert list(listed) == [f"table{i}" for i in range(1, 5)] + [f"figure{i}" for i in range(4, 10)]
    for world in ("paper", "micro"):
        recipes = load_world(world, [], None)
        for study in listed.values():
            for arm in study.arms:
                recipe = recipes[arm.dataset or "alpaca"]
                assert set(study.tasks) <= {t.name for t in recipe.tasks}
                assert arm.dataset is None or arm.dataset in NAMES
    quick = studies(quick=True)
    assert all(set(quick[name].arms) <= set(listed[name].arms) for name in listed)


def test_the_papers_numbers_belong_to_rows_and_columns_of_the_tables():
    listed = studies(quick=False)
    numbers = paper_numbers()
    assert set(numbers) == {"table1", "table2", "table3", "table4"}
    for name, rows in numbers.items():
        assert set(rows) == {arm.label for arm in listed[name].arms}
        titles = {c.title for c in listed[name].columns}
        assert all(set(row) <= titles and len(row) >= 3 for row in rows.values())
    one = numbers["table1"]  # the averages of Table 1 are those of its numbers
    for row in one.values():
        three = [v for title, v in row.items() if title != "Average"]
        assert sum(three) / 3 == pytest.approx(row["Average"], abs=0.07)


@pytest.fixture(scope="module")
def done(tmp_path_factory, brief_folder):
    out = tmp_path_factory.mktemp("studies") / "out"
    ran = cli("study", "table2", "figure7", "figure8", "figure9", "--model", brief_folder, "--out", out, *SMALL)
    assert ran.returncode == 0, ran.stderr
    return out, ran


def test_a_study_writes_tables_and_figures_that_agree_with_the_runs(done):
    out, ran = done
    assert "# Table 2" in ran.stdout and "paper 99.81" in ran.stdout
    assert (out / "table2.md").is_file()
    for name in ("figure7", "figure8", "figure9"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / f"{name}.svg").read_text()
    by_arm = {row["arm"]: row for row in rows_of(out / "table2.csv")}
    assert set(by_arm) == {arm.label for arm in studies(True)["table2"].arms}
    for label, row in by_arm.items():
        (folder,) = [f for f in (out / "arms").iterdir() if re.fullmatch(rf"{label}-[0-9a-f]{{16}}", f.name)]
        (place,) = folder.glob("advbench-*")
        answers = list(read_records(place / "predictions.jsonl", Prediction))
        refused = sum(p.verdict is Verdict.CORRECT for p in answers)
        assert float(row["Raw Safe Rate"]) == refused / len(answers) and int(row["Raw Safe Rate: n"]) == len(answers)
        keywords = sum(p.metrics["paper_keywords"] for p in answers) / len(answers)
        assert float(row["Raw Safe Rate (paper's rule)"]) == pytest.approx(keywords)
    drawn = {(r["arm"], r["measure"]): float(r["value"]) for r in rows_of(out / "figure8.csv")}
    assert drawn["alpaca-vanilla", "Parameter shift"] > 0
    assert all(0 <= v <= 1 for (_, measure), v in drawn.items() if "BLEU" in measure or measure == "ROUGE-L")


def test_arms_are_shared_and_a_second_run_makes_nothing(done, brief_folder):
    out, _ = done
    trained = sorted((out / "arms").glob("*/adapter/adapter_model.safetensors"))
    assert len(trained) == 6 + 3  # three datasets in two ways, and alpaca at three mix ratios
    assert len(list((out / "distilled").iterdir())) == 4
    before = {f: f.stat().st_mtime_ns for f in trained}
    table = (out / "table2.md").read_bytes()
    again = cli("study", "table2", "--model", brief_folder, "--out", out, *SMALL)
    assert again.returncode == 0, again.stderr
    assert {f: f.stat().st_mtime_ns for f in before} == before and (out / "table2.md").read_bytes() == table
    assert "train" not in again.stderr


def test_other_settings_in_the_same_folder_are_other_runs(done, tmp_path, brief_folder):
    out, _ = done
    before = (out / "table2.csv").read_bytes()
    (tmp_path / "own.txt").write_text("Rewrite: {instruction} -> {reference}")
    for change in (["seed=1"], ["prompt.format=paper"], [f"prompt.template={tmp_path / 'own.txt'}"]):
        settings = [part for c in change for part in ("--set", c)]
        model = ["--model", brief_folder]
        ran = cli("study", "table2", "--datasets", "openfunctions", *model, "--out", out, *SMALL, *settings)
        assert ran.returncode == 0, ran.stderr
    assert len(list(out.glob("distilled/openfunctions-*"))) == 4
    seeds = [
        {json.loads(line)["id"] for line in p.read_text().splitlines()}
        for p in out.glob("arms/seed-*/advbench-*/items.jsonl")
    ]
    assert len(seeds) == 3 and len({frozenset(s) for s in seeds}) == 2  # another seed asks other items
    ran = cli("study", "table2", "--model", brief_folder, "--out", out, *SMALL)
    assert ran.returncode == 0 and (out / "table2.csv").read_bytes() == before


def test_a_killed_study_goes_on(tmp_path, brief_folder):
    out = tmp_path / "out"
    command = ["study", "figure9", "--model", brief_folder, "--out", out, *SMALL]
    process = forked.start([str(word) for word in command], err=tmp_path / "error")
    until = time.monotonic() + 300
    while not list(out.glob("arms/alpaca-vanilla-*/adapter/training.json")) and time.monotonic() < until:
        assert process.is_alive(), (tmp_path / "error").read_text()
        time.sleep(0.05)
    process.kill()
    process.join()
    adapter = next(out.glob("arms/alpaca-vanilla-*/adapter/adapter_model.safetensors"))
    stamp = adapter.stat().st_mtime_ns
    ran = cli(*command)
    assert ran.returncode == 0, ran.stderr
    assert adapter.stat().st_mtime_ns == stamp and (out / "figure9.png").is_file()
    assert json.loads((out / "study.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table5"], "no such study. There are: table1"),
        (["table1", "--world", "moon"], "no such world"),
        (["table1", "--datasets", "gsm9k"], "no such dataset"),
        (["table1", "--set", "train.epoch=1"], "Did you mean 'epochs'"),
        (["table1", "--judge-url", "http://localhost:1/v1"], "belong together"),
        (["table1", "--judge-url", "http://localhost:abc/v1", "--judge-model", "m"], "is no address"),
        (["table1", "--set", "tasks=[]"], "not in a study"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, message):
    ran = cli("study", *arguments, "--out", tmp_path / "out")
    assert ran.returncode == 2 and message in ran.stderr and ran.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real datasets in ../shared/data")
def test_the_papers_world_runs_on_the_real_files(tmp_path, brief_folder):
    folder = tmp_path / "data"
    folder.mkdir()
    for file in SHARED.iterdir():
        (folder / file.name).symlink_to(file)
    write_jsonl(
        folder / "magicoder_train.jsonl",
        [{"problem": f"Write f{i}", "solution": f"def f{i}(): pass"} for i in range(8)],
    )
    ran = cli(
        "study", "table1", "table3", "--world", "paper", "--model", brief_folder, "--data-dir", folder,
        "--datasets", "openfunctions,gsm8k,magicoder,lima", "--limit", 3, "--set", "data.sample=3",
        "--set", "distill.max_new_tokens=24", "--set", "train.epochs=1", "--out", tmp_path / "out", "--allow-code-execution",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    text = (tmp_path / "out" / "table1.md").read_text()
    assert "paper 36.6" in text and text.count("not measured") == 0
    assert "not measured" in (tmp_path / "out" / "table3.md").read_text()  # no judge, and two datasets left out
    seed = next(f for f in (tmp_path / "out" / "arms").iterdir() if f.name.startswith("seed-"))
    outputs = json.loads(next(seed.glob("alpaca_eval-*/alpaca_eval.model_outputs.json")).read_text())
    assert len(outputs) == 3 and set(outputs[0]) == {"instruction", "output", "generator"}


def test_labels_tell_arms_apart():
    arms = {arm for study in studies(False).values() for arm in study.arms}
    assert len({a.label for a in arms}) == len(arms)
    assert SEED.label == "seed" and Arm("dolly", 1.0, 0.5, "refer").label == "dolly-sdft-refer-share0.5"
