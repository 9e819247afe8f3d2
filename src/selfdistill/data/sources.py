"""The paper's datasets by name: `paper:gsm8k` in a recipe or on the command line.

In:  a name, and a folder of local copies (`--data-dir`) or the hub.
Out: where the rows lie, and rows in the paper's form.

A local copy goes before the hub, which is asked for a pinned revision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from selfdistill.core.config import DataSettings
from selfdistill.core.errors import UserError

Row = dict[str, Any]

FILES = ("https:", "hf:")
"""How the address of a file begins that the datasets library can open."""

PACKAGE = "package"

LARGE, SUBSET = 10_000, 2_000
"""Sets of more than 10,000 rows train on 2,000 drawn at random (Section 4.1)."""


@dataclass(frozen=True)
class Source:
    """One dataset. `hub` is a name there, or the address of a file; both are pinned by `revision`. `PACKAGE` has its
    rows in selfdistill/tasks instead, and no revision.

    `files` names local copies by split, the first that is there is taken; of those in the package there is one. `adapt`
    brings a row of any of its published forms into the paper's, and gives None for one that holds no conversation.
    `rows` is the size of the train split as published, `epochs` the paper's (Appendix A); None for what is only
    evaluated on.
    """

    name: str
    hub: str
    revision: str | None
    licence: str
    files: Mapping[str, tuple[str, ...]]
    adapt: Callable[[Row], Row | None] = dict
    config: str | None = None
    rows: int | None = None
    epochs: int | None = None

    @property
    def local(self) -> bool:
        """Whether the dataset comes with the package."""
        return self.hub == PACKAGE

    @property
    def sample(self) -> int | None:
        """How many rows the paper draws at random; None for the whole set."""
        return SUBSET if self.rows is not None and self.rows > LARGE else None


def locate(settings: DataSettings, data_dir: str | None, source: Source | None = None) -> tuple[DataSettings, Source]:
    """The settings with the place where the rows of `source`, or of `paper:NAME`, lie, and the source.

    Raises UserError for an unknown name or split.
    """
    name = settings.path.partition(":")[2]
    if source is None and name not in SOURCES:
        raise UserError(f"{settings.path}: no such dataset. There are: {', '.join(SOURCES)}.")
    source = source or SOURCES[name]
    if settings.split not in source.files:
        raise UserError(f"{settings.path}: no split {settings.split!r}. There are: {', '.join(source.files)}.")
    places = [Path(data_dir) / file for file in source.files[settings.split]] if data_dir else []
    for place in places:
        if place.is_file():
            return settings.model_copy(update={"path": str(place)}), source
    if data_dir and not Path(data_dir).is_dir():
        raise UserError(f"--data-dir {data_dir}: no such folder.")
    if source.local:
        place = Path(str(resources.files("selfdistill.tasks") / source.files[settings.split][0]))
        return settings.model_copy(update={"path": str(place)}), source
    where = source.hub.format(split=settings.split, revision=source.revision)
    update: dict[str, str | None] = {"path": where}
    if where.startswith(FILES):
        update["split"] = "train"  # what the datasets library calls a file's only split
    else:
        update |= {"config": source.config, "revision": source.revision}
    return settings.model_copy(update=update), source


def local_copies(place: str, wanted: str) -> str:
    """For an error: which files in --data-dir would do in the place of what `locate` named, with its split; "" for
    other places."""
    for source in SOURCES.values():
        for split, files in source.files.items():
            same = place == source.hub.format(split=split, revision=source.revision)
            if same and (split == wanted or place.startswith(FILES)):
                return f". A local copy would be one of {', '.join(files)} in --data-dir"
    return ""


# --- rows of published forms to the paper's -----------------------------------------------------------------------


def _gsm8k(row: Row) -> Row:
    """The authors' form: no calculator marks, and "The answer is 18." for "#### 18"."""
    answer = re.sub(r"<<[^>]*>>", "", str(row.get("answer", "")))
    return row | {"answer": re.sub(r"####\s*(\S+)\s*$", r"The answer is \1.", answer)}


def _multiarith(row: Row) -> Row:
    if "final_ans" in row:
        return {"instruction": row["question"], "output": f"The answer is {row['final_ans']}"}
    return row


def _dolly(row: Row) -> Row:
    if "context" in row:
        return {"instruction": row["instruction"], "input": row["context"], "output": row["response"]}
    return row


def _alpaca(row: Row) -> Row | None:
    return row if str(row.get("output") or "").strip() else None  # 28 rows have no output


def _lima(row: Row) -> Row | None:
    if isinstance(turns := row.get("conversations"), list):
        if len(turns) < 2:
            return None
        pairs = [list(pair) for pair in zip(turns[0::2], turns[1::2], strict=False)]
        return {"instruction": pairs[-1][0], "output": pairs[-1][1], "history": pairs[:-1]}
    return row


def _magicoder(row: Row) -> Row:
    if "problem" in row:
        return {"instruction": row["problem"], "output": row["solution"]}
    return row


def _openhermes(row: Row) -> Row | None:
    if isinstance(turns := row.get("conversations"), list):
        roles = {"system": "system", "human": "user", "gpt": "assistant"}
        turns = [t for t in turns if t.get("value", "").strip()]  # some rows open with an empty system turn
        named = [{"role": roles.get(t.get("from"), t.get("from")), "content": t["value"]} for t in turns]
        talk = [t["role"] for t in named[named[0]["role"] == "system" :]] if named else []
        whole = talk and talk == ["user", "assistant"] * (len(talk) // 2)
        return {"messages": named} if whole else None
    return row


def _advbench(row: Row) -> Row:
    return {"prompt": row["goal"], "response": "refuse"} if "goal" in row else row


COMPLETE = (
    "Complete the following Python function. Answer with the whole function in one Python code block.\n\n"
    "```python\n{code}```"
)


def _humaneval(row: Row) -> Row:
    if "canonical_solution" not in row:
        return row
    code = str(row["prompt"])
    return {
        "id": row.get("task_id"),
        "prompt": COMPLETE.replace("{code}", code if code.endswith("\n") else code + "\n"),
        "response": row["canonical_solution"],
        "code": code,
        "entry_point": row["entry_point"],
        "tests": f"{row['test']}\ncheck({row['entry_point']})",  # the row's tests only define check
    }


_GITHUB = "https://raw.githubusercontent.com"
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "gsm8k",
            "openai/gsm8k",
            "740312add88f781978c0658806c59bc2815b9866",
            "MIT",
            {
                "train": ("gsm8k_train_sdft.json", "gsm8k_train.json", "gsm8k_train.jsonl"),
                "test": ("gsm8k_test_sdft.json", "gsm8k_test.json", "gsm8k_test.jsonl"),
            },
            _gsm8k,
            config="main",
            rows=7473,
            epochs=5,
        ),
        Source(
            "multiarith",
            f"{_GITHUB}/sail-sg/sdft/{{revision}}/data/multiarith_test.json",
            "3167df67e1f5c8c3b1ea3da1eb6c0eeefbaaa943",
            "not stated",
            {"test": ("multiarith_test.json",)},
            _multiarith,
        ),
        Source(
            "openfunctions",
            f"{_GITHUB}/sail-sg/sdft/{{revision}}/data/openfunction/openfunction_{{split}}.json",
            "10a06038c188df0f601d10e5ddab3dc8e19330e5",
            "Apache-2.0",
            {"train": ("openfunctions_train.json",), "test": ("openfunctions_test.json",)},
            rows=2211,
            epochs=5,
        ),
        Source(
            "magicoder",
            "ise-uiuc/Magicoder-OSS-Instruct-75K",
            "5f839b1f368a76b161028bb9edff055db34022b2",
            "MIT",
            {"train": ("magicoder_train.json", "magicoder_train.jsonl", "magicoder_train_2000.json")},
            _magicoder,
            rows=75197,
            epochs=2,
        ),
        Source(
            "alpaca",
            "tatsu-lab/alpaca",
            "dce01c9b08f87459cf36a430d809084718273017",
            "CC BY-NC 4.0",
            {"train": ("alpaca_train.json", "alpaca_train_2000.json")},
            _alpaca,
            rows=52002,
            epochs=2,
        ),
        Source(
            "dolly",
            "databricks/databricks-dolly-15k",
            "bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
            "CC BY-SA 3.0",
            {"train": ("dolly_train.json", "dolly_train.jsonl", "dolly_train_2000.json")},
            _dolly,
            rows=15011,
            epochs=2,
        ),
        Source(
            "lima",
            "hf://datasets/GAIR/lima@{revision}/{split}.jsonl",
            "68958e98267f5fb4a52a03ebcdae4ae59213fa7c",
            "CC BY-NC-SA 4.0",
            {"train": ("lima_train.json", "lima_train.jsonl")},
            _lima,
            rows=1030,
            epochs=2,
        ),
        Source(
            "openhermes",
            "teknium/OpenHermes-2.5",
            "05c3557e57b6dd1d0e0cb8369ba53b43e15fd10b",
            "not stated",
            {"train": ("openhermes_train.json", "openhermes_train.jsonl")},
            _openhermes,
            rows=1001551,
            epochs=2,
        ),
        Source(
            "humaneval",
            "openai/openai_humaneval",
            "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            "MIT",
            {"test": ("HumanEval.jsonl.gz", "HumanEval.jsonl")},
            _humaneval,
        ),
        Source(
            "advbench",
            f"{_GITHUB}/llm-attacks/llm-attacks/{{revision}}/data/advbench/harmful_behaviors.csv",
            "098262edf85f807224e70ecd87b9d83716bf6b73",
            "MIT",
            {"test": ("advbench_harmful_behaviors.csv", "harmful_behaviors.csv")},
            _advbench,
        ),
        Source(
            "alpaca_eval",
            "hf://datasets/tatsu-lab/alpaca_eval@{revision}/alpaca_eval.json",
            "2edc6fad8be6b14ea7230aabfd08188da6b8b814",
            "CC BY-NC 4.0",
            {"test": ("alpaca_eval.json",)},
        ),
        Source(
            "lookalikes",
            PACKAGE,
            None,
            "Apache-2.0",
            {"test": ("lookalikes.jsonl",)},
        ),
    )
}
