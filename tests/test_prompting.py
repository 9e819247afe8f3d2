"""How a model is asked: thoughts apart from answers, a day that stands still, and what is found before anything is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import cli, write_jsonl

from selfdistill.core import dates
from selfdistill.core.config import DistillSettings, PromptSettings, Recipe, TaskSettings, TrainSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Prediction, read_records
from selfdistill.core.rewrites import Reason, Rewrite, Selected
from selfdistill.core.rows import TrainingRow
from selfdistill.core.settings import checked
from selfdistill.data.examples import read_examples
from selfdistill.engines.open import open_seed
from selfdistill.engines.protocol import Request, Sampling, completion
from selfdistill.models import resolve
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.models.thoughts import closed, opened_by, split
from selfdistill.stages.asked import advice, as_trained, check_prompts
from selfdistill.stages.distill import distill
from selfdistill.stages.evaluate import evaluate
from selfdistill.stages.select import select
from selfdistill.stages.train import train
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks

DATED = "<|system|>Today is {{ strftime_now('%d %b %Y') }}.<|end|>"
THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.last and m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n"
    "{% elif m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip() }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)
QUESTION = {"role": "user", "content": "What is the capital of Norland?"}
ROW = Example(id="1", prompt=(QUESTION,), reference="Daris", task="t")


def folder(tmp_path: Path, template: str, name: str = "model") -> str:
    """The embedded model with another chat template."""
    made = tmp_path / name
    shutil.copytree(resolve("embedded"), made)
    (made / "chat_template.jinja").write_text(template)
    return str(made)


def opened(model: str, **prompt):
    return open_seed(
        checked(Recipe, {"model": model, "data": {"path": "x"}}, "").engine, model, PromptSettings(**prompt)
    )


def rows(count: int) -> list[Example]:
    return read_examples(checked(Recipe, {"model": "m", "data": {"path": "micro:facts", "sample": count}}, "").data)


class Heard(Progress):
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def clock(monkeypatch):
    """Set the day of this machine's clock."""

    def turn(day: str) -> None:
        class Day(dates.date):
            @classmethod
            def today(cls):
                return cls.fromisoformat(day)

        monkeypatch.setattr(dates, "date", Day)

    return turn


@pytest.fixture
def thinking(embedded):
    """The embedded model's tokenizer with a template that thinks."""
    import copy

    made = copy.deepcopy(embedded.tokenizer)
    made.chat_template = THINKING
    return made


# --- two days ------------------------------------------------------------------------------------------------------


def stopped(engine, after: int):
    """An engine that is stopped after so many answers."""

    class Stopped:
        def __getattr__(self, name):
            return getattr(engine, name)

        def generate(self, requests):
            for number, made in enumerate(engine.generate(requests)):
                if number == after:
                    raise KeyboardInterrupt
                yield made

    return Stopped()


@pytest.mark.heavy
def test_what_goes_on_after_midnight_is_the_same_bytes(tmp_path, clock):
    lm, prompter, engine = opened(
        folder(tmp_path, DATED + Path(resolve("embedded"), "chat_template.jinja").read_text())
    )
    examples, settings = rows(4), DistillSettings(max_new_tokens=8)
    (task,) = load_tasks(
        [TaskSettings(name="facts", path="micro:facts", limit=4, max_new_tokens=8)],
        0,
        Permissions(),
        Progress(quiet=True),
    )

    def make(out, engine):
        distill(examples, out / "r.jsonl", lm.digest, engine, prompter, settings)
        evaluate([task], out / "eval", lm.digest, engine, prompter)

    clock("2026-11-28")
    make(tmp_path / "one", engine)
    for stage in (
        lambda e: distill(examples, tmp_path / "two" / "r.jsonl", lm.digest, e, prompter, settings),
        lambda e: evaluate([task], tmp_path / "two" / "eval", lm.digest, e, prompter),
    ):
        with pytest.raises(KeyboardInterrupt):
            stage(stopped(engine, 2))
    clock("2026-11-29")
    make(tmp_path / "two", engine)
    names = ("r.jsonl", "r.jsonl.meta.json", "eval/predictions.jsonl", "eval/predictions.jsonl.meta.json")
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "two" / names[1]).read_text())["prompt"] == {"date": "2026-11-28"}

    made = [TrainingRow(e, e.references) for e in examples]
    trained = train(lm, made, tmp_path / "a", TrainSettings(epochs=1), prompter)
    clock("2026-12-24")
    assert train(lm, made, trained, TrainSettings(epochs=1), prompter) == trained
    assert as_trained(prompter, trained, Progress(quiet=True)).settings.date == "2026-11-29"
    heard = Heard()
    as_trained(prompter.on("2026-12-24"), trained, heard)
    as_trained(Prompter.create(lm.tokenizer, PromptSettings(format="paper")), trained, heard)
    assert "format (chat, now paper)" in heard.said[1]
    assert "date (2026-11-29, now 2026-12-24)" in heard.said[0]


@pytest.mark.heavy
def test_a_run_keeps_its_day_in_its_recipe(tmp_path, clock):
    from selfdistill.core.recipe import load_recipe
    from selfdistill.pipeline import run

    (tmp_path / "r.toml").write_text('model = "embedded"\n[data]\npath = "micro:facts"\nsample = 4\n')
    recipe = load_recipe(tmp_path / "r.toml", ["distill.max_new_tokens=4", "train.epochs=1"])
    clock("2026-11-28")
    run(recipe, tmp_path / "out", Progress(quiet=True))
    made = (tmp_path / "out" / "recipe.toml").read_bytes()
    clock("2026-11-29")
    run(recipe, tmp_path / "out", Progress(quiet=True))
    assert (tmp_path / "out" / "recipe.toml").read_bytes() == made and b'date = "2026-11-28"' in made


# --- thoughts --------------------------------------------------------------------------------------------------------


def test_a_template_without_thoughts_and_dates_leaves_identities_as_they_were(embedded):
    assert Prompter.create(embedded.tokenizer).identity() == {}
    assert Prompter.create(embedded.tokenizer, PromptSettings(thinking="keep")).identity() == {
        "prompt": {"thinking": "keep"}
    }


def test_the_switch_of_the_template_is_used_and_nothing_may_speak_against_it(thinking):
    off, strip = (Prompter.create(thinking, PromptSettings(thinking=t)) for t in ("off", "strip"))
    assert off.identity() == {"prompt": {"chat_template_kwargs": {"enable_thinking": False}}}
    assert thinking.decode(off.train([QUESTION]).ids).endswith("<think>\n\n</think>\n\n")
    assert strip.train([QUESTION]).opened == "<think>\n"
    assert thinking.decode(strip.response("A")) == "\n</think>\n\nA<|end|>"
    own = Prompter.create(thinking, PromptSettings(chat_template_kwargs={"enable_thinking": True}))
    with pytest.raises(UserError, match=r'enable_thinking = true speaks against prompt\.thinking = "off"'):
        check_prompts([ROW], own, "data", Heard())


def made(tokenizer, text: str, prompt: Prompt, ended: bool = True, **sampling):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    request = Request("1", prompt, Sampling(**{"max_new_tokens": 1000} | sampling))
    return completion(request, [*ids, end] if ended else ids, {end}, tokenizer, ended, [0.0] * (len(ids) + ended))


def test_thought_and_answer_come_apart_where_the_prompt_opened_the_thought(thinking):
    prompt = Prompter.create(thinking, PromptSettings(thinking="strip")).train([QUESTION])
    whole = made(thinking, "Norland, hm.\n</think>\n\nDaris", prompt)
    assert (whole.thought, whole.text, whole.finish_reason) == ("Norland, hm.", "Daris", "stop")
    cut = made(thinking, "Norland, hm", prompt, ended=False)
    assert (cut.thought, cut.text, cut.finish_reason) == ("Norland, hm", "", "length")
    closed_prompt = Prompter.create(thinking).train([QUESTION])
    plain = made(thinking, "Daris", closed_prompt)
    assert (plain.thought, plain.text) == (None, "Daris")


def test_markers_that_are_special_tokens_are_seen_and_leave_no_trace(embedded):
    import copy

    tokenizer = copy.deepcopy(embedded.tokenizer)
    tokens = ["<|channel|>", "<|message|>", "<|start|>", "[THINK]", "[/THINK]"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    text = "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>It is <|start|>so."
    found = made(tokenizer, text, Prompt((1,)))
    assert (found.thought, found.text) == ("Hm.", "It is so.")
    found = made(tokenizer, "[THINK]Hm.[/THINK]It is so.", Prompt((1,)))
    assert (found.thought, found.text) == ("Hm.", "It is so.")


def test_a_tokenizer_that_says_how_its_responses_are_built_is_believed(thinking):
    thinking.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|assistant|>",
        "fields": {
            "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
            "content": {"close_pattern": r"<\|end\|>\s*|$", "content": "text"},
        },
    }
    prompt = Prompter.create(thinking, PromptSettings(thinking="strip")).train([QUESTION])
    found = made(thinking, "Hm.\n</think>\n\nDaris", prompt)
    assert (found.thought.strip(), found.text) == ("Hm.", "Daris")
    cut = made(thinking, "Hm, I", prompt, ended=False)
    assert (cut.text, cut.finish_reason) == ("", "length") and cut.thought.strip() == "Hm, I"


def test_thoughts_have_room_of_their_own_and_the_answer_no_more_than_its(thinking):
    prompt = Prompter.create(thinking, PromptSettings(thinking="strip")).train([QUESTION])
    count = len(thinking("one two three four", add_special_tokens=False)["input_ids"])
    text = "Hm.\n</think>\n\none two three four"
    roomy = made(thinking, text, prompt, max_new_tokens=count + 9, thinking_tokens=50)
    assert (roomy.text, roomy.finish_reason) == ("one two three four", "stop")
    short = made(thinking, text, prompt, max_new_tokens=3, thinking_tokens=50)
    assert short.text and "one two three four".startswith(short.text) and short.finish_reason == "length"
    assert short.text != "one two three four" and short.thought == "Hm." and Sampling(3, thinking_tokens=50).most == 53


@pytest.mark.parametrize(
    "mark", ["<think>", "[THINK]", "◁think▷", "<seed:think>", "<|START_THINKING|>", "<|channel>thought"]
)
def test_what_opens_a_thought_in_a_prompt_is_closed_by_its_own_marker(mark):
    opening = opened_by(f"<|user|>Hi<|assistant|>{mark}\n")
    assert opening == f"{mark}\n" and opened_by(f"Say {mark} and so on") == ""
    assert split(f"Hm.{closed(opening)}A", opening) == ("Hm.", "A", False)
    assert split("Hm.", opening) == ("Hm.", "", True)


def test_what_is_cut_off_in_a_thought_is_counted_apart_from_distilling_to_the_page(tmp_path):
    lm, prompter, engine = opened(folder(tmp_path, THINKING), thinking="strip")
    examples, heard = rows(3), Heard()
    out = tmp_path / "r.jsonl"
    distill(examples, out, lm.digest, engine, prompter, DistillSettings(max_new_tokens=6), progress=heard)
    assert any("3 of 3 rewrites were cut off inside their thoughts" in line for line in heard.said)
    candidate = next(iter(read_records(out, Rewrite))).candidates[0]
    assert candidate.cut_in_thought and candidate.text == "" and candidate.thoughts[0]
    assert select(examples, out, tmp_path / "s.jsonl", None) == {Reason.IN_THOUGHT: 3}
    (task,) = load_tasks(
        [TaskSettings(name="facts", path="micro:facts", limit=3, max_new_tokens=6)],
        0,
        Permissions(),
        Progress(quiet=True),
    )
    (result,) = evaluate([task], tmp_path / "eval", lm.digest, engine, prompter)
    assert (result.truncated, result.in_thought) == (3, 3)
    assert all(
        p.thought and p.cut_in_thought for p in read_records(tmp_path / "eval" / "predictions.jsonl", Prediction)
    )


def test_thoughts_train_with_keep_and_never_without(thinking):
    from selfdistill.methods.sdft import row_of

    row = Selected(id="1", response="Daris", thoughts=("Hm.",), source="distilled", reason=Reason.KEPT)
    (said,) = row_of(ROW, row).responses
    for kind, expected in (
        ("off", "Daris<|end|>"),
        ("strip", "\n</think>\n\nDaris<|end|>"),
        ("keep", "Hm.\n</think>\n\nDaris<|end|>"),
    ):
        prompter = Prompter.create(thinking, PromptSettings(thinking=kind))
        assert thinking.decode(prompter.response(said)) == expected


def test_exports_hold_thoughts_apart_or_not_at_all(tmp_path):
    rewrites = write_jsonl(
        tmp_path / "r.jsonl", [{"id": "1", "candidates": [{"text": "<think>Hm.</think>It is Daris."}]}]
    )
    for keeps in (False, True):
        exports = {form: tmp_path / f"{form}-{keeps}.jsonl" for form in ("messages", "sharegpt")}
        select([ROW], rewrites, tmp_path / f"s-{keeps}.jsonl", None, exports=exports, keep_thoughts=keeps)
        last = json.loads(exports["messages"].read_text())["messages"][-1]
        thought = {"reasoning_content": "Hm."} if keeps else {}
        assert last == {"role": "assistant", "content": "It is Daris.", **thought}
        said = json.loads(exports["sharegpt"].read_text())["conversations"][-1]["value"]
        assert said == ("<think>\nHm.\n</think>\n\nIt is Daris." if keeps else "It is Daris.")


def test_thoughts_are_shown_apart_from_answers():
    from rich.console import Console

    from selfdistill.core.records import Verdict
    from selfdistill.report.item import Item, Row, show
    from selfdistill.report.page.items import _answer, _made
    from selfdistill.report.tables import in_thought_lines

    rewrite = Rewrite(id="1", candidates=({"text": "It is Daris.", "thoughts": ["Norland, hm."]},))
    chosen = Selected(id="1", response="It is Daris.", source="distilled", reason=Reason.KEPT)
    answer = Prediction(
        id="1", task="t", prompt="", text="Daris", thought="I know.", finish_reason="stop", verdict=Verdict.CORRECT
    )
    console = Console(record=True, width=100, quiet=False)
    show([Row(ROW, rewrite, chosen), Item(ROW, {"seed": answer})], console)
    said = console.export_text()
    assert "rewrite 1: thoughts" in said and "Norland, hm." in said and "seed: thoughts" in said and "I know." in said
    assert _answer(answer)["thought"] == "I know." and _made(ROW, rewrite, chosen)["thoughts"] == ("Norland, hm.",)
    arms = {"seed": {"in_thought": 2}, "sdft": {"in_thought": 0}}
    assert in_thought_lines([{"task": "t", "arms": arms}]) == [
        "t, seed: 2 answers were cut off inside the thoughts, before an answer began"
    ]


# --- before anything is made ------------------------------------------------------------------------------------------


def test_a_refused_conversation_is_named_by_row_with_the_count(thinking):
    thinking.chat_template = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + THINKING
    answer = {"role": "assistant", "content": "A"}
    long = [Example(id=f"{n}", prompt=(QUESTION, answer, QUESTION), reference="A", task="") for n in range(3)]
    with pytest.raises(UserError, match=r"data: row 2 \(id 0\), and 3 rows like it: .*too long") as error:
        check_prompts([ROW, *long], Prompter.create(thinking), "data", Heard())
    assert "\n" not in str(error.value)


def test_a_variable_that_the_template_does_not_know_is_refused(thinking):
    prompter = Prompter.create(thinking, PromptSettings(chat_template_kwargs={"enable_thinkng": False}))
    with pytest.raises(UserError, match=r"no variable 'enable_thinkng'. Among those that it has: .*enable_thinking"):
        check_prompts([ROW], prompter, "data", Heard())


def test_an_answer_that_the_template_writes_otherwise_is_one_line_with_the_difference(thinking):
    thinking.chat_template = THINKING.replace("<think>\n\n</think>\n\n{% endif %}{{", "{% endif %}{{").replace(
        "{% elif m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n", ""
    )
    heard = Heard()
    check_prompts([ROW, ROW], Prompter.create(thinking), "data", heard)
    (line,) = heard.said
    assert "(2 rows)" in line and "</think>" in line and "\n" not in line


def test_thoughts_in_references_are_counted(thinking):
    heard = Heard()
    row = ROW.model_copy(update={"reference": "<think>Hm.</think>Daris"})
    check_prompts([row, ROW], Prompter.create(thinking), "data", heard)
    assert heard.said == [
        'data: 1 rows have thoughts in their references, which are left out of what trains. prompt.thinking = "keep" '
        "trains them."
    ]


def test_what_the_models_card_asks_for_when_it_thinks_is_said_where_it_is_greedy(tmp_path, thinking):
    model = folder(tmp_path, THINKING)
    asked = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    asked |= {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(asked))
    prompter = Prompter.create(thinking, PromptSettings(thinking="strip"))
    assert "temperature = 0.6, top_p = 0.95, top_k = 20" in advice(model, prompter, 0)
    assert advice(model, prompter, 0.6) is None and advice(model, Prompter.create(thinking), 0) is None


def test_doctor_says_what_a_template_makes_of_the_data(tmp_path):
    fits = cli("doctor", "--model", "embedded")
    assert fits.returncode == 0 and fits.stdout.count("as the template writes it") == 3, fits.stderr
    template = THINKING.replace("{% elif m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n", "")
    told = cli("doctor", "--model", folder(tmp_path, template), "--thinking", "strip", "--json")
    found = json.loads(told.stdout)
    assert told.returncode == 1 and all(row["difference"] for row in found["conversations"])
    wrong = cli("doctor", "--model", "embedded", "--chat-template-kwargs", '{"x": 1}')
    assert wrong.returncode == 2 and "no variable 'x'" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_a_day_is_a_day():
    for day in ("tomorrow", "28.11.2026", 5):
        with pytest.raises(UserError, match="prompt: date: expected a day as year-month-day"):
            checked(PromptSettings, {"date": day}, "prompt")
    with pytest.raises(UserError, match="'messages' is given to the chat template"):
        checked(PromptSettings, {"chat_template_kwargs": {"messages": []}}, "prompt")
