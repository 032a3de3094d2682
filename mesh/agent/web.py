"""HTTP/1.1 between a client and a service: h11 on both sides, this carries the events across.

    client ==h11 server==> admit ──> leg to an instance ==h11 client==> service
           <── status, headers, pieces of the body as they come, trailers left out ──

Each request is admitted and given its instance by itself, over kept connections, so that balancing and
failover work request by request. A request without a body that is safe to repeat (GET, HEAD, OPTIONS) and
that broke before an answer began goes to another instance, as far as the budget for that lasts. After
`101 Switching Protocols` (WebSocket and others) the two connections are tied together as they are.

Which headers go with them is in `agent/headers.py`. A request with two meanings of its length h11 refuses.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from contextlib import suppress

import h11
import msgspec
import trio

from mesh.agent import pipes
from mesh.agent.headers import Headers, cleaned, has_body, rewritten
from mesh.agent.pipes import Pipe
from mesh.errors import Failed, MeshError, NoInstances, TimedOut, Unreachable

log = logging.getLogger(__name__)

HEAD_BYTES_MAX = 64 << 10
KEPT_MAX = 16
# What an instance says that cannot do its work; other faults (500) may be the request's own.
_UNWELL = (502, 503, 504)
_SAFE = (b"GET", b"HEAD", b"OPTIONS")
_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_STATUS_OF_CODE = {"no_instances": 503, "usage": 400, "unreachable": 502, "timeout": 504}
_STATUS_OF_EXIT = {2: 400, 3: 502, 4: 404, 5: 409, 6: 403, 7: 504}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may take.

    Attributes:
        idle_s: between requests. head_s: for the first request, and for each head once it began.
        answer_s: until the service begins to answer, and between pieces of what either side sends.
        body_bytes_max: of a request; 0 is any.
    """

    idle_s: float = 300.0
    head_s: float = 10.0
    answer_s: float = 300.0
    body_bytes_max: int = 0


class Answer(Exception):
    """The request is answered here, and goes nowhere."""

    def __init__(self, status: int, body: bytes = b"", headers: Headers | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or [(b"content-type", b"application/json")]


def answer_of(error: MeshError) -> Answer:
    """How a client is told of an error."""
    status = _STATUS_OF_CODE.get(error.code) or _STATUS_OF_EXIT.get(error.exit_code, 502)
    return Answer(status, json.dumps(error.body()).encode())


class Way(msgspec.Struct):
    """Where an admitted request goes: the service's name, and the request as the service gets it."""

    name: str
    request: h11.Request
    tried: list[str] = []


class Leg:
    """A connection to an instance, kept between requests. `begun` when it was given its present request."""

    def __init__(self, key: str, pipe: Pipe) -> None:
        self.key = key
        self.pipe = pipe
        self.begun = 0.0
        self.used = False
        self.h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)

    def answered(self, after_s: float) -> None:
        """The instance began to answer."""

    def failed(self) -> None:
        """The instance broke before it answered, or says that it cannot do its work."""

    def ended(self) -> None:
        """The request is over, however."""


class _Broken(Exception):
    """The leg broke, or what came over it is no HTTP."""


class WebRelay(ABC):
    """One client's connection. Subclasses say who may ask for what (`admit`) and make legs."""

    def __init__(self, near: Pipe, limits: Limits) -> None:
        self._near = near
        self._limits = limits
        self._server = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._kept: dict[str, Leg] = {}
        self._body_bytes = 0
        self._asked = False

    @abstractmethod
    async def admit(self, request: h11.Request) -> Way:
        """Judge a request. Raises Answer or MeshError to answer it here."""

    @abstractmethod
    async def leg(self, way: Way) -> Leg:
        """A leg for it: `kept` of the instance chosen, or a new one. Raises MeshError."""

    async def tunnel(self, request: h11.Request) -> Leg:
        """For CONNECT: what the client is tied to. Raises Answer or MeshError."""
        raise Answer(405, _problem("CONNECT is not possible here"), [(b"allow", b"GET, HEAD, POST, PUT")])

    def may_retry(self, way: Way) -> bool:
        """Whether a request that broke may go to another instance."""
        return False

    def kept(self, key: str) -> Leg | None:
        """A kept leg to an instance, taken out; None if it is of no use any more."""
        leg = self._kept.pop(key, None)
        return None if leg is None or pipes.is_stale(leg.pipe) else leg

    def receive_early(self, data: bytes) -> None:
        """Bytes that were read before this began."""
        self._server.receive_data(data)

    # -- life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve requests until the client is done."""
        try:
            while (request := await self._next()) is not None and await self._one(request):
                self._server.start_next_cycle()
        except h11.ProtocolError as error:
            with suppress(h11.ProtocolError, Unreachable):
                status = getattr(error, "error_status_hint", 400)
                problem = {"error": {"code": "usage", "message": f"malformed HTTP: {error}", "hint": ""}}
                await self._respond(Answer(status, json.dumps(problem).encode()))
        except (Unreachable, _Broken) as error:
            log.debug("connection of a client ended: %s", error)
        finally:
            for leg in self._kept.values():
                await leg.pipe.reset()
            if self._server.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
                await self._near.close()  # all is said; a reset could overtake it
            with trio.CancelScope(shield=True):
                await self._near.reset()

    async def _next(self) -> h11.Request | None:
        self._body_bytes = 0
        patience_s = self._limits.idle_s if self._asked else self._limits.head_s
        self._asked = True
        while True:
            event = self._server.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            data = None
            with trio.move_on_after(max(0.0, patience_s)):
                data = await self._near.receive()
            if data is None:
                return None
            self._server.receive_data(data)
            patience_s = self._limits.head_s

    async def _one(self, request: h11.Request) -> bool:
        """Answer one request; whether another may follow."""
        try:
            self._check_length(request)
            if request.method == b"CONNECT":
                return await self._tunnelled(await self.tunnel(request))
            way = await self.admit(request)
            failure: MeshError | None = None
            while True:
                leg = await self._leg_or(failure, way)
                kept = leg.used
                way.tried.append(leg.key)
                try:
                    return await self._exchange(leg, way.request)
                except _Broken as error:
                    await leg.pipe.reset()
                    if self._server.our_state is not h11.SEND_RESPONSE:
                        raise
                    if not kept:  # a service may close a connection that idles
                        leg.failed()
                    failure = Unreachable(f"{way.name} broke before it answered: {error}")
                    if not self._repeatable(request) or not self.may_retry(way):
                        raise failure from None
                finally:
                    leg.ended()
        except Answer as answer:
            return await self._respond(answer)
        except MeshError as error:
            if self._server.our_state is not h11.SEND_RESPONSE:
                raise Unreachable(error.message) from None
            return await self._respond(answer_of(error))

    async def _leg_or(self, failure: MeshError | None, way: Way) -> Leg:
        try:
            return await self.leg(way)
        except NoInstances:
            if failure is None:
                raise
            raise failure from None

    def _check_length(self, request: h11.Request) -> None:
        most = self._limits.body_bytes_max
        length = dict(request.headers).get(b"content-length")
        if most and length is not None and int(length) > most:
            raise Answer(413, _problem(f"a body of {int(length)} bytes, at most {most} are allowed"))

    def _repeatable(self, request: h11.Request) -> bool:
        return request.method in _SAFE and not has_body(request)

    async def _respond(self, answer: Answer) -> bool:
        # A body that nobody will read ends the connection.
        whole = self._server.their_state is h11.DONE
        if self._server.their_state is h11.SEND_BODY:
            with suppress(h11.ProtocolError):
                whole = isinstance(self._server.next_event(), h11.EndOfMessage)
        headers: Headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        if not whole:
            headers.append((b"connection", b"close"))
        reason = _REASONS.get(answer.status, "").encode()
        head = h11.Response(status_code=answer.status, headers=headers, reason=reason)
        parts = [self._server.send(head), self._server.send(h11.Data(data=answer.body))]
        parts.append(self._server.send(h11.EndOfMessage()))
        await self._to_near(b"".join(part for part in parts if part))
        return self._reusable()

    def _reusable(self) -> bool:
        return self._server.our_state is h11.DONE and self._server.their_state is h11.DONE

    # -- one exchange -----------------------------------------------------------------------------------

    async def _exchange(self, leg: Leg, request: h11.Request) -> bool:
        leg.begun, leg.used = trio.current_time(), True
        head = _sent(leg, request)
        if has_body(request):
            await self._to_leg(leg, head)
            switched = await self._with_body(leg)
        else:
            self._end_of_request()
            await self._to_leg(leg, head + _sent(leg, h11.EndOfMessage()))
            switched = await self._answer(leg)
        if switched:
            await self._switched(leg)
            return False
        whole = leg.h11.our_state is h11.DONE and leg.h11.their_state is h11.DONE
        if whole and len(self._kept) < KEPT_MAX and leg.key not in self._kept:
            leg.h11.start_next_cycle()
            self._kept[leg.key] = leg
        else:
            await leg.pipe.reset()
        return self._reusable()

    async def _tunnelled(self, leg: Leg) -> bool:
        try:
            self._end_of_request()
            await self._to_near(self._said(h11.Response(status_code=200, headers=[], reason=b"Connected")))
            await self._switched(leg)
        finally:
            leg.ended()
            await leg.pipe.reset()
        return False

    def _end_of_request(self) -> None:
        if self._server.their_state is h11.SEND_BODY:
            self._server.next_event()

    async def _to_near(self, data: bytes) -> None:
        with trio.move_on_after(self._limits.answer_s):
            await self._near.send(data)
            return
        raise Unreachable(f"the client took nothing for {self._limits.answer_s:g} s")

    async def _from_near(self) -> bytes:
        with trio.move_on_after(self._limits.answer_s):
            return await self._near.receive()
        raise Unreachable(f"the client sent nothing of a body for {self._limits.answer_s:g} s")

    async def _to_leg(self, leg: Leg, data: bytes) -> None:
        try:
            await leg.pipe.send(data)
        except Unreachable as error:
            raise _Broken(error.message) from None

    async def _with_body(self, leg: Leg) -> bool:
        """Body and answer at once: a service may answer before it has all."""
        failure: list[Exception] = []
        switched = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._body, leg, failure, nursery.cancel_scope)
            try:
                switched = await self._answer(leg)
            except (_Broken, Unreachable, h11.ProtocolError) as error:
                failure.append(error)
            nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]
        return switched

    async def _body(self, leg: Leg, failure: list[Exception], scope: trio.CancelScope) -> None:
        try:
            while True:
                event = self._server.next_event()
                if event is h11.NEED_DATA:
                    self._server.receive_data(await self._from_near())
                elif isinstance(event, h11.Data):
                    self._count(len(event.data))
                    await leg.pipe.send(_sent(leg, h11.Data(data=bytes(event.data))))
                elif isinstance(event, h11.EndOfMessage):
                    await leg.pipe.send(_sent(leg, h11.EndOfMessage()))
                    return
                else:
                    raise Unreachable("the client went away in the middle of a body")
        except _Broken:
            return  # the service takes no more; its answer is on the way, or its end
        except (MeshError, h11.ProtocolError) as error:
            failure.append(error)
            scope.cancel()

    def _count(self, size: int) -> None:
        self._body_bytes += size
        if 0 < self._limits.body_bytes_max < self._body_bytes:
            raise Failed(f"the body is larger than {self._limits.body_bytes_max} bytes")

    async def _answer(self, leg: Leg) -> bool:
        """Carry the answer over; True when the two ends switch to another protocol."""
        while True:
            event = await self._event(leg)
            if isinstance(event, h11.InformationalResponse):
                await self._to_near(self._said(cleaned(event, upgrade=event.status_code == 101)))
                if event.status_code == 101:
                    return True
            elif isinstance(event, h11.Response):
                if event.status_code in _UNWELL:
                    leg.failed()
                else:
                    leg.answered(trio.current_time() - leg.begun)
                await self._to_near(self._said(cleaned(event)))
            elif isinstance(event, h11.Data):
                await self._to_near(self._said(h11.Data(data=bytes(event.data))))
            elif isinstance(event, h11.EndOfMessage):
                await self._to_near(self._said(h11.EndOfMessage()))
                return False
            else:
                raise _Broken("the connection ended")

    def _said(self, event: h11.Event) -> bytes:
        return self._server.send(event) or b""

    async def _event(self, leg: Leg) -> object:
        try:
            while (event := leg.h11.next_event()) is h11.NEED_DATA:
                data = None
                with trio.move_on_after(self._limits.answer_s):
                    data = await leg.pipe.receive()
                if data is None:
                    raise TimedOut(f"no answer within {self._limits.answer_s:g} s")
                leg.h11.receive_data(data)
        except Unreachable as error:
            raise _Broken(error.message) from None
        except h11.RemoteProtocolError as error:
            raise _Broken(f"it does not speak HTTP: {error}") from None
        return event

    async def _switched(self, leg: Leg) -> None:
        near = pipes.with_early(self._near, bytes(self._server.trailing_data[0]))
        far = pipes.with_early(leg.pipe, bytes(leg.h11.trailing_data[0]))
        await pipes.relay(near, far, idle_s=self._limits.answer_s)


def _sent(leg: Leg, event: h11.Event) -> bytes:
    try:
        return leg.h11.send(event) or b""
    except h11.LocalProtocolError as error:
        raise _Broken(str(error)) from None


def _problem(message: str, hint: str = "") -> bytes:
    return json.dumps({"error": {"code": "usage", "message": message, "hint": hint}}).encode()


class CallerHeader(WebRelay):
    """On the called side, for services that want to be told who calls."""

    def __init__(self, near: Pipe, far: Pipe, said: bytes, limits: Limits) -> None:
        super().__init__(near, limits)
        self._leg: Leg | None = Leg("", far)
        self._said_caller = said

    async def admit(self, request: h11.Request) -> Way:
        more = [(b"x-mesh-caller", self._said_caller)]
        return Way("the service", rewritten(request, bytes(request.target), more))

    async def leg(self, way: Way) -> Leg:
        leg, self._leg = self.kept("") or self._leg, None
        if leg is None:
            raise Unreachable("the service closed the connection")
        return leg
