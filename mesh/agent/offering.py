"""Everything about services that runs on a node, put together: what others offer, and what we do.

registry   every service known               offers   our own, from files, programs and workloads
checks     how our own are                    files    services.d/*.toml
services   what people and programs ask       zones    what our zone and the others tell of each other
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from mesh.agent.changes import Kind
from mesh.agent.checks import Checks
from mesh.agent.events import Events
from mesh.agent.lasting import lasting
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.offers import Offers
from mesh.agent.probes import probe
from mesh.agent.registry import Registry
from mesh.agent.serviceevents import ServiceEvents
from mesh.agent.servicefiles import Files
from mesh.agent.services import Services
from mesh.agent.table import Table
from mesh.agent.zones import Zones
from mesh.core.policy import OFFER
from mesh.core.record import AID_BYTES
from mesh.core.registry import Service, path_of
from mesh.errors import Denied, NotFound
from mesh.identity.keys import public_of
from mesh.places import places

FOLDER = "services.d"


class Offering:
    """See the module.

    Args:
        speaks: whether it is ours to tell other zones of this one.
    """

    def __init__(
        self, node: Node, table: Table, members: Members, events: Events, speaks: Callable[[], bool]
    ) -> None:
        self._node = node
        settings = node.config.services
        self._table = table
        self.registry = Registry(node, table.labels_of, self._may_offer)
        self._events = ServiceEvents(self.registry.changes, events.tell)
        self.checks = Checks(
            node.me,
            node.author.say_live,
            probe,
            node.now_ms,
            node.rng,
            running_max=settings.checks_at_once,
            commands_max=settings.commands_at_once,
        )
        self.registry.turn = self.checks.turn
        self.offers = Offers(
            node,
            self.checks,
            self._permit,
            table.name_of,
            self.registry.owner_of,
            settings.per_node_max,
        )
        self.services = Services(
            self.registry,
            self.offers,
            self.checks,
            table.who,
            self._aid_of,
            members.rtt_to,
            node.now_ms,
        )
        self._zones = Zones(node, self.registry, speaks, table.labels_of, self._may_offer)
        folder = settings.dir or os.path.join(os.path.dirname(places().config_file), FOLDER)
        self._files = Files(
            os.path.abspath(folder),
            self.offers,
            lambda text: node.alarm("services-files", node.me, text),
            lambda: node.clear_alarm("services-files", node.me),
        )
        self.checks.on_silent.append(self._silent)

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, self._events.run)
            nursery.start_soon(lasting, self.registry.run)
            nursery.start_soon(self.checks.run)
            nursery.start_soon(lasting, self.offers.run)
            nursery.start_soon(lasting, self._files.run)
            nursery.start_soon(lasting, self._zones.run)

    def reload(self) -> None:
        """Read the services directory again now."""
        self._files.reload()

    def _may_offer(self, aid: bytes, name: str) -> bool:
        return self._table.may(aid, OFFER, name)

    def _permit(self, service: Service) -> None:
        """Refuse what our role may not offer.

        Raises:
            Denied: naming the right that is missing.
        """
        self._table.permit(path_of(service))
        if not self._may_offer(self._node.me, service.name):
            raise Denied(
                f"{self._node.home.name} may not offer {service.name}",
                "an admin can grant it with a policy: the verb offer",
            )

    def _aid_of(self, id_: str) -> bytes:
        aid = public_of(id_)[:AID_BYTES]
        if not self._node.directory.is_member(aid):
            raise NotFound(f"no member {id_}", "`meshctl members` lists them")
        return aid

    def _silent(self, id_: str) -> None:
        found = self.registry.service(id_)
        if found is not None:
            why = f"no report for {found.service.ttl_s:g} s"
            self.registry.changes.add(Kind.EXPIRED, found.service, why=why)
