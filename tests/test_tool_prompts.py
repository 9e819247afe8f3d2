"""Prompts and training rows with tools: the chat templates' own renderings, over TRL's templates and Mistral's form."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from test_tool_rows import CALL, TOOLS
from tool_models import MISTRAL, TEMPLATES, template, tokenizer_with

from selfdistill.core.config import PromptSettings
from selfdistill.core.errors import UserError
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn, spoken
from selfdistill.models.prompts import Prompter
from selfdistill.models.tool_turns import in_form
from selfdistill.models.tools_check import require_tools
from selfdistill.training.tokens import sequences

CALLING = Turn(
    role="assistant", content="", tool_calls=[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}]
)
ASKED = (Turn(role="user", content="Weather in Oslo?"),)
KNOW = [
    "diffusion_gemma", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "glm4moe", "gptoss", "lfm2_2_5",
    "lfm2_2_5_v2", "lfm2_2_5_vl", "lfm2_v2", "llama3_1", "llama3_2", "muse_glimmer", "nemotron_3_5_lightning",
    "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "qwen2_5", "qwen3", "qwen3_5_nothink", "qwen3_5_think",
    "qwen3_6", "qwen3_8", "qwen3_instruct_2507", "qwen3_vl",
]  # fmt: skip
"""Those of TRL's templates that write tools and calls."""
OTHERWISE = ("glm4moe", "nemotron")
"""Templates that open a thought in the prompt otherwise than they write an empty one: a row closes what is open."""


@cache
def prompter_of(name):
    return Prompter.create(tokenizer_with(MISTRAL if name == "mistral" else template(name)))


def example(*turns, reference="It is sunny.", tools=TOOLS, answer=None):
    return Example(
        id="r",
        prompt=turns,
        reference=spoken(answer) if answer else reference,
        task="",
        tools=tuple(tools),
        answer=answer,
    )


def rendered(prompter, turns, tools=TOOLS):
    return prompter.tokenizer(prompter.chat.render(turns, False, tools), add_special_tokens=False)["input_ids"]


@pytest.mark.heavy
def test_every_template_says_what_it_can_do():
    names = {file.stem for file in TEMPLATES.glob("*.jinja") if not file.stem.endswith("_training")}
    able = {name: prompter_of(name).chat.ability for name in sorted(names)}
    assert [name for name, a in able.items() if a.tools and a.calls] == KNOW
    assert able["lfm2"].tools and not able["lfm2"].calls  # it drops calls without a word
    assert able["deepseekv3"].text_arguments and not able["deepseekv3"].tools
    mistral = prompter_of("mistral").chat.ability
    assert (mistral.tools, mistral.calls, mistral.text_arguments, mistral.any_ids) == (True, True, False, False)


@pytest.mark.parametrize("name", [*KNOW, "mistral"])
def test_a_turn_that_calls_trains_as_the_template_writes_it(name):
    prompter = prompter_of(name)
    prompt = prompter.train(ASKED, TOOLS)
    ids = [*prompt.ids, *prompter.answer(prompt, CALLING)]
    whole = rendered(prompter, (*ASKED, CALLING))
    if name.startswith(OTHERWISE):
        text = prompter.tokenizer.decode(ids)
        assert "get_weather" in text and "Oslo" in text and text.count("<think>") == text.count("</think>") == 1
    else:
        assert ids == whole[: len(ids)] and not prompter.tokenizer.decode(whole[len(ids) :]).strip()
    assert ids[-1] in prompter.chat.special
    assert prompter.answer(prompt, CALLING)[-1] in prompter.call_ends
    assert "city" in prompter.tokenizer.decode(prompt.ids)  # the tools are in sight
    assert ids[: len(prompt.ids)] == list(prompt.ids)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_instruct_2507", "llama3_1", "lfm2_2_5", "gemma4", "mistral"])
def test_a_conversation_with_calls_and_results_is_the_templates_own_text(name):
    prompter = prompter_of(name)
    row = example(*ASKED, CALLING, Turn(role="tool", content="sunny"))
    turns = row.with_responses(row.references)
    made = sequences(row, row.references, prompter)
    whole = rendered(prompter, turns)
    last, labels = made[-1]
    assert last == whole[: len(last)]
    trained = prompter.tokenizer.decode([t for t in labels if t != -100])
    assert "It is sunny." in trained and "Weather in Oslo" not in trained and '"sunny"' not in trained
    if len(made) == 1:
        assert "get_weather" in trained


def training_templates():
    for name in KNOW:
        if (TEMPLATES / f"{name}_training.jinja").is_file() and not name.startswith(("diffusion", "muse")):
            yield name
    yield from ("lfm2_2_5", "lfm2_2_5_v2")  # have the marks themselves


@pytest.mark.parametrize("name", training_templates())
def test_masks_are_those_of_trls_assistant_masks(name):
    """But for what the prompt has already opened (a heading, a thought) and white space behind the end token, which
    some families mark."""
    prompter = prompter_of(name)
    marked = template(f"{name}_training") if (TEMPLATES / f"{name}_training.jinja").is_file() else template(name)
    prompt = prompter.train(ASKED, TOOLS)
    messages = [
        dict(ASKED[0]),
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]},
    ]
    theirs = prompter.tokenizer.apply_chat_template(
        messages, tools=TOOLS, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    decode = prompter.tokenizer.decode
    mask = [t for t, kept in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True) if kept]
    ours, marks = decode(prompter.answer(prompt, CALLING)), decode(mask).rstrip()
    assert marks.endswith(ours)
    assert decode(prompt.ids).rstrip().endswith(marks.removesuffix(ours).rstrip())


@pytest.mark.parametrize(
    ("name", "part"),
    [("gemma3", "writes none into the prompt"), ("lfm2", "leaves calls out"), ("llama3_1", "single tool")],
)
def test_a_template_that_cannot_show_tools_is_found_before_anything_is_made(name, part):
    double = Turn(role="assistant", content="", tool_calls=[*CALLING["tool_calls"]] * 2)
    rows = [example(*ASKED, double, Turn(role="tool", content="a"), Turn(role="tool", content="b"))]
    with pytest.raises(UserError, match=part) as caught:
        require_tools(prompter_of(name), rows, "data")
    assert "\n" not in str(caught.value) and "r" in str(caught.value)
    require_tools(prompter_of(name), [example(*ASKED, tools=())], "data")


def test_the_papers_text_has_no_place_for_tools():
    paper = Prompter.create(prompter_of("qwen2_5").tokenizer, PromptSettings(format="paper"))
    with pytest.raises(UserError, match="paper's text"):
        require_tools(paper, [example(*ASKED)], "data")


def test_ids_and_names_lead_from_calls_to_results():
    calls = [{"name": "a", "arguments": {}, "id": "call_long_1"}, {"name": "b", "arguments": {}, "id": "call_long_2"}]
    turns = (*ASKED, Turn(role="assistant", content="", tool_calls=calls),
             Turn(role="tool", content="of b", tool_call_id="call_long_2"), Turn(role="tool", content="of a"))  # fmt: skip
    text = prompter_of("mistral").chat.render(turns, True, TOOLS)
    assert '"name": "b", "arguments": {}, "id": "call00002"' in text
    assert (
        '{"content": "of b", "call_id": "call00002"}' in text and '{"content": "of a", "call_id": "call00001"}' in text
    )
    harmony = prompter_of("gptoss").chat.render((*ASKED, CALLING, Turn(role="tool", content="x")), True, TOOLS)
    assert "functions.get_weather to=assistant" in harmony


def test_a_rewrite_of_a_text_behind_results_is_asked_in_the_users_turn():
    prompter = prompter_of("qwen2_5")
    turns = [*ASKED, CALLING, Turn(role="tool", content="sunny")]
    prompt = prompter.distill(turns, "It is sunny.", TOOLS)
    text = prompter.tokenizer.decode(prompt.ids)
    assert text.index("Reference Answer") < text.rindex("<tool_call>\n{") < text.index("<tool_response>")
    assert prompt.turns[1:] == tuple(turns[1:]) and prompt.tools == tuple(TOOLS)


QWEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (QWEN, ""),
        (f"I look.\n{QWEN}", "I look."),
        (f"<think>hm</think>\n{QWEN}", ""),
        ('<tool_call>{"name":"get_weather","arguments":{"days":2,"city":"Oslo"}}</tool_call>', ""),
        ('{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}', None),
        ('get_weather(city="Oslo", days=2)', None),
        (f"{QWEN} That is the call.", None),
        (f"```\n{QWEN}\n```", None),
    ],
)
def test_a_call_is_in_form_where_a_server_would_take_it(text, words):
    assert in_form(text, QWEN, CALLING["tool_calls"]) == words


@pytest.mark.parametrize("name", ["qwen3", "gptoss"])
def test_a_thought_before_a_call_trains_only_where_thoughts_are_kept(name):
    thinking = {**CALLING, "reasoning": "Oslo it is."}
    for setting, trains in (("off", False), ("strip", False), ("keep", True)):
        prompter = replace(prompter_of(name), settings=PromptSettings(thinking=setting))
        prompt = prompter.train(ASKED, TOOLS)
        said = prompter.tokenizer.decode(prompter.answer(prompt, thinking))
        assert ("Oslo it is." in said) is trains and "get_weather" in said
        if trains:
            whole = prompter.chat.render((*ASKED, thinking), False, TOOLS, "Oslo it is.")
            assert whole.startswith(prompter.chat.prompt(ASKED, TOOLS) + said[:20])
