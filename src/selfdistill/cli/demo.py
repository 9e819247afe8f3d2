"""Demo: both arms on the embedded model and its own small world, and what it shows.

selfdistill demo --allow-code-execution
"""

from __future__ import annotations

import time
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.settings import checked
from selfdistill.pipeline import run
from selfdistill.report.terminal import show, side_by_side

TARGETS = ("rare_tools", "rare_problems", "rare_code", "chat")


def demo_recipe(target: str, allow_code: bool, without_walls: bool = False) -> Recipe:
    """The demo's recipe for one of the target datasets. Raises UserError for another name."""
    if target not in TARGETS:
        raise UserError(f"demo: no target {target!r}. There are: {', '.join(TARGETS)}.")
    text = resources.files("selfdistill.microworld").joinpath(f"{target}.toml").read_text(encoding="utf-8")
    permitted = {"allow_code_execution": allow_code, "code_without_walls": without_walls}
    return checked(Recipe, tomllib.loads(text) | permitted, f"{target}.toml")


def demo(
    out: Path, target: str, allow_code: bool, without_walls: bool, progress: Progress, console: Console
) -> dict[str, Any]:
    """Run the demo into `out`, print what it shows, and return the report."""
    started, recipe = time.monotonic(), demo_recipe(target, allow_code, without_walls)
    report = run(recipe, out, progress)
    side_by_side(out, console)
    show(report, console)
    console.print(
        f"\n{(time.monotonic() - started) / 60:.1f} minutes. Everything lies in {out}: report.html is the whole "
        "report, recipe.toml runs it again (selfdistill run), sdft/adapter is the adapter, rewrites.jsonl what the "
        "seed LM wrote.",
        highlight=False,
        markup=False,
    )
    return report
