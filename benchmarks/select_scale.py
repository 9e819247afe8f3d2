"""Does select hold a million rows? Rows a second and memory of one pass with a check and an export, without a model.

    OMP_NUM_THREADS=1 python benchmarks/select_scale.py

Writes synthetic word problems and a rewrite of each into a temporary folder (about 2 GB with what select writes), then
runs `select` over them in a child process, as the command does: reading, joining by id, judging with last_number,
selected.jsonl and one export. Prints rows a second of wall time on one core, and peak resident memory beyond the
imports. Exits with 1 where a goal is missed: 20,000 rows a second, 500 MB. Peak memory is read from /proc (Linux).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selfdistill.checks import load_check
from selfdistill.core.config import DataSettings
from selfdistill.core.records import Example, content_id, dump
from selfdistill.core.rewrites import Candidate, Rewrite
from selfdistill.core.turns import Turn
from selfdistill.data.examples import stream_examples
from selfdistill.stages.select import select

ROWS_A_SECOND, MEGABYTES = 20_000, 500

QUESTION = (
    "Natalia, customer number {i}, sold {a} clips to her friends in April, and then she sold {b} more clips in every "
    "week of May, June and July of the same year. Each of her friends gave her {c} dollars for every clip. How many "
    "dollars did Natalia earn altogether?"
)
ANSWER = (
    "Natalia sold {a} clips in April.\nIn the other months she sold {b} * 12 = {more} clips.\n"
    "That makes {a} + {more} = {all} clips.\nSo she earned {all} * {c} = ${earned:,}.\n#### {earned}"
)
REWRITE = (
    "Let's think step by step. In April Natalia sold {a} clips to her friends. In May, June and July, which have about "
    "12 weeks, she sold {b} clips every week, so that is {b} * 12 = {more} clips. Together these are {a} + {more} = "
    "{all} clips. For each one she got {c} dollars, therefore she earned {all} * {c} = {earned} dollars. "
    "The answer is {told}."
)


def make(folder: Path, rows: int, form: str) -> None:
    """`rows` word problems in data.jsonl, and rewrites.jsonl; one rewrite in ten is wrong."""
    chance = random.Random(0)
    with (folder / "data.jsonl").open("wb") as data, (folder / "rewrites.jsonl").open("wb") as rewrites:
        for i in range(rows):
            a, b, c = chance.randint(2, 99), chance.randint(2, 99), chance.randint(2, 20)
            n = {"i": i, "a": a, "b": b, "c": c, "more": b * 12, "all": a + b * 12, "earned": (a + b * 12) * c}
            question, answer = QUESTION.format(**n), ANSWER.format(**n)
            prompt = (Turn(role="user", content=question),)
            id = content_id(prompt, answer)
            if form == "examples":
                data.write(dump(Example(id=id, prompt=prompt, reference=answer, task="data")))
            else:
                data.write(json.dumps({"prompt": question, "response": answer}).encode() + b"\n")
            text = REWRITE.format(**n, told=n["earned"] + (i % 10 == 0))
            made = Candidate(text=text, finish_reason="stop", tokens=len(text) // 4, seed_nll=0.25)
            rewrites.write(dump(Rewrite(id=id, candidates=(made,), reference_nll=1.5, digest="0123456789abcdef")))


def peak() -> float:
    """The most memory that was resident in this process so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(folder: Path) -> None:
    """In the child: select, and print what it took as JSON."""
    check, imports, start = load_check("last_number"), peak(), time.perf_counter()
    examples = stream_examples(DataSettings(path=str(folder / "data.jsonl")))
    exports = {"messages": folder / "messages.jsonl"}
    counts = select(examples, folder / "rewrites.jsonl", folder / "selected.jsonl", check, exports=exports)
    took = time.perf_counter() - start
    rate, size = sum(counts.values()) / took, peak() - imports
    print(json.dumps({"counts": counts, "seconds": took, "rows_a_second": rate, "megabytes": size}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--form", choices=["plain", "examples"], default="plain", help="prompt/response, or our own")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.rows, arguments.form)
        child = [sys.executable, __file__, "--measure", folder]
        found = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout)
    print(f"{arguments.rows} rows of {arguments.form} data in {found['seconds']:.1f} s: {found['counts']}")
    print(f"{found['rows_a_second']:,.0f} rows a second (goal {ROWS_A_SECOND:,})")
    print(f"{found['megabytes']:.0f} MB resident beyond the imports (goal under {MEGABYTES})")
    if found["rows_a_second"] < ROWS_A_SECOND or found["megabytes"] > MEGABYTES:
        sys.exit(1)


if __name__ == "__main__":
    main()
