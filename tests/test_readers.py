"""What datasets come in: files packed and not, folders, conversations of other programs, bad rows, and what is said."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma

import pytest
from conftest import cli, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from selfdistill.core.config import DataSettings, PromptSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, content_id, dump
from selfdistill.core.rewrites import Rewrite
from selfdistill.data.examples import read_examples, stream_examples
from selfdistill.data.notes import Notes, warn_of_special
from selfdistill.models.prompts import Prompter
from selfdistill.stages.select import select
from selfdistill.training.tokens import sequences

ROWS = [{"prompt": f"Question {i}", "response": f"Answer {i}\nin two lines"} for i in range(7)]


def read(path, **settings):
    need = settings.pop("need_response", True)
    return read_examples(DataSettings(path=str(path), **settings), need_response=need)


def told(path, **settings):
    """The examples, and what is said of the rows."""
    console = Console(file=io.StringIO(), record=True, width=1000)
    notes = Notes(Progress(console))
    examples = read_examples(DataSettings(path=str(path), **settings), notes=notes)
    return examples, console.export_text(), notes


def refused(path, **settings):
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def talk(*texts, **more):
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": turns, **more}


# --- files -------------------------------------------------------------------------------------------------------


def lines(rows, end="\n"):
    return "".join(json.dumps(row) + end for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.jsonl", lines(ROWS)),
        ("bom.jsonl", "\ufeff" + lines(ROWS, "\r\n")),
        ("blank.ndjson", "\n" + lines(ROWS, "\n\n")),
        ("lines.json", lines(ROWS)),
        ("array.json", json.dumps(ROWS)),
        ("array.jsonl", json.dumps(ROWS, indent=2)),
        ("only.json", json.dumps({"version": 1, "data": ROWS})),
        ("split.json", json.dumps({"test": [{"prompt": "x", "response": "y"}], "train": ROWS}, indent=1)),
        ("bom.json", "\ufeff " + json.dumps({"about": {"by": ["me"]}, "rows": ROWS}, indent=3)),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_a_file_gives_the_same_rows_however_it_is_written_and_packed(tmp_path, name, text, ending):
    import pyarrow

    path = tmp_path / f"{name}{ending}"
    data = text.encode()
    if ending == ".zst":
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write(data)
    else:
        pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[ending]
        path.write_bytes(pack(data))
    assert [(e.prompt[0]["content"], e.reference) for e in read(path)] == [(r["prompt"], r["response"]) for r in ROWS]
    if ending:
        path.write_bytes(path.read_bytes()[:-9])
        assert name in refused(path)


def test_one_object_may_be_a_row(tmp_path):
    rows = {
        "row": ROWS[0],
        "messages": talk("q", "a"),
        "sharegpt": {"id": "1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "trl": {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        "tools": {**ROWS[0], "tools": [{"name": "f"}]},
        "named": ({"q": "x", "a": "y", "others": [{"z": 1}]}),
    }
    for name, row in rows.items():
        columns = {"prompt": "q", "response": "a"} if name == "named" else {}
        for indent in (None, 2):
            (tmp_path / f"{name}.json").write_text(json.dumps(row, indent=indent))
            assert len(read(tmp_path / f"{name}.json", columns=columns)) == 1


def test_an_object_that_holds_no_rows_or_too_many_lists_is_refused_in_one_line(tmp_path):
    path = tmp_path / "d.json"
    columns = {name: [row[name] for row in ROWS] for name in ("prompt", "response")}
    for value in (columns, {"prompt": {"0": "a"}, "response": {"0": "b"}}, {"data": {"rows": ROWS}}):
        path.write_text(json.dumps(value))
        assert "one object, expected an array or a row a line" in refused(path)
    path.write_text(json.dumps({"validation": ROWS, "test": ROWS}, indent=1))
    assert "several lists (validation, test)" in refused(path)
    assert len(read(path, split="test")) == len(ROWS)
    path.write_text(json.dumps({"data": ROWS}, indent=1).replace('"response"', "response", 1))
    assert "d.json, line 5: broken JSON" in refused(path)
    path.write_text(json.dumps({"data": [ROWS[0], 7]}))
    assert "d.json, data row 2: expected an object" in refused(path)


def test_other_encodings_and_pointers_are_named(tmp_path):
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / "d.jsonl").write_bytes(lines(ROWS).encode(encoding))
        assert "UTF-16" in refused(tmp_path / "d.jsonl")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for name in ("p.jsonl", "p.parquet", "p.csv", "p.json.gz"):
        (tmp_path / name).write_text(pointer)
        assert "git lfs pull" in refused(tmp_path / name)


def test_a_table_names_its_columns_once_and_parts_them_by_its_own_mark(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("prompt,response,prompt\na,b,c\n")
    assert "line 1: column 'prompt' stands there twice" in refused(path)
    path.write_text("prompt;response\na;b\n")
    assert "line 1: columns are parted by ';', expected ','" in refused(path)
    path.write_text('prompt,response\r\n"a\r\nb","c ""d"""\r\nNaN,nan\r\n')
    assert [(e.prompt[0]["content"], e.reference) for e in read(path)] == [("a\r\nb", 'c "d"'), ("NaN", "nan")]
    path.write_text("prompt,response,contains,tests\n"
                    'q,a,"[""Paris"", ""France""]","[""assert 1"", ""assert 2""]"\n'
                    "q2,a,\"['Paris', 'it''s']\",assert 1\n"
                    "q3,a,[Paris],\n")  # fmt: skip
    one, two, three = (e.meta for e in read(path))
    assert one == {"contains": ["Paris", "France"], "tests": "assert 1\nassert 2"}
    assert two == {"contains": ["Paris", "its"], "tests": "assert 1"}  # as Python joins two texts side by side
    assert three == {"contains": ["[Paris]"]}
    path.write_text(
        'messages\n"[{""role"": ""user"", ""content"": ""q""}, {""role"": ""assistant"", ""content"": ""a""}]"\n'
    )
    assert read(path)[0].id == read(write_jsonl(tmp_path / "m.jsonl", [talk("q", "a")]))[0].id


def test_a_missing_value_is_an_empty_one_whatever_wrote_it(tmp_path):
    import pandas
    import pyarrow
    from pyarrow import parquet

    for value in ("NaN", "null", '""', '" "'):
        (tmp_path / "d.jsonl").write_text(
            f'{{"prompt": "a", "response": "b"}}\n{{"prompt": "c", "response": {value}}}\n'
        )
        assert "line 2: column 'response' is empty" in refused(tmp_path / "d.jsonl")
    pandas.DataFrame({"prompt": ["a"], "response": [float("nan")]}).to_parquet(tmp_path / "d.parquet")
    assert "row 1: column 'response' is empty" in refused(tmp_path / "d.parquet")
    table = {"prompt": ["a"], "response": ["b"], "system": [float("nan")], "history": [float("nan")], "tests": [None]}
    parquet.write_table(pyarrow.table(table), tmp_path / "e.parquet")
    assert read(tmp_path / "e.parquet")[0].id == content_id(({"role": "user", "content": "a"},), "b")
    for inside in ("NaN", "null"):
        (tmp_path / "m.jsonl").write_text(f'{{"messages": [{{"role": "user", "content": {inside}}}]}}')
        assert "message 1 (user) is empty" in refused(tmp_path / "m.jsonl")


# --- folders -----------------------------------------------------------------------------------------------------


def folder(root, *names):
    """A folder of files with one row each, whose prompt is the file's name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(root / name, [{"prompt": name, "response": "a"}])
    return root


@pytest.mark.parametrize(
    ("names", "split", "taken"),
    [
        (["b.jsonl", "a.jsonl"], "train", ["a.jsonl", "b.jsonl"]),
        (["part-00001.jsonl", "part-00000.jsonl"], "test", ["part-00000.jsonl", "part-00001.jsonl"]),
        (["train-00001-of-00002.jsonl", "train-00000-of-00002.jsonl", "test-00000-of-00001.jsonl"], "train",
         ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]),
        (["data/train.jsonl", "data/validation.jsonl"], "train", ["data/train.jsonl"]),
        (["train.jsonl", "valid.jsonl"], "validation", ["valid.jsonl"]),
        (["mine_train.jsonl", "mine_test.jsonl"], "test", ["mine_test.jsonl"]),
        (["train_sft-0-of-1.jsonl", "train_gen-0-of-1.jsonl"], "train_sft", ["train_sft-0-of-1.jsonl"]),
        (["train.jsonl", ".hidden.jsonl", "_SUCCESS.jsonl"], "train", ["train.jsonl"]),
    ],
)  # fmt: skip
def test_a_folder_gives_the_files_of_a_split_in_order(tmp_path, names, split, taken):
    root = folder(tmp_path / "d", *names)
    (root / "README.md").write_text("# about")
    (root / "dataset_infos.json").write_text("{}")
    assert [e.prompt[0]["content"] for e in read(root, split=split)] == taken


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.jsonl", "test.jsonl"], "split 'validation' is not one of those there: test, train"),
        (["train.jsonl", "more.jsonl", "valid.jsonl"], "more.jsonl belongs to no split"),
        (["a.jsonl", "b.csv"], "more than one kind (.csv, .jsonl)"),
        (["main/train.jsonl"], "there are folders in it (main)"),
        ([".hidden.jsonl"], "no data files in the folder"),
        (["a_valid.jsonl", "b_valid.jsonl"], "split 'validation' is not one of those there: a_valid, b_valid"),
    ],
)
def test_a_folder_that_leaves_open_which_files_are_meant_is_refused(tmp_path, names, message):
    assert message in refused(folder(tmp_path / "d", *names), split="validation")


def test_a_part_of_a_folder_is_named_by_config(tmp_path):
    root = folder(tmp_path / "d", "main/train.jsonl", "other/train.jsonl")
    assert [e.prompt[0]["content"] for e in read(root, config="other")] == ["other/train.jsonl"]


def test_what_the_datasets_library_saves_is_read(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows.select(range(3)), "test": rows}).save_to_disk(tmp_path / "more")
    ids = [e.id for e in read(write_jsonl(tmp_path / "d.jsonl", ROWS))]
    assert [e.id for e in read(tmp_path / "one")] == ids
    assert [e.id for e in read(next((tmp_path / "one").glob("*.arrow")))] == ids
    assert [e.id for e in read(tmp_path / "more")] == ids[:3]
    assert "no split 'validation'. There are: train, test" in refused(tmp_path / "more", split="validation")
    (tmp_path / "b.arrow").write_bytes(b"no arrow")
    assert "broken Arrow file" in refused(tmp_path / "b.arrow")


# --- conversations -----------------------------------------------------------------------------------------------


def test_every_form_of_a_conversation_gives_the_same_example(tmp_path):
    turns = [("system", "S"), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")]
    sharegpt = {"system": "system", "user": "human", "assistant": "gpt"}
    parts = [{"type": "text", "text": "Q"}, {"type": "text", "text": "1"}]
    forms = [
        {"messages": [{"role": r, "content": t} for r, t in turns]},
        {"messages": [{"role": r if r != "system" else "developer", "content": t} for r, t in turns]},
        {"messages": [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in turns]},
        {"messages": [{"role": r, "content": [{"type": "text", "value": t}], "loss_weight": float(r == "assistant")}
                      for r, t in turns]},
        {"messages": [{"role": r, "content": t if t != "Q1" else parts} for r, t in turns]},
        {"messages": [{"role": r, "content": t, "weight": None} for r, t in turns], "tools": []},
        {"conversations": [{"from": sharegpt[r], "value": t} for r, t in turns]},
        {"conversations": [{"role": r, "content": t} for r, t in turns]},
        {"conversation": [{"from": r, "value": t} for r, t in turns]},
        {"conversations": [{"from": sharegpt[r], "value": t} for r, t in turns[1:]], "system": "S"},
        {"messages": [{"role": r, "content": t} for r, t in turns], "system": "S"},
        {"conversations": [t for _, t in turns[1:]], "system_prompt": "S"},
        {"messages": [{"role": r, "content": [{"text": t}]} for r, t in turns[1:]], "system": [{"text": "S"}]},
        {"instruction": "Q2", "input": "", "output": "A2", "system": "S", "history": [["Q1", "A1"]]},
        {"instruction": "Q2", "response": "A2", "system": "S", "history": '[["Q1", "A1"]]'},
        {"prompt": [{"role": r, "content": t} for r, t in turns[:-1]], "completion": "A2"},
        {"prompt": "Q2", "response": [{"role": "assistant", "content": "A2"}], "system": "S"},
    ]  # fmt: skip
    made = [read(write_jsonl(tmp_path / "d.jsonl", [form]))[0] for form in forms]
    assert {e.id for e in made[:-1]} == {made[0].id}
    assert [t["content"] for t in made[0].prompt] == ["S", "Q1", "A1", "Q2"]
    assert [t["content"] for t in made[-1].prompt] == ["S", "Q2"]


def test_the_chosen_answer_of_a_preference_set_is_read_where_it_is_named(tmp_path):
    row = {"prompt": "q", "chosen": talk("q", "a")["messages"], "rejected": talk("q", "b")["messages"]}
    path = write_jsonl(tmp_path / "d.jsonl", [row])
    assert "a preference set" in refused(path)
    assert read(path, columns={"prompt": "prompt", "response": "chosen"})[0].references == ("a",)
    path = write_jsonl(tmp_path / "d.jsonl", [{"chosen": row["chosen"], "rejected": row["rejected"]}])
    assert "messages=chosen" in refused(path)
    assert read(path, columns={"messages": "chosen"})[0].references == ("a",)


def test_what_belongs_behind_an_instruction_is_put_there(tmp_path):
    for column, response in (("input", "output"), ("input", "response"), ("context", "response")):
        path = write_jsonl(tmp_path / "d.jsonl", [{"instruction": "q", column: "x", response: "a"}])
        (example,), text, _ = told(path)
        assert example.prompt[0]["content"] == "q\nx" and "warning" not in text


def test_an_empty_system_turn_is_none(tmp_path):
    plain = talk("q", "a")
    forms = [
        {"messages": [{"role": "system", "content": " "}, *plain["messages"]]},
        {**plain, "system": ""},
        {"prompt": "q", "response": "a", "system": "  "},
        {"instruction": "q", "output": "a", "system": "\n"},
    ]
    assert len({read(write_jsonl(tmp_path / "d.jsonl", [form]))[0].id for form in [plain, *forms]}) == 1


image = {"type": "image_url", "image_url": {"url": "http://x"}}
BAD = [
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, image]}]}, "a part of the kind 'image_url'"),
    (talk("q", "a", images=["a.jpg"]), "column 'images' holds media"),
    (talk("q", "a", label=False), "'label' is false"),
    (talk("q", "a", kto_tag="false"), "'kto_tag' is false"),
    ({"messages": [*talk("q", "a")["messages"], {"role": "tool", "content": "3"}]}, "ends with a tool turn"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [{"x": 1}]}]},
     "message 2 has a call without a name"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]},
     "message 2: the arguments of the call of f are no JSON object"),
    ({"messages": [{"role": "user", "content": "q", "tool_calls": [{"name": "f"}]}, {"role": "assistant", "content": "a"}]},
     "message 1 (user) calls tools"),
    (talk("q", "a", tools=["f"]), "tool 1 has no name"),
    (talk("q", "a", tools="f"), "the tools are a text that is no JSON"),
    (talk("q", "a", tools=[{"type": "web_search", "function": {"name": "f"}}]), "tool 1 is of the type 'web_search'"),
    (talk("q", "a", tools=[{"name": "f"}], functions=[{"name": "f"}]), "tools and functions both hold tools"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]},
     "message 2 has weight = 0.5, expected 0 or 1"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]},
     "no assistant turn trains"),
    ({"messages": [{"role": "system", "content": "T"}, *talk("q", "a")["messages"]], "system": "S"}, "message 1 has role"),
    ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}]}, "message 1 has role 'gpt'"),
    ({"prompt": "q", "response": "a", "system": "S", "system_prompt": "T"}, "hold different texts"),
    ({"messages": {"role": "user", "content": "q"}}, "messages must be a list"),
    ({"messages": [{"role": "user", "content": {"x": 1}}]}, "message 1 holds dict"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD)
def test_what_would_make_training_wrong_is_refused_by_name_or_left_out_and_listed(tmp_path, row, message):
    good = {"prompt": "good", "response": "row", **talk("good", "row")}
    good["conversations"] = good["messages"]
    path = write_jsonl(tmp_path / "d.jsonl", [{k: v for k, v in good.items() if k in row}, row])
    said = refused(path)
    assert f"{path}, line 2" in said and message in said
    examples, text, notes = told(path, skip_bad=True)
    assert {e.prompt[-1]["content"] for e in examples} == {"good"}
    assert "1 bad rows are left out (line 2: " in text and message in text
    notes.write(tmp_path / "skipped.jsonl")
    (listed,) = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert listed["row"] == f"{path}, line 2" and message in listed["why"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (talk("q", "a", documents=["d"]), "'documents'"),
        (talk("q", "a", rejected="b"), "'rejected'"),
        (talk("q", "a", label=0), "'label' = 0"),
        ({"prompt": "q", "response": "a", "context": "c"}, "'context'"),
        ({"messages": [{"role": "user", "content": "q", "name": "bob"}, {"role": "assistant", "content": "a"}]}, "'name'"),
        ({"messages": [*talk("q")["messages"], {"role": "assistant", "content": "a", "reasoning_content": "r"}]},
         "'reasoning_content' in their messages"),
        ({"messages": [{"role": "developer", "content": "s"}, *talk("q", "a")["messages"]]}, "developer turn"),
        (talk("q <|im_end|>", "a"), "control tokens written out"),
        (talk("q", "a</s>"), "line 2: </s>"),
        (talk("[INST] q [/INST]", "a"), "[INST]"),
        (talk("q", "<start_of_turn>model"), "<start_of_turn>"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_said_once_with_its_count(tmp_path, row, said):
    first = {"prompt": "x", "response": "y"} if "prompt" in row else talk("x", "y")
    path = write_jsonl(tmp_path / "d.jsonl", [first, row, row, {**first, "id": 3, "source": "s", "category": "c"}])
    examples, text, _ = told(path)
    assert len(examples) == 4
    assert text.count("warning") == 1 and "2 rows" in text and "the first: line 2" in text and said in text


@pytest.mark.parametrize(
    "row",
    [
        talk("q", "a", tools=[], functions=None, images=[], label=True, kto_tag=True, documents="", id="7"),
        talk("a <| b |> c < s > d", "x <b>bold</b> List<int> <<x>> [INST"),
        {"prompt": "q", "response": "a", "source": "web", "score": 0.5, "metadata": {"weight": 0}, "category": None},
    ],
)
def test_what_does_not_matter_is_not_spoken_of(tmp_path, row):
    assert "warning" not in told(write_jsonl(tmp_path / "d.jsonl", [row]))[1]


def test_special_tokens_of_this_very_model_are_warned_of(foreign_folder):
    from transformers import AutoTokenizer

    console = Console(file=io.StringIO(), record=True, width=300)
    tokenizer = AutoTokenizer.from_pretrained(foreign_folder)
    prompts = [talk(text)["messages"] for text in ("x", "y <unk> z")]
    examples = [Example(id=str(n), prompt=prompt, reference="a", task="t") for n, prompt in enumerate(prompts)]
    warn_of_special(examples, tokenizer, "data", Progress(console))
    warn_of_special(examples[:1], tokenizer, "other", Progress(console))
    warn_of_special(examples, None, "behind an endpoint", Progress(console))
    text = console.export_text()
    assert text.count("warning") == 1 and "data: 1 rows" in text and text.rstrip().endswith("<unk>")


# --- turns that do not train -------------------------------------------------------------------------------------

WEIGHTS = [{"weight": 0}, {"loss_weight": 0.0}, {"train": False}, {"loss": False}, {"training": False}]


def half_trained(mark):
    rows = talk("Q1", "A1", "Q2", "A2", "Q3", "A3", "Q4", "A4")["messages"]
    return {"messages": [{**m, **(mark if m["content"] in ("A2", "A4") else {})} for m in rows]}


@pytest.mark.parametrize("mark", WEIGHTS)
def test_a_turn_without_weight_is_read_as_context_and_what_follows_the_last_trained_one_is_not(tmp_path, mark):
    (example,) = read(write_jsonl(tmp_path / "d.jsonl", [half_trained(mark)]))
    assert example.references == ("A1", "A3") and example.prompt[-1]["content"] == "Q3"
    assert [t["content"] for t in example.up_to(("B1",))] == ["Q1", "B1", "Q2", "A2", "Q3"]
    assert all(t.keys() == {"role", "content"} for t in example.up_to(("B1",)))  # as a model's server takes it
    whole = read(write_jsonl(tmp_path / "w.jsonl", [talk("Q1", "A1", "Q2", "A2", "Q3", "A3")]))[0]
    assert example.id != whole.id
    assert Example.model_validate_json(dump(example)) == example


@pytest.mark.parametrize("form", ["chat", "paper"])
def test_a_turn_without_weight_has_no_loss_and_stands_in_the_prompt(tmp_path, embedded, form):
    (example,) = read(write_jsonl(tmp_path / "d.jsonl", [half_trained({"weight": 0})]))
    prompter = Prompter.create(embedded.tokenizer, PromptSettings(format=form))
    made = sequences(example, example.references, prompter)
    trained = [i for _, labels in made for i in labels if i != -100]
    assert trained == prompter.response("A1") + prompter.response("A3")
    assert "A2" in embedded.tokenizer.decode(made[-1][0]) and "A4" not in embedded.tokenizer.decode(made[-1][0])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)


@st.composite
def examples_(draw, weights=True):
    """A conversation as an example: perhaps a system turn, earlier turns, and some of them that do not train."""
    turns = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        answer = {"role": "assistant", "content": draw(TEXT)}
        if weights and draw(st.booleans()):
            answer["train"] = False
        turns += [{"role": "user", "content": draw(TEXT)}, answer]
    turns.append({"role": "user", "content": draw(TEXT)})
    reference = draw(TEXT)
    return Example(id=content_id(tuple(turns), reference), prompt=turns, reference=reference, task="data")


@pytest.mark.heavy
@pytest.mark.parametrize("form", ["messages", "prompt-completion", "sharegpt", "alpaca"])
@pytest.mark.parametrize("ending", ["json", "jsonl"])
@given(data=st.data())
def test_what_is_exported_is_read_back(tmp_path_factory, form, ending, data):
    made = data.draw(st.lists(examples_(weights=form != "alpaca"), min_size=1, max_size=4, unique_by=lambda e: e.id))
    root = tmp_path_factory.mktemp("x")
    (root / "none.jsonl").touch()
    exported = root / f"x.{ending}"
    select(made, root / "none.jsonl", root / "s.jsonl", None, exports={form: exported})
    again = read(exported)
    assert [(e.id, e.prompt, e.reference) for e in again] == [(e.id, e.prompt, e.reference) for e in made]
    assert [e.id for e in read(exported, format=form)] == [e.id for e in made]


@pytest.mark.parametrize("form", ["messages", "prompt-completion", "sharegpt", "alpaca"])
@pytest.mark.parametrize("response", ["[THINK]", "<think>", "<think>still thinking", "<think>done</think>"])
def test_what_is_nothing_but_a_thought_is_exported_as_it_stands(tmp_path, form, response):
    made = read(write_jsonl(tmp_path / "d.jsonl", [{"instruction": "a", "output": response}]))
    (tmp_path / "none.jsonl").touch()
    exported = tmp_path / "x.jsonl"
    select(made, tmp_path / "none.jsonl", tmp_path / "s.jsonl", None, exports={form: exported})
    assert [e.references for e in read(exported)] == [(response,)]


def test_alpaca_cannot_say_that_a_turn_does_not_train(tmp_path):
    examples = read(write_jsonl(tmp_path / "d.jsonl", [half_trained({"weight": 0})]))
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(UserError, match=r"alpaca: row .* only messages can say"):
        select(examples, tmp_path / "none.jsonl", tmp_path / "s.jsonl", None, exports={"alpaca": tmp_path / "a.json"})
    assert not (tmp_path / "s.jsonl").exists() and not (tmp_path / "a.json").exists()


# --- bad rows ----------------------------------------------------------------------------------------------------


def test_a_broken_file_is_no_bad_row(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(lines(ROWS) + '{"prompt": "a", "resp')
    assert "line 8: broken JSON" in refused(path, skip_bad=True)
    path.write_text(lines([{"x": 1}, {"y": 2}]))
    assert "all 2 rows are bad" in refused(path, skip_bad=True) and "no columns that are understood" in refused(path)


@pytest.mark.parametrize("numbers", [(0, 2), (1, 2), (2, 3)])
def test_a_missing_shard_is_named(tmp_path, numbers):
    for number in numbers:
        (tmp_path / f"train-{number:05}-of-00003.jsonl").write_text(lines(ROWS[:1]))
    missing = min({0, 1, 2, 3} - {0 if 3 in numbers else 3} - set(numbers))
    assert f"{tmp_path}: shard {missing} of 3 is missing" in refused(tmp_path)


def test_a_broken_line_is_a_bad_row(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(lines(ROWS[:1]) + "{oops\n[1]\n" + lines(ROWS[1:2]))
    assert f"{path}, line 2: broken JSON" in refused(path)
    examples, text, notes = told(path, skip_bad=True)
    assert examples == read(write_jsonl(tmp_path / "good.jsonl", ROWS[:2]))
    assert [where for where, _ in notes.skipped] == [f"{path}, line 2", f"{path}, line 3"] and "broken JSON" in text


def test_a_sample_is_drawn_from_the_good_rows_and_the_bad_ones_are_told_once(tmp_path):
    rows = [talk(f"q{i}", "a" if i % 3 else "") for i in range(30)]
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    examples, text, notes = told(path, skip_bad=True, sample=8)
    assert len(examples) == 8 and all(int(e.prompt[0]["content"][1:]) % 3 for e in examples)
    assert text.count("10 bad rows") == 1 and len(notes.skipped) == 10


def test_skip_bad_on_the_command_line_keeps_ids_and_lists_the_rows(tmp_path):
    rows = [talk("q1", "a1"), talk("q2"), talk("q1", "a1"), talk("q3", "a3")]
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    good = [e.id for e in read(path, skip_bad=True)]
    made = [Rewrite(id=id, candidates=[{"text": f"R{i}"}]) for i, id in enumerate(good)]
    (tmp_path / "r.jsonl").write_bytes(b"".join(map(dump, made)))
    arguments = ["--data", path, "--rewrites", tmp_path / "r.jsonl", "--out", tmp_path / "s.jsonl"]
    assert "ends with a user turn" in cli("select", *arguments).stderr
    done = cli("select", *arguments, "--skip-bad")
    assert done.returncode == 0 and "1 bad rows are left out (line 2: the conversation ends" in " ".join(
        done.stderr.split()
    )
    assert [json.loads(line)["id"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == good
    (bad,) = [json.loads(line) for line in (tmp_path / "s.skipped.jsonl").read_text().splitlines()]
    assert bad["row"].endswith("d.jsonl, line 2")
    task = f"name=t,path={path},check=exact,skip_bad=true"
    done = cli("validate", "--task", task)
    assert "3 items" in done.stdout and "1 bad rows are left out" in done.stderr


@pytest.mark.heavy
def test_a_list_in_an_object_is_read_in_constant_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "d.json"
    with path.open("w") as file:
        file.write('{"data": [')
        file.write(",".join(json.dumps({"prompt": f"q{i}", "response": "a" * 1000}) for i in range(20_000)))
        file.write("]}")
    assert len(read(path, sample=1)) == 1  # what is imported on the way is no row
    tracemalloc.start()
    assert sum(1 for _ in stream_examples(DataSettings(path=str(path)))) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()
