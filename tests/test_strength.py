"""Strengths of a fine-tuning: the weights are W + s dW, the curve begins at the seed LM and ends at the arm."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace

import forked
import pytest
import torch
from conftest import cli
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.comparison.intervals import mean_of, wilson
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.recipe import load_recipe
from selfdistill.core.records import TaskResult
from selfdistill.models.folder import adapter_digest
from selfdistill.models.seed_lm import load_model
from selfdistill.stages.evaluate import evaluate
from selfdistill.stages.scale import scale, strengths_of
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks
from selfdistill.training.interpolate import RECORD, check_scalable, scaled


def random_lora(folder, **more):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = load_model("embedded", "float32").model
    tuned = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], **more))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    tuned.save_pretrained(folder)
    return folder


def merged(folder):
    """All weights of the embedded model with this adapter in them."""
    from peft import PeftModel

    base = load_model("embedded", "float32").model
    return dict(PeftModel.from_pretrained(base, str(folder)).merge_and_unload().named_parameters())


@pytest.mark.heavy
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("more", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
def test_the_change_of_every_weight_is_s_times_that_of_the_arm(tmp_path, embedded, strength, more):
    whole = random_lora(tmp_path / "whole", **more)
    part = scaled(whole, strength, tmp_path / "part", embedded)
    base = dict(load_model("embedded", "float32").model.named_parameters())
    full, made, moved = merged(whole), merged(part), 0
    for name, weight in base.items():
        change = full[name] - weight
        moved += bool(change.abs().max() > 0.01)
        # The sums are rounded to fp32: weights below 4 have an error below 3e-7 on each side.
        assert torch.allclose(made[name] - weight, strength * change, rtol=1e-6, atol=2e-6)
    assert moved == 12


def evaluated(run, arm, strength, engine, embedded, prompter, folder):
    """Predictions of the scaled weights of an arm, through the engine."""
    recipe = load_recipe(run / "recipe.toml", [])
    tasks = load_tasks(recipe.tasks, recipe.seed, Permissions(False, None, None), Progress())
    adapter = str(scaled(run / arm / "adapter", strength, folder / "adapter", embedded))
    with engine.adapter(adapter):
        evaluate(tasks, folder, embedded.digest, engine, prompter, adapter_digest(adapter))
    return (folder / "predictions.jsonl").read_bytes()


@pytest.mark.heavy
def test_all_of_it_is_the_arm_and_none_of_it_the_seed(small_run, tmp_path, embedded, engine):
    from selfdistill.models.prompts import Prompter

    prompter = Prompter.create(embedded.tokenizer)
    seed, arm = ((small_run / name / "predictions.jsonl").read_bytes() for name in ("seed", "vanilla"))
    assert seed != arm
    assert evaluated(small_run, "vanilla", 1.0, engine, embedded, prompter, tmp_path / "1") == arm
    assert evaluated(small_run, "vanilla", 0.0, engine, embedded, prompter, tmp_path / "0") == seed


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_a_model_with_all_weights_tuned_each_lies_between(tmp_path, dtype):
    """The seed LM ties its embeddings, so that a weight that is met twice would be moved twice."""
    seed_lm = load_model("embedded", dtype)
    torch.manual_seed(0)
    model = load_model("embedded", dtype).model
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "tuned")
    seed_lm.tokenizer.save_pretrained(tmp_path / "tuned")
    before, after = dict(load_model("embedded", dtype).model.named_parameters()), dict(model.named_parameters())
    for strength in (0.0, 0.25, 1.0, 2.0):
        part = scaled(tmp_path / "tuned", strength, tmp_path / f"{strength}", seed_lm)
        found = dict(load_model(str(part), dtype).model.named_parameters())
        stored = json.loads((part / "config.json").read_text())
        assert stored["dtype"] == dtype
        assert found.keys() == after.keys()
        for name, weight in found.items():
            expected = (1 - strength) * before[name].double() + strength * after[name].double()
            assert torch.allclose(weight.double(), expected, rtol=2**-8 if dtype == "bfloat16" else 1e-6, atol=1e-6)
            if strength in (0, 1):
                assert torch.equal(weight, (before if strength == 0 else after)[name])
    assert adapter_digest(str(part)) != adapter_digest(str(tmp_path / "tuned"))


def copied(small_run, tmp_path):
    return shutil.copytree(small_run, tmp_path / "run")


def made_when(folder):
    """When the weights and predictions below a folder were written, by path."""
    files = [f for f in folder.rglob("*") if f.name.startswith(("adapter_model", "predictions", RECORD))]
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in files if ".meta." not in f.name}


@pytest.mark.heavy
def test_the_curve_runs_from_the_seed_to_the_arm(small_run, tmp_path, monkeypatch):
    run = copied(small_run, tmp_path)
    table = scale(run, [0.5, 1.5])
    assert json.loads((run / "scale.json").read_text()) == table
    assert list(table["arms"]) == ["vanilla", "sdft"]
    measured = {r["task"]: r for r in json.loads((run / "seed" / "result.json").read_text())}
    for name, curve in table["arms"].items():
        assert [p["strength"] for p in curve] == [0.0, 0.5, 1.0, 1.5]
        assert [p["folder"] for p in curve] == ["seed", f"scale/{name}-0.5", name, f"scale/{name}-1.5"]
        assert curve[0]["target"]["value"] == measured["rare_tools"]["score"]
        assert curve[0]["retained"]["value"] == (measured["facts"]["score"] + measured["tools"]["score"]) / 2
        assert curve[0]["retained"]["tasks"] == 2
        for point in curve:
            assert (run / point["folder"] / "items.jsonl").read_bytes() == (run / "seed" / "items.jsonl").read_bytes()
    texts = {p["folder"]: (run / p["folder"] / "predictions.jsonl").read_bytes() for p in table["arms"]["vanilla"]}
    assert len(set(texts.values())) > 2
    # Asked again, nothing is made again.
    from selfdistill.engines.transformers import TransformersEngine

    monkeypatch.setattr(TransformersEngine, "generate", lambda *a: pytest.fail("the engine was asked again"))
    before = made_when(run / "scale")
    assert scale(run, [0.5, 1.5]) == table
    assert made_when(run / "scale") == before
    assert list(scale(run, [1.5], ["sdft"])["arms"]) == ["sdft"]


@pytest.mark.heavy
def test_a_run_goes_on_after_its_arms_were_scaled(small_run, tmp_path):
    from selfdistill.pipeline import run as run_recipe

    run = copied(small_run, tmp_path)
    scale(run, [0.5], ["sdft"])
    before = made_when(run)
    run_recipe(load_recipe(run / "recipe.toml", []), run)
    assert made_when(run) == before


@pytest.mark.heavy
def test_a_kill_between_strengths_loses_nothing(small_run, tmp_path):
    run = copied(small_run, tmp_path)
    command = ["scale", str(run), "--strengths", "0.25,0.5,0.75", "--arm", "sdft"]
    process = forked.start(command)
    first = run / "scale" / "sdft-0.25" / "result.json"
    while not first.exists():
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    before = made_when(run / "scale" / "sdft-0.25")
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert "0.75" in done.stdout
    assert made_when(run / "scale" / "sdft-0.25") == before
    assert not list(run.rglob("*.partial"))


def test_what_was_scaled_from_other_weights_is_refused(small_run, tmp_path, embedded):
    run = copied(small_run, tmp_path)
    out = scaled(run / "sdft" / "adapter", 0.5, tmp_path / "half", embedded)
    first = adapter_digest(str(out))
    assert adapter_digest(str(scaled(run / "sdft" / "adapter", 0.5, out, embedded))) == first
    shutil.copy(run / "vanilla" / "adapter" / "adapter_model.safetensors", run / "sdft" / "adapter")
    with pytest.raises(UserError, match="was made from other weights"):  # its predictions are of those, too
        scaled(run / "sdft" / "adapter", 0.5, out, embedded)


# --- what is refused ---------------------------------------------------------------------------------------------


def test_dora_is_refused(tmp_path, embedded):
    folder = random_lora(tmp_path / "dora", use_dora=True)
    with pytest.raises(UserError, match="use_dora"):
        scaled(folder, 0.5, tmp_path / "out", embedded)
    with pytest.raises(UserError, match="use_dora"):
        check_scalable(folder)


def test_an_adapter_with_more_than_factors_is_refused(tmp_path, embedded):
    folder = random_lora(tmp_path / "more", modules_to_save=["lm_head"])
    with pytest.raises(UserError, match="not supported: modules_to_save"):
        scaled(folder, 0.5, tmp_path / "out", embedded)


@pytest.mark.parametrize("text", ["x", "0.5,", "0.5;0.7", "-0.1", "nan", "inf"])
def test_strengths_are_numbers_from_zero_up(text):
    with pytest.raises(UserError, match="--strengths"):
        strengths_of(text)


def test_strengths_that_are_measured_already_are_left_out():
    assert strengths_of("1.5, 0,0.5,1,0.5") == [0.5, 1.5]


def test_errors_are_one_line(small_run, tmp_path, embedded):
    with pytest.raises(UserError, match=r"no run\.json"):
        scale(tmp_path, [0.5])
    with pytest.raises(UserError, match=r"no such arm. There are: vanilla, sdft"):
        scale(small_run, [0.5], ["sdtf"])
    for wrong in (-0.5, math.nan, math.inf):
        with pytest.raises(UserError, match="from 0 up"):
            scaled(small_run / "sdft" / "adapter", wrong, tmp_path / "out", replace(embedded))
    run = copied(small_run, tmp_path)
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(manifest | {"status": "stopped: KeyboardInterrupt: "}))
    with pytest.raises(UserError, match="not finished"):
        scale(run, [0.5])
    (run / "run.json").write_text(json.dumps(manifest))
    meta = run / "seed" / "predictions.jsonl.meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"model": "another"}))
    with pytest.raises(UserError, match="model changed since the run"):
        scale(run, [0.5])
    assert not (run / "scale").exists()


# --- the mean over tasks -----------------------------------------------------------------------------------------


def result(correct, n):
    low, high = wilson(correct, n) if n else (None, None)
    counts = {"wrong": n - correct, "truncated": 0, "errors": 0, "n": n, "correct": correct}
    score = correct / n if n else None
    return TaskResult(task="t", check="exact", role="retained", score=score, low=low, high=high, note=None, **counts)


def test_the_mean_of_one_task_has_its_own_interval():
    mean = mean_of([result(7, 10), result(0, 0)])
    assert (mean.tasks, mean.value) == (1, 0.7)
    assert (mean.low, mean.high) == pytest.approx(wilson(7, 10))
    assert mean_of([result(0, 0)]) is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_the_error_of_a_mean_is_that_of_all_items(counts):
    mean = mean_of([result(c, 50) for c in counts])
    widest = max(b - a for a, b in (wilson(c, 50) for c in counts))
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    assert mean.high - mean.low <= widest + 1e-12
    # Equal tasks: the error falls with the root of their number.
    one, many = mean_of([result(20, 50)]), mean_of([result(20, 50)] * len(counts))
    assert many.high - many.value == pytest.approx((one.high - one.value) / math.sqrt(len(counts)))


def test_the_interval_of_a_mean_holds_its_mean_95_times_in_100():
    import random

    chance, shares, held = random.Random(0), [0.95, 0.5, 0.8, 0.99], 0
    for _ in range(1000):
        drawn = [result(sum(chance.random() < p for _ in range(60)), 60) for p in shares]
        mean = mean_of(drawn)
        held += mean.low <= sum(shares) / len(shares) <= mean.high
    assert 0.93 < held / 1000 < 0.98
