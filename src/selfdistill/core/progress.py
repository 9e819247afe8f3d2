"""What a person sees while work goes on: bars with time left, notes and warnings, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Bars with time left on a terminal; on a pipe, one line at the start of each; `quiet`: warnings alone."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._said: set[str] = set()

    def note(self, text: str, once: bool = False) -> None:
        """A line that tells what was chosen or done; with `once`, each text once."""
        if self.quiet or (once and text in self._said):
            return
        self._said.add(text)
        self.console.print(escape(text), style="dim", highlight=False)

    def warn(self, text: str) -> None:
        """A line that wants attention; each text once."""
        if text not in self._said:
            self._said.add(text)
            self.console.print(f"warning: {escape(text)}", style="yellow", highlight=False)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over `total` rows; call the yielded function with how many are done since."""
        if self.quiet or not self.console.is_terminal:
            self.note(f"{name}: {total} rows")
            yield lambda n: None
            return
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(escape(name), total=total)
            yield lambda n: bars.advance(task, n)


def plain(text: str) -> str:
    """The text without control characters: a terminal obeys what a model or a dataset wrote there."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
