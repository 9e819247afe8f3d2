"""Ways to drive a model, and the one that can be trusted with it.

In:  an engine with a model. Out: the engine's `way`, settled by comparison.

Libraries' models differ in what they make of padding, of caches that are handed to them, and of rows that leave. Some
say nothing and give other texts (Mamba 2 takes no `past_key_values`; DeepSeek V4 compresses padding with the rest;
RecurrentGemma keeps states of the last call in its layers). So nothing is believed: a few short rows are generated in
each way, the fastest first, and the likelihoods of their tokens are held against a plain forward pass over the same
tokens, without padding, cache or neighbours.
"""

from __future__ import annotations

import random
from typing import Any, Literal

from selfdistill.core.errors import UserError
from selfdistill.engines.forward import Forward
from selfdistill.engines.memory import out_of_memory
from selfdistill.engines.protocol import Request, Sampling, Scoring
from selfdistill.engines.queue import Row
from selfdistill.models.prompts import Prompt

Way = Literal["together", "no shared prefix", "same lengths", "alone", "without a cache"]
WAYS: tuple[Way, ...] = ("together", "no shared prefix", "same lengths", "alone", "without a cache")
"""The fastest first: rows of any lengths, where what all prompts begin with is computed once and padding stands behind
it; with padding before the whole prompt only; rows of one length; one row by the library's own `generate`; and the
same, computing all tokens anew at each step."""
BATCHED, PADDED = WAYS[:3], WAYS[:2]

SLOWER = {
    "no shared prefix": "what all prompts begin with is computed for each",
    "same lengths": "only prompts of the same length run together",
    "alone": "rows run one by one",
    "without a cache": "rows run one by one, and every token is computed anew at each step, which is slow",
}

AGREED, AGREED_ELSEWHERE, AGREED_ROUNDED = 1e-3, 1e-2, 0.1
"""How far the log-probability of a token may differ, in shares of the spread of the logits: in fp32 on a CPU, on other
devices (which may round to TF32), and in bf16. What rounding does is smaller by far."""

PREFIX, RESTS = 9, ((13, 6), (5, 9), (5, 3), (1, 4), (7, 5))
"""Tokens that all probes begin with, then (further tokens of the prompt, tokens to generate) of each: rows that are
padded, that leave early, that come when another has left, and two of one length."""


def settle(engine: Any) -> None:
    """Set the `way` of a `TransformersEngine` to the first that agrees with a plain forward pass, where it is not
    settled yet. Raises UserError for a model that agrees in none."""
    if engine.way:
        return
    faults: dict[Way, str] = {}
    for way in WAYS:
        engine.way = way
        fault = _fault(engine)
        if fault is None:
            break
        faults[way] = fault
    else:
        engine.way = None
        raise UserError(
            f"model {engine.seed_lm.name} ({_kind(engine)}): this engine cannot answer with it: {faults[WAYS[-1]]}. "
            'Take engine = "vllm", or an endpoint that serves it.'
        )
    engine.pads_scores = _scores_agree(engine)
    if engine.note and faults:
        engine.note(f"{_kind(engine)}: {SLOWER[way]}, since otherwise {faults[WAYS[0]]}")
    if engine.note and not engine.pads_scores:
        engine.note(f"{_kind(engine)}: rows are scored one by one, since beside padding it gives other likelihoods")


def _kind(engine: Any) -> str:
    model = engine.model
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def _fault(engine: Any) -> str | None:
    """What is wrong with the engine's texts in its way; None where nothing is."""
    rows, ends = engine.rows, engine.end_ids
    engine.rows, engine.end_ids = min(rows, 3), set()  # fewer than there are probes, and none ends early
    try:
        done = [row for row in engine.rows_done(_probes(engine)) if isinstance(row, Row)]
        worst = max((_difference(engine, row) for row in done), default=0.0)
    except (TypeError, ValueError, AttributeError, LookupError, NotImplementedError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        return f"it fails ({' '.join(str(error).split())[:120] or type(error).__name__})"
    finally:
        engine.rows, engine.end_ids = rows, ends
    if worst <= _allowed(engine):
        return None
    return "it gives other texts than its own plain forward pass"


def _allowed(engine: Any) -> float:
    if engine.dtype != "float32":
        return AGREED_ROUNDED
    return AGREED if engine.device == "cpu" else AGREED_ELSEWHERE


def _probes(engine: Any) -> list[Request]:
    """Rows of plain tokens: special ones may stand for images."""
    size = min(engine.tokenizer.vocab_size, engine.model.config.get_text_config().vocab_size)
    words = sorted(set(range(size)) - set(engine.tokenizer.all_special_ids)) or list(range(size))
    chance = random.Random(0)
    prefix = tuple(chance.choices(words, k=PREFIX))
    probes = []
    for number, (more, new) in enumerate(RESTS):
        prompt = Prompt(prefix + tuple(chance.choices(words, k=more)))
        probes.append(Request(f"probe {number}", prompt, Sampling(new, logprobs=True)))
    return probes


def _difference(engine: Any, row: Row) -> float:
    """The largest difference between a row's log-probabilities and the plain ones, in shares of the logits' spread."""
    import torch

    with torch.inference_mode():
        logits = Forward(engine).plain((*row.ids, *row.tokens)).float()
        logits = logits[len(row.ids) - 1 : len(row.ids) - 1 + len(row.tokens)]
        plain = logits.log_softmax(-1)[torch.arange(len(row.tokens)), row.tokens]
        differences = (plain - torch.tensor(row.logprobs, device=plain.device)).abs() / _spread(logits)
        # In bf16 a token may go to another expert than alone; that is rounding as long as it is rare.
        return float(differences.max() if engine.dtype == "float32" else differences.median())


def _spread(logits: Any) -> Any:
    """One standard deviation of the logits; 1 where they are all the same."""
    spread = logits.std()
    return spread if spread > 0 else 1.0


def _scores_agree(engine: Any) -> bool:
    """Whether rows that are scored together, with padding behind them, have the likelihoods of plain rows."""
    import torch

    items = [Scoring(r.id, r.prompt.ids[:-3], r.prompt.ids[-3:]) for r in _probes(engine)]
    allowed = _allowed(engine)
    try:
        scores = next(engine.score([items]))
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        return False
    with torch.inference_mode():
        for item, score in zip(items, scores, strict=True):
            logits = Forward(engine).plain(item.prompt + item.response).float()[len(item.prompt) - 1 : -1]
            nll = torch.nn.functional.cross_entropy(logits, torch.tensor(item.response, device=logits.device))
            if score.nll is None or abs(score.nll / 3 - float(nll)) > allowed * float(_spread(logits)):
                return False
    return True
