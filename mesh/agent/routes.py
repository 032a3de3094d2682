"""The features `routing` and `tokens` as people and local programs use them."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio

from mesh.agent import pipes
from mesh.agent.asking import UNDONE, Asking
from mesh.agent.certs import Certs
from mesh.agent.documents import Documents
from mesh.agent.picking import Picked
from mesh.agent.routing import CONNECT_S, Router
from mesh.agent.talk import Talk
from mesh.agent.words import iso, nearest
from mesh.core import routes, tokens
from mesh.core.registry import check_name
from mesh.core.routes import Route
from mesh.core.routing import Wants
from mesh.core.tokens import Token
from mesh.errors import MeshError, NoHandler, NoInstances, NotFound, TimedOut, Unreachable, UsageError
from mesh.net.base import Refused
from mesh.wire import codec

T = TypeVar("T")
AMOUNT_MAX = 1e18
Json = dict[str, Any]
Rows = list[Json]
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
            value = float(amount)
        except ValueError:
            value = -1.0
        if not (0 <= value <= AMOUNT_MAX and name):
            raise UsageError(f"need: {word[:80]!r} cannot be read", "NAME=AMOUNT, such as memory=1e9")
        found.append((name, value))
    return tuple(found)


class Routing:
    """See `mesh.admin.features_traffic.Routing`.

    Args:
        who: (id, name) of a member.
        asking: asks the programs behind instances.
        listening: where proxy, imports, names and gateway are reached.
        names: of all services known.
    """

    def __init__(
        self,
        router: Router,
        documents: Documents[Route],
        certs: Certs,
        who: Callable[[bytes], tuple[str, str]],
        asking: Asking,
        listening: Callable[[], Mapping[str, tuple[str, int]]],
        names: Callable[[], Sequence[str]],
    ) -> None:
        self._router = router
        self._documents = documents
        self._certs = certs
        self._who = who
        self._asking = asking
        self._listening = listening
        self._names = names

    # -- asking -----------------------------------------------------------------------------------------

    async def resolve(self, name: str, *, source: str, wants: Mapping[str, Any]) -> Json:
        """The instance whose turn it is, with the explanation. NotFound (no_instances)."""
        asked = wants_of(wants)
        try:
            picked = self._router.pick(check_name(name), asked, source=source.encode())
        except NoInstances:
            self._known(name, asked)
            raise
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
        """Every candidate, its costs, and why it is taken or refused. NoInstances: nobody offers it."""
        asked = wants_of(wants)
        return self._known(check_name(name), asked)

    def _known(self, name: str, wants: Wants) -> Json:
        """The explanation; refuses a name that nobody offers, not even badly, and says which are like it."""
        found = self._explained(name, wants)
        if not found["candidates"]:
            service = found["service"]
            stands = f", which stands for {name}" if service != name else ""
            written = "; an admin wrote a route for it" if found["document"] else ""
            raise NoInstances(
                f"nobody offers a service {service}{stands}{written}",
                nearest(service, self._names(), "`meshctl service ls --all` lists services"),
            )
        return found

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
        codec.check_user_value(payload)

        async def once(picked: Picked, left_s: float) -> Json:
            begun = trio.current_time()
            usage = self._router.meter.begin(picked.candidate.key)
            try:
                answer = await self._asking.ask(picked.instance, payload, left_s)
                usage.answered(trio.current_time() - begun)
            finally:
                self._router.meter.end(usage)
            node, node_name = self._who(answer.by)
            rtt_ms = round((trio.current_time() - begun) * 1000, 3)
            return {"node": node, "node_name": node_name, "payload": answer.payload, "rtt_ms": rtt_ms}

        return await self._try_each(name, wants_of(wants), timeout_s, once, repeat=repeat)

    async def talk(
        self, name: str, payload: Any, *, timeout_s: float | None, wants: Mapping[str, Any]
    ) -> ServiceTalk:
        """A talk with the program that serves `name` on the node of an instance; see the Protocol."""
        codec.check_user_value(payload)

        async def once(picked: Picked, left_s: float) -> ServiceTalk:
            usage = self._router.meter.begin(picked.candidate.key)
            stands = False
            try:
                by, talk = await self._asking.talk(picked.instance, payload, left_s)
                stands = True
                return ServiceTalk(talk, *self._who(by), lambda: self._router.meter.end(usage))
            finally:
                if not stands:
                    self._router.meter.end(usage)

        return await self._try_each(name, wants_of(wants), timeout_s, once, repeat=False)

    async def _try_each(
        self,
        name: str,
        wants: Wants,
        timeout_s: float | None,
        once: Callable[[Picked, float], Awaitable[T]],
        *,
        repeat: bool,
    ) -> T:
        """Ask instances until one answers, as long as it cannot be that one has done it (or `repeat`)."""
        end = trio.current_time() + (CALL_S if timeout_s is None else timeout_s)
        tried: list[str] = []
        last: MeshError | None = None
        while True:
            try:
                picked = self._router.pick(check_name(name), wants, tried=tried)
            except NoInstances as error:
                raise last or error from None
            left_s = max(0.0, end - trio.current_time())
            if last is not None and (left_s <= 0 or not self._router.may_retry(picked.service)):
                raise last
            try:
                found = await once(picked, left_s)
                self._router.answered(picked)
                return found
            except NoHandler as error:
                last = error
            except (Unreachable, TimedOut) as error:
                self._router.failed(picked, conclusive=isinstance(error, Refused))
                last = error
                if not repeat and not isinstance(error, UNDONE):  # it may have been done
                    raise
            tried.append(picked.candidate.key)

    async def connect(self, name: str, *, wants: Mapping[str, Any]) -> Carry:
        """A connection with an instance, to be tied to a local program's socket."""
        connection = await self._router.connect(check_name(name), wants_of(wants), deadline_s=CONNECT_S)

        async def carry(sock: socket.socket, early: bytes) -> None:
            try:
                await pipes.relay(pipes.with_early(pipes.TcpPipe(sock), early), connection.pipe)
            finally:
                connection.end()

        return carry


class ServiceTalk:
    """A talk with the program behind a service, and which node it is on."""

    def __init__(self, talk: Talk, node: str, node_name: str, ended: Callable[[], None]) -> None:
        self.node = node
        self.node_name = node_name
        self._talk = talk
        self._ended: Callable[[], None] | None = ended

    async def send(self, part: Any) -> None:
        """Raises UsageError: it cannot be sent; Unreachable."""
        codec.check_user_value(part)
        await self._talk.send(part)

    async def end(self) -> None:
        """Nothing more will be sent."""
        await self._talk.end()

    async def receive(self) -> tuple[Any] | None:
        """The next part of the answer, None at its end. Raises what the program failed with."""
        answer = await self._talk.receive()
        return None if answer is None else (answer.body,)

    async def close(self) -> None:
        """Let go."""
        if self._ended is not None:
            self._ended()
            self._ended = None
        await self._talk.close()


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
