"""When an instance that fails is left alone, and how often a failed call may be tried elsewhere.

    closed ──`failures` in a row──> open ──after its pause──> half open ──an answer──> closed
                                      ^                           │
                                      └──────── a failure ────────┘

*Circuit breaker and outlier ejection* (Nygard, "Release It!"; Envoy's outlier detection): an instance that
failed `failures` times in a row is out for a pause that doubles with each time up to `pause_s_max`; then one
call tries it. One answer and it is back; its record is clean after `forgive_s` without a fault. It is never
more than our own experience, beside the health that its owner tells. If it would leave nobody, it does not
count: a call that may fail is better than one that must (`Breaker.allowed`).

*Retry budget* (Finagle): each call earns `ratio` of a retry, and there are `per_s` besides, so that the many
retries of an outage never become most of the load. Unused ones are kept up to `kept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

import msgspec

KEYS_MAX = 10_000
T = TypeVar("T")


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers. `pause_s` is a guess between a restart (1 s) and a person's patience (30 s)."""

    failures: int = 3
    pause_s: float = 5.0
    pause_s_max: float = 300.0
    forgive_s: float = 300.0


DEFAULTS = BreakerConfig()


class _Record(msgspec.Struct):
    """`until` is the end of its pause; `trying_since` of the one call that tries it, or None."""

    failures: int = 0
    times: int = 0
    until: float = 0.0
    failed_at: float = 0.0
    trying_since: float | None = None


class Breaker:
    """What our own calls taught us of instances, by key."""

    def __init__(self, config: BreakerConfig = DEFAULTS) -> None:
        self._config = config
        self._records: dict[str, _Record] = {}

    def state(self, key: str, now: float) -> Literal["closed", "open", "half-open"]:
        """Where an instance is in the drawing above."""
        record = self._records.get(key)
        if record is None or not record.times or record.failures < self._config.failures:
            return "closed"
        return "open" if now < record.until or self._being_tried(record, now) else "half-open"

    def _being_tried(self, record: _Record, now: float) -> bool:
        # A trial that never told its end is forgotten after a pause.
        since = record.trying_since
        return since is not None and now < since + self._config.pause_s

    @property
    def spotless(self) -> bool:
        """Whether nobody has a record, which is the usual case and worth a short cut."""
        return not self._records

    def allowed(self, candidates: Sequence[T], keys: Iterable[str], now: float) -> Sequence[T]:
        """Candidates that may be called; all of them if that would be none."""
        if not self._records:
            return candidates
        pairs = zip(candidates, keys, strict=True)
        return [each for each, key in pairs if self.state(key, now) != "open"] or candidates

    def begun(self, key: str, now: float) -> None:
        """A call begins: if it tries an instance that was out, others wait for how it ends."""
        record = self._records.get(key)
        if record is not None and self.state(key, now) == "half-open":
            record.trying_since = now

    def answered(self, key: str, now: float) -> None:
        """It answered."""
        record = self._records.get(key)
        if record is None:
            return
        record.failures, record.trying_since = 0, None
        if now - record.failed_at >= self._config.forgive_s or not record.times:
            del self._records[key]

    def failed(self, key: str, now: float, *, conclusive: bool = False) -> None:
        """It did not answer, or with a fault of its own; `conclusive`: once says as much as many times."""
        record = self._records.get(key)
        if record is None:
            if len(self._records) >= KEYS_MAX:
                self._records.pop(next(iter(self._records)))
            record = self._records[key] = _Record()
        elif record.times and now - record.failed_at >= self._config.forgive_s:
            record.times = 0
        record.failures = max(record.failures + 1, self._config.failures if conclusive else 0)
        record.failed_at, record.trying_since = now, None
        if record.failures >= self._config.failures:
            pause_s = min(self._config.pause_s * 2.0 ** min(record.times, 16), self._config.pause_s_max)
            record.times += 1
            record.until = now + pause_s

    def forget(self, key: str) -> None:
        """The instance is gone, or was registered anew."""
        self._records.pop(key, None)


class RetryBudget:
    """How many retries the calls to one service have left."""

    def __init__(self, *, ratio: float = 0.2, per_s: float = 1.0, kept: float = 100.0) -> None:
        self._ratio = ratio
        self._per_s = per_s
        self._kept = kept
        self._left = kept
        self._at: float | None = None

    def called(self) -> None:
        """A first attempt was made."""
        self._left = min(self._kept, self._left + self._ratio)

    def take(self, now: float) -> bool:
        """Whether one more attempt may be made; it is then spent."""
        if self._at is not None:
            self._left = min(self._kept, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
