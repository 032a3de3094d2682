"""How far away a peer is: round trips as measured, with their error.

A link's estimate is smoothed as TCP does it (Jacobson and Karels 1988, gains 1/8 and 1/4). Between two nodes
of which neither can be asked to measure, round trips to common landmarks bound the answer by the triangle
inequality: it lies between |a - b| and a + b for every landmark. Coordinates (Vivaldi) are not used: the
members of a zone are near each other by definition, and a node takes too few samples to place itself well.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Rtt(msgspec.Struct):
    """A smoothed round trip, seconds. `samples` 0 means never measured.

    Attributes:
        mean_s: smoothed round trip.
        error_s: smoothed deviation from it (jitter).
        samples: measurements taken.
    """

    mean_s: float = 0.0
    error_s: float = 0.0
    samples: int = 0

    def add(self, sample_s: float) -> None:
        """Take one measurement in; negative ones (a clock that stepped) are ignored."""
        if sample_s < 0:
            return
        if self.samples == 0:
            self.mean_s, self.error_s = sample_s, sample_s / 2
        else:
            self.error_s += (abs(sample_s - self.mean_s) - self.error_s) / 4
            self.mean_s += (sample_s - self.mean_s) / 8
        self.samples += 1


def through(landmarks: Iterable[tuple[float, float]]) -> tuple[float, float] | None:
    """Estimate a round trip from pairs (A to landmark, landmark to B), seconds.

    Returns:
        (estimate, error), the true value lying within estimate ± error if the triangle inequality holds
        (in the Internet it mostly does); None without landmarks.
    """
    low, high = 0.0, float("inf")
    for one, other in landmarks:
        low, high = max(low, abs(one - other)), min(high, one + other)
    if high == float("inf"):
        return None
    low = min(low, high)
    return (low + high) / 2, (high - low) / 2
