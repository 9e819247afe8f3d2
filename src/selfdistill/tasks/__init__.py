"""The benchmarks by name, the paper's and ours: `path = "paper:NAME"` in a task. One file each, one line here."""

from __future__ import annotations

from selfdistill.tasks import advbench, alpaca_eval, humaneval, math, openfunctions
from selfdistill.tasks.base import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": math.GSM8K,
    "multiarith": math.MULTIARITH,
    "openfunctions": openfunctions.OPENFUNCTIONS,
    "humaneval": humaneval.HUMANEVAL,
    "alpaca_eval": alpaca_eval.ALPACA_EVAL,
    "advbench": advbench.RAW,
    "jailbreak": advbench.JAILBREAK,
    "jailbreak_prefix": advbench.PREFIX,
    "jailbreak_suppression": advbench.SUPPRESSION,
    "jailbreak_style": advbench.STYLE,
    "jailbreak_base64": advbench.BASE64,
    "lookalikes": advbench.LOOKALIKES,
}
