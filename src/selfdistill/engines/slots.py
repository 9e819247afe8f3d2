"""Rows that are being generated, in slots of one preallocated cache.

Keys and values of all rows lie right-aligned in one buffer per layer: every step writes one column for all rows, a
finished row's slot is filled with a new row's columns, and only the window from the first column in use to the last is
shown to the model. Growing a cache by concatenation would cost more than the model itself on a CPU.

Layers that are not plain attention over all tokens (sliding windows, linear attention) keep the library's own cache;
such rows begin together and, where the cache can, leave when they are done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

REFILL = 0.125
"""New rows come once this share of the slots is free: a prefill of few rows costs almost as much as one of many."""
STEP = 128
"""Columns that the buffers grow by."""


def is_plain(cache: Any) -> bool:
    """Whether all layers of a cache are attention over all tokens."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _rows_can_leave(cache: Any) -> bool:
    """Whether rows can be taken out of a cache. Layers that keep more than keys and values say so and forget the
    rest."""
    from transformers import cache_utils

    names = ("DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer", "DummyLayer")
    return all(type(layer) in [getattr(cache_utils, name, None) for name in names] for layer in cache.layers)


class Slots:
    """The cache, the attention mask and the next positions of up to `rows` rows.

    `admit` takes rows from the cache of their prefill, `step_inputs` and `stepped` enclose one forward pass.
    """

    def __init__(self, rows: int, longest: int, cache: Any, mask: torch.Tensor, join: bool = True) -> None:
        """`longest`: the most tokens that a row may come to; memory was counted for it. `cache` and `mask` are those of
        the first prefill: they tell shapes, data type and device. mask: (rows, columns). Without `join` no row comes
        later, whatever the cache."""
        self.plain, self.longest = join and is_plain(cache), longest
        self.can_leave = _rows_can_leave(cache)
        self.rows = rows if self.plain else mask.shape[0]
        self.first = self.end = mask.shape[1]
        self.mask = mask.new_zeros(self.rows, mask.shape[1] + STEP)
        self.position = mask.new_zeros(self.rows, 1)
        if self.plain:
            self.cache = _shared_cache(self, cache)
        else:
            self.cache = cache
            self.first = 0

    def take(self, live: int, longest: int) -> bool:
        """Whether it is time for new rows, of up to `longest` tokens, beside `live` ones."""
        return self.plain and longest <= self.longest and self.rows - live >= max(1, REFILL * self.rows)

    def admit(self, slots: list[int], cache: Any, mask: torch.Tensor, used: list[int]) -> None:
        """Put prefilled rows into `slots`. `used`: all slots that are in use afterwards."""
        import torch

        width = mask.shape[1]
        if not self.plain:
            self.mask[:, :width] = mask
            self.position = mask.sum(-1, keepdim=True)
            return
        where = torch.tensor(slots, device=mask.device)
        if width > self.end:
            self._move(width)
        self.mask[where] = 0
        self.mask[where, self.end - width : self.end] = mask
        self.position[where] = mask.sum(-1, keepdim=True)
        for layer, new in zip(self.cache.layers, cache.layers, strict=True):
            for buffer, states in zip(layer.buffers, (new.keys, new.values), strict=True):
                buffer[where, :, self.end - width : self.end] = states
        self.narrow(used)

    def narrow(self, used: list[int]) -> None:
        """Begin the window where the longest row in use begins."""
        if self.plain:
            self.first = int(self.mask[used, : self.end].any(0).int().argmax())

    def step_inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(attention mask over the window and the new column, positions of the new tokens)."""
        if self.end == self.mask.shape[1]:
            self._move(self.end - self.first)
        self.mask[:, self.end] = 1  # idle slots, too: a row that attends to nothing would give NaN
        return self.mask[:, self.first : self.end + 1], self.position

    def stepped(self) -> None:
        """The forward pass has written the new column."""
        self.end += 1
        self.position = self.position + 1

    def keep(self, slots: list[int]) -> None:
        """Only these rows go on, as slots 0, 1, ..."""
        import torch

        where = torch.tensor(slots, device=self.mask.device)
        self.cache.batch_select_indices(where)
        self.mask, self.position, self.rows = self.mask[where], self.position[where], len(slots)

    def _move(self, room: int) -> None:
        """Buffers whose window ends at column `room`, at least as wide as the window, with space behind it."""
        width = self.end - self.first
        old = slice(self.first, self.end)
        new = slice(room - width, room)
        mask = self.mask.new_zeros(self.rows, room + STEP)
        mask[:, new] = self.mask[:, old]
        self.mask = mask
        if self.plain:
            for layer in self.cache.layers:
                layer.buffers = [_moved(buffer, old, new, room + STEP) for buffer in layer.buffers]
        self.first, self.end = new.start, room


def _moved(buffer: torch.Tensor, old: slice, new: slice, columns: int) -> torch.Tensor:
    # Zeros, not what the memory held: a masked NaN still makes a NaN.
    made = buffer.new_zeros(*buffer.shape[:2], columns, buffer.shape[-1])
    made[:, :, new] = buffer[:, :, old]
    return made


def _shared_cache(slots: Slots, like: Any) -> Any:
    """A cache whose layers write into buffers (rows, heads, columns, head size) at the slots' end."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class SlotLayer(DynamicLayer):  # type: ignore[misc]
        """Keys and values of all slots; what is handed out is a view of the window."""

        is_initialized = True

        def __init__(self, template: Any) -> None:
            super().__init__()
            self.buffers = [
                states.new_zeros(slots.rows, states.shape[1], slots.mask.shape[1], states.shape[-1])
                for states in (template.keys, template.values)
            ]

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            end = slots.end + key_states.shape[-2]
            keys, values = self.buffers
            keys[:, :, slots.end : end] = key_states
            values[:, :, slots.end : end] = value_states
            return keys[:, :, slots.first : end], values[:, :, slots.first : end]

        def get_seq_length(self) -> int:
            return slots.end - slots.first

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.get_seq_length() + query_length, 0

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            self.buffers = [buffer[indices] for buffer in self.buffers]

    cache = DynamicCache()
    cache.layers = [SlotLayer(layer) for layer in like.layers]
    return cache
