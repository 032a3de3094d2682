"""The measurement of `scripts/bench` about placement with many workloads."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import sweeping
from figures import Figures

HERE = Path(__file__).resolve().parent
NODES, WORKLOADS, DEATHS = 32, 10_000, 12
IDLE_S = 65.0


def placing(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """An agent with 10,000 workloads on 32 nodes: a node's death decided, idle CPU, memory, its start."""
    found = placed(NODES, WORKLOADS, IDLE_S, DEATHS)
    deaths, what = found["deaths"], f"{WORKLOADS:,} workloads on {NODES} nodes"
    taken = [each for each in deaths if each["claimed_ms"] > 0]
    figures.add(f"{what}: a node's death is decided", _of(deaths, "decided_ms"), "ms", "<= 200")
    figures.add(f"{what}: processor time of that", _of(deaths, "processor_ms"), "ms", "")
    figures.add(f"{what}: seats that were empty then", _of(deaths, "seats"), "seats", "")
    if taken:
        figures.add(f"{what}: our part of them claimed, on disk", _of(taken, "claimed_ms"), "ms", "")
    figures.add(f"{what}: the others' claims heard, processor time", _of(deaths, "heard_ms"), "ms", "")
    figures.add(f"{what}: idle CPU of an agent without links", [found["idle"]], "%", "<= 1")
    figures.add(f"{what}: resident memory, 313 run here", [found["mib"]], "MiB", "")
    figures.add(f"{what}: processor time of the start", [found["started_s"]], "s", "")


def placed(nodes: int, workloads: int, idle_s: float, deaths: int) -> dict[str, Any]:
    """What `placing_program.py` finds, in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"mb-{sweeping.mark()}-"))
    words = [sys.executable, str(HERE / "placing_program.py"), str(folder)]
    words += map(str, (nodes, workloads, idle_s, deaths))
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _of(deaths: list[dict[str, float]], key: str) -> list[float]:
    return [each[key] for each in deaths]


MEASUREMENTS = {placing.__name__: placing}
