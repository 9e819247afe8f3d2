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
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import cli

KILLS = int(os.environ.get("KILLS", "1"))
ROWS = 60


WATCHED = """
import sys
from selfdistill.cli import main
from selfdistill.engines import open as engines, openai, ray

asked = sys.argv.pop(1)

def watched(make):
    def opened(*settings):
        engine = make(*settings)
        generate = engine.generate
        def drawn(requests):
            with open(asked, "a") as file:
                for request in requests:
                    print(request.id, file=file, flush=True)
                    yield request
        engine.generate = lambda requests: generate(drawn(requests))
        return engine
    return opened

engines.open_local = watched(engines.open_local)
openai.OpenAIEngine, ray.RayEngine = watched(openai.OpenAIEngine), watched(ray.RayEngine)
main()
"""
"""`selfdistill`, with the ids of all that its engine is asked in a file."""


def command(stage: str, folder: Path, engine: str, model: str = "embedded", asked: Path | None = None) -> list[str]:
    start = [sys.executable, *(["-c", WATCHED, str(asked)] if asked else ["-m", "selfdistill"])]
    start += [stage, "--model", model, "--engine", engine]
    if stage == "distill":
        more = ["--data", "micro:facts", "--sample", str(ROWS), "--out", str(folder / "out.jsonl")]
    else:
        more = ["--task", f"name=facts,path=micro:facts,limit={ROWS}", "--out", str(folder)]
    return [*start, *more, "--max-new-tokens", "96"] if stage == "distill" else [*start, *more]


def kill_tree(process: subprocess.Popen) -> None:
    """kill -9 to the process and to all that it started."""
    everyone = [*psutil.Process(process.pid).children(recursive=True), process]
    for one in everyone:
        one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(everyone[:-1], timeout=20)


def whole_lines(file: Path) -> bytes:
    data = file.read_bytes() if file.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def survives(stage: str, engine: str, tmp_path: Path, kills: int = KILLS, model: str = "embedded", env=None) -> None:
    """What stands on disk at a kill is there ever after and is not asked again; the end is that of a quiet run."""
    name = "out.jsonl" if stage == "distill" else "predictions.jsonl"
    growing = f"{name}.texts.partial" if stage == "distill" else f"{name}.partial"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    every = tmp_path / "every"
    done = subprocess.run(command(stage, whole, engine, model, every), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    chance, kept, partial = random.Random(), b"", broken / growing
    for turn in range(kills):
        asked = tmp_path / f"asked{turn}"
        process = subprocess.Popen(
            command(stage, broken, engine, model, asked), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
        )
        while process.poll() is None and len(whole_lines(partial)) <= len(kept):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.3 if turn else 0)  # the first kill is sure to come before the end
        if process.poll() is None:
            kill_tree(process)
        assert not set(asked.read_text().split()) & ids(kept)
        if not partial.exists():  # it was faster
            break
        now = whole_lines(partial)
        assert now.startswith(kept)
        kept = now
    assert kept, "no kill came while rows were being made"
    last = subprocess.run(
        command(stage, broken, engine, model, tmp_path / "last"), capture_output=True, text=True, env=env
    )
    assert last.returncode == 0, last.stderr
    asked_last = (tmp_path / "last").read_text().split() if (tmp_path / "last").exists() else []
    everything = set(every.read_text().split())
    assert len(everything) == ROWS and ids(kept) < everything
    finished = process.returncode == 0
    assert sorted(asked_last) == ([] if finished else sorted(everything - ids(kept)))
    assert sorted(f.name for f in whole.iterdir()) == sorted(f.name for f in broken.iterdir())
    for file in (name, f"{name}.meta.json"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes()


def ids(lines: bytes) -> set[str]:
    """What the engine was asked for these records: a text's own id; an answer is the greedy one of its item."""
    found = [json.loads(line)["id"] for line in lines.splitlines()]
    return {id if "/0/" in id else f"{id}~" for id in found}


@pytest.mark.parametrize("stage", ["distill", "evaluate"])
def test_the_transformers_engine(tmp_path, stage):
    survives(stage, "name=transformers,rows=6", tmp_path)


def test_the_openai_engine(tmp_path, real_server):
    url, model = real_server
    env = os.environ | {"NO_PROXY": "127.0.0.1"}
    env.pop("OPENAI_API_KEY", None)
    survives("distill", f"name=openai,base_url={url},concurrency=4", tmp_path, model=model, env=env)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install 'selfdistill[ray]'")
def test_the_ray_engine(tmp_path):
    survives("distill", "name=ray,workers=2", tmp_path, kills=1 if KILLS <= 2 else KILLS)


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="needs vllm: benchmarks/vllm_environment.sh makes an environment that has it",
)
def test_the_vllm_engine(tmp_path):
    survives("distill", "name=vllm,max_num_seqs=6", tmp_path, kills=1 if KILLS <= 2 else KILLS)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install 'selfdistill[ray]'")
def test_a_lost_worker_of_a_ray_cluster_costs_no_row(tmp_path):
    """One of two workers is killed in the middle; the same process goes on without it and then with a new one."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    done = cli(*command("distill", whole, "name=transformers")[3:])
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        command("distill", broken, "name=ray,workers=2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    partial, victim = broken / "out.jsonl.texts.partial", None
    while process.poll() is None and victim is None:
        if partial.exists() and partial.stat().st_size:
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
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    assert texts(broken) == texts(whole)


def texts(folder: Path) -> list[tuple[str, str]]:
    from selfdistill.core.records import Rewrite, read_records

    return [(r.id, r.candidates[0].text) for r in read_records(folder / "out.jsonl", Rewrite)]
