"""The gate's verdict: on the terminal, and as JUnit XML for continuous integration."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from selfdistill.comparison.gate import EXIT_CODES, Gate, Outcome, Probe


def said(probe: Probe, margin: float) -> str:
    """The verdict on a probe in one line, with what could not be judged."""
    return "; ".join([_said(probe, margin), *unjudgeable(probe)])


def unjudgeable(probe: Probe) -> list[str]:
    """What was done with the items that cannot be judged, if there are any."""
    parts = (
        (probe.left_out, "of BASE cannot be judged (left out)"),
        (probe.taken_as_wrong, "of NEW cannot be judged (taken as wrong)"),
    )
    return [f"{count} item{'s' if count > 1 else ''} {what}" for count, what in parts if count]


def _said(probe: Probe, margin: float) -> str:
    units = "item" if probe.units == probe.n else "cluster"
    few = f"1 {units} does not say" if probe.units == 1 else f"{probe.units} {units}s do not say"
    change = f"{100 * probe.difference:+.1f} points, lower bound {100 * probe.low:+.1f}, margin {100 * margin:g}"
    if probe.verdict == "pass":
        return change
    if probe.verdict == "fail":
        return f"worse beyond chance: {change}, p = {probe.p_holm:.2g} over all probes, lost items: {len(probe.lost)}"
    if probe.needed is None:
        return f"{few}: {change}"
    return f"{few}: {change}. {probe.needed} would do to {probe.needed_for}"


def verdict_line(result: Gate) -> str:
    """The whole verdict in one sentence."""
    of: dict[Outcome, list[str]] = {v: [p.task for p in result.probes if p.verdict == v] for v in EXIT_CODES}
    margin = f"{100 * result.margin:g} points"
    if result.verdict == "pass":
        on = f"any of {len(result.probes)} probes" if len(result.probes) > 1 else "the one probe"
        return f"pass: no loss of {margin} or more on {on} (alpha {result.alpha:g})"
    unclear = f"; underpowered: {', '.join(of['underpowered'])}" if of["underpowered"] else ""
    if result.verdict == "fail":
        return f"fail: {', '.join(of['fail'])} worse than BASE beyond chance (alpha {result.alpha:g}){unclear}"
    return f"underpowered: too few items to rule out a loss of {margin} on {', '.join(of['underpowered'])}"


def show(result: Gate, console: Any, listed: int = 20) -> None:
    """Print the table, what each probe lacks, and the ids of the items that were lost, at most `listed` a task."""
    from selfdistill.core.progress import plain
    from selfdistill.report.terminal import print_table

    rows = [
        [
            p.verdict, p.task, str(p.n), f"{100 * p.base:.1f}", f"{100 * p.new:.1f}", f"{100 * p.difference:+.1f}",
            f"{100 * p.low:+.1f}", f"+{len(p.gained)} / -{len(p.lost)}",
            "<0.001" if p.p_holm < 0.001 else f"{p.p_holm:.2g}",
        ]
        for p in result.probes
    ]  # fmt: skip
    header = ["verdict", "probe", "n", "base", "new", "change", "bound", "items", "p"]
    title = f"new - base in points, margin {100 * result.margin:g}, one-sided bound at {100 * (1 - result.alpha):g} %"
    print_table(header, rows, title, console)

    def line(text: str, style: str | None = None) -> None:
        console.print(plain(text), style=style, highlight=False, markup=False, soft_wrap=True)

    for probe in result.probes:
        if probe.verdict != "pass" or unjudgeable(probe):
            line(f"{probe.task}: {probe.verdict}: {said(probe, result.margin)}")
    for probe in result.probes:
        if probe.lost and listed:
            more = len(probe.lost) - listed
            rest = f" and {more} more" if more > 0 else ""
            line(f"{probe.task}, lost: {', '.join(probe.lost[:listed])}{rest}")
    line(verdict_line(result), "bold")


ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""


def junit(result: Gate) -> str:
    """JUnit XML, a test case a probe, valid against the schema of Ant's JUnit task (windyroad/JUnit-Schema). A fail is
    a failure. Underpowered is skipped: nothing was found, and the exit code says that nothing was shown."""
    from xml.etree import ElementTree

    def text(value: str) -> str:
        return ILLEGAL.sub("?", value)

    def token(value: str) -> str:
        return " ".join(text(value).split())

    count = Counter(p.verdict for p in result.probes)
    root = ElementTree.Element("testsuites")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    about = {"name": "gate", "package": "selfdistill", "id": "0", "timestamp": now, "hostname": "localhost"}
    counts = {"tests": len(result.probes), "failures": count["fail"], "errors": 0, "skipped": count["underpowered"]}
    suite = ElementTree.SubElement(root, "testsuite", about | {k: str(v) for k, v in counts.items()} | {"time": "0"})
    properties = ElementTree.SubElement(suite, "properties")
    settings = {"margin": f"{100 * result.margin:g} points", "alpha": f"{result.alpha:g}"}
    for name, value in {"base": result.base, "new": result.new, **settings}.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": text(value)})
    for p in result.probes:
        case = {"classname": "selfdistill.comparison.gate", "name": token(p.task), "time": "0"}
        element, message = ElementTree.SubElement(suite, "testcase", case), text(said(p, result.margin))
        if p.verdict == "fail":
            failure = ElementTree.SubElement(element, "failure", {"message": message, "type": "worse"})
            failure.text = text("\n".join(["lost:", *p.lost]))
        elif p.verdict == "underpowered":
            ElementTree.SubElement(element, "skipped", {"message": f"underpowered: {message}"})
    lines = [f"{p.task}: {p.verdict}: {said(p, result.margin)}" for p in result.probes]
    ElementTree.SubElement(suite, "system-out").text = text("\n".join([*lines, verdict_line(result)]))
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
