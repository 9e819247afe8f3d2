"""Fine-tune a language model in its own words, and measure what it kept (SDFT, arXiv 2402.13669).

    import selfdistill as sd

    lm = sd.load("embedded")
    rows = sd.read("train.jsonl", prompt="question", response="answer")
    made = sd.distill(lm, rows, out="rewrites.jsonl")
    kept = sd.select(rows, made, check="last_number")
    tuned = sd.train(lm, rows, kept, out="adapter", epochs=2)

What these functions give are thin views of the files that the stages write. Nothing heavy is imported before it is
needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfdistill.api.functions import Model, compare, distill, evaluate, load, read, run, select, task, train
    from selfdistill.api.views import Adapter, Comparison, Evaluation, Kept, Rewrites, Rows, Run
    from selfdistill.core.errors import UserError

__all__ = [
    "Adapter",
    "Comparison",
    "Evaluation",
    "Kept",
    "Model",
    "Rewrites",
    "Rows",
    "Run",
    "UserError",
    "compare",
    "distill",
    "evaluate",
    "load",
    "read",
    "run",
    "select",
    "task",
    "train",
]


def __getattr__(name: str) -> Any:
    """A name of the API, imported at its first use, or the version of the package."""
    if name == "__version__":
        return import_module("importlib.metadata").version("selfdistill")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(
        import_module("selfdistill.core.errors" if name == "UserError" else "selfdistill.api.functions"), name
    )


def __dir__() -> list[str]:
    return __all__
