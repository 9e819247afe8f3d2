"""The Python API: a whole chain on the embedded model, views of what lies on the disk, and how little an import costs."""

import json
import subprocess
import sys
import time
import warnings
from importlib.metadata import version

import pytest
from conftest import cli, write_jsonl

import selfdistill as sd


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Every stage once, on few rows."""
    folder = tmp_path_factory.mktemp("api")
    lm = sd.load("embedded")
    rows = sd.read("micro:rare_tools", sample=12)
    made = sd.distill(lm, rows, out=folder / "rewrites.jsonl", max_new_tokens=80)
    kept = sd.select(rows, made, check="function_call")
    plain = sd.train(lm, rows, out=folder / "vanilla", epochs=1)
    tuned = sd.train(lm, rows, kept, out=folder / "sdft", epochs=1)
    task = sd.task("micro:rare_tools", role="target", limit=12, max_new_tokens=80)
    seed, sdft = sd.evaluate(lm, task), sd.evaluate(lm, task, adapter=tuned, out=folder / "eval")
    return {
        "lm": lm,
        "rows": rows,
        "made": made,
        "kept": kept,
        "plain": plain,
        "tuned": tuned,
        "seed": seed,
        "sdft": sdft,
    }


@pytest.mark.heavy
def test_rows_are_a_sequence_and_become_frames_and_datasets(chain):
    rows = chain["rows"]
    assert len(rows) == 12 and rows[:3][2] == rows[2] and isinstance(rows[:3], sd.Rows)
    assert list(rows.to_pandas().columns) == ["id", "prompt", "reference", "task"] and len(rows.to_pandas()) == 12
    assert [turn["content"] for turn in rows.to_dataset()[0]["messages"]] == [
        rows[0].prompt[0]["content"], rows[0].reference,
    ]  # fmt: skip


def test_what_was_kept_is_what_lies_in_the_file(chain):
    kept = chain["kept"]
    lines = [json.loads(line) for line in kept.path.read_text().splitlines()]
    assert [row["id"] for row in lines] == [row.id for row in chain["rows"]]
    assert sum(kept.reasons.values()) == 12 == len(kept.to_pandas()) == len(kept.to_dataset("alpaca"))
    assert [row["output"] for row in kept.to_dataset("alpaca")] == [row["response"] for row in lines]
    assert str(kept) in kept._repr_html_() and "kept their rewrite" in str(kept)
    assert len(chain["made"]) == 12 and set(chain["made"].to_pandas().id) == {r.id for r in chain["rows"]}


@pytest.mark.heavy
def test_training_is_that_of_the_command_line(chain, tmp_path):
    kept = chain["kept"]
    out = tmp_path / "adapter"
    command = ["train", "--model", "embedded", "--data", "micro:rare_tools", "--sample", "12"]
    done = cli(*command, "--selected", kept.path, "--epochs", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    ours, theirs = ((f / "adapter_model.safetensors").read_bytes() for f in (chain["tuned"].path, out))
    assert ours == theirs and chain["tuned"].training["rows"] == 12
    assert chain["plain"].training["identity"]["data"] != chain["tuned"].training["identity"]["data"]
    assert "last loss" in chain["tuned"]._repr_html_()


def test_evaluations_compare(chain):
    seed, sdft = chain["seed"], chain["sdft"]
    assert seed.results["rare_tools"].n == 12 == len(seed.to_pandas()) == sum(1 for _ in sdft.predictions)
    found = sd.compare(seed=seed, sdft=sdft.path)
    (frame,) = found.to_pandas().to_dict("records")
    change = sdft.results["rare_tools"].score - seed.results["rare_tools"].score
    assert (frame["a"], frame["b"], frame["role"]) == ("seed", "sdft", "target") and frame["value"] == pytest.approx(
        change
    )
    assert found.gate(margin=0.99).verdict in ("pass", "underpowered") and "sdft - seed" in found._repr_html_()


@pytest.mark.heavy
def test_a_run_is_seen_from_python(small_run):
    run = sd.Run(small_run)
    assert (
        list(run.arms) == ["seed", "vanilla", "sdft"]
        and run.arms["sdft"].results.keys() == run.arms["seed"].results.keys()
    )
    assert set(run.to_pandas().arm) == {"seed", "vanilla", "sdft"} and run.report["summary"] in run._repr_html_()
    first = json.loads((small_run / "examples.jsonl").read_text().splitlines()[0])["id"]
    assert "reference" in run.show(first[:8])
    assert run.adapter("sdft").path == small_run / "sdft" / "adapter"
    with pytest.raises(sd.UserError, match="no arm 'dpo'"):
        run.adapter("dpo")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda rows: sd.read("nowhere.jsonl"), r"nowhere\.jsonl"),
        (lambda rows: sd.read(rows, answer="b"), "unknown key 'answer'"),
        (lambda rows: sd.load("embedded", engine="vlm"), "engine 'vlm': expected one of"),
        (lambda rows: sd.load("embedded", engine={"rows": 0}), "engine: rows = 0"),
        (lambda rows: sd.load("embedded", engine=7), "load: engine is int; give it a name, or settings"),
        (lambda rows: sd.load("embedded", format="chatt"), "prompt: format = 'chatt'"),
        (lambda rows: sd.load("embedded", template="usin"), "prompt.template: 'usin' is neither a template"),
        (lambda rows: sd.Model("embedded", format="chatt"), "prompt: format = 'chatt'"),
        (
            lambda rows: sd.distill(sd.load("embedded"), sd.read(rows), "out.jsonl", temprature=1),
            "unknown key 'temprature'",
        ),
        (lambda rows: sd.train(sd.load("embedded"), sd.read(rows), out="out", mix_ratio=[0, 1]), "several arms"),
        (lambda rows: sd.task(rows), "no check"),
        (lambda rows: sd.compare(a="x"), "name two evaluations"),
        (lambda rows: sd.compare("x", "y"), r"name two evaluations or more, compare\(seed=\.\.\., sdft=\.\.\.\)"),
        (lambda rows: sd.compare(a="x", b="./x"), "compare: a and b are the same answers"),
        (lambda rows: sd.run("nothing.toml", "out"), "no such recipe"),
        (lambda rows: sd.read(rows).to_dataset("mesages"), "^to_dataset: form 'mesages'. Expected messages, prompt-comp"
            "letion, alpaca or sharegpt.$"),
        (lambda rows: sd.evaluate(sd.load("embedded"), []), "^evaluate: no tasks. Give it at least one that task"),
        (lambda rows: sd.Adapter("nowhere").training, "^nowhere: no training.json. Expected a folder that `train` wrote"),
        (lambda rows: sd.Run("nowhere").report, "^nowhere: no report.json"),
        (lambda rows: sd.Evaluation("nowhere").results, "^nowhere: no result.json"),
        (lambda rows: list(sd.Rewrites("nowhere")), "^nowhere: no such file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, call, says):
    monkeypatch.chdir(tmp_path)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    with pytest.raises(sd.UserError, match=says) as caught:
        call(rows)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


LM, ROWS = "what load() returned", "what read() returned"
PLACE = "a path"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda lm, rows: sd.load(7), "load: name is int; give it a folder or a name"),
        (lambda lm, rows: sd.read(["a"]), "read: path is list; give it a path or a name"),
        (lambda lm, rows: sd.distill("embedded", rows, "out"), f"distill: model is 'embedded'; give it {LM}"),
        (lambda lm, rows: sd.distill(lm, "rows.jsonl", "out"), f"distill: rows is 'rows.jsonl'; give it {ROWS}"),
        (lambda lm, rows: sd.distill(lm, ["a"], "out"), f"distill: rows is list; give it {ROWS}"),
        (lambda lm, rows: sd.distill(lm, rows, None), f"distill: out is None; give it {PLACE}"),
        (lambda lm, rows: sd.select("a", "b"), f"select: rows is 'a'; give it {ROWS}"),
        (lambda lm, rows: sd.select(rows, rows), "select: rewrites is Rows; give it what distill() returned, or a path"),
        (lambda lm, rows: sd.select(rows, "b", check=len), "select: check is builtin_function_or_method; give it a name"),
        (lambda lm, rows: sd.select(rows, "b", out=7), f"select: out is int; give it {PLACE}"),
        (lambda lm, rows: sd.train("a", rows, out="out"), f"train: model is 'a'; give it {LM}"),
        (lambda lm, rows: sd.train(lm, "a", out="out"), f"train: rows is 'a'; give it {ROWS}"),
        (
            lambda lm, rows: sd.train(lm, rows, sd.Rewrites("r"), out="out"),
            "train: kept is Rewrites; give it what select() returned",
        ),
        (lambda lm, rows: sd.train(lm, rows, "a", out="out"), "train: kept is 'a'; give it what select() returned"),
        (lambda lm, rows: sd.train(lm, rows, out=rows), f"train: out is Rows; give it {PLACE}"),
        (lambda lm, rows: sd.task(rows), "task: path is Rows; give it a path or a name"),
        (lambda lm, rows: sd.evaluate("a", []), f"evaluate: model is 'a'; give it {LM}"),
        (lambda lm, rows: sd.evaluate(lm, "micro:facts"), "evaluate: tasks is 'micro:facts'; give it what task() returned"),
        (lambda lm, rows: sd.evaluate(lm, ["a"]), "evaluate: tasks is list; give it what task() returned"),
        (lambda lm, rows: sd.evaluate(lm, 7), "evaluate: tasks is int; give it what task() returned"),
        (
            lambda lm, rows: sd.evaluate(lm, [], rows),
            "evaluate: adapter is Rows; give it what train() returned, or a path",
        ),
        (lambda lm, rows: sd.evaluate(lm, [], out=7), f"evaluate: out is int; give it {PLACE}"),
        (
            lambda lm, rows: sd.compare(a="x", b=7),
            "compare: b is int; give it what evaluate() returned, or a path",
        ),
        (lambda lm, rows: sd.run({}, "out"), "run: recipe is dict; give it a path or a name of ours"),
        (lambda lm, rows: sd.run("r", 7), f"run: out is int; give it {PLACE}"),
        (lambda lm, rows: sd.run("r", "out", 7), 'run: an override is int; give it text such as "train.epochs=1"'),
    ],
)  # fmt: skip
def test_an_argument_of_another_kind_is_refused(tmp_path, monkeypatch, call, says):
    monkeypatch.chdir(tmp_path)
    rows = sd.Rows("mine", (sd.read("micro:facts", sample=1)[0],))
    with pytest.raises(sd.UserError) as caught:
        call(sd.load("nowhere"), rows)
    assert str(caught.value) == f"{says}."
    assert not list(tmp_path.iterdir())


def test_rows_may_be_a_list_of_examples(tmp_path):
    rows = sd.read("micro:rare_tools", sample=3)
    made = tmp_path / "rewrites.jsonl"
    made.write_text("".join(json.dumps({"id": e.id, "candidates": [{"text": e.reference}]}) + "\n" for e in rows[:2]))
    kept = sd.select(list(rows)[:2], made)
    assert isinstance(kept.rows, sd.Rows) and len(kept.to_dataset()) == 2


def test_what_was_kept_and_compared_refuses_unknown_names(chain):
    with pytest.raises(sd.UserError, match=r"^to_dataset: form 'aplaca'\. Expected messages"):
        chain["kept"].to_dataset("aplaca")
    found = sd.compare(seed=chain["seed"], sdft=chain["sdft"])
    for names, says in (
        ({"new": "sft"}, "gate: no arm 'sft'. There are: seed, sdft."),
        ({"base": "sft"}, "gate: no arm 'sft'. There are: seed, sdft."),
        ({"new": "seed"}, "gate: 'seed' is base and new. Name two arms of: seed, sdft."),
        ({"margin": 2.0}, "gate: margin 2: expected a share between 0 and 1, such as 0.02 for two points."),
        ({"margin": 0}, "gate: margin 0: expected a share between 0 and 1, such as 0.02 for two points."),
        ({"margin": "2%"}, "gate: margin is '2%'; give it a share, such as 0.02 for two points."),
    ):
        with pytest.raises(sd.UserError) as caught:
            found.gate(**names)
        assert str(caught.value) == says


def test_one_task_twice_is_refused(chain):
    one = sd.task("micro:facts", limit=1)
    with pytest.raises(sd.UserError, match="two tasks are named facts"):
        sd.evaluate(chain["lm"], [one, one])


def test_libraries_say_nothing_to_our_users(chain, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        lm = sd.load("embedded")
        tuned = sd.train(lm, chain["rows"], out=tmp_path / "adapter", epochs=1, gradient_checkpointing=True)
        sd.evaluate(lm, sd.task("micro:facts", limit=1, max_new_tokens=4), tuned)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in lm.opened[0].model.modules())


def test_html_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    rows = sd.read(write_jsonl(tmp_path / "rows.jsonl", [{"prompt": evil, "response": evil}]))
    assert evil not in rows._repr_html_() and "&lt;script&gt;" in rows._repr_html_()


def test_the_package_says_its_version():
    assert sd.__version__ == version("selfdistill")


def test_an_import_costs_nothing():
    code = "import sys, selfdistill; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{heavy}'" in loaded for heavy in ("torch", "transformers", "pydantic", "rich", "numpy", "pandas"))
    bare, ours = (
        min(_seconds([sys.executable, "-c", f"import {module}"]) for _ in range(5)) for module in ("sys", "selfdistill")
    )
    assert ours - bare < 0.2


def _seconds(command):
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def test_every_name_of_the_api_is_there():
    assert all(getattr(sd, name).__doc__ for name in sd.__all__) and dir(sd) == sorted(sd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sd.nothing  # noqa: B018
