"""What an embedded seed LM can do: its abilities, the quizzes, and how it follows a reference.

In:  the folder of a model. Out: counts of right answers, as plain data, and tables of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from selfdistill.checks import load_check
from selfdistill.comparison.intervals import wilson
from selfdistill.core.config import TaskSettings
from selfdistill.core.engine_settings import TransformersSettings
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn
from selfdistill.engines.open import make_engine
from selfdistill.engines.protocol import Request, Sampling
from selfdistill.microworld import world
from selfdistill.microworld.item import Item
from selfdistill.microworld.quizzes import QUIZZES
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.models.templates import RETRY, fill
from selfdistill.stages.evaluate import evaluate
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks

TARGETS = ("rare_tools", "rare_problems", "rare_code")
TOKENS = 160
Count = tuple[int, int]
"""(right, of how many)."""


def measured(folder: Path) -> dict[str, dict[str, Count]]:
    """{"abilities": {name: right and all}, "quizzes": ..., "rewrites": ...} of the model in the folder."""
    progress, seed_lm = Progress(), load_model(str(folder))
    prompter = Prompter.create(seed_lm.tokenizer)
    engine = make_engine(TransformersSettings(), seed_lm, prompter)
    settings = [TaskSettings(name=a, path=f"micro:{a}", limit=400, max_new_tokens=TOKENS) for a in world.ABILITIES]
    settings += [TaskSettings(name=q, path=f"lm-eval:{q}", limit=200) for q in QUIZZES]
    tasks = load_tasks(settings, 0, Permissions(allow_code=True), progress)
    with tempfile.TemporaryDirectory() as scratch:
        results = evaluate(tasks, Path(scratch), seed_lm.digest, engine, prompter, progress=progress)
    right = {r.task: (r.correct, r.n) for r in results}

    def asked(prompts: Sequence[Prompt]) -> list[str]:
        wanted = [Request(f"{n}", prompt, Sampling(TOKENS)) for n, prompt in enumerate(prompts)]
        texts = {c.id: c.text for c in engine.generate(wanted)}
        return [texts[r.id] for r in wanted]

    rewrites: dict[str, Count] = {}
    for ability in TARGETS:
        rewrites |= followed(ability, asked, prompter)
    return {
        "abilities": {a: right[a] for a in world.ABILITIES},
        "quizzes": {q: right[q] for q in QUIZZES},
        "rewrites": rewrites,
    }


def followed(ability: str, asked: Callable[[Sequence[Prompt]], list[str]], prompter: Prompter) -> dict[str, Count]:
    """How many rewrites and own answers of 200 train items are right, and how many of the wrong ones after a retry."""
    check = load_check(world.ABILITIES[ability][1], allow_code=True)
    rows = list(islice(world.items(ability, "train"), 200))

    def wrong(texts: list[str], rows: list[Item]) -> list[tuple[Item, str]]:
        return [(row, text) for row, text in zip(rows, texts, strict=True) if not _same(check, text, row)]

    def user(row: Item) -> list[Turn]:
        return [{"role": "user", "content": row.prompt}]

    def again(row: Item, text: str) -> Prompt:
        more: list[Turn] = [{"role": "assistant", "content": text}]
        more.append({"role": "user", "content": fill(RETRY, answer=answer(row))})
        return prompter.train([*user(row), *more])

    def answer(row: Item) -> str:
        return row.expected or row.terse

    counts = dict[str, Count]()
    for name in ("rewrite", "own"):
        guided = name == "rewrite"
        first = [prompter.distill(user(r), r.terse) if guided else prompter.train(user(r)) for r in rows]
        missed = wrong(asked(first), rows)
        counts[f"{ability}: {name}"] = len(rows) - len(missed), len(rows)
        second = [prompter.retry(user(r), r.terse, text, answer(r)) if guided else again(r, text) for r, text in missed]
        missed_again = wrong(asked(second), [row for row, _ in missed])
        counts[f"{ability}: {name}, retry"] = len(missed) - len(missed_again), len(missed)
    return counts


def _same(check: Any, text: str, item: Item) -> bool:
    prompt = (Turn(role="user", content=item.prompt),)
    example = Example(id=item.key, prompt=prompt, reference=item.terse, task=item.ability, meta=item.meta)
    return bool(check(text, item.expected or item.terse, example).outcome == "same")


def table(counts: dict[str, Count], title: str) -> str:
    """A Markdown table of percents with 95 % Wilson intervals."""
    lines = [f"| {title} | n | correct |", "| --- | ---: | ---: |"]
    for name, (right, n) in counts.items():
        if n:
            low, high = wilson(right, n)
            lines.append(f"| {name} | {n} | {100 * right / n:.1f} [{100 * low:.1f}, {100 * high:.1f}] |")
    return "\n".join(lines)
