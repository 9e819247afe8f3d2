"""Run a model's Python code apart from everything else, and only where the user allowed it.

In:  source text, and an answer that it may use.
Out: whether it ran to its end, and what it said if not.

`run_python` starts `program.py` as a process of its own. That puts up walls which the kernel holds, forks, and runs the
source in the fork. No wall needs a privilege. `walls` tries them and tells what holds; where one of `REQUIRED` is
missing, nothing is run, unless the caller takes that upon itself:

* namespaces: no network, no sight of other processes, and when the first process ends the kernel kills all others;
* a root of its own: the Python installation and the system's libraries read-only, a scratch folder of `SCRATCH_BYTES`
  in memory, neither /proc nor /sys. Where it is refused, scratch is an ordinary folder that is measured every few
  hundredths of a second, so it can overshoot for a moment;
* root becomes nobody;
* Landlock: the same paths once more, no TCP, no signals to the outside;
* a seccomp filter: threads but no processes, no sockets but unnamed pairs, no signals to others. Code that tries is
  killed, so it cannot catch an exception and pass;
* limits on memory, processor time, file size, open files and processes; a wall clock.

What remains. Code and tests share one process, so code that sets out to pass can: redefine `==`, skip the tests by a
trace function, play the runner's part. (Names are the tests' own: an `assert` of the code's or another `len` change
nothing.) After the last line the runner answers a challenge of another process; leaving
early, or writing out all that can be read, does not answer it, but nothing in a process is hidden from the process.
The time and, without a root of its own, names and sizes of files can be seen. A bug in the kernel opens everything.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from selfdistill.checks.sandbox.program import MAX_FILES, MEMORY_BYTES, WALL_SECONDS, standing
from selfdistill.core.errors import UserError

PROGRAM = Path(__file__).with_name("program.py").resolve()
REQUIRED = ("read", "write", "network", "processes")
"""The walls without which model-written code is not run."""


@dataclass(frozen=True)
class Ran:
    """`passed` is True if the code ran to its last line; `note` is the last line of its error."""

    passed: bool
    note: str


def _note(ended: str, said: str) -> str:
    """Why the code did not pass, in a line."""
    how, number = ended.split()
    if how == "clock":
        return f"killed after {number} s"
    if how == "disk":
        return f"killed: more than {number} MiB or {MAX_FILES} files in its scratch folder"
    if how == "exit":
        return (said.strip().splitlines() or [f"ended early with exit code {number}"])[-1][:200]
    name = {s.value: s.name for s in signal.Signals}.get(int(number), f"signal {number}")
    return {
        "SIGSYS": "killed: it tried to start a process, to reach the network or to touch another process",
        "SIGXCPU": "killed: too much processor time",
    }.get(name, f"killed by {name}")


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    folder = tempfile.TemporaryDirectory(prefix="selfdistill-", ignore_cleanup_errors=True)
    try:
        yield folder.name
    finally:
        try:
            folder.cleanup()
        except RecursionError:  # the code has nested folders too deep for Python
            subprocess.run(["rm", "-rf", folder.name], check=False)


def _run(
    source: str,
    wall: float,
    memory: int,
    without: tuple[str, ...],
    *,
    answer: str | None = None,
    names: Collection[str] = (),
    required: tuple[str, ...] = (),
) -> tuple[Ran, frozenset[str]]:
    """The verdict, and the means that stood; `without` leaves some of them out, as another machine might."""
    environment = {
        "PYTHONHASHSEED": "0",  # the same order of sets gives the same verdict
        "PYTHONUTF8": "1",
        "MALLOC_ARENA_MAX": "1",  # else each thread takes 64 MiB of address space
    }
    if "LD_LIBRARY_PATH" in os.environ:  # some installations of Python do not start without
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    code, own = (t if t is None else t.replace("\0", "\ufffd").encode("utf-8", "replace") for t in (source, answer))
    job = marshal.dumps((code, own, list(names), required))
    with _scratch() as scratch:
        # -P: this folder's modules, such as select, must not hide the standard library's.
        arguments = map(str, [PROGRAM, os.getpid(), wall, memory, scratch, *without])
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", *arguments],
            cwd=scratch,
            env=environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        ) as process:
            try:
                verdict, errors = process.communicate(job, timeout=wall + 30)
            except subprocess.TimeoutExpired:  # the machine is too busy for the clock inside
                process.kill()
                process.communicate()  # until the last process is gone
                verdict, errors = f"\nclock {wall:g}\n".encode(), b""
            except BaseException:  # Ctrl-C
                process.kill()
                raise
    if verdict:
        walls, ended, said = verdict.decode("utf-8", "replace").split("\n", 2)
        if ended.startswith("walls "):
            raise UserError(_refusal(ended.removeprefix("walls ").split(",")))
        passed = ended == "passed 0"
        return Ran(passed, "" if passed else _note(ended, said)), frozenset(walls.split())
    if errors:
        said = " ".join(errors.decode("utf-8", "replace").split())
        raise UserError(f"the sandbox for model-written code could not start: {said}")
    return Ran(False, "killed from outside, with its sandbox"), frozenset()


def run_python(
    source: str,
    *,
    answer: str | None = None,
    names: Collection[str] = (),
    required: tuple[str, ...] = REQUIRED,
    wall_seconds: float = WALL_SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> Ran:
    """Run `source` as `__main__` in a fresh interpreter. Never raises for what the code does.

    An `answer` runs before it, as the module `solution`. Its names can then be used in `source`, but those of built-in
    things only where they are among `names`.

    UserError if one of the walls in `required` is missing, before anything of either text is run; and if the sandbox
    cannot start, so that a fault of the machine is not taken for one of the code.
    """
    return _run(source, wall_seconds, memory_bytes, (), answer=answer, names=names, required=required)[0]


# --- walls -------------------------------------------------------------------------------------------------------


@functools.cache
def walls(without: tuple[str, ...] = ()) -> dict[str, bool]:
    """What holds on this machine: the kernel has granted the means for it, and an attack on it has failed. `without` is
    for tests.

    `clock`, `memory` (address space of one process): always. `processes`: few at a time, and none is left behind.
    `network`: nothing can be reached. `write`, `read`: no file outside scratch can be changed, or read but for Python
    and libraries. `disk`: scratch cannot overshoot. `parent`: cannot be signalled, nor its memory or environment read.
    """
    if sys.platform != "linux":
        return standing((), root=False)
    forked, means = _run("import os\nos.fork() or os._exit(0)", WALL_SECONDS, MEMORY_BYTES, without)
    if forked.passed:  # whatever the kernel said of the filter
        means -= {"seccomp"}
    broken = _broken_by_files(without) | _broken_by_a_call(without)
    return {wall: stands and wall not in broken for wall, stands in standing(means, os.geteuid() == 0).items()}


def _broken_by_files(without: tuple[str, ...]) -> set[str]:
    """Which of `read` and `write` do not hold: the code tries both on a file that any user may read and write."""
    secret = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="selfdistill-") as folder:
        Path(folder).chmod(0o755)
        victim = Path(folder, "victim")
        victim.write_text(secret)
        victim.chmod(0o666)
        lines = [
            f"victim, text = {str(victim)!r}, None",
            "for mode in 'ra':",
            "    try:",
            "        with open(victim, mode) as file:",
            "            text = file.read() if mode == 'r' else file.write('spoilt') and text",
            "    except OSError:",
            "        pass",
            "raise SystemExit(text)",
        ]
        ran = _run("\n".join(lines), WALL_SECONDS, MEMORY_BYTES, without)[0]
        return {wall for wall, fell in [("read", secret in ran.note), ("write", victim.read_text() != secret)] if fell}


def _broken_by_a_call(without: tuple[str, ...]) -> set[str]:
    """Whether `network` does not hold: the code tries to reach a server of this process."""
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.1", 0))
        except OSError:  # no network at all
            return set()
        server.listen()
        server.settimeout(0)
        code = f"import socket\nsocket.create_connection({server.getsockname()!r}, timeout=1)"
        _run(code, WALL_SECONDS, MEMORY_BYTES, without)
        try:
            server.accept()[0].close()
        except OSError:
            return set()
        return {"network"}


def require_walls() -> None:
    """Raises UserError, which names the missing walls, where model-written code must not be run."""
    if missing := [wall for wall in REQUIRED if not walls()[wall]]:
        raise UserError(_refusal(missing))


def describe(held: dict[str, bool]) -> str:
    """What holds and what does not, in a line."""
    missing = [wall for wall, holds in held.items() if not holds]
    line = f"sandbox for model-written code: {', '.join(wall for wall, holds in held.items() if holds)} hold"
    return f"{line}, {', '.join(missing)} missing" if missing else line


def _refusal(missing: list[str]) -> str:
    return (
        f"model-written code is not run: this system does not hold the sandbox's walls {', '.join(missing)}; expected "
        f"{', '.join(REQUIRED)}. Leave code out (no --allow-code-execution), take a Linux that grants namespaces, "
        "Landlock and seccomp, or, only in a container of your own that may be lost, say --code-without-walls (in a "
        "recipe: code_without_walls = true)."
    )
