"""The curves of `scale` on the terminal."""

from __future__ import annotations

from typing import Any

from selfdistill.report.tables import mean_cell


def show(table: dict[str, Any], console: Any) -> None:
    """Print the curves on a rich console, in percent."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title="percent correct [95 % interval], mean over tasks", title_justify="left")
    for i, title in enumerate(("arm", "strength", "target", "retained")):
        shown.add_column(title, justify="left" if i == 0 else "right", no_wrap=i < 2)
    for name, curve in table["arms"].items():
        for point in curve:
            shown.add_row(
                name, f"{point['strength']:g}", *(escape(mean_cell(point[r])) for r in ("target", "retained"))
            )
    console.print(shown)
