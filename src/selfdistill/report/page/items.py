"""What the page's examples show: training rows and evaluation items, with what every arm answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfdistill.core.records import Example, Prediction, read_records
from selfdistill.core.rewrites import Rewrite, Selected
from selfdistill.core.turns import heard, readable, signature, who
from selfdistill.methods import lead
from selfdistill.report.standings import called

ROOM = 50_000_000
"""Characters that all examples of a page may have together. A browser still opens that; the rest stays in the files."""


def collect(run: Path, arms: list[dict[str, Any]]) -> dict[str, Any]:
    """The examples of a run for the page's script: {arms, methods, pairs, reasons, items, left_out}.

    `arms` are the run's trainings, {name, method, base, rows, seed}; `methods` tells an arm's method, `pairs` an arm's
    base, the arm, and what the two are called. An item is {kind, id, task, prompt: [[role, text]],
    references, answers: {arm: ...}}; a training row has {reason, rewrites, thoughts, kept, note, nll} besides.
    `left_out` counts items that found no room.
    """
    names, known = ["seed", *(arm["name"] for arm in arms)], called(arms)
    items = _evaluated(run, names)
    shown: list[dict[str, Any]] = []
    room = ROOM
    for item in items:
        room -= _size(item)
        if room >= 0 or not shown:
            shown.append(item)
    rows, left_out = _rows(run, names, room)
    return {
        "arms": names,
        "methods": {"seed": "seed"} | {arm["name"]: lead(arm["method"]) for arm in arms},
        "pairs": [[a["base"], a["name"], known[a["base"]], known[a["name"]]] for a in arms if a["base"]],
        "items": [*shown, *rows],
        "left_out": len(items) - len(shown) + left_out,
    }


def script(data: dict[str, Any]) -> str:
    """JSON in ASCII that can lie inside a script element: nothing in it ends the element, opens a comment in it or is
    markup at all."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _size(item: dict[str, Any]) -> int:
    answers = [a["text"] + a.get("thought", "") for a in item["answers"].values()]
    return sum(map(len, [*(t for _, t in item["prompt"]), *item["references"], *answers])) + 300


def _rows(run: Path, names: list[str], room: int) -> tuple[list[dict[str, Any]], int]:
    """The first training rows that find room, and how many do not. A rewrite is taken to be as long as its prompt and
    reference, so that no more rows are held than are shown."""
    if not (run / "examples.jsonl").is_file():
        return [], 0
    answers = _sampled(run, names)
    asked, left_out = [], 0
    for e in read_records(run / "examples.jsonl", Example):
        item = _asked("row", e, "") | {"answers": answers.get(e.id, {})}
        room -= 2 * _size(item)
        if room >= 0:
            asked.append((e, item))
        else:
            left_out += 1
    ids = {e.id for e, _ in asked}
    rewrites = {r.id: r for r in read_records(run / "rewrites.jsonl", Rewrite) if r.id in ids}
    selected = {r.id: r for r in read_records(run / "selected.jsonl", Selected) if r.id in ids}
    return [item | _made(e, rewrites.get(e.id), selected.get(e.id)) for e, item in asked], left_out


def _texts(example: Example, responses: tuple[str, ...]) -> tuple[str, ...]:
    """Responses for people. Where a candidate lacks turns, those that it has."""
    return tuple(readable(example.turn(k, response)) for k, response in enumerate(responses[: len(example.references)]))


def _made(example: Example, made: Rewrite | None, chosen: Selected | None) -> dict[str, Any]:
    """What became of a training row; of a rewrite that was not kept, its first candidate."""
    item: dict[str, Any] = {}
    if chosen:
        item |= {"reason": chosen.reason.value, "kept": chosen.rewritten}
    shown = made.candidates[0] if made and made.candidates else None
    if chosen and chosen.source == "distilled":
        item["rewrites"] = _texts(example, chosen.responses)
        shown = next((c for c in made.candidates if c.responses == chosen.responses), None) if made else None
    elif shown:
        item["rewrites"] = _texts(example, shown.responses)
    if shown and shown.thoughts:
        item["thoughts"] = shown.thoughts
    if made:
        item["nll"] = [made.reference_nll, chosen.seed_nll if chosen else None]
        item["candidates"] = len(made.candidates)
        item["note"] = made.note
    return item


def _sampled(run: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """What the arms answered to the few training rows that they were asked, by row and arm."""
    path = run / "samples.json"
    found: dict[str, dict[str, Any]] = {}
    for sample in json.loads(path.read_text(encoding="utf-8")) if path.is_file() else ():
        texts = {name: sample["texts"].get(f"{name} answers") for name in names}
        key = sample["title"].removeprefix("training row ")
        found[key] = {name: {"text": text} for name, text in texts.items() if text is not None}
    return found


def _evaluated(run: Path, names: list[str]) -> list[dict[str, Any]]:
    """Evaluation items, in the order of the tasks. A task of lm-evaluation-harness has answers and no prompts here."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in names:
        if (run / name / "items.jsonl").is_file():
            for e in read_records(run / name / "items.jsonl", Example):
                found.setdefault((e.task, e.id), _asked("item", e, e.task))
        if (run / name / "predictions.jsonl").is_file():
            for p in read_records(run / name / "predictions.jsonl", Prediction):
                blank = {"kind": "item", "id": p.id, "task": p.task, "prompt": [], "references": [], "answers": {}}
                found.setdefault((p.task, p.id), blank)["answers"][name] = _answer(p)
    return list(found.values())


def _asked(kind: str, e: Example, task: str) -> dict[str, Any]:
    declared = [["tools", "\n".join(map(signature, e.tools))]] if e.tools else []
    turns = [*declared, *([who(t), readable(t)] for t in e.prompt)]
    references = tuple(map(readable, e.answers))
    return {"kind": kind, "id": e.id, "task": task, "prompt": turns, "references": references, "answers": {}}


def _answer(p: Prediction) -> dict[str, Any]:
    """A prediction without what is empty in it."""
    said: dict[str, Any] = {"text": readable(heard(p.text)), "verdict": p.verdict.value, "finish": p.finish_reason}
    said |= {"thought": p.thought, "extracted": p.extracted, "expected": p.expected, "note": p.note, "label": p.label}
    if p.samples:
        said["samples"] = f"{sum(bool(s.passed) for s in p.samples)} of {len(p.samples)} further samples passed"
    return {k: v for k, v in said.items() if v is not None}
