"""From a dataset to a model and its scores: the whole chain, and its stages one at a time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from selfdistill.cli.groups import AllowedJudge, Answers, Asked, Code, Prompt, Repairs, Rewriting, Rows, Terminal
from selfdistill.cli.once import once
from selfdistill.cli.options import (
    DATA,
    OUTPUT,
    Model,
    OptionalAdapter,
    OptionalModel,
    OptionalTasks,
    Overrides,
    Revision,
    Seed,
    out_file,
    out_folder,
)
from selfdistill.cli.values import must_be_new, pairs_of, skipped, tasks_of


def demo(
    *,
    target: Annotated[
        str, typer.Option(help="What to fine-tune on: rare_tools, rare_problems, rare_code or chat.")
    ] = "rare_tools",
    out: Annotated[Path, out_folder("Folder for the run.")] = Path("selfdistill-demo"),
    code: Code,
    terminal: Answers,
) -> None:
    """Show on the embedded model what the paper claims, in 5 to 15 minutes on two cores.

    Example: selfdistill demo --target chat --out demo
    """
    from selfdistill.cli.demo import demo as run_demo

    terminal.give(run_demo(out, target, code.allow_code, code.without_walls, terminal.progress(), terminal.console()))


def run(
    *,
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, or one of ours: paper/gsm8k, micro/alpaca, ...")],
    overrides: Overrides = None,
    code: Code,
    out: Annotated[Path, out_folder("Folder for the run.")],
    terminal: Answers,
) -> None:
    """Distill, select, train the arms, evaluate, compare and report, as a recipe says.

    Example: selfdistill run micro/alpaca --set train.epochs=1 --out runs/first
    """
    from selfdistill.core.launch import process
    from selfdistill.core.recipe import load_recipe
    from selfdistill.pipeline import run as run_recipe
    from selfdistill.report.terminal import show

    once(terminal, overrides or [], {"allow_code": "allow_code_execution", "without_walls": "code_without_walls"})
    report = run_recipe(load_recipe(recipe, [*(overrides or []), *code.overrides()]), out, terminal.progress())
    if process().main:
        console = terminal.console()
        show(report, console)
        line = f"Everything lies in {out}: report.html, report.md, report.json, and an adapter in each arm's folder."
        console.print(f"\n{line}", highlight=False, markup=False)
        terminal.give(report)


def distill(
    *,
    rows: Rows,
    model: Model,
    asked: Rewriting,
    candidates: Annotated[int, typer.Option(help="Rewrites per row; more than one needs a --temperature above 0.")] = 1,
    temperature: Annotated[
        float, typer.Option(help="Of sampling; 0 takes the likeliest token each time (greedy).")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens that make up this share; 1 is all.")
    ] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest rewrite in tokens.")] = 512,
    own: Annotated[
        bool, typer.Option("--own", help="The model's own answers instead, without the reference in sight.")
    ] = False,
    repairs: Repairs,
    seed: Seed = 0,
    out: Annotated[Path, out_file("Rewrites to write, for example rewrites.jsonl.")],
    terminal: Terminal,
) -> None:
    """Let the model that will be tuned (the seed LM) rewrite every reference response.

    Example: selfdistill distill --model embedded --data micro:chat --sample 100 --out rewrites.jsonl
    """
    from selfdistill.core.config import DistillSettings
    from selfdistill.core.settings import checked
    from selfdistill.core.store import write_records
    from selfdistill.data.notes import Notes, warn_of_special
    from selfdistill.stages.asked import advice, check_prompts
    from selfdistill.stages.distill import distill as run_distill

    values = {
        "candidates": candidates, "temperature": temperature,
        "top_p": top_p, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    settings = checked(DistillSettings, values, "distill")
    progress = terminal.progress()
    check, repair = repairs.loaded(progress)
    notes = Notes(progress)
    examples = rows.read(seed, notes)
    digest, prompter, engine = asked.open(model, progress)
    warn_of_special(examples, prompter.tokenizer, rows.data, progress)
    check_prompts(examples, prompter, rows.data, progress)
    if said := advice(model, prompter, temperature):
        progress.warn(said)
    with closing(engine):
        errors = run_distill(examples, out, digest, engine, prompter, settings, seed, progress, own, check, repair)
    listed = out.with_name(f"{out.stem}.examples.jsonl")
    write_records(listed, examples)
    notes.write(skipped(out))
    progress.note(f"{len(examples)} rows in {out}; what they were made from, with ids, in {listed}")
    if errors:
        progress.warn(f"the engine failed on {errors} rows (their notes say why); the same command tries them again")
        raise typer.Exit(1)


def select(
    *,
    rows: Rows,
    rewrites: Annotated[
        Path, typer.Option(help="What `distill` wrote, or another program; or a whole distilled dataset.")
    ],
    check: Annotated[
        str,
        typer.Option(
            help="What a rewrite's answer is compared by: last_number, exact, contains, function_call, refusal, "
            "python_tests, authors_general, authors_math, authors_openfunctions, authors_magicoder, micro_win_rate, "
            "regex:PATTERN, or module:function. none compares nothing, and keeps what is whole and coherent."
        ),
    ] = "none",
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Where no first rewrite passes, take one that was made later (distill --check), or put the "
            "reference's answer in the place of the wrong one, if the check can say where that is.",
        ),
    ] = False,
    keep_thoughts: Annotated[
        bool, typer.Option("--keep-thoughts", help="Thoughts stay in what is selected and exported.")
    ] = False,
    seed: Seed = 0,
    code: Code,
    out: Annotated[Path, out_file("Selected rows to write, for example selected.jsonl.")],
    export: Annotated[
        list[str] | None,
        typer.Option(
            help="FORMAT:FILE with messages, prompt-completion, alpaca or sharegpt; as often as needed.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    terminal: Answers,
) -> None:
    """Keep each rewrite that is as good as its reference; export the dataset.

    Example: selfdistill select --data train.jsonl --rewrites rewrites.jsonl --check last_number --out selected.jsonl
    """
    from selfdistill.checks import load_check
    from selfdistill.core.config import SelectSettings
    from selfdistill.core.errors import UserError
    from selfdistill.core.rewrites import MADE_BY, Reason
    from selfdistill.core.settings import checked
    from selfdistill.data.examples import stream_examples
    from selfdistill.data.notes import Notes
    from selfdistill.report.tables import yield_sentence
    from selfdistill.stages.select import select as run_select

    wanted = pairs_of(export or [], ":", "--export")
    checked(SelectSettings, {"check": check, "export": wanted}, "select")
    settings = rows.settings()
    exports = {name: Path(file) for name, file in wanted.items()}
    must_be_new(out, *exports.values())
    progress, console = terminal.progress(), terminal.console()
    notes = Notes(progress)
    examples = stream_examples(settings, seed=seed, data_dir=rows.data_dir, notes=notes)
    loaded = load_check(check, code.allow_code, None, code.without_walls, progress)
    if repair and loaded is None:
        raise UserError("select: --repair is for rows of which no rewrite passes; name a --check.")
    steps = tuple(MADE_BY) if repair else ()
    reasons = run_select(examples, rewrites, out, loaded, progress, settings, exports, keep_thoughts, steps)
    notes.write(skipped(out))
    for reason, count in reasons.most_common():
        console.print(f"{count:>8}  {reason:<24} {Reason(reason).explained}", highlight=False)
    console.print(yield_sentence(reasons), highlight=False)
    terminal.give({"rows": reasons.total(), "yield": dict(reasons.most_common())})


def train(
    *,
    rows: Rows,
    selected: Annotated[
        Path | None, typer.Option(help="What `select` wrote; without it, the references train.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="What trains: vanilla, eaft, dft, kl or asft, the references; sdft, the rewrites that select kept; "
            "or sdft+kl and the like. Without it, sdft with --selected, else vanilla. `selfdistill methods` says more."
        ),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 2,
    lr: Annotated[float, typer.Option(help="Peak learning rate, cosine to 0.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 8,
    accumulation: Annotated[
        int, typer.Option(help="Batches whose gradients are added up for one step of the optimizer.")
    ] = 1,
    tune: Annotated[
        str,
        typer.Option(help="lora: an adapter; qlora: an adapter on a 4-bit model; full: all weights, a whole model."),
    ] = "lora",
    preset: Annotated[str, typer.Option(help="paper: r = 8 on q,v; strong: r = 64 on all linear.")] = "paper",
    rank: Annotated[int | None, typer.Option(help="LoRA rank; without it, as the preset says.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Module names with commas, or all-linear; without it, as the preset says.")
    ] = None,
    mix_ratio: Annotated[float, typer.Option(help="Share of rows that take the distilled response.")] = 1.0,
    max_length: Annotated[
        int | None, typer.Option(help="Leave out rows with more tokens; without it, than the model's context has.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of a recipe's train table: --set dora=true.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="What will be measured, as for evaluate: warns of rows that are its items.", rich_help_panel=DATA
        ),
    ] = None,
    seed: Seed = 0,
    model: Model,
    revision: Revision = None,
    prompt: Prompt,
    out: Annotated[Path, out_folder("Folder to write: of the adapter, or of the whole model.")],
    terminal: Terminal,
) -> None:
    """Fine-tune on the selected (or the original) responses.

    Example: selfdistill train --model embedded --data train.jsonl --selected selected.jsonl --out adapter
    """
    from rich.console import Console

    from selfdistill.core.config import TrainSettings
    from selfdistill.core.errors import UserError
    from selfdistill.core.launch import process
    from selfdistill.core.progress import Progress
    from selfdistill.core.recipe import apply_overrides
    from selfdistill.core.settings import checked
    from selfdistill.data.examples import drawn
    from selfdistill.data.notes import Notes, warn_of_special
    from selfdistill.methods import chosen as chosen_method
    from selfdistill.methods.rows import rows_of
    from selfdistill.models.seed_lm import load_model
    from selfdistill.publish.card import write_card
    from selfdistill.stages.asked import check_prompts
    from selfdistill.stages.select import read_selected
    from selfdistill.stages.train import train as run_train
    from selfdistill.tasks.base import Permissions
    from selfdistill.tasks.load import load_tasks
    from selfdistill.tasks.overlap import overlap_line, overlaps

    values: dict[str, Any] = {
        "epochs": epochs, "lr": lr, "batch_size": batch_size, "accumulation": accumulation, "tune": tune,
        "preset": preset, "rank": rank, "mix_ratio": mix_ratio, "max_length": max_length,
    }  # fmt: skip
    if targets:
        values["targets"] = targets if targets == "all-linear" else targets.split(",")
    once(terminal, overrides or [], {key: key for key in (*values, "targets")})
    settings = checked(TrainSettings, values, "train", apply_overrides(values, overrides or []))
    if selected is None and settings.mix_ratio != 1.0:
        raise UserError("train: mix_ratio mixes selected responses in; name them with --selected.")
    if isinstance(settings.mix_ratio, tuple) or isinstance(settings.size, tuple):
        raise UserError("train: a list of mix_ratio or size makes several arms; `selfdistill run` does that.")
    progress = terminal.progress()
    notes = Notes(progress)
    examples = rows.read(seed, notes)
    chosen = {} if selected is None else read_selected(examples, selected)
    examples = drawn(examples, settings.size, seed)
    kind = chosen_method(method, selected is not None, "--method", "name them with --selected")
    trains, objective = rows_of(kind, examples, chosen, settings.mix_ratio, seed, "--method")
    # Nothing is judged here, so that no wall, no judge and no word about them is needed.
    anything = Permissions(True, None, rows.data_dir, True)
    asked = load_tasks(tasks_of(task or []), seed, anything, Progress(Console(quiet=True)))
    for name, found in overlaps(examples, asked).items():
        progress.warn(overlap_line(name, found))
    seed_lm = load_model(model, quantized=settings.tune == "qlora", revision=revision)
    prompter = prompt.prompter(seed_lm.tokenizer, progress)
    warn_of_special(examples, seed_lm.tokenizer, rows.data, progress)
    check_prompts(examples, prompter, rows.data, progress)
    run_train(seed_lm, trains, out, settings, prompter, seed, "train", progress, objective)
    if process().main:
        notes.write(skipped(out))
        write_card(out, model, rows.data, kind, settings.mix_ratio, revision)
    progress.note(f"adapter in {out}")


def evaluate(
    *,
    task: OptionalTasks = None,
    model: OptionalModel = None,
    adapter: OptionalAdapter = None,
    asked: Asked,
    allowed: AllowedJudge,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="Judge the stored texts in --out again; no model.")
    ] = False,
    seed: Seed = 0,
    out: Annotated[Path, out_folder("Folder for predictions and results.")],
    terminal: Answers,
) -> None:
    """Ask a model every item of every task and judge the answers.

    Example: selfdistill evaluate --model embedded --adapter adapter --task micro:facts --out eval
    """
    from selfdistill.core.errors import UserError
    from selfdistill.data.notes import warn_of_special
    from selfdistill.models.folder import adapter_digest
    from selfdistill.report.tables import in_thought_line, score_cell
    from selfdistill.report.unjudgeable import unjudgeable_line
    from selfdistill.run_folder import engine_errors
    from selfdistill.stages import evaluate as stage
    from selfdistill.stages.asked import advice, as_trained, check_prompts
    from selfdistill.tasks.load import load_tasks

    progress, console = terminal.progress(), terminal.console()
    permissions = allowed.permissions()
    if regrade:
        results = stage.regrade(out, permissions, progress)
    else:
        if not model or not task:
            raise UserError("evaluate: --model and at least one --task are needed (or --regrade).")
        tasks = load_tasks(tasks_of(task), seed, permissions, progress)
        digest = adapter_digest(adapter)
        name, prompter, engine = asked.open(model, progress)
        for loaded in tasks:
            warn_of_special(loaded.items, prompter.tokenizer, f"task {loaded.settings.name}", progress)
            check_prompts(loaded.items, prompter, f"task {loaded.settings.name}", progress, trains=False)
        prompter = as_trained(prompter, adapter, progress)
        if said := advice(model, prompter, 0):
            progress.warn(said)
        with closing(engine), engine.adapter(adapter):
            results = stage.evaluate(tasks, out, name, engine, prompter, digest, "evaluate", progress)
    for r in results:
        console.print(f"{r.task:<24} n = {r.n:<6} {score_cell(r.model_dump())}", highlight=False)
        if r.in_thought:
            console.print(f"{'':<24} {in_thought_line(r.in_thought)}", highlight=False, markup=False, soft_wrap=True)
        if r.unjudgeable:
            line = f"{'':<24} {unjudgeable_line(r.unjudgeable)}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    terminal.give([r.model_dump() for r in results])
    if failed := engine_errors(out):
        how = "evaluate without --regrade" if regrade else "the same command"
        progress.warn(f"the engine failed on {failed} items; {how} asks them again")
        raise typer.Exit(1)
