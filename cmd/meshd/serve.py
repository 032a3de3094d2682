"""The process around a node: logging, signals, the service manager, the admin socket.

The socket opens before libp2p is loaded, so that people get an answer while the rest comes up. SIGTERM and
SIGINT stop without leaving the mesh; SIGHUP reads the configuration anew. If the node's task crashes, the
process ends with an error and the service manager starts it again.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable

import trio

from mesh.admin.server import AdminServer
from mesh.agent.features import Features
from mesh.agent.node import Node
from mesh.agent.removed import Refusal
from mesh.config import Config
from mesh.errors import Denied, MeshError, leaves
from mesh.identity.home import open_home
from mesh.net.base import Datagrams, Host, HostLimits
from mesh.observe import logs
from mesh.observe.notify import Notifier
from mesh.places import socket_in

log = logging.getLogger("mesh")


def run_agent(config: Config, *, reload: Callable[[], Config]) -> int:
    """Run the agent until a signal ends it; returns the exit status.

    Args:
        reload: reads the configuration again, for SIGHUP.

    Raises:
        MeshError: it cannot start, or the members refuse it.
    """
    logging_ = logs.setup(config.log.level, config.log.format, config.log.file)
    home = open_home(config.node.data_dir)
    try:
        again = trio.run(_run, home, config, reload, logging_, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        known = _first(group)
        if known is None:
            raise
        raise known from None
    if again:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return 0


def _first(group: BaseExceptionGroup[BaseException]) -> MeshError | KeyboardInterrupt | None:
    """The error to show: ours if everything in the group is ours."""
    found: list[MeshError | KeyboardInterrupt] = []
    for error in leaves(group):
        if isinstance(error, Refusal):
            error = Denied(f"the members refuse this node: {error}", "ask an admin for a new invite")
        if not isinstance(error, (MeshError, KeyboardInterrupt)):
            return None
        found.append(error)
    return found[0] if found else None


def make_host(node: Node) -> tuple[Host, Datagrams | None]:
    """The host and the datagram socket; libp2p is loaded here."""
    from mesh.net.address import parse
    from mesh.net.datagram import Datagrams as UdpDatagrams
    from mesh.net.host import Admission
    from mesh.net.host import Host as Libp2pHost

    net = node.config.net
    limits = HostLimits(
        inbound_max=net.inbound_max,
        handshake_s=net.handshake_timeout_s,
        pending_max=net.pending_max,
        pending_per_address_max=net.pending_per_address_max,
    )
    host = Libp2pHost(
        node.key,
        listen=net.listen,
        gate=lambda public, _ip: Admission(node.directory.gate(public).value),
        limits=limits,
        prologue=b"mesh-link-1" + node.mesh_id,
    )
    if not net.datagrams:
        return host, None
    hosts = list(dict.fromkeys(parse(text).host for text in net.listen)) or ["0.0.0.0", "::"]
    return host, UdpDatagrams(node.key, node.public_of_member, hosts=hosts, context=node.mesh_id)


async def _run(home: object, config: Config, reload: Callable[[], Config], logging_: logs.Logs) -> bool:
    notifier = Notifier()
    path = config.admin.socket or socket_in(config.node.data_dir)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        node = Node(home, config, make_host)  # type: ignore[arg-type]
        features = Features(node, logging_)
        admin = AdminServer(
            features,
            path,
            group=config.admin.group,
            body_bytes_max=config.admin.body_bytes_max,
            connections_max=config.admin.connections_max,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(admin.run)
            nursery.start_soon(_stop_when_left, node, features, nursery.cancel_scope)
            nursery.start_soon(_signals, signals, node, features, reload, notifier, nursery.cancel_scope)
            await nursery.start(node.run)
            await nursery.start(features.run)
            # What a start has made stays. Each full collection that looked through all of it stopped the loop
            # for 40 ms; without it, for 3.
            gc.freeze()
            log.info("%s is up in mesh %s", home.name, home.mesh.name)  # type: ignore[attr-defined]
            notifier.ready(f"member {home.name}")  # type: ignore[attr-defined]
            nursery.start_soon(notifier.keep_alive)
    return features.restart


async def _stop_when_left(node: Node, features: Features, scope: trio.CancelScope) -> None:
    await features.left.wait()
    if features.restart:
        await node.goodbye()  # who starts anew is back in a moment: nobody is to take it for dead
    node.hush()
    scope.cancel()


async def _signals(
    signals: object,
    node: Node,
    features: Features,
    reload: Callable[[], Config],
    notifier: Notifier,
    scope: trio.CancelScope,
) -> None:
    async for number in signals:  # type: ignore[attr-defined]
        if number == signal.SIGHUP:
            features.reload(reload)
            continue
        log.info("%s: stopping", signal.Signals(number).name)
        notifier.stopping()
        await node.goodbye()
        node.hush()
        scope.cancel()
        return
