"""The client's half of the admin API's HTTP, without a socket: requests to bytes, bytes to answers.

It speaks only with our own server, so it knows what that sends: a length or chunks, header names in any case.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mesh.errors import Failed, MeshError, Unreachable, UsageError

Json = dict[str, Any]
_HEAD_BYTES_MAX = 64 << 10
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.1 ([0-9]{3}) \r\nContent-Type: [a-z/-]+\r\nContent-Length: ([0-9]{1,18})\r\n\r\n"
)
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


class Request(NamedTuple):
    """One call.

    Attributes:
        body: a JSON value, or None.
        pieces: instead of a body, an upload of any length.
        answer_s: how long the agent may think; None: the client's own deadline.
    """

    method: str
    path: str
    query: Mapping[str, Any] = {}
    body: Any = None
    pieces: Iterable[bytes] | None = None
    answer_s: float | None = None

    def switching(self) -> bytes:
        """The bytes to send for a request that gives its connection up to a stream."""
        body = b"" if self.body is None else to_json(self.body)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return f"{self._head()}{length}Connection: upgrade\r\nUpgrade: mesh-stream\r\n\r\n".encode() + body

    def _head(self) -> str:
        pairs = [f"{name}={_word(value)}" for name, value in self.query.items() if value is not None]
        target = f"{self.path}?{'&'.join(pairs)}" if pairs else self.path
        return f"{self.method} {target} HTTP/1.1\r\nHost: mesh\r\n"

    def wire(self) -> Iterator[bytes]:
        """The bytes to send."""
        head = self._head()
        if self.pieces is None:
            body = b"" if self.body is None else to_json(self.body)
            yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            return
        yield f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
        yield from (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in self.pieces if piece)
        yield b"0\r\n\r\n"


def to_json(value: Any) -> bytes:
    """JSON with bytes as {"base64": ...}. UsageError: the value has no such form."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_default)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        why = "a number in it is infinite, or none" if "JSON compliant" in str(error) else error
        raise UsageError(f"the value has no JSON form: {why}") from None


def _default(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"a {type(value).__name__}")


def bytes_hook(found: Json) -> Any:
    """For json.loads: {"base64": text} back to bytes."""
    if len(found) == 1 and isinstance(text := found.get("base64"), str):
        try:
            return base64.b64decode(text)
        except ValueError:
            return found  # a peer wrote an object that only looks like bytes
    return found


def quote(text: str) -> str:
    """Percent-encode all but what a path may hold; slashes stay."""
    if _PLAIN.issuperset(text):
        return text
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!r} is not valid Unicode") from None
    return "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in data)


def segment(text: str) -> str:
    """One segment of a path: slashes are encoded too, and emptiness is refused."""
    if not text:
        raise UsageError("a name or id is empty")
    return quote(text).replace("/", "%2F")


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else quote(str(value))


def _kinds(base: type[MeshError]) -> Iterator[tuple[str, type[MeshError]]]:
    """The classes that have a code of their own; one that inherits it is a private refinement of a room."""
    if "code" in vars(base):
        yield base.code, base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


def error_of(body: Any) -> MeshError:
    """The exception that an error body stands for."""
    found = body.get("error") if isinstance(body, dict) else None
    if not isinstance(found, dict):
        return Failed("the agent's answer makes no sense", "do agent and client have the same version?")
    kinds = {code: kind for code, kind in _kinds(MeshError) if kind is not MeshError}
    kind = kinds.get(str(found.get("code")), Failed)
    return kind(str(found.get("message", "")), str(found.get("hint", "")))


class Reply:
    """Parses one answer: feed it what is received, it gives pieces of the body.

    Attributes:
        status: HTTP status, 0 until the head is complete.
        done: the answer is complete.
        keep: the connection may be used again.
    """

    def __init__(self) -> None:
        self.status = 0
        self.done = False
        self.keep = True
        self._buffer = b""
        self._left: int | None = None  # of the body or the chunk; None between chunks

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, b"" at the end of the connection.

        Raises:
            Unreachable: it ended too early. Failed: this is no HTTP of our agent.
        """
        if not data:
            raise Unreachable("the agent closed the connection in the middle of an answer", "is it stopping?")
        self._buffer += data
        if not self.status and not self._head():
            return []
        pieces: list[bytes] = []
        while not self.done and (self._body(pieces) if self._left is not None else self._chunk_head()):
            pass
        return pieces

    def _head(self) -> bool:
        if usual := _USUAL_HEAD.match(self._buffer):
            self.status, self._left, self._chunked = int(usual[1]), int(usual[2]), False
            self.done = self._left == 0
            self._buffer = self._buffer[usual.end() :]
            return True
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            if len(self._buffer) > _HEAD_BYTES_MAX:
                raise Failed("the answer's head is too long", "is this the admin socket of an agent?")
            return False
        try:
            first, *lines = head.split(b"\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in lines)
            self.status = int(first.split(b" ", 2)[1])
            self._chunked = fields.get(b"transfer-encoding") == b"chunked"
            self._left = None if self._chunked else int(fields[b"content-length"])
        except (ValueError, KeyError, IndexError):
            raise Failed("the answer is no HTTP", "is this the admin socket of an agent?") from None
        self.keep = fields.get(b"connection") != b"close"
        self.done = self._left == 0
        self._buffer = rest
        return True

    def _body(self, pieces: list[bytes]) -> bool:
        assert self._left is not None
        piece = self._buffer[: self._left]
        self._buffer = self._buffer[len(piece) :]
        self._left -= len(piece)
        if piece:
            pieces.append(piece)
        if self._left:
            return False
        if self._chunked:
            self._left = None
        else:
            self.done = True
        return True

    def _chunk_head(self) -> bool:
        # The CRLF that ends a chunk's data is the empty line before the next head.
        while (end := self._buffer.find(b"\r\n")) == 0:
            self._buffer = self._buffer[2:]
        if end < 0:
            return False
        try:
            self._left = int(self._buffer[:end], 16)
        except ValueError:
            raise Failed("the answer is malformed", "is this the admin socket of an agent?") from None
        self._buffer = self._buffer[end + 2 :]
        self.done = self._left == 0
        return True


def head_end(taken: bytes, seen: bytes) -> int:
    """How many of the bytes peeked at, behind those taken, belong to a head: all, until it is whole."""
    tail = taken[-3:]
    end = (tail + seen).find(b"\r\n\r\n")
    return end + 4 - len(tail) if end >= 0 else len(seen)


def part_line(payload: Any) -> bytes:
    """A part of a talk, as it is sent. UsageError: the value has no JSON form."""
    return to_json({"payload": payload}) + b"\n"


END_LINE = b'{"end":true}\n'


class Lines:
    """Decodes the body of a stream: JSON lines, or bytes as they are."""

    def __init__(self, decode: Callable[[str], Any] | None) -> None:
        self._decode = decode
        self._rest = b""

    def feed(self, pieces: Iterable[bytes]) -> list[Any]:
        """Items that are complete; an error line is the last item, as an exception."""
        if self._decode is None:
            return list(pieces)
        *lines, self._rest = (self._rest + b"".join(pieces)).split(b"\n")
        try:
            items = [self._decode(line.decode()) for line in lines]
        except (ValueError, RecursionError):
            return [Failed("a line of the answer is not JSON", "is this the admin socket of an agent?")]
        return [error_of(item) if _is_error(item) else item for item in items]


def _is_error(item: Any) -> bool:
    return isinstance(item, dict) and item.keys() == {"error"}


def answer_of(status: int, body: bytes, decode: Callable[[str], Any]) -> Any:
    """The decoded body of a success; raises what any other answer stands for."""
    try:
        found = decode(body.decode())
    except (ValueError, RecursionError):
        raise Failed("the answer is not JSON", "is this the admin socket of an agent?") from None
    if status != 200:
        raise error_of(found)
    return found


def replies(answer: Any, *, stream: bool = False) -> Iterator[dict[str, Any]]:
    """Arguments of `Calls.answer` for what a handler returned, or raised.

    An iterator answers in parts: with `stream` each at once, and at the end that nothing follows; else, for
    a caller that takes one answer, as if the last one was it.
    """
    if isinstance(answer, Exception):
        yield {"error": failure(answer)}
    elif not isinstance(answer, Iterator):
        yield {"payload": answer}
    elif stream:
        try:
            for part in answer:
                yield {"payload": part, "more": True}
            yield {"payload": None}
        except Exception as error:
            yield {"error": failure(error)}
    else:
        try:
            part = next(answer, None)
            for following in answer:
                yield {"payload": part, "more": True}
                part = following
            yield {"payload": part}
        except Exception as error:
            yield {"error": failure(error)}


async def replies_async(answer: Any, *, stream: bool = False) -> AsyncGenerator[dict[str, Any], None]:
    """As `replies`, for answers that may also be async iterators."""
    if not isinstance(answer, AsyncIterator):
        for reply in replies(answer, stream=stream):
            yield reply
        return
    try:
        part = None if stream else await anext(answer, None)
        async for following in answer:
            yield {"payload": following if stream else part, "more": True}
            part = None if stream else following
        yield {"payload": part}
    except Exception as error:
        yield {"error": failure(error)}
    finally:
        if isinstance(answer, AsyncGenerator):
            await answer.aclose()


def failure(error: Exception) -> dict[str, str]:
    """How a call is answered that failed."""
    if isinstance(error, MeshError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    return {"code": "failed", "message": f"the handler failed: {type(error).__name__}: {error}", "hint": ""}
