"""Requests to one node and their answers, over `/mesh/call/1`.

A stream carries one call at a time and is kept for the next one to the same node, because opening one costs
three times a round trip. So a call that is given up only resets its own stream, a slow answer holds up nobody
else, and a streaming answer has the stream's own backpressure. The caller keeps idle streams for less time
than the node serving them, so that both never let go at the same moment.

The deadline travels as what remains of it. Methods are `call/<name>` for local programs' names, which need
the right to request them, and `sys/...` for the agent's own, which see to it themselves.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeAlias

import trio

from mesh.agent.callstream import (
    PROGRAMS,
    Call,
    CallStream,
    Handler,
    Stream,
    error_of,
    failure_in,
    failure_of,
    shown,
)
from mesh.agent.lasting import lasting
from mesh.agent.peers import Peers
from mesh.agent.talk import Heard, Remote, Talk, with_self
from mesh.core.policy import REQUEST
from mesh.errors import (
    Denied,
    NoHandler,
    PeerError,
    TimedOut,
    UnknownNode,
    Unreachable,
    UsageError,
)
from mesh.identity.keys import peer_id_of
from mesh.net.base import Refused
from mesh.observe.counters import Counters
from mesh.wire import calls as wire
from mesh.wire import frames, protocols
from mesh.wire.calls import Answer, CallMessage, Failure, Ready, Request

log = logging.getLogger(__name__)

IDLE_S = 60.0
KEPT_S = 45.0
KEPT_PER_PEER_MAX = 8
KEPT_MAX = 512
SERVED_MAX = 256
SERVED_PER_PEER_MAX = 64
DEADLINE_S_MAX = OPEN_S_MAX = 3600.0


Opener: TypeAlias = Callable[[bytes, str, float], Awaitable[Stream]]


class NotSent(Unreachable):
    """There was no way to the node: whatever was asked, it was not done."""


class Calls:
    """Both ends of calls.

    Args:
        public: our own key; calls to ourselves do not leave the process.
        opener: opens a stream of a protocol to a member within a deadline in seconds, dialling if needed.
    """

    def __init__(self, public: bytes, peers: Peers, opener: Opener, counters: Counters) -> None:
        self._public = public
        self._peers = peers
        self._opener = opener
        self._counters = counters
        self._handlers: dict[str, Handler] = {}
        self._fallback: Callable[[str], Handler | None] = lambda method: None
        self._kept: dict[bytes, deque[CallStream]] = {}
        self._serving: Counter[bytes] = Counter()
        self._opening: dict[bytes, trio.Lock] = {}

    # -- serving ----------------------------------------------------------------------------------------

    def handle(self, method: str, handler: Handler) -> None:
        """Serve a method of the agent's own. `handler` returns the answer, or emits parts."""
        assert method not in self._handlers, method
        self._handlers[method] = handler

    def handle_others(self, find: Callable[[str], Handler | None]) -> None:
        """Who serves a method that no part of the agent does."""
        self._fallback = find

    async def accept(self, stream: Stream) -> None:
        """Handler of the call protocol: serve one stream until it ends, or idles for IDLE_S."""
        pipe = CallStream(stream)
        try:
            with trio.CancelScope() as patience:  # one for all requests: each would cost some 20 us
                while True:
                    patience.deadline = trio.current_time() + IDLE_S
                    message = await pipe.next_request()
                    patience.deadline = math.inf
                    if message is None:
                        break
                    if not isinstance(message, Request):
                        raise PeerError("a call stream must begin with a request")
                    await self._serve(pipe, message)
            await stream.close()
        except PeerError as error:
            self._counters["calls.malformed"] += 1
            log.info("call stream reset", extra={"peer": peer_id_of(stream.public), "error": error.message})
        except Unreachable:
            pass
        finally:
            await pipe.reset()

    async def _serve(self, pipe: CallStream, request: Request) -> None:
        public = pipe.public
        self._counters["calls.in"] += 1
        if self._serving[public] >= SERVED_PER_PEER_MAX or self._serving.total() >= SERVED_MAX:
            await pipe.write(Failure("failed", "too many calls at once", "try again"))
            return
        self._serving[public] += 1
        try:
            outcome = await self._answered(pipe, request)
            try:
                await pipe.write(outcome)
            except UsageError as error:
                await pipe.write(failure_of(error))
        finally:
            self._serving[public] -= 1
            if not self._serving[public]:
                del self._serving[public]

    async def _answered(self, pipe: CallStream, request: Request) -> Answer | Failure:
        heard = Heard(pipe) if request.stream and request.parts else None
        call = Call(
            pipe.public,
            request.method,
            request.body,
            stream=request.stream,
            deadline=trio.current_time() + min(max(request.deadline_ms, 0) / 1000, DEADLINE_S_MAX),
            emit=lambda part: pipe.write(Answer(part, more=True)),
            parts=heard.parts if heard is not None else None,
            ready=(lambda by: pipe.write(Ready(by))) if heard is not None else None,
        )
        if not request.stream:
            return await self._outcome(call)
        outcome = await self._watched(call, heard.until_gone if heard is not None else pipe.until_gone)
        pipe.trailing = heard is not None and not heard.ended
        return outcome

    async def _watched(self, call: Call, until_gone: Callable[[], Awaitable[None]]) -> Answer | Failure:
        """A streaming call ends when its caller goes, even while the handler has nothing to send."""
        outcome: list[Answer | Failure] = []

        async def answer() -> None:
            outcome.append(await self._outcome(call))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await until_gone()
            nursery.cancel_scope.cancel()
        if not outcome:
            raise Unreachable("the caller is gone")
        return outcome[0]

    async def _outcome(self, call: Call) -> Answer | Failure:
        try:
            return Answer(await self._run(call))
        except BaseException as error:
            failure, known = failure_in(call.method, error)
            self._counters["calls.crashed"] += not known
            return failure

    async def _run(self, call: Call) -> Any:
        if self._peers.public_of(call.public[:16]) != call.public:
            raise Denied("the caller is not a member")
        name = call.method.removeprefix(PROGRAMS)
        if name != call.method and not self._peers.may(call.public[:16], REQUEST, name):
            raise Denied(f"{peer_id_of(call.public)} may not request {shown(call.method)}")
        handler = self._handlers.get(call.method) or self._fallback(call.method)
        if handler is None:
            raise NoHandler(f"nothing on {self._named(self._public)} serves {shown(call.method)}")
        with trio.move_on_at(call.deadline):
            return await handler(call)
        raise TimedOut(f"{shown(call.method)} did not answer in time")

    # -- calling ----------------------------------------------------------------------------------------

    async def request(
        self, public: bytes, method: str, body: Any, *, deadline_s: float, open_s: float = OPEN_S_MAX
    ) -> Any:
        """Ask a node and wait for its answer; `open_s` of the deadline may go by until it is reached.

        Raises:
            UnknownNode: not a member.
            NotSent: no way to it.
            Unreachable: it went away before it answered.
            NoHandler: nothing there serves the method.
            Denied: it may not be asked by us.
            TimedOut: no answer by the deadline.
            MeshError: what its handler failed with.
        """
        if public == self._public:
            return await self._call_self(method, body, deadline_s)
        self._check_member(public)
        request = Request(method, int(deadline_s * 1000), body)
        pipe: CallStream | None = None
        message: CallMessage | None = None
        try:
            with trio.move_on_after(max(0.0, deadline_s)):
                pipe = await self._send(public, request, deadline_s, open_s)
                message = await pipe.read()
                if message is None:
                    raise Unreachable(f"{peer_id_of(public)} ended the call without an answer")
        finally:
            if pipe is not None and message is None:
                await pipe.reset()
        if pipe is None or message is None:
            self._counters["calls.timed_out"] += 1
            raise TimedOut(f"{self._named(public)} did not answer within {deadline_s:g} s")
        return await self._take(pipe, message)

    async def _take(self, pipe: CallStream, message: CallMessage) -> Any:
        if isinstance(message, Answer) and not message.more:
            await self._keep(pipe)
            return message.body
        if isinstance(message, Failure):
            await self._keep(pipe)
            raise error_of(message)
        await pipe.reset()
        raise PeerError("an answer that does not fit the call")

    def stream(
        self, public: bytes, method: str, body: Any, *, deadline_s: float
    ) -> AsyncGenerator[Any, None]:
        """Ask a node and take its answer in parts; `deadline_s` is between parts. Raises as `request`.

        Close the iterator (`aclose`) to give up.
        """
        if public == self._public:
            return self._stream_self(method, body, deadline_s)
        self._check_member(public)
        return self._stream_other(public, method, body, deadline_s)

    async def _stream_other(
        self, public: bytes, method: str, body: Any, deadline_s: float
    ) -> AsyncGenerator[Any, None]:
        request = Request(method, int(DEADLINE_S_MAX * 1000), body, stream=True)
        pipe: CallStream | None = None
        over = False
        try:
            while not over:
                message: CallMessage | None = None
                with trio.move_on_after(max(0.0, deadline_s)) as patience:
                    pipe = pipe or await self._send(public, request, deadline_s)
                    message = await pipe.read()
                if patience.cancelled_caught:
                    raise TimedOut(f"{self._named(public)} sent nothing for {deadline_s:g} s")
                if isinstance(message, Answer) and message.more:
                    yield message.body
                elif isinstance(message, Answer):
                    over = True
                elif isinstance(message, Failure):
                    over = True
                    raise error_of(message)
                else:
                    raise Unreachable(f"{peer_id_of(public)} ended the call")
        finally:
            if pipe is not None:
                if over:
                    await self._keep(pipe)
                else:
                    await pipe.reset()

    async def talk(
        self, public: bytes, method: str, body: Any, *, deadline_s: float, open_s: float = OPEN_S_MAX
    ) -> Talk:
        """A call with parts both ways, once somebody took it; `deadline_s` is until then. Close it.

        Raises as `request`. Until it is taken nothing of it was done.
        """
        request = Request(method, int(DEADLINE_S_MAX * 1000), body, stream=True, parts=True)
        if public == self._public:
            return await with_self(public, request, self._outcome, self._nursery, deadline_s)
        self._check_member(public)
        pipe: CallStream | None = None
        stands = False
        try:
            with trio.move_on_after(max(0.0, deadline_s)):
                pipe = await self._send(public, request, deadline_s, open_s)
                message = await pipe.read()
                if isinstance(message, Ready):
                    stands = True
                    return Remote(pipe, self._keep, message.by)
                if isinstance(message, Failure):
                    raise error_of(message)
                raise Unreachable(f"{self._named(public)} ended the call, or takes none with parts")
        finally:
            if pipe is not None and not stands:
                await pipe.reset()
        self._counters["calls.timed_out"] += 1
        raise TimedOut(f"{self._named(public)} did not take the call within {deadline_s:g} s")

    async def _call_self(self, method: str, body: Any, deadline_s: float) -> Any:
        async def refuse(part: Any) -> None:
            raise AssertionError

        call = Call(
            self._public, method, body, stream=False, deadline=trio.current_time() + deadline_s, emit=refuse
        )
        outcome = await self._outcome(call)
        if isinstance(outcome, Failure):
            raise error_of(outcome)
        return outcome.body

    async def _stream_self(self, method: str, body: Any, deadline_s: float) -> AsyncGenerator[Any, None]:
        send, receive = trio.open_memory_channel[Answer | Failure](0)
        scope = trio.CancelScope()
        deadline = trio.current_time() + DEADLINE_S_MAX
        call = Call(
            self._public,
            method,
            body,
            stream=True,
            deadline=deadline,
            emit=lambda part: send.send(Answer(part, more=True)),
        )

        async def answer() -> None:
            with scope:
                await send.send(await self._outcome(call))

        # Not a nursery of its own: one must not stay open over a yield.
        self._nursery.start_soon(answer)
        try:
            while True:
                with trio.move_on_after(max(0.0, deadline_s)) as patience:
                    message = await receive.receive()
                if patience.cancelled_caught:
                    raise TimedOut(f"{shown(method)} sent nothing for {deadline_s:g} s")
                if isinstance(message, Failure):
                    raise error_of(message)
                if not message.more:
                    return
                yield message.body
        finally:
            scope.cancel()

    def _check_member(self, public: bytes) -> None:
        if self._peers.public_of(public[:16]) != public:
            raise UnknownNode(f"{peer_id_of(public)} is not a member of this mesh")

    def _named(self, public: bytes) -> str:
        return self._peers.name_of(public[:16]) or peer_id_of(public)

    # -- streams ----------------------------------------------------------------------------------------

    async def _send(
        self, public: bytes, request: Request, deadline_s: float, open_s: float = OPEN_S_MAX
    ) -> CallStream:
        """Send on a kept stream, or on a new one if there is none or it turns out to be gone."""
        self._counters["calls.out"] += 1
        data = frames.pack(wire.encode(request))
        kept = self._kept.get(public)
        while kept:
            pipe = kept.pop()
            try:
                await pipe.send(data)
                return pipe
            except Unreachable:
                await pipe.reset()
        # One at a time: of two dials to one peer the second would replace the first under its streams.
        lock = self._opening.setdefault(public, trio.Lock())
        try:
            async with lock:
                pipe = await self._opened(public, deadline_s, open_s)
        finally:
            if not lock.locked():
                self._opening.pop(public, None)
        try:
            await pipe.send(data)
        except BaseException:
            await pipe.reset()
            raise
        return pipe

    async def _opened(self, public: bytes, deadline_s: float, open_s: float) -> CallStream:
        hurried = open_s < deadline_s
        try:
            with trio.move_on_after(open_s if hurried else math.inf):
                return CallStream(await self._opener(public, protocols.CALL, min(deadline_s, open_s)))
        except Refused:
            raise
        except (Unreachable, TimedOut) as error:
            if isinstance(error, TimedOut) and not hurried:
                raise
            raise NotSent(error.message, error.hint) from None
        raise NotSent(f"no way to {self._named(public)} within {open_s:g} s")

    async def _keep(self, pipe: CallStream) -> None:
        if pipe.passing:
            await pipe.reset()
            return
        kept = self._kept.setdefault(pipe.public, deque())
        pipe.idle_since = trio.current_time()
        kept.append(pipe)
        if len(kept) > KEPT_PER_PEER_MAX or sum(map(len, self._kept.values())) > KEPT_MAX:
            await kept.popleft().reset()

    async def forget(self, public: bytes) -> None:
        """The connection with a peer ended: its kept streams are of no use."""
        for pipe in self._kept.pop(public, ()):
            await pipe.reset()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer our own streaming calls, and let idle streams go. Until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await lasting(self._let_go)

    async def _let_go(self) -> None:
        while True:
            await trio.sleep(KEPT_S / 4)
            oldest = trio.current_time() - KEPT_S
            for public, kept in list(self._kept.items()):
                while kept and kept[0].idle_since <= oldest:
                    await kept.popleft().reset()
                if not kept:
                    self._kept.pop(public, None)
