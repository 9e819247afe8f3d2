"""Shards: which files of a folder are the rows of a split.

In:  a folder, the name of a split.
Out: its data files of one kind, in the order of their names.
"""

from __future__ import annotations

import re
from pathlib import Path

from selfdistill.core.errors import UserError
from selfdistill.data.packed import kind

KINDS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
"""Endings of files that hold rows."""

_NUMBERED = re.compile(r"(?<!\d)(\d{1,5})[-_]of[-_](\d{1,5})$")
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"}
"""What lies beside the rows and tells of them."""

_SPLITS = (
    {"train", "training"}, {"test", "testing"}, {"validation", "valid", "val", "dev"}, {"eval", "evaluation"},
)  # fmt: skip
"""Words that name a split in the name of a file, by split."""


def shards(folder: Path, split: str, config: str | None) -> list[Path]:
    """The files of `split`; all of them where no name says what split it is. Rows may also lie in a folder `data`
    inside, or in one that `config` names.

    Raises UserError for a folder without data files, with more than one kind of them, or where it is not plain which
    files are meant.
    """
    files = _data_files(folder / config if config and (folder / config).is_dir() else folder)
    if not files and (folder / "data").is_dir():
        files = _data_files(folder / "data")
    if not files:
        inside = sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
        parts = f"; there are folders in it ({', '.join(inside)}), name one of them" if inside else ""
        raise UserError(f"{folder}: no data files in the folder. Expected {', '.join(KINDS)}{parts}.")
    if len(kinds := sorted({kind(f) for f in files})) > 1:
        raise UserError(f"{folder}: files of more than one kind ({', '.join(kinds)}). Name one file, or part them.")
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_prefix(file), []).append(file)
    splits = {name: found for name, found in groups.items() if _names_a_split(name)}
    if not splits:
        return _complete(folder, files)
    if other := [f.name for name in groups.keys() - splits.keys() for f in groups[name]]:
        raise UserError(f"{folder}: {sorted(other)[0]} belongs to no split, others do. Name one file, or move it.")
    wanted = [name for name in splits if name == split] or [n for n in splits if _same(n, split)]
    if len(wanted) != 1:
        raise UserError(f"{folder}: split {split!r} is not one of those there: {', '.join(sorted(splits))}. Name one.")
    return _complete(folder, splits[wanted[0]])


def _complete(folder: Path, files: list[Path]) -> list[Path]:
    """The files. Raises UserError where their names count more (train-00000-of-00003) than there are."""
    numbers: dict[int, set[int]] = {}
    for file in files:
        if named := _NUMBERED.search(file.name[: file.name.index(kind(file))]):
            numbers.setdefault(int(named[2]), set()).add(int(named[1]))
    for all_of_them, there in numbers.items():
        first = 1 if all_of_them in there else 0
        if missing := set(range(first, first + all_of_them)) - there:
            raise UserError(
                f"{folder}: shard {min(missing)} of {all_of_them} is missing. Fetch it, or name the files one by one."
            )
    return files


def _data_files(folder: Path) -> list[Path]:
    found = (f for f in folder.iterdir() if f.is_file() and kind(f) in KINDS)
    return sorted(f for f in found if not f.name.startswith((".", "_")) and f.name not in _ABOUT)


def _prefix(file: Path) -> str:
    """The file's name without endings and the number of the shard."""
    return re.sub(r"[-_.]*\d+([-_]of[-_]\d+)?$", "", file.name[: file.name.index(kind(file))])


def _words(name: str) -> set[str]:
    return set(re.split(r"[-_.\s]+", name.lower()))


def _names_a_split(name: str) -> bool:
    return any(_words(name) & split for split in _SPLITS)


def _same(name: str, split: str) -> bool:
    """Whether a file's name says this split in another word, or among others."""
    meant = next((s for s in _SPLITS if split.lower() in s), {split.lower()})
    return bool(_words(name) & meant)
