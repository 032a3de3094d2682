"""The metrics feature, with real collectors."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.agent.metrics import Metrics
from mesh.config import Metrics as Settings
from mesh.errors import NotFound, UsageError


async def test_a_running_agent_has_samples_history_and_capacity(tmp_path: Any, nursery: trio.Nursery) -> None:
    feature = Metrics(
        Settings(interval_s=1.0),
        str(tmp_path),
        lambda: 1_700_000_000_000,
        more={"store": lambda: {"records": 7}},
    )
    assert feature.capacity() == (None, {})
    feature.counters["link.frames_in"] += 3
    assert (await feature.now())["groups"]["agent"] == {"link.frames_in": 3}
    nursery.start_soon(feature.run)
    with trio.fail_after(60):
        while len(await feature.history("store.records", last_s=60)) < 2:
            await trio.sleep(0.01)
    assert (await feature.history("cpu.usage_percent", last_s=60))[0]["time"] == "2023-11-14T22:13:20.000Z"
    assert (await feature.history("agent.link.frames_in", last_s=60))[0]["value"] == 3.0
    load, free = feature.capacity()
    assert load is not None
    assert 0 <= load <= 1
    assert free.keys() == {"memory", "storage"}
    with pytest.raises(NotFound):
        await feature.history("cpu.nonsense", last_s=60)
    assert feature.value("store.records") == 7
    assert feature.check()["result"] == "ok"


async def test_a_collector_that_fails_shows_in_the_doctors_report() -> None:
    def broken() -> dict[str, Any]:
        raise OSError("no such device")

    feature = Metrics(Settings(), "/", lambda: 0, more={"gpu": broken, "fan": lambda: {"rpm": None}})
    await feature.now()
    check = feature.check()
    assert check["result"] == "warning"
    assert "gpu: OSError: no such device" in check["message"]
    for wrong in (None, "gpu.load", "fan.rpm"):
        with pytest.raises((NotFound, UsageError)):
            feature.value(wrong)


async def test_a_reload_changes_the_ring() -> None:
    feature = Metrics(Settings(), "/", lambda: 0)
    for _ in range(5):
        feature.sampler.add({"g": {"n": 1}})
    feature.reload(Settings(ring_samples=2))
    assert len(await feature.history("g.n", last_s=10)) == 2
