"""Engines that hold the weights here: from settings and a seed LM to an `Engine`.

A new one is one file and one line in `open_local`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from selfdistill.core.engine_settings import TransformersSettings, VllmSettings
from selfdistill.engines.protocol import Engine
from selfdistill.models import resolve
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM


def open_local(
    settings: TransformersSettings | VllmSettings,
    seed_lm: SeedLM,
    ends: set[int],
    note: Callable[[str], None] | None = None,
) -> Engine:
    """An engine for the files of a seed LM; `ends` are the tokens that end a response. `note` is told what there is to
    say of this model."""
    if isinstance(settings, VllmSettings):
        from selfdistill.engines.vllm import VllmEngine

        return VllmEngine(seed_lm, ends, settings)
    from selfdistill.engines.transformers import TransformersEngine

    return TransformersEngine(seed_lm, ends, settings.rows, note)


def end_ids(seed_lm: SeedLM, prompter: Prompter) -> set[int]:
    """Tokens that end a response: those of either prompt format (the math template stands in the chat template in
    both), that of a turn that calls tools, and the model's own."""
    import transformers

    ends = {replace(prompter, format="chat").end_id, replace(prompter, format="paper").end_id, *prompter.call_ends}
    try:
        own = transformers.GenerationConfig.from_pretrained(
            resolve(seed_lm.name), revision=seed_lm.revision
        ).eos_token_id
    except OSError:  # not every model has one
        own = seed_lm.config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return ends | {i for i in [*own, seed_lm.tokenizer.eos_token_id] if i is not None}
