"""Files: from a path to text, whatever it is packed in.

In:  a path; gzip, bzip2, xz and zstd are unpacked by the ending of the name.
Out: UTF-8 text as it streams in, without its byte order mark. What is no text is refused in one line.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from selfdistill.core.errors import UserError


def _zstd(path: Path) -> Any:
    import pyarrow  # brings the codec, which Python has from 3.14 on

    return pyarrow.input_stream(str(path), compression="zstd")


PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}

DAMAGED = (UnicodeDecodeError, zlib.error, EOFError, lzma.LZMAError, OSError)
"""What reading a text can raise where the file is broken; `damaged` makes one line of it."""

_POINTER = b"version https://git-lfs.github.com/spec/"


def kind(path: Path) -> str:
    """The ending that tells the kind of file, under that of the packing: `.jsonl` for `x.jsonl.gz`."""
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix


def open_text(path: Path) -> TextIO:
    """The file's text. Raises UserError for UTF-16, and some of DAMAGED for what cannot be unpacked."""
    with _open(path) as file:
        start = file.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
        raise UserError(f"{path}: UTF-16 text, expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8.")
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="")


def _open(path: Path) -> Any:
    return PACKED[path.suffix](path) if path.suffix in PACKED else path.open("rb")


def damaged(path: Path, after: str, error: Exception) -> UserError:
    """One of DAMAGED, raised by reading beyond `after`, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{path}, {after}: not UTF-8 text ({error}). Convert the file to UTF-8.")
    return UserError(f"{path}, {after}: cannot be unpacked ({error}). The file is damaged or not whole.")


def refuse_pointer(path: Path) -> None:
    """Raises UserError for what Git LFS leaves in the place of a file that it has not fetched."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path}: a Git LFS pointer, not the file itself. Fetch the file: git lfs pull.")
