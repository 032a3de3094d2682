"""A job that waits for its turn, and the caller that waits for its answer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import outcome
import trio

from mesh.store.txn import Txn

Job = Callable[[Txn], Any]
LINGERING_MAX = 512


class Pending:
    """A job and its caller. `result` is what the job gave; it counts once the caller is `answered`.

    An `early` caller is answered when its job has run, and never learns whether it came to the disk.
    """

    __slots__ = ("answered", "born", "early", "generator", "job", "result", "spare", "task")

    def __init__(self, job: Job, spare: bool, early: bool) -> None:
        self.job = job
        self.early = early
        self.spare = spare
        self.answered = False
        self.born = trio.current_time()
        self.generator: Generator[None, None, Any] | None = None
        self.result: outcome.Outcome[Any] | None = None
        self.task: trio.lowlevel.Task | None = None

    def answer(self, result: outcome.Outcome[Any]) -> None:
        self.result = result
        self.answered = True
        if self.task is not None:
            trio.lowlevel.reschedule(self.task, outcome.Value(None))
            self.task = None


class Waiting:
    """Jobs that were not begun: in their order, local ones before lingering ones.

    A lingering job waits for company only where company is likely: when others were taken a moment ago. One
    that comes alone is due at once, so a single record on its way through the mesh waits nowhere, and a
    stream of them still shares one commit in `linger_s`.

    Args:
        linger_s: how long a lingering job waits for company.
        always: it waits so long also when it comes alone: to spare the disk.
    """

    def __init__(self, linger_s: float, *, always: bool = False) -> None:
        self._linger_s = linger_s
        self._always = always
        self._taken_at = -math.inf
        self._local: deque[Pending] = deque()
        self._lingering: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._local) + len(self._lingering)

    def add(self, pending: Pending, *, linger: bool) -> None:
        """A new job."""
        (self._lingering if linger else self._local).append(pending)

    def again(self, batch: Sequence[Pending]) -> None:
        """Jobs that are to run once more, before all others."""
        for pending in reversed(batch):
            pending.result = None
            pending.generator = None
            self._local.appendleft(pending)

    def due(self, now: float) -> bool:
        """Whether there is a job that should not wait any longer."""
        return bool(self._local) or self.patience(now) <= 0

    def patience(self, now: float) -> float:
        """Seconds until a job is due; infinite when there is none."""
        if self._local or len(self._lingering) >= LINGERING_MAX:
            return 0.0
        if not self._lingering:
            return math.inf
        born = self._lingering[0].born
        return (born if self._always else min(born, self._taken_at)) + self._linger_s - now

    def next(self, now: float) -> Pending | None:
        """The next job. A lingering one that is long overdue goes first: local ones must not starve it."""
        overdue = self._lingering and now - self._lingering[0].born >= 2 * self._linger_s
        for waiting in (self._lingering, self._local) if overdue else (self._local, self._lingering):
            if waiting:
                if waiting is self._lingering:
                    self._taken_at = now
                return waiting.popleft()
        return None

    def take(self, which: Callable[[Pending], bool] = lambda pending: True) -> list[Pending]:
        """Take out the jobs that match."""
        taken = [pending for pending in (*self._local, *self._lingering) if which(pending)]
        self._local = deque(pending for pending in self._local if pending not in taken)
        self._lingering = deque(pending for pending in self._lingering if pending not in taken)
        return taken
