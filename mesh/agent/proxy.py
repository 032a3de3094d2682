"""The feature `proxy`: unmodified programs on this device call services of the mesh by name.

    proxy.listen       one loopback port that speaks SOCKS5 and HTTP (CONNECT, and `GET http://orders.mesh/`);
                       which one it is the first byte says
    proxy.imports      one loopback TCP listener for a service, for programs that know no proxy
    proxy.dns          `orders.mesh` as a loopback address (`agent/names.py`)

Each connection becomes one stream to the agent of the instance that routing chose, so services need no
route to each other; only their agents do. Nothing here leads out of the mesh: other names are refused. Ports
are opened only when configured, and only on loopback unless `proxy.anyone` says otherwise, because who may
open them calls as this node.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import h11
import trio

from mesh.agent import pipes, socks
from mesh.agent.headers import rewritten
from mesh.agent.pipes import Pipe, TcpPipe
from mesh.agent.routing import Connection, Router
from mesh.agent.web import Answer, Leg, Limits, Way, WebRelay
from mesh.config import Proxy as Settings
from mesh.core.registry import name_ok
from mesh.errors import ConfigError, Denied, MeshError, NotFound, UsageError

log = logging.getLogger(__name__)

HEAD_S = 10.0
_PORTS_MAX = 65_535


def service_of(host: str, domain: str) -> str:
    """The service that a host name means.

    Raises:
        NotFound: it is none of ours.
    """
    labels = host.rstrip(".").lower().split(".")
    if len(labels) != 2 or labels[1] != domain or not name_ok(labels[0]):
        raise NotFound(
            f"{host[:120]!r} is not a service of the mesh",
            f"NAME.{domain}; nothing else is reached from here",
        )
    return labels[0]


def address_of(text: str, what: str, *, anyone: bool) -> tuple[str, int]:
    """Host and port of a listener; a port alone is on 127.0.0.1.

    Raises:
        ConfigError: it cannot be read, or is not loopback though it has to be.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"{what}: {text!r:.80} is not an address", "HOST:PORT or PORT") from None
    if not port.isdecimal() or int(port) > _PORTS_MAX:
        raise ConfigError(f"{what}: {port!r:.20} is not a port", "0 to 65535")
    if not address.is_loopback and not anyone:
        raise ConfigError(
            f"{what}: {host} is not loopback, and whoever may connect calls as this node",
            "127.0.0.1, or proxy.anyone = true",
        )
    return host, int(port)


def network_of(text: str) -> ipaddress.IPv4Network:
    """The loopback network of which services are given addresses.

    Raises:
        ConfigError: it is none, or not loopback.
    """
    try:
        network = ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        raise ConfigError(f"proxy.dns_network: {text!r:.80} is not a network", "127.77.0.0/16") from None
    if not network.is_loopback:
        raise ConfigError(f"proxy.dns_network: {text} is not within 127.0.0.0/8", "127.77.0.0/16")
    return network


def check(settings: Settings) -> None:
    """Refuse settings that make no sense.

    Raises:
        ConfigError: naming the one.
    """
    for what, text in (("proxy.listen", settings.listen), ("proxy.dns", settings.dns)):
        if text:
            address_of(text, what, anyone=settings.anyone)
    for name, text in settings.imports.items():
        if not name_ok(name):
            raise ConfigError(f"proxy.imports: {name!r:.80} is not the name of a service")
        address_of(text, f"proxy.imports.{name}", anyone=settings.anyone)
    if not name_ok(settings.domain):
        raise ConfigError(f"proxy.domain: {settings.domain!r:.80} is not one DNS label")
    if settings.dns_network:
        network_of(settings.dns_network)


class RoutedLeg(Leg):
    """A leg that routing chose."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.key, connection.pipe)
        self.connection = connection

    def answered(self, after_s: float) -> None:
        self.connection.answered(after_s)

    def failed(self) -> None:
        self.connection.failed()

    def ended(self) -> None:
        self.connection.end()


class Client(Pipe, Protocol):
    """A client's connection, with its address and port."""

    @property
    def remote(self) -> tuple[str, int]: ...


class RoutedRelay(WebRelay):
    """A client's HTTP connection of which each request goes where routing says."""

    def __init__(self, near: Client, limits: Limits, router: Router) -> None:
        super().__init__(near, limits)
        self._router = router
        self._source = near.remote

    async def leg(self, way: Way) -> Leg:
        picked = self._router.pick(way.name, source=self._source[0].encode(), tried=way.tried)
        kept = self.kept(picked.candidate.key) if not way.tried else None
        if isinstance(kept, RoutedLeg):
            kept.connection.again()
            return kept
        connection = await self._router.connect(
            way.name, source=self._source, tried=way.tried, first=picked, proof=False
        )
        return RoutedLeg(connection)

    def may_retry(self, way: Way) -> bool:
        return len(way.tried) < 3 and self._router.may_retry(way.name)


class ProxyRelay(RoutedRelay):
    """An HTTP client that knows it speaks to a proxy."""

    def __init__(self, near: TcpPipe, limits: Limits, router: Router, domain: str) -> None:
        super().__init__(near, limits, router)
        self._domain = domain

    async def admit(self, request: h11.Request) -> Way:
        scheme, _, rest = bytes(request.target).partition(b"://")
        if scheme.lower() != b"http" or not rest:
            raise UsageError(
                "this is a proxy: the request names no http:// URL", "curl -x http://HOST:PORT …"
            )
        authority, slash, path = rest.partition(b"/")
        host = authority.rpartition(b"@")[2].partition(b":")[0].decode("ascii", "replace")
        return Way(service_of(host, self._domain), rewritten(request, slash + path or b"/"))

    async def tunnel(self, request: h11.Request) -> Leg:
        host = bytes(request.target).rpartition(b":")[0].decode("ascii", "replace")
        name = service_of(host, self._domain)
        return RoutedLeg(await self._router.connect(name, source=self._source))


class Proxy:
    """See the module."""

    def __init__(self, router: Router, settings: Settings) -> None:
        self._router = router
        self._settings = settings
        self._limits = Limits(answer_s=settings.idle_s)
        self.listening: dict[str, tuple[str, int]] = {}

    @property
    def wanted(self) -> bool:
        """Whether anything is configured."""
        return bool(self._settings.listen or self._settings.imports or self._settings.dns)

    def check(self) -> None:
        """Refuse settings that make no sense. ConfigError."""
        check(self._settings)

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Listen where the configuration says, until cancelled.

        Args:
            ready: told when every port is open.

        Raises:
            Failed: an address cannot be had.
        """
        settings = self._settings
        self.listening.clear()
        async with trio.open_nursery() as nursery:
            if settings.listen:
                listener = self._listen("proxy.listen", settings.listen)
                nursery.start_soon(pipes.serve, listener, self.client, settings.connections_max)
            for name, text in sorted(settings.imports.items()):
                self.open_import(nursery, name, self._listen(f"proxy.imports.{name}", text))
            if settings.dns:
                await self._serve_names(nursery)
            ready()
            await trio.sleep_forever()

    async def _serve_names(self, nursery: trio.Nursery) -> None:
        from mesh.agent.names import Names

        host, port = address_of(self._settings.dns, "proxy.dns", anyone=self._settings.anyone)
        names = Names(self, self._router, self._settings, nursery)
        self.listening["proxy.dns"] = await nursery.start(names.run, host, port)

    def _listen(self, what: str, text: str) -> socket.socket:
        host, port = address_of(text, what, anyone=self._settings.anyone)
        listener = pipes.listen(host, port)
        self.listening[what] = listener.getsockname()[:2]
        log.info("%s: %s:%d", what, *self.listening[what])
        return listener

    def open_import(self, nursery: trio.Nursery, name: str, listener: socket.socket) -> None:
        """Serve a service's own listener."""
        handle = partial(self.imported, name)
        nursery.start_soon(pipes.serve, listener, handle, self._settings.connections_max)

    def imports(self) -> Mapping[str, tuple[str, int]]:
        """Where each imported service is reached."""
        prefix = "proxy.imports."
        return {
            what.removeprefix(prefix): at for what, at in self.listening.items() if what.startswith(prefix)
        }

    # -- one connection ---------------------------------------------------------------------------------

    async def imported(self, name: str, near: TcpPipe) -> None:
        """A connection to a service's listener."""
        await self._carry(near, await self._router.connect(name, source=near.remote), b"")

    async def client(self, near: TcpPipe) -> None:
        """A connection to the proxy's port."""
        first = b""
        with trio.move_on_after(HEAD_S):
            first = await near.receive()
        if not first:
            return
        if first[0] == socks.VERSION:
            await self._socks(near, first)
            return
        relay = ProxyRelay(near, self._limits, self._router, self._settings.domain)
        relay.receive_early(first)
        await relay.run()

    async def _socks(self, near: TcpPipe, data: bytes) -> None:
        server = socks.Server()
        try:
            with trio.move_on_after(HEAD_S):
                while server.wanted is None and data:
                    await near.send(server.feed(data))
                    data = b"" if server.wanted else await near.receive()
        except socks.Refusal as refusal:
            await near.send(refusal.answer)
            return
        if server.wanted is None:
            return
        try:
            name = service_of(server.wanted[0], self._settings.domain)
            connection = await self._router.connect(name, source=near.remote)
        except MeshError as error:
            log.debug("socks: %s", error.message)
            await near.send(socks.reply(_code_of(error)))
            return
        try:
            await near.send(socks.reply(socks.OK))
        except BaseException:
            connection.end()
            await connection.pipe.reset()
            raise
        await self._carry(near, connection, server.rest)

    async def _carry(self, near: TcpPipe, connection: Connection, early: bytes) -> None:
        try:
            await pipes.relay(pipes.with_early(near, early), connection.pipe, idle_s=self._settings.idle_s)
        finally:
            connection.end()


def _code_of(error: MeshError) -> int:
    if isinstance(error, Denied):
        return socks.NOT_ALLOWED
    if isinstance(error, NotFound):
        return socks.NOT_ALLOWED if error.code == "not_found" else socks.HOST_UNREACHABLE
    return socks.REFUSED if error.code == "unreachable" else socks.FAILED


__all__ = ["Answer", "Proxy", "ProxyRelay", "RoutedLeg", "RoutedRelay", "address_of", "service_of"]
