"""The mesh clock: this node's wall clock, corrected by what its neighbours' clocks say.

    no neighbour's clock known    the wall clock (status `alone`)
    exactly one other             the later of the two; an alarm when they differ beyond the bound (`two`)
    two or more others            wall clock + median offset, the own offset 0 included (`agreed`)

Per neighbour the sample with the smallest round trip of the last 8 counts: it bounds the error by half
its round trip (Cristian 1989; NTP's clock filter, RFC 5905 section 10). The offset in use is slewed towards
the median, so that time never jumps under a running node; before the first agreement, or beyond STEP_MS,
it steps. A wall clock that stands before this software was built is unset and does not vote. When the wall
clock itself is set, the samples taken against it are dropped: else their small round trips would outvote new
ones for minutes, and a clock set right would be wrong by what it was set. Mesh time that two others have
confirmed goes on as it was.
"""

from __future__ import annotations

from collections import deque

import msgspec

SAMPLES = 8
PEERS_MAX = 64
STEP_MS = 5_000.0
FAR_MS = 60_000.0
SLEW = 0.05
ALARM_MS = 5_000.0
SAMPLE_AGE_S = 900.0
BUILT_MS = 1_790_000_000_000


class _Sample(msgspec.Struct, frozen=True):
    at: float
    rtt_ms: float
    offset_ms: float


class MeshClock:
    """Offset of mesh time against this node's wall clock.

    All offsets are milliseconds, positive when the neighbour's clock is ahead; `now` is monotonic seconds.
    """

    def __init__(self) -> None:
        self._samples: dict[bytes, deque[_Sample]] = {}
        self._offset_ms = 0.0
        self._moved_at: float | None = None
        self._seen: tuple[int, float] | None = None
        self._confirmed = False

    def sample(self, aid: bytes, sent_ms: int, clock_ms: int, received_ms: int, now: float) -> None:
        """A ping of `sent_ms` came back at `received_ms` (own wall clock) with the peer's `clock_ms`."""
        rtt = float(received_ms - sent_ms)
        if rtt < 0 or rtt > 10_000 or clock_ms < BUILT_MS:
            return
        if aid not in self._samples and len(self._samples) >= PEERS_MAX:
            oldest = min(self._samples, key=lambda peer: self._samples[peer][-1].at)
            del self._samples[oldest]
        kept = self._samples.setdefault(aid, deque(maxlen=SAMPLES))
        kept.append(_Sample(now, rtt, clock_ms - (sent_ms + rtt / 2)))

    def forget(self, aid: bytes) -> None:
        """A neighbour left or was removed."""
        self._samples.pop(aid, None)

    def offsets(self, now: float) -> dict[bytes, float]:
        """Best offset of each neighbour heard in the last 15 minutes."""
        best = {}
        for aid, kept in self._samples.items():
            found: _Sample | None = None
            for sample in kept:
                recent = now - sample.at <= SAMPLE_AGE_S
                if recent and (found is None or sample.rtt_ms < found.rtt_ms):
                    found = sample
            if found is not None:
                best[aid] = found.offset_ms
        return best

    def target_ms(self, wall_ms: int, now: float) -> float:
        """The offset that the known clocks agree on."""
        others = sorted(self.offsets(now).values())
        if not others:
            return self._offset_ms
        if wall_ms < BUILT_MS:
            return others[len(others) // 2]
        if len(others) == 1:
            return max(0.0, others[0])
        votes = sorted([*others, 0.0])
        middle = len(votes) // 2
        return votes[middle] if len(votes) % 2 else (votes[middle - 1] + votes[middle]) / 2

    def adjust(self, wall_ms: int, now: float, slept_s: float = 0.0) -> bool:
        """Move the offset in use towards the target; call about once a second.

        Args:
            slept_s: how long the computer was suspended since it booted; the wall clock went on meanwhile.

        Returns:
            Whether somebody set the wall clock, so that the neighbours should be asked at once.
        """
        stepped = self._notice_step(wall_ms, now + slept_s)
        gap = self.target_ms(wall_ms, now) - self._offset_ms
        if self._moved_at is None or abs(gap) > STEP_MS:
            self._offset_ms += gap
        else:
            most = (now - self._moved_at) * 1000 * SLEW
            self._offset_ms += max(-most, min(most, gap))
        if self._samples:
            self._moved_at = now
        self._confirmed = self._confirmed or len(self._samples) > 1
        return stepped

    def _notice_step(self, wall_ms: int, now: float) -> bool:
        """Somebody set the wall clock: what was measured against it before says nothing any more.

        Until the next answers come mesh time goes on as it was, if it was confirmed. Else it was only this
        wall clock's, and that offset is used which is nearer to none: the one before, or the one with which
        mesh time goes on. A clock that was years off and was set right must not be corrected by those years
        once more, and one that is set again and again, from far behind to far ahead, not by their sum.
        """
        wall_before_ms, before = self._seen or (wall_ms, now)
        step_ms = (wall_ms - wall_before_ms) - (now - before) * 1000
        stepped = abs(step_ms) > STEP_MS
        if stepped:
            self._samples.clear()
            goes_on = self._offset_ms - step_ms
            far = self._confirmed and abs(step_ms) > FAR_MS
            self._offset_ms = goes_on if far else min(self._offset_ms, goes_on, key=abs)
        self._seen = (wall_ms, now)
        return stepped

    def now_ms(self, wall_ms: int) -> int:
        """Mesh time, unix milliseconds, for a reading of the own wall clock."""
        return int(wall_ms + self._offset_ms)

    @property
    def offset_ms(self) -> float:
        """Offset in use."""
        return self._offset_ms

    def believable(self, wall_ms: int, now: float, from_ms: int, until_ms: int) -> bool:
        """Whether others' certificates can be judged by this clock.

        Until two others have told us the time, mesh time at which our own certificate is not valid, because
        it has run out (`until_ms`) or has not begun (`from_ms`), is likely wrong. And were it right, the
        others would refuse us. One other is not enough: of two clocks that differ the later one counts, which
        is ours, and we would refuse the others that could outvote it.
        """
        status = self.status(wall_ms, now)
        valid = max(BUILT_MS, from_ms) <= self.now_ms(wall_ms) <= until_ms
        return status == "agreed" or (status != "unset" and valid)

    def status(self, wall_ms: int, now: float) -> str:
        """`unset`, `alone`, `two`, `disputed` (two clocks that differ beyond the bound) or `agreed`."""
        others = self.offsets(now)
        if not others:
            return "unset" if wall_ms < BUILT_MS else "alone"
        if len(others) == 1:
            return "disputed" if abs(next(iter(others.values()))) > ALARM_MS else "two"
        return "agreed"
