"""The features `routing` and `tokens` as people and local programs use them."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from mesh.agent import pipes
from mesh.agent.certs import Certs
from mesh.agent.documents import Documents
from mesh.agent.picking import Picked
from mesh.agent.routing import CONNECT_S, Router
from mesh.agent.words import iso
from mesh.core import routes, tokens
from mesh.core.registry import Service, check_name
from mesh.core.routes import Route
from mesh.core.routing import Wants
from mesh.core.tokens import Token
from mesh.errors import MeshError, NoHandler, NoInstances, NotFound, TimedOut, Unreachable, UsageError
from mesh.net.base import Refused

Json = dict[str, Any]
Rows = list[Json]
Ask = Callable[[Service, Any, float], Awaitable[Json]]
Carry = Callable[[socket.socket, bytes], Awaitable[None]]

CALL_S = 30.0
TTL_S = 90 * 86_400.0


def wants_of(asked: Mapping[str, Any]) -> Wants:
    """What a caller asks for, from words joined by commas and numbers."""
    return Wants(
        latency_ms=asked.get("latency_ms"),
        size_bytes=asked.get("size_bytes"),
        capabilities=_words(asked.get("capabilities", "")),
        data=_words(asked.get("data", "")),
        need=_amounts(asked.get("need", "")),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(sorted({word.strip() for word in text.split(",") if word.strip()}))[:32]


def _amounts(text: str) -> tuple[tuple[str, float], ...]:
    found = []
    for word in _words(text):
        name, _, amount = word.partition("=")
        try:
            found.append((name, float(amount)))
        except ValueError:
            raise UsageError(
                f"need: {word[:80]!r} cannot be read", "NAME=AMOUNT, such as memory=1e9"
            ) from None
    return tuple(found)


class Routing:
    """See `mesh.admin.features_traffic.Routing`.

    Args:
        who: (id, name) of a member.
        ask: asks the program behind an instance: (service, payload, timeout_s).
        listening: where proxy, imports, names and gateway are reached.
    """

    def __init__(
        self,
        router: Router,
        documents: Documents[Route],
        certs: Certs,
        who: Callable[[bytes], tuple[str, str]],
        ask: Ask,
        listening: Callable[[], Mapping[str, tuple[str, int]]],
    ) -> None:
        self._router = router
        self._documents = documents
        self._certs = certs
        self._who = who
        self._ask = ask
        self._listening = listening

    # -- asking -----------------------------------------------------------------------------------------

    async def resolve(self, name: str, *, source: str, wants: Mapping[str, Any]) -> Json:
        """The instance whose turn it is, with the explanation. NotFound (no_instances)."""
        asked = wants_of(wants)
        picked = self._router.pick(check_name(name), asked, source=source.encode())
        service = picked.instance.service
        owner, owner_name = self._who(service.owner)
        return {
            **self._explained(name, asked),
            "id": service.id,
            "version": service.version,
            "owner": owner,
            "owner_name": owner_name,
            "endpoints": [f"{each.protocol}://{each.host}:{each.port}" for each in service.endpoints],
        }

    async def explain(self, name: str, *, wants: Mapping[str, Any]) -> Json:
        """Every candidate, its costs, and why it is taken or refused."""
        return self._explained(check_name(name), wants_of(wants))

    def _explained(self, name: str, wants: Wants) -> Json:
        found = self._router.explain(name, wants)
        document = self._documents.record(routes.path_of(found["service"]))
        return {**found, "document": document is not None}

    async def listeners(self) -> Rows:
        """Where this device's programs reach services."""
        return [
            {"what": what, "host": host, "port": port}
            for what, (host, port) in sorted(self._listening().items())
        ]

    # -- documents --------------------------------------------------------------------------------------

    async def list(self) -> Rows:
        """Every document."""
        return [self._row(path) for path in self._documents.paths()]

    async def show(self, name: str) -> Json:
        """One document. NotFound."""
        path = routes.path_of(routes.check_name(name))
        if self._documents.record(path) is None:
            raise NotFound(f"nobody wrote a route for {name}", "the best healthy instance anywhere is taken")
        return self._row(path)

    def _row(self, path: str) -> Json:
        rec = self._documents.record(path)
        assert rec is not None
        fault = ""
        try:
            routes.parse(rec.val)
        except UsageError as error:
            fault = error.message
        author, author_name = self._who(rec.aid)
        return {
            "name": routes.name_of(path),
            "route": rec.val if isinstance(rec.val, dict) else {},
            "fault": fault,
            "author": author,
            "author_name": author_name,
            "time": iso(rec.hlc >> 16),
        }

    async def set(self, name: str, route: Json) -> Json:
        """Replace a document. UsageError naming the field; Denied."""
        self._certs.require_admin()
        path = routes.path_of(routes.check_name(name))
        parsed = routes.parse(route)
        held = {routes.name_of(each): value for each, value in self._documents.all().items()}
        routes.resolve_alias(name, {**held, name: parsed}.get)
        await self._documents.put(path, route)
        return await self.show(name)

    async def delete(self, name: str) -> Json:
        """The document as it was. NotFound, Denied."""
        self._certs.require_admin()
        row = await self.show(name)
        await self._documents.delete(routes.path_of(name))
        return row

    # -- calling ----------------------------------------------------------------------------------------

    async def call(
        self,
        name: str,
        payload: Any,
        *,
        timeout_s: float | None,
        repeat: bool,
        wants: Mapping[str, Any],
    ) -> Json:
        """Ask the program that serves `name` on the node of an instance; see the Protocol."""
        timeout_s = CALL_S if timeout_s is None else timeout_s
        asked, tried = wants_of(wants), list[str]()
        last: MeshError | None = None
        while True:
            try:
                picked = self._router.pick(check_name(name), asked, tried=tried)
            except NoInstances:
                raise last or NoInstances(f"no available instances of {name}") from None
            if last is not None and not self._router.may_retry(picked.service):
                raise last
            try:
                return await self._ask_one(picked, payload, timeout_s)
            except (NoHandler, Refused) as error:
                last = error
            except (Unreachable, TimedOut) as error:
                self._router.failed(picked)
                last = error
                if not repeat:  # it may have been done
                    raise
            tried.append(picked.candidate.key)

    async def _ask_one(self, picked: Picked, payload: Any, timeout_s: float) -> Json:
        usage = self._router.meter.begin(picked.candidate.key)
        try:
            answer = await self._ask(picked.instance.service, payload, timeout_s)
            usage.answered(answer["rtt_ms"] / 1000)
            self._router.answered(picked)
            return answer
        finally:
            self._router.meter.end(usage)

    async def connect(self, name: str, *, wants: Mapping[str, Any]) -> Carry:
        """A connection with an instance, to be tied to a local program's socket."""
        connection = await self._router.connect(check_name(name), wants_of(wants), deadline_s=CONNECT_S)

        async def carry(sock: socket.socket, early: bytes) -> None:
            try:
                await pipes.relay(pipes.with_early(pipes.TcpPipe(sock), early), connection.pipe)
            finally:
                connection.end()

        return carry


class Tokens:
    """See `mesh.admin.features_traffic.Tokens`."""

    def __init__(self, documents: Documents[Token], certs: Certs, now_ms: Callable[[], int]) -> None:
        self._documents = documents
        self._certs = certs
        self._now_ms = now_ms

    def find(self, id_: str) -> Token | None:
        """A token by its id."""
        return self._documents.get(tokens.PREFIX + id_)

    async def create(
        self, *, services: Sequence[str], paths: Sequence[str], ttl_s: float | None, note: str
    ) -> Json:
        """A new token; its text is told this once. UsageError, Denied."""
        self._certs.require_admin()
        id_, secret = secrets.token_hex(tokens.ID_HEX // 2), secrets.token_hex(tokens.SECRET_HEX // 2)
        value = tokens.make(secret, services, paths, TTL_S if ttl_s is None else ttl_s, note, self._now_ms())
        await self._documents.put(tokens.PREFIX + id_, value)
        made = tokens.read(value)
        assert made is not None
        return {**self._row(id_, made), "token": tokens.text_of(id_, secret)}

    async def list(self) -> Rows:
        """Every token, without its secret."""
        return [
            self._row(path.removeprefix(tokens.PREFIX), each)
            for path, each in sorted(self._documents.all().items())
        ]

    async def revoke(self, token: str) -> Json:
        """The token as it was. NotFound, Denied."""
        self._certs.require_admin()
        found = self.find(token)
        if found is None:
            raise NotFound(f"no token {token[:40]}", "`meshctl token ls` lists them")
        await self._documents.delete(tokens.PREFIX + token)
        return self._row(token, found)

    def _row(self, id_: str, token: Token) -> Json:
        return {
            "id": id_,
            "services": list(token.services),
            "paths": list(token.paths),
            "expires": iso(token.expires_ms),
            "expired": token.expires_ms <= self._now_ms(),
            "made": iso(token.made_ms),
            "note": token.note,
            "token": None,
        }


def read_route(path: str, value: Any) -> Route | None:
    """A document's value; None for one that does not count."""
    try:
        return routes.parse(value)
    except UsageError:
        return None


def read_token(path: str, value: Any) -> Token | None:
    """A token's value; None for what is none."""
    return tokens.read(value)
