"""Scores of single tokens: what they are, which token each belongs to, and how they lie on disk."""

from __future__ import annotations

import os
import signal
import tracemalloc
from copy import deepcopy
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from safetensors.numpy import load_file

from selfdistill.core.config import DataSettings, PromptSettings
from selfdistill.core.engine_settings import OpenAISettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example
from selfdistill.core.rows import TrainingRow
from selfdistill.core.store import Journal
from selfdistill.core.turns import Turn
from selfdistill.data.examples import read_examples
from selfdistill.engines.open import open_endpoint
from selfdistill.engines.protocol import Score, Scoring, Terms
from selfdistill.models.prompts import Prompt, Prompter
from selfdistill.stages import scoring
from selfdistill.stages.token_scores import TokenScores, entropy, score_tokens
from selfdistill.training.batches import IGNORED
from selfdistill.training.tokens import sequences

REWRITES_THE_PAST = (
    "{% for m in messages %}<s>{{ m['role'] }} "
    "{{ m['content'] if loop.last or m['role'] == 'user' else m['content'] | upper | truncate(9) }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)
"""What an assistant said earlier is shortened, so that no earlier sequence goes on in a later prompt."""


@pytest.fixture(scope="module")
def rows():
    found = read_examples(DataSettings(path="micro:rare_tools", sample=40))
    return [TrainingRow(e, e.references) for e in found]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(scoring, "BATCH", 8)


def conversation(*texts):
    """Questions and answers in turn."""
    turns = [Turn(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(texts[:-1])]
    return Example(id="-".join(map(str, map(len, texts))), prompt=tuple(turns), reference=texts[-1], task="chat")


def plain_terms(lm, row, prompter):
    """Log-probabilities (T, vocabulary) and ids (T,) of the tokens that carry loss, by one bare forward pass for each
    sequence that trains."""
    logs, said = [], []
    for ids, labels in sequences(row.example, row.responses, prompter):
        with torch.no_grad():
            found = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        at = [n for n, label in enumerate(labels) if label != IGNORED]
        logs.append(found[[n - 1 for n in at]])
        said += [labels[n] for n in at]
    return torch.cat(logs), torch.tensor(said)


# --- what they are -----------------------------------------------------------------------------------------------


def test_they_are_those_of_a_bare_forward_pass(embedded, engine, rows, tmp_path):
    prompter = Prompter.create(embedded.tokenizer)
    scores = score_tokens(rows, tmp_path / "s", "m", engine, prompter, top=20)
    assert len(scores) == len(rows) and scores.unscored == 0
    for row in rows[::4]:
        logs, said = plain_terms(embedded, row, prompter)
        nll, (ids, logprobs) = scores.nll(row.id), scores.top(row.id)
        assert (nll.dtype, ids.dtype, logprobs.dtype) == (np.float32, np.int32, np.float32)
        assert ids.shape == logprobs.shape == (len(nll), 20)
        assert nll == pytest.approx(-logs[torch.arange(len(said)), said].numpy(), rel=1e-4, abs=1e-4)
        most = logs.topk(20).values
        assert logprobs == pytest.approx(most.numpy(), rel=1e-4, abs=1e-4)
        assert torch.gather(logs, 1, torch.tensor(ids).long()).numpy() == pytest.approx(logprobs, rel=1e-4, abs=1e-4)
        shares = most.softmax(-1)
        wanted = -(shares * shares.log()).sum(-1)
        assert scores.entropy(row.id).dtype == np.float32
        assert scores.entropy(row.id) == pytest.approx(wanted.numpy(), rel=1e-3, abs=1e-4)


def test_terms_sum_to_the_score_whose_bits_they_leave_alone(embedded, engine, rows):
    prompter = Prompter.create(embedded.tokenizer)
    asked = [s for r in rows[:12] for s in scoring.turn_by_turn(r.id, r.example, r.responses, prompter)]
    (plain,) = engine.score([asked])
    (full,) = engine.score([[replace(s, tokens=n % 2 == 0, top=n % 3) for n, s in enumerate(asked)]])
    assert [s.nll for s in plain] == [s.nll for s in full] and all(s.terms is None for s in plain)
    for n, (score, s) in enumerate(zip(full, asked, strict=True)):
        if n % 2 and n % 3 == 0:
            assert score.terms is None
            continue
        assert len(score.terms.nll) == len(s.response)
        assert score.terms.nll.sum(dtype=np.float64) == pytest.approx(score.nll, rel=1e-5)
        assert (score.terms.top is None) == (n % 3 == 0)


def test_no_more_tokens_than_there_are(embedded, engine):
    size = embedded.config.vocab_size
    ((score,),) = engine.score([[Scoring("a", (5, 6), (7, 8), top=size + 5)]])
    assert score.terms.top.shape == (2, size)
    assert np.exp(score.terms.logprobs.astype(float)).sum(-1) == pytest.approx(1, abs=1e-4)


def test_alone_they_are_what_they_are_together(embedded, engine, rows, tmp_path):
    prompter = Prompter.create(embedded.tokenizer)
    together = score_tokens(rows, tmp_path / "all", "m", engine, prompter)
    for row in rows[:4]:
        alone = score_tokens([row], tmp_path / row.id, "m", engine, prompter)
        assert alone.nll(row.id) == pytest.approx(together.nll(row.id), abs=1e-5, rel=1e-5)


def test_entropies():
    uniform = np.full((1, 20), np.log(0.01), np.float32)  # 20 of the 100 tokens that are equally likely
    certain = np.array([[0.0] + [-np.inf] * 19], np.float32)
    assert entropy(uniform) == pytest.approx(np.log(20)) and entropy(certain) == [0]


# --- which token each belongs to ---------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1, max_size=12).filter(str.strip)


@pytest.mark.parametrize("rewrites", [False, True])
def test_they_follow_the_tokens_that_train(embedded, engine, tmp_path_factory, rewrites):
    tokenizer = deepcopy(embedded.tokenizer)
    if rewrites:
        tokenizer.chat_template = REWRITES_THE_PAST
    prompter = Prompter.create(tokenizer)
    split = set()

    @tries(max_examples=8)
    @given(st.lists(words, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
    def holds(texts):
        row = TrainingRow(example := conversation(*texts), example.references)
        made = sequences(row.example, row.responses, prompter)
        split.add(len(made) > 1)
        nll = score_tokens([row], tmp_path_factory.mktemp("s") / "s", "m", engine, prompter).nll(row.id)
        logs, said = plain_terms(embedded, row, prompter)
        assert len(nll) == sum(label != IGNORED for _, labels in made for label in labels)
        assert nll == pytest.approx(-logs[torch.arange(len(said)), said].numpy(), rel=1e-3, abs=1e-3)

    holds()
    assert (True in split) == rewrites


# --- rows and engines that have none -----------------------------------------------------------------------------


def test_a_row_that_does_not_fit_has_none_and_stops_no_other(embedded, engine, rows, tmp_path, capsys):
    prompter = Prompter.create(embedded.tokenizer)
    turns = conversation("a", "b", "why? " * embedded.context, "c")
    mixed = [*rows[:3], TrainingRow(turns, turns.references)]
    for _ in range(2):
        progress = Progress()
        scores = score_tokens(mixed, tmp_path / "s", "m", engine, prompter, top=2, progress=progress)
        assert capsys.readouterr().err.count("1 of 4 rows") == 1
    assert scores.unscored == 1 and len(scores) == 4
    assert scores.nll(turns.id) is scores.top(turns.id) is scores.entropy(turns.id) is None
    assert all(len(scores.nll(r.id)) for r in rows[:3])
    alone = score_tokens(mixed[3:], tmp_path / "alone", "m", engine, prompter)
    assert alone.nll(turns.id) is None
    with pytest.raises(KeyError, match="nobody"):
        scores.nll("nobody")


def test_an_endpoint_cannot_and_says_so_before_anything_is_written(rows, tmp_path):
    settings = OpenAISettings(base_url="http://127.0.0.1:9/v1", model="m")
    prompter, endpoint = open_endpoint(settings, PromptSettings())
    with pytest.raises(UserError, match=r'^engine = "openai": .*the likelihood of every token.*"vllm" or "ray"\.$'):
        score_tokens(rows, tmp_path / "s", "m", endpoint, prompter)
    assert list(tmp_path.iterdir()) == []


# --- on disk -----------------------------------------------------------------------------------------------------


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class Broken:
    """An engine that fails, or is killed, at its batch number `at`."""

    def __init__(self, engine, at, how):
        self.engine, self.at, self.how = engine, at, how

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def score(self, batches):
        for n, scores in enumerate(self.engine.score(batches)):
            if n == self.at:
                self.how()
            yield scores


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise RuntimeError("the device is gone")


def killed(call):
    """Run it in a process that must be killed."""
    if (child := os.fork()) == 0:
        try:
            call()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_or_failed_it_goes_on_and_ends_with_the_same_bytes(
    embedded, engine, rows, tmp_path, small_batches, monkeypatch
):
    prompter = Prompter.create(embedded.tokenizer)

    def made(folder, how=engine):
        return score_tokens(rows, tmp_path / folder, "m", how, prompter, top=3)

    made("quiet")
    wanted = content(tmp_path / "quiet")
    assert sorted(wanted) == sorted([*(f"{n}.safetensors" for n in range(5)), "scores.jsonl", "scores.jsonl.meta.json"])
    killed(lambda: made("broken", Broken(engine, 2, kill)))

    def torn(self, shards):  # on disk, not noted
        kill()

    killed(lambda: (monkeypatch.setattr(Journal, "append", torn), made("broken")))
    assert sorted(f.name for f in (tmp_path / "broken").glob("*.safetensors")) == [f"{n}.safetensors" for n in range(3)]
    with pytest.raises(UserError, match="no such file"):
        TokenScores(tmp_path / "broken")
    with pytest.raises(RuntimeError):
        made("broken", Broken(engine, 1, fail))
    asked = []
    counting = Broken(engine, 99, fail)
    counting.score = lambda batches: engine.score(asked.append(b) or b for b in batches)
    made("broken", counting)
    assert len(asked) == 2  # of five: two before the first kill, none kept by the second, one before the failure
    assert content(tmp_path / "broken") == wanted
    (tmp_path / "broken" / "1.safetensors").unlink()  # a lost file is made again, and nothing else
    made("broken", counting)
    assert len(asked) == 3 and content(tmp_path / "broken") == wanted
    made("broken", counting)
    assert len(asked) == 3  # finished: nothing is asked


def test_shards_hold_the_terms_one_after_the_other_as_float32(embedded, engine, rows, tmp_path, small_batches):
    prompter = Prompter.create(embedded.tokenizer)
    scores = score_tokens(rows, tmp_path / "s", "m", engine, prompter)
    found = load_file(tmp_path / "s" / "0.safetensors")
    assert list(found) == ["nll"] and found["nll"].dtype == np.float32
    with pytest.raises(ValueError, match="top = 0"):
        scores.top(rows[0].id)
    again = TokenScores(tmp_path / "s")
    assert all((again.nll(r.id) == scores.nll(r.id)).all() for r in rows)
    with pytest.raises(UserError, match="no such file"):
        TokenScores(tmp_path / "nothing")


def test_other_rows_or_settings_are_refused_in_one_line_that_names_them(embedded, engine, rows, tmp_path):
    prompter = Prompter.create(embedded.tokenizer)
    two = rows[:2]
    score_tokens(two, tmp_path / "s", "m", engine, prompter)
    before = content(tmp_path / "s")
    other = [replace(two[0], responses=("another",)), two[1]]
    for given_, model, top, named in [
        (two, "m", 5, "top: 0 -> 5"),
        (two, "n", 0, "model: "),
        (other, "m", 0, "rows: "),
    ]:
        with pytest.raises(UserError, match=rf"scores\.jsonl: holds shards with other settings \({named}[^;\n]*\)"):
            score_tokens(given_, tmp_path / "s", model, engine, prompter, top)
    paper = Prompter.create(embedded.tokenizer, PromptSettings(format="paper"))
    with pytest.raises(UserError, match=r"\(prompts: "):
        score_tokens(two, tmp_path / "s", "m", engine, paper)
    with pytest.raises(UserError, match=f"id '{two[0].id}' occurs twice"):
        score_tokens([*two, two[0]], tmp_path / "t", "m", engine, prompter)
    assert content(tmp_path / "s") == before and not (tmp_path / "t").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: a file; expected a folder"):
        score_tokens(two, tmp_path / "file", "m", engine, prompter)


@dataclass
class Many:
    """Rows that are made as they are gone through."""

    count: int

    def __len__(self):
        return self.count

    def __contains__(self, row):
        raise NotImplementedError

    def __iter__(self):
        turn = (Turn(role="user", content="?"),)
        for n in range(self.count):
            e = Example.model_construct(
                id=f"{n:016x}", prompt=turn, reference="!", task="t", meta={}, tools=(), answer=None
            )
            yield TrainingRow(e, ("!",))


class Cheap:
    """What an engine and a prompter give the files, without a model."""

    scores_tokens, template, format, tokenizer = True, SimpleNamespace(train=("", "")), "chat", None

    def describe(self):
        return {"name": "cheap"}

    def on(self, day):
        return self

    def identity(self):
        return {}

    def train(self, turns, tools):
        return Prompt((1,))

    def answer(self, prompt, turn):
        return range(100)

    def score(self, batches):
        ids, logs = np.zeros((100, 8), np.int32), np.zeros((100, 8), np.float32)
        for batch in batches:
            yield [Score(s.id, 0.0, Terms(np.full(100, int(s.id.split("/")[1]), np.float32), ids, logs)) for s in batch]


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """10,000 rows of 100 tokens with 8 likeliest ones are 68 MB."""
    peaks = {}
    for count in (2_500, 10_000):
        tracemalloc.start()
        scores = score_tokens(
            Many(count), tmp_path / str(count), "m", Cheap(), Cheap(), top=8, progress=Progress(quiet=True)
        )
        for n in range(0, count, 97):
            assert len(scores.nll(f"{n:016x}")) == 100
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(scores) == 10_000
    assert peaks[10_000] < 12e6 and peaks[10_000] - peaks[2_500] < 200 * 7_500
