"""What the functions of the API give: views of the files that the stages wrote. They show themselves in notebooks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from selfdistill.api.given import given, place
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, Prediction, TaskResult, read_records
from selfdistill.core.rewrites import Reason, Rewrite, Selected
from selfdistill.report.tables import difference_rows, score_cell, yield_sentence

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from selfdistill.comparison.gate import Gate

Form = Literal["messages", "prompt-completion", "alpaca", "sharegpt"]
"""A format of other trainers, as `select --export` writes it."""


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> str:
    """An HTML table, with everything in it escaped."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class _View:
    """A view of what lies at `path`."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", place(f"{type(self).__name__}: path", self.path))

    def _read(self, name: str, expected: str) -> dict[str, Any]:
        """What a file of the folder says. Raises UserError where it is missing."""
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{self.path}: no {name}. Expected {expected}.")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


@dataclass(frozen=True)
class Rows(Sequence[Example]):
    """The examples of a dataset; `path` says where they came from."""

    path: str
    examples: tuple[Example, ...] = field(repr=False)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Example | Rows:
        """One example, or some of them as `Rows`."""
        return Rows(self.path, self.examples[index]) if isinstance(index, slice) else self.examples[index]

    def __len__(self) -> int:
        return len(self.examples)

    def to_pandas(self) -> pd.DataFrame:
        """A row an example: id, the last question, the reference, the task."""
        import pandas as pd

        return pd.DataFrame(
            {"id": e.id, "prompt": e.prompt[-1]["content"], "reference": e.reference, "task": e.task} for e in self
        )

    def to_dataset(self, form: Form = "messages") -> Dataset:
        """The references as another trainer takes them."""
        originals = [
            Selected(id=e.id, response=e.reference, turns=e.references[:-1], source="original", reason=Reason.MISSING)
            for e in self
        ]
        return _dataset(self, originals, form)

    def _repr_html_(self) -> str:
        shown = [[e.id, e.prompt[-1]["content"][:200], e.reference[:200]] for e in self.examples[:5]]
        return _table(["id", "prompt", "reference"], shown, f"{len(self)} rows of {self.path}")


def _dataset(rows: Sequence[Example], chosen: Sequence[Selected], form: Form, keeps: bool = False) -> Dataset:
    from datasets import Dataset

    from selfdistill.stages.exports import exported

    if form not in get_args(Form):
        *most, last = get_args(Form)
        raise UserError(f"to_dataset: form {form!r}. Expected {', '.join(most)} or {last}.")
    made = [exported(e, row, form, keeps) for e, row in zip(rows, chosen, strict=True)]
    mixed: Any = {}
    if any(e.uses_tools for e in rows):  # arguments differ from call to call: plain columns would fill in null
        mixed = {"on_mixed_types": "use_json"}
        made = [{**row, "tools": row.get("tools")} for row in made]
    dataset: Dataset = Dataset.from_list(made, **mixed)
    return dataset


@dataclass(frozen=True)
class Rewrites(_View):
    """What `distill` wrote: a view of rewrites.jsonl. `errors` rows failed for a reason that may pass; the same call
    tries them again."""

    path: Path
    errors: int = 0

    def __iter__(self) -> Iterator[Rewrite]:
        return read_records(self.path, Rewrite)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def to_pandas(self) -> pd.DataFrame:
        """A row a candidate."""
        import pandas as pd

        return pd.DataFrame(
            {"id": row.id, "candidate": number, **candidate.model_dump(exclude={"turns", "thoughts"})}
            for row in self
            for number, candidate in enumerate(row.candidates)
        )

    def _repr_html_(self) -> str:
        shown = [[r.id, r.candidates[0].text[:300] if r.candidates else r.failure] for r in islice(self, 5)]
        return _table(["id", "rewrite"], shown, f"{len(self)} rewrites in {self.path}")


@dataclass(frozen=True)
class Kept(_View):
    """What `select` decided: a view of selected.jsonl, and the rows it is about."""

    path: Path
    rows: Rows = field(repr=False)
    reasons: Counter[Reason]
    _folder: Any = field(default=None, repr=False)  # lives as long as this does, where no file was named
    keep_thoughts: bool = False

    @cached_property
    def by_id(self) -> dict[str, Selected]:
        """Every row's response, with its source and the reason."""
        from selfdistill.stages.select import read_selected

        return read_selected(self.rows, self.path)

    def to_dataset(self, form: Form = "messages") -> Dataset:
        """The distilled dataset as another trainer takes it."""
        return _dataset(self.rows, [self.by_id[e.id] for e in self.rows], form, self.keep_thoughts)

    def to_pandas(self) -> pd.DataFrame:
        """A row an example: id, source, reason, response, its seed NLL in nats a token."""
        import pandas as pd

        return pd.DataFrame(self.by_id[e.id].model_dump(mode="json", exclude={"turns", "thoughts"}) for e in self.rows)

    def __str__(self) -> str:
        return yield_sentence(self.reasons)

    def _repr_html_(self) -> str:
        rows = [[reason.value, count, reason.explained] for reason, count in self.reasons.most_common()]
        return _table(["reason", "rows", "meaning"], rows, str(self))


@dataclass(frozen=True)
class Adapter(_View):
    """A trained adapter: a plain PEFT folder (with `tune = "full"` a model folder), with training.json beside it."""

    path: Path

    @cached_property
    def training(self) -> dict[str, Any]:
        """What training.json says: settings, rows, what was left out, losses."""
        return self._read("training.json", "a folder that `train` wrote")

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        losses = self.training["loss"]
        ends = [f"{losses[k]['loss']:.3f}" for k in (0, -1)] if losses else ["not measured"] * 2
        return _table(["rows", "first loss", "last loss"], [[self.training["rows"], *ends]], f"adapter in {self.path}")


@dataclass(frozen=True)
class Evaluation(_View):
    """What a model answered: a view of an evaluation folder (items.jsonl, predictions.jsonl, result.json)."""

    path: Path
    _folder: Any = field(default=None, repr=False)

    @cached_property
    def results(self) -> dict[str, TaskResult]:
        """Counts, score and interval by task."""
        from selfdistill.run_folder import read_results

        return read_results(self.path)

    @property
    def predictions(self) -> Iterator[Prediction]:
        """Every answer with its verdict."""
        return read_records(self.path / "predictions.jsonl", Prediction)

    def to_pandas(self) -> pd.DataFrame:
        """A row an answer."""
        import pandas as pd

        return pd.DataFrame(p.model_dump(mode="json", exclude={"samples", "metrics"}) for p in self.predictions)

    def _repr_html_(self) -> str:
        rows = [[name, r.n, score_cell(r.model_dump())] for name, r in self.results.items()]
        return _table(["task", "n", "percent correct [95 % interval]"], rows, str(self.path))


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side: scores, and paired differences with intervals."""

    places: Mapping[str, Path]
    tasks: list[dict[str, Any]] = field(repr=False)
    _kept: Any = field(default=None, repr=False)

    def gate(self, margin: float = 0.02, base: str | None = None, new: str | None = None) -> Gate:
        """May `new` (the last) take the place of `base` (the first)? `margin` is the tolerated loss as a share: 0.02 is
        two points, which the command line writes as `--margin 2`."""
        from selfdistill.comparison.gate import gate

        share = "a share, such as 0.02 for two points"
        if not 0 < given("gate: margin", margin, (int, float), share) < 1:
            raise UserError(f"gate: margin {margin:g}: expected a share between 0 and 1, such as 0.02 for two points.")
        first, *_, last = self.places
        a, b, listed = base or first, new or last, ", ".join(self.places)
        for arm in (a, b):
            if arm not in self.places:
                raise UserError(f"gate: no arm {arm!r}. There are: {listed}.")
        if a == b:
            raise UserError(f"gate: {a!r} is base and new. Name two arms of: {listed}.")
        return gate(self.places[a], self.places[b], margin)

    def to_pandas(self) -> pd.DataFrame:
        """A row a task and pair: the difference (b - a) with its interval, as shares, and p."""
        import pandas as pd

        return pd.DataFrame({"task": t["task"], "role": t["role"], **d} for t in self.tasks for d in t["differences"])

    def _repr_html_(self) -> str:
        rows = [[t["task"], *(score_cell(t["arms"].get(name)) for name in self.places)] for t in self.tasks]
        scores = _table(["task", *self.places], rows, "percent correct [95 % interval]")
        return scores + _table(*difference_rows(self.tasks), "paired differences in points [95 % interval]")


@dataclass(frozen=True)
class Run(_View):
    """The folder of a run."""

    path: Path

    @cached_property
    def report(self) -> dict[str, Any]:
        """What report.json holds."""
        return self._read("report.json", "the folder of a finished `selfdistill run`")

    @cached_property
    def arms(self) -> dict[str, Evaluation]:
        """The evaluations by arm, the seed LM's first; of several seeds, each."""
        names = ["seed", *(folder for arm in self.report["arms"] for folder in arm["folders"])]
        return {name: Evaluation(self.path / name) for name in names}

    def adapter(self, arm: str) -> Adapter:
        """An arm's adapter."""
        if arm not in self.arms or arm == "seed":
            trained = ", ".join(name for name in self.arms if name != "seed")
            raise UserError(f"{self.path}: no arm {arm!r}. There are: {trained}.")
        return Adapter(self.path / arm / "adapter")

    def show(self, id: str) -> str:
        """A training row or an item, whole, as text; the beginning of its id will do."""
        from rich.console import Console

        from selfdistill.report.item import find, show

        console = Console(file=StringIO(), width=100)
        show(find(self.path, id), console)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return text

    def to_pandas(self) -> pd.DataFrame:
        """A row a task and arm: n, score and its interval."""
        import pandas as pd

        return pd.DataFrame(
            {"task": t["task"], "role": t["role"], "arm": arm, **{k: r[k] for k in ("n", "score", "low", "high")}}
            for t in self.report["tasks"]
            for arm, r in t["arms"].items()
        )

    def _repr_html_(self) -> str:
        from selfdistill.report.tables import score_rows

        summary = f"<p>{escape(self.report['summary'])}</p>"
        return summary + _table(*score_rows(self.report), "percent correct [95 % interval]")
