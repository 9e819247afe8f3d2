"""The report page, read as a person reads it: in headless Chromium, on hand-made run folders."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import random
import re
import shutil
from importlib import resources
from io import StringIO
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from conftest import write_jsonl
from rich.console import Console

from selfdistill.comparison.intervals import wilson
from selfdistill.methods import METHODS
from selfdistill.report.build import build
from selfdistill.report.page import charts, items, write_page
from selfdistill.report.page import style as page_style
from selfdistill.report.page.svg import SHAPES, Frame, Labels, clean, tag, ticks
from selfdistill.report.terminal import broken_and_kept, plots, show

ARMS = ("seed", "vanilla", "sdft")
TRAINED = [
    {"name": n, "method": n, "base": b, "mix_ratio": float(n == "sdft"), "size": None, "seed": 0}
    for n, b in (("vanilla", None), ("sdft", "vanilla"))
]
EVIL = (
    "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>\"'><svg onload=window.pwned=3>"
    "<!-- <script> {{ 7*7 }} {% raw %} ${7*7} javascript:alert(1) &lt;b&gt; ]]> \u202egnirts\u2066 \u200f \u2028 \x00\x07\x1b[31m \x7f\x85"
)


LONG = " ".join(f"word{i}" for i in range(2500))


def prediction(key, task, text, verdict, **more):
    finish = "length" if verdict == "truncated" else "stop"
    said = {"id": key, "task": task, "prompt": "p", "text": text, "finish_reason": finish, "verdict": verdict}
    return said | more


def arm_folder(folder: Path, asked, answers, roles):
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "items.jsonl", asked)
    write_jsonl(folder / "predictions.jsonl", answers)
    results = []
    for task, role in roles.items():
        verdicts = [a["verdict"] for a in answers if a["task"] == task]
        n, right = len(verdicts), verdicts.count("correct")
        low, high = wilson(right, n) if n else (None, None)
        results.append(
            {
                "task": task, "check": "exact", "role": role, "n": n, "correct": right,
                "wrong": verdicts.count("wrong"), "truncated": verdicts.count("truncated"), "errors": 0,
                "score": right / n if n else None, "low": low, "high": high, "note": None if n else "not measured: -",
            }
        )  # fmt: skip
    (folder / "result.json").write_text(json.dumps(results))


def make_run(run: Path, rows=30, items_each=25, tasks=("target", "facts", "chat"), text="", trained=TRAINED) -> Path:
    """A finished run of `rows` training rows. `text` is put into everything that a model or a dataset writes."""
    run.mkdir(parents=True)
    rng = random.Random(0)
    words = [
        "the",
        "call",
        "returns",
        "a",
        "number",
        "of",
        "parcels",
        "from",
        "Zurich",
        "or",
        "Chicago",
        "on",
        "Monday",
    ]
    examples, rewrites, selected = [], [], []
    for i in range(rows):
        key, kept = f"row{i}{text}", i % 3 > 0
        reference = f"number {i} {text}"
        examples.append(
            {
                "id": key,
                "prompt": [{"role": "user", "content": f"Question {i}? {' '.join(rng.choices(words, k=60))} {text}"}],
                "reference": reference,
                "task": "data",
            }
        )
        rewrite = f"The number is {i}, as asked. {' '.join(rng.choices(words, k=30))} {text}"
        rewrites.append(
            {
                "id": key,
                "candidates": [{"text": rewrite, "seed_nll": 0.2 + i % 5 / 10}],
                "reference_nll": 2 + i % 7 / 5,
                "note": text or None,
            }
        )
        chosen = {"response": rewrite, "source": "distilled", "reason": "passed", "seed_nll": 0.2 + i % 5 / 10}
        other = {"response": reference, "source": "original", "reason": "wrong_answer", "seed_nll": 2 + i % 7 / 5}
        selected.append({"id": key} | (chosen if kept else other))
    write_jsonl(run / "examples.jsonl", examples)
    write_jsonl(run / "rewrites.jsonl", rewrites)
    write_jsonl(run / "selected.jsonl", selected)
    roles = {t + text: "target" if i == 0 else "retained" for i, t in enumerate(tasks)}
    asked = [
        {"id": f"{task}-{i}", "prompt": [{"role": "user", "content": f"Item {i} of {task}"}], "reference": f"answer {i}", "task": task}
        for task in roles for i in range(items_each)
    ]  # fmt: skip
    for arm in ["seed", *(a["name"] for a in trained)]:
        answers = []
        for a in asked:
            number = int(a["id"].rpartition("-")[2])
            broken = arm.startswith("vanilla") and a["task"].startswith(tasks[1]) and number < 10
            verdict = "truncated" if broken and number == 0 else "wrong" if broken or number == 20 else "correct"
            answers.append(
                prediction(
                    a["id"],
                    a["task"],
                    f"{arm} says {number} {text}",
                    verdict,
                    expected=f"answer {number}",
                    label=text or None,
                    note=text or None,
                )
            )
        arm_folder(run / arm, asked, answers, roles)
        if arm != "seed":
            (run / arm / "adapter").mkdir()
            curve = [{"step": s, "loss": 3 / s} for s in range(1, 60)]
            held = [{"step": s, "loss": 1 + 1 / s} for s in (20, 40)]
            record = {"rows": rows, "dropped": [], "loss": curve, "held_out": held, "chosen": [f"r = 64 {text}"]}
            (run / arm / "adapter" / "training.json").write_text(json.dumps(record))
    (run / "samples.json").write_text(
        json.dumps(
            [{"title": f"training row row1{text}", "texts": {f"{a} answers": f"{a} said so {text}" for a in ARMS}}]
        )
    )
    manifest = {
        "status": "finished", "started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T03:14:05Z", "arms": list(trained),
        "command": ["selfdistill", "run", f"r.toml{text}"], "versions": {"torch": "2.0", "vllm": None}, "seconds": {"distill": 90.0},
        "model": "abc", "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(manifest))
    (run / "recipe.toml").write_text(
        'model = "tiny"\n[data]\npath = "train.jsonl"\n# ' + text.replace("\x00", "") + "\n"
    )
    build(run)
    return run


def page_of(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("page") / "hostile", text=EVIL)
    mean = {"tasks": 1, "value": 0.5, "low": 0.4, "high": 0.6}
    point = {"strength": 0.5, "target": mean, "retained": mean}
    (run / "scale.json").write_text(json.dumps({"arms": {"sdft" + EVIL + "\ud800": [point]}}))
    (run / "shift.json").write_text(json.dumps({"pairs": [{"a": EVIL, "b": "\udfff", EVIL: 1.0, "why": EVIL}]}))
    # A long text, and half a character that no record can hold, where the arms' samples lie.
    samples = json.loads((run / "samples.json").read_text())
    samples[0]["texts"]["seed answers"] = "half \ud83d a character" + EVIL
    samples[0]["texts"]["sdft answers"] = "x" * 1_000_000 + EVIL
    (run / "samples.json").write_text(json.dumps(samples))
    build(run)
    return run


def make_twenty(run: Path) -> Path:
    """A run of twenty arms by two methods; the later an arm, the more it learns and, but for the last, forgets."""
    names = ["vanilla", *(f"arm{k:02d}" for k in range(1, 20))]
    trained = [
        {"name": n, "method": ("vanilla", "sdft")[k % 2], "base": "vanilla" if k else None, "mix_ratio": 1.0, "size": None, "seed": 0}
        for k, n in enumerate(names)
    ]  # fmt: skip
    make_run(run, rows=6, items_each=2, trained=trained)
    roles = {"target": "target", "facts": "retained", "chat": "retained"}
    asked = [
        {"id": f"{t}-{i}", "prompt": [{"role": "user", "content": f"Item {i} of {t}"}], "reference": "a", "task": t}
        for t in roles for i in range(40)
    ]  # fmt: skip
    for k, name in enumerate(["seed", *names]):
        lost = 0 if k == 20 else k
        right = {"target": lambda i, k=k: i < 10 + k, "facts": lambda i, lost=lost: i >= lost, "chat": lambda i: True}
        answers = [
            prediction(a["id"], a["task"], "x", "correct" if right[a["task"]](i % 40) else "wrong")
            for i, a in enumerate(asked)
        ]
        arm_folder(run / name, asked, answers, roles)
    manifest = json.loads((run / "run.json").read_text())
    manifest["seconds"] |= {f"train {n}": 60.0 + k for k, n in enumerate(names)}
    (run / "run.json").write_text(json.dumps(manifest))
    build(run)
    return run


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    return make_twenty(tmp_path_factory.mktemp("page") / "twenty")


# --- what is in the file -----------------------------------------------------------------------------------------


def test_the_page_answers_in_the_order_a_person_asks(run):
    html = page_of(run)
    report = json.loads((run / "report.json").read_text())
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
    assert heads == [
        "Target against retained", "Paired differences", "What was distilled", "Training", "Examples side by side",
        "Settings, and how to repeat the run",
    ]  # fmt: skip
    assert report["summary"] in html and html.index(report["summary"]) < html.index(heads[0])
    for said in ("2026-01-02", "tiny", "20 of 30 rows", "cpu, float32", "selfdistill run"):
        assert said in html
    assert f"mean {report['gap']['before']:.2f}" in html and f"mean {report['gap']['after']:.2f}" in html
    assert "not measured" not in re.search(r"<dl.*?</dl>", html, re.S)[0]
    assert "How far the model moved" not in html and "×" not in html.split("<style>")[0]


def test_it_is_one_file_that_allows_only_its_own_script_and_style(run):
    html = page_of(run)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    for name, kind in (("script", "script-src"), ("style", "style-src")):
        inner = re.findall(rf"<{name}>(.*?)</{name}>", html, re.S)
        assert len(inner) == 1
        digest = base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.S)
    assert not re.search(r"\b(src|action|srcset|style|on\w+)=", markup)
    assert {u[:1] for u in re.findall(r'href="([^"]*)"', markup)} == {"#", "d"}  # anchors, and an empty icon


def test_the_script_uses_no_markup_and_no_request():
    code = items.Path(charts.__file__).with_name("page.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch|XMLHttp|import\(|localStorage", code
    )


def test_data_cannot_end_the_script_element(hostile):
    html = page_of(hostile)
    raw = re.search(r'id="data">(.*?)</script>', html, re.S)[1]
    assert raw.isascii() and not set("<>&") & set(raw)
    row = next(i for i in data_of(html)["items"] if i["id"] == "row1" + EVIL)
    assert row["references"] == ["number 1 " + EVIL]
    assert row["answers"]["seed"]["text"].startswith("half \ud83d a")
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.S)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", markup)
    assert "<img" not in markup and "{{ 7*7 }}" in markup  # shown, not computed


def test_means_of_the_scatter_are_the_scores(run):
    report = json.loads((run / "report.json").read_text())
    points = {p["name"]: p for p in charts.arm_points(report)}
    assert points["seed"]["target"]["value"] == pytest.approx(24 / 25)
    assert points["vanilla"]["retained"]["value"] == pytest.approx((14 + 24) / 2 / 25)
    one = charts._mean([{"score": 0.5, "low": 0.4, "high": 0.7}])
    assert one == {"value": 0.5, "low": pytest.approx(0.4), "high": pytest.approx(0.7)}
    two = charts._mean([{"score": 0.5, "low": 0.4, "high": 0.7}] * 2)
    assert 0.4 < two["low"] < 0.5 < two["high"] < 0.7
    assert charts._mean([None, {"score": None, "low": None, "high": None}]) is None


def test_strengths_are_read_as_they_lie_there_and_junk_is_left_out():
    mean = {"value": 0.5, "low": 0.4, "high": 0.6}
    point = {"strength": 0.5, "target": mean, "retained": mean}
    assert charts.strength_points({"arms": {"sdft": [point | {"strength": 1.0}, point, {"strength": 2}, 7]}}) == {
        "sdft": [{"arm": "sdft", **point}, {"arm": "sdft", **point, "strength": 1.0}]
    }
    assert list(charts.strength_points([{"arm": "vanilla", **point}, point | {"target": None}])) == ["vanilla"]
    for junk in (None, 3, "x", [], {}, {"arms": 3}, {"arms": {"a": None}}, [{"arm": "a", **point, "strength": True}]):
        assert charts.strength_points(junk) == {}


def test_strengths_and_shift_are_shown_where_they_were_measured(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    mean = {"value": 0.5, "low": 0.4, "high": 0.6}
    (copy / "scale.json").write_text(
        json.dumps({"arms": {"sdft": [{"strength": 0.5, "target": mean, "retained": mean}]}})
    )
    pair = {
        "a": "seed",
        "b": "sdft",
        "texts": {"target": {"bleu4": mean, "n": 3, "similarities": [0.1] * 9}},
        "kl": None,
    }
    (copy / "shift.json").write_text(json.dumps({"pairs": [pair]}))
    html = page_of(copy) if build(copy) else ""
    assert "sdft × 0.5" in html and "How far the model moved" in html and "seed → sdft" in html
    assert "texts target bleu4" in html and "0.500 [0.400, 0.600]" in html and "similarities" not in html
    # And as `selfdistill shift` writes it:
    zero = {"value": 0.0, "low": None, "high": None}
    likeness = dict.fromkeys(("bleu4", "rouge_l", "similarity", "length_ratio"), mean)
    texts = {"retained": likeness | {"cut_off": [zero, zero], "incoherent": [zero, zero]}}
    (copy / "shift.json").write_text(json.dumps({"pairs": [{"a": "seed", "b": "sdft", "texts": texts}]}))
    assert build(copy) and "<bdi>ROUGE-L to a</bdi>" in page_of(copy)
    for name in ("scale.json", "shift.json"):
        (copy / name).write_text("{torn")
    assert build(copy) and "How far the model moved" not in page_of(copy)


@pytest.fixture(scope="module")
def talk(run, tmp_path_factory):
    """A run on one conversation, whose items were not kept, as with a task of lm-evaluation-harness."""
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("page") / "talk"))
    turns = [
        {"role": "user", "content": "first?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "second?"},
    ]
    row = {"id": "talk", "prompt": turns, "reference": LONG, "task": "data"}
    write_jsonl(copy / "examples.jsonl", [row])
    made = [{"text": LONG.upper(), "turns": ["it is one"]}, {"text": "2", "turns": ["1"]}]
    write_jsonl(copy / "rewrites.jsonl", [{"id": "talk", "candidates": made}])
    write_jsonl(
        copy / "selected.jsonl",
        [{"id": "talk", "response": LONG.upper(), "turns": ["it is one"], "source": "distilled", "reason": "passed"}],
    )
    for arm in ARMS:
        (copy / arm / "items.jsonl").unlink()
        lines = [json.loads(x) for x in (copy / arm / "predictions.jsonl").read_text().splitlines()]
        lines[0]["samples"] = [{"text": "x", "finish_reason": "stop", "passed": p} for p in (True, False)]
        write_jsonl(copy / arm / "predictions.jsonl", lines)
    build(copy)
    return copy


def test_conversations_samples_and_tasks_without_items(talk):
    *asked, row = data_of(page_of(talk))["items"]
    assert row["references"] == ["one", LONG] and row["rewrites"] == ["it is one", LONG.upper()]
    assert row["candidates"] == 2 and row["kept"] and row["nll"] == [None, None]
    assert len(asked) == 75 and asked[0]["prompt"] == asked[0]["references"] == []
    assert asked[0]["answers"]["sdft"]["samples"] == "1 of 2 further samples passed"


def test_twenty_arms_say_the_same_everywhere(twenty):
    report = json.loads((twenty / "report.json").read_text())
    html, text = page_of(twenty), (twenty / "report.md").read_text()
    console = Console(file=StringIO(), width=100)
    show(report, console)
    best = next(s for s in report["front"]["arms"] if s["arm"] == "arm19")
    assert (
        report["summary"]
        == "Of 20 arms, nothing beats arm19 (target +50.0, retained +0.0). Of the 19 others, 10 are clearly beaten."
    )
    assert best["beaten_by"] == [] and report["front"]["arms"][0]["beaten_by"][0] == "arm19"
    for said in (html, text, console.file.getvalue()):
        said = " ".join(said.split())
        assert report["summary"] in said and "nothing beats it" in said and "beaten by arm19" in said
        assert "the error of the items alone" in said and "is at least as high both on the target" in said
    assert html.count('class="mark ') < 200 and len(html.split("All differences")) == 1
    assert not re.search(r"arm01 - arm02|arm02 - arm01", text) and "arm03 - vanilla" in text
    assert {c["training"] for c in report["costs"].values()} == {60.0 + k for k in range(20)}
    assert {c["seed_pass"] for c in report["costs"].values()} == {None}


def test_the_terminal_has_no_heading_over_nothing(tmp_path):
    report = build(make_run(tmp_path / "run", rows=2, items_each=0, tasks=("only",))) or {}
    assert "change against the seed LM" not in "\n".join(plots(report)) and report["front"]["arms"][0]["target"] is None


def test_every_pair_of_base_and_arm_shows_what_it_kept(tmp_path):
    more = {"name": "other", "method": "sdft", "base": "vanilla", "mix_ratio": 1.0, "size": None, "seed": 0}
    run = make_run(tmp_path / "run", trained=[*TRAINED, more, TRAINED[0] | {"name": "vanilla2"}])
    (item,) = broken_and_kept(run, 2)
    assert item["title"] == "facts: broken by vanilla, kept by sdft, other"
    lines = [json.loads(x) for x in (run / "sdft" / "predictions.jsonl").read_text().splitlines()]
    write_jsonl(run / "sdft" / "predictions.jsonl", [x | {"verdict": "wrong"} for x in lines])
    assert [i["title"] for i in broken_and_kept(run, 2)] == ["facts: broken by vanilla, kept by other"]
    alone = make_run(tmp_path / "alone", trained=TRAINED[:1])
    assert broken_and_kept(alone, 2) == []


def test_what_was_not_measured_is_said(tmp_path):
    run = make_run(tmp_path / "run", rows=2, items_each=0, tasks=("only",))
    for row in ("rewrites", "selected"):
        lines = [json.loads(x) for x in (run / f"{row}.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("seed_nll", None), line.pop("reference_nll", None)
        write_jsonl(run / f"{row}.jsonl", lines)
    for arm in ARMS[1:]:
        record = json.loads((run / arm / "adapter" / "training.json").read_text())
        (run / arm / "adapter" / "training.json").write_text(json.dumps(record | {"loss": [], "held_out": []}))
    (run / "recipe.toml").unlink()
    (run / "samples.json").unlink()
    build(run)
    html = page_of(run)
    assert html.count("not measured") >= 8 and 'class="chart"' not in html


def test_seeds_and_sweeps_have_their_points(tmp_path):
    arms = [
        {"name": f"{m}{x}-seed{s}", "method": m, "base": f"vanilla-seed{s}" if x else None, "mix_ratio": r, "size": None, "seed": s}
        for s in (1, 2) for m, x, r in (("vanilla", "", 0.0), ("sdft", "-mix0.5", 0.5), ("sdft", "-mix1", 1.0))
    ]  # fmt: skip
    run = make_run(tmp_path / "run", trained=arms)
    html = page_of(run)
    assert all(name in html for name in ("sdft-mix0.5", "sdft-mix1", "Trainings with other seeds"))
    assert html.count("<li><bdi>sdft-mix") == 2  # a verdict each
    assert data_of(html)["pairs"] == [
        [f"vanilla-seed{s}", f"sdft-mix{x}-seed{s}", "vanilla", f"sdft-mix{x}"] for s in (1, 2) for x in ("0.5", "1")
    ]
    points = charts.arm_points(json.loads((run / "report.json").read_text()))
    assert [len(p["seeds"]) for p in points] == [0, 2, 2, 2]


def test_a_page_has_room_for_so_much(run, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(items, "ROOM", 20_000)
    write_page(copy, json.loads((copy / "report.json").read_text()))
    shown = data_of(page_of(copy))
    assert 0 < len(shown["items"]) < 105 and len(shown["items"]) + shown["left_out"] == 105
    assert f"{shown['left_out']} more examples are not on this page" in page_of(copy)


def test_small_helpers():
    for low, high in ((0, 1), (-93.4, 97), (57.3, 58.1), (0, 4.9), (0, 1e-6), (3, 3)):
        found = ticks(low, high)
        assert 1 <= len(found) <= 12 and all(low <= t <= high for t in found) and found == sorted(found)
    assert tag("a", "<b>", x='"') == '<a x="&#34;">&lt;b&gt;</a>' and clean("a\u202eb\ud800") == "a\ufffdb\ufffd"
    frame = Frame(0, 1, 0, 1)
    labels = Labels(frame, [])
    placed = [labels.put("same place", 150, 150, "seed") for _ in range(90)]
    boxes = labels.taken
    assert len(boxes) == len([p for p in placed if p]) > 20 and not placed[-1]
    assert not [a for a, b in combinations(boxes, 2) if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]]
    assert "leader" not in placed[0] and "leader" in placed[15]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


def test_contrasts_are_enough_in_light_and_dark():
    style = Path(charts.__file__).with_name("page.css").read_text()
    themes = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(themes) == 2
    for theme in themes:
        colour = {k: luminance(v) for k, v in re.findall(r"--(\w+): (#\w{6})", theme)}

        def contrast(a, b, colour=colour):
            light, dark = sorted((colour[a], colour[b]), reverse=True)
            return (light + 0.05) / (dark + 0.05)

        for ground in ("bg", "panel"):
            assert all(
                contrast(c, ground) >= 4.5 for c in ("fg", "soft", "link", "original", "distilled", "both", "seed")
            )
            assert contrast("muted", ground) >= 3
        assert contrast("fg", "add") >= 4.5 and contrast("fg", "drop") >= 4.5


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_told_apart_on_the_page(name):
    others = [method for other, method in METHODS.items() if other != name]
    style = page_style()
    themes = re.findall(r":root \{(.*?)\}", style, re.S)
    grounds = [luminance(re.search(r"--bg: (#\w{6})", theme)[1]) for theme in themes]
    for colour, ground in zip(METHODS[name].colours, grounds, strict=True):
        light, dark = sorted((luminance(colour), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert style.count(f".{name} {{ --hue:") == 2
    assert METHODS[name].shape in SHAPES
    assert not {*METHODS[name].colours} & {colour for method in others for colour in method.colours}
    assert not {name, METHODS[name].label, METHODS[name].short} & {t for m in others for t in (m.label, m.short)}
    assert f".{name} " not in resources.files("selfdistill.report.page").joinpath("page.css").read_text()


# --- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if not importlib.util.find_spec("playwright"):
        pytest.skip("playwright is not installed: pip install playwright")
    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not where:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Opens a run's page. Afterwards: it asked for nothing but itself, complained of nothing and opened no dialog."""
    contexts, asked, complaints = [], [], []

    def open_page(run, width=1280, height=900, **more):
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: asked.append(r.url))
        page.on("console", lambda m: complaints.append(m.text))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("dialog", lambda d: (complaints.append("dialog"), d.dismiss()))
        page.goto((run / "report.html").as_uri())
        return page

    yield open_page
    pwned = [c.pages[0].evaluate("typeof window.pwned") for c in contexts if c.pages]
    for context in contexts:
        context.close()
    assert set(pwned) <= {"undefined"} and not complaints
    assert all(url.startswith("file:") for url in asked) and len(asked) == len(contexts)


def status(page) -> str:
    return page.inner_text("#status")


def settled(page, start: str) -> None:
    page.locator("#status", has_text=re.compile(f"^{re.escape(start)}")).wait_for()


def expand(page, index=0) -> str:
    page.locator(".item summary").nth(index).click()
    body = page.locator(".item").nth(index).locator(".body")
    body.wait_for()  # it is made when the item opens
    return body.inner_text()


@pytest.mark.heavy
def test_search_filter_page_and_expand(opened, run):
    page = opened(run)
    assert status(page) == "105 of 105 examples, showing 1 to 20" and page.locator(".item").count() == 20
    page.select_option("#change", label="broken by vanilla, kept by SDFT (10)")
    assert status(page).startswith("10 of 105") and "facts" in page.inner_text("#list")
    page.select_option("#verdict-1", "truncated")
    assert status(page).startswith("1 of 105")
    body = expand(page)
    assert "Item 0 of facts" in body and "vanilla says 0" in body and "✂ cut off" in body and "✓ correct" in body
    page.click("button[type=reset]")
    settled(page, "105")
    page.select_option("#kind", "row")
    assert status(page).startswith("30 of")
    page.select_option("#reason", "wrong_answer")
    assert status(page).startswith("10 of") and "not kept" not in page.inner_text("#list")
    page.fill("#q", "QUESTION 27")
    settled(page, "1 of 105")
    said = expand(page)
    assert "Rewrite, not kept" in said and "reference 3.20, what trains 3.20" in said
    page.fill("#q", "no such words")
    settled(page, "0 of 105")
    page.click("button[type=reset]")
    settled(page, "105")
    page.select_option("#task", label="chat (25)")
    assert status(page).startswith("25 of 105")
    page.click("#next")
    assert status(page).endswith("showing 21 to 25") and page.locator(".item").count() == 5
    page.click("#next", force=True)  # the last page: says that it is disabled, and keeps the focus
    assert page.input_value("#page") == "2" and page.get_attribute("#next", "aria-disabled") == "true"
    page.fill("#page", "1")
    page.keyboard.press("Enter")
    assert status(page).endswith("showing 1 to 20")
    page.click("#open")
    page.locator(".item[open] .body").nth(19).wait_for()


def test_words_that_differ_are_marked_in_both_texts(opened, run):
    page = opened(run)
    page.select_option("#kind", "row")
    said = expand(page, 1)
    marked = page.evaluate("[...document.querySelectorAll('.item ins')].map(e => e.textContent)")
    assert marked[:2] == ["The ", "is "] and marked[2].startswith(", as asked. ")
    assert page.inner_text(".item .sides .text.distilled").startswith("The number is 1, as asked.")
    assert "seed said so" in said
    assert "The arms were not asked this row." in expand(page)


def test_a_conversation_is_read_turn_by_turn(opened, talk):
    page = opened(talk)
    page.select_option("#kind", "row")
    said = expand(page)
    parts = [
        "Prompt, user",
        "Prompt, assistant",
        "Reference of turn 1",
        "Rewrite of turn 1, kept",
        "Reference of turn 2",
    ]
    assert [said.index(p) for p in parts] == sorted(said.index(p) for p in parts)
    assert "one of 2 candidates" in said and "reference not measured" in said
    assert page.evaluate("[...document.querySelectorAll('.item ins')].map(e => e.textContent)") == ["it is "]
    assert "too long to mark the differences" in said and "WORD2499" not in said
    page.locator("button", has_text="Show all").last.click()
    assert "WORD2499" in page.inner_text(".item")
    page.select_option("#kind", "item")
    assert "not recorded" in expand(page) and "1 of 2 further samples passed" in page.inner_text(".item[open]")


def test_numbers_of_items_lead_to_the_items(opened, run):
    page = opened(run)
    page.locator(".moved button", has_text="−10").first.click()
    settled(page, "10 of 105")
    assert page.evaluate("document.activeElement.id") == "status" and page.input_value("#verdict-0") == "correct"
    assert page.input_value("#verdict-1") == "not correct" and "facts" in page.inner_text(".item >> nth=0")


@pytest.mark.heavy
def test_it_can_be_used_by_keyboard_alone(opened, run):
    page = opened(run)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#q")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("facts-3")
    settled(page, "1 of")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".item[open] .body")
    page.click("button[type=reset]")
    settled(page, "105")
    page.focus("#next")
    page.keyboard.press("Enter")
    assert "showing 21" in status(page) and page.evaluate("document.activeElement.id") == "next"


def test_it_can_be_read_by_a_screen_reader(opened, run):
    page = opened(run)
    page.click("#open")
    found = page.evaluate(
        """() => ({
        unnamed: [...document.querySelectorAll("input, select, button")].filter(
            (e) => !e.labels?.[0]?.textContent.trim() && !e.textContent.trim() && !e.ariaLabel).length,
        charts: [...document.querySelectorAll("svg")].filter((e) => !e.closest("[aria-hidden], [role=img]")).length,
        named: [...document.querySelectorAll("[role=img], nav, [role=region]")].every((e) => e.ariaLabel),
        landmarks: ["header", "nav", "main", "footer", "[role=search]"].map((s) => document.querySelectorAll(s).length),
        levels: [...document.querySelectorAll("h1, h2, h3, h4, h5")].map((e) => +e.tagName[1]),
        ids: [...document.querySelectorAll("[id]")].map((e) => e.id),
        headless: [...document.querySelectorAll("table")].filter((t) => !t.querySelector("th[scope]")).length,
        live: document.getElementById("status").ariaLive, lang: document.documentElement.lang,
        })"""
    )
    assert found["unnamed"] == found["charts"] == found["headless"] == 0 and found["named"]
    assert found["landmarks"] == [1, 2, 1, 1, 1] and found["live"] == "polite" and found["lang"] == "en"
    assert found["levels"][0] == 1 and found["levels"].count(1) == 1
    assert len(set(found["ids"])) == len(found["ids"])
    assert all(b - a <= 1 for a, b in pairwise(found["levels"]))


@pytest.mark.heavy
@pytest.mark.parametrize(
    "which, width", [("run", 390), ("run", 320), ("hostile", 390), ("hostile", 320), ("twenty", 360)]
)
def test_on_a_phone_nothing_is_wider_than_the_screen(opened, request, which, width):
    page = opened(request.getfixturevalue(which), width, 844, is_mobile=True, has_touch=True)
    page.click("#open")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_selector(".item[open] .body")
    assert page.evaluate("document.documentElement.scrollWidth") == width == page.evaluate("innerWidth")
    assert page.evaluate("parseFloat(getComputedStyle(document.getElementById('q')).fontSize)") >= 14


@pytest.mark.heavy
def test_twenty_arms_are_sorted_and_filtered(opened, twenty):
    page = opened(twenty)
    first = "document.querySelector('.standings tbody th').textContent"
    head = page.locator(".standings thead th", has_text="training")
    assert page.evaluate(first) == "arm19" and head.get_attribute("aria-sort") is None
    for arm, order in (("arm19", "descending"), ("vanilla", "ascending")):
        page.focus(".standings thead th:nth-child(7) button")
        page.keyboard.press("Enter")
        assert page.evaluate(first) == arm and head.get_attribute("aria-sort") == order
    labels = page.locator("#scores svg.chart .label")
    assert labels.count() == 21
    boxes = [labels.nth(k).bounding_box() for k in range(21)]
    assert not [
        (a, b) for a, b in combinations(boxes, 2)
        if min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"]) > 12  # of the halo
        and min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"]) > 13  # of the halo, and room for tails
    ]  # fmt: skip
    assert page.locator("#verdicts select").count() == 4
    page.locator(".moved button", has_text="+29").first.click()
    settled(page, "29 of")
    assert page.input_value("#arm-0") == "arm18" and page.input_value("#verdict-1") == "not correct"
    assert "✓" in page.inner_text(".signs >> nth=0")


@pytest.mark.heavy
def test_dark_where_the_reader_wants_it_and_light_on_paper(opened, run, tmp_path):
    ground = "getComputedStyle(document.body).backgroundColor"
    assert opened(run).evaluate(ground) == "rgb(255, 255, 255)"
    page = opened(run, color_scheme="dark")
    assert page.evaluate(ground) == "rgb(22, 23, 26)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert not page.is_visible("#filters") and page.is_visible("#differences")
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000


def test_without_javascript_all_but_the_examples_is_there(opened, run):
    page = opened(run, java_script_enabled=False)
    assert page.is_visible("#scores svg.chart") and page.is_visible("#training svg.chart")
    assert page.locator(".forest td > svg").count() == 9 and "−40.0" in page.inner_text("#differences")
    assert "need JavaScript" in page.inner_text("#examples") and not page.is_visible("#filters")
    assert "2.0" in page.inner_text("#settings")


@pytest.mark.heavy
def test_what_models_write_changes_only_its_own_cell(opened, hostile):
    page = opened(hostile)
    page.select_option("#kind", "row")
    expand(page, 1)
    page.click("#open")
    long = page.locator("button", has_text="Show all 1,000,").first
    long.click()
    found = page.evaluate(
        """() => ({
        scripts: document.scripts.length,
        foreign: document.querySelectorAll("#examples :is(img, svg, script, iframe, b)").length,
        images: document.images.length, title: document.title,
        texts: [...document.querySelectorAll("#examples .text")].map((e) => [getComputedStyle(e).unicodeBidi, e.textContent.length]),
        bdi: [...document.querySelectorAll("bdi")].every((e) => /isolate/.test(getComputedStyle(e).unicodeBidi)),
        reference: document.querySelectorAll(".item")[1].querySelector(".text.original").textContent,
        })"""
    )
    assert found["scripts"] == 2 and found["foreign"] == found["images"] == 0 and found["bdi"]
    assert "selfdistill report" in found["title"] and "49" not in found["reference"]
    assert {bidi for bidi, _ in found["texts"]} == {"isolate"}
    assert max(n for _, n in found["texts"]) == 1_000_000 + len(EVIL)
    shown = (
        EVIL.replace("\x00", "␀")
        .replace("\x07", "␇")
        .replace("\x1b", "␛")
        .replace("\x7f", "␡")
        .replace("\x85", "�")
        .replace("\u202e", "�")
        .replace("\u2066", "�")
    )
    assert found["reference"] == "number 1 " + shown
    page.fill("#q", "</script><script>window.pwned=1")
    settled(page, "30 of")


def test_the_policy_stops_what_would_get_in(browser, run):
    page = browser.new_page()
    page.goto((run / "report.html").as_uri())
    page.evaluate(
        """() => {
        const script = document.createElement("script");
        try { script.textContent = "window.pwned = 1"; } catch { /* trusted types */ }
        document.body.append(script);
        try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.pwned = 2'>"); } catch { /* the same */ }
        const image = document.createElement("img");
        image.src = "https://example.org/x.png";
        document.body.append(image);
        }"""
    )
    assert page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'stopped')") == "stopped"
    assert page.evaluate("typeof window.pwned") == "undefined"
    page.close()


@pytest.mark.heavy
def test_five_thousand_rows_answer_at_once(opened, tmp_path):
    run = make_run(tmp_path / "large", rows=5000, items_each=200, tasks=tuple(f"task{i}" for i in range(9)))
    page = opened(run)
    assert status(page).startswith("6,800 of 6,800")
    timed = """words => new Promise((done) => {
        const start = performance.now(), box = document.getElementById("q");
        new MutationObserver((_, o) => { o.disconnect(); done(performance.now() - start); })
            .observe(document.getElementById("status"), { childList: true });
        box.value = words;
        box.dispatchEvent(new Event("input", { bubbles: true }));
    })"""
    taken = [page.evaluate(timed, words) for words in ("question 4321", "parcels monday number 99", "zurich")]
    assert page.evaluate("document.querySelectorAll('.item').length") == 20
    assert min(taken) < 500, taken
    page.fill("#q", "question 4321?")
    settled(page, "1 of 6,800")
    page.fill("#q", "")
    settled(page, "6,800 of 6,800")
    start = page.evaluate("performance.now()")
    page.fill("#page", "300")
    page.keyboard.press("Enter")
    assert page.evaluate("performance.now()") - start < 1500 and "showing 5,981 to 6,000" in status(page)
