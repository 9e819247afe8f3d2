"""Forward passes: how one architecture is asked for the next token of many rows, or of one.

In:  rows, a cache of keys, values and states.
Out: logits. Which arguments a model's forward takes differs between architectures, and is read from its signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from selfdistill.engines.memory import LayerSize, layer_bytes

if TYPE_CHECKING:
    import torch

    from selfdistill.engines.queue import Queue, Row
    from selfdistill.engines.slots import Slots

CACHES = ("past_key_values", "cache_params")
"""What forwards call a cache of the library's own kind; the second are the Mambas."""


class Forward:
    """Forward passes of the model with which a `TransformersEngine` answers now."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.model, self.device = engine, engine.model, engine.device
        if not engine.takes:  # the same for all adapters
            engine.takes = set(inspect.signature(_base(self.model).forward).parameters)
        self.takes = engine.takes

    def cache(self) -> Any:
        """An empty cache. Raises TypeError for a model whose forward takes none of the library's."""
        from transformers import DynamicCache

        self.cache_name()
        return DynamicCache(config=self.model.config)

    def cache_name(self) -> str:
        """The argument that takes a cache. Raises TypeError where there is none."""
        name = next((name for name in CACHES if name in self.takes), None)
        if name is None:
            raise TypeError("its forward takes no cache of the library's own kind")
        return name

    def logits(self, ids: torch.Tensor, where: torch.Tensor, **more: Any) -> torch.Tensor:
        """Logits (rows, len(where), vocabulary) behind the tokens at the columns `where`."""
        if "logits_to_keep" in self.takes:
            more["logits_to_keep"] = where
        found: torch.Tensor = self.model(input_ids=ids, **more).logits
        return found if found.shape[1] == len(where) else found[:, where]

    def plain(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits (tokens, vocabulary) of one row, without cache, padding or neighbours: what all else is held
        against."""
        import torch

        row = torch.tensor([list(ids)], device=self.device)
        logits: torch.Tensor = self.model(input_ids=row, use_cache=False).logits[0]
        return logits

    def prefill(self, group: Sequence[Row], queue: Queue) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """(cache, mask, logits of the next token) of rows whose prompts begin with the queue's prefix, with padding
        between the prefix and the rest."""
        import torch

        shared = len(queue.prefix)
        n, width = len(group), max(len(row.ids) for row in group) - shared
        ids = torch.full((n, width), self.engine.tokenizer.pad_token_id)
        mask = torch.ones((n, shared + width), dtype=torch.long)
        for i, row in enumerate(group):
            rest = row.ids[shared:]
            ids[i, width - len(rest) :] = torch.tensor(rest)
            mask[i, shared : shared + width - len(rest)] = 0
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = self.cache()
        if shared:
            if queue.states is None:
                alone = self.cache()
                self._pass(torch.tensor([queue.prefix], device=self.device), alone, last=True)
                queue.states = [(layer.keys, layer.values) for layer in alone.layers]
            for index, (keys, values) in enumerate(queue.states):
                cache.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), index)
        position = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        logits = self._pass(ids, cache, last=True, attention_mask=mask, position_ids=position)
        return cache, mask, logits[:, -1]

    def step(self, tokens: Sequence[int], slots: Slots) -> torch.Tensor:
        """Logits (slots, vocabulary) of the next token, after one token a slot."""
        import torch

        mask, position = slots.step_inputs()
        ids = torch.tensor(tokens, device=self.device)[:, None]
        position = position.clamp(max=self.engine.context - 1)  # idle slots count on
        # Where no layer attends to past tokens there is nothing to mask, and Mamba would mask the new one.
        attends = any(hasattr(layer, "get_mask_sizes") for layer in slots.cache.layers)
        masked: dict[str, Any] = {"attention_mask": mask} if attends else {}
        return self._pass(ids, slots.cache, position_ids=position, **masked)[:, -1]

    def _pass(self, ids: torch.Tensor, cache: Any, last: bool = False, **more: Any) -> torch.Tensor:
        if "position_ids" not in self.takes and "kwargs" not in self.takes:
            more.pop("position_ids", None)
        if last and "logits_to_keep" in self.takes:
            more["logits_to_keep"] = 1
        logits: torch.Tensor = self.model(input_ids=ids, **more, **{self.cache_name(): cache}, use_cache=True).logits
        return logits

    def generate(self, row: Row, choose: Callable[[torch.Tensor, Sequence[Row]], None], use_cache: bool) -> None:
        """A whole row by the library's own `generate`, which knows caches of a model's own. `choose` adds a token to
        the row from logits (1, vocabulary), and says when it ends."""
        import torch
        from transformers import GenerationConfig

        def chosen(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            choose(logits, [row])
            only = torch.full_like(logits, -torch.inf)
            only[:, row.tokens[-1]] = 0.0
            return only

        def ended(*_: Any, **__: Any) -> torch.Tensor:
            return torch.tensor([row.end is not None], device=self.device)

        ids = torch.tensor([row.ids], device=self.device)
        # The model's own defaults for sampling and penalties have no part in this.
        settings = GenerationConfig(
            max_new_tokens=row.room, do_sample=False, use_cache=use_cache, pad_token_id=0, eos_token_id=None
        )
        base = _base(self.model)
        own, base.generation_config = base.generation_config, settings
        try:
            with torch.inference_mode():
                self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=settings,
                    logits_processor=[chosen],
                    stopping_criteria=[ended],
                )
        finally:
            base.generation_config = own

    def layer_sizes(self) -> list[LayerSize]:
        """What each layer of the cache takes, measured on one short row: nothing in a configuration tells it for all
        architectures."""
        import torch

        with torch.inference_mode():
            short, long = self.cache(), self.cache()
            for cache, length in ((short, 1), (long, 5)):
                self._pass(torch.full((1, length), self.engine.tokenizer.pad_token_id, device=self.device), cache)
        return [
            LayerSize((more - few) / 4, few - (more - few) / 4, layer.get_max_length())
            for layer, few, more in zip(
                long.layers, map(layer_bytes, short.layers), map(layer_bytes, long.layers), strict=True
            )
        ]


def _base(model: Any) -> Any:
    """What is under an adapter's wrapper, which takes any arguments."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
