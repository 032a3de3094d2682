"""What `scripts/bench` measured: one JSON line for each figure, a Markdown table, plots of what grows.

A figure is the median of its values with the least and the most; with twenty values or more also the 90th and
the 99th percentile. A ratio is made within one round of one run, of values taken seconds apart, because the
machine is shared and noisy: its spread says how far it can be trusted.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUANTILES_FROM = 20


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratios(ours: Sequence[float], theirs: Sequence[float], *, percent: bool = False) -> list[float]:
    """Round by round, ours by theirs."""
    return [(100 if percent else 1) * one / other for one, other in zip(ours, theirs, strict=True) if other]


class Figures:
    """Collects figures, prints each at once and appends it to a file as a JSON line."""

    def __init__(self, out: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self.configurations: list[tuple[str, str]] = []
        self.skipped: list[tuple[str, str]] = []
        self._out = out
        out.write_text("")
        self._put({"machine": machine(), "load": os.getloadavg()})

    def add(
        self,
        name: str,
        values: Sequence[float],
        unit: str,
        reach: str,
        peer: str = "",
        *,
        series: str = "",
        at: float | None = None,
    ) -> None:
        """One figure.

        Args:
            reach: what it should be; empty where nothing is asked.
            peer: what others reach.
            series, at: it is the point `at` of a curve that is drawn.
        """
        row: dict[str, Any] = {
            "name": name,
            "median": round(statistics.median(values), 4),
            "min": round(min(values), 4),
            "max": round(max(values), 4),
            "n": len(values),
            "unit": unit,
            "reach": reach,
            "peer": peer,
        }
        if len(values) >= QUANTILES_FROM:
            row |= {"p90": round(quantile(values, 0.9), 4), "p99": round(quantile(values, 0.99), 4)}
        if series:
            row |= {"series": series, "at": at}
        self.rows.append(row)
        self._put(row)

    def configuration(self, who: str, text: str) -> None:
        """How a side of a comparison was set up."""
        self.configurations.append((who, text))
        self._put({"configuration": who, "text": text})

    def skip(self, what: str, why: str) -> None:
        """Something is not measured here, and why."""
        self.skipped.append((what, why))
        self._put({"skipped": what, "why": why})

    def _put(self, row: dict[str, Any]) -> None:
        line = json.dumps({"at_load": round(os.getloadavg()[0], 2), **row})
        with self._out.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def table(self) -> str:
        """All figures as a Markdown table."""
        lines = ["| what | median (min..max, n) | p90 / p99 | reach | peer |", "|---|---|---|---|---|"]
        for row in self.rows:
            measured = f"{row['median']:g} {row['unit']} ({row['min']:g}..{row['max']:g}, {row['n']})"
            tail = f"{row['p90']:g} / {row['p99']:g}" if "p90" in row else ""
            lines.append(f"| {row['name']} | {measured} | {tail} | {row['reach']} | {row['peer']} |")
        return "\n".join(lines)

    def markdown(self, plots: Sequence[Path]) -> str:
        """The whole report."""
        parts = ["# Bench", f"{machine()}; {time.strftime('%Y-%m-%d %H:%M')}.", self.table()]
        if self.configurations:
            rows = [f"- {who}: {text}" for who, text in self.configurations]
            parts += ["## Configurations", "\n".join(rows)]
        if self.skipped:
            parts += ["## Not measured here", "\n".join(f"- {what}: {why}" for what, why in self.skipped)]
        if plots:
            parts += ["## Growth", "\n".join(f"![{path.stem}]({path.name})" for path in plots)]
        return "\n\n".join(parts) + "\n"


def machine() -> str:
    """The machine in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores {platform.machine()}, {memory:.0f} GiB, Python {platform.python_version()}"


def plot(figures: Figures, folder: Path, *, kind: str) -> list[Path]:
    """Draw every family of curves into `folder`; empty where there is nothing to draw, or to draw with.

    The series' name is "family: curve".
    """
    families: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in figures.rows:
        if "series" in row:
            family, _, curve = row["series"].partition(": ")
            families.setdefault(family, {}).setdefault(curve, []).append(row)
    if not families:
        return []
    try:
        import matplotlib
    except ImportError:
        figures.skip("plots", "matplotlib is not there: scripts/bench --with-peers installs it")
        return []
    matplotlib.use("Agg")
    try:
        return [_draw(family, curves, folder, kind) for family, curves in families.items()]
    except OSError as error:
        figures.skip("plots", str(error))
        return []


def _draw(family: str, curves: dict[str, list[dict[str, Any]]], folder: Path, kind: str) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for curve, rows in curves.items():
        rows = sorted(rows, key=lambda row: float(row["at"]))
        middle = [row["median"] for row in rows]
        below = [row["median"] - row["min"] for row in rows]
        above = [row["max"] - row["median"] for row in rows]
        axes.errorbar([row["at"] for row in rows], middle, [below, above], marker="o", capsize=3, label=curve)
    unit = next(iter(curves.values()))[0]["unit"]
    name, _, axis = family.partition(" by ")
    axes.set(xscale="log", title=family, ylabel=f"{name}, {unit}", xlabel=axis)
    if max(row["max"] for rows in curves.values() for row in rows) > 0:
        axes.set_yscale("log")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    path = folder / f"bench-{''.join(c if c.isalnum() else '-' for c in family.lower())}.{kind}"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
