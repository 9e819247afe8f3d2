"""How fast is training? Ours against TRL's defaults and a bare PyTorch loop, on the same data and with the same loss.

    python benchmarks/training.py [--preset strong] [--rows 1600]

The data are rows of six abilities of the microworld; LoRA from the same initial weights, AdamW, cosine, clipped
gradients, batch 8, one epoch. Arms, each in a process of its own, in rounds that take turns:

    trl         SFTTrainer as it comes: rows in random order, gradient checkpointing
    trl plain   the same without gradient checkpointing
    trl ours    without it, on our steps; only the loss counts here
    ours        `fit`, with the checkpoints that it writes
    bare        the shortest loop that gives the same steps: full logits, attention mask

Time runs from the loaded model and the tokenized rows to the trained weights. Real tokens are those of the rows, not
padding. The losses of `trl ours`, `ours` and `bare` must agree in every step to
1e-3 (relative), or the benchmark fails. Ratios are of the medians; it exits with 1 where a goal is missed: 1.25 times
TRL's defaults, 0.95 of the bare loop.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import selfdistill as sd
from selfdistill.core.config import TrainSettings
from selfdistill.core.progress import Progress
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM, load_model
from selfdistill.training.batches import Batches, Layout, Rows
from selfdistill.training.tokens import sequences

MIXED = "tools+rare_tools+code+word_problems+facts+chat"
ARMS = ("trl", "trl plain", "trl ours", "ours", "bare")
TIMES_TRL, OF_BARE = 1.25, 0.95
SEED = 0


def data(lm: SeedLM, rows: int) -> list[tuple[list[int], list[int]]]:
    """Tokenized rows with labels."""
    prompter = Prompter.create(lm.tokenizer)
    return [row for e in sd.read(f"micro:{MIXED}", sample=rows) for row in sequences(e, e.references, prompter)]


def tuned(lm: SeedLM, settings: TrainSettings) -> Any:
    """The model with LoRA, from the initial weights that `fit` takes."""
    import transformers
    from peft import LoraConfig, get_peft_model

    transformers.set_seed(SEED)
    lora = settings.lora()
    targets = lora["targets"] if isinstance(lora["targets"], str) else list(lora["targets"])
    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(lm.model, config)


def ours(lm: SeedLM, rows: list[Any], settings: TrainSettings, folder: Path) -> tuple[float, list[float]]:
    """Seconds and losses of `fit`."""
    from rich.console import Console

    from selfdistill.training.trainer import fit

    start = time.perf_counter()
    made = fit(lm, rows, [], folder / "out", settings, SEED, "ours", Progress(Console(quiet=True)))
    return time.perf_counter() - start, [x["loss"] for x in made["loss"]]


def bare(lm: SeedLM, rows: list[Any], settings: TrainSettings, folder: Path) -> tuple[float, list[float]]:
    """Seconds and losses of a plain loop over the same steps."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    start = time.perf_counter()
    model = tuned(lm, settings).train()
    batches, every, layout = _steps(rows, settings), Rows(rows), Layout(lm.tokenizer.pad_token_id, False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, len(batches))
    losses = []
    for step in batches:
        batch = layout([every[i] for i in step])
        mask = torch.tensor([[k < len(every[i][0]) for k in range(batch["input_ids"].shape[1])] for i in step])
        loss = model(**batch, attention_mask=mask.long(), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return time.perf_counter() - start, losses


def _steps(rows: list[Any], settings: TrainSettings) -> Batches:
    return Batches([len(ids) for ids, _ in rows], settings.batch_size, 1, 1, 0, SEED)


def trl(lm: SeedLM, rows: list[Any], settings: TrainSettings, folder: Path, arm: str) -> tuple[float, list[float]]:
    """Seconds and losses of SFTTrainer."""
    import datasets
    import transformers
    from torch.utils.data import SequentialSampler
    from trl import SFTConfig, SFTTrainer

    class InOurOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    start = time.perf_counter()
    model = tuned(lm, settings)
    if arm == "trl ours":
        rows = [rows[i] for step in _steps(rows, settings) for i in step]
    columns = {"input_ids": [list(map(int, x)) for x, _ in rows], "labels": [list(map(int, y)) for _, y in rows]}
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        max_length=None,
        use_cpu=lm.device == "cpu",
        bf16=lm.dtype == "bfloat16",
        seed=SEED,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1 if arm == "trl ours" else 10,
        **({} if arm == "trl" else {"gradient_checkpointing": False}),
    )
    kind = InOurOrder if arm == "trl ours" else SFTTrainer
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=lm.tokenizer,
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    return time.perf_counter() - start, [x["loss"] for x in trainer.state.log_history if "loss" in x]


def measure(arm: str, settings: TrainSettings, count: int, model: str) -> None:
    """In the child: train, and print what it took as JSON."""
    lm = load_model(model)
    rows = data(lm, count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _ = lm.model
    with tempfile.TemporaryDirectory() as folder:
        run = {"ours": ours, "bare": bare}.get(arm)
        took, losses = run(lm, rows, settings, Path(folder)) if run else trl(lm, rows, settings, Path(folder), arm)
    tokens = settings.epochs * sum(len(ids) for ids, _ in rows)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"rate": tokens / took, "losses": losses, "megabytes": memory}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="paper", choices=["paper", "strong"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = TrainSettings(epochs=1, lr=1e-3, preset=arguments.preset)
    if arguments.measure:
        measure(arguments.measure, settings, arguments.rows, arguments.model)
        return
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for _ in range(arguments.rounds):
        for arm in ARMS:
            child = [sys.executable, __file__, *sys.argv[1:], "--measure", arm]
            done = subprocess.run(child, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
    losses = {arm: found[arm][0]["losses"] for arm in ("trl ours", "ours", "bare")}
    apart = max(
        abs(x / y - 1) for arm in ("trl ours", "bare") for x, y in zip(losses[arm], losses["ours"], strict=True)
    )
    rate = {arm: statistics.median(x["rate"] for x in found[arm]) for arm in ARMS}
    print(f"{arguments.rows} rows, LoRA {arguments.preset}, medians of {arguments.rounds} rounds")
    print("| arm | real tokens a second | times TRL's defaults | of the bare loop | memory MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for arm in ARMS:
        memory = max(x["megabytes"] for x in found[arm])
        times, share = rate[arm] / rate["trl"], rate[arm] / rate["bare"]
        print(f"| {arm} | {rate[arm]:.0f} | {times:.2f} | {share:.2f} | {memory:.0f} |")
    print(f"losses of {len(losses['ours'])} steps: largest relative difference {apart:.1e}")
    if apart > 1e-3:
        sys.exit("the losses differ")
    if rate["ours"] < TIMES_TRL * rate["trl"] or rate["ours"] < OF_BARE * rate["bare"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
