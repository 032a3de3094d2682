"""Checks of a service, as their owner defines them.

    http      a request; the answer's status is one of `status` (200), its headers and body hold what is
              asked for, and it came within the timeout; slower than `degraded_ms` is degraded
    tcp       a connection can be opened
    command   `argv` ends with 0; never through a shell
    grpc      grpc.health.v1 answers SERVING for `service`
    ttl       the program reports itself, at least once in the service's TTL

Every kind has `interval_s`, `timeout_s`, `rise` and `fall`. A check that names no `host` and `port` of its
own is made for each endpoint of the service: one that fails gets no calls, and the service is degraded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mesh.core.words import host_of, mapping_of, number_of, port_of, refuse_unknown, text_of
from mesh.errors import UsageError

HTTP, TCP, COMMAND, GRPC, TTL = KINDS = ("http", "tcp", "command", "grpc", "ttl")
TIMEOUTS_S = {HTTP: 5.0, TCP: 3.0, COMMAND: 10.0, GRPC: 5.0, TTL: 0.0}
INTERVAL_S, INTERVAL_S_MIN, INTERVAL_S_MAX = 30.0, 1.0, 86_400.0
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.05, 300.0
RISE, FALL, COUNT_MAX = 2, 3, 100
OF_ENDPOINTS = (HTTP, TCP, GRPC)
CHECKS_MAX, ARGV_MAX, STATUS_MAX, HEADERS_MAX = 8, 64, 32, 16
ARGUMENT_CHARS_MAX = 4096
METHODS = ("GET", "HEAD", "OPTIONS", "POST")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_URL_PATH = re.compile(r"/[\x21-\x7e]{0,1023}")
_COMMON = ("kind", "interval_s", "timeout_s", "rise", "fall")
_PLACE = ("host", "port")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    HTTP: (
        *_COMMON,
        *_PLACE,
        *("scheme", "path", "method", "status", "headers", "expect_headers", "body", "degraded_ms", "verify"),
    ),
    TCP: (*_COMMON, *_PLACE),
    COMMAND: (*_COMMON, "argv"),
    GRPC: (*_COMMON, *_PLACE, "service"),
    TTL: ("kind",),
}


class Check(msgspec.Struct, frozen=True):
    """One check.

    Attributes:
        headers: sent with the request.
        expect_headers: text that the answer's header must contain; empty: it must only be there.
        body: text that the answer's body must contain.
        degraded_ms: an answer slower than this is degraded, 0: none is.
        verify: whether an https certificate must be valid.
        service: name asked for by grpc; empty: the whole server.
        group: the same number for the checks of several endpoints that were written as one.
    """

    kind: str
    interval_s: float = INTERVAL_S
    timeout_s: float = 0.0
    rise: int = RISE
    fall: int = FALL
    host: str = ""
    port: int = 0
    scheme: str = "http"
    path: str = "/"
    method: str = "GET"
    status: tuple[int, ...] = (200,)
    headers: Mapping[str, str] = {}
    expect_headers: Mapping[str, str] = {}
    body: str = ""
    degraded_ms: float = 0.0
    verify: bool = True
    argv: tuple[str, ...] = ()
    service: str = ""
    group: int = 0


def parse_check(where: str, raw: Any, host: str, port: int) -> Check:
    """Read one check; `host` and `port` are where the service is.

    Raises:
        UsageError: naming the field, its value and what is allowed.
    """
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind not in KINDS:
        raise UsageError(f"{where}: kind {kind!r:.80} is unknown", f"one of {', '.join(KINDS)}")
    refuse_unknown(f"{where} ({kind})", raw, _FIELDS[kind])
    common = {
        "kind": kind,
        "interval_s": number_of(
            where, "interval_s", raw.get("interval_s", INTERVAL_S), INTERVAL_S_MIN, INTERVAL_S_MAX, "s"
        ),
        "rise": int(number_of(where, "rise", raw.get("rise", RISE), 1, COUNT_MAX, whole=True)),
        "fall": int(number_of(where, "fall", raw.get("fall", FALL), 1, COUNT_MAX, whole=True)),
    }
    if kind == TTL:
        return Check(**{**common, "rise": 1, "fall": 1})
    timeout_s = raw.get("timeout_s", TIMEOUTS_S[kind])
    common["timeout_s"] = number_of(where, "timeout_s", timeout_s, TIMEOUT_S_MIN, TIMEOUT_S_MAX, "s")
    if kind == COMMAND:
        return Check(**common, argv=_argv(where, raw.get("argv")))
    common["host"] = host_of(where, raw.get("host", host))
    common["port"] = port_of(where, raw.get("port", port))
    if kind == GRPC:
        return Check(**common, service=text_of(where, "service", raw.get("service", "")))
    return Check(**common, **_http(where, raw)) if kind == HTTP else Check(**common)


def _argv(where: str, argv: Any) -> tuple[str, ...]:
    if not isinstance(argv, list | tuple) or not 1 <= len(argv) <= ARGV_MAX:
        raise UsageError(
            f"{where}: argv is a list of 1 to {ARGV_MAX} texts",
            'one word each and no shell: argv = ["/usr/bin/pg_isready", "-q"]',
        )
    for argument in argv:
        if not isinstance(argument, str) or "\0" in argument or len(argument) > ARGUMENT_CHARS_MAX:
            raise UsageError(f"{where}: argv: {argument!r:.80} is not allowed")
    if not argv[0].startswith("/"):
        raise UsageError(f"{where}: argv: {argv[0]!r:.80} is not an absolute path", "no PATH is searched")
    return tuple(argv)


def _http(where: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    path, method = raw.get("path", "/"), raw.get("method", "GET")
    scheme, verify = raw.get("scheme", "http"), raw.get("verify", True)
    if not isinstance(path, str) or not _URL_PATH.fullmatch(path):
        raise UsageError(f"{where}: path {path!r:.80} is not allowed", "it begins with '/', spaces as %20")
    if method not in METHODS:
        raise UsageError(f"{where}: method {method!r:.80} is not allowed", f"one of {', '.join(METHODS)}")
    if scheme not in ("http", "https"):
        raise UsageError(f"{where}: scheme {scheme!r:.80} is unknown", "http or https")
    if not isinstance(verify, bool):
        raise UsageError(f"{where}: verify is {verify!r:.80}, true or false is needed")
    degraded_ms = raw.get("degraded_ms", 0.0)
    return {
        "scheme": scheme,
        "path": path,
        "method": method,
        "status": _status(where, raw.get("status", [200])),
        "headers": _headers(where, "headers", raw.get("headers", {})),
        "expect_headers": _headers(where, "expect_headers", raw.get("expect_headers", {})),
        "body": text_of(where, "body", raw.get("body", ""), chars_max=1024),
        "degraded_ms": number_of(where, "degraded_ms", degraded_ms, 0, TIMEOUT_S_MAX * 1000, "ms"),
        "verify": verify,
    }


def _status(where: str, value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(listed) <= STATUS_MAX:
        raise UsageError(f"{where}: status is a list of 1 to {STATUS_MAX} codes")
    return tuple(int(number_of(where, "status", code, 100, 599, whole=True)) for code in listed)


def _headers(where: str, field: str, value: Any) -> dict[str, str]:
    found = mapping_of(where, field, value, HEADERS_MAX)
    for name, text in found.items():
        if not _TOKEN.fullmatch(name):
            raise UsageError(f"{where}: {field}: {name!r:.80} is not a header's name")
        if not text.isascii():
            raise UsageError(f"{where}: {field}.{name} is {text!r:.80}, only ASCII is sent")
    return found
