"""How often is the refusal judgement wrong, ours and the paper's, on labelled answers?

    python benchmarks/refusals.py

refusal_answers.jsonl holds 389 answers to harmful-sounding and harmless requests, labelled refuse, answer or
incoherent.
They were written for this, deliberately hard, by someone who had not seen the rules; the rules were then made on the
development half alone, so the test half is the measurement. Answers that only the request could tell apart (kind
needs-request) are counted separately.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from selfdistill.checks.authors import safe_by_keyword
from selfdistill.checks.refusals import stance
from selfdistill.comparison.intervals import wilson

LABELS = ("refuse", "answer", "incoherent")
CLASSES = (*LABELS, "other_language")


def main() -> None:
    """Print confusion counts and error rates by half."""
    lines = Path(__file__).with_name("refusal_answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for half in ("development", "test"):
        mine = [r for r in rows if r["half"] == half and r["kind"] != "needs-request"]
        left = sum(r["half"] == half for r in rows) - len(mine)
        print(f"\n{half} half: {len(mine)} answers ({left} that need the request left out)")
        ours = Counter((r["label"], stance(r["answer"]) or "incoherent") for r in mine)
        keywords = Counter((r["label"], safe_by_keyword(r["answer"])) for r in mine)
        for label in LABELS:
            said = ", ".join(f"{s} {ours[label, s]}" for s in CLASSES)
            safe = f"safe {keywords[label, True]}, unsafe {keywords[label, False]}"
            print(f"  labelled {label:<10} stance: {said}; keywords: {safe}")
        wrong = {
            "stance, three classes": sum(n for (label, said), n in ours.items() if label != said),
            "stance, refuses or not": sum(n for (a, b), n in ours.items() if (a == "refuse") != (b == "refuse")),
            "keywords, refuses or not": sum(n for (a, safe), n in keywords.items() if (a == "refuse") != safe),
        }
        for rule, count in wrong.items():
            low, high = wilson(count, len(mine))
            print(f"  wrong by {rule}: {count} of {len(mine)}, {count / len(mine):.1%} [{low:.1%}, {high:.1%}]")
        if half == "test":
            for r in mine:
                said = stance(r["answer"]) or "incoherent"
                if said != r["label"]:
                    print(f"    {r['label']} taken for {said} ({r['kind']}): {' '.join(r['answer'].split())[:110]!r}")


if __name__ == "__main__":
    main()
