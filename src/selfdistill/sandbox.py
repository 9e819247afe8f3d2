"""Run a model's Python code apart from everything else, and only where the user allowed it.

In:  source text.
Out: whether it ran to its end, and what it said if not.

The code runs in a process of its own: new session, empty environment, a scratch folder as working directory and home,
limits on CPU time, memory, file size, open files and processes, its own network and user namespace where the kernel
grants them, and a wall clock after which the whole process group is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

WALL_SECONDS = 5.0
MEMORY_BYTES = 512 << 20
_NEW_NET, _NEW_USER = 0x40000000, 0x10000000


@dataclass(frozen=True)
class Ran:
    """`passed` is True if the code ended by itself with exit code 0; `note` is the last line of its error."""

    passed: bool
    note: str


def _confine() -> None:
    """In the child, before exec. Rlimits hold for all that the code starts."""
    for limit, value in (
        (resource.RLIMIT_CPU, int(WALL_SECONDS)),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    # Refused on some kernels; the other walls stand then.
    ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_NET)


def run_python(source: str) -> Ran:
    """Run `source` in a fresh interpreter. Never raises for what the code does."""
    with tempfile.TemporaryDirectory(prefix="selfdistill-") as scratch, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", source],
            cwd=scratch,
            env={"HOME": scratch, "TMPDIR": scratch, "PATH": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            preexec_fn=_confine,
        )
        try:
            process.wait(timeout=WALL_SECONDS)
        except subprocess.TimeoutExpired:
            return Ran(False, f"killed after {WALL_SECONDS:.0f} s")
        finally:
            with contextlib.suppress(ProcessLookupError):  # everything that it started has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return Ran(process.returncode == 0, lines[-1][:200] if lines else f"exit code {process.returncode}")
