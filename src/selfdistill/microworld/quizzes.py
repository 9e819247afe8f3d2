"""The microworld's counterparts of the five knowledge benchmarks, as task files of lm-evaluation-harness.

In:  a folder, how many items, a seed.
Out: the folder with a YAML and a JSONL file a task, to be read by `tasks.harness.harness_predictions(..., chat=True)`.

All ask for what the seed LM knows, in wordings of the test split, and offer whole sentences in its own style. What
each takes from its model: MMLU is a group of subjects, TruthfulQA misleads and has several right choices, ARC asks
about nature, HellaSwag continues a text, Winogrande fills a blank with one of two names. (The seed LM fills it by the
order of the names: told the story the other way round, it guesses.)
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from selfdistill.core.errors import UserError
from selfdistill.core.store import write_atomic
from selfdistill.microworld import lexicon as lex
from selfdistill.microworld.item import Item
from selfdistill.microworld.world import _FACTS, items

QUIZZES = ("micro_mmlu", "micro_truthfulqa", "micro_arc", "micro_hellaswag", "micro_winogrande")
"""The names, in the order of `tasks.harness.HARNESS`."""

CHANCE = {
    "micro_mmlu": 0.25,
    "micro_truthfulqa": 0.4,
    "micro_arc": 0.25,
    "micro_hellaswag": 0.25,
    "micro_winogrande": 0.5,
}
"""What a model that knows nothing gets; for micro_truthfulqa the probability mass on the right choices."""

_TASK = """\
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {task}.jsonl}}}}
test_split: test
output_type: multiple_choice
num_fewshot: 0
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list:
"""
_METRIC = "  - {{metric: {}, aggregation: mean, higher_is_better: true}}\n"
_MC2 = "process_results: !function lm_eval.tasks.truthfulqa.utils.process_results_mc2\n"
_GROUP = """\
group: micro_mmlu
task: [micro_mmlu_capitals, micro_mmlu_young]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""

Row = dict[str, Any]


def write_quizzes(folder: Path, count: int, seed: int) -> Path:
    """Write the five quizzes, `count` items each (fewer where the world has no more wordings). Returns the folder.

    The same arguments write the same bytes. Raises UserError for a count below two.
    """
    if count < 2:
        raise UserError(f"quizzes: count = {count}: expected at least 2, one a subject of micro_mmlu.")
    accuracy = _METRIC.format("acc")
    normed = accuracy + _METRIC.format("acc_norm")
    half = count // 2
    tasks: list[tuple[str, Callable[[random.Random], Iterator[Row]], int, str]] = [
        ("micro_mmlu_capitals", lambda rng: _facts(rng, seed, ("capital",)), count - half, accuracy),
        ("micro_mmlu_young", lambda rng: _facts(rng, seed, ("young",)), half, accuracy),
        ("micro_truthfulqa", lambda rng: _opposites(rng, seed), count, accuracy + _MC2),
        ("micro_arc", lambda rng: _facts(rng, seed, ("sound", "home", "color")), count, normed),
        ("micro_hellaswag", lambda rng: _endings(rng, seed), count, normed + "gen_prefix: beginning\n"),
        ("micro_winogrande", lambda rng: _blanks(rng, seed), count, accuracy),
    ]
    write_atomic(folder / "micro_mmlu.yaml", _GROUP)
    for task, rows, wanted, rest in tasks:
        made = islice(rows(random.Random(f"{task}:{seed}")), wanted)
        write_atomic(folder / f"{task}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
        write_atomic(folder / f"{task}.yaml", _TASK.format(task=task) + rest)
    return folder


def _facts(rng: random.Random, seed: int, relations: tuple[str, ...]) -> Iterator[Row]:
    """Questions about a relation; the wrong choices give the thing another thing's value."""
    for item in items("facts", "test", seed):
        relation = item.key.split(":")[1]
        if relation in relations:
            values = {value for key, _, value, _ in _FACTS if key.startswith(f"{relation}:")} - {item.expected}
            wrong = rng.sample(sorted(values), 3)
            yield _row(rng, item.prompt, item.own, [_other(item, value) for value in wrong])


def _other(item: Item, value: str) -> str:
    """The item's sentence with another value; the value ends it, and may be part of a word before that."""
    return item.own.removesuffix(f"{item.expected}.") + f"{value}."


def _opposites(rng: random.Random, seed: int) -> Iterator[Row]:
    """Questions that suggest a wrong answer, with two right choices and three wrong ones: the suggested word, the word
    of the question itself, and another."""
    for item in items("facts", "test", seed):
        _, relation, word, *_ = item.key.split(":")
        if relation == "opposite":
            suggested, other = rng.sample(sorted(set(lex.OPPOSITES.values()) - {item.expected}), 2)
            right = [item.own, f"{item.expected.capitalize()} is the opposite of {word}."]
            wrong = [_other(item, value) for value in (suggested, word, other)]
            targets = {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}
            question = f"{item.prompt} I think it is {suggested}"
            yield {"question": question, "choices": targets["choices"], "label": 0, "mc2_targets": targets}


def _endings(rng: random.Random, seed: int) -> Iterator[Row]:
    """Descriptions and advice that break off; the wrong endings belong to other things."""
    for item in items("chat", "test", seed):
        _, kind, topic, *_ = item.key.split(":")
        if kind not in ("describe", "tips"):
            continue
        if kind == "describe":
            mark = " with "
            ends = {x: f"{has}. It is something that {does}" for x, (_, has, does) in lex.DESCRIPTIONS.items()}
        else:
            mark = " First, you should "
            ends = {x: f"{one}. Second, you should {two}" for x, (one, two) in lex.TIPS.items()}
        beginning, _, ending = item.own.partition(mark)
        wrong = [ending.replace(ends[topic], ends[x]) for x in rng.sample(sorted(ends.keys() - {topic}), 3)]
        yield {**_row(rng, item.prompt, ending, wrong), "beginning": (beginning + mark).rstrip()}


def _blanks(rng: random.Random, seed: int) -> Iterator[Row]:
    """Stories with two names; the answer's first or second sentence has a blank that only one of them fits."""
    for item in items("word_problems", "test", seed):
        if not item.key.startswith("math:compare:"):
            continue
        opening, first, second, *_ = item.own.split(". ")
        name, other = first.split()[0], second.split()[0]
        if rng.random() < 0.5:
            right, wrong = first, first.replace(name, other, 1)
        else:
            opening, right, wrong = f"{opening}. {first}", second, second.replace(other, name, 1)
        yield _row(rng, item.prompt, f"{opening}. {right}.", [f"{opening}. {wrong}."])


def _row(rng: random.Random, question: str, right: str, wrong: list[str]) -> Row:
    choices = [right, *wrong]
    rng.shuffle(choices)
    return {"question": question, "choices": choices, "label": choices.index(right)}
