"""Worlds: sources of data that are made, not read. The core knows their names and asks them for the rest.

A world is a module with `examples(settings, task, seed)`, an iterator of `Example`s; `check_of(ability)`, the check
that judges an ability (UserError for one that is not there); `MODEL`, the folder of the model that lives in it; and
`QUIZZES` with `write_quizzes(folder, items, seed)`, its multiple-choice tasks in the form of lm-evaluation-harness.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

WORLDS = {"micro": "selfdistill.microworld.dataset"}
"""The module by the word before the colon of a dataset's name. A new world is one line here."""

MODELS = {"embedded": "micro"}
"""The world by the name of the model that lives in it."""


def world_of(path: str) -> Any:
    """The world that a dataset's name (`micro:ABILITY`) belongs to; None for files and hub names."""
    scheme, colon, _ = path.partition(":")
    return import_module(WORLDS[scheme]) if colon and scheme in WORLDS else None


def model_folder(name: str) -> str | None:
    """The folder of a world's model; None for any other name."""
    return str(import_module(WORLDS[MODELS[name]]).MODEL) if name in MODELS else None


def quiz_world(name: str) -> Any:
    """The world that has a quiz of this name; None where none has."""
    return next((world for world in map(import_module, WORLDS.values()) if name in world.QUIZZES), None)


def quizzes() -> tuple[str, ...]:
    """The names of all worlds' quizzes."""
    return tuple(name for world in map(import_module, WORLDS.values()) for name in world.QUIZZES)
