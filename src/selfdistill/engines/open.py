"""Which engine: from settings to an `Engine`. A new engine is one file and one line here."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from selfdistill.core.config import EngineSettings, OpenAISettings, RaySettings, TransformersSettings, VllmSettings
from selfdistill.core.errors import UserError
from selfdistill.engines import Engine
from selfdistill.models import SeedLM, load_model, resolve
from selfdistill.templates import Format, Prompter


def load_for(settings: EngineSettings, name: str, quantized: bool = False) -> SeedLM:
    """The seed LM in the data type that the engine's settings ask for. Other engines than the default have one of their
    own, and leave training its. Raises UserError for 4 bits with an engine that would take other weights."""
    if quantized and not isinstance(settings, TransformersSettings):
        raise UserError(
            f'train.tune = "qlora": engine = "{settings.name}" takes whole weights. Take engine = "transformers".'
        )
    return load_model(name, settings.dtype if isinstance(settings, TransformersSettings) else "auto", quantized)


def make_engine(settings: EngineSettings, seed_lm: SeedLM, prompter: Prompter) -> Engine:
    """The engine that generates with this seed LM. Raises UserError where its library is missing."""
    if isinstance(settings, OpenAISettings):
        return open_endpoint(settings)
    return open_local(settings, seed_lm, end_ids(seed_lm, prompter))


def open_endpoint(settings: OpenAISettings) -> Engine:
    """The engine for a model behind an endpoint; it needs no seed LM here."""
    from selfdistill.engines.openai import OpenAIEngine

    return OpenAIEngine(settings)


def open_local(settings: TransformersSettings | VllmSettings | RaySettings, seed_lm: SeedLM, ends: set[int]) -> Engine:
    """An engine for the files of a seed LM; `ends` are the tokens that end a response."""
    if isinstance(settings, VllmSettings):
        from selfdistill.engines.vllm import VllmEngine

        return VllmEngine(seed_lm, ends, settings)
    if isinstance(settings, RaySettings):
        from selfdistill.engines.ray import RayEngine

        return RayEngine(seed_lm, ends, settings)
    from selfdistill.engines.transformers import TransformersEngine

    return TransformersEngine(seed_lm, ends, settings.rows)


def end_ids(seed_lm: SeedLM, prompter: Prompter) -> set[int]:
    """Tokens that end a response: those of either prompt format (the math template stands in the chat template in
    both), and the model's own."""
    import transformers

    ends = {replace(prompter, format=form).end_id for form in get_args(Format)}
    try:
        own = transformers.GenerationConfig.from_pretrained(resolve(seed_lm.name)).eos_token_id
    except OSError:  # not every model has one
        own = seed_lm.config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return ends | {i for i in [*own, seed_lm.tokenizer.eos_token_id] if i is not None}
