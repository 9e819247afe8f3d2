"""Train: fine-tuning on the response tokens (Equations 2 and 5), with TRL's SFTTrainer and PEFT.

In:  a seed LM, examples, and (for SDFT) their selected responses.
Out: a plain PEFT adapter folder (for `tune = "full"` a whole model folder), with training.json beside the weights:
     settings, rows, what was left out, loss curve.

    selfdistill train --model M --data train.jsonl --selected selected.jsonl --out adapter

Rows are tokenized here, by the same `Prompter` that evaluation uses, so the training prompt is the inference prompt
token for token; TRL gets token ids and labels.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfdistill.config import TrainSettings
from selfdistill.errors import UserError
from selfdistill.models import SeedLM
from selfdistill.progress import Progress
from selfdistill.records import Example, Selected
from selfdistill.store import digest_of
from selfdistill.templates import Prompter


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
) -> Path:
    """Train an adapter into `out`; an adapter that is there already with the same settings is left as it is.

    The seed LM is unchanged afterwards. Raises UserError for unknown target modules, for no trainable row, and for an
    `out` that holds something else.
    """
    progress = progress or Progress()
    identity = {
        "stage": "train",
        "model": seed_lm.digest,
        "data": digest_of([[e.id, responses[e.id]] for e in examples]),
        "settings": settings.model_dump(exclude={"mix_ratio"}),
        "prompts": [prompter.format, *prompter.template.train],
        "seed": seed,
    }
    if _finished(out, identity):
        return out
    check_targets(seed_lm.model, settings)
    limit = min(seed_lm.context, settings.max_length or seed_lm.context)
    rows, dropped = [], []
    for example in examples:
        made = sequences(example, responses[example.id], prompter)
        longest = max(len(ids) for ids, _ in made)
        if longest > limit:
            dropped.append({"id": example.id, "tokens": longest})
        else:
            rows += made
    if dropped:
        progress.warn(f"{name}: {len(dropped)} of {len(examples)} rows are longer than {limit} tokens and left out")
    if not rows:
        raise UserError(f"{name}: no trainable row is left: all {len(dropped)} are longer than {limit} tokens.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    curve = _fit(seed_lm, rows, partial, settings, seed, name, progress)
    record = {"identity": identity, "rows": len(examples) - len(dropped), "dropped": dropped, "loss": curve}
    (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(out)
    return out


def check_targets(model: Any, settings: TrainSettings) -> None:
    """Raises UserError where a LoRA target names no module of the model, and lists what there is."""
    targets = settings.lora()["targets"]
    if settings.tune == "full":
        return
    if isinstance(targets, str):
        if targets != "all-linear":
            raise UserError(f'train.targets = {targets!r}: expected a list of module names, or "all-linear".')
        return
    names = {name for name, _ in model.named_modules()}
    missing = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in names)]
    if missing:
        raise UserError(
            f"train.targets: this model has no module {', '.join(missing)}. Its linear layers: "
            f'{", ".join(_linear_names(model))}. Name some of them, or "all-linear".'
        )


def _finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether `out` holds this very adapter. Raises UserError if it holds anything else."""
    if not out.exists():
        return False
    record = out / "training.json"
    if not record.is_file():
        raise UserError(f"{out}: exists and holds no adapter of ours. Choose another output folder.")
    old = json.loads(record.read_text(encoding="utf-8"))["identity"]
    new = json.loads(json.dumps(identity))
    changed = [k for k in new if old.get(k) != new[k]]
    if changed:
        raise UserError(f"{out}: holds an adapter with other {', '.join(changed)}. Choose another output folder.")
    return True


def _fit(
    seed_lm: SeedLM,
    rows: list[tuple[list[int], list[int]]],
    out: Path,
    settings: TrainSettings,
    seed: int,
    name: str,
    progress: Progress,
) -> list[dict[str, float]]:
    """Run SFTTrainer and save the adapter. Returns the loss curve as {step, loss}."""
    import datasets
    import transformers
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    transformers.set_seed(seed)
    base = seed_lm.model
    model = _whole(base) if settings.tune == "full" else _with_lora(base, settings)
    model.config.use_cache = False
    cuda = seed_lm.device == "cuda"
    arguments = SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        seed=seed,
        max_length=None,
        bf16=seed_lm.dtype == "bfloat16",
        gradient_checkpointing=cuda,
        use_cpu=seed_lm.device == "cpu",
        train_sampling_strategy="group_by_length",
        dataloader_pin_memory=cuda,
        logging_steps=10,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = datasets.Dataset.from_dict({"input_ids": [r[0] for r in rows], "labels": [r[1] for r in rows]})
    per_step = settings.batch_size * settings.accumulation
    try:
        with progress.bar(name, round(settings.epochs * len(rows))) as advance:

            class Advance(TrainerCallback):  # type: ignore[misc]
                def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                    advance(per_step)

            trainer = SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=seed_lm.tokenizer)
            trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
            trainer.add_callback(Advance())
            trainer.train()
        model.config.use_cache = True
        if settings.tune == "full":
            model.to(base.dtype)
            seed_lm.tokenizer.save_pretrained(out)
        model.save_pretrained(out)
    finally:
        if settings.tune == "lora":
            model.unload()
        base.config.use_cache = True
        base.eval()
    return [{"step": x["step"], "loss": x["loss"]} for x in trainer.state.log_history if "loss" in x]


def _whole(base: Any) -> Any:
    """A copy to tune whole. In bf16 small steps would be rounded away; and an adapter that the model had before leaves
    its weights frozen."""
    return copy.deepcopy(base).float().requires_grad_(True)


def _with_lora(base: Any, settings: TrainSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = settings.lora()
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=lora["targets"] if isinstance(lora["targets"], str) else list(lora["targets"]),
        lora_dropout=settings.dropout,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def _linear_names(model: Any) -> list[str]:
    import torch

    linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return sorted(linear - {"lm_head"})
