from __future__ import annotations

from itertools import islice

import pytest
import torch

from selfdistill.engines import Request, Sampling, Scoring
from selfdistill.engines.transformers import TransformersEngine
from selfdistill.errors import UserError
from selfdistill.microworld.world import ABILITIES, items
from selfdistill.models import load_model
from selfdistill.templates import USING, Prompter


@pytest.fixture(scope="module", params=["embedded", "foreign"])
def lm(request, embedded, foreign_folder):
    return embedded if request.param == "embedded" else load_model(str(foreign_folder))


@pytest.fixture(scope="module")
def requests(lm):
    prompter = Prompter(lm.tokenizer, "chat", USING)
    rows = [i for a in ABILITIES for i in islice(items(a, "test"), 3)]
    return [Request(f"r{n}", prompter.train([{"role": "user", "content": i.prompt}])[:120]) for n, i in enumerate(rows)]


def engine_of(lm, rows=8):
    return TransformersEngine(lm, {Prompter(lm.tokenizer, "chat", USING).end_id}, rows)


def test_greedy_batches_give_the_texts_of_one_by_one_generate(lm, requests):
    engine = engine_of(lm)
    done = {c.id: c for c in engine.generate(requests, Sampling(40))}
    assert list(done) != [r.id for r in requests] or len(done) == len(requests)
    assert sorted(done) == sorted(r.id for r in requests)
    for request in requests:
        out = lm.model.generate(
            torch.tensor([request.prompt]), max_new_tokens=40, do_sample=False, eos_token_id=sorted(engine.end_ids)
        )[0, len(request.prompt) :]
        stopped = int(out[-1]) in engine.end_ids
        assert done[request.id].tokens == len(out)
        assert done[request.id].finish_reason == ("stop" if stopped else "length")
        assert done[request.id].text == lm.tokenizer.decode(out, skip_special_tokens=True).strip()


def test_the_length_limit_and_the_context_hold(lm, requests):
    engine = engine_of(lm)
    assert all(c.tokens <= 3 for c in engine.generate(requests, Sampling(3)))
    longest = [*requests[0].prompt] * 100
    done = engine.generate([Request("long", longest[: lm.context - 2])], Sampling(50))
    assert done[0].tokens <= 2


def test_rows_that_finish_early_do_not_run_past_learned_positions():
    from transformers import GPT2Config, GPT2LMHeadModel

    from selfdistill.models import SeedLM

    tokenizer = load_model("embedded").tokenizer
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=1024, n_positions=64, n_embd=16, n_layer=1, n_head=2)).eval()
    engine = TransformersEngine(SeedLM("gpt2", model, tokenizer, "cpu", "float32", 64, ""), set(), 8)
    prompts = [Request(str(i), list(range(5, 5 + n))) for i, n in enumerate((62, 10, 10, 10, 10))]
    done = {c.id: c for c in engine.generate(prompts, Sampling(40))}
    assert done["0"].tokens <= 2 and all(done[str(i)].tokens <= 40 for i in range(1, 5))


def test_an_adapter_of_another_model_is_refused(engine, foreign_folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    foreign = load_model(str(foreign_folder)).model
    get_peft_model(foreign, LoraConfig(target_modules=["query_key_value"])).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit this model"), engine.adapter(str(tmp_path)):
        pass


def test_a_sampled_text_depends_on_its_id_and_seed_and_not_on_its_neighbours(lm, requests):
    engine, sampling = engine_of(lm), Sampling(20, temperature=1.0, top_p=0.9, seed=5)
    together = {c.id: c.text for c in engine.generate(requests, sampling)}
    alone = {c.id: c.text for r in requests[:4] for c in engine.generate([r], sampling)}
    assert alone == {k: together[k] for k in alone}
    twins = [Request(f"twin{i}", requests[0].prompt) for i in range(8)]
    hot = Sampling(20, temperature=2.0, seed=5)
    assert len({c.text for c in engine.generate(twins, hot)}) > 1
    cold = Sampling(20, temperature=2.0, top_p=1e-9, seed=5)
    greedy = engine.generate(twins[:1], Sampling(20))[0].text
    assert {c.text for c in engine.generate(twins, cold)} == {greedy}


def test_scores_are_the_models_own_log_likelihoods(lm, requests):
    engine = engine_of(lm)
    responses = [[5, 7, 9], [11], [5, 7, 9, 11, 13, 15, 17]]
    scorings = [Scoring(r.id, r.prompt, responses[i % 3]) for i, r in enumerate(requests)]
    scores = engine.score(scorings)
    for s in scorings:
        ids = torch.tensor([s.prompt + s.response])
        with torch.no_grad():
            logs = torch.log_softmax(lm.model(ids).logits[0, :-1].float(), -1)
        wanted = -sum(logs[len(s.prompt) - 1 + k, t].item() for k, t in enumerate(s.response))
        assert scores[s.id] == pytest.approx(wanted, abs=2e-3)
