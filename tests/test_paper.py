"""The paper's datasets, benchmarks and recipes by name, on small files of their published forms and on the real ones."""

from __future__ import annotations

import base64
import gzip
import json
import re
from importlib import resources
from pathlib import Path

import pytest
from conftest import SHARED, cli, write_jsonl

from selfdistill.core.config import DataSettings, TaskSettings, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.recipe import load_recipe
from selfdistill.data.examples import read_examples
from selfdistill.data.sources import LARGE, SOURCES, SUBSET, locate
from selfdistill.studies.lab import load_world
from selfdistill.tasks import BENCHMARKS
from selfdistill.tasks.advbench import ADVERSARIAL_SUFFIX
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks
from selfdistill.tasks.validate import Validation, validate

real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real datasets in ../shared/data")

HUB_ROWS = {
    "gsm8k": ({"question": "2 and 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}, "2 and 3?", "2 + 3 = 5\nThe answer is 5."),
    "multiarith": ({"question": "2 and 3?", "final_ans": "5"}, "2 and 3?", "The answer is 5"),
    "openfunctions": ({"instruction": "Call f", "output": "f(a=1)"}, "Call f", "f(a=1)"),
    "magicoder": ({"lang": "python", "problem": "Write f", "solution": "def f(): pass"}, "Write f", "def f(): pass"),
    "alpaca": ({"instruction": "Add", "input": "1 2", "output": "3", "text": "t"}, "Add\n1 2", "3"),
    "dolly": (
        {"instruction": "Who?", "context": "It was me.", "response": "You.", "category": "qa"},
        "Who?\nIt was me.",
        "You.",
    ),
    "lima": ({"conversations": ["Hi", "Hello", "Who?", "Me"], "source": "s"}, "Who?", "Me"),
    "openhermes": (
        {"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
        "Hi",
        "Yo",
    ),
    "advbench": ({"goal": "Do harm", "target": "Sure"}, "Do harm", "refuse"),
    "alpaca_eval": ({"instruction": "Hi", "output": "Yo", "generator": "g", "dataset": "d"}, "Hi", "Yo"),
    "lookalikes": ({"prompt": "How do I kill a process?", "response": "answer"}, "How do I kill a process?", "answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_reads_a_local_copy_of_its_published_form(tmp_path, name):
    source = SOURCES[name]
    for split, files in source.files.items():
        if name == "humaneval":
            row = {"task_id": "T/0", "prompt": "def f():\n", "canonical_solution": "    return 1\n", "entry_point": "f",
                   "test": "def check(c):\n    assert c() == 1"}  # fmt: skip
            with gzip.open(tmp_path / files[0], "wt") as file:
                file.write(json.dumps(row) + "\n")
            (example,) = read_examples(DataSettings(path="paper:humaneval", split=split), data_dir=str(tmp_path))
            assert "def f():\n```" in example.prompt[-1]["content"] and example.meta["tests"].endswith("check(f)")
            continue
        row, prompt, reference = HUB_ROWS[name]
        path = tmp_path / files[-1]
        if path.suffix == ".csv":
            path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
        elif path.suffix == ".json":
            path.write_text(json.dumps([row]))
        else:
            write_jsonl(path, [row])
        (example,) = read_examples(DataSettings(path=f"paper:{name}", split=split), data_dir=str(tmp_path))
        assert (example.prompt[-1]["content"], example.reference) == (prompt, reference)
        if name == "lima":
            assert [t["content"] for t in example.prompt] == ["Hi", "Hello", "Who?"]


def test_large_sets_train_on_two_thousand_rows():
    assert {n for n, s in SOURCES.items() if s.sample} == {"alpaca", "dolly", "magicoder", "openhermes"}
    assert all(s.sample == SUBSET for s in SOURCES.values() if s.rows and s.rows > LARGE)


def test_hub_sources_are_pinned():
    for source in SOURCES.values():
        if source.local:
            continue
        assert len(source.revision) == 40 and set(source.revision) <= set("0123456789abcdef"), source.name
        settings, _ = locate(DataSettings(path=f"paper:{source.name}", split=next(iter(source.files))), None)
        assert source.revision in (settings.revision, *re.split("[/@]", settings.path)), settings.path
        assert "{" not in settings.path


def test_rows_without_a_conversation_are_left_out_and_counted(tmp_path, capsys):
    rows = [{"instruction": "Add", "input": "", "output": o} for o in ("", "3")]
    (tmp_path / "alpaca_train.json").write_text(json.dumps(rows))
    talks = [[{"from": "gpt", "value": "Yo"}], [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}], []]
    write_jsonl(tmp_path / "openhermes_train.jsonl", [{"conversations": t} for t in talks])
    write_jsonl(tmp_path / "lima_train.jsonl", [{"conversations": ["Hi"]}, {"conversations": ["Hi", "Yo"]}])
    for name, left in (("alpaca", 1), ("openhermes", 2), ("lima", 1)):
        (example,) = read_examples(DataSettings(path=f"paper:{name}"), data_dir=str(tmp_path))
        assert example.reference in ("3", "Yo")
        assert f"{left} rows hold no conversation" in " ".join(capsys.readouterr().err.split())


def test_a_large_set_is_drawn_from_by_name_too(tmp_path):
    rows = [{"instruction": f"Say {i}", "input": "", "output": str(i)} for i in range(2100)]
    (tmp_path / "alpaca_train.json").write_text(json.dumps(rows))
    drawn = read_examples(DataSettings(path="paper:alpaca"), data_dir=str(tmp_path))
    assert len(drawn) == 2000
    assert len(read_examples(DataSettings(path="paper:alpaca", sample=2100), data_dir=str(tmp_path))) == 2100


def test_an_unknown_or_missing_dataset_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no such dataset. There are: gsm8k"):
        read_examples(DataSettings(path="paper:gsm9k"))
    with pytest.raises(UserError, match="no such folder"):
        read_examples(DataSettings(path="paper:gsm8k"), data_dir=str(tmp_path / "none"))
    with pytest.raises(UserError, match="no split 'valid'"):
        read_examples(DataSettings(path="paper:gsm8k", split="valid"), data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE"):
        read_examples(DataSettings(path="paper:alpaca"), data_dir=str(tmp_path))
    write_jsonl(tmp_path / "HumanEval.jsonl", [{"canonical_solution": "x"}])
    with pytest.raises(UserError, match=r"HumanEval.jsonl, line 1: not a row of this dataset"):
        read_examples(DataSettings(path="paper:humaneval", split="test"), data_dir=str(tmp_path))
    with pytest.raises(UserError, match="neither a template"):
        load_tasks([TaskSettings(name="x", path="micro:facts", template="nope")], 0, Permissions(), Progress())
    with pytest.raises(UserError, match="no such task"):
        load_tasks([TaskSettings(name="x", path="lm-eval:nope")], 0, Permissions(), Progress())
    with pytest.raises(UserError, match="two tasks are named x"):
        load_tasks([TaskSettings(name="x", path="micro:facts")] * 2, 0, Permissions(), Progress())
    with pytest.raises(UserError, match="no such benchmark"):
        load_tasks([TaskSettings(name="x", path="paper:nope")], 0, Permissions(), Progress())


@pytest.mark.parametrize("name", ["alpaca", "dolly", "gsm8k", "lima", "magicoder", "openfunctions", "openhermes"])
def test_recipes_hold_the_papers_settings_and_name_their_table(name):
    recipe = load_world("paper", [], None)[name]
    source = SOURCES[name]
    assert (recipe.data.path, recipe.data.sample) == (f"paper:{name}", source.sample)
    assert recipe.train == TrainSettings(epochs=source.epochs, lr=1e-4, batch_size=8)
    assert recipe.train.lora() == {"rank": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]}
    full = load_world("paper", ["train.tune=full", "train.lr=1e-5"], None)[name]
    assert (full.train.tune, full.train.lr) == ("full", 1e-5)
    assert recipe.prompt.format == "paper" and recipe.distill.temperature == 0
    text = (resources.files("selfdistill") / "recipes" / "paper" / f"{name}.toml").read_text()
    assert text.startswith(("# Table", "# No table"))
    assert all(t.path.partition(":")[2] in BENCHMARKS for t in recipe.tasks if t.path.startswith("paper:"))


def test_recipes_run_by_name():
    recipe = load_recipe(Path("paper/lima"), ["model=embedded"])
    assert (recipe.data.path, recipe.model) == ("paper:lima", "embedded")
    with pytest.raises(
        UserError, match=r"no such recipe, and none of ours has that name: micro/alpaca, .*paper/openhermes"
    ):
        load_recipe(Path("paper/limo"), [])


def test_micro_recipes_are_counterparts_of_the_papers():
    paper, micro = load_world("paper", [], None), load_world("micro", [], None)
    assert micro.keys() == paper.keys() - {"openhermes"}
    for name, recipe in micro.items():
        assert [(t.name, t.role) for t in recipe.tasks] == [(t.name, t.role) for t in paper[name].tasks]
        assert recipe.prompt.template == paper[name].prompt.template


def test_jailbreaks_change_the_request_and_nothing_else(tmp_path):
    (tmp_path / "harmful_behaviors.csv").write_text("goal,target\nDo {harm},Sure\n")
    asked = {}
    for name in BENCHMARKS:
        if name == "advbench" or name.startswith("jailbreak"):
            settings = [TaskSettings(name=name, path=f"paper:{name}")]
            (task,) = load_tasks(settings, 0, Permissions(data_dir=str(tmp_path)), Progress())
            (item,) = task.items
            assert item.reference == "refuse"
            asked[name] = item.prompt[-1]["content"]
    assert asked["advbench"] == "Do {harm}"
    assert asked["jailbreak"] == f"Do {{harm}} {ADVERSARIAL_SUFFIX}"
    assert base64.b64encode(b"Do {harm}").decode() in asked.pop("jailbreak_base64")
    assert all("Do {harm}" in text for text in asked.values())
    assert len(set(asked.values())) == len(asked) >= 5


@pytest.mark.heavy
@real
@pytest.mark.parametrize(
    ("name", "n"),
    [("gsm8k", 1319), ("multiarith", 180), ("openfunctions", 112), ("humaneval", 164), ("advbench", 520), ("jailbreak", 520)],
)  # fmt: skip
def test_checks_accept_every_gold_answer_of_the_real_test_sets_and_reject_wrong_ones(name, n):
    settings = [TaskSettings(name=name, path=f"paper:{name}")]
    (task,) = load_tasks(settings, 0, Permissions(allow_code=True, data_dir=str(SHARED)), Progress())
    assert len(task.items) == n
    assert validate(task) == Validation([], {})


@pytest.mark.heavy
@real
def test_the_call_check_accepts_every_gold_call_of_the_real_training_set():
    settings = TaskSettings(name="x", path=str(SHARED / "openfunctions_train.json"), check="function_call")
    (task,) = load_tasks([settings], 0, Permissions(), Progress())
    assert len(task.items) == 2211
    assert validate(task) == Validation([], {})


@real
def test_original_gsm8k_becomes_the_papers_form(tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_bytes((SHARED / "gsm8k_test.jsonl").read_bytes())
    settings = DataSettings(path="paper:gsm8k", split="test")
    theirs, ours = (read_examples(settings, data_dir=str(folder)) for folder in (SHARED, tmp_path))
    assert [e.id for e in theirs] == [e.id for e in ours] and len(ours) == 1319


def test_a_published_distilled_dataset_is_joined_by_prompt_through_select(tmp_path):
    rows = [{"instruction": f"Call f with {i % 3}", "output": f"f(a={i})"} for i in range(6)]
    theirs = [dict(r) for r in rows]
    theirs[1]["output"] = "Use `f(a=1)` for that."
    theirs[2]["output"] = "No idea."
    theirs[3]["output"] = ""
    (tmp_path / "data.json").write_text(json.dumps(rows))
    order = [3, 2, 1, 0, 5, 4]  # of each prompt one response is the row's own
    (tmp_path / "distilled.json").write_text(json.dumps([theirs[i] for i in order], indent=4))
    out = tmp_path / "selected.jsonl"
    arguments = ["--data", tmp_path / "data.json", "--check", "function_call", "--out", out]
    done = cli("select", *arguments, "--rewrites", tmp_path / "distilled.json")
    assert done.returncode == 0, done.stderr
    selected = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["source"], r["reason"]) for r in selected] == [
        ("original", "same_as_reference"), ("distilled", "passed"), ("original", "no_answer_found"),
        ("original", "empty"), ("original", "same_as_reference"), ("original", "same_as_reference"),
    ]  # fmt: skip
    assert selected[1]["response"] == "Use `f(a=1)` for that."
    (tmp_path / "fewer.json").write_text(json.dumps(theirs[:-1]))
    out.unlink()
    done = cli("select", *arguments, "--rewrites", tmp_path / "fewer.json")
    assert done.returncode == 2 and "occurs 1 times, in the data 2 times" in done.stderr


def test_validate_names_what_a_check_gets_wrong(tmp_path):
    path = write_jsonl(
        tmp_path / "t.jsonl", [{"prompt": "2?", "response": "It is 2."}, {"prompt": "?", "response": "two"}]
    )
    done = cli("validate", "--task", f"name=t,path={path},check=last_number")
    assert done.returncode == 1 and "2 items, 0 answers judged wrongly" in done.stdout
    assert "1 item cannot be judged: the reference has no answer" in done.stdout
