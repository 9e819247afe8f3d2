"""The README and the docs: their links, the commands and files they name, and the site they build."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import typer

from selfdistill.cli import app
from selfdistill.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TODAY = [name for name in NAMES if name != "LOG.md"]  # the log tells what was, under the names of then
CODE = [
    f"/{file.relative_to(ROOT)}"
    for folder in ("src", "tests", "benchmarks", "scripts", "docs")
    for file in (ROOT / folder).rglob("*.*")
]
MADE = {"settings.md", "cli.md"}
"""Pages whose headings are made when the site is built."""

ELSEWHERE = {"gen_distilled_data.py", "eval_magicoder.py", "my_checks.py", "engines/plain.py", "methods/shorter.py"} | {
    f"{folder}/NAME.py" for folder in ("checks", "tasks", "engines", "methods")
}
"""Files that the docs name and that are not ours: the authors', and those that a reader writes."""

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


@cache
def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and the site make them."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        known = target.exists() and (not anchor or target.name in MADE or anchor in headings(target))
        broken += [] if known else [link]
    assert not broken


def command_lines(page: Path) -> list[list[str]]:
    """The arguments of every `selfdistill` in the bash blocks."""
    lines = []
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|\|", line):
                    words = shlex.split(part, comments=True)
                    at = next((i for i, word in enumerate(words) if Path(word).name == "selfdistill"), None)
                    lines += [] if at is None else [words[at + 1 :]]
    return lines


@pytest.mark.parametrize("name", TODAY)
def test_commands_are_those_of_the_command_line(name):
    """Whole commands are parsed, without running them. Of one with [optional] parts or ... the names are looked up."""
    group = typer.main.get_command(app)
    commands, before = group.commands, {option for parameter in group.params for option in parameter.opts}
    for words in command_lines(ROOT / name):
        command, *arguments = itertools.dropwhile(lambda word: word in before, [*words, ""])
        if not command:  # an option that stands alone, such as --install-completion
            continue
        arguments = arguments[:-1]
        assert command in commands, command
        if not any(mark in word for word in arguments for mark in ("[", "...")):
            commands[command].make_context(command, list(arguments))
            continue
        options = {option for parameter in commands[command].params for option in parameter.opts}
        named = {word.strip("[]").partition("=")[0] for word in arguments if word.strip("[").startswith("--")}
        assert named <= options, command


def test_there_are_commands_to_look_at():
    assert sum(len(command_lines(page)) for page in PAGES) > 20


@pytest.mark.parametrize("name", TODAY)
def test_files_of_code_exist(name):
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    named = set(re.findall(r"`(?:python )?([\w./-]+\.(?:py|sh))\b[^`\n]*`", text)) - ELSEWHERE
    assert not {file for file in named if not any(path.endswith(f"/{file}") for path in CODE)}


@pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in ("sphinx", "myst_parser", "furo")),
    reason="needs the extra docs: pip install 'selfdistill[docs]'",
)
@pytest.mark.heavy
def test_the_site_builds_without_a_warning(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    made = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "index.html").is_file()
    assert "max_grad_norm" in (tmp_path / "settings.html").read_text(encoding="utf-8")
    assert "--allow-code-execution" in (tmp_path / "cli.html").read_text(encoding="utf-8")
    loaded = r"""<(?:script|img|link)[^>]*(?:src|href)=["'](?:https?:)?//"""  # what a reader's browser would ask for
    assert not [page.name for page in tmp_path.glob("*.html") if re.search(loaded, page.read_text(encoding="utf-8"))]


def shown(name: str) -> dict[str, object]:
    """What the Python blocks of a page define, in their order: whole files, not the lines that go into one of ours."""
    defined: dict[str, object] = {}
    exec(SETTING, defined)
    for language, block in FENCE.findall((ROOT / "docs" / name).read_text(encoding="utf-8")):
        if language == "python" and not re.search(r'^    "\w+": |^METHODS', block, re.MULTILINE):
            exec(compile(block, name, "exec", dont_inherit=True), defined)
    return defined


SETTING = """
import pytest
from selfdistill.core.config import DataSettings
from selfdistill.core.records import Example
from selfdistill.core.rewrites import Selected
from selfdistill.core.turns import Turn
from selfdistill.data.examples import read_examples
"""


def test_the_checks_that_the_docs_show_work():
    page = shown("add-check.md")
    outcomes = [page["check_yes_no"](text, "yes", None).outcome for text in ("Yes, it is.", "No.", "Hm.")]
    assert outcomes == ["same", "different", "no_answer"]
    assert page["same_city"]("It is\nParis.", "Paris", None) and not page["same_city"]("", "Paris", None)
    assert [page["same_word"](text, "b", None).outcome for text in ("a b", "a", "")] == [
        "same",
        "different",
        "no_answer",
    ]


def test_the_method_that_the_docs_show_keeps_the_contract(monkeypatch):
    import test_methods
    import test_page

    page = shown("add-method.md")
    monkeypatch.setitem(METHODS, "shorter", page["METHOD"])
    for contract in (
        test_methods.test_every_row_gets_a_response_to_each_of_its_turns,
        test_methods.test_rewrites_train_where_the_method_says_so,
        test_methods.test_what_a_method_asks_for_is_what_it_looks_at,
        test_methods.test_every_method_says_what_it_is,
        test_page.test_every_method_can_be_told_apart_on_the_page,
    ):
        contract("shorter")
    page["test_the_shorter_response_trains"]()


def test_the_benchmark_that_the_docs_show_is_one():
    capitals = shown("add-task.md")["CAPITALS"]
    assert capitals.check == "contains" and capitals.source.local and capitals.split in capitals.source.files
