"""Model-written code on machines whose kernel grants less: a seccomp filter around the whole command plays them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import forked
import pytest
from conftest import cli, write_jsonl

from selfdistill.checks import load_check, sandbox
from selfdistill.checks.sandbox import REQUIRED, Ran, run_python, walls
from selfdistill.checks.sandbox.program import MEMORY_BYTES
from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.settings import checked
from selfdistill.pipeline import run

linux = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")


def on_less(denied: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run `selfdistill` on a kernel that lacks what is denied."""
    return cli(*args, prepare=partial(forked.less_kernel, denied))


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture
def marked(tmp_path):
    """Arguments of a `select` whose rewrite leaves a mark where it runs without walls; the mark, the output."""
    place = tmp_path / "open"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    mark = place / "mark"
    code = f"try:\n    open({str(mark)!r}, 'w').close()\nexcept OSError:\n    pass\ndef f(): return 1"
    data = write_jsonl(tmp_path / "data.jsonl", [{"prompt": "p", "response": "r", "tests": "assert f() == 1"}])
    rewrites = write_jsonl(tmp_path / "rewrites.jsonl", [{"prompt": "p", "response": f"```python\n{code}\n```"}])
    out = tmp_path / "selected.jsonl"
    arguments = ["select", "--data", data, "--rewrites", rewrites, "--check", "python_tests", "--out", out]
    return [*arguments, "--allow-code-execution"], mark, out


@pytest.mark.heavy
@linux
@pytest.mark.parametrize(
    ("denied", "missing"),
    [
        ("unshare,landlock", "read, write"),
        ("unshare,landlock in name only", "read, write"),
        ("unshare,seccomp", "write, network, processes"),
        ("unshare,landlock,seccomp", "read, write, network, processes"),
    ],
)
def test_where_a_wall_is_missing_nothing_is_run_and_nothing_written(marked, denied, missing):
    arguments, mark, out = marked
    said = one_line(on_less(denied, *arguments))
    assert f"does not hold the sandbox's walls {missing};" in said and "--code-without-walls" in said
    assert not mark.exists() and not out.exists()


@linux
def test_the_second_flag_takes_the_missing_walls_upon_itself(marked):
    arguments, mark, out = marked
    done = on_less("unshare,landlock,seccomp", *arguments, "--code-without-walls")
    assert done.returncode == 0 and "network, write, read, disk, parent missing" in " ".join(done.stderr.split()), (
        done.stderr
    )
    assert mark.exists()  # so the tests above would see what runs
    assert json.loads(out.read_text())["source"] == "distilled"


@pytest.mark.heavy
@linux
@pytest.mark.parametrize("denied", ["landlock", "unshare"])
def test_where_other_means_hold_all_walls_code_is_run(marked, denied):
    arguments, mark, out = marked
    if not all(walls(("landlock",) if denied == "landlock" else ("namespaces",))[wall] for wall in REQUIRED):
        pytest.skip("this machine's kernel holds no wall twice")
    done = on_less(denied, *arguments)
    assert done.returncode == 0 and done.stderr.count("sandbox for model-written code:") == 1, done.stderr
    assert not mark.exists()
    assert json.loads(out.read_text())["source"] == "distilled"


@linux
def test_train_judges_nothing_where_it_is_told_of_the_tasks(tmp_path):
    data = write_jsonl(tmp_path / "data.jsonl", [{"prompt": "p", "response": "r", "tests": "assert f() == 1"}])
    tasks = [a for check in ("python_tests", "win_rate") for a in ("--task", f"name={check},path={data},check={check}")]
    done = on_less(
        "unshare,landlock", "train", "--model", tmp_path / "none", "--data", data, "--out", tmp_path / "out", *tasks
    )
    said = " ".join(done.stderr.split())
    for check in ("python_tests", "win_rate"):
        assert f"warning: 1 of 1 training rows is an item of task {check} (" in said
    assert said.count("warning: ") == 2 and "model-written" not in said
    assert done.returncode == 2 and f"{tmp_path / 'none'}: no such folder" in said  # the model is looked for afterwards


@pytest.mark.heavy
@linux
@pytest.mark.parametrize("command", ["demo", "evaluate", "validate", "run"])
def test_every_command_refuses_before_it_begins(tmp_path, command):
    out = tmp_path / "out"
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'model = "embedded"\n[data]\npath = "micro:rare_tools"\n[[tasks]]\nname = "code"\npath = "micro:code"\n'
    )
    arguments = {
        "demo": ["--out", out],
        "evaluate": ["--model", "embedded", "--task", "micro:code", "--out", out],
        "validate": ["--task", "micro:code"],
        "run": [recipe, "--out", out],
    }[command]
    said = one_line(on_less("unshare,landlock", command, *arguments, "--allow-code-execution"))
    assert "walls read, write" in said and not out.exists()


def test_the_sandbox_itself_refuses(tmp_path):
    """Also where no check was loaded first: what is missing is found by the process that would run the code."""
    mark = tmp_path / "mark"
    bare = ("namespaces", "nobody", "landlock", "seccomp")
    code = f"open({str(mark)!r}, 'w')"
    for texts in ({"source": code}, {"source": "", "answer": code}):
        with pytest.raises(UserError, match="walls read, write, network, processes;"):
            sandbox._run(**texts, wall=3.0, memory=MEMORY_BYTES, without=bare, required=REQUIRED)
    assert not mark.exists()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_have_no_walls(monkeypatch, system):
    walls.cache_clear()
    monkeypatch.setattr(sys, "platform", system)
    try:
        with pytest.raises(UserError, match="walls read, write, network, processes"):
            load_check("python_tests", allow_code=True)
    finally:
        monkeypatch.undo()
        walls.cache_clear()


def test_checks_can_be_imported_where_there_is_no_unix():
    code = "import sys; sys.modules['resource'] = None; import selfdistill.checks, selfdistill.tasks.load"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.heavy
@linux
def test_walls_are_said_once_and_kept(tmp_path):
    if not all(walls()[wall] for wall in REQUIRED):
        pytest.skip("this machine's kernel does not hold all walls")
    arguments = ["evaluate", "--task", "name=a,path=micro:code,limit=2", "--task", "name=b,path=micro:code,limit=2"]
    done = cli(*arguments, "--model", "embedded", "--out", tmp_path / "out", "--allow-code-execution")
    assert done.returncode == 0 and done.stderr.count("sandbox for model-written code:") == 1, done.stderr
    results = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [r["walls"] for r in results] == [walls(), walls()]
    done = cli("evaluate", "--regrade", "--out", tmp_path / "out", "--allow-code-execution")
    assert done.returncode == 0 and done.stderr.count("sandbox for model-written code:") == 1, done.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == results


@pytest.mark.heavy
@linux
def test_a_run_keeps_the_walls(tmp_path):
    if not all(walls()[wall] for wall in REQUIRED):
        pytest.skip("this machine's kernel does not hold all walls")
    task = {"path": "micro:code", "limit": 2, "max_new_tokens": 32}
    recipe = {
        "model": "embedded",
        "data": {"path": "micro:rare_tools", "sample": 8},
        "distill": {"max_new_tokens": 32},
        "train": {"epochs": 1},
        "tasks": [{"name": "code", **task}, {"name": "facts", **task, "path": "micro:facts"}],
    }
    for allowed in (True, False):
        out = tmp_path / str(allowed)
        run(checked(Recipe, recipe | {"allow_code_execution": allowed}, "recipe"), out)
        assert json.loads((out / "run.json").read_text()).get("walls") == (walls() if allowed else None)
        results = {r["task"]: r for r in json.loads((out / "sdft" / "result.json").read_text())}
        assert results["code"]["walls"] == (walls() if allowed else None) and results["facts"]["walls"] is None
        assert results["code"]["n"] == 2 * allowed


# The tests' names are their own


@pytest.mark.parametrize(
    "answer",
    [
        "def f(): return 2\nclass AssertionError(BaseException):\n    pass",
        "def f(): return 2\ndef sorted(x): return [1]",
        "def f(): return 2\nimport builtins\nbuiltins.sorted = lambda x: [1]",
        "def f(): return 2\nimport builtins\nbuiltins.AssertionError = ()",
        "def f(): return 2\nimport builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
        "def f(): return 2\nimport sys\nsys.modules['__main__'] = sys",
        "def f(): raise SystemExit(0)",
        "import os\ndef f(): os._exit(0)",
        "raise SystemExit",
    ],
)
def test_an_answer_does_not_change_what_the_tests_say(answer):
    assert not run_python("assert sorted([f()]) == [1]", answer=answer, names=["f"]).passed


def test_an_answer_is_a_module_and_the_tests_are_the_program():
    answer = """
from __future__ import annotations
import dataclasses, typing
count = 0
@dataclasses.dataclass
class Point:
    x: int
    other: Point | None = None
def f(p: Point) -> int:
    global count
    count += 1
    return p.x
def sum(a, b): return a - b
if __name__ == "__main__":
    raise SystemExit(1)
"""
    tests = """
import inspect, pickle, sys, typing
assert __name__ == "__main__" and f.__module__ == "solution"
assert pickle.loads(pickle.dumps(Point(1, Point(2)))) == Point(1, Point(2))
assert typing.get_type_hints(f) == {"p": Point, "return": int}
assert typing.get_type_hints(Point)["x"] is int
assert "class Point" in inspect.getsource(Point)
f(Point(1))
assert count == 1
from solution import Point as Same
assert Same is Point
"""
    assert run_python(tests, answer=answer, names=["f", "Point"]) == Ran(True, "")
    assert run_python("assert sum([1, 2]) == 3", answer=answer, names=["f"]).passed
    assert run_python("assert sum(1, 2) == -1", answer=answer, names=["sum"]).passed
    assert run_python("g()", answer=answer, names=["g"]).note == "NameError: name 'g' is not defined"
    assert run_python("", answer="def f(:").note.startswith("SyntaxError")
