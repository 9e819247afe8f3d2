"""What a model is worth and what it has kept: checks, comparisons, the gate, reports, and the paper's own tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selfdistill.cli.groups import Allowed, AllowedJudge, Answers, Asked, Prompt, Terminal
from selfdistill.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    Model,
    OptionalTasks,
    Overrides,
    RunFolder,
    Seed,
    Tasks,
    out_file,
    out_folder,
)
from selfdistill.cli.values import tasks_of


def validate(*, task: Tasks, allowed: Allowed, terminal: Answers) -> None:
    """Try a task's check on all its gold answers, and on the same answers made wrong.

    Example: selfdistill validate --task name=math,path=test.jsonl,check=last_number
    """
    from collections import Counter
    from dataclasses import asdict

    from selfdistill.core.progress import plain
    from selfdistill.report.unjudgeable import unjudgeable_line
    from selfdistill.tasks.load import load_tasks
    from selfdistill.tasks.validate import validate as run_validate

    console = terminal.console()
    results, good = [], True
    for loaded in load_tasks(tasks_of(task), 0, allowed.permissions(), terminal.progress()):
        found = run_validate(loaded)
        results.append({"task": loaded.settings.name, "n": len(loaded.items), **asdict(found)})
        good = good and found.good
        text = f"{loaded.settings.name:<24} {len(loaded.items)} items, {len(found.failures)} answers judged wrongly"
        console.print(text, highlight=False, markup=False)
        if found.unjudgeable:
            line = f"{unjudgeable_line(Counter(found.unjudgeable.values()))}: {', '.join(list(found.unjudgeable)[:10])}"
            console.print(plain(f"  {line}"), highlight=False, markup=False, soft_wrap=True)
        for f in found.failures[:10]:
            line = f"  {f.id}: {f.what} answer judged {f.outcome}: {' '.join(f.answer.split())[:100]}"
            console.print(plain(line), highlight=False, markup=False)
    terminal.give(results)
    if not good:
        raise typer.Exit(1)


def compare(
    *,
    arms: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: folders that `evaluate` wrote, files of item scores, or models and adapters to ask "
            "first."
        ),
    ],
    task: OptionalTasks = None,
    model: Annotated[
        str | None, typer.Option(help="The model that adapters among them belong to.", rich_help_panel=MODEL)
    ] = None,
    asked: Asked,
    allowed: AllowedJudge,
    seed: Seed = 0,
    out: Annotated[
        Path | None, out_folder("Folder for the answers of models and adapters; a second time they are there.")
    ] = None,
    terminal: Answers,
) -> None:
    """Compare answers to the same items: scores, and paired differences with intervals.

    Example: selfdistill compare runs/first/seed runs/first/vanilla runs/first/sdft
    """
    from selfdistill.comparison.differences import compare as run_compare
    from selfdistill.core.errors import UserError
    from selfdistill.report.terminal import show_comparison
    from selfdistill.stages.answers import kind_of, measure
    from selfdistill.tasks.load import load_tasks

    last = [Path(a).stem if Path(a).is_file() else Path(a).name for a in arms]
    names = [n if last.count(n) == 1 else a for n, a in zip(last, arms, strict=True)]
    if len(set(names)) < 2:
        raise UserError("compare: two different folders, files or models are needed.")
    progress = terminal.progress()

    def load() -> list[Any]:
        if not task:
            raise UserError("compare: to ask a model, at least one --task is needed.")
        return load_tasks(tasks_of(task), seed, allowed.permissions(), progress)

    if task and all(Path(a).exists() and kind_of(a) == "answers" for a in arms):
        raise UserError("compare: --task says what to ask models; these are answers already. Leave it out.")
    places = measure(arms, model, out, load, lambda m: asked.open(m, progress), progress)
    table = run_compare(dict(zip(names, places, strict=True)))
    show_comparison(table, terminal.console())
    terminal.give(table)


def gate(
    *,
    base: Annotated[
        Path,
        typer.Argument(
            help="Answers of the model to hold on to: a folder that `evaluate` wrote, or a file of item scores."
        ),
    ],
    new: Annotated[
        Path,
        typer.Argument(
            help="Answers of the model that is to take its place, to the same items: such a folder or file."
        ),
    ],
    margin: Annotated[float, typer.Option(help="Tolerated loss on each probe, in points.")] = 2.0,
    alpha: Annotated[
        float, typer.Option(help="Significance level: the chance of a wrong pass, and of a wrong fail.")
    ] = 0.05,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Name of a task to test, as often as needed; without it, all.", rich_help_panel=DATA),
    ] = None,
    junit: Annotated[Path | None, out_file("JUnit XML report to write.", "--junit")] = None,
    listed: Annotated[
        int, typer.Option("--list", help="Show at most so many lost items of a task.", min=0, rich_help_panel=OUTPUT)
    ] = 20,
    terminal: Answers,
) -> None:
    """Pass a model only if it lost nothing that matters (exit 0), fail it (1), or say that items are too few (3).

    Example: selfdistill gate runs/first/seed runs/first/sdft --margin 5
    """
    from selfdistill.comparison import gate as stage
    from selfdistill.core.errors import UserError
    from selfdistill.core.store import write_atomic
    from selfdistill.report.gate import junit as junit_xml
    from selfdistill.report.gate import show as show_gate

    places = base.resolve(), new.resolve()
    if places[0] == places[1]:
        raise UserError(f"gate: {base} is named twice. Expected the answers of two models.")
    if junit and (junit.is_dir() or any(junit.resolve().is_relative_to(place) for place in places)):
        raise UserError(f"{junit}: is a folder, or lies in what is tested. Choose another name.")
    result = stage.gate(base, new, margin / 100, alpha, task or ())
    if junit:
        write_atomic(junit, junit_xml(result))
    show_gate(result, terminal.console(), listed)
    terminal.give(result.record())
    raise typer.Exit(stage.EXIT_CODES[result.verdict])


def shift(
    *,
    folders: Annotated[list[Path], typer.Argument(help="A run; or two evaluation folders or files with id and text.")],
    prompts: Annotated[int, typer.Option(help="Items of each group on which distributions are compared.", min=2)] = 64,
    seed: Seed = 0,
    model: Annotated[
        str | None, typer.Option(help="The model that gave the first answers.", rich_help_panel=MODEL)
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="The adapter or tuned model that gave the second ones.", rich_help_panel=MODEL)
    ] = None,
    prompt: Prompt,
    terminal: Answers,
) -> None:
    """How far a model has moved: its texts, its distribution, its weights.

    Example: selfdistill shift runs/first
    """
    from selfdistill.core.errors import UserError
    from selfdistill.models.seed_lm import load_model
    from selfdistill.report.tables import shift_table
    from selfdistill.report.terminal import print_table
    from selfdistill.shift import measure as drift

    progress = terminal.progress()
    if len(folders) == 1:
        found = drift.drift_run(folders[0], prompts, progress)
    elif len(folders) == 2:
        a, b = folders
        if bool(model) != bool(adapter):
            raise UserError("shift: --model and --adapter belong together.")
        pair = {"a": a.name, "b": b.name, "texts": drift.compare_texts(a, b)}
        if not pair["texts"] and not model:
            raise UserError("shift: all items are multiple choice, so there are no texts to compare. Name the models.")
        if model and adapter:
            seed_lm = load_model(model)
            prompter = prompt.prompter(seed_lm.tokenizer, progress)
            items = drift.grouped(a)
            pair |= drift.compare_models(seed_lm, adapter, items, prompter, prompts, 512, seed, "shift", progress)
        found = {"pairs": [pair]}
    else:
        raise UserError("shift: expected a run, or two evaluation folders or files.")
    print_table(*shift_table(found["pairs"]), "shift from a to b [95 % interval]", terminal.console())
    terminal.give(found)


def scale(
    *,
    folder: RunFolder,
    strengths: Annotated[
        str, typer.Option(help="Shares of the weight change, with commas; above 1 goes beyond the training.")
    ] = "0.25,0.5,0.75",
    arm: Annotated[
        list[str] | None, typer.Option(help="An arm of the run, as often as needed; without it, all.")
    ] = None,
    terminal: Answers,
) -> None:
    """Evaluate a run's arms with the weight change scaled, without training again.

    Example: selfdistill scale runs/first --strengths 0.25,0.5,0.75
    """
    from selfdistill.report.curve import show
    from selfdistill.stages.scale import scale as run_scale
    from selfdistill.stages.scale import strengths_of

    table = run_scale(folder, strengths_of(strengths), arm or (), terminal.progress())
    show(table, terminal.console())
    terminal.give(table)


def study(
    *,
    name: Annotated[list[str], typer.Argument(help="table1 to table4, figure4 to figure9, or all.")],
    model: Model = "embedded",
    world: Annotated[
        str | None, typer.Option(help="micro or paper; micro is the default with the embedded model.")
    ] = None,
    datasets: Annotated[str | None, typer.Option(help="Train on these only: openfunctions,gsm8k,...")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="100 rows, 30 items a task, fewer points on curves.")] = False,
    limit: Annotated[
        int | None, typer.Option(help="Most items of a task; without it, as the recipes say.", min=1)
    ] = None,
    overrides: Overrides = None,
    allowed: AllowedJudge,
    out: Annotated[Path, out_folder("Folder for runs, tables and figures.")] = Path("selfdistill-studies"),
    terminal: Terminal,
) -> None:
    """Replay tables and figures of the paper, on any model.

    Example: selfdistill study table1 --quick --out studies
    """
    from selfdistill.studies import run_studies

    world = world or ("micro" if model == "embedded" else "paper")
    only = datasets.split(",") if datasets else None
    progress, console = terminal.progress(), terminal.console()
    texts = run_studies(name, world, model, out, allowed.permissions(), only, overrides, limit, quick, progress)
    for text in texts.values():
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Everything lies in {out}.", highlight=False, markup=False)


def report(*, folder: RunFolder, terminal: Answers) -> None:
    """Write report.html, report.md and report.json of a run again, and show them.

    Example: selfdistill report runs/first
    """
    from selfdistill.report.build import build
    from selfdistill.report.terminal import show as show_report

    made = build(folder)
    show_report(made, terminal.console())
    terminal.give(made)


def show(
    *,
    folder: RunFolder,
    id: Annotated[str, typer.Option(help="Id of a training row or an item, or how it begins.")],
    terminal: Answers,
) -> None:
    """One row or item of a run, whole: what was rewritten, what every arm answered.

    Example: selfdistill show runs/first --id 0f3a5b
    """
    from selfdistill.core.errors import UserError
    from selfdistill.report.item import find
    from selfdistill.report.item import show as show_found
    from selfdistill.run_folder import manifest

    manifest(folder)
    if len(id) < 4:
        raise UserError(f"--id {id!r}: expected four characters of it or more.")
    found = find(folder, id)
    show_found(found, terminal.console())
    terminal.give([one.record() for one in found])
