"""Many architectures, each as a tiny random model: texts, scores, training, adapters; what is refused, and why."""

from __future__ import annotations

import inspect
import json
import random
import re
from pathlib import Path

import pytest
import tiny
import torch
from conftest import random_adapter, write_jsonl

from selfdistill.core.config import DataSettings, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.rows import TrainingRow
from selfdistill.data.examples import read_examples
from selfdistill.engines.forward import Forward
from selfdistill.engines.memory import layer_bytes, row_bytes
from selfdistill.engines.protocol import Request, Sampling, Scoring
from selfdistill.engines.transformers import TransformersEngine
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.seed_lm import SeedLM, load_model
from selfdistill.publish.merge import merge
from selfdistill.stages.acting import see_that_it_acts
from selfdistill.stages.train import train
from selfdistill.training.lora import check_trainable, tuned_model
from selfdistill.training.loss import response_loss
from selfdistill.training.targets import coverage, find_targets

NEW = 5
LENGTHS = (5, 21, 12)
QUICK = {
    "deepseek_v4", "falcon_h1", "gemma4_text", "gpt_oss", "kimi_linear", "llama", "llama4_text", "mamba2", "minimax",
    "qwen3_5_text", "recurrent_gemma", "rwkv",
}  # fmt: skip
QUICK_SEEING = {"qwen3_5"}


def cases(table, quick):
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.heavy) for n in table]


def seed_lm(model):
    lm = SeedLM("tiny", load_model("embedded").tokenizer, model.config, "cpu", "float32", 128, "")
    lm.model = model
    return lm


def prompts():
    chance = random.Random(1)
    return [tuple(chance.randrange(5, tiny.WORDS) for _ in range(length)) for length in LENGTHS]


def requests():
    return [Request(str(n), Prompt(ids), Sampling(NEW)) for n, ids in enumerate(prompts())]


def texts(engine, asked=None):
    return {c.id: (c.text, c.tokens) for c in engine.generate(asked or requests())}


def scores(engine, answers):
    items = [Scoring(str(n), ids, tuple(answers[n])) for n, ids in enumerate(prompts())]
    return {score.id: score.nll for score in next(engine.score([items]))}


def one_by_one(model, tokenizer):
    """Token ids and texts as plain `generate` gives them."""
    made = []
    for ids in prompts():
        row = torch.tensor([ids])
        out = model.generate(row, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
        made.append(out[0, len(ids) :].tolist())
    said = {str(n): (tokenizer.decode(m, skip_special_tokens=True).strip(), len(m)) for n, m in enumerate(made)}
    return made, said


def plain_nll(model, prompt, answer):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item()


DOC = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"


def documented():
    """{model type: way} of the page's table."""
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", DOC.read_text(encoding="utf-8"), re.M)
    return dict(rows)


@pytest.mark.heavy
@pytest.mark.parametrize("name", cases(tiny.TABLE, QUICK))
def test_an_architecture_answers_scores_trains_and_takes_adapters(name, tmp_path):
    model = tiny.tiny(name)
    model.generation_config.eos_token_id = None
    lm = seed_lm(model)
    engine = TransformersEngine(lm, set(), 2)

    # Greedy texts of several rows are those of one by one, and those of a batch that is resumed are the same.
    made, said = one_by_one(model, lm.tokenizer)
    assert texts(engine) == said
    assert documented()[name] == engine.way
    assert texts(engine, requests()[1:]) == {k: said[k] for k in ("1", "2")}

    # Scores are the model's own likelihoods.
    seen = scores(engine, made)
    for n, ids in enumerate(prompts()):
        assert seen[str(n)] == pytest.approx(plain_nll(model, ids, made[n]), rel=1e-3, abs=1e-3)

    # Training changes the loss and leaves the seed LM as it was.
    settings = TrainSettings(preset="strong", rank=4)
    check_trainable(lm, settings)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ids = torch.tensor([ids[:5] + tuple(m) for ids, m in zip(prompts(), made, strict=True)])
    labels = ids.clone()
    labels[:, :5] = -100
    some = "logits_to_keep" in inspect.signature(model.forward).parameters
    with tuned_model(lm, settings) as tuned:
        weights = [p for p in tuned.parameters() if p.requires_grad]
        optimizer, losses = torch.optim.AdamW(weights, lr=1e-2), []
        for _ in range(2):
            tuned.train()
            loss = response_loss(tuned, {"input_ids": ids, "labels": labels}, some)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        tuned.save_pretrained(tmp_path / "adapter")
    assert all(map(torch.isfinite, torch.tensor(losses))) and losses[0] != losses[1]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())

    # The adapter acts within its block only.
    with engine.adapter(str(tmp_path / "adapter")):
        assert all(a != b for a, b in zip(scores(engine, made).values(), seen.values(), strict=True))
        with engine.adapter(None):
            assert scores(engine, made) == seen
    assert scores(engine, made) == seen


def test_the_docs_list_all_architectures_that_are_tested():
    assert set(documented()) == set(tiny.TABLE)
    listed = DOC.read_text(encoding="utf-8")
    assert all(f"`{name}`" in listed for name in tiny.SEEING)


# --- what cannot be trusted --------------------------------------------------------------------------------------


def test_a_model_that_agrees_in_no_way_is_refused_in_one_line():
    model = tiny.tiny("llama")
    real, calls = model.forward, []

    def forward(input_ids=None, past_key_values=None, logits_to_keep=0, **more):
        calls.append(1)
        out = real(input_ids=input_ids, past_key_values=past_key_values, logits_to_keep=logits_to_keep, **more)
        out.logits = out.logits * (1 + len(calls) % 7)  # no two passes agree
        return out

    model.forward = forward
    engine = TransformersEngine(seed_lm(model), set(), 3)
    with pytest.raises(UserError, match=r"LlamaForCausalLM.*cannot answer with it.*other texts") as error:
        texts(engine)
    assert "\n" not in str(error.value)


def test_a_slower_way_is_said_with_the_reason():
    said = []
    engine = TransformersEngine(seed_lm(tiny.tiny("rwkv")), set(), 3, said.append)
    texts(engine)
    assert said == [
        "RwkvForCausalLM: rows run one by one, since otherwise it fails (its forward takes no cache of the library's "
        "own kind)"
    ]


@pytest.mark.parametrize("name", ["llama", "gemma4_text", "deepseek_v3", "qwen3_5_text", "mamba2"])
def test_memory_is_counted_as_the_cache_takes_it(name):
    model = tiny.tiny(name)
    engine = TransformersEngine(seed_lm(model), set(), 3)
    forward = Forward(engine)
    length, cache = 20, forward.cache()
    with torch.no_grad():
        forward._pass(torch.arange(5, 5 + length)[None], cache)
    taken = sum(map(layer_bytes, cache.layers))
    assert row_bytes(forward.layer_sizes(), length) == pytest.approx(taken, rel=0.1)


# --- what trains -------------------------------------------------------------------------------------------------


def covered(name, **settings):
    lm, chosen = seed_lm(tiny.tiny(name)), TrainSettings(**settings)
    targets = find_targets(lm.model, chosen)
    with tuned_model(lm, chosen) as model:
        return coverage(model, targets)


def test_coverage_is_said_in_words():
    assert covered("llama") == "LoRA on 2 of 2 layers"
    hybrid = covered("qwen3_5_text")
    assert hybrid.startswith("LoRA on 1 of 4 layers: add ") and "in_proj_qkv" in hybrid and "train.targets" in hybrid
    assert "without router, which cannot have one" in covered("llama4_text", preset="strong")
    assert "without out_proj" in covered("falcon_h1", preset="strong")
    assert "experts do not train (name experts.down_proj, experts.gate_up_proj" in covered("gpt_oss", preset="strong")


def test_targets_that_cannot_have_an_adapter_are_named():
    for name, target in (("llama4_text", "router"), ("falcon_h1", "out_proj"), ("llama", "elbow")):
        with pytest.raises(UserError, match=rf"{target}.*Its linear layers: .*q_proj"):
            check_trainable(seed_lm(tiny.tiny(name)), TrainSettings(targets=(target,)))
    with pytest.raises(UserError, match=r"experts\.down_proj holds experts.*dropout"):
        check_trainable(seed_lm(tiny.tiny("gpt_oss")), TrainSettings(targets=("experts.down_proj",), dropout=0.1))


def trained(folder, tmp_path, **settings):
    """(seed LM, its engine, the folder of an adapter that two steps made, the folder of the merged model)."""
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": f"Say {n}.", "response": f"{n} it is"} for n in range(4)])
    lm = load_model(str(folder))
    rows = read_examples(DataSettings(path=str(data)), seed=0)
    chosen = TrainSettings(**{"preset": "strong", "lr": 1e-2, "epochs": 2, "batch_size": 4, **settings})
    adapter = tmp_path / "adapter"
    train(lm, [TrainingRow(e, e.references) for e in rows], adapter, chosen, Prompter.create(lm.tokenizer))
    return lm, TransformersEngine(lm, set(), 4), adapter, merge(str(folder), str(adapter), tmp_path / "merged")


def answers_alike(engine, adapter, merged):
    """Whether the adapter changes texts, and the merged model gives them."""
    before = texts(engine)
    with engine.adapter(str(adapter)):
        tuned = texts(engine)
    other = TransformersEngine(load_model(str(merged)), set(), 4)
    return before != tuned and texts(other) == tuned


@pytest.mark.heavy
@pytest.mark.parametrize("name", cases(tiny.SEEING, QUICK_SEEING))
def test_of_a_model_that_sees_only_the_language_model_trains(name, tmp_path):
    folder = tiny.seeing_folder(name, tmp_path / "model")
    lm, adapter = load_model(str(folder)), tmp_path / "adapter"
    engine = TransformersEngine(lm, set(), 4)
    with tuned_model(lm, TrainSettings(preset="strong")) as model:
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight.data, std=0.1)
        model.save_pretrained(adapter)
    merged = merge(str(folder), str(adapter), tmp_path / "merged")
    _, said = one_by_one(lm.model, lm.tokenizer)
    assert texts(engine) == said
    weights = load_file(adapter / "adapter_model.safetensors")
    assert weights and all("language_model" in key or "text_model" in key for key in weights)
    assert answers_alike(engine, adapter, merged)
    again = load_model(str(merged))
    assert type(again.model) is type(lm.model)
    before, after = lm.model.state_dict(), again.model.state_dict()
    towers = [key for key in before if "language_model" not in key and "text_model" not in key and "lm_head" not in key]
    assert len(towers) > 5 and all(torch.equal(before[key], after[key]) for key in towers)
    assert (merged / "preprocessor_config.json").is_file()


def test_of_a_model_that_sees_all_weights_of_the_language_model_train(tmp_path):
    lm = load_model(str(tiny.seeing_folder("qwen3_vl", tmp_path / "model")))
    with tuned_model(lm, TrainSettings(tune="full")) as model:
        still = [name for name, weight in model.named_parameters() if not weight.requires_grad]
        assert still and all(".visual." in name for name in still)
        assert model.lm_head.weight.requires_grad


def load_file(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_experts_train_and_merge_where_they_are_named(tmp_path):
    folder = tmp_path / "model"
    model = tiny.tiny("qwen3_moe")
    model.resize_token_embeddings(1024)
    tiny.scrambled(model).save_pretrained(folder)
    lm, engine, adapter, merged = trained(
        tiny.with_tokenizer(folder), tmp_path, targets=("q_proj", "experts.gate_up_proj", "experts.down_proj")
    )
    assert any("experts" in key for key in load_file(adapter / "adapter_model.safetensors"))
    before = load_model(str(folder)).model.state_dict()
    assert all(torch.equal(weight, before[key]) for key, weight in lm.model.state_dict().items())
    assert answers_alike(engine, adapter, merged)


# --- quantised bases ---------------------------------------------------------------------------------------------


def packed_folder(out, method):
    """The embedded model's folder with a config that says its weights are packed."""
    import shutil

    from selfdistill.models import resolve

    shutil.copytree(resolve("embedded"), out)
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128, "load_in_4bit": True}
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_packed_weights_are_not_trained_or_merged_and_the_reason_is_one_line(method, tmp_path):
    folder = packed_folder(tmp_path / "model", method)
    adapter = random_adapter(tmp_path / "adapter", 0.1)
    with pytest.raises(UserError, match=rf"quantized \({method}\).*was quantized from"):
        merge(str(folder), adapter, tmp_path / "merged")
    with pytest.raises(UserError, match=rf"quantized \({method}\).*was quantized from"):
        check_trainable(load_model(str(folder)), TrainSettings())
    assert not (tmp_path / "merged").exists()


def test_mxfp4_is_unpacked_trained_and_merged(tmp_path):
    folder = tmp_path / "model"
    model = tiny.tiny("gpt_oss")
    model.resize_token_embeddings(1024)
    tiny.scrambled(model).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    chance = torch.Generator().manual_seed(0)
    for key in [key for key in weights if re.search(r"experts\.(gate_up_proj|down_proj)$", key)]:
        experts, inputs, outputs = weights.pop(key).shape
        shape = (experts, outputs, max(1, inputs // 32), 16)
        weights[f"{key}_blocks"] = torch.randint(0, 256, shape, generator=chance, dtype=torch.uint8)
        weights[f"{key}_scales"] = torch.full(shape[:3], 125, dtype=torch.uint8)
    from safetensors.torch import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    lm, _, _, merged = trained(tiny.with_tokenizer(folder), tmp_path)
    assert lm.model.model.layers[0].mlp.experts.gate_up_proj.is_floating_point()
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
    assert texts(TransformersEngine(load_model(str(merged)), set(), 4))


# --- adapters that act -------------------------------------------------------------------------------------------


class Deaf:
    """An engine that answers with the base model under any adapter's name."""

    def __init__(self, engine, scores=True):
        self.engine, self.sees, self.tuned = engine, scores, None

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def score(self, batches):
        if self.sees:
            yield from self.engine.score(batches)
        else:
            from selfdistill.engines.protocol import Score

            for batch in batches:
                yield [Score(item.id, None) for item in batch]

    def adapter(self, path):
        from contextlib import contextmanager

        @contextmanager
        def block():
            before, self.tuned = self.tuned, path
            yield
            self.tuned = before

        return block()


@pytest.mark.heavy
@pytest.mark.parametrize("sees", [True, False])
def test_an_engine_that_ignores_an_adapter_is_found(embedded, engine, tmp_path, sees):
    adapter = random_adapter(tmp_path / "adapter", 0.5)
    prompter = Prompter.create(embedded.tokenizer)
    with engine.adapter(adapter):
        see_that_it_acts(engine, prompter, Progress())
    deaf = Deaf(engine, sees)
    with deaf.adapter(adapter), pytest.raises(UserError, match=r"the same with it and without it.*ignores the adapter"):
        see_that_it_acts(deaf, prompter, Progress())


def test_an_adapter_of_zeros_is_said_and_measured(embedded, engine, tmp_path, capsys):
    adapter = random_adapter(tmp_path / "adapter", 0.0)
    with engine.adapter(adapter):
        see_that_it_acts(engine, Prompter.create(embedded.tokenizer), Progress())
    assert "changes nothing" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_stops_before_it_measures_an_adapter_that_does_nothing(embedded, engine, tmp_path):
    from selfdistill.core.config import TaskSettings
    from selfdistill.models.folder import adapter_digest
    from selfdistill.stages.evaluate import evaluate
    from selfdistill.tasks.base import Permissions
    from selfdistill.tasks.load import load_tasks

    adapter = random_adapter(tmp_path / "adapter", 0.5)
    tasks = load_tasks([TaskSettings(name="facts", path="micro:facts", limit=2)], 0, Permissions(), Progress())
    deaf, prompter = Deaf(engine), Prompter.create(embedded.tokenizer)
    with deaf.adapter(adapter), pytest.raises(UserError, match="the same with it and without it"):
        evaluate(tasks, tmp_path / "out", embedded.digest, deaf, prompter, adapter_digest(adapter))
    assert not (tmp_path / "out" / "result.json").exists()


# --- which model, which attention --------------------------------------------------------------------------------


def test_a_revision_is_of_the_hub_and_part_of_the_digest(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from selfdistill.models.folder import digest

    with pytest.raises(UserError, match="a folder, which has no revision"):
        load_model("embedded", revision="main")
    with pytest.raises(UserError, match="not in the hub's cache at revision 'v2'"):
        load_model("someone/model", revision="v2")
    place = tmp_path / "models--someone--model"
    for commit, ref in (("a" * 40, "main"), ("b" * 40, "v2")):
        (place / "snapshots" / commit).mkdir(parents=True)
        (place / "snapshots" / commit / "config.json").write_text("{}")
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / ref).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert digest("someone/model") == f"someone/model@{'a' * 40}"
    assert digest("someone/model", "v2") == f"someone/model@{'b' * 40}"


def test_an_attention_is_taken_and_one_that_is_not_here_is_one_line():
    with pytest.raises(UserError, match=r'attention = "flash".*CUDA device'):
        load_model("embedded", attention="flash")
    with pytest.raises(UserError, match=r'attention = "flash".*CUDA device'):
        check_trainable(load_model("embedded"), TrainSettings(attention="flash"))
    eager = load_model("embedded", attention="eager")
    assert eager.model.config._attn_implementation == "eager"
    with tuned_model(load_model("embedded"), TrainSettings(attention="eager")) as model:
        assert model.get_base_model().config._attn_implementation == "eager"
