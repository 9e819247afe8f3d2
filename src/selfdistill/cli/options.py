"""What commands have in common: their options, each written once, and what becomes of them.

A group is a dataclass whose fields are options and whose methods make settings of them. A command names the group as
one parameter (`rows: Rows`), and `command` spreads it out for typer.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from selfdistill.core.config import DataSettings, JudgeSettings, PromptSettings, TaskSettings
    from selfdistill.core.progress import Progress
    from selfdistill.data.notes import Notes
    from selfdistill.tasks.base import Permissions
    from selfdistill.templates import Prompter

# Panels of the help. What stands in none is the command's own.
DATA, PROMPT, MODEL, CODE, JUDGE, OUTPUT = "Data", "Prompt", "Model", "Model-written code", "Judge", "Output"


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

_MODEL = typer.Option("--model", help="Model folder, hub name, or `embedded`.", rich_help_panel=MODEL)
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]

_ADAPTER = typer.Option("--adapter", help="PEFT adapter folder.", rich_help_panel=MODEL)
Adapter = Annotated[str, _ADAPTER]
OptionalAdapter = Annotated[str | None, _ADAPTER]

_TASK = typer.Option(
    "--task",
    help="name=math,path=test.jsonl,check=last_number[,limit=200,...]; or paper:NAME, lm-eval:NAME, micro:ABILITY, or "
    'micro for all of these. As often as needed. A value with ,key= in it goes into quotes: check="regex:...".',
    rich_help_panel=DATA,
)
Tasks = Annotated[list[str], _TASK]
OptionalTasks = Annotated[list[str] | None, _TASK]

DataDir = Annotated[str | None, typer.Option(help="Folder with local copies of paper: datasets.", rich_help_panel=DATA)]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]


# --- groups ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terminal:
    """Where a command speaks: results on standard output; progress, notes and warnings on standard error."""

    context: typer.Context

    @property
    def quiet(self) -> bool:
        """Whether --quiet was given."""
        return bool(self.context.find_root().params["quiet"])

    def progress(self) -> Progress:
        """Bars, notes and warnings; of many processes, the first alone speaks."""
        from rich.console import Console

        from selfdistill.core.launch import process
        from selfdistill.core.progress import Progress

        return Progress(Console(stderr=True, quiet=not process().main), self.quiet)

    def console(self) -> Console:
        """Where a person reads the results."""
        from rich.console import Console

        return Console()


@dataclass(frozen=True)
class Answers(Terminal):
    """A terminal for results that a program may read, too: with --json they are all of standard output, and what a
    person would read goes to standard error."""

    json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON document.", rich_help_panel=OUTPUT)
    ] = False

    def console(self) -> Console:
        """Where a person reads the results."""
        from rich.console import Console

        return Console(stderr=self.json, quiet=self.json and self.quiet)

    def give(self, result: Any) -> None:
        """Print the JSON document, if it was asked for."""
        if self.json:
            typer.echo(json.dumps(result, indent=1))


@dataclass(frozen=True)
class Rows:
    """A training dataset."""

    data: Annotated[
        str,
        typer.Option(
            help="JSON, JSONL, CSV, Parquet or Arrow file, folder, hub name, paper:NAME, or micro:ABILITY.",
            rich_help_panel=DATA,
        ),
    ]
    data_format: Annotated[
        str,
        typer.Option(help="auto, alpaca, prompt-completion, messages, sharegpt or columns.", rich_help_panel=DATA),
    ] = "auto"
    columns: Annotated[
        str, typer.Option(help="Column names: prompt=question,response=answer.", rich_help_panel=DATA)
    ] = ""
    split: Annotated[str, typer.Option(help="Split of a hub, folder or micro dataset.", rich_help_panel=DATA)] = "train"
    sample: Annotated[int | None, typer.Option(help="Draw that many rows at random.", rich_help_panel=DATA)] = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out, count and list them.", rich_help_panel=DATA)
    ] = False
    data_dir: DataDir = None

    def settings(self) -> DataSettings:
        """The same as in a recipe's [data]."""
        from selfdistill.core.config import DataSettings, checked

        values = {
            "path": self.data, "format": self.data_format, "columns": columns_of(self.columns), "split": self.split,
            "sample": self.sample, "skip_bad": self.skip_bad,
        }  # fmt: skip
        return checked(DataSettings, values, "data")

    def read(self, seed: int, notes: Notes) -> list[Any]:
        """The rows as `Example`s."""
        from selfdistill.data.examples import read_examples

        return read_examples(self.settings(), seed=seed, data_dir=self.data_dir, notes=notes)


@dataclass(frozen=True)
class Prompt:
    """How a model is asked."""

    template: Annotated[
        str,
        typer.Option(
            help="using, refer, math, or a text file with {instruction} and {reference}.", rich_help_panel=PROMPT
        ),
    ] = "using"
    prompt_format: Annotated[
        str,
        typer.Option(
            "--format", help="chat: the model's chat template; paper: the paper's text.", rich_help_panel=PROMPT
        ),
    ] = "chat"

    def settings(self) -> PromptSettings:
        """The same as in a recipe's [prompt]."""
        from selfdistill.core.config import PromptSettings, checked

        return checked(PromptSettings, {"format": self.prompt_format, "template": self.template}, "prompt")

    def prompter(self, tokenizer: Any, progress: Progress) -> Prompter:
        """Turns to token ids, or to messages where there is no tokenizer."""
        from selfdistill.templates import Prompter

        return Prompter.create(tokenizer, self.settings(), progress.warn)


@dataclass(frozen=True)
class Asked(Prompt):
    """How a model is asked, and by which engine."""

    engine: Annotated[
        str,
        typer.Option(
            help="transformers, vllm, openai or ray; with settings: name=openai,base_url=URL,...",
            rich_help_panel=MODEL,
        ),
    ] = "transformers"

    def open(self, model: str, progress: Progress) -> tuple[str, Prompter, Any]:
        """(digest of the seed LM, prompter, engine). Behind an endpoint the model may be anywhere: it is known by its
        name."""
        from selfdistill.core.config import ENGINES, OpenAISettings, checked
        from selfdistill.core.errors import UserError
        from selfdistill.engines.open import open_endpoint, open_seed

        values = settings_of(self.engine, "--engine") if "=" in self.engine else {"name": self.engine}
        name = values.setdefault("name", "transformers")
        if name not in ENGINES:
            raise UserError(f"--engine {name}: expected one of {', '.join(ENGINES)}.")
        if name == "openai":
            settings = checked(OpenAISettings, {"model": model, **values}, "--engine")
            return settings.model, *open_endpoint(settings, self.settings())
        chosen = checked(ENGINES[name], values, "--engine")
        seed_lm, prompter, engine = open_seed(chosen, model, self.settings(), warn=progress.warn)
        return seed_lm.digest, prompter, engine


@dataclass(frozen=True)
class Code:
    """Whether what the model wrote may run."""

    allow_code: Annotated[
        bool,
        typer.Option("--allow-code-execution", help="Run model-written Python in the sandbox.", rich_help_panel=CODE),
    ] = False
    without_walls: Annotated[
        bool,
        typer.Option(
            "--code-without-walls",
            help="Run it also where walls of the sandbox are missing: in your own container.",
            rich_help_panel=CODE,
        ),
    ] = False

    def overrides(self) -> list[str]:
        """The same as overrides of a recipe."""
        return ["allow_code_execution=true"] * self.allow_code + ["code_without_walls=true"] * self.without_walls


@dataclass(frozen=True)
class Allowed(Code):
    """What tasks may use."""

    data_dir: DataDir = None

    def judge(self) -> JudgeSettings | None:
        """The judge LM, if there is one."""
        return None

    def permissions(self) -> Permissions:
        """The same for `load_tasks`."""
        from selfdistill.tasks.base import Permissions

        return Permissions(self.allow_code, self.judge(), self.data_dir, self.without_walls)


@dataclass(frozen=True)
class AllowedJudge(Allowed):
    """What tasks may use, a judge among it."""

    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of the judge LM.", rich_help_panel=JUDGE)
    ] = None
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge LM there.", rich_help_panel=JUDGE)] = None

    def judge(self) -> JudgeSettings | None:
        """The judge LM that the two options name together; None without them."""
        from selfdistill.core.config import JudgeSettings, checked
        from selfdistill.core.errors import UserError

        if (self.judge_url is None) != (self.judge_model is None):
            raise UserError("--judge-url and --judge-model belong together.")
        if self.judge_url is None:
            return None
        return checked(JudgeSettings, {"base_url": self.judge_url, "model": self.judge_model}, "judge")


# --- texts that hold several values ------------------------------------------------------------------------------


def pairs_of(texts: Sequence[str], mark: str, option: str) -> dict[str, str]:
    """`name=value` texts, or with another mark, as a dict. Raises UserError for what is no pair, and for one
    that stands there twice."""
    from selfdistill.core.errors import UserError

    pairs: dict[str, str] = {}
    for text in texts:
        key, _, value = (part.strip() for part in text.partition(mark))
        if not key or not value:
            raise UserError(f"{option} {text}: expected NAME{mark}VALUE.")
        if key in pairs:
            raise UserError(f"{option} {text}: {key} stands there twice.")
        pairs[key] = value
    return pairs


def settings_of(text: str, option: str) -> dict[str, str]:
    """`name=x,check=regex:a,b,role=target` as a dict. A value ends where a comma and another `key=` follow. A regex may
    hold such a text itself: it ends only before a key that a task has. What stands in double quotes is one value."""
    from selfdistill.core.config import TaskSettings

    keys = "|".join([*TaskSettings.model_fields, r"columns\.[^=,]+"])
    quoted = r'"[^"]*"(?=\s*(?:,|$))'
    regex = rf"(?<=\bcheck=)regex:.*?(?=,\s*(?:{keys})=|$)"
    plain = r".*?(?=,\s*[A-Za-z_][\w.-]*\s*=|$)"
    parts = re.findall(rf"(?s)([^=]*?=(?:{quoted}|{regex}|{plain})|.+$)(?:\s*,\s*|$)", text)
    values = pairs_of(parts, "=", option)
    return {k: v[1:-1] if re.fullmatch(r'(?s)"[^"]*"', v) else v for k, v in values.items()}


def columns_of(text: str) -> dict[str, str]:
    """--columns as a dict."""
    return settings_of(text, "--columns") if text else {}


def tasks_of(texts: Sequence[str]) -> list[TaskSettings]:
    """--task values as settings. Raises UserError for what no task can be."""
    from selfdistill.core.config import TaskSettings, checked

    return [checked(TaskSettings, values, "--task") for values in task_values(texts)]


def task_values(texts: Sequence[str]) -> list[dict[str, Any]]:
    """--task values as they would stand in a recipe; `micro` stands for all abilities of the microworld, 200 items
    each."""
    from selfdistill.microworld.world import ABILITIES

    tasks: list[dict[str, Any]] = []
    for text in texts:
        names = list(ABILITIES) if text == "micro" else [text[6:]] if text.startswith("micro:") else []
        tasks += [{"name": n, "path": f"micro:{n}", "limit": 200, "max_new_tokens": 128} for n in names]
        if text.startswith(("paper:", "lm-eval:")):
            path, _, rest = text.partition(",")
            settings = settings_of(rest, "--task") if rest else {}
            tasks.append({"name": path.partition(":")[2], "path": path} | settings)
        elif not names:
            values: dict[str, Any] = dict(settings_of(text, "--task"))
            columns = {k.removeprefix("columns."): values.pop(k) for k in list(values) if k.startswith("columns.")}
            tasks.append(values | ({"columns": columns} if columns else {}))
    return tasks


def must_be_new(*files: Path) -> None:
    """Raises UserError for a file that is there already: nothing is overwritten."""
    from selfdistill.core.errors import UserError

    for file in files:
        if file.exists():
            raise UserError(f"{file}: exists. Remove it or choose another name.")


def skipped(out: Path) -> Path:
    """Where the bad rows that were left out are listed: beside the output."""
    return out.with_name(f"{out.stem}.skipped.jsonl")
