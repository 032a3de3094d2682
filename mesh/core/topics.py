"""Topic names and patterns, with MQTT's rules (MQTT 5.0, section 4.7), so that users find what they know.

A topic is levels joined by "/": `sensors/room 1/temperature`. A pattern may hold wildcards:

    +    one whole level, whatever it is:     sensors/+/temperature
    #    this level and all below, last only: sensors/#    (matches `sensors` itself too)

A topic whose first level begins with "$" is the system's and is not matched by a leading wildcard.
Topics are carried at record paths under `topic/`, percent-encoded like users' keys: one log record of the
live scope holds a batch of messages of one topic.

Few messages leave at once, many are gathered: what a record costs hardly depends on how many are in it. Where
few ends says `Pace`, a leaky bucket (Turner 1986).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from mesh.core.record import user_key, user_path
from mesh.errors import PeerError, UsageError

ROOM = "topic"
PREFIX = ROOM + "/"
PATTERN_CHARS_MAX = 512
LEVELS_MAX = 64
CACHE_MAX = 1024
BATCH_MAX = 1024
IDENT_CHARS_MAX = 128
QOS = (0, 1, 2)
PROMPT_PER_S = 250.0
PROMPT_BURST = 50.0
HEARD_WEIGHT = 4.0

T = TypeVar("T", bound=Hashable)


def check_topic(topic: str) -> None:
    """Refuse a topic that cannot be published to.

    Raises:
        UsageError: empty, holds a wildcard or NUL, has too many levels, or is too long once encoded.
    """
    if not topic:
        raise UsageError("the topic is empty")
    if "+" in topic or "#" in topic:
        raise UsageError(f"topic {topic[:80]!r} holds a wildcard", "only `sub` takes + and #")
    _check_text(topic)
    topic_path(topic)


def check_pattern(pattern: str) -> None:
    """Refuse a malformed pattern.

    Raises:
        UsageError: empty, too long, or a wildcard that is not a level of its own (`#`: the last level).
    """
    if not pattern:
        raise UsageError("the topic pattern is empty", "use # for every topic")
    _check_text(pattern)
    levels = pattern.split("/")
    for index, level in enumerate(levels):
        if ("+" in level or "#" in level) and len(level) > 1:
            raise UsageError(
                f"in {pattern[:80]!r} the wildcard in {level[:40]!r} is not a level of its own", "write a/+/b"
            )
        if level == "#" and index != len(levels) - 1:
            raise UsageError(f"in {pattern[:80]!r} # is not the last level", "# matches everything below it")


def _check_text(text: str) -> None:
    if len(text) > PATTERN_CHARS_MAX:
        raise UsageError(f"topic {text[:40]!r}... has {len(text)} characters, at most {PATTERN_CHARS_MAX}")
    if text.count("/") >= LEVELS_MAX:
        raise UsageError(f"topic {text[:40]!r}... has more than {LEVELS_MAX} levels")
    if "\0" in text:
        raise UsageError(f"topic {text[:80]!r} holds a NUL character")


def topic_path(topic: str) -> str:
    """The record path of a topic.

    Raises:
        UsageError: longer than 255 bytes once encoded.
    """
    return user_path(topic, ROOM)


def topic_of(path: str) -> str:
    """The topic of a record path under `topic/`, the inverse of `topic_path`."""
    return user_key(path)


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic belongs to a (well-formed) pattern."""
    wanted, levels = pattern.split("/"), topic.split("/")
    if levels[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def literal_prefix(pattern: str) -> str:
    """The path prefix under which every topic of a pattern lies: what a scan has to read."""
    literal = []
    for level in pattern.split("/"):
        if level in ("+", "#"):
            break
        literal.append(level)
    if len(literal) == pattern.count("/") + 1:
        return topic_path(pattern)
    # `a/#` also matches `a`, so the scan cannot ask for the slash.
    prefix = "/".join(literal)
    return topic_path(prefix) if prefix else PREFIX


class _Level(Generic[T]):
    __slots__ = ("children", "tokens")

    def __init__(self) -> None:
        self.children: dict[str, _Level[T]] = {}
        self.tokens: dict[T, None] = {}


class PatternIndex(Generic[T]):
    """Finds the tokens whose patterns match a topic, in time that follows the topic and not the patterns.

    A tree with one step per level; the answers for recent topics are kept until a pattern changes.
    """

    def __init__(self) -> None:
        self._root: _Level[T] = _Level()
        self._cache: dict[str, list[T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, pattern: str, token: T) -> None:
        """Let `match` return `token` for topics of a well-formed pattern."""
        level = self._root
        for name in pattern.split("/"):
            level = level.children.setdefault(name, _Level())
        if token not in level.tokens:
            level.tokens[token] = None
            self._count += 1
        self._cache.clear()

    def remove(self, pattern: str, token: T) -> None:
        """Undo `add`; an unknown pair is ignored."""
        trail: list[tuple[_Level[T], str]] = []
        level = self._root
        for name in pattern.split("/"):
            if name not in level.children:
                return
            trail.append((level, name))
            level = level.children[name]
        if token not in level.tokens:
            return
        del level.tokens[token]
        self._count -= 1
        for parent, name in reversed(trail):
            child = parent.children[name]
            if child.tokens or child.children:
                break
            del parent.children[name]
        self._cache.clear()

    def match(self, topic: str) -> list[T]:
        """Tokens of all patterns that match, each once, in the order of their patterns' levels."""
        found = self._cache.get(topic)
        if found is None:
            if len(self._cache) >= CACHE_MAX:
                self._cache.clear()
            found = self._cache[topic] = list(dict.fromkeys(self._find(topic)))
        return found

    def _find(self, topic: str) -> Iterator[T]:
        levels = topic.split("/")
        system = levels[0].startswith("$")
        stack = [(self._root, 0)]
        while stack:
            level, depth = stack.pop()
            wild = not (system and depth == 0)
            if wild and (below := level.children.get("#")):
                yield from below.tokens
            if depth == len(levels):
                yield from level.tokens
                continue
            if wild and (one := level.children.get("+")):
                stack.append((one, depth + 1))
            if exact := level.children.get(levels[depth]):
                stack.append((exact, depth + 1))


class Pace:
    """Whether so little comes that nothing needs to wait for company: at most PROMPT_PER_S on average.

    What others publish weighs HEARD_WEIGHT: then everybody has everybody's records to verify and pass on,
    and programs that wait for their calls would be slowed to what ungathered records allow.

    The bucket holds two bursts and lets go below one, so that it does not change its mind at each message.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._at = float("-inf")

    def note(self, count: float, now: float) -> None:
        """So many came."""
        self._leak(now)
        self._level = min(self._level + count, 2 * PROMPT_BURST)

    def calm(self, now: float) -> bool:
        """Whether it is little at present."""
        self._leak(now)
        return self._level <= PROMPT_BURST

    def _leak(self, now: float) -> None:
        self._level = max(0.0, self._level - (now - self._at) * PROMPT_PER_S)
        self._at = now


class TopicEvent(NamedTuple):
    """One message of a topic as it travels. `number` grows with every message of its publisher; `ident` is
    the publishing program's own id, or None."""

    number: int
    qos: int
    ident: str | None
    payload: Any


def batch_value(events: Sequence[TopicEvent]) -> list[Any]:
    """The value of the record that carries messages of one topic, in order."""
    return [any(event.qos for event in events), [list(event) for event in events]]


def count_batch(value: Any) -> int:
    """How many messages a record says that it carries; nothing of it is believed yet."""
    events = value[1] if isinstance(value, list) and len(value) >= 2 else None
    return len(events) if isinstance(events, list) else 1


def read_batch(value: Any) -> tuple[bool, list[TopicEvent]]:
    """Whether the record wants to be acknowledged, and its messages.

    Raises:
        PeerError: malformed.
    """
    if not (isinstance(value, list) and len(value) >= 2 and isinstance(value[0], bool)):
        raise PeerError("a malformed batch of messages")
    if not isinstance(value[1], list) or len(value[1]) > BATCH_MAX:
        raise PeerError("a malformed batch of messages")
    return value[0], [_event(raw) for raw in value[1]]


def _event(raw: Any) -> TopicEvent:
    if not isinstance(raw, list) or len(raw) < 4:
        raise PeerError("a malformed message in a batch")
    number, qos, ident, payload = raw[:4]
    if not isinstance(number, int) or qos not in QOS or isinstance(qos, bool):
        raise PeerError("a malformed message in a batch")
    if ident is not None and not (isinstance(ident, str) and len(ident) <= IDENT_CHARS_MAX):
        raise PeerError("a malformed message id")
    return TopicEvent(number, qos, ident, payload)
