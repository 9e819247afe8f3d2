"""Compare: what changed between two sets of predictions on the same items.

In:  answers, a folder or file per arm (compare.scores says which), or several: one per seed that trained it.
Out: per task each arm's score with its interval, and the paired difference of every two arms.

    selfdistill compare runs/seed runs/vanilla runs/sdft

What has no answers yet, a model or an adapter, is asked first (`measure`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import stdev
from typing import Any

from selfdistill.comparison.intervals import clustered, differ, holm, mean_interval, repeated
from selfdistill.comparison.power import effect_of
from selfdistill.comparison.scores import Answers, read_answers
from selfdistill.core.errors import UserError
from selfdistill.core.records import NOTHING, TaskResult

Scores = dict[str, list[float | None]]
"""Score by item id, once per seed; None where that answer cannot be judged."""


def compare(arms: Mapping[str, Path | Sequence[Path]]) -> list[dict[str, Any]]:
    """One entry per task: {task, role, check, arms: {arm: result}, differences: [{a, b, ...}]}.

    A result is a TaskResult; an arm of several folders has the mean over them, whose interval is the error of the items
    alone, and beside it `seeds` (the score in each folder) and `spread` (their standard deviation). A difference is an
    `intervals.Difference` over the items that every answer of both arms could be judged on, with `left_out` (the
    others), `p_holm` (p adjusted over all tasks of the same two arms) and `detectable` (the smallest change that as
    many items with as many unlike pairs show with 80 % power).
    Raises UserError where two folders did not answer the same items, or were asked them in other prompts: such scores
    cannot be paired.
    """
    folders = {arm: [place] if isinstance(place, Path) else list(place) for arm, place in arms.items()}
    answers = {arm: [read_answers(f) for f in places] for arm, places in folders.items()}
    tasks = list(dict.fromkeys(t for each in answers.values() for r in each for t in r.results))
    table = []
    for task in tasks:
        having = [arm for arm in arms if all(task in r.results for r in answers[arm])]
        asked = [(place, r) for arm in having for place, r in zip(folders[arm], answers[arm], strict=True)]
        for place, other in asked[1:]:
            same_prompts(task, *asked[0], place, other)
        items = {arm: _joined(task, [s.scores.get(task, {}) for s in answers[arm]], folders[arm]) for arm in having}
        first = answers[having[0]][0].results[task]
        table.append(
            {
                "task": task,
                "role": first.role,
                "check": first.check,
                "arms": {arm: _result([r.results[task] for r in answers[arm]], items[arm]) for arm in having},
                "differences": [
                    found
                    for a, b in combinations(having, 2)
                    if items[a]
                    and items[b]
                    and (found := _difference(task, items, a, b, folders, sources_of(task, answers[a] + answers[b])))
                ],
            }
        )
    _adjust(table)
    return table


def _adjust(table: list[dict[str, Any]]) -> None:
    """Give every difference its `p_holm`: the tasks are the family of two arms."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for task in table:
        for d in task["differences"]:
            families.setdefault((d["a"], d["b"]), []).append(d)
    for family in families.values():
        for d, p in zip(family, holm([d["p"] for d in family]), strict=True):
            d["p_holm"] = p


def sources_of(task: str, answers: Sequence[Answers]) -> dict[str, str] | None:
    """The source of each item where any file names it. Raises UserError where two files say otherwise."""
    found = [a.clusters[task] for a in answers if task in a.clusters]
    for other in found[1:]:
        odd = next((id for id, cluster in other.items() if found[0].get(id, cluster) != cluster), None)
        if odd is not None:
            raise UserError(
                f"task {task}: item {odd} lies in cluster {found[0][odd]} and in {other[odd]}. "
                "Expected the same clusters in both files."
            )
    return found[0] if found else None


def _joined(task: str, seeds: list[dict[str, float | None]], folders: list[Path]) -> Scores:
    for folder, one in zip(folders, seeds, strict=True):
        same_items(task, seeds[0], one, folders[0], folder)
    return {id: [one[id] for one in seeds] for id in seeds[0]}


def same_items(task: str, a: Mapping[str, Any], b: Mapping[str, Any], left: Path, right: Path) -> None:
    """Raises UserError where the items are not the same."""
    if a.keys() != b.keys():
        odd = next(iter(a.keys() ^ b.keys()))
        raise UserError(
            f"task {task}: {left} and {right} did not answer the same items (for example {odd}); scores of different "
            "items cannot be compared. Evaluate both on the same file."
        )


def same_prompts(task: str, left: Path, a: Answers, right: Path, b: Answers) -> None:
    """Raises UserError where an item that both answered was asked in another prompt.

    Of one model (with whatever adapters) the token ids must be the same. Another model has another tokenizer and chat
    template: there the turns must be, in the same format and template. Files of other programs do not say.
    """
    models = a.identity.get("model"), b.identity.get("model")
    which = 0 if models[0] == models[1] or None in models else 1
    first, second = a.prompts.get(task, {}), b.prompts.get(task, {})
    for id in (i for i in first if i in second):
        was, now = first[id][which], second[id][which]
        if was != now and None not in (was, now):
            raise UserError(
                f"task {task}: {left} and {right} were asked different prompts (for example item {id}: prompt hash "
                f"{was} and {now}): {_unlike(task, a, b, id)}. Such scores cannot be compared. Evaluate both in the "
                "same format, template and chat template, and on the same prompt.date."
            )


def _unlike(task: str, a: Answers, b: Answers, id: str) -> str:
    """What differs between two prompts of the same item, as far as the settings say it."""
    formats = [answers.identity.get("prompts", [""])[0] for answers in (a, b)]
    if formats[0] != formats[1]:
        return f"the format is {formats[0] or 'not known'} in one and {formats[1] or 'not known'} in the other"
    asked = a.prompts[task][id][1], b.prompts[task][id][1]
    if None not in asked and asked[0] == asked[1]:
        return "the question is the same, and the model's chat template wrote something else around it, such as a date"
    return "the question stands in another template"


def _difference(
    task: str, items: dict[str, Scores], a: str, b: str, folders: dict[str, list[Path]], sources: dict[str, str] | None
) -> dict[str, Any] | None:
    """The difference over the items that can be judged in both arms; None without any."""
    same_items(task, items[a], items[b], folders[a][0], folders[b][0])
    means = {arm: _means(items[arm]) for arm in (a, b)}
    ids = sorted(means[a].keys() & means[b].keys())
    left, right = ([means[arm][i] for i in ids] for arm in (a, b))
    if not ids:
        return None
    if sources:
        found = clustered(left, right, [sources[i] for i in ids])
    elif len(folders[a]) == len(folders[b]) == 1:
        found = differ(left, right)
    else:
        found = repeated(left, right)
    left_out = len(items[a]) - len(ids)
    return {"a": a, "b": b, **asdict(found), "left_out": left_out, "detectable": effect_of(found)}


def _means(items: Scores) -> dict[str, float]:
    """The mean over the seeds of every item that could be judged in all of them."""
    known = {i: [v for v in values if v is not None] for i, values in items.items()}
    return {i: _mean(values) for i, values in known.items() if len(values) == len(items[i])}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _result(seeds: list[TaskResult], items: Scores) -> dict[str, Any]:
    """One arm's result; counts are those of all seeds together, its score is over the items that could be judged in all
    of them."""
    first = seeds[0].model_dump(exclude={"task", "role", "check"})
    if len(seeds) == 1:
        return first
    means = _means(items)
    counts = {
        k: sum(getattr(r, k) for r in seeds) for k in ("n", "correct", "wrong", "truncated", "in_thought", "errors")
    }
    labels: Counter[str] = Counter()
    unjudgeable: Counter[str] = Counter()
    for r in seeds:
        labels.update(r.labels)
        unjudgeable.update(r.unjudgeable)
    metrics = [name for name in seeds[0].metrics if all(name in r.metrics for r in seeds)]
    whole = {
        **first,
        **counts,
        "unjudgeable": dict(unjudgeable),
        "labels": dict(labels),
        "metrics": {name: _metric([r.metrics[name].model_dump() for r in seeds]) for name in metrics},
    }
    if not means:
        return whole | {"score": None, "low": None, "high": None, "note": first["note"] or NOTHING}
    score, low, high = mean_interval(list(means.values()))
    by_seed = [_mean([float(items[i][k] or 0) for i in means]) for k in range(len(seeds))]
    return whole | {"score": score, "low": low, "high": high, "seeds": by_seed, "spread": stdev(by_seed)}


def _metric(seeds: list[dict[str, float]]) -> dict[str, float]:
    """The mean over the seeds. Its ends are the means of theirs: at least as wide as the mean's own interval."""
    return {key: _mean([m[key] for m in seeds]) for key in ("value", "low", "high")} | {"n": seeds[0]["n"]}
