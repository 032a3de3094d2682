"""The measurements of `scripts/bench` about what an agent costs, and how that grows with the mesh."""

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from figures import Figures
from measure import Fleet, fleet

HERE = Path(__file__).resolve().parent
IDLE_S = 60.0
SETTLE_S = 75.0
SIMULATED_SETTLE_S = 5.0
SIMULATED_S = 10.0
BOTH = (8, 32)  # measured and simulated, so that the two can be compared


class Quiet(NamedTuple):
    """A mesh of real agents that does nothing: bytes per second and agent, percent and MiB of each agent."""

    bytes_per_s: float
    cpu: list[float]
    mib: list[float]


@functools.cache
def quiet(programs: Path, count: int) -> Quiet:
    """What the agents of a mesh use that was only formed."""
    with fleet(programs, count) as made:
        return usage(made)


def usage(made: Fleet) -> Quiet:
    """Resident memory, processor time and bytes on loopback (headers counted), IDLE_S of quiet.

    Quiet is a mesh whose surplus links of the start are closed: after SETTLE_S.
    """
    time.sleep(SETTLE_S)
    processes = [psutil.Process(pid) for pid in made.pids()]
    spent = [sum(process.cpu_times()[:2]) for process in processes]
    begun, sent = time.monotonic(), _loopback()
    time.sleep(IDLE_S)
    seconds = time.monotonic() - begun
    rate = (_loopback() - sent) / seconds / len(processes)
    cpu = [
        (sum(process.cpu_times()[:2]) - before) / seconds * 100
        for process, before in zip(processes, spent, strict=True)
    ]
    return Quiet(rate, cpu, [process.memory_info().rss / 2**20 for process in processes])


def _loopback() -> int:
    """Bytes sent on the loopback of our own network namespace."""
    rows = Path("/proc/net/dev").read_text().splitlines()
    return next(int(row.split()[9]) for row in rows if row.split()[0] == "lo:")


def idle(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Bytes, processor time and resident memory of agents in a quiet mesh, small and large."""
    for count in (options.small, options.large):
        _idle(figures, programs, count, "<= 1024" if count == options.small else "<= 2048")


def _idle(figures: Figures, programs: Path, count: int, reach: str) -> None:
    found = quiet(programs, count)
    figures.add(
        f"idle bytes sent per agent of {count}",
        [found.bytes_per_s],
        "B/s",
        reach,
        "Serf 300",
        **_point("bytes per second and agent", "real agents", count),
    )
    figures.add(
        f"idle CPU per agent of {count}",
        found.cpu,
        "%",
        "<= 0.5",
        "Serf 0.2",
        **_point("CPU percent per agent", "real agents", count),
    )
    figures.add(
        f"resident memory of {count}",
        found.mib,
        "MiB",
        "<= 60",
        "Serf 15, Zenoh 28",
        **_point("MiB per agent", "real agents", count),
    )


def _point(what: str, curve: str, count: int) -> dict[str, Any]:
    return {"series": f"{what} by members: {curve}", "at": count}


def growth(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """CPU, memory and bytes per agent with 3 to 32 real agents and 1,000 and 10,000 simulated ones.

    A simulated agent has the deciding code and the frames, without sockets, encryption, disk and tasks: its
    bytes can be compared with a real one's (8 and 32 are measured both ways), its CPU and memory cannot.
    """
    figures.configuration(
        "growth, real agents", f"one zone, profile lan, quiet for {IDLE_S:.0f} s after {SETTLE_S:.0f} s"
    )
    figures.configuration(
        "growth, simulated",
        "profile lan up to 32 in one zone, wan beyond in zones of 50 with 3 possible gateways each; 1 ms "
        f"in and 25 ms between zones, quiet for {SIMULATED_S:.0f} virtual s after {SIMULATED_SETTLE_S:.0f} s",
    )
    for count in options.members:
        if (options.only and "idle" not in options.only) or count not in (options.small, options.large):
            _idle(figures, programs, count, "")
    for count in sorted({*BOTH, *options.simulated}):
        _simulated(figures, count, options.simulated_limit_s)


def _simulated(figures: Figures, count: int, limit_s: float) -> None:
    profile = "lan" if count <= max(BOTH) else "wan"
    words = [str(HERE / "simulated.py"), str(count), profile, str(SIMULATED_SETTLE_S), str(SIMULATED_S)]
    try:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        figures.skip(f"growth with {count:,} simulated", f"not done within {limit_s:.0f} s")
        return
    if done.returncode != 0:
        figures.skip(f"growth with {count:,} simulated", done.stderr.strip().splitlines()[-1][:200])
        return
    found = json.loads(done.stdout)
    for key, what, unit in (
        ("bytes_per_s", "bytes per second and agent", "B/s"),
        ("cpu_percent", "CPU percent per agent", "%"),
        ("mib", "MiB per agent", "MiB"),
    ):
        curve = f"simulated, {profile}" if key == "bytes_per_s" else f"simulated, {profile}, decisions alone"
        figures.add(f"{what}, {count:,} simulated", [found[key]], unit, "", **_point(what, curve, count))
    figures.add(f"{count:,} simulated: formed after", [found["formed_s"]], "virtual s", "")
    figures.add(f"{count:,} simulated: processor time to form", [found["forming_cpu_s"]], "s", "")


MEASUREMENTS: dict[str, Callable[[Figures, Path, argparse.Namespace], None]] = {
    each.__name__: each for each in (idle, growth)
}
