"""The house: in what order the rooms stand, that nothing imports upwards or in a circle, and how large a room may be."""

import ast
from pathlib import Path

import pytest

import selfdistill

HOUSE = Path(selfdistill.__file__).parent

ORDER = (
    "core", "run_folder", "data", "models", "engines", "checks", "tasks", "comparison", "training", "methods",
    "stages", "shift", "report", "publish", "seed_pass", "pipeline", "api", "studies", "microworld", "cli",
)  # fmt: skip
"""From what knows nothing to what knows all. A room imports from its own floor and from those before it."""

LARGE = {
    "checks/sandbox/program.py": "one program, started by its path, which may import nothing of ours",
    "microworld/world.py": "tables of wordings",
}
"""Files that may be longer than 400 lines, and why."""


def name_of(file):
    parts = file.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(f): f for f in sorted(HOUSE.rglob("*.py"))}


def imported(file):
    """The modules of ours that a file imports, anywhere in it, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "selfdistill" or name.startswith("selfdistill."):
                inner = name.partition(".")[2]
                while inner and inner not in MODULES:
                    inner = inner.rpartition(".")[0]
                yield inner


IMPORTS = {name: set(imported(file)) - {name, ""} for name, file in MODULES.items()}


def floor(name):
    return ORDER.index(name.partition(".")[0])


def test_every_room_has_its_place():
    assert {n.partition(".")[0] for n in MODULES} - {"", "__main__"} == set(ORDER)


@pytest.mark.parametrize("name", [n for n in MODULES if n not in ("", "__main__")])
def test_nothing_imports_upwards(name):
    assert [other for other in IMPORTS[name] if floor(other) > floor(name)] == []


def test_nothing_imports_in_a_circle():
    free, left = set(), dict(IMPORTS)
    while ready := [name for name, needs in left.items() if needs <= free]:
        free.update(ready)
        left = {name: needs for name, needs in left.items() if name not in free}
    assert left == {}


def test_the_test_of_circles_sees_one():
    assert any("pipeline" in needs for name, needs in IMPORTS.items() if name.startswith("cli."))
    assert IMPORTS["stages.select"] >= {"data.joins", "core.records"}


def test_the_core_does_not_know_the_toy_world():
    knows = {name for name, needs in IMPORTS.items() if any(n.startswith("microworld") for n in needs)}
    assert {n.partition(".")[0] for n in knows} <= {"microworld", "studies", "cli"}


@pytest.mark.parametrize("name", MODULES)
def test_rooms_are_small(name):
    file = MODULES[name]
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 400 or file.relative_to(HOUSE).as_posix() in LARGE, f"{lines} lines"
