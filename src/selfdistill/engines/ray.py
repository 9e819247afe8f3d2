"""The ray engine: Ray Data over workers that each hold a local engine, on one machine or a cluster.

Requests go out in blocks; a block comes back when it is done. Ray starts a lost worker again, here or on another node,
and gives it its unfinished blocks. Each call has workers of its own, which load the model when they start.
"""

from __future__ import annotations

import importlib.util
import logging
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from selfdistill.core.engine_settings import RaySettings, VllmSettings
from selfdistill.core.errors import UserError
from selfdistill.engines.protocol import Completion, Request, Score, Scoring
from selfdistill.models.seed_lm import SeedLM, load_model

BLOCK = 256
"""Requests that a worker is given at a time, at most: what is lost with it."""


class RayEngine:
    """The same protocol as the engines that its workers hold."""

    scores_tokens = True

    def __init__(self, seed_lm: SeedLM, end_ids: set[int], settings: RaySettings) -> None:
        """`end_ids`: tokens that end a response. Raises UserError where Ray is not installed."""
        if importlib.util.find_spec("ray") is None:
            raise UserError("engine = \"ray\" needs Ray: pip install 'selfdistill[ray]', on every node.")
        self.settings, self.seed_lm = settings, seed_lm
        self.tuned: str | None = None  # the adapter or model that answers now
        folder = Path(seed_lm.name)
        # The head of a cluster often has no accelerator itself.
        auto = "bfloat16" if settings.gpus else seed_lm.dtype
        dtype = auto if settings.local.dtype == "auto" else settings.local.dtype
        self._worker: dict[str, Any] = {
            "model": str(folder.resolve()) if folder.is_dir() else seed_lm.name,
            "revision": seed_lm.revision,
            "digest": seed_lm.digest,
            "end_ids": end_ids,
            "settings": settings.local.model_copy(update={"dtype": dtype}),
            "adapter": None,
        }
        self._own_cluster = False

    def describe(self) -> dict[str, Any]:
        """The engine behind it and its data type: where they run does not matter."""
        local = self._worker["settings"]
        speculates = {"speculate": local.speculate} if isinstance(local, VllmSettings) else {}
        return {"name": f"ray, {local.name}", "dtype": local.dtype, **speculates}

    def close(self) -> None:
        """Stop the cluster, where it was started here."""
        if self._own_cluster:
            import ray

            ray.shutdown()
            self._own_cluster = False

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Each request answered once, in any order. All requests are taken at once: Ray holds them, on disk if need
        be."""
        asked = list(requests)
        size = max(1, min(BLOCK, -(-len(asked) // (4 * self.settings.workers))))
        blocks = [asked[i : i + size] for i in range(0, len(asked), size)]
        for done in self._map("generate", blocks):
            yield from done

    def score(self, batches: Iterable[Sequence[Scoring]]) -> Iterator[list[Score]]:
        """Each batch answered once, in any order; a batch is one worker's. All batches of a call are taken at once."""
        yield from self._map("score", map(list, batches))

    @contextmanager
    def adapter(self, path: str | None) -> Iterator[None]:
        """Within this block the workers answer with the adapter, or the fully tuned model, at `path`; it must be there
        on every node. An adapter that does not fit is a UserError of the first call."""
        before, tuned = self._worker, self.tuned
        self.tuned, self._worker = path, before | {"adapter": path and str(Path(path).resolve())}
        try:
            yield
        finally:
            self._worker, self.tuned = before, tuned

    def _map(self, what: Literal["generate", "score"], blocks: Iterable[Any]) -> Iterator[list[Any]]:
        """What the workers make of each block, in any order. Raises their UserErrors."""
        rows = [{"block": pickle.dumps(block)} for block in blocks]  # a tenth of the memory
        if not rows:
            return
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.data.exceptions import ExecutionTimeoutError, SystemException

        self._connect()
        DataContext.get_current().enable_progress_bars = False
        workers = min(self.settings.workers, len(rows))
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_kwargs=self._worker | {"what": what},
            batch_size=1,
            batch_format="numpy",
            compute=ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            num_cpus=self.settings.cpus,
            num_gpus=self.settings.gpus,
            max_restarts=10,  # a worker that dies while it loads would be started again for ever
        )
        with closing(iter(done.iter_rows())) as rows_done:  # whoever stops early leaves no worker behind
            while True:
                try:
                    row = next(rows_done, None)
                except (ray.exceptions.RayError, SystemException) as error:
                    raise UserError(
                        f"engine ray: a worker failed: {_why(error)}. Ray's logs on the nodes say more."
                    ) from None
                except ExecutionTimeoutError:
                    raise UserError(
                        "engine ray: no worker got anywhere for a long time: the cluster is busy with something else. "
                        "Wait until it has room, and run the same command again."
                    ) from None
                if row is None:
                    return
                answer = pickle.loads(row["block"])  # what our own workers pickled
                if isinstance(answer, UserError):
                    raise answer
                yield answer

    def _connect(self) -> None:
        import ray

        if not ray.is_initialized():
            self._start()
        has = ray.cluster_resources()
        for name, wanted in (("CPU", self.settings.cpus), ("GPU", self.settings.gpus)):
            if has.get(name, 0) < wanted:
                raise UserError(
                    f"engine.{name.lower()}s = {wanted:g}: the cluster has {has.get(name, 0):g} {name}s in all, so no "
                    "worker could ever start. Ask for less, or add nodes."
                )

    def _start(self) -> None:
        import ray

        try:
            ray.init(
                address=self.settings.address,
                include_dashboard=None if self.settings.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"engine.address {self.settings.address}: no Ray cluster there ({str(error).splitlines()[0][:200]}). "
                "Start one with `ray start --head`, or leave address out."
            ) from None
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised
        self._own_cluster = True


def _why(error: Exception) -> str:
    """The worker's own error in what Ray wraps around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if re.match(r"(?!ray\.)[\w.]+(Error|Exception): ", line)]
    return (own or lines or [type(error).__name__])[0][:300]


class Worker:
    """What runs on the nodes: a local engine that is loaded once."""

    def __init__(
        self,
        model: str,
        revision: str | None,
        digest: str,
        end_ids: set[int],
        settings: Any,
        adapter: str | None,
        what: Literal["generate", "score"],
    ) -> None:
        self.arguments = model, revision, digest, end_ids, settings, adapter
        self.what = what
        self.engine: Any = None
        self.stack = ExitStack()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One block, pickled; so is the answer, or the UserError that every other block would meet, too."""
        block = pickle.loads(batch["block"][0])
        try:
            self.engine = self.engine or self._load()
            made = list(self.engine.generate(block)) if self.what == "generate" else next(self.engine.score([block]))
        except UserError as error:
            made = error
        return {"block": [pickle.dumps(made)]}

    def _load(self) -> Any:
        from selfdistill.engines.local import open_local

        model, revision, digest, end_ids, settings, adapter = self.arguments
        attention = getattr(settings, "attention", "auto")  # vLLM chooses its own
        seed_lm = load_model(model, settings.dtype, revision=revision, attention=attention)
        if seed_lm.digest != digest:
            raise UserError(
                f"model {model}: a node of the cluster has other files under this name. Copy the same ones."
            )
        engine = open_local(settings, seed_lm, end_ids)
        self.stack.enter_context(engine.adapter(adapter))
        return engine
