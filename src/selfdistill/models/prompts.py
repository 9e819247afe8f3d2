"""Prompts: from turns of a conversation to the token ids that a model sees.

In:  the turns of an example, a reference answer where one is shown, and a tokenizer.
Out: the prompt for distilling, training or evaluating, and the token ids of a response with its end token.

Two formats put a template's texts before a model: `paper` gives them as they stand, `chat` makes the distillation
instruction the user's message and leaves the rest to the model's own chat template. Training and evaluation go through
the same function, so the prompt that a model is trained on is the prompt that it is asked with, token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal

from selfdistill.core.config import PromptSettings
from selfdistill.core.errors import UserError
from selfdistill.core.turns import Turn
from selfdistill.models.templates import Template, fill, load_template
from selfdistill.models.tool_turns import PROBE, Ability, ability_of, messages

Tools = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Prompter:
    """Turns conversations into prompts for one tokenizer, one format and one template.

    `tokenizer` is a transformers tokenizer, or None where the model is behind an endpoint that applies its own chat
    template: prompts then have no token ids. A chat format needs `tokenizer.chat_template`; without one, build with
    `Prompter.create`, which falls back to `paper` and says so. `asks_form` puts the template's evaluation text into
    the chat format, too, where it asks for a form of answer that training does not (Figure 13).
    """

    tokenizer: Any
    format: Literal["chat", "paper"]
    template: Template
    asks_form: bool = False

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
        return cls(tokenizer, format, load_template(settings.template))

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

    def train(self, turns: Sequence[Turn], tools: Tools = ()) -> Prompt:
        """The prompt of the training context c, x (Equations 2 and 5)."""
        return self._prompt(turns, self.template.train, tools)

    def evaluate(self, turns: Sequence[Turn], tools: Tools = ()) -> Prompt:
        """The prompt that asks the model; the same as for training, but for the math template (Figure 13)."""
        return self._prompt(turns, self.template.evaluate, tools, wrap=self.asks_form)

    def response(self, text: str) -> list[int]:
        """Ids of a response and its end token."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end_id]

    def answer(self, prompt: Prompt, turn: Turn) -> list[int]:
        """Ids of an assistant's turn behind a prompt, and its end token. Calls are in the chat template's form, or as
        the seed LM wrote them."""
        if "tool_calls" not in turn or "written" in turn:
            return self.response(turn.get("written", turn["content"]))
        return self.rendered(prompt, turn)

    def rendered(self, prompt: Prompt, turn: Turn) -> list[int]:
        """Ids of a turn as the chat template writes it behind a prompt, with the token that ends it there. Raises
        UserError where the template writes the turn otherwise than the prompt for it begins."""
        begun = self._render(prompt.turns, True, prompt.tools)
        whole = self._render((*prompt.turns, turn), False, prompt.tools)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(begun, whole, strict=False)))
        if begun[common:].strip():
            raise UserError(
                f"the model's chat template opens an answer with {begun[common:]!r}, and writes a turn that calls "
                f"tools without that ({whole[common : common + 40]!r}): what trains would not be what is asked."
            )
        ids = list(self.tokenizer(whole[common:], add_special_tokens=False)["input_ids"])
        last = max((n for n, id in enumerate(ids) if id in self._special), default=None)
        if last is not None and not self.tokenizer.decode(ids[last + 1 :]).strip():
            return ids[: last + 1]
        # Some templates leave the end to the heading of what follows, which is then what the model writes.
        followed = self._render((*prompt.turns, turn, Turn(role="tool", content="x")), False, prompt.tools)
        after = self.tokenizer(followed.removeprefix(whole), add_special_tokens=False)["input_ids"]
        ended = followed.startswith(whole) and after and after[0] in self._special
        return [*ids, after[0] if ended else self.end_id]

    @property
    def call_ends(self) -> set[int]:
        """The token that ends a turn that calls tools, which some templates end otherwise; none where they write no
        calls."""
        if not (self.in_chat and self.tokenizer and self.ability.calls):
            return set()
        asked, called = PROBE
        try:
            return {self.rendered(Prompt((), turns=(asked,)), called)[-1]}
        except UserError:
            return set()

    @cached_property
    def ability(self) -> Ability:
        """What the model's chat template can do with tools."""
        return ability_of(lambda asked, tools: self._applied(asked, len(asked) == 1, tools))

    @property
    def _special(self) -> set[int]:
        known = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        return known | set(self.tokenizer.all_special_ids)

    @property
    def end_id(self) -> int:
        """The token that ends an assistant's turn: what the chat template writes there, else the EOS token."""
        if self.in_chat:
            mark = "\x00selfdistill\x00"
            turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
            after = self._render(turns, False).partition(mark)[2]
            ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
            special = [i for i in ids if i in self._special]
            if special:
                return int(special[0])
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no EOS token, so no response could end. Set eos_token in its config.")
        return int(self.tokenizer.eos_token_id)

    @property
    def in_chat(self) -> bool:
        """Whether prompts stand in the model's own chat template."""
        can = self.tokenizer is None or bool(self.tokenizer.chat_template)
        return can and (self.format == "chat" or self.template.in_chat)

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
        before, last, after = turns[:at], turns[at], turns[at + 1 :]  # calls, and what tools gave back, stand behind it
        values = {"instruction": last["content"]} | ({} if reference is None else {"reference": reference})
        if self.in_chat:
            content = last["content"]
            if wrap or reference is not None or self.format == "paper":
                content = fill("\n\n".join(filter(None, (intro, turn))), **values)
            asked = (*before, Turn(role="user", content=content), *after)
            ids = self._tokens(lambda: self._render(asked, True, tools) + prefill, special=False)
            return Prompt(ids, prefill, asked, tuple(tools))
        text = self._plain(before, intro, fill(turn, **values)) + prefill
        return Prompt(self._tokens(lambda: text, special=True), text)

    def _tokens(self, text: Callable[[], str], special: bool) -> tuple[int, ...]:
        """Ids of a text. A chat template writes the special tokens itself."""
        if self.tokenizer is None:
            return ()
        return tuple(self.tokenizer(text(), add_special_tokens=special)["input_ids"])

    def _applied(self, asked: list[Any], generate: bool, tools: list[Any] | None) -> str:
        return str(
            self.tokenizer.apply_chat_template(asked, tools=tools, tokenize=False, add_generation_prompt=generate)
        )

    def _render(self, turns: Sequence[Any], generate: bool, tools: Tools = ()) -> str:
        """The chat template's text. Raises UserError where the template refuses the turns (some know no system)."""
        import jinja2

        plain = not tools and all(turn.keys() <= {"role", "content"} for turn in turns)
        try:
            return self._applied(list(turns) if plain else messages(turns, self.ability), generate, list(tools) or None)
        except (jinja2.TemplateError, TypeError) as error:  # the latter of a text that is put together with an object
            roles = ", ".join(t["role"] for t in turns)
            raise UserError(
                f"the model's chat template refuses a conversation of the turns {roles}: {error}. Remove what it does "
                'not know from the data, or use format = "paper".'
            ) from None

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


@dataclass(frozen=True)
class Prompt:
    """One prompt in the forms that engines take.

    `ids` are its tokens; none where no tokenizer is here. `turns` is the conversation before the model's own chat
    template, `text` what follows it (it opens the assistant's turn); without turns, `text` is the whole prompt. `tools`
    are those that the model may call.
    """

    ids: tuple[int, ...]
    text: str = ""
    turns: tuple[Turn, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
