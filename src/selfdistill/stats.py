"""Intervals for scores and for differences of scores on the same items. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    return sum(values) / n, (1 + _lowest(ones, zeros, n)) / 2, (1 - _lowest(zeros, ones, n)) / 2


def _lowest(ones: int, zeros: int, n: int) -> float:
    """The lowest difference of the shares of ones and zeros that a two-sided 5 % score test accepts (Tango 1998)."""
    measured = (ones - zeros) / n
    low, high = -1.0, measured
    for _ in range(60):  # halves the bracket each time, down to the last bit
        middle = (low + high) / 2
        # The likeliest share of zeros, were the difference `middle`: the greater root of 2n x^2 + b x + c.
        b = middle * (2 * n - ones + zeros) - ones - zeros
        c = -zeros * middle * (1 - middle)
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = max(0.0, 2 * share + middle * (1 - middle)) / n
        if (measured - middle) ** 2 > Z95 * Z95 * variance:
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


@dataclass(frozen=True)
class Difference:
    """Score of b minus score of a on the same n items.

    `gained` items only b got right (or oftener, with several seeds), `lost` items only a did. [low, high] is the 95 %
    interval, `p` the two-sided test that nothing changed: exact McNemar, with several seeds Student's t.
    """

    n: int
    value: float
    low: float
    high: float
    gained: int
    lost: int
    p: float


def paired(a: list[bool], b: list[bool]) -> Difference:
    """Difference of two paired proportions: interval by Newcombe 1998, method 10 (square-and-add of Wilson intervals
    with the correlation of the pairs), p by the exact McNemar test.
    """
    if len(a) != len(b) or not a:
        raise ValueError("paired scores need the same items on both sides, and at least one")
    from scipy.stats import binomtest

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
    p = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    value = pb - pa
    return Difference(n, value, value - math.sqrt(max(0, down)), value + math.sqrt(max(0, up)), gained, lost, float(p))


def repeated(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Difference of two scores where every item has its mean over several seeds on at least one side, 0 to 1.

    The items are what is drawn, so each counts once: Student's t on the n differences of its means. The error is that
    of the items; how far trainings with other seeds lie apart is not in it.
    """
    from scipy.stats import binomtest, ttest_rel

    changes = [y - x for x, y in zip(a, b, strict=True)]
    value, low, high = student(changes, -1.0)
    gained, lost = sum(c > 1e-9 for c in changes), sum(c < -1e-9 for c in changes)
    if max(changes) - min(changes) > 1e-9:
        p = ttest_rel(b, a).pvalue
    else:  # without a spread there is no t; the signs still speak
        p = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    return Difference(len(changes), value, low, high, gained, lost, float(p))
