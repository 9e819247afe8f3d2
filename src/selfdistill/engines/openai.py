"""The openai engine: the seed LM behind any OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, Ollama, hosted).

In:  requests, drawn while earlier ones are in flight: `concurrency` at a time, and a few that wait their turn.
Out: completions as they arrive. A prompt with turns goes to /chat/completions, one without to /completions.

A passing fault (429, 5xx, a lost connection, no reply in time, a broken or cut off body) is tried again, `max_retries`
times in all; then the row is an "error", to be asked again another day. What the server refuses for the row's own sake
(400, 413, 422, a content filter) is "rejected". What holds for every row stops with a UserError: a wrong key, an
unknown model, a server that is not there, many errors in a row, settings that are refused from the very first row on.

An opened reply (`Prompt.text` behind turns) is sent as a last message of the assistant with `continue_final_message`.
vLLM, SGLang, TGI and llama.cpp (since May 2026) know it; older llama.cpp, LMDeploy and Ollama continue such a message
anyway, Ollama only where the model's template leaves it open. OpenAI, Anthropic and `transformers serve` refuse the
request. A server that takes it and starts a new turn instead cannot be told from here: try one row first.

Thoughts come apart from the answer (`reasoning_content`, `reasoning`) or in its text. `prompt.chat_template_kwargs` are
sent as they are set, and nothing else is asked of the server's chat template: OpenAI refuses a field that it does not
know, and no server says what its template knows.

What a request leaves out, the server fills in, often from the model's generation_config.json (top_k, repetition
penalty): docs say how to start each server without that.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Any, Literal
from weakref import WeakSet

from pydantic import BaseModel, Field, ValidationError, model_validator

from selfdistill.core.endpoint import connection, explain, not_there, plain, said, where
from selfdistill.core.engine_settings import OpenAISettings
from selfdistill.core.errors import UserError
from selfdistill.core.turns import ToolCall, Turn, spoken
from selfdistill.engines.protocol import Completion, Request, Score, Scoring, before_stop
from selfdistill.models.thoughts import Parts, split
from selfdistill.models.tool_turns import Ability, messages

LOOKAHEAD = 8
"""Requests drawn beyond those in flight, so that the server has work while the caller handles a completion."""

HOPELESS = 20
"""So many errors in a row, or refusals in the same words before any answer, are no longer the rows' fault."""

ROW_STATUS = {400, 413, 422}
PASSING_STATUS = {408, 409, 429}


class OpenAIEngine:
    """Asks an endpoint that serves the seed LM. Nothing is connected before the first completion is drawn, and nothing
    stays open when the last one was, or when the caller stops.

    Raises UserError if the `openai` package or the key is missing.
    """

    scores_tokens = False

    def __init__(self, settings: OpenAISettings) -> None:
        self.settings = settings
        self.tuned: str | None = None
        self._answered = False  # the endpoint has answered a request with these settings
        self._streams: WeakSet[Generator[Completion]] = WeakSet()
        connection(settings, "engine")  # what is missing is said now, not after the data is read

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Each request answered once, as the answers arrive. Closing the iterator cancels what is in flight.

        Raises UserError for what holds for every row; all completions that were there before have been yielded.
        """
        stream = self._stream(requests)
        self._streams.add(stream)
        return stream

    def score(self, batches: Iterable[Sequence[Scoring]]) -> Iterator[list[Score]]:
        """None for every item: there is no portable way to ask an endpoint for the likelihood of a given text."""
        for batch in batches:
            yield [Score(item.id, None) for item in batch]

    def adapter(self, path: str | None) -> AbstractContextManager[None]:
        """Within this block the endpoint is asked for `adapter_model`, under which it serves the adapter at `path`;
        None is the seed LM itself. Raises UserError for an adapter where that is not set."""
        if path is not None and self.settings.adapter_model is None:
            raise UserError(
                f"adapter {path}: the {where(self.settings, 'engine')} serves one model and takes no adapter. Name "
                "what it serves it as (engine.adapter_model), or take another engine, such as transformers or vllm."
            )
        return self._answering_with(path)

    @contextmanager
    def _answering_with(self, path: str | None) -> Iterator[None]:
        before, self.tuned = self.tuned, path
        try:
            yield
        finally:
            self.tuned = before

    def describe(self) -> dict[str, Any]:
        """The engine's name and the model. Not the URL: a server may move between a run and its resume."""
        return {"name": "openai", "model": self.settings.model}

    def close(self) -> None:
        """Cancel what is in flight and close the connections."""
        for stream in tuple(self._streams):
            stream.close()

    def _stream(self, requests: Iterable[Request]) -> Generator[Completion]:
        """The arrivals, watched for what makes going on useless."""
        held: list[Completion] = []
        failed = 0
        with closing(self._arrivals(requests)) as arrivals:
            for completion in arrivals:
                held.append(completion)
                if completion.finish_reason == "rejected" and not self._answered and len(held) < HOPELESS:
                    continue  # it may be the settings that are refused, not the row: such a row must not count as done
                if len(held) == HOPELESS and _same_words(held):
                    self._give_up("the first {} requests were refused in the same words, the last", completion)
                yield from held
                held.clear()
                failed = failed + 1 if completion.finish_reason == "error" else 0
                if failed == HOPELESS:
                    self._give_up("{} requests in a row failed, the last", completion)
        if len(held) > 1 and _same_words(held):
            self._give_up("all {} requests were refused in the same words, the last", held[-1], len(held))
        yield from held

    def _give_up(self, what: str, last: Completion, count: int = HOPELESS) -> None:
        hint = (
            f"Check model = {self.settings.model!r}, max_tokens_name, stop and whether it can continue an opened reply"
        )
        todo = "Look at the server's log, and run again" if last.finish_reason == "error" else hint
        raise UserError(f"{where(self.settings, 'engine')}: {what.format(count)} with: {last.error}. {todo}.")

    def _arrivals(self, requests: Iterable[Request]) -> Generator[Completion]:
        """Requests are drawn in the caller's thread, one for each completion that it takes, and answered by tasks of
        an event loop in another thread: the network goes on while the caller works, and a task can be cancelled."""
        import openai
        from anyio.from_thread import start_blocking_portal

        source = iter(requests)
        done: SimpleQueue[Future[Completion]] = SimpleQueue()
        waiting: set[Future[Completion]] = set()
        slots = asyncio.Semaphore(self.settings.concurrency)
        client = openai.AsyncOpenAI(**connection(self.settings, "engine"))
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            try:
                while True:
                    for request in islice(source, self.settings.concurrency + LOOKAHEAD - len(waiting)):
                        future = portal.start_task_soon(self._answer, client, slots, request)
                        waiting.add(future)
                        future.add_done_callback(done.put)
                    if not waiting:
                        return
                    future = done.get()
                    waiting.remove(future)
                    yield future.result()
            finally:
                for future in waiting:
                    future.cancel()

    async def _answer(self, client: Any, slots: asyncio.Semaphore, request: Request) -> Completion:
        """One request, whatever becomes of it. Raises UserError for what holds for every row."""
        import openai

        try:
            async with slots:
                reply = await self._ask(client, request)
        except _Broken as error:
            return _without_text(request, "error", str(error))
        except UnicodeEncodeError as error:
            return _without_text(request, "rejected", f"the prompt cannot be sent as UTF-8: {error.reason}")
        except openai.OpenAIError as error:
            status = error.status_code if isinstance(error, openai.APIStatusError) else 0
            if status in ROW_STATUS:
                return _without_text(request, "rejected", said(error, self.settings))
            passing = status == 0 or status in PASSING_STATUS or status >= 500
            if not passing or (not self._answered and not_there(error)):
                raise UserError(explain(error, self.settings, "engine")) from None
            return _without_text(request, "error", said(error, self.settings))
        self._answered = True
        return _completion(request, reply)

    async def _ask(self, client: Any, request: Request) -> _Reply:
        """A whole reply. The client does not try again after a body that it cannot read, so that is done here, within
        the same number of tries. Raises the client's errors, and _Broken after the last try."""
        model = (self.tuned and self.settings.adapter_model) or self.settings.model
        body, tries, left = _body(request, self.settings, model), 0, self.settings.max_retries
        while True:
            asker = client.with_options(max_retries=left)
            resource = asker.chat.completions if request.prompt.turns else asker.completions
            raw = await resource.with_raw_response.create(**body)
            try:
                return _Reply.model_validate_json(raw.http_response.content)
            except ValidationError as error:
                tries, left = tries + 1 + raw.retries_taken, left - 1 - raw.retries_taken
                if left < 0:
                    first = error.errors(include_url=False, include_input=False)[0]
                    place = ".".join(map(str, first["loc"])) or "body"
                    text = plain(raw.text, self.settings, 150)
                    raise _Broken(f"the reply is no completion ({place}: {first['msg']}): {text}") from None
            await asyncio.sleep(random.uniform(0, min(8.0, 0.5 * 2.0**tries)))


class _Broken(Exception):
    """A reply with status 200 that is no completion."""


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Function(BaseModel):
    name: str
    arguments: str = ""


class _ToolCall(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: str | None = None  # None where the model's tokens were all thoughts, or none at all
    reasoning_content: str | None = None  # llama.cpp, SGLang, DeepSeek, vLLM of old
    reasoning: str | None = None  # vLLM, Ollama, OpenRouter
    tool_calls: list[_ToolCall] | None = None


class _Token(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: list[_Token] | None = None  # chat; llama.cpp has it in completions, too
    token_logprobs: list[float | None] | None = None  # completions


class _Choice(BaseModel):
    """A reason that is missing or of no known name marks a reply that was cut off on its way, or an aborted one."""

    finish_reason: Literal["stop", "length", "content_filter", "tool_calls", "function_call"]
    message: _Message | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None

    @model_validator(mode="after")
    def _has_content(self) -> _Choice:
        if self.message is None and self.text is None:
            raise ValueError("neither message nor text")
        return self


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def _body(request: Request, settings: OpenAISettings, model: str) -> dict[str, Any]:
    prompt, sampling = request.prompt, request.sampling
    body: dict[str, Any] = {"model": model, "temperature": sampling.temperature}
    if sampling.top_p != 1:
        body["top_p"] = sampling.top_p
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.temperature > 0:
        body["seed"] = sampling.number(request.id)
    if not prompt.turns:
        # 1, not 0, where log-probabilities are asked for: llama.cpp and older SGLang read 0 as "no".
        return (
            body | {"prompt": prompt.text, "max_tokens": sampling.most} | ({"logprobs": 1} if sampling.logprobs else {})
        )
    body["messages"] = messages(prompt.turns, Ability(text_arguments=True))
    if prompt.tools:
        body["tools"] = list(prompt.tools)
    body[settings.max_tokens_name] = sampling.most
    if sampling.logprobs:
        body["logprobs"] = True
    extra: dict[str, Any] = {"chat_template_kwargs": dict(prompt.variables)} if prompt.variables else {}
    if prompt.text:
        body["messages"].append({"role": "assistant", "content": prompt.text})
        extra |= {"continue_final_message": True, "add_generation_prompt": False}
    if extra:
        body["extra_body"] = extra
    return body


def _completion(request: Request, reply: _Reply) -> Completion:
    choice, usage = reply.choices[0], reply.usage or _Usage()
    reason: str = choice.finish_reason
    message = choice.message or _Message(content=choice.text)
    # A server that splits thoughts off leaves none in the content; of others it holds all.
    apart = message.reasoning_content or message.reasoning
    thought, whole, _ = Parts(apart.strip(), message.content or "") if apart else split(message.content or "")
    text = before_stop(whole, request.sampling.stop)
    if text != whole:  # not every server leaves the stop string out, and some do not know it
        reason = "stop"
    if request.prompt.tools and choice.message and choice.message.tool_calls:
        text, reason = _called(text, choice.message.tool_calls), "length" if reason == "length" else "stop"
    if reason not in ("stop", "length"):
        return _without_text(request, "rejected", f"the server ended the reply with finish_reason {reason!r}")
    return Completion(
        request.id,
        text.strip(),
        "stop" if reason == "stop" else "length",
        tokens=usage.completion_tokens,
        prompt_tokens=usage.prompt_tokens,
        logprobs=_logprobs(choice.logprobs) if request.sampling.logprobs else None,
        thought=thought,
    )


def _called(content: str, calls: Sequence[_ToolCall]) -> str:
    """A reply that calls tools, as `spoken` has it. Arguments that are no JSON object stay a text: no call that could
    be compared."""
    made: list[ToolCall] = []
    for call in calls:
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            return f"{content}\n{call.function.name} {call.function.arguments}".strip()
        made.append(ToolCall(name=call.function.name, arguments=arguments))
    return spoken(Turn(role="assistant", content=content.strip(), tool_calls=made))


def _logprobs(found: _Logprobs | None) -> tuple[float, ...] | None:
    """As the server sends them. None if it sends none; whether the end token has one differs between servers."""
    if found is None:
        return None
    if found.content is not None:
        return tuple(token.logprob for token in found.content)
    known = [p for p in found.token_logprobs or () if p is not None]
    return tuple(known) if found.token_logprobs and len(known) == len(found.token_logprobs) else None


def _same_words(refused: Sequence[Completion]) -> bool:
    """The same refusal for all, so that it is of the settings. Of the context, many rows can share one all the same."""
    words = {completion.error or "" for completion in refused}
    return len(words) == 1 and "context" not in words.pop().lower()


def _without_text(request: Request, reason: Literal["rejected", "error"], error: str) -> Completion:
    return Completion(request.id, "", reason, error=error)
