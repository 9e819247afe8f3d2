"""Distill: the seed LM rewrites every reference response, guided by it (Section 3.2, Equation 3).

In:  examples, an engine with the seed LM, a template.
Out: rewrites.jsonl, one `Rewrite` per example: candidates with finish reason, length and seed NLL, and the seed NLL of
     the reference. A row that cannot be rewritten carries the reason.

    selfdistill distill --model M --data train.jsonl --out rewrites.jsonl

Texts are written down as they come (`NAME.texts`), in any order; scoring goes over them afterwards in fixed batches. So
a killed run goes on where it was, whatever the engine, and its final file is the same bytes as an undisturbed one's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from selfdistill.core.config import DistillSettings
from selfdistill.core.dates import begun, today
from selfdistill.core.progress import Progress
from selfdistill.core.records import Candidate, Example, Reason, Record, Rewrite
from selfdistill.core.store import Journal, digest_of, discard, in_time
from selfdistill.engines.protocol import Completion, Engine, Request, Sampling, Scoring
from selfdistill.models.prompts import Prompter
from selfdistill.models.thoughts import MORE_ROOM, joined

BATCH = 64
"""Rows that are scored together."""


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
                        elif (before := _before(example, turn, c, texts)) is not None:
                            prompt = prompter.distill(example.up_to(before), example.references[turn])
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


def _before(example: Example, turn: int, candidate: int, texts: Journal[Text]) -> tuple[str, ...] | None:
    """The rewritten turns before this one; None where one of them failed: the row falls back to its original anyway."""
    chain = _chain(example, candidate, texts, turn)
    whole = len(chain) == turn and all(t.text and t.finish_reason == "stop" for t in chain)
    return tuple(t.text for t in chain) if whole else None


def _chain(example: Example, candidate: int, texts: Journal[Text], turns: int) -> list[Text]:
    keys = (f"{example.id}/{turn}/{candidate}" for turn in range(turns))
    return [texts.read(key) for key in keys if key in texts.done]


# --- scores and records ------------------------------------------------------------------------------------------


@dataclass
class _Scored:
    """A row whose scores are on their way. `turns`: the references, then every candidate's turns; `lengths`: response
    tokens by scoring id, EXAMPLE/INDEX/TURN with an index into `turns`."""

    example: Example
    chains: list[list[Text]]
    turns: list[tuple[str, ...]]
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
    with progress.bar("score", len(examples)) as advance:

        def batches() -> Iterator[list[Scoring]]:
            for batch in _batches(examples):
                if all(e.id in rewrites.done for e in batch):
                    advance(len(batch))
                    continue
                scorings: list[Scoring] = []
                for e in batch:
                    chains = [_chain(e, c, texts, len(e.references)) for c in range(settings.candidates)]
                    turns = [e.references, *(tuple(t.text for t in chain) for chain in chains)]
                    keeps = prompter.settings.thinking == "keep"
                    said = [e.references, *(tuple(_trained(t, keeps) for t in chain) for chain in chains)]
                    asked = _scorings(e, said, prompter)
                    waiting[e.id] = _Scored(e, chains, turns, {s.id: len(s.response) for s in asked})
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


def _trained(text: Text, keeps: bool) -> str:
    """A turn as it trains; "" where there is no answer."""
    return joined(text.thought, text.text) if keeps and text.text else text.text


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Fixed batches of rows of like length, in one pass over the rows."""
    stream = iter(examples)
    while window := list(islice(stream, 16 * BATCH)):
        window.sort(key=lambda e: (-sum(map(len, e.references)), e.id))
        yield from (window[i : i + BATCH] for i in range(0, len(window), BATCH))


def _scorings(example: Example, turns: Sequence[tuple[str, ...]], prompter: Prompter) -> list[Scoring]:
    """One scoring per turn of the references and of every whole candidate. Behind an endpoint there is nothing to
    score; the row then asks for nothing, so that it is answered like any other."""
    if prompter.tokenizer is None:
        return [Scoring(f"{example.id}/0/0", (), ())]
    return [
        Scoring(f"{example.id}/{index}/{k}", prompter.train(example.up_to(row[:k])).ids, tuple(prompter.response(text)))
        for index, row in enumerate(turns)
        if index == 0 or (len(row) == len(example.references) and all(row))
        for k, text in enumerate(row)
    ]


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
            finish_reason="length" if any(t.finish_reason == "length" for t in chain) else "stop",
            tokens=None if any(t.tokens is None for t in chain) else sum(t.tokens or 0 for t in chain),
            seed_nll=row.nll(index, sums),
        )
        for index, (chain, turns) in enumerate(zip(row.chains, row.turns[1:], strict=True), 1)
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
