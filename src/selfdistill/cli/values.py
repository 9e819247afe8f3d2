"""Texts on the command line that hold several values: pairs, columns, tasks; and the names of files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfdistill.core.config import TaskSettings


def pairs_of(texts: Sequence[str], mark: str, option: str) -> dict[str, str]:
    """`name=value` texts, or with another mark, as a dict. Raises UserError for what is no pair, and for one
    that stands there twice."""
    from selfdistill.core.errors import UserError

    pairs: dict[str, str] = {}
    for text in texts:
        key, _, value = (part.strip() for part in text.partition(mark))
        if not key or not value:
            raise UserError(f"{option} {text}: expected NAME{mark}VALUE.")
        if key in pairs:
            raise UserError(f"{option} {text}: {key} stands there twice.")
        pairs[key] = value
    return pairs


def settings_of(text: str, option: str) -> dict[str, str]:
    """`name=x,check=regex:a,b,role=target` as a dict. A value ends where a comma and another `key=` follow. A regex may
    hold such a text itself: it ends only before a key that a task has. What stands in double quotes is one value."""
    from selfdistill.core.config import TaskSettings

    keys = "|".join([*TaskSettings.model_fields, r"columns\.[^=,]+"])
    quoted = r'"[^"]*"(?=\s*(?:,|$))'
    regex = rf"(?<=\bcheck=)regex:.*?(?=,\s*(?:{keys})=|$)"
    plain = r".*?(?=,\s*[A-Za-z_][\w.-]*\s*=|$)"
    parts = re.findall(rf"(?s)([^=]*?=(?:{quoted}|{regex}|{plain})|.+$)(?:\s*,\s*|$)", text)
    values = pairs_of(parts, "=", option)
    return {k: v[1:-1] if re.fullmatch(r'(?s)"[^"]*"', v) else v for k, v in values.items()}


def columns_of(text: str) -> dict[str, str]:
    """--columns as a dict."""
    return settings_of(text, "--columns") if text else {}


def tasks_of(texts: Sequence[str]) -> list[TaskSettings]:
    """--task values as settings. Raises UserError for what no task can be."""
    from selfdistill.core.config import TaskSettings
    from selfdistill.core.settings import checked

    return [checked(TaskSettings, values, "--task") for values in task_values(texts)]


def task_values(texts: Sequence[str]) -> list[dict[str, Any]]:
    """--task values as they would stand in a recipe; `micro` stands for all abilities of the microworld, 200 items
    each."""
    from selfdistill.microworld.world import ABILITIES

    tasks: list[dict[str, Any]] = []
    for text in texts:
        names = list(ABILITIES) if text == "micro" else [text[6:]] if text.startswith("micro:") else []
        tasks += [{"name": n, "path": f"micro:{n}", "limit": 200, "max_new_tokens": 128} for n in names]
        if text.startswith(("paper:", "lm-eval:")):
            path, _, rest = text.partition(",")
            tasks.append({"path": path} | (settings_of(rest, "--task") if rest else {}))
        elif not names:
            values: dict[str, Any] = dict(settings_of(text, "--task"))
            columns = {k.removeprefix("columns."): values.pop(k) for k in list(values) if k.startswith("columns.")}
            tasks.append(values | ({"columns": columns} if columns else {}))
    return tasks


def must_be_new(*files: Path) -> None:
    """Raises UserError for a file that is there already: nothing is overwritten."""
    from selfdistill.core.errors import UserError

    for file in files:
        if file.exists():
            raise UserError(f"{file}: exists. Remove it or choose another name.")


def skipped(out: Path) -> Path:
    """Where the bad rows that were left out are listed: beside the output."""
    return out.with_name(f"{out.stem}.skipped.jsonl")


def variables_of(text: str | None) -> Any:
    """Variables of a chat template, from a JSON object. Raises UserError for what is none."""
    from selfdistill.core.errors import UserError

    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"--chat-template-kwargs {text}: expected a JSON object, such as '{{\"enable_thinking\": false}}'."
        )
    return found
