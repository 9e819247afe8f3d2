"""The gate's numbers: items it needs, and how often it is wrong, by simulation.

    python benchmarks/gate.py                 # the numbers of docs/gate.md, in a quarter of an hour

In a simulated pair of models, each is right on half of the items where they agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from selfdistill.comparison import gate as stage
from selfdistill.comparison.intervals import bootstrap_interval, cluster_interval
from selfdistill.comparison.power import items_to_pass
from selfdistill.comparison.scores import Answers, given_result

DISCORDANCE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
MARGINS = (0.01, 0.02, 0.03, 0.05)
BASE, NEW = Path("base"), Path("new")


def sizes() -> None:
    """Items with which a model without a loss passes a probe with 80 % chance."""
    print("| items on which the two differ | " + " | ".join(f"margin {100 * m:g}" for m in MARGINS) + " |")
    print("| ---: |" + " ---: |" * len(MARGINS))
    for share in DISCORDANCE:
        needed = (items_to_pass(m, share) for m in MARGINS)
        print(f"| {100 * share:g} % | " + " | ".join(f"{n:,}" for n in needed) + " |")


def answers(rng: np.random.Generator, n: int, discordance: float, change: float) -> list[dict[str, float]]:
    """The scores of two models on n items."""
    kind = rng.choice(
        4, size=n, p=[(discordance + change) / 2, (discordance - change) / 2, *[(1 - discordance) / 2] * 2]
    )
    return [
        {str(i): float(v) for i, v in enumerate(right)}
        for right in ((kind == 1) | (kind == 2), (kind == 0) | (kind == 2))
    ]


def rates(rounds: int) -> None:
    """How often the gate says what, at a margin of 2 points and alpha = 0.05."""
    cases = [
        ("equal, 1 probe of 886", 1, 886, 0.05, 0.0),
        ("equal, 6 probes of 886", 6, 886, 0.05, 0.0),
        ("equal, 6 probes of 2,000", 6, 2000, 0.05, 0.0),
        ("equal, 6 probes of 100", 6, 100, 0.05, 0.0),
        ("equal, 1 probe of 30", 1, 30, 0.05, 0.0),
        ("lost 2 points, 1 probe of 886", 1, 886, 0.05, -0.02),
        ("lost 2 points, 1 probe of 200, no gains", 1, 200, 0.02, -0.02),
        ("lost 5 points on 1 of 6 probes of 886", 6, 886, 0.05, -0.05),
        ("lost 10 points, 1 probe of 200", 1, 200, 0.12, -0.1),
    ]
    print(f"\n{rounds} rounds each, margin 2, alpha 0.05:\n\n| NEW | pass | fail | underpowered |")
    print("| --- | ---: | ---: | ---: |")
    rng, sides = np.random.default_rng(0), {}
    stage.read_answers = sides.__getitem__
    for name, probes, n, discordance, change in cases:
        count = dict.fromkeys(stage.EXIT_CODES, 0)
        for _ in range(rounds):
            made = [answers(rng, n, discordance, change if k == 0 else 0.0) for k in range(probes)]
            for side, place in enumerate((BASE, NEW)):
                scores = {f"t{k}": m[side] for k, m in enumerate(made)}
                sides[place] = Answers({t: given_result(t, [1.0]) for t in scores}, scores)
            count[stage.gate(BASE, NEW).verdict] += 1
        print(f"| {name} | " + " | ".join(f"{100 * c / rounds:.1f} %" for c in count.values()) + " |", flush=True)


def bounds(rounds: int) -> None:
    """How often the lower bound of means lies above the true mean, where 5 % is meant."""
    rng = np.random.default_rng(5)

    def skewed(n: int) -> np.ndarray:  # as a judge's scores: half unchanged, many a little better, few much worse
        kind = rng.choice(3, p=(0.5, 0.4, 0.1), size=n)
        return np.choose(kind, [np.zeros(n), rng.uniform(0, 0.3, n), -rng.uniform(0, 0.9, n)]) - (0.06 - 0.045)

    def above(draw: Callable[[], np.ndarray], low: Callable[[list[float]], float]) -> str:
        return f"{100 * np.mean([low(list(draw())) > 0 for _ in range(rounds)]):.1f} %"

    def resampled(changes: list[float]) -> float:
        return bootstrap_interval(changes, 0.9, resamples=1999)[0]

    print(f"\nBound of the mean above the truth, {rounds} rounds each:")
    print("bootstrap, 300 even differences:", above(lambda: rng.normal(0, 0.08, 300), resampled), flush=True)
    for n in (80, 300):
        print(f"bootstrap, {n} skewed differences:", above(lambda n=n: skewed(n), resampled), flush=True)
    for groups in (10, 30, 60):
        of = np.repeat(np.arange(groups), 5)

        def shared(groups: int = groups, of: np.ndarray = of) -> np.ndarray:
            return rng.normal(0, 0.08, len(of)) + rng.normal(0, 0.08, groups)[of]

        def robust(changes: list[float], of: np.ndarray = of) -> float:
            return cluster_interval(changes, list(of), 0.9)[0]

        print(f"{groups} clusters of 5:", above(shared, robust), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    sizes()
    arguments = parser.parse_args()
    rates(arguments.rounds)
    bounds(arguments.rounds // 2)
