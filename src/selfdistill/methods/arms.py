"""Arms: what a recipe trains, by methods, mix ratios, numbers of rows and seeds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import create_model

from selfdistill.core.config import ArmSettings, Recipe, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.rewrites import Step
from selfdistill.core.settings import Settings, checked
from selfdistill.methods import USUAL, method_named
from selfdistill.methods.base import Method, Need
from selfdistill.run_folder import Arm


@dataclass(frozen=True)
class _Named:
    """An arm of a recipe before it is multiplied."""

    name: str
    method: Method
    settings: Settings
    repair: tuple[Step, ...]
    train: dict[str, Any]


def settings_of(arm: Arm) -> Settings:
    """The settings of an arm's method."""
    return checked(method_named(arm.method, "arms").settings, arm.settings, f"arm {arm.name}")


def general_of(arm: Arm, rows: int) -> int:
    """How many general prompts an arm asks for, where the data has so many rows."""
    method = method_named(arm.method, "arms")
    return method.general(arm.size or rows, settings_of(arm)) if method.general else 0


def training_of(arm: Arm, recipe: Recipe) -> TrainSettings:
    """How an arm trains: as the recipe says, but for what the arm says."""
    return _training(arm.train, recipe, arm.name)


def _training(own: dict[str, Any], recipe: Recipe, name: str) -> TrainSettings:
    """Raises UserError for what no arm can have of its own."""
    if shared := sorted({"mix_ratio", "size", "report_to"} & own.keys()):
        raise UserError(f"arms: {name}: train.{shared[0]} is one for all arms. Set it in [train].")
    shared_values = recipe.train.model_dump(exclude_unset=True)
    if "preset" in own:  # it says what these are
        shared_values = {k: v for k, v in shared_values.items() if k not in ("rank", "alpha", "targets")}
    made = checked(TrainSettings, shared_values | own, f"arms: {name}: train")
    if (made.tune == "qlora") != (recipe.train.tune == "qlora"):
        raise UserError(f"arms: {name}: train.tune: a run has its model in 4 bits for all arms, or for none.")
    return made


def arms_of(recipe: Recipe, examples: int) -> list[Arm]:
    """The arms of a recipe: its methods, or the usual ones, for each number of rows and each seed, those that take
    words of the seed LM also for each mix ratio. An arm is compared with the first arm of its method's base, of the
    same mix ratio where both have one.

    A name says what differs: `sdft-mix0.5-size200-seed1`. Raises UserError for more rows than there are, and for an
    unknown method.
    """
    listed = recipe.arms or tuple(ArmSettings(method=name) for name in USUAL)
    named = [_named(arm, recipe) for arm in listed]
    mixes = recipe.train.mix_ratio if isinstance(recipe.train.mix_ratio, tuple) else (recipe.train.mix_ratio,)
    sizes = recipe.train.size if isinstance(recipe.train.size, tuple) else (recipe.train.size,)
    seeds = recipe.seeds or (recipe.seed,)
    for values, key in ((mixes, "train.mix_ratio"), (sizes, "train.size"), (seeds, "seeds")):
        if len(set(values)) < len(values):
            raise UserError(f"{key}: a value stands there twice.")
    if (most := max(size or 0 for size in sizes)) > examples:
        raise UserError(f"train.size = {most}: the data has {examples} rows.")
    first: dict[str, _Named] = {}
    for one, arm in zip(named, listed, strict=True):
        first.setdefault(_key(arm.method, one.train), one)
    arms = []
    for size, seed in product(sizes, seeds):
        end = ([f"size{size}"] if len(sizes) > 1 else []) + ([f"seed{seed}"] if recipe.seeds else [])
        for one, arm in zip(named, listed, strict=True):
            base = first.get(_key(one.method.base or "", one.train))
            for mix in mixes if one.method.rewrites else mixes[-1:]:
                share = [f"mix{mix:g}"] if len(mixes) > 1 else []
                of_base = share if base and base.method.rewrites else []
                against = "-".join([base.name, *of_base, *end]) if base else None
                own = share if one.method.rewrites else []
                arms.append(
                    Arm(
                        "-".join([one.name, *own, *end]),
                        arm.method,
                        against,
                        mix if one.method.rewrites else 0.0,
                        size,
                        seed,
                        one.settings.model_dump(mode="json"),
                        one.train,
                        one.repair,
                        tuple(need.value for need in Need if need in one.method.needs),
                    )
                )
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"arms: two of them would be named {twice[0]}. Give one a name of its own.")
    return arms


def _key(method: str, train: dict[str, Any]) -> str:
    return json.dumps([method, train], sort_keys=True)


def _named(arm: ArmSettings, recipe: Recipe) -> _Named:
    method = method_named(arm.method, "arms")
    keys: dict[str, Any] = dict.fromkeys(ArmSettings.model_fields, (Any, None))
    table = create_model("Arm", __base__=method.settings, **keys)  # so that an error lists all keys of an arm
    checked(table, arm.model_dump(exclude_unset=True), f"arms: {arm.name or arm.method}")
    if Need.OWN in method.needs and recipe.select.check == "none":
        raise UserError(
            f"arms: {arm.name or arm.method}: {arm.method} needs a check that tells which own answers are right. Set "
            "select.check."
        )
    name, settings = arm.name or arm.method, method.settings(**(arm.model_extra or {}))
    if _training(arm.train, recipe, name).dora and method.after:
        raise UserError(
            f"arms: {name}: {arm.method} goes on with the weights of plain LoRA or of full tuning, and train.dora is "
            "set. Leave one of them out."
        )
    return _Named(name, method, settings, _repair(arm, method, recipe), arm.train)


def _repair(arm: ArmSettings, method: Method, recipe: Recipe) -> tuple[Step, ...]:
    """The steps by which the arm's rewrites may have been repaired. Raises UserError where there is nothing to repair,
    or no check that finds out."""
    if not arm.repair:
        return ()
    name = arm.name or arm.method
    if not method.rewrites:
        raise UserError(f"arms: {name}: repair = {arm.repair}: {arm.method} trains on no rewrites. Leave it out.")
    if method.leaves_out:
        raise UserError(
            f"arms: {name}: {arm.method} takes nothing from the references, and repair would. Leave it out."
        )
    if recipe.select.check == "none":
        raise UserError(f"arms: {name}: repair needs a check that finds wrong answers. Set select.check.")
    return recipe.repair.steps if isinstance(arm.repair, bool) else arm.repair
