"""What a number of items can show, and how many show what: for paired answers. Pure functions.

Sizes are differences of shares (0.02 is 2 points); `discordance` is the share of items that one of the two models got
right and the other not. What was seen stands for what will be: plan with a probe like the one to come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

from selfdistill.comparison.intervals import Difference, unseen

POWER = 0.8
Z = NormalDist()
MOST = 10**7
"""More items than anyone has; beyond it a number is not given."""


def mcnemar_power(n: int, change: float, discordance: float, alpha: float = 0.05) -> float:
    """Chance that the exact two-sided McNemar test finds a loss of `change`, exact: summed over the numbers of pairs
    that differ (binomial in n), and the losses among them (binomial at (1 + change / discordance) / 2)."""
    import numpy as np
    from scipy.stats import binom

    discordance = min(1.0, max(discordance, change))  # a loss needs that many pairs that differ
    k = np.arange(binom.ppf(1e-9, n, discordance), binom.ppf(1 - 1e-9, n, discordance) + 1)
    most = binom.ppf(alpha / 2, k, 0.5)  # the most gains among k that the test rejects with
    most -= binom.cdf(most, k, 0.5) > alpha / 2
    gains = (1 - change / discordance) / 2
    found = binom.cdf(most, k, gains) + binom.sf(k - most - 1, k, gains)
    return float(np.sum(binom.pmf(k, n, discordance) * found))


@lru_cache(maxsize=65536)  # many pairs of arms ask for the same few
def detectable(n: int, discordance: float, alpha: float = 0.05, power: float = POWER) -> float | None:
    """The smallest loss or gain that exact McNemar finds with 80 % power in n paired items: the minimum detectable
    effect. None where n items can show none."""
    low, high = 0.0, 1.0
    if mcnemar_power(n, high, discordance, alpha) < power:
        return None
    while high - low > 1e-5:
        middle = (low + high) / 2
        enough = mcnemar_power(n, middle, discordance, alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def detectable_mean(error: float, n: int, alpha: float = 0.05, power: float = POWER) -> float | None:
    """The minimum detectable effect of a mean of n values (or clusters) with this standard error: (t at alpha / 2 + t
    at the power) times it (Miller 2024, Section 5; t for few). Without an error, of values that may differ by 1."""
    if n < 2 or error <= 0:
        return detectable(n, 0.0, alpha, power)
    from scipy.stats import t

    size = error * float(t.ppf(1 - alpha / 2, n - 1) + t.ppf(power, n - 1))
    return size if size <= 1 else None


def effect_of(d: Difference) -> float | None:
    """The minimum detectable effect of a probe that gave this difference."""
    if d.method == "exact McNemar":
        return detectable(d.n, (d.gained + d.lost) / d.n)
    return detectable_mean(d.error, d.units)


def items_to_detect(change: float, discordance: float, alpha: float = 0.05, power: float = POWER) -> int | None:
    """The items with which `detectable` is `change`: the first n from which exact McNemar has the power, but for the
    last few (its power does not rise with every single item). None beyond MOST."""
    if change <= 0:
        return None
    return _first(lambda n: mcnemar_power(n, change, discordance, alpha) >= power)


def items_to_pass(
    margin: float, discordance: float, change: float = 0.0, alpha: float = 0.05, power: float = POWER
) -> int | None:
    """Items with which the corrected score bound (`intervals.lowest`, half an item) of a true `change` lies above
    -margin with 80 % chance: n where n (margin + change) - 1/2 = (z_alpha s0 + z_power s1) sqrt(n), with s1 the
    deviation of an item's difference, and s0 that under a loss of the margin (Nam 1997, Biometrics 53:1422). None where
    it never does.
    """
    room = margin + change
    if room <= 0:
        return None
    zeros = max(0.0, (discordance - change) / 2)
    ones = max(0.0, discordance - zeros)
    b = -margin * (2 - ones + zeros) - ones - zeros  # as in stats.lowest, with shares for counts
    share = (math.sqrt(max(0.0, b * b - 8 * zeros * margin * (1 + margin))) - b) / 4
    under = math.sqrt(max(0.0, 2 * share - margin * (1 + margin)))
    own = math.sqrt(max(0.0, discordance - change * change))
    spread = Z.inv_cdf(1 - alpha) * under + Z.inv_cdf(power) * own
    n = math.ceil(((spread + math.sqrt(spread * spread + 2 * room)) / (2 * room)) ** 2)
    return n if n <= MOST else None


def units_to_pass(
    margin: float, deviation: float, change: float = 0.0, alpha: float = 0.05, power: float = POWER
) -> int | None:
    """The same for means: `deviation` is the standard error times the root of the number of items or clusters. Without
    any, as many as the rule of three wants."""
    room = margin + change
    if room <= 0:
        return None
    if deviation <= 0:
        return _first(lambda n: change - unseen(n, alpha) * (1 + change) > -margin)
    n = math.ceil(((Z.inv_cdf(1 - alpha) + Z.inv_cdf(power)) * deviation / room) ** 2)
    return n if n <= MOST else None


def _first(enough: Callable[[int], bool]) -> int | None:
    """The first n for which a rising condition holds."""
    high = 2
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
