from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm, t

from selfdistill.comparison.intervals import lowest, paired, repeated
from selfdistill.comparison.power import (
    detectable,
    detectable_mean,
    effect_of,
    items_to_detect,
    items_to_pass,
    mcnemar_power,
    units_to_pass,
)


def passes(n: int, discordance: float, change: float, margin: float, alpha: float, correction: float) -> float:
    """Chance that the bound lies above -margin, by enumeration of all numbers of gains and losses. That the bound does
    is that the score test rejects at -margin, which is written down anew here."""
    z, total = norm.ppf(1 - alpha), 0.0
    counts = np.arange(n + 1)
    weights = binom.pmf(counts, n, discordance)
    for k in counts[weights > 1e-10]:
        lost = np.arange(k + 1)
        gained = k - lost
        b = -margin * (2 * n - gained + lost) - gained - lost
        share = (np.sqrt(np.maximum(0, b * b - 8 * n * lost * margin * (1 + margin))) - b) / (4 * n)
        variance = np.maximum(0, 2 * share - margin * (1 + margin)) / n
        above = (gained - lost - correction) / n + margin > z * np.sqrt(variance)
        total += weights[k] * float(binom.pmf(lost, k, (1 - change / discordance) / 2) @ above)
    return total


def test_the_enumeration_and_the_bound_are_one():
    for gained, lost in ((0, 0), (0, 3), (4, 4), (9, 2)):
        for margin in (0.01, 0.02, 0.04, 0.08):
            z, n = norm.ppf(0.95), 200
            low = lowest(gained, lost, n, z, 0.5)
            b = -margin * (2 * n - gained + lost) - gained - lost
            share = (math.sqrt(b * b - 8 * n * lost * margin * (1 + margin)) - b) / (4 * n)
            above = (gained - lost - 0.5) / n + margin > z * math.sqrt((2 * share - margin * (1 + margin)) / n)
            assert (low > -margin) == above


@pytest.mark.heavy
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_a_model_that_lost_the_margin_passes_once_in_20_at_most(margin):
    """Over sizes, and over how many pairs differ beyond the lost ones: none, few and many."""
    worst = {0.5: 0.0, 0.0: 0.0}
    for n in (60, 100, 150, 200, 300, 500, 1000):
        for discordance in margin * np.array([1.00001, 1.1, 1.3, 1.6, 2, 3, 5]):
            for correction in worst:
                found = passes(n, discordance, -margin, margin, 0.05, correction)
                worst[correction] = max(worst[correction], found)
    assert worst[0.5] <= 0.05 < worst[0.0]  # which is what the half item is for


@pytest.mark.parametrize("n, discordance", [(40, 0.3), (100, 0.1), (300, 0.05), (1000, 0.2), (150, 0.0)])
def test_the_minimum_detectable_effect_is_found_4_times_in_5(n, discordance):
    change = detectable(n, discordance)
    pairs = max(discordance, change)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(n, [(pairs - change) / 2, (pairs + change) / 2, 1 - pairs], size=20_000)
    gained, lost = drawn[:, 0], drawn[:, 1]
    p = np.minimum(1, 2 * binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))
    assert np.mean(p <= 0.05) == pytest.approx(0.8, abs=0.012)


def test_power_of_nothing_is_at_most_the_level_and_small_probes_show_nothing():
    assert mcnemar_power(500, 0.0, 0.1) <= 0.05
    assert detectable(5, 0.5) is None and 0.9 < detectable(6, 0.0) < 1
    assert items_to_detect(0.0, 0.1) is None and items_to_detect(1e-9, 0.5) is None


@pytest.mark.parametrize("change, discordance", [(0.02, 0.05), (0.05, 0.2), (0.1, 0.1), (0.01, 0.02)])
def test_items_to_detect_is_the_inverse_and_near_connors_formula(change, discordance):
    """Connor 1987 (Biometrics 43:207): n = ((z_a sqrt(psi) + z_b sqrt(psi - d^2)) / d)^2. The exact test wants more."""
    n = items_to_detect(change, discordance)
    assert detectable(n, discordance) == pytest.approx(change, rel=0.01)
    connor = ((1.96 * math.sqrt(discordance) + 0.8416 * math.sqrt(discordance - change**2)) / change) ** 2
    assert connor < n < 1.35 * connor


@pytest.mark.parametrize("margin, discordance, change", [
    (0.02, 0.05, 0.0), (0.02, 0.01, 0.0), (0.02, 0.2, 0.0), (0.05, 0.1, 0.0), (0.05, 0.1, -0.02), (0.03, 0.04, 0.01),
])  # fmt: skip
def test_with_the_items_needed_a_probe_passes_4_times_in_5(margin, discordance, change):
    n = items_to_pass(margin, discordance, change)
    found = passes(n, discordance, change, margin, 0.05, 0.5)
    assert 0.78 <= found <= (0.83 if discordance > 0.01 else 0.86)  # on the safe side where hardly any pair differs


def test_equal_answers_need_what_the_bound_needs():
    n = items_to_pass(0.02, 0.0)
    z = norm.ppf(0.95)
    assert lowest(0, 0, n, z, 0.5) > -0.02 >= lowest(0, 0, n - 1, z, 0.5)
    assert items_to_pass(0.02, 0.1, -0.02) is None and units_to_pass(0.02, 0.1, -0.03) is None
    assert units_to_pass(0.02, 0.0) == 150  # the rule of three: 3 / 0.02


def test_means_have_the_minimum_detectable_effect_of_students_t():
    """statsmodels 0.15.0: TTestPower().solve_power(nobs=50, alpha=0.05, power=0.8) = 0.40418; and by simulation."""
    found = detectable_mean(1 / math.sqrt(50) * 0.2, 50) / 0.2
    assert found == pytest.approx(0.40418, rel=0.005)
    drawn = np.random.default_rng(0).normal(found * 0.2, 0.2, (20_000, 50))
    t_value = drawn.mean(1) / (drawn.std(1, ddof=1) / math.sqrt(50))
    assert np.mean(2 * t.sf(abs(t_value), 49) <= 0.05) == pytest.approx(0.8, abs=0.012)
    n = units_to_pass(0.05, 0.2)
    drawn = np.random.default_rng(1).normal(0, 0.2, (20_000, n))
    low = drawn.mean(1) - t.ppf(0.95, n - 1) * drawn.std(1, ddof=1) / math.sqrt(n)
    assert np.mean(low > -0.05) == pytest.approx(0.8, abs=0.02)


def test_the_effect_follows_the_method():
    a, b = [True] * 100, [True] * 90 + [False] * 10
    assert effect_of(paired(a, b)) == detectable(100, 0.1)
    half = [0.5] * 50 + [1.0] * 50
    d = repeated(half, [1.0] * 100)
    assert effect_of(d) == detectable_mean(d.error, 100)
    assert effect_of(repeated(half, half)) == detectable(100, 0.0)
