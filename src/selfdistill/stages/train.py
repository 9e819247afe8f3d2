"""Train: fine-tuning on the response tokens (Equations 2 and 5), with PEFT and transformers' Trainer.

In:  a seed LM, examples, and (for SDFT) their selected responses.
Out: a plain PEFT adapter folder (for `tune = "full"` a whole model folder), with training.json beside the weights:
     settings, what was chosen for the user and why, rows, what was left out, loss curve.

    selfdistill train --model M --data train.jsonl --selected selected.jsonl --out adapter
    accelerate launch --num_processes 8 -m selfdistill train ...

Rows are tokenized here, by the same `Prompter` that evaluation uses, so the training prompt is the inference prompt
token for token. While it trains, checkpoints lie in OUT.partial; the same command goes on from the last one.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfdistill.core.config import TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Selected
from selfdistill.core.store import digest_of, locked, write_atomic
from selfdistill.models import SeedLM, process, sharded
from selfdistill.templates import Prompter

TRACKERS = ("wandb", "trackio", "tensorboard")
"""What `report_to` may name; each is a package of that name."""


def drawn(examples: Sequence[Example], count: int | None, seed: int | str) -> list[Example]:
    """`count` of the examples drawn at random, in their order; fewer are among more. None takes all.

    Raises UserError for more than there are.
    """
    if count is not None and count > len(examples):
        raise UserError(f"train.rows = {count}: the data has {len(examples)} rows.")
    ids = sorted(e.id for e in examples)
    random.Random(seed).shuffle(ids)
    kept = set(ids[:count])
    return [e for e in examples if e.id in kept]


def mixed(
    examples: Sequence[Example], selected: Mapping[str, Selected], mix_ratio: float, seed: int
) -> dict[str, tuple[str, ...]]:
    """Responses by id: a share `mix_ratio` of the rows takes the selected response, the rest the original.

    The rows of a smaller ratio are among those of a larger one, so a sweep changes one thing (Section 5.1).
    """
    ids = sorted(e.id for e in examples)
    random.Random(seed).shuffle(ids)
    distilled = set(ids[: round(mix_ratio * len(ids))])
    return {e.id: selected[e.id].responses if e.id in distilled else e.references for e in examples}


def sequences(example: Example, responses: tuple[str, ...], prompter: Prompter) -> list[tuple[list[int], list[int]]]:
    """(input ids, labels) of one row; labels are -100 except on response tokens and their end tokens.

    All assistant turns of a conversation train in one sequence where the chat template lets a later prompt continue
    an earlier one; where it does not (some templates rewrite the past), each turn is a sequence of its own.
    """
    rows: list[tuple[list[int], list[int]]] = []
    for k, text in enumerate(responses):
        prompt, response = list(prompter.train(example.up_to(responses[:k])).ids), prompter.response(text)
        if rows and prompt[: len(rows[-1][0])] == rows[-1][0]:
            _, labels = rows.pop()
            labels = labels + [-100] * (len(prompt) - len(labels))
        else:
            labels = [-100] * len(prompt)
        rows.append((prompt + response, labels + response))
    return rows


def train(
    seed_lm: SeedLM,
    examples: Sequence[Example],
    responses: Mapping[str, tuple[str, ...]],
    out: Path,
    settings: TrainSettings,
    prompter: Prompter,
    seed: int = 0,
    name: str = "train",
    progress: Progress | None = None,
    others: Sequence[Mapping[str, tuple[str, ...]]] = (),
) -> Path:
    """Train an adapter into `out`; an adapter that is there already with the same settings is left as it is, and a
    training that was stopped goes on from its last checkpoint.

    `others` are the responses of other arms to the same rows: a row that is too long with any of them is left out here,
    too, so that all arms train on the same rows.

    The seed LM is unchanged afterwards. Under `accelerate launch` every process calls this with the same arguments; one
    writes. Raises UserError for unknown target modules, for no trainable row, for settings that this machine cannot
    train with, and for an `out` that holds something else.
    """
    progress = progress or Progress()
    # What has no part in the weights may change between two calls, and what decides the rows is in the data.
    silent = {"mix_ratio", "rows", "report_to"} | ({"checkpoint_steps"} if settings.patience is None else set())
    identity = {
        "stage": "train",
        "model": seed_lm.digest,
        "data": digest_of([[e.id, responses[e.id]] for e in examples]),
        "settings": settings.model_dump(exclude=silent),
        "prompts": [prompter.format, *prompter.template.train],
        "seed": seed,
        "processes": process().count,
    }
    if others:
        identity["responses of the other arms"] = digest_of(
            [[e.id, *(responses[e.id] for responses in others)] for e in examples]
        )
    if _finished(out, identity):
        _clear(out)
        return out
    check_trainable(seed_lm, settings)
    limit = min(seed_lm.context, settings.max_length or seed_lm.context)
    data = _tokenized(examples, responses, prompter, settings.holdout, limit, seed, others)
    if data.dropped:
        where = "in some arm and left out of all" if others else "and left out"
        are = "is" if len(data.dropped) == 1 else "are"
        progress.warn(f"{name}: {len(data.dropped)} of {len(examples)} rows {are} longer than {limit} tokens {where}")
    if settings.holdout and not data.held_examples:
        raise UserError(
            f"train.holdout = {settings.holdout:g} of {len(examples)} rows leaves none to measure on. Raise it."
        )
    if not data.train:
        raise UserError(
            f"{name}: no trainable row is left: of {len(examples)}, {len(data.dropped)} are longer than {limit} "
            f"tokens and {data.held_examples} are held out."
        )
    partial = out.with_name(out.name + ".partial")
    with locked(partial, beside=True) if process().main else nullcontext():
        _go_on(partial, identity)
        from selfdistill.training.trainer import fit

        curves = fit(seed_lm, data.train, data.held, partial, settings, seed, name, progress)
        if process().main:
            rows = len(examples) - len(data.dropped) - data.held_examples
            record = {"identity": identity, "rows": rows, "dropped": data.dropped, **curves}
            (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.replace(out)
            _clear(out)
    return out


@dataclass(frozen=True)
class _Data:
    """Tokenized rows: those that train, those held out, and {id, tokens} of those that are too long in any arm."""

    train: list[tuple[list[int], list[int]]]
    held: list[tuple[list[int], list[int]]]
    held_examples: int
    dropped: list[dict[str, Any]]


def _tokenized(
    examples: Sequence[Example],
    responses: Mapping[str, tuple[str, ...]],
    prompter: Prompter,
    holdout: float,
    limit: int,
    seed: int,
    others: Sequence[Mapping[str, tuple[str, ...]]] = (),
) -> _Data:
    # A seed of its own: `mixed` takes the first of the other order, and all held-out rows would be distilled ones.
    held_ids = {e.id for e in drawn(examples, round(holdout * len(examples)), f"holdout-{seed}")}
    train, held, dropped, held_examples = [], [], [], 0
    for example in examples:
        made = sequences(example, responses[example.id], prompter)
        versions = {other[example.id] for other in others} - {responses[example.id]}
        every = [made, *(sequences(example, version, prompter) for version in versions)]
        longest = max(len(ids) for version in every for ids, _ in version)
        if longest > limit:
            dropped.append({"id": example.id, "tokens": longest})
        elif example.id in held_ids:
            held += made
            held_examples += 1
        else:
            train += made
    return _Data(train, held, held_examples, dropped)


# --- what can be trained -----------------------------------------------------------------------------------------


def check_trainable(seed_lm: SeedLM, settings: TrainSettings) -> None:
    """Raises UserError for settings that this model or this machine cannot train with."""
    if settings.tune != "full":
        check_targets(seed_lm.skeleton(), settings)
    if settings.tune == "qlora" and not seed_lm.quantized:
        raise UserError('train.tune = "qlora": the model was not loaded in 4 bits.')
    if settings.packing and process().main and (mixes := _packing_mixes(seed_lm)):
        raise UserError(f"train.packing = true: {mixes}, so packed rows would train on each other. Leave it out.")
    for tracker in settings.report_to:
        if tracker not in TRACKERS:
            raise UserError(f"train.report_to: unknown tracker {tracker!r}. There are: {', '.join(TRACKERS)}.")
        if find_spec(tracker) is None:
            raise UserError(f"train.report_to: {tracker} is not installed. pip install {tracker}")


def _packing_mixes(seed_lm: SeedLM) -> str | None:
    from selfdistill.training.batches import packing_mixes

    model = seed_lm.fresh() if sharded() else seed_lm.model  # what is to be cut into shards may fit no device
    return packing_mixes(model, seed_lm.tokenizer, seed_lm.dtype)


def check_targets(model: Any, settings: TrainSettings) -> None:
    """Raises UserError where a LoRA target names no module that can have an adapter, and lists those that can."""
    targets = settings.lora()["targets"]
    if isinstance(targets, str):
        if targets != "all-linear":
            raise UserError(f'train.targets = {targets!r}: expected a list of module names, or "all-linear".')
        return
    named = {t: [m for n, m in model.named_modules() if n == t or n.endswith(f".{t}")] for t in targets}
    missing = [t for t, found in named.items() if not found]
    other = [t for t, found in named.items() if not all(_takes_adapter(m) for m in found)]
    if missing or other or not named:
        wrong = f"{', '.join(other)} is no linear layer of this model" if other else "the list is empty"
        wrong = f"this model has no module {', '.join(missing)}" if missing else wrong
        raise UserError(
            f"train.targets: {wrong}. Its linear layers: {', '.join(_linear_names(model))}. Name some of them, or "
            '"all-linear".'
        )


def _takes_adapter(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, Conv1D))


def _linear_names(model: Any) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D))}
    return sorted(linear - {"lm_head"})


# --- the folder --------------------------------------------------------------------------------------------------


def _finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether `out` holds this very adapter. Raises UserError if it holds anything else."""
    if not out.exists():
        return False
    record = out / "training.json"
    if not record.is_file():
        raise UserError(f"{out}: exists and holds no adapter of ours. Choose another output folder.")
    old = json.loads(record.read_text(encoding="utf-8"))["identity"]
    _same(old, identity, f"{out}: holds an adapter with other", "Choose another output folder.")
    return True


def _clear(out: Path) -> None:
    """Remove what only an unfinished training needs. It goes last, so that a kill before it costs nothing."""
    if process().main:
        (out / "identity.json").unlink(missing_ok=True)
        for folder in out.glob("checkpoint-*"):
            shutil.rmtree(folder, ignore_errors=True)


def _go_on(partial: Path, identity: dict[str, Any]) -> None:
    """Begin the folder of an unfinished training, or see that it is of this very one.

    One that has no checkpoint yet has nothing to lose, and begins anew.
    """
    record = partial / "identity.json"
    if record.is_file() and any(partial.glob("checkpoint-*")):
        old = json.loads(record.read_text(encoding="utf-8"))
        what = f"{partial}: holds an unfinished training with other"
        _same(old, identity, what, "Choose another output folder, or delete that one.")
    elif process().main:
        partial.mkdir(parents=True, exist_ok=True)
        write_atomic(record, json.dumps(identity, indent=1) + "\n")


def _same(old: dict[str, Any], identity: dict[str, Any], what: str, remedy: str) -> None:
    new = json.loads(json.dumps(identity))
    changed = [k for k in new if old.get(k) != new[k]]
    if "settings" in changed:
        before, now = old.get("settings", {}), new["settings"]
        changed.remove("settings")
        changed += [f"{k} ({before.get(k)}, now {now[k]})" for k in now if before.get(k) != now[k]]
    plain = {"seed", "processes"}  # the others are digests or long
    changed = [f"{k} ({old.get(k)}, now {new[k]})" if k in plain else k for k in changed]
    if changed:
        raise UserError(f"{what} {', '.join(changed)}. {remedy}")
