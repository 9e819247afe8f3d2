from __future__ import annotations

import pytest

from selfdistill.core.config import PromptSettings
from selfdistill.core.errors import UserError
from selfdistill.models.prompts import Prompter
from selfdistill.models.templates import MATH, REFER, USING, load_template

FIGURE_3 = """Below are an instruction that describes a task along with a reference answer. Using the reference answer as a guide, write your own response.

### Instruction:
INST {reference}

### Reference Answer:
REF {instruction}

### Response:
"""
FIGURE_10 = """Below are an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
INST {reference}

### Response:
"""
FIGURE_11 = """You are an expert in math. Below is a math question. Write a response that appropriately answers the question.

INST {reference}"""
FIGURE_12 = """You are an expert in math. Below are a math question and its reference answer. Refer to the reference answer and write a response that appropriately answers the question.

INST {reference}

REF {instruction}"""
FIGURE_13 = """You are an expert in math. Below is a math question. Write a response that appropriately answers the question. Your final answer should be an integer at the end of your response, formatted as: The answer is {answer}.

INST {reference}"""

TURNS = [{"role": "user", "content": "INST {reference}"}]  # braces in the data must come through as they are
REFERENCE = "REF {instruction}"


@pytest.fixture(scope="module")
def tokenizer(embedded):
    return embedded.tokenizer


def text(tokenizer, prompt):
    return tokenizer.decode(prompt.ids)


def test_the_papers_texts_byte_for_byte(tokenizer):
    paper = Prompter(tokenizer, "paper", USING)
    assert text(tokenizer, paper.distill(TURNS, REFERENCE)) == FIGURE_3
    assert text(tokenizer, paper.train(TURNS)) == FIGURE_10
    assert text(tokenizer, paper.evaluate(TURNS)) == FIGURE_10
    refer = text(tokenizer, Prompter(tokenizer, "paper", REFER).distill(TURNS, REFERENCE))
    assert refer == FIGURE_3.replace(
        "Using the reference answer as a guide, write", "Refer to the reference answer and write"
    )


def test_the_math_texts_stand_in_the_chat_template_and_open_the_assistants_turn(tokenizer):
    math = Prompter(tokenizer, "paper", MATH)
    frame = "<|user|>{}<|end|><|assistant|>"
    assert (
        text(tokenizer, math.distill(TURNS, REFERENCE))
        == frame.replace("{}", FIGURE_12) + "Great! Let's think step by step. "
    )
    assert text(tokenizer, math.train(TURNS)) == frame.replace("{}", FIGURE_11)
    assert text(tokenizer, math.evaluate(TURNS)) == frame.replace("{}", FIGURE_13)


def test_chat_makes_the_instruction_the_users_message(tokenizer):
    chat = Prompter(tokenizer, "chat", USING)
    shown = FIGURE_3.removesuffix("\n\n### Response:\n")
    assert text(tokenizer, chat.distill(TURNS, REFERENCE)) == f"<|user|>{shown}<|end|><|assistant|>"
    assert text(tokenizer, chat.train(TURNS)) == "<|user|>INST {reference}<|end|><|assistant|>"
    assert chat.train(TURNS) == chat.evaluate(TURNS)


@pytest.mark.parametrize("form", ["chat", "paper"])
@pytest.mark.parametrize("trained", ["using", "refer", "math"])
def test_a_task_is_asked_in_its_own_form_whatever_training_used(tokenizer, form, trained):
    prompter = Prompter.create(tokenizer, PromptSettings(format=form, template=trained))
    asked = tokenizer.decode(prompter.for_task("math").evaluate(TURNS).ids)
    assert FIGURE_13 in asked and not asked.startswith(FIGURE_13)  # in the chat template, in both formats
    plain = prompter.for_task("using")
    assert plain.evaluate(TURNS) == plain.train(TURNS)
    if trained != "math":
        assert plain.evaluate(TURNS) == prompter.train(TURNS)  # the training prompt, token for token
    assert prompter.for_task(None) is prompter


def test_earlier_turns_come_before(tokenizer):
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": "Q2"},
    ]
    assert text(tokenizer, Prompter(tokenizer, "chat", USING).train(turns)) == (
        "<|system|>S<|end|><|user|>Q1<|end|><|assistant|>A1<|end|><|user|>Q2<|end|><|assistant|>"
    )
    plain = text(tokenizer, Prompter(tokenizer, "paper", USING).distill(turns, "R2"))
    assert (
        plain.startswith("S\n\nBelow are")
        and "### Instruction:\nQ1\n\n### Response:\nA1\n\n### Instruction:\nQ2" in plain
    )
    assert plain.endswith("### Reference Answer:\nR2\n\n### Response:\n")


def test_responses_end_where_the_chat_template_ends_them(tokenizer, foreign_folder):
    from transformers import AutoTokenizer

    assert Prompter(tokenizer, "chat", USING).response("hi")[-1] == tokenizer.convert_tokens_to_ids("<|end|>")
    foreign = AutoTokenizer.from_pretrained(foreign_folder)
    assert Prompter(foreign, "chat", USING).response("hi")[-1] == foreign.convert_tokens_to_ids("</s>")
    assert Prompter(foreign, "paper", USING).train(TURNS).ids[0] == foreign.bos_token_id
    assert Prompter(foreign, "chat", USING).train(TURNS).ids.count(foreign.bos_token_id) == 1


def test_a_model_without_chat_template_is_warned_about_and_gets_the_papers_format(foreign_folder):
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(foreign_folder)
    bare.chat_template = None
    said: list[str] = []
    prompter = Prompter.create(bare, warn=said.append)
    assert prompter.format == "paper" and "chat template" in said[0]
    assert "FIGURE" not in bare.decode(
        Prompter.create(bare, PromptSettings(format="paper", template="math")).distill(TURNS, REFERENCE).ids
    )


def strict(foreign_folder, role):
    """The foreign tokenizer, whose chat template refuses turns of a role."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(foreign_folder)
    refuse = f"{{% for m in messages %}}{{% if m['role'] == '{role}' %}}{{{{ raise_exception('no {role}') }}}}{{% endif %}}{{% endfor %}}"
    made.chat_template = refuse + made.chat_template
    return made


def test_a_chat_template_that_refuses_is_one_line(foreign_folder):
    past = [*TURNS, {"role": "assistant", "content": "A"}, *TURNS]
    with pytest.raises(UserError, match="turns user, assistant, user: no assistant"):
        Prompter(strict(foreign_folder, "assistant"), "chat", USING).train(past)


def test_a_system_turn_that_the_template_does_not_know_begins_the_users(foreign_folder):
    tokenizer = strict(foreign_folder, "system")
    prompter = Prompter(tokenizer, "chat", USING)
    folded = prompter.train([{"role": "system", "content": "S"}, *TURNS])
    assert folded.ids == prompter.train([{"role": "user", "content": f"S\n\n{TURNS[0]['content']}"}]).ids
    assert folded.turns[0]["role"] == "system"  # another model's template, or an endpoint's, may know it


def test_a_template_of_the_users_own(tmp_path, tokenizer):
    path = tmp_path / "mine.txt"
    path.write_text("Say it better.\nQ: {instruction}\nA: {reference}\n")
    prompt = Prompter(tokenizer, "chat", load_template(str(path))).distill(TURNS, REFERENCE)
    assert (
        text(tokenizer, prompt)
        == "<|user|>Say it better.\nQ: INST {reference}\nA: REF {instruction}<|end|><|assistant|>"
    )
    path.write_text("{instruction}")
    with pytest.raises(UserError, match=r"\{reference\}"):
        load_template(str(path))
    with pytest.raises(UserError, match="using, refer, math"):
        load_template("usin")


@pytest.mark.parametrize("form", ["chat", "paper"])
@pytest.mark.parametrize("template", ["using", "math"])
def test_a_retry_shows_what_was_asked_what_was_said_and_what_must_stand_there(embedded, form, template):
    prompter = Prompter(embedded.tokenizer, form, load_template(template))
    turns = [{"role": "user", "content": "How many {answer}?"}]
    asked, again = prompter.distill(turns, "8"), prompter.retry(turns, "8", "I see {answer} 9.", "8")
    said = embedded.tokenizer.decode(again.ids)
    assert said.startswith(embedded.tokenizer.decode(asked.ids) + "I see {answer} 9.")
    ending = MATH.prefill if template == "math" else "<|assistant|>" if form == "chat" else "### Response:\n"
    assert "The answer must be: 8\n" in said and said.endswith(ending)
