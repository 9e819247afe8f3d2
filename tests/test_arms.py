"""Arms of many methods in one run: what each trains on, that none depends on another, what is refused before anything."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from selfdistill.core.config import DataSettings, Recipe, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import content_id
from selfdistill.core.rewrites import Selected
from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import checked
from selfdistill.data.examples import read_examples
from selfdistill.methods import METHODS, method_named
from selfdistill.methods.arms import arms_of, training_of
from selfdistill.methods.base import Method, Seen
from selfdistill.methods.rows import training_rows
from selfdistill.models.prompts import Prompter
from selfdistill.pipeline import run
from selfdistill.run_folder import same_arms
from selfdistill.stages.train import train

ROWS = read_examples(DataSettings(path="micro:rare_tools", sample=12))


def row(example, response, source="distilled", reason="passed"):
    return Selected(id=example.id, response=response, source=source, reason=reason)


SELECTED = {
    e.id: row(e, f"rewrite {n}") if n % 3 else row(e, e.reference, "original", "wrong_answer")
    for n, e in enumerate(ROWS)
}
OWN = {e.id: [row(e, f"own {n} {k}") for k in range(3)] for n, e in enumerate(ROWS) if n % 2}
GENERAL = [
    TrainingRow(e, ("said",), "replay", "kept_unchecked")
    for e in read_examples(DataSettings(path="micro:chat", sample=30))
]


def rows_of(name, own=OWN, selected=SELECTED, mix_ratio=1.0, **settings):
    method = method_named(name, "arms")
    seen = Seen(ROWS, selected, own, GENERAL, mix_ratio)
    return training_rows(method, seen, method.settings(**settings), name)


def said(rows):
    return [(r.id, r.responses, r.weights) for r in rows]


def test_s3ft_takes_the_own_answer_then_the_rewrite_then_the_reference():
    made = rows_of("s3ft")
    for n, (example, one) in enumerate(zip(ROWS, made, strict=True)):
        expected = (
            (f"own {n} 0", "own")
            if n % 2
            else (f"rewrite {n}", "distilled")
            if n % 3
            else (example.reference, "original")
        )
        assert ((one.responses[0]), one.source) == expected
    assert said(rows_of("s3ft", own={})) == said(rows_of("sdft"))
    nothing = {e.id: row(e, e.reference, "original", "wrong_answer") for e in ROWS}
    assert said(rows_of("s3ft", own={}, selected=nothing)) == said(rows_of("vanilla"))
    right = {e.id: [row(e, "own")] for e in ROWS}
    assert {r.source for r in rows_of("s3ft", own=right)} == {"own"}


def test_the_ladder_trains_several_own_answers_and_with_one_the_rows_of_s3ft():
    assert said(rows_of("ladder", samples=1)) == said(rows_of("s3ft"))
    made = rows_of("ladder", samples=2)
    assert len(made) == len(ROWS) + len(OWN) and sum(r.source == "own" for r in made) == 2 * len(OWN)


def test_self_only_leaves_out_rows_without_an_own_answer():
    made = rows_of("self_only")
    assert [r.id for r in made] == [e.id for n, e in enumerate(ROWS) if n % 2]
    with pytest.raises(UserError, match=r"self_only: no row is left to train on\."):
        rows_of("self_only", own={})


@pytest.mark.parametrize("share", [0, 0.1, 0.5])
def test_replay_adds_its_share_of_general_prompts(share):
    made, plain = rows_of("replay", share=share), rows_of("vanilla")
    count = round(share * len(ROWS) / (1 - share))
    assert said(made[: len(plain)]) == said(plain) and made[len(plain) :] == GENERAL[:count]
    assert said(rows_of("sdft+replay", share=share)[: len(plain)]) == said(rows_of("sdft"))


@pytest.mark.parametrize("name", ["sdft", "s3ft"])
def test_the_mix_ratio_is_the_share_that_takes_what_the_seed_lm_wrote(name):
    whole, plain = rows_of(name), rows_of("vanilla")
    assert said(rows_of(name, mix_ratio=0.0)) == said(plain)
    half = rows_of(name, mix_ratio=0.5)
    assert sum(h == w for h, w in zip(half, whole, strict=True)) >= 6 and all(
        h in (w, p) for h, w, p in zip(half, whole, plain, strict=True)
    )


# --- combinations ------------------------------------------------------------------------------------------------


def test_a_combination_takes_what_each_part_decides():
    both = method_named("s3ft+asft", "arms")
    assert both.rows is METHODS["s3ft"].rows and both.loss is METHODS["asft"].loss
    assert both.needs == METHODS["s3ft"].needs and set(both.settings.model_fields) == set(
        METHODS["asft"].settings.model_fields
    )
    assert both.base == "vanilla" and both.short == "S3FT+ASFT"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sdft+s3ft", "sdft and s3ft both decide the rows"),
        ("stm+flow", "stm and flow both decide the weigh"),
        ("sdft+nothing", "no method is named 'nothing'"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(name, says):
    with pytest.raises(UserError, match=says):
        method_named(name, "arms")


def test_settings_of_one_name_in_two_parts_are_refused(monkeypatch):
    monkeypatch.setitem(METHODS, "other", replace(METHODS["vanilla"], settings=METHODS["replay"].settings))
    with pytest.raises(UserError, match="two of its parts have a setting 'share'"):
        method_named("replay+other", "arms")


# --- recipes -----------------------------------------------------------------------------------------------------


def arms(*tables, check="function_call", **more):
    values = {"model": "m", "data": {"path": "d"}, "select": {"check": check}, "arms": tables, **more}
    return arms_of(checked(Recipe, values, "r"), 10)


def test_arms_have_settings_of_their_method_and_repair():
    made = arms(
        {"method": "flow", "tau": 3.0, "name": "flow3"},
        {"method": "sdft", "repair": ["place"]},
        {"method": "sdft+interpolate", "strength": 0.25},
    )
    assert made[0].name == "flow3" and made[0].settings["tau"] == 3.0 and made[0].needs == ("score tokens",)
    assert made[1].repair == ("place",) and made[1].needs == ("distill",)
    assert made[2].name == "sdft+interpolate" and made[2].settings == {"strength": 0.25}


def test_an_arm_trains_otherwise_beside_a_base_that_does(tmp_path):
    weak = {"preset": "paper", "lr": 6e-3}
    made = arms(
        {"method": "vanilla"},
        {"method": "sdft"},
        {"method": "vanilla", "name": "vanilla-weak", "train": weak},
        {"method": "sdft", "name": "sdft-weak", "train": weak},
        train={"preset": "strong", "epochs": 3},
    )
    assert [a.base for a in made] == [None, "vanilla", None, "vanilla-weak"]
    recipe = checked(Recipe, {"model": "m", "data": {"path": "d"}, "train": {"preset": "strong", "epochs": 3}}, "r")
    weaker = training_of(made[3], recipe)
    assert (weaker.preset, weaker.lr, weaker.epochs) == ("paper", 6e-3, 3) and training_of(
        made[1], recipe
    ) == recipe.train
    for own, says in (
        ({"size": 3}, "train.size is one for all arms"),
        ({"lr": -1}, "lr"),
        ({"tune": "qlora"}, "4 bits"),
    ):
        with pytest.raises(UserError, match=says):
            arms({"method": "vanilla", "train": own})
    with pytest.raises(UserError, match=r"interpolate goes on with the weights of plain LoRA.*train\.dora is set"):
        arms({"method": "interpolate", "train": {"dora": True}})


@pytest.mark.parametrize(
    ("table", "check", "says"),
    [
        ({"method": "flow", "taw": 1}, "none", r"unknown key 'taw'.*tau"),
        ({"method": "flow", "tau": -1}, "none", r"tau = -1: expected more than 0"),
        ({"method": "vanilla", "repair": True}, "function_call", r"vanilla trains on no rewrites"),
        ({"method": "sdft", "repair": True}, "none", r"repair needs a check"),
        ({"method": "s3ft"}, "none", r"s3ft.*needs a check"),
        ({"method": "sdft", "repair": ["glue"]}, "function_call", r"repair"),
    ],
)
def test_what_an_arm_cannot_be_is_said_in_one_line(table, check, says):
    with pytest.raises(UserError, match=says) as error:
        arms(table, check=check)
    assert "\n" not in str(error.value)


# --- whole runs --------------------------------------------------------------------------------------------------

RECIPE = {
    "model": "embedded",
    "data": {"path": "micro:rare_tools", "sample": 16},
    "distill": {"max_new_tokens": 64},
    "repair": {"candidates": 1, "retries": 1},
    "select": {"check": "function_call"},
    "train": {"epochs": 1, "lr": 1e-3},
    "general_prompts": "micro:chat",
    "tasks": [
        {"name": "rare_tools", "path": "micro:rare_tools", "limit": 3, "role": "target", "max_new_tokens": 48},
        {"name": "facts", "path": "micro:facts", "limit": 3, "max_new_tokens": 32},
    ],
}
ALL = [
    {"method": "vanilla"},
    {"method": "sdft"},
    {"method": "sdft", "name": "repaired", "repair": True},
    {"method": "s3ft"},
    {"method": "self_only"},
    {"method": "stm"},
    {"method": "flow"},
    {"method": "eaft"},
    {"method": "kl"},
    {"method": "sdft+replay", "share": 0.2},
    {"method": "replay", "share": 0.1},
    {"method": "interpolate"},
    {"method": "sdft+interpolate", "strength": 0.25},
]  # fmt: skip


def made(out, *tables):
    run(checked(Recipe, {**RECIPE, "arms": tables}, "r"), out, Progress(quiet=True))
    return out


def digests(out, name):
    return {
        file: hashlib.sha256((out / name / file).read_bytes()).hexdigest()
        for file in ("adapter/adapter_model.safetensors", "predictions.jsonl", "result.json")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("arms") / "run", *ALL)


def record(out, name):
    return json.loads((out / name / "adapter" / "training.json").read_text())


@pytest.mark.heavy
def test_removing_arms_changes_no_other_arms_bytes(whole, tmp_path):
    few = ["vanilla", "sdft", "stm", "replay", "sdft+interpolate"]
    out = made(tmp_path / "few", *(table for table in ALL if table.get("name", table["method"]) in few))
    for name in few:
        assert digests(out, name) == digests(whole, name), name


@pytest.mark.heavy
def test_a_second_run_changes_nothing(whole):
    def state():
        files = {path: path.read_bytes() for path in whole.glob("*/adapter/*")}
        return files, [path.stat().st_mtime_ns for path in files if path.suffix == ".safetensors"]

    before = state()
    made(whole, *ALL)
    assert state() == before


@pytest.mark.heavy
def test_an_arm_that_is_added_repeats_nothing(tmp_path):
    out = made(tmp_path / "run", {"method": "vanilla"}, {"method": "sdft"})
    files = ("rewrites.jsonl", "vanilla/adapter/adapter_model.safetensors", "seed/predictions.jsonl")
    before = {name: (out / name).stat().st_mtime_ns for name in files}
    made(out, {"method": "vanilla"}, {"method": "eaft"}, {"method": "sdft+interpolate"}, {"method": "sdft"})
    assert {name: (out / name).stat().st_mtime_ns for name in files} == before
    report = json.loads((out / "report.json").read_text())
    assert [a["name"] for a in report["arms"]] == ["vanilla", "eaft", "sdft+interpolate", "sdft"]


@pytest.mark.heavy
def test_what_each_arm_trained_on_is_recorded(whole):
    plain = record(whole, "vanilla")["trained"]
    assert (
        plain["sources"] == {"original": 16, "distilled": 0, "own": 0, "replay": 0} and plain["reference_tokens"] == 1
    )
    assert record(whole, "replay")["trained"]["sources"]["replay"] == round(0.1 * 16 / 0.9)
    assert (
        record(whole, "repaired")["trained"]["sources"]["distilled"]
        > record(whole, "sdft")["trained"]["sources"]["distilled"]
    )
    stm = record(whole, "stm")["trained"]
    assert 0 < stm["masked"] < 1 and stm["tokens"] == plain["tokens"]
    own = record(whole, "s3ft")["trained"]["sources"]
    assert own["own"] == record(whole, "self_only")["trained"]["rows"] and sum(own.values()) == 16
    report = json.loads((whole / "report.json").read_text())
    assert {a["name"]: a["repair"] for a in report["arms"]}["repaired"] == ["candidates", "retries", "place"]
    seconds = json.loads((whole / "run.json").read_text())["seconds"]
    assert {"distill", "own answers", "score tokens", "replay"} <= seconds.keys()


@pytest.mark.heavy
def test_interpolation_takes_the_weights_of_the_arm_that_was_trained(whole):
    assert not (whole / "interpolate" / "trained").exists() and not (whole / "sdft+interpolate" / "trained").exists()
    tuned, half = (load_file(whole / n / "adapter" / "adapter_model.safetensors") for n in ("vanilla", "interpolate"))
    for key, weight in tuned.items():
        np.testing.assert_array_equal(half[key], weight * np.float32(0.5) if ".lora_B." in key else weight)


@pytest.mark.heavy
def test_general_prompts_that_hold_items_of_a_task_are_refused(tmp_path):
    item = read_examples(DataSettings(path="micro:facts", split="test", sample=3))[0]
    (tmp_path / "pool.jsonl").write_text(json.dumps({"prompt": item.prompt[-1]["content"]}) + "\n")
    recipe = checked(
        Recipe, {**RECIPE, "arms": [{"method": "replay"}], "general_prompts": str(tmp_path / "pool.jsonl")}, "r"
    )
    with pytest.raises(UserError, match=r"1 general prompts.*1 of task facts"):
        run(recipe, tmp_path / "out", Progress(quiet=True))
    assert not (tmp_path / "out").exists() and content_id(item.prompt, "") != item.id


def test_the_defaults_are_vanilla_fine_tuning():
    plain = Method("label", "short", "doc", "card.", "tag", "circle", ("#000000", "#ffffff"), base=None)
    for seam in ("rows", "more", "weigh", "over", "loss", "after", "needs", "rewrites"):
        assert getattr(plain, seam) == getattr(METHODS["vanilla"], seam)


def test_what_cannot_go_together_is_said_before_anything_is_made():
    for tables, says in (
        ([{"method": "ladder+stm"}], r"tokens cannot be weighed where several versions of a row train, as in ladder"),
        ([{"method": "sdft+sdft"}], r"sdft stands there twice"),
        ([{"method": "self_only", "repair": True}], r"takes nothing from the references, and repair would"),
        ([{"method": "sdft", "name": "sdft-seed0"}], r"so are its trainings with several seeds"),
    ):
        with pytest.raises(UserError, match=says):
            arms(*tables)
    with pytest.raises(UserError, match=r"two of them would be named sdft-mix1"):
        arms({"method": "sdft"}, {"method": "vanilla", "name": "sdft-mix1"}, train={"mix_ratio": [0.5, 1.0]})


def test_an_arms_preset_says_what_its_rank_is():
    (arm,) = made = arms({"method": "vanilla", "train": {"preset": "strong"}}, train={"rank": 8})
    recipe = checked(Recipe, {"model": "m", "data": {"path": "d"}, "train": {"rank": 8}}, "r")
    assert training_of(arm, recipe).lora()["rank"] == 64 and made


def test_steps_of_repair_are_decided_when_a_run_begins(tmp_path):
    old = arms({"method": "vanilla"}, {"method": "sdft"})
    (tmp_path / "run.json").write_text(json.dumps({"arms": [asdict(arm) for arm in old]}))
    same_arms(tmp_path / "run.json", [*old, *arms({"method": "eaft"})])
    with pytest.raises(UserError, match=r"may be repaired by nothing, and these arms ask for place\. What is tried"):
        same_arms(tmp_path / "run.json", [*old, *arms({"method": "sdft", "name": "r", "repair": ["place"]})])


@pytest.mark.heavy
def test_an_adapter_of_another_loss_is_not_taken_for_vanillas(tmp_path, embedded):
    rows = [TrainingRow(e, e.references) for e in ROWS[:4]]
    settings, prompter = TrainSettings(epochs=1), Prompter.create(embedded.tokenizer)
    eaft = METHODS["eaft"]
    train(embedded, rows, tmp_path / "a", settings, prompter, objective=eaft.objective(eaft.settings()))
    with pytest.raises(UserError, match=r"holds an adapter with other objective"):
        train(embedded, rows, tmp_path / "a", settings, prompter)
