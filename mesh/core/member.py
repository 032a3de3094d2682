"""One member as one node holds it. All times are the machine's own; see `liveness.py`."""

from __future__ import annotations

import msgspec

from mesh.core.lease import Evidence, Lease
from mesh.core.rings import Place
from mesh.core.vitals import GONE_FOR_NOW, LivenessConfig, State

NEVER = float("-inf")
FOREVER = float("inf")
DEATHS_KEPT = 8


class Charge(msgspec.Struct, frozen=True):
    """One accuser's standing word."""

    inc: int
    evidence: Evidence


class Member(msgspec.Struct):
    """What we hold of one member.

    Attributes:
        inc: its incarnation, from its own records only.
        hlc: stamp of its newest lease, 0 before the first.
        fresh: when that lease arrived here.
        heard: when anything came from it directly.
        risen: since when it is not dead.
        held: since when enough accusations stand, or None.
        why: what made the present state.
        dead_inc: the incarnation the verdict was about.
    """

    aid: bytes
    place: Place
    state: State
    since: float
    fresh: float
    inc: int = 0
    hlc: int = 0
    lease: Lease | None = None
    heard: float = NEVER
    risen: float = NEVER
    asleep_until: float = NEVER
    held: float | None = None
    why: str = ""
    seen_by: tuple[bytes, ...] = ()
    dead_inc: int = 0
    charges: dict[bytes, Charge] = {}
    deaths: tuple[float, ...] = ()

    def flapping(self, config: LivenessConfig, t: float) -> bool:
        """Whether it died so often lately that no work should be given to it yet."""
        if not self.deaths or self.deaths[-1] < t - config.flap_window_s:
            return False
        recent = sum(death > self.deaths[-1] - config.flap_window_s for death in self.deaths)
        settled = self.state not in GONE_FOR_NOW and t - self.risen >= config.flap_hold_s
        return recent >= config.flap_deaths and not settled
