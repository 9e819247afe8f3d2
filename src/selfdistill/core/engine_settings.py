"""What can be set of the engines, and of the judge, which is asked as one of them is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from selfdistill.core.addresses import hidden, is_key
from selfdistill.core.settings import Place, Settings

Attention = Literal["auto", "sdpa", "flash", "eager"]


class EndpointSettings(Settings):
    """An OpenAI-compatible endpoint: where it is and how it is asked.

    `base_url` ends where the API begins, usually in /v1, and holds no secret; `model` is the model's name there.
    `api_key_env` names the environment variable that holds the key; a server on this machine needs none.
    `max_tokens_name` is what the endpoint calls the limit of a reply (OpenAI's own newer models want
    "max_completion_tokens"). `timeout` is in seconds, for one try; `max_retries` further tries follow a passing fault;
    `concurrency` requests are in flight at a time.
    """

    base_url: Place
    model: Annotated[str, Field(min_length=1)]
    api_key_env: str = "OPENAI_API_KEY"
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    timeout: Annotated[float, Field(gt=0)] = 120.0
    max_retries: Annotated[int, Field(ge=0)] = 5
    concurrency: Annotated[int, Field(ge=1)] = 8

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole or any(c.isspace() for c in url):
            said = "this" if "@" in url else repr(hidden(url))  # what stands before an @ may be a login in any form
            raise ValueError(f"{said} is no address; expected http://HOST[:PORT]/v1")
        if parts.query:
            raise ValueError(
                "the address ends in a query, and the API's paths cannot follow it. Leave out what begins with ?"
            )
        return url

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or is_key(name):  # it may be the key itself: it is not repeated
            raise ValueError("expected the name of an environment variable that holds the key, such as OPENAI_API_KEY")
        return name


class JudgeSettings(EndpointSettings):
    """The judge LM of AlpacaEval. `max_tokens` is for one reply and must hold a thinking model's thoughts, too."""

    max_tokens: Annotated[int, Field(ge=1)] = 512
    temperature: Annotated[float, Field(ge=0)] = 0.0


class TransformersSettings(Settings):
    """The default engine, in this process. `rows` caps how many rows are generated together; without it, 128 on a CPU
    and 256 on an accelerator, and fewer where memory is short. `dtype` of the weights; "auto" takes bf16 where a
    CUDA device has units for it, else fp32. `attention` is the library's own choice, or sdpa, flash (needs flash-attn)
    or eager."""

    name: Literal["transformers"] = "transformers"
    rows: Annotated[int, Field(ge=1)] | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: Attention = "auto"


class VllmSettings(Settings):
    """vLLM in this process, with the settings it calls by the same names. `max_model_len` is the model's own context
    where it is not set; a long one needs much memory. `speculate` turns on n-gram speculation from the prompt."""

    name: Literal["vllm"] = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    max_num_seqs: Annotated[int, Field(ge=1)] = 256
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    speculate: bool = False


class OpenAISettings(EndpointSettings):
    """The seed LM behind an endpoint that serves it. `adapter_model` is the name under which the endpoint serves the
    adapter that is evaluated."""

    name: Literal["openai"] = "openai"
    adapter_model: str | None = None
    concurrency: Annotated[int, Field(ge=1)] = 32


class RaySettings(Settings):
    """Workers of a Ray cluster, each with a local engine of its own. `address` as `ray.init` takes it: None starts or
    finds a cluster on this machine, "auto" asks for a running one. `cpus` and `gpus` are what one worker holds."""

    name: Literal["ray"] = "ray"
    workers: Annotated[int, Field(ge=1)] = 2
    local: Annotated[TransformersSettings | VllmSettings, Field(discriminator="name")] = TransformersSettings()
    address: Place | None = None
    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0

    @field_validator("local", mode="before")
    @classmethod
    def _local_by_name(cls, local: Any) -> Any:
        return {"name": local} if isinstance(local, str) else local


EngineSettings = TransformersSettings | VllmSettings | OpenAISettings | RaySettings


ENGINES: dict[str, type[EngineSettings]] = {
    "transformers": TransformersSettings,
    "vllm": VllmSettings,
    "openai": OpenAISettings,
    "ray": RaySettings,
}
