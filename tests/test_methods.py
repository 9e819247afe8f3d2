"""The contract that every method keeps."""

from dataclasses import replace

import pytest

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError
from selfdistill.core.rewrites import Selected
from selfdistill.data.examples import read_examples
from selfdistill.methods import METHODS, USUAL, responses
from selfdistill.methods.base import Method, references

ROWS = read_examples(DataSettings(path="micro:chat", sample=20))
SELECTED = {
    row.id: Selected(id=row.id, response=f"own {k}", source="distilled", reason="passed")
    if k % 4
    else Selected(id=row.id, response=row.reference, source="original", reason="wrong_answer")
    for k, row in enumerate(ROWS)
}


@pytest.mark.parametrize("name", METHODS)
def test_every_row_gets_a_response_to_each_of_its_turns(name):
    made = responses(name, ROWS, SELECTED, 1.0, 0)
    assert made.keys() == {row.id for row in ROWS}
    assert made == responses(name, ROWS[::-1], SELECTED, 1.0, 0)  # whatever the order


def test_a_method_that_leaves_a_row_out_is_named(monkeypatch):
    for left_out in ({}, {ROWS[0].id: ()}):
        made = {e.id: e.references for e in ROWS[1:]} | left_out
        monkeypatch.setitem(METHODS, "lacking", replace(METHODS["vanilla"], rows=lambda *asked, made=made: made))
        with pytest.raises(
            UserError, match=rf"method lacking: its rows answer 19 of 20 rows in full \(not {ROWS[0].id}"
        ):
            responses("lacking", ROWS, SELECTED, 1.0, 0)


@pytest.mark.parametrize("name", METHODS)
def test_rewrites_train_where_the_method_says_so(name):
    made = METHODS[name].rows(ROWS, SELECTED, 1.0, 0)
    assert any(made[row.id] != row.references for row in ROWS) == METHODS[name].rewrites
    if METHODS[name].rewrites:
        assert METHODS[name].rows(ROWS, SELECTED, 0.0, 0) == references(ROWS, SELECTED, 0.0, 0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name):
    method = METHODS[name]
    assert method.label and method.short and method.tag and method.card.endswith(".")
    assert name.isidentifier() and name == name.lower()  # it names folders and a class of the page
    bases, at = [name], method
    while at.base:  # leads to one that has none
        assert at.base in METHODS and at.base not in bases
        bases, at = [*bases, at.base], METHODS[at.base]


def test_the_defaults_are_vanilla_fine_tuning():
    plain = Method("label", "short", "card.", "tag", "circle", ("#000000", "#ffffff"))
    assert plain.rows is METHODS["vanilla"].rows and plain.rewrites is METHODS["vanilla"].rewrites is False
    assert set(USUAL) <= METHODS.keys()
