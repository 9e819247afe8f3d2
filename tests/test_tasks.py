"""The contract of every benchmark, and what a task's settings say of its items."""

from __future__ import annotations

import pytest
from conftest import write_jsonl

from selfdistill.checks.base import Judgement
from selfdistill.core.config import DataSettings, TaskSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.settings import checked
from selfdistill.data.examples import read_examples
from selfdistill.data.sources import SOURCES, Source
from selfdistill.tasks import BENCHMARKS
from selfdistill.tasks.base import Benchmark, Permissions
from selfdistill.tasks.load import load_tasks
from selfdistill.tasks.validate import validate


def source_of(name: str) -> Source:
    source = BENCHMARKS[name].source
    return source if isinstance(source, Source) else SOURCES[source]


def load(values: dict, data_dir=None):
    (task,) = load_tasks([checked(TaskSettings, values, "task")], 0, Permissions(data_dir=data_dir), Progress())
    return task


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_says_where_its_items_lie(name):
    benchmark, source = BENCHMARKS[name], source_of(name)
    assert benchmark.split in source.files and source.licence
    assert source.local or (source.revision and len(source.revision) == 40), "name the commit of the hub's dataset"


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if source_of(name).local])
def test_the_check_of_a_benchmark_in_the_package_knows_right_from_wrong(name):
    task = load({"path": f"paper:{name}"})
    assert task.settings.name == name and task.items and validate(task).good


def test_a_benchmark_may_bring_its_own_source(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "capitals.jsonl", [{"prompt": f"Capital {k}?", "response": f"City{k}"} for k in range(3)])
    source = Source("capitals", "some/capitals", "0" * 40, "MIT", {"test": ("capitals.jsonl",)})
    monkeypatch.setitem(BENCHMARKS, "capitals", Benchmark(source, "contains"))
    task = load({"path": "paper:capitals"}, str(tmp_path))
    assert [item.reference for item in task.items] == ["City0", "City1", "City2"] and validate(task).good
    with pytest.raises(UserError, match=r"some/capitals: no such file, and no dataset of that name"):
        load({"path": "paper:capitals"})


def test_a_missing_copy_names_the_file_of_the_split_that_was_asked_for():
    for split in ("train", "test"):
        with pytest.raises(UserError, match=rf"one of gsm8k_{split}_sdft\.json, gsm8k_{split}\.json"):
            read_examples(DataSettings(path="paper:gsm8k", split=split))


def test_a_named_task_brings_its_name():
    assert checked(TaskSettings, {"path": "paper:gsm8k"}, "task").name == "gsm8k"
    assert checked(TaskSettings, {"path": "paper:gsm8k", "name": "math"}, "task").name == "math"
    with pytest.raises(UserError, match="'name' is missing"):
        checked(TaskSettings, {"path": "test.jsonl"}, "task")


OWN = """from selfdistill.checks.base import Judgement

def last_word(response, reference, example):
    return response.split()[-1:] == [reference]

def lenient(response, reference, example):
    return True

def misspelt(response, reference, example):
    return Judgement("unreadable")

def number(response, reference, example):
    return Judgement("different", 1, 2)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A task of two rows, judged by a function of the user's module."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rules.py").write_text(OWN)
    write_jsonl(tmp_path / "t.jsonl", [{"prompt": "Capital?", "response": city} for city in ("Paris", "Rome")])
    return lambda function: load({"name": "t", "path": "t.jsonl", "check": f"own_rules:{function}"})


def test_a_check_of_the_users_own_is_validated(own):
    assert validate(own("last_word")).good
    assert {f.what for f in validate(own("lenient")).failures} == {"empty", "off-topic"}


def test_what_a_check_of_the_users_own_says_is_looked_at(own):
    task = own("misspelt")
    with pytest.raises(
        UserError, match=r"own_rules:misspelt.*'unreadable', expected one of same, different, no_answer"
    ):
        task.check("a", "b", task.items[0])
    task = own("number")
    with pytest.raises(UserError, match=r"own_rules:number.*extracted is 1, expected a text or None"):
        task.check("a", "b", task.items[0])
    assert isinstance(own("last_word").check("Rome", "Rome", task.items[0]), Judgement)
