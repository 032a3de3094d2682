"""The feature `gateway`: HTTP in front of services, for callers outside the mesh.

    GET /ping       pong, to anyone               GET /healthz   200 while this node takes work, else 503
    host and path   the longest of `gateway.routes`; else NAME.mesh as the host, or /NAME/… as the path

A caller shows a token (`Authorization: Bearer mesht_…`, or the header `X-Token`), unless `gateway.open` names
the service: 401 without a good one, 403 where it is not good for this service or path. It is not passed on;
the service gets `X-Forwarded-For`, `-Host`, `-Proto` and `-User` (the token's id) as the gateway knows them.
Bodies and answers go through in pieces, WebSocket and other upgrades as they are (`agent/web.py`). Sizes,
times, connections and requests for each token are limited, and so are wrong tokens of one address: after
`failed_tokens_max` none that it shows is looked at until the window has passed (429). A token that has run
out is refused and not counted: whoever shows it knows its secret. With a certificate it speaks TLS
(`agent/tls.py`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import h11
import trio

from mesh.agent import pipes
from mesh.agent.headers import Headers, plain, rewritten
from mesh.agent.pipes import TcpPipe
from mesh.agent.proxy import RoutedRelay, address_of
from mesh.agent.routing import Router
from mesh.agent.throttle import Guesses, Rates
from mesh.agent.web import Answer, Limits, Way
from mesh.config import Gateway as Settings
from mesh.core import tokens
from mesh.core.registry import name_ok
from mesh.core.tokens import Token
from mesh.errors import ConfigError, Unreachable
from mesh.observe.counters import Counters

if TYPE_CHECKING:
    from ssl import SSLContext

    from mesh.agent.tls import TlsPipe

log = logging.getLogger(__name__)

IDLE_S = 60.0
_FORWARDED = (
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-forwarded-user",
    b"forwarded",
)
_TOKEN_HEADERS = (b"authorization", b"x-token")


class Chosen(NamedTuple):
    """The service of a request, and its path without what chose it."""

    service: str
    path: str


class Map:
    """From host and path to a service.

    Raises:
        ConfigError: a route cannot be read.
    """

    def __init__(self, settings: Settings, domain: str) -> None:
        self._strip = settings.strip_prefix
        self._domain = domain
        rows = []
        for text, service in settings.routes.items():
            host, slash, path = text.partition("/")
            if not slash or not name_ok(service):
                raise ConfigError(
                    f"gateway.routes: {text!r:.80} = {service!r:.80} cannot be read",
                    '"/path" = "service" or "host/path" = "service"',
                )
            rows.append((host.lower(), "/" + path, service))
        # Longest path first; of equal ones those that name a host.
        self._rows = sorted(rows, key=lambda row: (-len(row[1].rstrip("/")), row[0] == "", row))

    def choose(self, host: str, path: str) -> Chosen | None:
        for wanted, prefix, service in self._rows:
            if wanted in ("", host) and tokens.under(path, prefix):
                return Chosen(service, self._rest(path, prefix) if self._strip else path)
        name, dot, domain = host.partition(".")
        if dot and domain == self._domain and name_ok(name):
            return Chosen(name, path)
        name = path[1:].partition("/")[0]
        return Chosen(name, self._rest(path, "/" + name)) if name_ok(name) else None

    def _rest(self, path: str, prefix: str) -> str:
        rest = path[len(prefix.rstrip("/")) :]
        return rest if rest.startswith("/") else "/" + rest


def check(settings: Settings, domain: str) -> SSLContext | None:
    """Refuse settings that make no sense; what the port needs to speak TLS, None if it is to be plain.

    Raises:
        ConfigError: naming the one.
    """
    Map(settings, domain)
    address_of(settings.listen, "gateway.listen", anyone=True)
    return _tls_of(settings)


def _tls_of(settings: Settings) -> SSLContext | None:
    if not settings.tls_cert and not settings.tls_key:
        return None
    from mesh.agent import tls

    return tls.load(settings.tls_cert, settings.tls_key)


class Gateway:
    """See the module.

    Args:
        settings: as they are now.
        find: a token by its id.
        now_ms: mesh time.
        healthy: whether this node takes work.
        alarm: told why the certificate cannot be used, "" when it can.
    """

    def __init__(
        self,
        router: Router,
        settings: Callable[[], Settings],
        domain: str,
        find: Callable[[str], Token | None],
        now_ms: Callable[[], int],
        healthy: Callable[[], bool],
        counters: Counters,
        alarm: Callable[[str], None],
    ) -> None:
        self._router = router
        self.settings = settings
        self._domain = domain
        self._find = find
        self._now_ms = now_ms
        self.healthy = healthy
        self._counters = counters
        self._alarm = alarm
        self._rates = Rates()
        self._guesses = Guesses()
        self._tls: SSLContext | None = None
        self._map: tuple[Settings, Map] | None = None
        self.listening: tuple[str, int] | None = None

    def check(self) -> None:
        """Refuse settings that make no sense. ConfigError."""
        self._tls = check(self.settings(), self._domain)

    def reload(self) -> None:
        """Read the certificate again. What cannot be used leaves the one in use, and is told."""
        try:
            self._tls = _tls_of(self.settings())
        except ConfigError as error:
            log.error("%s; what was read before stays in use", error.message)
            self._alarm(f"{error.message}; {error.hint}")
        else:
            self._alarm("")

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Listen until cancelled.

        Args:
            ready: told when the port is open.

        Raises:
            Failed: the address cannot be had.
        """
        settings = self.settings()
        host, port = address_of(settings.listen, "gateway.listen", anyone=True)
        listener = pipes.listen(host, port)
        self.listening = listener.getsockname()[:2]
        log.info("gateway: %s://%s:%d", self.scheme, *self.listening)
        ready()
        await pipes.serve(listener, self._client, settings.connections_max)

    @property
    def scheme(self) -> str:
        """Of its URLs."""
        return "http" if self._tls is None else "https"

    async def _client(self, plain: TcpPipe) -> None:
        near: TcpPipe | TlsPipe = plain
        if self._tls is not None:
            from mesh.agent import tls

            near = tls.TlsPipe(plain, self._tls)
            try:
                await near.shake()
            except Unreachable:
                self._counters["gateway.tls_failed"] += 1
                raise
        settings = self.settings()
        limits = Limits(
            idle_s=IDLE_S, answer_s=settings.answer_timeout_s, body_bytes_max=settings.body_bytes_max
        )
        await GatewayRelay(near, limits, self._router, self).run()

    def map(self) -> Map:
        """The map of the settings as they are now."""
        settings = self.settings()
        if self._map is None or self._map[0] is not settings:
            self._map = settings, Map(settings, self._domain)
        return self._map[1]

    def judge(self, shown: str, address: str, chosen: Chosen, path: str) -> str:
        """Let a request pass; the id of the token it does so by, or "".

        Raises:
            Answer: 401, 403 or 429.
        """
        settings = self.settings()
        found, token = self._recognise(shown, address, open_=chosen.service in settings.open)
        if chosen.service not in settings.open:
            if token is None:
                why = "the token is unknown, revoked or expired" if shown else "no token"
                raise _refusal(401, why, "Authorization: Bearer mesht_…; see `meshctl token create`")
            if not token.allows(chosen.service, path):
                raise _refusal(403, f"the token is not good for {chosen.service} at {path[:120]}")
        if not self._rates.take(found or address, settings.requests_per_s, trio.current_time()):
            self._counters["gateway.too_many_requests"] += 1
            raise _refusal(429, f"more than {settings.requests_per_s:g} requests a second", retry_s=1)
        return found

    def _recognise(self, shown: str, address: str, *, open_: bool) -> tuple[str, Token | None]:
        """The token that a caller shows, with its id, if it is a good one.

        Raises:
            Answer: 429, the address has shown too many wrong ones. For an open service none is looked at.
        """
        if not shown:
            return "", None
        settings, now = self.settings(), trio.current_time()
        most, window_s = settings.failed_tokens_max, settings.failed_tokens_s
        wait_s = self._guesses.wait_s(address, most, window_s, now)
        if wait_s and open_:
            return "", None
        if wait_s:
            self._counters["gateway.too_many_wrong_tokens"] += 1
            why = f"{most} wrong tokens from {address} within {window_s:g} s"
            raise _refusal(429, why, "no token from there is looked at until then", retry_s=ceil(wait_s))
        parts = tokens.split(shown)
        token = self._find(parts[0]) if parts else None
        if parts is None or token is None or not tokens.matches(token, parts[1]):
            self._counters["gateway.wrong_tokens"] += 1
            self._guesses.wrong(address, window_s, now)
            return "", None
        return (parts[0], token) if token.expires_ms > self._now_ms() else ("", None)


def _refusal(status: int, message: str, hint: str = "", *, retry_s: int = 0) -> Answer:
    code = {401: "denied", 403: "denied", 404: "not_found", 429: "busy"}[status]
    headers: Headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="mesh"'))
    if retry_s:
        headers.append((b"retry-after", str(retry_s).encode()))
    body = {"error": {"code": code, "message": message, "hint": hint}}
    return Answer(status, json.dumps(body).encode(), headers)


class GatewayRelay(RoutedRelay):
    """One caller's connection."""

    def __init__(self, near: TcpPipe | TlsPipe, limits: Limits, router: Router, gateway: Gateway) -> None:
        super().__init__(near, limits, router)
        self._gateway = gateway
        self._scheme = gateway.scheme.encode()

    async def admit(self, request: h11.Request) -> Way:
        headers = dict(request.headers)
        raw, question, query = bytes(request.target).partition(b"?")
        path = _path_of(raw)
        if path == "/ping":
            raise Answer(200, b"pong\n", [(b"content-type", b"text/plain")])
        if path == "/healthz":
            raise self._health()
        host = headers.get(b"host", b"").decode("latin-1").partition(":")[0].lower()
        chosen = self._gateway.map().choose(host, path)
        if chosen is None:
            raise _refusal(404, f"no service at {path[:120]}", "/NAME/…, or a route in the configuration")
        user = self._gateway.judge(_shown(headers), self._source[0], chosen, path)
        more: Headers = [
            (b"x-forwarded-for", self._source[0].encode()),
            (b"x-forwarded-host", headers.get(b"host", b"")),
            (b"x-forwarded-proto", self._scheme),
        ]
        if user:
            more.append((b"x-forwarded-user", user.encode()))
        target = chosen.path.encode() + question + query
        bare = h11.Request(
            method=bytes(request.method),
            target=target,
            headers=[
                (name, value)
                for name, value in request.headers
                if plain(name) not in _FORWARDED and not (user and name in _TOKEN_HEADERS)
            ],
        )
        return Way(chosen.service, rewritten(bare, target, more))

    def _health(self) -> Answer:
        healthy = self._gateway.healthy()
        body = json.dumps({"status": "ok" if healthy else "not taking work"}).encode() + b"\n"
        return Answer(200 if healthy else 503, body)


def _path_of(raw: bytes) -> str:
    """The path a request names, as written: it is judged and passed on in the same words.

    Raises:
        Answer: it hides what it means: a part `.` or `..`, escaped or not, or a NUL.
    """
    plain = unquote_to_bytes(raw)
    if (
        not raw.startswith(b"/")
        or b"\0" in plain
        or {b".", b".."} & set(plain.replace(b"\\", b"/").split(b"/"))
    ):
        problem = {"error": {"code": "usage", "message": "the path is not a plain one", "hint": ""}}
        raise Answer(400, json.dumps(problem).encode())
    return raw.decode("latin-1")


def _shown(headers: dict[bytes, bytes]) -> str:
    """The token that a request shows."""
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    return headers.get(b"x-token", b"").decode("latin-1").strip()
