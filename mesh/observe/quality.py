"""How good a path is: latency, loss and jitter of a peer's link or of an external target.

    unknown        never probed
    connected      the last probe was answered
    error          the last probe failed, but fewer than DOWN_AFTER in a row
    disconnected   DOWN_AFTER or more in a row failed

Latency is smoothed as TCP does it (RFC 6298, 1/8), jitter as RTP does (RFC 3550 section 6.4.1, 1/16), loss is
counted over the last WINDOW probes.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import trio

WINDOW = 50
DOWN_AFTER = 3
CHECK_S = 30.0
TIMEOUT_S = 5.0
TARGETS_MAX = 64


class Quality:
    """The path to one target.

    Attributes:
        latency_s, jitter_s: smoothed, None before the first answer.
    """

    def __init__(self) -> None:
        self.latency_s: float | None = None
        self.jitter_s: float | None = None
        self.error = ""
        self.checked_at: float | None = None
        self._last_s = 0.0
        self._missed = 0
        self._answers: deque[bool] = deque(maxlen=WINDOW)

    def answered(self, rtt_s: float, now: float) -> None:
        """A probe came back after this round trip."""
        self.checked_at = now
        self.error = ""
        self._missed = 0
        self._answers.append(True)
        if self.latency_s is None or self.jitter_s is None:
            self.latency_s, self.jitter_s = rtt_s, 0.0
        else:
            self.latency_s += (rtt_s - self.latency_s) / 8
            self.jitter_s += (abs(rtt_s - self._last_s) - self.jitter_s) / 16
        self._last_s = rtt_s

    def missed(self, error: str, now: float) -> None:
        """A probe was not answered."""
        self.checked_at = now
        self.error = error[:200]
        self._missed += 1
        self._answers.append(False)

    @property
    def loss_percent(self) -> float | None:
        """Of the last WINDOW probes."""
        if not self._answers:
            return None
        return round(100 * self._answers.count(False) / len(self._answers), 1)

    @property
    def status(self) -> str:
        """As in the module's docstring."""
        if self.checked_at is None:
            return "unknown"
        if self._missed == 0:
            return "connected"
        return "error" if self._missed < DOWN_AFTER else "disconnected"

    def report(self, now: float) -> dict[str, Any]:
        """status, latency_ms, jitter_ms, loss_percent, last_check_s, error."""
        return {
            "status": self.status,
            "latency_ms": None if self.latency_s is None else round(self.latency_s * 1000, 3),
            "jitter_ms": None if self.jitter_s is None else round(self.jitter_s * 1000, 3),
            "loss_percent": self.loss_percent,
            "last_check_s": None if self.checked_at is None else round(now - self.checked_at, 3),
            "error": self.error,
        }


class Targets:
    """External targets ("host:port"), each probed by a TCP connect in a task of its own."""

    def __init__(self, targets: tuple[str, ...] = ()) -> None:
        self.paths = {target: Quality() for target in targets[:TARGETS_MAX]}

    def __call__(self) -> dict[str, Any]:
        """As a group of metrics."""
        now = time.monotonic()
        return {target.replace(".", "_"): path.report(now) for target, path in self.paths.items()}

    async def run(self) -> None:
        """Probe every CHECK_S with a deadline of TIMEOUT_S, until cancelled."""
        async with trio.open_nursery() as nursery:
            for target, path in self.paths.items():
                nursery.start_soon(self._watch, target, path)

    async def _watch(self, target: str, path: Quality) -> None:
        host, _, port = target.rpartition(":")
        while True:
            begun = time.monotonic()
            try:
                with trio.fail_after(TIMEOUT_S):
                    stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
                path.answered(time.monotonic() - begun, time.monotonic())
                await stream.aclose()
            except trio.TooSlowError:
                path.missed(f"no answer in {TIMEOUT_S:g} s", time.monotonic())
            except OSError as error:
                path.missed(error.strerror or str(error), time.monotonic())
            except (ValueError, OverflowError):
                path.missed('not a "host:port"', time.monotonic())
            await trio.sleep(CHECK_S)
