"""Which engine: from settings to an `Engine`. A new engine is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from selfdistill.core.config import EngineSettings, OpenAISettings, RaySettings, TransformersSettings
from selfdistill.core.errors import UserError
from selfdistill.engines.local import end_ids, open_local
from selfdistill.engines.protocol import Engine
from selfdistill.models import SeedLM, load_model
from selfdistill.templates import Format, Prompter


def load_for(settings: EngineSettings, name: str, quantized: bool = False) -> SeedLM:
    """The seed LM in the data type that the engine's settings ask for. Other engines than the default have one of their
    own, and leave training its. Raises UserError for 4 bits with an engine that would take other weights."""
    if quantized and not isinstance(settings, TransformersSettings):
        raise UserError(
            f'train.tune = "qlora": engine = "{settings.name}" takes whole weights. Take engine = "transformers".'
        )
    return load_model(name, settings.dtype if isinstance(settings, TransformersSettings) else "auto", quantized)


def open_seed(
    settings: EngineSettings,
    name: str,
    format: Format,
    template: str,
    quantized: bool = False,
    warn: Callable[[str], None] | None = None,
) -> tuple[SeedLM, Prompter, Engine]:
    """The seed LM, what makes its prompts, and what generates with it. Raises what its three steps raise."""
    seed_lm = load_for(settings, name, quantized)
    prompter = Prompter.create(seed_lm.tokenizer, format, template, warn)
    return seed_lm, prompter, make_engine(settings, seed_lm, prompter)


def make_engine(settings: EngineSettings, seed_lm: SeedLM, prompter: Prompter) -> Engine:
    """The engine that generates with this seed LM. Raises UserError where its library is missing."""
    if isinstance(settings, OpenAISettings):
        return open_endpoint(settings)
    ends = end_ids(seed_lm, prompter)
    if isinstance(settings, RaySettings):
        from selfdistill.engines.ray import RayEngine

        return RayEngine(seed_lm, ends, settings)
    return open_local(settings, seed_lm, ends)


def open_endpoint(settings: OpenAISettings) -> Engine:
    """The engine for a model behind an endpoint; it needs no seed LM here."""
    from selfdistill.engines.openai import OpenAIEngine

    return OpenAIEngine(settings)
