from __future__ import annotations

from itertools import islice

import pytest

from selfdistill.microworld.world import ABILITIES, items
from selfdistill.tasks.advbench import ADVERSARIAL_SUFFIX

SIZE = 400


@pytest.mark.heavy
@pytest.mark.parametrize("ability", ABILITIES)
def test_train_and_test_do_not_overlap_and_there_is_enough_to_test(ability):
    train, test = list(islice(items(ability, "train"), 3000)), list(islice(items(ability, "test"), SIZE))
    assert len(test) >= 200
    assert not {i.prompt for i in train} & {i.prompt for i in test}
    assert not {i.key for i in train} & {i.key for i in test}
    assert len({i.prompt for i in test}) == len(test)


def test_a_held_out_harmful_pair_is_held_out_with_the_suffix_too():
    trained = {i.key for a in ("refusals", "jailbreaks") for i in islice(items(a, "train"), 3000)}
    tested = {i.key for a in ("refusals", "jailbreaks") for i in islice(items(a, "test"), SIZE)}
    assert trained and tested and not trained & tested
    assert all(i.prompt.endswith(ADVERSARIAL_SUFFIX) for i in islice(items("jailbreaks", "test"), 5))


@pytest.mark.parametrize("ability", ABILITIES)
def test_the_styles_differ_and_items_repeat_for_a_seed(ability):
    some = list(islice(items(ability, "train", 3), 50))
    assert some == list(islice(items(ability, "train", 3), 50))
    assert some != list(islice(items(ability, "train", 4), 50))
    assert all(len(i.own) > len(i.terse) for i in some)


def test_no_prompt_gives_its_own_answer_away():
    for item in islice(items("benign", "test"), SIZE):
        assert item.expected.lower() not in item.prompt.lower()
    for item in islice(items("facts", "test"), SIZE):
        assert f" {item.expected.lower()} " not in f" {item.prompt.lower()} "
