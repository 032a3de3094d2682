"""The row about mutated frames: every decoder in a process of its own, so that memory can be measured."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setup import say

from fault.base import Row, Run

CHILD = Path(__file__).with_name("mutation.py")
LINE_CHARS = 600


def mutated(run: Run) -> None:
    """10 million mutated inputs to every decoder that others' bytes reach (--nodes: at once): no crash."""
    guided = importlib.util.find_spec("atheris") is not None
    counts = _counts(run.runs)
    names = list(counts)
    with ThreadPoolExecutor(run.nodes) as pool:
        found = list(pool.map(lambda name: _feed(name, counts[name], run.seed, guided=False), names))
        # Its corpus and its tables grow: what the decoder itself keeps is measured without it.
        chosen = list(
            pool.map(
                lambda name: _feed(name, counts[name] // 4, run.seed, guided=True), names if guided else []
            )
        )
    crashes = [
        f"{name}: {what} from {data[:LINE_CHARS]}"
        for name, told in zip([*names, *names], [*found, *chosen], strict=False)
        for what, data in told["crashes"].items()
    ]
    for how, told in (("mutated blindly", found), ("guided by coverage (atheris)", chosen)):
        if told:
            count, refused = (sum(each[what] for each in told) for what in ("count", "refused"))
            run.report.fact(f"inputs to {len(names)} decoders, {how}", count)
            run.report.fact(f"of them refused, {how}", refused)
    run.report.promise("crashes, hangs, or other errors than a refusal", len(crashes))
    for sentence in crashes:
        run.report.note(sentence)
    run.report.bar(
        "slowest input of each decoder", [told["slowest_s"] * 1000 for told in found], "ms", 1000.0
    )
    run.report.bar("memory grew by, each decoder", [told["grown_mib"] for told in found], "MiB", 20.0)
    if not guided:
        run.report.note("not guided by coverage: atheris is not installed (pip install atheris)")


def _counts(runs: int) -> dict[str, int]:
    """How many inputs each decoder gets."""
    from fault import decoders  # with all that they read for: not only to be listed

    every = decoders.every()
    one = runs / sum(decoder.weight for decoder in every)
    return {decoder.name: max(1, math.ceil(one * decoder.weight)) for decoder in every}


def _feed(name: str, count: int, seed: int, *, guided: bool) -> dict[str, Any]:
    words = [sys.executable, str(CHILD), name, str(count), str(seed), *(["--guided"] if guided else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and told:
        found = dict(json.loads(told[-1]))
        how, crashes = " guided" if guided else "", len(found["crashes"])
        say(f"{name}{how}: {found['count']} inputs, {found['refused']} refused, {crashes} crashes")
        return found
    ended = f"the process ended with {done.returncode}"
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"count": 0, "refused": 0, "crashes": {ended: last}, "slowest_s": 0.0, "grown_mib": 0.0}


ROWS = {"mutated": Row(mutated, nodes=os.cpu_count() or 1, least=0, runs=10_000_000)}
