"""The command line. Heavy imports stay inside the commands, so that --help is instant."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    help="Fine-tune a language model in its own words, and measure what it kept (SDFT, arXiv 2402.13669).",
    epilog="Errors are one line and exit code 2. SELFDISTILL_DEBUG=1 in the environment shows where they come from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEBUG = "SELFDISTILL_DEBUG"
"""The environment variable that shows tracebacks."""

LAUNCHED = ("train", "run")
"""Commands that many processes can share."""

ALONE = 30
"""Seconds after which a process that failed speaks up. What ends all of them is said by the first, and the launcher then
stops the others."""


@app.callback()
def start(context: typer.Context) -> None:
    """See the app's help."""
    from selfdistill.errors import UserError
    from selfdistill.models import process

    if process().count == 1:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each process would print the same warnings
    if context.invoked_subcommand not in LAUNCHED:
        raise UserError(
            f"{context.invoked_subcommand}: one process does this. A launcher is for {' and '.join(LAUNCHED)}."
        )


Model = Annotated[str, typer.Option(help="Model folder, hub name, or `embedded`.")]
Data = Annotated[
    str, typer.Option(help="JSON, JSONL, CSV, Parquet or Arrow file, folder, hub name, paper:NAME, or micro:ABILITY.")
]
DataForm = Annotated[
    str, typer.Option("--data-format", help="auto, alpaca, prompt-completion, messages, sharegpt or columns.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, count and list them.")]
Columns = Annotated[str, typer.Option(help="Column names: prompt=question,response=answer.")]
Split = Annotated[str, typer.Option(help="Split of a hub, folder or micro dataset.")]
Sample = Annotated[int | None, typer.Option(help="Draw that many rows at random.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
AllowCode = Annotated[bool, typer.Option("--allow-code-execution", help="Run model-written Python in the sandbox.")]
WithoutWalls = Annotated[
    bool,
    typer.Option(
        "--code-without-walls", help="Run it also where walls of the sandbox are missing: in your own container."
    ),
]
Template = Annotated[str, typer.Option(help="using, refer, math, or a text file with {instruction} and {reference}.")]
PromptFormat = Annotated[
    str, typer.Option("--format", help="chat: the model's chat template; paper: the paper's text.")
]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Folder with local copies of paper: datasets.")]
JudgeUrl = Annotated[str | None, typer.Option("--judge-url", help="OpenAI-compatible endpoint of the judge LM.")]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="Name of the judge LM there.")]
EngineOption = Annotated[
    str, typer.Option("--engine", help="transformers, vllm, openai or ray; with settings: name=openai,base_url=URL,...")
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("selfdistill-demo"),
    target: Annotated[str, typer.Option(help="What to fine-tune on: rare_tools or chat.")] = "rare_tools",
    allow_code: AllowCode = False,
    without_walls: WithoutWalls = False,
) -> None:
    """Show on the embedded model what the paper claims, in a few minutes on a laptop."""
    from selfdistill.cli.demo import demo as run_demo

    run_demo(out, target, allow_code, without_walls)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, or one of ours: paper/gsm8k, micro/alpaca, ...")],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, as often as needed.")] = None,
    allow_code: AllowCode = False,
    without_walls: WithoutWalls = False,
) -> None:
    """Distill, select, train both arms, evaluate, compare and report, as a recipe says."""
    from selfdistill.config import load_recipe
    from selfdistill.models import process
    from selfdistill.report import show
    from selfdistill.run import run as run_recipe

    extra = ["allow_code_execution=true"] * allow_code + ["code_without_walls=true"] * without_walls
    report = run_recipe(load_recipe(recipe, [*(overrides or []), *extra]), out, _progress())
    if process().main:
        show(report, _console())
        line = f"\nEverything lies in {out}: report.html, report.md, report.json, and an adapter in the folder of each arm."
        _console().print(line, highlight=False, markup=False)


@app.command()
def distill(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="Rewrites to write, for example rewrites.jsonl.")],
    data_format: DataForm = "auto",
    columns: Columns = "",
    split: Split = "train",
    sample: Sample = None,
    skip_bad: SkipBad = False,
    data_dir: DataDir = None,
    template: Template = "using",
    prompt_format: PromptFormat = "chat",
    candidates: Annotated[int, typer.Option(help="Rewrites per row; more than one needs a temperature.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest rewrite in tokens.")] = 512,
    seed: Seed = 0,
    engine: EngineOption = "transformers",
) -> None:
    """Let the seed LM rewrite every reference response."""
    from selfdistill.config import DistillSettings, checked
    from selfdistill.data import read_examples
    from selfdistill.distill import distill as run_distill
    from selfdistill.notes import Notes, warn_of_special
    from selfdistill.store import write_records

    values = {
        "template": template, "format": prompt_format, "candidates": candidates, "temperature": temperature,
        "top_p": top_p, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    settings = checked(DistillSettings, values, "distill")
    progress = _progress()
    notes = Notes(progress)
    examples = read_examples(
        _data(data, data_format, columns, split, sample, skip_bad), seed=seed, data_dir=data_dir, notes=notes
    )
    digest, prompter, made = _engine(engine, model, settings.format, settings.template, progress)
    warn_of_special(examples, prompter.tokenizer, data, progress)
    with closing(made):
        errors = run_distill(examples, out, digest, made, prompter, settings, seed, progress)
    listed = out.with_name(f"{out.stem}.examples.jsonl")
    write_records(listed, examples)
    notes.write(_skipped(out))
    progress.note(f"{len(examples)} rows in {out}; what they were made from, with ids, in {listed}")
    if errors:
        progress.warn(f"the engine failed on {errors} rows (their notes say why); the same command tries them again")
        raise typer.Exit(1)


@app.command()
def select(
    data: Data,
    rewrites: Annotated[
        Path, typer.Option(help="What `distill` wrote, or another program; or a whole distilled dataset.")
    ],
    out: Annotated[Path, typer.Option(help="Selected rows to write, for example selected.jsonl.")],
    check: Annotated[
        str,
        typer.Option(
            help="last_number, exact, contains, regex:PATTERN, function_call, refusal, python_tests, authors_*, none, or module:function."
        ),
    ] = "none",
    export: Annotated[
        list[str] | None,
        typer.Option(help="FORMAT:FILE with messages, prompt-completion, alpaca or sharegpt; as often as needed."),
    ] = None,
    data_format: DataForm = "auto",
    columns: Columns = "",
    split: Split = "train",
    sample: Sample = None,
    skip_bad: SkipBad = False,
    data_dir: DataDir = None,
    seed: Seed = 0,
    allow_code: AllowCode = False,
    without_walls: WithoutWalls = False,
) -> None:
    """Keep each rewrite that is as good as its reference; export the dataset."""
    from selfdistill.checks import load_check
    from selfdistill.config import SelectSettings, checked
    from selfdistill.data import stream_examples
    from selfdistill.errors import UserError
    from selfdistill.notes import Notes
    from selfdistill.report import EXPLAINED, yield_sentence
    from selfdistill.select import select as run_select

    wanted = _pairs(export or [], ":", "--export")
    checked(SelectSettings, {"check": check, "export": wanted}, "select")
    settings = _data(data, data_format, columns, split, sample, skip_bad)
    exports = {name: Path(file) for name, file in wanted.items()}
    for path in (out, *exports.values()):
        if path.exists():
            raise UserError(f"{path}: exists. Remove it or choose another name.")
    progress = _progress()
    notes = Notes(progress)
    examples = stream_examples(settings, seed=seed, data_dir=data_dir, notes=notes)
    loaded = load_check(check, allow_code, None, without_walls, progress)
    reasons = run_select(examples, rewrites, out, loaded, progress, settings, exports)
    notes.write(_skipped(out))
    for reason, count in reasons.most_common():
        _console().print(f"{count:>8}  {reason:<24} {EXPLAINED[reason]}", highlight=False)
    _console().print(yield_sentence(reasons), highlight=False)


@app.command()
def train(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="Adapter folder to write.")],
    selected: Annotated[Path | None, typer.Option(help="What `select` wrote; without it, vanilla fine-tuning.")] = None,
    data_format: DataForm = "auto",
    columns: Columns = "",
    split: Split = "train",
    sample: Sample = None,
    skip_bad: SkipBad = False,
    data_dir: DataDir = None,
    template: Template = "using",
    prompt_format: PromptFormat = "chat",
    epochs: Annotated[float, typer.Option()] = 2,
    lr: Annotated[float, typer.Option(help="Peak learning rate, cosine to 0.")] = 1e-4,
    batch_size: Annotated[int, typer.Option()] = 8,
    accumulation: Annotated[int, typer.Option(help="Gradient accumulation steps.")] = 1,
    tune: Annotated[
        str, typer.Option(help="lora: an adapter; qlora: one on the model in 4 bits; full: all weights, a whole model.")
    ] = "lora",
    preset: Annotated[str, typer.Option(help="paper: r = 8 on q,v; strong: r = 64 on all linear.")] = "paper",
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    targets: Annotated[str | None, typer.Option(help="Module names with commas, or all-linear.")] = None,
    mix_ratio: Annotated[float, typer.Option(help="Share of rows that take the distilled response.")] = 1.0,
    max_length: Annotated[int | None, typer.Option(help="Leave out rows with more tokens.")] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of a recipe's train table: --set dora=true.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="What will be measured, as for evaluate: warns of rows that are its items.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Fine-tune on the selected (or the original) responses."""
    from rich.console import Console

    from selfdistill.card import write_card
    from selfdistill.config import TaskSettings, TrainSettings, apply_override, checked
    from selfdistill.data import read_examples
    from selfdistill.errors import UserError
    from selfdistill.models import load_model, process
    from selfdistill.notes import Notes, warn_of_special
    from selfdistill.overlap import overlap_line, overlaps
    from selfdistill.progress import Progress
    from selfdistill.select import read_selected
    from selfdistill.tasks.load import Permissions, load_tasks
    from selfdistill.templates import Prompter
    from selfdistill.train import drawn, mixed
    from selfdistill.train import train as run_train

    values: dict[str, Any] = {
        "epochs": epochs, "lr": lr, "batch_size": batch_size, "accumulation": accumulation, "tune": tune,
        "preset": preset, "rank": rank, "mix_ratio": mix_ratio, "max_length": max_length,
    }  # fmt: skip
    if targets:
        values["targets"] = targets if targets == "all-linear" else targets.split(",")
    for override in set or []:
        apply_override(values, override)
    settings = checked(TrainSettings, values, "train")
    if selected is None and settings.mix_ratio != 1.0:
        raise UserError("train: mix_ratio mixes selected responses in; name them with --selected.")
    if isinstance(settings.mix_ratio, tuple) or isinstance(settings.rows, tuple):
        raise UserError("train: a list of mix_ratio or rows makes several arms; `selfdistill run` does that.")
    progress = _progress()
    notes = Notes(progress)
    examples = read_examples(
        _data(data, data_format, columns, split, sample, skip_bad), seed=seed, data_dir=data_dir, notes=notes
    )
    rows = {} if selected is None else read_selected(examples, selected)
    examples = drawn(examples, settings.rows, seed)
    responses = mixed(examples, rows, settings.mix_ratio if selected else 0.0, seed)
    tasks = [checked(TaskSettings, t, "--task") for t in _tasks(task or [])]
    # Nothing is judged here, so that no wall, no judge and no word about them is needed.
    asked = load_tasks(tasks, seed, Permissions(True, None, data_dir, True), Progress(Console(quiet=True)))
    for name, found in overlaps(examples, asked).items():
        progress.warn(overlap_line(name, found))
    seed_lm = load_model(model, quantized=settings.tune == "qlora")
    prompter = Prompter.create(seed_lm.tokenizer, prompt_format, template, progress.warn)  # type: ignore[arg-type]
    warn_of_special(examples, seed_lm.tokenizer, data, progress)
    run_train(seed_lm, examples, responses, out, settings, prompter, seed, "train", progress)
    if process().main:
        notes.write(_skipped(out))
        write_card(out, model, data, settings.mix_ratio if selected else 0.0)
    progress.note(f"adapter in {out}")


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for predictions and results.")],
    model: Annotated[str | None, typer.Option(help="Model folder, hub name, or `embedded`.")] = None,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter folder.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="name=math,path=test.jsonl,check=last_number[,limit=200,...]; or paper:NAME, lm-eval:NAME, "
            'micro:ABILITY, or micro for all of these. A value with ,key= in it goes into quotes: check="regex:...".'
        ),
    ] = None,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="Judge the stored texts in --out again; no model.")
    ] = False,
    template: Template = "using",
    prompt_format: PromptFormat = "chat",
    seed: Seed = 0,
    engine: EngineOption = "transformers",
    data_dir: DataDir = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    allow_code: AllowCode = False,
    without_walls: WithoutWalls = False,
) -> None:
    """Ask a model every item of every task and judge the answers."""
    from selfdistill import evaluate as stage
    from selfdistill.config import TaskSettings, checked
    from selfdistill.errors import UserError
    from selfdistill.notes import warn_of_special
    from selfdistill.report import score_cell
    from selfdistill.tasks.load import Permissions, load_tasks
    from selfdistill.unjudgeable import unjudgeable_line

    progress = _progress()
    permissions = Permissions(allow_code, _judge(judge_url, judge_model), data_dir, without_walls)
    if regrade:
        results = stage.regrade(out, permissions, progress)
    else:
        if not model or not task:
            raise UserError("evaluate: --model and at least one --task are needed (or --regrade).")
        settings = [checked(TaskSettings, t, "--task") for t in _tasks(task)]
        tasks = load_tasks(settings, seed, permissions, progress)
        digest = stage.adapter_digest(adapter)
        name, prompter, made = _engine(engine, model, prompt_format, template, progress)
        for loaded in tasks:
            warn_of_special(loaded.items, prompter.tokenizer, f"task {loaded.settings.name}", progress)
        with closing(made), made.adapter(adapter):
            results = stage.evaluate(tasks, out, name, made, prompter, digest, "evaluate", progress)
    for r in results:
        _console().print(f"{r.task:<24} n = {r.n:<6} {score_cell(r.model_dump())}", highlight=False)
        if r.unjudgeable:
            line = f"{'':<24} {unjudgeable_line(r.unjudgeable)}"
            _console().print(line, highlight=False, markup=False, soft_wrap=True)
    if failed := stage.engine_errors(out):
        how = "evaluate without --regrade" if regrade else "the same command"
        progress.warn(f"the engine failed on {failed} items; {how} asks them again")
        raise typer.Exit(1)


@app.command()
def shift(
    folders: Annotated[list[Path], typer.Argument(help="A run; or two evaluation folders or files with id and text.")],
    model: Annotated[str | None, typer.Option(help="The model that gave the first answers.")] = None,
    tuned: Annotated[str | None, typer.Option(help="The adapter or model that gave the second ones.")] = None,
    prompts: Annotated[int, typer.Option(help="Items of each group on which distributions are compared.", min=2)] = 64,
    out: Annotated[Path | None, typer.Option(help="Also write all measures as JSON.")] = None,
    template: Template = "using",
    prompt_format: PromptFormat = "chat",
    seed: Seed = 0,
) -> None:
    """How far a model has moved: its texts, its distribution, its weights."""
    import json

    from selfdistill import drift
    from selfdistill.errors import UserError
    from selfdistill.models import load_model
    from selfdistill.report import print_table
    from selfdistill.store import write_atomic
    from selfdistill.templates import Prompter

    progress = _progress()
    if out and out.exists():
        raise UserError(f"{out}: exists. Remove it or choose another name.")
    if len(folders) == 1:
        found = drift.drift_run(folders[0], prompts, progress)
    elif len(folders) == 2:
        a, b = folders
        if bool(model) != bool(tuned):
            raise UserError("--model and --tuned belong together.")
        pair = {"a": a.name, "b": b.name, "texts": drift.compare_texts(a, b)}
        if not pair["texts"] and not model:
            raise UserError("shift: all items are multiple choice, so there are no texts to compare. Name the models.")
        if model and tuned:
            seed_lm = load_model(model)
            prompter = Prompter.create(seed_lm.tokenizer, prompt_format, template, progress.warn)  # type: ignore[arg-type]
            items = drift.grouped(a)
            pair |= drift.compare_models(seed_lm, tuned, items, prompter, prompts, 512, seed, "shift", progress)
        found = {"pairs": [pair]}
    else:
        raise UserError("shift: expected a run, or two evaluation folders or files.")
    if out:
        write_atomic(out, json.dumps(found, indent=1) + "\n")
    print_table(*drift.table(found["pairs"]), "shift from a to b [95 % interval]", _console())


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    id: Annotated[str, typer.Option("--id", help="Id of a training row or an item, or how it begins.")],
) -> None:
    """One row or item of a run, whole: what was rewritten, what every arm answered."""
    from selfdistill.errors import UserError
    from selfdistill.show import show_item

    if len(id) < 4:
        raise UserError(f"--id {id!r}: expected four characters of it or more.")
    show_item(folder, id, _console())


@app.command()
def validate(
    task: Annotated[list[str], typer.Option(help="As for evaluate: paper:NAME, micro:ABILITY, name=...,path=...")],
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    without_walls: WithoutWalls = False,
) -> None:
    """Try a task's check on all its gold answers, and on the same answers made wrong."""
    from collections import Counter

    from selfdistill.config import TaskSettings, checked
    from selfdistill.progress import plain
    from selfdistill.tasks.load import Permissions, load_tasks
    from selfdistill.unjudgeable import unjudgeable_line
    from selfdistill.validate import validate as run_validate

    settings = [checked(TaskSettings, t, "--task") for t in _tasks(task)]
    failed = False
    for loaded in load_tasks(settings, 0, Permissions(allow_code, None, data_dir, without_walls), _progress()):
        found = run_validate(loaded)
        failed = failed or not found.good
        text = f"{loaded.settings.name:<24} {len(loaded.items)} items, {len(found.failures)} answers judged wrongly"
        _console().print(text, highlight=False, markup=False)
        if found.unjudgeable:
            line = f"{unjudgeable_line(Counter(found.unjudgeable.values()))}: {', '.join(list(found.unjudgeable)[:10])}"
            _console().print(plain(f"  {line}"), highlight=False, markup=False, soft_wrap=True)
        for f in found.failures[:10]:
            line = f"  {f.id}: {f.what} answer judged {f.outcome}: {' '.join(f.answer.split())[:100]}"
            _console().print(plain(line), highlight=False, markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def compare(
    arms: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: folders that `evaluate` wrote, files of item scores, or models and adapters to ask first."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Also write the table as JSON.")] = None,
    base: Annotated[str | None, typer.Option(help="The model of the adapters.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="What to ask models and adapters, as for evaluate.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for their answers; a second time they are there.")] = None,
    template: Template = "using",
    prompt_format: PromptFormat = "chat",
    seed: Seed = 0,
    engine: EngineOption = "transformers",
    data_dir: DataDir = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    allow_code: AllowCode = False,
    without_walls: WithoutWalls = False,
) -> None:
    """Compare answers to the same items: scores, and paired differences with intervals."""
    import json

    from selfdistill.compare import compare as run_compare
    from selfdistill.compare import measure
    from selfdistill.config import TaskSettings, checked
    from selfdistill.errors import UserError
    from selfdistill.foreign import kind_of
    from selfdistill.report import show_comparison
    from selfdistill.store import write_atomic
    from selfdistill.tasks.load import Permissions, load_tasks

    last = [Path(a).stem if Path(a).is_file() else Path(a).name for a in arms]
    names = [n if last.count(n) == 1 else a for n, a in zip(last, arms, strict=True)]
    if len(set(names)) < 2:
        raise UserError("compare: two different folders, files or models are needed.")
    if out and out.exists():
        raise UserError(f"{out}: exists. Remove it or choose another name.")
    progress = _progress()

    def load() -> list[Any]:
        if not task:
            raise UserError("compare: to ask a model, at least one --task is needed.")
        settings = [checked(TaskSettings, t, "--task") for t in _tasks(task)]
        permissions = Permissions(allow_code, _judge(judge_url, judge_model), data_dir, without_walls)
        return load_tasks(settings, seed, permissions, progress)

    if task and all(Path(a).exists() and kind_of(a) == "answers" for a in arms):
        raise UserError("compare: --task says what to ask models; these are answers already. Leave it out.")
    places = measure(arms, base, work, load, lambda m: _engine(engine, m, prompt_format, template, progress), progress)
    table = run_compare(dict(zip(names, places, strict=True)))
    show_comparison(table, _console())
    if out:
        write_atomic(out, json.dumps(table, indent=1) + "\n")


@app.command()
def gate(
    base: Annotated[Path, typer.Argument(help="Answers of the model to hold on to: as for compare.")],
    new: Annotated[Path, typer.Argument(help="Answers of the model that is to take its place, to the same items.")],
    margin: Annotated[float, typer.Option(help="The loss that is put up with on each probe, in points.")] = 2.0,
    alpha: Annotated[float, typer.Option(help="Chance of a wrong pass, and of a wrong fail.")] = 0.05,
    task: Annotated[list[str] | None, typer.Option(help="Test this task only; as often as needed.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers and ids as JSON.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write a JUnit XML report.")] = None,
    listed: Annotated[int, typer.Option("--list", help="Show at most so many lost items of a task.", min=0)] = 20,
) -> None:
    """Pass a model only if it lost nothing that matters (exit 0), fail it (1), or say that items are too few (3)."""
    import json

    from selfdistill import gate as stage
    from selfdistill.errors import UserError
    from selfdistill.store import write_atomic

    if base.resolve() == new.resolve():
        raise UserError(f"gate: {base} is named twice. Expected the answers of two models.")
    files = [f for f in (json_file, junit_file) if f]
    inputs = [base.resolve(), new.resolve()]
    for file in files:
        if file.is_dir() or any(file.resolve().is_relative_to(place) for place in inputs):
            raise UserError(f"{file}: is a folder, or lies in what is tested. Choose another name.")
    if len({f.resolve() for f in files}) < len(files):
        raise UserError("gate: --json and --junit name the same file.")
    result = stage.gate(base, new, margin / 100, alpha, task or ())
    if json_file:
        write_atomic(json_file, json.dumps(result.record(), indent=1) + "\n")
    if junit_file:
        write_atomic(junit_file, stage.junit(result))
    stage.show(result, _console(), listed)
    raise typer.Exit(stage.EXIT_CODES[result.verdict])


@app.command()
def study(
    name: Annotated[list[str], typer.Argument(help="table1 to table4, figure4 to figure9, or all.")],
    model: Annotated[str, typer.Option(help="Model folder, hub name, or `embedded`.")] = "embedded",
    world: Annotated[
        str | None, typer.Option(help="micro or paper; micro is the default with the embedded model.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs, tables and figures.")] = Path("selfdistill-studies"),
    datasets: Annotated[str | None, typer.Option(help="Train on these only: openfunctions,gsm8k,...")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="100 rows, 30 items a task, fewer points on curves.")] = False,
    limit: Annotated[int | None, typer.Option(help="Most items of a task.", min=1)] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value in every recipe.")] = None,
    data_dir: DataDir = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    allow_code: AllowCode = False,
    without_walls: WithoutWalls = False,
) -> None:
    """Replay tables and figures of the paper, on any model."""
    from selfdistill.studies import run_studies
    from selfdistill.tasks.load import Permissions

    permissions = Permissions(allow_code, _judge(judge_url, judge_model), data_dir, without_walls)
    world = world or ("micro" if model == "embedded" else "paper")
    only = datasets.split(",") if datasets else None
    texts = run_studies(name, world, model, out, permissions, only, overrides, limit, quick, _progress())
    for text in texts.values():
        _console().print(text, highlight=False, markup=False, soft_wrap=True)
    _console().print(f"Everything lies in {out}.", highlight=False, markup=False)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Write report.html, report.md and report.json of a run again, and show them."""
    from selfdistill.report import build, show

    show(build(folder), _console())


@app.command()
def scale(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    strengths: Annotated[
        str, typer.Option(help="Shares of the weight change, with commas; above 1 goes beyond the training.")
    ] = "0.25,0.5,0.75",
    arm: Annotated[
        list[str] | None, typer.Option(help="An arm of the run, as often as needed; without it, all.")
    ] = None,
) -> None:
    """Evaluate a run's arms at several strengths of their training, without training again."""
    from selfdistill.strength import scale as run_scale
    from selfdistill.strength import show, strengths_of

    show(run_scale(folder, strengths_of(strengths), arm or (), _progress()), _console())


@app.command()
def merge(
    model: Model,
    adapter: Annotated[str, typer.Option(help="PEFT adapter folder.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
) -> None:
    """Merge an adapter into its base model: a plain transformers folder."""
    from selfdistill.handover import merge as run_merge

    progress = _progress()
    progress.note(f"merged model in {run_merge(model, adapter, out, progress)}")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Adapter or model folder.")],
    to: Annotated[str, typer.Option(help="user/name on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Where the repository is new, make it private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, made where there is none.")] = None,
) -> None:
    """Upload an adapter or a model to the Hugging Face hub. The token comes from HF_TOKEN or the hub's own login."""
    from selfdistill.handover import push as run_push

    _progress().note(f"uploaded to {run_push(folder, to, private, revision)}")


# --- help for the commands ---------------------------------------------------------------------------------------


def _console() -> Any:
    from rich.console import Console

    return Console()


def _progress() -> Any:
    from rich.console import Console

    from selfdistill.models import process
    from selfdistill.progress import Progress

    return Progress(Console(stderr=True, quiet=not process().main))


def _pairs(texts: list[str], mark: str, option: str) -> dict[str, str]:
    from selfdistill.errors import UserError

    pairs: dict[str, str] = {}
    for text in texts:
        key, _, value = (part.strip() for part in text.partition(mark))
        if not key or not value:
            raise UserError(f"{option} {text}: expected NAME{mark}VALUE.")
        if key in pairs:
            raise UserError(f"{option} {text}: {key} stands there twice.")
        pairs[key] = value
    return pairs


def _settings(text: str, option: str) -> dict[str, str]:
    """`name=x,check=regex:a,b,role=target` as a dict. A value ends where a comma and another `key=` follow. A regex may
    hold such a text itself: it ends only before a key that a task has. What stands in double quotes is one value."""
    import re

    from selfdistill.config import TaskSettings

    keys = "|".join([*TaskSettings.model_fields, r"columns\.[^=,]+"])
    quoted = r'"[^"]*"(?=\s*(?:,|$))'
    regex = rf"(?<=\bcheck=)regex:.*?(?=,\s*(?:{keys})=|$)"
    plain = r".*?(?=,\s*[A-Za-z_][\w.-]*\s*=|$)"
    parts = re.findall(rf"(?s)([^=]*?=(?:{quoted}|{regex}|{plain})|.+$)(?:\s*,\s*|$)", text)
    values = _pairs(parts, "=", option)
    return {k: v[1:-1] if re.fullmatch(r'(?s)"[^"]*"', v) else v for k, v in values.items()}


def _columns(text: str) -> dict[str, str]:
    return _settings(text, "--columns") if text else {}


def _data(data: str, data_format: str, columns: str, split: str, sample: int | None, skip_bad: bool) -> Any:
    """What the options say of the data, as settings."""
    from selfdistill.config import DataSettings, checked

    values = {"path": data, "format": data_format, "columns": _columns(columns), "split": split, "sample": sample}
    return checked(DataSettings, values | {"skip_bad": skip_bad}, "data")


def _skipped(out: Path) -> Path:
    """Where the bad rows that were left out are listed: beside the output."""
    return out.with_name(f"{out.stem}.skipped.jsonl")


def _engine(text: str, model: str, prompt_format: str, template: str, progress: Any) -> tuple[str, Any, Any]:
    """--engine as (digest of the seed LM, prompter, engine). Behind an endpoint the model may be anywhere: it is known
    by its name."""
    from selfdistill.config import ENGINES, OpenAISettings, checked
    from selfdistill.engines.open import load_for, make_engine, open_endpoint
    from selfdistill.errors import UserError
    from selfdistill.templates import Prompter

    values = _settings(text, "--engine") if "=" in text else {"name": text}
    name = values.setdefault("name", "transformers")
    if name not in ENGINES:
        raise UserError(f"--engine {name}: expected one of {', '.join(ENGINES)}.")
    if name == "openai":
        settings = checked(OpenAISettings, {"model": model, **values}, "--engine")
        asker = Prompter.create(None, prompt_format, template)  # type: ignore[arg-type]
        return settings.model, asker, open_endpoint(settings)
    chosen = checked(ENGINES[name], values, "--engine")
    seed_lm = load_for(chosen, model)
    prompter = Prompter.create(seed_lm.tokenizer, prompt_format, template, progress.warn)  # type: ignore[arg-type]
    return seed_lm.digest, prompter, make_engine(chosen, seed_lm, prompter)


def _judge(url: str | None, model: str | None) -> Any:
    """The judge that two options name; None without them."""
    from selfdistill.config import JudgeSettings, checked
    from selfdistill.errors import UserError

    if (url is None) != (model is None):
        raise UserError("--judge-url and --judge-model belong together.")
    return None if url is None else checked(JudgeSettings, {"base_url": url, "model": model}, "judge")


def _tasks(texts: list[str]) -> list[dict[str, Any]]:
    """--task values as settings; `micro` stands for all abilities of the microworld, 200 items each."""
    from selfdistill.microworld.world import ABILITIES

    tasks: list[dict[str, Any]] = []
    for text in texts:
        names = list(ABILITIES) if text == "micro" else [text[6:]] if text.startswith("micro:") else []
        tasks += [{"name": n, "path": f"micro:{n}", "limit": 200, "max_new_tokens": 128} for n in names]
        if text.startswith(("paper:", "lm-eval:")):
            path, _, rest = text.partition(",")
            settings = _settings(rest, "--task") if rest else {}
            tasks.append({"name": path.partition(":")[2], "path": path} | settings)
        elif not names:
            values: dict[str, Any] = dict(_settings(text, "--task"))
            columns = {k.removeprefix("columns."): values.pop(k) for k in list(values) if k.startswith("columns.")}
            tasks.append(values | ({"columns": columns} if columns else {}))
    return tasks


def main() -> None:
    """Entry point: an error is one line and exit code 2, with a traceback before it only where DEBUG is set."""
    import warnings

    from selfdistill.errors import UserError

    warnings.simplefilter("ignore", FutureWarning)  # the libraries' notes to their callers, not to our users
    try:
        app()
    except UserError as error:
        _fail(str(error), error)
    except SystemExit as stopped:
        if stopped.code == 130:  # what typer makes of Ctrl-C
            _fail("stopped. What is finished is on disk; the same command goes on from there.", stopped)
        raise
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}.", error)
    except Exception as error:
        if "No space left on device" in str(error):  # safetensors and others wrap a full disk in errors of their own
            _fail(f"{error}. Free some space; the same command goes on from there.", error)
        _fail(f"unexpected {type(error).__name__}: {error}. {DEBUG}=1 shows where it comes from.", error)


def _fail(message: str, error: BaseException) -> NoReturn:
    from selfdistill.addresses import hidden
    from selfdistill.models import process
    from selfdistill.progress import plain

    if not process().main:
        time.sleep(ALONE)
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        print(hidden(_traceback(error)), file=sys.stderr)
    print(f"error: {' '.join(plain(hidden(message)).split())}", file=sys.stderr)
    raise SystemExit(2)


def _traceback(error: BaseException) -> str:
    """With the errors that this one was made from, also where it stands in for them."""
    import traceback

    cause: BaseException | None = error
    while cause:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    return "".join(traceback.format_exception(error))


if __name__ == "__main__":
    main()
