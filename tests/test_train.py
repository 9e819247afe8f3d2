"""Training: which tokens carry loss, that the numbers are those of a plain loop, and that it goes on after any stop.

KILLS=20 python -m pytest tests/test_train.py     kills more often than a test run has time for.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import shutil
import sys
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import forked
import pytest
import torch
from conftest import SHARED, cli, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.core.config import DataSettings, PromptSettings, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.rewrites import Selected
from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import checked
from selfdistill.data.examples import drawn, read_examples
from selfdistill.methods.rows import rows_of
from selfdistill.microworld.world import items
from selfdistill.models import resolve
from selfdistill.models.folder import adapter_digest
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.shift.weights import parameter_shift
from selfdistill.stages.asked import difference
from selfdistill.stages.train import train
from selfdistill.training import trainer as fit
from selfdistill.training.batches import IGNORED, Batches, Layout, Rows, packing_mixes
from selfdistill.training.lora import TRACKERS
from selfdistill.training.loss import response_loss
from selfdistill.training.tokens import sequences

KILLS = int(os.environ.get("KILLS", "1"))
WEIGHTS = "adapter_model.safetensors"


def micro(count=16, ability="facts"):
    return read_examples(DataSettings(path=f"micro:{ability}", sample=count))


def references(examples):
    return [TrainingRow(e, e.references) for e in examples]


def prompter_of(lm):
    return Prompter.create(lm.tokenizer)


def tokenized(lm, examples):
    return [row for e in examples for row in sequences(e, e.references, prompter_of(lm))]


def trained(lm, out, examples=None, progress=None, **settings):
    examples = examples or micro()
    return train(lm, references(examples), out, TrainSettings(**settings), prompter_of(lm), progress=progress)


def record_of(out):
    return json.loads((out / "training.json").read_text())


def losses(out):
    return [x["loss"] for x in record_of(out)["loss"]]


def weights(out):
    from safetensors.torch import load_file

    return load_file(out / WEIGHTS)


def seed_logits(lm):
    ids = torch.tensor([prompter_of(lm).train(micro(1)[0].prompt).ids])
    with torch.no_grad():
        return lm.model(ids).logits


def run_cli(capsys, monkeypatch, *args):
    """The command line as `main` runs it, in this process: (exit code, standard error)."""
    from selfdistill.cli import main

    monkeypatch.setattr(sys, "argv", ["selfdistill", *map(str, args)])
    capsys.readouterr()
    try:
        main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    return code or 0, capsys.readouterr().err


class StopsAt(Progress):
    """Stops a training in its step number `step`, before that step is saved, as Ctrl-C would."""

    def __init__(self, step, batch_size=8):
        super().__init__()
        self.left = step * batch_size

    @contextmanager
    def bar(self, name, total):
        def advance(rows):
            self.left -= rows
            if self.left <= 0:
                raise KeyboardInterrupt

        yield advance


def stopped(lm, out, step, **settings):
    """Train into `out` and stop in that step. Returns the folder of the unfinished training."""
    with pytest.raises(KeyboardInterrupt):
        trained(lm, out, progress=StopsAt(step, settings.get("batch_size", 8)), **settings)
    return out.with_name(out.name + ".partial")


def checkpoints(partial):
    return sorted(int(f.name.partition("-")[2]) for f in partial.glob("checkpoint-*"))


MARK = 123.0


def mark(partial):
    """Put a loss that no training has into the checkpoints; what goes on from there keeps it."""
    whole = [f for f in partial.glob("checkpoint-*/trainer_state.json") if f.read_text().endswith("}\n")]
    assert whole, "there is no checkpoint to go on from"
    for state in whole:
        values = json.loads(state.read_text())
        values["log_history"][0]["loss"] = MARK
        state.write_text(json.dumps(values))


def unmark(out, whole):
    """See that the mark is there, and put the true loss in its place."""
    record = record_of(out)
    assert record["loss"][0]["loss"] == MARK, "it began anew"
    record["loss"][0] = record_of(whole)["loss"][0]
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


@pytest.fixture
def made(monkeypatch):
    """One entry for each batch that is trained on."""
    count, step = [], fit.ResponseTrainer.training_step

    def counted(self, *args, **named):
        count.append(1)
        return step(self, *args, **named)

    monkeypatch.setattr(fit.ResponseTrainer, "training_step", counted)
    return count


def same_result(one, other, file=WEIGHTS):
    assert (one / file).read_bytes() == (other / file).read_bytes()
    assert (one / "training.json").read_bytes() == (other / "training.json").read_bytes()
    assert sorted(f.name for f in one.iterdir()) == sorted(f.name for f in other.iterdir())


# --- labels ------------------------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)


def text_to_learn_from():
    return [Path(__file__).read_text(encoding="utf-8")] * 2


@pytest.fixture(scope="session")
def byte_level():
    """As GPT-2 and Qwen have it; the end of a turn is a special token, and there is neither EOS nor padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(text_to_learn_from(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, additional_special_tokens=special)
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def sentencepiece():
    """As Llama 2 has it: Unigram with the space in front of a word, and bytes for what is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    first = Tokenizer(models.Unigram())
    first.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    first.train_from_iterator(text_to_learn_from(), trainer)
    learnt = json.loads(first.to_str())["model"]["vocab"]
    vocabulary = [(t, s) for t, s in learnt[:3]] + [(f"<0x{b:02X}>", -20.0) for b in range(256)]
    unigram = Tokenizer(models.Unigram(vocabulary + [(t, s) for t, s in learnt[3:]], unk_id=0, byte_fallback=True))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    unigram.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = INST
    return tokenizer


@pytest.fixture
def tokenizer(request, embedded):
    if request.param == "embedded":
        return embedded.tokenizer
    made = request.getfixturevalue(request.param)
    return load_model(str(made)).tokenizer if isinstance(made, Path) else made


@pytest.fixture
def conversations(tmp_path):
    """Rows of one, two and three turns, with text that no tokenizer here has seen."""
    a, b, c, d = islice(items("facts", "train"), 4)
    rows = [
        {"instruction": b.prompt, "output": b.terse, "history": [[a.prompt, a.terse]]},
        {"instruction": c.prompt, "output": c.terse},
        {
            "instruction": "Wie heißt 漢字 🙂?",
            "output": " naïve\n\n\tcafé 🙂 —  x ",
            "history": [["1", "2"], ["3", "{4}"]],
        },
        {"instruction": d.prompt, "output": "x"},
    ]
    return read_examples(DataSettings(path=str(write_jsonl(tmp_path / "turns.jsonl", rows))))


@pytest.mark.parametrize("format", ["chat", "paper"])
@pytest.mark.parametrize("tokenizer", ["embedded", "foreign_folder", "byte_level", "sentencepiece"], indirect=True)
def test_every_response_token_and_end_token_carries_loss_and_no_prompt_token(tokenizer, conversations, format):
    if format == "paper" and tokenizer.eos_token_id is None:
        with pytest.raises(UserError, match="no EOS token"):
            sequences(
                conversations[0], conversations[0].references, Prompter.create(tokenizer, PromptSettings(format=format))
            )
        return
    prompter = Prompter.create(tokenizer, PromptSettings(format=format))
    assert [len(e.references) for e in conversations] == [2, 1, 3, 1]
    for example in conversations:
        made = sequences(example, example.references, prompter)
        carrying = 0
        for k, text in enumerate(example.references):
            prompt = list(prompter.evaluate(example.up_to(example.references[:k])).ids)
            said, response = tokenizer(text, add_special_tokens=False)["input_ids"], prompter.response(text)
            assert response[: len(said)] == said and response[-1] == prompter.end_id
            if tokenizer.unk_token_id not in response:
                assert tokenizer.decode(response[:-1]).strip() == text.strip()
            at = slice(len(prompt), len(prompt) + len(response))
            # Somewhere the turn follows its own inference prompt, and all of it is to be learnt.
            assert any(x[: at.stop] == prompt + response and y[at] == response for x, y in made)
            carrying += len(response)
        assert sum(label != IGNORED for _, labels in made for label in labels) == carrying
        assert format == "paper" or difference(example, prompter) is None  # it is what the chat template writes
        for ids, labels in made:
            assert len(ids) == len(labels) and labels[0] == IGNORED and labels[-1] == prompter.end_id
            assert all(y in (IGNORED, x) for x, y in zip(ids, labels, strict=True))


@pytest.mark.parametrize("tokenizer", ["embedded", "byte_level"], indirect=True)
def test_a_conversation_is_one_sequence_where_the_template_lets_it_continue(tokenizer, conversations):
    prompter = Prompter.create(tokenizer)
    assert [len(sequences(e, e.references, prompter)) for e in conversations] == [1, 1, 1, 1]


def test_a_tokenizer_without_eos_and_padding_trains(tmp_path, byte_level):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(byte_level), eos_token_id=None, **sizes)).save_pretrained(
        tmp_path / "m"
    )
    byte_level.save_pretrained(tmp_path / "m")
    out = trained(load_model(str(tmp_path / "m")), tmp_path / "a", micro(5), epochs=1, batch_size=4)
    assert len(losses(out)) == 2 and all(math.isfinite(x) for x in losses(out))


# --- the numbers -------------------------------------------------------------------------------------------------


def plain_loop(examples, settings, seed=0):
    """The training in plain PyTorch: (losses, model)."""
    import transformers
    from peft import LoraConfig, get_peft_model

    lm = load_model("embedded")
    rows = tokenized(lm, examples)
    batches = Batches([len(ids) for ids, _ in rows], settings.batch_size, settings.accumulation, 1, 0, seed)
    transformers.set_seed(seed)
    model = get_peft_model(
        lm.model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ).train()
    mine = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(mine, lr=settings.lr, weight_decay=0)
    order = []
    for epoch in range(int(settings.epochs)):
        batches.set_epoch(epoch)
        order += batches.steps()
    found = []
    for number, step in enumerate(order):
        longest = max(len(rows[i][0]) for i in step)
        ids = torch.tensor([rows[i][0] + [0] * (longest - len(rows[i][0])) for i in step])
        labels = torch.tensor([rows[i][1] + [-100] * (longest - len(rows[i][1])) for i in step])
        seen = torch.tensor([[1] * len(rows[i][0]) + [0] * (longest - len(rows[i][0])) for i in step])
        logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mine, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 + math.cos(math.pi * number / len(order))) / 2
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, model


@pytest.mark.heavy
@pytest.mark.parametrize("packing", [False, True])
def test_losses_and_weights_are_those_of_a_plain_loop(tmp_path, embedded, packing):
    from peft import get_peft_model_state_dict

    examples = micro(22)
    expected, model = plain_loop(examples, TrainSettings(lr=1e-3))
    out = trained(embedded, tmp_path / "a", examples, lr=1e-3, packing=packing)
    assert len(expected) == 6 and losses(out) == pytest.approx(expected, rel=1e-5)
    assert sum(expected[3:]) < sum(expected[:3]) - 0.5
    mine = weights(out)
    for key, value in get_peft_model_state_dict(model).items():
        torch.testing.assert_close(mine[key], value, rtol=1e-3, atol=1e-5)  # sums of other CPUs' units


@pytest.mark.heavy
def test_batch_size_and_accumulation_make_the_same_steps(tmp_path, embedded):
    examples = micro(20)
    cuts = [(8, 1), (1, 8), (2, 4), (3, 8)]
    outs = {
        cut: trained(
            embedded, tmp_path / f"{cut[0]}x{cut[1]}", examples, lr=1e-3, batch_size=cut[0], accumulation=cut[1]
        )
        for cut in cuts
    }
    whole = outs[8, 1]
    for cut in cuts[1:3]:
        assert losses(outs[cut]) == pytest.approx(losses(whole), rel=1e-5)
        for key, value in weights(outs[cut]).items():
            torch.testing.assert_close(value, weights(whole)[key], rtol=1e-3, atol=1e-6)
    assert len(losses(whole)) == 6 and len(losses(outs[3, 8])) == 2  # 24 rows a step are another training


@pytest.mark.heavy
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", ["embedded", "foreign_folder"])
def test_an_examples_loss_is_the_same_alone_padded_and_packed(request, model, attention):
    lm = load_model("embedded" if model == "embedded" else str(request.getfixturevalue(model)), "float32")
    lm.model.set_attn_implementation(attention)
    rows = Rows(tokenized(lm, micro(5))).rows
    alone, padded, packed = Layout(0, False), Layout(0, False), Layout(0, True)
    assert len({len(ids) for ids, _ in rows}) > 1
    with torch.no_grad():
        for some in (True, False):
            each = [response_loss(lm.model, alone([row]), some).item() for row in rows]
            assert all(x > 0.1 for x in each)
            for layout in (padded, packed):
                assert response_loss(lm.model, layout(rows), some).item() == pytest.approx(sum(each), rel=1e-5)
                for mine, expected in enumerate(each):  # and no row takes from or gives to its neighbours
                    only = [(x, y if k == mine else y * 0 + IGNORED) for k, (x, y) in enumerate(rows)]
                    assert response_loss(lm.model, layout(only), some).item() == pytest.approx(expected, rel=2e-5)
        assert response_loss(lm.model, padded([])).item() == response_loss(lm.model, packed([])).item() == 0


def tiny(name, folder, embedded):
    """A random model of a family with the embedded model's tokenizer; its weights are large enough to tell."""
    import transformers

    shape = {
        "vocab_size": len(embedded.tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512, "pad_token_id": 0,
        "initializer_range": 0.2,
    }  # fmt: skip
    few = {
        k: shape[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "pad_token_id")
    }
    state = {k: shape[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "pad_token_id")} | {
        "state_size": 8
    }
    config = {
        "llama": lambda: transformers.LlamaConfig(**shape),
        "qwen3": lambda: transformers.Qwen3Config(**shape, head_dim=8),
        "gemma3": lambda: transformers.Gemma3TextConfig(**shape, head_dim=8, sliding_window=8),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**few, intermediate_size=64),
        "gpt_oss": lambda: transformers.GptOssConfig(**shape, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
        "bloom": lambda: transformers.BloomConfig(
            vocab_size=shape["vocab_size"], hidden_size=32, n_layer=2, n_head=4, pad_token_id=0
        ),
        "mpt": lambda: transformers.MptConfig(vocab_size=shape["vocab_size"], d_model=32, n_layers=2, n_heads=4),
        "mamba": lambda: transformers.MambaConfig(**state),
        "lfm2": lambda: transformers.Lfm2Config(**shape, full_attn_idxs=[1]),
        "falcon_h1": lambda: transformers.FalconH1Config(
            **shape, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8
        ),
    }[name]()
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    embedded.tokenizer.save_pretrained(folder)
    return load_model(str(folder))


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "mixes"),
    [("llama", False), ("qwen3", False), ("gemma3", False), ("gpt_neox", False), ("gpt_oss", True), ("bloom", True),
     ("mpt", True), ("mamba", True), ("lfm2", True), ("falcon_h1", True)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packing_is_refused_where_rows_see_each_other(tmp_path, embedded, name, mixes, dtype):
    lm = tiny(name, tmp_path / "model", embedded)
    lm.dtype = dtype
    rows = Rows(tokenized(embedded, micro(4))).rows
    packed = Layout(0, True)(rows)
    if dtype == "float32":  # what it is about: the loss of the rows
        with torch.no_grad():
            alone = sum(response_loss(lm.model, Layout(0, True)([row])).item() for row in rows)
            together = response_loss(lm.model, packed).item()
        assert (together == pytest.approx(alone, rel=1e-6)) != mixes
    said = packing_mixes(lm.model, lm.tokenizer, dtype)
    assert (said is not None) == mixes, said
    if mixes:
        settings = {"targets": "all-linear", "packing": True}
        with pytest.raises(UserError, match=r"train\.packing = true: in this model a row sees those packed before it"):
            trained(lm, tmp_path / "a", **settings)
        assert not (tmp_path / "a").exists() and not (tmp_path / "a.partial").exists()


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "packed"), [("llama", True), ("lfm2", False)])
def test_packing_that_was_chosen_is_left_out_where_rows_see_each_other(tmp_path, embedded, monkeypatch, name, packed):
    monkeypatch.setattr(fit, "_flash", lambda model: True)  # flash attention itself needs a GPU
    lm = tiny(name, tmp_path / "model", embedded)
    chosen = record_of(trained(lm, tmp_path / "a", targets="all-linear", epochs=0.5))["chosen"]
    assert ("packed in one line" in chosen[1]) == packed
    assert ("not packed, since in this model a row sees" in chosen[1]) == (not packed)
    as_set = record_of(trained(lm, tmp_path / "b", targets="all-linear", epochs=0.5, packing=False))["chosen"]
    assert "pack" not in as_set[1]


def factors(step_rows):
    return [
        (b, a, step_rows // b // a)
        for b in range(1, step_rows + 1)
        for a in range(1, step_rows + 1)
        if step_rows % (b * a) == 0
    ]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=130),
    st.sampled_from([1, 2, 6, 8, 12]),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_every_row_once_an_epoch_and_the_same_rows_a_step_however_it_is_cut(lengths, step_rows, seed, epoch):
    expected = None
    for batch_size, accumulation, processes in factors(step_rows):
        ranks = []
        for rank in range(processes):
            batches = Batches(lengths, batch_size, accumulation, processes, rank, seed)
            batches.set_epoch(epoch)
            mine = list(batches)
            assert len(mine) == len(batches) == batches.steps_an_epoch * accumulation
            ranks.append([mine[at : at + accumulation] for at in range(0, len(mine), accumulation)])
        steps, short = [], 0
        for parts in zip(*ranks, strict=True):
            in_turn = [parts[rank][turn] for turn in range(accumulation) for rank in range(processes)]
            full = [batch for batch in in_turn if len(batch) == batch_size]
            rest = in_turn[len(full) :]
            assert in_turn[: len(full)] == full and all(batch == [] for batch in rest[1:])
            rows = [row for batch in in_turn for row in batch]
            short += len(rows) < step_rows
            steps.append(rows)
        assert sorted(row for rows in steps for row in rows) == list(range(len(lengths)))
        assert short <= 1 and all(steps)
        expected = expected or steps
        assert steps == expected


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, epoch):
        batches = Batches([1 + k % 7 for k in range(64)], 4, 2, 1, 0, seed)
        batches.set_epoch(epoch)
        return [row for batch in batches for row in batch]

    orders = [tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9 and order(1, 2) == order(1, 2)


@pytest.mark.heavy
@pytest.mark.parametrize("path", ["micro:facts+tools", "gsm8k_train_sdft.json", "alpaca_train_2000.json"])
def test_little_is_padding(embedded, path):
    if not path.startswith("micro:"):
        if not (SHARED / path).is_file():
            pytest.skip("needs the real datasets in ../shared/data")
        path = str(SHARED / path)
    lengths = [len(ids) for ids, _ in tokenized(embedded, read_examples(DataSettings(path=path, sample=800)))]
    batches = Batches(lengths, 8, 1, 1, 0, 0)
    assert 0 <= batches.padding() < 0.05
    drawn_order = random.Random(0).sample(lengths, len(lengths))
    as_drawn = [drawn_order[at : at + 8] for at in range(0, len(drawn_order), 8)]
    assert batches.padding() < 1 - sum(lengths) / sum(max(b) * len(b) for b in as_drawn)


# --- what is left behind -----------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"dora": True, "dropout": 0.1},
        {"rslora": True, "targets": "all-linear", "rank": 4},
        {"holdout": 0.25, "patience": 1, "packing": True, "gradient_checkpointing": True},
    ],
)
def test_the_seed_lm_is_as_it_was_and_the_adapter_loads_and_merges_anywhere(tmp_path, embedded, engine, settings):
    from peft import PeftModel

    before, config = seed_logits(embedded), embedded.model.config.to_dict()
    modules = [name for name, _ in embedded.model.named_modules()]
    out = trained(embedded, tmp_path / "a", lr=3e-3, epochs=1, **settings)
    assert torch.equal(seed_logits(embedded), before)
    assert embedded.model.config.to_dict() == config
    assert [name for name, _ in embedded.model.named_modules()] == modules
    assert not embedded.model.training and not embedded.model.get_input_embeddings()._forward_hooks
    plain = PeftModel.from_pretrained(load_model("embedded").model, out).eval()
    ids = torch.tensor([prompter_of(embedded).train(micro(1)[0].prompt).ids])
    with engine.adapter(str(out)), torch.no_grad():
        ours = engine.model(ids).logits
        assert torch.equal(plain(ids).logits, ours) and not torch.equal(ours, before)
        torch.testing.assert_close(plain.merge_and_unload()(ids).logits, ours, rtol=1e-3, atol=1e-3)
    assert torch.equal(seed_logits(embedded), before)


@pytest.mark.heavy
def test_gradient_checkpointing_changes_no_number(tmp_path, embedded):
    one = trained(embedded, tmp_path / "a", gradient_checkpointing=True)
    other = trained(embedded, tmp_path / "b", gradient_checkpointing=False)
    assert losses(one) == pytest.approx(losses(other), rel=1e-6)
    assert all(torch.allclose(v, weights(other)[k], atol=1e-6) for k, v in weights(one).items())


@pytest.mark.heavy
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True, "dora": True}, {"tune": "full"}])
def test_the_seed_lm_is_as_it_was_after_a_training_that_raised(tmp_path, embedded, settings):
    before, config = seed_logits(embedded), embedded.model.config.to_dict()
    stopped(embedded, tmp_path / "a", 2, **settings)
    assert torch.equal(seed_logits(embedded), before) and embedded.model.config.to_dict() == config
    assert not embedded.model.training and not embedded.model.get_input_embeddings()._forward_hooks
    assert not any("lora" in name for name, _ in embedded.model.named_parameters())


def test_training_changes_the_adapter_only_and_two_trainings_are_the_same(tmp_path, embedded):
    out = trained(embedded, tmp_path / "a", lr=3e-3)
    again = trained(embedded, tmp_path / "b", lr=3e-3)
    assert losses(out) and all(x > 0 for x in losses(out))
    same_result(out, again)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["r"] == 8 and set(config["target_modules"]) == {"q_proj", "v_proj"}
    assert sorted(f.name for f in out.iterdir()) == ["adapter_config.json", WEIGHTS, "training.json"]
    assert trained(embedded, out, lr=3e-3) == out  # made once


@pytest.mark.heavy
def test_full_parameter_tuning_makes_a_whole_model_and_leaves_the_seed_as_it_was(tmp_path, embedded, engine):
    from transformers import AutoModelForCausalLM

    before = seed_logits(embedded)
    embedded.model.requires_grad_(False)  # as a LoRA adapter leaves it
    out = trained(embedded, tmp_path / "a", tune="full")
    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    ids = torch.tensor([prompter_of(embedded).train(micro(1)[0].prompt).ids])
    with torch.no_grad(), engine.adapter(str(out)):
        tuned = engine.model(ids).logits
        assert torch.equal(plain(ids).logits, tuned) and not torch.equal(tuned, before)
    assert torch.equal(seed_logits(embedded), before) and engine.model is embedded.model
    own, ours = (json.loads((Path(f) / "config.json").read_text()) for f in (resolve("embedded"), out))
    assert ours["use_cache"] == own["use_cache"]
    assert adapter_digest(str(out)) != adapter_digest(None)
    assert parameter_shift(out, Path(resolve("embedded"))) > 0
    assert trained(embedded, out, tune="full") == out  # made once
    with pytest.raises(UserError, match=r"trains all weights, so rank cannot be set"):
        checked(TrainSettings, {"tune": "full", "rank": 4}, "train")


def test_mix_ratio_takes_that_share_and_smaller_shares_are_nested():
    examples = micro(40)
    selected = {e.id: Selected(id=e.id, response="D", source="distilled", reason="passed") for e in examples}
    taken = {
        r: {row.id for row in rows_of("sdft", examples, selected, r, 0, "method")[0] if row.responses == ("D",)}
        for r in (0, 0.25, 0.5, 1)
    }
    assert [len(v) for v in taken.values()] == [0, 10, 20, 40]
    assert taken[0.25] < taken[0.5] < taken[1]


# --- stopping and going on ---------------------------------------------------------------------------------------

RESUMED = {"checkpoint_steps": 2, "dropout": 0.1, "lr": 3e-3, "epochs": 3, "batch_size": 4}  # 4 steps an epoch


@pytest.mark.heavy
@pytest.mark.parametrize("settings", [{}, {"accumulation": 2, "batch_size": 2}, {"epochs": 1.6}, {"holdout": 0.25}])
def test_a_training_that_stopped_anywhere_ends_as_an_undisturbed_one(tmp_path, embedded, settings, made):
    settings = RESUMED | settings
    whole = trained(embedded, tmp_path / "whole", **settings)
    steps, rows = len(losses(whole)), settings["batch_size"] * settings.get("accumulation", 1)
    assert steps >= 6
    for step in (3, 5, steps):  # inside an epoch, after its last step, and before the very last one
        out = tmp_path / f"at{step}"
        with pytest.raises(KeyboardInterrupt):
            trained(embedded, out, progress=StopsAt(step, rows), **settings)
        partial = out.with_name(out.name + ".partial")
        assert checkpoints(partial) == [k for k in (2, 4, 6, 8, 10) if k < step][-2:]
        newest = checkpoints(partial)[-1]
        made.clear()
        trained(embedded, out, **settings)
        assert len(made) == (steps - newest) * settings.get("accumulation", 1)
        same_result(whole, out)
        assert not partial.exists()


@pytest.mark.heavy
@pytest.mark.parametrize("epochs", [2, 1.6])
@pytest.mark.parametrize("patience", [None, 2])
def test_a_training_that_stopped_while_it_was_put_away_trains_no_step_more(
    tmp_path, embedded, monkeypatch, epochs, patience
):
    """Also where it had ended early: the steps that it did are those that an undisturbed one does."""
    settings = {**RESUMED, "epochs": epochs}
    if patience:
        settings |= {"holdout": 0.25, "patience": patience, "lr": 0.3, "epochs": 4 * epochs, "checkpoint_steps": 1}
    whole = trained(embedded, tmp_path / "whole", **settings)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(embedded, tmp_path / "out", **settings)
    same_result(whole, trained(embedded, tmp_path / "out", **settings))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["replace", "rmtree"])
def test_a_kill_while_the_folder_gets_its_name_costs_nothing(tmp_path, embedded, monkeypatch, made, name):
    """Before the folder is renamed its checkpoints are there; afterwards the adapter is, and they go with the next call."""
    whole = trained(embedded, tmp_path / "whole", **RESUMED)

    def killed(*args, **named):
        raise KeyboardInterrupt

    where = Path if name == "replace" else shutil
    kept = getattr(where, name)

    def selective(self, *args, **named):
        mine = Path(self)
        doomed = mine.name == "out.partial" or (mine.name.startswith("checkpoint-") and mine.parent.name == "out")
        return killed() if doomed else kept(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, selective)
        with pytest.raises(KeyboardInterrupt):
            trained(embedded, tmp_path / "out", **RESUMED)
    made.clear()
    same_result(whole, trained(embedded, tmp_path / "out", **RESUMED))
    assert not made


@pytest.mark.heavy
@pytest.mark.parametrize("tear", ["truncated", "empty", "missing"])
def test_a_torn_newest_checkpoint_is_passed_over(tmp_path, embedded, tear):
    whole = trained(embedded, tmp_path / "whole", **RESUMED)
    partial = stopped(embedded, tmp_path / "out", 7, **RESUMED)
    assert checkpoints(partial) == [4, 6]
    state = partial / "checkpoint-6" / "trainer_state.json"
    kept = state.read_bytes()
    state.unlink() if tear == "missing" else state.write_bytes(kept[: len(kept) // 2 if tear == "truncated" else 0])
    (partial / "checkpoint-6" / WEIGHTS).write_bytes(b"torn")
    same_result(whole, trained(embedded, tmp_path / "out", **RESUMED))


@pytest.mark.heavy
def test_an_unfinished_training_goes_on_from_another_place(tmp_path, embedded):
    """The best checkpoint is found where the folder lies now, not where it lay."""
    settings = {"holdout": 0.25, "patience": 4, "lr": 0.3, "epochs": 8, "batch_size": 4, "checkpoint_steps": 1}
    whole = trained(embedded, tmp_path / "whole", **settings)
    steps = len(losses(whole))
    partial = stopped(embedded, tmp_path / "here" / "out", steps, **settings)
    best = json.loads((partial / f"checkpoint-{steps - 1}" / "trainer_state.json").read_text())["best_global_step"]
    assert best < steps - 1
    (tmp_path / "there").mkdir()
    partial.rename(tmp_path / "there" / "out.partial")
    same_result(whole, trained(embedded, tmp_path / "there" / "out", **settings))


@pytest.mark.heavy
def test_another_checkpoint_distance_counts_from_there_on(tmp_path, embedded):
    stopped(embedded, tmp_path / "a", 4, **RESUMED)
    partial = stopped(embedded, tmp_path / "a", 8, **RESUMED | {"checkpoint_steps": 5})
    assert checkpoints(partial) == [2, 5]
    whole = trained(embedded, tmp_path / "whole", **RESUMED)
    out = trained(embedded, tmp_path / "a", **RESUMED | {"checkpoint_steps": 1})
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def train_command(out, *settings):
    sets = [x for s in ("checkpoint_steps=2", "dropout=0.1", *settings) for x in ("--set", s)]
    data = ["--model", "embedded", "--data", "micro:facts", "--sample", "24", "--batch-size", "4"]
    return ["train", *data, "--out", str(out), *sets]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("settings", "file"),
    [
        ((), WEIGHTS),
        (("tune=full", "dropout=0"), "model.safetensors"),
        (("accumulation=2", "holdout=0.2", "patience=3", "epochs=6", "lr=0.2"), WEIGHTS),
    ],
)
def test_kill_9_at_random_moments(tmp_path, settings, file):
    def start(out):
        return forked.start(train_command(out, *settings), err=tmp_path / "error")

    def ends(out):
        process = start(out)
        process.join(600)
        assert process.exitcode == 0, (tmp_path / "error").read_text()

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ends(whole)
    partial, chance = tmp_path / "broken.partial", random.Random()
    for turn in range(KILLS if not settings or KILLS > 2 else 1):
        process, since = start(broken), fit._last_checkpoint(partial)
        while process.is_alive() and fit._last_checkpoint(partial) in (None, since):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.6 if turn else 0)  # the first kill is sure to come before the end
        process.kill()
        process.join()
        if broken.exists():  # it was faster
            break
        mark(partial)
    ends(broken)
    unmark(broken, whole)
    same_result(whole, broken, file)


@pytest.mark.heavy
def test_a_changed_setting_of_an_unfinished_training_is_refused(tmp_path, embedded, capsys, monkeypatch):
    def again(*args):
        return run_cli(capsys, monkeypatch, *train_command(tmp_path / "out"), *args)

    process = forked.start(train_command(tmp_path / "out"))
    partial = tmp_path / "out.partial"
    while process.is_alive() and not list(partial.glob("checkpoint-*/trainer_state.json")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert checkpoints(partial)
    before = {f: f.stat().st_mtime_ns for f in partial.rglob("*")}
    for change, told in (
        (("--lr", "0.5"), "lr (0.0001, now 0.5)"),
        (("--rank", "2"), "rank (None, now 2)"),
        (("--set", "dropout=0.2"), "dropout (0.1, now 0.2)"),
        (("--seed", "5"), "seed (0, now 5)"),
        (("--template", "math"), "prompts"),
        (("--sample", "30"), "data"),
    ):
        code, error = again(*change)
        line = [x for x in error.splitlines() if x.startswith("error: ")]
        assert code == 2 and len(line) == 1 and told in line[0] and str(partial) in line[0], error
    assert {f: f.stat().st_mtime_ns for f in partial.rglob("*")} == before
    code, error = again("--set", "checkpoint_steps=3", "--set", 'report_to=["tensorboard"]')
    assert code == (0 if importlib.util.find_spec("tensorboard") else 2), error
    assert again("--set", "checkpoint_steps=7")[0] == 0  # made once


@pytest.mark.heavy
def test_what_has_no_checkpoint_yet_begins_anew_with_other_settings(tmp_path, embedded):
    """So that advice such as "lower train.lr" can be followed with the same output folder."""
    stopped(embedded, tmp_path / "a", 1, lr=0.5)
    fresh = trained(embedded, tmp_path / "fresh", lr=1e-3)
    same_result(fresh, trained(embedded, tmp_path / "a", lr=1e-3))


def test_where_patience_decides_the_distance_of_checkpoints_may_not_change(tmp_path, embedded):
    settings = {"holdout": 0.25, "patience": 2, "epochs": 4, "checkpoint_steps": 1}
    stopped(embedded, tmp_path / "a", 4, **settings)
    with pytest.raises(UserError, match=r"checkpoint_steps \(1, now 2\)"):
        trained(embedded, tmp_path / "a", **settings | {"checkpoint_steps": 2})


# --- what the settings do ----------------------------------------------------------------------------------------


def held_loss(lm, rows, adapter=None):
    """Nats a response token over the rows, in the plainest way."""
    from peft import PeftModel

    model = lm.model if adapter is None else PeftModel.from_pretrained(load_model("embedded").model, adapter).eval()
    total = tokens = 0
    with torch.no_grad():
        for ids, labels in rows:
            loss = torch.nn.functional.cross_entropy(
                model(torch.tensor([ids])).logits[0, :-1], torch.tensor(labels[1:]), reduction="sum"
            )
            total, tokens = total + loss.item(), tokens + sum(y != IGNORED for y in labels[1:])
    return total / tokens


@pytest.mark.heavy
@pytest.mark.parametrize("packing", [False, True])
def test_held_out_rows_do_not_train_and_their_loss_is_the_mean_over_tokens(tmp_path, embedded, packing):
    examples = micro(22)
    held = {e.id for e in drawn(examples, 11, "holdout-0")}
    settings = TrainSettings(holdout=0.5, packing=packing, lr=3e-3, checkpoint_steps=1)
    assert len(held) == 11  # no whole number of batches
    out = train(embedded, references(examples), tmp_path / "a", settings, prompter_of(embedded))
    rows = tokenized(embedded, [e for e in examples if e.id in held])
    record = record_of(out)
    assert [x["step"] for x in record["held_out"]] == [1, 2, 3, 4] and record["rows"] == 11
    assert record["held_out"][-1]["loss"] == pytest.approx(held_loss(embedded, rows, out), rel=1e-5)
    other = [TrainingRow(e, ("Nothing of the kind.",) if e.id in held else e.references) for e in examples]
    changed = train(embedded, other, tmp_path / "b", settings, prompter_of(embedded))
    assert (changed / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()
    assert record_of(changed)["loss"] == record["loss"] and record_of(changed)["held_out"] != record["held_out"]


@pytest.mark.heavy
def test_patience_stops_early_and_takes_the_best(tmp_path, embedded):
    examples = micro(24)
    settings = {"holdout": 0.5, "lr": 0.3, "epochs": 10, "batch_size": 4, "checkpoint_steps": 1}
    out = trained(embedded, tmp_path / "a", examples, patience=3, **settings)
    curve = [x["loss"] for x in record_of(out)["held_out"]]
    best = curve.index(min(curve))
    assert len(curve) == len(losses(out)) == best + 4 < 30
    held = {e.id for e in drawn(examples, 12, "holdout-0")}
    rows = tokenized(embedded, [e for e in examples if e.id in held])
    assert held_loss(embedded, rows, out) == pytest.approx(min(curve), rel=1e-4)


def test_a_holdout_of_no_row_is_refused(tmp_path, embedded):
    for settings in ({"holdout": 0.01}, {"holdout": 0.01, "patience": 1}):
        with pytest.raises(UserError, match=r"train.holdout = 0.01 of 16 rows leaves none"):
            trained(embedded, tmp_path / "a", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_learning_rate_of_every_step(tmp_path, embedded, schedule, warmup):
    settings = {"schedule": schedule, "warmup": warmup, "lr": 1e-3, "batch_size": 2, "checkpoint_steps": 1}
    partial = stopped(embedded, tmp_path / "a", 8, epochs=1, **settings)
    state = json.loads((partial / "checkpoint-7" / "trainer_state.json").read_text())
    found = [x["learning_rate"] for x in state["log_history"] if "loss" in x]
    rising = round(8 * warmup)
    falling = {
        "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
        "linear": lambda share: 1 - share,
        "constant": lambda share: 1,
    }[schedule]
    expected = [1e-3 * (k / rising if k < rising else falling((k - rising) / (8 - rising))) for k in range(7)]
    assert found == pytest.approx(expected)


@pytest.mark.heavy
def test_max_grad_norm_and_weight_decay_matter(tmp_path, embedded):
    plain = trained(embedded, tmp_path / "a", lr=3e-3)
    clipped = trained(embedded, tmp_path / "b", lr=3e-3, max_grad_norm=1e-12)
    decayed = trained(embedded, tmp_path / "c", lr=3e-3, weight_decay=10)
    b = [k for k in weights(plain) if "lora_B" in k]
    assert sum(weights(clipped)[k].norm() for k in b) < 0.1 * sum(weights(plain)[k].norm() for k in b)
    assert sum(weights(decayed)[k].norm() for k in b) < sum(weights(plain)[k].norm() for k in b)


def test_tensorboard_gets_the_losses(tmp_path, embedded):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = trained(embedded, tmp_path / "a", report_to=("tensorboard",), holdout=0.25, checkpoint_steps=1)
    (events,) = out.rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events.parent))
    log.Reload()
    assert [x.value for x in log.Scalars("train/loss")] == pytest.approx(losses(out))
    assert [x.value for x in log.Scalars("eval/loss")] == pytest.approx([x["loss"] for x in record_of(out)["held_out"]])


# --- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--targets", "q_proj,nothing"], r"no module nothing\. Its linear layers: .*q_proj.*all-linear"),
        (["--targets", "input_layernorm"], r"input_layernorm is no linear layer.*q_proj.*all-linear"),
        (["--set", "targets=[]"], r"train\.targets.*all-linear"),
        (["--rank", "0"], r"rank = 0"),
        (["--max-length", "2"], r"no trainable row is left: of 8, 8 are longer than 2 tokens"),
        (["--tune", "qlora"], r'4 bits .*Take tune = "lora"'),
        (["--set", "patience=2"], r"patience needs a held-out part"),
        (["--set", "holdout=0.01"], r"train\.holdout = 0\.01 of 8 rows leaves none"),
        (["--set", "size=9"], r"train\.size = 9: the data has 8 rows"),
        (["--set", "report_to=['x']"], r"unknown tracker 'x'\. There are: wandb"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_written(tmp_path, capsys, monkeypatch, args, told):
    import re

    if "qlora" in args and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    first = ["train", "--model", "embedded", "--data", "micro:facts", "--sample", "8", "--out", tmp_path / "a"]
    code, error = run_cli(capsys, monkeypatch, *first, *args)
    line = [x for x in error.splitlines() if x.startswith("error: ")]
    assert code == 2 and len(line) == 1 and re.search(told, line[0]), error
    assert error.splitlines()[-1] == line[0] and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path, embedded):
    absent = next((name for name in TRACKERS if importlib.util.find_spec(name) is None), None)
    if absent is None:
        pytest.skip("all trackers are installed")
    with pytest.raises(UserError, match=f"{absent} is not installed. pip install {absent}"):
        trained(embedded, tmp_path / "a", report_to=(absent,))
    assert not list(tmp_path.iterdir())


def test_a_foreign_models_modules_are_named_and_a_strangers_folder_is_left_alone(tmp_path, foreign_folder):
    foreign = load_model(str(foreign_folder))
    with pytest.raises(UserError, match=r"query_key_value.*all-linear"):
        trained(foreign, tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    with pytest.raises(UserError, match="Choose another"):
        trained(foreign, tmp_path / "a", targets="all-linear")
    assert trained(foreign, tmp_path / "b", targets=("query_key_value",), epochs=1).is_dir()


def test_a_loss_that_is_no_number_is_one_line(tmp_path, capsys, monkeypatch):
    first = ["train", "--model", "embedded", "--data", "micro:facts", "--sample", "16", "--out", tmp_path / "a"]
    code, error = run_cli(capsys, monkeypatch, *first, "--lr", "1e39", "--epochs", "4")
    assert code == 2 and "the loss is no number any more at step" in error.splitlines()[-1], error
    assert "Lower train.lr (1e+39)" in error and not (tmp_path / "a").exists()


@pytest.mark.heavy
def test_no_adapter_of_weights_that_are_no_numbers_is_written(tmp_path, embedded):
    """The loss of the last step is made before its weights are."""
    refused = []
    for exponent in (3, 10, 20, 38):
        out = tmp_path / f"{exponent}"
        try:
            trained(embedded, out, lr=10.0**exponent, epochs=1, schedule="constant")
        except UserError as error:
            assert "no number" in str(error) and not out.exists()
            refused.append(exponent)
        else:
            assert all(torch.isfinite(v).all() for v in weights(out).values())
    assert 38 in refused and 3 not in refused


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_out_of_memory_is_one_line(tmp_path):
    rows = [{"instruction": f"{k} " + "word " * 300, "output": "answer " * 300} for k in range(64)]
    data = write_jsonl(tmp_path / "long.jsonl", rows)
    command = ["train", "--model", "embedded", "--data", data, "--out", tmp_path / "a", "--batch-size", 64]
    done = cli(*command, prepare=forked.limit_memory)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "out of memory at train.batch_size = 64. Halve it and double train.accumulation" in last
    assert not (tmp_path / "a").exists()


def test_held_out_rows_are_as_often_distilled_as_those_that_train():
    from selfdistill.training.tokens import tokenized

    examples = [e.model_copy(update={"id": f"{k:03}"}) for k, e in enumerate(micro(count=20) * 10)]
    selected = {e.id: Selected(id=e.id, response="D", source="distilled", reason="passed") for e in examples}
    made, _ = rows_of("sdft", examples, selected, 0.5, 0, "method")
    prompter = Prompter.create(load_model("embedded").tokenizer)
    data = tokenized(made, prompter, 0.2, 2048, 0)
    own = tuple(prompter.response("D"))
    shares = [
        sum(tuple(t for t in y if t != -100) == own for _, y, _ in part) / len(part) for part in (data.train, data.held)
    ]
    assert len(data.held) == 40 and all(0.3 < share < 0.7 for share in shares)
