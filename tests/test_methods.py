"""The contract that every method keeps."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfdistill import methods
from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.rewrites import Selected
from selfdistill.core.rows import TrainingRow
from selfdistill.data.examples import read_examples
from selfdistill.methods import METHODS, USUAL
from selfdistill.methods.base import Method, Need, Seen
from selfdistill.methods.rows import training_rows

ROWS = read_examples(DataSettings(path="micro:chat", sample=20))
OWN = {row.id: [Selected(id=row.id, response="mine", source="distilled", reason="passed")] for row in ROWS[::2]}
SELECTED = {
    row.id: Selected(id=row.id, response=f"own {k}", source="distilled", reason="passed")
    if k % 4
    else Selected(id=row.id, response=row.reference, source="original", reason="wrong_answer")
    for k, row in enumerate(ROWS)
}
ANSWERED = [TrainingRow(row, ("said",), "replay") for row in read_examples(DataSettings(path="micro:facts", sample=9))]
SOURCE = re.compile(r"arXiv \d{4}\.\d{5}")


class Terms:
    """Three tokens in each row, the last one its end; what the seed LM thinks of them is another thing in each."""

    def nll(self, id):
        return np.array([0.1, len(id) % 5, int(id[:2], 16) / 50], np.float32)

    def ends(self, id):
        return np.array([False, False, True])


def made(name, rows=ROWS, mix_ratio=1.0):
    method = METHODS[name]
    seen = Seen(rows, SELECTED, OWN, ANSWERED, mix_ratio)
    return training_rows(method, seen, method.settings(), f"arm {name}", lambda rows: Terms())


def of_the_task(rows):
    return [row for row in rows if row.source != "replay"]


@pytest.mark.parametrize("name", METHODS)
def test_every_row_gets_a_response_to_each_of_its_turns(name):
    rows = of_the_task(made(name))
    assert {row.id for row in rows} == {row.id for row in ROWS} or METHODS[name].leaves_out
    assert rows and all(len(row.responses) == len(row.example.references) for row in rows)
    others = of_the_task(made(name, ROWS[::-1]))  # whatever the order
    assert sorted(rows, key=repr) == sorted(others, key=repr)


def test_a_method_that_leaves_a_row_out_is_named(monkeypatch):
    whole = [TrainingRow(e, e.references) for e in ROWS]
    for lacking in (whole[1:], [replace(whole[0], responses=()), *whole[1:]]):
        method = replace(METHODS["vanilla"], rows=lambda seen, settings, lacking=lacking: lacking)
        monkeypatch.setitem(METHODS, "lacking", method)
        with pytest.raises(
            UserError, match=rf"^arm lacking: its rows answer 19 of 20 rows in full \(not {ROWS[0].id}\)"
        ):
            made("lacking")


@pytest.mark.parametrize("name", METHODS)
def test_rewrites_train_where_the_method_says_so(name):
    rows = of_the_task(made(name))
    assert any(row.responses != row.example.references for row in rows) == METHODS[name].rewrites
    assert any(row.source != "original" for row in rows) == METHODS[name].rewrites
    if METHODS[name].rewrites:
        assert all(row.responses == row.example.references for row in of_the_task(made(name, mix_ratio=0.0)))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_asks_for_is_what_it_looks_at(name):
    method = METHODS[name]
    assert (Need.TOKENS in method.needs) == (method.weigh is not None)
    assert (Need.GENERAL in method.needs) == (method.more is not None) == (method.general is not None)
    weights = {row.weights for row in made(name)}
    assert (weights != {None}) == (method.weigh is not None)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name):
    method = METHODS[name]
    assert method.label and method.short and method.tag and method.card.endswith(".")
    assert method.doc.endswith(".") and "\n" not in method.doc
    assert SOURCE.search(method.doc) or re.search(r"\bours?\b", method.doc) or method.base is None
    assert name.isidentifier() and name == name.lower()  # it names folders and a class of the page
    assert method.settings.model_config["frozen"] and method.settings.model_config["extra"] == "forbid"
    method.settings()  # all have defaults
    bases, at = [name], method
    while at.base:  # leads to one that has none
        assert at.base in METHODS and at.base not in bases
        bases, at = [*bases, at.base], METHODS[at.base]


def test_methods_are_listed_without_torch():
    """What takes long to import stands inside of functions: the command line and the page read all methods."""
    heavy = {"torch", "transformers", "peft", "numpy", "safetensors"}
    for file in Path(methods.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & heavy, file.name


def test_the_defaults_are_vanilla_fine_tuning():
    plain = Method("label", "short", "doc.", "card.", "tag", "circle", ("#000000", "#ffffff"))
    told = ("label", "short", "doc", "card", "tag", "shape", "colours", "base")
    assert replace(plain, **{field: getattr(METHODS["vanilla"], field) for field in told}) == METHODS["vanilla"]
    assert set(USUAL) <= METHODS.keys()
