"""Samples and their history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.errors import NotFound
from mesh.observe import metrics
from mesh.observe.counters import Counters
from mesh.observe.metrics import LoopLag, Rates, Sampler


async def test_a_real_sample_has_every_promised_number(tmp_path: Any) -> None:
    sampler = Sampler(metrics.machine(str(tmp_path), LoopLag()), lambda: 5000)
    groups = sampler.add(sampler.collect()).groups
    assert sampler.failures == {}
    assert groups["cpu"].keys() == {"usage_percent", "count", "frequency", "load_average"}
    assert groups["memory"].keys() == {"total", "available", "used", "percent", "free"}
    assert {"total", "used", "free", "percent"} <= groups["storage"].keys()
    assert {"sent_bytes", "received_bytes_per_s", "interfaces"} <= groups["network"].keys()
    assert groups["process"]["rss"] > 1 << 20
    assert groups["memory"]["total"] >= groups["memory"]["available"] > 0
    for metric in ("cpu.usage_percent", "cpu.load_average.1m", "memory.percent", "process.loop_lag_ms"):
        assert len(sampler.history(metric, 60)) == 1


def test_a_collector_that_fails_shows_in_its_group_and_spares_the_others() -> None:
    def broken() -> dict[str, Any]:
        raise PermissionError("no /proc here")

    sampler = Sampler({"cpu": broken, "memory": lambda: {"free": 7}}, lambda: 0)
    sample = sampler.add(sampler.collect())
    assert sample.groups == {"cpu": {"error": "PermissionError: no /proc here"}, "memory": {"free": 7}}
    assert sampler.failures == {"cpu": "PermissionError: no /proc here"}
    assert sampler.history("memory.free", 10) == [(0, 7.0)]


def test_the_history_is_bounded_and_cut_by_time() -> None:
    now_ms = 0
    sampler = Sampler({"g": lambda: {"n": now_ms}}, lambda: now_ms, ring_samples=10)
    for now_ms in range(0, 20_000, 1000):  # noqa: B007
        sampler.add(sampler.collect())
    assert [value for _, value in sampler.history("g.n", 3)] == [16000, 17000, 18000, 19000]
    assert len(sampler.history("g.n", 1e6)) == 10
    sampler.resize(3)
    assert len(sampler.history("g.n", 1e6)) == 3


def test_a_metric_that_was_missing_for_a_while_has_gaps() -> None:
    groups: dict[str, Any] = {"a": 1}
    sampler = Sampler({"g": lambda: dict(groups)}, lambda: 0)
    sampler.add(sampler.collect())
    groups["b"] = 2
    sampler.add(sampler.collect())
    groups["b"] = None
    sampler.add(sampler.collect())
    assert [value for _, value in sampler.history("g.b", 60)] == [None, 2.0, None]


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    sampler = Sampler({"cpu": lambda: {"usage_percent": 3}}, lambda: 0)
    sampler.add(sampler.collect())
    with pytest.raises(NotFound, match=r"cpu\.usage") as caught:
        sampler.history("cpu.usage", 60)
    assert "cpu.usage_percent" in caught.value.hint


async def test_samples_are_taken_at_the_interval(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(function: Callable[[], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)  # the clock would run on while a thread works
    sampler = Sampler({"g": lambda: {"n": 1}}, lambda: int(trio.current_time() * 1000))
    nursery.start_soon(sampler.run, lambda: 10.0)
    await trio.sleep(95)
    assert len(sampler.history("g.n", 1000)) == 10


def test_rates_are_per_second_and_survive_a_counter_that_begins_anew() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    assert rates({"a": 100}) == {"a": 0}
    now = 2.0
    assert rates({"a": 300, "b": 50}) == {"a": 100, "b": 0}
    now = 3.0
    assert rates({"a": 5}) == {"a": 0}


async def test_a_late_loop_is_noticed(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    lag = LoopLag()
    lag.note(0.3)
    lag.note(0.1)
    assert lag.take() == 0.3
    assert lag.take() == 0.0
    nursery.start_soon(lag.watch)
    await trio.sleep(3)
    assert lag.take() == pytest.approx(0.0, abs=0.01)


def test_counters_begin_at_zero_and_are_shown_sorted() -> None:
    counters = Counters()
    counters["b"] += 2
    counters["a"] += 1
    assert counters["never"] == 0
    assert list(counters.snapshot().items()) == [("a", 1), ("b", 2)]
