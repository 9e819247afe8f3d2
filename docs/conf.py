"""The site of the documentation: the pages beside this file, two of them made from the code.

sphinx-build -aE -W --keep-going docs build/site
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import metadata
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx

from selfdistill import cli
from selfdistill.core import config, engine_settings

project = "selfdistill"
author = copyright = "The selfdistill developers"
version = release = metadata.version("selfdistill")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
smartquotes = False  # they would make one dash of the two of --option
default_role = "literal"  # docstrings put code between single backticks

html_theme = "furo"
html_title = "selfdistill"
html_copy_source = False
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _fill)


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put in what is made from the code, and let links to the files beside docs/ stay inside the site."""
    if make := {"settings": settings, "cli": commands}.get(page):
        source[0] += make()
    for name in ("LOG", "CHANGELOG"):
        source[0] = source[0].replace(f"](../{name}.md", f"]({name.lower()}.md")


# ---- The settings of a recipe

TABLES: list[tuple[str, type[BaseModel]]] = [
    ("The recipe itself", config.Recipe),
    ("`[data]`", config.DataSettings),
    ("`[prompt]`", config.PromptSettings),
    ("`[distill]`", config.DistillSettings),
    ("`[select]`", config.SelectSettings),
    ("`[repair]`", config.RepairSettings),
    ("`[train]`", config.TrainSettings),
    ("`[[arms]]`", config.ArmSettings),
    ("`[[tasks]]`", config.TaskSettings),
    ("`[judge]`", engine_settings.JudgeSettings),
    *((f'`[engine]`, name = "{name}"', kind) for name, kind in engine_settings.ENGINES.items()),
]


def settings() -> str:
    """Every table of a recipe: what its docstring says, and each key with its values and its default."""
    parts = []
    for title, kind in TABLES:
        schema = kind.model_json_schema()
        lines = [f"## {title}", "", inspect.getdoc(kind) or "", "", "| key | values | default |", "| --- | --- | --- |"]
        for key, field in kind.model_fields.items():
            lines.append(f"| `{key}` | {_values(schema['properties'][key])} | {_default(field.get_default())} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "must be set"
    if value is None:
        return "not set"
    if isinstance(value, BaseModel):
        return "the defaults of its table"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "empty" if value in ((), {}) else f"`{value}`"


def _values(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_values(c) for c in choices if c.get("type") != "null"))
    if "$ref" in schema:
        return "a table, see below"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return f"a list (each item: {_values(schema.get('items') or schema['prefixItems'][0])})"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{word} {schema[rule]:g}" for rule, word in bounds.items() if rule in schema]
    limits += [f"as `{schema['pattern']}`"] if "pattern" in schema else []
    return ", ".join([words.get(schema["type"], "a table"), *limits])


# ---- The command line


def commands() -> str:
    """What typer writes of the app, without its list of commands, which it cuts short."""
    command = [sys.executable, "-m", "typer", cli.__name__, "utils", "docs", "--name", "selfdistill"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = re.sub(r"\*\*Commands\*\*:\n.*?(?=\n## )", "", text, flags=re.DOTALL)
    return re.sub(r"\A# .*\n", "", text)
