"""The openai engine against real servers on loopback: `transformers serve`, and a server that fails by plan."""

from __future__ import annotations

import json
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, islice

import pytest
from conftest import cli, free_port, hears_control_c, write_jsonl

from selfdistill.core.engine_settings import OpenAISettings
from selfdistill.core.errors import UserError
from selfdistill.engines.protocol import Completion, Request, Sampling, Score, Scoring
from selfdistill.models.prompts import Prompt

pytest.importorskip("openai", reason="the engine needs the openai package: pip install 'selfdistill[openai]'")

from selfdistill.engines.openai import HOPELESS, LOOKAHEAD, OpenAIEngine

KEY = "sk-very-secret-0123456789"

# ---- a server that fails by plan --------------------------------------------------------------------------------------


class Server:
    """Speaks chat completions and completions. The last user message, or the prompt, is the id of the request.

    `reply` takes the id, the number of the try (from 1) and the request. It returns what to do: a text to answer with,
    a dict (the body of an answer with 200), (status, body) or (status, body, headers), or one of the faults "!drop",
    "!slow", "!cut" (the connection ends inside the body), "!half" (half of the JSON), "!html".
    """

    def __init__(self, reply: Callable[[str, int, dict], object]) -> None:
        self.reply, self.lock = reply, threading.Lock()
        self.asked: dict[str, list[float]] = defaultdict(list)
        self.requests: list[dict] = []
        self.keys: set[str] = set()
        self.running = self.most_running = self.gone = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept, as by real servers

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *args) -> None:
                pass

        class Http(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args) -> None:
                pass

        self.http = Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        request = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        chat = http.path == "/v1/chat/completions"
        users = [m["content"] for m in request.get("messages", ()) if m["role"] == "user"]
        id = users[-1] if chat else request.get("prompt")
        with self.lock:
            self.asked[id].append(time.monotonic())
            self.requests.append(request | {"path": http.path})
            self.keys.add(http.headers["Authorization"])
            number = len(self.asked[id])
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        todo = self.reply(id, number, request)
        if todo == "!slow":
            todo = "too late"
            if select.select([http.connection], [], [], 30)[0]:  # the client closes
                self.gone += 1
        with self.lock:  # before the client can know: it may send its next request at once
            self.running -= 1
        self.send(http, chat, todo)

    def send(self, http: BaseHTTPRequestHandler, chat: bool, todo: object) -> None:
        status, body, headers = 200, todo, {}
        if isinstance(todo, tuple):
            status, body, headers = (*todo, {"retry-after-ms": "10"})[:3]
        if isinstance(body, str):
            body = chat_reply("whole" if body[0] == "!" else body) if chat else text_reply(body)
        data = json.dumps(body).encode()
        kind, length, http.close_connection = "application/json", len(data), todo in ("!drop", "!cut")
        if todo == "!drop":  # a reset, not an orderly end
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.connection.close()
            return
        if todo == "!html":
            data, kind = b"<html>502, but nicely</html>", "text/html"
            length = len(data)
        if todo == "!half":
            data = data[: len(data) // 2]
            length = len(data)
        if todo == "!cut":
            data = data[: len(data) // 2]
        http.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **headers}.items():
            http.send_header(name, value)
        http.end_headers()
        http.wfile.write(data)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def chat_reply(text: str | None, reason: str | None = "stop", **choice) -> dict:
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason, **choice}], "usage": USAGE}


def text_reply(text: str, reason: str | None = "stop", **choice) -> dict:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason, **choice}], "usage": USAGE}


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    servers, engines = [], []

    def start(reply, **settings) -> tuple[OpenAIEngine, Server]:
        servers.append(Server(reply))
        settings = {"model": "fake", "timeout": 10, "max_retries": 3, "concurrency": 4} | settings
        engines.append(OpenAIEngine(OpenAISettings(base_url=servers[-1].url, **settings)))
        return engines[-1], servers[-1]

    yield start
    for engine in engines:
        engine.close()
    for server in servers:
        server.close()


def ask(id: str, text: str = "", chat: bool = True, **sampling) -> Request:
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": id}) if chat else ()
    return Request(id, Prompt((), text if chat else id, turns), Sampling(**{"max_new_tokens": 16} | sampling))


def asks(n: int, **kwargs) -> list[Request]:
    return [ask(f"id{i}", **kwargs) for i in range(n)]


def echo(id: str, number: int, request: dict) -> str:
    return f"The answer to {id}."


def by_id(completions) -> dict[str, Completion]:
    found = list(completions)
    assert len({c.id for c in found}) == len(found)
    return {c.id: c for c in found}


def until_raised(completions: Iterator[Completion]) -> tuple[list[Completion], str]:
    found = []
    with pytest.raises(UserError) as caught:
        for completion in completions:  # a list would be lost with the error
            found.append(completion)
    said = str(caught.value)
    assert "\n" not in said and KEY not in said and said.startswith("engine http://127.0.0.1:")
    return found, said


def engine_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if "portal" in t.name]


# ---- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1])
def test_no_row_is_lost_or_answered_twice_whatever_the_network_does(serve, seed):
    faults = ["!drop", "!slow", "!cut", "!half", "!html", (500, {"error": "x"}), (503, "busy"), (200, {"choices": []})]
    faults += [(429, {"error": {"message": "slow down"}}, {"retry-after": "0.05"}), (408, {}), (409, {}), (200, [])]
    rng = random.Random(seed)
    plan = {r.id: rng.sample(faults, rng.choice([0, 0, 0, 1, 1, 2])) for r in asks(48)}

    def reply(id, number, request):
        return plan[id][number - 1] if number <= len(plan[id]) else echo(id, number, request)

    requests = [r if i % 3 else ask(r.id, chat=False) for i, r in enumerate(asks(48))]
    engine, server = serve(reply, timeout=0.7, max_retries=5, concurrency=8)
    found = by_id(engine.generate(iter(requests)))
    assert {id: (c.text, c.finish_reason) for id, c in found.items()} == {
        r.id: (f"The answer to {r.id}.", "stop") for r in requests
    }
    assert all(len(server.asked[id]) >= len(plan[id]) + 1 for id in plan)
    assert server.most_running <= 8 and server.keys == {f"Bearer {KEY}"}
    assert not engine_threads()


def test_as_many_are_in_flight_as_the_settings_say(serve):
    gate = threading.Barrier(6, timeout=10)  # passes only when six are there at once

    def reply(id, number, request):
        gate.wait()
        time.sleep(0.01 * random.random())
        return echo(id, number, request)

    engine, server = serve(reply, concurrency=6)
    assert len(by_id(engine.generate(asks(36)))) == 36 and server.most_running == 6


def test_the_server_says_how_long_to_wait(serve):
    headers = {
        "id0": {"retry-after": "1"},
        "id1": {"retry-after-ms": "900"},
        "id2": {"retry-after": formatdate(time.time() + 2, usegmt=True)},
        "id3": {"retry-after": "3600"},  # longer than anyone waits: at once an error
    }
    engine, server = serve(lambda row, number, r: (429, {}, headers[row]) if number == 1 else echo(row, number, r))
    found = by_id(engine.generate(asks(4)))
    for id in ("id0", "id1", "id2"):
        first, second = server.asked[id]
        assert 0.85 < second - first < 4 and found[id].finish_reason == "stop"
    assert found["id3"].finish_reason == "error" and len(server.asked["id3"]) == 1


BROKEN = ["!half", "!html", (200, {"choices": []}), (200, chat_reply("cut", None)), (200, chat_reply("cut", "abort"))]


@pytest.mark.parametrize(
    "fault, words", [((503, {"error": "no\nroom"}), "HTTP 503"), ("!drop", "connection was lost (")]
)
def test_after_the_last_try_the_row_is_an_error(serve, fault, words):
    engine, server = serve(lambda row, number, r: fault if row == "id2" else echo(row, number, r), max_retries=1)
    found = by_id(engine.generate(asks(5)))
    failed = found.pop("id2")
    assert (failed.text, failed.finish_reason) == ("", "error") and words in failed.error and "\n" not in failed.error
    assert {c.finish_reason for c in found.values()} == {"stop"} and len(server.asked["id2"]) == 2


@pytest.mark.heavy
@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_no_completion_is_tried_again_and_then_an_error(serve, fault):
    engine, server = serve(lambda row, number, r: fault if row == "id0" else echo(row, number, r), max_retries=1)
    found = by_id(engine.generate(asks(3)))
    assert (found["id0"].finish_reason, found["id0"].text) == ("error", "") and len(server.asked["id0"]) == 2
    assert "the reply is no completion" in found["id0"].error and found["id1"].finish_reason == "stop"


def test_all_kinds_of_faults_share_one_number_of_tries(serve):
    faults = ["!half", (429, {}), "!html", "!cut", "!drop"]
    engine, server = serve(lambda row, number, r: faults[number - 1], max_retries=2)
    (found,) = engine.generate([ask("a")])
    assert found.finish_reason == "error" and len(server.asked["a"]) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_row_that_the_server_refuses_is_rejected_at_once(serve, status):
    refused = (status, {"error": {"message": f"maximum context length is 64, got 99 ({KEY})"}})
    engine, server = serve(lambda row, number, r: refused if row in ("id0", "id5") else echo(row, number, r))
    found = by_id(engine.generate(asks(9)))
    assert {id for id, c in found.items() if c.finish_reason == "rejected"} == {"id0", "id5"}
    assert "maximum context length is 64" in found["id0"].error and KEY not in found["id0"].error
    assert len(server.asked["id0"]) == 1 and sum(c.finish_reason == "stop" for c in found.values()) == 7


@pytest.mark.parametrize("status, todo", [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "model = 'fake'")])
def test_what_holds_for_every_row_stops_the_run(serve, status, todo):
    body = {"error": {"message": f"Incorrect key\nor model: {KEY}, see help"}}
    engine, server = serve(lambda row, number, r: (status, body) if int(row[2:]) >= 10 else echo(row, number, r))
    found, said = until_raised(engine.generate(ask(f"id{i}") for i in count()))
    # those in flight beside the first that is refused may be cut off
    assert 6 <= len(by_id(found)) <= 10 and {c.finish_reason for c in found} == {"stop"}
    assert todo in said and f"HTTP {status}" in said
    assert len(server.requests) < 20 and not engine_threads()


def test_nobody_listens(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url = f"http://127.0.0.1:{free_port()}/v1"
    engine = OpenAIEngine(OpenAISettings(base_url=url, model="m", max_retries=1))
    found, said = until_raised(engine.generate(ask(f"id{i}") for i in count()))
    assert not found and url in said and "cannot be reached" in said and "Start the server" in said


def test_many_errors_in_a_row_stop_the_run(serve):
    dies_at = 6
    engine, _ = serve(lambda row, number, r: (500, {}) if int(row[2:]) >= dies_at else echo(row, 1, r), max_retries=0)
    found, said = until_raised(engine.generate(ask(f"id{i}") for i in count()))
    assert sum(c.finish_reason == "stop" for c in found) == dies_at
    # an error may arrive before the last answers
    assert HOPELESS <= sum(c.finish_reason == "error" for c in found) < HOPELESS + dies_at
    assert f"{HOPELESS} requests in a row" in said and "HTTP 500" in said


def test_errors_among_answers_do_not_stop_the_run(serve):
    engine, _ = serve(lambda row, number, r: echo(row, 1, r) if int(row[2:]) % 10 == 0 else (500, {}), max_retries=0)
    assert len(by_id(engine.generate(asks(45)))) == 45


def test_settings_that_are_refused_for_every_row_stop_the_run(serve):
    engine, _ = serve(lambda row, number, r: (400, {"error": {"message": "Unsupported parameter: max_tokens"}}))
    found, said = until_raised(engine.generate(ask(f"id{i}") for i in count()))
    assert not found and "Unsupported parameter" in said and "max_tokens_name" in said
    found, said = until_raised(engine.generate(asks(3)))  # a short run must not count them as done, either
    assert not found and "all 3 requests" in said


def test_rows_that_are_refused_for_their_own_sake_do_not_stop_the_run(serve):
    for words in ("{} is too long", "maximum context length is 64, the prompt has more"):
        engine, _ = serve(lambda row, number, r, words=words: (400, {"error": words.format(row)}))
        found = by_id(engine.generate(asks(50)))
        assert len(found) == 50 and {c.finish_reason for c in found.values()} == {"rejected"}
    engine, _ = serve(lambda row, number, r: (400, {}) if number == 1 else echo(row, number, r))
    assert {c.finish_reason for c in engine.generate(asks(1))} == {"rejected"}
    assert {c.finish_reason for c in engine.generate(asks(1))} == {"stop"}
    engine, _ = serve(lambda row, number, r: (400, {}) if row != "id0" else echo(row, number, r))
    assert len(by_id(engine.generate(asks(50)))) == 50


# ---- streaming --------------------------------------------------------------------------------------------------------


def test_an_endless_source_is_drawn_as_needed(serve):
    engine, server = serve(echo)
    drawn = 0

    def endless():
        nonlocal drawn
        for drawn in count(1):
            yield ask(f"id{drawn}")

    stream = engine.generate(endless())
    assert drawn == 0 and not engine_threads()
    first = by_id(islice(stream, 30))
    assert len(first) == 30 and drawn <= 30 + 4 + LOOKAHEAD and server.most_running <= 4
    time.sleep(0.3)
    assert drawn <= 30 + 4 + LOOKAHEAD
    stream.close()
    assert not engine_threads()


def test_completions_come_as_they_arrive(serve):
    gate = threading.Event()
    engine, _ = serve(lambda row, number, r: gate.wait(10) and "late" if row == "id0" else echo(row, number, r))
    stream = engine.generate(asks(9))
    assert {next(stream).id for _ in range(8)} == {f"id{i}" for i in range(1, 9)}
    gate.set()
    assert [c.text for c in stream] == ["late"]


@pytest.mark.parametrize("how", ["iterator", "engine", "dropped"])
def test_who_stops_early_does_not_wait(serve, how):
    engine, server = serve(lambda row, number, r: echo(row, number, r) if row == "id0" else "!slow", timeout=60)
    stream = engine.generate(ask(f"id{i}") for i in count())
    assert next(stream).id == "id0"
    deadline = time.monotonic() + 5
    while server.running < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = time.monotonic()
    if how == "dropped":
        del stream
    else:
        (stream if how == "iterator" else engine).close()
    assert time.monotonic() - before < 2 and not engine_threads()
    while server.gone < 4:  # cancelled, not left to finish
        assert time.monotonic() < deadline
        time.sleep(0.01)
    engine.close()
    assert next(engine.generate([ask("id0")])).text  # it can be used again


def test_a_fault_of_the_source_is_the_callers(serve):
    def source():
        yield from asks(3)
        raise KeyError("mine")

    engine, _ = serve(echo)
    with pytest.raises(KeyError, match="mine"):
        list(engine.generate(source()))
    assert not engine_threads()


INTERRUPTED = """
import itertools, sys
from selfdistill.core.engine_settings import OpenAISettings
from selfdistill.engines.protocol import Prompt, Request, Sampling
from selfdistill.engines.openai import OpenAIEngine

turns = ({"role": "user", "content": "x"},)
engine = OpenAIEngine(OpenAISettings(base_url=sys.argv[1], model="m"))
for completion in engine.generate(Request(str(i), Prompt((), "", turns), Sampling(4)) for i in itertools.count()):
    print(completion)
"""


def test_ctrl_c_ends_the_process_at_once(serve):
    _, server = serve(lambda row, number, r: "!slow")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url], stderr=subprocess.PIPE, text=True, preexec_fn=hears_control_c
    )
    deadline = time.monotonic() + 30
    while server.running < 32:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=5)
    assert process.returncode != 0 and said.rstrip().endswith("KeyboardInterrupt") and KEY not in said


# ---- what is sent and read ---------------------------------------------------------------------------------------------


def test_what_a_chat_request_sends(serve):
    engine, server = serve(echo, max_tokens_name="max_completion_tokens")
    list(engine.generate([ask("a")]))
    assert server.requests.pop() == {
        "path": "/v1/chat/completions", "model": "fake", "temperature": 0.0, "max_completion_tokens": 16,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
    }  # fmt: skip
    list(engine.generate([ask("a", "Great!", temperature=0.5, top_p=0.9, stop=("\n", "Q:"), logprobs=True, seed=3)]))
    sent = server.requests.pop()
    assert sent["messages"][-1] == {"role": "assistant", "content": "Great!"} and len(sent["messages"]) == 3
    assert sent["continue_final_message"] is True and sent["add_generation_prompt"] is False
    assert (sent["temperature"], sent["top_p"], sent["stop"], sent["logprobs"]) == (0.5, 0.9, ["\n", "Q:"], True)


def test_tools_are_sent_and_calls_are_the_answer(serve):
    from selfdistill.core.turns import heard

    tools = ({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}},)
    call = {"name": "f", "arguments": {"a": 1}, "id": "own"}
    turns = (
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "content": "x"},
        {"role": "user", "content": "b"},
    )
    arguments = {"good": '{"b": [1]}', "empty": "", "bad": "{b"}
    replies = iter(arguments.values())

    def reply(id, number, request):
        made = {"id": "c", "type": "function", "function": {"name": "g", "arguments": next(replies)}}
        return {"choices": [{"finish_reason": "tool_calls", "message": {"content": "So.", "tool_calls": [made]}}]}

    engine, server = serve(reply, concurrency=1)
    requests = [Request(name, Prompt((), turns=turns, tools=tools), Sampling(16)) for name in arguments]
    found = by_id(engine.generate(requests))
    sent = server.requests[0]
    assert sent["tools"] == list(tools)
    assert sent["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "own", "function": {"name": "f", "arguments": '{"a": 1}'}}]}  # fmt: skip
    assert sent["messages"][2] == {"role": "tool", "content": "x", "tool_call_id": "own", "name": "f"}
    good = heard(found["good"].text)
    assert (good["content"], good["tool_calls"]) == ("So.", [{"name": "g", "arguments": {"b": [1]}}])
    assert heard(found["empty"].text)["tool_calls"] == [{"name": "g", "arguments": {}}]
    assert found["bad"].text == "So.\ng {b" and {c.finish_reason for c in found.values()} == {"stop"}


def test_what_a_completions_request_sends(serve):
    engine, server = serve(echo, max_tokens_name="max_completion_tokens")
    list(engine.generate([ask("Once upon", chat=False)]))
    plain = {"path": "/v1/completions", "model": "fake", "temperature": 0.0, "max_tokens": 16, "prompt": "Once upon"}
    assert server.requests.pop() == plain
    list(engine.generate([ask("Once upon", chat=False, logprobs=True)]))
    assert server.requests.pop() == plain | {"logprobs": 1}


def test_the_seed_hangs_on_the_id_and_the_runs_seed(serve):
    engine, server = serve(echo)
    found = {}
    for id, seed in [("a", 0), ("b", 0), ("a", 1), ("a", 0)]:
        list(engine.generate([ask(id, temperature=0.7, seed=seed)]))
        found.setdefault((id, seed), set()).add(server.requests[-1]["seed"])
    assert all(len(seeds) == 1 for seeds in found.values()) and len(set.union(*found.values())) == 3
    assert all(0 <= seed < 2**31 for seeds in found.values() for seed in seeds)


TOKENS = {"content": [{"token": "a", "logprob": -0.5, "bytes": None}, {"token": "b", "logprob": -1}]}


@pytest.mark.parametrize(
    "reply, sampling, expected",
    [
        (chat_reply("  two words\n"), {}, ("two words", "stop", None)),
        (chat_reply("cut", "length"), {}, ("cut", "length", None)),
        (chat_reply(None, "length"), {}, ("", "length", None)),
        (chat_reply(""), {}, ("", "stop", None)),
        (chat_reply("one\nQ: two", "length"), {"stop": ("A:", "Q:", "two")}, ("one", "stop", None)),
        (chat_reply("Q: two"), {"stop": ("Q:",)}, ("", "stop", None)),
        (chat_reply("a b", logprobs=TOKENS), {"logprobs": True}, ("a b", "stop", (-0.5, -1.0))),
        (chat_reply("a b", logprobs=TOKENS), {}, ("a b", "stop", None)),
        (chat_reply("a b"), {"logprobs": True}, ("a b", "stop", None)),
        (text_reply("a", logprobs={"token_logprobs": [-2.0]}), {"logprobs": True}, ("a", "stop", (-2.0,))),
        (text_reply("a", logprobs={"token_logprobs": [None]}), {"logprobs": True}, ("a", "stop", None)),
        (text_reply("a b", logprobs=TOKENS), {"logprobs": True}, ("a b", "stop", (-0.5, -1.0))),
    ],
)
def test_what_is_read(serve, reply, sampling, expected):
    engine, _ = serve(lambda row, number, r: reply)
    (found,) = engine.generate([ask("a", chat="message" in reply["choices"][0], **sampling)])
    assert (found.text, found.finish_reason, found.logprobs) == expected
    assert (found.tokens, found.prompt_tokens, found.error) == (3, 7, None)


@pytest.mark.parametrize(
    ("message", "thought", "text"),
    [
        ({"content": "A", "reasoning_content": "Hm."}, "Hm.", "A"),
        ({"content": "A", "reasoning": "Hm.\n"}, "Hm.", "A"),
        ({"content": None, "reasoning": "Hm"}, "Hm", ""),
        ({"content": "<think>Hm.</think>\nA"}, "Hm.", "A"),
        ({"content": "Hm.</think>A"}, "Hm.", "A"),
        ({"content": "<think>Hm"}, "Hm", ""),
        ({"content": "A", "reasoning_content": ""}, None, "A"),
    ],
)
def test_thoughts_come_apart_whether_the_server_splits_them_or_not(serve, message, thought, text):
    engine, server = serve(lambda row, number, r: chat_reply("x", message=message))
    prompt = Prompt((), "", ask("a").prompt.turns, variables={"enable_thinking": True})
    (found,) = engine.generate([Request("a", prompt, Sampling(16, thinking_tokens=32))])
    assert (found.thought, found.text) == (thought, text)
    assert server.requests[-1]["chat_template_kwargs"] == {"enable_thinking": True}
    assert server.requests[-1]["max_tokens"] == 48
    list(engine.generate([ask("b")]))
    assert "chat_template_kwargs" not in server.requests[-1]  # not every server knows it


@pytest.mark.parametrize("usage", [None, {}, {"completion_tokens": None}, "absent"])
def test_unknown_usage_is_none(serve, usage):
    reply = chat_reply("a") | {"usage": usage}
    if usage == "absent":
        del reply["usage"]
    engine, _ = serve(lambda row, number, r: reply)
    (found,) = engine.generate([ask("a")])
    assert (found.text, found.tokens, found.prompt_tokens) == ("a", None, None)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls"])
def test_a_reply_that_ended_for_another_reason_is_rejected(serve, reason):
    engine, server = serve(lambda row, number, r: chat_reply("part", reason))
    (found,) = engine.generate([ask("a")])
    assert (found.text, found.finish_reason) == ("", "rejected") and reason in found.error
    assert len(server.requests) == 1


def test_a_prompt_that_is_no_unicode_is_rejected(serve):
    engine, _ = serve(echo)
    found = by_id(engine.generate([ask("a"), ask("\ud800"), ask("b")]))
    assert [found[id].finish_reason for id in ("a", "\ud800", "b")] == ["stop", "rejected", "stop"]


# ---- the rest of the protocol -------------------------------------------------------------------------------------------


def test_the_rest_of_the_protocol(serve):
    engine, _ = serve(echo)
    batches = [[Scoring("a", (1,), (2,)), Scoring("b", (1,), (2,))], [Scoring("c", (1,), (2,))]]
    assert list(engine.score(iter(batches))) == [[Score("a", None), Score("b", None)], [Score("c", None)]]
    with engine.adapter(None):
        assert next(engine.generate([ask("a")])).text
    with pytest.raises(UserError, match=re.escape("runs/x: the engine http://127.0.0.1")):
        engine.adapter("runs/x")
    assert engine.describe() == {"name": "openai", "model": "fake"}
    assert KEY not in repr(engine) + repr(vars(engine))
    engine.close()
    engine.close()


def test_the_key_must_be_there(monkeypatch):
    far = {"base_url": "https://api.example.com/v1", "model": "m", "api_key_env": "MY_KEY"}
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match=r"^engine https://api\.example\.com/v1: .*MY_KEY is not set"):
        OpenAIEngine(OpenAISettings(**far))
    for bad in ("clé-123", "key-123\n", " key-123"):
        monkeypatch.setenv("MY_KEY", bad)
        with pytest.raises(UserError, match="MY_KEY holds a character") as caught:
            OpenAIEngine(OpenAISettings(**far))
        assert "-123" not in str(caught.value)


@pytest.mark.heavy
def test_a_key_that_the_server_says_is_neither_printed_nor_stored(serve, tmp_path):
    """The server quotes the request's header and address in its refusals."""
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": f"question {i}", "response": "b"} for i in range(3)])
    said = f"no: Authorization: Bearer {KEY}, http://me:pass-word@host/v1?api_key={KEY}"

    def some(id, number, request):
        return "fine" if "question 0" in id else (400, {"error": {"message": said}})

    for reply, code in ((some, 0), (lambda *asked: (401, {"error": {"message": said}}), 2)):
        _, server = serve(reply)
        out = tmp_path / f"{code}"
        engine = f"name=openai,base_url={server.url},max_retries=0"
        done = cli("distill", "--model", "fake", "--data", data, "--out", out / "r.jsonl", "--engine", engine)
        assert done.returncode == code and server.keys == {f"Bearer {KEY}"}, done.stderr
        files = [f for f in out.rglob("*") if f.is_file()]
        texts = [done.stdout, done.stderr, *(f.read_text() for f in files)]
        assert "Authorization: Bearer [key]" in "".join(texts) and len(files) >= 2
        assert not [t for t in texts if KEY in t]


def test_without_the_openai_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=re.escape("pip install 'selfdistill[openai]'")):
        OpenAIEngine(OpenAISettings(base_url="http://localhost:1/v1", model="m"))


# ---- a real server ------------------------------------------------------------------------------------------------------

QUESTIONS = ["Which planet is red?", "Name three planets.", "What is 2 + 3?", "Who are you?", "Say hello."]


@pytest.fixture
def real(real_server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, model = real_server
    return OpenAIEngine(OpenAISettings(base_url=url, model=model, timeout=60, concurrency=3))


def expected(embedded, text: str, **kwargs) -> tuple[str, int, int]:
    """What `model.generate` makes of a prompt: the text, its tokens, the tokens of the prompt."""
    import torch

    inputs = embedded.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        ids = embedded.model.generate(**inputs, do_sample=False, **kwargs)[0, inputs["input_ids"].shape[1] :]
    text = embedded.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return text, len(ids), inputs["input_ids"].shape[1]


def user(question: str) -> tuple[dict, ...]:
    return ({"role": "user", "content": question},)


def test_a_real_server_gives_the_models_own_texts(real, embedded):
    found = by_id(real.generate(Request(q, Prompt((), "", user(q)), Sampling(48)) for q in QUESTIONS))
    for q in QUESTIONS:
        prompt = embedded.tokenizer.apply_chat_template(user(q), tokenize=False, add_generation_prompt=True)
        text, tokens, prompt_tokens = expected(embedded, prompt, max_new_tokens=48)
        assert found[q] == Completion(q, text, "stop" if tokens < 48 else "length", tokens, prompt_tokens) and text


def test_a_real_server_at_the_limit_and_at_a_stop_string(real, embedded):
    question = Prompt((), "", user("Which planet is red?"))
    (whole,) = real.generate([Request("a", question, Sampling(48))])
    (cut,) = real.generate([Request("a", question, Sampling(3))])
    assert (cut.finish_reason, cut.tokens) == ("length", 3) and whole.text.startswith(cut.text) and cut.text
    word = whole.text.split()[2]
    (stopped,) = real.generate([Request("a", question, Sampling(48, stop=(word,)))])
    assert (stopped.text, stopped.finish_reason) == (whole.text[: whole.text.index(word)].strip(), "stop")


def test_a_real_server_continues_a_plain_text(real, embedded):
    prompt = embedded.tokenizer.apply_chat_template(user("Say hello."), tokenize=False, add_generation_prompt=True)
    (found,) = real.generate([Request("a", Prompt((), prompt), Sampling(24))])
    assert found.text == expected(embedded, prompt, max_new_tokens=24)[0]


def test_a_real_server_that_continues_no_opened_reply_stops_the_run(real):
    requests = (Request(str(i), Prompt((), "Great!", user("Say hello.")), Sampling(8)) for i in count())
    found, said = until_raised(real.generate(requests))
    assert not found and "Unexpected fields" in said and "opened reply" in said


def test_a_real_server_with_a_proxy_of_its_own_faults(real_server, real, embedded, serve):
    """The same texts through a server that fails before it hands on what the real one says."""
    from urllib.request import ProxyHandler, build_opener
    from urllib.request import Request as Get

    opener = build_opener(ProxyHandler({}))

    def reply(id, number, request):
        if number == 1:
            return rng.choice(["!drop", "!cut", "!half", (429, {}), (500, {})])
        data, headers = json.dumps(request).encode(), {"Content-Type": "application/json"}
        with opener.open(Get(f"{real_server[0]}/chat/completions", data, headers), timeout=60) as answer:
            return json.loads(answer.read())

    rng = random.Random(5)
    requests = [Request(q, Prompt((), "", user(q)), Sampling(24)) for q in QUESTIONS]
    straight = by_id(real.generate(requests))
    engine, _ = serve(reply, model=real_server[1], concurrency=2)
    assert by_id(engine.generate(requests)) == straight


def test_an_adapter_is_asked_for_by_its_name_there_and_one_that_answers_as_the_base_is_found(serve):
    from selfdistill.core.config import PromptSettings
    from selfdistill.core.progress import Progress
    from selfdistill.models.prompts import Prompter
    from selfdistill.stages.acting import see_that_it_acts

    prompter = Prompter.create(None, PromptSettings())
    engine, _ = serve(lambda _, number, request: request["model"], adapter_model="tuned")
    with engine.adapter("runs/x"):
        assert next(engine.generate([ask("a")])).text == "tuned"
        with engine.adapter(None):
            assert next(engine.generate([ask("a")])).text == "fake"
    deaf, _ = serve(lambda _, number, request: "always the same", adapter_model="tuned")
    with pytest.raises(UserError, match="engine openai gives the same with it and without it"):
        see_that_it_acts(deaf, prompter, Progress())
