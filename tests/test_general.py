"""The general prompts that ship: how many, of which kinds, and near to no probe; and the guard against pools that hold one."""

import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from conftest import SHARED, write_jsonl

from selfdistill.core.config import TaskSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.data.notes import CONTROL, Notes
from selfdistill.methods.general import SHIPPED, general_prompts, refuse_probes
from selfdistill.microworld import world
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks

with open(SHIPPED, encoding="utf-8") as file:  # noqa: PTH123
    ROWS = [json.loads(line) for line in file]
PROMPTS = [row["prompt"] for row in ROWS]
CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
NEAR, SAME = 0.8, 0.9  # cosines of sentence embeddings


def load(*settings, data_dir=None):
    return load_tasks(settings, 0, Permissions(True, data_dir=data_dir, without_walls=True), Progress())


# --- the pool that ships -------------------------------------------------------------------------------------------


def test_there_are_six_hundred_of_many_kinds():
    kinds = Counter(row["kind"] for row in ROWS)
    assert len(ROWS) == 600 and all(row.keys() == {"kind", "prompt"} for row in ROWS)
    assert kinds.pop("other languages") == 60
    assert kinds.pop("small talk") + kinds.pop("sounds risky") == 20
    assert len(kinds) >= 20 and all(20 <= count <= 40 for count in kinds.values())


def test_no_two_are_the_same_and_none_are_odd_in_length():
    assert len({" ".join(p.casefold().split()) for p in PROMPTS}) == 600
    # Japanese and Chinese have no spaces: there, two characters are about a word.
    words = [len(CJK.findall(p)) // 2 if len(CJK.findall(p)) > 10 else len(p.split()) for p in PROMPTS]
    assert min(words) >= 3 and max(words) <= 120
    assert sum(8 <= n <= 40 for n in words) >= 540
    assert all(p == p.strip() for p in PROMPTS)


def test_they_do_not_come_from_a_few_templates():
    beginnings = Counter(" ".join(p.split()[:3]).casefold() for p in PROMPTS)
    assert beginnings.most_common(1)[0][1] <= 12, beginnings.most_common(3)
    assert len(beginnings) >= 450


def test_the_languages_stand_in_scripts_of_their_own():
    foreign = [row["prompt"] for row in ROWS if row["kind"] == "other languages"]
    for script in (CJK, re.compile(r"[\u0900-\u097f]"), re.compile(r"[\u0600-\u06ff]"), re.compile("[ğışçöü]")):
        assert sum(bool(script.search(p)) for p in foreign) >= 3


def test_they_are_read_without_a_word_and_hold_no_control_tokens():
    said = []
    notes = Notes(warnings_into(said))
    pool = general_prompts(notes=notes)
    assert said == [] and notes.counts == {} and not any(map(CONTROL.search, PROMPTS))
    assert [e.prompt[-1]["content"] for e in pool] == PROMPTS
    assert {(e.task, e.reference, len(e.prompt)) for e in pool} == {("general", "", 1)}
    assert len({e.id for e in pool}) == 600


def warnings_into(said):
    progress = Progress()
    progress.warn = said.append
    return progress


@pytest.fixture(scope="module")
def vectors():
    pytest.importorskip("sentence_transformers")
    from selfdistill.shift.texts import encode

    return encode(PROMPTS)


def probes():
    for ability in world.ABILITIES:
        for split in ("train", "test"):
            sample = itertools.islice(world.items(ability, split), 10)
            yield from (item.prompt for item in sample)
    names = ["lookalikes"]
    if SHARED.is_dir():
        names += ["gsm8k", "multiarith", "humaneval", "advbench", "alpaca_eval", "openfunctions"]
    for task in load(*(TaskSettings(name=n, path=f"paper:{n}", limit=12) for n in names), data_dir=str(SHARED)):
        yield from (e.prompt[-1]["content"][:300] for e in task.items)


@pytest.mark.heavy
def test_none_is_near_a_probe(vectors):
    from selfdistill.shift.texts import encode

    asked = sorted(set(probes()))
    likeness = vectors @ encode(asked).T
    near = [(PROMPTS[i], asked[j], float(likeness[i, j])) for i, j in zip(*(likeness > NEAR).nonzero(), strict=True)]
    assert near == []


@pytest.mark.heavy
def test_no_two_say_the_same(vectors):
    likeness = vectors @ vectors.T
    pairs = [(i, j) for i, j in zip(*(likeness > SAME).nonzero(), strict=True) if i < j]
    assert [(PROMPTS[i], PROMPTS[j]) for i, j in pairs] == []


def test_none_is_an_item_of_the_microworld():
    pool = general_prompts()
    for split in ("train", "test"):
        tasks = [TaskSettings(name=n, path=f"micro:{n}", limit=100, split=split) for n in ("chat", "facts", "benign")]
        refuse_probes(pool, load(*tasks))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real datasets in ../shared/data")
def test_none_is_an_item_of_a_benchmark():
    names = ("gsm8k", "multiarith", "advbench", "alpaca_eval", "openfunctions", "lookalikes")
    refuse_probes(
        general_prompts(), load(*(TaskSettings(name=n, path=f"paper:{n}") for n in names), data_dir=str(SHARED))
    )


# --- the guard -----------------------------------------------------------------------------------------------------


def test_a_pool_of_the_users_is_read_with_responses_or_without(tmp_path):
    bare = write_jsonl(tmp_path / "bare.jsonl", [{"prompt": "One?"}, {"prompt": "Two?"}])
    full = write_jsonl(tmp_path / "full.jsonl", [{"instruction": "One?", "output": "1"}])
    chat = write_jsonl(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "One?"}]}])
    assert [e.prompt[0]["content"] for e in general_prompts(str(bare))] == ["One?", "Two?"]
    assert [e.reference for e in general_prompts(str(full))] == ["1"]
    assert [(e.prompt[-1]["content"], e.reference) for e in general_prompts(str(chat))] == [("One?", "")]


def test_a_pool_that_holds_an_item_of_a_probe_is_refused(tmp_path):
    facts, chat = load(*(TaskSettings(name=n, path=f"micro:{n}", limit=20) for n in ("facts", "chat")))
    item = facts.items[3].prompt[-1]["content"]
    path = write_jsonl(tmp_path / "pool.jsonl", [{"prompt": "Something else?"}, {"prompt": f" {item.upper()}\n"}])
    pool = general_prompts(str(path))
    refuse_probes(pool, [chat])
    with pytest.raises(UserError) as refused:
        refuse_probes(pool, [chat, facts], str(path))
    said = str(refused.value)
    assert said.startswith(f"{path}: 2 general prompts, ") and "\n" not in said
    assert "1 of task facts; the first is prompt 2, " in said and item.upper().strip()[:40] in said
    assert "take them out" in said and "chat" not in said


def test_the_pool_that_ships_is_refused_where_a_task_asks_the_same(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"prompt": PROMPTS[0], "response": "x"}])
    (task,) = load(TaskSettings(name="mine", path=str(path), check="exact"))
    with pytest.raises(UserError, match=r"that ship: .* 1 of task mine; the first is prompt 1, .*of your own"):
        refuse_probes(general_prompts(), [task])


def test_many_items_of_several_probes_are_counted_apart():
    (facts,) = load(TaskSettings(name="facts", path="micro:facts", limit=9))
    half = replace(facts, settings=facts.settings.model_copy(update={"name": "half"}), items=facts.items[5:])
    pool = [e.model_copy(update={"id": f"p{k}"}) for k, e in enumerate(facts.items)]
    with pytest.raises(UserError, match=r"9 of task facts, 4 of task half; the first is prompt 1, "):
        refuse_probes(pool, [facts, half])
