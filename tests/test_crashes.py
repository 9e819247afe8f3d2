"""kill -9 at random moments, with every engine: nothing is lost, and the files end as an undisturbed run's.

KILLS=20 python -m pytest tests/test_crashes.py     kills more often than a test run has time for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import psutil
import pytest
from conftest import cli

pytestmark = pytest.mark.heavy

KILLS = int(os.environ.get("KILLS", "1"))
ROWS = 24 if KILLS <= 2 else 60  # more kills take more rows


def command(stage: str, folder: Path, engine: str, model: str = "embedded", rows: int = ROWS) -> list[str]:
    start = [stage, "--model", model, "--engine", engine]
    if stage == "distill":
        more = ["--data", "micro:facts", "--sample", str(rows), "--out", str(folder / "out.jsonl")]
    else:
        more = ["--task", f"name=facts,path=micro:facts,limit={rows}", "--out", str(folder)]
    return [*start, *more, "--max-new-tokens", "96"] if stage == "distill" else [*start, *more]


def kill_tree(process: BaseProcess | subprocess.Popen) -> None:
    """kill -9 to the process and to all that it started."""
    started = psutil.Process(process.pid).children(recursive=True)
    for one in (*started, process):
        one.kill()
    process.join() if isinstance(process, BaseProcess) else process.wait()
    psutil.wait_procs(started, timeout=20)


def whole_lines(file: Path) -> bytes:
    data = file.read_bytes() if file.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def survives(
    stage: str,
    engine: str,
    tmp_path: Path,
    kills: int = KILLS,
    model: str = "embedded",
    rows: int = ROWS,
    whole_by: str | None = None,
    meanwhile: Callable[[BaseProcess, Path], object] = lambda process, folder: None,
) -> Path:
    """What stands on disk at a kill is there ever after and is not asked again; the end is that of a run that goes
    through, by the same engine or by `whole_by`. While that one runs, `meanwhile` is done. Returns its folder."""
    name = "out.jsonl" if stage == "distill" else "predictions.jsonl"
    growing = f"{name}.texts.partial" if stage == "distill" else f"{name}.partial"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    error = tmp_path / "error"

    def start(folder: Path, asked: str) -> BaseProcess:
        noted = partial(forked.note_requests, str(tmp_path / asked))
        by = whole_by or engine if folder == whole else engine
        return forked.start(command(stage, folder, by, model, rows), err=error, prepare=noted)

    def ends(folder: Path, asked: str) -> list[str]:
        process = start(folder, asked)
        if folder == whole:
            meanwhile(process, folder)
        process.join(600)
        assert process.exitcode == 0, error.read_text()
        return asked_for(asked)

    def asked_for(name: str) -> list[str]:
        file = tmp_path / name
        return file.read_text().split() if file.exists() else []

    everything = set(ends(whole, "every"))
    chance, kept, unfinished = random.Random(), b"", broken / growing
    for turn in range(kills):
        process = start(broken, f"asked{turn}")
        while process.is_alive() and len(whole_lines(unfinished)) <= len(kept):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.3 if turn else 0)  # the first kill is sure to come before the end
        if process.is_alive():
            kill_tree(process)
        assert not {*asked_for(f"asked{turn}")} & ids(kept)
        if not unfinished.exists():  # it was faster
            break
        now = whole_lines(unfinished)
        assert now.startswith(kept)
        kept = now
    assert kept, "no kill came while rows were being made"
    asked_last = ends(broken, "last")
    assert len(everything) == rows and ids(kept) < everything
    finished = process.exitcode == 0
    assert sorted(asked_last) == ([] if finished else sorted(everything - ids(kept)))
    assert sorted(f.name for f in whole.iterdir()) == sorted(f.name for f in broken.iterdir())
    for file in (name, f"{name}.meta.json"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes()
    return whole


def ids(lines: bytes) -> set[str]:
    """What the engine was asked for these records: a text's own id; an answer is the greedy one of its item."""
    found = [json.loads(line)["id"] for line in lines.splitlines()]
    return {id if "/0/" in id else f"{id}~" for id in found}


@pytest.mark.parametrize("stage", ["distill", "evaluate"])
def test_the_transformers_engine(tmp_path, stage):
    survives(stage, "name=transformers,rows=6", tmp_path)


def test_the_openai_engine(tmp_path, real_server, monkeypatch):
    url, model = real_server
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    survives("distill", f"name=openai,base_url={url},concurrency=4", tmp_path, model=model)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install 'selfdistill[ray]'")
def test_the_ray_engine_and_a_lost_worker_of_its_cluster_costs_no_row(tmp_path):
    """One of two workers is killed in the middle; the same process goes on without it and then with a new one. What is
    killed whole and started again ends with the same bytes, and the texts are those of an engine without a cluster."""
    kills = 1 if KILLS <= 2 else KILLS
    one, two = ("name=ray,workers=1", "name=ray,workers=2")
    made = survives("distill", one, tmp_path, kills, rows=60, whole_by=two, meanwhile=lose_a_worker)
    (tmp_path / "plain").mkdir()
    done = cli(*command("distill", tmp_path / "plain", "name=transformers,rows=32", rows=60))
    assert done.returncode == 0, done.stderr
    assert texts(made) == texts(tmp_path / "plain")


def lose_a_worker(process: BaseProcess, folder: Path) -> None:
    """Kill one worker of a process once there is an answer."""
    unfinished, victim = folder / "out.jsonl.texts.partial", None
    while process.is_alive() and victim is None:
        if unfinished.exists() and unfinished.stat().st_size:
            mine = psutil.Process(process.pid).children(recursive=True)
            victim = next(
                (
                    p
                    for p in mine
                    if ("MapWorker" in "".join(p.cmdline()) and "Worker" in p.name())
                    or "ray::_MapWorker" in " ".join(p.cmdline())
                ),
                None,
            )
        time.sleep(0.01)
    assert victim is not None, "no worker seen"
    victim.send_signal(signal.SIGKILL)


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="needs vllm: benchmarks/vllm_environment.sh makes an environment that has it",
)
def test_the_vllm_engine(tmp_path):
    survives("distill", "name=vllm,max_num_seqs=6", tmp_path, kills=1 if KILLS <= 2 else KILLS)


def texts(folder: Path) -> list[tuple[str, str]]:
    from selfdistill.core.records import read_records
    from selfdistill.core.rewrites import Rewrite

    return [(r.id, r.candidates[0].text) for r in read_records(folder / "out.jsonl", Rewrite)]
