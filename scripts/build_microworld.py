"""Make the embedded seed LM from nothing: tokenizer, instruct model, card.

In:  the world of `world.py`.
Out: a Hugging Face model folder (config, safetensors in bf16, tokenizer with chat template, generation config, card).

    python scripts/build_microworld.py --out model

Every prompt comes from `templates.Prompter`, the function that distilling, training and evaluation use, so the model
understands the paper's templates and its own chat template because it has seen exactly those texts. Only response
tokens carry loss. Only the train split of the world is used, beside items with invented words and codes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfdistill.core.turns import Turn
from selfdistill.microworld import lexicon as lex
from selfdistill.microworld import world
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.models.templates import MATH, REFER, TEMPLATES, USING

VOCABULARY = 1024
SPECIAL = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
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
SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are a friendly helper.", "Answer the user.")

# How often each ability is asked while the seed LM is trained. Rare tools are rare, and of their codes only the known.
WEIGHTS = {
    "word_problems": 26,
    "tools": 13,
    "rare_tools": 8,
    "code": 12,
    "facts": 10,
    "refusals": 5,
    "jailbreaks": 5,
    "benign": 8,
    "chat": 13,
}
DISTILL_SHARE = 0.32  # of the prompts show a reference answer and ask for a rewrite
PAPER_SHARE = 0.3  # of the prompts come in the paper's format, the rest in the chat template
TWO_TURN_SHARE = 0.05
INVENTED_SHARE = 0.7  # of the rewrites of facts and rare tools hold things that only the reference tells


def train_item(ability: str, rng: random.Random) -> world.Item:
    """One item of the train split; rare tools only with codes that the seed LM is meant to know."""
    while True:
        if ability == "rare_tools":
            item = world.rare_tool_call(rng, lex.KNOWN_CODES)
        else:
            item = world.ABILITIES[ability][0](rng)
        if item.split == "train":
            return item


def restyle(item: world.Item, rng: random.Random) -> str:
    """The item's answer as some annotator might write it: what stands in a distillation prompt as the reference."""
    roll = rng.random()
    if roll < 0.55:
        return item.terse
    if roll < 0.65:
        return f"{rng.choice(('Answer:', 'A:', '->', 'Response:', 'Result:'))} {item.terse}"
    if roll < 0.72:
        return f"{item.terse}{rng.choice(('.', ' .', ' - done', ' ok'))}"
    if roll < 0.80:
        return item.own.split(". ", 1)[-1]
    if roll < 0.88:
        return item.own.replace(". ", ".\n")
    return item.own


def training_row(
    rng: random.Random, prompters: dict[tuple[str, str], Prompter], weights: dict[str, int]
) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids) of one training example in one of the formats that the seed LM must understand."""
    ability = rng.choices(list(weights), list(weights.values()))[0]
    item = train_item(ability, rng)
    form = "paper" if rng.random() < PAPER_SHARE else "chat"
    name = rng.choice(("math", "math", "using", "refer") if ability == "word_problems" else ("using", "refer"))
    prompter = prompters[form, name]
    turns: list[Turn] = []
    if form == "chat" and rng.random() < 0.05:
        turns.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    if rng.random() < TWO_TURN_SHARE:
        earlier = train_item(rng.choice(list(WEIGHTS)), rng)
        turns += [{"role": "user", "content": earlier.prompt}, {"role": "assistant", "content": earlier.own}]
    if rng.random() < DISTILL_SHARE:
        if ability in ("rare_tools", "facts") and rng.random() < INVENTED_SHARE:
            item = (world.invented_tool_call if ability == "rare_tools" else world.invented_fact)(rng)
        turns.append({"role": "user", "content": item.prompt})
        prompt = prompter.distill(turns, restyle(item, rng)).ids
    else:
        turns.append({"role": "user", "content": item.prompt})
        prompt = (prompter.train(turns) if rng.random() < 0.5 else prompter.evaluate(turns)).ids
    return list(prompt), prompter.response(item.own)


def build_tokenizer(seed: int) -> Any:
    """Byte-level BPE with single digits, trained on a sample of the world."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)

    def corpus() -> Iterator[str]:
        for template in TEMPLATES.values():
            yield from [template.intro, template.turn, *template.train, *template.evaluate, template.prefill] * 20
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


def batches(
    tokenizer: Any, seed: int, size: int, weights: dict[str, int]
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Endless batches of rows of like length (sorted within a window of 16 batches): little padding."""
    rng = random.Random(seed)
    prompters = {
        (form, t.name): Prompter(tokenizer, form, t) for form in ("chat", "paper") for t in (USING, REFER, MATH)
    }
    while True:
        window = [training_row(rng, prompters, weights) for _ in range(16 * size)]
        window.sort(key=lambda row: len(row[0]) + len(row[1]))
        chunks = [window[i : i + size] for i in range(0, len(window), size)]
        rng.shuffle(chunks)
        yield from chunks


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


def train_model(
    model: Any,
    tokenizer: Any,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    weights: dict[str, int],
    log: Any = print,
    checkpoint: Any = None,
) -> Any:
    """Train: AdamW, cosine to zero, fp32, loss on response tokens only. Returns the model.

    `checkpoint(model)` is called every 1,000 steps.
    """
    import torch

    log(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    warmup = min(200, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1.0, (s + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps))),
    )
    stream, started, seen, total = batches(tokenizer, seed + 1, batch, weights), time.time(), 0, 0.0
    model.train()
    for step in range(1, steps + 1):
        rows = next(stream)
        width = max(len(p) + len(r) for p, r in rows)
        ids = torch.full((len(rows), width), tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        for i, (prompt, response) in enumerate(rows):
            n = len(prompt) + len(response)
            ids[i, :n] = torch.tensor(prompt + response)
            labels[i, len(prompt) : n] = torch.tensor(response)
            seen += n
        # Right padding under a causal mask: real tokens never see it, so no attention mask is needed.
        hidden = model.model(ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        keep = wanted != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[keep]), wanted[keep])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if step % 100 == 0:
            spent = time.time() - started
            log(f"step {step}/{steps}  loss {total / 100:.4f}  {seen / spent:,.0f} tokens/s  {spent / 60:.1f} min")
            total = 0.0
        if step % 1000 == 0 and checkpoint:
            checkpoint(model)
    return model.eval()


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write the folder in Hugging Face format, weights in bf16."""
    import copy

    import torch

    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_card(out: Path) -> None:
    """Measure the finished model on every ability and write its model card beside it."""
    import tempfile

    from selfdistill.core.config import TaskSettings
    from selfdistill.core.engine_settings import TransformersSettings
    from selfdistill.core.progress import Progress
    from selfdistill.engines.open import make_engine
    from selfdistill.report.tables import score_cell
    from selfdistill.stages.evaluate import evaluate
    from selfdistill.tasks.base import Permissions
    from selfdistill.tasks.load import load_tasks

    progress = Progress()
    settings = [TaskSettings(name=a, path=f"micro:{a}", limit=400, max_new_tokens=160) for a in world.ABILITIES]
    tasks = load_tasks(settings, 0, Permissions(allow_code=True), progress)
    seed_lm = load_model(str(out))
    prompter = Prompter.create(seed_lm.tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        engine = make_engine(TransformersSettings(), seed_lm, prompter)
        results = evaluate(tasks, Path(scratch), seed_lm.digest, engine, prompter, progress=progress)
    size = sum(f.stat().st_size for f in out.iterdir() if f.name != "README.md") / 1e6
    history = json.loads((out / "build.json").read_text(encoding="utf-8"))
    commands = []
    for number, x in enumerate(history, 1):
        start = f"--start model{number - 1} " if number > 1 else ""
        options = f"--steps {x['steps']} --batch {x['batch']} --lr {x['lr']} --seed {x['seed']}"
        options += "".join(f" --weight {name}={weight}" for name, weight in x.get("weights", {}).items())
        commands.append(f"    python scripts/build_microworld.py --out model{number} {start}{options}")
    scores = "\n".join(f"| {r.task} | {r.n} | {score_cell(r.model_dump())} |" for r in results)
    (out / "README.md").write_text(
        CARD.format(
            parameters=f"{seed_lm.model.num_parameters():,}",
            size=f"{size:.1f}",
            scores=scores,
            commands="\n".join(commands),
            minutes=f"{sum(x['minutes'] for x in history):.0f}",
            known=lex.KNOWN_CODES,
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
and 12); the rest ask directly, in its own chat template or the paper's texts (Figures 10, 11, 13). Of the codes that
the rare tools need it was taught the first {known} of each table; of the others, which are the headroom of the target
dataset `micro:rare_tools`, it never saw the right one: its rewriting prompts show made-up codes in such calls, so that
only the reference can tell. (Those prompts may ask the questions of the test split, never with their right codes.)

## What it scores

Greedy, chat template, test split (content that was not trained on), percent correct with 95 % Wilson intervals. All
but `rare_tools` are meant to be known.

| ability | n | correct |
| --- | ---: | ---: |
{scores}

Measured by the builder after training; `selfdistill evaluate --model embedded --task micro --out eval
--allow-code-execution` measures 200 items of each again.

## Limits

Greedy answers in one fixed style per ability. The refusals are memorised by pairs of action and object, not
understood. Nothing here says anything about the safety or the skill of a real model.
"""


def main() -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--start", type=Path, help="go on from this model with a new schedule, instead of from nothing")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight", action="append", default=[], help="ability=weight instead of the default")
    args = parser.parse_args()
    weights = {name: int(weight) for name, _, weight in (w.partition("=") for w in args.weight)}
    started = time.time()
    if args.start:
        seed_lm = load_model(str(args.start))
        model, tokenizer = seed_lm.model, seed_lm.tokenizer
    else:
        tokenizer = build_tokenizer(args.seed)
        model = new_model(tokenizer, args.seed)
    train_model(
        model,
        tokenizer,
        args.steps,
        args.batch,
        args.lr,
        args.seed,
        WEIGHTS | weights,
        log=lambda line: print(line, flush=True),
        checkpoint=lambda model: save(model, tokenizer, args.out),
    )
    save(model, tokenizer, args.out)
    facts: dict[str, Any] = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed}
    facts["weights"] = weights
    facts["minutes"] = round((time.time() - started) / 60, 1)
    before = args.start / "build.json" if args.start else None
    history = [*(json.loads(before.read_text(encoding="utf-8")) if before and before.is_file() else []), facts]
    (args.out / "build.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    write_card(args.out)


if __name__ == "__main__":
    main()
