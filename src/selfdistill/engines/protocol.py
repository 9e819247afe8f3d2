"""Generation: requests with ids in, completions with ids out.

One protocol for every engine. `generate` answers each request exactly once, in any order, and a request that fails is
an answer too: one bad row never stops the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from selfdistill.models.prompts import Prompt


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when a response ends: at the model's end token, at `max_new_tokens`, or before the
    first of the `stop` strings. Temperature 0 is greedy.

    `seed` and a request's id fix its random numbers, so a sampled text does not depend on which requests ran beside it
    (where the engine can do so). `logprobs` asks for the log-probability of every generated token.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: bool = False

    def number(self, id: str) -> int:
        """The seed of one request's random numbers: 0 to 2**31 - 1, as endpoints take it."""
        return int(hashlib.sha256(f"{self.seed}:{id}".encode()).hexdigest()[:8], 16) >> 1


@dataclass(frozen=True)
class Request:
    """What one completion is asked for with."""

    id: str
    prompt: Prompt
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """The text behind one prompt, without the stop string and outer white space.

    `finish_reason`: "stop" (end token or stop string), "length" (cut off by max_new_tokens or the context),
    "rejected" (this prompt can never be answered here, such as one longer than the context), "error" (the engine
    failed, and may not the next time). The last two have no text, and `error` says why.
    `tokens` counts the generated tokens, the end token included; `logprobs` are theirs in nats, where asked for.
    None is unknown.
    """

    id: str
    text: str
    finish_reason: Literal["stop", "length", "rejected", "error"]
    tokens: int | None = None
    prompt_tokens: int | None = None
    logprobs: tuple[float, ...] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Scoring:
    """A prompt and a response whose likelihood is asked for, as token ids."""

    id: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Sum of the negative log-likelihoods of the response tokens, in nats; None where it cannot be had: prompt and
    response do not fit into the context, or the engine does not see likelihoods."""

    id: str
    nll: float | None


def completion(
    request: Request, tokens: Sequence[int], end_ids: set[int], tokenizer: Any, stopped: bool, logprobs: Sequence[float]
) -> Completion:
    """What became of a request, from its generated tokens."""
    sampling = request.sampling
    shown = tokens[:-1] if tokens and tokens[-1] in end_ids else tokens
    # Special tokens are the form of a call.
    text = before_stop(tokenizer.decode(shown, skip_special_tokens=not request.prompt.tools), sampling.stop)
    return Completion(
        request.id,
        text.strip(),
        "stop" if stopped else "length",
        len(tokens),
        len(request.prompt.ids),
        tuple(logprobs) if sampling.logprobs else None,
    )


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string in it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def rejected(request: Request, context: int) -> Completion | None:
    """The answer to a prompt that no model with this context can take; None where it can."""
    length = len(request.prompt.ids)
    if 0 < length < context:
        return None
    why = f"the prompt has {length} tokens, the model's context is {context}" if length else "the prompt is empty"
    return Completion(request.id, "", "rejected", prompt_tokens=length, error=why)


class Engine(Protocol):
    """What the stages need of an engine. It does one thing at a time: a call ends, or is given up, before the next."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Each request answered once, in any order. Requests are drawn as they are needed."""
        ...

    def score(self, batches: Iterable[Sequence[Scoring]]) -> Iterator[list[Score]]:
        """Each batch answered once, in any order, with one score per item. A batch is computed together, so its
        scores have the same bits whatever ran before."""
        ...

    def adapter(self, path: str | None) -> AbstractContextManager[None]:
        """Within this block the engine answers with the adapter, or the fully tuned model, at `path`; None is the seed
        LM itself. Raises UserError for an adapter that does not fit."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the texts, for the record: the engine's name and the data type."""
        ...

    def close(self) -> None:
        """Give back memory and processes. The next call starts them again."""
        ...
