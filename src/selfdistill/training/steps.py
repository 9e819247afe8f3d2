"""Steps: transformers' `Trainer` with our order of rows and our loss, and what follows its steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from selfdistill.core.launch import process
from selfdistill.training.batches import Batches, Rows
from selfdistill.training.loss import PLAIN, response_loss
from selfdistill.training.objective import IGNORED, Objective


class ResponseTrainer(transformers.Trainer):  # type: ignore[misc]
    """`Trainer` with our order of rows and our loss.

    A step's loss is the mean over all its response tokens, whatever batches, accumulation and processes they are cut
    into, or as the `objective` says. On the held-out part it is the mean over all tokens of that part. `seed` is a copy
    of the seed LM for an objective that sees its logits; without one, its adapter is turned off for them.
    """

    def __init__(
        self, batches: Batches, model: Any, objective: Objective = PLAIN, seed: Any = None, **more: Any
    ) -> None:
        super().__init__(model=model, **more)
        self.batches, self.objective = batches, objective
        self.seed = seed if seed is None else seed.to(self.args.device)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.some_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        self.model_accepts_loss_kwargs = True  # that is: the loss is over `num_items_in_batch`, all tokens of the step

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches are those of this process already, so accelerate has nothing to cut."""
        return self._loader(self.train_dataset, self.batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The held-out rows, each in one process."""
        one, size = process(), self.args.per_device_eval_batch_size
        return self._loader(self.eval_dataset, Batches(self.eval_dataset.lengths, size, 1, one.count, one.rank, 0))

    def _loader(self, rows: Rows, batches: Batches) -> DataLoader[Any]:
        pinned = self.args.dataloader_pin_memory
        return DataLoader(rows, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=pinned)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See the class."""
        total = response_loss(model, inputs, self.some_logits, self.objective, self._as_seed)
        return total * self.args.world_size / num_items_in_batch  # gradients are averaged over the processes

    def _as_seed(self, **inputs: Any) -> Any:
        """What the seed LM says, without the dropout of a training."""
        if self.seed is not None:
            return self.seed(**inputs)
        tuned = self.accelerator.unwrap_model(self.model)
        training = tuned.training
        tuned.eval()
        try:
            with tuned.disable_adapter():
                return tuned(**inputs)
        finally:
            tuned.train(training)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What the losses of a step are divided by: its tokens, as `Trainer` counts them, or their weights."""
        if self.objective.over == "tokens":
            return super()._get_num_items_in_batch(batch_samples, device)
        whole = sum((_weight(batch) for batch in batch_samples), torch.zeros(())).to(device)
        whole = self.accelerator.gather(whole).sum() if self.args.world_size > 1 else whole
        return whole.clamp(min=torch.finfo(torch.float32).tiny)  # a step whose tokens all weigh 0 changes nothing

    def evaluation_loop(self, dataloader: DataLoader[Any], *more: Any, **named: Any) -> EvalLoopOutput:
        """The loss of the held-out rows. `Trainer`'s own weighs batches by their rows, and pads them with others."""
        self.model.eval()
        total = torch.zeros((), device=self.args.device)
        for inputs in dataloader:
            with torch.no_grad(), self.compute_loss_context_manager():
                total += response_loss(self.model, self._prepare_inputs(inputs), self.some_logits)
        loss = self.accelerator.reduce(total, "sum").item() / self.eval_dataset.targets
        return EvalLoopOutput(None, None, {"eval_loss": loss}, len(self.eval_dataset))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: it walks over all modules at every step, for a number that nobody reads."""
        return 0


def _weight(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of the weights of a batch."""
    if "weights" in batch:
        return batch["weights"][:, 1:].sum()
    return (batch["labels"][:, 1:] != IGNORED).sum().float()


class Follow(transformers.TrainerCallback):  # type: ignore[misc]
    """Tells `Batches` the epoch and the progress bar the rows that are done; stops at a loss that is no number."""

    def __init__(self, batches: Batches, advance: Callable[[int], None]) -> None:
        self.batches, self.advance, self.seen = batches, advance, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """What a checkpoint says of its own time and place, for here and now."""
        state.compute_steps(args, state.max_steps)
        if state.best_global_step:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")
        # Where it is over, as after the last step or at the end of patience, `Trainer` would train one step more.
        then = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        self.batches.over = then.get("should_training_stop", False)
        control.should_save = False  # as it stood when that checkpoint was written

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Also where a resumed training goes on inside an epoch."""
        self.batches.set_epoch(state.global_step // self.batches.steps_an_epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """On resume, the first step counts those before it."""
        self.advance((state.global_step - self.seen) * self.batches.step_rows)
        self.seen = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
        """The numbers that were just logged; `train_loss`, at the end, is over all steps."""
        if not all(math.isfinite(logs.get(key, 0.0)) for key in ("loss", "grad_norm", "train_loss")):
            raise FloatingPointError(state.global_step)
