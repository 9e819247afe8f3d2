"""The gate: what it promises, measured on simulated models; its files; its exit codes; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import cli, write_jsonl

from selfdistill.comparison import gate as stage
from selfdistill.comparison.gate import gate
from selfdistill.comparison.power import items_to_pass
from selfdistill.comparison.scores import Answers, given_result
from selfdistill.core.errors import UserError

BASE, NEW = Path("base"), Path("new")


def verdicts(monkeypatch, drawn: list[dict[str, tuple]], **settings) -> list[stage.Gate]:
    """What the gate says of simulated answers: per round {task: (scores of BASE, scores of NEW[, clusters])}."""
    found = []
    for tasks in drawn:
        sides = {}
        for k, place in enumerate((BASE, NEW)):
            scores = {t: {str(i): float(v) for i, v in enumerate(made[k])} for t, made in tasks.items()}
            results = {t: given_result(t, [0.0, 1.0]) for t in scores}
            clusters = {t: {str(i): str(c) for i, c in enumerate(m[2])} for t, m in tasks.items() if len(m) > 2}
            sides[place] = Answers(results, scores, clusters)
        monkeypatch.setattr(stage, "read_answers", sides.__getitem__)
        found.append(gate(BASE, NEW, **settings))
    return found


def pairs(rng, n: int, discordance: float, change: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two models of which each is right on half of the items where they agree."""
    kind = rng.choice(
        4, size=n, p=[(discordance + change) / 2, (discordance - change) / 2, *[(1 - discordance) / 2] * 2]
    )
    return (kind == 1) | (kind == 2), (kind == 0) | (kind == 2)


def rate(found: list[stage.Gate], verdict: str) -> float:
    return sum(g.verdict == verdict for g in found) / len(found)


# ---- what it promises -------------------------------------------------------------------------------------------------


def test_a_model_without_a_loss_fails_in_5_percent_at_most_however_many_probes(monkeypatch):
    rng = np.random.default_rng(0)
    drawn = [{f"t{k}": pairs(rng, 150, 0.25, 0.0) for k in range(6)} for _ in range(250)]
    found = verdicts(monkeypatch, drawn)
    assert rate(found, "fail") <= 0.05 + 0.02
    alone = sum(any(p.p <= 0.05 for p in g.probes) for g in found) / len(found)
    assert alone > 0.12  # which is what Holm's adjustment is for
    assert rate(found, "underpowered") > 0.85  # and 150 items do not say


@pytest.mark.parametrize("change, least, most", [(0.0, 0.74, 0.88), (-0.02, 0.0, 0.07)])
def test_with_the_items_needed_equal_models_pass_and_a_lost_margin_does_not(monkeypatch, change, least, most):
    rng, n = np.random.default_rng(1), items_to_pass(0.02, 0.05)
    found = verdicts(monkeypatch, [{"t": pairs(rng, n, 0.05, change)} for _ in range(250)])
    assert least <= rate(found, "pass") <= most
    assert rate(found, "fail") <= 0.07 if change == 0 else rate(found, "fail") > 0.7


def test_a_damaged_model_fails_whatever_else_it_kept(monkeypatch):
    rng = np.random.default_rng(2)
    drawn = [
        {"kept": (same := pairs(rng, 400, 0.0, 0.0)[0], same), "broken": pairs(rng, 400, 0.12, -0.08)}
        for _ in range(60)
    ]
    found = verdicts(monkeypatch, drawn)
    assert rate(found, "fail") > 0.95
    assert all(g.probes[0].verdict == "pass" for g in found)


def test_a_small_probe_says_underpowered_and_how_many_items_would_do(monkeypatch):
    rng = np.random.default_rng(3)
    equal = verdicts(monkeypatch, [{"t": ([1, 0] * 10, [1, 0] * 10)}])[0]
    assert equal.verdict == "underpowered" and equal.probes[0].low < -0.1  # identical answers are not a proof
    assert equal.probes[0].needed == items_to_pass(0.02, 0.0)
    found = verdicts(monkeypatch, [{"t": pairs(rng, 30, 0.1, 0.0)} for _ in range(100)])
    assert rate(found, "underpowered") >= 0.93 and rate(found, "fail") <= 0.05
    assert all(p.needed is None or p.needed > 30 for g in found for p in g.probes)


@pytest.mark.heavy
def test_continuous_scores_and_clusters_keep_the_same_promises(monkeypatch):
    rng = np.random.default_rng(4)

    def scores(change: float, texts: float) -> tuple:
        clusters = np.repeat(np.arange(60), 5)
        base = rng.uniform(0.3, 0.7, 300)
        off = rng.normal(change, 0.08, 300) + rng.normal(0, texts, 60)[clusters]
        return (base, np.clip(base + off, 0, 1), clusters) if texts else (base, np.clip(base + off, 0, 1))

    for texts in (0.0, 0.08):
        equal = verdicts(monkeypatch, [{"t": scores(0.0, texts)} for _ in range(25)], margin=0.04)
        lost = verdicts(monkeypatch, [{"t": scores(-0.04, texts)} for _ in range(25)], margin=0.04)
        assert rate(equal, "pass") > 0.9 and rate(equal, "fail") <= 0.05
        assert rate(lost, "pass") <= 0.16 and rate(lost, "fail") > 0.8
    assert equal[0].probes[0].units == 60 and equal[0].probes[0].method == "clusters"


# ---- the command ------------------------------------------------------------------------------------------------------


def rows(task: str, n: int, wrong: range = range(0)) -> list[dict]:
    return [{"id": f"{task}-{i}", "task": task, "correct": i not in wrong} for i in range(n)]


@pytest.fixture
def files(tmp_path):
    base = [*rows("kept", 200), *rows("small", 20), *rows("broken", 200)]
    write_jsonl(tmp_path / "base.jsonl", base)
    new = [*rows("kept", 200), *rows("small", 20), *rows("broken", 200, range(30))]
    write_jsonl(tmp_path / "new.jsonl", new)
    return tmp_path / "base.jsonl", tmp_path / "new.jsonl"


def test_exit_codes_tell_the_verdict(files):
    base, new = files
    failed = cli("gate", base, new, "--json", "--list", 3)
    assert failed.returncode == 1 and "broken, lost: broken-0, broken-1, broken-10 and 27 more" in failed.stderr
    made = json.loads(failed.stdout)
    assert made["verdict"] == "fail" and made["margin"] == 0.02
    probes = {p["task"]: p for p in made["probes"]}
    assert {t: p["verdict"] for t, p in probes.items()} == {"kept": "pass", "small": "underpowered", "broken": "fail"}
    assert len(probes["broken"]["lost"]) == 30 and probes["small"]["needed"] == 180
    passed = cli("gate", base, new, "--task", "kept", "--json")
    assert passed.returncode == 0 and json.loads(passed.stdout)["verdict"] == "pass"
    unclear = cli("gate", base, new, "--task", "kept", "--task", "small")
    assert unclear.returncode == 3 and "180 would do" in unclear.stdout
    assert cli("gate", base, new, "--margin", 30, "--task", "small", "--task", "kept").returncode == 0


def test_the_junit_report_is_what_readers_of_such_files_expect(tmp_path):
    """Element by element as in windyroad/JUnit-Schema: the order of the suite's children, and every required attribute."""
    odd = 'a <b> & "c"\x07\ud800 d'
    base = [{"id": f"{odd}{i}", "task": odd, "correct": True} for i in range(200)]
    write(tmp_path / "base.json", [*base, *rows("small", 9), *rows("kept", 300)])
    write(tmp_path / "new.json", [*(r | {"correct": False} for r in base), *rows("small", 9), *rows("kept", 300)])
    done = cli("gate", tmp_path / "base.json", tmp_path / "new.json", "--junit", tmp_path / "r" / "g.xml")
    assert done.returncode == 1, done.stderr
    root = ElementTree.parse(tmp_path / "r" / "g.xml").getroot()
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert {"name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "time"} <= set(
        suite.keys()
    )
    assert [suite.get(k) for k in ("tests", "failures", "errors", "skipped")] == ["3", "1", "0", "1"]
    assert [e.tag for e in suite] == ["properties", *["testcase"] * 3, "system-out", "system-err"]
    failed, skipped, passed = suite.findall("testcase")
    assert all(set(c.keys()) == {"classname", "name", "time"} for c in (failed, skipped, passed))
    assert failed.get("name") == 'a <b> & "c"?? d' and failed[0].tag == "failure"
    assert failed[0].get("type") and "worse beyond chance" in failed[0].get("message")
    assert 'a <b> & "c"?? d199' in failed[0].text
    assert skipped[0].tag == "skipped" and skipped[0].get("message").startswith("underpowered") and not len(passed)


def write(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps(rows))


def test_what_cannot_be_tested_is_refused(files, tmp_path):
    base, new = files
    fewer = write_jsonl(tmp_path / "fewer.jsonl", rows("kept", 199))
    other = write_jsonl(tmp_path / "other.jsonl", [*rows("kept", 200), *rows("more", 5)])
    for arguments, said in (
        ((fewer, other), "task more: .*fewer.jsonl has no judged answers.*--task kept"),
        ((base, other), "task small"),
        ((fewer, other, 0.02, 0.05, ["kept"]), "did not answer the same items"),
        ((base, new, 0.02, 0.05, ["nope"]), "task nope: .* --task kept --task small --task broken"),
        ((base, new, 1.5), "margin 150"),
        ((base, new, 0.02, 0.6), "alpha 0.6"),
    ):
        with pytest.raises(UserError, match=said):
            gate(*arguments)
    for arguments in ((base, tmp_path / "none.jsonl"), (base, tmp_path), (base, other), (base, new, "--margin", 0)):
        done = cli("gate", *arguments)
        assert done.returncode == 2 and done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1


def test_items_that_the_engine_failed_on_stop_the_gate(monkeypatch):
    monkeypatch.setattr(stage, "read_answers", lambda place: Answers(failed=3))
    with pytest.raises(UserError, match="engine failed on 3 items"):
        gate(BASE, NEW)
