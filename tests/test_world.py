from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from selfdistill.microworld import lexicon, rare
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


def answers(sampler, kind, count=3000):
    """What is answered to what: by term and numbers, or by what the function does."""
    rng = random.Random(0)
    made = [sampler(rng) for _ in range(count)]
    return {
        (i.key.partition(":")[2] if kind == "term" else i.key.split(":", 2)[2], i.expected or body(i)) for i in made
    }


def body(item):
    return item.terse.partition("return ")[2]


@pytest.mark.parametrize(
    ("ability", "kind", "invented"),
    [("rare_problems", "term", rare.invented_problem), ("rare_code", "does", rare.invented_function)],
)
def test_an_invented_reference_never_tells_what_is_true(ability, kind, invented):
    true = answers(ABILITIES[ability][0], kind)
    assert true and not true & answers(invented, kind)


def test_the_seed_lm_knows_a_part_of_what_the_rare_abilities_need():
    rng = random.Random(0)
    terms = {rare.problem(rng).key.split(":")[1] for _ in range(3000)}
    known = {rare.problem(rng, lexicon.KNOWN_TERMS).key.split(":")[1] for _ in range(3000)}
    assert terms == {word for table in rare.TABLES.values() for word in table} and known < terms
    assert 0.3 < len(known) / len(terms) < 0.6
    bodies = {body(rare.function(rng)) for _ in range(3000)}
    taught = {body(rare.function(rng, rare.KNOWN_FUNCTIONS)) for _ in range(3000)}
    assert taught < bodies


@pytest.mark.parametrize("ability", ["rare_problems", "rare_code"])
def test_the_train_split_teaches_all_that_the_test_split_asks(ability):
    def needed(split):
        part = 1 if ability == "rare_problems" else 2
        return {re.sub(r"\d", "k", item.key.split(":")[part]) for item in islice(items(ability, split), 400)}

    assert needed("test") <= needed("train")


def test_a_told_number_answers_the_question():
    rng = random.Random(1)
    for item in (rare.invented_problem(rng, told=True) for _ in range(50)):
        number = item.prompt.split(" has ")[1].split()[0]
        assert f"with {number} " in item.own


def test_notes_of_an_annotator_end_with_the_answer():
    for item in islice(items("rare_problems", "train"), 200):
        assert item.terse.split()[-1] == item.expected and item.own.endswith(f"The answer is {item.expected}.")
