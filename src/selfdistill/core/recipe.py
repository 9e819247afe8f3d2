"""Recipes: TOML files of the settings, read, changed from the command line, and written so that they run again."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from selfdistill.core.config import Recipe, TaskSettings
from selfdistill.core.errors import UserError
from selfdistill.core.settings import checked


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a TOML recipe, a file or one of ours by name (paper/gsm8k), apply `key.sub=value` overrides, and resolve
    data paths against the recipe's folder.

    Raises UserError with the file, the key, the value and the rule.
    """
    if not path.is_file():
        shipped = Path(str(resources.files("selfdistill") / "recipes"))
        if not (shipped / f"{path}.toml").is_file():
            names = ", ".join(sorted(f"{p.parent.name}/{p.stem}" for p in shipped.glob("*/*.toml")))
            raise UserError(f"{path}: no such recipe, and none of ours has that name: {names}.")
        path = shipped / f"{path}.toml"
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        quotes = " Text needs quotes." if "Invalid value" in str(error) else ""
        raise UserError(f"{path}: not valid TOML: {str(error).rstrip('.')}.{quotes}") from None
    recipe = checked(Recipe, tree, str(path), apply_overrides(tree, overrides))
    return recipe.model_copy(
        update={
            "model": _beside(path, recipe.model),
            "prompt": recipe.prompt.model_copy(update={"template": _beside(path, recipe.prompt.template)}),
            "data": recipe.data.model_copy(update={"path": _beside(path, recipe.data.path)}),
            "tasks": tuple(_task_beside(path, t) for t in recipe.tasks),
            "data_dir": recipe.data_dir and _beside(path, recipe.data_dir),
        }
    )


def apply_overrides(tree: dict[str, Any], texts: Sequence[str]) -> dict[str, str]:
    """Apply each `train.epochs=1`; of those for one key, the last. A value is read as TOML; what is not TOML is a
    string. Returns what gave each key, without its value, which may hold a secret."""
    given: dict[str, str] = {}
    for text in texts:
        key, equals, raw = text.partition("=")
        key, said = key.strip(), f"--set {text}"
        if not equals or not key:
            raise UserError(f"{said}: expected key=value, for example train.epochs=1.")
        given[key] = f"--set {key}"
        _put(tree, key, _value(raw), said)
    return given


def _value(raw: str) -> Any:
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        return raw


def _put(tree: dict[str, Any], key: str, value: Any, said: str) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UserError(f"{said}: {part!r} is no table. Lists are set in the recipe itself.")
    tree[last] = value


def _task_beside(recipe: Path, task: TaskSettings) -> TaskSettings:
    template = task.template and _beside(recipe, task.template)
    return task.model_copy(update={"path": _beside(recipe, task.path), "template": template})


def _beside(recipe: Path, name: str) -> str:
    """A path that exists beside the recipe, else the name as it stands (a hub name, `micro:`, `embedded`)."""
    beside = recipe.parent / name
    return str(beside.resolve()) if beside.exists() else name


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML that runs again."""
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(exclude_none=True))
