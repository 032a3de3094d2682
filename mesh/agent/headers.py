"""HTTP headers on their way through: which belong to one connection, and which only agents may say.

Headers of one connection (RFC 9110, 7.6.1, and those that `Connection` names) are left out, and so is every
`X-Mesh-...` that a caller wrote: those are the agents' words, also with `_` for `-`, which programs behind
CGI and WSGI cannot tell apart. An upgrade keeps the two headers for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import h11

Headers = list[tuple[bytes, bytes]]

_OF_ONE_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"trailer", b"upgrade")
)
_MESH = b"x-mesh-"


def plain(name: bytes) -> bytes:
    """A header's name as CGI and WSGI programs see it: `_` and `-` are one there."""
    return name.replace(b"_", b"-")


def has_body(request: h11.Request) -> bool:
    """Whether a body follows."""
    headers = dict(request.headers)
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""


def passed_on(headers: Iterable[tuple[bytes, bytes]], *, upgrade: bool) -> Headers:
    """Headers without those of one connection, and without what only agents may say."""
    found = list(headers)
    named = {
        word.strip().lower() for name, value in found if name == b"connection" for word in value.split(b",")
    }
    chunked = any(name == b"transfer-encoding" for name, _ in found)
    left_out = (_OF_ONE_CONNECTION | named) - {b"content-length", b"transfer-encoding", b"host"}
    kept = [
        (name, value)
        for name, value in found
        if name not in left_out
        and not plain(name).startswith(_MESH)
        and not (chunked and name == b"content-length")
    ]
    if upgrade:
        kept += [(name, value) for name, value in found if name == b"upgrade"]
        kept.append((b"connection", b"upgrade"))
    return kept


def cleaned(event: h11.Response | h11.InformationalResponse, *, upgrade: bool = False) -> h11.Event:
    """A service's answer as a client gets it."""
    headers = passed_on(event.headers, upgrade=upgrade)
    if isinstance(event, h11.InformationalResponse):
        return h11.InformationalResponse(
            status_code=event.status_code, headers=headers, reason=bytes(event.reason)
        )
    return h11.Response(status_code=event.status_code, headers=headers, reason=bytes(event.reason))


def rewritten(request: h11.Request, target: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> h11.Request:
    """The request as a service gets it."""
    upgrade = any(name == b"upgrade" for name, _ in request.headers)
    headers = passed_on(request.headers, upgrade=upgrade)
    return h11.Request(method=bytes(request.method), target=target, headers=[*headers, *more])
