"""The Python API: each stage as a function, and what it made as an object that is a view of a file.

    import selfdistill as sd

Settings have the names that they have in a recipe, and are checked in the same way: what is wrong is a `UserError`. The
objects show themselves in notebooks and become `datasets.Dataset`s and `pandas` frames.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from selfdistill.core.config import ENGINES, DataSettings, DistillSettings, TaskSettings, TrainSettings, checked
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Prediction, Reason, Rewrite, Selected, TaskResult, read_records
from selfdistill.report.tables import difference_rows, score_cell, yield_sentence

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from selfdistill.comparison.gate import Gate
    from selfdistill.engines.protocol import Engine
    from selfdistill.models import SeedLM
    from selfdistill.tasks.base import Task
    from selfdistill.templates import Prompter

Form = Literal["messages", "prompt-completion", "alpaca", "sharegpt"]
"""A format of other trainers, as `select --export` writes it."""


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> str:
    """An HTML table, with everything in it escaped."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# --- the model ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A seed LM and how it is asked: `format` and `template` as in a recipe's `[distill]`, `engine` as in its
    `engine`. Weights are read at the first use."""

    name: str
    format: Literal["chat", "paper"] = "chat"
    template: str = "using"
    engine: Mapping[str, Any] = field(default_factory=lambda: {"name": "transformers"})

    @cached_property
    def opened(self) -> tuple[SeedLM, Prompter, Engine]:
        """The model, what makes its prompts, and what generates with it."""
        from selfdistill.engines.open import load_for, make_engine
        from selfdistill.templates import Prompter

        name = self.engine.get("name", "transformers")
        if name not in ENGINES or name == "openai":
            local = ", ".join(engine for engine in ENGINES if engine != "openai")
            raise UserError(f"engine {name!r}: expected one of {local}.")
        settings: Any = checked(ENGINES[name], dict(self.engine), "engine")
        lm = load_for(settings, self.name)
        prompter = Prompter.create(lm.tokenizer, self.format, self.template, Progress().warn)
        return lm, prompter, make_engine(settings, lm, prompter)


def load(
    name: str, format: Literal["chat", "paper"] = "chat", template: str = "using", engine: str | Mapping[str, Any] = ""
) -> Model:
    """A model folder, a name on the hub, or `embedded`. `engine` is a name, or settings with a name. Nothing is read
    before it is needed."""
    settings = {"name": engine or "transformers"} if isinstance(engine, str) else dict(engine)
    return Model(name, format, template, settings)


# --- rows, rewrites, what was kept -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows(Sequence[Example]):
    """The examples of a dataset; `path` says where they came from."""

    path: str
    examples: tuple[Example, ...]

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


def _dataset(rows: Sequence[Example], chosen: Sequence[Selected], form: Form) -> Dataset:
    from datasets import Dataset

    from selfdistill.stages.select import exported

    made: Dataset = Dataset.from_list([exported(e, row, form) for e, row in zip(rows, chosen, strict=True)])
    return made


def read(
    path: str | Path,
    *,
    format: str = "auto",
    split: str = "train",
    sample: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    data_dir: str | None = None,
    **columns: str,
) -> Rows:
    """The rows of a file, a folder, a hub dataset, `paper:NAME` or `micro:ABILITY`. Further arguments name columns:
    `prompt="question", response="answer"`. Raises UserError with file and line for what cannot be read."""
    from selfdistill.data.examples import read_examples

    values = {"path": str(path), "format": format, "split": split, "sample": sample, "skip_bad": skip_bad}
    settings = checked(DataSettings, values | {"columns": columns}, "data")
    return Rows(str(path), tuple(read_examples(settings, seed=seed, data_dir=data_dir)))


@dataclass(frozen=True)
class Rewrites:
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
            {"id": row.id, "candidate": number, **candidate.model_dump(exclude={"turns"})}
            for row in self
            for number, candidate in enumerate(row.candidates)
        )

    def _repr_html_(self) -> str:
        shown = [[row.id, row.candidates[0].text[:300] if row.candidates else row.failure] for row in self][:5]
        return _table(["id", "rewrite"], shown, f"{len(self)} rewrites in {self.path}")


def distill(model: Model, rows: Rows, out: str | Path, *, seed: int = 0, **settings: Any) -> Rewrites:
    """Let the model rewrite every reference (Equation 3) into the file `out`. A call that was stopped goes on where it
    was. `settings` are those of `[distill]`: candidates, temperature, top_p, max_new_tokens, stop."""
    from selfdistill.stages.distill import distill as stage

    values = {"format": model.format, "template": model.template} | settings
    lm, prompter, engine = model.opened
    made = checked(DistillSettings, values, "distill")
    return Rewrites(Path(out), stage(rows, Path(out), lm.digest, engine, prompter, made, seed))


@dataclass(frozen=True)
class Kept:
    """What `select` decided: a view of selected.jsonl, and the rows it is about."""

    path: Path
    rows: Rows
    reasons: Counter[Reason]
    _folder: Any = field(default=None, repr=False)  # lives as long as this does, where no file was named

    @cached_property
    def by_id(self) -> dict[str, Selected]:
        """Every row's response, with its source and the reason."""
        from selfdistill.stages.select import read_selected

        return read_selected(self.rows, self.path)

    def to_dataset(self, form: Form = "messages") -> Dataset:
        """The distilled dataset as another trainer takes it."""
        return _dataset(self.rows, [self.by_id[e.id] for e in self.rows], form)

    def to_pandas(self) -> pd.DataFrame:
        """A row an example: id, source, reason, response, its seed NLL in nats a token."""
        import pandas as pd

        return pd.DataFrame(self.by_id[e.id].model_dump(mode="json", exclude={"turns"}) for e in self.rows)

    def __str__(self) -> str:
        return yield_sentence(self.reasons)

    def _repr_html_(self) -> str:
        rows = [[reason.value, count, reason.explained] for reason, count in self.reasons.most_common()]
        return _table(["reason", "rows", "meaning"], rows, str(self))


def select(
    rows: Rows,
    rewrites: Rewrites | str | Path,
    check: str = "none",
    out: str | Path | None = None,
    *,
    allow_code_execution: bool = False,
) -> Kept:
    """Keep each rewrite that is as good as its reference (Equation 4). `rewrites` may be a file that another program
    wrote. Without `out`, the file lives as long as what this returns."""
    from selfdistill.checks import load_check
    from selfdistill.stages.select import select as stage

    folder = tempfile.TemporaryDirectory() if out is None else None
    path = Path(folder.name) / "selected.jsonl" if folder else Path(str(out))
    source = rewrites.path if isinstance(rewrites, Rewrites) else Path(rewrites)
    loaded = load_check(check, allow_code_execution)
    return Kept(path, rows, stage(rows, source, path, loaded), folder)


# --- training ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapter:
    """A trained adapter: a plain PEFT folder (with `tune = "full"` a model folder), with training.json beside it."""

    path: Path

    @cached_property
    def training(self) -> dict[str, Any]:
        """What training.json says: settings, rows, what was left out, losses."""
        found: dict[str, Any] = json.loads((self.path / "training.json").read_text(encoding="utf-8"))
        return found

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        losses = self.training["loss"]
        ends = [f"{losses[k]['loss']:.3f}" for k in (0, -1)] if losses else ["not measured"] * 2
        return _table(["rows", "first loss", "last loss"], [[self.training["rows"], *ends]], f"adapter in {self.path}")


def train(
    model: Model, rows: Rows, kept: Kept | None = None, *, out: str | Path, seed: int = 0, **settings: Any
) -> Adapter:
    """Fine-tune on what was kept, or without it on the references (vanilla fine-tuning). `settings` are those of
    `[train]`. An adapter that is there already, trained in the same way, is left as it is."""
    from selfdistill.data.examples import drawn
    from selfdistill.methods import METHODS
    from selfdistill.stages.train import train as stage

    made = checked(TrainSettings, settings, "train")
    if isinstance(made.mix_ratio, tuple) or isinstance(made.rows, tuple):
        raise UserError("train: a list of mix_ratio or rows makes several arms; `run` does that.")
    lm, prompter, _ = model.opened
    examples = drawn(rows, made.rows, seed)
    method = METHODS["vanilla" if kept is None else "sdft"]
    responses = method.rows(examples, {} if kept is None else kept.by_id, made.mix_ratio, seed)
    return Adapter(stage(lm, examples, responses, Path(out), made, prompter, seed))


# --- evaluation --------------------------------------------------------------------------------------------------


def task(path: str | Path, check: str | None = None, *, seed: int = 0, **settings: Any) -> Task:
    """A task of evaluation: a dataset and a check. `settings` are those of `[[tasks]]`, such as role, limit, columns;
    the name is the file's, if none is given. `allow_code_execution=True` lets `python_tests` run what models write;
    `data_dir` holds local copies of `paper:` data."""
    from selfdistill.tasks.base import Permissions
    from selfdistill.tasks.load import load_tasks

    permissions = Permissions(settings.pop("allow_code_execution", False), None, settings.pop("data_dir", None))
    scheme, colon, last = str(path).partition(":")
    name = last if colon else Path(scheme).stem
    values = {"name": name, "path": str(path), "check": check} | settings
    return load_tasks([checked(TaskSettings, values, "task")], seed, permissions, Progress())[0]


@dataclass(frozen=True)
class Evaluation:
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


def evaluate(
    model: Model,
    tasks: Task | Sequence[Task],
    adapter: Adapter | str | Path | None = None,
    out: str | Path | None = None,
) -> Evaluation:
    """Ask the model, with or without an adapter, every item of the tasks and judge the answers. A call that was stopped
    goes on where it was. Without `out`, the folder lives as long as what this returns."""
    from selfdistill.models import adapter_digest
    from selfdistill.run_folder import engine_errors
    from selfdistill.stages.evaluate import evaluate as stage
    from selfdistill.tasks.base import Task

    folder = tempfile.TemporaryDirectory() if out is None else None
    path = Path(folder.name if folder else str(out))
    tuned = None if adapter is None else str(Path(adapter))
    lm, prompter, engine = model.opened
    asked = [tasks] if isinstance(tasks, Task) else list(tasks)
    with closing(engine), engine.adapter(tuned):
        stage(asked, path, lm.digest, engine, prompter, adapter_digest(tuned))
    if failed := engine_errors(path):
        raise UserError(f"{path}: the engine failed on {failed} items. The same call asks them again.")
    return Evaluation(path, folder)


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side: scores, and paired differences with intervals."""

    places: Mapping[str, Path]
    tasks: list[dict[str, Any]]
    _kept: Any = field(default=None, repr=False)

    def gate(self, margin: float = 0.02, base: str | None = None, new: str | None = None) -> Gate:
        """May `new` (the last) take the place of `base` (the first)? `margin` is the tolerated loss, as a share."""
        from selfdistill.comparison.gate import gate

        first, *_, last = self.places
        return gate(self.places[base or first], self.places[new or last], margin)

    def to_pandas(self) -> pd.DataFrame:
        """A row a task and pair: the difference (b - a) with its interval, as shares, and p."""
        import pandas as pd

        return pd.DataFrame({"task": t["task"], "role": t["role"], **d} for t in self.tasks for d in t["differences"])

    def _repr_html_(self) -> str:
        rows = [[t["task"], *(score_cell(t["arms"].get(name)) for name in self.places)] for t in self.tasks]
        scores = _table(["task", *self.places], rows, "percent correct [95 % interval]")
        return scores + _table(*difference_rows(self.tasks), "paired differences in points [95 % interval]")


def compare(**arms: Evaluation | str | Path) -> Comparison:
    """Compare evaluations by name, in this order: `compare(seed=..., sdft=...)`. A path may also be a file of item
    scores that another program wrote. Raises UserError where they did not answer the same items."""
    from selfdistill.comparison.differences import compare as stage

    if len(arms) < 2:
        raise UserError("compare: name two evaluations or more, compare(seed=..., sdft=...).")
    places = {name: arm.path if isinstance(arm, Evaluation) else Path(arm) for name, arm in arms.items()}
    return Comparison(places, stage(places), list(arms.values()))


# --- a whole run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The folder of a run."""

    path: Path

    @cached_property
    def report(self) -> dict[str, Any]:
        """What report.json holds."""
        from selfdistill.report.build import build

        return build(self.path)

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


def run(recipe: str | Path, out: str | Path, *overrides: str) -> Run:
    """Run a recipe (a file, or one of ours by name) into `out`; a run that is there goes on, a finished one is read.
    `overrides` are as in `selfdistill run --set`: "train.epochs=1"."""
    from selfdistill.core.recipe import load_recipe
    from selfdistill.pipeline import run as chain

    chain(load_recipe(Path(recipe), list(overrides)), Path(out))
    return Run(Path(out))
