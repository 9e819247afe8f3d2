"""The model's own chat template: what it is asked with, and how it writes an answer.

In:  a tokenizer with a chat template, and the settings of `[prompt]`.
Out: texts of conversations, and a `Form`: what stands between the prompt and an answer, around a thought, and behind
     the answer, so that prompt + answer + end is the template's own text.

Templates differ in what they know: some write today's date, some open a thought in the prompt, some have a switch for
thoughts, some know no system turn, some want contents as parts. All of that is found by rendering a marked
conversation, never by the model's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

from selfdistill.core.config import PromptSettings
from selfdistill.core.dates import today
from selfdistill.core.errors import UserError
from selfdistill.core.turns import Turn
from selfdistill.models.thoughts import PAIRS, closed, joined, markers_only, opened_by
from selfdistill.models.tool_turns import PROBE, Ability, ability_of, messages

Tools = Sequence[dict[str, Any]]
"""Tools that a model may call, as JSON schemas."""

MARK, THOUGHT = "\x00answer\x00", "\x00thought\x00"
"""What stands in place of an answer and a thought. No template trims a zero byte."""

SWITCHES: dict[str, tuple[bool, bool]] = {"enable_thinking": (False, True), "thinking": (False, True)}
"""Variables by which templates ask for answers without thoughts, or with: Qwen, GLM, Gemma, Nemotron, SmolLM, and
DeepSeek, Granite."""
EFFORTS = ("reasoning_effort", "reasoning_strength")
"""Variables of templates that know how much thought, not whether (gpt-oss, Muse Glimmer)."""
LITTLE = ("low", "none")

_NOW = re.compile(r"""\bstrftime_now\(\s*(?:(['"])(.*?)\1\s*\))?""")


@dataclass(frozen=True)
class Form:
    """How a template goes on behind its own prompt for an answer.

    `tail` is what the prompt needs besides, so that no thought stays open in it; `opening` stands before an answer
    without a thought, `before` and `behind` around a thought. `end` are the tokens behind the answer, the one that ends
    the turn among them. `trims`: the template leaves out the answer's outer white space. `thinks`: it knows thoughts.
    """

    tail: str
    opening: str
    before: str
    behind: str
    end: tuple[int, ...]
    trims: bool
    thinks: bool


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with the settings that it is rendered with."""

    tokenizer: Any
    settings: PromptSettings

    # --- what it knows -----------------------------------------------------------------------------------------------

    @cached_property
    def _own(self) -> str:
        return str(self.tokenizer.get_chat_template())

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template does not set itself everywhere: what it may be given, and a few of its own."""
        return _variables(self._own)

    @property
    def writes_date(self) -> bool:
        """Whether the template asks for today's date."""
        return _NOW.search(self._own) is not None

    @cached_property
    def switch(self) -> dict[str, Any]:
        """What the `thinking` of the settings is in the template's own variables; empty where it has none."""
        off = self.settings.thinking == "off"
        if known := {name: values[not off] for name, values in SWITCHES.items() if name in self.variables}:
            return known
        for name in EFFORTS if off else ():
            for value in LITTLE if name in self.variables else ():
                if self._try([_USER], True, {name: value}) is not None:
                    return {name: value}
        return {}

    @cached_property
    def kwargs(self) -> dict[str, Any]:
        """The variables that the template is rendered with. The user's own go before what `thinking` says."""
        return self.switch | self.settings.chat_template_kwargs

    @cached_property
    def knows_system(self) -> bool:
        """Whether a system turn comes through."""
        turns = [{"role": "system", "content": MARK}, _USER]
        return MARK in (self._try(_in_parts(turns) if self._parts else turns, True, self.kwargs) or "")

    @cached_property
    def _parts(self) -> bool:
        """Whether contents must be lists of parts, as templates for images have them: texts do not come through."""
        turns = [{"role": "user", "content": MARK}]
        if MARK in (self._try(turns, True, self.kwargs) or ""):
            return False
        return MARK in (self._try(_in_parts(turns), True, self.kwargs) or "")

    # --- rendering ---------------------------------------------------------------------------------------------------

    def prompt(self, turns: Sequence[Turn], tools: Tools = ()) -> str:
        """The text that asks for an answer. Raises UserError where the template refuses the turns."""
        return self.render(turns, True, tools) + self.form.tail

    def render(self, turns: Sequence[Turn], generate: bool, tools: Tools = (), thought: str | None = None) -> str:
        """The template's text, with the `thought` of the last turn. A system turn that it does not know begins the
        first user's. Raises UserError where the template refuses the turns."""
        import jinja2

        plain = not tools and all(turn.keys() <= {"role", "content"} for turn in turns)
        asked: Sequence[Mapping[str, Any]] = turns if plain else messages(turns, self.ability, thought)
        try:
            return self._render(self._shaped(asked), generate, self.kwargs, tools)
        except (jinja2.TemplateError, TypeError) as error:
            raise UserError(
                f"the model's chat template refuses a conversation of the turns {roles_of(turns)}: {error}. Remove "
                'what it does not know from the data, or use prompt.format = "paper".'
            ) from None

    def _shaped(self, turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        shaped = list(turns)
        if turns[0]["role"] == "system" and not self.knows_system:
            shaped = folded(turns)
        return _in_parts(shaped) if self._parts else shaped

    def _render(
        self, turns: Sequence[Mapping[str, Any]], generate: bool, variables: Mapping[str, Any], tools: Tools = ()
    ) -> str:
        more = {"chat_template": self._dated} if self.writes_date else {}
        return str(
            self.tokenizer.apply_chat_template(
                list(turns), list(tools) or None, tokenize=False, add_generation_prompt=generate, **more, **variables
            )
        )

    def _try(self, turns: Sequence[Mapping[str, Any]], generate: bool, variables: Mapping[str, Any]) -> str | None:
        """The template's text, or None where it refuses."""
        import jinja2

        try:
            return self._render(turns, generate, variables)
        except (jinja2.TemplateError, TypeError):
            return None

    @cached_property
    def _dated(self) -> str:
        """The template with a day in place of today's. transformers gives templates no functions of ours, so that a
        macro of the same name stands before the template, with the day in every form that it asks for."""
        day = date.fromisoformat(self.settings.date or today())
        forms = dict.fromkeys(m[2] for m in _NOW.finditer(self._own) if m[2])
        cases = "".join(f"{{% if form == {form!r} %}}{{{{ {day.strftime(form)!r} }}}}{{% else %}}" for form in forms)
        said = f"{cases}{{{{ {day.isoformat()!r} }}}}" + "{% endif %}" * len(forms)
        return f"{{% macro strftime_now(form) %}}{said}{{% endmacro %}}\n{self._own}"

    # --- tools -------------------------------------------------------------------------------------------------------

    @cached_property
    def ability(self) -> Ability:
        """What the template can do with tools."""
        return ability_of(
            lambda asked, tools: self._render(self._shaped(asked), len(asked) == 1, self.kwargs, tools or ())
        )

    def called(self, turns: Sequence[Turn], turn: Turn, tools: Tools) -> list[int]:
        """Ids of a turn that calls tools, as the template writes it behind the prompt, with the token that ends it
        there. Raises UserError where the template writes the turn otherwise than the prompt for it begins."""
        thought = turn.get("reasoning") if self.settings.thinking == "keep" else None
        begun, whole = self.prompt(turns, tools), self.render((*turns, turn), False, tools, thought)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(begun, whole, strict=False)))
        left, opening = begun[common:], ""
        if left.strip():
            if not markers_only(left):
                raise UserError(
                    f"the model's chat template opens an answer with {left!r}, and writes a turn that calls tools "
                    f"without that ({whole[common : common + 40]!r}): what trains would not be what is asked."
                )
            opening = self.form.opening  # the prompt opens a thought, and the call stands there without one
        ids = self._ids(opening + whole[common:])
        last = max((n for n, id in enumerate(ids) if id in self.special), default=None)
        if last is not None and not self.tokenizer.decode(ids[last + 1 :]).strip():
            return ids[: last + 1]
        # Some templates leave the end to the heading of what follows, which is then what the model writes.
        followed = self.render((*turns, turn, Turn(role="tool", content="x")), False, tools)
        after = self._ids(followed.removeprefix(whole))
        if followed.startswith(whole) and after and after[0] in self.special:
            return [*ids, after[0]]
        return [*ids, *self.form.end]

    @property
    def call_ends(self) -> set[int]:
        """The token that ends a turn that calls tools; none where the template writes no calls."""
        if not self.ability.calls:
            return set()
        asked, called = PROBE
        try:
            return {self.called([asked], called, ())[-1]}
        except UserError:
            return set()

    # --- the form of an answer ---------------------------------------------------------------------------------------

    @cached_property
    def form(self) -> Form:
        """See `Form`. What a template does not write into an answer is taken as usual: nothing before it, `<think>`
        around a thought, the tokenizer's EOS token behind it."""
        asked = self._shaped([_USER])
        prompt = self._try(asked, True, self.kwargs) or ""
        opened = opened_by(prompt)
        tail = closed(opened) if opened and self.settings.thinking == "off" else ""
        whole, trims = self._answered(asked, MARK), False
        if whole is not None and MARK in whole:
            trims = f" {MARK} " not in (self._answered(asked, f" {MARK} ") or "")
        opening, end = self._around(asked, prompt + tail, "" if tail else opened, whole)
        before, behind, thinks = self._thought(asked, prompt, opened)
        return Form(tail, opening, before, behind, end, trims, thinks or bool(opened) or bool(self.switch))

    def _answered(self, asked: Sequence[Mapping[str, Any]], text: str, **more: Any) -> str | None:
        answer = [{"role": "assistant", "content": text, **more}]
        return self._try([*asked, *(_in_parts(answer) if self._parts else answer)], False, self.kwargs)

    def _around(
        self, asked: Sequence[Mapping[str, Any]], prompt: str, opened: str, whole: str | None
    ) -> tuple[str, tuple[int, ...]]:
        """(what stands between prompt and answer, the tokens behind the answer)."""
        if whole is None or MARK not in whole:
            return closed(opened) if opened else "", self._eos()
        until, _, after = whole.partition(MARK)
        opening = until[len(prompt) :] if until.startswith(prompt) else ""
        if opened and not until.startswith(prompt):
            # The answer stands there without the thought that the prompt has opened, or with an empty one.
            mark, close = opened.strip(), closed(opened).strip()
            opening = until[until.rindex(close) :] if close in until[prompt.rindex(mark) :] else closed(opened)
        # Some tokenizers set a space before a text themselves: then the template's own would be one too many.
        openings = dict.fromkeys((opening.removeprefix(" "), opening))
        ends = dict.fromkeys((self._end(asked, after), self._end(asked, after.lstrip(" "))))
        text = whole.replace(MARK, "Yes")
        tried = [(o, e) for o in openings for e in ends if self._same_tokens(prompt, f"{o}Yes", e, text)]
        return tried[0] if tried else (opening, next(iter(ends)))

    def _same_tokens(self, prompt: str, answer: str, end: tuple[int, ...], whole: str) -> bool:
        """Whether prompt, answer and end make the tokens of the whole text, which may go on behind them."""
        ids = [*self._ids(prompt), *self._ids(answer), *end]
        return bool(ids == self._ids(whole)[: len(ids)])

    def _end(self, asked: Sequence[Mapping[str, Any]], after: str) -> tuple[int, ...]:
        """The tokens behind an answer, up to those special ones that end the turn. Where the template writes none, the
        one that begins the next turn, as in GLM, else the EOS token."""
        special = self.special
        ids = self._ids(after)
        first = next((i for i, token in enumerate(ids) if token in special), None)
        if first is not None:
            last = next((i for i in range(first, len(ids)) if ids[i] not in special), len(ids))
            return tuple(ids[:last])
        longer = self._try(self._shaped([*asked, {"role": "assistant", "content": MARK}, _USER]), True, self.kwargs)
        following = self._ids((longer or "").partition(MARK)[2])[:1]
        if not ids and following and following[0] in special - {self.tokenizer.bos_token_id}:
            return tuple(following)
        return self._eos()

    def _thought(self, asked: Sequence[Mapping[str, Any]], prompt: str, opened: str) -> tuple[str, str, bool]:
        """(what stands before a thought, what between it and the answer, whether the template itself says so)."""
        for text, more in ((MARK, {"reasoning_content": THOUGHT}), (joined(THOUGHT, MARK), {})):
            whole = self._answered(asked, text, **more) or ""
            until, _, after = whole.partition(THOUGHT)
            if MARK in after and until.startswith(prompt) and (more or "</think>" in self._own):
                return until[len(prompt) :], after.partition(MARK)[0], True
        if opened:
            return "", closed(opened), False
        mark = next((begin for begin, end in PAIRS.items() if end in self._own), "<think>")
        return f"{mark}\n", closed(mark), PAIRS[mark] in self._own

    @cached_property
    def special(self) -> frozenset[int]:
        """The ids of the tokenizer's special tokens."""
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(added | set(self.tokenizer.all_special_ids))

    def _eos(self) -> tuple[int, ...]:
        return (eos_of(self.tokenizer),)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


_USER = {"role": "user", "content": "x"}


def eos_of(tokenizer: Any) -> int:
    """The EOS token. Raises UserError where the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token, so no response could end. Set eos_token in its config.")
    return int(tokenizer.eos_token_id)


def roles_of(turns: Sequence[Mapping[str, Any]]) -> str:
    """The roles of a conversation, for a person."""
    return ", ".join(turn["role"] for turn in turns)


def folded(turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The conversation with its system turn as the beginning of the first user's."""
    system, *others = turns
    first = next((n for n, turn in enumerate(others) if turn["role"] == "user"), None)
    if first is None:
        return list(turns)
    said = f"{system['content']}\n\n{others[first]['content']}"
    return [*others[:first], {**others[first], "content": said}, *others[first + 1 :]]


def _in_parts(turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


@lru_cache(maxsize=32)
def _variables(template: str) -> frozenset[str]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _get_template_variables

    try:
        return frozenset(_get_template_variables(template))
    except TemplateError as error:
        raise UserError(
            f'the model\'s chat template is broken: {error}. Mend it, or use prompt.format = "paper".'
        ) from None
