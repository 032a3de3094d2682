"""The admin API: the table of routes served over HTTP on a unix socket.

One task per connection, at most `connections_max` of them (more wait in the backlog of the socket). A
feature's MeshError becomes the typed error of the API; anything else it raises becomes a 500 and a line in
the log, and harms nobody but that request. When the agent stops, requests that a feature is working on get
GRACE_S to finish, so that an acknowledged write is acknowledged; streams end at once. What such a request
would still begin in the tasks of a feature has nobody left to do it: it is told that the agent stops.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mesh.admin import door, names
from mesh.admin.http import SEND_S, HttpConnection, HttpError, Request, status_of, too_large
from mesh.admin.router import Call, Route, Router, parse_body, parse_query
from mesh.admin.routes import ROUTES
from mesh.admin.sockets import Socket
from mesh.admin.stream import Stream, internal
from mesh.admin.values import dumps
from mesh.errors import Denied, Failed, MeshError, Unreachable, UsageError, leaves, ours

GRACE_S = 1.0
STRANGER_S = 1.0
SWITCHED = "mesh-stream"
# What answers from the store and the tables alone, while the rest of the agent comes up.
EARLY = ("", "status", "members", "events", "metrics", "kv", "policy")
_BINARY_TYPES = ("application/octet-stream", "text/plain")

_PASSING_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED, errno.EAGAIN)

log = logging.getLogger("mesh.admin")


class AdminServer:
    """Serves features on a unix socket.

    Args:
        features: an object with the features of `mesh/admin/features.py` as attributes, and with `up`, an
            event: until it is set only EARLY features are asked. Without it all are there at once.
        path: of the socket.
        group: name of a group that may connect too, or "".
        body_bytes_max: cap on a request's body; only a restore's upload may be larger.
    """

    def __init__(
        self,
        features: object,
        path: str,
        *,
        group: str = "",
        body_bytes_max: int = 8 << 20,
        connections_max: int = 256,
    ) -> None:
        self.path = os.path.abspath(path)
        self._features = features
        self._group = door.group_id(group)
        self._group_name = group
        self._body_bytes_max = body_bytes_max
        self._slots = trio.Semaphore(connections_max)
        self._router = Router(ROUTES)
        self._in_flight: set[trio.CancelScope] = set()
        self._grace_end = math.inf

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the socket, answer until cancelled, remove the socket.

        Raises:
            ConfigError, Denied, Conflict, StoreError: as `door.open_socket`.
        """
        listener = door.open_socket(self.path, group=self._group)
        inode = os.lstat(self.path).st_ino
        if fault := door.group_fault(self.path, self._group_name):
            log.warning("%s", fault)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                try:
                    await self._accept(listener, nursery)
                finally:
                    listener.close()
                    self._grace_end = trio.current_time() + GRACE_S
                    for scope in self._in_flight:
                        scope.deadline = self._grace_end
        finally:
            self._remove(inode)

    def _remove(self, inode: int) -> None:
        try:
            if os.lstat(self.path).st_ino == inode:
                os.unlink(self.path)
        except OSError as error:
            log.debug("socket %s not removed: %s", self.path, error)

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await self._slots.acquire()
            try:
                await trio.lowlevel.wait_readable(listener)
                sock, _ = listener.accept()
            except OSError as error:
                self._slots.release()
                if error.errno not in _PASSING_ERRORS:
                    raise
                log.warning("admin socket: %s", error.strerror)
                await trio.sleep(0.1)
                continue
            except BaseException:
                self._slots.release()
                raise
            nursery.start_soon(self._connection, sock)

    async def _connection(self, sock: socket.socket) -> None:
        line = Socket(sock)
        try:
            await self._converse(HttpConnection(line), sock)
        except trio.BrokenResourceError:
            pass  # the client went away
        except Exception:
            log.exception("admin connection")
        finally:
            self._slots.release()
            line.close()

    async def _converse(self, conn: HttpConnection, sock: socket.socket) -> None:
        try:
            await self._check_peer(conn, sock)
            with conn.patience as scope:
                while request := await conn.next_request():
                    try:
                        await self._answer(conn, request, scope)
                    except MeshError as error:
                        await conn.refuse(status_of(error), error)
        except HttpError as error:
            await conn.refuse(error.status, error.error, {**error.headers, "Connection": "close"})

    async def _check_peer(self, conn: HttpConnection, sock: socket.socket) -> None:
        peer = door.peer_of(sock)
        if not door.may_enter(peer, owner=os.geteuid(), group=self._group):
            log.warning("admin socket: user %d (process %d) refused", peer.uid, peer.pid)
            error = Denied(
                f"user {peer.uid} may not use this agent's admin socket",
                "run it as the agent's user or root, or set admin.group",
            )
            with trio.move_on_after(STRANGER_S):
                await conn.next_request()  # an answer before the question would not be read
            raise HttpError(403, error)

    async def _answer(self, conn: HttpConnection, request: Request, scope: trio.CancelScope) -> None:
        path, _, query = request.target.partition("?")
        route, words = self._router.find(request.method, path)
        body = b""
        if route.takes != "upload":
            if (request.length or 0) > self._body_bytes_max:
                raise too_large(self._body_bytes_max)
            body = await conn.body(self._body_bytes_max)
        call = self._call(route, request, words, query, body, conn)
        feature = self._feature(route)
        if route.feature not in EARLY:
            await self._up()
        if route.kind == "object":
            await self._work(conn, route, feature, call, scope)
        elif route.kind == "switch":
            carry = await route.handler(feature, call)
            try:
                sock, early = await conn.switch(SWITCHED)
            except BaseException:
                await _drop(carry)
                raise
            await carry(sock, early)
            raise trio.BrokenResourceError  # nothing that is HTTP follows
        else:
            await Stream(conn, route).send(route.handler(feature, call))

    def _call(
        self,
        route: Route,
        request: Request,
        words: dict[str, str],
        query: str,
        body: bytes,
        conn: HttpConnection,
    ) -> Call:
        raw = route.takes == "raw" and request.content_type in _BINARY_TYPES
        if route.body is None and body and not raw:
            raise UsageError(f"{request.method} {route.pattern} takes no body")
        return Call(
            args=words,
            query=parse_query(query, route.query),
            body=None if raw or route.body is None else parse_body(body, route.body),
            raw=body if raw else None,
            content_type=request.content_type,
            upload=conn.upload,
            resolve=self._resolve,
        )

    async def _up(self) -> None:
        """Wait until the features' tasks run: the socket answers earlier than the agent takes part."""
        up = getattr(self._features, "up", None)
        if up is not None and not up.is_set():  # waiting for what has happened costs a turn of the loop
            await up.wait()

    def _feature(self, route: Route) -> Any:
        if not route.feature:
            return self._router.routes
        feature = getattr(self._features, route.feature, None)
        if feature is None:
            raise HttpError(
                501, Failed(f"this agent has no {route.feature!r}", "it may be switched off, or older")
            )
        return feature

    def _resolve(self, node: str) -> str:
        members = getattr(self._features, "members", None)
        known = [] if members is None else members.names()
        return known[0][0] if not node and known else names.resolve(node, known)

    async def _work(
        self, conn: HttpConnection, route: Route, feature: Any, call: Call, scope: trio.CancelScope
    ) -> None:
        """Let the feature work and answer, undisturbed by the agent's stop for GRACE_S.

        Args:
            scope: of the whole connection, which ends when time is up: one for each request would cost a
                twelfth of a small write's time.
        """
        scope.shield = True
        self._in_flight.add(scope)
        if self._grace_end < math.inf:
            scope.deadline = self._grace_end
        try:
            answer = dumps(await route.handler(feature, call))
            await conn.respond(200, answer, stalled=lambda: self._hurry(scope))
        except (MeshError, trio.BrokenResourceError):
            raise
        except Exception as error:
            if (known := ours(error)) is not None:  # a nursery had wrapped it
                raise known from error
            if self._grace_end < math.inf and all(map(_too_late, leaves(error))):
                raise Unreachable("the agent stops", "ask again when it is back") from None
            log.exception("%s %s", route.method, route.pattern)
            raise internal(error) from error
        finally:
            self._in_flight.discard(scope)
            scope.shield = False
            if scope.deadline < math.inf:
                scope.deadline = math.inf

    def _hurry(self, scope: trio.CancelScope) -> None:
        """A client does not read: it has SEND_S."""
        scope.deadline = min(self._grace_end, trio.current_time() + SEND_S)


def _too_late(error: BaseException) -> bool:
    """Whether a feature's tasks have ended: trio lets nothing more begin in them."""
    return isinstance(error, RuntimeError) and "Nursery is closed" in str(error)


async def _drop(carry: Callable[[socket.socket, bytes], Awaitable[None]]) -> None:
    """Let go what was to carry a connection: give it one that has ended already."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GRACE_S):
        await carry(ours, b"")
