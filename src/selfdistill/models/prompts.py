"""Prompts: from turns of a conversation to the token ids that a model sees.

In:  the turns of an example, a reference answer where one is shown, and a tokenizer.
Out: the prompt for distilling, training or evaluating, and the token ids of a response with its end token.

Two formats put a template's texts before a model: `paper` gives them as they stand, `chat` makes the distillation
instruction the user's message and leaves the rest to the model's own chat template. Training and evaluation go through
the same function, so the prompt that a model is trained on is the prompt that it is asked with, token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from selfdistill.core.config import PromptSettings
from selfdistill.core.turns import Turn
from selfdistill.models.chat import ChatTemplate, Tools, eos_of
from selfdistill.models.templates import RETRY, Template, fill, load_template
from selfdistill.models.thoughts import answer_of, joined, opened_by, split


@dataclass(frozen=True)
class Prompter:
    """Turns conversations into prompts for one tokenizer, one format and one template.

    `tokenizer` is a transformers tokenizer, or None where the model is behind an endpoint that applies its own chat
    template: prompts then have no token ids. A chat format needs `tokenizer.chat_template`; without one, build with
    `Prompter.create`, which falls back to `paper` and says so. `asks_form` puts the template's evaluation text into
    the chat format, too, where it asks for a form of answer that training does not (Figure 13). `settings` hold what
    the chat template is given, and what becomes of thoughts; format and template are those beside them.
    """

    tokenizer: Any
    format: Literal["chat", "paper"]
    template: Template
    asks_form: bool = False
    settings: PromptSettings = field(default_factory=PromptSettings)

    @classmethod
    def create(
        cls, tokenizer: Any, settings: PromptSettings | None = None, warn: Callable[[str], None] | None = None
    ) -> Prompter:
        """Load the template by name; where `chat` is asked for and the model has no chat template, use `paper`."""
        settings = settings or PromptSettings()
        format: Literal["chat", "paper"] = settings.format
        if format == "chat" and tokenizer is not None and not tokenizer.chat_template:
            format = "paper"
            if warn:
                warn(
                    "the model has no chat template, so it may be a base model: prompts fall back to the paper's "
                    "format. Base models rewrite poorly; expect a low yield."
                )
        return cls(tokenizer, format, load_template(settings.template), settings=settings)

    def for_task(self, template: str | None) -> Prompter:
        """The prompter of a task that names its own template; None leaves things as they are."""
        if template is None:
            return self
        named = load_template(template)
        return replace(self, template=named, asks_form=named.evaluate != named.train)

    def distill(self, turns: Sequence[Turn], reference: str, tools: Tools = ()) -> Prompt:
        """The prompt that asks for a rewrite of `reference`, the answer to the last user turn (Equation 3)."""
        parts = self.template.intro, self.template.turn
        return self._prompt(turns, parts, tools, reference, self.template.prefill)

    def retry(self, turns: Sequence[Turn], reference: str | None, wrong: str, answer: str, tools: Tools = ()) -> Prompt:
        """The prompt that shows the seed LM its `wrong` rewrite of `reference` and the `answer` that must stand in it:
        what asked for that rewrite, the rewrite, and the request for another one. Without a reference, `wrong` is an
        answer of the seed LM's own, to the prompt for training."""
        asked = self.train(turns, tools) if reference is None else self.distill(turns, reference, tools)
        prefill, again = "" if reference is None else self.template.prefill, fill(RETRY, answer=answer)
        if asked.turns:
            said = [*asked.turns, Turn(role="assistant", content=asked.text + wrong), Turn(role="user", content=again)]
            return self._prompt(said, ("", "{instruction}"), tools, prefill=prefill)
        blocks = asked.text + wrong, fill(self.template.train[1], instruction=again) + self.template.heading
        text = "\n\n".join(blocks)
        return Prompt(() if self.tokenizer is None else self._tokens(text, special=True), text)

    def train(self, turns: Sequence[Turn], tools: Tools = ()) -> Prompt:
        """The prompt of the training context c, x (Equations 2 and 5)."""
        return self._prompt(turns, self.template.train, tools)

    def evaluate(self, turns: Sequence[Turn], tools: Tools = ()) -> Prompt:
        """The prompt that asks the model; the same as for training, but for the math template (Figure 13)."""
        return self._prompt(turns, self.template.evaluate, tools, wrap=self.asks_form)

    def on(self, day: str | None) -> Prompter:
        """The same, with this day as the date that the chat template writes, unless the settings name one."""
        if self.settings.date or day is None:
            return self
        return replace(self, settings=self.settings.model_copy(update={"date": day}))

    def response(self, text: str, ends: bool = True) -> list[int]:
        """Ids of a response and of what ends it (unless it was cut off), as they go on behind the prompt for training.
        Thoughts before the answer are left out, but for `thinking = "keep"`."""
        thought, answer, _ = split(text)
        keeps = self.settings.thinking == "keep" and thought is not None
        if not self.in_chat:
            return [*self._ids(text if keeps else answer), *([self.end_id] if ends else [])]
        form = self.chat.form
        answer = answer.strip() if form.trims else answer
        before = f"{form.before}{thought}{form.behind}" if keeps else form.opening
        return [*self._ids(before + answer), *(form.end if ends else ())]

    def answer(self, prompt: Prompt, turn: Turn) -> list[int]:
        """Ids of an assistant's turn behind a prompt, and its end token. Calls are in the chat template's form, or as
        the seed LM wrote them."""
        if "tool_calls" in turn and "written" not in turn:
            return self.chat.called(prompt.turns, turn, prompt.tools)
        text = turn.get("written", turn["content"])
        return self.response(joined(turn.get("reasoning"), text))

    @property
    def call_ends(self) -> set[int]:
        """The token that ends a turn that calls tools, which some templates end otherwise; none where they write no
        calls."""
        return self.chat.call_ends if self.in_chat and self.tokenizer else set()

    @property
    def end_id(self) -> int:
        """The token that ends an assistant's turn: what the chat template writes there, else the EOS token."""
        if self.in_chat:
            end = self.chat.form.end
            return next((token for token in end if token in self.chat.special), end[-1])
        return eos_of(self.tokenizer)

    @property
    def in_chat(self) -> bool:
        """Whether prompts go through a chat template."""
        can = self.tokenizer is None or bool(self.tokenizer.chat_template)
        return can and (self.format == "chat" or self.template.in_chat)

    @cached_property
    def chat(self) -> ChatTemplate:
        """The tokenizer's chat template, with what it is given."""
        return ChatTemplate(self.tokenizer, self.settings)

    def identity(self) -> dict[str, Any]:
        """What decides prompts and responses beside format and texts, for records: {"prompt": {...}}, or {} where
        nothing is asked of the chat template and it asks for nothing."""
        settings, said = self.settings, dict[str, Any]()
        variables = settings.chat_template_kwargs
        if self.tokenizer is not None and self.in_chat:
            variables = self.chat.kwargs
            if self.chat.writes_date:
                said["date"] = settings.date
        if variables:
            said["chat_template_kwargs"] = variables
        if settings.thinking != "off":
            said["thinking"] = settings.thinking
        if settings.thinking_tokens:
            said["thinking_tokens"] = settings.thinking_tokens
        return {"prompt": said} if said else {}

    def _prompt(
        self,
        turns: Sequence[Turn],
        parts: tuple[str, str],
        tools: Tools,
        reference: str | None = None,
        prefill: str = "",
        wrap: bool = False,
    ) -> Prompt:
        intro, turn = parts
        at = max(n for n, turn in enumerate(turns) if turn["role"] == "user")
        # Calls, and what tools gave back, stand behind the question.
        *before, last = (_said(turn) for turn in turns[: at + 1])
        after = [_said(turn) for turn in turns[at + 1 :]]
        values = {"instruction": last["content"]}
        if reference is not None:
            values["reference"] = answer_of(reference) or reference
        if self.in_chat:
            content = last["content"]
            if wrap or reference is not None or self.format == "paper":
                content = fill("\n\n".join(filter(None, (intro, turn))), **values)
            asked = (*before, Turn(role="user", content=content), *after)
            if self.tokenizer is None:
                return Prompt((), prefill, asked, tuple(tools), self.settings.chat_template_kwargs)
            # What opens the answer stands behind the thoughts, so that it leaves no room for any.
            text = self.chat.prompt(asked, tools) + (self.chat.form.opening + prefill if prefill else "")
            return Prompt(self._tokens(text, special=False), prefill, asked, tuple(tools), opened=opened_by(text))
        text = self._plain(before, intro, fill(turn, **values)) + prefill
        return Prompt(() if self.tokenizer is None else self._tokens(text, special=True), text)

    def _tokens(self, text: str, special: bool) -> tuple[int, ...]:
        """Ids of a text. A chat template writes the special tokens itself."""
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _ids(self, text: str) -> list[int]:
        return list(self._tokens(text, special=False))

    def _plain(self, before: Sequence[Turn], intro: str, last: str) -> str:
        """The paper's text: system text, intro, earlier turns in the form of Figure 10, the last turn, the heading."""
        plain_turn, heading = self.template.train[1], self.template.heading
        blocks = [turn["content"] for turn in before if turn["role"] == "system"] + ([intro] if intro else [])
        for turn in before:
            if turn["role"] == "user":
                blocks.append(fill(plain_turn, instruction=turn["content"]) + heading)
            elif turn["role"] == "assistant":
                blocks[-1] += turn["content"]
        return "\n\n".join([*blocks, last + heading])


def _said(turn: Turn) -> Turn:
    """A turn as a later one sees it: without thoughts, as chat templates have it."""
    if turn["role"] != "assistant" or (answer := answer_of(turn["content"])) == turn["content"]:
        return turn
    return {**turn, "content": answer}


@dataclass(frozen=True)
class Prompt:
    """One prompt in the forms that engines take.

    `ids` are its tokens; none where no tokenizer is here. `turns` is the conversation before the model's own chat
    template, `text` what follows it (it opens the assistant's turn); without turns, `text` is the whole prompt. `tools`
    are those that the model may call, `variables` those that an endpoint's chat template is given. `opened` is the
    marker by which the prompt opens a thought that the response begins in.
    """

    ids: tuple[int, ...]
    text: str = ""
    turns: tuple[Turn, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    opened: str = ""
