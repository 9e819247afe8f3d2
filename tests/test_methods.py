"""The contract that every method keeps."""

import pytest

from selfdistill.core.config import DataSettings
from selfdistill.core.records import Selected
from selfdistill.data.examples import read_examples
from selfdistill.methods import METHODS, USUAL
from selfdistill.methods.base import Method, references

ROWS = read_examples(DataSettings(path="micro:chat", sample=20))
SELECTED = {
    row.id: Selected(id=row.id, response=f"own {k}", source="distilled", reason="passed") for k, row in enumerate(ROWS)
}


@pytest.mark.parametrize("name", METHODS)
def test_every_row_gets_a_response_to_each_of_its_turns(name):
    made = METHODS[name].rows(ROWS, SELECTED, 1.0, 0)
    assert [len(made[row.id]) for row in ROWS] == [len(row.references) for row in ROWS]
    assert made.keys() == {row.id for row in ROWS}
    assert made == METHODS[name].rows(ROWS[::-1], SELECTED, 1.0, 0)  # whatever the order


@pytest.mark.parametrize("name", METHODS)
def test_rewrites_train_where_the_method_says_so(name):
    made = METHODS[name].rows(ROWS, SELECTED, 1.0, 0)
    taken = sum(made[row.id] == SELECTED[row.id].responses for row in ROWS)
    assert taken == (len(ROWS) if METHODS[name].rewrites else 0)
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
