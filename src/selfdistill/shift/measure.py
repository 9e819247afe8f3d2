"""Drift: how far one model has moved from another, in what it says, in its distribution and in its weights.

In:  predictions of both on the same items (an evaluation folder, or a file of {id, text} rows that any program wrote);
     for the distribution and the weights, the models too.
Out: shift.json, and a table.

    selfdistill shift runs/mine                                   # every arm of a run against its seed LM
    selfdistill shift eval/a eval/b                               # texts alone
    selfdistill shift eval/a eval/b --model M --adapter adapter    # texts, distribution and weights
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfdistill.checks.coherence import incoherent
from selfdistill.comparison.differences import same_prompts
from selfdistill.comparison.intervals import wilson
from selfdistill.comparison.scores import read_answers
from selfdistill.core.adapters import is_adapter
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Prediction, read_records
from selfdistill.data.files import rows
from selfdistill.models import resolve
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM
from selfdistill.run_folder import arms, read_results
from selfdistill.shift.texts import text_shift
from selfdistill.shift.weights import module_shifts

Answers = dict[str, tuple[str, bool | None]]
"""By id: the text, and whether it was cut off (None: not known)."""

ALL = "all"
"""The group of predictions that do not say which task they belong to."""


CHOICE = re.compile(r"\W*[A-Za-z]\W*")
"""A reference that only names one of several choices."""


def answers(path: Path) -> dict[str, Answers]:
    """Answers by group: "target" and "retained" items of an evaluation folder of ours, without multiple choice, whose
    answers are no texts of the model's own; else `ALL`.

    A file has rows with `id` and `text`, and perhaps `finish_reason`. Raises UserError for what cannot be read.
    """
    found: dict[str, Answers] = defaultdict(dict)
    if path.is_dir():
        results = read_results(path)
        items = path / "items.jsonl"
        asked = read_records(items, Example) if items.is_file() else ()
        choices = {e.id for e in asked if CHOICE.fullmatch(e.reference)}
        for p in read_records(path / "predictions.jsonl", Prediction):
            if results[p.task].check != "lm-eval" and p.id not in choices:
                found[results[p.task].role][p.id] = p.text, p.finish_reason == "length"
        return dict(found)
    from selfdistill.core.config import DataSettings

    for where, row in rows(DataSettings(path=str(path))):
        id, text = row.get("id"), row.get("text")
        if not isinstance(id, (str, int)) or not isinstance(text, str):
            raise UserError(f"{where}: expected the columns id and text. Found: {', '.join(sorted(row))}.")
        if str(id) in found[ALL]:
            raise UserError(f"{where}: id {id!r} occurs twice.")
        cut = row.get("finish_reason")
        found[ALL][str(id)] = text, None if cut is None else cut == "length"
    return dict(found)


def compare_texts(a: Path, b: Path) -> dict[str, dict[str, Any]]:
    """By group: the likeness of b's answers to a's (`texts.Shift`), their lengths, and how many are broken. A group of
    nothing but multiple choice is left out. Raises UserError where both were asked in different prompts."""
    if a.is_dir() and b.is_dir():
        asked = read_answers(a), read_answers(b)
        for task in asked[0].results:
            same_prompts(task, a, asked[0], b, asked[1])
    left, right = answers(a), answers(b)
    if left.keys() != right.keys():
        left, right = ({ALL: {k: v for g in side.values() for k, v in g.items()}} for side in (left, right))
    return {group: _texts(left[group], right[group]) for group in left}


def _texts(a: Answers, b: Answers) -> dict[str, Any]:
    likeness = text_shift({k: t for k, (t, _) in a.items()}, {k: t for k, (t, _) in b.items()})
    return {
        **asdict(likeness),
        "length_ratio": _ratio([len(a[k][0].split()) for k in a], [len(b[k][0].split()) for k in a]),
        "cut_off": [_share([cut for _, cut in side.values()]) for side in (a, b)],
        "incoherent": [_share([incoherent(text) for text, _ in side.values()]) for side in (a, b)],
    }


def _share(flags: Sequence[bool | None]) -> dict[str, Any]:
    """A share with its 95 % Wilson interval; None where it is not known."""
    known = [f for f in flags if f is not None]
    if not known:
        return {"value": None, "low": None, "high": None}
    low, high = wilson(sum(known), len(known))
    return {"value": sum(known) / len(known), "low": low, "high": high}


def mean_t(values: Sequence[float]) -> dict[str, float | None]:
    """Mean with its 95 % interval by Student's t, for values without bounds; no interval for one value alone."""
    from scipy.stats import t

    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return {"value": mean, "low": None, "high": None}
    half = float(t.ppf(0.975, n - 1)) * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return {"value": mean, "low": mean - half, "high": mean + half}


def _ratio(a: Sequence[int], b: Sequence[int]) -> dict[str, float | None]:
    """How much longer b's answers are: the geometric mean over the items of (words of b + 1) / (words of a + 1), with
    the interval of the mean logarithm. The 1 is for empty answers."""
    logs = mean_t([math.log((y + 1) / (x + 1)) for x, y in zip(a, b, strict=True)])
    return {key: None if value is None else math.exp(value) for key, value in logs.items()}


def compare_models(
    seed_lm: SeedLM,
    tuned: str,
    items: Mapping[str, Sequence[Example]],
    prompter: Prompter,
    prompts: int,
    max_new_tokens: int,
    seed: int,
    name: str,
    progress: Progress,
) -> dict[str, Any]:
    """KL divergence of both directions on up to `prompts` items of each group, in nats a token, and the change of the
    weights: its norm, and that of every kind of module; without it, and with a warning, where it cannot be had."""
    from selfdistill.shift.kl import divergences

    try:
        moved = {"weights": weights(tuned, seed_lm.name)}
    except UserError as error:  # DoRA, a whole model of a hub name: the rest can be measured
        progress.warn(f"{name}: the weights are not measured: {error}")
        moved = {}
    drawn = {g: random.Random(seed).sample(list(group), min(prompts, len(group))) for g, group in items.items()}
    kl = {}
    with progress.bar(name, sum(map(len, drawn.values()))) as advance:
        for group, some in drawn.items():
            forward, reverse = divergences(seed_lm, tuned, some, prompter, max_new_tokens, seed, advance)
            kl[group] = {"n": len(some), "forward": _positive(forward), "reverse": _positive(reverse)}
    return {"kl": kl, **moved}


def _positive(values: Sequence[float]) -> dict[str, float | None]:
    found = mean_t(values)
    return found if found["low"] is None else found | {"low": max(0.0, found["low"])}


def weights(tuned: str, seed: str) -> dict[str, Any]:
    """Norm of the weights' change in all, and by kind of module (q_proj, ...)."""
    whole = not is_adapter(tuned)
    modules = module_shifts(Path(tuned), Path(resolve(seed)) if whole else None)
    kinds: dict[str, float] = defaultdict(float)
    for module, norm in modules.items():
        kinds[module.removesuffix(".weight").rpartition(".")[2]] += norm * norm
    return {
        "norm": math.sqrt(math.fsum(n * n for n in modules.values())),
        "kinds": {kind: math.sqrt(square) for kind, square in sorted(kinds.items())},
        "modules": modules,
    }


def grouped(folder: Path) -> dict[str, list[Example]]:
    """The items of an evaluation folder of ours by role."""
    roles = {name: r.role for name, r in read_results(folder).items()}
    found: dict[str, list[Example]] = defaultdict(list)
    for item in read_records(folder / "items.jsonl", Example):
        found[roles[item.task]].append(item)
    return dict(found)


def drift_run(run: Path, prompts: int, progress: Progress) -> dict[str, Any]:
    """Every arm of a finished run against its seed LM; writes RUN/shift.json and returns what is in it."""
    from selfdistill.core.recipe import load_recipe
    from selfdistill.core.store import write_atomic
    from selfdistill.engines.open import open_model

    trained = [folder for arm in arms(run) for folder in arm["folders"]]
    for folder in trained:
        if not (run / folder / "result.json").is_file():
            raise UserError(f"{run / folder}: no result.json. Expected a finished run; the same `run` goes on with it.")
    recipe = load_recipe(run / "recipe.toml", [])
    quantized = recipe.train.tune == "qlora"
    seed_lm, prompter = open_model(
        recipe.engine, recipe.model, recipe.prompt, quantized, progress.warn, recipe.revision
    )
    items = grouped(run / "seed")
    pairs = []
    for arm in trained:
        tuned = str(run / arm / "adapter")
        texts = compare_texts(run / "seed", run / arm)
        longest = recipe.distill.max_new_tokens
        models = compare_models(
            seed_lm, tuned, items, prompter, prompts, longest, recipe.seed, f"shift {arm}", progress
        )
        pairs.append({"a": "seed", "b": arm, "texts": texts, **models})
    found = {"pairs": pairs}
    write_atomic(run / "shift.json", json.dumps(found, indent=1) + "\n")
    return found
