"""Which class a model is loaded as: a causal language model, or one that also takes images.

In:  a configuration. Out: transformers' auto class for it.

A folder names its class in `architectures`. A vision-language model is loaded whole, though only texts are asked of it:
loaded as its language model alone, it would lose its other part on merging, and adapters would name other modules than
servers expect.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What a folder has beside the tokenizer where a model takes more than texts."""


def auto_class(config: Any) -> Any:
    """transformers' auto class that builds the class which the configuration names."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    images = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    named = (config.architectures or [None])[0]
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if images and (named == images or not causal):
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def copy_processors(where: str, out: Path, revision: str | None = None) -> None:
    """The files that say how images are prepared, into the folder of a model that was made from this one."""
    for name in PROCESSORS:
        if Path(where).is_dir():
            found: str | None = str(Path(where) / name) if (Path(where) / name).is_file() else None
        else:
            from transformers.utils import cached_file

            found = cached_file(where, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        if found:
            shutil.copy(found, out / name)
