"""How the results of checks become the health of a service, and what an owner tells others of it.

    unknown ──rise passes──▶ healthy ◀──rise passes── unhealthy, error
       │                       │  ▲
       └──fall failures────────┤  └── the last pass came with a warning, or late: degraded
                               └──fall failures──▶ unhealthy; error if the last could not even be tried

As in HAProxy, `rise` passes in a row raise and `fall` failures lower, so that one lost packet moves nobody's
traffic. Of several checks the worst counts; of several endpoints that one check asks, it is enough that one
is well. A check that the program reports itself counts at once, and is unhealthy when the service's TTL
passes without a report.

    record at `health/<aid>` (scope live, kind all, by the node <aid>)
    {"services": {service id: [health, mesh time of the change in ms, why]}}

names the services that are not plainly healthy: what is not named there is. It is renewed like every live
record, and said by every node that checks anything, so that its absence means "not known" and not "healthy".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgspec

from mesh.core.checks import Check

HEALTH_PREFIX = "health/"
WORDS_MAX = 1024
WHY_CHARS_MAX, WHYS_MAX = 80, 256
OUTPUT_CHARS_MAX = 1024


class Health(IntEnum):
    """What the checks of a service say."""

    UNKNOWN = 0
    HEALTHY = 1
    DEGRADED = 2
    UNHEALTHY = 3
    ERROR = 4

    @property
    def word(self) -> str:
        """As people read it."""
        return self.name.lower()

    @property
    def usable(self) -> bool:
        """Whether calls may be sent to it."""
        return self in (Health.HEALTHY, Health.DEGRADED)


# Of several checks the worst counts.
_SEVERITY = (Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN, Health.UNHEALTHY, Health.ERROR)
_KNOWN = frozenset(int(health) for health in Health)


def worst(states: Iterable[Health]) -> Health:
    """The state of a service whose checks have these; without checks it is healthy."""
    return max(states, key=_SEVERITY.index, default=Health.HEALTHY)


def together(states: Sequence[Health]) -> Health:
    """The state of one check of several endpoints: degraded while some of them fail and others do not."""
    usable = [state for state in states if state.usable]
    failing = any(state in (Health.UNHEALTHY, Health.ERROR) for state in states)
    if usable:
        return Health.DEGRADED if failing else worst(usable)
    return Health.UNKNOWN if Health.UNKNOWN in states else worst(states)


def overall(gauges: Iterable[Gauge]) -> Health:
    """The state of a service by its checks: of each the endpoints together, of all the worst."""
    groups: dict[int, list[Health]] = {}
    for gauge in gauges:
        groups.setdefault(gauge.check.group, []).append(gauge.health)
    return worst(together(states) for states in groups.values())


def why(gauges: Iterable[Gauge]) -> str:
    """The output of the check that is worst; none when all is well."""
    tried = [gauge for gauge in gauges if gauge.last is not None]
    found = max(tried, key=lambda gauge: _SEVERITY.index(gauge.health), default=None)
    if found is None or found.last is None or found.health == Health.HEALTHY:
        return ""
    return found.last.output


class Result(IntEnum):
    """Of one run of a check. ERROR: it could not be tried."""

    PASS = 0
    WARN = 1
    FAIL = 2
    ERROR = 3


class Outcome(msgspec.Struct, frozen=True):
    """What one run found; `output` is safe to print."""

    result: Result
    output: str = ""
    took_s: float = 0.0


class Gauge(msgspec.Struct):
    """One check and where it stands.

    Attributes:
        passes, failures: results of one kind in a row, counted up to rise and fall.
    """

    check: Check
    health: Health = Health.UNKNOWN
    passes: int = 0
    failures: int = 0
    last: Outcome | None = None
    last_at: float | None = None

    def take(self, outcome: Outcome, now: float) -> bool:
        """Count one result; returns whether the health changed."""
        before = self.health
        self.last, self.last_at = outcome, now
        if outcome.result in (Result.PASS, Result.WARN):
            self.passes, self.failures = min(self.passes + 1, self.check.rise), 0
            if before.usable or self.passes >= self.check.rise:
                self.health = Health.DEGRADED if outcome.result == Result.WARN else Health.HEALTHY
        else:
            self.passes, self.failures = 0, min(self.failures + 1, self.check.fall)
            if self.failures >= self.check.fall:
                self.health = Health.ERROR if outcome.result == Result.ERROR else Health.UNHEALTHY
        return self.health != before


# -- what an owner tells others ---------------------------------------------------------------------------


class Word(msgspec.Struct, frozen=True, gc=False):
    """An owner's word on one of its services: its health, since when (mesh time), and why."""

    health: Health
    changed_ms: int
    why: str = ""


def read_words(value: Any) -> dict[str, Word]:
    """The value of a `health/<aid>` record: service id -> word. What cannot be read is left out."""
    services = value.get("services") if isinstance(value, dict) else None
    if not isinstance(services, dict):
        return {}
    found: dict[str, Word] = {}
    for id_, word in services.items():
        if len(found) >= WORDS_MAX:
            break
        if not (isinstance(id_, str) and isinstance(word, list) and len(word) >= 2):
            continue
        state, changed_ms = word[:2]
        why = word[2] if len(word) > 2 else ""
        if isinstance(state, int) and state in _KNOWN and isinstance(changed_ms, int):
            kept = why[:WHY_CHARS_MAX] if isinstance(why, str) and why.isprintable() else ""
            found[id_] = Word(Health(state), changed_ms, kept)
    return found


def words_value(words: Mapping[str, Word]) -> dict[str, Any]:
    """The value of a `health/<aid>` record; of very many the reasons are left out, so that it fits."""
    brief = len(words) > WHYS_MAX
    said: dict[str, list[Any]] = {}
    for id_, word in sorted(words.items())[:WORDS_MAX]:
        said[id_] = [int(word.health), word.changed_ms]
        if word.why and not brief:
            said[id_].append(word.why[:WHY_CHARS_MAX])
    return {"services": said}


def shown(text: str, chars_max: int = OUTPUT_CHARS_MAX) -> str:
    """Output of a program or a server as one line that prints safely: escapes in the place of controls."""
    kept = text[: chars_max + 1]
    line = "".join(char if char.isprintable() else _escape(char) for char in kept.strip())
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"


def ending(text: str, chars_max: int = OUTPUT_CHARS_MAX - 64) -> str:
    """As `shown`, but of a long text its last lines, as many as have room; marked by an ellipsis."""
    text = text.strip()
    first, _, lines = text[-chars_max:].partition("\n")
    kept = text if len(text) <= chars_max else lines or first
    line = "".join(char if char.isprintable() else _escape(char) for char in kept)
    return line if kept is text and len(line) <= chars_max else "…" + line[1 - chars_max :]


def _escape(char: str) -> str:
    return " " if char in "\n\t" else char.encode("unicode_escape").decode()
