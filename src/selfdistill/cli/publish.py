"""What leaves the machine: a plain model folder, an upload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfdistill.cli.groups import Terminal
from selfdistill.cli.options import OUTPUT, Adapter, Model, Revision, out_folder


def merge(
    *,
    model: Model,
    revision: Revision = None,
    adapter: Adapter,
    out: Annotated[Path, out_folder("Model folder to write.")],
    terminal: Terminal,
) -> None:
    """Merge an adapter into its base model: a plain transformers folder.

    Example: selfdistill merge --model embedded --adapter runs/first/sdft/adapter --out merged
    """
    from selfdistill.publish.merge import merge as run_merge

    progress = terminal.progress()
    progress.note(f"merged model in {run_merge(model, adapter, out, progress, revision)}")


def push(
    *,
    folder: Annotated[Path, typer.Argument(help="Adapter or model folder; with --dataset, the folder of a run.")],
    to: Annotated[str, typer.Option(help="user/name on the hub.", rich_help_panel=OUTPUT)],
    private: Annotated[
        bool,
        typer.Option("--private", help="Where the repository is new, make it private.", rich_help_panel=OUTPUT),
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Branch, made where there is none; without it, the repository's main one.", rich_help_panel=OUTPUT
        ),
    ] = None,
    dataset: Annotated[
        bool,
        typer.Option("--dataset", help="Upload the run's distilled dataset, with a data card.", rich_help_panel=OUTPUT),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            help="The dataset's licence by the hub's name, such as cc-by-4.0; without it, not stated.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    terminal: Terminal,
) -> None:
    """Upload an adapter, a model or a distilled dataset to the Hugging Face hub.

    The token comes from HF_TOKEN or the hub's own login.

    Example: selfdistill push merged --to user/name
    """
    from selfdistill.publish.push import push as run_push

    terminal.progress().note(f"uploaded to {run_push(folder, to, private, revision, dataset, licence)}")
