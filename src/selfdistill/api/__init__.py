"""The Python API: each stage as a function, and what it made as an object that is a view of a file.

    import selfdistill as sd

Settings have the names that they have in a recipe, and are checked in the same way: what is wrong is a `UserError`. The
objects show themselves in notebooks and become `datasets.Dataset`s and `pandas` frames.
"""

from __future__ import annotations

from selfdistill.api.functions import Model, compare, distill, evaluate, load, read, run, select, task, train
from selfdistill.api.views import Adapter, Comparison, Evaluation, Kept, Rewrites, Rows, Run

__all__ = [
    "Adapter",
    "Comparison",
    "Evaluation",
    "Kept",
    "Model",
    "Rewrites",
    "Rows",
    "Run",
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
