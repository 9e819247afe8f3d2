"""What holds for every command: help, one line for bad input, --json, --quiet."""

from __future__ import annotations

import inspect
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise
from typing import Annotated, get_args, get_origin

import forked
import pytest
import typer
from conftest import cli, write_jsonl

from selfdistill.cli import GROUPS, app, main
from selfdistill.cli.options import command
from selfdistill.core.recipe import load_recipe

COMMANDS = typer.main.get_command(app).commands
FUNCTIONS = {function.__name__: command(function) for functions in GROUPS.values() for function in functions}

VALUES = {"to": "me/model", "seed": "0"}
"""What required options take where any word will not do."""

BAD = {
    "demo": ["--target", "nope"],
    "run": ["nope", "--out", "o"],
    "study": ["table9"],
    "doctor": ["--model", "embedded", "--thinking", "nope"],
    "methods": ["nope"],
    "distill": ["--model", "./nowhere", "--data", "micro:facts", "--out", "o.jsonl"],
    "select": ["--data", "nope.jsonl", "--rewrites", "r.jsonl", "--out", "s.jsonl"],
    "validate": ["--task", "nope"],
    "train": ["--model", "embedded", "--data", "micro:facts", "--out", "a", "--set", "nope=1"],
    "scale": ["nowhere"],
    "evaluate": ["--out", "e", "--judge-url", "http://localhost"],
    "compare": ["same", "same"],
    "gate": ["a.jsonl", "b.jsonl", "--margin", "0"],
    "shift": ["a", "b", "--model", "m"],
    "report": ["nowhere"],
    "show": ["nowhere", "--id", "x"],
    "merge": ["--model", "./nowhere", "--adapter", "nowhere", "--out", "m"],
    "push": ["nowhere", "--to", "me/model"],
}


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """The command line as `main` runs it, in this process and an empty folder: (exit code, standard output, error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfdistill", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return call


def refused(said, *arguments: object) -> str:
    """The one line that says why. Nothing is printed or written beside it."""
    code, out, error = said(*arguments)
    assert code == 2 and not out, (arguments, out, error)
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n"), (arguments, error)
    return error


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_does(said, name):
    code, out, error = said(name, "--help")
    assert code == 0 and not error and f"Usage: selfdistill {name}" in out
    first = inspect.getdoc(FUNCTIONS[name]).splitlines()[0]
    assert first.endswith(".") and first.split()[0] in out
    for parameter in COMMANDS[name].params:
        assert parameter.help, (name, parameter.name)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_ends_with_an_example_that_parses(said, name):
    out = said(name, "--help")[1]
    last = " ".join(out.rpartition("╯")[2].split())
    start, called, *arguments = shlex.split(last.removeprefix("Example: "))
    assert last.startswith("Example: ") and (start, called) == ("selfdistill", name)
    COMMANDS[name].make_context(name, arguments)


def test_the_help_lists_what_there_is_and_cuts_nothing_off(said, monkeypatch):
    from selfdistill.checks import CHECKS
    from selfdistill.methods import METHODS
    from selfdistill.methods.base import Need

    monkeypatch.setenv("COLUMNS", "80")
    helps = {name: said(name, "--help")[1] for name in COMMANDS}
    assert all(check in helps["select"] for check in CHECKS)
    alone = [n for n, m in METHODS.items() if not m.after and m.needs <= {Need.REWRITES}]
    assert len(alone) > 3 and all(method in helps["train"] for method in alone)
    assert not [name for name, text in helps.items() if "…" in text]
    assert "seed LM" in helps["distill"] and "the seed LM)" in helps["distill"]


def test_one_thing_has_one_name_and_stands_in_one_panel():
    panels = {
        flag: {p.rich_help_panel for command in COMMANDS.values() for p in command.params if flag in p.opts}
        for flag in ("--task", "--model", "--adapter", "--out", "--json")
    }
    assert all(len(found) == 1 for found in panels.values()), panels
    flags = {flag for command in COMMANDS.values() for p in command.params for flag in p.opts}
    assert not flags & {"--base", "--tuned", "--work"}


def test_the_help_shows_the_commands_in_groups(said):
    code, out, _ = said("--help")
    found = [out.index(f" {group} ") for group in GROUPS]
    assert code == 0 and all(a < b for a, b in pairwise(found)) and set(FUNCTIONS) == set(COMMANDS) == set(BAD)
    assert said() == (2, out, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_input_of_every_command_is_one_line(said, name, tmp_path):
    assert f"`selfdistill {name} --help`" in refused(said, name, "--nope")
    required = [p for p in COMMANDS[name].params if p.required]
    for missing in required:
        given = []
        for other in (p for p in required if p is not missing):
            given += [other.opts[0]] * other.opts[0].startswith("-") + [VALUES.get(other.name, "word")]
        lacks = missing if missing.opts[0].startswith("-") else [p for p in required if p.opts[0][0] != "-"][-1]
        line = refused(said, name, *given)
        assert lacks.help.rstrip(".") in line and f"error: {name}: missing " in line
    refused(said, name, *BAD[name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.heavy
@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_named_where_they_are_wrong(said, name):
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        if get_origin(parameter.annotation) is not Annotated:
            continue
        kind, information = get_args(parameter.annotation)
        if isinstance(information, type(typer.Argument())):
            continue
        (option,) = [p for p in COMMANDS[name].params if p.name == parameter.name]
        flag = option.opts[0]
        if {int, float} & {kind, *get_args(kind)}:
            assert f"invalid value for '{flag}'" in refused(said, name, flag, "many")
        if kind is bool:
            assert "does not take a value" in refused(said, name, f"{flag}=many")
        else:
            assert f"error: {name}: option '{flag}' requires an argument" in refused(said, name, flag)
        assert flag in refused(said, name, f"{flag}x").split("Possible options:")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nope"], "no such option: --nope"),
        (["reprot"], "Did you mean 'report'?"),
        (["--quiet"], "missing command"),
        (["train", "--quiet"], "`selfdistill --quiet train ...`"),
        (["report", "a", "b"], "report: got unexpected extra argument(s) (b)"),
        (["shift", "a", "--prompts", "1"], "expected 2 or more"),
    ],
)
def test_wrong_arguments_say_how_to_mend_them(said, arguments, words):
    assert words in refused(said, *arguments)


def test_the_version(said):
    from importlib.metadata import version

    assert said("--version") == (0, f"selfdistill {version('selfdistill')}\n", "")


def test_control_c_is_one_line_and_its_place_is_known(said, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfdistill.publish.push.push", stopped)
    assert "same command goes on" in refused(said, "push", "folder", "--to", "me/model")
    monkeypatch.setenv("SELFDISTILL_DEBUG", "1")
    assert "in stopped" in said("push", "folder", "--to", "me/model")[2]


def test_the_end_of_a_file_is_not_taken_for_a_person_who_left(said, monkeypatch):
    def ended(*_):
        raise EOFError("the file ends early")

    monkeypatch.setattr("selfdistill.publish.push.push", ended)
    assert "unexpected EOFError: the file ends early" in refused(said, "push", "folder", "--to", "me/model")


def test_the_shell_completes_commands_and_options(said, monkeypatch, tmp_path):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, _ = said("--show-completion", "bash")
    assert code == 0 and "complete -o default -F _selfdistill_completion selfdistill" in out
    monkeypatch.setenv("_SELFDISTILL_COMPLETE", "complete_bash")
    for words, found in (("selfdistill va", "validate"), ("selfdistill train --mix", "--mix-ratio")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        code, out, error = said()
        assert code == 0 and out.split() == [found] and not error


def test_completion_installs(tmp_path):
    done = cli("--install-completion", env=os.environ | {"HOME": str(tmp_path), "SHELL": "/bin/bash"})
    if "not supported" in done.stderr + done.stdout:
        pytest.skip("no shell to be found here")
    assert done.returncode == 0 and "completion installed" in done.stdout, done.stderr
    assert any("selfdistill" in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.heavy
def test_help_is_instant():
    """Processor time, the best of some: a busy machine does not slow that down by much."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert cli("--help", env=os.environ).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.8


# --- results for programs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory, small_run):
    """A folder with a finished run, what its arms may be compared on, and what each command that gives JSON is asked."""
    folder = tmp_path_factory.mktemp("world")
    run = shutil.copytree(small_run, folder / "run")
    texts = [{"id": k, "text": f"the land of number {k} is far away"} for k in range(4)]
    write_jsonl(folder / "a.jsonl", texts)
    write_jsonl(folder / "data.jsonl", [{"prompt": f"Say {k}.", "completion": f"{k}"} for k in range(4)])
    row = json.loads((run / "examples.jsonl").read_text().splitlines()[0])["id"]
    task = "name=facts,path=micro:facts,limit=3,max_new_tokens=24"
    data = folder / "data.jsonl"
    rewrites = write_jsonl(folder / "r.jsonl", [{"prompt": f"Say {k}.", "completion": f"It is {k}."} for k in range(4)])
    asked = {
        "demo": ["demo", "--out", run],
        "run": ["run", run / "recipe.toml", "--out", run],
        "select": ["select", "--data", data, "--rewrites", rewrites, "--check", "last_number", "--out", "{}/s.jsonl"],
        "validate": ["validate", "--task", task],
        "doctor": ["doctor", "--model", "embedded", "--data", data],
        "methods": ["methods"],
        "evaluate": ["evaluate", "--model", "embedded", "--task", task, "--out", "{}/e"],
        "compare": ["compare", run / "seed", run / "sdft"],
        "gate": ["gate", run / "seed", run / "sdft"],
        "shift": ["shift", folder / "a.jsonl", folder / "a.jsonl"],
        "scale": ["scale", run, "--arm", "sdft", "--strengths", "0.5"],
        "report": ["report", run],
        "show": ["show", run, "--id", row],
    }
    return run, asked


def only(text: str):
    """The one JSON document, by the letter of the standard."""

    def no(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=no)


SPEAKS = [name for name in COMMANDS if any(p.name == "json" for p in COMMANDS[name].params)]


@pytest.mark.heavy
@pytest.mark.parametrize("name", SPEAKS)
def test_json_is_the_whole_output_and_quiet_leaves_no_word_beside_it(said, world, tmp_path, monkeypatch, name):
    run, asked = world
    recipe = load_recipe(run / "recipe.toml", [])
    monkeypatch.setattr("selfdistill.cli.demo.demo_recipe", lambda *_: recipe)  # a small one, which is finished

    def call(place, *options, before=()):
        (tmp_path / place).mkdir()
        return said(*before, *(str(x).replace("{}", place) for x in asked[name]), *options)

    code, out, _ = call("plain")
    assert code in (0, 1, 3) and out
    with_json = call("json", "--json")
    found = only(with_json[1])
    assert with_json[0] == code and found
    assert out.split()[0] in with_json[2]  # what a person reads is there, too
    quiet = call("quiet", before=["--quiet"])
    assert [quiet[0], timeless(quiet[1]), quiet[2]] == [code, timeless(out.replace("plain/", "quiet/")), ""]
    assert call("both", "--json", before=["--quiet"]) == (code, with_json[1], "")
    files = {
        "run": run / "report.json", "report": run / "report.json", "scale": run / "scale.json",
        "evaluate": tmp_path / "json" / "e" / "result.json",
    }  # fmt: skip
    if name in files:
        assert found == only(files[name].read_text())


def timeless(text):
    return re.sub(r"[\d.]+ minutes", "", text)


def test_json_says_what_the_records_say(said, world, tmp_path):
    run, asked = world
    (shown,) = only(said(*asked["show"], "--json")[1])
    row = json.loads((run / "selected.jsonl").read_text().splitlines()[0])
    assert shown["selected"] == row and shown["rewrite"]["id"] == shown["example"]["id"] == row["id"]
    item = json.loads((run / "sdft" / "predictions.jsonl").read_text().splitlines()[0])
    (shown,) = only(said("show", run, "--id", item["id"], "--json")[1])
    assert shown["answers"]["sdft"] == item and set(shown["answers"]) == {"seed", "vanilla", "sdft"}
    (tried,) = only(said(*asked["validate"], "--json")[1])
    assert tried == {"task": "facts", "n": 3, "failures": [], "unjudgeable": {}}
    counted = only(said(*(str(x).replace("{}/", "") for x in asked["select"]), "--json")[1])
    assert counted == {"rows": 4, "yield": {"passed": 4}}


@pytest.mark.heavy
def test_quiet_commands_that_write_say_nothing(said):
    data = ["--model", "embedded", "--data", "micro:facts", "--sample", "4"]
    assert said("--quiet", "distill", *data, "--max-new-tokens", 8, "--out", "r.jsonl") == (0, "", "")
    assert said("--quiet", "train", *data, "--epochs", 1, "--out", "adapter") == (0, "", "")
    assert said("--quiet", "merge", "--model", "embedded", "--adapter", "adapter", "--out", "merged") == (0, "", "")


def test_quiet_keeps_warnings(capsys):
    from selfdistill.core.progress import Progress

    progress = Progress(quiet=True)
    progress.note("a note")
    progress.warn("a warning")
    with progress.bar("work", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "warning: a warning\n")


def test_a_reader_who_leaves_early_is_no_error(tmp_path):
    rows = write_jsonl(tmp_path / "a.jsonl", [{"id": k, "correct": True} for k in range(20000)])
    shutil.copy(rows, tmp_path / "b.jsonl")
    line = f"'{sys.executable}' -m selfdistill gate '{rows}' '{tmp_path / 'b.jsonl'}' --json | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "error:" not in done.stderr, done.stderr


def test_the_tests_start_commands_with_everything_imported(tmp_path):
    """An import that fails where processes are forked from is silent, and every command would import for seconds."""
    assert cli("--version", prepare=partial(forked.tell_modules, str(tmp_path / "names"))).returncode == 0
    names = (tmp_path / "names").read_text().split()
    assert {"torch", "peft", "transformers.models.llama.modeling_llama", "selfdistill.engines.slots"} <= {*names}
