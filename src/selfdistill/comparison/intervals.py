"""Intervals for scores and for differences of scores on the same items. Pure functions.

What a number of items can show (power, items needed) is in `compare.power`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from selfdistill.core.records import TaskResult

Z95 = 1.959963984540054


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); it stays inside 0 and 1 and holds at 0 and n of n."""
    if n == 0:
        raise ValueError("no items, no interval")
    p, z2 = correct / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of values between 0 and 1, and its 95 % interval.

    Where all are 0, 1/2 or 1 (losses, ties, wins), it is Tango's score interval (Stat Med 17:891, 1998): the mean is
    (1 + share of ones - share of zeros) / 2, and he gives that difference of shares. It is Wilson's where none is 1/2,
    narrower the more are, and holds where all are equal, too. Other values: Student's t, cut at 0 and 1, and what
    `student` says where all are equal.
    """
    if not values:
        raise ValueError("no items, no interval")
    if any(v not in (0, 0.5, 1) for v in values):
        return student(values, 0.0)
    n, ones, zeros = len(values), values.count(1), values.count(0)
    return sum(values) / n, (1 + lowest(ones, zeros, n)) / 2, (1 - lowest(zeros, ones, n)) / 2


def lowest(ones: int, zeros: int, n: int, z: float = Z95, correction: float = 0.0) -> float:
    """The lowest difference of the shares of ones and zeros that a score test accepts (Tango 1998): a two-sided 5 % one
    at the default, a one-sided 5 % one at z = 1.645.

    `correction` items are taken off the difference first. With half an item the chance that the bound lies above the
    true difference stays at or below the level of the test, also where hardly any pair differs (`tests/test_power.py`
    has it by enumeration: 4.7 % at most, and 6.0 % without).
    """
    measured = max(-1.0, (ones - zeros - correction) / n)
    low, high = -1.0, measured
    for _ in range(60):  # halves the bracket each time, down to the last bit
        middle = (low + high) / 2
        # The likeliest share of zeros, were the difference `middle`: the greater root of 2n x^2 + b x + c.
        b = middle * (2 * n - ones + zeros) - ones - zeros
        c = -zeros * middle * (1 - middle)
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = max(0.0, 2 * share + middle * (1 - middle)) / n
        if (measured - middle) ** 2 > z * z * variance:
            low = middle
        else:
            high = middle
    return high


def mean_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of b - a over the same items, and its 95 % interval: `paired` where all values are 0 or 1, else Student's t
    on the differences, cut at -1 and 1, and what `student` says where all differences are equal."""
    if all(v in (0, 1) for v in (*a, *b)):
        found = paired([v == 1 for v in a], [v == 1 for v in b])
        return found.value, found.low, found.high
    return student([y - x for x, y in zip(a, b, strict=True)], -1.0)


def student(values: Sequence[float], least: float) -> tuple[float, float, float]:
    """Mean of values between `least` and 1, and its 95 % interval by Student's t, cut there.

    Equal values have no spread, and t would call their mean exact. All that n equal values show is that few others
    exist: at most the share q with q = 1 - 0.05^(1 / (n - 1)), about 3 / n (the rule of three, Hanley and Lippman-Hand
    1983; n - 1, as the first value is what the others are compared with). The interval is where the mean can be if
    that share lies at `least` or at 1. One value alone leaves everything open.
    """
    n, mean = len(values), sum(values) / len(values)
    if max(values) - min(values) < 1e-9:  # equal but for the rounding of differences
        q = 1 - 0.05 ** (1 / (n - 1)) if n > 1 else 1.0
        return mean, mean - q * (mean - least), mean + q * (1 - mean)
    from scipy.stats import t

    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    half = float(t.ppf(0.975, n - 1)) * math.sqrt(variance / n)
    return mean, max(least, mean - half), min(1.0, mean + half)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate that one of k samples passes, where `correct` of n did (Chen et al. 2021, Equation 1)."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples with {correct} correct ones")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


Method = Literal["exact McNemar", "t over the items", "bootstrap", "clusters"]


@dataclass(frozen=True)
class Difference:
    """Score of b minus score of a on the same n items.

    `gained` items only b got right (or oftener, or better), `lost` items only a did. [low, high] is the 95 % interval,
    `p` the two-sided test that nothing changed; `method` says which test it is. `error` is the standard error, from
    `units` that were drawn independently: items, or clusters of items.
    """

    n: int
    value: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    method: Method
    error: float
    units: int


def mcnemar(gained: int, lost: int, alternative: Literal["two-sided", "less"] = "two-sided") -> float:
    """Exact McNemar test: the chance of a split as uneven (`less`: of as few gains) if each pair that differs were a
    gain or a loss by a fair coin."""
    from scipy.special import bdtr

    if alternative == "less":
        return float(bdtr(gained, gained + lost, 0.5))
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def paired(a: list[bool], b: list[bool]) -> Difference:
    """Difference of two paired proportions: interval by Newcombe 1998, method 10 (square-and-add of Wilson intervals
    with the correlation of the pairs), p by the exact McNemar test.
    """
    if len(a) != len(b) or not a:
        raise ValueError("paired scores need the same items on both sides, and at least one")
    n = len(a)
    both = sum(x and y for x, y in zip(a, b, strict=True))
    lost = sum(x and not y for x, y in zip(a, b, strict=True))
    gained = sum(y and not x for x, y in zip(a, b, strict=True))
    neither = n - both - lost - gained
    pa, pb = (both + lost) / n, (both + gained) / n
    (la, ua), (lb, ub) = wilson(both + lost, n), wilson(both + gained, n)
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    product = both * neither - gained * lost
    # Newcombe's continuity correction of the correlation: shrink it by n/2 where it is positive.
    phi = (max(product - n / 2, 0) if product > 0 else product) / math.sqrt(margins) if margins else 0.0
    down = (pb - lb) ** 2 - 2 * phi * (pb - lb) * (ua - pa) + (ua - pa) ** 2
    up = (ub - pb) ** 2 - 2 * phi * (ub - pb) * (pa - la) + (pa - la) ** 2
    p, value = mcnemar(gained, lost), pb - pa
    low, high = value - math.sqrt(max(0, down)), value + math.sqrt(max(0, up))
    error = math.sqrt(((gained + lost) / n - value * value) / n)
    return Difference(n, value, low, high, gained, lost, p, "exact McNemar", error, n)


def repeated(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Difference of two scores where every item has its mean over several seeds on at least one side, 0 to 1.

    The items are what is drawn, so each counts once: Student's t on the n differences of its means. The error is that
    of the items; how far trainings with other seeds lie apart is not in it.
    """
    from scipy.stats import ttest_rel

    changes = [y - x for x, y in zip(a, b, strict=True)]
    value, low, high = student(changes, -1.0)
    gained, lost = sum(c > 1e-9 for c in changes), sum(c < -1e-9 for c in changes)
    # Without a spread there is no t; the signs still speak.
    p = float(ttest_rel(b, a).pvalue) if max(changes) - min(changes) > 1e-9 else mcnemar(gained, lost)
    n = len(changes)
    return Difference(n, value, low, high, gained, lost, p, "t over the items", standard_error(changes), n)


def differ(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Difference:
    """b - a on the same items by the method that fits: `clustered` where items share a source, `paired` where all are
    right or wrong, else `bootstrapped`."""
    if clusters is not None:
        return clustered(a, b, clusters)
    if all(v in (0, 1) for v in (*a, *b)):
        return paired([v == 1 for v in a], [v == 1 for v in b])
    return bootstrapped(a, b)


# --- continuous scores -------------------------------------------------------------------------------------------


def bootstrapped(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Difference:
    """Difference of two means of scores from 0 to 1: interval by `bootstrap_interval`, p by `sign_flip`."""
    changes = [y - x for x, y in zip(a, b, strict=True)]
    low, high = bootstrap_interval(changes, seed=seed)
    gained, lost = sum(c > 1e-9 for c in changes), sum(c < -1e-9 for c in changes)
    p = sign_flip(changes, seed=seed)
    n, mean = len(changes), sum(changes) / len(changes)
    return Difference(n, mean, low, high, gained, lost, p, "bootstrap", standard_error(changes), n)


def bootstrap_interval(
    changes: Sequence[float], level: float = 0.95, seed: int = 0, resamples: int = 9999
) -> tuple[float, float]:
    """Where the mean of paired changes between -1 and 1 lies: bias-corrected and accelerated bootstrap over the items
    (BCa; Efron 1987, JASA 82:171; scipy.stats.bootstrap with random numbers from `seed`).

    A bootstrap knows no item that it has not seen, and is a point where all changes are equal. So where most are equal
    and fewer than FEW are not, the interval is no narrower than what `unseen` leaves open.
    """
    if not changes:
        raise ValueError("no items, no interval")
    import numpy as np
    from scipy.stats import bootstrap

    values, mean = np.asarray(changes, float), sum(changes) / len(changes)
    low = high = mean
    if np.ptp(values) > 1e-9:
        size = max(1, 2_000_000 // len(values))  # resamples that lie in memory at a time
        found = bootstrap(
            (values,), np.mean, confidence_level=level, n_resamples=resamples, method="BCa", batch=size, rng=seed
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    return _at_least(mean, low, high, changes, len(changes), level)


def unseen(n: int, tail: float = 0.05) -> float:
    """The largest share of other items that n equal ones leave possible: 1 - tail^(1 / (n - 1)), about 3 / n at 5 %,
    the rule of three (see `student`). One item leaves all possible."""
    return 1 - tail ** (1 / (n - 1)) if n > 1 else 1.0


FEW = 10
"""Where most units changed alike and fewer than this many otherwise, their spread says little."""


def _at_least(
    mean: float, low: float, high: float, units: Sequence[float], n: int, level: float
) -> tuple[float, float]:
    """The interval, cut at -1 and 1. Where the spread of the n units says little, it is widened to where the mean would
    be if the unseen share of them lay at -1 or at 1."""
    alike = Counter(round(u, 9) for u in units).most_common(1)[0][1]
    if n == 1 or (alike > n / 2 and n - alike < FEW):
        q = unseen(n, (1 - level) / 2)  # so that either end alone is a one-sided bound, too
        low, high = min(low, mean - q * (mean + 1)), max(high, mean + q * (1 - mean))
    return max(-1.0, low), min(1.0, high)


def sign_flip(
    changes: Sequence[float], alternative: Literal["two-sided", "less"] = "two-sided", seed: int = 0
) -> float:
    """Chance of a mean change as far from 0 (`less`: as low) if each change had its sign by a fair coin, as it would be
    if the two models were alike (Fisher's randomization test). All flips of up to 13 changes, else 9999 from `seed`.
    For changes of -1, 0 and 1 it is the exact McNemar test."""
    import numpy as np

    moved = np.asarray([c for c in changes if abs(c) > 1e-9], float)
    if moved.size <= 13:  # 2^13 flips
        flips = np.array(list(product((-1.0, 1.0), repeat=moved.size)))
        sums, found, tried = flips @ abs(moved), 0, 0
    else:
        rng, size = np.random.default_rng(seed), 4_000_000 // moved.size + 1
        parts = [min(size, 9999 - k) for k in range(0, 9999, size)]
        sums = np.concatenate([(2.0 * rng.integers(0, 2, (k, moved.size)) - 1) @ abs(moved) for k in parts])
        found = tried = 1  # the flip that was seen
    low = sums <= moved.sum() + 1e-9 if alternative == "less" else abs(sums) >= abs(moved.sum()) - 1e-9
    return float((found + low.sum()) / (tried + sums.size))


def standard_error(changes: Sequence[float]) -> float:
    """Standard error of the mean of independent values."""
    n, mean = len(changes), sum(changes) / len(changes)
    return math.sqrt(sum((c - mean) ** 2 for c in changes) / (n - 1) / n) if n > 1 else 0.0


# --- items that share a source -----------------------------------------------------------------------------------


def clustered(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> Difference:
    """Difference of two means where items come in clusters (questions on one text, answers to one item by models of
    several seeds): interval by `cluster_interval`, p by `sign_flip` of whole clusters."""
    changes = [y - x for x, y in zip(a, b, strict=True)]
    sums = list(totals(changes, clusters).values())
    low, high = cluster_interval(changes, clusters)
    gained, lost = sum(c > 1e-9 for c in changes), sum(c < -1e-9 for c in changes)
    n, mean, error = len(changes), sum(changes) / len(changes), cluster_error(changes, clusters)
    p = sign_flip(sums, seed=seed)
    return Difference(n, mean, low, high, gained, lost, p, "clusters", error, len(sums))


def cluster_error(changes: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean of paired changes with correlated clusters: Miller 2024 (arXiv 2411.00640), Section
    2.2 on the differences of Section 4.2, times sqrt(G / (G - 1)) for G clusters, as Stata and statsmodels (CR1).

    Its root holds the sum over clusters of the squared sum of deviations in each: single items give the usual error.
    """
    n, mean = len(changes), sum(changes) / len(changes)
    off = totals([c - mean for c in changes], clusters).values()
    return math.sqrt(len(off) / (len(off) - 1) * sum(t * t for t in off)) / n if len(off) > 1 else 0.0


def cluster_interval(
    changes: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95
) -> tuple[float, float]:
    """Where the mean of paired changes between -1 and 1 lies: `cluster_error` times Student's t with G - 1 degrees of
    freedom for G clusters; where most clusters changed alike, no narrower than `unseen` of G leaves open. With a few
    clusters only, or one that holds most items, it is too narrow (Cameron and Miller 2015); 30 of like size do."""
    if not changes:
        raise ValueError("no items, no interval")
    from scipy.stats import t

    sums = list(totals(changes, clusters).values())
    mean, groups, half = sum(changes) / len(changes), len(sums), 0.0
    if groups > 1:
        half = float(t.ppf((1 + level) / 2, groups - 1)) * cluster_error(changes, clusters)
    return _at_least(mean, mean - half, mean + half, sums, groups, level)


def totals(changes: Sequence[float], clusters: Sequence[Hashable]) -> dict[Hashable, float]:
    """The sum of the changes in each cluster."""
    sums: dict[Hashable, float] = {}
    for change, cluster in zip(changes, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + change
    return sums


# --- many tests --------------------------------------------------------------------------------------------------


def holm(ps: Sequence[float]) -> list[float]:
    """The p values, adjusted for being a family (Holm 1979, Scand J Stat 6:65): the chance that any true hypothesis is
    rejected at p <= alpha is at most alpha, whatever hangs together. The smallest of m is multiplied by m, the next by
    m - 1, and so on; none falls below the one before it."""
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, k in enumerate(sorted(range(len(ps)), key=lambda k: ps[k])):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[k]))
        adjusted[k] = worst
    return adjusted


def mean_score(bounds: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The mean over T tasks, each given as (score p_t, low l_t, high u_t), with the error of the items of all tasks:
    they are drawn apart, so the distances of each task's bounds add in squares,

        M = sum p_t / T,  low = M - sqrt(sum (p_t - l_t)^2) / T,  high = M + sqrt(sum (u_t - p_t)^2) / T

    (square-and-add, as in Newcombe's interval above; Zou and Donner, Stat Med 27:1693, 2008). It is the task's own
    interval where there is one. Which tasks were chosen is not in the error.
    """
    count = len(bounds)
    mean = sum(p for p, _, _ in bounds) / count
    down = math.sqrt(sum((p - low) ** 2 for p, low, _ in bounds)) / count
    up = math.sqrt(sum((high - p) ** 2 for p, _, high in bounds)) / count
    return mean, max(0.0, mean - down), min(1.0, mean + up)  # rounding may leave 0 and 1


@dataclass(frozen=True)
class Mean:
    """Mean score over `tasks` tasks with its 95 % interval, from 0 to 1."""

    tasks: int
    value: float
    low: float
    high: float


def mean_of(results: Sequence[TaskResult]) -> Mean | None:
    """`intervals.mean_score` of the tasks that were measured; None without any."""
    bounds = [(r.score, r.low, r.high) for r in results]
    found = [(p, low, high) for p, low, high in bounds if p is not None and low is not None and high is not None]
    return Mean(len(found), *mean_score(found)) if found else None
