"""Secrets: no setting takes them, and nothing that is printed or stored holds them."""

from __future__ import annotations

import re

import pytest
from conftest import cli, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.cli import main
from selfdistill.core.addresses import hidden, without_secrets
from selfdistill.core.config import DataSettings, Recipe, TaskSettings
from selfdistill.core.engine_settings import JudgeSettings, OpenAISettings, RaySettings
from selfdistill.core.errors import UserError
from selfdistill.core.settings import checked

SECRET = "sk-Abc0123456789def"
HOLDING = [
    "http://user:{}@host:8000/v1",
    "http://{}@host/v1",
    "http://user:a/{}@host/v1",
    "HTTPS://user:a#{}@host/v1",
    "https://host/v1?api_key={}",
    "https://host/v1?version=2&access_token={}",
    "https://host/v1?X-Amz-Signature={}",
    "https://host/v1?{}",
    "https://host/v1#{}",
    "https://host/{}/v1",
    "https://host/v1/token={}",
]
PLAIN = [
    "http://localhost:8000/v1",
    "https://[::1]:8000/v1/",
    "https://api.example.com/client/v4/accounts/0123456789abcdef0123456789abcdef/ai/v1",
    "http://host:8000/@cf/meta/v1",
]


BARE = ("https://host/v1?{}", "https://host/{}/v1")
"""Only its form tells that this is a secret."""


@pytest.mark.parametrize(
    ("form", "secret"),
    [
        (f, s)
        for f in HOLDING
        for s in (SECRET, "hf_abcdefghijklmnopqrst", "hunter2")
        if f not in BARE or s != "hunter2"
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(form, secret):
    url = form.format(secret)
    task = {"name": "t", "path": url, "check": "exact"}
    for kind, values, key in (
        (OpenAISettings, {"base_url": url, "model": "m"}, "base_url"),
        (JudgeSettings, {"base_url": url, "model": "m"}, "base_url"),
        (DataSettings, {"path": url}, "path"),
        (TaskSettings, task, "path"),
        (RaySettings, {"address": url}, "address"),
        (Recipe, {"model": url, "data": {"path": "d.jsonl"}}, "model"),
        (Recipe, {"model": "m", "data": {"path": url}}, "data.path"),
        (Recipe, {"model": "m", "data": {"path": "d.jsonl"}, "tasks": [task]}, "tasks[1] (t): path"),
        (Recipe, {"model": "m", "data": {"path": "d"}, "engine": {"name": "openai", "base_url": url, "model": "m"}},
         "engine.base_url"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^here: {re.escape(key)}: .*environment") as caught:
            checked(kind, values, "here")
        assert secret not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("url", PLAIN)
def test_other_addresses_are_taken(url):
    assert checked(OpenAISettings, {"base_url": url, "model": "m"}, "here").base_url == url
    assert hidden(f"engine {url}: HTTP 500") == f"engine {url}: HTTP 500"


@pytest.mark.parametrize(
    "path",
    ["https://host/a.jsonl?download=true", "hf://datasets/a/b@main/x.jsonl", "https://host/sk-news.jsonl", "a/b"],
)
def test_addresses_of_data_are_taken(path):
    assert checked(DataSettings, {"path": path}, "here").path == path and hidden(f"{path}: no") == f"{path}: no"


@pytest.mark.parametrize(
    "values",
    [
        {"api_key_env": SECRET},
        {"api_key_env": "hf_abcdefghijklmnopqrst"},
        {"base_url": f"host:8000/v1?api_key={SECRET}"},
        {"base_url": [f"http://user:{SECRET}@host/v1"]},
        {"base_url": "user:hunter2@host:8000/v1"},
        {"base_url": "http://user:hunter2 @host/v1"},
        {"api_key": SECRET},
        {"name": "opnai", "base_url": f"http://user:{SECRET}@host/v1"},
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(values):
    engine = {"name": "openai", "base_url": "http://localhost:1/v1", "model": "m"} | values
    with pytest.raises(UserError) as caught:
        checked(Recipe, {"model": "m", "data": {"path": "d"}, "engine": engine}, "here")
    assert not any(secret in str(caught.value) for secret in (SECRET, "hf_abc", "hunter2"))


@given(
    st.from_regex(r"[A-Za-z0-9._~!$&'()*+,;=-]{1,20}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9._~!$&'()*+,;=:/#?-]{1,20}", fullmatch=True),
)
def test_a_login_is_refused_and_hidden_whatever_its_letters(user, password):
    if re.match(r"\d+/", password):
        password = f"x{password}"  # may be a port and an @ in the path
    url = f"https://{user}:{password}@host.example/v1"
    with pytest.raises(ValueError, match="user name or a password"):
        without_secrets(url)
    assert hidden(f"at {url}: no") == "at https://[hidden]@host.example/v1: no"


@pytest.mark.heavy
def test_the_command_line_neither_prints_nor_stores_a_secret(tmp_path):
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "a", "response": "b"}])
    url = f"http://user:{SECRET}@127.0.0.1:1/v1"
    out = tmp_path / "out"
    (tmp_path / "r.toml").write_text(f'model = "embedded"\n[data]\npath = "{data}"\n')
    before = sorted(tmp_path.iterdir())
    for arguments in (
        ("distill", "--model", "m", "--data", data, "--out", out, "--engine", f"name=openai,base_url={url}"),
        (
            "evaluate",
            "--model",
            "embedded",
            "--task",
            "micro:facts",
            "--out",
            out,
            "--judge-url",
            url,
            "--judge-model",
            "m",
        ),
        ("distill", "--model", "embedded", "--data", url, "--out", out),
        ("train", "--model", url, "--data", data, "--out", out),
        ("run", tmp_path / "r.toml", "--out", out, "--set", f"judge={{base_url='{url}', model='m'}}"),
        ("run", tmp_path / "r.toml", "--out", out, "--set", f"judge.api_key_env={SECRET}"),
        ("run", tmp_path / "r.toml", "--out", out, "--set", f"data.path={url}"),
        ("merge", "--model", "embedded", "--adapter", url, "--out", out),
    ):
        done = cli(*arguments)
        assert done.returncode == 2 and done.stderr.count("error:") == 1, done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "url",
    ["user:hunter2@host:8000/v1", f"http://user:hunter2{'x' * 80}@{'host.' * 20}com/v1", "http://h/v1?sig=hunter2"],
)
def test_no_traceback_repeats_a_secret(monkeypatch, capsys, url):
    monkeypatch.setenv("SELFDISTILL_DEBUG", "1")
    arguments = ["evaluate", "--model", "m", "--task", "micro:facts", "--out", "o", "--judge-model", "m"]
    monkeypatch.setattr("sys.argv", ["selfdistill", *arguments, "--judge-url", url])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "Traceback" in said and "hunter2" not in said
