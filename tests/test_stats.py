from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from selfdistill.stats import paired, wilson


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
