"""Evaluate: ask a model every item of every task and judge the answers.

In:  tasks (a dataset and a check each), a model with or without an adapter.
Out: items.jsonl (what was asked), predictions.jsonl (raw text, extracted and expected answer, verdict) and result.json
     (a `TaskResult` per task).

    selfdistill evaluate --model M --adapter A --task name=math,path=test.jsonl,check=last_number --out eval

Seed and arms go through this one function on the same items. `regrade` judges stored texts again without a model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from selfdistill.checks import load_check
from selfdistill.checks.base import UNREADABLE, Check, Judgement
from selfdistill.checks.sandbox import walls
from selfdistill.comparison.intervals import mean_interval, pass_at_k, wilson
from selfdistill.core.config import TaskSettings
from selfdistill.core.dates import begun, today
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import (
    NOTHING,
    UNMEASURED,
    Example,
    Metric,
    Prediction,
    Sample,
    TaskResult,
    Verdict,
    read_records,
)
from selfdistill.core.store import Journal, digest_of, in_time, write_atomic, write_records
from selfdistill.engines.protocol import Completion, Engine, Request, Sampling
from selfdistill.models.prompts import Prompter
from selfdistill.models.tools_check import require_tools
from selfdistill.run_folder import META, read_results
from selfdistill.stages.acting import see_that_it_acts
from selfdistill.stages.identity import changed_checks, evaluation_identity, note_checks
from selfdistill.stages.own_calls import as_heard
from selfdistill.tasks.base import Permissions, Task
from selfdistill.tasks.load import template_of
from selfdistill.tasks.multiple_choice import expected_steps, measured

PASS_AT = (1, 10, 100)
"""The k of pass@k; those up to the number of samples are reported."""


def evaluate(
    tasks: Sequence[Task],
    out: Path,
    model: str,
    engine: Engine,
    prompter: Prompter,
    adapter: str | None = None,
    name: str = "evaluate",
    progress: Progress | None = None,
) -> list[TaskResult]:
    """Answer greedily and judge. `model` and `adapter` are digests for the record; the engine must already use them.

    Items that the engine failed on are errors, and are asked again when this is called again. Raises UserError if `out`
    holds a run with other settings, and for an adapter that changes nothing.
    """
    progress = progress or Progress()
    harness = [t.settings.name for t in tasks if t.harness]
    if harness and not hasattr(engine, "seed_lm"):
        raise UserError(f"task {harness[0]}: lm-evaluation-harness needs the model here; it cannot ask an endpoint.")
    prompter = prompter.on(begun(out) or today())
    for task in tasks:
        require_tools(prompter, task.items, f"task {task.settings.name}")
    identity = evaluation_identity(tasks, model, engine, prompter, adapter)
    if changed := changed_checks(out, identity):
        _judge_anew([t for t in tasks if t.settings.name in changed], out)
    meta = out / META
    for name_there in ("items.jsonl", "result.json"):
        if (out / name_there).exists() and not meta.exists():
            raise UserError(f"{out / name_there}: exists and is not ours. Choose another output folder.")
    with Journal(out / "predictions.jsonl", Prediction, identity, lambda p: p.finish_reason == "error") as journal:
        if judging := not journal.finished:
            if adapter is not None:
                see_that_it_acts(engine, prompter, progress)
            with progress.bar(name, sum(len(t.items) or expected_steps(t) for t in tasks)) as advance:
                advance(sum(e.id in journal.done for t in tasks for e in t.items))
                for predictions in in_time(_answers(tasks, journal, engine, prompter)):
                    journal.append(predictions)
                    advance(len(predictions))
                for task in (t for t in tasks if t.harness):
                    _measure_once(task, journal, engine, prompter)
                    advance(expected_steps(task))
            write_records(out / "items.jsonl", [e for t in tasks for e in t.items])
            journal.finish([key for t in tasks for key in [e.id for e in t.items] or _of_task(journal.done, t)])
    predictions = list(read_records(journal.path, Prediction))
    for task in tasks:
        if task.check_name == "win_rate":
            _write_model_outputs(task, predictions, out, f"{model} {adapter or ''}".strip())
    return _results(tasks, out, predictions, judging)


def _judge_anew(tasks: Sequence[Task], out: Path) -> None:
    """Judge what a stopped evaluation has answered by the checks of now. Raises UserError for a finished one, which
    may be part of something and changes only where its user says so."""
    if (out / "predictions.jsonl").is_file():
        listed = ", ".join(f"check of {t.settings.name} ({t.check_name})" for t in tasks)
        raise UserError(
            f"{out}: its answers were judged by another version of the {listed}. Judge them again without a model: "
            f"selfdistill evaluate --out {out} --regrade (or choose another output folder)."
        )
    by_id = {e.id: (t, e) for t in tasks for e in t.items}
    old = json.loads((out / META).read_text(encoding="utf-8"))
    with Journal(out / "predictions.jsonl", Prediction, old, lambda p: p.finish_reason == "error") as journal:
        answered = list(read_records(journal.partial, Prediction)) if journal.done else []
        fresh = [_judged(*by_id[p.id], p) if p.id in by_id and p.tokens is not None else p for p in answered]
        write_records(journal.partial, fresh)
        note_checks(out, tasks)


def _write_model_outputs(task: Task, predictions: Sequence[Prediction], out: Path, generator: str) -> None:
    """The answers as the `alpaca_eval` package takes them, for judges of its own."""
    from selfdistill.checks.judge import write_model_outputs

    texts = {p.id: p.text for p in predictions}
    rows = [{"instruction": e.prompt[-1]["content"], "output": texts[e.id]} for e in task.items]
    write_model_outputs(out / f"{task.settings.name}.model_outputs.json", rows, generator)


def _of_task(keys: Iterable[str], task: Task) -> list[str]:
    return sorted(key for key in keys if key.startswith(f"{task.settings.name}/"))


def _measure_once(task: Task, journal: Journal[Prediction], engine: Engine, prompter: Prompter) -> None:
    """Measure a harness task, unless an earlier run that was stopped has. How many records it gave is kept beside the
    journal, since a write that was torn leaves some of them."""
    count = journal.path.with_name(f"{task.settings.name}.count")
    if count.is_file() and count.read_text() == str(len(_of_task(journal.done, task))):
        return
    made = measured(task, engine, prompter)
    journal.append(made)
    write_atomic(count, str(len(made)))


def regrade(out: Path, permissions: Permissions, progress: Progress | None = None) -> list[TaskResult]:
    """Judge the stored texts of an evaluation folder again, without a model; verdicts and result.json are replaced.

    Raises UserError where the folder is incomplete, or where judging needs what was not given.
    """
    items: dict[str, list[Example]] = {}
    for example in read_records(out / "items.jsonl", Example):
        items.setdefault(example.task, []).append(example)
    tasks = []
    for name, result in read_results(out).items():
        settings = TaskSettings(name=name, path=str(out / "items.jsonl"), check=result.check, role=result.role)
        judge = permissions.judge if result.check == "win_rate" else None
        if name in items and (judge or result.check != "win_rate"):
            allowed = permissions.allow_code, permissions.judge, permissions.without_walls
            check = load_check(result.check, *allowed, progress)
            tasks.append(Task(settings, result.check, check, tuple(items[name]), judge=judge))
        else:  # the harness judged these itself, or a judge that is not here now
            tasks.append(Task(settings, result.check, missing=(result.note or "").removeprefix(UNMEASURED)))
    by_id = {e.id: (t, e) for t in tasks for e in t.items}
    kept = {t.settings.name for t in tasks if t.check is None}

    def again(old: Prediction) -> Prediction:
        if old.id not in by_id and old.task not in kept:
            raise UserError(f"{out}: item {old.id!r} is in predictions.jsonl but not in items.jsonl.")
        if old.id not in by_id:
            return old
        if old.finish_reason in ("error", "rejected"):
            return old.model_copy(update={"verdict": Verdict.ERROR})
        return _judged(*by_id[old.id], old)

    with ThreadPoolExecutor(max((t.at_once for t in tasks), default=1)) as pool:
        fresh = list(pool.map(again, read_records(out / "predictions.jsonl", Prediction)))
    write_records(out / "predictions.jsonl", fresh)
    results = _results(tasks, out, fresh, judged=True)
    # Answers that wait for a judge have no verdict of an older check either.
    waiting = {r.task for r in results if r.check == "win_rate" and not r.n}
    note_checks(out, [t for t in tasks if t.check or t.settings.name in waiting])
    return results


# --- answers -----------------------------------------------------------------------------------------------------


@dataclass
class _Asked:
    """An item whose answers are on their way."""

    task: Task
    example: Example
    prompt: str
    asked: str
    left: int
    heard: Callable[[str], str]
    greedy: Completion | None = None
    drawn: dict[int, Completion] = field(default_factory=dict)


def _answers(
    tasks: Sequence[Task], journal: Journal[Prediction], engine: Engine, prompter: Prompter
) -> Iterator[Prediction | None]:
    """Predictions as they are ready, and None for every completion, so that the caller looks up. Judging may wait for
    other processes (the sandbox, a judge), so it runs in threads beside the engine."""
    asked: dict[str, _Asked] = {}

    def requests() -> Iterator[Request]:
        for task in tasks:
            asker, settings = prompter.for_task(template_of(task.settings)), task.settings
            more: dict[str, Any] = {"stop": settings.stop, "thinking_tokens": prompter.settings.thinking_tokens or 0}
            greedy = Sampling(settings.max_new_tokens, **more)
            drawn = Sampling(settings.max_new_tokens, settings.temperature, **more)
            for e in task.items:
                if e.id not in journal.done:
                    prompt = asker.evaluate(e.prompt, e.tools)
                    said = digest_of([prompt.turns, prompt.text, *([prompt.tools] if prompt.tools else [])])
                    hashed = digest_of(prompt.ids) if prompt.ids else said
                    heard = partial(as_heard, prompt=prompt, prompter=asker)
                    asked[e.id] = _Asked(task, e, hashed, said, settings.samples, heard)
                    yield Request(f"{e.id}~", prompt, greedy)
                    yield from (Request(f"{e.id}~{i}", prompt, drawn) for i in range(settings.samples))

    judging: list[Future[Prediction]] = []
    with ThreadPoolExecutor(max((t.at_once for t in tasks), default=1)) as pool:
        try:
            for completion in engine.generate(requests()):
                key, _, number = completion.id.rpartition("~")
                item = asked[key]
                if number:
                    item.drawn[int(number)] = completion
                else:
                    item.greedy = completion
                if item.greedy and len(item.drawn) == item.left:
                    judging.append(pool.submit(_predict, asked.pop(key)))
                yield None
                ready = [f for f in judging if f.done()]  # asked once: more may be done a moment later
                judging = [f for f in judging if f not in ready]
                yield from (f.result() for f in ready)
        except UserError:  # the engine or a judge gave up; what was answered before is kept
            yield from (f.result() for f in judging if not f.exception())
            raise
        yield from (f.result() for f in judging)


def _predict(item: _Asked) -> Prediction:
    """One item's prediction: answered, and judged."""
    greedy, drawn = item.greedy, [item.drawn[i] for i in sorted(item.drawn)]
    assert greedy is not None
    bad = next((c for kind in ("error", "rejected") for c in (greedy, *drawn) if c.finish_reason == kind), None)
    blank = Prediction(
        id=item.example.id,
        task=item.task.settings.name,
        prompt=item.prompt,
        asked=item.asked,
        text="",
        finish_reason=bad.finish_reason if bad else greedy.finish_reason,
        verdict=Verdict.ERROR if item.task.check else Verdict.UNJUDGED,
        note=bad.error if bad else None,
    )
    if bad:
        return blank
    samples = tuple(
        Sample(text=item.heard(c.text), thought=c.thought, finish_reason=_ending(c), passed=None) for c in drawn
    )
    text = item.heard(greedy.text)
    update = {"text": text, "thought": greedy.thought, "tokens": greedy.tokens, "samples": samples}
    return _judged(item.task, item.example, blank.model_copy(update=update))


def _ending(completion: Completion) -> Literal["stop", "length"]:
    return "length" if completion.finish_reason == "length" else "stop"


def _judged(task: Task, example: Example, answer: Prediction) -> Prediction:
    """The prediction with its verdict. An answer that was cut off and does not pass counts as truncated. An item that
    cannot be judged says why in its note."""
    if task.check is None:
        return answer.model_copy(update={"verdict": Verdict.UNJUDGED})
    judgement = _check(task.check, answer, example)
    if judgement.outcome == "same":
        verdict = Verdict.CORRECT
    elif judgement.outcome in UNREADABLE:
        verdict = Verdict.UNJUDGEABLE
    else:
        verdict = Verdict.TRUNCATED if answer.finish_reason == "length" else Verdict.WRONG
    outcomes = [_check(task.check, s, example).outcome for s in answer.samples]
    passed = [None if o in UNREADABLE else o == "same" for o in outcomes]
    return answer.model_copy(
        update={
            "extracted": judgement.extracted,
            "expected": judgement.expected,
            "verdict": verdict,
            "note": judgement.note or UNREADABLE.get(judgement.outcome),
            "label": judgement.label,
            "metrics": dict(judgement.metrics),
            "samples": tuple(s.model_copy(update={"passed": p}) for s, p in zip(answer.samples, passed, strict=True)),
        }
    )


def _check(check: Check, answer: Prediction | Sample, example: Example) -> Judgement:
    """What the check says of an answer. A thought without an answer is none, whatever it says of ""."""
    judgement = check(answer.text, example.reference, example)
    if answer.thought is not None and not answer.text and judgement.outcome != "no_reference":
        return judgement._replace(outcome="no_answer")
    return judgement


def _results(tasks: Sequence[Task], out: Path, predictions: Sequence[Prediction], judged: bool) -> list[TaskResult]:
    """Write result.json. The sandbox's walls are those of now where answers were judged now, else those of then."""
    before = read_results(out) if not judged and (out / "result.json").is_file() else {}
    results = []
    for task in tasks:
        result = task_result(task, [p for p in predictions if p.task == task.settings.name])
        if task.check and task.check_name == "python_tests":
            then = before.get(result.task)
            result = result.model_copy(update={"walls": then.walls if then else walls()})
        results.append(result)
    write_atomic(out / "result.json", json.dumps([r.model_dump() for r in results], indent=1) + "\n")
    return results


def task_result(task: Task, predictions: Sequence[Prediction]) -> TaskResult:
    """Counts, score and interval of one task."""
    verdicts = [p.verdict for p in predictions if p.verdict.judged]
    n, correct = len(verdicts), verdicts.count(Verdict.CORRECT)
    low, high = wilson(correct, n) if n else (None, None)
    unjudgeable = Counter(p.note or "" for p in predictions if p.verdict is Verdict.UNJUDGEABLE)
    empty = NOTHING if unjudgeable else f"{UNMEASURED}{task.missing}"
    return TaskResult(
        task=task.settings.name,
        check=task.check_name,
        role=task.settings.role,
        n=n,
        correct=correct,
        wrong=verdicts.count(Verdict.WRONG),
        truncated=verdicts.count(Verdict.TRUNCATED),
        errors=verdicts.count(Verdict.ERROR),
        score=correct / n if n else None,
        low=low,
        high=high,
        note=None if n else empty,
        in_thought=sum(p.cut_in_thought and p.verdict is Verdict.TRUNCATED for p in predictions),
        unjudgeable=dict(unjudgeable.most_common()),
        labels=dict(sorted(Counter(p.label for p in predictions if p.label).items())),
        metrics=_metrics(predictions),
    )


def _metrics(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    """Means of the other rules' values over the judged items that have one, and pass@k over those whose samples can all
    be judged. An item that could not be asked has no samples and passes with none."""
    values: dict[str, list[float]] = {}
    drawn = max((len(p.samples) for p in predictions), default=0)
    for p in predictions:
        if not p.verdict.judged:
            continue
        for name, value in p.metrics.items():
            values.setdefault(name, []).append(value)
        for k in PASS_AT:
            if k <= drawn and all(s.passed is not None for s in p.samples):
                passed = sum(bool(s.passed) for s in p.samples)
                values.setdefault(f"pass@{k}", []).append(pass_at_k(drawn, passed, k))
    metrics = {}
    for name, found in sorted(values.items()):
        mean, low, high = mean_interval(found)
        metrics[name] = Metric(n=len(found), value=mean, low=low, high=high)
    return metrics
