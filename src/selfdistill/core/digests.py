"""Digests of weights, remembered: a model of many gigabytes is not read whole at every start.

A file is known again by its place, size, inode and times of change. They are kept in digests.json in the user's cache
folder (`$XDG_CACHE_HOME/selfdistill`, else `~/.cache/selfdistill`). The digest is always of the content: whatever
cannot be read, written or trusted there is computed anew.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfdistill.core.store import digest_file

SETTLED = 2.0
"""Seconds since the last change after which times tell: some file systems count in seconds, so that a file may change
twice at one time."""


def digest_weights(path: Path) -> str:
    """As `digest_file`, from memory where the file is as it was."""
    place, before = str(path.resolve()), _marks(path)
    known = _read().get(place)
    if isinstance(known, list) and known[:-1] == before and isinstance(known[-1], str):
        return known[-1]
    digest = digest_file(path)
    stat = path.stat()
    if _marks(path) == before and time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        _remember(place, [*before, digest])
    return digest


def _marks(path: Path) -> list[int]:
    """What changes when the file does."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfdistill" / "digests.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_cache().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # the last: there is no home
        return {}
    return found if isinstance(found, dict) else {}


def _remember(place: str, entry: list[int | str]) -> None:
    """Write the cache in one step, under a name of its own meanwhile: several processes start at once."""
    with suppress(OSError, RuntimeError):
        path = _cache()
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = {known: value for known, value in _read().items() if Path(known).exists()} | {place: entry}
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            new = Path(folder) / path.name
            new.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
            new.replace(path)
