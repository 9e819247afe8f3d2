"""Generation: requests with ids in, completions with ids out.

One protocol for every engine. `generate` answers each request exactly once, in any order, and a request that fails is
an answer too: one bad row never stops the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from selfdistill.models.prompts import Prompt
from selfdistill.models.thoughts import Parts, split

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when a response ends: at the model's end token, at `max_new_tokens`, or before the
    first of the `stop` strings. Temperature 0 is greedy.

    `seed` and a request's id fix its random numbers, so a sampled text does not depend on which requests ran beside it
    (where the engine can do so). `logprobs` asks for the log-probability of every generated token. `thinking_tokens`
    are room for thoughts on top of `max_new_tokens`, which the answer has then for itself.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    thinking_tokens: int = 0

    @property
    def most(self) -> int:
        """The most tokens that a response may come to, thoughts included."""
        return self.max_new_tokens + self.thinking_tokens

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
    """The answer to one prompt, without the stop string and outer white space, and the thought before it.

    `finish_reason`: "stop" (end token or stop string), "length" (cut off by max_new_tokens or the context),
    "rejected" (this prompt can never be answered here, such as one longer than the context), "error" (the engine
    failed, and may not the next time). The last two have no text, and `error` says why.
    `tokens` counts the generated tokens, thoughts and the end token included; `logprobs` are theirs in nats, where
    asked for. `thought` is None where there is none; what was cut off in a thought has no text. None is unknown.
    """

    id: str
    text: str
    finish_reason: Literal["stop", "length", "rejected", "error"]
    tokens: int | None = None
    prompt_tokens: int | None = None
    logprobs: tuple[float, ...] | None = None
    error: str | None = None
    thought: str | None = None


@dataclass(frozen=True)
class Scoring:
    """A prompt and a response whose likelihood is asked for, as token ids. `tokens` asks for that of each token, too,
    and `top` for so many likeliest tokens in its place (all where the vocabulary is smaller); 0 asks for none. Only an
    engine that `scores_tokens` is asked for either."""

    id: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    tokens: bool = False
    top: int = 0


@dataclass(frozen=True)
class Score:
    """Sum of the negative log-likelihoods of the response tokens, in nats; None where it cannot be had: prompt and
    response do not fit into the context, or the engine does not see likelihoods. `terms` are of the single tokens,
    where they were asked for and there is a sum."""

    id: str
    nll: float | None
    terms: Terms | None = None


@dataclass(frozen=True, eq=False)
class Terms:
    """What a model says of each of T response tokens: `nll` (T,), float32, in nats; where likeliest tokens were asked
    for, their ids `top` (T, K), int32, and log-probabilities `logprobs` (T, K), float32, the likeliest first."""

    nll: np.ndarray
    top: np.ndarray | None = None
    logprobs: np.ndarray | None = None


def completion(
    request: Request, tokens: Sequence[int], end_ids: set[int], tokenizer: Any, stopped: bool, logprobs: Sequence[float]
) -> Completion:
    """What became of a request, from its generated tokens."""
    sampling = request.sampling
    shown = tokens[:-1] if tokens and tokens[-1] in end_ids else tokens
    parts = _parts(request, shown, tokenizer)
    answer = before_stop(parts.answer, sampling.stop)
    if sampling.thinking_tokens and not parts.open and len(shown) > sampling.max_new_tokens:
        begin = _answer_begins(request, shown, tokenizer) if parts.thought is not None else 0
        if len(shown) > begin + sampling.max_new_tokens:  # the thought left more room than the answer has
            tokens, stopped = shown[: begin + sampling.max_new_tokens], False
            answer = before_stop(_parts(request, tokens, tokenizer).answer, sampling.stop)
    return Completion(
        request.id,
        answer.strip(),
        "stop" if stopped else "length",
        len(tokens),
        len(request.prompt.ids),
        tuple(logprobs[: len(tokens)]) if sampling.logprobs else None,
        thought=parts.thought,
    )


def _parts(request: Request, tokens: Sequence[int], tokenizer: Any) -> Parts:
    """Thought and answer. Some markers are special tokens: thoughts are looked for with these, and read without them. A
    tokenizer that says how its model's responses are built is believed."""
    plain, opened = tokenizer.decode(tokens, skip_special_tokens=True), request.prompt.opened
    said = tokenizer.decode(tokens, skip_special_tokens=False)
    if getattr(tokenizer, "response_template", None) and (found := _parsed(request, said, tokenizer)):
        return found
    if said == plain:
        return split(plain, opened)
    parts = split(said, opened)
    if request.prompt.tools:  # special tokens are the form of a call
        return parts
    if parts.thought is None and not parts.open and parts.answer == said:
        return Parts(None, plain)
    if "commentary to=" in parts.answer:  # a call, whose header are special tokens
        return parts
    special = sorted((str(t) for t in tokenizer.added_tokens_decoder.values() if t.special), key=len, reverse=True)
    marks = re.compile("|".join(map(re.escape, special)) or "(?!)")
    return Parts(parts.thought and marks.sub("", parts.thought), marks.sub("", parts.answer), parts.open)


def _parsed(request: Request, text: str, tokenizer: Any) -> Parts | None:
    """A response as the tokenizer itself takes it apart; None where it cannot, and where there is a call in it."""
    try:
        message = tokenizer.parse_response(text, prefix=tokenizer.decode(request.prompt.ids))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    thought, answer = message.get("reasoning_content") or message.get("thinking"), message.get("content") or ""
    if message.get("tool_calls") or not isinstance(answer, str) or not (thought or answer):
        return None
    again = split(text, request.prompt.opened)
    return Parts(thought or None, answer, again.open and not answer)


def _answer_begins(request: Request, tokens: Sequence[int], tokenizer: Any) -> int:
    """How many tokens stand before the answer."""
    low, high = 0, len(tokens)  # the thought is open up to somewhere, and closed behind it
    while low < high:
        middle = (low + high) // 2
        if (
            split(tokenizer.decode(tokens[:middle], skip_special_tokens=False), request.prompt.opened).open
            or not middle
        ):
            low = middle + 1
        else:
            high = middle
    return low


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
    """What the stages need of an engine. It does one thing at a time: a call ends, or is given up, before the next.
    `tuned` is the adapter or the tuned model that answers now; None is the seed LM. `scores_tokens` says whether it can
    give the likelihoods of single tokens."""

    tuned: str | None
    scores_tokens: bool

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Each request answered once, in any order. Requests are drawn as they are needed."""
        ...

    def score(self, batches: Iterable[Sequence[Scoring]]) -> Iterator[list[Score]]:
        """Each batch answered once, in any order, with one score per item. A batch is computed together, so its
        scores have the same bits whatever ran before."""
        ...

    def adapter(self, path: str | None) -> AbstractContextManager[None]:
        """Within this block the engine answers with the adapter, or the fully tuned model, at `path`; None is the seed
        LM itself, also inside another adapter's block. Raises UserError for an adapter that does not fit."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the texts, for the record: the engine's name and the data type."""
        ...

    def close(self) -> None:
        """Give back memory and processes. The next call starts them again."""
        ...
