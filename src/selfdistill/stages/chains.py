"""Chains: the texts of one candidate, turn by turn, as the seed LM is asked for them.

In:  examples, names of chains, an engine with the seed LM.
Out: texts in a journal, as they come; the candidates that they make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Record
from selfdistill.core.rewrites import Candidate, Made
from selfdistill.core.store import Journal, in_time
from selfdistill.core.turns import is_call
from selfdistill.engines.protocol import Completion, Engine, Request, Sampling
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.thoughts import joined
from selfdistill.stages.own_calls import own_call


class Text(Record):
    """One generated turn of one candidate; its id is EXAMPLE/TURN/CHAIN. Chains of the first pass are numbers."""

    text: str
    thought: str | None = None
    finish_reason: Literal["stop", "length", "rejected", "error"]
    tokens: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Chains:
    """The texts that are there, and how more are asked for. With `own` the seed LM is asked as in training, without the
    reference in sight."""

    texts: Journal[Text]
    engine: Engine
    prompter: Prompter
    own: bool
    progress: Progress

    def prompt(self, example: Example, turn: int, before: tuple[str, ...]) -> Prompt:
        """What asks for this turn: for a rewrite of it, or, where it calls tools, for the seed LM's own call."""
        if self.own or "tool_calls" in example.answers[turn]:
            return self.prompter.train(example.up_to(before), example.tools)
        return self.prompter.distill(example.up_to(before), example.references[turn], example.tools)

    def retry(self, example: Example, before: tuple[str, ...], wrong: str, answer: str) -> Prompt:
        """What asks for the last turn again, with a wrong answer and the right one in sight."""
        reference = None if self.own else example.reference
        return self.prompter.retry(example.up_to(before), reference, wrong, answer, example.tools)

    def generate(self, examples: Collection[Example], names: Sequence[str], sampling: Sampling, label: str) -> None:
        """Turn by turn over all rows: in a multi-turn row, turn k is written given the turns before it in its chain."""
        for turn in range(max((len(e.references) for e in examples), default=0)):
            wanted = sum(len(e.references) > turn for e in examples) * len(names)
            with self.progress.bar(label if turn == 0 else f"{label} turn {turn + 1}", wanted) as advance:

                def requests(turn: int = turn, advance: Callable[[int], None] = advance) -> Iterator[Request]:
                    for example in examples:
                        for name in names if turn < len(example.references) else ():
                            if f"{example.id}/{turn}/{name}" in self.texts.done:
                                advance(1)
                            elif (before := self._before(example, turn, name)) is not None:
                                prompt = self.prompt(example, turn, before)
                                yield Request(f"{example.id}/{turn}/{name}", prompt, sampling)

                self.answer(requests(), advance)

    def answer(self, requests: Iterator[Request], advance: Callable[[int], None]) -> None:
        """Write down what the engine makes of requests, as it comes."""
        for made in in_time(_text(completion) for completion in self.engine.generate(requests)):
            self.texts.append(made)
            advance(len(made))

    def _before(self, example: Example, turn: int, name: str) -> tuple[str, ...] | None:
        """The turns before this one, rewritten; None where one of them failed: the row falls back to its original
        anyway. A call that failed does not: the reference's takes its place."""
        chain = self.chain(example, name, turn)
        calls = ["tool_calls" in answer for answer in example.answers]
        whole = len(chain) == turn and all(
            call or (t.text and t.finish_reason == "stop") for t, call in zip(chain, calls, strict=False)
        )
        if not whole or any(t.finish_reason in ("rejected", "error") for t in chain):
            return None
        return self.resolved(example, chain)[0]

    def chain(self, example: Example, name: str, turns: int | None = None) -> list[Text]:
        """The texts of a chain that are there, of its first `turns` turns."""
        count = len(example.references) if turns is None else turns
        keys = (f"{example.id}/{turn}/{name}" for turn in range(count))
        return [self.texts.read(key) for key in keys if key in self.texts.done]

    def resolved(self, example: Example, chain: Sequence[Text]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(what trains of a chain, what is recorded of it): of calls the seed LM's own, or the reference's; recorded is
        then what the seed LM said instead."""
        trains: list[str] = []
        recorded: list[str] = []
        for number, text in enumerate(chain):
            own: str | None = text.text
            if "tool_calls" in example.answers[number]:
                prompt = self.prompt(example, number, tuple(trains))
                own = own_call(example, number, text.text, prompt, self.prompter)
            trains.append(example.references[number] if own is None else own)
            recorded.append(text.text if own is None else own)
        return tuple(trains), tuple(recorded)


def _text(completion: Completion) -> Text:
    return Text(
        id=completion.id,
        text=completion.text,
        thought=completion.thought,
        finish_reason=completion.finish_reason,
        tokens=completion.tokens,
        error=completion.error,
    )


def candidate_of(
    example: Example, chain: Sequence[Text], turns: tuple[str, ...], step: Made = "rewrite", nll: float | None = None
) -> Candidate:
    """The candidate that a chain makes; `turns` are what is recorded of it."""
    whole = len(turns) == len(example.references)
    return Candidate(
        text=turns[-1] if whole else "",
        turns=turns[:-1] if whole else turns,
        thoughts=tuple(t.thought for t in chain) if any(t.thought is not None for t in chain) else (),
        finish_reason=_ending(example, chain),
        tokens=None if any(t.tokens is None for t in chain) else sum(t.tokens or 0 for t in chain),
        seed_nll=nll,
        step=step,
    )


def _ending(example: Example, chain: Sequence[Text]) -> Literal["stop", "length"]:
    """How a candidate ended. A call that was cut off counts only where nothing but calls is there: beside rewritten
    turns the reference's call takes its place."""
    calls = ["tool_calls" in turn for turn in example.answers]
    cut_off = [t.finish_reason == "length" for t, call in zip(chain, calls, strict=False) if all(calls) or not call]
    return "length" if any(cut_off) else "stop"


def with_thoughts(responses: tuple[str, ...], thoughts: Sequence[str | None]) -> tuple[str, ...]:
    """The turns of a candidate with the thoughts that train before them."""
    said = zip(responses, thoughts, strict=False)
    return tuple(joined(thought, text) if text and not is_call(text) else text for text, thought in said)
