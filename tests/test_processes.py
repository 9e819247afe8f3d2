"""Training in two processes, as `accelerate launch` starts them: the numbers of one process, one writer, resume.

All of this is real processes on the CPU, over gloo; but for the first, they are forked (`forked.py`). accelerate turns FSDP on for accelerators only, so the tests of FSDP2
tell it otherwise (`SHARDS`); what follows, torch's `fully_shard` and all of ours, is as on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from shlex import split
from typing import Any

import forked
import pytest
import torch
from conftest import free_port
from safetensors.torch import load_file
from test_crashes import kill_tree
from test_train import mark, unmark
from typer.testing import CliRunner

from selfdistill.cli import app

pytestmark = pytest.mark.heavy

# `--cpu` would start one process, whatever `--num_processes` says, unless MPI is there to start more.
LAUNCHER = split("--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no")
FSDP2 = split(
    "--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_reshard_after_forward true "
    "--fsdp_state_dict_type SHARDED_STATE_DICT"
)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

# 44 rows, of which 9 are held out: the last step has 3 rows, so one process has one of them, and then none.
TRAIN = split(
    "train --model embedded --data micro:rare_tools --sample 44 --epochs 1 --lr 1e-3 --set checkpoint_steps=1"
)
HALVES = split("--set holdout=0.2 --batch-size 2 --accumulation 2")
WHOLE = split("--set holdout=0.2 --batch-size 8")

WATCHED = '''
"""selfdistill, and beside it a file for each process: what it opened for writing, and which weights it trained."""
import atexit, hashlib, json, os, sys

written, facts, folder, rank = [], {}, os.environ["WATCH"], os.environ["RANK"]

def audit(event, args):
    if event in ("os.rename", "os.remove", "shutil.rmtree") or event == "open" and (args[2] or 0) & 3:
        path = os.path.abspath(args[0]) if isinstance(args[0], (str, os.PathLike)) else ""
        if path.startswith(folder):
            written.append(path)

def tell():
    text = json.dumps(facts | {"written": written})
    with open(f"{folder}.{rank}.json", "w") as file:
        file.write(text)

sys.addaudithook(audit)
atexit.register(tell)
import selfdistill.stages.train as stage

plain = stage.train

def train(*args, **more):
    from selfdistill.training import trainer as fit

    save = fit._save
    def told(trainer, *rest):
        model = trainer.model_wrapped
        own = [getattr(p, "_local_tensor", p).detach() for p in model.parameters()]
        trained = [t.numpy().tobytes() for t, p in zip(own, model.parameters()) if p.requires_grad]
        facts["wrapped"], facts["weights"] = type(model).__name__, sum(t.numel() for t in own)
        facts["digest"] = hashlib.sha256(b"".join(trained)).hexdigest()
        save(trainer, *rest)
    fit._save = told
    return plain(*args, **more)

for module in [stage, *sys.modules.values()]:
    if getattr(module, "train", None) is plain:
        module.train = train
'''

SHARDS = """
from accelerate import state

start = state.AcceleratorState.__init__

def init(self, *args, fsdp_plugin=None, **more):
    start(self, *args, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None and self.distributed_type == state.DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = state.DistributedType.FSDP, fsdp_plugin
        state.PartialState._shared_state["distributed_type"] = self.distributed_type

state.AcceleratorState.__init__ = init
"""

MAIN = """
import atexit

from selfdistill.cli import main

try:
    main()
except SystemExit as ended:  # a forked process that exits with 0 would be waited for
    if ended.code:
        raise
finally:
    atexit._run_exitfuncs()
"""


def start(*args: object, fsdp: bool = False, script: str = "", watch: Path | None = None, folder: Path) -> BaseProcess:
    """`selfdistill ARGS` in two processes; with a script's text before it, and a folder that is watched. What they write
    goes to files in `folder`, and the script lies there, too."""
    options = [*LAUNCHER[1:], *FSDP2] if fsdp else LAUNCHER
    file = folder / "script.py"
    file.write_text(script + MAIN)
    environment = ENVIRONMENT | ({"WATCH": str(watch)} if watch else {})
    launcher = [*options, "--main_process_port", str(free_port()), str(file)]
    out, err = folder / "out.txt", folder / "err.txt"
    return forked.start([*map(str, args)], out, err, environment=environment, launcher=launcher)


def launch(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """The same to its end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = start(*args, **more, folder=folder)
        process.join(600)
        assert process.exitcode is not None, "it hangs"
        texts = [(folder / f"{kind}.txt").read_text() for kind in ("out", "err")]
        return subprocess.CompletedProcess(list(args), process.exitcode, *texts)


def alone(*args: object) -> None:
    """The same in one process: this one."""
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exit_code == 0, (done.output, done.exception)


def curves(folder: Path) -> tuple[list[float], list[float]]:
    record = json.loads((folder / "training.json").read_text())
    return [x["loss"] for x in record["loss"]], [x["loss"] for x in record["held_out"]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (folder / "adapter_config.json").exists() else "model.safetensors"
    return load_file(folder / name)


def same_training(one: Path, other: Path) -> None:
    """The same losses in each step and on the held-out part, and nearly the same weights."""
    for a, b in zip(curves(one), curves(other), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    old, new = weights(one), weights(other)
    assert old.keys() == new.keys()
    assert max((old[k] - new[k]).abs().max() for k in old) < 1e-4


def facts(folder: Path) -> list[dict]:
    """What each process noted of itself."""
    return [json.loads(Path(f"{folder}.{rank}.json").read_text()) for rank in range(2)]


def content(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(folder):
    """A training in two processes of the real launcher, which are fresh interpreters: its folder, and what was printed."""
    (folder / "script.py").write_text(WATCHED + MAIN)
    start = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCHER, "--main_process_port", free_port()]
    command = [*start, folder / "script.py", *TRAIN, *HALVES, "--out", folder / "two"]
    environment = ENVIRONMENT | {"WATCH": str(folder / "two")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return folder / "two", done


def test_two_processes_train_what_one_does(two, folder):
    alone(*TRAIN, *WHOLE, "--out", folder / "one")
    same_training(folder / "one", two[0])
    assert [len(c) for c in curves(two[0])] == [5, 5]


def test_all_processes_hold_the_same_weights_and_one_writes(two):
    first, second = facts(two[0])
    assert first["wrapped"] == second["wrapped"] == "DistributedDataParallel"
    assert first["digest"] == second["digest"]
    assert any(path.endswith("training.json") for path in first["written"])
    assert second["written"] == []


def test_everything_is_said_once(two):
    _, done = two
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert sum("over 2 processes" in line for line in lines) == 1
    assert sum("adapter in" in line for line in lines) == 1
    assert [line for line in lines if "arning" in line] == []


def test_a_finished_adapter_is_left_as_it_is(two):
    made = [two[0] / name for name in ("adapter_model.safetensors", "adapter_config.json", "training.json")]
    before = content(two[0]), [f.stat().st_mtime_ns for f in made]
    done = launch(*TRAIN, *HALVES, "--out", two[0])
    assert done.returncode == 0, done.stderr
    assert before == (content(two[0]), [f.stat().st_mtime_ns for f in made])


def test_killed_and_started_again_it_ends_with_the_same_bytes(two, folder, tmp_path):
    args = [*TRAIN, *HALVES, "--out", folder / "killed"]
    process = start(*args, folder=tmp_path)
    partial = folder / "killed.partial"
    while process.is_alive() and not (partial / "checkpoint-4").exists():  # then the one before it is whole
        time.sleep(0.005)
    assert process.is_alive(), "it ended before it could be killed"
    kill_tree(process)
    assert not (folder / "killed").exists()
    mark(partial)
    done = launch(*args)
    assert done.returncode == 0, done.stderr
    assert not partial.exists()
    unmark(folder / "killed", two[0])
    assert content(folder / "killed") == content(two[0])


def test_a_checkpoint_counts_when_every_process_wrote_its_part(tmp_path, monkeypatch):
    from selfdistill.training.trainer import _last_checkpoint

    monkeypatch.setenv("WORLD_SIZE", "2")
    for step in (1, 2, 10):
        made = tmp_path / f"checkpoint-{step}"
        made.mkdir()
        (made / "trainer_state.json").write_text("{}")
        for rank in range(2):
            torch.save(torch.zeros(100), made / f"rng_state_{rank}.pth")
    assert _last_checkpoint(tmp_path).name == "checkpoint-10"
    torn = tmp_path / "checkpoint-10" / "rng_state_1.pth"
    torn.write_bytes(torn.read_bytes()[:-50])
    (tmp_path / "checkpoint-2" / "rng_state_1.pth").unlink()
    assert _last_checkpoint(tmp_path).name == "checkpoint-1"


def one_line(done, text: str) -> None:
    """It failed with one line that holds the text, said once, and with no traceback of ours."""
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "error: " in line and text in line]
    assert len(said) == 1, done.stderr
    assert not [line for line in done.stderr.splitlines() if "File" in line and "selfdistill/" in line], done.stderr


def test_bad_input_is_one_line(tmp_path):
    done = launch(*TRAIN, *HALVES, "--targets", "nothing", "--out", tmp_path / "bad")
    one_line(done, "this model has no module nothing")
    assert list(tmp_path.iterdir()) == []


def test_other_commands_are_for_one_process(tmp_path):
    done = launch("evaluate", "--model", "embedded", "--task", "micro:facts", "--out", tmp_path / "e")
    one_line(done, "evaluate: one process does this")
    assert list(tmp_path.iterdir()) == []


def test_one_process_of_a_launcher_does_the_same(tmp_path):
    """As a process that failed by itself: it is heard, though it is not the first."""
    env = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
    code = "import sys; from selfdistill import cli; cli.ALONE = 0.1; sys.argv[1:] = ['evaluate', '--out', 'e']; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: evaluate: one process does this")


def test_shards_that_accelerate_would_not_make_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    done = CliRunner().invoke(app, [*TRAIN, *WHOLE, "--out", str(tmp_path / "shards")])
    assert "accelerate has neither on cpu" in str(done.exception)


# --- a whole run ---------------------------------------------------------------------------------------------------

RECIPE = """
model = "embedded"
data = { path = "micro:rare_tools", sample = 21 }
distill = { max_new_tokens = 64 }
select = { check = "function_call" }
train = { epochs = 1, lr = 1e-3 }

[[tasks]]
name = "target"
path = "micro:rare_tools"
check = "function_call"
limit = 6
max_new_tokens = 48
"""


@pytest.fixture(scope="module")
def recipe(folder):
    (folder / "recipe.toml").write_text(RECIPE)
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def whole(folder, recipe):
    alone("run", recipe, "--out", folder / "whole", "--set", "train.batch_size=8")
    return folder / "whole"


def same_report(a, b, key: str = "report") -> None:
    """Numbers nearly, everything else exactly; but for the notes on how the rows were cut."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), key
        for k in a.keys() - {"chosen"}:
            same_report(a[k], b[k], f"{key}.{k}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), key
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            same_report(x, y, f"{key}[{k}]")
    else:
        assert a == (pytest.approx(b, rel=1e-4, abs=1e-6) if isinstance(b, float) else b), key


def same_run(one: Path, other: Path) -> None:
    reports = [json.loads((run / "report.json").read_text()) for run in (one, other)]
    assert [report.pop("costs").keys() for report in reports] == [{"vanilla", "sdft"}] * 2  # seconds are their own
    same_report(*reports)
    for arm in ("vanilla", "sdft"):
        same_training(one / arm / "adapter", other / arm / "adapter")
        texts = [(run / arm / "predictions.jsonl").read_text() for run in (one, other)]
        assert len(texts[0].splitlines()) == len(texts[1].splitlines()) == 6
    assert (one / "selected.jsonl").read_bytes() == (other / "selected.jsonl").read_bytes()
    assert sorted(f.name for f in one.iterdir()) == sorted(f.name for f in other.iterdir())


def test_a_run_gives_the_report_of_one_process(folder, recipe, whole):
    done = launch("run", recipe, "--out", folder / "run", "--set", "train.batch_size=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Everything lies in") == 1
    same_run(whole, folder / "run")


# --- FSDP2 ---------------------------------------------------------------------------------------------------------


def test_a_run_on_shards_gives_the_report_of_one_process(folder, recipe, whole):
    """LoRA; and between the trainings the seed LM is whole, since one process evaluates with it."""
    args = "run", recipe, "--out", folder / "sharded", "--set", "train.batch_size=4"
    done = launch(*args, fsdp=True, script=WATCHED + SHARDS, watch=folder / "sharded")
    assert done.returncode == 0, done.stderr
    same_run(whole, folder / "sharded")
    first, second = facts(folder / "sharded")
    assert first["wrapped"] == "FSDPPeftModelForCausalLM"
    assert first["weights"] == second["weights"]
    assert first["digest"] != second["digest"]
    loadable(folder / "sharded" / "sdft" / "adapter")


def loadable(adapter: Path) -> None:
    """By plain PEFT, and with every weight that a training of one process saves."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from selfdistill.models import resolve

    base = AutoModelForCausalLM.from_pretrained(resolve("embedded"), dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, adapter)
    stored = weights(adapter)
    for name, value in tuned.state_dict().items():
        if ".lora_" in name:
            assert torch.equal(value, stored.pop(name.replace(".default", "")))
    assert not stored


STOPPED = """
from selfdistill.training import trainer as fit
from selfdistill.cli import main

step_end = fit.Follow.on_step_end

def stop(self, args, state, control, **more):
    if state.global_step == 3:
        raise RuntimeError("stopped")
    step_end(self, args, state, control, **more)

fit.Follow.on_step_end = stop
try:
    main()
except SystemExit as ended:
    assert ended.code == 2  # the error in one line
    assert len(list(Path(sys.argv[sys.argv.index("--out") + 1] + ".partial").glob("checkpoint-*"))) == 2
fit.Follow.on_step_end = step_end
"""


def test_all_weights_train_on_shards_and_go_on_from_a_checkpoint(folder):
    """It stops in the third step, and goes on."""
    args = [*TRAIN, "--tune", "full", "--set", "holdout=0.2"]
    alone(*args, "--batch-size", 8, "--out", folder / "full")
    script = WATCHED + SHARDS + "from pathlib import Path\n" + STOPPED
    args += ["--batch-size", "4", "--out", folder / "halves"]
    done = launch(*args, fsdp=True, script=script, watch=folder / "halves")
    assert done.returncode == 0, done.stderr
    same_training(folder / "full", folder / "halves")
    first, second = facts(folder / "halves")
    assert first["wrapped"] == "FSDPLlamaForCausalLM"
    assert first["weights"] == second["weights"]
    from transformers import AutoModelForCausalLM

    _, loaded = AutoModelForCausalLM.from_pretrained(folder / "halves", output_loading_info=True)
    assert not any(loaded.values())
