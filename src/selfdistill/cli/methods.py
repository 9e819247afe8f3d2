"""Methods: what a run can train, and what each method asks for."""

from __future__ import annotations

from typing import Any

from selfdistill.cli.groups import Answers


def methods(*, terminal: Answers) -> None:
    """List the methods: what each does, what it needs of the seed LM, its settings.

    Example: selfdistill methods
    """
    from rich.markup import escape
    from rich.table import Table

    from selfdistill.methods import METHODS
    from selfdistill.methods.base import Need

    listed: list[dict[str, Any]] = [
        {
            "name": name,
            "does": method.doc,
            "needs": [need.explained for need in Need if need in method.needs],
            "settings": {key: field.get_default() for key, field in method.settings.model_fields.items()},
        }
        for name, method in METHODS.items()
    ]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for one in listed:
        settings = (f"{key} = {'none' if value is None else value}" for key, value in one["settings"].items())
        more = {"asks of the seed LM": one["needs"], "settings": settings}
        lines = (f"{what}: {', '.join(found)}" for what, given in more.items() if (found := list(given)))
        table.add_row(one["name"], escape("\n".join([one["does"], *lines])))
    console = terminal.console()
    console.print(table)
    console.print(
        "In a recipe: [[arms]] with method = one of them, or several with a plus: sdft+interpolate.", markup=False
    )
    terminal.give(listed)
