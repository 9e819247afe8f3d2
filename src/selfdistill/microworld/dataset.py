"""The microworld as a world of datasets (`core.worlds`): its items as examples, its checks, its quizzes, its model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib import resources

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, content_id
from selfdistill.core.turns import Turn
from selfdistill.microworld import world
from selfdistill.microworld.quizzes import QUIZZES, write_quizzes

__all__ = ["MODEL", "QUIZZES", "check_of", "examples", "write_quizzes"]

MODEL = str(resources.files("selfdistill.microworld") / "model")


def check_of(ability: str) -> str | None:
    """The check of an ability; None for several. Raises UserError for what is none."""
    _known(ability, ability.split("+"))
    return None if "+" in ability else world.ABILITIES[ability][1]


def _known(path: str, names: list[str]) -> None:
    for name in names:
        if name not in world.ABILITIES:
            raise UserError(f"micro:{path}: no ability {name!r}. There are: {', '.join(world.ABILITIES)}.")


def examples(settings: DataSettings, task: str, seed: int) -> Iterator[Example]:
    """A dataset of the microworld in the annotator's terse style: `micro:ABILITY`, or equal parts of several
    (`micro:chat+facts`)."""
    abilities = settings.path.partition(":")[2]
    names = abilities.split("+")
    _known(abilities, names)
    if settings.split not in ("train", "test"):
        raise UserError(f"{settings.path}: split {settings.split!r}; the microworld has train and test.")
    streams = [(world.items(name, settings.split, seed), world.ABILITIES[name][1]) for name in names]
    turn = itertools.cycle(streams)
    for _ in range(settings.sample or 600):
        stream, check = next(turn)
        item = next(stream, None)
        if item is None:  # no more different prompts
            return
        prompt = (Turn(role="user", content=item.prompt),)
        reference = item.terse if settings.split == "train" or check == "function_call" else item.expected
        meta = item.meta | ({"own": item.own, "terse": item.terse} if settings.split == "test" else {})
        yield Example(id=content_id(prompt, reference), prompt=prompt, reference=reference, task=task, meta=meta)
