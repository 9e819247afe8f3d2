"""The sandbox's own program: puts up the walls, forks, runs the source in the fork, and says how it ended.

It is started by its path, with a bare interpreter, and imports nothing but the standard library. What each wall is for
stands in `selfdistill.checks.sandbox`.
"""

# ruff: noqa: PTH101, PTH102, PTH103, PTH110, PTH112, PTH116, PTH120, PTH123
# Each run pays for this file's start. The program imports next to nothing, no pathlib either, and ends before the half
# that the package uses.

from __future__ import annotations

import builtins
import ctypes
import marshal
import os
import select
import struct
import sys
import time
from collections.abc import Collection

WALL_SECONDS = 5.0
MEMORY_BYTES = 512 << 20
SCRATCH_BYTES = 16 << 20
_FILE_BYTES, MAX_FILES, _PROCESSES, _NOBODY = 1 << 20, 1024, 64, 65534
_DEVICES = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]
_SYSTEM = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/nix/store"]

# System calls by number. `killed`: fork, vfork, execve(at), ptrace, process_vm_*, tkill, *sigqueueinfo. `refused`: what
# touches namespaces, mounts, keys, shared memory, schedules or the kernel. `attributes`: modes, owners, times and
# xattrs of files, which Landlock leaves open. `judged` by an argument: clone kill tgkill socket prlimit fcntl ioctl.
# Newer calls have the same number on both machines: pidfd_*; io_uring, mounts, process_madvise, process_mrelease.
_COMMON = {"killed": [424, 434, 438], "refused": [*range(425, 434), 440, 442, 448, 467], "attributes": [452, 463, 466]}
_CALLS = {
    "x86_64": {
        "arch": [0xC000003E],
        "killed": [57, 58, 59, 322, 101, 310, 311, 200, 129, 297],
        "refused": [
            *[272, 308, 165, 166, 155, 161, 248, 249, 250, 321, 298, 323, 29, 64, 68, 240, 304, 312],
            *[141, 142, 144, 203, 251, 256, 279, 314],
        ],
        "attributes": [90, 91, 92, 93, 94, 132, 235, 260, 261, 268, 280, 188, 189, 190, 197, 198, 199],
        "judged": [56, 62, 234, 41, 302, 72, 16],
    },
    "aarch64": {
        "arch": [0xC00000B7],
        "killed": [221, 281, 117, 270, 271, 130, 138, 240],
        "refused": [
            *[97, 268, 40, 39, 41, 51, 217, 218, 219, 280, 241, 282, 194, 190, 186, 180, 265, 272],
            *[140, 118, 119, 122, 30, 238, 239, 274],
        ],
        "attributes": [52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16],
        "judged": [220, 129, 131, 198, 261, 25, 29],
    },
}
_libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def standing(means: Collection[str], root: bool) -> dict[str, bool]:
    """The walls that these means hold; `root` says whether root started the sandbox. What each wall is for stands in
    `selfdistill.checks.sandbox.walls`."""
    rooted, seccomp = "root" in means, "seccomp" in means
    return {
        "clock": True,
        "memory": True,
        # The kernel does not count root's processes, in a user namespace neither.
        "processes": seccomp or ("namespaces" in means and (not root or "nobody" in means)),
        "network": "namespaces" in means or seccomp,
        "write": rooted or ("landlock3" in means and seccomp),
        "read": rooted or "landlock1" in means,
        "disk": rooted,
        "parent": rooted or "landlock6" in means or ("landlock1" in means and seccomp),
    }


def _call(name: str, *args: int | bytes | None) -> int:
    """Call a function of libc. Its failure is an OSError, as is its absence, on a system other than Linux."""
    function = getattr(_libc, name, None)
    result = -1 if function is None else function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _call("prctl", 1, 9, 0, 0, 0)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _enter_namespaces() -> bool:
    """PID (from the next child on), network, mount, IPC and host name; an unprivileged user's in one of users."""
    spaces, users = 0x20000000 | 0x40000000 | 0x00020000 | 0x08000000 | 0x04000000, 0x10000000
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", spaces)
        return True
    except OSError:
        pass
    try:
        _call("unshare", spaces | users)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{_NOBODY} {uid} 1")
        _write("/proc/self/gid_map", f"{_NOBODY} {gid} 1")
        return True
    except OSError:
        return False


def _readable() -> list[str]:
    """What the standard library needs; no path lies below another."""
    paths = {os.path.normpath(p) for p in [*sys.path, f"{sys.base_prefix}/lib", *_SYSTEM] if os.path.exists(p)}
    return sorted(p for p in paths if not any(p.startswith(f"{other}/") for other in paths))


def _enter_root(scratch: str) -> str:
    """Mount what may be seen over `scratch` and make it the root; returns the new scratch folder. OSError: refused."""
    read_only, no_suid, no_dev, remount, bind, recursive, private = 1, 2, 4, 32, 4096, 16384, 1 << 18
    keep = no_suid | no_dev | 8 | 1024 | 2048  # a mount's own flags are locked: a remount must name them again

    def mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
        _call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())

    mount("", "/", recursive | private)  # else what follows would show outside
    mount("tmpfs", scratch, no_suid | no_dev, "tmpfs", "size=1m,mode=755")
    for path in [*_readable(), *_DEVICES]:
        target = scratch + path
        os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
        if not os.path.isdir(path):
            _write(target, "")
        mount(path, target, bind | recursive)
        if path not in _DEVICES:
            mount("", target, bind | remount | read_only | (os.statvfs(path).f_flag & keep))
    inside = f"{scratch}/scratch"
    os.mkdir(inside)
    mount("tmpfs", inside, no_suid | no_dev, "tmpfs", f"size={SCRATCH_BYTES},nr_inodes={MAX_FILES},mode=1777")
    mount("", scratch, bind | remount | read_only | no_suid | no_dev)
    os.chdir(scratch)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", 2)
    os.chdir("/scratch")
    return "/scratch"


def _open_to_all(path: str) -> bool:
    """Whether any user can reach and read `path`."""
    readable = bool(os.stat(path).st_mode & 0o004)
    while path != "/":
        path = os.path.dirname(path)
        readable = readable and bool(os.stat(path).st_mode & 0o001)
    return readable


def _become_nobody(scratch: str) -> bool:
    """As root, unless nobody could not read the standard library. Files, limits and signals hold root less."""
    if os.geteuid() != 0 or not _open_to_all(os.__file__) or not _open_to_all(os.path.dirname(scratch)):
        return False
    unused = 2_000_000_000 + int.from_bytes(os.urandom(3), "big")  # one that no other run shares, for its limits
    for user in (unused, _NOBODY):  # in a container, perhaps only the latter exists
        try:
            os.chmod(scratch, 0o755)
            os.chown(scratch, user, user)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return True
        except OSError:
            continue
    return False


def _landlock(scratch: str) -> int:
    """Only scratch is written and only Python read; no TCP; no signal to the outside. Landlock's version, or 0."""
    create, add, restrict = 444, 445, 446
    write_file, read_file, read_folder, not_in_scratch = 1 << 1, 1 << 2, 1 << 3, 1 | 1 << 6 | 1 << 11 | 1 << 15
    try:
        version = _call("syscall", create, None, 0, 1)
        every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
        handled = struct.pack("QQQ", every, 0b11, 0b11)  # files; TCP bind, connect; abstract sockets, signals
        rules = _call("syscall", create, handled, 8 if version < 4 else 16 if version < 6 else 24, 0)
        rights = dict.fromkeys(_readable(), read_file | read_folder)
        rights |= dict.fromkeys(_DEVICES, read_file | write_file)
        rights[scratch] = every & ~not_in_scratch  # programs and devices
        for path, right in rights.items():
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            right &= every if os.path.isdir(path) else read_file | write_file
            _call("syscall", add, rules, 1, struct.pack("=Qi", right, opened), 0)
            os.close(opened)
        _call("syscall", restrict, rules, 0)
        os.close(rules)
    except OSError:
        return 0
    return version


def _filter(rooted: bool) -> bytes:
    """The seccomp program for this machine and process; empty on a machine that `_CALLS` lacks."""
    if os.uname().machine not in _CALLS or struct.calcsize("P") < 8:
        return b""
    calls = {name: numbers + _COMMON.get(name, []) for name, numbers in _CALLS[os.uname().machine].items()}
    kill, allow, refuse, absent = ((6, 0, 0, result) for result in (0x80000000, 0x7FFF0000, 0x50001, 0x50026))
    me = os.getpid()

    def load(offset: int) -> tuple[int, int, int, int]:
        return (0x20, 0, 0, offset)

    def either(*values: int) -> list[tuple[int, int, int, int]]:  # else the instruction after the next
        return [(0x15, len(values) - 1 - i, int(i == len(values) - 1), value) for i, value in enumerate(values)]

    first, second = load(16), load(24)  # an argument's low half: both machines are little-endian
    clone, kill_, tgkill, socket, prlimit, fcntl, ioctl = calls["judged"]
    judged = {number: [kill] for number in calls["killed"]}
    judged |= {number: [refuse] for number in calls["refused"] + ([] if rooted else calls["attributes"])}
    judged |= {
        435: [absent],  # clone3, whose flags lie in memory: libc then takes clone
        clone: [first, (0x45, 0, 1, 0x10000), allow, kill],  # threads
        kill_: [first, *either(me), allow, kill],
        tgkill: [first, *either(me), allow, kill],
        socket: [first, *either(1), refuse, kill],  # libc itself asks for local services
        prlimit: [first, *either(0, me), allow, refuse],
        fcntl: [second, *either(8, 15), refuse, allow],  # who gets a file's signals
        ioctl: [second, *either(0x8901, 0x8902), refuse, allow],  # the same
    }
    program = [load(4), (0x15, 1, 0, calls["arch"][0]), kill, load(0), (0x35, 0, 1, 0x40000000), kill]
    for number, body in judged.items():
        program += [(0x15, 0, len(body), number), *body]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in [*program, allow])


def _seccomp(rooted: bool) -> bool:
    program = _filter(rooted)
    buffer = ctypes.create_string_buffer(program)
    try:
        _call("prctl", 22, 2, struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)), 0, 0)
    except OSError:
        return False
    return True


def _limit(memory: int, wall: float, count_processes: bool) -> None:
    import resource  # no system but Unix has it, and the package must import everywhere

    seconds = int(wall) + 2  # the clock comes first, for a single thread
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_FSIZE: (_FILE_BYTES, _FILE_BYTES),
        resource.RLIMIT_NOFILE: (32, 32),
        resource.RLIMIT_CORE: (0, 0),
    }
    if count_processes:
        limits[resource.RLIMIT_NPROC] = (_PROCESSES, _PROCESSES)
    for limit, (soft, hard) in limits.items():
        most = resource.getrlimit(limit)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(limit, (soft, hard))


def _confine(scratch: str, wall: float, memory: int, without: list[str], walls: list[str]) -> None:
    """Put the last walls around this process, and add to `walls` those that hold."""
    if "nobody" not in without and _become_nobody(scratch):
        walls.append("nobody")
    if sys.platform == "linux":
        _call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # no capabilities, and below no new ones
        _call("prctl", 38, 1, 0, 0, 0)
    _die_with_parent()
    walls += [f"landlock{n + 1}" for n in range(0 if "landlock" in without else _landlock(scratch))]
    if "seccomp" not in without and _seccomp("root" in walls):
        walls.append("seccomp")
    # Where all the user's processes count, the limit could forbid even threads; then the filter has to do alone.
    _limit(memory, wall, "seccomp" not in walls or "nobody" in walls or "namespaces" in walls)


class _Builtins(dict[str, object]):
    """The tests' built-in names, as they were before the answer ran; what is none of these is the answer's."""

    answer: dict[str, object]

    def __missing__(self, name: str) -> object:
        return self.answer[name]


def _module(name: str, source: bytes) -> dict[str, object]:
    """The namespace of a new module whose text lies in NAME.py, where `inspect` and tracebacks look for it."""
    with open(f"{name}.py", "wb") as file:
        file.write(source)
    known = "__main__" if name == "program" else name
    sys.modules[known] = module = type(sys)(known)
    module.__dict__["__file__"] = f"{name}.py"
    return module.__dict__


def _work(source: bytes, answer: bytes | None, names: list[str], scratch: str, report: int, challenge: int) -> None:
    """Run the answer and then the source, report, and leave."""
    write, read, leave, run = os.write, os.read, os._exit, exec  # the code may put others in their place
    os.environ.clear()
    os.environ.update(HOME=scratch, TMPDIR=scratch, PATH="")
    sys.argv[:] = ["program.py"]
    try:
        main = _module("program", source)
        program = compile(source, "program.py", "exec", dont_inherit=True)
        if answer is not None:
            seen = main["__builtins__"] = _Builtins(vars(builtins))
            seen.answer = _module("solution", answer)
            run(compile(answer, "solution.py", "exec", dont_inherit=True), seen.answer)
            for name in seen.answer.keys() & names:
                seen.pop(name, None)
        run(program, main)
    except SystemExit as error:
        write(report, f"ended early with exit code {error.code}"[:500].encode("utf-8", "replace"))
    except BaseException as error:
        write(report, f"{type(error).__name__}: {error}".removesuffix(": ")[:500].encode("utf-8", "replace"))
    else:
        write(report, read(challenge, 16)[::-1])
    leave(0)


def _too_big(scratch: str) -> bool:
    size, entries, folders = 0, 0, [scratch]
    try:
        while folders and entries <= MAX_FILES:
            for entry in os.scandir(folders.pop()):
                entries += 1
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    except FileNotFoundError:  # deleted meanwhile
        return False
    except OSError:  # made unreadable, or deeper than a path can be long
        return True
    return size > SCRATCH_BYTES or entries > MAX_FILES


def _wait(worker: int, wall: float, measured: str) -> str:
    """Until the worker ends or must: how it ended, as a word and a number."""
    start, turn = time.monotonic(), 0
    while True:
        done, status = os.waitpid(worker, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status)
        turn += 1
        if done:
            return f"exit {code}" if code >= 0 else f"signal {-code}"
        if time.monotonic() > start + wall:
            why = f"clock {wall:g}"
            break
        if measured and turn % 20 == 0 and _too_big(measured):
            why = f"disk {SCRATCH_BYTES >> 20}"
            break
        time.sleep(0.002)
    os.kill(worker, 9)
    os.waitpid(worker, 0)
    return why


def _end_all() -> None:
    """Kill what the code left behind, which is this process's child by now."""
    children = f"/proc/self/task/{os.getpid()}/children"
    while os.path.exists(children):
        with open(children) as file:
            left = [int(pid) for pid in file.read().split()]
        for pid in left:
            os.kill(pid, 9)
        for pid in left:
            os.waitpid(pid, 0)
        if not left:
            break


class _Job:
    """What the caller asks for: arguments of the command line, and texts on stdin."""

    def __init__(self) -> None:
        parent, wall, memory, self.scratch, *self.without = sys.argv[1:]
        self.parent, self.wall, self.memory, self.root = int(parent), float(wall), int(memory), os.geteuid() == 0
        self.source, self.answer, self.names, self.required = marshal.loads(sys.stdin.buffer.read())

    def lacking(self, means: Collection[str]) -> list[str]:
        """The walls that the caller wants and these means do not hold."""
        stand = standing(means, self.root)
        return [wall for wall in self.required if not stand[wall]]


def _judge(job: _Job, walls: list[str]) -> None:
    """The first process of the PID namespace: start the worker, wait for it, write the verdict to stdout."""
    os.setsid()
    _die_with_parent()
    if sys.platform == "linux":
        _call("prctl", 36, 1, 0, 0, 0)  # orphans become children of this process
    scratch = job.scratch
    if walls and "root" not in job.without:
        try:
            scratch = _enter_root(scratch)
            walls.append("root")
        except OSError:
            os.chdir(scratch)
    report, report_in = os.pipe()
    challenge, challenge_in = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(report)
        os.close(challenge_in)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        _confine(scratch, job.wall, job.memory, job.without, walls)
        os.write(report_in, " ".join(walls).encode() + b"\n")
        os.dup2(null, 2)
        os.close(null)
        if not job.lacking(walls):
            _work(job.source, job.answer, job.names, scratch, report_in, challenge)
        os._exit(0)
    os.close(report_in)
    stand, ready, said = os.read(report, 65536).partition(b"\n")
    if not ready:
        raise OSError("ended before it could run the code")
    secret = os.urandom(16)  # made after the fork, so that the worker's memory does not hold it
    os.write(challenge_in, secret)
    ended = _wait(worker, job.wall, "" if "root" in walls else scratch)
    if "namespaces" not in walls:  # else the kernel does it
        _end_all()
    if select.select([report], [], [], 0)[0]:  # not to its end: what the code left behind may hold it open
        said += os.read(report, 65536)
    if ended == "exit 0" and said == secret[::-1]:
        ended = "passed 0"
    if lacking := job.lacking(stand.decode().split()):
        ended = f"walls {','.join(lacking)}"
    os.write(1, b"\n".join([stand, ended.encode(), said[:1000]]))


def _program() -> int:
    """What `run_python` starts: texts on stdin, verdict on stdout."""
    job = _Job()
    os.umask(0o022)
    walls = ["namespaces"] if "namespaces" not in job.without and _enter_namespaces() else []
    _die_with_parent()  # not earlier: entering namespaces undoes it
    if os.getppid() != job.parent:
        return 1
    child = os.fork()
    if child == 0:
        try:
            _judge(job, walls)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(_program())
