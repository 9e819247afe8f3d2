from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.recipe import load_recipe, to_toml
from selfdistill.core.records import dump, read_records
from selfdistill.core.rewrites import Reason, Rewrite, Selected
from selfdistill.core.store import Journal, locked

SETTINGS = {"model": "m", "temperature": 0.0}


def rewrite(i: int) -> Rewrite:
    return Rewrite(id=f"id{i}", candidates=({"text": f"täxt {i}\nline"},), reference_nll=i / 3)


@given(st.integers(0, 400))
def test_a_file_cut_anywhere_goes_on_and_ends_as_the_same_bytes(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("j")
    order = [f"id{i}" for i in (2, 0, 3, 1)]
    with Journal(folder / "whole.jsonl", Rewrite, SETTINGS) as whole:
        whole.append([rewrite(i) for i in range(4)])
        whole.finish(order)
    with Journal(folder / "torn.jsonl", Rewrite, SETTINGS) as torn:
        torn.append([rewrite(i) for i in range(4)])
    data = torn.partial.read_bytes()
    torn.partial.write_bytes(data[: min(cut, len(data))])
    with Journal(folder / "torn.jsonl", Rewrite, SETTINGS) as again:
        assert len(again.done) == data[: min(cut, len(data))].count(b"\n")
        again.append([rewrite(i) for i in range(4) if f"id{i}" not in again.done])
        again.finish(order)
    assert again.path.read_bytes() == whole.path.read_bytes()
    assert not again.partial.exists()


def test_other_settings_are_refused_by_name_and_nothing_is_touched(tmp_path):
    with Journal(tmp_path / "r.jsonl", Rewrite, SETTINGS) as journal:
        journal.append([rewrite(0)])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"temperature: 0.0 -> 0.7"):
        Journal(tmp_path / "r.jsonl", Rewrite, SETTINGS | {"temperature": 0.7})
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_file_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "r.jsonl").write_text("mine")
    with pytest.raises(UserError, match="not written by this command"):
        Journal(tmp_path / "r.jsonl", Rewrite, SETTINGS)
    assert (tmp_path / "r.jsonl").read_text() == "mine"


def test_records_are_strict(tmp_path):
    path = tmp_path / "s.jsonl"
    good = dump(Selected(id="a", response="r", source="original", reason=Reason.WRONG))
    for bad, message in [
        (b'{"id": "a", "response": "r", "source": "original", "reason": "wrong_answer", "extra": 1}\n', "extra"),
        (b'{"id": "a", "source": "original", "reason": "wrong_answer"}\n', "response"),
        (b'{"id": "a", "response": "r", "source": "elsewhere", "reason": "wrong_answer"}\n', "source"),
        (b"{nope\n", "json"),
    ]:
        path.write_bytes(good + bad)
        with pytest.raises(UserError, match="line 2") as caught:
            list(read_records(path, Selected))
        assert message in str(caught.value)


def test_a_folder_belongs_to_one_process(tmp_path):
    code = f"from pathlib import Path\nfrom selfdistill.core.store import locked\nwith locked(Path({str(tmp_path)!r})): pass"
    with locked(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


HOLDS = """
import sys, time
from pathlib import Path
from selfdistill.core.rewrites import Rewrite
from selfdistill.core.store import Journal, locked

with {held}:
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    "held", ["locked(Path(sys.argv[1]))", "locked(Path(sys.argv[1]), True)", "Journal(Path(sys.argv[1]), Rewrite, {})"]
)
def test_one_process_holds_a_place_and_a_killed_one_leaves_it(tmp_path, held):
    place = tmp_path / "place"
    command = [sys.executable, "-c", HOLDS.format(held=held), str(place)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    second = subprocess.run(command, capture_output=True, text=True)
    assert f"{place}: another process is" in second.stderr and second.returncode == 1 and not second.stdout
    first.kill()
    first.communicate()
    with Journal(place, Rewrite, {}) if "Journal" in held else locked(place, "True" in held):
        third = subprocess.run(command, capture_output=True, text=True)
    assert f"{place}: another process is" in third.stderr
    assert not [f.name for f in tmp_path.rglob("*") if f.name.endswith(".lock")]


WITHOUT = """
import builtins, importlib, pkgutil
there = builtins.__import__

def here(name, globals=None, locals=None, fromlist=(), level=0):
    if (globals or {}).get("__name__", "").startswith("selfdistill") and name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
        raise ImportError(name)
    return there(name, globals, locals, fromlist, level)

builtins.__import__ = here
import selfdistill
names = [m.name for m in pkgutil.walk_packages(selfdistill.__path__, "selfdistill.")]
names.remove("selfdistill.__main__")
print(len([importlib.import_module(name) for name in names]))
"""


@pytest.mark.heavy
def test_every_module_is_imported_where_the_modules_of_posix_are_missing():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 70


def recipe(tmp_path, text="", **tables):
    path = tmp_path / "r.toml"
    path.write_text('model = "embedded"\n[data]\npath = "d.jsonl"\n' + text)
    return path


def test_a_resolved_recipe_runs_again(tmp_path):
    path = recipe(
        tmp_path, '[train]\ntargets = "all-linear"\n[[tasks]]\nname = "t"\npath = "x"\ncheck = \'regex:"(a\\b)\'\n'
    )
    first = load_recipe(path, ["train.epochs=1", "prompt.template=refer", "seed=3", "data.columns={prompt = 'q'}"])
    assert (first.train.epochs, first.prompt.template, first.seed) == (1, "refer", 3)
    assert first.data.columns == {"prompt": "q"}
    path.write_text(to_toml(first))
    assert load_recipe(path, []) == first
    assert isinstance(first, Recipe)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("", ["train.epoch=1"], "unknown key 'train.epoch'. Did you mean 'epochs'? Valid here: accumulation"),
        ("[distil]\n", [], "Did you mean 'distill'?"),
        ("", ["train.mix_ratio=1.5"], "train.mix_ratio = 1.5"),
        ("", ["train.lr=fast"], "train.lr = 'fast'"),
        ("", ["distill.candidates=4"], "set temperature above 0"),
        ("", ["epochs"], "expected key=value"),
        ('[[tasks]]\nname = "a"\npath = "x"\n[[tasks]]\nname = "a"\npath = "y"\n', [], "two tasks are named a"),
        ("[train]\nepochs = \n", [], "not valid TOML"),
        ("[select]\nexport = { parquet = 'x' }\n", [], "export"),
        ("[select]\nexport = { messages = '../train.jsonl' }\n", [], "file name of its own"),
        ("[select]\nexport = { messages = 'selected.jsonl' }\n", [], "file name of its own"),
        ("[select]\nexport = { messages = 'a.jsonl', alpaca = 'a.jsonl' }\n", [], "file name of its own"),
    ],
)
def test_bad_recipes_name_key_value_and_rule(tmp_path, text, overrides, message):
    with pytest.raises(UserError) as caught:
        load_recipe(recipe(tmp_path, text), overrides)
    assert message in str(caught.value)
