"""Attacks on the sandbox, with real processes; the means that stop one are left out in turn, and in the end all.

`walls` tells what this machine's kernel grants; a test of a wall that cannot hold here is skipped. `BARE` is the
control: without walls the attack must succeed, else its test would prove nothing.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfdistill.checks import sandbox
from selfdistill.checks.sandbox import Ran, run_python, walls
from selfdistill.checks.sandbox.program import MEMORY_BYTES, SCRATCH_BYTES
from selfdistill.core.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")

BARE = ("namespaces", "nobody", "landlock", "seccomp")
LESS = [(), ("seccomp",), ("namespaces",), ("root",), ("landlock",), ("namespaces", "seccomp"), ("landlock", "seccomp")]


def run(code: str, without: tuple[str, ...] = (), wall: float = 3.0) -> Ran:
    return sandbox._run(textwrap.dedent(code), wall, MEMORY_BYTES, without)[0]


def need(wall: str, without: tuple[str, ...] = ()) -> None:
    if not walls(without)[wall]:
        pytest.skip(f"this machine's kernel does not grant the wall {wall!r} without {without}")


def processes(parent: int) -> list[int]:
    """The sandbox's processes, and all that they forked, that `parent` started."""
    marker = f"{Path(sandbox.__file__).with_name('program.py').resolve()}\0{parent}\0".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                alive = marker in (folder / "cmdline").read_bytes()
            except OSError:
                alive = False
            found += [int(folder.name)] * alive
    return found


@pytest.fixture
def folder():
    """A folder that only the walls protect: any user may read and write it."""
    path = Path(tempfile.mkdtemp(prefix="victim-", dir="/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch):
    path = tempfile.mkdtemp(prefix="scratches-", dir="/tmp")
    Path(path).chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", path)
    yield
    assert processes(os.getpid()) == []
    assert list(Path(path).iterdir()) == []
    Path(path).rmdir()


@pytest.fixture
def bystander():
    """Another process of the user, with a secret in its environment, reversed in `name`."""
    secret = secrets.token_hex(8)
    command = ["/bin/sleep", "60"]
    if os.geteuid() == 0 and (setpriv := shutil.which("setpriv")):  # else root's own rights would guard it, and no wall
        command = [setpriv, "--bounding-set=-all", "--inh-caps=-all", *command]
    process = subprocess.Popen(command, env={"SECRET": secret}, start_new_session=True)
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.01)
    process.name = secret[::-1]
    yield process
    process.kill()
    process.wait()


# Processes and time


@pytest.mark.heavy
@pytest.mark.parametrize("without", LESS)
@pytest.mark.parametrize(
    "bomb",
    [
        "while True: os.fork()",
        """
        while True:
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
        """,
        """
        while True:
            try:
                os.fork()
                os.setsid()
            except BaseException:
                pass
        """,
    ],
    ids=["plain", "setsid", "catching"],
)
def test_a_fork_bomb_is_stopped(bomb, without):
    need("processes", without)
    began = time.monotonic()
    ran = run("import os\n" + textwrap.dedent(bomb), without, wall=0.5)
    assert not ran.passed
    assert time.monotonic() - began < 5
    if "seccomp" not in without:
        assert ran.note.startswith("killed"), ran


def test_processes_are_few_even_without_the_filter():
    need("processes", ("seccomp",))
    ran = run(
        """
        import os, time
        for n in range(1000):
            if os.fork() == 0:
                time.sleep(60)
        """,
        ("seccomp",),
    )
    assert ran == Ran(False, "BlockingIOError: [Errno 11] Resource temporarily unavailable") or "killed" in ran.note


@pytest.mark.parametrize("without", [*LESS, BARE])
def test_a_process_that_leaves_its_session_does_not_survive(without):
    ran = run(
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
        """,
        without,
    )
    if "seccomp" not in without and walls(("namespaces",))["processes"]:
        assert ran.note.startswith("killed: it tried")
    assert processes(os.getpid()) == []


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(1000)", "import signal\nsignal.pause()"])
def test_the_clock_ends_what_does_not_end(code):
    began = time.monotonic()
    assert run(code, wall=0.5) == Ran(False, "killed after 0.5 s")
    assert 0.5 < time.monotonic() - began < 3


def test_processor_time_is_limited():
    """For threads that burn it faster than the clock goes; here the code tightens its own limit to be quick."""
    limit = "import resource\nlimits = resource.getrlimit(resource.RLIMIT_CPU)\n"
    assert run(f"{limit}assert limits == (5, 6), limits", wall=3.0).passed
    ran = run(f"{limit}resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass", wall=10.0)
    assert ran == Ran(False, "killed: too much processor time")


def test_what_runs_dies_with_the_caller(folder):
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from selfdistill.checks.sandbox import *; run_python('while True: pass', wall_seconds=50)",
        ],
        env=os.environ | {"TMPDIR": str(folder)},  # it cannot clear its scratch folder
    )
    until = time.monotonic() + 20
    while len(processes(caller.pid)) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert len(processes(caller.pid)) == 3
    caller.kill()
    caller.wait()
    while processes(caller.pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert processes(caller.pid) == []


# Memory and disk


@pytest.mark.parametrize("code", ["x = bytearray(1 << 31)", "x = []\nwhile True: x.append(' ' * 10**6)"])
def test_a_memory_hog_fails(code):
    assert run(code) == Ran(False, "MemoryError")


def test_a_file_too_large_fails():
    assert run("open('x', 'wb').write(bytes(2 << 20))").note == "OSError: [Errno 27] File too large"


@pytest.mark.heavy
@pytest.mark.parametrize("without", [(), ("namespaces",), ("namespaces", "landlock")])
@pytest.mark.parametrize(
    "code",
    [
        "for i in range(10**6): open(str(i), 'wb').write(bytes(10**5))",
        "for i in range(10**6): open(str(i), 'wb').close()",
        "import os\nfor i in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\nwhile True: pass",
    ],
    ids=["bytes", "files", "depth"],
)
def test_a_disk_filler_fails(code, without):
    ran = run(code, without)
    assert not ran.passed
    if walls(without)["disk"]:
        assert "No space left" in ran.note
    else:
        assert "files in its scratch folder" in ran.note or "File name too long" in ran.note, ran


def test_scratch_is_cleared_of_folders_without_rights():
    assert run("import os\nos.mkdir('d')\nopen('d/f', 'w')\nos.mkdir('d/e', 0)", ("namespaces",)).passed


# Files

WRITE = """
import os
tries = [
    lambda: open(V, "w").write("x"),
    lambda: open(V, "a").write("x"),
    lambda: os.truncate(V, 0),
    lambda: os.chmod(V, 0o600),
    lambda: os.utime(V, (1, 1)),
    lambda: os.rename(V, F + "/moved"),
    lambda: os.unlink(V),
    lambda: os.mkdir(F + "/new"),
    lambda: open(F + "/new.txt", "w"),
    lambda: os.symlink(V, "link") or open("link", "w").write("x"),
    lambda: os.link(V, "hard") or open("hard", "w").write("x"),
    lambda: open(PACKAGE, "a").write("x"),
]
for i, attack in enumerate(tries):
    if ONLY in (i, None):
        try:
            attack()
        except OSError:
            pass
"""


def attack_files(folder: Path, without: tuple[str, ...], only: int | None) -> bool:
    """Whether the files were changed."""
    victim, library = folder / "victim.txt", folder / "library.py"
    for file in (victim, library):
        file.write_text("mine")
        file.chmod(0o666)
        os.utime(file, (100, 100))

    def state():
        files = sorted(folder.rglob("*"))
        return [(f, f.read_bytes() if f.is_file() else b"", f.stat().st_mode, f.stat().st_mtime) for f in files]

    before = state()
    head = f"V, F, PACKAGE, ONLY = {str(victim)!r}, {str(folder)!r}, {str(library)!r}, {only}\n"
    assert run(head + WRITE, without).passed
    return state() != before


@pytest.mark.parametrize("without", LESS)
def test_nothing_outside_scratch_is_written(folder, without):
    need("write", without)
    assert not attack_files(folder, without, None)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11])  # a hard link cannot leave the file system
def test_the_attacks_on_files_do_work_without_walls(folder, number):
    assert attack_files(folder, BARE, number)


def test_the_python_installation_is_read_only():
    need("write")
    library = Path(os.__file__)
    before = library.read_bytes(), library.stat()
    ran = run("import os\nos.utime(os.__file__, (1, 1))")
    assert not ran.passed
    ran = run("import os\nopen(os.path.dirname(os.__file__) + '/intruder.py', 'w')")
    assert not ran.passed
    assert (library.read_bytes(), library.stat().st_mtime) == (before[0], before[1].st_mtime)
    assert not library.with_name("intruder.py").exists()


READ = """
import os
paths = PATHS + [f"/proc/{p}/{f}" for p in ("self", os.getppid(), PARENT, BYSTANDER) for f in ("environ", "maps")]
text = repr(dict(os.environ))
for path in paths:
    try:
        text += open(path, errors="replace").read()
    except OSError:
        pass
raise SystemExit("found" if any(name[::-1] in text for name in NAMES) else "nothing")
"""


def attack_secrets(names, paths, parent, bystander, without) -> str:
    head = f"NAMES, PATHS, PARENT, BYSTANDER = {names}, {paths}, {parent}, {bystander}\n"
    return run(head + READ, without).note.removeprefix("ended early with exit code ")


@pytest.mark.parametrize("without", LESS)
def test_the_users_files_are_not_read(folder, without):
    need("read", without)
    (folder / "key").write_text("open sesame")
    assert attack_secrets(["emases nepo"], [str(folder / "key")], 1, 1, without) == "nothing"
    assert attack_secrets(["emases nepo"], [str(folder / "key")], 1, 1, BARE) == "found"


@pytest.mark.parametrize("without", LESS)
def test_no_environment_is_read(bystander, monkeypatch, without):
    need("parent", without)
    monkeypatch.setenv("TOKEN", "open sesame")
    names = ["emases nepo", bystander.name]
    assert attack_secrets(names, [], os.getpid(), bystander.pid, without) == "nothing"


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root's own rights guard its processes")
def test_the_attack_on_an_environment_does_work_without_walls(bystander):
    assert attack_secrets([bystander.name], [], os.getpid(), bystander.pid, BARE) == "found"


def test_the_environment_is_empty():
    code = "import os\nassert sorted(os.environ) == ['HOME', 'PATH', 'TMPDIR'], os.environ"
    assert run(code).passed
    assert run("import os\nassert os.environ['HOME'] == os.getcwd() and os.listdir() == ['program.py']").passed


# Network

CONNECT = """
import socket
s = socket.socket(FAMILY, KIND)
s.settimeout(1)
try:
    s.connect(ADDRESS)
    s.send(b"hello")
except OSError:
    pass
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
    ],
)
@pytest.mark.parametrize("without", [*LESS, BARE])
def test_no_server_is_reached(folder, family, kind, without):
    if without != BARE:
        need("network", without)
        if family == socket.AF_UNIX:
            need("write", without)
    if family == socket.AF_UNIX:
        address = str(folder / "socket")
    else:
        address = ("127.0.0.1" if family == socket.AF_INET else "::1", 0)
    with socket.socket(family, kind) as server:
        try:
            server.bind(address)
        except OSError:
            pytest.skip("this machine has no such address")
        if family == socket.AF_UNIX:
            Path(address).chmod(0o777)
        if kind == socket.SOCK_STREAM:
            server.listen()
        head = f"FAMILY, KIND, ADDRESS = {int(family)}, {int(kind)}, {server.getsockname()[:2]!r}\n"
        if family == socket.AF_UNIX:
            head = f"FAMILY, KIND, ADDRESS = {int(family)}, {int(kind)}, {address!r}\n"
        ran = run(head + CONNECT, without)
        server.settimeout(0.1)
        try:
            server.accept() if kind == socket.SOCK_STREAM else server.recv(10)
            reached = True
        except TimeoutError:
            reached = False
    assert reached == (without == BARE)
    if not without:
        assert not ran.passed


@pytest.mark.parametrize("without", [(), ("seccomp",), ("namespaces",)])
def test_no_address_is_reached(without):
    need("network", without)
    code = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"
    ran = run(code, without)
    assert not ran.passed
    assert "timed out" not in ran.note, "a packet was sent"


# The caller and other processes


@pytest.mark.parametrize("without", LESS)
def test_no_signal_reaches_another_process(bystander, without):
    need("parent", without)
    attack = f"""
        import ctypes, os, signal
        for target in ({bystander.pid}, {-bystander.pid}, os.getppid()):
            try:
                os.kill(target, 9)
            except OSError:
                pass
        """
    ran = run(attack, without)
    assert bystander.poll() is None
    assert "seccomp" in without or not ran.passed


def test_the_signal_does_arrive_without_walls(bystander):
    run(f"import os\nos.kill({bystander.pid}, 9)", BARE)
    assert bystander.wait(5) == -signal.SIGKILL


def test_no_signal_reaches_all_processes(bystander):
    need("parent")
    need("processes")
    # Signal 0 only asks, so a hole in the wall would do no harm here.
    assert run("import os\nos.kill(-1, 0)").note.startswith("killed: it tried")
    code = f"""
        import os
        try:
            os.kill({bystander.pid}, 0)
        except ProcessLookupError:  # a PID namespace: the user's processes are safe
            os.kill(-1, 9)
        """
    if "namespaces" in sandbox._run("", 5, MEMORY_BYTES, ("seccomp",))[1]:
        run(code, ("seccomp",))
    assert bystander.poll() is None


@pytest.mark.parametrize("without", LESS)
def test_the_callers_memory_is_not_read(without):
    need("parent", without)
    secret = ctypes.create_string_buffer(b"open sesame")
    code = f"""
        import ctypes, struct
        found = b""
        try:
            with open("/proc/{os.getpid()}/mem", "rb") as memory:
                memory.seek({ctypes.addressof(secret)})
                found += memory.read(11)
        except OSError:
            pass
        here = ctypes.create_string_buffer(11)
        local, there = struct.pack("PN", ctypes.addressof(here), 11), struct.pack("PN", {ctypes.addressof(secret)}, 11)
        one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
        ctypes.CDLL(None).process_vm_readv({os.getpid()}, local, one, there, one, none)
        raise SystemExit((found + here.raw).strip(b"\\0"))
        """
    note = run(code, without).note
    assert "sesame" not in note
    assert note.startswith("killed: it tried") if "seccomp" not in without else note.endswith("b''"), note


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import os\nos.execv('/bin/true', ['true'])",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)",
    ],
)
def test_programs_and_processes_are_not_started(code):
    if not walls(("namespaces",))["processes"]:
        pytest.skip("this machine has no seccomp filter")
    assert run(code).note.startswith("killed: it tried")


def test_privileges_do_not_come_back():
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x10000000) == -1 and libc.mount(b"x", b"/", b"tmpfs", 0, None) == -1
        assert libc.umount2(b"/scratch", 2) == -1 and libc.chroot(b".") == -1
        assert libc.setgid(1) == -1 and libc.sethostname(b"x", 1) == -1
        """
    assert run(code).passed
    assert run(code.replace("libc.unshare(0x10000000) == -1 and ", ""), ("seccomp",)).passed


# Leaving early, output, and the verdict


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "if __name__ == '__main__': raise SystemExit(0)",
        "import atexit, os\natexit.register(os._exit, 0)\nassert False",
        "import atexit\ndef leave(): raise SystemExit(0)\natexit.register(leave)\nassert False",
        "import sys\nsys.excepthook = lambda *a: sys.exit(0)\nassert False",
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
        "import os\nos.kill(os.getpid(), 40)",
        "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nwhile True: pass",
        "import os\nos._exit = print\nraise SystemExit",
        "import sys, threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()\nsys.exit(0)",
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\nraise E",
        "class E(BaseException): pass\nraise E",
        "def f(:",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "(" * 10**5,
    ],
)
def test_code_that_does_not_reach_its_last_line_fails(code):
    ran = run(code, wall=1.0)
    assert not ran.passed
    assert 0 < len(ran.note) <= 200
    assert "\n" not in ran.note


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.close(2)\n",
        "import os\nos.dup2(os.open('mine', os.O_CREAT | os.O_RDWR), 2)\n",
        "import os\nos.closerange(0, 64)\n",
        "import sys\nsys.stderr.close()\nsys.stdout.close()\nsys.stderr = None\n",
        "import sys\nfor _ in range(20): print('x' * 10**6); sys.stderr.write('x' * 10**6)\n",
        "import os\nfor _ in range(50): os.write(1, b'x' * 10**6), os.write(2, b'y' * 10**6)\n",
    ],
)
def test_output_and_closed_files_change_no_verdict(code):
    ran = run(f"{code}assert 1 == 2")
    assert not ran.passed
    assert len(ran.note) <= 200
    if "closerange" not in code:
        assert ran.note == "AssertionError"
        assert run(code).passed


LEAK = """
import gc, os, sys, time
time.sleep(0.1)
texts, frame = {open("program.py", "rb").read()}, sys._getframe()
objects = gc.get_objects() + list(sys.modules.values())
while frame:
    objects += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
    frame = frame.f_back
for thing in objects:
    values = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple, set)) else ()
    for value in list(values):
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")
        if isinstance(value, bytes) and 8 < len(value) < 100:
            texts.add(value)
for fd in range(32):
    try:
        os.set_blocking(fd, False)
        texts.add(os.read(fd, 4096))
    except OSError:
        pass
for fd in range(32):
    for text in ORDER(texts):
        try:
            os.write(fd, TURN(text))
        except OSError:
            pass
os._exit(0)
"""


def test_writing_out_all_that_can_be_read_does_not_pass():
    ran = run("ORDER, TURN = sorted, bytes\n" + LEAK)
    assert not ran.passed
    head = "ORDER, TURN = lambda texts: [t for t in texts if len(t) == 16][-1:], bytes\n"
    assert not run(head + LEAK).passed


def test_code_that_plays_the_runner_does_pass():
    """The limit that the docstring admits; it also shows that `LEAK` writes to where the verdict is read."""
    assert run("import os\nos.write(4, os.read(5, 16)[::-1])\nos._exit(0)").passed


# What must keep working


def test_the_standard_library_works():
    ran = run(
        """
        import array, bisect, collections, contextlib, copy, csv, ctypes, dataclasses, datetime, decimal, enum, fractions
        import functools, hashlib, heapq, inspect, io, itertools, json, math, operator, os, pathlib, pickle, queue
        import random, re, socket, sqlite3, statistics, string, struct, subprocess, sys, tempfile, textwrap, threading
        import time, timeit, types, typing, unicodedata, unittest, urllib.parse, uuid, zlib, zoneinfo, asyncio
        import concurrent.futures
        from typing import List, Optional

        @dataclasses.dataclass
        class Point:
            x: int
            tags: List[str]

        assert pickle.loads(pickle.dumps(Point(1, ["a"]))) == Point(1, ["a"])
        assert typing.get_type_hints(Point)["x"] is int
        assert "class Point" in inspect.getsource(Point)
        assert hashlib.md5(b"x").hexdigest() and random.random() < 1 and uuid.uuid4()
        assert len(list(concurrent.futures.ThreadPoolExecutor(4).map(abs, range(9)))) == 9

        async def one():
            return 1

        assert asyncio.run(one()) == 1
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "ä.txt").write_text("ä")
        assert open("/dev/urandom", "rb").read(4) and pathlib.Path("~").expanduser() == pathlib.Path.cwd()
        """
    )
    assert ran == Ran(True, "")


def test_the_same_code_gets_the_same_verdict():
    notes = {run("assert 0, list({str(i) for i in range(20)})").note for _ in range(3)}
    assert len(notes) == 1


@pytest.mark.parametrize(
    "text", ["", "x = '\0'", "x = '\ud800'", "# -*- coding: utf-7 -*-\nx = 1", "from __future__ import annotations"]
)
def test_any_source_text_runs(text):
    assert run(text).passed


def test_many_at_once():
    with ThreadPoolExecutor(4) as pool:
        ran = list(pool.map(run_python, [f"assert {i} % 2 == 0, {i}" for i in range(20)]))
    assert ran == [Ran(True, "") if i % 2 == 0 else Ran(False, f"AssertionError: {i}") for i in range(20)]


def test_limits_can_be_set():
    assert run_python("import time\ntime.sleep(1)", wall_seconds=0.2).note == "killed after 0.2 s"
    assert run_python("x = bytearray(200 << 20)", memory_bytes=100 << 20).note == "MemoryError"
    assert SCRATCH_BYTES < MEMORY_BYTES


def test_walls_are_named_and_fewer_means_never_hold_more():
    names = {"clock", "memory", "processes", "network", "write", "read", "disk", "parent"}
    assert set(walls()) == names
    for without in LESS:
        assert all(walls()[name] >= holds for name, holds in walls(without).items())
    assert not any(walls(BARE)[name] for name in names - {"clock", "memory"})


def test_a_machine_that_cannot_start_it_is_no_fault_of_the_code(monkeypatch, folder):
    broken = folder / "python"
    broken.write_text("#!/bin/sh\necho no libpython >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(UserError, match="no libpython"):
        run_python("")
