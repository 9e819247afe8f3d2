"""Show: one item of a run, whole: a training row with what became of it, or an item with every arm's answer.

selfdistill show runs/mine --id 0f3a5b...
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfdistill.core.errors import UserError
from selfdistill.core.progress import plain
from selfdistill.core.records import Example, Prediction, Record, read_records
from selfdistill.core.rewrites import Rewrite, Selected
from selfdistill.core.turns import heard, readable, signature, who
from selfdistill.run_folder import arms

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Row:
    """A training row with what became of it; `rewrite` is None where there is none."""

    example: Example
    rewrite: Rewrite | None
    selected: Selected

    def record(self) -> dict[str, Any]:
        """The records as they lie in the run's files."""
        return {"example": _line(self.example), "rewrite": _line(self.rewrite), "selected": _line(self.selected)}


@dataclass(frozen=True)
class Item:
    """An item of a task with each arm's answer, or None where it was not measured."""

    example: Example
    answers: dict[str, Prediction | None]

    def record(self) -> dict[str, Any]:
        """The records as they lie in the run's files."""
        return {"example": _line(self.example), "answers": {name: _line(a) for name, a in self.answers.items()}}


def find(run: Path, id: str) -> list[Row | Item]:
    """The training rows and items that have this id (its beginning will do). Raises UserError where there is none."""
    names = ["seed", *(folder for arm in arms(run) for folder in arm["folders"])]
    found: list[Row | Item] = []
    for row in _of(run / "examples.jsonl", Example, id):
        chosen = _exact(run / "selected.jsonl", Selected, row.id)
        if chosen is None:
            raise UserError(f"{run}: selected.jsonl has no row {row.id}. Finish the run with the same command.")
        found.append(Row(row, _exact(run / "rewrites.jsonl", Rewrite, row.id), chosen))
    for item in _of(run / "seed" / "items.jsonl", Example, id):
        found.append(Item(item, {n: _exact(run / n / "predictions.jsonl", Prediction, item.id) for n in names}))
    if not found:
        raise UserError(f"{run}: no item whose id begins with {id!r}. Ids stand in its examples.jsonl and items.jsonl.")
    return found


def show(found: Sequence[Row | Item], console: Any) -> None:
    """Print what `find` found."""
    for one in found:
        if isinstance(one, Row):
            _training_row(one, console)
        else:
            _item(one, console)


def _line(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else record.model_dump(mode="json", exclude_defaults=True)


def _of(path: Path, kind: type[R], id: str) -> Iterator[R]:
    return (record for record in read_records(path, kind) if record.id.startswith(id))


def _exact(path: Path, kind: type[R], id: str) -> R | None:
    return next((record for record in _of(path, kind, id) if record.id == id), None)


def _training_row(row: Row, console: Any) -> None:
    example, rewrite, chosen = row.example, row.rewrite, row.selected
    console.rule(f"training row {plain(example.id)}", align="left")
    _turns(example, console)
    reference = readable(example.answers[-1])
    _text("reference", reference, console, _nats(rewrite.reference_nll if rewrite else None))
    for number, candidate in enumerate(rewrite.candidates if rewrite else (), 1):
        trained = chosen.source == "distilled" and candidate.text == chosen.response
        text = readable(example.turn(-1, candidate.text))
        kept = "trains the SDFT arm" if trained else "not taken"
        said = f"{_nats(candidate.seed_nll)}, {kept}"
        for turn, thought in enumerate(candidate.thoughts, 1):
            of = f", turn {turn}" if len(candidate.thoughts) > 1 else ""
            _thought(f"rewrite {number}{of}", thought, console)
        _text(f"rewrite {number}", text, console, said, reference)
    console.print(f"{chosen.reason.value}: {chosen.reason.explained}\n", style="italic", highlight=False)


def _item(item: Item, console: Any) -> None:
    console.rule(f"{plain(item.example.task)}: item {plain(item.example.id)}", align="left")
    _turns(item.example, console)
    _text("expected", readable(item.example.answers[-1]), console)
    for name, answer in item.answers.items():
        if answer is None:
            _text(name, "", console, "not measured")
            continue
        label = f", {answer.label}" if answer.label else ""
        note = f"; {plain(answer.note)}" if answer.note else ""
        _thought(name, answer.thought, console)
        verdict = answer.verdict.value.replace("_", " ")
        _text(name, readable(heard(answer.text)), console, f"{verdict}{label}{note}")
    console.print()


def _thought(name: str, thought: str | None, console: Any) -> None:
    """What was thought before an answer, apart from it and dimmed."""
    from rich.padding import Padding
    from rich.text import Text

    if thought is not None:
        console.print(Text(f"{name}: thoughts", style="dim"))
        console.print(Padding(Text(plain(thought), style="dim"), (0, 0, 0, 2)), highlight=False)


def _nats(value: float | None) -> str:
    return "seed NLL not measured" if value is None else f"seed NLL {value:.2f} nats a token"


def _turns(example: Example, console: Any) -> None:
    if example.tools:
        _text("tools", "\n".join(map(signature, example.tools)), console)
    for turn in example.prompt:
        _text(who(turn), readable(turn), console)


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
