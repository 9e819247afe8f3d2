"""A distilled dataset for the hub: its rows and a data card, from the folder of a run.

In:  a run's folder.
Out: train.jsonl (messages, with tools where rows have them) and README.md: sources, digests, how many rows kept a
     rewrite and why, the seed NLL before and after, the licence.

Of a local file the card has the name. Texts of the rows stand in train.jsonl alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.recipe import load_recipe
from selfdistill.core.records import Example, read_records
from selfdistill.core.rewrites import Reason, Rewrite, Selected
from selfdistill.publish.card import ARXIV, shown
from selfdistill.report.build import gap
from selfdistill.report.tables import gap_sentence, markdown_table, yield_sentence
from selfdistill.stages.exports import exported
from selfdistill.stages.select import read_selected

_NEEDED = ("recipe.toml", "run.json", "examples.jsonl", "rewrites.jsonl", "selected.jsonl")


def write_dataset(run: Path, out: Path, licence: str | None = None) -> None:
    """Write the dataset of a run into the folder `out`. `licence` is the hub's name of one, such as cc-by-4.0. Raises
    UserError for a folder that is no run, and for what can be no licence's name."""
    missing = [name for name in _NEEDED if not (run / name).is_file()]
    if missing:
        raise UserError(f"{run}: no {missing[0]} in the folder. Expected the folder of a finished `selfdistill run`.")
    if licence is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", licence):
        raise UserError(f"--licence {licence}: expected the hub's name of a licence, such as cc-by-4.0 or apache-2.0.")
    examples = list(read_records(run / "examples.jsonl", Example))
    selected = read_selected(examples, run / "selected.jsonl")
    with (out / "train.jsonl").open("wb") as file:
        for example in examples:
            file.write(to_json(exported(example, selected[example.id], "messages")) + b"\n")
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    recipe = load_recipe(run / "recipe.toml", [])
    rewrites = {row.id: row for row in read_records(run / "rewrites.jsonl", Rewrite)}
    card = _card(recipe, manifest, list(selected.values()), rewrites, licence)
    (out / "README.md").write_text(card, encoding="utf-8")


def _card(
    recipe: Recipe,
    manifest: dict[str, Any],
    selected: list[Selected],
    rewrites: dict[str, Rewrite],
    licence: str | None,
) -> str:
    front = [
        "---",
        *([f"license: {licence}"] if licence else []),
        "task_categories:",
        "- text-generation",
        "tags:",
        "- selfdistill",
        "- sdft",
        "configs:",
        "- config_name: default",
        "  data_files: train.jsonl",
        "---",
    ]
    reasons = Counter(row.reason.value for row in selected)
    named = f"`{shown(recipe.data.path)}`" + (f", config `{recipe.data.config}`" if recipe.data.config else "")
    pinned = f", revision `{recipe.data.revision}`" if recipe.data.revision else ""
    versions = ", ".join(f"{name} {v}" for name, v in manifest["versions"].items() if v)
    method = ARXIV.sub(lambda m: f"[{m[0]}](https://arxiv.org/abs/{m[1]})", "arXiv 2402.13669")
    made_from = [
        ["source", f"{named}{pinned}, split `{recipe.data.split}`"],
        ["rows", f"{len(selected)}, digest `{manifest['data']}`"],
        ["seed LM", f"`{shown(recipe.model)}`, digest `{manifest['model']}`"],
        ["rewritten with", f"format `{recipe.prompt.format}`, template `{shown(recipe.prompt.template)}`"],
        ["check", f"`{recipe.select.check}`"],
        ["licence", f"`{licence}`, as stated by who uploaded it" if licence else "not stated"],
        ["versions", versions],
    ]
    why = [[reason, str(count), Reason(reason).explained] for reason, count in reasons.most_common()]
    return "\n".join([
        *front,
        "",
        f"# {Path(shown(recipe.data.path)).stem}, in the words of {shown(recipe.model)}",
        "",
        f"A dataset whose responses the seed LM itself rewrote (SDFT, {method}). A rewrite stands where it passed the "
        "check against its reference, else the reference: the column `source` says which (distilled, original).",
        "",
        "## What it was made from",
        "",
        *markdown_table(["", ""], made_from),
        "",
        "## What was kept",
        "",
        f"{yield_sentence(reasons)}.",
        "",
        *markdown_table(["reason", "rows", "meaning"], why),
        "",
        "## How near it lies to the seed LM",
        "",
        gap_sentence(gap(selected, rewrites)),
        "",
        "## How to use it",
        "",
        "Columns: `messages` (roles, contents, calls of tools), `tools` where rows declare some (the text of a list of "
        "JSON schemas), `id`, `source`. TRL's `SFTTrainer` takes it as it is.",
    ]) + "\n"  # fmt: skip
