"""The transformers engine: the default, on CPU, CUDA and MPS.

Rows are generated together in the slots of one preallocated cache (slots.py). A finished row makes room for a waiting
one, the longest prompts go first, and a prefix that all waiting prompts share is computed once. How many rows run
together follows from the free memory; a memory error halves that number, and the rows in flight begin anew.

Not every architecture can be driven so. Before its first text, the engine compares a few rows with the model's own
plain forward pass, and takes the fastest of the `WAYS` (ways.py) whose numbers are the same, or refuses the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from selfdistill.core.adapters import is_adapter
from selfdistill.core.errors import UserError
from selfdistill.engines.forward import Forward
from selfdistill.engines.memory import LayerSize, free_bytes, out_of_memory, row_bytes
from selfdistill.engines.protocol import Completion, Request, Score, Scoring, Terms, completion, rejected
from selfdistill.engines.queue import Queue, Row, draw, generator_of
from selfdistill.engines.slots import Slots, is_plain
from selfdistill.engines.ways import BATCHED, PADDED, Way, settle
from selfdistill.models.seed_lm import SeedLM, load_model

if TYPE_CHECKING:
    import torch

ROWS = {"cpu": 128}
"""Rows that run together where memory allows; more make a CPU no faster. Elsewhere MANY."""
MANY = 256
READ_AHEAD = 1024
"""Requests that are sorted by length together, and searched for a shared prefix."""
LEAVE = 0.75
"""With no rows waiting, finished rows leave once at most this share goes on: copying the cache costs, too."""
PREFILL = 8192
"""Prompt tokens that are computed at a time, at most (but at least one row)."""
MEMORY = 0.5
"""Share of the free memory that the cache may take; activations need some, too."""
LOGITS = 1 << 29
"""Logits that scoring computes at a time, at most: 2 GB in fp32."""


class TransformersEngine:
    """Batched generation and scoring with a loaded model; adapters are switched on and off without reloading."""

    scores_tokens = True

    def __init__(
        self,
        seed_lm: SeedLM,
        end_ids: set[int],
        rows: int | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """`end_ids`: tokens that end a response. `rows`: how many may run together. `note` is told where a model must
        be driven in a slower way, and why."""
        self.seed_lm, self.note = seed_lm, note
        self.way: Way | None = None  # not settled before the first call
        self.pads_scores = True
        self.takes: set[str] = set()  # the arguments of the model's forward
        self.instead: Any = None  # what answers in the seed LM's place
        self.tuned: str | None = None
        self.tokenizer, self.context = seed_lm.tokenizer, seed_lm.context
        self.device, self.dtype, self.end_ids = seed_lm.device, seed_lm.dtype, end_ids
        self.rows = rows or ROWS.get(self.device, MANY)
        self.layers: list[LayerSize] = []  # of the cache; measured once

    def describe(self) -> dict[str, Any]:
        """The engine's name and data type."""
        return {"name": "transformers", "dtype": self.dtype}

    def close(self) -> None:
        """Nothing to give back: the model belongs to the seed LM."""

    # --- generating --------------------------------------------------------------------------------------------------

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Each request answered once, in any order. Raises UserError where memory is too short for a single row, and
        for a model whose texts cannot be guaranteed in any way."""
        settle(self)
        for row in self.rows_done(requests):
            if isinstance(row, Completion):
                yield row
            else:
                stopped = row.end == "stop"
                yield completion(row.request, row.tokens, self.end_ids, self.tokenizer, stopped, row.logprobs)

    def rows_done(self, requests: Iterable[Request]) -> Iterator[Row | Completion]:
        """Each request as a finished row, or as the reason why it has no answer."""
        return self._together(requests) if self.way in BATCHED else self._one_by_one(requests)

    def _one_by_one(self, requests: Iterable[Request]) -> Iterator[Row | Completion]:
        for request in requests:
            row = self._row(request)
            if isinstance(row, Row):
                try:
                    Forward(self).generate(row, self._choose, self.way != "without a cache")
                except RuntimeError as error:
                    self._halve(error)
            yield row

    def _together(self, requests: Iterable[Request]) -> Iterator[Row | Completion]:
        import torch

        stream = iter(requests)
        queue = Queue(self.way == "together" and is_plain(Forward(self).cache()))
        drained = False
        live: dict[int, Row] = {}  # by slot
        slots: Slots | None = None
        while True:
            if not drained and len(queue.rows) < self.rows:
                more = list(islice(stream, READ_AHEAD))
                drained = len(more) < READ_AHEAD
                made = [self._row(request) for request in more]
                yield from (row for row in made if isinstance(row, Completion))
                queue.put(row for row in made if isinstance(row, Row))
            if not queue.rows and not live:
                return
            done: list[Row] = []
            try:
                with torch.inference_mode():  # around nothing that yields: the mode would leak to the caller
                    if queue.rows and (slots is None or slots.take(len(live), queue.longest)):
                        slots = self._admit(queue, live, slots)
                    elif slots is not None:
                        self._step(slots, live)
                    done = [live.pop(slot) for slot in [slot for slot, row in live.items() if row.end]]
                    if done and live and slots is not None:
                        live = self._close_ranks(slots, live, bool(queue.rows))
            except RuntimeError as error:
                self._halve(error)
                for row in live.values():
                    row.tokens.clear()
                    row.logprobs.clear()
                    row.generator = generator_of(row.request)
                queue.put(live.values())
                live = {}
            yield from done
            if not live:
                slots = None

    def _row(self, request: Request) -> Row | Completion:
        """The row of a request, or why it cannot be answered."""
        room = min(request.sampling.most, self.context - len(request.prompt.ids))
        return rejected(request, self.context) or Row(request, room, generator_of(request))

    def _admit(self, queue: Queue, live: dict[int, Row], slots: Slots | None) -> Slots:
        """Prefill the longest waiting rows and give them slots and their first token."""
        rows = slots.rows if slots else min(self._fitting(queue.longest), len(queue.rows))
        free = [slot for slot in range(rows) if slot not in live]
        width = len(queue.rows[0].ids) - len(queue.prefix)
        group = queue.rows[: min(len(free), max(1, PREFILL // max(1, width)))]
        if self.way not in PADDED:  # the longest come first, and beside padding its numbers would be others
            group = [row for row in group if len(row.ids) == len(group[0].ids)]
        cache, mask, logits = Forward(self).prefill(group, queue)
        if slots is None:
            slots = Slots(rows, queue.longest, cache, mask, self.way in PADDED)
        taken = free[: len(group)]
        slots.admit(taken, cache, mask, [*live, *taken])
        del queue.rows[: len(group)]
        live.update(zip(taken, group, strict=True))
        self._choose(logits, group)
        return slots

    def _step(self, slots: Slots, live: dict[int, Row]) -> None:
        """One more token for every live row."""
        tokens = [0] * slots.rows
        for slot, row in live.items():
            tokens[slot] = row.tokens[-1]
        logits = Forward(self).step(tokens, slots)
        slots.stepped()
        order = list(live)
        self._choose(logits if order == list(range(slots.rows)) else logits[order], [live[slot] for slot in order])

    def _close_ranks(self, slots: Slots, live: dict[int, Row], waiting: bool) -> dict[int, Row]:
        """Copy the rows that go on together, where no new ones will come and it pays."""
        if slots.can_leave and not (waiting and slots.plain) and len(live) <= LEAVE * slots.rows:
            slots.keep(list(live))
            live = dict(enumerate(live.values()))
        slots.narrow(list(live))
        return live

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> None:
        """Add one token to each row; logits: (rows, vocabulary)."""
        import torch

        tokens = logits.argmax(-1).tolist()
        drawn = [i for i, row in enumerate(rows) if row.generator is not None]
        if drawn:
            for i, token in zip(drawn, draw(logits[drawn], [rows[i] for i in drawn]), strict=True):
                tokens[i] = token
        if any(row.request.sampling.logprobs for row in rows):
            chosen = torch.tensor(tokens, device=logits.device)[:, None]
            logs = logits.float().log_softmax(-1).gather(-1, chosen).squeeze(-1).tolist()
            for row, log in zip(rows, logs, strict=True):
                row.logprobs.append(log)
        for row, token in zip(rows, tokens, strict=True):
            row.tokens.append(token)
            row.end = self._ended(row)

    def _ended(self, row: Row) -> str | None:
        if row.tokens[-1] in self.end_ids:
            return "stop"
        stops = row.request.sampling.stop
        if stops:  # a token is at least a byte, so a stop string lies within the last tokens
            last = self.tokenizer.decode(row.tokens[-4 * max(map(len, stops)) - 1 :], skip_special_tokens=True)
            if any(stop in last for stop in stops):
                return "stop"
        return "length" if len(row.tokens) >= row.room else None

    # --- memory ------------------------------------------------------------------------------------------------------

    def _fitting(self, longest: int) -> int:
        """How many rows of up to `longest` tokens run together: as many as the cache has memory for."""
        self.layers = self.layers or Forward(self).layer_sizes()
        return max(1, min(self.rows, int(MEMORY * free_bytes(self.device) / row_bytes(self.layers, longest))))

    def _halve(self, error: Exception) -> None:
        """Fewer rows from now on. Raises what was no memory error, and UserError where a single row was too much."""
        import torch

        if not out_of_memory(error):
            raise error
        if self.rows == 1:
            raise UserError(
                f"the model runs out of memory on {self.device} with a single row. Take a smaller model, shorter rows "
                "or fewer max_new_tokens."
            ) from None
        self.rows //= 2
        if self.device == "cuda":
            torch.cuda.empty_cache()

    # --- scoring -----------------------------------------------------------------------------------------------------

    def score(self, batches: Iterable[Sequence[Scoring]]) -> Iterator[list[Score]]:
        """Each batch answered once, in order, computed together. Raises UserError for a model whose texts cannot be
        guaranteed."""
        settle(self)
        for batch in batches:
            fitting = [s for s in batch if len(s.prompt) + len(s.response) <= self.context]
            ordered = sorted(fitting, key=lambda s: -(len(s.prompt) + len(s.response)))
            found = {score.id: score for score in self._scored(ordered)}
            yield [found.get(s.id) or Score(s.id, None) for s in batch]

    def _scored(self, ordered: Sequence[Scoring]) -> Iterator[Score]:
        """In parts whose logits stay within LOGITS; the lengths alone decide, so that the bits are the same again."""
        vocabulary = self.model.config.get_text_config().vocab_size
        done, most = 0, len(ordered) if self.pads_scores else 1
        while done < len(ordered):
            width = len(ordered[done].prompt) + len(ordered[done].response)
            rows = max(1, min(most, LOGITS // (width * vocabulary)))
            try:
                yield from self._score(ordered[done : done + rows])
                done += rows
            except RuntimeError as error:
                most = rows // 2
                if not most or not out_of_memory(error):
                    raise

    def _score(self, batch: Sequence[Scoring]) -> list[Score]:
        import torch

        rows = [s.prompt + s.response for s in batch]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):  # right padding: real tokens never see it
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        first = min(len(s.prompt) for s in batch) - 1  # no logits before the first response
        scores = []
        with torch.inference_mode():
            where = torch.arange(first, width - 1, device=self.device)
            padding = {"attention_mask": mask.to(self.device)} if self.pads_scores else {}
            logits = Forward(self).logits(ids.to(self.device), where, **padding)
            for i, s in enumerate(batch):
                begin = len(s.prompt) - 1 - first
                target = torch.tensor(s.response, device=self.device)
                seen = logits[i, begin : begin + len(s.response)].float()
                nll = torch.nn.functional.cross_entropy(seen, target, reduction="sum").item()
                scores.append(Score(s.id, nll, _terms(seen, target, s.top) if s.tokens or s.top else None))
        return scores

    @property
    def model(self) -> Any:
        """The model that answers now."""
        return self.seed_lm.model if self.instead is None else self.instead

    # --- adapters ----------------------------------------------------------------------------------------------------

    @contextmanager
    def adapter(self, path: str | None) -> Iterator[None]:
        """Within this block the engine answers with the adapter, or the fully tuned model, at `path`; None is the seed
        LM itself."""
        before, self.tuned = self.tuned, path
        try:
            if path is None and before and is_adapter(before):
                with self.instead.disable_adapter():  # its layers stay where they are
                    yield
            elif path is None:
                yield
            elif is_adapter(path):
                with self._with_adapter(path):
                    yield
            else:
                self.seed_lm.unload()  # two whole models are one too many
                self.instead = load_model(path, self.seed_lm.dtype, attention=self.seed_lm.attention).model
                yield
        finally:
            self.tuned = before
            if not before:
                self.instead = None

    @contextmanager
    def _with_adapter(self, path: str) -> Iterator[None]:
        from peft import PeftModel

        base = self.seed_lm.model
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*missing adapter keys.*")
                warnings.filterwarnings("ignore", ".*_pattern keys did not match", RuntimeWarning)
                tuned = PeftModel.from_pretrained(base, path)
        except (RuntimeError, ValueError, TypeError, KeyError, UserWarning) as error:
            first = str(error).strip().splitlines()[0][:200]
            raise UserError(f"adapter {path}: does not fit this model: {first}") from None
        self.instead = tuned.eval()
        try:
            yield
        finally:
            tuned.unload()


def _terms(logits: torch.Tensor, target: torch.Tensor, top: int) -> Terms:
    """Of each token of `target` (T,), from logits (T, vocabulary)."""
    import torch

    logs = logits.log_softmax(-1)
    nll = -logs.gather(-1, target[:, None]).squeeze(-1).cpu().numpy()
    if not top:
        return Terms(nll)
    most = logs.topk(min(top, logs.shape[-1]), dim=-1)
    return Terms(nll, most.indices.to(torch.int32).cpu().numpy(), most.values.cpu().numpy())
