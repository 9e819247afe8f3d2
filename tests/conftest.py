"""Shared fixtures: the embedded model, a foreign tiny model made here, and the command line as a process."""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import forked
import pytest
from filelock import FileLock
from hypothesis import settings

settings.register_profile("here", deadline=None)  # first calls import large libraries
settings.load_profile("here")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S"] = "300"  # a cluster that hangs fails a test, not the suite
os.environ["OMP_NUM_THREADS"] = "1"  # a core each: more threads than cores are many times slower

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

FOREIGN_CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} </s>"
    "{% else %}<s>[{{ m['role'] }}] {{ m['content'] }} [/{{ m['role'] }}]{% endif %}{% endfor %}"
)


LONG = [
    f"test_{name}.py"
    for name in (
        "crashes", "train", "engines", "studies", "processes", "commands", "strength", "quickstart", "architectures",
        "scale", "knowledge", "cli", "stages", "paper",
    )
]  # fmt: skip
"""Files that take longest, the longest first: begun last, one of them would keep one process busy alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="Run the heavy tests, too, as CI does.")


def pytest_configure(config: pytest.Config) -> None:
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    if named and not hasattr(config, "workerinput"):  # files that are named run whole
        config.option.all = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --all, leave out the heavy tests: kills, clusters, servers, launchers, studies, the docs, and whatever took
    three seconds when all was timed last. Long files come first."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    if not config.option.all:
        heavy = {i for i in items if i.get_closest_marker("heavy") or "real_server" in getattr(i, "fixturenames", ())}
        config.hook.pytest_deselected(items=[item for item in items if item in heavy])
        items[:] = [item for item in items if item not in heavy]


_FROZEN = 0


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    _freeze_what_is_imported()


def pytest_runtest_setup() -> None:
    """lm-evaluation-harness has pip list all packages for each result, which takes seconds: once will do."""
    if "lm_eval.loggers.utils" not in sys.modules:
        return
    from torch.utils import collect_env

    if not hasattr(collect_env.get_pretty_env_info, "cache_info"):
        collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    _freeze_what_is_imported()


def _freeze_what_is_imported() -> None:
    """Imported modules stay. Collecting garbage looks through them no more: that took a third of a tiny training."""
    global _FROZEN
    if len(sys.modules) > _FROZEN + 50:
        gc.collect()
        gc.freeze()
        _FROZEN = len(sys.modules)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def hears_control_c() -> None:
    """In a new process: what was started in the background of a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def cli(
    *args: object, cwd: object = None, env: Mapping[str, str] | None = None, prepare: forked.Prepare | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `selfdistill` as a user does: a forked process, or with an environment of its own a fresh interpreter."""
    command = [sys.executable, "-m", "selfdistill", *map(str, args)]
    if env is not None:
        return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=cwd, env=env)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = forked.start(command[3:], out, err, cwd, prepare)
        process.join(600)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(" ".join(command))
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


@pytest.fixture(scope="session")
def embedded():
    from selfdistill.models.seed_lm import load_model

    return load_model("embedded")


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, which both processes of a test run read: the first that needs it makes it."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder, made = place / name, place / f"{name}.made"
    with FileLock(place / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """A finished run with two arms and two tasks, to be read; what writes into it takes a copy."""
    return once(tmp_path_factory, "small", lambda folder: _small_run(folder / "run")) / "run"


def _small_run(out: Path) -> None:
    from selfdistill.core.config import Recipe
    from selfdistill.core.settings import checked
    from selfdistill.pipeline import run

    tasks = [
        {"name": "rare_tools", "path": "micro:rare_tools", "limit": 8, "max_new_tokens": 96, "role": "target"},
        {"name": "facts", "path": "micro:facts", "limit": 6, "max_new_tokens": 96},
        {"name": "tools", "path": "micro:tools", "limit": 6, "max_new_tokens": 96},
    ]
    recipe = {
        "model": "embedded",
        "data": {"path": "micro:rare_tools", "sample": 24},
        "distill": {"max_new_tokens": 96},
        "select": {"check": "function_call"},
        "train": {"epochs": 2, "lr": 3e-3, "preset": "strong", "batch_size": 4},
        "tasks": tasks,
    }
    out.parent.mkdir()
    run(checked(Recipe, recipe, "recipe"), out)


@pytest.fixture(scope="session")
def brief_folder(tmp_path_factory) -> Path:
    """The embedded model with more tokens that end an answer, for tests that need answers, but no long ones."""
    from selfdistill.models import resolve

    folder = shutil.copytree(resolve("embedded"), tmp_path_factory.mktemp("brief") / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    settings = json.loads((folder / "generation_config.json").read_text())
    ends = [settings["eos_token_id"], *(tokenizer[token] for token in (".", ",", "?", "!", "(", "Ċ"))]
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": ends}))
    return folder


def random_adapter(folder: Path, std: float) -> str:
    """A LoRA adapter of the embedded model in `folder`; the more `std`, the more it changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model

    from selfdistill.models.seed_lm import load_model

    torch.manual_seed(0)
    tuned = get_peft_model(load_model("embedded").model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=std)
    tuned.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def engine(embedded):
    from selfdistill.core.engine_settings import TransformersSettings
    from selfdistill.engines.open import make_engine
    from selfdistill.models.prompts import Prompter

    prompter = Prompter.create(embedded.tokenizer)
    return make_engine(TransformersSettings(rows=16), embedded, prompter)


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory) -> Path:
    """A random model that is not the project's: GPT-NeoX layers, word-piece-like BPE with BOS, another template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from tokenizers import decoders as decode
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("foreign")
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decode.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    bpe.train_from_iterator([Path(__file__).read_text(encoding="utf-8")] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = FOREIGN_CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def real_server(tmp_path_factory):
    """`transformers serve FOLDER`; the folder is also the name of the model in requests."""
    command = Path(sys.executable).with_name("transformers")
    missing = [name for name in ("fastapi", "uvicorn") if not importlib.util.find_spec(name)]
    if missing or not command.exists():
        pytest.skip("`transformers serve` is not installed: pip install 'transformers[serving]'")
    from selfdistill.models import resolve

    folder, port = resolve("embedded"), free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [command, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=out, stderr=subprocess.STDOUT, env=env,
        )  # fmt: skip
    try:
        no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(900):  # a busy machine takes its time
            assert process.poll() is None, f"the server ended:\n{log.read_text(errors='replace')[-2000:]}"
            try:
                no_proxy.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"the server is not ready:\n{log.read_text(errors='replace')[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
