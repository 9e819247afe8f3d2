"""The transformers engine: the default, on CPU, CUDA and MPS.

Rows are generated together in the slots of one preallocated cache (slots.py). A finished row makes room for a waiting
one, the longest prompts go first, and a prefix that all waiting prompts share is computed once. How many rows run
together follows from the free memory; a memory error halves that number, and the rows in flight begin anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from selfdistill.core.adapters import is_adapter
from selfdistill.core.errors import UserError
from selfdistill.engines.memory import free_bytes, out_of_memory
from selfdistill.engines.protocol import Completion, Request, Score, Scoring, completion, rejected
from selfdistill.engines.queue import Queue, Row, generator_of
from selfdistill.engines.slots import Slots, is_plain
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

    def __init__(self, seed_lm: SeedLM, end_ids: set[int], rows: int | None = None) -> None:
        """`end_ids`: tokens that end a response. `rows`: how many may run together."""
        self.seed_lm = seed_lm
        self.instead: Any = None  # what answers in the seed LM's place
        self.tokenizer, self.context = seed_lm.tokenizer, seed_lm.context
        self.device, self.dtype, self.end_ids = seed_lm.device, seed_lm.dtype, end_ids
        self.rows = rows or ROWS.get(self.device, MANY)

    def describe(self) -> dict[str, Any]:
        """The engine's name and data type."""
        return {"name": "transformers", "dtype": self.dtype}

    def close(self) -> None:
        """Nothing to give back: the model belongs to the seed LM."""

    # --- generating --------------------------------------------------------------------------------------------------

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Each request answered once, in any order. Raises UserError where memory is too short for a single row."""
        import torch
        from transformers import DynamicCache

        stream = iter(requests)
        queue = Queue(is_plain(DynamicCache(config=self.model.config)))
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
            for row in done:
                yield completion(row.request, row.tokens, self.end_ids, self.tokenizer, row.end == "stop", row.logprobs)
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
        cache, mask, logits = self._prefill(group, queue)
        if slots is None:
            slots = Slots(rows, queue.longest, cache, mask)
        taken = free[: len(group)]
        slots.admit(taken, cache, mask, [*live, *taken])
        del queue.rows[: len(group)]
        live.update(zip(taken, group, strict=True))
        self._choose(logits, group)
        return slots

    def _prefill(self, group: list[Row], queue: Queue) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """(cache, mask, logits of the next token) of rows whose prompts begin with the queue's prefix, with padding
        between the prefix and the rest."""
        import torch
        from transformers import DynamicCache

        shared = len(queue.prefix)
        n, width = len(group), max(len(row.ids) for row in group) - shared
        ids = torch.full((n, width), self.tokenizer.pad_token_id)
        mask = torch.ones((n, shared + width), dtype=torch.long)
        for i, row in enumerate(group):
            rest = row.ids[shared:]
            ids[i, width - len(rest) :] = torch.tensor(rest)
            mask[i, shared : shared + width - len(rest)] = 0
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = DynamicCache(config=self.model.config)
        if shared:
            if queue.states is None:
                first = torch.tensor([queue.prefix], device=self.device)
                alone = DynamicCache(config=self.model.config)
                self.model(input_ids=first, past_key_values=alone, use_cache=True, logits_to_keep=1)
                queue.states = [(layer.keys, layer.values) for layer in alone.layers]
            for index, (keys, values) in enumerate(queue.states):
                cache.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), index)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, shared:],
            past_key_values=cache,
            logits_to_keep=1,
            use_cache=True,
        ).logits[:, -1]
        return cache, mask, logits

    def _step(self, slots: Slots, live: dict[int, Row]) -> None:
        """One more token for every live row."""
        import torch

        tokens = [0] * slots.rows
        for slot, row in live.items():
            tokens[slot] = row.tokens[-1]
        mask, position = slots.step_inputs()
        logits = self.model(
            input_ids=torch.tensor(tokens, device=self.device)[:, None],
            attention_mask=mask,
            position_ids=position.clamp(max=self.context - 1),  # idle slots count on
            past_key_values=slots.cache,
            use_cache=True,
        ).logits[:, -1]
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
            for i, token in zip(drawn, _draw(logits[drawn], [rows[i] for i in drawn]), strict=True):
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
        return max(1, min(self.rows, int(MEMORY * free_bytes(self.device) / (self._bytes_per_token() * longest))))

    def _bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * int(config.num_hidden_layers * heads * size) * (2 if self.dtype == "bfloat16" else 4)

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
        """Each batch answered once, in order, computed together."""
        for batch in batches:
            fitting = [s for s in batch if len(s.prompt) + len(s.response) <= self.context]
            found = dict(self._scored(sorted(fitting, key=lambda s: -(len(s.prompt) + len(s.response)))))
            yield [Score(s.id, found.get(s.id)) for s in batch]

    def _scored(self, ordered: Sequence[Scoring]) -> Iterator[tuple[str, float]]:
        """In parts whose logits stay within LOGITS; the lengths alone decide, so that the bits are the same again."""
        vocabulary = self.model.config.get_text_config().vocab_size
        done, most = 0, len(ordered)
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

    def _score(self, batch: Sequence[Scoring]) -> list[tuple[str, float]]:
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
            logits = self.model(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                logits_to_keep=torch.arange(first, width - 1, device=self.device),
            ).logits
            for i, s in enumerate(batch):
                begin = len(s.prompt) - 1 - first
                target = torch.tensor(s.response, device=self.device)
                seen = logits[i, begin : begin + len(s.response)].float()
                scores.append((s.id, torch.nn.functional.cross_entropy(seen, target, reduction="sum").item()))
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
        if path is None:
            yield
            return
        from peft import PeftModel

        if not is_adapter(path):
            self.seed_lm.unload()  # two whole models are one too many
            self.instead = load_model(path, self.seed_lm.dtype).model
            try:
                yield
            finally:
                self.instead = None
            return
        base = self.seed_lm.model
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*missing adapter keys.*")
                tuned = PeftModel.from_pretrained(base, path)
        except (RuntimeError, ValueError, TypeError, KeyError, UserWarning) as error:
            first = str(error).strip().splitlines()[0][:200]
            raise UserError(f"adapter {path}: does not fit this model: {first}") from None
        self.instead = tuned.eval()
        try:
            yield
        finally:
            self.instead = None
            tuned.unload()


def _draw(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """One token a row from the smallest set of tokens that reaches top_p."""
    import torch

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    top_p = column([row.request.sampling.top_p for row in rows])
    chances = torch.softmax(logits.float() / column([row.request.sampling.temperature for row in rows]), -1)
    ordered, order = chances.sort(-1, descending=True)
    total = ordered.cumsum(-1)
    ordered[(total - ordered) >= top_p] = 0.0
    total = ordered.cumsum(-1)
    draws = column([float(torch.rand((), generator=row.generator)) for row in rows])
    picked = (total < draws * total[:, -1:]).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return [int(token) for token in order.gather(-1, picked).squeeze(-1).tolist()]
