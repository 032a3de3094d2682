"""Samples of the machine and of this process, by psutil, and a bounded history of them.

    cpu      usage_percent, count, frequency (MHz), load_average (1m, 5m, 15m)
    memory   total, available, used, percent, free (bytes)
    network  sent_bytes, received_bytes and their rates, in all and by interface
    storage  total, used, free, percent of the data directory's file system; disk read and write rates
    process  rss, cpu_percent, threads, files, loop_lag_ms: how late the event loop was at worst

A collector that fails shows as {"error": ...} in its own group; the others go on. The history keeps numbers
only, as arrays: 1,000 samples take about 0.4 MB.
"""

from __future__ import annotations

import difflib
import math
import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import psutil
import trio

from mesh.errors import NotFound

Group: TypeAlias = dict[str, Any]
Collector: TypeAlias = Callable[[], Group]
INTERFACES_MAX = 16
NAMES_MAX = 512
LAG_CHECK_S = 1.0


def cpu() -> Group:
    """Use since the last call, in percent of all cores."""
    frequency = psutil.cpu_freq()
    load = psutil.getloadavg()
    return {
        "usage_percent": psutil.cpu_percent(None),
        "count": psutil.cpu_count() or 1,
        "frequency": round(frequency.current, 1) if frequency else None,
        "load_average": dict(zip(("1m", "5m", "15m"), load, strict=True)),
    }


def memory() -> Group:
    """Memory of the machine, bytes."""
    now = psutil.virtual_memory()
    return {
        "total": now.total,
        "available": now.available,
        "used": now.used,
        "percent": now.percent,
        "free": now.free,
    }


class Rates:
    """Turns growing counters into amounts per second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before: dict[str, int] = {}
        self._at = -math.inf

    def __call__(self, totals: Mapping[str, int]) -> dict[str, float]:
        """Per second since the last call; a counter that is new or began anew gives 0."""
        now = self._clock()
        span = now - self._at
        before, self._before, self._at = self._before, dict(totals), now
        return {
            name: round(max(total - before.get(name, total), 0) / span, 1) if span > 0 else 0.0
            for name, total in totals.items()
        }


class Network:
    """Traffic of the machine's interfaces, loopback left out of the sum."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = Rates(clock)

    def __call__(self) -> Group:
        counts = psutil.net_io_counters(pernic=True)
        names = sorted(counts)[:INTERFACES_MAX]
        totals = {f"{name}/sent": counts[name].bytes_sent for name in names}
        totals |= {f"{name}/received": counts[name].bytes_recv for name in names}
        rates = self._rates(totals)
        outside = [name for name in names if name != "lo"]
        return {
            "sent_bytes": sum(counts[name].bytes_sent for name in outside),
            "received_bytes": sum(counts[name].bytes_recv for name in outside),
            "sent_bytes_per_s": sum(rates[f"{name}/sent"] for name in outside),
            "received_bytes_per_s": sum(rates[f"{name}/received"] for name in outside),
            "interfaces": {
                name: {
                    "sent_bytes": counts[name].bytes_sent,
                    "received_bytes": counts[name].bytes_recv,
                    "sent_bytes_per_s": rates[f"{name}/sent"],
                    "received_bytes_per_s": rates[f"{name}/received"],
                    "errors": counts[name].errin + counts[name].errout,
                    "dropped": counts[name].dropin + counts[name].dropout,
                }
                for name in names
            },
        }


class Storage:
    """The file system that holds the data directory."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._rates = Rates(clock)

    def __call__(self) -> Group:
        usage = psutil.disk_usage(self._path)
        disk = psutil.disk_io_counters()
        rates = self._rates({"read": disk.read_bytes, "written": disk.write_bytes} if disk else {})
        return {
            "total": usage.total,
            "used": usage.used,
            "free": usage.free,
            "percent": usage.percent,
            "read_bytes_per_s": rates.get("read"),
            "written_bytes_per_s": rates.get("written"),
        }


class LoopLag:
    """How late the event loop was at worst since it was last asked, seconds."""

    def __init__(self) -> None:
        self._worst_s = 0.0

    def note(self, late_s: float) -> None:
        """Something ran this much later than it was due."""
        self._worst_s = max(self._worst_s, late_s)

    def take(self) -> float:
        """The worst so far; starts anew."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s

    async def watch(self) -> None:
        """Measure once a second, until cancelled."""
        while True:
            due = trio.current_time() + LAG_CHECK_S
            await trio.sleep_until(due)
            self.note(trio.current_time() - due)


class Process:
    """This process."""

    def __init__(self, lag: LoopLag) -> None:
        self._process = psutil.Process(os.getpid())
        self._lag = lag

    def __call__(self) -> Group:
        with self._process.oneshot():
            return {
                "rss": self._process.memory_info().rss,
                "cpu_percent": self._process.cpu_percent(None),
                "threads": self._process.num_threads(),
                "files": self._process.num_fds(),
                "loop_lag_ms": round(self._lag.take() * 1000, 1),
            }


class Sample(NamedTuple):
    """Groups of numbers at a mesh time, unix milliseconds."""

    at_ms: int
    groups: dict[str, Group]


class Sampler:
    """Takes samples and keeps the last `ring_samples`.

    Args:
        collectors: group name -> what gives its numbers; may nest dicts.
        now_ms: mesh time.
    """

    def __init__(
        self, collectors: Mapping[str, Collector], now_ms: Callable[[], int], *, ring_samples: int = 1000
    ) -> None:
        self._collectors = dict(collectors)
        self._now_ms = now_ms
        self.latest: Sample | None = None
        self.failures: dict[str, str] = {}
        self._names: tuple[str, ...] = ()
        # Rows of the same layout share one tuple of names.
        self._rows: deque[tuple[int, tuple[str, ...], array[float]]] = deque(maxlen=ring_samples)

    def resize(self, ring_samples: int) -> None:
        """Keep another number of samples from now on."""
        self._rows = deque(self._rows, maxlen=ring_samples)

    def collect(self) -> dict[str, Group]:
        """Run every collector; a failure stays in its own group. May run in a thread."""
        groups: dict[str, Group] = {}
        for name, collector in self._collectors.items():
            try:
                groups[name] = collector()
            except Exception as error:  # whatever a kernel or a driver comes up with
                groups[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
        return groups

    def add(self, groups: dict[str, Group]) -> Sample:
        """Keep what `collect` gave, as of now."""
        self.failures = {name: group["error"] for name, group in groups.items() if "error" in group}
        self.latest = Sample(self._now_ms(), groups)
        flat = dict(zip(range(NAMES_MAX), _flat("", groups), strict=False)).values()
        names = tuple(name for name, _ in flat)
        if names != self._names:
            self._names = names
        self._rows.append((self.latest.at_ms, self._names, array("d", [value for _, value in flat])))
        return self.latest

    def history(self, metric: str, last_s: float) -> list[tuple[int, float | None]]:
        """(unix ms, value) of a dotted metric over the last seconds, oldest first; None where it was missing.

        Raises:
            NotFound: no sample has this metric.
        """
        known = {name for _, names, _ in self._rows for name in names}
        if metric not in known:
            near = difflib.get_close_matches(metric, known, 3, 0.4)
            raise NotFound(
                f"there is no metric {metric[:80]!r}",
                f"perhaps {', '.join(near)}" if near else "`metrics` lists them",
            )
        since_ms = self._now_ms() - last_s * 1000
        points: list[tuple[int, float | None]] = []
        for at_ms, names, values in self._rows:
            if at_ms >= since_ms:
                value = values[names.index(metric)] if metric in names else math.nan
                points.append((at_ms, None if math.isnan(value) else value))
        return points

    async def run(self, interval_s: Callable[[], float]) -> None:
        """Take a sample every `interval_s()` seconds, until cancelled."""
        while True:
            # In a thread: some kernels take long over disks or frequencies, and the loop must not wait.
            groups = await trio.to_thread.run_sync(self.collect)
            self.add(groups)
            await trio.sleep(interval_s())


def _flat(prefix: str, group: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in group.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        elif value is None:
            yield prefix + name, math.nan
        elif isinstance(value, int | float):
            yield prefix + name, float(value)


def machine(data_dir: str, lag: LoopLag) -> dict[str, Collector]:
    """The collectors every agent has."""
    return {
        "cpu": cpu,
        "memory": memory,
        "network": Network(),
        "storage": Storage(data_dir),
        "process": Process(lag),
    }
