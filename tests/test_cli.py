from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import forked
import pytest
from conftest import cli, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.cli.values import columns_of, task_values
from selfdistill.core.errors import UserError
from selfdistill.core.records import Prediction, read_records
from selfdistill.core.rewrites import Selected
from selfdistill.microworld.world import items
from selfdistill.models import resolve

ARMS = ("seed", "vanilla", "sdft")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, foreign_folder) -> Path:
    """A whole run on a model and data that are not the project's, with tasks of the user's own."""
    folder = tmp_path_factory.mktemp("run")
    rows = list(islice(items("facts", "train"), 24))
    write_jsonl(folder / "train.jsonl", [{"id": f"mine-{i}", "q": r.prompt, "a": r.terse} for i, r in enumerate(rows)])
    write_jsonl(folder / "test.jsonl", [{"prompt": r.prompt, "response": r.expected} for r in rows[:10]])
    (folder / "recipe.toml").write_text(
        f"""
model = "{foreign_folder}"
engine = {{ name = "transformers", rows = 8 }}
[data]
path = "train.jsonl"
columns = {{ prompt = "q", response = "a" }}
[distill]
max_new_tokens = 8
[select]
check = "none"
export = {{ messages = "messages.jsonl", alpaca = "alpaca.json" }}
[train]
epochs = 1
targets = "all-linear"
[[tasks]]
name = "target"
path = "test.jsonl"
check = "contains"
role = "target"
max_new_tokens = 8
[[tasks]]
name = "other"
path = "test.jsonl"
check = 'regex:(\\w+)'
limit = 5
max_new_tokens = 8
[[tasks]]
name = "code"
path = "micro:code"
limit = 5
"""
    )
    done = cli("run", folder / "recipe.toml", "--out", folder / "out", "--set", "seed=3")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.mark.heavy
def test_a_run_is_a_folder_that_explains_itself(finished):
    out = finished / "out"
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["status"] == "finished" and manifest["versions"]["torch"] and manifest["device"]
    report = json.loads((out / "report.json").read_text())
    assert report["rows"] == 24 and sum(report["yield"].values()) == 24
    assert [t["task"] for t in report["tasks"]] == ["target", "other", "code"]
    assert set(report["tasks"][0]["arms"]) == set(ARMS) and len(report["tasks"][0]["differences"]) == 3
    assert report["tasks"][2]["arms"]["sdft"]["score"] is None
    text = (out / "report.md").read_text()
    assert "not measured" in text and "nats a token" in text
    assert "not measured" in " ".join((finished / "stdout").read_text().replace("│", " ").split())
    for task in report["tasks"]:
        for result in task["arms"].values():
            assert result["n"] == result["correct"] + result["wrong"] + result["truncated"] + result["errors"]
    assert sum(1 for _ in (out / "messages.jsonl").open()) == 24
    seen = {a: {p.id: p.prompt for p in read_records(out / a / "predictions.jsonl", Prediction)} for a in ARMS}
    assert seen["seed"] == seen["vanilla"] == seen["sdft"]


def test_the_page_of_a_finished_run_says_so(finished):
    manifest = json.loads((finished / "out" / "run.json").read_text())
    html = (finished / "out" / "report.html").read_text()
    assert manifest["finished"] in html and "running" not in re.sub(
        r"<script.*?</script>|<style.*?</style>", "", html, flags=re.S
    )


def test_a_run_that_stops_is_not_finished(tmp_path, monkeypatch):
    from selfdistill.run_folder import Manifest

    manifest = Manifest(tmp_path / "run.json")
    with pytest.raises(UserError), manifest.status():
        manifest.finish()
        assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"
        raise UserError("the report cannot be written")
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["status"] == "stopped: UserError: the report cannot be written" and "finished" not in written


def test_one_item_is_shown_whole_and_the_report_has_plots(finished):
    row = next(read_records(finished / "out" / "selected.jsonl", Selected))
    done = cli("show", finished / "out", "--id", row.id[:12])
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("reference", "seed NLL", row.reason.value, "user"))
    item = next(read_records(finished / "out" / "sdft" / "predictions.jsonl", Prediction))
    done = cli("show", finished / "out", "--id", item.id)
    assert all(f"{arm} (" in done.stdout for arm in ARMS) and " ".join(item.text.split())[:30] in " ".join(
        done.stdout.split()
    )
    done = cli("show", finished / "out", "--id", "nothing")
    assert done.returncode == 2 and "no item whose id begins with 'nothing'" in done.stderr
    text = (finished / "stdout").read_text()
    assert "change against the seed LM" in text and "training loss" in text


def test_plots_put_value_interval_and_zero_where_they_belong():
    from selfdistill.report.plots import WIDTH, curve, forest

    lines = forest([("a", {"low": -0.5, "value": 0.0, "high": 1.0}), ("bb", None)])
    line = lines[0][4:].ljust(WIDTH)
    assert line[WIDTH // 2] == "o" and line.count("-") == 30 and line.rstrip().endswith("-")
    assert lines[1] == "bb  not measured" and "-100.0" in lines[2] and "+100.0" in lines[2]
    assert forest([("a", None)]) == []
    assert curve([4, 3, 2, 1, 0]) == "█▆▅▃▁" and curve([]) == "" and len(curve(range(1000))) == WIDTH


def test_output_rows_join_the_users_rows(finished):
    examples = {json.loads(x)["id"]: json.loads(x) for x in (finished / "out" / "examples.jsonl").open()}
    selected = list(read_records(finished / "out" / "selected.jsonl", Selected))
    given = [json.loads(x) for x in (finished / "train.jsonl").open()]
    assert [examples[s.id]["meta"]["source_id"] for s in selected] == [g["id"] for g in given]
    assert all(examples[s.id]["reference"] == g["a"] for s, g in zip(selected, given, strict=True))


@pytest.mark.heavy
def test_the_same_command_does_nothing_again_and_a_changed_one_is_refused(finished):
    out, recipe = finished / "out", finished / "recipe.toml"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert cli("run", recipe, "--out", out, "--set", "seed=3").returncode == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    changed = cli("run", recipe, "--out", out, "--set", "seed=3", "--set", "train.lr=0.5")
    assert changed.returncode == 2 and "train.lr: 0.0001 -> 0.5" in changed.stderr


@pytest.mark.heavy
def test_the_resolved_recipe_runs_to_the_same_result(finished, tmp_path):
    done = cli("run", finished / "out" / "recipe.toml", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    for name in ("selected.jsonl", "rewrites.jsonl", "sdft/predictions.jsonl", "vanilla/result.json"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / "out" / name).read_bytes()
    again, before = (json.loads((out / "report.json").read_text()) for out in (tmp_path / "again", finished / "out"))
    assert again.pop("costs").keys() == before.pop("costs").keys()  # seconds are their own
    assert again == before


def test_regrade_needs_no_model_and_finds_what_changed(finished, tmp_path):
    folder = shutil.copytree(finished / "out" / "seed", tmp_path / "seed")
    before = (folder / "result.json").read_text()
    done = cli("evaluate", "--regrade", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "result.json").read_text() == before
    rows = [json.loads(x) for x in (folder / "predictions.jsonl").open()]
    expected = {json.loads(x)["id"]: json.loads(x)["reference"] for x in (folder / "items.jsonl").open()}
    write_jsonl(folder / "predictions.jsonl", [r | {"text": f"It is {expected[r['id']]}."} for r in rows])
    assert cli("evaluate", "--regrade", "--out", folder).returncode == 0
    assert json.loads((folder / "result.json").read_text())[0]["score"] == 1.0


@pytest.mark.heavy
def test_a_changed_expectation_is_not_answered_from_the_old_run(tmp_path):
    def run(word):
        write_jsonl(tmp_path / "t.jsonl", [{"prompt": "Name three fruits.", "response": "x", "contains": [word]}])
        task = f"name=t,path={tmp_path / 't.jsonl'},check=contains"
        return cli("evaluate", "--model", "embedded", "--task", task, "--out", tmp_path / "e")

    assert "100.0" in run("apple").stdout
    changed = run("zebra")
    assert changed.returncode == 2 and "task t" in changed.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "items.jsonl").write_text("mine")
    done = cli("evaluate", "--model", "embedded", "--task", "micro:facts", "--out", tmp_path / "mine")
    assert done.returncode == 2 and (tmp_path / "mine" / "items.jsonl").read_text() == "mine"


def test_bad_settings_are_found_before_anything_is_made(tmp_path, foreign_folder):
    recipe = tmp_path / "r.toml"
    for targets in ('["q_proj"]', '"q_proj"'):
        recipe.write_text(f'model = "{foreign_folder}"\n[data]\npath = "micro:facts"\n[train]\ntargets = {targets}\n')
        assert "all-linear" in bad("run", recipe, "--out", tmp_path / "o")
    recipe.write_text('model = "embedded"\n[data]\npath = "nope.jsonl"\n')
    assert "no such file" in bad("run", recipe, "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_weights_that_are_not_all_there_are_refused(tmp_path, foreign_folder):
    folder = shutil.copytree(foreign_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    arguments = ("distill", "--model", folder, "--data", "micro:facts", "--out", tmp_path / "r.jsonl")
    assert "incomplete" in bad(*arguments)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert "a Git LFS pointer" in bad(*arguments)


def test_compare_and_report_work_alone(finished, tmp_path):
    out = finished / "out"
    done = cli("compare", out / "seed", out / "sdft", "--json")
    assert done.returncode == 0 and "sdft - seed" in done.stderr
    assert json.loads(done.stdout)[0]["differences"][0]["n"] == 10
    shutil.copytree(out / "sdft", tmp_path / "fewer")
    lines = (tmp_path / "fewer" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "fewer" / "predictions.jsonl").write_text("".join(lines[1:]))
    odd = cli("compare", out / "seed", tmp_path / "fewer")
    assert odd.returncode == 2 and "same items" in odd.stderr
    before = (out / "report.md").read_bytes()
    assert cli("report", out).returncode == 0 and (out / "report.md").read_bytes() == before


HELPED = """
import sys
sys.argv[1:] = {arguments}
from selfdistill.cli import app
try:
    app()
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["evaluate", "--help"], []])
def test_help_imports_nothing_heavy(arguments):
    code = HELPED.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "Usage" in done.stdout and {"selfdistill.cli", "typer"} <= loaded
    heavy = {"torch", "transformers", "datasets", "numpy", "scipy", "openai", "jinja2"}
    if arguments in ([], ["--help"]):
        heavy |= {"pydantic", "selfdistill.core.config"}
    assert not loaded & heavy


def bad(*args: object, **kwargs) -> str:
    done = cli(*args, **kwargs)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1
    return done.stderr


@pytest.mark.heavy
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, foreign_folder):
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}])
    out = tmp_path / "r.jsonl"
    base = ("distill", "--data", data, "--out", out)
    assert "no such folder" in bad(*base, "--model", "./nowhere")
    for missing, word in (
        ("model.safetensors", "no weights"),
        ("tokenizer.json", "no tokenizer"),
        ("config.json", "config.json"),
    ):
        folder = shutil.copytree(foreign_folder, tmp_path / f"no-{missing}")
        (folder / missing).unlink()
        assert word in bad(*base, "--model", folder)
    assert "no such file" in bad("distill", "--data", "x.jsonl", "--out", out, "--model", "embedded")
    assert "temperature" in bad(*base, "--model", "embedded", "--candidates", 4)
    assert "a folder" in bad("distill", "--data", data, "--out", tmp_path, "--model", "embedded")
    for name in ("config", "adapter"):
        broken = shutil.copytree(foreign_folder, tmp_path / f"broken-{name}")
        (broken / ("config.json" if name == "config" else "adapter_config.json")).write_text("[]")
    assert "cannot be loaded" in bad(*base, "--model", tmp_path / "broken-config")
    (broken / "adapter_model.safetensors").write_bytes(b"")
    asked = ("evaluate", "--model", "embedded", "--task", "micro:facts", "--out", tmp_path / "e")
    assert "does not fit" in bad(*asked, "--adapter", broken)
    (tmp_path / "run.json").write_text("[]")
    assert "no run.json" in bad("scale", tmp_path)
    assert "mix_ratio = 1.5" in bad(
        "train", "--model", "embedded", "--data", data, "--out", tmp_path / "a", "--mix-ratio", 1.5
    )
    assert "rank = 0" in bad("train", "--model", "embedded", "--data", data, "--out", tmp_path / "a", "--rank", 0)
    assert "unknown check 'nope'" in bad(
        "select", "--data", data, "--rewrites", out, "--check", "nope", "--out", tmp_path / "s.jsonl"
    )
    assert "no such file" in bad("select", "--data", data, "--rewrites", out, "--out", tmp_path / "s.jsonl")
    assert "adapter" in bad(
        "evaluate", "--model", "embedded", "--adapter", tmp_path, "--task", "micro:facts", "--out", tmp_path / "e"
    )
    assert "no ability 'x'" in bad(
        "evaluate", "--model", "embedded", "--task", "name=x,path=micro:x,check=exact", "--out", tmp_path / "e"
    )
    assert "unknown key 'chek'" in bad(
        "evaluate", "--model", "embedded", "--task", "name=x,path=y,chek=exact", "--out", tmp_path / "e"
    )
    recipe = tmp_path / "r.toml"
    recipe.write_text('model = "embedded"\n[data]\npath = "d.jsonl"\n')
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    assert "Choose another output folder" in bad("run", recipe, "--out", tmp_path / "taken")
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["mine.txt"]
    assert not out.exists() and not (tmp_path / "a").exists()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (UserError("nope"), "error: nope"),
        (KeyError("x"), "error: unexpected KeyError: 'x'. SELFDISTILL_DEBUG=1 shows where it comes from."),
        (ValueError("a\nb\x1b[1m"), "error: unexpected ValueError: a b [1m. SELFDISTILL_DEBUG=1 shows where"),
        (PermissionError(13, "Permission denied", "f"), "error: f: Permission denied."),
    ],
)
def test_tracebacks_are_shown_only_on_demand(tmp_path, monkeypatch, raised, line):
    for debug in (None, "0", "1"):
        monkeypatch.delenv("SELFDISTILL_DEBUG", raising=False)
        if debug:
            monkeypatch.setenv("SELFDISTILL_DEBUG", debug)
        broken = partial(forked.break_reading, raised)
        done = cli(*["distill", "--model", "embedded", "--data", "d", "--out", "o"], cwd=tmp_path, prepare=broken)
        *before, last = done.stderr.splitlines()
        assert done.returncode == 2 and last.startswith(line), done.stderr
        if debug == "1":
            assert before[0].startswith("Traceback") and any("in broken" in x for x in before)
            assert any("'the cause http://[hidden]@host/'" in x for x in before)
        else:
            assert not before


@given(
    st.text(st.sampled_from(r"ab,=.(){}[]\d+1 :"), min_size=1).map(lambda r: f"({r})"),
    st.booleans(),
)
def test_a_regex_in_a_task_is_taken_as_it_is(pattern, quoted):
    check = f"regex:{pattern}"
    given_check = f'"{check}"' if quoted else check
    (task,) = task_values([f"name=x,path=a.jsonl,check={given_check},role=target"])
    assert task == {"name": "x", "path": "a.jsonl", "check": check, "role": "target"}


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (r"name=x,path=y,check=regex:(\d{1,3}),role=target", {"check": r"regex:(\d{1,3})", "role": "target"}),
        (r"name=x,path=y,check=regex:a,b=(\d+),limit=3", {"check": r"regex:a,b=(\d+)", "limit": "3"}),
        (r'name=x,path=y,check="regex:a,name=(\d+)",limit=3', {"check": r"regex:a,name=(\d+)", "limit": "3"}),
        ("check=exact, name=x,path=y", {"check": "exact"}),
        (
            "name=x,path=y,check=regex:(a),columns.prompt=My q, long",
            {"check": "regex:(a)", "columns": {"prompt": "My q, long"}},
        ),
        ("name=x,path=y,chek=exact", {"chek": "exact"}),
    ],
)
def test_values_of_a_task_may_hold_commas(text, task):
    assert task_values([text]) == [{"name": "x", "path": "y", **task}]


def test_columns_may_hold_commas():
    assert columns_of("prompt=Question, full,response=a=b") == {"prompt": "Question, full", "response": "a=b"}
    for wrong, said in (("prompt", "expected NAME=VALUE"), ("prompt=a,prompt=b", "prompt stands there twice")):
        with pytest.raises(UserError, match=said):
            columns_of(wrong)


@pytest.mark.heavy
def test_control_c_and_a_full_disk_lose_nothing(tmp_path):
    command = ["distill", "--model", "embedded", "--data", "micro:facts", "--sample", "400",
               "--engine", "name=transformers,rows=4", "--out", str(tmp_path / "r.jsonl")]  # fmt: skip
    process = forked.start(command, err=tmp_path / "error")
    unfinished = tmp_path / "r.jsonl.texts.partial"
    while process.is_alive() and not (unfinished.exists() and unfinished.stat().st_size):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    said = (tmp_path / "error").read_text()
    assert process.exitcode == 2 and "same command goes on" in said and "Traceback" not in said
    done = unfinished.read_bytes()
    assert done.endswith(b"\n")

    full = cli(*command, prepare=partial(forked.limit_files, len(done) + 2048))
    assert full.returncode == 2 and "Traceback" not in full.stderr and full.stderr.count("error:") == 1, full.stderr
    assert unfinished.read_bytes().startswith(done)


def test_the_embedded_model_is_small_and_safe():
    folder = Path(resolve("embedded"))
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 8e6
    assert (folder / "model.safetensors").is_file() and (folder / "README.md").is_file()
    assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl", ".py")]
