"""HumanEval (Table 1): pass@1, greedy, in the sandbox; `samples` of a task add the unbiased pass@k (Chen et al. 2021).

The items' form, the prompt and the tests are made in `data.sources`.
"""

from __future__ import annotations

from selfdistill.tasks.base import Benchmark

HUMANEVAL = Benchmark("humaneval", "python_tests")
