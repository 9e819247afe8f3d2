"""One contract for all engines, and what Ray says of a cluster."""

from __future__ import annotations

import gc
import importlib.util
import time
from collections import namedtuple
from dataclasses import replace
from itertools import islice

import pytest
import torch
from conftest import random_adapter

from selfdistill.core.engine_settings import RaySettings, TransformersSettings, VllmSettings
from selfdistill.core.errors import UserError
from selfdistill.engines import vllm
from selfdistill.engines.local import end_ids
from selfdistill.engines.open import make_engine
from selfdistill.engines.protocol import Request, Sampling, Scoring
from selfdistill.engines.ray import RayEngine
from selfdistill.microworld.world import ABILITIES, items
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.models.templates import USING

LIMIT = 40


def requests_for(lm, sampling=None, count=3):
    """Prompts of every ability in the model's chat template."""
    prompter = Prompter(lm.tokenizer, "chat", USING)
    rows = [i for a in ABILITIES for i in islice(items(a, "test"), count)]
    prompts = [prompter.train([{"role": "user", "content": i.prompt[:200]}]) for i in rows]
    return [Request(f"r{n}", p, sampling or Sampling(LIMIT)) for n, p in enumerate(prompts)]


PLAIN = {}


def one_by_one(lm, request):
    """(text, tokens, stopped) as plain `generate` gives them; what was asked before is remembered."""
    key = id(lm.model), request.prompt.ids, request.sampling.max_new_tokens
    if key not in PLAIN:
        ends = end_ids(lm, Prompter(lm.tokenizer, "chat", USING))
        ids = torch.tensor([request.prompt.ids])
        out = lm.model.generate(ids, max_new_tokens=key[2], do_sample=False, eos_token_id=sorted(ends))
        made = out[0, ids.shape[1] :]
        text = lm.tokenizer.decode(made, skip_special_tokens=True).strip()
        PLAIN[key] = lm.model, (text, len(made), int(made[-1]) in ends)  # a model that lives keeps its id
    return PLAIN[key][1]


def texts(engine, requests):
    return {c.id: c.text for c in engine.generate(requests)}


def local(settings, lm):
    return make_engine(settings, lm, Prompter(lm.tokenizer, "chat", USING))


# --- the contract ------------------------------------------------------------------------------------------------


def _needs(module, how):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}: {how}")


VLLM = _needs("vllm", "benchmarks/vllm_environment.sh makes an environment that has it")
RAY = _needs("ray", "pip install 'selfdistill[ray]'")


@pytest.fixture(
    scope="module",
    params=[
        "transformers",
        "transformers, foreign model",
        pytest.param("vllm", marks=VLLM),
        pytest.param("ray", marks=[RAY, pytest.mark.heavy]),
        pytest.param("ray with vllm", marks=[VLLM, RAY, pytest.mark.heavy]),
    ],
)
def contract(request, embedded, foreign_folder):
    """(seed LM, engine)."""
    lm = load_model(str(foreign_folder)) if "foreign" in request.param else embedded
    name = request.param.partition(",")[0]
    settings = {
        "transformers": TransformersSettings(rows=8),
        "vllm": VllmSettings(dtype="float32", max_num_seqs=8),
        "ray": RaySettings(workers=1, local=TransformersSettings(rows=8)),
        "ray with vllm": RaySettings(workers=1, local=VllmSettings(dtype="float32", max_num_seqs=8)),
    }[name]
    engine = local(settings, lm)
    yield lm, engine
    engine.close()


@pytest.fixture(scope="module")
def asked(contract):
    """What every engine is asked, by the kind of request."""
    lm, _ = contract
    rows = requests_for(lm)
    long = Prompt(tuple(rows[0].prompt.ids[:5]) * lm.context)
    nearly = Prompt((rows[0].prompt.ids * 100)[: lm.context - 2])
    whole = {r.id: one_by_one(lm, r)[0] for r in requests_for(lm, count=1)}
    stops = {key: text[len(text) // 2 :][:3] for key, text in whole.items() if len(text) > 20}
    assert stops
    kinds = {
        "greedy": rows,
        "bad": [Request("long", long, Sampling(4)), Request("empty", Prompt(()), Sampling(4))],
        "short": [*requests_for(lm, Sampling(3)), Request("nearly", nearly, Sampling(50))],
        "stopped": [
            replace(r, sampling=Sampling(LIMIT, stop=("never there", stops[r.id])))
            for r in requests_for(lm, count=1)
            if r.id in stops
        ],
        "likely": [replace(r, sampling=Sampling(LIMIT, logprobs=r.id != "r0")) for r in rows[:6]],
        "sampled": requests_for(lm, Sampling(20, temperature=1.0, top_p=0.9, seed=5)),
        "twins": [Request(f"r{n}", rows[0].prompt, Sampling(20, temperature=2.0, seed=5)) for n in range(8)],
    }
    return {kind: [replace(r, id=f"{kind}/{r.id}") for r in requests] for kind, requests in kinds.items()}


@pytest.fixture(scope="module")
def done(contract, asked):
    """The answers to all of it, asked at once: starting the workers of a cluster takes long."""
    _, engine = contract
    return list(engine.generate(request for kind in asked.values() for request in kind))


@pytest.fixture(scope="module")
def answers(done):
    return {c.id: c for c in done}


def test_every_id_comes_once(asked, done):
    assert sorted(c.id for c in done) == sorted(r.id for kind in asked.values() for r in kind)


def test_greedy_texts_are_those_of_one_by_one_generate(contract, asked, answers):
    lm, _ = contract
    for request in asked["greedy"]:
        text, tokens, stopped = one_by_one(lm, request)
        completion = answers[request.id]
        assert (completion.text, completion.tokens) == (text, tokens)
        assert completion.finish_reason == ("stop" if stopped else "length") and completion.error is None
        assert completion.prompt_tokens == len(request.prompt.ids)


def test_a_bad_request_is_an_answer_and_stops_no_other(contract, answers):
    lm, engine = contract
    for key in ("bad/long", "bad/empty"):
        assert answers[key].finish_reason == "rejected" and answers[key].text == ""
    assert str(lm.context) in answers["bad/long"].error and "empty" in answers["bad/empty"].error
    assert all(c.error is None and c.tokens for c in answers.values() if not c.id.startswith("bad"))
    assert list(engine.generate([])) == list(engine.score([])) == []


def test_length_limits_and_the_context_hold(asked, answers):
    *short, nearly = (answers[r.id] for r in asked["short"])
    assert nearly.tokens <= 2 and nearly.finish_reason in ("stop", "length")
    assert all(c.tokens <= 3 for c in short)


def test_a_stop_string_ends_the_text_before_it(contract, asked, answers):
    lm, _ = contract
    for request in asked["stopped"]:
        text, tokens, _ = one_by_one(lm, replace(request, sampling=Sampling(LIMIT)))
        completion = answers[request.id]
        assert completion.text == text.partition(request.sampling.stop[1])[0].strip()
        assert completion.finish_reason == "stop" and completion.tokens <= tokens


def test_a_sampled_text_depends_on_its_seed(answers):
    assert len({c.text for key, c in answers.items() if key.startswith("twins")}) > 1


def test_scores_are_the_models_own_log_likelihoods_and_those_of_generation(contract, asked, answers):
    lm, engine = contract
    responses = [(5, 7, 9), (11,), (5, 7, 9, 11, 13, 15, 17)]
    assert engine.scores_tokens
    tops = [0, 3, 0, 1000]  # more than the vocabulary of one of the models
    scorings = [
        Scoring(r.id, r.prompt.ids, responses[i % 3], tokens=i % 4 == 2, top=tops[i % 4])
        for i, r in enumerate(asked["greedy"])
    ]
    scorings.append(Scoring("long", scorings[0].prompt * 200, (5,)))
    first, *likely = asked["likely"]
    assert answers[first.id].logprobs is None
    for r in likely:
        ids, tokens = r.prompt.ids, answers[r.id].tokens
        made = lm.model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)[0, len(ids) :]
        scorings.append(Scoring(r.id, ids, tuple(made.tolist()[:tokens])))
    batches = [scorings[i : i + 4] for i in range(0, len(scorings), 4)]
    answered = list(engine.score(iter(batches)))
    assert sorted([s.id for s in batch] for batch in answered) == sorted([s.id for s in batch] for batch in batches)
    scores = {s.id: s.nll for batch in answered for s in batch}
    terms = {s.id: s.terms for batch in answered for s in batch}
    assert scores.pop("long") is terms.pop("long") is None
    for s in scorings:
        if s.id != "long":
            with torch.no_grad():
                logits = lm.model(torch.tensor([s.prompt + s.response])).logits[0, len(s.prompt) - 1 : -1].float()
            wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(s.response), reduction="sum").item()
            assert scores[s.id] == pytest.approx(wanted, abs=2e-3, rel=1e-4)
            assert_terms(terms[s.id], s, logits.log_softmax(-1))
    for r in likely:
        assert len(answers[r.id].logprobs) == answers[r.id].tokens
        assert -sum(answers[r.id].logprobs) == pytest.approx(scores[r.id], rel=1e-3, abs=5e-3)


def assert_terms(terms, scoring, logs):
    """They are there where they were asked for, and those of log-probabilities (T, vocabulary)."""
    if not (scoring.tokens or scoring.top):
        assert terms is None
        return
    own = logs.gather(-1, torch.tensor(scoring.response)[:, None])[:, 0]
    assert terms.nll.dtype == "float32" and terms.nll == pytest.approx(-own.numpy(), abs=2e-3, rel=1e-4)
    if not scoring.top:
        assert terms.top is terms.logprobs is None
        return
    most = logs.topk(min(scoring.top, logs.shape[-1])).values.numpy()
    assert (terms.top.dtype, terms.logprobs.dtype) == ("int32", "float32")
    assert terms.top.shape == terms.logprobs.shape == most.shape
    assert terms.logprobs == pytest.approx(most, abs=2e-3, rel=1e-4)
    assert logs.gather(-1, torch.tensor(terms.top).long()).numpy() == pytest.approx(most, abs=2e-3, rel=1e-4)


def test_the_likeliest_tokens_are_read_from_what_vllm_says_of_a_place():
    """It names the text's own token first, too, where that is none of them."""
    Said = namedtuple("Said", "logprob rank")
    places = [
        {9: Said(-5.0, 40), 4: Said(-0.5, 1), 2: Said(-1.0, 2)},
        {2: Said(-1.0, 2), 4: Said(-0.5, 1)},
    ]
    terms = vllm._terms([-5.0, -1.0], places, 2)
    assert terms.nll.tolist() == [5, 1] and terms.top.tolist() == [[4, 2], [4, 2]]
    assert terms.logprobs.tolist() == [[-0.5, -1.0], [-0.5, -1.0]]
    assert vllm._terms([-5.0, -1.0], places, 0).top is None


@pytest.fixture(scope="module")
def strong_adapter(embedded, tmp_path_factory):
    """A LoRA adapter that changes what the embedded model says."""
    return random_adapter(tmp_path_factory.mktemp("adapter"), std=0.4)


def test_an_adapter_is_on_within_its_block_only(contract, asked, answers, strong_adapter, tmp_path, foreign_folder):
    from peft import LoraConfig, PeftModel, get_peft_model

    lm, engine = contract
    if lm.name != "embedded":
        pytest.skip("the adapter is the embedded model's")
    requests = asked["greedy"][::3]
    foreign = load_model(str(foreign_folder)).model
    get_peft_model(foreign, LoraConfig(target_modules=["query_key_value"])).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit this model") as kept, engine.adapter(str(tmp_path)):
        list(engine.generate(requests))
    with engine.adapter(strong_adapter):  # the error that is still held holds no worker
        within = texts(engine, requests)
    assert kept.tb
    own = {r.id: answers[r.id].text for r in requests}
    assert within != own
    if not isinstance(engine, RayEngine):  # its workers are started for each call: the next one is in the test below
        assert texts(engine, requests) == own
    plain = load_model("embedded")
    plain.model = PeftModel.from_pretrained(plain.model, strong_adapter).eval()
    assert within == {r.id: one_by_one(plain, r)[0] for r in requests}


def test_closed_and_started_again_it_answers_the_same_in_any_order_and_company(contract, asked, answers):
    _, engine = contract
    engine.close()
    requests = [*reversed(asked["greedy"]), *asked["sampled"][3:5]]
    assert {c.id: c for c in engine.generate(requests)} == {r.id: answers[r.id] for r in requests}
    assert engine.describe()["dtype"] == "float32"


# --- the ray engine ---


def test_what_can_never_run_on_a_cluster_is_one_line(contract, embedded):
    """On the cluster that the engine of the contract has started."""
    if not isinstance(contract[1], RayEngine):
        pytest.skip("no cluster")
    engine = local(RaySettings(gpus=64), embedded)
    with pytest.raises(UserError, match=r"engine.gpus = 64: the cluster has 0 GPUs"):
        list(engine.generate(requests_for(embedded)[:1]))
    engine = local(RaySettings(), embedded)
    engine._worker = engine._worker | {"digest": "another"}
    kept = []
    gc.disable()
    try:
        with pytest.raises(UserError, match="other files under this name") as error:
            list(engine.generate(requests_for(embedded)))
        kept.append(error)
        _all_workers_are_gone()  # though what was raised is still held
    finally:
        gc.enable()
    engine._worker = engine._worker | {"settings": None}
    with pytest.raises(UserError, match=r"a worker failed: .*NoneType"):
        list(engine.generate(requests_for(embedded)[:1]))
    engine.close()


def _all_workers_are_gone():
    import ray

    until = time.monotonic() + 20
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < until, ray.available_resources()
        time.sleep(0.2)
