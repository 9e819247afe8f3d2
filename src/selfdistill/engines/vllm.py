"""The vLLM engine: vLLM's own scheduler and kernels, in this process, for CUDA and for CPU builds of vLLM.

vLLM starts with the first request and stops with `close`, so that training can have the device in between. It starts
anew when an adapter needs more rank than it was started for; without an adapter it runs without LoRA, which is faster.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, get_args

from selfdistill.core.adapters import CONFIG, WEIGHTS, is_adapter
from selfdistill.core.engine_settings import VllmSettings
from selfdistill.core.errors import UserError
from selfdistill.engines.protocol import Completion, Request, Score, Scoring, Terms, completion, rejected
from selfdistill.models import resolve
from selfdistill.models.seed_lm import SeedLM

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can be started for, where it does not say so itself."""
SPECULATION = {"method": "ngram", "num_speculative_tokens": 6, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
"""Where the last 2 to 4 tokens stand in the prompt, too, the 6 tokens that follow there are tried."""


class VllmEngine:
    """Offline vLLM with prefix caching; requests are fed as they are finished."""

    scores_tokens = True

    def __init__(self, seed_lm: SeedLM, end_ids: set[int], settings: VllmSettings) -> None:
        """`end_ids`: tokens that end a response. Raises UserError where vLLM is not installed."""
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                "engine = \"vllm\" needs vLLM: pip install 'selfdistill[vllm]', best in an environment of its own, "
                "since vLLM brings its own torch."
            )
        self.seed_lm, self.end_ids, self.settings = seed_lm, end_ids, settings
        self.dtype = seed_lm.dtype if settings.dtype == "auto" else settings.dtype
        self.context = min(seed_lm.context, settings.max_model_len or seed_lm.context)
        self.tuned: str | None = None  # the adapter or model that answers now
        self._llm: Any = None
        self._started: tuple[str, int] = ("", 0)
        self._folder = resolve(seed_lm.name)
        self._lora: Any = None
        self._loras: dict[str, int] = {}
        self._count = 0

    def describe(self) -> dict[str, Any]:
        """Name, version, data type and what changes the scheduling of tokens."""
        return {"name": "vllm", "version": _version(), "dtype": self.dtype, "speculate": self.settings.speculate}

    def close(self) -> None:
        """Stop vLLM's process and free its memory."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Each request answered once, in any order."""
        from vllm import SamplingParams

        def params(request: Request) -> Any:
            s = request.sampling
            return SamplingParams(
                temperature=s.temperature,
                top_p=s.top_p if s.temperature else 1.0,
                seed=s.number(request.id) if s.temperature else None,
                max_tokens=s.most,
                stop=list(s.stop) or None,
                stop_token_ids=sorted(self.end_ids),
                logprobs=0 if s.logprobs else None,
            )

        def fitting() -> Iterator[tuple[Request, Sequence[int], Any]]:
            for request in requests:
                bad = rejected(request, self.context)
                if bad:
                    refused.append(bad)
                else:
                    yield request, request.prompt.ids, params(request)

        refused: list[Completion] = []
        for request, done in self._run(fitting()):
            yield from refused
            refused.clear()
            out = done.outputs[0]
            logs = [next(iter(found.values())).logprob for found in out.logprobs or ()]
            stopped = out.finish_reason == "stop"
            yield completion(request, list(out.token_ids), self.end_ids, self.seed_lm.tokenizer, stopped, logs)
        yield from refused

    def score(self, batches: Iterable[Sequence[Scoring]]) -> Iterator[list[Score]]:
        """Each batch answered once, in order. vLLM must have room for one more token: a prompt and response that fill
        the whole context have no score here."""
        from vllm import SamplingParams

        most = self.seed_lm.config.get_text_config().vocab_size

        def params(scoring: Scoring) -> Any:
            return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=min(scoring.top, most))

        for batch in batches:
            fitting = [s for s in batch if len(s.prompt) + len(s.response) < self.context]
            scores = {}
            for item, done in self._run((s, s.prompt + s.response, params(s)) for s in fitting):
                told = done.prompt_logprobs[len(item.prompt) :]
                logs = [found[token].logprob for found, token in zip(told, item.response, strict=True)]
                terms = _terms(logs, told, min(item.top, most)) if item.tokens or item.top else None
                scores[item.id] = Score(item.id, -sum(logs), terms)
            yield [scores.get(s.id) or Score(s.id, None) for s in batch]

    @contextmanager
    def adapter(self, path: str | None) -> Iterator[None]:
        """Within this block the engine answers with the adapter, or the fully tuned model, at `path`. Raises UserError
        for an adapter that does not fit."""
        before = self._folder, self._lora, self.tuned
        self.tuned = path
        if path is None:
            self._folder, self._lora = resolve(self.seed_lm.name), None
        elif is_adapter(path):
            self._lora = (path, _rank(path, self.seed_lm))
        else:
            self._folder = str(path)
        try:
            yield
        finally:
            self._folder, self._lora, self.tuned = before

    def _run(self, asked: Iterator[tuple[Any, Sequence[int], Any]]) -> Iterator[tuple[Any, Any]]:
        """Feed (item, token ids, parameters) to vLLM, never more than it works on; (item, output) as each is done."""
        from vllm.lora.request import LoRARequest

        engine, lora = None, None
        waiting: dict[str, Any] = {}
        drained = False
        try:
            while True:
                while not drained and len(waiting) < 2 * self.settings.max_num_seqs:
                    following = next(asked, None)
                    if following is None:
                        drained = True
                        break
                    if engine is None:
                        engine = self._start().llm_engine
                        lora = self._lora and LoRARequest(self._lora[0], self._number(self._lora[0]), self._lora[0])
                    item, ids, params = following
                    self._count += 1
                    waiting[str(self._count)] = item
                    engine.add_request(str(self._count), {"prompt_token_ids": list(ids)}, params, lora_request=lora)
                if not waiting:
                    return
                assert engine is not None
                for done in engine.step():
                    if done.finished:
                        yield waiting.pop(done.request_id), done
        finally:
            if waiting and engine is not None:  # the caller stopped early
                engine.abort_request(list(waiting))

    def _number(self, path: str) -> int:
        """vLLM knows an adapter by a number, and would go on with the old weights of a folder that was written anew."""
        key = f"{path} {(Path(path) / 'adapter_model.safetensors').stat().st_mtime_ns}"
        return self._loras.setdefault(key, len(self._loras) + 1)

    def _start(self) -> Any:
        """The running vLLM, started for this model and this adapter's rank."""
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        needed = self._lora[1] if self._lora else 0
        folder, rank = self._started
        if self._llm is None or folder != self._folder or rank < needed:
            self.close()
            import torch
            from vllm import LLM

            # Its process is asked which modules may have an adapter, by a function that goes there.
            os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
            if not torch.cuda.is_available():  # vLLM's own default is most of the machine's memory
                os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
            settings, lora = self.settings, {"enable_lora": True, "max_lora_rank": needed} if needed else {}
            try:
                self._llm = LLM(
                    self._folder,
                    revision=self.seed_lm.revision if self._folder == resolve(self.seed_lm.name) else None,
                    tokenizer=resolve(self.seed_lm.name),
                    tokenizer_revision=self.seed_lm.revision,
                    dtype=self.dtype,
                    max_model_len=self.context,
                    max_num_seqs=settings.max_num_seqs,
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    tensor_parallel_size=settings.tensor_parallel_size,
                    enable_prefix_caching=True,
                    speculative_config=SPECULATION if settings.speculate else None,
                    trust_remote_code=False,
                    load_format="safetensors",
                    generation_config="vllm",  # the model's own sampling defaults would come on top of ours
                    max_logprobs=-1,  # as many as are asked for, not 20 at most
                    disable_log_stats=True,
                    seed=0,
                    **lora,
                )
            except (RuntimeError, ValueError, OSError) as error:
                said = " ".join(str(error).split())[:300]
                raise UserError(
                    f"vLLM does not start with {self._folder}: {said}. VLLM_LOGGING_LEVEL=INFO says more; "
                    "often engine.max_model_len or engine.gpu_memory_utilization must be lower."
                ) from None
            self._started = (self._folder, needed)
            self._loras = {}
        if self._lora:
            _refuse_foreign_modules(self._lora[0], self._llm)
        return self._llm


def _terms(logs: Sequence[float], told: Sequence[Any], top: int) -> Terms:
    """Of each response token, from its log-probability and what vLLM says of its place: {token id: log-probability and
    rank} of the `top` likeliest, and of the token itself where it is none of them."""
    import numpy as np

    nll = -np.array(logs, np.float32)
    if not top:
        return Terms(nll)
    likeliest = [sorted(found.items(), key=lambda item: item[1].rank)[:top] for found in told]
    ids = [[token for token, _ in place] for place in likeliest]
    logprobs = [[said.logprob for _, said in place] for place in likeliest]
    return Terms(nll, np.array(ids, np.int32), np.array(logprobs, np.float32))


def _version() -> str:
    """vLLM's version, whatever its build is called."""
    found = {d.metadata["Name"]: d.version for d in distributions() if (d.metadata["Name"] or "").startswith("vllm")}
    return next((f"{name} {version}" for name, version in sorted(found.items())), "unknown")


def _rank(path: str, seed_lm: SeedLM) -> int:
    """The rank that vLLM must be started for. Raises UserError for an adapter of another model: vLLM's process would
    die of it."""
    from safetensors import safe_open

    modules = dict(seed_lm.skeleton().named_modules())
    with safe_open(Path(path) / WEIGHTS, "pt") as weights:
        for key in weights.keys():  # noqa: SIM118
            name = key.removeprefix("base_model.model.").partition(".lora_")[0]
            width = getattr(modules.get(name), "in_features", None)
            if ".lora_A." in key and weights.get_slice(key).get_shape()[1] != width:
                has = "has no such module" if width is None else f"has {width} inputs there"
                raise UserError(f"adapter {path}: does not fit this model: {name}: the model {has}.")
    settings = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    rank = max([settings["r"], *settings.get("rank_pattern", {}).values()])
    ranks = [r for r in _ranks() if r >= rank]
    if not ranks:
        raise UserError(f'adapter {path}: rank {rank}; vLLM takes up to {_ranks()[-1]}. Take engine = "transformers".')
    return ranks[0]


def _ranks() -> list[int]:
    """Ranks that this vLLM can be started for."""
    try:
        from vllm.config.lora import MaxLoRARanks
    except ImportError:  # its place moves between versions
        return list(RANKS)
    return sorted(get_args(MaxLoRARanks)) or list(RANKS)


def _refuse_foreign_modules(path: str, llm: Any) -> None:
    """Raises UserError for an adapter on a module that the running vLLM has none for. Where it does not say, nothing
    happens here: whether the adapter acts is looked at before anything is measured."""
    from safetensors import safe_open

    try:
        told = llm.collective_rpc(_lora_modules)[0]
    except Exception:  # whatever a version calls it: a private part of vLLM
        return
    with safe_open(Path(path) / WEIGHTS, "pt") as weights:
        names = {key.partition(".lora_")[0].rpartition(".")[2] for key in weights.keys() if ".lora_" in key}  # noqa: SIM118
    if told and (foreign := sorted(names - set(told) - {"base_layer"})):
        raise UserError(
            f"adapter {path}: vLLM puts no adapter on {', '.join(foreign)} of this model (it does on "
            f'{", ".join(told)}). Merge it first (selfdistill merge), or take engine = "transformers".'
        )


def _lora_modules(worker: Any) -> list[str]:
    """In vLLM's process: the modules that may have an adapter, by the names that they have in an adapter."""
    manager = worker.model_runner.lora_manager._adapter_manager
    packed = manager.packed_modules_mapping
    return sorted({name for module in manager.supported_lora_modules for name in packed.get(module, [module])})
