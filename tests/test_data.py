from __future__ import annotations

import json

import pytest
from conftest import SHARED, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import content_id
from selfdistill.data.examples import read_examples

QA = {"q": "What is 2 + 2?", "a": "4"}


def read(path, **settings):
    need = settings.pop("need_response", True)
    return read_examples(DataSettings(path=str(path), **settings), need_response=need)


def test_every_form_gives_the_same_example(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = {
        "alpaca": {"instruction": QA["q"], "input": "", "output": QA["a"]},
        "pair": {"prompt": QA["q"], "completion": QA["a"]},
        "gsm8k": {"question": QA["q"], "answer": 4},
        "messages": {"messages": [{"role": "user", "content": QA["q"]}, {"role": "assistant", "content": QA["a"]}]},
        "trl": {
            "prompt": [{"role": "user", "content": QA["q"]}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
    }
    ids = {read(write_jsonl(tmp_path / f"{name}.jsonl", [row]))[0].id for name, row in rows.items()}
    named = {"prompt": "q", "response": "a"}
    ids.add(read(write_jsonl(tmp_path / "named.jsonl", [QA]), columns=named)[0].id)
    (tmp_path / "array.json").write_text("\n " + json.dumps([QA], indent=2))
    ids.add(read(tmp_path / "array.json", columns=named)[0].id)
    (tmp_path / "c.csv").write_text('\ufeffq,a\n"What is 2 + 2?",4\n')
    ids.add(read(tmp_path / "c.csv", columns=named)[0].id)
    parquet.write_table(pyarrow.table({"q": [QA["q"]], "a": [QA["a"]]}), tmp_path / "p.parquet")
    ids.add(read(tmp_path / "p.parquet", columns=named)[0].id)
    assert len(ids) == 1


def test_history_input_and_system_become_turns(tmp_path):
    row = {"instruction": "Q2", "input": "I2", "output": "A2", "history": [["Q1", "A1"]], "system": "S"}
    example = read(write_jsonl(tmp_path / "h.jsonl", [row]))[0]
    assert [t["content"] for t in example.prompt] == ["S", "Q1", "A1", "Q2\nI2"]
    assert example.references == ("A1", "A2")
    assert [t["content"] for t in example.with_responses(("B1", "B2"))] == ["S", "Q1", "B1", "Q2\nI2", "B2"]


def test_rows_that_repeat_get_a_suffix_and_ids_do_not_depend_on_position(tmp_path):
    one, two = {"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}
    first = read(write_jsonl(tmp_path / "1.jsonl", [one, two, one]))
    second = read(write_jsonl(tmp_path / "2.jsonl", [two, one]))
    assert first[2].id == f"{first[0].id}-2"
    assert [e.id for e in second] == [first[1].id, first[0].id]


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=20))
def test_any_text_survives_reading(tmp_path_factory, pairs):
    pairs = [(q, a) for q, a in pairs if q.strip() and a.strip() and (q + a).isprintable()]
    if not pairs:
        return
    path = tmp_path_factory.mktemp("d") / "d.jsonl"
    examples = read(write_jsonl(path, [{"prompt": q, "completion": a} for q, a in pairs]))
    assert [(e.prompt[0]["content"], e.reference) for e in examples] == pairs
    assert len({e.id for e in examples}) == len(pairs)


def test_a_sample_is_drawn_by_seed_and_keeps_the_files_order(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": f"p{i}", "completion": "c"} for i in range(100)])
    settings = DataSettings(path=str(path), sample=10)
    a, b, again = read_examples(settings, seed=1), read_examples(settings, seed=2), read_examples(settings, seed=1)
    assert a == again != b
    numbers = [int(e.prompt[0]["content"][1:]) for e in a]
    assert numbers == sorted(numbers) and len(set(numbers)) == 10


BAD = {
    "missing.jsonl": (None, "no such file"),
    "empty.jsonl": ("", "empty file"),
    "array.json": ("[]", "no rows"),
    "broken.jsonl": ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "comp', "line 2: broken JSON"),
    "broken.json": ('[{"prompt": "a",\n "completion": }]', "line 2: broken JSON"),
    "list.jsonl": ('["a"]\n', "row 1: expected an object"),
    "columns.jsonl": ('{"foo": "a", "bar": "b"}\n', "Found: bar, foo"),
    "later.jsonl": ('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', "line 2: no column 'completion'"),
    "prompt.jsonl": ('{"prompt": " ", "completion": "b"}\n', "line 1: column 'prompt' is empty"),
    "response.jsonl": ('{"prompt": "a", "completion": null}\n', "line 1: column 'completion' is empty"),
    "type.jsonl": ('{"prompt": "a", "completion": {"x": 1}}\n', "line 1: column 'completion' holds dict"),
    "roles.jsonl": ('{"messages": [{"role": "assistant", "content": "x"}]}\n', "line 1: message 1 has role 'assistant'"),
    "ends.jsonl": ('{"messages": [{"role": "user", "content": "x"}]}\n', "expected an assistant's"),
    "history.jsonl": ('{"instruction": "a", "output": "b", "history": [["x"]]}\n', "line 1: history"),
    "ragged.csv": ("prompt,completion\na,b,c\n", "line 2: expected 2 columns"),
    "kind.xlsx": ("x", "unknown kind of file"),
    "bad.parquet": ("x", "broken Parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_file_and_line(tmp_path, name):
    content, message = BAD[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) and message in str(caught.value)


def test_not_utf8_and_unknown_columns_and_abilities(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é", "completion": "b"}'.encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read(tmp_path / "latin.jsonl")
    path = write_jsonl(tmp_path / "d.jsonl", [QA])
    with pytest.raises(UserError, match=r"no column 'z'\. Found: a, q"):
        read(path, columns={"prompt": "q", "response": "z"})
    with pytest.raises(UserError, match="unknown key 'promt'"):
        read(path, columns={"promt": "q"})
    with pytest.raises(UserError, match="rare_tools"):
        read("micro:nope")


def test_rows_without_a_needed_response_keep_the_one_they_have(tmp_path):
    for column in ("completion", "response", "answer"):
        prompt = "question" if column == "answer" else "prompt"
        path = write_jsonl(tmp_path / f"{column}.jsonl", [{prompt: "a", column: "b"}])
        assert read(path, need_response=False)[0].reference == "b"
    path = write_jsonl(tmp_path / "none.jsonl", [{"prompt": "a", "tests": ["x", "y"]}])
    assert read(path, need_response=False)[0].meta["tests"] == "x\ny"


def test_columns_that_look_like_our_own_are_the_users(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", [{"id": 7, "prompt": "a", "reference": "b", "task": "c"}])
    example = read(path, columns={"prompt": "prompt", "response": "reference"})[0]
    assert example.reference == "b" and example.meta["source_id"] == "7"


def test_half_characters_are_refused(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a \\ud83d", "completion": "b"}\n')
    with pytest.raises(UserError, match="line 1: the text holds half a character"):
        read(tmp_path / "d.jsonl")


def test_an_unknown_hub_name_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no-one/nothing") as caught:
        read("no-one/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real datasets in ../shared/data")
@pytest.mark.parametrize(
    ("name", "count", "settings"),
    [
        ("alpaca_train_2000.json", 2000, {}),
        ("dolly_train_2000.json", 2000, {}),
        ("lima_train.json", 1029, {}),
        ("gsm8k_test.jsonl", 1319, {}),
        ("gsm8k_train_sdft.json", 7473, {}),
        ("openfunctions_train.json", 2211, {}),
        ("HumanEval.jsonl.gz", 164, {"columns": {"prompt": "prompt", "tests": "test"}, "need_response": False}),
        ("advbench_harmful_behaviors.csv", 520, {"columns": {"prompt": "goal", "response": "target"}}),
    ],
)
def test_real_files_are_read_whole(name, count, settings):
    examples = read(SHARED / name, **settings)
    assert len(examples) == len({e.id for e in examples}) == count
    assert all(e.id.split("-")[0] == content_id(e.prompt, e.reference) for e in examples)
    if name == "lima_train.json":
        assert sum(len(e.references) > 1 for e in examples) == 29
