"""One contract for all engines, then what the transformers engine does beyond it."""

from __future__ import annotations

import gc
import importlib.util
import time
from dataclasses import replace
from itertools import islice

import pytest
import torch
from conftest import random_adapter

from selfdistill.core.config import RaySettings, TransformersSettings, VllmSettings
from selfdistill.core.errors import UserError
from selfdistill.engines.local import end_ids
from selfdistill.engines.open import make_engine
from selfdistill.engines.protocol import Request, Sampling, Scoring
from selfdistill.engines.transformers import TransformersEngine
from selfdistill.microworld.world import ABILITIES, items
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.seed_lm import SeedLM, load_model
from selfdistill.models.templates import USING

LIMIT = 40


def requests_for(lm, sampling=None, count=3):
    """Prompts of every ability in the model's chat template."""
    prompter = Prompter(lm.tokenizer, "chat", USING)
    rows = [i for a in ABILITIES for i in islice(items(a, "test"), count)]
    prompts = [prompter.train([{"role": "user", "content": i.prompt[:200]}]) for i in rows]
    return [Request(f"r{n}", p, sampling or Sampling(LIMIT)) for n, p in enumerate(prompts)]


def one_by_one(lm, request):
    """(text, tokens, stopped) as plain `generate` gives them."""
    ends = end_ids(lm, Prompter(lm.tokenizer, "chat", USING))
    ids = torch.tensor([request.prompt.ids])
    out = lm.model.generate(
        ids, max_new_tokens=request.sampling.max_new_tokens, do_sample=False, eos_token_id=sorted(ends)
    )
    made = out[0, ids.shape[1] :]
    return lm.tokenizer.decode(made, skip_special_tokens=True).strip(), len(made), int(made[-1]) in ends


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


def test_greedy_texts_are_those_of_one_by_one_generate_and_every_id_comes_once(contract):
    lm, engine = contract
    requests = requests_for(lm)
    done = list(engine.generate(iter(requests)))
    assert sorted(c.id for c in done) == sorted(r.id for r in requests)
    by_id = {c.id: c for c in done}
    for request in requests:
        text, tokens, stopped = one_by_one(lm, request)
        completion = by_id[request.id]
        assert (completion.text, completion.tokens) == (text, tokens)
        assert completion.finish_reason == ("stop" if stopped else "length") and completion.error is None
        assert completion.prompt_tokens == len(request.prompt.ids)
    again = {c.id: c for c in engine.generate(reversed(requests))}
    assert again == by_id


def test_a_bad_request_is_an_answer_and_stops_no_other(contract):
    lm, engine = contract
    good = requests_for(lm)[:3]
    long = Prompt(tuple(good[0].prompt.ids[:5]) * lm.context)
    bad = [Request("long", long, Sampling(4)), Request("empty", Prompt(()), Sampling(4))]
    done = {c.id: c for c in engine.generate([bad[0], *good, bad[1]])}
    assert sorted(done) == ["empty", "long", "r0", "r1", "r2"]
    for key in ("long", "empty"):
        assert done[key].finish_reason == "rejected" and done[key].text == ""
    assert str(lm.context) in done["long"].error and "empty" in done["empty"].error
    assert all(done[r.id].error is None and done[r.id].tokens for r in good)
    assert list(engine.generate([])) == list(engine.score([])) == []


def test_length_limits_and_the_context_hold(contract):
    lm, engine = contract
    nearly = Request("long", Prompt((requests_for(lm)[0].prompt.ids * 100)[: lm.context - 2]), Sampling(50))
    done = {c.id: c for c in engine.generate([*requests_for(lm, Sampling(3)), nearly])}
    assert done["long"].tokens <= 2 and done["long"].finish_reason in ("stop", "length")
    assert all(c.tokens <= 3 for c in done.values())


def test_a_stop_string_ends_the_text_before_it(contract):
    lm, engine = contract
    whole = {r.id: one_by_one(lm, r) for r in requests_for(lm, count=1)}
    long = {key: text for key, (text, _, _) in whole.items() if len(text) > 20}
    assert long
    stops = {key: text[len(text) // 2 :][:3] for key, text in long.items()}
    asked = [
        replace(r, sampling=Sampling(LIMIT, stop=("never there", stops[r.id])))
        for r in requests_for(lm, count=1)
        if r.id in long
    ]
    for c in engine.generate(asked):
        assert c.text == long[c.id].partition(stops[c.id])[0].strip()
        assert c.finish_reason == "stop" and c.tokens <= whole[c.id][1]


def test_log_probabilities_are_those_of_the_scores(contract):
    lm, engine = contract
    plain = requests_for(lm)[:6]
    asked = [replace(r, sampling=Sampling(LIMIT, logprobs=r.id != "r0")) for r in plain]
    done = {c.id: c for c in engine.generate(asked)}
    assert done.pop("r0").logprobs is None
    scorings = []
    for c in done.values():
        prompt = next(r.prompt.ids for r in plain if r.id == c.id)
        made = lm.model.generate(torch.tensor([prompt]), max_new_tokens=c.tokens, do_sample=False)[0, len(prompt) :]
        scorings.append(Scoring(c.id, prompt, tuple(made.tolist()[: c.tokens])))
    (scores,) = engine.score([scorings])
    for score in scores:
        assert len(done[score.id].logprobs) == done[score.id].tokens
        assert -sum(done[score.id].logprobs) == pytest.approx(score.nll, rel=1e-3, abs=5e-3)


def test_a_sampled_text_depends_on_its_id_and_seed_and_not_on_its_neighbours(contract):
    lm, engine = contract
    requests = requests_for(lm, Sampling(20, temperature=1.0, top_p=0.9, seed=5))
    hot = Sampling(20, temperature=2.0, seed=5)
    twins = [Request(f"twin{i}", requests[0].prompt, hot) for i in range(8)]
    together = {c.id: c.text for c in engine.generate([*twins, *requests])}
    alone = {c.id: c.text for c in engine.generate(requests[3:5])}
    assert alone == {key: together[key] for key in alone}
    assert len({together[r.id] for r in twins}) > 1


def test_scores_are_the_models_own_log_likelihoods(contract):
    lm, engine = contract
    responses = [(5, 7, 9), (11,), (5, 7, 9, 11, 13, 15, 17)]
    scorings = [Scoring(r.id, r.prompt.ids, responses[i % 3]) for i, r in enumerate(requests_for(lm))]
    scorings.append(Scoring("long", scorings[0].prompt * 200, (5,)))
    batches = [scorings[i : i + 4] for i in range(0, len(scorings), 4)]
    answered = list(engine.score(iter(batches)))
    assert sorted([s.id for s in batch] for batch in answered) == sorted([s.id for s in batch] for batch in batches)
    scores = {s.id: s.nll for batch in answered for s in batch}
    assert scores.pop("long") is None
    for s in scorings[:-1]:
        with torch.no_grad():
            logits = lm.model(torch.tensor([s.prompt + s.response])).logits[0, len(s.prompt) - 1 : -1].float()
        wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(s.response), reduction="sum").item()
        assert scores[s.id] == pytest.approx(wanted, abs=2e-3, rel=1e-4)


@pytest.fixture(scope="module")
def strong_adapter(embedded, tmp_path_factory):
    """A LoRA adapter that changes what the embedded model says."""
    return random_adapter(tmp_path_factory.mktemp("adapter"), std=0.4)


def test_an_adapter_is_on_within_its_block_only(contract, strong_adapter, tmp_path, foreign_folder):
    from peft import LoraConfig, PeftModel, get_peft_model

    lm, engine = contract
    if lm.name != "embedded":
        pytest.skip("the adapter is the embedded model's")
    requests = requests_for(lm, Sampling(24), count=1)
    foreign = load_model(str(foreign_folder)).model
    get_peft_model(foreign, LoraConfig(target_modules=["query_key_value"])).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit this model") as kept, engine.adapter(str(tmp_path)):
        list(engine.generate(requests))
    before = {c.id: c.text for c in engine.generate(requests)}  # the error that is still held holds no worker
    assert kept.tb
    with engine.adapter(strong_adapter):
        within = {c.id: c.text for c in engine.generate(requests)}
    assert {c.id: c.text for c in engine.generate(requests)} == before != within
    plain = load_model("embedded")
    plain.model = PeftModel.from_pretrained(plain.model, strong_adapter).eval()
    assert within == {r.id: one_by_one(plain, r)[0] for r in requests}


def test_it_starts_again_after_closing(contract):
    lm, engine = contract
    requests = requests_for(lm)[:2]
    before = {c.id: c for c in engine.generate(requests)}
    engine.close()
    assert {c.id: c for c in engine.generate(requests)} == before
    assert engine.describe()["dtype"] == "float32"


# --- the ray engine ---


@RAY
@pytest.mark.heavy
def test_what_can_never_run_on_a_cluster_is_one_line(embedded, tmp_path):
    engine = local(RaySettings(gpus=64), embedded)
    with pytest.raises(UserError, match=r"engine.gpus = 64: the cluster has 0 GPUs"):
        list(engine.generate(requests_for(embedded)[:1]))
    engine = local(RaySettings(), embedded)
    engine._worker = engine._worker | {"digest": "another"}
    kept = []
    gc.disable()
    try:
        for _ in range(4):
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


# --- the transformers engine -------------------------------------------------------------------------------------


def texts(engine, requests):
    return {c.id: c.text for c in engine.generate(requests)}


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_texts_do_not_depend_on_how_many_rows_run_together(embedded, rows):
    """Long and short prompts and answers, so that slots are refilled, the window moves and the buffers grow."""
    long = Prompt(requests_for(embedded)[0].prompt.ids * 12)
    requests = [*requests_for(embedded, Sampling(80), count=2), Request("long", long, Sampling(150))]
    requests[4] = replace(requests[4], sampling=Sampling(1))
    done = texts(local(TransformersSettings(rows=rows), embedded), requests)
    assert done == {r.id: one_by_one(embedded, r)[0] for r in requests}


def test_requests_are_drawn_as_they_are_needed_and_later_ones_may_be_longer(embedded, monkeypatch):
    from selfdistill.engines import transformers

    monkeypatch.setattr(transformers, "READ_AHEAD", 6)
    base = requests_for(embedded, Sampling(12))
    drawn = []

    def endless():
        for n in range(10**9):
            drawn.append(n)
            request = base[n % len(base)]
            longer = Prompt(request.prompt.ids * (1 + n // 40))
            yield Request(str(n), longer, request.sampling)

    engine = local(TransformersSettings(rows=4), embedded)
    done = list(islice(engine.generate(endless()), 90))
    assert len(drawn) < 90 + 40 and len({c.id for c in done}) == 90
    wanted = next(c for c in done if int(c.id) >= 80)
    again = Request(wanted.id, Prompt(base[int(wanted.id) % len(base)].prompt.ids * 3), Sampling(12))
    assert wanted.text == one_by_one(embedded, again)[0]


def test_a_memory_error_halves_the_rows_and_loses_none(embedded):
    engine = local(TransformersSettings(rows=16), embedded)
    requests = requests_for(embedded)
    wanted = texts(engine, requests)
    real, seen = engine.model, []

    class Small:
        config = real.config

        def __call__(self, input_ids, **kwargs):
            seen.append(len(input_ids))
            if len(input_ids) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return real(input_ids=input_ids, **kwargs)

    engine.instead = Small()
    assert texts(engine, requests) == wanted and engine.rows == 4 and max(seen) == 16
    (scores,) = engine.score([[Scoring(r.id, r.prompt.ids, (5, 7)) for r in requests]])
    assert all(s.nll for s in scores)
    engine.rows = 1
    engine.instead = type("None", (), {"config": real.config, "__call__": lambda self, **k: _no_memory()})()
    with pytest.raises(UserError, match="single row"):
        texts(engine, requests)


def test_rows_that_begin_anew_share_the_prefix_of_all_that_wait(embedded, monkeypatch):
    """Two families of prompts, each with a prefix of its own; memory runs out when the second is read."""
    from selfdistill.engines import transformers

    monkeypatch.setattr(transformers, "READ_AHEAD", 12)
    base = requests_for(embedded, Sampling(60), count=2)
    first, second = base[0].prompt.ids[:12], base[5].prompt.ids[:14]
    requests = [Request(f"a{n}", Prompt(first + r.prompt.ids), r.sampling) for n, r in enumerate(base[:12])]
    requests += [Request(f"b{n}", Prompt(second + r.prompt.ids), r.sampling) for n, r in enumerate(base[:12])]
    engine = local(TransformersSettings(rows=8), embedded)
    texts(engine, requests[:1])  # what settles how the model is driven is seen apart
    real, seen = engine.model, []

    class Tight:
        config = real.config

        def __call__(self, input_ids, **kwargs):
            seen.append(input_ids.shape)
            if len(seen) in (30, 50):
                raise RuntimeError("MPS backend out of memory (for a test)")
            return real(input_ids=input_ids, **kwargs)

    engine.instead = Tight()
    done = texts(engine, requests)
    assert len(seen) > 50 and engine.rows == 2
    assert done == {r.id: one_by_one(embedded, r)[0] for r in requests}


def _no_memory():
    raise torch.OutOfMemoryError("out of memory")


def test_a_fault_of_the_model_is_not_taken_for_a_memory_error(embedded):
    engine = local(TransformersSettings(rows=4), embedded)
    texts(engine, requests_for(embedded)[:2])
    real = engine.model
    engine.instead = type("Broken", (), {"config": real.config, "__call__": lambda self, **k: 1 / 0})()
    with pytest.raises(ZeroDivisionError):
        texts(engine, requests_for(embedded)[:2])


def test_memory_that_is_short_means_fewer_rows(embedded, monkeypatch):
    from selfdistill.engines import transformers

    engine = local(TransformersSettings(rows=16), embedded)
    row = 2 * 6 * 192 * 4 * (requests_for(embedded)[0].prompt.ids.__len__() + LIMIT)
    monkeypatch.setattr(transformers, "free_bytes", lambda device: 5 * row)
    texts(engine, requests_for(embedded)[:1])  # what settles how the model is driven is seen apart
    seen, real = [], engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda input_ids, **k: seen.append(len(input_ids)) or real(input_ids=input_ids, **k)
    )
    texts(engine, [requests_for(embedded)[0]] + [replace(requests_for(embedded)[0], id=str(i)) for i in range(9)])
    assert max(seen) == 2


def test_rows_that_finish_early_do_not_run_past_learned_positions():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1024, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    lm = SeedLM("gpt2", load_model("embedded").tokenizer, config, "cpu", "float32", 64, "")
    lm.model = GPT2LMHeadModel(config).eval()
    engine = TransformersEngine(lm, set(), 8)
    prompts = [Request(str(n), Prompt(tuple(range(5, 5 + n))), Sampling(40)) for n in (62, 10, 11, 12, 13)]
    done = {c.id: c for c in engine.generate(prompts)}
    assert done["62"].tokens <= 2 and all(done[str(n)].tokens <= 40 for n in (10, 11, 12, 13))


def test_a_model_with_sliding_windows_gives_the_texts_of_one_by_one_generate():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=1024, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=64, sliding_window=24, max_position_embeddings=256,
    )  # fmt: skip
    lm = SeedLM("embedded", load_model("embedded").tokenizer, config, "cpu", "float32", 256, "")
    lm.model = MistralForCausalLM(config).eval()
    requests = [replace(r, sampling=Sampling(5 + n)) for n, r in enumerate(requests_for(lm, count=1))]
    shared = tuple(range(20, 40))  # a prefix that is not shared here: padding after it would use up the window
    requests = [replace(r, prompt=Prompt(shared + r.prompt.ids)) for r in requests]
    engine = TransformersEngine(lm, end_ids(lm, Prompter(lm.tokenizer, "chat", USING)), 4)
    assert texts(engine, requests) == {r.id: one_by_one(lm, r)[0] for r in requests}
