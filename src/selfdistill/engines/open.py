"""From settings to what a stage works with. A new engine is one file and one line, here or in `open_local`."""

from __future__ import annotations

from collections.abc import Callable

from selfdistill.core.config import PromptSettings
from selfdistill.core.engine_settings import (
    EngineSettings,
    OpenAISettings,
    RaySettings,
    TransformersSettings,
    VllmSettings,
)
from selfdistill.core.errors import UserError
from selfdistill.engines.local import end_ids, open_local
from selfdistill.engines.protocol import Engine
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import SeedLM, load_model

Warn = Callable[[str], None] | None


def open_seed(
    settings: EngineSettings,
    name: str,
    prompt: PromptSettings,
    quantized: bool = False,
    warn: Warn = None,
    revision: str | None = None,
) -> tuple[SeedLM, Prompter, Engine]:
    """The seed LM, what makes its prompts, and what generates with it here, with and without adapters. An endpoint
    takes no adapters: where it is set, this is the default engine. Raises UserError for what cannot be opened."""
    seed_lm, prompter = open_model(settings, name, prompt, quantized, warn, revision)
    here = TransformersSettings() if isinstance(settings, OpenAISettings) else settings
    return seed_lm, prompter, make_engine(here, seed_lm, prompter, warn)


def open_model(
    settings: EngineSettings,
    name: str,
    prompt: PromptSettings,
    quantized: bool = False,
    warn: Warn = None,
    revision: str | None = None,
) -> tuple[SeedLM, Prompter]:
    """The seed LM in the data type that the engine's settings ask for, and what makes its prompts. Other engines than
    the default have a data type of their own, and leave training its. Raises UserError for 4 bits with an engine that
    would take other weights."""
    if quantized and not isinstance(settings, TransformersSettings):
        raise UserError(
            f'train.tune = "qlora": engine = "{settings.name}" takes whole weights. Take engine = "transformers".'
        )
    here = settings if isinstance(settings, TransformersSettings) else TransformersSettings()
    seed_lm = load_model(name, here.dtype, quantized, revision, here.attention)
    return seed_lm, Prompter.create(seed_lm.tokenizer, prompt, warn)


def open_endpoint(settings: OpenAISettings, prompt: PromptSettings) -> tuple[Prompter, Engine]:
    """What asks a model behind an endpoint, and what generates with it. It knows the chat template and needs no seed LM
    here."""
    from selfdistill.engines.openai import OpenAIEngine

    return Prompter.create(None, prompt), OpenAIEngine(settings)


def make_engine(
    settings: TransformersSettings | VllmSettings | RaySettings, seed_lm: SeedLM, prompter: Prompter, warn: Warn = None
) -> Engine:
    """The engine that generates with this seed LM. Raises UserError where its library is missing."""
    ends = end_ids(seed_lm, prompter)
    if isinstance(settings, RaySettings):
        from selfdistill.engines.ray import RayEngine

        return RayEngine(seed_lm, ends, settings)
    return open_local(settings, seed_lm, ends, warn)
