"""Digests of weights: remembered, and always those of the content."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfdistill.core import digests
from selfdistill.core.digests import digest_weights
from selfdistill.core.store import digest_file


@pytest.fixture
def read(tmp_path, monkeypatch):
    """The files that were read whole; the cache is an empty one."""
    found = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "digest_file", lambda path: found.append(path.name) or digest_file(path))
    return found


def old(path, content: bytes, seconds: float = 60):
    """A file whose content has been there for some time. The kernel sets a time of its own, so the clock goes on."""
    path.write_bytes(content)
    stamp = time.time() - seconds
    os.utime(path, (stamp, stamp))
    return path


@pytest.fixture
def later(monkeypatch):
    now = time.time
    monkeypatch.setattr(digests.time, "time", lambda: now() + 60)


def test_a_file_is_read_once(tmp_path, read, later):
    first, second = old(tmp_path / "a.safetensors", b"one"), old(tmp_path / "b.safetensors", b"two")
    link = tmp_path / "link.safetensors"
    link.symlink_to(first)
    for _ in range(3):
        assert [digest_weights(p) for p in (first, second, link)] == [digest_file(p) for p in (first, second, first)]
    assert read == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("how", ["in place", "another file", "same size and time"])
def test_a_changed_file_is_read_again(tmp_path, read, later, how):
    path = old(tmp_path / "a.safetensors", b"one")
    digest_weights(path)
    stat = path.stat()
    if how == "another file":
        old(tmp_path / "new", b"two").replace(path)
    else:
        path.write_bytes(b"three" if how == "in place" else b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_weights(path) == digest_file(path) and len(read) == 2


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, read):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"one")
    assert digest_weights(path) == digest_weights(path) == digest_file(path) and len(read) == 2


def refused(*args, **kwargs):
    raise PermissionError


@pytest.mark.parametrize(
    "broken", ["{", "[]", '{"PATH": 3}', '{"PATH": []}', "\xff", "folder", "no place", "read only"]
)
def test_a_broken_cache_costs_only_time(tmp_path, monkeypatch, read, later, broken):
    path = old(tmp_path / "a.safetensors", b"one")
    cache = tmp_path / "cache" / "selfdistill" / "digests.json"
    if broken == "no place":
        (tmp_path / "cache").write_text("a file")
    elif broken == "folder":
        cache.mkdir(parents=True)
    elif broken == "read only":
        (tmp_path / "cache").mkdir()
        monkeypatch.setattr(Path, "mkdir", refused)
    else:
        cache.parent.mkdir(parents=True)
        cache.write_text(broken.replace("PATH", str(path)), encoding="latin-1")
    assert digest_weights(path) == digest_weights(path) == digest_file(path)
    assert len(read) == (2 if broken in ("folder", "no place", "read only") else 1)


def test_files_that_are_gone_are_forgotten_and_many_may_write(tmp_path, read, later):
    paths = [old(tmp_path / f"{i}.safetensors", bytes([i])) for i in range(8)]
    digest_weights(old(tmp_path / "gone.safetensors", b"gone"))
    (tmp_path / "gone.safetensors").unlink()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(digest_weights, paths)) == [digest_file(p) for p in paths]
    folder = tmp_path / "cache" / "selfdistill"
    kept = json.loads((folder / "digests.json").read_text())
    assert [f.name for f in folder.iterdir()] == ["digests.json"]
    assert kept and set(kept) <= {str(p) for p in paths}
