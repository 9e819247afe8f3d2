"""How far two models' next-token distributions lie apart: Kullback-Leibler divergence in both directions.

Forward KL(seed || tuned), on responses that the seed LM samples, says what of its own behaviour the tuned model no
longer covers; it is the quantity that "RL's Razor" (Shenfeld et al. 2025, arXiv 2509.04259) found to predict
forgetting. Reverse KL(tuned || seed) is measured on the tuned model's samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from selfdistill.core.adapters import is_adapter
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.engines.protocol import Completion, Request, Sampling
from selfdistill.engines.transformers import TransformersEngine
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM, load_model

Logits = Callable[[Any, int], Any]
"""(token ids of shape (1, T), first position) -> logits (T - first, vocabulary), on the CPU or the device."""


def divergences(
    seed_lm: SeedLM,
    tuned: str,
    items: Sequence[Example],
    prompter: Prompter,
    max_new_tokens: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[list[float], list[float]]:
    """Forward and reverse KL of each item, in nats a token, each a mean over the tokens of one sampled response.

    At every position of the response the sum runs over the whole vocabulary, so the only chance is in the response. The
    response is its text, tokenized as in training; where a sampled text could be cut into tokens in another way, the
    path is that of training.
    `tuned` is an adapter or a whole model. Raises UserError for a tuned model with another vocabulary.
    """
    if not is_adapter(tuned) and load_model(tuned).tokenizer.get_vocab() != seed_lm.tokenizer.get_vocab():
        raise UserError(f"{tuned}: has another vocabulary than {seed_lm.name}; their tokens cannot be compared.")
    sampling = Sampling(max_new_tokens, temperature=1.0, seed=seed)
    requests = [Request(e.id, prompter.evaluate(e.prompt, e.tools), sampling) for e in items]
    engine = TransformersEngine(seed_lm, {prompter.end_id, seed_lm.tokenizer.eos_token_id})
    own = _sampled(engine, requests)
    with engine.adapter(tuned):
        theirs = _sampled(engine, requests)
    with _both(seed_lm, tuned) as (p, q):
        forward, reverse = [], []
        for request in requests:
            forward.append(_kl(p, q, request, own[request.id], prompter))
            reverse.append(_kl(q, p, request, theirs[request.id], prompter))
            advance(1)
    return forward, reverse


def _sampled(engine: TransformersEngine, requests: Sequence[Request]) -> dict[str, Completion]:
    made = {answer.id: answer for answer in engine.generate(requests)}
    for answer in made.values():
        if answer.error:
            raise UserError(f"item {answer.id}: {answer.error}.")
    return made


@contextmanager
def _both(seed_lm: SeedLM, tuned: str) -> Iterator[tuple[Logits, Logits]]:
    """The seed LM and the tuned model side by side; with an adapter, one model with it off and on."""
    import torch
    from peft import PeftModel

    def logits(model: Any) -> Logits:
        def answer(ids: Any, first: int) -> Any:
            with torch.inference_mode():
                keep = torch.arange(first, ids.shape[1], device=model.device)
                return model(input_ids=ids.to(model.device), logits_to_keep=keep, use_cache=False).logits[0].float()

        return answer

    if not is_adapter(tuned):
        yield logits(seed_lm.model), logits(load_model(tuned, seed_lm.dtype).model)
        return
    model = PeftModel.from_pretrained(seed_lm.model, tuned).eval()

    def without(ids: Any, first: int) -> Any:
        with model.disable_adapter():
            return logits(model)(ids, first)

    try:
        yield without, logits(model)
    finally:
        model.unload()


def _kl(p: Logits, q: Logits, request: Request, answer: Completion, prompter: Prompter) -> float:
    """KL(p || q) in nats a token along one response."""
    import torch
    from torch.nn.functional import kl_div, log_softmax

    response = prompter.response(answer.text, ends=answer.finish_reason == "stop")
    if not response:
        return 0.0  # nothing was said: there is no token to differ in
    ids, first = torch.tensor([[*request.prompt.ids, *response]]), len(request.prompt.ids) - 1
    left, right = (log_softmax(logits(ids[:, :-1], first), dim=-1).double() for logits in (p, q))
    return max(0.0, float(kl_div(right, left, reduction="sum", log_target=True)) / len(response))
