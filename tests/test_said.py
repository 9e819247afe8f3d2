"""What a command says of a mistake: one line that names what was given, where, and how to mend it."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from conftest import write_jsonl

from selfdistill.cli import main
from selfdistill.core.config import DistillSettings, Recipe, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.recipe import load_recipe
from selfdistill.core.settings import checked


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """The line that a command says, in an empty folder with a dataset, a recipe and a file."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "x"}, {"prompt": "b", "completion": "y"}])
    (tmp_path / "r.toml").write_text('model = "embedded"\n[data]\npath = "d.jsonl"\n')
    (tmp_path / "afile").write_text("")

    def call(line: str) -> str:
        monkeypatch.setattr(sys, "argv", ["selfdistill", *line.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, error = capsys.readouterr()
        assert stopped.value.code == 2 and not out and error.count("\n") == 1, (line, out, error)
        return error.removeprefix("error: ").rstrip("\n")

    return call


TRAIN = "train --model embedded --data d.jsonl --out a"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{TRAIN} --lr 0.2 --set lr=0.1", "train: lr is given twice (--lr 0.2, --set lr=0.1). Give it once."),
        (f"{TRAIN} --targets q,v --set targets=q", "train: targets is given twice (--targets q,v, --set targets=q). "),
        (f"{TRAIN} --set lr=1 --set lr=-2", "--set lr = -2: expected more than 0."),  # the last one holds
        (f"{TRAIN} --set lr=-1", "--set lr = -1: expected more than 0."),
        (f"{TRAIN} --lr -1", "train: lr = -1.0: expected more than 0."),
        (
            "run r.toml --out o --allow-code-execution --set allow_code_execution=false",
            "run: allow_code_execution is given twice (--allow-code-execution, --set allow_code_execution=false). ",
        ),
        ("run micro/alpaca --out o --set train.epoch=1", "--set train.epoch: unknown key 'train.epoch'. Did you mean "),
        ("run r.toml --out o --set train.epochs=x", "--set train.epochs = 'x': expected a number."),
        ("run r.toml --out afile/x", "--out afile/x: afile is a file; expected a folder."),
        ("distill --model embedded --data d.jsonl --out afile/x.jsonl", "--out afile/x.jsonl: afile is a file; expec"),
        ("evaluate --model embedded --task micro:facts --out afile", "--out afile: a file; expected a folder."),
        ("demo --out afile", "--out afile: a file; expected a folder."),
        ("merge --model embedded --adapter nodir --out m", "adapter nodir: no such folder."),
        ("evaluate --model embedded --adapter nodir --task micro:facts --out e", "adapter nodir: no such folder."),
        ("validate --task micro:fact", "task fact: micro:fact: no ability 'fact'. There are: rare_tools, "),
        (
            "distill --model embeded --data d.jsonl --out o.jsonl",
            "model embeded: no such folder, and not in the hub's cache (HF_HUB_OFFLINE is set). Did you mean 'embedded'?",
        ),
        ("distill --model qwen --data d.jsonl --out o.jsonl", "model qwen: no such folder, and not in the hub's cache "),
        (
            "compare nodir1 nodir2",
            "nodir1: no such file or folder. If it is a model on the hub, add --out FOLDER and --task.",
        ),
        ("show . --id abc", ".: no run.json"),
        (
            "distill --model embedded --data d.jsonl --engine openai --out o.jsonl",
            "--engine openai: base_url is missing. Write --engine name=openai,base_url=http://localhost:8000/v1,model=",
        ),
        (f"{TRAIN} --seed -1", "train: invalid value for '--seed': expected 0 or more."),
        (f"{TRAIN} --rank x", "train: invalid value for '--rank': expected a whole number."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_how_to_mend_it(refused, tmp_path, line, said):
    assert refused(line).startswith(said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["afile", "d.jsonl", "r.toml"]


def test_a_default_is_not_given(refused):
    assert "given twice" not in refused(f"{TRAIN} --set lr=0.1 --set nope=1")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"question": "a", "reply": "x"}, {"question": "b", "reply": "y"}],
            "no column holds the rewrite (found: question, reply). Name it: --columns prompt=question,response=reply.",
        ),
        (
            [{"prompt": "a", "good": "x", "bad": "y"}],
            "no column holds the rewrite (found: bad, good, prompt). Name it: ",
        ),
        (
            [{"prompt": "a"}, {"prompt": "b", "completion": "y"}],
            "the first row lacks columns that line 2 has (completion). Write them in every row, ",
        ),
    ],
)
def test_rewrites_without_a_column_for_the_rewrite_are_refused(refused, tmp_path, rows, said):
    write_jsonl(tmp_path / "bad.jsonl", rows)
    assert refused("select --data d.jsonl --rewrites bad.jsonl --out s.jsonl").startswith(f"bad.jsonl: {said}")
    assert not (tmp_path / "s.jsonl").exists()


def test_a_column_named_by_half_is_not_found_either(refused, tmp_path):
    write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "a", "reply": "x"}])
    line = refused("select --data d.jsonl --columns prompt=prompt --rewrites bad.jsonl --out s.jsonl")
    assert "no column holds the rewrite (found: prompt, reply)" in line


def test_an_empty_rewrite_is_one_that_failed(tmp_path):
    from selfdistill.core.config import DataSettings
    from selfdistill.data.examples import read_examples
    from selfdistill.stages.select import select

    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": k, "completion": "x"} for k in "ab"])
    made = write_jsonl(tmp_path / "r.jsonl", [{"prompt": "a", "completion": ""}, {"prompt": "b"}])
    reasons = select(read_examples(DataSettings(path=str(data))), made, tmp_path / "s.jsonl", None)
    assert dict(reasons) == {"empty": 2}


def test_fewer_rows_than_asked_for_are_a_note(tmp_path, capsys):
    from selfdistill.core.config import DataSettings
    from selfdistill.core.progress import Progress
    from selfdistill.data.examples import read_examples
    from selfdistill.data.notes import Notes

    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": f"{k}", "completion": "x"} for k in range(3)])
    for sample, said in ((5, "3 rows, fewer than the 5 asked for; all are taken"), (3, ""), (2, "")):
        rows = read_examples(DataSettings(path=str(data), sample=sample), notes=Notes(Progress()))
        error = " ".join(capsys.readouterr().err.split())
        assert len(rows) == min(sample, 3) and (said in error if said else not error)


def test_a_recipe_that_measures_nothing_says_so_first(tmp_path, capsys):
    from selfdistill.pipeline import run

    values = {"model": "./nowhere", "data": {"path": "micro:facts", "sample": 2}}
    with pytest.raises(UserError, match="nowhere"):
        run(checked(Recipe, values, "r"), tmp_path / "o")
    assert "no [[tasks]]: nothing will be measured" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "show", "scale"])
def test_a_run_of_another_version_is_no_key_error(refused, small_run, tmp_path, command):
    run = shutil.copytree(small_run, tmp_path / "run")
    manifest = json.loads((run / "run.json").read_text())
    for arm in manifest["arms"]:
        del arm["size"]
    (run / "run.json").write_text(json.dumps(manifest))
    line = refused(f"{command} run" + " --id abcd" * (command == "show"))
    assert line == (
        "run: made by another version of selfdistill (run.json lacks size of an arm). Run the recipe into a new folder."
    )


def test_a_training_of_another_version_is_none_either(refused, small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    file = run / "sdft" / "adapter" / "training.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "held_out"}))
    assert "another version of selfdistill (sdft/adapter/training.json lacks held_out)" in refused("report run")


def test_changed_settings_are_named_alone(tmp_path):
    from selfdistill.core.rewrites import Rewrite
    from selfdistill.core.store import Journal

    old = {"stage": "distill", "settings": {"top_p": 1.0, "candidates": 1}}
    with Journal(tmp_path / "r.jsonl", Rewrite, old) as journal:
        journal.finish([])
    said = r"r.jsonl: holds rewrites with other settings \(settings.top_p: 1.0 -> 0.5\)\. Choose another output"
    with pytest.raises(UserError, match=said):
        Journal(tmp_path / "r.jsonl", Rewrite, {"stage": "distill", "settings": {"top_p": 0.5, "candidates": 1}})


def test_a_file_where_a_folder_is_needed_is_said_of_the_api_too(tmp_path):
    from selfdistill.core.store import locked, new_files, write_atomic

    (tmp_path / "afile").write_text("")
    for place in (tmp_path / "afile", tmp_path / "afile" / "x"):
        with pytest.raises(UserError, match="afile: a file; expected a folder"), locked(place):
            pass
    with pytest.raises(UserError, match="afile: a file; expected a folder"):
        write_atomic(tmp_path / "afile" / "x.json", "")
    with pytest.raises(UserError, match="afile: a file; expected a folder"), new_files(tmp_path / "afile" / "y"):
        pass


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (TrainSettings, {"lr": "a"}, "lr = 'a': expected a number."),
        (TrainSettings, {"lr": float("inf")}, "lr = inf: expected a finite number."),
        (TrainSettings, {"rank": 1.5}, "rank = 1.5: expected a whole number."),
        (TrainSettings, {"warmup": 1}, "warmup = 1: expected less than 1."),
        (TrainSettings, {"mix_ratio": [0.5, 2]}, "mix_ratio[2] = 2: expected 1 or less."),
        (TrainSettings, {"packing": "q"}, "packing = 'q': expected true or false."),
        (TrainSettings, {"schedule": "x"}, "schedule = 'x': expected 'cosine', 'linear' or 'constant'."),
        (TrainSettings, {"size": []}, "size = []: expected a whole number."),
        (DistillSettings, {"temperature": -1}, "temperature = -1: expected 0 or more."),
        (Recipe, {"model": 3, "data": {"path": "d"}}, "model = 3: expected text."),
        (Recipe, {"model": "m", "data": "d"}, "data = 'd': expected a table."),
        (Recipe, {"model": "m", "data": {}}, "'data.path' is missing. Add it."),
        (Recipe, {"model": "m", "data": {"path": "d"}, "engine": "openai"}, "'engine.base_url' is missing. Add it."),
        (Recipe, {"model": "m", "data": {"path": "d"}, "engine": {"name": "x"}},
         "engine = {'name': 'x'}: expected 'transformers', 'vllm', 'openai', 'ray'."),
        (Recipe, {"model": "m", "data": {"path": "d"}, "engine": {"name": "ray", "worker": 1}},
         "unknown key 'engine.worker'. Did you mean 'workers'? Valid here: address, cpus, gpus, local, name, workers."),
        (Recipe, {"model": "m", "data": {"path": "d"}, "tasks": [{"name": "facts", "path": "p", "role": "x"}]},
         "tasks[1] (facts): role = 'x': expected 'target' or 'retained'."),
        (Recipe, {"model": "m", "data": {"path": "d"}, "tasks": [{"name": "a", "path": "p"}, {"path": "p"}]},
         "'tasks[2]: name' is missing. Add it."),
        (Recipe, {"model": "m", "data": {"path": "d"}, "tasks": [{"name": "a", "path": "p", "chek": "x"}]},
         "unknown key 'tasks[1] (a): chek'. Did you mean 'check'? Valid here: "),
        (Recipe, {"model": "m", "data": {"path": "d"}, "tasks": [{"name": "a b", "path": "p"}]},
         "tasks[1] (a b): name = 'a b': expected letters, digits, dots, - and _."),
    ],
)  # fmt: skip
def test_settings_are_refused_in_plain_words(kind, values, said):
    with pytest.raises(UserError) as caught:
        checked(kind, values, "here")
    assert str(caught.value).startswith(f"here: {said}")


def test_text_in_toml_needs_quotes(tmp_path):
    (tmp_path / "r.toml").write_text("model = embedded\n")
    with pytest.raises(UserError, match=r"Invalid value \(at line 1, column 9\)\. Text needs quotes\."):
        load_recipe(tmp_path / "r.toml", [])


def test_a_value_that_may_be_a_secret_is_not_repeated(tmp_path):
    (tmp_path / "r.toml").write_text('model = "m"\n[data]\npath = "d"\n')
    secret = "http://user:hunter2@host/v1"
    with pytest.raises(UserError, match=r"^--set judge\.base_url: the address holds") as caught:
        load_recipe(tmp_path / "r.toml", [f"judge.base_url={secret}", "judge.model=m"])
    assert "hunter2" not in str(caught.value)


# --- what a terminal shows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("terminal", "width", "whole"), [(True, 80, False), (True, 200, True), (False, 80, True)])
def test_no_row_of_scores_breaks_over_lines(terminal, width, whole, capsys):
    import io

    from rich.console import Console

    from selfdistill.report.terminal import print_table

    row = ["rare_tools (target)", "200", *["57.0 [50.1, 63.7]"] * 3, "-14.0 [-19.5, -8.8]"]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, no_color=True)
    title = "percent correct [95 % interval]"
    print_table(["task", "n", "seed", "vanilla", "sdft", "sdft - vanilla"], [row], title, console)
    text = console.file.getvalue()
    assert text.count("│") == 7 and ("[50.1, 63.7]" in text) == whole == (title in text)
    assert ("no room for the intervals" in text) != whole and console.width == width


@pytest.mark.parametrize(
    ("value", "p", "said"),
    [
        (-0.14, 0.01, "SDFT by +16.5: there SDFT is 14.0 points behind vanilla fine-tuning."),
        (-0.14, 0.5, "SDFT by +16.5: there SDFT is 14.0 points behind vanilla fine-tuning (inside the noise)."),
        (0.14, 0.01, "SDFT by +16.5."),
        (0.0, 1.0, "SDFT by +16.5."),
    ],
)
def test_the_summary_says_where_sdft_is_behind(value, p, said):
    from selfdistill.report.summary import verdicts

    pairs = (("seed", "vanilla", 0.305, 0.01), ("seed", "sdft", 0.165, 0.01), ("vanilla", "sdft", value, p))
    found = [{"a": a, "b": b, "value": v, "p_holm": holm} for a, b, v, holm in pairs]
    arms = [{"name": n, "method": n, "base": b} for n, b in (("vanilla", None), ("sdft", "vanilla"))]
    (found,) = verdicts({"tasks": [{"task": "t", "role": "target", "differences": found}], "arms": arms})
    assert said in found
