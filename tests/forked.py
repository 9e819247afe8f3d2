"""`selfdistill` in a process of its own that is forked from one which has imported everything.

A command then starts in milliseconds instead of seconds, and is a real process: it has a working directory, an exit code
and an end by signals. What libraries read from the environment when they are imported is that of the tests; a command
that needs another one takes a fresh interpreter (`conftest.cli` with `env`).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import pytest

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["forked_imports"])


def _serve() -> None:
    """Start the process that is forked from. Python 3.11 does not give it our sys.path, and is silent about imports that
    fail there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


Prepare = Callable[[], object]
"""What is called in the new process before the command: a function of this module, or a partial of one."""


def start(
    arguments: list[str],
    out: Path | str = os.devnull,
    err: Path | str = os.devnull,
    cwd: object = None,
    prepare: Prepare | None = None,
    environment: Mapping[str, str] = os.environ,
    launcher: list[str] | None = None,
) -> BaseProcess:
    """Start `selfdistill ARGUMENTS`; what it writes goes to the two files. With the options and the script of a
    `launcher`, start `accelerate launch LAUNCHER ARGUMENTS`, whose processes are forked, too."""
    place = str(cwd or Path.cwd())
    process = _SERVER.Process(
        target=_run, args=(arguments, str(out), str(err), place, dict(environment), prepare, launcher)
    )
    _serve()
    process.start()
    return process


def _run(
    arguments: list[str],
    out: str,
    err: str,
    cwd: str,
    environment: dict[str, str],
    prepare: Prepare | None,
    launcher: list[str] | None,
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w", encoding="utf-8") for n in range(3))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["selfdistill", *arguments]
    from selfdistill.cli import main

    try:
        if prepare:
            prepare()
        if launcher:
            _launch([*launcher, *arguments])
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()  # a forked process ends without them


def _launch(command: list[str]) -> NoReturn:
    """`accelerate launch`, but for two settings of torchrun that it has no options for."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    settings = launch_command_parser().parse_args(command)
    settings.run_path, settings.start_method = True, "fork"
    launch_command(settings)
    sys.exit()


def note_requests(file: str) -> None:
    """The ids of all that engines are asked, in a file."""
    from selfdistill.engines import open as engines
    from selfdistill.engines import openai, ray

    def noted(make):
        def opened(*settings):
            engine = make(*settings)
            generate = engine.generate

            def drawn(requests):
                with Path(file).open("a") as ids:
                    for request in requests:
                        print(request.id, file=ids, flush=True)
                        yield request

            engine.generate = lambda requests: generate(drawn(requests))
            return engine

        return opened

    engines.open_local = noted(engines.open_local)
    openai.OpenAIEngine, ray.RayEngine = noted(openai.OpenAIEngine), noted(ray.RayEngine)


def tell_modules(file: str) -> None:
    """The names of all modules that are imported before the command begins, in a file."""
    Path(file).write_text("\n".join(sys.modules))


def limit_memory() -> None:
    """Half a gibibyte more than what the process has with the model."""
    import resource

    from selfdistill.models.seed_lm import load_model

    load_model("embedded").model.eval()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (1 << 29)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_files(size: int) -> None:
    """Writes past so many bytes of a file fail, like those to a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def less_kernel(denied: str) -> None:
    """What the names stand for is answered as by a kernel that lacks it, to this process and all that it starts."""
    import ctypes
    import platform
    import struct

    no_call, forbidden, invalid = 38, 1, 22  # ENOSYS, EPERM, EINVAL
    arm = platform.machine() == "aarch64"
    answers = {
        "unshare": [(97 if arm else 272, forbidden)],
        "landlock": [(444, no_call), (445, no_call), (446, no_call)],
        "landlock in name only": [(446, 0)],
        "seccomp": [(277 if arm else 317, no_call)],
    }
    program = [(0x20, 0, 0, 0)]
    for name in denied.split(","):
        for number, error in answers[name]:
            program += [(0x15, 0, 1, number), (6, 0, 0, 0x50000 | error)]
    if "seccomp" in denied.split(","):  # PR_SET_SECCOMP
        program += [(0x15, 0, 3, 167 if arm else 157), (0x20, 0, 0, 16), (0x15, 0, 1, 22), (6, 0, 0, 0x50000 | invalid)]
    program += [(6, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, ctypes.c_ulong(1), 0, 0, 0) == 0
    assert libc.prctl(22, ctypes.c_ulong(2), struct.pack("@HP", len(program), ctypes.addressof(code)), 0, 0) == 0


def break_reading(error: Exception) -> None:
    """Whatever is read raises the error, after another one that holds a secret."""
    import selfdistill.data.examples

    def broken(*arguments, **options):
        try:
            int("the cause http://me:secret@host/")
        except ValueError:
            raise error from None

    selfdistill.data.examples.rows = broken
