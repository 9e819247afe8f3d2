"""Distill: the seed LM rewrites every reference response, guided by it (Section 3.2, Equation 3).

In:  examples, an engine with the seed LM, a template.
Out: rewrites.jsonl, one `Rewrite` per example: candidates with finish reason, length and seed NLL, and the seed NLL of
     the reference. A row that cannot be rewritten carries the reason. A turn that calls tools is not rewritten: the
     seed LM is asked for its own call (`own_calls`).

    selfdistill distill --model M --data train.jsonl --out rewrites.jsonl

Texts are written down as they come (`NAME.texts`), in any order; scoring goes over them afterwards in fixed batches. So
a killed run goes on where it was, whatever the engine, and its final file is the same bytes as an undisturbed one's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfdistill.core.config import DistillSettings
from selfdistill.core.dates import begun, today
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Record
from selfdistill.core.rewrites import Candidate, Reason, Rewrite
from selfdistill.core.store import Journal, digest_of, discard, in_time
from selfdistill.core.turns import is_call
from selfdistill.engines.protocol import Completion, Engine, Request, Sampling, Scoring
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.thoughts import MORE_ROOM, joined
from selfdistill.models.tools_check import require_tools
from selfdistill.stages.own_calls import own_call
from selfdistill.stages.scoring import in_batches, turn_by_turn


class Text(Record):
    """One generated turn of one candidate; its id is EXAMPLE/TURN/CANDIDATE."""

    text: str
    thought: str | None = None
    finish_reason: Literal["stop", "length", "rejected", "error"]
    tokens: int | None = None
    error: str | None = None


def distill(
    examples: Collection[Example],
    out: Path,
    model: str,
    engine: Engine,
    prompter: Prompter,
    settings: DistillSettings,
    seed: int = 0,
    progress: Progress | None = None,
) -> int:
    """Write `out`; `model` is the seed LM's digest. Returns how many rows failed for a reason that may pass; calling
    again tries these again. Raises UserError if `out` holds a run with other settings."""
    progress = progress or Progress()
    prompter = prompter.on(begun(out) or today())
    require_tools(prompter, examples, "distill")
    identity = {
        "stage": "distill",
        "model": model,
        "engine": engine.describe(),
        "data": ids_digest(examples),
        "settings": settings.model_dump(mode="json"),
        "prompts": [prompter.format, prompter.template.intro, prompter.template.turn],
        **prompter.identity(),
        "seed": seed,
    }
    with Journal(out, Rewrite, identity, again=lambda r: r.failure is Reason.ERROR) as rewrites:
        heap = out.with_name(f"{out.name}.texts")
        errors = 0
        if not rewrites.finished:
            with Journal(heap, Text, identity, again=lambda t: t.finish_reason == "error") as texts:
                _generate(examples, texts, engine, prompter, settings, seed, progress)
                errors = _score(examples, texts, rewrites, engine, prompter, settings, digest_of(identity), progress)
            rewrites.finish(e.id for e in examples)
        if not errors:
            discard(heap)
    return errors


def ids_digest(examples: Iterable[Example]) -> str:
    """What identifies the data: a hash over all ids. The ids themselves are hashes of the content."""
    return digest_of([e.id for e in examples])


# --- texts -------------------------------------------------------------------------------------------------------


def _generate(
    examples: Collection[Example],
    texts: Journal[Text],
    engine: Engine,
    prompter: Prompter,
    settings: DistillSettings,
    seed: int,
    progress: Progress,
) -> None:
    """Turn by turn over all rows: in a multi-turn row, turn k is rewritten given the rewritten turns before it. Each
    candidate is a chain of its own."""
    sampling = Sampling(
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        seed,
        settings.stop,
        thinking_tokens=prompter.settings.thinking_tokens or 0,
    )
    for turn in range(max(len(e.references) for e in examples)):
        wanted = sum(len(e.references) > turn for e in examples) * settings.candidates
        name = "distill" if turn == 0 else f"distill turn {turn + 1}"
        with progress.bar(name, wanted) as advance:

            def requests(turn: int = turn, advance: Callable[[int], None] = advance) -> Iterator[Request]:
                for example in examples:
                    for c in range(settings.candidates if turn < len(example.references) else 0):
                        if f"{example.id}/{turn}/{c}" in texts.done:
                            advance(1)
                        elif (before := _before(example, turn, c, texts, prompter)) is not None:
                            prompt = _prompt(example, turn, before, prompter)
                            yield Request(f"{example.id}/{turn}/{c}", prompt, sampling)

            for made in in_time(_text(completion) for completion in engine.generate(requests())):
                texts.append(made)
                advance(len(made))


def _text(completion: Completion) -> Text:
    return Text(
        id=completion.id,
        text=completion.text,
        thought=completion.thought,
        finish_reason=completion.finish_reason,
        tokens=completion.tokens,
        error=completion.error,
    )


def _prompt(example: Example, turn: int, before: tuple[str, ...], prompter: Prompter) -> Prompt:
    """What asks for this turn: for a rewrite of it, or, where it calls tools, for the seed LM's own call."""
    if "tool_calls" in example.answers[turn]:
        return prompter.train(example.up_to(before), example.tools)
    return prompter.distill(example.up_to(before), example.references[turn], example.tools)


def _before(
    example: Example, turn: int, candidate: int, texts: Journal[Text], prompter: Prompter
) -> tuple[str, ...] | None:
    """The turns before this one, rewritten; None where one of them failed: the row falls back to its original anyway.
    A call that failed does not: the reference's takes its place."""
    chain = _chain(example, candidate, texts, turn)
    calls = ["tool_calls" in answer for answer in example.answers]
    whole = len(chain) == turn and all(
        call or (t.text and t.finish_reason == "stop") for t, call in zip(chain, calls, strict=False)
    )
    if not whole or any(t.finish_reason in ("rejected", "error") for t in chain):
        return None
    return _resolved(example, chain, prompter)[0]


def _resolved(example: Example, chain: Sequence[Text], prompter: Prompter) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what trains of a chain, what is recorded of it): of calls the seed LM's own, or the reference's; recorded is
    then what the seed LM said instead."""
    trains: list[str] = []
    recorded: list[str] = []
    for number, text in enumerate(chain):
        own: str | None = text.text
        if "tool_calls" in example.answers[number]:
            own = own_call(example, number, text.text, _prompt(example, number, tuple(trains), prompter), prompter)
        trains.append(example.references[number] if own is None else own)
        recorded.append(text.text if own is None else own)
    return tuple(trains), tuple(recorded)


def _chain(example: Example, candidate: int, texts: Journal[Text], turns: int) -> list[Text]:
    keys = (f"{example.id}/{turn}/{candidate}" for turn in range(turns))
    return [texts.read(key) for key in keys if key in texts.done]


# --- scores and records ------------------------------------------------------------------------------------------


@dataclass
class _Scored:
    """A row whose scores are on their way. `turns`: the references, then of every candidate what trains; `recorded`: of
    every candidate what its record says; `lengths`: response tokens by scoring id, EXAMPLE/INDEX/TURN with an index
    into `turns`."""

    example: Example
    chains: list[list[Text]]
    turns: list[tuple[str, ...]]
    recorded: list[tuple[str, ...]]
    lengths: dict[str, int]

    def nll(self, index: int, sums: Mapping[str, float | None]) -> float | None:
        """Mean negative log-likelihood in nats per response token, end tokens included; None where it is unknown."""
        keys = [f"{self.example.id}/{index}/{k}" for k in range(len(self.turns[index]))]
        found = [sums.get(key) for key in keys]
        tokens = sum(self.lengths.get(key, 0) for key in keys)
        return round(sum(x for x in found if x is not None) / tokens, 4) if tokens and None not in found else None


def _score(
    examples: Collection[Example],
    texts: Journal[Text],
    rewrites: Journal[Rewrite],
    engine: Engine,
    prompter: Prompter,
    settings: DistillSettings,
    digest: str,
    progress: Progress,
) -> int:
    """Score references and candidates under the seed LM, prompted as in training, and write the records. Returns how
    many rows have an error."""
    waiting: dict[str, _Scored] = {}
    errors = in_thought = 0
    keeps = prompter.settings.thinking == "keep"
    with progress.bar("score", len(examples)) as advance:

        def batches() -> Iterator[list[Scoring]]:
            for batch in in_batches(examples, lambda e: e.references):
                if all(e.id in rewrites.done for e in batch):
                    advance(len(batch))
                    continue
                scorings: list[Scoring] = []
                for e in batch:
                    chains = [_chain(e, c, texts, len(e.references)) for c in range(settings.candidates)]
                    made = [_resolved(e, chain, prompter) for chain in chains]
                    turns = [e.references, *(trains for trains, _ in made)]
                    said = [*map(_with_thoughts, turns[1:], chains)] if keeps else turns[1:]
                    asked = _scorings(e, [e.references, *said], prompter)
                    lengths = {s.id: len(s.response) for s in asked}
                    waiting[e.id] = _Scored(e, chains, turns, [recorded for _, recorded in made], lengths)
                    scorings += asked
                yield scorings

        for scores in engine.score(batches()):
            sums = {score.id: score.nll for score in scores}
            ids = dict.fromkeys(key.rsplit("/", 2)[0] for key in sums)
            made = [_rewrite(waiting.pop(key), sums, digest) for key in ids]
            errors += sum(r.failure is Reason.ERROR for r in made)
            in_thought += sum(c.cut_in_thought for r in made for c in r.candidates)
            rewrites.append([r for r in made if r.id not in rewrites.done])
            advance(len(made))
    if in_thought:
        progress.warn(
            f"distill: {in_thought} of {len(examples) * settings.candidates} rewrites were cut off inside their "
            f"thoughts. {MORE_ROOM}"
        )
    return errors


def _with_thoughts(responses: tuple[str, ...], chain: Sequence[Text]) -> tuple[str, ...]:
    """The turns of a candidate with the thoughts that train before them."""
    said = zip(responses, chain, strict=False)
    return tuple(joined(t.thought, text) if text and not is_call(text) else text for text, t in said)


def _scorings(example: Example, turns: Sequence[tuple[str, ...]], prompter: Prompter) -> list[Scoring]:
    """One scoring per turn of the references and of every whole candidate. Behind an endpoint there is nothing to
    score; the row then asks for nothing, so that it is answered like any other."""
    if prompter.tokenizer is None:
        return [Scoring(f"{example.id}/0/0", (), ())]
    made: list[Scoring] = []
    for index, row in enumerate(turns):
        if index == 0 or (len(row) == len(example.references) and all(row)):
            made += turn_by_turn(f"{example.id}/{index}", example, row, prompter)
    return made


def _rewrite(row: _Scored, sums: Mapping[str, float | None], digest: str) -> Rewrite:
    """The record. A candidate that was rejected is none, and a row without one is rejected. An error of the engine may
    pass, so the whole row waits for the next time."""
    whole = len(row.example.references)
    bad = {t.finish_reason: t for chain in row.chains for t in chain if t.finish_reason in ("rejected", "error")}
    candidates = [
        Candidate(
            text=turns[-1] if len(turns) == whole else "",
            turns=turns[:-1] if len(turns) == whole else turns,
            thoughts=tuple(t.thought for t in chain) if any(t.thought is not None for t in chain) else (),
            finish_reason=_ending(row.example, chain),
            tokens=None if any(t.tokens is None for t in chain) else sum(t.tokens or 0 for t in chain),
            seed_nll=row.nll(index, sums),
        )
        for index, (chain, turns) in enumerate(zip(row.chains, row.recorded, strict=True), 1)
        if not any(t.finish_reason == "rejected" for t in chain)
    ]
    failure = Reason.ERROR if "error" in bad else None if candidates else Reason.REJECTED
    why = bad.get("error") or bad.get("rejected")
    return Rewrite(
        id=row.example.id,
        candidates=() if failure else tuple(candidates),
        reference_nll=row.nll(0, sums),
        failure=failure,
        note=why.error if why else None,
        digest=digest,
    )


def _ending(example: Example, chain: Sequence[Text]) -> Literal["stop", "length"]:
    """How a candidate ended. A call that was cut off counts only where nothing but calls is there: beside rewritten
    turns the reference's call takes its place."""
    calls = ["tool_calls" in turn for turn in example.answers]
    cut_off = [t.finish_reason == "length" for t, call in zip(chain, calls, strict=False) if all(calls) or not call]
    return "length" if any(cut_off) else "stop"
