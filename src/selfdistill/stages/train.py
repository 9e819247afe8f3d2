"""Train: fine-tuning on the response tokens (Equations 2 and 5), with PEFT and transformers' Trainer.

In:  a seed LM, rows with what their tokens weigh, an objective.
Out: a plain PEFT adapter folder (for `tune = "full"` a whole model folder), with training.json beside the weights:
     settings, what was chosen for the user and why, rows, what was left out, loss curve.

    selfdistill train --model M --data train.jsonl --selected selected.jsonl --out adapter
    accelerate launch --num_processes 8 -m selfdistill train ...

Rows are tokenized here, by the same `Prompter` that evaluation uses, so the training prompt is the inference prompt
token for token. While it trains, checkpoints lie in OUT.partial; the same command goes on from the last one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from selfdistill.core.config import TrainSettings
from selfdistill.core.dates import begun, today
from selfdistill.core.errors import UserError
from selfdistill.core.launch import process
from selfdistill.core.progress import Progress
from selfdistill.core.rows import TrainingRow
from selfdistill.core.store import digest_of, locked, make_folder, write_atomic
from selfdistill.models.classes import auto_class
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM
from selfdistill.models.tools_check import require_tools
from selfdistill.training.lora import check_trainable
from selfdistill.training.objective import Objective
from selfdistill.training.tokens import tokenized


def train(
    seed_lm: SeedLM,
    rows: Sequence[TrainingRow],
    out: Path,
    settings: TrainSettings,
    prompter: Prompter,
    seed: int = 0,
    name: str = "train",
    progress: Progress | None = None,
    objective: Objective | None = None,
) -> Path:
    """Train an adapter into `out`; an adapter that is there already with the same settings is left as it is, and a
    training that was stopped goes on from its last checkpoint.

    A row whose reference is too long is left out, and one whose own response is takes its reference. Without an
    `objective`, the negative log-likelihood is minimised.

    The seed LM is unchanged afterwards. Under `accelerate launch` every process calls this with the same arguments; one
    writes. Raises UserError for unknown target modules, for no trainable row, for settings that this machine cannot
    train with, and for an `out` that holds something else.
    """
    progress, objective = progress or Progress(), objective or Objective()
    prompter = prompter.on(begun(out) or today())
    require_tools(prompter, [row.example for row in rows], name)
    # What has no part in the weights may change between two calls, and what decides the rows is in the data.
    silent = {"mix_ratio", "size", "report_to"} | ({"checkpoint_steps"} if settings.patience is None else set())
    identity = {
        "stage": "train",
        "model": seed_lm.digest,
        "data": digest_of([_said(row) for row in rows]),
        "settings": settings.model_dump(exclude=silent),
        "prompts": [prompter.format, *prompter.template.train],
        **prompter.identity(),
        "seed": seed,
        "processes": process().count,
    }
    if objective != Objective():
        chosen = objective.settings.model_dump(mode="json") if objective.settings else {}
        identity["objective"] = {"loss": objective.loss.name, "over": objective.over, **chosen}
    if _finished(out, identity):
        _clear(out)
        return out
    check_trainable(seed_lm, settings)
    limit = min(seed_lm.context, settings.max_length or seed_lm.context)
    data = tokenized(rows, prompter, settings.holdout, limit, seed)
    for ids, what in ((data.dropped, "left out"), (data.shortened, "trained on their references instead")):
        if ids:
            are = "is" if len(ids) == 1 else "are"
            progress.warn(f"{name}: {len(ids)} of {len(rows)} rows {are} longer than {limit} tokens and {what}")
    if settings.holdout and not data.held_examples:
        raise UserError(
            f"train.holdout = {settings.holdout:g} of {len(rows)} rows leaves none to measure on. Raise it."
        )
    if not data.train:
        raise UserError(
            f"{name}: no trainable row is left: of {len(rows)}, {len(data.dropped)} are longer than {limit} "
            f"tokens and {data.held_examples} are held out."
        )
    if not data.trained["weights"]:
        raise UserError(f"{name}: no token is left to train on: all of {data.trained['tokens']:,} weigh 0.")
    partial = out.with_name(out.name + ".partial")
    with locked(partial, beside=True) if process().main else nullcontext():
        _go_on(partial, identity)
        from selfdistill.training.trainer import fit

        curves = fit(seed_lm, data.train, data.held, partial, settings, seed, name, progress, objective)
        if process().main:
            counts = {"rows": data.trained["rows"], "dropped": data.dropped, "shortened": data.shortened}
            record = {"identity": identity, **counts, "trained": data.trained, **curves}
            if (loads_as := auto_class(seed_lm.config).__name__) != "AutoModelForCausalLM":
                record["loads_as"] = loads_as
            (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.replace(out)
            _clear(out)
    _together()
    return out


def _together() -> None:
    """Wait for all processes: one that goes on early would find a folder that is not there yet."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def _said(row: TrainingRow) -> list[Any]:
    """What identifies a row. Weights that are not set leave the records of before as they are."""
    return [row.id, row.responses, *([] if row.weights is None else [row.weights])]


# --- the folder --------------------------------------------------------------------------------------------------


def _finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether `out` holds this very adapter. Raises UserError if it holds anything else."""
    if not out.exists():
        return False
    if out.is_file():
        raise UserError(f"{out}: a file; expected a folder.")
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
        make_folder(partial)
        write_atomic(record, json.dumps(identity, indent=1) + "\n")


def _same(old: dict[str, Any], identity: dict[str, Any], what: str, remedy: str) -> None:
    new = json.loads(json.dumps(identity))
    changed = [k for k in new if old.get(k) != new[k]] + [
        k for k in ("prompt", "objective") if k in old and k not in new
    ]
    if "settings" in changed:
        before, now = old.get("settings", {}), new["settings"]
        changed.remove("settings")
        changed += [f"{k} ({before.get(k)}, now {now[k]})" for k in now if before.get(k) != now[k]]
    plain = {"seed", "processes", "prompt"}  # the others are digests or long
    changed = [f"{k} ({old.get(k)}, now {new.get(k)})" if k in plain else k for k in changed]
    if changed:
        raise UserError(f"{what} {', '.join(changed)}. {remedy}")
