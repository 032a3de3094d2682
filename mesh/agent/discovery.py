"""Runs the finders and hands what they find to the links; keeps the address book."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import trio

from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.agent.session import Session
from mesh.config import PORT
from mesh.discovery.base import Finder, Found
from mesh.discovery.finders import Finders
from mesh.discovery.known import AddressBook, Seeds
from mesh.store.addresses import Known

LONELY_POKE_S = 5.0
# A dial that failed longer ago says little: once a link stands, who is not wanted is not dialled again.
FAILED_LATELY_S = 300.0
SEEDS_MAX = 64
# Whose addresses somebody named: that nobody answers there is told. Members met before come and go.
TOLD = ("seeds", "dns")


class Discovery:
    """First peers for one node.

    Args:
        node: not yet running; its host is asked for addresses once it listens.

    Raises:
        ConfigError: a seed or name is malformed.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._book: dict[bytes, list[str]] = {
            known.public: list(known.addresses) for known in node.store.addresses()
        }
        self.finders = Finders(list(self._chosen()), on_network=self._network_changed)
        self._sources: dict[str, str] = {}
        node.on_link.append(self._met)

    def _chosen(self) -> Iterator[Finder]:
        config, node = self._node.config, self._node
        yield Seeds([*config.net.seeds, *node.home.seeds])
        if config.discovery.address_book:
            yield AddressBook(self._entries)
        if config.discovery.dns:
            from mesh.discovery.names import DnsNames

            interval_s = config.discovery.dns_interval_s
            yield DnsNames(config.discovery.dns, port=PORT, interval_s=interval_s, rng=node.rng)
        if config.discovery.mdns:
            from mesh.discovery.mdns import Mdns

            yield Mdns(node.mesh_id, node.key.public, self._listened, node.rng)

    def _listened(self) -> list[str]:
        return self._node.host.addresses if self._node.host is not None else []

    def _entries(self) -> Iterator[tuple[bytes, str]]:
        for known in self._node.store.addresses():
            for address in known.addresses:
                yield known.public, address

    async def run(self) -> None:
        """Find until cancelled; look again soon while no link is up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.finders.run, self._found)
            while True:
                await trio.sleep(LONELY_POKE_S)
                if not self._node.links.sessions:
                    self.finders.poke()

    def report(self) -> list[dict[str, Any]]:
        """How each finder fares; what it found and could not be linked with is among its troubles."""
        now = trio.current_time()
        rows = self.finders.report(now)
        troubles = {row["finder"]: row["troubles"] for row in rows}
        for address, (at, why) in self._node.links.failed_at.items():
            if address in self._sources and now - at < FAILED_LATELY_S:
                troubles[self._sources[address]][address] = why
        return rows

    def check(self) -> dict[str, Any]:
        """How the finders fare, for `doctor`."""
        failed, troubled = [], []
        for finder in self.report():
            if finder["state"] != "running":
                failed.append(f"{finder['finder']}: {finder['error'] or 'has not begun'}")
            troubled += [f"{finder['finder']}: {what}: {why}" for what, why in finder["troubles"].items()]
        names = ", ".join(finder["finder"] for finder in self.report())
        return {
            "check": "discovery",
            "result": "warning" if failed or troubled else "ok",
            "message": "; ".join(failed + troubled)[:500] or f"looking by {names}",
            "hint": "members that are linked already do not need it" if failed or troubled else "",
        }

    def _found(self, found: Found) -> None:
        if found.finder in TOLD and len(self._sources) < SEEDS_MAX:
            self._sources[found.address] = found.finder
        self._node.links.found(found.public, found.address)

    def _network_changed(self) -> None:
        self._node.nursery.start_soon(insist, self._node.publish_card)

    def _met(self, session: Session) -> None:
        """Remember where a member was reached: as we dialled it, and as it says itself."""
        worked = self._node.links.worked.get(session.aid)
        addresses = [*([worked] if worked else []), *session.hello.addresses[:4]]
        addresses = [a for a in dict.fromkeys(addresses) if len(a) < 200]
        if addresses and self._book.get(session.wire.public) != addresses:
            self._book[session.wire.public] = addresses
            self._node.nursery.start_soon(insist, self._remember, session.wire.public, addresses)

    async def _remember(self, public: bytes, addresses: list[str]) -> None:
        await self._node.store.put_address(Known(public, addresses, self._node.now_ms()))
