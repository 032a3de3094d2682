"""All finders together."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.discovery import interfaces
from mesh.discovery.base import Found, OnFound
from mesh.discovery.finders import Finders, check_names
from mesh.discovery.interfaces import Interface
from mesh.errors import ConfigError, Failed


class Fake:
    """Finds one address, or fails."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.troubles: dict[str, str] = {}
        self.runs = self.pokes = 0

    async def run(self, found: OnFound) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error
        found(Found(self.name, "/ip4/192.0.2.1/tcp/1", None))
        await trio.sleep_forever()

    def poke(self) -> None:
        self.pokes += 1


@pytest.mark.parametrize("error", [Failed("no socket"), ZeroDivisionError("a bug")])
async def test_a_finder_that_fails_is_reported_tried_again_and_spares_the_others(
    finds: Any, nursery: trio.Nursery, autojump_clock: MockClock, error: Exception
) -> None:
    good, bad = Fake("seeds"), Fake("mdns", error)
    group = Finders([good, bad])
    nursery.start_soon(group.run, finds)
    await trio.sleep(100)
    assert len(finds.all) == 1
    assert good.runs == 1
    assert bad.runs == 4
    seeds, mdns = group.report(trio.current_time())
    assert (seeds["state"], seeds["found"], seeds["error"]) == ("running", 1, "")
    assert mdns["state"] == "failed"
    assert str(error) in mdns["error"]


async def test_a_poke_reaches_every_finder() -> None:
    fakes = [Fake("seeds"), Fake("mdns")]
    Finders(fakes).poke()
    assert [fake.pokes for fake in fakes] == [1, 1]


def test_an_unknown_finder_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="mdsn") as caught:
        check_names(["seeds", "mdsn"])
    assert "mdns" in caught.value.hint


def test_this_machines_interfaces_are_read() -> None:
    every = interfaces.interfaces()
    assert any("127.0.0.1" in one.ipv4 and one.loopback for one in every)
    assert not any(address.startswith("fe80") for one in every for address in one.ipv6)


async def test_a_change_of_interfaces_is_noticed(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "_netlink", lambda: None)
    monkeypatch.setattr(interfaces, "POLL_S", 0.01)
    now = [Interface("lo", 1, True, ("127.0.0.1",), ())]
    changed = trio.Event()
    nursery.start_soon(interfaces.watch, changed.set, lambda: list(now))
    await trio.testing.wait_all_tasks_blocked()
    assert not changed.is_set()
    now.append(Interface("wlan0", 2, False, ("192.0.2.4",), ()))
    with trio.fail_after(60):
        await changed.wait()


async def test_the_kernel_is_asked_where_it_tells() -> None:
    sock = interfaces._netlink()
    if sock is None:
        pytest.skip("no netlink here")
    sock.close()
