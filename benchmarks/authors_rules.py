"""Where the authors' rules and ours disagree, over whole real datasets.

    python benchmarks/authors_rules.py --data-dir data

Every gold answer, every perturbed one (tasks.validate) and a few rewordings of the gold answer that mean the same go
through both. Prints counts and cases; docs/authors-rules.md explains them.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import selfdistill as sd
from selfdistill.checks import CHECKS
from selfdistill.checks.authors import safe_by_keyword
from selfdistill.checks.calls import find_calls
from selfdistill.checks.refusals import stance
from selfdistill.core.records import Example
from selfdistill.tasks.validate import PERTURB

PAIRS = (
    ("gsm8k", "test", "last_number", "authors_math"),
    ("gsm8k", "train", "last_number", "authors_math"),
    ("multiarith", "test", "last_number", "authors_math"),
    ("openfunctions", "test", "function_call", "authors_openfunctions"),
    ("openfunctions", "train", "function_call", "authors_openfunctions"),
)
SHOWN = 3


def reworded(check: str, gold: str) -> Iterator[tuple[str, str]]:
    """Answers that mean what the gold answer means."""
    if check == "last_number":
        number = re.findall(r"-?[\d,.]*\d", gold)[-1]
        yield "with a unit squared", f"The answer is {number} m^2."
        yield "with decimals", f"The answer is {number}.00."
        yield "and a remark", f"The answer is {number}. I took 2 steps."
    else:
        yield "in a sentence", f"Use `{gold}` for that."
        call, *others = find_calls(gold)
        if len(call.named) > 1 and not others:
            yield "keywords reordered", str(replace(call, named=call.named[::-1]))


def tried(check: str, item: Example) -> Iterator[tuple[str, str]]:
    """(what, answer) for one item."""
    yield "gold", item.reference
    yield from PERTURB[check](item.reference, item)
    yield from reworded(check, item.reference)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    folder = parser.parse_args().data_dir
    for name, split, ours, theirs in PAIRS:
        items = sd.read(f"paper:{name}", split=split, data_dir=folder)
        counts: Counter[tuple[str, str, str]] = Counter()
        for item in items:
            for what, answer in tried(ours, item):
                said = tuple(CHECKS[check](answer, item.reference, item).outcome == "same" for check in (ours, theirs))
                if said[0] != said[1]:
                    key = (what, *("accepts" if s else "rejects" for s in said))
                    counts[key] += 1
                    if counts[key] <= SHOWN:
                        print(f"  {name} {split} [{what}] ours {key[1]}, theirs {key[2]}: {answer[:160]!r}")
        print(f"{name} {split}, {len(items)} items: {dict(counts) or 'no disagreement'}")
    for name, split in (("alpaca_eval", "test"), ("alpaca", "train"), ("dolly", "train"), ("lima", "train")):
        items = sd.read(f"paper:{name}", split=split, data_dir=folder)
        refused = sum(stance(e.reference) == "refuse" for e in items)
        unclear = sum(stance(e.reference) is None for e in items)
        safe = sum(safe_by_keyword(e.reference) for e in items)
        print(
            f"{name}, {len(items)} ordinary answers: keywords call {safe} refusals ({safe / len(items):.1%}), "
            f"stance {refused} ({refused / len(items):.1%}) and {unclear} incoherent ({unclear / len(items):.1%})"
        )


if __name__ == "__main__":
    main()
