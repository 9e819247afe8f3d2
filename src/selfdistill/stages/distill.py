"""Distill: the seed LM rewrites every reference response, guided by it (Section 3.2, Equation 3).

In:  examples, an engine with the seed LM, a template.
Out: rewrites.jsonl, one `Rewrite` per example: candidates with finish reason, length and seed NLL, and the seed NLL of
     the reference. A row that cannot be rewritten carries the reason. A turn that calls tools is not rewritten: the
     seed LM is asked for its own call (`own_calls`). With a check, rows of which no rewrite passes are repaired
     (`repair`).

    selfdistill distill --model M --data train.jsonl --out rewrites.jsonl

Texts are written down as they come (`NAME.texts`), in any order; scoring goes over them afterwards in fixed batches. So
a killed run goes on where it was, whatever the engine, and its final file is the same bytes as an undisturbed one's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfdistill.checks import source_digest
from selfdistill.checks.base import Check
from selfdistill.checks.loaded import LoadedCheck
from selfdistill.core.config import DistillSettings, RepairSettings
from selfdistill.core.dates import begun, today
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.rewrites import Reason, Rewrite
from selfdistill.core.store import Journal, digest_of, discard
from selfdistill.engines.protocol import Engine, Sampling
from selfdistill.models.prompts import Prompter
from selfdistill.models.thoughts import MORE_ROOM
from selfdistill.models.tools_check import require_tools
from selfdistill.stages.chains import Chains, Text, candidate_of, with_thoughts
from selfdistill.stages.repair import Repair
from selfdistill.stages.scoring import Row, in_batches, seed_nll


def distill(
    examples: Collection[Example],
    out: Path,
    model: str,
    engine: Engine,
    prompter: Prompter,
    settings: DistillSettings,
    seed: int = 0,
    progress: Progress | None = None,
    own: bool = False,
    check: Check | None = None,
    repair: RepairSettings | None = None,
) -> int:
    """Write `out`; `model` is the seed LM's digest. With `own` the seed LM gives its own answers instead, asked as in
    training, without the reference in sight. With `repair`, further candidates are made for the rows of which none
    passes `check`; the others' records are the same bytes as without.

    Returns how many rows failed for a reason that may pass; calling again tries these again. Raises UserError if `out`
    holds a run with other settings, and for `repair` without a check.
    """
    progress = progress or Progress()
    prompter = prompter.on(begun(out) or today())
    require_tools(prompter, examples, "distill")
    if repair and check is None:
        raise UserError("repair: a check says which rewrites need it. Name one.")
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
    digest = digest_of(identity | ({"own": True} if own else {}))
    identity |= ({"own": True} if own else {}) | (_repair_identity(examples, check, repair) if check and repair else {})
    first = tuple(map(str, range(settings.candidates)))
    sampling = _sampling(settings, prompter, seed)
    with Journal(out, Rewrite, identity, again=lambda r: r.failure is Reason.ERROR) as rewrites:
        heap, mended = (out.with_name(f"{out.name}.{part}") for part in ("texts", "repairs"))
        errors = 0
        if not rewrites.finished:
            with ExitStack() as held:
                texts = held.enter_context(Journal(heap, Text, identity, again=lambda t: t.finish_reason == "error"))
                chains = Chains(texts, engine, prompter, own, progress)
                chains.generate(examples, first, sampling, "own answers" if own else "distill")
                more: Journal[Rewrite] | None = None
                if check and repair:
                    more = held.enter_context(
                        Journal(mended, Rewrite, identity, again=lambda r: r.failure is Reason.ERROR)
                    )
                    resampling = replace(sampling, temperature=repair.temperature)
                    repairs = Repair(chains, check, repair, first, sampling, resampling)
                    repairs.generate(examples)
                    repairs.score(examples, more)
                errors = _score(examples, chains, rewrites, first, digest, more)
            rewrites.finish(e.id for e in examples)
        if not errors:
            discard(heap)
            discard(mended)
    return errors


def _sampling(settings: DistillSettings, prompter: Prompter, seed: int) -> Sampling:
    return Sampling(
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        seed,
        settings.stop,
        thinking_tokens=prompter.settings.thinking_tokens or 0,
    )


def _repair_identity(examples: Iterable[Example], check: Check, repair: RepairSettings) -> dict[str, Any]:
    """What decides the further candidates: settings of steps that are not asked for do not."""
    needed = {"candidates": ("candidates",), "retries": ("retries",), "place": ()}
    names = {name for step in repair.steps for name in needed[step]}
    names |= {"temperature"} if "candidates" in repair.steps or (repair.retries > 1 and "retries" in names) else set()
    by: list[Any] = [check.spec, source_digest(check.spec)] if isinstance(check, LoadedCheck) else [repr(check)]
    rows = digest_of([e.meta for e in examples])  # what a check asks of a row may stand there
    return {"repair": repair.model_dump(mode="json", include={"steps", *names}) | {"check": by, "rows": rows}}


def ids_digest(examples: Iterable[Example]) -> str:
    """What identifies the data: a hash over all ids. The ids themselves are hashes of the content."""
    return digest_of([e.id for e in examples])


# --- scores and records ------------------------------------------------------------------------------------------


def _score(
    examples: Collection[Example],
    chains: Chains,
    rewrites: Journal[Rewrite],
    first: tuple[str, ...],
    digest: str,
    more: Journal[Rewrite] | None,
) -> int:
    """Score references and candidates under the seed LM, prompted as in training, and write the records, with the
    candidates of repair in `more`. Returns how many rows have an error."""
    errors = in_thought = 0
    keeps = chains.prompter.settings.thinking == "keep"
    with chains.progress.bar("score", len(examples)) as advance:

        def row(example: Example) -> Row:
            made = [chains.chain(example, name) for name in first]
            resolved = [chains.resolved(example, chain) for chain in made]
            said = [
                with_thoughts(trains, [t.thought for t in chain]) if keeps else trains
                for chain, (trains, _) in zip(made, resolved, strict=True)
            ]
            whole = [turns if len(turns) == len(example.references) and all(turns) else None for turns in said]
            return Row(example, [example.references, *whole], (made, [recorded for _, recorded in resolved]))

        def batches() -> Iterator[list[Row]]:
            for batch in in_batches(examples, lambda e: e.references):
                if all(e.id in rewrites.done for e in batch):
                    advance(len(batch))
                else:
                    yield [row(e) for e in batch]

        for scored in seed_nll(batches(), chains.engine, chains.prompter):
            made = [_rewrite(row, nll, digest, more) for row, nll in scored]
            errors += sum(r.failure is Reason.ERROR for r in made)
            in_thought += sum(c.cut_in_thought for r in made for c in r.candidates if c.step == "rewrite")
            rewrites.append([r for r in made if r.id not in rewrites.done])
            advance(len(made))
    if in_thought:
        chains.progress.warn(
            f"distill: {in_thought} of {len(examples) * len(first)} rewrites were cut off inside their "
            f"thoughts. {MORE_ROOM}"
        )
    return errors


def _rewrite(row: Row, nll: list[float | None], digest: str, more: Journal[Rewrite] | None) -> Rewrite:
    """The record. A candidate that was rejected is none, and a row without one is rejected. An error of the engine may
    pass, so the whole row waits for the next time."""
    example = row.example
    chains, recorded = row.kept
    bad = {t.finish_reason: t for chain in chains for t in chain if t.finish_reason in ("rejected", "error")}
    candidates = [
        candidate_of(example, chain, turns, nll=score)
        for chain, turns, score in zip(chains, recorded, nll[1:], strict=True)
        if not any(t.finish_reason == "rejected" for t in chain)
    ]
    failure = Reason.ERROR if "error" in bad else None if candidates else Reason.REJECTED
    why = bad.get("error") or bad.get("rejected")
    note = why.error if why else None
    if more is not None and example.id in more.done and not failure:
        further = more.read(example.id)
        candidates += further.candidates
        failure, note = further.failure, further.note or note
    return Rewrite(
        id=example.id,
        candidates=() if failure else tuple(candidates),
        reference_nll=nll[0],
        failure=failure,
        note=note,
        digest=digest,
    )
