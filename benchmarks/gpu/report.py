"""The table of the results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

RATIOS = {
    "bare": "over the bare forward",
    "roofline": "over the roofline",
    "textbook": "over the textbook module",
    "loop_a": "over (a)",
    "loop_b": "over (b)",
}
"""Ratios of throughput: above 1 is faster."""
TITLES = {
    "rates": "Rates of the machine",
    "extraction": "Extraction",
    "step": "Training step of the attentive head",
    "search": "Search over 63 configurations and final fit",
    "streaming": "Reads",
    "device_tests": "Tests on the device",
}


def format_report(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: a table, what the ratios mean, and what failed."""
    lines = [
        f"{results['machine']}. Device {results['device']}; {results['seconds']:.0f} s in all.",
        "",
    ]
    if results["tiny"]:
        lines += ["**Smallest sizes, which test the scripts and measure nothing.**", ""]
    columns = ["part", "what", "value", *RATIOS.values(), "target", "how"]
    lines += [
        "| " + " | ".join(columns) + " |",
        "|---|---|--:|" + "--:|" * len(RATIOS) + "---|---|",
    ]
    failed = []
    for name, part in results["parts"].items():
        for row in part["rows"]:
            if "error" in row:
                failed.append(f"* **{TITLES[name]}, {row['what']}**: {row['error']}")
            else:
                lines.append(format_row(TITLES[name], row))
        if part["error"]:
            failed.append(f"* **{TITLES[name]}**: {part['error']}")
    lines += [
        "",
        "Ratios are of throughput, so above 1 is faster. The roofline of a computation is the "
        "larger of its floating-point operations over the rate of a large square product of the "
        "same dtype, and the bytes that it must move over the rate of a copy, both measured in the "
        "same run; that of reads is a plain read of the same files. (a) is the authors' loop with "
        "a DataLoader, (b) the same on sliced tensors.",
    ]
    if failed:
        lines += ["", "Failed or left out:", "", *failed]
    return "\n".join(lines) + "\n"


def format_row(part: str, row: Mapping[str, Any]) -> str:
    """Return one line of the table."""
    ratios = [f"{row['ratios'][name]:.3g}" if name in row["ratios"] else "" for name in RATIOS]
    cells = [part, row["what"], f"{row['value']:.4g} {row['unit']}", *ratios]
    return "| " + " | ".join([*cells, judge(row), row["note"]]) + " |"


def judge(row: Mapping[str, Any]) -> str:
    """Return the target of a row and whether it is met, or nothing."""
    match = re.fullmatch(r"(\w+) >= ([\d.]+)", row["target"])
    if not match:
        return ""
    name, bound = match[1], float(match[2])
    if name not in row["ratios"]:
        return f"{RATIOS[name]} >= {bound:g}: not measured"
    return f"{RATIOS[name]} >= {bound:g}: " + (
        "met" if row["ratios"][name] >= bound else "**missed**"
    )


def count_failures(parts: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of measurements that failed or were left out."""
    return sum(bool(part["error"]) + sum("error" in row for row in part["rows"]) for part in parts)
