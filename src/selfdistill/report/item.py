"""Show: one item of a run, whole: a training row with what became of it, or an item with every arm's answer.

selfdistill show runs/mine --id 0f3a5b...
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from selfdistill.core.errors import UserError
from selfdistill.core.progress import plain
from selfdistill.core.records import Example, Prediction, Record, Rewrite, Selected, Turn, read_records
from selfdistill.run_folder import arms

R = TypeVar("R", bound=Record)


def show_item(run: Path, id: str, console: Any) -> None:
    """Print the item, or items, that have this id (its beginning will do). Raises UserError where there is none."""
    names = ["seed", *(folder for arm in arms(run) for folder in arm["folders"])]
    shown = 0
    for row in _of(run / "examples.jsonl", Example, id):
        _training_row(run, row, console)
        shown += 1
    for item in _of(run / "seed" / "items.jsonl", Example, id):
        _item(run, item, names, console)
        shown += 1
    if not shown:
        raise UserError(f"{run}: no item whose id begins with {id!r}. Ids stand in its examples.jsonl and items.jsonl.")


def _of(path: Path, kind: type[R], id: str) -> Iterator[R]:
    return (record for record in read_records(path, kind) if record.id.startswith(id))


def _training_row(run: Path, row: Example, console: Any) -> None:
    rewrite = next((r for r in _of(run / "rewrites.jsonl", Rewrite, row.id) if r.id == row.id), None)
    chosen = next(s for s in _of(run / "selected.jsonl", Selected, row.id) if s.id == row.id)
    console.rule(f"training row {plain(row.id)}", align="left")
    _turns(row.prompt, console)
    _text("reference", row.reference, console, _nats(rewrite.reference_nll if rewrite else None))
    for number, candidate in enumerate(rewrite.candidates if rewrite else (), 1):
        trained = chosen.source == "distilled" and candidate.text == chosen.response
        kept = "trains the SDFT arm" if trained else "not taken"
        _text(f"rewrite {number}", candidate.text, console, f"{_nats(candidate.seed_nll)}, {kept}", row.reference)
    console.print(f"{chosen.reason.value}: {chosen.reason.explained}\n", style="italic", highlight=False)


def _item(run: Path, item: Example, names: Sequence[str], console: Any) -> None:
    console.rule(f"{plain(item.task)}: item {plain(item.id)}", align="left")
    _turns(item.prompt, console)
    _text("expected", item.reference, console)
    for name in names:
        answer = next((p for p in _of(run / name / "predictions.jsonl", Prediction, item.id) if p.id == item.id), None)
        if answer is None:
            _text(name, "", console, "not measured")
            continue
        label = f", {answer.label}" if answer.label else ""
        note = f"; {plain(answer.note)}" if answer.note else ""
        verdict = answer.verdict.value.replace("_", " ")
        _text(name, answer.text, console, f"{verdict}{label}{note}")
    console.print()


def _nats(value: float | None) -> str:
    return "seed NLL not measured" if value is None else f"seed NLL {value:.2f} nats a token"


def _turns(turns: Sequence[Turn], console: Any) -> None:
    for turn in turns:
        _text(turn["role"], turn["content"], console)


def _text(name: str, text: str, console: Any, said: str = "", against: str | None = None) -> None:
    """A heading and a text, in which words that `against` does not have are underlined."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Text(f"{name}{f' ({said})' if said else ''}", style="bold"))
    body = Text(plain(text)) if against is None else _marked(plain(text), plain(against))
    console.print(Padding(body, (0, 0, 0, 2)), highlight=False)


def _marked(text: str, against: str) -> Any:
    from rich.text import Text

    new, old = re.findall(r"\s+|\w+|[^\w\s]", text), re.findall(r"\s+|\w+|[^\w\s]", against)
    marked = Text()
    for what, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        marked.append("".join(new[start:end]), style="" if what == "equal" else "underline green")
    return marked
