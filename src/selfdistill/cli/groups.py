"""Groups of options that commands share: fields are options, methods make settings of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfdistill.cli.options import CODE, DATA, JUDGE, MODEL, OUTPUT, PROMPT, REPAIR, DataDir, Revision
from selfdistill.cli.values import columns_of, settings_of, variables_of

if TYPE_CHECKING:
    from rich.console import Console

    from selfdistill.checks.loaded import LoadedCheck
    from selfdistill.core.config import DataSettings, PromptSettings, RepairSettings
    from selfdistill.core.engine_settings import JudgeSettings
    from selfdistill.core.progress import Progress
    from selfdistill.data.notes import Notes
    from selfdistill.models.prompts import Prompter
    from selfdistill.tasks.base import Permissions


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
    sample: Annotated[
        int | None, typer.Option(help="Draw that many rows at random; without it, all.", rich_help_panel=DATA)
    ] = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out, count and list them.", rich_help_panel=DATA)
    ] = False
    data_dir: DataDir = None

    def settings(self) -> DataSettings:
        """The same as in a recipe's [data]."""
        from selfdistill.core.config import DataSettings
        from selfdistill.core.settings import checked

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
            help="With --format paper, the text around a question: using, refer, math, or the text file of distill.",
            rich_help_panel=PROMPT,
        ),
    ] = "using"
    prompt_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="What stands around a question, in training and answering alike: chat, the model's chat template; "
            "paper, the paper's text.",
            rich_help_panel=PROMPT,
        ),
    ] = "chat"
    thinking: Annotated[
        str,
        typer.Option(
            help="off: ask for answers without thoughts; strip: thoughts are no part of what trains; keep: they are.",
            rich_help_panel=PROMPT,
        ),
    ] = "off"
    thinking_tokens: Annotated[
        int | None,
        typer.Option(help="Room for thoughts, on top of that of the answer.", rich_help_panel=PROMPT),
    ] = None
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            help="Variables of the model's chat template, as JSON: '{\"enable_thinking\": false}'.",
            rich_help_panel=PROMPT,
        ),
    ] = None
    date: Annotated[
        str | None,
        typer.Option(
            help="The day that the chat template writes, as 2026-11-28; without it, that of the output's beginning.",
            rich_help_panel=PROMPT,
        ),
    ] = None

    def settings(self) -> PromptSettings:
        """The same as in a recipe's [prompt]."""
        from selfdistill.core.config import PromptSettings
        from selfdistill.core.settings import checked

        values = {
            "format": self.prompt_format, "template": self.template, "thinking": self.thinking,
            "thinking_tokens": self.thinking_tokens, "date": self.date,
            "chat_template_kwargs": variables_of(self.chat_template_kwargs),
        }  # fmt: skip
        return checked(PromptSettings, values, "prompt")

    def prompter(self, tokenizer: Any, progress: Progress) -> Prompter:
        """Turns to token ids, or to messages where there is no tokenizer."""
        from selfdistill.models.prompts import Prompter

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
    revision: Revision = None

    def open(self, model: str, progress: Progress) -> tuple[str, Prompter, Any]:
        """(digest of the seed LM, prompter, engine). Behind an endpoint the model may be anywhere: it is known by its
        name."""
        from selfdistill.core.engine_settings import ENGINES, OpenAISettings
        from selfdistill.core.errors import UserError
        from selfdistill.core.settings import checked
        from selfdistill.engines.open import open_endpoint, open_seed

        values = settings_of(self.engine, "--engine") if "=" in self.engine else {"name": self.engine}
        name = values.setdefault("name", "transformers")
        if name == "openai" and "base_url" not in values:
            raise UserError(
                f"--engine {self.engine}: base_url is missing. Write --engine "
                "name=openai,base_url=http://localhost:8000/v1,model=NAME."
            )
        if name not in ENGINES:
            raise UserError(f"--engine {name}: expected one of {', '.join(ENGINES)}.")
        if name == "openai":
            settings = checked(OpenAISettings, {"model": model, **values}, "--engine")
            return settings.model, *open_endpoint(settings, self.settings())
        chosen = checked(ENGINES[name], values, "--engine")
        seed_lm, prompter, engine = open_seed(
            chosen, model, self.settings(), warn=progress.warn, revision=self.revision
        )
        return seed_lm.digest, prompter, engine


@dataclass(frozen=True)
class Rewriting(Asked):
    """How a model is asked for rewrites, and by which engine."""

    template: Annotated[
        str,
        typer.Option(
            help="Wording of the request for a rewrite: using, refer, math, or a text file with {instruction} and "
            "{reference}.",
            rich_help_panel=PROMPT,
        ),
    ] = "using"


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
            help="Run it even where the kernel cannot isolate it. Only inside a container of your own.",
            rich_help_panel=CODE,
        ),
    ] = False

    def overrides(self) -> list[str]:
        """The same as overrides of a recipe."""
        return ["allow_code_execution=true"] * self.allow_code + ["code_without_walls=true"] * self.without_walls


@dataclass(frozen=True)
class Repairs(Code):
    """What is tried for rows of which no rewrite passes a check."""

    check: Annotated[
        str | None,
        typer.Option(
            help="What rewrites are compared by, as in select: rows of which none passes are repaired. Where the check "
            "can say where an answer lies, the reference's is put there.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    resample: Annotated[
        int, typer.Option(help="Further rewrites to sample of such a row; 0 samples none.", rich_help_panel=REPAIR)
    ] = 0
    retries: Annotated[
        int,
        typer.Option(
            help="How often the model is shown its wrong answer and the right one; 0 asks once.",
            rich_help_panel=REPAIR,
        ),
    ] = 0
    repair_temperature: Annotated[
        float, typer.Option(help="Of further rewrites, and of retries behind the first.", rich_help_panel=REPAIR)
    ] = 0.7

    def loaded(self, progress: Progress) -> tuple[LoadedCheck | None, RepairSettings | None]:
        """The check and the steps of repair; None of either without a check."""
        from selfdistill.checks import load_check
        from selfdistill.core.config import RepairSettings
        from selfdistill.core.errors import UserError
        from selfdistill.core.settings import checked

        asked = {"candidates": self.resample, "retries": self.retries}
        if self.check is None:
            for option, value in (("--resample", self.resample), ("--retries", self.retries)):
                if value:
                    raise UserError(f"distill: {option} is for rows of which no rewrite passes; name a --check.")
            return None, None
        check = load_check(self.check, self.allow_code, None, self.without_walls, progress)
        if check is None:
            raise UserError("distill: --check none compares nothing, so no row needs repair. Name another, or none.")
        steps = [step for step, count in asked.items() if count]
        if check.places:
            steps.append("place")
        if not steps:
            raise UserError(
                f"distill: check {self.check} cannot say where an answer lies. Give --resample or --retries, or leave "
                "--check to select."
            )
        counts = {step: count for step, count in asked.items() if count}
        values = {"steps": steps, "temperature": self.repair_temperature, **counts}
        given = {"candidates": "--resample", "retries": "--retries", "temperature": "--repair-temperature"}
        return check, checked(RepairSettings, values, "repair", given)


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
        from selfdistill.core.engine_settings import JudgeSettings
        from selfdistill.core.errors import UserError
        from selfdistill.core.settings import checked

        if (self.judge_url is None) != (self.judge_model is None):
            raise UserError("--judge-url and --judge-model belong together.")
        if self.judge_url is None:
            return None
        return checked(JudgeSettings, {"base_url": self.judge_url, "model": self.judge_model}, "judge")
