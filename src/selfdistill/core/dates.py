"""The day that chat templates write: today's, or the one on which a file or folder was begun."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path


def today() -> str:
    """Today as year-month-day, by this machine's clock. Nothing else asks it for a day."""
    return date.today().isoformat()


def begun(out: Path) -> str | None:
    """The day that is written in what a stage has begun to make in `out`; None where there is nothing, or no day."""
    for file in (
        out.with_name(f"{out.name}.meta.json"),
        out / "predictions.jsonl.meta.json",
        out / "training.json",
        out.with_name(f"{out.name}.partial") / "identity.json",
    ):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            day: str | None = found.get("identity", found)["prompt"]["date"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        return day
    return None
