"""Streams: a row at a time through reading, joining, selecting and exporting, whatever the number of rows."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import cli, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks import load_check
from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, content_id, dump, read_records
from selfdistill.core.rewrites import Reason, Rewrite, Selected
from selfdistill.core.turns import Turn
from selfdistill.data.arrays import array_items
from selfdistill.data.examples import read_examples, stream_examples
from selfdistill.stages.select import read_selected, select

FORMS = ("messages", "prompt-completion", "alpaca", "sharegpt")

# --- JSON arrays -------------------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4))
SPACES = st.text(" \t\r\n", max_size=5)


def array_text(values, ascii, indent, before, after):
    return before + json.dumps(values, ensure_ascii=ascii, indent=indent) + after


ARRAYS = st.builds(
    array_text, st.lists(VALUES, max_size=6), st.booleans(), st.sampled_from([None, 0, 3]), SPACES, SPACES
)


def outcome(read):
    """What was read, or where and why not."""
    try:
        return read()
    except json.JSONDecodeError as error:
        return error.msg, error.lineno, error.colno


@given(ARRAYS, st.integers(1, 60))
def test_an_array_is_read_wherever_the_chunks_end(text, size):
    assert list(array_items(io.StringIO(text, newline="").read, size)) == json.loads(text)


@given(ARRAYS, st.integers(1, 60), st.integers(0, 10**6), st.text('"\\[]{},:1.e- \nxu', max_size=3), st.integers(0, 3))
def test_a_broken_array_is_refused_at_the_same_place_as_by_json(text, size, where, put, cut):
    where %= len(text) + 1
    text = text[:where] + put + text[where + cut :]
    if text.lstrip(" \t\r\n").startswith("["):
        expected = outcome(lambda: json.loads(text))
        assert outcome(lambda: list(array_items(io.StringIO(text, newline="").read, size))) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '["a\\"b]", "\\\\", "\\ud83d\\ude00 é😀", "],["]', "[[1, [2, {}]], {\"k\": [{}, []]}]", "[12345, -1.5e+10, 0]",
        "[true, false, null, -Infinity]", " \n[ ]\r\n ", '[{"a": "' + "x" * 300 + '"}]',
    ],
)  # fmt: skip
def test_borders_inside_strings_escapes_numbers_and_brackets(text, size):
    assert list(array_items(io.StringIO(text, newline="").read, size)) == json.loads(text)


@pytest.mark.parametrize("text", ["[1] x", "[1][2]", "[1, 2", "[1 2]", "[1,]", "[", '["a', "[1.]", '[{"a" 1}]', "[]]"])
def test_what_follows_or_is_missing_is_refused(text):
    for size in (1, 3, 1000):
        with pytest.raises(json.JSONDecodeError):
            list(array_items(io.StringIO(text).read, size))


def test_a_break_is_found_without_reading_on():
    asked = []

    def read(count):
        asked.append(count)
        return '{"a": 1}, ' * 10 if len(asked) > 1 else '[{"a": 1}, {"a" 1}, '

    with pytest.raises(json.JSONDecodeError, match="line 1 column 17"):
        list(array_items(read, 100))
    assert len(asked) < 4


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=20), st.booleans())
def test_an_array_gives_the_same_examples_as_lines(tmp_path_factory, pairs, ascii):
    printable = [{"prompt": q, "completion": a} for q, a in pairs if q.strip() and a.strip() and (q + a).isprintable()]
    rows = printable or [{"prompt": "a", "completion": "b"}]
    folder = tmp_path_factory.mktemp("d")
    write_jsonl(folder / "d.jsonl", rows)
    (folder / "d.json").write_text(json.dumps(rows, ensure_ascii=ascii), encoding="utf-8")
    lines, array = (list(stream_examples(DataSettings(path=str(folder / f"d.{end}")))) for end in ("jsonl", "json"))
    assert lines == array


def test_a_broken_array_names_line_and_row(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('[{"prompt": "a",\n"completion": "b"},\n{"prompt": "a" "completion": "b"}]')
    with pytest.raises(UserError, match=r"d\.json, line 3: broken JSON \(Expecting ',' delimiter, column 16\)"):
        read_examples(DataSettings(path=str(path)))
    path.write_text('[{"prompt": "a", "completion": "b"}, 7]')
    with pytest.raises(UserError, match=r"d\.json, row 2: expected an object"):
        read_examples(DataSettings(path=str(path)))


# --- reading -----------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_an_id_is_a_hash_of_compact_json(question, answer):
    text = json.dumps([[["user", question]], answer, ""], ensure_ascii=False, separators=(",", ":"))
    expected = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    assert content_id((Turn(role="user", content=question),), answer) == expected


@pytest.mark.parametrize("count", [1, 7, 39, 40, 100])
def test_a_sample_is_what_random_sample_draws_from_the_list(tmp_path, count):
    path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": f"p{i % 30}", "completion": "c"} for i in range(40)])
    every = read_examples(DataSettings(path=str(path)))
    drawn = sorted(random.Random(3).sample(range(40), min(count, 40)))
    assert read_examples(DataSettings(path=str(path), sample=count), seed=3) == [every[i] for i in drawn]


def test_ids_occur_once_even_where_rows_came_with_a_suffix(tmp_path):
    rows = [{"id": i, "prompt": [{"role": "user", "content": "q"}], "reference": "a", "task": "t"}
            for i in ("a-2", "a", "a", "a", "b")]  # fmt: skip
    examples = read_examples(DataSettings(path=str(write_jsonl(tmp_path / "e.jsonl", rows))))
    assert [e.id for e in examples] == ["a-2", "a", "a-3", "a-4", "b"]


# --- selecting ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Forty sums, and a right or wrong rewrite of each."""
    rows = [{"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."} for i in range(40)]
    path = write_jsonl(tmp_path / "data.jsonl", rows)
    examples = read_examples(DataSettings(path=str(path)))
    made = [
        Rewrite(id=e.id, candidates=({"text": f"The answer is {2 * i + (i % 4 == 0)}."},))
        for i, e in enumerate(examples)
    ]
    return path, examples, made


def selected(examples, made, out, **more):
    path = out.with_name("rewrites.jsonl")
    path.write_bytes(b"".join(map(dump, made)))
    select(examples, path, out, load_check("last_number"), **more)
    return out.read_bytes()


def test_the_order_of_the_rewrites_does_not_matter(tmp_path, data):
    path, examples, made = data
    in_order = selected(iter(examples), made, tmp_path / "s.jsonl")
    for order in (made[::-1], random.Random(0).sample(made, len(made))):
        stream = stream_examples(DataSettings(path=str(path)))
        assert selected(stream, order, tmp_path / "s.jsonl") == in_order
    reasons = [row.reason for row in read_records(tmp_path / "s.jsonl", Selected)]
    assert reasons == [Reason.PASSED if i % 4 else Reason.WRONG for i in range(40)]


def test_rows_without_a_rewrite_keep_their_reference(tmp_path, data):
    _, examples, made = data
    selected(examples, made[5:30:3], tmp_path / "s.jsonl")
    rows = list(read_records(tmp_path / "s.jsonl", Selected))
    assert [r.id for r in rows] == [e.id for e in examples]
    assert sum(r.reason is Reason.MISSING for r in rows) == 40 - 9
    assert all(r.response == e.reference for r, e in zip(rows, examples, strict=True) if r.source == "original")


@pytest.mark.heavy
@pytest.mark.parametrize("what", ["rewrite", "row", "stranger", "twice", "same file"])
def test_nothing_is_left_behind_when_something_is_wrong(tmp_path, data, what):
    path, _, made = data
    (tmp_path / "rewrites.jsonl").write_bytes(b"".join(map(dump, made)))
    file, lines = (path, path.read_text().splitlines()) if what == "row" else (
        tmp_path / "rewrites.jsonl", (tmp_path / "rewrites.jsonl").read_text().splitlines())  # fmt: skip
    whole = file.read_text()
    if what in ("rewrite", "row"):
        lines[20] = lines[20][:15]
    elif what == "stranger":
        lines.append('{"id": "stranger"}')
    elif what == "twice":
        lines.append(lines[3])
    file.write_text("\n".join(lines) + "\n")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    command = [
        "select", "--data", path, "--rewrites", tmp_path / "rewrites.jsonl", "--check", "last_number",
        "--out", tmp_path / "s.jsonl", "--export", f"alpaca:{tmp_path / 'a.json'}",
    ]  # fmt: skip
    clash = ["--export", f"messages:{tmp_path / 's.jsonl'}"] if what == "same file" else []
    done = cli(*command, *clash)
    assert done.returncode == 2, done.stderr
    told = {"rewrite": "rewrites.jsonl, line 21", "row": "data.jsonl, line 21", "stranger": "'stranger' belongs to no",
            "twice": "occurs twice", "same file": "one file for two outputs"}  # fmt: skip
    assert told[what] in done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    file.write_text(whole)
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "a.json").read_text())) == 40


@pytest.mark.parametrize("end", ["json", "jsonl"])
def test_every_export_is_read_back_as_the_selected_responses(tmp_path, data, end):
    _, examples, made = data
    exports = {form: tmp_path / f"{form}.{end}" for form in FORMS}
    selected(iter(examples), made, tmp_path / "s.jsonl", exports=exports)
    chosen = read_selected(examples, tmp_path / "s.jsonl")
    for form, path in exports.items():
        if form == "sharegpt":
            continue  # not a form that is read
        again = read_examples(DataSettings(path=str(path)))
        assert [(e.prompt, e.reference) for e in again] == [(e.prompt, chosen[e.id].response) for e in examples]


def test_a_distilled_dataset_in_one_line_is_joined_by_prompt(tmp_path, data):
    _, examples, made = data
    theirs = [{"prompt": e.prompt[0]["content"], "completion": r.candidates[0].text} for e, r in zip(examples, made)]  # noqa: B905
    (tmp_path / "distilled.json").write_text(json.dumps(theirs[::-1]))
    select(iter(examples), tmp_path / "distilled.json", tmp_path / "p.jsonl", load_check("last_number"))
    assert (tmp_path / "p.jsonl").read_bytes() == selected(examples, made, tmp_path / "s.jsonl")
    (tmp_path / "distilled.json").write_text(json.dumps([*theirs, theirs[0]]))
    with pytest.raises(UserError, match=r"'What is 0 \+ 0\?' occurs 2 times, in the data 1 times"):
        select(iter(examples), tmp_path / "distilled.json", tmp_path / "p2.jsonl", None)
    assert not list(tmp_path.glob("p2*"))


# --- memory ------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from selfdistill.checks import load_check
from selfdistill.core.config import DataSettings
from selfdistill.data.examples import stream_examples
from selfdistill.stages.select import read_selected, select

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

folder, data = Path(sys.argv[1]), sys.argv[2]
imports = peak()
examples = stream_examples(DataSettings(path=str(folder / data)))
counts = select(examples, folder / "rewrites.jsonl", folder / "s.jsonl", load_check("last_number"),
                exports={"alpaca": folder / "a.json"})
print(sum(counts.values()), peak() - imports)
"""


def grown(folder: Path, rows: int, data: str) -> int:
    """How many kB select takes at its peak, beyond the imports."""
    text = "Forty-two apples lie in a basket, and Anna takes some of them home. " * 12
    with (folder / "data.jsonl").open("w") as lines, (folder / "rewrites.jsonl").open("wb") as rewrites:
        array = []
        for i in range(rows):
            question, answer = f"{i}: {text}", f"{text} It is {i}."
            array.append(json.dumps({"prompt": question, "completion": answer}))
            id = content_id((Turn(role="user", content=question),), answer)
            rewrites.write(dump(Rewrite(id=id, candidates=({"text": f"{text} The answer is {i}."},))))
        lines.write("\n".join(array) + "\n")
        (folder / "data.json").write_text("[" + ", ".join(array) + "]")
    command = [sys.executable, "-c", CHILD, str(folder), data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, size = map(int, done.stdout.split())
    assert count == rows
    return size


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("data", ["data.jsonl", "data.json"])
def test_memory_grows_by_ids_not_by_texts(tmp_path, data):
    """A row's texts are 2.4 kB on disk and more in memory; ids and places are some 200 bytes."""
    few, many = 500, 6_000
    growth = (grown(tmp_path, many, data) - grown(tmp_path, few, data)) * 1024 / (many - few)
    assert growth < 500


def test_own_examples_are_read_as_strictly_as_before(tmp_path):
    good = Example(id="a", prompt=({"role": "user", "content": "q"},), reference="r", task="t", meta={"x": 1})
    path = tmp_path / "e.jsonl"
    path.write_bytes(dump(good))
    assert read_examples(DataSettings(path=str(path))) == [good]
    for bad in ({"extra": 1}, {"id": 7}, {"meta": {"x": "\ud83d"}}):
        path.write_text(json.dumps(json.loads(dump(good)) | bad) + "\n")
        with pytest.raises(UserError, match=r"e\.jsonl, line 1"):
            read_examples(DataSettings(path=str(path)))
