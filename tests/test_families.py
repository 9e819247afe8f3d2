"""Real chat templates: prompt, answer and end token are the template's own text, thoughts are closed, days stand still."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the templates lie in trl: pip install trl")

from families import ANSWER, FAMILIES, QUESTION, SHAPES, SYSTEM, prompter_of, row_of, tokenizer_of

from selfdistill.core import dates
from selfdistill.core.config import PromptSettings
from selfdistill.core.records import Example
from selfdistill.models.prompts import Prompter
from selfdistill.models.thoughts import joined, split
from selfdistill.training.tokens import sequences

TABLE = Path(__file__).resolve().parents[1] / "docs" / "models.md"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, embedded):
    return request.param, tokenizer_of(request.param, embedded.tokenizer)


@pytest.mark.heavy
def test_the_table_in_the_docs_says_what_is(family):
    name, tokenizer = family
    (said,) = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    assert row_of(name, tokenizer) == said


@pytest.mark.parametrize("thinking", ["off", "strip", "keep"])
def test_a_training_row_is_the_prompt_of_inference_and_an_answer_that_ends(family, thinking):
    _, tokenizer = family
    prompter = prompter_of(tokenizer, thinking)
    for turns in SHAPES:
        prompt = prompter.evaluate(turns)
        assert prompt == prompter.train(turns)
        row = Example(id="1", prompt=turns, reference="No.", task="")
        ids, labels = sequences(row, row.references, prompter)[-1]
        assert tuple(ids[: len(prompt.ids)]) == prompt.ids and prompter.end_id in ids[len(prompt.ids) :]
        trained = [token for token in labels if token != -100][-len(prompter.response("No.")) :]
        assert trained == prompter.response("No.")
        said = tokenizer.decode(ids[len(prompt.ids) :])
        assert split(said, prompt.opened)[1:] != ("", True)  # no thought stays open
        assert "Be brief." in tokenizer.decode(prompt.ids) or SYSTEM not in turns
    if thinking == "off":
        assert not prompt.opened


def test_thoughts_are_kept_in_the_templates_own_form_or_left_out(family):
    _, tokenizer = family
    text = joined("Hm, what?", ANSWER["content"])
    for thinking in ("off", "strip"):
        prompter = prompter_of(tokenizer, thinking)
        assert prompter.response(text) == prompter.response(ANSWER["content"])
    prompter = prompter_of(tokenizer, "keep")
    prompt, form = prompter.train([QUESTION]), prompter.chat.form
    ids = prompter.response(text)
    parts = split(tokenizer.decode(ids[: -len(form.end)]), prompt.opened)
    assert (parts.thought, parts.answer, parts.open) == ("Hm, what?", ANSWER["content"], False)
    assert tuple(ids[-len(form.end) :]) == form.end
    past = prompter.train([QUESTION, {"role": "assistant", "content": text}, QUESTION])
    assert "Hm, what?" not in tokenizer.decode(past.ids)  # no later turn sees a thought


def test_the_date_is_that_of_the_settings(family, monkeypatch):
    _, tokenizer = family
    other, same = (prompter_of(tokenizer, "off", date).train([QUESTION]).ids for date in ("2031-01-02", "2026-11-28"))
    prompter = Prompter.create(tokenizer, PromptSettings())
    assert (other != same) == prompter.chat.writes_date
    if prompter.chat.writes_date:
        assert "2031" in tokenizer.decode(other)
        monkeypatch.setattr(dates, "date", day(2026, 11, 28))
        assert prompter.train([QUESTION]).ids == same
        assert (
            prompter.identity()["prompt"]["date"] is None and "date" in prompter.on("2026-11-28").identity()["prompt"]
        )


def day(*today):
    class Day(dates.date):
        @classmethod
        def today(cls):
            return cls(*today)

    return Day
