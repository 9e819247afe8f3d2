"""Whether an adapter acts: a few rows with it and without it, before anything is measured.

In:  an engine that answers with an adapter, and what makes its prompts.
Out: nothing where something changes. Raises UserError where nothing does though the adapter's weights are not zero:
     engines and servers have answered under an adapter's name with the base model, and all that was measured was the
     seed LM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfdistill.core.adapters import WEIGHTS, is_adapter
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.engines.protocol import Engine, Request, Sampling, Scoring
from selfdistill.models.prompts import Prompter

ASKED = (
    ("Name the capital of France.", "The capital of France is Paris."),
    ("What is 17 + 25?", "17 + 25 = 42."),
    ("Write one sentence about rain.", "Rain fell on the roof all night, and in the morning the street was clean."),
    ("How do I boil an egg?", "Put the egg into boiling water and take it out after eight minutes."),
)
"""Questions, and answers whose likelihood is compared."""

TOKENS = 48
"""Of an answer, where an engine sees no likelihoods."""


def see_that_it_acts(engine: Engine, prompter: Prompter, progress: Progress) -> None:
    """Compare what the engine gives with its adapter and without. Of a model with all weights tuned there is nothing to
    switch off, so it is left alone."""
    path = getattr(engine, "tuned", None)  # engines that others wrote may not say
    if path is not None and not is_adapter(path):
        return
    tuned = _given(engine, prompter)
    with engine.adapter(None):
        base = _given(engine, prompter)
    if tuned != base:
        return
    if path is not None and _is_zero(Path(path)):
        progress.warn(f"adapter {path}: changes nothing, since its weights B are all zero: it was never trained")
        return
    raise UserError(
        f"adapter {path or ''}: engine {engine.describe()['name']} gives the same with it and without it, though its "
        "weights are not zero. The engine or its server ignores the adapter, or answers under its name with the base "
        "model. Merge it (selfdistill merge) and evaluate the merged model, or take another engine."
    )


def _given(engine: Engine, prompter: Prompter) -> Sequence[Any]:
    """Likelihoods of fixed answers; where the engine sees none, its own greedy answers with what it says of them."""
    prompts = [prompter.evaluate([{"role": "user", "content": question}]) for question, _ in ASKED]
    if all(prompt.ids for prompt in prompts):
        items = [
            Scoring(f"acts {n}", tuple(prompt.ids), tuple(prompter.response(answer)))
            for n, (prompt, (_, answer)) in enumerate(zip(prompts, ASKED, strict=True))
        ]
        scores = sorted((score.id, score.nll) for batch in engine.score([items]) for score in batch)
        if any(nll is not None for _, nll in scores):
            return scores
    sampling = Sampling(TOKENS, logprobs=True)
    asked = [Request(f"acts {n}", prompt, sampling) for n, prompt in enumerate(prompts)]
    done = sorted(engine.generate(asked), key=lambda completion: completion.id)
    if failed := next((c.error for c in done if c.error), None):
        raise UserError(f"the engine fails on a plain question: {failed}")
    return [(completion.text, completion.logprobs) for completion in done]


def _is_zero(adapter: Path) -> bool:
    """Whether all factors B are zero, as they are before the first step."""
    from safetensors.torch import load_file

    factors = [w for name, w in load_file(adapter / WEIGHTS).items() if ".lora_B" in name or "lora_embedding_B" in name]
    return bool(factors) and not any(weight.any() for weight in factors)
