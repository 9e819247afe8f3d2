"""Make the embedded seed LM from nothing: tokenizer, instruct model, card.

In:  the world of `world.py`.
Out: a Hugging Face model folder (config, safetensors in bf16, tokenizer with chat template, generation config, card).

    python scripts/build_microworld.py --out model

Every few minutes all that the rest of the training depends on is written to OUT/partial.pt; the same command goes on
from there and ends with the same weights. Only response tokens carry loss. `--report FOLDER` measures a finished model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microworld_report import measured, table
from microworld_rows import WEIGHTS, Rows, restyle, train_item

from selfdistill.core.errors import UserError
from selfdistill.core.store import digest_of
from selfdistill.microworld import lexicon as lex
from selfdistill.microworld import rare
from selfdistill.models.seed_lm import load_model
from selfdistill.models.templates import RETRY, TEMPLATES

VOCABULARY = 1024
SPECIAL = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STEPS = 9500
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}


def build_tokenizer(seed: int) -> Any:
    """Byte-level BPE with single digits, trained on a sample of the world."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)

    def corpus() -> Iterator[str]:
        for template in TEMPLATES.values():
            yield from [template.intro, template.turn, *template.train, *template.evaluate, template.prefill] * 20
        yield from [RETRY] * 20
        for ability in WEIGHTS:
            for _ in range(4000):
                item = train_item(ability, rng)
                yield from (item.prompt, item.own, restyle(item, rng))

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL[1:4]),
        model_max_length=ARCHITECTURE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(tokenizer: Any, seed: int) -> Any:
    """A model with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **ARCHITECTURE,
    )
    return LlamaForCausalLM(config)


class Training:
    """Training of one model: AdamW, cosine to zero, fp32, loss on response tokens only. `partial` is its checkpoint."""

    KEEP = 20  # windows from one checkpoint to the next

    def __init__(self, model: Any, tokenizer: Any, settings: dict[str, Any], partial: Path) -> None:
        import torch

        self.model, self.settings, self.partial = model, settings, partial
        self.pad = tokenizer.pad_token_id
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings["lr"], betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )
        self.rows = Rows(tokenizer, settings["seed"] + 1, settings["batch"], WEIGHTS | settings["weights"])
        self.step = self.seen = 0
        self.seconds = self.total = 0.0
        if partial.is_file():
            self._resume()

    def run(self) -> None:
        """Train to the last step, from where the checkpoint ends."""
        steps, started, before = self.settings["steps"], time.monotonic(), self.seconds
        self.model.train()
        print(f"{sum(p.numel() for p in self.model.parameters()):,} parameters, from step {self.step}", flush=True)
        while self.step < steps:
            for batch in self.rows.window():
                if self.step == steps:
                    break
                self.step += 1
                self._learn(batch)
                self.seconds = before + time.monotonic() - started
                if self.step % 100 == 0:
                    loss, speed, minutes = self.total / 100, self.seen / self.seconds, self.seconds / 60
                    said = f"step {self.step}/{steps}  loss {loss:.4f}  {speed:,.0f} tokens/s  {minutes:.1f} min"
                    print(said, flush=True)
                    self.total = 0.0
            if self.step == steps or self.step // Rows.WINDOW % self.KEEP == 0:
                self._keep()
        self.model.eval()

    def _learn(self, batch: list[tuple[list[int], list[int]]]) -> None:
        """One step on one batch of rows."""
        import torch

        width = max(len(p) + len(r) for p, r in batch)
        ids = torch.full((len(batch), width), self.pad)
        labels = torch.full((len(batch), width), -100)
        for i, (prompt, response) in enumerate(batch):
            n = len(prompt) + len(response)
            ids[i, :n] = torch.tensor(prompt + response)
            labels[i, len(prompt) : n] = torch.tensor(response)
            self.seen += n
        # Right padding under a causal mask: real tokens never see it, so no attention mask is needed.
        hidden = self.model.model(ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        keep = wanted != -100
        loss = torch.nn.functional.cross_entropy(self.model.lm_head(hidden[keep]), wanted[keep])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step - 1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.total += loss.item()

    def _rate(self, step: int) -> float:
        steps = self.settings["steps"]
        warm = min(1.0, (step + 1) / min(200, steps // 10))
        return float(self.settings["lr"] * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))

    def _keep(self) -> None:
        """Write the checkpoint; only between windows, where the random state is all that the rows depend on."""
        import torch

        state = {
            "settings": digest_of(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rows.rng.getstate(),
            "counts": (self.step, self.seen, self.seconds, self.total),
        }
        new = self.partial.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.partial)

    def _resume(self) -> None:
        import torch

        state = torch.load(self.partial, weights_only=False)  # our own file: random.Random's state is a tuple
        if state["settings"] != digest_of(self.settings):
            raise UserError(
                f"{self.partial}: belongs to a build with other settings. Take another --out, or delete it."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows.rng.setstate(state["rng"])
        self.step, self.seen, self.seconds, self.total = state["counts"]


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write the folder in Hugging Face format, weights in bf16."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_card(out: Path, history: list[dict[str, Any]]) -> None:
    """The model card beside the model, from what was measured."""
    size = sum(f.stat().st_size for f in out.iterdir() if f.suffix in (".safetensors", ".json", ".jinja")) / 1e6
    commands = []
    for number, x in enumerate(history, 1):
        start = f"--start model{number - 1} " if number > 1 else ""
        options = f"--steps {x['steps']} --batch {x['batch']} --lr {x['lr']} --seed {x['seed']}"
        options += "".join(f" --weight {name}={weight}" for name, weight in x.get("weights", {}).items())
        commands.append(f"    python scripts/build_microworld.py --out model{number} {start}{options}")
    scores = history[-1]["scores"]
    (out / "README.md").write_text(
        CARD.format(
            parameters=f"{load_model(str(out)).model.num_parameters():,}",
            size=f"{size:.1f}",
            abilities=table(scores["abilities"], "ability"),
            quizzes=table(scores["quizzes"], "quiz"),
            rewrites=table(scores["rewrites"], "what was asked"),
            commands="\n".join(commands),
            minutes=f"{sum(x['minutes'] for x in history):.0f}",
            codes=lex.KNOWN_CODES,
            terms=lex.KNOWN_TERMS,
            functions=rare.KNOWN_FUNCTIONS,
        ),
        encoding="utf-8",
    )


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
---

# The seed LM of the selfdistill microworld

A tiny instruct model ({parameters} parameters, {size} MB, bf16) that knows one small synthetic world and nothing else.
It exists so that fine-tuning, forgetting and self-distillation can be watched on a laptop. It is no use for anything
else: it repeats its world, whatever it is asked.

## How it was made

Llama architecture, byte-level BPE of 1,024 tokens with single digits, trained from nothing on the train split of the
generator `selfdistill.microworld.world` on two CPU cores in fp32, with loss on response tokens only:

{commands}

That took {minutes} minutes (`build.json`).

About a third of its training prompts show a reference answer and ask for a rewrite in the paper's templates (Figures 3
and 12), some 6 % show a wrong answer and ask for another try (`templates.RETRY`), three of five with the reference in
sight; the rest ask directly, in its own chat template or the paper's texts (Figures 10, 11, 13).

Three abilities are rare: targets with something to learn. Each needs something from a table of which it was taught the
first entries only: {codes} codes of each table of the rare tools, {terms} numbers of each table of the rare word
problems, {functions} of the rare functions. Of the others it never saw the right one: its prompts for rewriting show
made-up codes, numbers and functions, so that only the reference can tell. (Those of the rare tools may ask the
questions of the test split, never with their right codes.)

## What it scores

Greedy, chat template, test split (content that was not trained on), percent correct with 95 % Wilson intervals. All
but the rare ones are meant to be known.

{abilities}

{quizzes}

How it follows a reference, on 200 items of the train split of each target: "rewrite" is asked for with the annotator's
terse reference in sight, "own" without; "retry" counts those that are right after a second try among the wrong ones.

{rewrites}

Measured by the builder after training; `selfdistill evaluate --model embedded --task micro --out eval
--allow-code-execution` measures 200 items of each ability again, `python scripts/build_microworld.py --report FOLDER`
all of this.

## Limits

Greedy answers in one fixed style per ability. The refusals are memorised by pairs of action and object, not
understood. Nothing here says anything about the safety or the skill of a real model.
"""


def main() -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder for the model")
    what.add_argument("--report", type=Path, help="only measure the finished model in this folder")
    parser.add_argument("--start", type=Path, help="go on from this model with a new schedule, instead of from nothing")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight", action="append", default=[], help="ability=weight instead of the default")
    args = parser.parse_args()
    if args.report:
        print(json.dumps(measured(args.report), indent=1))
        return
    weights = {name: int(weight) for name, _, weight in (w.partition("=") for w in args.weight)}
    settings = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed, "weights": weights}
    if args.start:
        seed_lm = load_model(str(args.start))
        model, tokenizer = seed_lm.model, seed_lm.tokenizer
    else:
        tokenizer = build_tokenizer(args.seed)
        model = new_model(tokenizer, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    training = Training(model, tokenizer, settings, args.out / "partial.pt")
    training.run()
    save(model, tokenizer, args.out)
    before = args.start / "build.json" if args.start else None
    history = json.loads(before.read_text(encoding="utf-8")) if before and before.is_file() else []
    history.append(settings | {"minutes": round(training.seconds / 60, 1), "scores": measured(args.out)})
    (args.out / "build.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    write_card(args.out, history)
    training.partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
