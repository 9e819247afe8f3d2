from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from selfdistill.comparison.intervals import (
    Z95,
    bootstrap_interval,
    cluster_error,
    cluster_interval,
    clustered,
    differ,
    holm,
    lowest,
    mcnemar,
    mean_difference,
    mean_interval,
    paired,
    sign_flip,
    student,
    wilson,
)


@given(st.integers(1, 2000), st.data())
def test_wilson_is_scipys(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    theirs = binomtest(k, n).proportion_ci(method="wilson")
    assert low == pytest.approx(theirs.low, abs=1e-9) and high == pytest.approx(theirs.high, abs=1e-9)


@pytest.mark.parametrize("chances", [(0.6, 0.1, 0.1, 0.2), (0.3, 0.3, 0.05, 0.35), (0.9, 0.06, 0.01, 0.03)])
def test_paired_intervals_hold_the_truth_19_times_in_20(chances):
    both, lost, gained, _ = chances
    rng, hits, rounds, n = np.random.default_rng(0), 0, 1500, 100
    for _ in range(rounds):
        cells = rng.choice(4, size=n, p=chances)
        d = paired([bool(c in (0, 1)) for c in cells], [bool(c in (0, 2)) for c in cells])
        hits += d.low <= (both + gained) - (both + lost) <= d.high
    assert 0.93 <= hits / rounds <= 0.985  # 0.95 within sampling error; Newcombe's method 10 errs to the safe side


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_paired_differences_hang_together(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    d, back = paired(a, b), paired(b, a)
    assert d.low <= d.value <= d.high and d.low >= -1 and d.high <= 1
    assert d.value == pytest.approx(-back.value) and d.low == pytest.approx(-back.high)
    assert 0 <= d.p <= 1 and d.value == pytest.approx((d.gained - d.lost) / d.n)
    if a == b:
        assert d.value == 0 and d.p == 1


def test_no_items_no_interval():
    with pytest.raises(ValueError):
        wilson(0, 0)
    with pytest.raises(ValueError):
        paired([True], [])
    with pytest.raises(ValueError):
        mean_interval([])
    for a in ([], [0.3]):
        with pytest.raises(ValueError):
            mean_difference(a, [])


# ---- means of losses, ties and wins -----------------------------------------------------------------------------------

COUNT = st.integers(0, 400)


def points(wins: int, ties: int, losses: int) -> list[float]:
    return [1.0] * wins + [0.5] * ties + [0.0] * losses


@given(COUNT, COUNT, COUNT)
def test_the_rate_and_its_bounds(wins, ties, losses):
    n = wins + ties + losses
    if not n:
        return
    rate, low, high = mean_interval(points(wins, ties, losses))
    assert rate == (wins + ties / 2) / n
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1
    assert high - low > 1 / (2 * n)  # never a point
    other = mean_interval(points(losses, ties, wins))  # seen from the other side
    assert other == pytest.approx((1 - rate, 1 - high, 1 - low))
    more = mean_interval(points(wins + 1, ties, losses))
    assert more[0] >= rate


@given(st.integers(0, 300), st.integers(0, 300))
def test_without_ties_the_interval_is_wilsons(wins, losses):
    if wins + losses:
        assert mean_interval(points(wins, 0, losses))[1:] == pytest.approx(wilson(wins, wins + losses), abs=1e-12)


def test_ties_only_leave_an_interval():
    n = 50
    half = Z95**2 / (n + Z95**2) / 2  # the score test's bound in closed form
    rate, low, high = mean_interval(points(0, n, 0))
    assert (rate, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert high - low < wilson(n // 2, n)[1] - wilson(n // 2, n)[0]


@pytest.mark.parametrize("wins, ties, losses", [(3, 5, 9), (30, 50, 20), (1, 99, 0), (0, 10, 30), (200, 300, 305)])
def test_the_bounds_are_where_the_score_test_turns(wins, ties, losses):
    """The likeliest shares under each bound are searched by scipy here, not solved for."""
    from scipy.optimize import minimize_scalar

    n = wins + ties + losses
    for bound in mean_interval(points(wins, ties, losses))[1:]:
        d = 2 * bound - 1

        def unlikely(loss: float, d: float = d) -> float:
            shares = (loss + d, 1 - 2 * loss - d, loss)
            return -sum(k * math.log(max(s, 1e-300)) for k, s in zip((wins, ties, losses), shares, strict=True) if k)

        loss = minimize_scalar(unlikely, bounds=(max(0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-12}).x
        z = ((wins - losses) / n - d) / math.sqrt((2 * loss + d - d * d) / n)
        assert abs(z) == pytest.approx(Z95, rel=1e-4)


def test_the_interval_covers():
    """400 draws of 40 pairs from known shares: about 95 % of the intervals hold the true rate."""
    draws = np.random.default_rng(0).multinomial(40, [0.3, 0.45, 0.25], size=400)
    found = [mean_interval(points(*map(int, draw))) for draw in draws]
    assert 0.92 <= sum(low <= 0.525 <= high for _, low, high in found) / 400 <= 0.98


# ---- means of any values ----------------------------------------------------------------------------------------------


def test_other_values_havestudents_interval():
    half = t.ppf(0.975, 3) * np.std([0.1, 0.5, 0.6, 0.8], ddof=1) / 2
    assert mean_interval([0.1, 0.5, 0.6, 0.8]) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    shifted = mean_difference([0.2, 0.3, 0.1, 0.2], [0.3, 0.8, 0.7, 1.0])  # b - a is the same four values
    assert shifted == pytest.approx((0.5, 0.5 - half, min(1.0, 0.5 + half)))
    assert mean_interval([0.01, 0.99]) == pytest.approx((0.5, 0.0, 1.0))
    assert mean_difference([0.1, 0.9], [0.9, 0.1]) == pytest.approx((0.0, -1.0, 1.0))


def test_equal_differences_are_not_certain():
    a = [0.1, 0.5, 1.0, 0.7] * 25
    q = 1 - 0.05 ** (1 / 99)
    assert mean_difference(a, a) == pytest.approx((0, -q, q))
    assert 2.9 / 100 < q < 3.1 / 100  # the rule of three
    a = [i / 10 for i in range(8)] * 5  # b - a is 0.2 but for rounding
    q = 1 - 0.05 ** (1 / 39)
    assert mean_difference(a, [x + 0.2 for x in a]) == pytest.approx((0.2, 0.2 - 1.2 * q, 0.2 + 0.8 * q))
    assert mean_interval([0.3] * 40) == pytest.approx((0.3, 0.3 - 0.3 * q, 0.3 + 0.7 * q))
    assert mean_difference([0.0] * 9, [0.5] * 9)[1] < 0.5 < mean_difference([0.0] * 9, [0.5] * 9)[2]


def test_one_value_leaves_everything_open():
    assert mean_interval([0.3]) == pytest.approx((0.3, 0, 1))
    assert mean_difference([0.5], [0.3]) == pytest.approx((-0.2, -1, 1))


@given(st.floats(0.01, 0.99), st.integers(1, 60))
def test_equal_values_mislead_at_most_once_in_20(share, n):
    """The worst case is two kinds of values, at the ends or near: all n drawn are of one kind, and the interval does
    not hold the true mean."""
    truth, wrong = share * 0.3 + (1 - share) * 0.999, 0.0
    for chance, kind in ((share, 0.3), (1 - share, 0.999)):
        _, low, high = mean_interval([kind] * n)
        wrong += chance**n * (not low <= truth <= high)
    assert wrong <= 0.05 + 1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_means_hang_together(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    for value, low, high, least in ((*mean_interval(a), 0), (*mean_difference(a, b), -1)):
        assert least - 1e-9 <= low <= value + 1e-9 and value - 1e-9 <= high <= 1 + 1e-9
        assert high > low
    value, low, high = mean_difference(a, b)
    assert mean_difference(b, a) == pytest.approx((-value, -high, -low), abs=1e-9)


# ---- published numbers ------------------------------------------------------------------------------------------------


def test_approval_of_the_prime_minister():
    """Agresti, Categorical Data Analysis (2002), Table 10.1: 794 twice yes, 150 and 86 who changed, 570 twice no. He has
    -0.04 with (-0.06, -0.02), Wald and score alike."""
    a = [True] * 944 + [False] * 656
    b = [True] * 794 + [False] * 150 + [True] * 86 + [False] * 570
    d = paired(a, b)
    assert (round(d.value, 3), round(d.low, 2), round(d.high, 2)) == (-0.04, -0.06, -0.02)
    assert (round(lowest(86, 150, 1600), 2), round(-lowest(150, 86, 1600), 2)) == (-0.06, -0.02)
    assert d.p == pytest.approx(3.71593614e-05)  # statsmodels 0.15.0: mcnemar(table, exact=True)
    assert sign_flip([float(y) - x for x, y in zip(a, b, strict=True)]) < 0.002


def test_clusters_have_the_error_of_statsmodels_and_of_miller():
    """statsmodels 0.15.0: OLS(d, ones).fit(cov_type="cluster", groups=g, use_t=True)."""
    d = [((7 * i * i + 3 * i) % 11 - 5) / 6 for i in range(24)]
    g = [(i * i) % 7 for i in range(24)]
    found = clustered([0.0] * 24, d, g)
    assert (found.value, found.error, found.low, found.high) == pytest.approx(
        (-0.15277778, 0.0884035, -0.43411718, 0.12856162), rel=1e-6
    )
    mean = sum(d) / 24  # Equation 4 of Miller 2024 as he writes it, with G / (G - 1)
    single = sum((x - mean) ** 2 for x in d) / 24**2
    shared = sum(
        (d[i] - mean) * (d[j] - mean) for i in range(24) for j in range(24) if i != j and g[i] == g[j]
    )  # fmt: skip
    groups = len(set(g))
    assert found.error**2 == pytest.approx((single + shared / 24**2) * groups / (groups - 1))
    assert cluster_error(d, range(24)) == pytest.approx(np.std(d, ddof=1) / math.sqrt(24))


def test_holm_is_statsmodels_and_holms():
    """statsmodels 0.15.0: multipletests(p, method="holm"); the second by hand."""
    assert holm([0.011, 0.9, 0.0004, 0.02, 0.04, 0.013, 0.2]) == pytest.approx(
        [0.066, 0.9, 0.0028, 0.08, 0.12, 0.066, 0.4]
    )
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.3]) == [0.3]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_only_raises(ps):
    adjusted = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    for i, j in itertools.combinations(range(len(ps)), 2):
        assert (ps[i] - ps[j]) * (adjusted[i] - adjusted[j]) >= 0


# ---- simulations ------------------------------------------------------------------------------------------------------


def test_a_family_without_changes_errs_once_in_20():
    """Five tasks of which four share their items, so that they hang together; without Holm it is about one in five."""
    rng, rounds, tasks = np.random.default_rng(0), 3000, 5
    shared = rng.normal(size=(rounds, 60, 1))
    changes = 0.6 * shared + rng.normal(size=(rounds, 60, tasks))
    changes[:, :, -1] -= 0.6 * shared[:, :, 0]
    t_value = changes.mean(1) / (changes.std(1, ddof=1) / math.sqrt(60))
    ps = 2 * t.sf(abs(t_value), 59)
    errs = np.mean([min(holm(list(p))) <= 0.05 for p in ps])
    assert 0.03 < errs < 0.06 and np.mean(ps.min(1) <= 0.05) > 0.15


def test_bootstrap_intervals_cover():
    """Skewed scores, as of a judge: most answers unchanged, some a little better, few much worse."""
    rng, rounds, n = np.random.default_rng(0), 400, 80
    kinds = rng.choice(3, p=(0.5, 0.4, 0.1), size=(rounds, n))
    changes = np.where(
        kinds == 0, 0.0, np.where(kinds == 1, rng.uniform(0, 0.3, (rounds, n)), -rng.uniform(0, 0.9, (rounds, n)))
    )
    truth = 0.4 * 0.15 - 0.1 * 0.45
    found = [bootstrap_interval(list(c), resamples=999) for c in changes]
    covered = sum(low <= truth <= high for low, high in found) / rounds
    assert 0.915 <= covered <= 0.98


def test_the_bootstrap_is_students_t_where_that_is_right_and_repeats_itself():
    changes = list(np.clip(np.random.default_rng(1).normal(0.02, 0.1, 2000), -1, 1))
    low, high = bootstrap_interval(changes)
    mean, left, right = student(changes, -1.0)
    assert (low, high) == pytest.approx((left, right), abs=0.0004) and low < mean < high
    assert (low, high) == bootstrap_interval(changes) != bootstrap_interval(changes, seed=1)
    narrow = bootstrap_interval(changes, level=0.9)
    assert low < narrow[0] < narrow[1] < high


def test_equal_answers_leave_an_interval_whatever_the_method():
    a = [0.3, 0.7] * 50
    q = 1 - 0.025 ** (1 / 99)
    for d in (differ(a, a), differ(a, a, list(range(100)))):
        assert (d.value, d.low, d.high, d.p) == pytest.approx((0, -q, q, 1))
    few = differ(a, a, [i % 4 for i in range(100)])
    assert (
        few.low < -0.6 and cluster_interval([0.1] * 9, ["one"] * 9) == (-1, 1) and differ(a, a, ["one"] * 100).low == -1
    )
    one = bootstrap_interval([0.0] * 99 + [-0.1])  # a bootstrap alone would call this certain to 0.003
    assert one[0] < -0.03 and one[1] > 0.03
    with pytest.raises(ValueError):
        bootstrap_interval([])


def test_clustered_intervals_cover_where_naive_ones_do_not():
    """50 texts with 2 to 14 questions each that rise and fall together."""
    rng, rounds, groups = np.random.default_rng(0), 1000, 50
    sizes = rng.integers(2, 15, groups)
    clusters = np.repeat(np.arange(groups), sizes)
    texts = rng.normal(0, 0.2, (rounds, groups))[:, clusters]
    changes = 0.05 + texts + rng.normal(0, 0.2, (rounds, len(clusters)))
    found = [cluster_interval(list(c), list(clusters)) for c in changes]
    covered = np.mean([low <= 0.05 <= high for low, high in found])
    half = t.ppf(0.975, len(clusters) - 1) * changes.std(1, ddof=1) / math.sqrt(len(clusters))
    naive = np.mean(abs(changes.mean(1) - 0.05) <= half)
    assert 0.93 <= covered <= 0.97 and naive < 0.75, (covered, naive)


@pytest.mark.parametrize("gained, lost", [(0, 0), (0, 1), (1, 0), (3, 9), (5, 5), (0, 6)])
def test_flipping_signs_is_the_exact_mcnemar_test(gained, lost):
    changes = [1.0] * gained + [-1.0] * lost + [0.0] * 5
    two = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    less = binomtest(gained, gained + lost, alternative="less").pvalue if gained + lost else 1.0
    assert sign_flip(changes) == pytest.approx(two) and sign_flip(changes, "less") == pytest.approx(less)
    assert (mcnemar(gained, lost), mcnemar(gained, lost, "less")) == pytest.approx((two, less))


def test_the_method_follows_from_the_scores():
    a, b = [0.0, 1.0] * 10, [1.0, 0.0] * 10
    assert differ(a, b).method == "exact McNemar" and differ(a, [0.5, *b[1:]]).method == "bootstrap"
    d = differ(a, b, [i // 2 for i in range(20)])
    assert (d.method, d.units, d.n, d.gained, d.lost) == ("clusters", 10, 20, 10, 10) and d.p == 1
