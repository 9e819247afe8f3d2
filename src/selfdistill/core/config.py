"""What can be set. A recipe is a TOML file of these tables; every stage's command takes the same names.

Unknown keys are refused with the list of the valid ones; every error names the key, the value and the rule. Defaults
are the paper's settings (Section 4.1, Appendix A) where it states one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from selfdistill.core.engine_settings import Attention, EngineSettings, JudgeSettings, TransformersSettings
from selfdistill.core.prompting import Day, Thinking, Variables
from selfdistill.core.rewrites import Step
from selfdistill.core.settings import Place, Settings

DataFormat = Literal["auto", "alpaca", "prompt-completion", "messages", "sharegpt", "columns"]


class DataSettings(Settings):
    """A dataset. `path` is a file or a folder (data.files), a hub name, `paper:NAME` (data.sources) or `micro:ABILITY`
    (more than one with a plus); `config` names a part of a hub dataset, `revision` its commit.

    `columns` maps prompt, response (or messages, and system, history, tests, contains) to the file's own column names.
    `sample` draws that many rows at random; None takes all. `skip_bad` leaves bad rows out, and counts and lists them.
    """

    path: Place
    format: DataFormat = "auto"
    columns: dict[str, str] = {}
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    sample: Annotated[int, Field(ge=1)] | None = None
    skip_bad: bool = False


class PromptSettings(Settings):
    """How models are asked, in distilling, training and evaluation. `format` is the model's own chat template, or the
    paper's text; `template` words the request for a rewrite: a name of `prompts.TEMPLATES`, or a text file that holds
    {instruction} and {reference}. `chat_template_kwargs` are variables of the chat template.

    `thinking`: "off" asks the chat template for answers without thoughts, as far as it knows how; "strip" asks for
    thoughts and leaves them out of what trains; "keep" trains them. `thinking_tokens` is the room for thoughts on top
    of max_new_tokens; without it, they count as the answer does. `date` (2026-11-28) is the day that a chat template
    writes; without it, the day on which the work began, also where it goes on later.
    """

    format: Literal["chat", "paper"] = "chat"
    template: str = "using"
    chat_template_kwargs: Variables = {}
    thinking: Thinking = "off"
    thinking_tokens: Annotated[int, Field(ge=1)] | None = None
    date: Day | None = None


class DistillSettings(Settings):
    """How the seed LM rewrites (Section 3.2). Greedy by default. A rewrite ends before the first of the `stop` strings,
    for models that do not end on their own."""

    candidates: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    stop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _candidates_need_sampling(self) -> DistillSettings:
        if self.candidates > 1 and self.temperature == 0:
            raise ValueError(
                f"candidates = {self.candidates} with temperature = 0 gives the same text each time; "
                "set temperature above 0 or candidates = 1"
            )
        return self


class SelectSettings(Settings):
    """Which rewrites are kept (Equation 4). `check` is a name of `checks.CHECKS`, with an argument after a colon where
    it takes one, or `module:function`."""

    check: str = "none"
    export: dict[Literal["messages", "prompt-completion", "alpaca", "sharegpt"], str] = {}


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


LORA_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"rank": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]},
    "strong": {"rank": 64, "alpha": 128, "targets": "all-linear"},
}


class TrainSettings(Settings):
    """Fine-tuning (Section 4.1): LoRA with r = 8 on query and value, lr 1e-4 cosine to 0, batch 8.

    `preset` fills rank, alpha and targets where they are not set. `tune = "full"` trains all weights instead (the
    authors' scripts take lr 1e-5 and one epoch for it), "qlora" an adapter on the seed LM in 4 bits. An optimizer step
    takes `batch_size` x `accumulation` rows from every process. `warmup` is a share of the steps.

    `holdout` is the share of the rows that does not train and on which the loss is measured at every checkpoint;
    `patience` stops after so many checkpoints without a better one, and takes the best. `checkpoint_steps` apart a
    stopped training can go on; without it, ten times in all, 25 steps apart or more. `packing` and
    `gradient_checkpointing` are chosen by the device where they are not set. `attention` is the engine's, or sdpa,
    flash (needs flash-attn) or eager. `report_to` names trackers: wandb, trackio, tensorboard.

    `mix_ratio` is the share of rows that take the distilled response in the SDFT arm (Section 5.1), `size` how many
    rows train, drawn at random. In a run, lists of either make an arm of each.
    """

    epochs: Annotated[float, Field(gt=0)] = 2
    lr: Annotated[float, Field(gt=0)] = 1e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: Annotated[int, Field(ge=1)] = 8
    accumulation: Annotated[int, Field(ge=1)] = 1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    tune: Literal["lora", "qlora", "full"] = "lora"
    preset: Literal["paper", "strong"] = "paper"
    rank: Annotated[int, Field(ge=1)] | None = None
    alpha: Annotated[float, Field(gt=0)] | None = None
    targets: tuple[str, ...] | str | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rslora: bool = False
    dora: bool = False
    mix_ratio: Share | Annotated[tuple[Share, ...], Field(min_length=1)] = 1.0
    size: Count | Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[int, Field(ge=1)] | None = None
    packing: bool | None = None
    gradient_checkpointing: bool | None = None
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    attention: Attention = "auto"
    report_to: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _full_has_no_rank(self) -> TrainSettings:
        lora_only = ("rank", "alpha", "targets", "dropout", "rslora", "dora")
        given = [k for k in lora_only if k in self.model_fields_set and getattr(self, k)]
        if self.tune == "full" and given:
            raise ValueError(f'tune = "full" trains all weights, so {", ".join(given)} cannot be set with it')
        if self.patience and not self.holdout:
            raise ValueError("patience needs a held-out part; set holdout, for example to 0.05")
        return self

    def lora(self) -> dict[str, Any]:
        """rank, alpha and targets after the preset."""
        own = {"rank": self.rank, "alpha": self.alpha, "targets": self.targets}
        return LORA_PRESETS[self.preset] | {k: v for k, v in own.items() if v is not None}


class ArmSettings(Settings):
    """One method that a run trains: a name of `selfdistill methods`, or several with a plus. `name` is the arm's own,
    for tables and its folder; without it, the method's. `repair` takes repaired rewrites (by the steps that are listed,
    or by all of `[repair]`) or not; without it, it does not. `train` are settings of `[train]` that are other for this
    arm, which is then compared with a base that has the same. Further keys are the method's own settings.
    """

    model_config = ConfigDict(extra="allow")  # the methods' own are checked where methods are known

    method: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$")] | None = None
    repair: bool | tuple[Step, ...] = False
    train: dict[str, Any] = {}


class TaskSettings(Settings):
    """One evaluation task: a dataset and a check. `role` says whether it is what the training aims at.

    `path` may also be `paper:NAME`, a benchmark of tasks/, which brings its name, check and template, or
    `lm-eval:NAME`. `template` puts the items into that template's evaluation prompt where it differs from its training
    prompt. `samples` answers are drawn at `temperature` beside the greedy one, for pass@k. `limit` items are drawn at
    random, the same ones every time.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    path: Place
    check: str | None = None
    format: DataFormat = "auto"
    columns: dict[str, str] = {}
    split: str = "test"
    skip_bad: bool = False
    limit: Annotated[int, Field(ge=1)] | None = None
    role: Literal["target", "retained"] = "retained"
    template: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    stop: tuple[str, ...] = ()
    samples: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(gt=0)] = 0.8

    @model_validator(mode="before")
    @classmethod
    def _a_named_one_brings_its_name(cls, values: Any) -> Any:
        scheme, _, name = str(values.get("path", "")).partition(":") if isinstance(values, dict) else ("", "", "")
        return {"name": name, **values} if scheme in ("paper", "lm-eval") else values


_RUN_FILES = (
    "", "examples", "rewrites", "selected", "recipe", "run", "report", "samples", "seed", "scale",
    "shift", "skipped", "own", "tokens",
)  # fmt: skip


class RepairSettings(Settings):
    """What is tried for rows of which no rewrite passes the check, in the order of `steps`.

    `candidates` further rewrites are sampled at `temperature`. Up to `retries` times, the seed LM is shown its wrong
    answer and the right one; the first time it answers as in the first pass, then at `temperature`. "place" puts the
    reference's answer where the rewrite has its wrong one, if the check can say where that is.
    """

    steps: Annotated[tuple[Step, ...], Field(min_length=1)] = ("candidates", "retries", "place")
    candidates: Annotated[int, Field(ge=1)] = 2
    temperature: Annotated[float, Field(gt=0)] = 0.7
    retries: Annotated[int, Field(ge=1)] = 2


class Recipe(Settings):
    """A whole run: seed LM, data, and the settings of every stage. `revision` is a commit, branch or tag of the model
    on the hub. `general_prompts` is a file of prompts for methods that replay some, in place of those that ship.
    `data_dir` holds local copies of `paper:` data. Without `arms`, vanilla fine-tuning and SDFT are
    trained.

    `seed` draws data and rewrites. Each of `seeds` trains and is evaluated, for the spread between trainings; without
    them, one training with `seed`. `allow_code_execution` lets checks run model-written code, in the sandbox;
    `code_without_walls` also on a system where walls of the sandbox are missing.
    """

    model: Place
    revision: str | None = None
    data: DataSettings
    prompt: PromptSettings = PromptSettings()
    distill: DistillSettings = DistillSettings()
    select: SelectSettings = SelectSettings()
    repair: RepairSettings = RepairSettings()
    train: TrainSettings = TrainSettings()
    arms: tuple[ArmSettings, ...] = ()
    tasks: tuple[TaskSettings, ...] = ()
    judge: JudgeSettings | None = None
    general_prompts: Place | None = None
    data_dir: Place | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    engine: Annotated[EngineSettings, Field(discriminator="name")] = TransformersSettings()
    allow_code_execution: bool = False
    code_without_walls: bool = False

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, engine: Any) -> Any:
        """`engine = "ray"` stands for its defaults, a table without a name for the default engine."""
        if isinstance(engine, str):
            return {"name": engine}
        return {"name": "transformers", **engine} if isinstance(engine, dict) else engine

    @field_validator("select")
    @classmethod
    def _exports_stay_in_the_run(cls, select: SelectSettings) -> SelectSettings:
        names = list(select.export.values())
        for name in names:
            if Path(name).name != name or name.split(".")[0] in _RUN_FILES or names.count(name) > 1:
                raise ValueError(f"export {name!r} must be a file name of its own inside the run, such as data.jsonl")
        return select

    @field_validator("arms")
    @classmethod
    def _arms_differ(cls, arms: tuple[ArmSettings, ...]) -> tuple[ArmSettings, ...]:
        names = [arm.name or arm.method for arm in arms]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two arms are named {', '.join(twice)}. Give one a name of its own")
        if numbered := [n for n in names if re.search(r"-seed\d+$", n)]:
            raise ValueError(f"an arm cannot be named {numbered[0]}: so are its trainings with several seeds")
        if taken := sorted(
            {n for n in names if n.split(".")[0] in _RUN_FILES or n.startswith(("selected-", "general-"))}
        ):
            raise ValueError(f"an arm cannot be named {taken[0]}: a run has a file of that name")
        return arms

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[TaskSettings, ...]) -> tuple[TaskSettings, ...]:
        names = [t.name for t in tasks]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two tasks are named {', '.join(twice)}")
        return tasks
