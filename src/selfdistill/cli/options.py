"""What commands have in common: their options, each written once, and what becomes of them.

A command names a group of them (`groups.py`) as one parameter (`rows: Rows`), and `command` spreads it out for typer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    pass

# Panels of the help. What stands in none is the command's own.
DATA, PROMPT, MODEL, CODE, JUDGE, OUTPUT = "Data", "Prompt", "Model", "Model-written code", "Judge", "Output"
REPAIR = "Repair"


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function as typer takes it: each parameter that is a group of options becomes the group's options."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            types = get_type_hints(groups[name], include_extras=True)
            for field in fields(groups[name]):
                default = inspect.Parameter.empty if field.default is MISSING else field.default
                parameters.append(_keyword(field.name, default, types[field.name]))
        else:
            parameters.append(_keyword(name, parameter.default, hints[name]))

    @wraps(function)
    def spread(**values: Any) -> None:
        made = {n: group(**{f.name: values.pop(f.name) for f in fields(group)}) for n, group in groups.items()}
        function(**values, **made)

    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {p.name: p.annotation for p in parameters}
    return spread


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# --- single options ----------------------------------------------------------------------------------------------


def _folder(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """A folder to write. Raises UserError, before anything is loaded, where a file stands in its place or above it."""
    return _free(param, value, value)


def _file(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """A file to write, which needs a folder above it."""
    return _free(param, value, value and value.parent)


def _free(param: typer.CallbackParam, value: Path | None, folder: Path | None) -> Path | None:
    from selfdistill.core.errors import UserError
    from selfdistill.core.store import file_above

    if folder and (file := file_above(folder)):
        raise UserError(f"{param.opts[0]} {value}: {'' if file == value else f'{file} is '}a file; expected a folder.")
    return value


def out_folder(help: str, name: str = "--out") -> Any:
    """The option of a folder to write."""
    return typer.Option(name, help=help, callback=_folder, rich_help_panel=OUTPUT)


def out_file(help: str, name: str = "--out") -> Any:
    """The option of a file to write."""
    return typer.Option(name, help=help, callback=_file, rich_help_panel=OUTPUT)


_MODEL = typer.Option("--model", help="Model folder, hub name, or `embedded`.", rich_help_panel=MODEL)
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]

Revision = Annotated[
    str | None, typer.Option("--revision", help="Commit, branch or tag of the model on the hub.", rich_help_panel=MODEL)
]

Adapter = Annotated[str, typer.Option("--adapter", help="PEFT adapter folder.", rich_help_panel=MODEL)]
OptionalAdapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="PEFT adapter folder, or a model with all weights tuned; without it, the model as it is.",
        rich_help_panel=MODEL,
    ),
]

_TASK = typer.Option(
    "--task",
    help="name=math,path=t.jsonl,check=last_number and, after further commas, what else a task of a recipe takes "
    "(limit=200); or paper:NAME, lm-eval:NAME, micro:ABILITY, or micro for all of these. As often as needed. A value "
    'with ,key= in it goes into quotes: check="regex:...".',
    rich_help_panel=DATA,
)
Tasks = Annotated[list[str], _TASK]
OptionalTasks = Annotated[list[str] | None, _TASK]

DataDir = Annotated[str | None, typer.Option(help="Folder with local copies of paper: datasets.", rich_help_panel=DATA)]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
Seed = Annotated[int, typer.Option(help="Random seed (not the seed LM).", min=0)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Any setting of the recipe, as key=value: "
    "--set train.epochs=1. As often as needed.")]  # fmt: skip
