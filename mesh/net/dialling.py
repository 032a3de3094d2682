"""Getting a TCP connection to an address, within a deadline that the caller sets."""

from __future__ import annotations

import errno
import socket

import trio

from mesh.errors import MeshError, Unreachable
from mesh.net.address import Address
from mesh.net.base import Refused

_FAMILIES = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}


async def connect(to: Address) -> socket.socket:
    """A connected socket.

    Raises:
        Refused: the machine answers and nobody listens.
        Unreachable: no such name, no way there.
    """
    try:
        if to.kind in ("ip4", "ip6"):
            return await _connect_to(
                to.host, to.port, socket.AF_INET6 if to.kind == "ip6" else socket.AF_INET
            )
        host = to.host
        if to.kind in _FAMILIES:
            found = await trio.socket.getaddrinfo(host, to.port, _FAMILIES[to.kind], socket.SOCK_STREAM)
            host = str(found[0][4][0])
        stream = await trio.open_tcp_stream(host, to.port)  # tries what the name has, IPv6 and IPv4
        return socket.socket(fileno=stream.socket.detach())
    except UnicodeError:  # from the codec for names: of a label that is empty or too long
        raise Unreachable(
            f"{to.host}:{to.port} cannot be reached: {to.host[:80]!r} cannot be a name"
        ) from None
    except OSError as error:
        raise unreachable(to, error) from None


async def _connect_to(ip: str, port: int, family: socket.AddressFamily) -> socket.socket:
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        await sock.connect((ip, port))
        return socket.socket(fileno=sock.detach())


def unreachable(to: Address, error: OSError) -> MeshError:
    """What the system says of an address, as an error of ours."""
    reasons = [each for each in _leaves(error) if each.errno is not None]
    if reasons and all(each.errno == errno.ECONNREFUSED for each in reasons):
        return Refused(f"{to.host}:{to.port} refused the connection: nobody listens there")
    why = (reasons[0].strerror if reasons else None) or str(error)
    return Unreachable(f"{to.host}:{to.port} cannot be reached: {why}")


def _leaves(error: BaseException | None) -> list[OSError]:
    if error is None:
        return []
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    own = [error] if isinstance(error, OSError) else []
    return own + _leaves(error.__cause__)
