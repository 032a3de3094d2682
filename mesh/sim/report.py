"""Runs as tables and as JSON: a line each, and over all seeds the median and the worst of every figure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec

from mesh.sim.run import Result
from mesh.sim.stopwatch import SPEEDS


def row(result: Result) -> dict[str, Any]:
    """A run as one line of a table."""
    figures = result.figures
    return {
        "name": result.scenario,
        "seed": result.seed,
        "result": "ok" if result.failure is None else "failed",
        "check": result.failure.check if result.failure is not None else None,
        "found_s": figures.get("found", {}).get("max"),
        "reach_p50_s": figures.get("reach", {}).get("p50"),
        "reach_max_s": figures.get("reach", {}).get("max"),
        "agree_s": figures.get("agree_s"),
        "identical_s": figures.get("identical_s"),
        "false_dead": figures.get("false_dead"),
        "frames_per_write": figures.get("frames_per_write"),
        "messages_per_write": figures.get("messages_per_write"),
        "bytes_per_s": figures.get("bytes_per_s"),
        "virtual_s": figures["virtual_s"],
        "real_speed": figures["real_speed"],
        "speed": figures["speed"],
    }


def own(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Runs of a feature's own simulator: median and worst of each of its figures."""
    found: dict[str, list[Any]] = {}
    for result in results:
        for name, value in sorted(result.figures.items()):
            found.setdefault(name, []).append(value)
    rows: list[dict[str, Any]] = []
    for name, values in found.items():
        words = sorted({value for value in values if isinstance(value, str)})
        if words:
            rows.append({"name": name, "median": ", ".join(words), "worst": None})
        else:
            rows.append({"name": name, "median": round(median(values), 4), "worst": _worst(name, values)})
    return rows


def _worst(name: str, values: Sequence[float]) -> float:
    return min(values) if name in SPEEDS else max(values)


def spread(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Median and worst of every figure over the runs."""
    rows = [row(result) for result in results]
    out = []
    for name in rows[0] if rows else ():
        values = [line[name] for line in rows if isinstance(line[name], int | float)]
        if values and name not in ("name", "seed"):
            out.append(
                {"name": name, "median": round(median(values), 4), "worst": round(_worst(name, values), 4)}
            )
    return out


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """The whole report."""
    return {
        "runs": [
            {
                "scenario": result.scenario,
                "seed": result.seed,
                "failure": msgspec.to_builtins(result.failure),
                "figures": result.figures,
                "plan": msgspec.to_builtins(result.plan),
                "digest": result.digest,
            }
            for result in results
        ],
        "spread": spread(results),
    }
