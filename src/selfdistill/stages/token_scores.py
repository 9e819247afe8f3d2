"""Token scores: what the seed LM says of every token that may train, prompted as in training.

In:  rows with their responses, an engine with the seed LM.
Out: a folder. `scores.jsonl` says of each batch which rows it holds, and how many tokens each of them has. Beside it
     lies BATCH.safetensors with their terms, one after the other: `nll` in nats (float32) and, where likeliest tokens
     were asked for, `top` (int32) and `logprobs` (float32), both of shape (tokens, K).

A batch is the same rows whatever ran before, and is on disk before it is noted. So a killed call goes on where it was,
and the folder is the same bytes as an undisturbed one's. Memory holds hashes of ids and places, not terms.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfdistill.core.dates import begun, today
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Record, read_records
from selfdistill.core.rows import TrainingRow
from selfdistill.core.store import Journal, make_folder, new_files
from selfdistill.engines.protocol import Engine, Score, Scoring, Terms
from selfdistill.models.prompts import Prompter
from selfdistill.stages.scoring import in_batches, turn_by_turn

if TYPE_CHECKING:
    import numpy as np

NOTES = "scores.jsonl"
CALL = 1024
"""Batches that an engine is given in one call: Ray holds all of a call, and loads its models anew for each."""
OPEN = 32
"""Files that are kept open for reading: rows in the order of the data jump between the batches of a window."""


class Shard(Record):
    """A batch; its id is its number. `rows` are the ids of its rows, `tokens` the numbers of their response tokens over
    all turns; None for a row that cannot be scored."""

    rows: tuple[str, ...]
    tokens: tuple[int | None, ...]


def score_tokens(
    rows: Collection[TrainingRow],
    out: Path,
    model: str,
    engine: Engine,
    prompter: Prompter,
    top: int = 0,
    progress: Progress | None = None,
) -> TokenScores:
    """Score every response token of the rows, with the `top` likeliest tokens in its place where that is not 0; `model`
    is the seed LM's digest. The rows are gone through twice, one batch in memory at a time.

    Raises UserError for an engine that cannot, if `out` holds other rows or other settings, and for an id that occurs
    twice.
    """
    progress = progress or Progress()
    require_token_scores(engine, "scoring tokens")
    notes = out / NOTES
    prompter = prompter.on(begun(notes) or today())
    identity = {
        "stage": "score tokens",
        "model": model,
        "engine": engine.describe(),
        "rows": _digest(rows),
        "prompts": [prompter.format, *prompter.template.train],
        **prompter.identity(),
        "top": top,
    }
    make_folder(out)
    with Journal(notes, Shard, identity, again=lambda shard: not _file(out, shard.id).is_file()) as shards:
        if not shards.finished:
            with progress.bar("score tokens", len(rows)) as advance:
                batches = ((str(n), batch) for n, batch in enumerate(in_batches(rows, lambda row: row.responses)))
                waiting = _waiting(batches, shards.done, advance)
                while part := list(islice(waiting, 1)):
                    for shard in _scored(chain(part, islice(waiting, CALL - 1)), out, engine, prompter, top):
                        shards.append([shard])
                        advance(len(shard.rows))
            shards.finish(sorted(shards.done, key=int))
    scores = TokenScores(out)
    if scores.unscored:
        progress.warn(
            f"score tokens: {scores.unscored} of {len(rows)} rows are longer than the engine's context and have no "
            "scores."
        )
    return scores


def require_token_scores(engine: Engine, asked: str) -> None:
    """Raises UserError for an engine that gives no likelihoods of single tokens; `asked` is what needs them."""
    if not engine.scores_tokens:
        name = engine.describe()["name"]
        raise UserError(
            f'engine = "{name}": {asked} needs the likelihood of every token of a given text, which this engine does '
            'not give. Take engine = "transformers", "vllm" or "ray".'
        )


# --- writing -----------------------------------------------------------------------------------------------------


def _digest(rows: Iterable[TrainingRow]) -> str:
    """What identifies the rows: a hash over their ids and responses. Raises UserError for an id that occurs twice."""
    import numpy as np

    digest, keys = hashlib.sha256(), array("Q")
    for row in rows:
        said = [row.id, *row.responses]
        digest.update(b"".join(len(text).to_bytes(8, "big") + text.encode("utf-8", "surrogatepass") for text in said))
        keys.append(_key(row.id))
    found, counts = np.unique(np.asarray(keys), return_counts=True)
    if twice := {int(key) for key in found[counts > 1]}:
        id = next(row.id for row in rows if _key(row.id) in twice)
        raise UserError(f"score tokens: id {id!r} occurs twice. Keep one row per id.")
    return digest.hexdigest()[:16]


def _key(id: str) -> int:
    """64 bits of a hash of an id."""
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _waiting(
    batches: Iterable[tuple[str, list[TrainingRow]]], done: Collection[str], advance: Any
) -> Iterator[tuple[str, list[TrainingRow]]]:
    for number, batch in batches:
        if number in done:
            advance(len(batch))
        else:
            yield number, batch


def _scored(
    batches: Iterable[tuple[str, list[TrainingRow]]], out: Path, engine: Engine, prompter: Prompter, top: int
) -> Iterator[Shard]:
    """Each batch scored and written, in the order in which the engine answers."""
    asked: dict[str, list[tuple[str, int]]] = {}  # by the number of a batch on its way: ids and turns of its rows

    def scorings() -> Iterator[list[Scoring]]:
        for number, batch in batches:
            asked[number] = [(row.id, len(row.responses)) for row in batch]
            yield [
                scoring
                for place, row in enumerate(batch)
                for scoring in turn_by_turn(f"{number}/{place}", row.example, row.responses, prompter, True, top)
            ]

    for scores in engine.score(scorings()):
        number = scores[0].id.partition("/")[0]
        yield _written(number, asked.pop(number), {score.id: score for score in scores}, out)


def _written(number: str, rows: Sequence[tuple[str, int]], scores: dict[str, Score], out: Path) -> Shard:
    """The terms of a batch on disk."""
    from safetensors.numpy import save

    whole: list[list[Terms]] = []  # of each row the terms of its turns
    for place, (_, turns) in enumerate(rows):
        found = [scores[f"{number}/{place}/{turn}"].terms for turn in range(turns)]
        terms = [turn for turn in found if turn is not None]
        whole.append(terms if len(terms) == turns else [])
    with new_files(_file(out, number)) as (file,):
        file.write(save(_joined([terms for row in whole for terms in row])))
        file.flush()
        os.fsync(file.fileno())  # a batch that is noted is there
    tokens = tuple(sum(len(terms.nll) for terms in row) if row else None for row in whole)
    return Shard(id=number, rows=tuple(id for id, _ in rows), tokens=tokens)


def _joined(terms: Sequence[Terms]) -> dict[str, np.ndarray]:
    """The terms one after the other; nothing of a batch of which no row can be scored."""
    import numpy as np

    if not terms:
        return {}
    joined = {"nll": np.concatenate([t.nll for t in terms])}
    top = [(t.top, t.logprobs) for t in terms if t.top is not None and t.logprobs is not None]
    if top:
        joined["top"] = np.concatenate([ids for ids, _ in top])
        joined["logprobs"] = np.concatenate([logs for _, logs in top])
    return joined


def _file(out: Path, number: str) -> Path:
    return out / f"{number}.safetensors"


# --- reading -----------------------------------------------------------------------------------------------------


class TokenScores:
    """The scores in a folder that `score_tokens` wrote, read as they are asked for. Memory holds 28 bytes a row.

    All arrays follow the tokens of `TrainingRow.weights`: the response tokens of all turns in order, end tokens
    included. A row that cannot be scored has None; an unknown id is a KeyError. `unscored` counts the former.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there is none, or an unfinished one."""
        import numpy as np

        self.folder, self.unscored = folder, 0
        keys, shards, starts, tokens = array("Q"), array("i"), array("q"), array("q")
        for shard in read_records(folder / NOTES, Shard):
            start = 0
            for id, count in zip(shard.rows, shard.tokens, strict=True):
                keys.append(_key(id))
                shards.append(int(shard.id))
                starts.append(start)
                tokens.append(-1 if count is None else count)
                self.unscored += count is None
                start += count or 0
        order = np.argsort(np.asarray(keys))
        self._keys, self._shards = np.asarray(keys)[order], np.asarray(shards)[order]
        self._starts, self._tokens = np.asarray(starts)[order], np.asarray(tokens)[order]
        self._open = lru_cache(maxsize=OPEN)(self._opened)

    def __len__(self) -> int:
        return len(self._keys)

    def nll(self, id: str) -> np.ndarray | None:
        """Negative log-likelihoods in nats: (T,), float32."""
        return self._read(id, "nll")

    def top(self, id: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The ids of the likeliest tokens, (T, K) int32, and their log-probabilities, (T, K) float32, the likeliest
        first. Raises ValueError where they were not asked for."""
        ids, logprobs = self._read(id, "top"), self._read(id, "logprobs")
        return None if ids is None or logprobs is None else (ids, logprobs)

    def entropy(self, id: str) -> np.ndarray | None:
        """Entropies in nats of the likeliest tokens' distribution, whose K probabilities are made to sum to 1: (T,),
        float32. With K = 20 it is that of EAFT (arXiv 2601.02151). Raises ValueError where they were not asked for."""
        logprobs = self._read(id, "logprobs")
        return None if logprobs is None else entropy(logprobs)

    def _read(self, id: str, name: str) -> np.ndarray | None:
        import numpy as np

        key = np.uint64(_key(id))
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            raise KeyError(id)
        start, count = int(self._starts[at]), int(self._tokens[at])
        if count < 0:
            return None
        file = self._open(int(self._shards[at]))
        if name not in file.keys():  # noqa: SIM118
            raise ValueError(f"{self.folder}: the likeliest tokens were not asked for (top = 0)")
        terms: np.ndarray = file.get_slice(name)[start : start + count]
        return terms

    def _opened(self, number: int) -> Any:
        from safetensors import safe_open

        return safe_open(_file(self.folder, str(number)), framework="np")


def entropy(logprobs: np.ndarray) -> np.ndarray:
    """Entropies in nats (T,) of distributions over K tokens, from log-probabilities (T, K) that may sum to less than
    1."""
    import numpy as np

    logs = logprobs - logprobs.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    found: np.ndarray = -(np.exp(logs) * np.where(np.isfinite(logs), logs, 0)).sum(-1)
    return found
