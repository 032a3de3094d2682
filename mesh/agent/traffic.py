"""Everything that carries calls to services, put together.

documents   routes and tokens, as admins wrote them     router    which instance, and a connection with it
forward     the streams between agents                  proxy     this device's programs call by name
routing     what people and programs ask                gateway   callers from outside, with a token
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import trio

from mesh.agent.asking import Asking
from mesh.agent.certs import Certs
from mesh.agent.documents import Documents
from mesh.agent.forward import Caller, Forward
from mesh.agent.lasting import lasting
from mesh.agent.members import Members
from mesh.agent.messages import Messages
from mesh.agent.node import Node
from mesh.agent.pipes import Pipe
from mesh.agent.registry import Registry
from mesh.agent.routes import Routing, Tokens, read_route, read_token
from mesh.agent.routing import Router
from mesh.agent.surroundings import Surroundings
from mesh.agent.table import Table
from mesh.core import routes, tokens
from mesh.core.lease import Status
from mesh.core.record import MESH
from mesh.core.registry import Service
from mesh.core.routes import Route
from mesh.core.tokens import Token
from mesh.errors import Failed, MeshError, NoInstances, Unreachable, leaves
from mesh.observe.counters import Counters
from mesh.store.store import Change
from mesh.wire import protocols
from mesh.wire.forward import Open

if TYPE_CHECKING:
    from mesh.agent.gateway import Gateway
    from mesh.agent.proxy import Proxy


AGAIN_S = 2.0
TRIES_MAX = 3


class Traffic:
    """See the module."""

    def __init__(
        self,
        node: Node,
        table: Table,
        members: Members,
        certs: Certs,
        registry: Registry,
        messages: Messages,
        counters: Counters,
    ) -> None:
        self._node = node
        self._registry = registry
        self._around = Surroundings(node, members.card_of)
        documents: Documents[Route] = Documents(node, routes.PREFIX, read_route, lambda: self._forget())
        self.router = Router(
            registry, self._around, lambda name: documents.get(routes.path_of(name)), node.rng
        )
        self.router.forward = self._forward = Forward(
            node.key.public,
            table,
            node.open,
            self,
            counters,
            self._web,
            idle_s=lambda: node.config.proxy.idle_s,
        )
        node.on_members.append(lambda joined, gone: self._around.forget())
        node.store.add_listener(self._changed, user_data=False)
        kept: Documents[Token] = Documents(node, tokens.PREFIX, read_token)
        self.tokens = Tokens(kept, certs, node.now_ms)
        self.routing = Routing(
            self.router,
            documents,
            certs,
            table.who,
            Asking(messages.calls, messages.programs, table, self._around, self.router, self),
            self._listening,
            registry.names,
        )
        self._counters = counters
        self._proxy: Proxy | None = None
        self._gateway: Gateway | None = None

    def _forget(self) -> None:
        self.router.forget_plans()

    def _changed(self, changes: list[Change]) -> None:
        if any(each.scope == MESH and each.path.startswith("member/") for each in changes):
            self._around.forget()  # a card may tell another place

    async def run(self) -> None:
        """Carry until cancelled; the parts that nobody configured are not even loaded.

        Raises:
            ConfigError: an address or a route that is configured makes no sense.
        """
        config = self._node.config
        async with trio.open_nursery() as nursery:
            await nursery.start(self._forward.run)
            assert self._node.host is not None
            self._node.host.handle(protocols.SVC, self._forward.accept)
            if config.proxy.listen or config.proxy.imports or config.proxy.dns:
                from mesh.agent.proxy import Proxy

                self._proxy = Proxy(self.router, config.proxy)
                self._proxy.check()
                nursery.start_soon(lasting, self._keep, "proxy", self._proxy.run)
            if config.gateway.listen:
                from mesh.agent.gateway import Gateway

                self._gateway = Gateway(
                    self.router,
                    lambda: self._node.config.gateway,
                    config.proxy.domain,
                    self.tokens.find,
                    self._node.now_ms,
                    lambda: self._node.vitality.status[0] == Status.UP,
                    self._counters,
                    self._certificate,
                )
                self._gateway.check()
                nursery.start_soon(lasting, self._keep, "gateway", self._gateway.run)
            await trio.sleep_forever()

    def reload(self) -> None:
        """The configuration was read again."""
        if self._gateway is not None:
            self._gateway.reload()

    def _certificate(self, problem: str) -> None:
        if problem:
            self._node.alarm("gateway-tls", self._node.me, problem)
        else:
            self._node.clear_alarm("gateway-tls", self._node.me)

    async def _keep(self, name: str, part: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Run a part. Where another program has its port, say so and try again: a node has other duties."""
        while True:
            try:
                await part(lambda: self._node.clear_alarm(name, self._node.me))
            except Failed as error:
                self._node.alarm(name, self._node.me, error.message)
            except BaseExceptionGroup as group:
                failed, others = group.split(Failed)
                if others is not None or failed is None:
                    raise
                self._node.alarm(name, self._node.me, str(leaves(failed)[0]))
            await trio.sleep(AGAIN_S)

    def _listening(self) -> Mapping[str, tuple[str, int]]:
        found = dict(self._proxy.listening) if self._proxy is not None else {}
        if self._gateway is not None and self._gateway.listening is not None:
            found["gateway.listen"] = self._gateway.listening
        return found

    async def _web(self, near: Pipe, far: Pipe, caller: Caller) -> None:
        """Relay HTTP to a service of ours that wants to be told who calls."""
        from mesh.agent.web import CallerHeader, Limits

        said = f"{caller.name} {caller.id}".strip().encode("ascii", "replace")
        await CallerHeader(near, far, said, Limits(answer_s=self._node.config.proxy.idle_s)).run()

    # -- what we offer, and pass on (`mesh.agent.forward.Offers`) -----------------------------------------

    def own(self, id_: str) -> Service | None:
        """A service of ours by its id, its endpoints in the order to try."""
        found = self._registry.service(id_)
        if found is None or found.service.owner != self._node.me:
            return None
        return self._registry.turn(found.service)

    def may_relay(self, aid: bytes) -> bool:
        """Gateways of their zone may."""
        cert = self._node.directory.certificate(aid)
        return cert is not None and aid in self._around.gateways_of(cert.zone)

    async def pass_on(self, head: Open, caller: Caller, deadline_s: float) -> tuple[Pipe, str]:
        """Connect a caller of another zone with an instance of ours.

        Raises:
            NoInstances: our zone has none; calls pass one gateway only, so no other zone is asked.
            Unreachable, TimedOut, Denied: it cannot be had.
        """
        end = trio.current_time() + deadline_s
        tried = self.router.of_other_zones(head.name)
        last: MeshError = NoInstances(f"no available instances of {head.name[:80]} in zone {self._node.zone}")
        for _ in range(TRIES_MAX):
            try:
                picked = self.router.pick(head.name, source=head.host.encode(), tried=tried)
            except NoInstances:
                break
            left_s = end - trio.current_time()
            public = self._around.public_of(picked.instance.service.owner)
            if public is None or left_s <= 0 or head.hops < 1:
                break
            service = picked.instance.service
            own = Open(
                service.name,
                service.id,
                max(1, int(left_s * 1000)),
                head.host,
                head.port,
                caller=caller.public[:16],
            )
            try:
                return await self._forward.open(public, own, left_s)
            except Unreachable as error:
                self.router.failed(picked)
                last = error
                tried.append(service.id)
        raise last
