"""Knowledge benchmarks through lm-evaluation-harness, with the model that is already in memory (Section 4.2).

In:  a benchmark's name, the seed LM, and the live model, which may carry an adapter.
Out: one `Prediction` an item, joined to every other arm's by its id.

    predictions = harness_predictions("arc", seed_lm, engine.model, limit=100, folder=None, batch_rows=16)

The harness brings the items, the few-shot prompts and the scoring by log-likelihood. `folder` holds task files of the
harness' own form (YAML and JSONL) and replaces the hub; `microworld/quizzes.py` writes such a folder.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest.mock import patch

from selfdistill.core.errors import UserError
from selfdistill.core.records import Prediction, Verdict
from selfdistill.core.store import digest_of
from selfdistill.core.turns import Turn
from selfdistill.models.chat import ChatTemplate
from selfdistill.models.seed_lm import SeedLM


class HarnessTask(NamedTuple):
    """What the harness is asked for. `shots` None leaves the number to the task file, `metric` None takes acc_norm
    where the task reports it and acc otherwise, which is what the leaderboard does with its five."""

    task: str
    shots: int | None
    metric: str | None


HARNESS = {
    "mmlu": HarnessTask("mmlu", 5, "acc"),
    "truthfulqa": HarnessTask("truthfulqa_mc2", 0, "acc"),
    "arc": HarnessTask("arc_challenge", 25, "acc_norm"),
    "hellaswag": HarnessTask("hellaswag", 10, "acc_norm"),
    "winogrande": HarnessTask("winogrande", 5, "acc"),
}
"""Our name -> task, shots and metric of the OpenLLM Leaderboard (Section 4.2, Figure 4)."""

# Only these are indexed: all of the harness' task files take a quarter of a minute to read.
_HOMES = ("mmlu/default", "truthfulqa", "arc", "hellaswag", "winogrande")


def harness_predictions(
    name: str,
    seed_lm: SeedLM,
    model: Any,
    limit: int | None,
    folder: Path | None,
    batch_rows: int,
    chat: ChatTemplate | None = None,
) -> list[Prediction]:
    """Ask `model` every item of one benchmark. One record an item, in the harness' order.

    `model` is the live torch model on its device and comes back as it was. `limit` items of every subtask (MMLU has 57)
    are drawn at random, the same ones every time. With `folder`, `name` is a key of HARNESS or any task or group in
    there; relative data files are looked up in the folder, and functions that a task file names are run, so it must be
    one that you trust. `chat` is the chat template that questions are put into; the paper's numbers are plain.

    `text` and `extracted` are the most likely choice, `expected` is the right one (for TruthfulQA the first of the
    right ones), `metrics` holds what the harness says of the item, and the verdict is "correct" where the benchmark's
    metric is above one half: acc and acc_norm are 0 or 1, and mc2 is the probability mass on the right choices.

    Raises UserError without the harness, for an unknown name, and for task files or data that cannot be read
    (offline).
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"knowledge task {name}: needs lm-evaluation-harness: pip install 'selfdistill[paper]'.")
    benchmark = HARNESS.get(name)
    if benchmark is None:
        if folder is None:
            raise UserError(
                f"knowledge task {name}: unknown. Expected one of {', '.join(HARNESS)}, or a name from a folder of "
                "task files."
            )
        benchmark = HarnessTask(name, None, None)
    with _quiet(), _as_found(model), ExitStack() as stack:
        if folder is not None:
            stack.enter_context(_own_cache())
        manager, asked = _load(name, benchmark.task, folder, limit)
        scored = _scored(manager, asked, benchmark.shots, seed_lm, model, limit, batch_rows, chat)
        return [
            # In a chat template another model's text is another one for the same question, whose hash is in the id.
            record if chat else record.model_copy(update={"asked": record.prompt})
            for task, samples, cut in scored
            for record in _records(name, benchmark, task, samples, cut, seed_lm.context)
        ]


def _load(name: str, task: str, folder: Path | None, limit: int | None) -> tuple[Any, list[Any]]:
    """The harness' task manager, and the task or group object to run, with the items that count checked."""
    import lm_eval.tasks

    if folder is None:
        where = [Path(lm_eval.tasks.__file__).parent / home for home in _HOMES]
    elif folder.is_dir():
        where = [folder.resolve()]
    else:
        raise UserError(f"knowledge task {name}: {folder}: no such folder. Expected a folder of harness task files.")
    manager = lm_eval.tasks.TaskManager(include_path=where, include_defaults=False)
    if task not in manager.task_index:
        raise UserError(f"knowledge task {name}: {_why_missing(task, where[0], manager)}")
    try:
        # data_files in a task file of a folder are relative to it, so that the folder can be moved
        with chdir(where[0]) if folder else nullcontext():
            loaded = manager.load([task])
        for leaf in loaded["tasks"].values():
            _check(leaf, _drawn(leaf, limit))
    except Exception as error:  # a task file can break in any way: templates, functions, data, network
        raise UserError(f"knowledge task {name}: {_in_one_line(error)}. {_mend(folder)}") from None
    groups = loaded.get("groups", {})
    return manager, [groups[task]] if task in groups else list(loaded["tasks"].values())


def _mend(folder: Path | None) -> str:
    if folder is None:
        return (
            "Its data comes from the Hugging Face hub: connect (and unset HF_HUB_OFFLINE) once, or name a folder of "
            "local task files."
        )
    return f"Mend the task files in {folder}."


def _why_missing(task: str, folder: Path, manager: Any) -> str:
    """Why the index has no such task. The harness skips files that it cannot read without a word."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(folder.glob("**/*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except Exception as error:  # see _load
            return f"{path}: cannot be read: {_in_one_line(error)}. Expected a harness task file."
    return f"no task {task} in {folder}. It has: {', '.join(manager.all_tasks) or 'none'}."


def _in_one_line(error: BaseException) -> str:
    """The first cause, which names the line or the file where the errors around it do not."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, StopIteration):  # from `datasets`
        return "a data file is empty"
    text = " ".join(str(error).split())[:300].rstrip(".")
    return text if " " in text else f"{type(error).__name__}: {text}"


def _drawn(task: Any, limit: int | None) -> list[int]:
    """Which items of a leaf task are asked: all, or `limit` of them drawn at random, in their order."""
    there = len(task.eval_docs)
    return (
        list(range(there)) if limit is None or limit >= there else sorted(random.Random(0).sample(range(there), limit))
    )


def _check(task: Any, asked: list[int]) -> None:
    """Every item must be answerable: the harness counts a label that names no choice as a wrong answer."""
    if task.OUTPUT_TYPE != "multiple_choice":
        raise ValueError(f"{task.task_name} has output_type {task.OUTPUT_TYPE}, expected multiple_choice")
    for number in asked:
        try:
            _check_item(task, task.eval_docs[number])
        except Exception as error:  # see _load
            raise ValueError(f"{task.task_name}, item {number + 1}: {_in_one_line(error)}") from None


def _check_item(task: Any, item: dict[str, Any]) -> None:
    choices = task.doc_to_choice(item)
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise ValueError("a choice is missing or no text")
    gold = _gold(task, item, choices)
    if not (isinstance(gold, int) and 0 <= gold < len(choices)):
        raise ValueError(f"the label {gold!r} names none of the {len(choices)} choices")
    question = task.doc_to_text(item)
    if not isinstance(question, (str, int)):
        raise ValueError("the question is missing or no text")


def _gold(task: Any, item: dict[str, Any], choices: list[str]) -> Any:
    """The index of the right choice. Where the choices are contexts (Winogrande), the task gives it as its text."""
    gold = task.doc_to_text(item) if task.multiple_input else task.doc_to_target(item)
    if isinstance(gold, list):
        gold = gold[0]
    return choices.index(gold) if isinstance(gold, str) else gold


def _scored(
    manager: Any,
    asked: list[Any],
    shots: int | None,
    seed_lm: SeedLM,
    model: Any,
    limit: int | None,
    rows: int,
    chat: ChatTemplate | None,
) -> list[tuple[Any, list[dict[str, Any]], set[str]]]:
    """For every leaf task: the task, its scored samples, and the contexts that were cut. Out of memory on an
    accelerator, the batch is halved and the benchmark starts again; the longest items come first, so little is lost."""
    import lm_eval
    import torch

    leaves = manager.load(asked)["tasks"]
    while True:
        lm = _scorer(seed_lm, model, rows, chat)
        try:
            results = lm_eval.simple_evaluate(
                model=lm,
                tasks=asked,
                num_fewshot=shots,
                # Its own limit takes the first items, which may all be of one kind.
                samples=limit and {name: _drawn(leaf, limit) for name, leaf in leaves.items()},
                log_samples=True,
                bootstrap_iters=0,
                apply_chat_template=chat is not None,
                task_manager=manager,
                # The process' random numbers are not the harness' to seed; the few-shot examples have their own.
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            rows //= 2
            torch.cuda.empty_cache()
            continue
        return [(leaves[leaf], samples, lm.cut) for leaf, samples in results["samples"].items()]


def _scorer(seed_lm: SeedLM, model: Any, rows: int, chat: ChatTemplate | None) -> Any:
    """The live model as the harness wants it, which also notes what did not fit into the context."""
    from lm_eval.models.huggingface import HFLM

    class Scorer(HFLM):  # type: ignore[misc]
        """Log-likelihoods of choices."""

        cut: set[str]

        def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> Any:
            room = self.max_length + 1  # the last token is only predicted
            self.cut = {pair[0] for pair, context, choice in requests if len(context) + len(choice) > room}
            return super()._loglikelihood_tokens(requests, disable_tqdm=True)

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """As any other prompt, up to where the answer begins."""
            if chat is None or not add_generation_prompt:
                return str(super().apply_chat_template(chat_history, add_generation_prompt))
            return chat.prompt(cast(list[Turn], chat_history)) + chat.form.opening

    # A chat template writes the BOS token itself where the model wants one, as in Prompter.
    bos = False if chat else None
    return Scorer(
        pretrained=model,
        tokenizer=seed_lm.tokenizer,
        batch_size=rows,
        max_length=seed_lm.context,
        add_bos_token=bos,
        chat_template_args=dict(chat.kwargs) if chat else None,
        softmax_dtype="float32",  # as in the engine: in bf16 the sums have two to three digits
        trust_remote_code=False,
    )


def _records(
    name: str, benchmark: HarnessTask, task: Any, samples: list[dict[str, Any]], cut: set[str], context: int
) -> Iterator[Prediction]:
    """The samples of one leaf task as records. An item that occurs twice is told apart by its turn."""
    prefix = f"{name}/" if task.task_name == benchmark.task else f"{name}/{task.task_name}/"
    seen: Counter[str] = Counter()
    for sample in samples:
        key = sample["doc_hash"][:16]
        seen[key] += 1
        turn = f"-{seen[key]}" if seen[key] > 1 else ""
        metric = benchmark.metric or ("acc_norm" if "acc_norm" in sample["metrics"] else "acc")
        if metric not in sample["metrics"]:
            raise UserError(f"knowledge task {name}: {task.task_name} reports no {metric}. Add it to its metric_list.")
        note = None
        if any(arguments[0] in cut for arguments in sample["arguments"]):
            note = f"the prompt was cut on the left to the model's context of {context} tokens"
        yield _record(f"{prefix}{key}{turn}", name, task, sample, metric, note)


def _record(id: str, name: str, task: Any, sample: dict[str, Any], metric: str, note: str | None) -> Prediction:
    choices = task.doc_to_choice(sample["doc"])
    expected = choices[_gold(task, sample["doc"], choices)]
    likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
    prompt = digest_of([arguments[:2] for arguments in sample["arguments"]])
    if any(math.isnan(x) for x in likelihoods):  # the harness would take the first choice
        return Prediction(
            id=id,
            task=name,
            prompt=prompt,
            text="",
            finish_reason="error",
            expected=expected,
            verdict=Verdict.ERROR,
            note="a log-likelihood is not a number",
        )
    if metric == "acc_norm":
        likelihoods = [x / len(choice) for x, choice in zip(likelihoods, choices, strict=True)]
    chosen = choices[max(range(len(choices)), key=likelihoods.__getitem__)]
    return Prediction(
        id=id,
        task=name,
        prompt=prompt,
        text=chosen,
        finish_reason="stop",
        extracted=chosen,
        expected=expected,
        verdict=Verdict.CORRECT if sample[metric] > 0.5 else Verdict.WRONG,
        note=note,
        metrics={m: float(sample[m]) for m in sample["metrics"] if isinstance(sample[m], (int, float))},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, nothing below an error from the harness, and no error twice (what `datasets` logs it raises,
    too). All is put back afterwards."""
    import datasets
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.evaluator

    quiet = {logging.getLogger("lm_eval"): logging.ERROR, logging.getLogger("datasets"): logging.CRITICAL}
    levels, bars = {logger: logger.level for logger in quiet}, datasets.are_progress_bars_disabled()
    for logger, level in quiet.items():
        logger.setLevel(level)
    datasets.disable_progress_bars()
    try:
        with ExitStack() as stack:
            for module in (lm_eval.api.model, lm_eval.api.task):
                stack.enter_context(patch.object(module, "tqdm", lambda rows, **_: rows))
            # Asks git about the working directory, and git complains on standard error where that is no repository.
            stack.enter_context(patch.object(lm_eval.evaluator, "get_git_commit_hash", lambda: None))
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def _own_cache() -> Iterator[None]:
    """Tables made from local files live as long as the run: nothing is left in the user's cache, nothing is stale."""
    import datasets

    with tempfile.TemporaryDirectory() as cache, patch.object(datasets.config, "HF_DATASETS_CACHE", Path(cache)):
        yield


@contextmanager
def _as_found(model: Any) -> Iterator[None]:
    """The harness sets the model to eval mode, and draws random names: every module gets its own mode back, and the
    process its random numbers."""
    modes, numbers = [(module, module.training) for module in model.modules()], random.getstate()
    try:
        yield
    finally:
        random.setstate(numbers)
        for module, training in modes:
            module.training = training
