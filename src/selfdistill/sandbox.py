"""Run a model's Python code apart from everything else, and only where the user allowed it.

In:  source text.
Out: whether it ran to its end, and what it said if not.

The code runs in a process of its own: new session, empty environment, a scratch folder as working directory and home,
limits on CPU time, memory, file size and open files, no network where the kernel grants a namespace of its own, and a
wall clock after which the process group is killed. It is a fence against mistakes, not against malice: the code can
still read and write what the user can.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

WALL_SECONDS = 5.0
MEMORY_BYTES = 512 << 20
_NEW_NET, _NEW_USER = 0x40000000, 0x10000000


@dataclass(frozen=True)
class Ran:
    """`passed` is True if the code ran to its last line; `note` is the last line of its error."""

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
    libc = ctypes.CDLL(None)
    if hasattr(libc, "unshare"):  # Linux; refused on some kernels, the other walls stand then
        libc.unshare(_NEW_USER | _NEW_NET)


def run_python(source: str) -> Ran:
    """Run `source` in a fresh interpreter. Never raises for what the code does."""
    done = secrets.token_hex(16)  # written after the last line: code that exits early does not pass
    with tempfile.TemporaryDirectory(prefix="selfdistill-") as scratch, tempfile.TemporaryFile() as errors:
        program = Path(scratch) / "program.py"
        ending = f"\n\nimport sys as _sys\n_sys.stderr.write('\\n{done}\\n')\n"
        program.write_text(source.replace("\0", "\ufffd") + ending, encoding="utf-8", errors="replace")
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", program.name],
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
            with contextlib.suppress(ProcessLookupError):  # the group is empty
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    if process.returncode == 0 and done in lines:
        return Ran(True, "")
    return Ran(False, lines[-1][:200] if lines else f"ended early with exit code {process.returncode}")
