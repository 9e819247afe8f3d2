"""kill -9 at random moments, with every engine: nothing is lost, and the files end as an undisturbed run's.

KILLS=20 python -m pytest tests/test_crashes.py     kills more often than a test run has time for.
"""

from __future__ import annotations

import importlib.util
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


def command(stage: str, folder: Path, engine: str, model: str = "embedded") -> list[str]:
    start = [sys.executable, "-m", "selfdistill", stage, "--model", model, "--engine", engine]
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


def survives(stage: str, engine: str, tmp_path: Path, kills: int = KILLS, model: str = "embedded", env=None) -> None:
    name = "out.jsonl" if stage == "distill" else "predictions.jsonl"
    growing = f"{name}.texts.partial" if stage == "distill" else f"{name}.partial"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    done = subprocess.run(command(stage, whole, engine, model), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    chance, kept, partial = random.Random(), 0, broken / growing
    for _ in range(kills):
        process = subprocess.Popen(
            command(stage, broken, engine, model), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
        )
        before = partial.read_bytes() if partial.exists() else b""
        while process.poll() is None and (not partial.exists() or partial.stat().st_size <= len(before)):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.3)
        if process.poll() is None:
            kill_tree(process)
        if partial.exists():  # finished rows stay as they were: they are not made again
            assert partial.read_bytes().startswith(before)
            kept = max(kept, len(before))
        elif (broken / name).exists():  # it was faster
            break
    last = subprocess.run(command(stage, broken, engine, model), capture_output=True, text=True, env=env)
    assert last.returncode == 0, last.stderr
    assert kept > 0 or (broken / name).exists()
    assert sorted(f.name for f in whole.iterdir()) == sorted(f.name for f in broken.iterdir())
    for file in (name, f"{name}.meta.json"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes()


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
    from selfdistill.records import Rewrite, read_records

    return [(r.id, r.candidates[0].text) for r in read_records(folder / "out.jsonl", Rewrite)]
