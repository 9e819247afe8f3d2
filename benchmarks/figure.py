"""The figure of the README: target against retained, drawn from a committed run's report.

selfdistill demo --out demo --allow-code-execution && selfdistill scale demo
cp demo/report.json demo/scale.json docs/demo/
python benchmarks/figure.py docs/demo
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from selfdistill.comparison.front import front_of
from selfdistill.report.page import style as page_style
from selfdistill.report.page.charts import strength_points
from selfdistill.report.page.scatter import scatter


def main() -> None:
    """Write FOLDER/figure.svg from FOLDER/report.json and scale.json."""
    folder = Path(sys.argv[1])
    report, scale = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("report", "scale"))
    report["front"] = asdict(front_of(report["tasks"], [arm["name"] for arm in report["arms"]]))
    drawn = scatter(report, strength_points(scale))
    assert drawn is not None, "the run has no target, or nothing beside it"
    # A picture has no fonts and no width of its own page.
    style = page_style() + '.chart { font: 11.5px system-ui, "Segoe UI", Roboto, sans-serif; background: var(--bg); }'
    opening, rest = str(drawn).split(">", 1)
    svg = f'{opening} xmlns="http://www.w3.org/2000/svg" width="570"><style>{style}</style>{rest}'
    (folder / "figure.svg").write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
