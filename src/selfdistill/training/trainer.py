"""Fit: minimise the negative log-likelihood of the response tokens (Equations 2 and 5).

In:  a seed LM, rows of token ids with labels, settings.
Out: the weights in a folder, what was chosen for the user with the reasons, the loss of the steps.

transformers' `Trainer` brings the optimizer, checkpoints, resume, reports, DDP, FSDP and DeepSpeed. Ours is what
decides the numbers: which rows make a step (`Batches`), how they are laid out (`Layout`), and the loss
(`ResponseTrainer`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
import transformers
from accelerate import DistributedType

from selfdistill.core.config import TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.launch import process, sharded
from selfdistill.core.progress import Progress
from selfdistill.models.seed_lm import SeedLM, pick_dtype
from selfdistill.training.batches import Batches, Layout, Rows, packing_mixes
from selfdistill.training.lora import put_in_order, tuned_model
from selfdistill.training.loss import PLAIN
from selfdistill.training.objective import Objective
from selfdistill.training.steps import Follow, ResponseTrainer
from selfdistill.training.targets import coverage, find_targets
from selfdistill.training.tokens import Line

CHECKPOINTS, APART = 10, 25
"""How often a training is saved where the settings do not say, and the fewest steps between two of them."""

CURVE = 1000
"""Points of the loss curve; a shorter training logs every step."""

SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def fit(
    seed_lm: SeedLM,
    train: Sequence[Line],
    held: Sequence[Line],
    out: Path,
    settings: TrainSettings,
    seed: int,
    name: str,
    progress: Progress,
    objective: Objective = PLAIN,
) -> dict[str, Any]:
    """Train on `train` and save into `out`, from the last checkpoint there if there is one. `held` rows do not train:
    on them the negative log-likelihood is measured, whatever the objective.

    Returns {chosen, loss, held_out}: what was chosen with the reasons, and losses as {step, loss} in nats a token.
    """
    transformers.set_seed(seed)
    rows, one = Rows(train), process()
    batches = Batches(rows.lengths, settings.batch_size, settings.accumulation, one.count, one.rank, seed)
    with tuned_model(seed_lm, settings) as model:
        plan = _plan(seed_lm, settings, batches, model)
        for note in plan.notes:
            progress.note(f"{name}: {note}")
        with _explained(settings), progress.bar(name, plan.steps * batches.step_rows) as advance:
            trainer = ResponseTrainer(
                batches,
                model,
                objective,
                _seed_beside(seed_lm, settings, objective),
                args=_arguments(seed_lm, settings, plan, out, seed, bool(held)),
                train_dataset=rows,
                eval_dataset=Rows(held) if held else None,
                data_collator=Layout(seed_lm.tokenizer.pad_token_id or 0, plan.packing),  # padding may be any token
                callbacks=[Follow(batches, advance)],
            )
            trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
            if settings.patience:
                trainer.add_callback(transformers.EarlyStoppingCallback(settings.patience))
            if sharded() and trainer.accelerator.distributed_type not in SHARDING:
                raise UserError(f"the launcher asks for FSDP or DeepSpeed; accelerate has neither on {seed_lm.device}.")
            trainer.train(resume_from_checkpoint=_last_checkpoint(out))
        _save(trainer, seed_lm, settings, out)
    history = trainer.state.log_history
    return {
        "chosen": plan.notes,
        "loss": [{"step": x["step"], "loss": x["loss"]} for x in history if "loss" in x],
        "held_out": [{"step": x["step"], "loss": x["eval_loss"]} for x in history if "eval_loss" in x],
    }


# --- what the settings leave open --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What was chosen for the user; `notes` say it with the reasons. `log_steps` and `checkpoint_steps` are apart."""

    steps: int
    log_steps: int
    checkpoint_steps: int
    packing: bool
    gradient_checkpointing: bool
    notes: list[str]


def _plan(seed_lm: SeedLM, settings: TrainSettings, batches: Batches, model: Any) -> _Plan:
    steps = math.ceil(settings.epochs * batches.steps_an_epoch)
    log_steps = math.ceil(steps / CURVE)
    apart = settings.checkpoint_steps or max(APART, math.ceil(steps / CHECKPOINTS))
    apart = math.ceil(apart / log_steps) * log_steps  # so that a resumed training logs what an undisturbed one does
    packing, layout = _layout(seed_lm, settings, batches, model)
    checkpointing, why = _gradient_checkpointing(settings, seed_lm.device)
    held = f", with the loss on {settings.holdout:.0%} of the rows" if settings.holdout else ""
    notes = [
        _what_trains(settings, model),
        f"{steps} step{'s' if steps > 1 else ''} of {batches.step_rows} rows{_shared(batches)}, {layout}",
        f"{seed_lm.dtype} on {seed_lm.device}: {_why_dtype(seed_lm)}",
        f"gradient checkpointing {'on' if checkpointing else 'off'}: {why}",
        f"a checkpoint every {apart} steps{held}",
        *_reached(seed_lm, settings, model),
    ]
    return _Plan(steps, log_steps, apart, packing, checkpointing, notes)


def _shared(batches: Batches) -> str:
    return f" over {batches.processes} processes" if batches.processes > 1 else ""


def _what_trains(settings: TrainSettings, model: Any) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    share = f"{trained:,} of {whole:,} weights train"
    if settings.tune == "full":
        of = "" if trained == whole else " of the language model"
        return f"all weights{of}, kept in fp32 while they train: {share}"
    lora = settings.lora()
    where = lora["targets"] if isinstance(lora["targets"], str) else ", ".join(lora["targets"])
    kinds = "".join(f", {k}" for k in ("rslora", "dora") if getattr(settings, k))
    return f"{settings.tune} with r = {lora['rank']}, alpha = {lora['alpha']:g} on {where}{kinds}: {share}"


def _reached(seed_lm: SeedLM, settings: TrainSettings, model: Any) -> list[str]:
    return [] if settings.tune == "full" else [coverage(model, find_targets(seed_lm.skeleton(), settings))]


def _layout(seed_lm: SeedLM, settings: TrainSettings, batches: Batches, model: Any) -> tuple[bool, str]:
    if settings.packing:  # `check_trainable` has seen that it can be
        return True, "packed in one line, as set"
    why = ""
    if settings.packing is None and _flash(model):
        mixes = packing_mixes(model, seed_lm.tokenizer, seed_lm.dtype)
        if not mixes:
            return True, "packed in one line, which flash attention tells apart"
        why = f"; not packed, since {mixes}"
    return False, f"batches of similar lengths, {100 * batches.padding():.1f} % padding{why}"


def _flash(model: Any) -> bool:
    return "flash" in (model.config._attn_implementation or "")


def _gradient_checkpointing(settings: TrainSettings, device: str) -> tuple[bool, str]:
    if os.environ.get("FSDP_ACTIVATION_CHECKPOINTING") == "true":
        return False, "the launcher's FSDP does it"
    if settings.gradient_checkpointing is not None:
        return settings.gradient_checkpointing, "as set"
    return (False, "a CPU has memory, and no time to spare") if device == "cpu" else (True, "activations take memory")


def _why_dtype(seed_lm: SeedLM) -> str:
    if seed_lm.dtype != pick_dtype(seed_lm.device):
        return "as set"
    return (
        "the device has units for it; weights that train are fp32"
        if seed_lm.dtype == "bfloat16"
        else "bf16 is for CUDA devices that have units for it"
    )


def _arguments(seed_lm: SeedLM, settings: TrainSettings, plan: _Plan, out: Path, seed: int, held: bool) -> Any:
    schedule = "constant_with_warmup" if settings.schedule == "constant" and settings.warmup else settings.schedule
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        lr_scheduler_type=schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=seed,
        bf16=seed_lm.dtype == "bfloat16",
        use_cpu=seed_lm.device == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=seed_lm.device == "cuda",
        logging_steps=plan.log_steps,
        logging_nan_inf_filter=False,
        save_steps=plan.checkpoint_steps,
        save_total_limit=2,  # one is whole while the other is written
        eval_strategy="steps" if held else "no",
        eval_steps=plan.checkpoint_steps,
        load_best_model_at_end=settings.patience is not None,
        metric_for_best_model="eval_loss" if held else None,
        ddp_find_unused_parameters=True,  # an adapter on a part that texts do not touch, as a vision tower
        use_cache=getattr(seed_lm.config, "use_cache", True),  # else the seed LM would be told not to
        restore_callback_states_from_checkpoint=True,  # how often patience was tried
        report_to=list(settings.report_to) or "none",
        run_name=f"{out.parent.name}-{out.stem}",
        disable_tqdm=True,
        **({"gradient_checkpointing": True} if plan.gradient_checkpointing else {}),
    )
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"  # whatever the launcher's own setting is
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are several processes here, never `DataParallel`
    return arguments


# --- the folder --------------------------------------------------------------------------------------------------


def _last_checkpoint(partial: Path) -> Path | None:
    """The newest checkpoint that was written whole: its state is written last by the first process, the state of its
    random numbers by the others."""
    ranks = range(process().count)
    last = [f"rng_state_{rank}.pth" for rank in ranks] if len(ranks) > 1 else ["rng_state.pth"]
    for folder in sorted(partial.glob("checkpoint-*"), key=lambda f: -int(f.name.rpartition("-")[2])):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if all(is_zipfile(folder / name) for name in last):
            return folder
    return None


def _save(trainer: Any, seed_lm: SeedLM, settings: TrainSettings, out: Path) -> None:
    """The weights into `out`, by one process."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded() else None
    if state is not None:  # of weights that are one, each is gathered
        state = {k: v for k, v in state.items() if k not in getattr(model, "all_tied_weights_keys", ())}
    if settings.tune == "full":
        dtype = getattr(torch, seed_lm.dtype)
        if state is None:
            model.to(dtype)
        else:
            state = {k: v.to(dtype) for k, v in state.items()}
    if process().main:
        model.save_pretrained(out, state_dict=state)
        if settings.tune != "full":
            put_in_order(out / "adapter_config.json")
        if settings.tune == "full":
            seed_lm.tokenizer.save_pretrained(out)
    trainer.accelerator.wait_for_everyone()


# --- the model ---------------------------------------------------------------------------------------------------


@contextmanager
def _explained(settings: TrainSettings) -> Iterator[None]:
    """What goes wrong in a training, as one line."""
    try:
        yield
    except FloatingPointError as error:
        raise UserError(
            f"the loss is no number any more at step {error}. Lower train.lr ({settings.lr:g}), or add a warmup."
        ) from None
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"out of memory at train.batch_size = {settings.batch_size}. Halve it and double train.accumulation (the "
            "steps stay the same), set train.gradient_checkpointing = true, or lower train.max_length."
        ) from None


def _seed_beside(seed_lm: SeedLM, settings: TrainSettings, objective: Objective) -> Any:
    """A second copy of the seed LM, for an objective that sees its logits while all weights train."""
    if not objective.loss.seed_logits or settings.tune != "full":
        return None
    if sharded():
        raise UserError(
            f"the loss {objective.loss.name} compares with the seed LM, of which no copy lies beside weights that are "
            'cut into shards. Train with tune = "lora", or without FSDP and DeepSpeed.'
        )
    return seed_lm.fresh().eval().requires_grad_(False)
