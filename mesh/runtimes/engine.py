"""The Docker Engine API, as far as instances need it, over the unix socket of Docker or Podman.

Version 1.41 of the API: Docker 20.10 and later, Podman 4 and later. What an engine refuses becomes a
`MeshError` that names the container or image and repeats the engine's own words.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import trio

from mesh.errors import Conflict, Failed, MeshError, NotFound
from mesh.runtimes.base import Line
from mesh.runtimes.web import Answer, Web

API = "/v1.41"
PULL_S = 900.0
QUIET_S = 2.0
TAIL_MAX = 10_000
HALF_WRITTEN = "not a valid container log line"
HALF_WRITTEN_TRIES = 20
HALF_WRITTEN_S = 0.05
FRAME_HEAD = 8
FRAME_BYTES_MAX = 1024 * 1024
STREAMS = {1: "stdout", 2: "stderr"}
_FRACTION = re.compile(r"\.([0-9]{1,9})")
LINE_CHARS_MAX = 16 * 1024


class Engine:
    """One engine."""

    def __init__(self, path: str) -> None:
        async def connect() -> trio.abc.Stream:
            return await trio.open_unix_socket(path)

        self._web = Web(f"the engine at {path}", connect, lambda: {"host": "localhost"})

    async def _ask(
        self, method: str, target: str, body: Any = None, *, timeout_s: float = 30.0, what: str = ""
    ) -> Answer:
        answer = await self._web.ask(method, API + target, body, timeout_s=timeout_s)
        if answer.status >= 400:
            raise _refusal(answer, what)
        return answer

    async def create(self, name: str, body: dict[str, Any]) -> None:
        """Raises NotFound (no such image here), Conflict (the name is taken), Failed."""
        await self._ask("POST", f"/containers/create?name={quote(name)}", body, what=str(body["Image"]))

    async def start(self, name: str) -> None:
        await self._ask("POST", f"/containers/{quote(name)}/start", what=name, timeout_s=60.0)

    async def inspect(self, name: str) -> dict[str, Any]:
        """Raises NotFound."""
        found = (await self._ask("GET", f"/containers/{quote(name)}/json", what=name)).json()
        return found if isinstance(found, dict) else {}

    async def wait(self, name: str) -> None:
        """Until it does not run, or for some minutes."""
        await self._ask("POST", f"/containers/{quote(name)}/wait", what=name, timeout_s=3600.0)

    async def stop(self, name: str, grace_s: float) -> None:
        target = f"/containers/{quote(name)}/stop?t={max(0, round(grace_s))}"
        await self._ask("POST", target, what=name, timeout_s=grace_s + 30.0)

    async def kill(self, name: str) -> None:
        await self._ask("POST", f"/containers/{quote(name)}/kill", what=name)

    async def remove(self, name: str) -> None:
        """With its anonymous volumes; one that is not there is fine."""
        try:
            await self._ask("DELETE", f"/containers/{quote(name)}?force=true&v=true", what=name)
        except NotFound:
            pass

    async def list(self, label: str) -> list[dict[str, Any]]:
        query = urlencode({"all": "true", "filters": json.dumps({"label": [label]})})
        found = (await self._ask("GET", f"/containers/json?{query}")).json()
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    async def stats(self, name: str) -> dict[str, Any]:
        found = (await self._ask("GET", f"/containers/{quote(name)}/stats?stream=false", what=name)).json()
        return found if isinstance(found, dict) else {}

    async def pull(self, image: str) -> None:
        """Raises Failed, with the reason of the registry."""
        query = urlencode(
            {"fromImage": image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"}
        )
        try:
            answer = await self._ask("POST", f"/images/create?{query}", timeout_s=PULL_S, what=image)
        except MeshError as error:
            raise Failed(f"image {image[:120]} cannot be pulled: {error.message}"[:600]) from None
        for row in answer.body.splitlines():
            if b'"error"' in row:
                try:
                    reason = json.loads(row).get("error")
                except ValueError:
                    continue
                raise Failed(f"image {image[:120]} cannot be pulled: {reason}"[:600])

    async def logs(self, name: str, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
        """Lines with their time. Raises NotFound.

        Podman 4 sometimes stops in the midst of what it follows until the container writes again. So each
        time that nothing has come for a while the log is asked for once more from the last line on.
        """
        await self.inspect(name)
        place = _Place()
        patience_s, over = (QUIET_S if follow else math.inf), False
        while not over:
            came = False
            lines = self._lines(name, {"tail": tail, "follow": str(follow).lower(), **place.since()})
            try:
                while True:
                    line: Line | None = None
                    with trio.move_on_after(max(0.0, patience_s)) as quiet:
                        line = await anext(lines, None)
                    if line is None:
                        over = not quiet.cancelled_caught
                        break
                    if place.is_new(line):
                        came, patience_s = True, QUIET_S if follow else math.inf
                        yield line
            finally:
                await lines.aclose()
            tail = TAIL_MAX
            patience_s = QUIET_S if came else math.inf

    async def _lines(self, name: str, query: dict[str, Any]) -> AsyncGenerator[Line, None]:
        query = {"stdout": "true", "stderr": "true", "timestamps": "true", **query}
        splitter = _Splitter()
        target = f"{API}/containers/{quote(name)}/logs?{urlencode(query)}"
        for left in range(HALF_WRITTEN_TRIES - 1, -1, -1):
            try:
                async with aclosing(self._web.stream(target)) as pieces:
                    async for piece in pieces:
                        for line in splitter.feed(piece):
                            yield line
                break
            except Failed as error:  # Podman 4 reads the last line while it is being written
                if HALF_WRITTEN not in error.message or not left:
                    raise
                await trio.sleep(HALF_WRITTEN_S)
        for line in splitter.end():
            yield line


class _Place:
    """How far a log has been read. Several lines may have one time."""

    def __init__(self) -> None:
        self._time = ""
        self._count = 0
        self._again = 0

    def since(self) -> dict[str, int]:
        """For the engine: the second of the last line, which is then read again."""
        self._again = 0
        try:
            zone = self._time[-6:] if self._time[-6:-5] in ("+", "-") else "+00:00"
            return {"since": int(datetime.fromisoformat(self._time[:19] + zone).timestamp())}
        except ValueError:
            return {}

    def is_new(self, line: Line) -> bool:
        """Whether a line was not read before; it counts as read from now on."""
        time, last = _padded(line.time), _padded(self._time)
        if time < last:
            return False
        if time == last:
            self._again += 1
            if self._again <= self._count:
                return False
            self._count = self._again
        else:
            self._time, self._count, self._again = line.time, 1, 1
        return True


def _padded(time: str) -> str:
    """A time whose fraction may have lost its zeros at the end, so that texts compare as times do."""
    found = _FRACTION.match(time, 19)
    return f"{time[:19]}.{found[1] if found else '':0<9}"


class _Splitter:
    """From the engine's frames (stream, 0, 0, 0, length) to lines."""

    def __init__(self) -> None:
        self._data = b""
        self._partial: dict[str, bytes] = {}

    def feed(self, data: bytes) -> list[Line]:
        self._data += data
        found = []
        while len(self._data) >= FRAME_HEAD:
            stream = STREAMS.get(self._data[0], "stdout")
            length = int.from_bytes(self._data[4:FRAME_HEAD], "big")
            if length > FRAME_BYTES_MAX:
                raise Failed("the engine sent a log that cannot be read")
            if len(self._data) < FRAME_HEAD + length:
                break
            text = self._partial.pop(stream, b"") + self._data[FRAME_HEAD : FRAME_HEAD + length]
            self._data = self._data[FRAME_HEAD + length :]
            *lines, rest = text.split(b"\n")
            found += [_line(stream, line) for line in lines]
            if rest:
                self._partial[stream] = rest[:FRAME_BYTES_MAX]
        return found

    def end(self) -> list[Line]:
        return [_line(stream, rest) for stream, rest in self._partial.items()]


def _line(stream: str, row: bytes) -> Line:
    time, _, text = row.partition(b" ")
    return Line(time.decode("ascii", "replace")[:40], stream, text.decode(errors="replace")[:LINE_CHARS_MAX])


def _refusal(answer: Answer, what: str) -> MeshError:
    try:
        found = answer.json()
        words = str(found.get("message") or found.get("cause") or "") if isinstance(found, dict) else ""
    except MeshError:
        words = answer.body[:200].decode(errors="replace")
    text = f"{what}: {words or answer.status}"[:600]
    if answer.status == 404:
        return NotFound(text)
    if answer.status == 409:
        return Conflict(text)
    return Failed(text)
