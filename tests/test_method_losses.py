"""Methods that weigh tokens and rows, or change the loss: what each is, to the bit where it can be told.

Two losses are close where they differ by no more than 1e-6 of their size at any step.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from selfdistill.core.config import DataSettings, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import checked
from selfdistill.core.turns import Turn
from selfdistill.data.examples import read_examples
from selfdistill.methods import METHODS, asft, dft, eaft, flow, kl, method_named, stm
from selfdistill.methods.base import UNSCORED, Method, Seen
from selfdistill.methods.rows import training_rows
from selfdistill.models.prompts import Prompter
from selfdistill.stages.train import train
from selfdistill.training import trainer
from selfdistill.training.batches import Layout
from selfdistill.training.loss import response_loss
from selfdistill.training.objective import IGNORED, Objective
from selfdistill.training.tokens import sequences, tokenized, weighed

CLOSE = 1e-6
ANCHORED = (("kl_weight", 5.0),)


class Bare:
    """What the seed LM thinks of the tokens of rows, by a plain forward pass over each sequence."""

    def __init__(self, lm, rows):
        prompter, self.found = Prompter.create(lm.tokenizer), {}
        for row in rows:
            nlls, ends = [], []
            for ids, labels in sequences(row.example, row.responses, prompter):
                with torch.no_grad():
                    logs = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
                for n, label in enumerate(labels):
                    if label != IGNORED:
                        nlls.append(-logs[n - 1, label].item())
                        ends.append(label == prompter.end_id)
            self.found[row.id] = np.array(nlls, np.float32), np.array(ends)

    def nll(self, id):
        return self.found[id][0] if self.found[id] else None

    def ends(self, id):
        return self.found[id][1] if self.found[id] else None


def conversation():
    said = ("What is the capital of Veltria?", "It is Marn.", "And what do people eat there?")
    turns = tuple(Turn(role=role, content=text) for role, text in zip(("user", "assistant", "user"), said, strict=True))
    return Example(id="two-turns", prompt=turns, reference="Mostly bread and fish.", task="chat")


@pytest.fixture(scope="module")
def examples():
    tools, facts = (DataSettings(path=f"micro:{ability}", sample=n) for ability, n in (("rare_tools", 3), ("facts", 4)))
    return [*read_examples(tools), *read_examples(facts), conversation()]


@pytest.fixture(scope="module")
def references(examples):
    return [TrainingRow(e, e.references) for e in examples]


@pytest.fixture(scope="module")
def terms(embedded, references):
    return Bare(embedded, references)


@pytest.fixture(scope="module")
def rows_of(examples, terms):
    """(method, its settings) -> rows with their weights."""

    def made(name, **settings):
        method = method_named(name, "arm")
        return training_rows(method, Seen(examples), method.settings(**settings), f"arm {name}", lambda rows: terms)

    return made


@pytest.fixture(scope="module")
def trained(embedded, rows_of, tmp_path_factory):
    """(method, its settings, settings of the training) -> the folder of a training of two steps, made once."""
    made = {}

    def folder(name="vanilla", own=(), rows=None, objective=None, **settings):
        key = repr((name, own, rows, objective, settings))
        if key not in made:
            rows = rows or rows_of(name, **dict(own))
            method = method_named(name, "arm")
            objective = objective or method.objective(method.settings(**dict(own)))
            chosen = TrainSettings(**{"epochs": 1, "batch_size": 4, "lr": 3e-3, **settings})
            out = tmp_path_factory.mktemp("made") / "adapter"
            made[key] = train(embedded, rows, out, chosen, Prompter.create(embedded.tokenizer), objective=objective)
        return made[key]

    return folder


def digest(folder):
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def record(folder):
    return json.loads((folder / "training.json").read_text())


def losses(folder):
    return [x["loss"] for x in record(folder)["loss"]]


def close(one, other, rel=CLOSE):
    assert len(losses(one)) == len(losses(other)) == 2
    assert losses(one) == pytest.approx(losses(other), rel=rel)


def random_logits(count=6, size=40, seed=0):
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, size, generator=chance) * 3
    return logits.requires_grad_(), torch.randint(size, (count,), generator=chance)


# --- weights of rows and tokens ----------------------------------------------------------------------------------


def test_weights_of_one_are_vanilla_to_the_byte(trained, references, terms):
    ones = [(1.0,) * len(terms.nll(row.id)) if n % 2 else 1.0 for n, row in enumerate(references)]
    given = [replace(row, weights=weights) for row, weights in zip(references, ones, strict=True)]
    assert digest(trained(rows=given)) == digest(trained())


def test_equal_weights_over_weights_are_vanilla(trained, references):
    twice = [replace(row, weights=2.0) for row in references]
    close(trained(rows=twice, objective=Objective(over="weights")), trained())


def test_a_token_of_weight_0_changes_no_gradient(embedded, references):
    model, layout = embedded.fresh(), Layout(0, packed=False)
    made = sequences(references[0].example, references[0].responses, Prompter.create(embedded.tokenizer))[0]
    count = sum(label != IGNORED for label in made[1])
    row = replace(references[0], weights=tuple(float(n % 3) for n in range(count)))
    (ids, labels, given), = weighed(row, [made])  # fmt: skip
    others = [y if y == IGNORED or w else (y + 1) % 100 for y, w in zip(labels, given, strict=True)]
    assert others != labels

    def gradient(labels):
        lines = [tuple(map(np.asarray, (ids, labels, np.asarray(given, np.float32))))]
        loss = response_loss(model, layout(lines))
        return torch.autograd.grad(loss, model.get_input_embeddings().weight)[0]

    assert torch.equal(gradient(labels), gradient(others))
    assert gradient(labels).abs().max() > 0


@pytest.mark.parametrize("name", ["stm", "flow", "vanilla"])
def test_what_training_json_says_of_the_weights_is_a_recount(trained, rows_of, terms, name):
    rows, said = rows_of(name), record(trained(name))["trained"]
    weights = []
    for row in rows:
        count = len(terms.nll(row.id))
        weights += (
            row.weights if isinstance(row.weights, tuple) else [1.0 if row.weights is None else row.weights] * count
        )
    assert said["rows"] == len(rows) and said["tokens"] == len(weights)
    assert said["weights"] == pytest.approx(sum(weights), abs=1e-3)
    assert said["masked"] == pytest.approx(weights.count(0.0) / len(weights), abs=1e-4)
    assert said["sources"]["original"] == len(rows) and said["reference_tokens"] == 1


@pytest.mark.parametrize(
    ("name", "own"), [("stm", ()), ("flow", ()), ("asft", ANCHORED)], ids=["over weights", "over tokens", "anchored"]
)
@pytest.mark.heavy
def test_the_cut_into_batches_and_packing_change_no_loss(trained, name, own):
    cut = trained(name, own, batch_size=2, accumulation=2, packing=True)
    close(cut, trained(name, own), rel=1e-5)  # sums of other shapes round otherwise


def test_held_out_rows_are_measured_without_weights(embedded, rows_of):
    data = tokenized(rows_of("stm"), Prompter.create(embedded.tokenizer), 0.5, 512, 0)
    assert data.held_examples == 4 and [line[2] for line in data.held] == [None] * len(data.held)
    assert any(line[2] for line in data.train)


# --- STM ---------------------------------------------------------------------------------------------------------


def masked(rows):
    return {(row.id, n) for row in rows for n, weight in enumerate(row.weights) if weight == 0}


def test_stm_with_no_highest_perplexity_is_vanilla_to_the_byte(trained):
    assert digest(trained("stm", (("threshold", 1e30),))) == digest(trained())


def test_stm_masks_what_surprises_the_seed_lm(rows_of, references, terms):
    for threshold in (1.5, 2.5, 10):
        rows = rows_of("stm", threshold=threshold, keep_end=False)
        perplexities = {(row.id, n): math.exp(nll) for row in rows for n, nll in enumerate(terms.nll(row.id))}
        assert masked(rows) == {place for place, perplexity in perplexities.items() if perplexity > threshold}
        assert {weight for row in rows for weight in row.weights} == {0.0, 1.0}
        assert [replace(row, weights=None) for row in rows] == references  # what is read is the same


def test_stm_masks_less_at_a_higher_threshold(rows_of):
    one, two, three = (masked(rows_of("stm", threshold=t)) for t in (1.2, 2.5, 25))
    assert one > two > three


def test_stm_keeps_the_ends_of_all_turns(rows_of, terms):
    ends = {(id, n) for id, (_, found) in terms.found.items() for n in np.flatnonzero(found)}
    assert len(ends) == len(terms.found) + 1  # one row has two turns
    nothing = 1 - 1e-9
    assert not masked(rows_of("stm", threshold=nothing)) & ends
    assert masked(rows_of("stm", threshold=nothing, keep_end=False)) >= ends


def test_stm_that_masks_everything_is_refused(embedded, rows_of, tmp_path):
    rows = rows_of("stm", threshold=1 - 1e-9, keep_end=False)
    tokens = sum(len(row.weights) for row in rows)
    with pytest.raises(UserError, match=rf"^arm stm: no token is left to train on: all of {tokens} weigh 0\.$"):
        train(embedded, rows, tmp_path / "out", TrainSettings(), Prompter.create(embedded.tokenizer), name="arm stm")
    assert not list(tmp_path.iterdir())


def test_the_random_control_masks_as_many(rows_of):
    for keep_end in (True, False):
        true, control = (rows_of("stm", keep_end=keep_end, control=how) for how in (None, "random"))
        assert [row.weights.count(0.0) for row in true] == [row.weights.count(0.0) for row in control]
        assert masked(true) != masked(control)
        assert control == rows_of("stm", keep_end=keep_end, control="random")


# --- FLOW --------------------------------------------------------------------------------------------------------


def test_flow_at_a_high_temperature_trains_what_vanilla_does(embedded, rows_of, references):
    made = [tokenized(rows, Prompter.create(embedded.tokenizer), 0, 512, 0) for rows in (
        rows_of("flow", tau=1e30), references
    )]  # fmt: skip
    assert made[0] == made[1]


def test_flow_weighs_rows_by_their_likelihood(rows_of, terms):
    rows = rows_of("flow")
    means = [float(terms.nll(row.id).astype(np.float64).mean()) for row in rows]
    assert [row.weights for row in rows] == pytest.approx([math.exp(-f / median(means)) for f in means])
    by_weight, by_nll = sorted(rows, key=lambda row: -row.weights), np.argsort(means)
    assert by_weight == [rows[n] for n in by_nll]
    assert [row.weights for row in rows_of("flow", tau=2.0)] == pytest.approx([math.exp(-f / 2) for f in means])


def test_flow_may_weigh_each_token(rows_of, terms):
    for row in rows_of("flow", tau=2.0, per="token"):
        assert row.weights == pytest.approx(np.exp(-terms.nll(row.id) / 2).tolist())


class Alike:
    """A seed LM that finds all tokens equally likely."""

    def __init__(self, terms, nll):
        self.terms, self.each = terms, nll

    def nll(self, id):
        return np.full_like(self.terms.nll(id), self.each)


def test_flow_over_weights_is_vanilla_where_all_rows_are_equally_likely(trained, references, terms):
    alike = flow.weigh(references, Alike(terms, 0.7), flow.Flow())
    assert [row.weights for row in alike] == pytest.approx([math.exp(-1)] * len(alike))
    close(trained(rows=alike, objective=METHODS["flow"].objective(flow.Flow(over="weights"))), trained())


def test_flow_with_a_seed_lm_that_is_certain_weighs_rows_alike(references, terms):
    assert {row.weights for row in flow.weigh(references, Alike(terms, 0.0), flow.Flow())} == {1.0}


def test_a_row_without_terms_says_so(references, terms):
    lacking = Bare.__new__(Bare)
    lacking.found = terms.found | {references[0].id: None}
    masking, weighing = stm.weigh(references, lacking, stm.Stm()), flow.weigh(references, lacking, flow.Flow())
    assert masking[0] == replace(references[0], reason=UNSCORED)
    assert weighing[0] == replace(references[0], reason=UNSCORED, weights=pytest.approx(math.exp(-1)))
    assert {row.reason for row in (*masking[1:], *weighing[1:])} == {"reference"}
    lacking.found = dict.fromkeys(terms.found)
    assert {row.weights for row in flow.weigh(references, lacking, flow.Flow())} == {1.0}


# --- EAFT and DFT ------------------------------------------------------------------------------------------------


def test_eaft_without_an_exponent_is_vanilla(trained):
    close(trained("eaft", (("alpha", 0.0),)), trained())


@pytest.mark.parametrize(("size", "entropy"), [(40, math.log(20)), (7, math.log(7))])
def test_eaft_weighs_what_the_model_is_unsure_of(size, entropy):
    targets = torch.tensor([0, 1])
    unsure = eaft.per_token(torch.zeros(2, size), targets, None, eaft.Eaft())
    torch.testing.assert_close(unsure, torch.full((2,), entropy / 3 * math.log(size)))
    certain = torch.full((2, size), -math.inf)
    certain[:, 3] = 0
    certain = certain.clamp(min=-1e4)
    assert torch.equal(eaft.per_token(certain, targets, None, eaft.Eaft()), torch.zeros(2))
    assert eaft.per_token(certain, targets, None, eaft.Eaft(alpha=0)).tolist() == [1e4, 1e4]


def gradients(losses, logits):
    return [torch.autograd.grad(loss, logits, retain_graph=True)[0][n] for n, loss in enumerate(losses)]


def test_no_gradient_flows_through_the_weights():
    logits, targets = random_logits()
    plain = cross_entropy(logits, targets, reduction="none")
    top = logits.detach().topk(20).values.log_softmax(-1)
    entropies = -(top.exp() * top).sum(-1)
    for losses_of, weights in (
        (eaft.per_token(logits, targets, None, eaft.Eaft()), entropies / 3),
        (eaft.per_token(logits, targets, None, eaft.Eaft(alpha=2)), (entropies / 3) ** 2),
        (dft.per_token(logits, targets), logits.detach().softmax(-1)[range(6), targets]),
    ):
        torch.testing.assert_close(losses_of, weights * plain)
        for n, (mine, theirs) in enumerate(zip(gradients(losses_of, logits), gradients(plain, logits), strict=True)):
            torch.testing.assert_close(mine, weights[n] * theirs)


def test_dft_gives_the_unknown_hardly_any_gradient():
    logits = torch.zeros(1, 40)
    logits[0, 0] = 20
    known, unknown = (dft.per_token(logits, torch.tensor([n])).item() for n in (0, 1))
    assert known < 1e-6 and unknown < 1e-6 < cross_entropy(logits, torch.tensor([1])).item()


# --- the KL anchor and ASFT --------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_torch_over_the_whole_vocabulary():
    logits, targets = random_logits()
    seed, _ = random_logits(seed=1)
    theirs = kl_div(logits.log_softmax(-1), seed.softmax(-1), reduction="none").sum(-1)
    assert (theirs > 0).all()
    plain = cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(kl.per_token(logits, targets, seed, kl.Kl(kl_weight=0.5)), plain + 0.5 * theirs)
    weighted = dft.per_token(logits, targets)
    torch.testing.assert_close(asft.per_token(logits, targets, seed, kl.Kl(kl_weight=0.5)), weighted + 0.5 * theirs)


def test_the_divergence_from_itself_is_0_and_has_no_gradient():
    logits, _ = random_logits()
    found = kl.divergence(logits.log_softmax(-1), logits.detach())
    assert torch.equal(found, torch.zeros(6))
    assert torch.autograd.grad(found.sum(), logits)[0].abs().max() < 1e-6


def test_an_anchor_of_weight_0_is_vanilla(trained):
    close(trained("kl", (("kl_weight", 0.0),)), trained())


@pytest.mark.parametrize(("name", "plain"), [("kl", "vanilla"), ("asft", "dft")])
def test_the_anchor_is_0_at_first_and_pulls_later(trained, name, plain):
    anchored, free = losses(trained(name, ANCHORED)), losses(trained(plain))
    assert anchored[0] == pytest.approx(free[0], rel=CLOSE)
    assert all(a > b for a, b in zip(anchored[1:], free[1:], strict=True))


def test_the_seed_lm_is_asked_with_its_adapter_off_and_stays_as_it_was(embedded, references, tmp_path):
    before = {name: value.clone() for name, value in embedded.model.state_dict().items()}
    seen = []

    def look(model, inputs):
        layers = [m for m in model.modules() if hasattr(m, "lora_A")]
        on = {not m.disable_adapters for m in layers}
        trains = {p.requires_grad for m in layers for p in m.lora_A.parameters()}
        seen.append((on, trains, model.training, torch.is_grad_enabled()))

    hook = embedded.model.register_forward_pre_hook(look)
    method, settings = METHODS["kl"], TrainSettings(batch_size=4, epochs=1, dropout=0.1)
    try:
        prompter = Prompter.create(embedded.tokenizer)
        train(embedded, references, tmp_path / "a", settings, prompter, objective=method.objective(kl.Kl()))
    finally:
        hook.remove()
    assert seen == [({True}, {True}, True, True), ({False}, {False}, False, False)] * 2
    after = embedded.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.heavy
def test_where_all_weights_train_a_second_copy_is_the_seed_lm(trained, embedded, monkeypatch):
    copies, beside = [], trainer._seed_beside

    def kept(*args):
        copies.append(beside(*args))
        return copies[-1]

    monkeypatch.setattr(trainer, "_seed_beside", kept)
    how = {"tune": "full", "lr": 1e-3}
    anchored, free = losses(trained("kl", ANCHORED, **how)), losses(trained(**how))
    assert anchored[0] == pytest.approx(free[0], rel=CLOSE) and anchored[1] > free[1]
    copy, none = copies
    assert none is None and not any(p.requires_grad for p in copy.parameters())
    seed = embedded.fresh().state_dict()
    assert all(torch.equal(value, seed[name]) for name, value in copy.state_dict().items())


# --- as methods --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("stm", "threshold", 0),
        ("stm", "control", "low"),
        ("flow", "tau", -1),
        ("flow", "over", "rows"),
        ("eaft", "alpha", -0.5),
        ("kl", "kl_weight", -1),
        ("asft", "kl_weight", math.nan),
        ("stm", "tau", 1),
        ("dft", "alpha", 1),
    ],
)
def test_bad_settings_are_named(name, key, value):
    with pytest.raises(UserError, match=rf"^arms: {name}.*{key}"):
        checked(METHODS[name].settings, {key: value}, f"arms: {name}")


def test_weights_and_losses_go_together():
    both = method_named("stm+asft", "arms")
    assert both.weigh is stm.weigh and both.loss is METHODS["asft"].loss
    chosen = both.settings(threshold=3, kl_weight=0.2)
    assert both.objective(chosen) == Objective(METHODS["asft"].loss, "weights", chosen)
    for name, what in (("stm+flow", "weigh"), ("eaft+kl", "loss")):
        with pytest.raises(UserError, match=f"both decide the {what} of a training"):
            method_named(name, "arms")


def test_a_setting_says_what_a_step_is_divided_by():
    assert METHODS["flow"].objective(flow.Flow()).over == "tokens"
    assert METHODS["flow"].objective(flow.Flow(over="weights")).over == "weights"
    plain = Method("label", "short", "doc", "card.", "tag", "circle", ("#000000", "#ffffff"))
    assert plain.objective(plain.settings()) == Objective()
