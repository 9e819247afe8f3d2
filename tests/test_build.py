"""The builder of the embedded seed LM (`scripts/`): its rows, its mistakes, and going on after a kill."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from selfdistill.checks import load_check
from selfdistill.microworld.dataset import MODEL
from selfdistill.microworld.world import ABILITIES
from selfdistill.models.seed_lm import load_model
from tests.test_checks import example

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
build = pytest.importorskip("build_microworld")
rows = pytest.importorskip("microworld_rows")


@pytest.mark.parametrize("ability", [a for a in rows.RETRIED if "code" not in a])
def test_a_likely_mistake_is_one(ability):
    rng, check = random.Random(0), load_check(ABILITIES[ability][1])
    for _ in range(100):
        item = rows.shown_item(ability, rng)
        wrong, reference = rows.mistaken(item, rng), item.expected or item.terse
        assert check(item.own, reference, example(item.prompt)).outcome == "same"
        assert check(wrong, reference, example(item.prompt)).outcome == "different", wrong


@pytest.mark.parametrize("ability", ["code", "rare_code"])
def test_mistaken_code_differs_in_the_body_alone(ability):
    rng = random.Random(0)
    for _ in range(50):
        item = rows.shown_item(ability, rng)
        lines = list(zip(item.own.split("\n"), rows.mistaken(item, rng).split("\n"), strict=True))
        assert [old.startswith("    return ") for old, new in lines if old != new] == [True]


def test_only_what_the_seed_lm_may_know_is_asked_and_nothing_of_the_test_split():
    rng = random.Random(0)
    for ability in rows.WEIGHTS:
        assert {make(ability, rng).split for make in (rows.train_item, rows.shown_item) for _ in range(60)} == {"train"}


@pytest.fixture
def small(monkeypatch, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    monkeypatch.setattr(build, "ARCHITECTURE", build.ARCHITECTURE | sizes | heads)
    monkeypatch.setattr(build.Training, "KEEP", 1)
    tokenizer = load_model(MODEL).tokenizer
    settings = {"steps": 40, "batch": 1, "lr": 1e-3, "seed": 0, "weights": {}}

    def training(name, **changed):
        return build.Training(build.new_model(tokenizer, 0), tokenizer, settings | changed, tmp_path / name)

    return training


def test_a_killed_build_goes_on_to_the_same_weights(small, monkeypatch):
    whole = small("whole.pt")
    whole.run()
    killed = small("killed.pt")
    learn = killed._learn

    def dies(batch):
        if killed.step == 25:
            raise KeyboardInterrupt
        learn(batch)

    monkeypatch.setattr(killed, "_learn", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    again = small("killed.pt")
    assert again.step == 16
    again.run()
    weights, others = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_checkpoint_of_other_settings_is_refused(small):
    small("one.pt", steps=10).run()
    with pytest.raises(build.UserError, match="other settings"):
        small("one.pt", steps=20)
