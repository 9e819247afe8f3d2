"""Figures as SVG and PNG, drawn as the paper draws them, and their numbers as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfdistill.core.records import Metric
from selfdistill.methods import METHODS, usual
from selfdistill.studies.grid import Study
from selfdistill.studies.lab import SEED, Arm, Lab
from selfdistill.studies.tables import csv_table, dataset, method, table_text
from selfdistill.studies.values import Results, moved_weights, score, shift_from_seed

SEED_COLOUR = "#8a8a8a"
SHIFTS = ("BLEU-4", "BLEU-4 (characters)", "ROUGE-L", "Embedding similarity", "Parameter shift")
"""The authors' code computes BLEU-4 over characters; both are drawn."""

Series = dict[str, dict[Arm, Metric]]
"""Panel title -> arm -> value."""


def draw(study: Study, results: Results, lab: Lab, out: Path) -> str:
    """Write OUT.svg, OUT.png and OUT.csv, and return the same numbers as a Markdown table."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": study.name, "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})
    if study.kind == "histogram":
        return _histogram(study, results, out)
    if study.kind == "shift":
        series = _shifts(study, results, lab)
    else:
        series = {c.title: _of_column(study, results, index) for index, c in enumerate(study.columns)}
    (_bars if study.kind == "bars" else _curves)(study, series, out)
    return _numbers(study, series, out)


def _of_column(study: Study, results: Results, index: int) -> dict[Arm, Metric]:
    found = {arm: score(results, arm, study.columns[index], study.columns) for arm in study.arms}
    return {arm: value for arm, value in found.items() if value}


def _shifts(study: Study, results: Results, lab: Lab) -> Series:
    """The four measures of Section 5 for every tuned arm; the weights' norm has no interval."""
    series: Series = {title: {} for title in SHIFTS}
    for arm in study.arms:
        found = shift_from_seed(results, SEED, arm, study.tasks[0]) if arm.dataset else None
        if found is None:
            continue
        means = (found.bleu4, found.char_bleu4, found.rouge_l, found.similarity)
        for title, mean in zip(SHIFTS, means, strict=False):
            series[title][arm] = Metric(n=found.n, value=mean.value, low=mean.low, high=mean.high)
        norm = moved_weights(lab, arm)
        series["Parameter shift"][arm] = Metric(n=1, value=norm, low=norm, high=norm)
    return series


def _panels(titles: Sequence[str], height: float, width: float = 3.1) -> tuple[Any, list[Any]]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(titles), figsize=(width * len(titles), height), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return figure, list(axes[0])


def _curves(study: Study, series: Series, out: Path) -> None:
    """A panel for each measure, over the share of the rows or over the mix ratio, with intervals."""
    figure, axes = _panels(list(series), 2.8)
    for axis, (title, values) in zip(axes, series.items(), strict=True):
        scale = 1 if title == "Parameter shift" else 100
        lines: dict[str, list[tuple[float, Metric]]] = {}
        for arm, value in values.items():
            if arm.dataset:
                name = usual(rewrites=True) if study.axis == "mix" else arm.method
                lines.setdefault(name, []).append((arm.mix if study.axis == "mix" else 100 * arm.share, value))
        for name, points in lines.items():
            x, y = [p for p, _ in points], [scale * v.value for _, v in points]
            bars = [_bar(v, scale) for _, v in points]
            style = {
                "marker": "o",
                "ms": 4,
                "capsize": 2,
                "color": METHODS[name].colours[0],
                "label": METHODS[name].short,
            }
            axis.errorbar(x, y, yerr=list(zip(*bars, strict=True)), **style)
        if SEED in values:
            axis.axhline(scale * values[SEED].value, color=SEED_COLOUR, ls="--", lw=1, label="Seed LM")
        axis.set_xlabel("mix ratio" if study.axis == "mix" else "rows trained on (%)")
        axis.set_ylabel("norm" if title == "Parameter shift" else "%")
    _legend(figure, axes)
    _save(figure, out)


def _bar(value: Metric, scale: int) -> tuple[float, float]:
    """Lengths of an interval's arms; rounding must not make them negative."""
    return max(0.0, scale * (value.value - value.low)), max(0.0, scale * (value.high - value.value))


def _bars(study: Study, series: Series, out: Path) -> None:
    """A panel for each dataset: for every benchmark the seed LM, and both usual methods."""
    datasets = list(dict.fromkeys(a.dataset for a in study.arms if a.dataset))
    figure, axes = _panels([dataset(Arm(d)) for d in datasets], 2.8)
    for axis, name in zip(axes, datasets, strict=True):
        for place, arm in enumerate((SEED, Arm(name, 0.0), Arm(name, 1.0))):
            for index, values in enumerate(series.values()):
                if (v := values.get(arm)) is None:
                    continue
                label = method(arm) if index == 0 else None
                axis.bar(
                    index + 0.27 * (place - 1),
                    100 * v.value,
                    0.25,
                    yerr=[[end] for end in _bar(v, 100)],
                    color=_colour(arm),
                    error_kw={"lw": 0.8},
                    label=label,
                )
        axis.set_xticks(range(len(series)), list(series), rotation=45, ha="right")
        axis.set_ylim(0, 100)
    axes[0].set_ylabel("%")
    _legend(figure, axes)
    _save(figure, out)


def _colour(arm: Arm) -> str:
    return METHODS[arm.method].colours[0] if arm.dataset else SEED_COLOUR


def _histogram(study: Study, results: Results, out: Path) -> str:
    """Figure 9: cosine similarity of every answer to the seed LM's, with the means."""
    figure, (axis,) = _panels([study.title], 3.4, width=5.2)
    rows, means = [], []
    for arm in study.arms:
        found = shift_from_seed(results, SEED, arm, study.tasks[0]) if arm.dataset else None
        if found is None:
            continue
        name, mean = method(arm), found.similarity
        axis.hist(found.similarities, bins=30, range=(-0.1, 1.0), alpha=0.6, color=_colour(arm), label=name)
        axis.axvline(mean.value, color=_colour(arm), ls="--", lw=1.2, label=f"{name}, mean {mean.value:.2f}")
        rows += [[name, s] for s in found.similarities]
        means.append([name, dataset(arm), f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]", str(found.n)])
    axis.set_xlabel("cosine similarity to the seed LM's answer")
    axis.set_ylabel("answers")
    axis.legend(frameon=False)
    _save(figure, out)
    out.with_suffix(".csv").write_text(csv_table(["method", "similarity"], rows), encoding="utf-8")
    return table_text(["Method", "Dataset", "Mean similarity", "n"], means)


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="upper center", ncols=len(handles), frameon=False, bbox_to_anchor=(0.5, 1.1))


def _save(figure: Any, out: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(out.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
    figure.savefig(out.with_suffix(".png"), bbox_inches="tight", dpi=150)
    pyplot.close(figure)


def _numbers(study: Study, series: Series, out: Path) -> str:
    """The drawn numbers: CSV beside the figure (fractions; the norm as it is), and a Markdown table (percent)."""
    lines: list[list[object]] = []
    rows = []
    for arm in study.arms:
        cells = []
        for title, values in series.items():
            value = values.get(arm)
            if value is None:
                cells.append("-" if arm.dataset is None else "not measured")
                continue
            lines.append([arm.label, arm.mix, arm.share, title, value.value, value.low, value.high, value.n])
            if title == "Parameter shift":
                cells.append(f"{value.value:.3f}")
            else:
                cells.append(f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]")
        rows.append([method(arm), dataset(arm), *cells])
    header = ["arm", "mix_ratio", "share", "measure", "value", "low", "high", "n"]
    out.with_suffix(".csv").write_text(csv_table(header, lines), encoding="utf-8")
    return table_text(["Method", "Dataset", *series], rows)
