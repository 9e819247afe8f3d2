"""Which rewrite belongs to which row: by id, whoever wrote it, and by the whole prompt of a distilled dataset."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow
import pytest
from conftest import write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import read_records
from selfdistill.core.rewrites import Reason, Selected
from selfdistill.data.examples import read_examples
from selfdistill.stages.select import select

ROWS = [{"prompt": f"Question {i}", "response": f"Answer {i}"} for i in range(4)]


@pytest.fixture
def data(tmp_path):
    return read_examples(DataSettings(path=str(write_jsonl(tmp_path / "data.jsonl", ROWS))))


def selected(examples, rewrites):
    """The selected rows, by a check that keeps all."""
    out = rewrites.with_name("selected.jsonl")
    out.unlink(missing_ok=True)
    select(examples, rewrites, out, None)
    return list(read_records(out, Selected))


# --- by id -------------------------------------------------------------------------------------------------------


def foreign(examples, **more):
    """Rewrites as another program writes them, with keys of its own."""
    return [
        {"model": "m", "id": e.id, "candidates": [{"text": f"R {n}", "logprob": -1.5, **more}], "usage": {"n": 1}}
        for n, e in enumerate(examples)
    ]


@pytest.mark.parametrize(
    "name", ["r.jsonl", "bom.jsonl", "r.json", "lines.json", "r.jsonl.gz", "r.json.gz", "r.jsonl.zst"]
)
@pytest.mark.parametrize("order", [1, -1])
def test_rewrites_of_other_programs_are_read_however_they_are_written(tmp_path, data, name, order):
    rows = foreign(data, finish_reason="eos_token")[::order]
    lines = "\r\n".join(json.dumps(row) for row in rows) + "\r\n"
    text = json.dumps(rows, indent=1) if name.startswith("r.json") and "jsonl" not in name else lines
    content = (("\ufeff" if name.startswith("bom") else "") + text).encode()
    path = tmp_path / name
    if name.endswith(".zst"):
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write(content)
    else:
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [row.response for row in selected(data, path)] == [f"R {n}" for n in range(len(data))]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((said, Reason.KEPT) for said in ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", None)),
        *((said, Reason.KEPT) for said in ("FinishReason.STOP", "end-turn", "COMPLETE")),
        *((said, Reason.TRUNCATED) for said in ("length", "max_tokens", "MAX_TOKENS", "FinishReason.MAX_TOKENS")),
        *((said, Reason.TRUNCATED) for said in ("content_filter", "SAFETY", "tool_calls", "abort", "model_length")),
    ],
)
def test_a_cut_off_text_is_never_taken_for_a_whole_one(tmp_path, data, said, reason):
    rows = selected(data, write_jsonl(tmp_path / "r.jsonl", foreign(data, finish_reason=said)))
    assert {row.reason for row in rows} == {reason}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"candidates": [{"text": "R", "finish_reason": "because"}]}, "line 2: finish_reason 'because' does not say"),
        ({"candidates": [{"txt": "R"}]}, "line 2: not a Rewrite record: candidates.0.text"),
        ({"candidates": ["R"]}, "line 2: not a Rewrite record: candidates.0"),
        ({"candidates": "R"}, "line 2: not a Rewrite record: candidates"),
    ],
)
def test_a_rewrite_that_cannot_be_read_is_one_line(tmp_path, data, row, message):
    rows = foreign(data)
    rows[1] = {"id": data[1].id, **row}
    with pytest.raises(UserError) as caught:
        selected(data, write_jsonl(tmp_path / "r.jsonl", rows))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "r.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"r\.json, row 2: "):
        selected(data, tmp_path / "r.json")


# --- by prompt ---------------------------------------------------------------------------------------------------


def distilled(tmp_path, rows, theirs):
    """What is selected for rows, given another dataset as their rewrites."""
    examples = read_examples(DataSettings(path=str(write_jsonl(tmp_path / "data.jsonl", rows))))
    return [row.responses for row in selected(examples, write_jsonl(tmp_path / "theirs.jsonl", theirs))]


def test_rows_are_told_apart_by_system_and_history(tmp_path):
    rows = [
        {"instruction": "q", "output": "0"},
        {"instruction": "q", "output": "1", "system": "S"},
        {"instruction": "q", "output": "2", "system": "T"},
        {"instruction": "q", "output": "3", "history": [["h", "a"]]},
        {"instruction": "q", "output": "4", "history": [["i", "a"]], "system": "S"},
    ]
    theirs = [{**row, "output": f"R{row['output']}"} for row in rows]
    for row in theirs[3:]:
        row["history"] = [[row["history"][0][0], "rewritten, too"]]  # as a rewrite of a whole conversation has it
    random.Random(0).shuffle(theirs)
    made = distilled(tmp_path, rows, theirs)
    assert made == [("R0",), ("R1",), ("R2",), ("rewritten, too", "R3"), ("rewritten, too", "R4")]


def test_turns_that_do_not_train_belong_to_the_prompt(tmp_path):
    def row(fixed, answer):
        texts = [("user", "q"), ("assistant", fixed), ("user", "r"), ("assistant", answer)]
        turns = [{"role": role, "content": text} for role, text in texts]
        return {"messages": [turns[0], {**turns[1], "weight": 0}, *turns[2:]]}

    made = distilled(tmp_path, [row("a", "1"), row("b", "2")], [row("b", "R2"), row("a", "R1")])
    assert made == [("R1",), ("R2",)]


def test_a_prompt_whose_rows_cannot_be_told_apart_is_refused_and_named(tmp_path):
    rows = [
        {"prompt": "same", "response": "1"},
        {"prompt": "other", "response": "o"},
        {"prompt": "same", "response": "2"},
    ]
    with pytest.raises(
        UserError, match=r"theirs\.jsonl: the prompt 'same' occurs 2 times with different responses"
    ) as caught:
        distilled(tmp_path, rows, [{**rows[0], "response": "It is 1"}, rows[1], {**rows[2], "response": "It is 2"}])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"the prompt 'same' occurs 1 times, in the data 2 times"):
        distilled(tmp_path, rows, rows[:2])


@pytest.mark.parametrize(
    ("ours", "theirs", "made"),
    [
        (["1", "2"], ["R", "1"], ["1", "R"]),  # what is unchanged is its own row's
        (["1", "2", "3"], ["3", "1", "R"], ["1", "R", "3"]),
        (["1", "1"], ["R", "S"], ["R", "S"]),  # two rows that are alike may take either
        (["1", "2"], ["R", "R"], ["R", "R"]),  # two rewrites that are alike may go to either
        (["1", "2", "1"], ["R", "2", "S"], ["R", "2", "S"]),
    ],
)
def test_a_prompt_that_repeats_is_joined_where_nothing_is_left_open(tmp_path, ours, theirs, made):
    ours, theirs = ([{"prompt": "q", "response": text} for text in texts] for texts in (ours, theirs))
    assert distilled(tmp_path, ours, theirs) == [(text,) for text in made]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_rows_with_ids_are_joined_whatever_their_order(tmp_path_factory, prompts, chance):
    rows = [{"id": f"n{n}", "prompt": f"q{p}", "response": f"a{n}"} for n, p in enumerate(prompts)]
    theirs = [{**row, "response": f"R{n}"} for n, row in enumerate(rows)]
    chance.shuffle(theirs)
    made = distilled(tmp_path_factory.mktemp("d"), rows, theirs)
    assert made == [(f"R{n}",) for n in range(len(rows))]


def test_our_own_export_goes_back_to_the_rows_it_was_made_from(tmp_path):
    rows = [{"prompt": "q", "response": str(n)} for n in range(5)]
    examples = read_examples(DataSettings(path=str(write_jsonl(tmp_path / "data.jsonl", rows))))
    made = [{"id": e.id, "candidates": [{"text": f"R{e.reference}"}]} for e in examples]
    export = tmp_path / "x.json"
    select(examples, write_jsonl(tmp_path / "r.jsonl", made), tmp_path / "s.jsonl", None, exports={"sharegpt": export})
    export.write_text(json.dumps(json.loads(export.read_text())[::-1]))
    assert [row.response for row in selected(examples, export)] == [f"R{n}" for n in range(5)]
