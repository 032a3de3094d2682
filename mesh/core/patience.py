"""How long to wait before asking again for an author whose records had to be refused.

What lies ahead of the clock, beyond a certificate or over a quota is refused whole or in part, and the
head of its author stays where it is. Neighbours go on to announce more. Asked at once they would send the
same again, for ever: so each refusal doubles the time until the next question, from a second to half a
minute. Records of the author that are taken end it; so does a clock that is set right, for all authors.
"""

from __future__ import annotations

from mesh.core.tidings import Key

FIRST_S, LAST_S = 1.0, 30.0
KEYS_MAX = 65_536


class Patience:
    """Authors that were refused, with the time to wait and until when."""

    def __init__(self) -> None:
        self._held: dict[Key, tuple[float, float]] = {}

    def refused(self, key: Key, now: float) -> float:
        """Records of an author were refused; returns until when nobody is to be asked for it."""
        wait_s, until = self._held.get(key, (FIRST_S / 2, now))
        if now < until:
            return until  # what was pushed unasked
        if len(self._held) >= KEYS_MAX:
            self._held.clear()
        wait_s = min(2 * wait_s, LAST_S)
        self._held[key] = wait_s, now + wait_s
        return now + wait_s

    def until(self, key: Key) -> float:
        """Until when nobody is to be asked for an author."""
        return self._held[key][1] if key in self._held else float("-inf")

    def taken(self, key: Key) -> None:
        """Records of an author were taken, or it is gone."""
        self._held.pop(key, None)

    def over(self) -> None:
        """What was refused may be taken now."""
        self._held.clear()
