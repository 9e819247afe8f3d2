"""The transformers engine beyond the contract: rows that come and go, memory, windows, positions."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch
from test_engines import LIMIT, local, one_by_one, requests_for, texts

from selfdistill.core.engine_settings import TransformersSettings
from selfdistill.core.errors import UserError
from selfdistill.engines.local import end_ids
from selfdistill.engines.protocol import Request, Sampling, Scoring
from selfdistill.engines.transformers import TransformersEngine
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.seed_lm import SeedLM, load_model
from selfdistill.models.templates import USING


@pytest.mark.heavy
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_texts_do_not_depend_on_how_many_rows_run_together(embedded, rows):
    """Long and short prompts and answers, so that slots are refilled, the window moves and the buffers grow."""
    long = Prompt(requests_for(embedded)[0].prompt.ids * 12)
    requests = [*requests_for(embedded, Sampling(80), count=2), Request("long", long, Sampling(150))]
    requests[4] = replace(requests[4], sampling=Sampling(1))
    done = texts(local(TransformersSettings(rows=rows), embedded), requests)
    assert done == {r.id: one_by_one(embedded, r)[0] for r in requests}


@pytest.mark.heavy
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


@pytest.mark.heavy
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


@pytest.mark.heavy
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
