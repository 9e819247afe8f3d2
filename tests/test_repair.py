"""Repair: what becomes of rows of which no first rewrite passes, and where checks say that an answer lies."""

import json

import pytest
from conftest import cli, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks import PLACES, load_check
from selfdistill.core.config import DataSettings, DistillSettings, RepairSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example, read_records
from selfdistill.core.rewrites import MADE_BY, REWRITTEN, Candidate, Reason, Rewrite, Selected
from selfdistill.data.examples import read_examples
from selfdistill.engines.protocol import Completion
from selfdistill.models.prompts import Prompter
from selfdistill.stages.distill import distill
from selfdistill.stages.select import select

ALL = tuple(MADE_BY)
SHORT = DistillSettings(max_new_tokens=60)


def row(reference, prompt="Use f(country: str, n: int).", **more):
    return Example(id="1", prompt=({"role": "user", "content": prompt},), reference=reference, task="t", **more)


def selected(examples, rewrites, out, steps=(), check="function_call", **more):
    reasons = select(examples, rewrites, out, load_check(check), repair=steps, **more)
    return reasons, list(read_records(out, Selected))


# --- where an answer lies ----------------------------------------------------------------------------------------

FRAMES = ["{}", "Use `{}` for it.", "Well:\n```python\n{}\n```\nDone.", "I call {} now.", "[{}]", "<b>{}</b>", "“{}”"]
WORDS = st.text("abcdefgh ", min_size=1, max_size=12).map(str.strip).filter(bool)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30)


@pytest.mark.parametrize("spec", [*PLACES, "regex:Answer: <(.+?)>"])
@given(st.data())
def test_what_is_placed_passes_and_differs_in_one_span(spec, data):
    check = load_check(spec)
    right, wrong = data.draw(WORDS), data.draw(WORDS)
    before, after = data.draw(TEXT), data.draw(TEXT)
    answer = {"function_call": "f(country={}, n=2)"}.get(spec, "Answer: <{}>")
    write = json.dumps if spec == "function_call" else str
    frame = data.draw(st.sampled_from(FRAMES))
    reference = answer.format(write(right))
    response = before + frame.replace("{}", answer.format(write(wrong))) + after
    made = check.place(response, reference, row(reference))
    outcome = check(response, reference, row(reference)).outcome
    if outcome != "different":
        assert made is None  # what passes is left alone
    if made is None:
        return
    assert check(made, reference, row(reference)).outcome == "same"
    begin = next((i for i, (a, b) in enumerate(zip(made, response, strict=False)) if a != b), len(response))
    end = next((i for i, (a, b) in enumerate(zip(made[::-1], response[::-1], strict=False)) if a != b), len(response))
    at = response.index(answer.format(write(wrong)))
    assert begin >= at and end >= len(response) - at - len(answer.format(write(wrong)))


@pytest.mark.parametrize("frame", FRAMES)
def test_a_call_is_placed_in_prose_in_quotes_and_in_code(frame):
    reference = 'f(country="IS", n=2)'
    made = load_check("function_call").place(frame.replace("{}", 'f(country="II", n=2)'), reference, row(reference))
    assert made == frame.replace("{}", reference)


PLACED = [
    ("\"f(country='II', n=2)\"", "\"f(country='IS', n=2)\""),  # the quotes around it stay quotes
    ('x = f("II", 2)\nprint(x)', 'x = f(country="IS", n=2)\nprint(x)'),
    ("f(country='II', n=2) or f(country='IX', n=2)", None),  # which of them?
    ("f(country='II', n=2), that is f(country='II', n=2)", None),
    ("f(country='IS', n=2)", None),  # it passes
    ("c = 'II'\nf(country=c, n=2)", None),  # the wrong answer stands elsewhere
    ("print(f(country='II', n=2))", None),
    ('{"name": "f", "arguments": {"country": "II", "n": 2}}', None),  # another form
    ("I do not know.", None),
    ('The code of Iceland is II, so I call f(country="II", n=2).', None),  # the text would argue for the wrong one
    ('f(country="II", n=2) is right: II is Iceland.', None),
    ('{"cmd": "run f(country=\'II\', n=2) please"}', None),  # the string would end in it
]


@pytest.mark.parametrize(("response", "made"), PLACED)
def test_a_call_is_placed_only_where_one_place_alone_is_wrong(response, made):
    reference = 'f(country="IS", n=2)'
    assert load_check("function_call").place(response, reference, row(reference)) == made


def test_a_call_of_several_lines_is_not_put_into_one():
    reference = 'f(\n    country="IS",\n    n=2,\n)'
    place = load_check("function_call").place
    assert place('# call f(country="II", n=2) here', reference, row(reference)) is None
    assert place('f(\n  country="II",\n  n=2)', reference, row(reference)) == reference


def test_of_several_calls_the_wrong_one_is_replaced_in_json_as_in_python():
    check = load_check("function_call")
    right = 'f(country="IS", n=2)\nf(country="NO", n=3)'
    assert check.place(right.replace("NO", "ON"), right, row(right)) == right
    calls = [{"name": "f", "arguments": {"country": c, "n": 2}} for c in ("IS", "NO")]
    right, wrong = json.dumps(calls), json.dumps(calls).replace("NO", "ON")
    assert check.place(f"So: {wrong}.", right, row(right)) == f"So: {right}."
    other = json.dumps([{"function": "f", "parameters": {"country": "ON"}}])
    assert check.place(other, right, row(right)) is None


REGEX = [
    (r"Answer: (\w+)", "I think so. Answer: red, surely.", "Answer: blue", "I think so. Answer: blue, surely."),
    (r"Answer: (\w+)", "It is red. Answer: red", "Answer: blue", None),  # the text would argue for another answer
    (r"Answer: (\w+)", "Answer: red. Answer: green.", "Answer: blue", None),
    (r"Answer: (\w+)", "2 + 2, so Answer: 5", "Answer: 4", None),  # the end of a chain of reasoning
    (r"(\d+)", "There are many: 5.", "4", "There are many: 4."),
]


@pytest.mark.parametrize(("pattern", "response", "reference", "made"), REGEX)
def test_a_group_is_placed_where_nothing_else_speaks_for_the_wrong_answer(pattern, response, reference, made):
    assert load_check(f"regex:{pattern}").place(response, reference, row(reference)) == made


@pytest.mark.parametrize("name", ["last_number", "exact", "contains", "refusal"])
def test_checks_that_cannot_say_where_an_answer_lies_place_nothing(name):
    check = load_check(name)
    assert not check.places and check.place("It is 5.", "4", row("4")) is None


def test_a_check_of_ones_own_brings_its_place(tmp_path, monkeypatch):
    (tmp_path / "placing.py").write_text(
        "def ends(response, reference, example):\n    return response.endswith(reference)\n"
        "ends.place = lambda response, reference, example: response.rsplit(' ', 1)[0] + ' ' + reference\n"
        "def broken(response, reference, example):\n    return False\n"
        "broken.place = lambda response, reference, example: 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_check("placing:ends").place("It is red", "blue", row("blue")) == "It is blue"
    with pytest.raises(UserError, match="place returned 1, expected a text or None"):
        load_check("placing:broken").place("It is red", "blue", row("blue"))


# --- distill -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls():
    """Rows of rare tools, some of which the seed LM gets wrong even with the reference in sight."""
    return read_examples(DataSettings(path="micro:rare_tools", sample=14))


class Noting:
    """The engine, which notes what it is asked, and stops or fails where it should."""

    def __init__(self, engine, stops=None, fails=None):
        self.engine, self.stops, self.fails, self.asked = engine, stops, fails, {}

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def generate(self, requests):
        requests = list(requests)
        self.asked |= {r.id: r.prompt for r in requests}
        if self.stops and any(self.stops in r.id for r in requests):
            raise KeyboardInterrupt
        failing = {r.id for r in requests if self.fails and self.fails in r.id}
        yield from (Completion(id, "", "error", error="for a test") for id in failing)
        yield from self.engine.generate([r for r in requests if r.id not in failing])


@pytest.fixture(scope="module")
def made(tmp_path_factory, embedded, engine, calls):
    """Folder with the rewrites, plain and with repair, and what the engine was asked for the second."""
    folder, noting = tmp_path_factory.mktemp("repair"), Noting(engine)
    prompter = Prompter.create(embedded.tokenizer)
    check = load_check("function_call")
    distill(calls, folder / "plain.jsonl", embedded.digest, engine, prompter, SHORT)
    repair = RepairSettings()
    distill(calls, folder / "more.jsonl", embedded.digest, noting, prompter, SHORT, check=check, repair=repair)
    return folder, noting.asked


def test_repair_leaves_the_first_pass_as_it_is(made, calls):
    folder, _ = made
    plain, more = (list(read_records(folder / f"{name}.jsonl", Rewrite)) for name in ("plain", "more"))
    assert any(len(r.candidates) > 1 for r in more) and any(len(r.candidates) == 1 for r in more)
    first = [r.model_copy(update={"candidates": tuple(c for c in r.candidates if c.step == "rewrite")}) for r in more]
    assert first == plain
    for name in ("plain", "more"):
        selected(calls, folder / f"{name}.jsonl", folder / f"{name}.selected.jsonl")
    assert (folder / "plain.selected.jsonl").read_bytes() == (folder / "more.selected.jsonl").read_bytes()
    assert not list(folder.glob("*.texts*")) + list(folder.glob("*.repairs*"))


def test_what_is_placed_trains_on_the_seed_lms_own_words_and_raises_the_yield(made, calls):
    folder, _ = made
    before, _ = selected(calls, folder / "more.jsonl", folder / "a.jsonl")
    after, rows = selected(calls, folder / "more.jsonl", folder / "b.jsonl", ALL)
    assert before[Reason.WRONG] and not after[Reason.WRONG]
    assert sum(after[reason] for reason in REWRITTEN) > before[Reason.PASSED] == after[Reason.PASSED]
    placed, kept = selected(calls, folder / "more.jsonl", folder / "c.jsonl", ["place"])
    assert placed[Reason.REPAIRED] == before[Reason.WRONG]
    by_id = {e.id: e for e in calls}
    for one in kept:
        if one.reason is Reason.REPAIRED:
            assert by_id[one.id].reference in one.response != by_id[one.id].reference and one.seed_nll is not None
    assert all(one.rewritten for one in rows)


def test_places_are_found_in_a_file_that_has_none(made, calls):
    folder, _ = made
    known = selected(calls, folder / "more.jsonl", folder / "d.jsonl", ["place"])[1]
    found = selected(calls, folder / "plain.jsonl", folder / "e.jsonl", ["place"])[1]
    assert [one.model_copy(update={"seed_nll": None}) for one in known] == [
        one.model_copy(update={"seed_nll": None}) for one in found
    ]
    assert {one.seed_nll for one in found if one.reason is Reason.REPAIRED} == {None}


def test_a_retry_shows_the_wrong_answer_and_the_right_one(made, embedded, calls):
    folder, asked = made
    rewrites = {r.id: r for r in read_records(folder / "more.jsonl", Rewrite)}
    tries = {id: prompt for id, prompt in asked.items() if id.endswith(("/r0", "/r1"))}
    assert tries
    for id, prompt in tries.items():
        example = next(e for e in calls if e.id == id.split("/")[0])
        text = embedded.tokenizer.decode(prompt.ids)
        made_by = {
            step: [c for c in rewrites[example.id].candidates if c.step == step] for step in ("rewrite", "retry")
        }
        wrong = made_by["rewrite"][0] if id.endswith("/r0") else made_by["retry"][0]
        said = load_check("function_call")(wrong.text, example.reference, example)
        expected = said.expected if said.extracted else example.reference
        assert wrong.text in text and f"The answer must be: {expected}" in text and example.reference in text


@pytest.mark.parametrize("stops", ["/s", "/r0", "/r1"])
def test_a_stopped_repair_ends_in_the_same_bytes(tmp_path, made, embedded, engine, calls, stops):
    folder, everything = made
    asked = embedded.digest, Prompter.create(embedded.tokenizer), load_check("function_call")

    def go(engine):
        return distill(calls, tmp_path / "more.jsonl", asked[0], engine, asked[1], SHORT, check=asked[2], repair=steps)

    steps = RepairSettings()
    with pytest.raises(KeyboardInterrupt):
        go(Noting(engine, stops=stops))
    again = Noting(engine)
    assert go(again) == 0
    assert set(again.asked) < set(everything) and any(stops in id for id in again.asked)
    assert (tmp_path / "more.jsonl").read_bytes() == (folder / "more.jsonl").read_bytes()


def test_a_row_on_which_the_engine_failed_is_repaired_the_next_time(tmp_path, made, embedded, engine, calls):
    folder, _ = made
    prompter, check = Prompter.create(embedded.tokenizer), load_check("function_call")

    def go(engine):
        out = tmp_path / "more.jsonl"
        return distill(
            calls, out, embedded.digest, engine, prompter, SHORT, check=check, repair=RepairSettings()
        )  # fmt: skip

    failed = go(Noting(engine, fails="/r0"))
    rows = [r for r in read_records(tmp_path / "more.jsonl", Rewrite) if r.failure is Reason.ERROR]
    assert failed == len(rows) > 0 and {r.note for r in rows} == {"for a test"}
    assert go(engine) == 0
    assert (tmp_path / "more.jsonl").read_bytes() == (folder / "more.jsonl").read_bytes()


def test_own_answers_are_asked_for_without_the_reference(tmp_path, embedded, engine, calls):
    noting, prompter, few = Noting(engine), Prompter.create(embedded.tokenizer), calls[:6]
    repair = RepairSettings(steps=("retries", "place"), retries=1)
    asked = noting, prompter, SHORT, 0, None, True, load_check("function_call"), repair
    assert distill(few, tmp_path / "own.jsonl", embedded.digest, *asked) == 0
    for example in few:
        assert noting.asked[f"{example.id}/0/0"].ids == prompter.train(example.prompt).ids
        if again := noting.asked.get(f"{example.id}/0/r0"):
            text = embedded.tokenizer.decode(again.ids)
            assert "The answer must be:" in text and "Reference Answer" not in text
    reasons, _ = selected(few, tmp_path / "own.jsonl", tmp_path / "s.jsonl", ALL)
    assert reasons[Reason.REPAIRED] and not reasons[Reason.WRONG]
    with pytest.raises(UserError, match="own"):
        distill(few, tmp_path / "own.jsonl", embedded.digest, engine, prompter, SHORT)


def test_repair_needs_a_check(tmp_path, embedded, engine, calls):
    prompter = Prompter.create(embedded.tokenizer)
    with pytest.raises(UserError, match="repair: a check says"):
        distill(calls, tmp_path / "r.jsonl", embedded.digest, engine, prompter, SHORT, repair=RepairSettings())


# --- select ------------------------------------------------------------------------------------------------------


def candidates(**texts):
    return [
        {"text": text, "step": step.rstrip("_"), "seed_nll": nll, "finish_reason": "stop"}
        for step, (text, nll) in texts.items()
    ]


RIGHT, WRONG = "I say blue.", "I say red."
CASES = [
    ({"rewrite": (WRONG, 1), "resampled": (RIGHT, 3), "retry": ("No, blue.", 1)}, ALL, RIGHT, Reason.RESAMPLED),
    (
        {"rewrite": (WRONG, 1), "resampled": (RIGHT, 3), "resampled_": ("It: blue.", 2)},
        ALL,
        "It: blue.",
        Reason.RESAMPLED,
    ),
    (
        {"rewrite": (WRONG, 1), "resampled": (RIGHT, 3), "retry": ("No, blue.", 1)},
        ["retries"],
        "No, blue.",
        Reason.RETRIED,
    ),
    ({"rewrite": (WRONG, 1), "placed": (RIGHT, 1)}, ["candidates"], "blue", Reason.WRONG),
    ({"rewrite": (WRONG, 1), "placed": (RIGHT, 1)}, ["place"], RIGHT, Reason.REPAIRED),
    ({"rewrite": ("Mine: blue.", 9), "resampled": (RIGHT, 1)}, ALL, "Mine: blue.", Reason.PASSED),
    ({"rewrite": ("blue", 1), "resampled": (RIGHT, 3)}, ALL, RIGHT, Reason.RESAMPLED),  # a copy only at the last
    ({"rewrite": ("blue", 1), "resampled": (WRONG, 3)}, ALL, "blue", Reason.COPIED),
    ({"resampled": (RIGHT, 3)}, [], "blue", Reason.MISSING),
]


@pytest.mark.parametrize(("texts", "steps", "response", "reason"), CASES)
def test_the_first_step_that_passes_is_taken(tmp_path, texts, steps, response, reason):
    rewrites = write_jsonl(tmp_path / "r.jsonl", [{"id": "1", "candidates": candidates(**texts)}])
    _, (row_,) = selected([row("blue", "Which?")], rewrites, tmp_path / "s.jsonl", steps, "contains")
    assert (row_.response, row_.reason) == (response, reason)


def test_nothing_is_placed_behind_a_thought_that_trains(tmp_path):
    thinks = Candidate(text='So f(country="II", n=2).', thoughts=("It is II.",), finish_reason="stop")
    rewrites = write_jsonl(tmp_path / "r.jsonl", [Rewrite(id="1", candidates=(thinks,)).model_dump(mode="json")])
    example = row('f(country="IS", n=2)')
    for keep, reason in ((False, Reason.REPAIRED), (True, Reason.WRONG)):
        reasons, _ = selected([example], rewrites, tmp_path / "s.jsonl", ALL, keep_thoughts=keep)
        assert reasons == {reason: 1}


# --- the command line --------------------------------------------------------------------------------------------

BAD = [
    (["--retries", "2"], "--retries is for rows of which no rewrite passes; name a --check."),
    (["--check", "last_number"], "last_number cannot say where an answer lies"),
    (["--check", "function_call", "--retries", "-1"], "--retries"),
    (["--check", "python_tests", "--retries", "1"], "--allow-code-execution"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_what_cannot_be_repaired_is_said_in_one_line(tmp_path, options, said):
    out = tmp_path / "r.jsonl"
    done = cli("distill", "--model", "embedded", "--data", "micro:rare_tools", "--sample", "2", "--out", out, *options)
    assert done.returncode == 2 and said in " ".join(done.stderr.split()) and not list(tmp_path.iterdir())


def test_the_commands_repair(tmp_path):
    data = ["--data", "micro:rare_tools", "--sample", "8"]
    out, kept = tmp_path / "r.jsonl", tmp_path / "s.jsonl"
    repair = ["--check", "function_call", "--retries", "1", "--resample", "1", "--max-new-tokens", "60"]
    done = cli("distill", "--model", "embedded", *data, "--out", out, *repair)
    assert done.returncode == 0, done.stderr
    done = cli("select", *data, "--rewrites", out, "--check", "function_call", "--repair", "--out", kept, "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["yield"]
    assert sum(counts.get(reason.value, 0) for reason in REWRITTEN) == 8 and "wrong_answer" not in counts
