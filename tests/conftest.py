"""Shared fixtures: the embedded model, a foreign tiny model made here, and the command line as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

FOREIGN_CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} </s>"
    "{% else %}<s>[{{ m['role'] }}] {{ m['content'] }} [/{{ m['role'] }}]{% endif %}{% endfor %}"
)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def cli(*args: object, **kwargs) -> subprocess.CompletedProcess[str]:
    """Run `selfdistill` as a user does."""
    command = [sys.executable, "-m", "selfdistill", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **kwargs)


@pytest.fixture(scope="session")
def embedded():
    from selfdistill.models import load_model

    return load_model("embedded")


@pytest.fixture(scope="session")
def engine(embedded):
    from selfdistill.config import TransformersSettings
    from selfdistill.engines.open import make_engine
    from selfdistill.templates import Prompter

    prompter = Prompter.create(embedded.tokenizer, "chat", "using")
    return make_engine(TransformersSettings(rows=16), embedded, prompter)


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory) -> Path:
    """A random model that is not the project's: GPT-NeoX layers, word-piece-like BPE with BOS, another template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from tokenizers import decoders as decode
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("foreign")
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decode.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    bpe.train_from_iterator([Path(__file__).read_text(encoding="utf-8")] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = FOREIGN_CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder
