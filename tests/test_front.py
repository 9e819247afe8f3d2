"""The front of target against retained, and what arms cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.comparison.front import beats, front_of, unbeaten
from selfdistill.report.costs import costs_of

VALUES = st.integers(-4, 4).map(lambda k: k / 4)
POINTS = st.tuples(VALUES, VALUES)
NAMED = st.dictionaries(st.sampled_from("abcdefgh"), POINTS, min_size=1)


@given(POINTS, POINTS, POINTS)
def test_to_beat_is_an_order(a, b, c):
    assert not beats(a, a) and not (beats(a, b) and beats(b, a))
    assert beats(a, c) or not (beats(a, b) and beats(b, c))


@given(NAMED)
def test_a_beaten_point_changes_nothing(points):
    best = unbeaten(points)
    assert best and all(any(beats(points[b], points[a]) for b in best) for a in points if a not in best)
    x, y = points[best[0]]
    assert unbeaten(points | {"new": (x - 0.1, y)}) == best and unbeaten({"a": (x, y)}) == ["a"]


def difference(a, b, value, half=0.05):
    return {"a": a, "b": b, "value": value, "low": value - half, "high": value + half}


def task(name, role, scores, seeds=None, half=0.05):
    arms = {a: {"score": v} | ({"seeds": seeds[a]} if seeds and a in seeds else {}) for a, v in scores.items()}
    names = list(scores)
    found = [difference(a, b, scores[b] - scores[a], half) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {"task": name, "role": role, "arms": arms, "differences": found}


def test_means_worst_and_who_beats_whom():
    table = [
        task("t", "target", {"seed": 0.5, "a": 0.8, "b": 0.7, "c": 0.79, "d": 0.4}),
        task("x", "retained", {"seed": 0.9, "a": 0.9, "b": 0.6, "c": 0.89, "d": 0.8}),
        task("y", "retained", {"seed": 0.9, "a": 0.8, "b": 0.7, "c": 0.79, "d": 0.8}),
    ]
    front = front_of(table, ["a", "b", "c", "d", "e"])
    a, b, c, d, e = front.arms
    assert (a.target.value, a.retained.value) == (pytest.approx(0.3), pytest.approx(-0.05)) and a.worst.task == "y"
    assert a.retained.high - a.retained.low == pytest.approx(0.1 / 2**0.5) and a.trainings == 1 and a.each == ()
    assert a.beaten_by == () and b.beaten_by == ("a", "c") and b.clearly_by == ("a", "c")
    assert c.beaten_by == ("a",) and c.clearly_by == ()  # by less than the intervals are wide
    assert set(d.beaten_by) == {"seed", "a", "c"} and d.beaten_by[-1] == "c"
    assert (e.target, e.retained, e.worst, e.beaten_by, e.clearly_by) == (None,) * 5
    assert front.left_out == () and front.retained == ("x", "y")


def test_trainings_with_other_seeds_widen_the_interval():
    scores, seeds = {"seed": 0.5, "a": 0.7, "b": 0.6}, {"a": [0.65, 0.7, 0.75], "b": [0.55, 0.6, 0.65]}
    a = front_of([task("t", "target", scores, seeds)], ["a", "b"]).arms[0]
    still = front_of([task("t", "target", scores, {"a": [0.7] * 3, "b": [0.6] * 3})], ["a", "b"]).arms[0]
    assert still.target.high - still.target.low == pytest.approx(0.1) and still.trainings == 3
    half = (0.05**2 + (4.302653 * 0.05 / 3**0.5) ** 2) ** 0.5
    assert a.target.high - a.target.value == pytest.approx(half)
    assert a.retained is None and a.beaten_by is None  # nothing else was measured
    kept = task("x", "retained", {"seed": 0.9, "a": 0.8, "b": 0.6}, {"a": [0.8] * 3, "b": [0.6] * 3})
    a, b = front_of([task("t", "target", scores, seeds), kept], ["a", "b"]).arms
    assert b.clearly_by == ("a",) and len(a.each) == 3  # the same seeds differ by the same: a pair a seed


def test_a_task_that_one_arm_cannot_be_compared_on_is_in_no_mean():
    lacking = task("x", "retained", {"seed": 0.9, "a": 0.1})
    front = front_of([task("t", "target", {"seed": 0.5, "a": 0.8, "b": 0.7}), lacking], ["a", "b"])
    assert front.left_out == ("x",) and front.retained == () and front.arms[0].retained is None


def test_costs_are_those_of_one_training_and_unknown_is_none():
    arms = [{"name": "a", "folders": ["a-seed1", "a-seed2"], "needs": ["distill"]}, {"name": "b", "folders": ["b"], "needs": []}, {"name": "c", "folders": ["c"]}]  # fmt: skip
    trained = {"trained": {"tokens": 100, "reference_tokens": 0.25}}
    training = {
        "a-seed1": trained,
        "a-seed2": {"trained": {"tokens": 300, "reference_tokens": 0.75}},
        "b": trained,
        "c": {},
    }
    seconds = {"distill": 5.0, "train a-seed1": 10.0, "train a-seed2": 20.0, "evaluate b": 3.0}
    costs = costs_of(arms, training, seconds)
    assert costs["a"] == {"seed_pass": 5.0, "training": 15.0, "evaluation": None, "tokens": 200.0, "reference": 0.5}
    assert costs["b"]["seed_pass"] == 0.0 and costs["b"]["evaluation"] == 3.0
    assert set(costs["c"].values()) == {None}
