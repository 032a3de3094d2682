"""The one thread that waits for disks, so that the event loop does not.

Whoever posts functions also sleeps here, in `news`, until one is done or somebody says `wake`: one wait for
both, so that a commit costs the loop one turn and nothing has to be shielded while it runs.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import outcome
import trio

_DRAIN_BYTES = 64


class Thread:
    """Runs one function at a time; its end is told on a pipe, half the cost of trio's own threads.

    Attributes:
        busy: something was posted whose result was not taken yet; nothing else may be posted.
    """

    def __init__(self) -> None:
        self.busy = False
        self._todo: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._result: outcome.Outcome[Any] | None = None
        self._thread = threading.Thread(target=self._work, name="mesh-store", daemon=True)
        self._read = self._write = -1
        self._woken = False

    def start(self) -> None:
        """Begin; `stop` ends it."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._thread.start()

    def _work(self) -> None:
        while (function := self._todo.get()) is not None:
            self._result = outcome.capture(function)
            os.write(self._write, b"\0")

    def post(self, function: Callable[[], Any]) -> None:
        """Begin to run a function; `result` must be awaited before the next."""
        assert not self.busy
        self.busy = True
        self._result = None
        self._todo.put(function)

    @property
    def done(self) -> bool:
        """Whether the posted function has ended."""
        return self._result is not None

    def wake(self) -> None:
        """End the present wait for news, or the next."""
        if not self._woken and self._write >= 0:
            self._woken = True
            os.write(self._write, b"\0")

    async def news(self) -> None:
        """Wait until a function has ended or somebody woke us; now and then it is for nothing."""
        await trio.lowlevel.wait_readable(self._read)
        self._woken = False
        os.read(self._read, _DRAIN_BYTES)

    async def result(self) -> Any:
        """What the posted function returned or raised. Cannot be cancelled: the thread is not asked twice."""
        if not self.done:
            with trio.CancelScope(shield=True):
                while not self.done:
                    await self.news()
        self.busy = False
        assert self._result is not None
        return self._result.unwrap()

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function there and return what it returns."""
        self.post(function)
        return await self.result()

    def stop(self) -> None:
        self._todo.put(None)
        self._thread.join()
        os.close(self._read)
        os.close(self._write)
        self._read = self._write = -1


class Inline:
    """The same without a thread, for virtual clocks: these run on while a thread waits for a disk."""

    def __init__(self) -> None:
        self.busy = False
        self._result: outcome.Outcome[Any] | None = None
        self._woken = trio.Event()

    def start(self) -> None:
        pass

    def post(self, function: Callable[[], Any]) -> None:
        assert not self.busy
        self.busy = True
        self._result = outcome.capture(function)

    @property
    def done(self) -> bool:
        """Whether the posted function has ended."""
        return self._result is not None

    def wake(self) -> None:
        """End the present wait for news, or the next."""
        self._woken.set()

    async def news(self) -> None:
        """Wait until somebody woke us."""
        await self._woken.wait()
        self._woken = trio.Event()

    async def result(self) -> Any:
        """What the posted function returned or raised."""
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        self.busy = False
        assert self._result is not None
        return self._result.unwrap()

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function and return what it returns."""
        self.post(function)
        return await self.result()

    def stop(self) -> None:
        pass
