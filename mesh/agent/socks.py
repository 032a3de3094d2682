"""SOCKS5 (RFC 1928), the part of a server without authentication, as a machine: bytes in, bytes out.

    greeting ──> method 0 ──> request CONNECT host port ──> (the caller connects) ──> reply

Names are left to us (`socks5h://` in curl): that is what makes `orders.mesh` work for a program whose
resolver does not know it. BIND and UDP ASSOCIATE are refused as the RFC says.
"""

from __future__ import annotations

import ipaddress

from mesh.errors import PeerError

VERSION = 5
NO_METHOD = b"\x05\xff"
OK, FAILED, NOT_ALLOWED, HOST_UNREACHABLE, REFUSED, COMMAND, ADDRESS_TYPE = 0, 1, 2, 4, 5, 7, 8
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4


def reply(code: int) -> bytes:
    """The answer to a request; the bound address is not told."""
    return bytes((VERSION, code, 0, _IPV4)) + bytes(6)


class Refusal(PeerError):
    """The client asks for what cannot be had; `answer` says so in its words."""

    def __init__(self, message: str, answer: bytes) -> None:
        super().__init__(message)
        self.answer = answer


class Server:
    """One client. Feed it until `wanted` is set.

    Attributes:
        wanted: host and port, once the client has asked.
        rest: bytes behind the request.
    """

    def __init__(self) -> None:
        self.wanted: tuple[str, int] | None = None
        self.rest = b""
        self._greeted = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes; returns what is to be sent.

        Raises:
            Refusal: with the answer to send before closing.
            PeerError: this is no SOCKS5.
        """
        self.rest += data
        out = b""
        if not self._greeted and len(self.rest) >= 2:
            out = self._greeting()
        if self._greeted and self.wanted is None and len(self.rest) >= 5:
            self._request()
        return out

    def _greeting(self) -> bytes:
        version, count = self.rest[:2]
        if version != VERSION:
            raise PeerError(f"SOCKS version {version}, only 5 is spoken here")
        if len(self.rest) < 2 + count:
            return b""
        methods, self.rest = self.rest[2 : 2 + count], self.rest[2 + count :]
        if 0 not in methods:
            raise Refusal("the client wants to authenticate", NO_METHOD)
        self._greeted = True
        return b"\x05\x00"

    def _request(self) -> None:
        version, command, _, kind, first = self.rest[:5]
        if version != VERSION:
            raise PeerError(f"SOCKS version {version} in a request")
        if command != _CONNECT:
            raise Refusal(f"command {command}, only CONNECT is served", reply(COMMAND))
        sizes = {_IPV4: 4, _IPV6: 16, _NAME: 1 + first}
        if kind not in sizes:
            raise Refusal(f"address type {kind}", reply(ADDRESS_TYPE))
        end = 4 + sizes[kind]
        if len(self.rest) < end + 2:
            return
        raw, port = self.rest[4:end], int.from_bytes(self.rest[end : end + 2], "big")
        self.rest = self.rest[end + 2 :]
        host = raw[1:].decode("ascii", "replace") if kind == _NAME else str(ipaddress.ip_address(raw))
        self.wanted = host, port
