"""The feature `metrics` of the admin API: samples of the machine, of this process and of the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from mesh.agent.words import iso
from mesh.config import Metrics as Settings
from mesh.errors import NotFound, UsageError
from mesh.observe.counters import Counters
from mesh.observe.metrics import Collector, LoopLag, Sampler, machine
from mesh.observe.quality import Targets


class Metrics:
    """Takes samples every `interval_s` and answers from them.

    Args:
        data_dir: whose file system is watched.
        now_ms: mesh time.
        more: further groups, name -> what gives their numbers; called in a thread.

    Attributes:
        counters: for every feature to count in; shown as the group `agent`.
        lag: for every loop to note its lateness in.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: str,
        now_ms: Callable[[], int],
        *,
        more: Mapping[str, Collector] | None = None,
    ) -> None:
        self.counters = Counters()
        self.lag = LoopLag()
        self._settings = settings
        self._targets = Targets(settings.targets)
        collectors = {**machine(data_dir, self.lag), "agent": self.counters.snapshot, **(more or {})}
        if settings.targets:
            collectors["targets"] = self._targets
        self.sampler = Sampler(collectors, now_ms, ring_samples=settings.ring_samples)

    def reload(self, settings: Settings) -> None:
        """Take new settings; the interval counts from the next sample on."""
        self._settings = settings
        self.sampler.resize(settings.ring_samples)

    async def run(self) -> None:
        """Measure until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.lag.watch)
            nursery.start_soon(self._targets.run)
            await self.sampler.run(lambda: self._settings.interval_s)

    def capacity(self) -> tuple[float | None, dict[str, float]]:
        """Load (0 to 1) and free memory and storage in bytes, for the node's lease."""
        if self.sampler.latest is None:
            return None, {}
        groups = self.sampler.latest.groups
        usage = groups["cpu"].get("usage_percent")
        free = {
            "memory": groups["memory"].get("available"),
            "storage": groups["storage"].get("free"),
        }
        known = {name: float(value) for name, value in free.items() if value is not None}
        return (None if usage is None else round(usage / 100, 2)), known

    def check(self) -> dict[str, Any]:
        """Which collectors fail, for `doctor`."""
        failures = self.sampler.failures
        text = "; ".join(f"{name}: {why}" for name, why in failures.items())[:500]
        return {
            "check": "metrics",
            "result": "warning" if failures else "ok",
            "message": text or "every collector works",
            "hint": "the others go on" if failures else "",
        }

    def value(self, metric: Any) -> float:
        """The newest value of a dotted metric, for the query `mesh.metric`.

        Raises:
            UsageError: not a name. NotFound: no such metric, or no value of it now.
        """
        if not isinstance(metric, str):
            raise UsageError("mesh.metric takes the name of a metric", "e.g. cpu.usage_percent")
        _, value = self.sampler.history(metric, 1e9)[-1]
        if value is None:
            raise NotFound(f"{metric[:80]!r} has no value at present")
        return value

    async def now(self) -> dict[str, Any]:
        """The newest sample: {"time", "groups"}; a group that failed is {"error": text}."""
        if self.sampler.latest is None:
            self.sampler.add(await trio.to_thread.run_sync(self.sampler.collect))
        assert self.sampler.latest is not None
        at_ms, groups = self.sampler.latest
        return {"time": iso(at_ms), "groups": groups}

    async def history(self, metric: str, *, last_s: float) -> list[dict[str, Any]]:
        """{"time", "value"} of a dotted metric, oldest first.

        Raises:
            NotFound: no such metric.
        """
        await trio.lowlevel.checkpoint()
        points = self.sampler.history(metric, last_s)
        return [{"time": iso(at_ms), "value": value} for at_ms, value in points]
