"""Shift of any two: prediction folders and files that any program wrote, models and adapters."""

from __future__ import annotations

import json
import math

import pytest
from conftest import cli, random_adapter, write_jsonl

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.data.examples import read_examples
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.shift import measure as drift
from selfdistill.shift.kl import divergences
from selfdistill.shift.weights import module_shifts, parameter_shift

pytest.importorskip("sacrebleu", reason="needs the paper extra")


def divergence(embedded, tuned, count=4):
    items = read_examples(DataSettings(path="micro:facts", split="test", sample=count))
    prompter = Prompter.create(embedded.tokenizer)
    return items, prompter, *divergences(embedded, tuned, items, prompter, 24, 0, lambda n: None)


@pytest.mark.heavy
def test_the_divergence_is_what_the_formula_says(embedded, tmp_path):
    import torch
    from peft import PeftModel

    folder = random_adapter(tmp_path / "a", 0.5)
    items, prompter, forward, reverse = divergence(embedded, folder)
    assert len(forward) == len(reverse) == 4 and all(x > 0 for x in (*forward, *reverse))
    # The first item by hand: the seed LM's own sample, both models' whole distributions, in the plainest way.
    from selfdistill.engines.protocol import Request, Sampling
    from selfdistill.engines.transformers import TransformersEngine

    engine = TransformersEngine(embedded, {prompter.end_id})
    prompt = prompter.evaluate(items[0].prompt)
    made = next(iter(engine.generate([Request(items[0].id, prompt, Sampling(24, temperature=1.0, seed=0))])))
    response = prompter.response(made.text)[: None if made.finish_reason == "stop" else -1]
    ids = torch.tensor([[*prompt.ids, *response]])
    with torch.no_grad():
        p = embedded.model(ids).logits[0].softmax(-1)
        q = PeftModel.from_pretrained(load_model("embedded").model, folder).eval()(ids).logits[0].softmax(-1)
    places = range(len(prompt.ids) - 1, ids.shape[1] - 1)
    by_hand = sum(float((p[t] * (p[t] / q[t]).log()).sum()) for t in places) / len(response)
    assert forward[0] == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.heavy
def test_a_model_does_not_diverge_from_itself_and_the_seed_is_left_as_it_was(embedded, tmp_path):
    import torch

    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = embedded.model(ids).logits
    nothing = random_adapter(tmp_path / "zero", 0.0)
    _, _, forward, reverse = divergence(embedded, nothing)
    assert max(*forward, *reverse) < 1e-6
    embedded.model.save_pretrained(tmp_path / "whole")
    embedded.tokenizer.save_pretrained(tmp_path / "whole")
    _, _, forward, reverse = divergence(embedded, str(tmp_path / "whole"), 2)
    assert max(*forward, *reverse) < 1e-4  # the seed LM's files hold bf16
    with torch.no_grad():
        assert torch.equal(embedded.model(ids).logits, before)


def test_another_vocabulary_is_refused(embedded, foreign_folder):
    with pytest.raises(UserError, match="another vocabulary"):
        divergence(embedded, str(foreign_folder), 2)


def test_weights_by_module_add_up_to_the_whole(tmp_path):
    folder = tmp_path / "a"
    random_adapter(folder, 0.3)
    modules, found = module_shifts(folder), drift.weights(str(folder), "embedded")
    assert math.sqrt(sum(n * n for n in modules.values())) == pytest.approx(parameter_shift(folder))
    assert found["norm"] == pytest.approx(parameter_shift(folder))
    assert set(found["kinds"]) == {"q_proj", "v_proj"} and len(found["modules"]) == 12
    assert math.hypot(*found["kinds"].values()) == pytest.approx(found["norm"])


def texts(path, rows):
    return write_jsonl(path, [{"id": i, "text": t} | more for i, t, more in rows])


@pytest.mark.heavy
def test_files_of_other_programs_are_compared(tmp_path):
    a = texts(tmp_path / "a.jsonl", [(k, f"the land of number {k} is far away", {}) for k in range(9)])
    same = drift.compare_texts(a, a)["all"]
    assert same["bleu4"]["value"] == same["rouge_l"]["value"] == same["similarity"]["value"] == 1
    assert same["length_ratio"] == {"value": 1, "low": 1, "high": 1}
    assert same["cut_off"][0]["value"] is None  # the file does not say
    rows = [(k, "no no " * 40 if k < 3 else "far", {"finish_reason": "length" if k < 3 else "stop"}) for k in range(9)]
    other = drift.compare_texts(a, texts(tmp_path / "b.jsonl", rows))["all"]
    assert other["bleu4"]["value"] < 0.5 and len(other["similarities"]) == 9
    assert other["cut_off"][1]["value"] == other["incoherent"][1]["value"] == pytest.approx(1 / 3)
    assert other["incoherent"][0]["value"] == 0
    for m in (other["length_ratio"], other["cut_off"][1], other["similarity"]):
        assert m["low"] < m["value"] < m["high"]
    done = cli("shift", a, tmp_path / "b.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stderr and "incoherent, b" in done.stderr
    assert json.loads(done.stdout)["pairs"][0]["texts"]["all"]["n"] == 9


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([{"id": 1, "answer": "x"}], "expected the columns id and text"),
        ([{"id": 1, "text": "x"}, {"id": 1, "text": "y"}], "occurs twice"),
        ([{"id": 2, "text": "x"}], "2"),
    ],
)
def test_bad_files_are_one_line(tmp_path, rows, word):
    a = texts(tmp_path / "a.jsonl", [(1, "x", {})])
    done = cli("shift", a, write_jsonl(tmp_path / "b.jsonl", rows))
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.heavy
def test_a_tuned_model_against_its_seed_by_the_command(tmp_path):
    folder = random_adapter(tmp_path / "a", 0.2)
    for name, extra in (("seed", []), ("tuned", ["--adapter", folder])):
        tasks = ["--task", "name=facts,path=micro:facts,limit=6,max_new_tokens=24",
                 "--task", "name=tools,path=micro:tools,role=target,limit=4,max_new_tokens=24"]  # fmt: skip
        done = cli("evaluate", "--model", "embedded", *extra, *tasks, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    done = cli("shift", tmp_path / "seed", tmp_path / "tuned", "--model", "embedded", "--adapter", folder,
               "--prompts", 3, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    pair = json.loads(done.stdout)["pairs"][0]
    assert set(pair["texts"]) == set(pair["kl"]) == {"target", "retained"}
    assert pair["kl"]["target"]["n"] == 3 and pair["kl"]["retained"]["forward"]["value"] > 0
    assert pair["weights"]["norm"] == pytest.approx(parameter_shift(tmp_path / "a"))
