"""How good a path is."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from mesh.observe import quality
from mesh.observe.quality import Quality, Targets


def test_a_path_goes_from_unknown_to_connected_to_disconnected() -> None:
    path = Quality()
    assert path.report(0.0)["status"] == "unknown"
    assert path.loss_percent is None
    path.answered(0.010, 1.0)
    assert (path.status, path.latency_s, path.jitter_s) == ("connected", 0.010, 0.0)
    for tries, status in ((1, "error"), (2, "error"), (3, "disconnected")):
        path.missed("timed out", 1.0 + tries)
        assert path.status == status
    report = path.report(6.0)
    assert report["loss_percent"] == 75.0
    assert report["last_check_s"] == 2.0
    assert report["error"] == "timed out"
    path.answered(0.010, 7.0)
    assert (path.status, path.error) == ("connected", "")


def test_latency_and_jitter_follow_slowly() -> None:
    path = Quality()
    for number in range(400):
        path.answered(0.010 if number % 2 else 0.020, float(number))
    assert path.latency_s == pytest.approx(0.015, abs=0.002)
    assert path.jitter_s == pytest.approx(0.010, abs=0.001)


def test_loss_is_of_the_last_probes_only() -> None:
    path = Quality()
    for _ in range(100):
        path.missed("x", 0.0)
    for _ in range(quality.WINDOW):
        path.answered(0.01, 0.0)
    assert path.loss_percent == 0.0


async def test_external_targets_are_probed_each_on_its_own(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.socket.socket() as closed:
        await closed.bind(("127.0.0.1", 0))
        refused = closed.getsockname()[1]
        targets = Targets((f"127.0.0.1:{port}", f"127.0.0.1:{refused}", "nonsense"))
        nursery.start_soon(targets.run)
        with trio.fail_after(60):
            while any(path.checked_at is None for path in targets.paths.values()):
                await trio.sleep(0.01)
    assert [path.status for path in targets.paths.values()] == ["connected", "error", "error"]
    assert targets.paths["nonsense"].error == 'not a "host:port"'
    assert targets()[f"127_0_0_1:{port}"]["latency_ms"] > 0
    await listeners[0].aclose()


async def test_a_target_that_never_answers_is_given_up(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(host: str, port: int) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", hang)
    targets = Targets(("192.0.2.1:80",))
    nursery.start_soon(targets.run)
    await trio.sleep(quality.TIMEOUT_S + 1)
    assert targets.paths["192.0.2.1:80"].error == "no answer in 5 s"
