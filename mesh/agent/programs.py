"""Local programs that serve names: a stream of calls to each, and their answers back.

    program  --serve name-->  agent  <--request--  a peer, a query, or another local program
             <---- calls ----
             ---- answers -->

A program that goes away takes its name with it, and its open calls fail at once. Calls wait in a bounded
queue; one whose deadline has passed is never shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import trio

from mesh.agent.callstream import PROGRAMS, Call, Handler, error_of
from mesh.agent.peers import Peers
from mesh.core.policy import SERVE
from mesh.errors import Conflict, Denied, Failed, MeshError, NoHandler, NotFound, UsageError
from mesh.identity.keys import peer_id_of
from mesh.wire.calls import METHOD_CHARS_MAX, Failure

QUEUE_MAX = 256
PROGRAMS_MAX = 256
NAME_CHARS_MAX = METHOD_CHARS_MAX - len(PROGRAMS)
RESERVED = "mesh."


class _Answer(NamedTuple):
    payload: Any
    more: bool
    error: MeshError | None


class _Open:
    """A call that a program has not finished answering."""

    def __init__(self, ident: str, call: Call, query: bool) -> None:
        self.ident = ident
        self.call = call
        self.query = query
        self.send, self.receive = trio.open_memory_channel[_Answer](0)


class _Program:
    """One program behind one name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: deque[_Open] = deque()
        self.calls: dict[str, _Open] = {}
        self.woken = trio.Event()


class Programs:
    """Who serves what on this machine.

    Args:
        me: our aid; we need the right to serve a name.
        life: differs between lives of the process, so that a call's id is never mistaken.
    """

    def __init__(self, me: bytes, peers: Peers, life: Callable[[], int]) -> None:
        self._me = me
        self._peers = peers
        self._life = f"{life():x}"
        self._count = 0
        self._programs: dict[str, _Program] = {}
        self._open: dict[str, _Open] = {}

    @property
    def names(self) -> list[str]:
        """What is served here now."""
        return sorted(self._programs)

    async def serve(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """Calls to a name, as they come, while iterated.

        Raises:
            UsageError: not a name for programs.
            Conflict: another local program serves it.
            Denied: this node may not serve it.
        """
        self._check(name)
        program = self._programs[name] = _Program(name)
        try:
            while True:
                while program.waiting:
                    waiting = program.waiting.popleft()
                    if waiting.ident in self._open:
                        yield self._show(waiting, name)
                program.woken = trio.Event()
                await program.woken.wait()
        finally:
            del self._programs[name]
            for left in program.calls.values():
                left.send.close()

    def _check(self, name: str) -> None:
        if not name or len(name) > NAME_CHARS_MAX or not name.isprintable():
            raise UsageError(f"{name[:80]!r} cannot be served: 1 to {NAME_CHARS_MAX} printable characters")
        if name.startswith(RESERVED):
            raise UsageError(
                f"{name[:80]!r} cannot be served: names of the agent's own begin with {RESERVED}"
            )
        if name in self._programs:
            raise Conflict(f"another program on this node serves {name!r}")
        if len(self._programs) >= PROGRAMS_MAX:
            raise Failed(f"{PROGRAMS_MAX} names are served here already")
        if not self._peers.may(self._me, SERVE, name):
            raise Denied(f"this node may not serve {name!r}")

    def _show(self, waiting: _Open, name: str) -> dict[str, Any]:
        call = waiting.call
        return {
            "call": waiting.ident,
            "name": name,
            "payload": call.body,
            "node": peer_id_of(call.public),
            "node_name": self._peers.name_of(call.public[:16]),
            "deadline_s": round(call.deadline - trio.current_time(), 3),
            "stream": call.stream,
            "query": waiting.query,
            "parts": call.parts is not None,
        }

    def find(self, method: str) -> Handler | None:
        """The handler of a method `call/<name>`, if a program serves the name."""
        name = method.removeprefix(PROGRAMS)
        if name == method or name not in self._programs:
            return None
        return lambda call: self.ask(name, call)

    async def ask(self, name: str, call: Call, *, query: bool = False) -> Any:
        """Let the program answer; parts of a streaming answer are emitted.

        Raises:
            NoHandler: nobody serves the name, or not any more.
            Failed: its queue is full.
            MeshError: what the program says went wrong.
        """
        program = self._programs.get(name)
        if program is None:
            raise NoHandler(f"nothing on {self._here()} serves {name[:80]!r}")
        if len(program.waiting) >= QUEUE_MAX:
            raise Failed(f"{QUEUE_MAX} calls wait for {name[:80]!r} already")
        self._count += 1
        waiting = _Open(f"{self._life}.{self._count}", call, query)
        self._open[waiting.ident] = program.calls[waiting.ident] = waiting
        program.waiting.append(waiting)
        program.woken.set()
        try:
            await call.accept()
            async for answer in waiting.receive:
                if answer.error is not None:
                    raise answer.error
                if not call.stream:
                    return answer.payload
                if answer.more or answer.payload is not None:
                    await call.emit(answer.payload)
                if not answer.more:
                    return None
            raise NoHandler(f"the program that served {name[:80]!r} on {self._here()} went away")
        finally:
            del self._open[waiting.ident], program.calls[waiting.ident]
            waiting.receive.close()
            if call.parts is not None:
                call.parts.close()

    async def parts(self, call: str) -> AsyncIterator[dict[str, Any]]:
        """What the caller of an open call sends besides, until it has no more or the call is over.

        Raises:
            NotFound: no such call, or it was answered.
        """
        waiting = self._open.get(call)
        if waiting is None:
            raise NotFound(f"there is no open call {call[:80]!r}", "its caller may have given up")
        parts = waiting.call.parts
        while parts is not None:
            try:
                yield {"payload": await parts.receive()}
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return

    def _here(self) -> str:
        return self._peers.name_of(self._me) or "this node"

    async def answer(
        self, call: str, payload: Any, *, more: bool, error: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Answer a call, whole or in part; waits while the caller does not take the parts before.

        Raises:
            NotFound: no such call, it was answered, or its deadline has passed.
            UsageError: parts for a caller that wants one answer.
        """
        waiting = self._open.get(call)
        if waiting is None:
            raise NotFound(f"there is no open call {call[:80]!r}", "its deadline may have passed")
        if more and not waiting.call.stream:
            raise UsageError(
                "this call takes one answer, not parts", "ask with --stream, or `request_stream`"
            )
        try:
            await waiting.send.send(_Answer(payload, more, None if error is None else _error(error)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise NotFound(f"call {call[:80]!r} was given up by its caller") from None
        return {"call": call}


def _error(error: dict[str, Any]) -> MeshError:
    message = str(error.get("message", "")) or "the program failed"
    return error_of(Failure(str(error.get("code", "failed")), message, str(error.get("hint", ""))))
