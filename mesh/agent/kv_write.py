"""What to say for a write, judged on the slots as they are inside the writer's transaction.

Each function is given the key's slots and what is visible of them, and returns statements; refusals are
raised before anything is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mesh.agent.kv_keys import COUNTER_GONE, FLAG, LOG_GONE, element_path, field_path
from mesh.agent.kv_read import Found, Inherited, Slots, element_order, totals, totals_gone
from mesh.core import folds
from mesh.core.collect import Statement
from mesh.core.record import Kind, Op, Record
from mesh.errors import Conflict, NotFound, UsageError
from mesh.wire.codec import VALUE_BYTES_MAX, check_user_value, encode

LOG_TTL_MS = 30 * 86_400_000
ELEMENTS_MAX = 10_000
COUNT_MAX = (1 << 63) - 1
Write = Callable[["View"], Sequence[Statement]]


class View:
    """A key inside the transaction.

    Attributes:
        found: what is visible, by type.
        me: our own aid.
    """

    def __init__(
        self,
        key: str,
        slots: Slots,
        found: Mapping[str, Found],
        me: bytes,
        now_ms: int,
        inherited: Inherited | None = None,
    ) -> None:
        self.key = key
        self.slots = slots
        self.found = found
        self.me = me
        self.now_ms = now_ms
        self.inherited = inherited

    def take(self, type: str) -> Found | None:
        """What is visible of a type that is to be written.

        Raises:
            Conflict: the key is of another type.
        """
        if type not in self.found and self.found:
            there = " and ".join(self.found)
            raise Conflict(
                f"key {self.key!r} is a {there}, not a {type}", f"delete it first, or write it as a {there}"
            )
        return self.found.get(type)

    def sees(self, records: Iterable[Record], kind: Kind) -> dict[bytes, int] | None:
        """What a write here has seen; None when there is nothing to see."""
        return folds.sees_of(records, self.me, kind) or None

    def own(self, records: Iterable[Record], kind: Kind) -> Record | None:
        """Our own slot among these."""
        return next((rec for rec in records if rec.aid == self.me and rec.kind == kind), None)


def check_value(value: Any) -> None:
    """Refuse what cannot be stored.

    Raises:
        UsageError: too large, or of a type or shape that CBOR between members does not take.
    """
    check_user_value(value)
    size = _size(value)
    if size > VALUE_BYTES_MAX:
        raise UsageError(
            f"the value has {size} bytes, at most {VALUE_BYTES_MAX} are allowed",
            "keep large data elsewhere and store where it is",
        )


def _size(value: Any) -> int:
    """Bytes of text and bytes as they are, of anything else as it is encoded."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    return len(encode(value)) if isinstance(value, (list, dict)) else 0


# -- reg, mv, flag ------------------------------------------------------------------------------------------


def put_register(view: View, value: Any, ttl_ms: int | None) -> list[Statement]:
    """reg: the newest write counts."""
    view.take("reg")
    sees = view.sees(view.slots.plain, Kind.REG)
    return [Statement(view.slots.base, Kind.REG, value, ttl=ttl_ms, sees=sees)]


def put_multi(view: View, value: Any, ttl_ms: int | None) -> list[Statement]:
    """mv: replaces what was seen."""
    view.take("mv")
    sees = view.sees(view.slots.plain, Kind.MV)
    return [Statement(view.slots.base, Kind.MV, value, ttl=ttl_ms, sees=sees or {})]


def put_flag(view: View, value: Any, ttl_ms: int | None) -> list[Statement]:
    """flag: a reg of its own that holds a bool."""
    view.take("flag")
    if not isinstance(value, bool):
        raise UsageError(f"a flag is true or false, not {value!r:.60}")
    sees = view.sees(view.slots.flag, Kind.REG)
    return [Statement(view.slots.base + FLAG, Kind.REG, value, ttl=ttl_ms, sees=sees)]


# -- counter ------------------------------------------------------------------------------------------------


def add(view: View, by: int) -> list[Statement]:
    """counter: our own totals grow."""
    view.take("counter")
    if isinstance(by, bool) or not isinstance(by, int):
        raise UsageError(f"a counter is changed by a whole number, not {by!r:.60}")
    plus, minus = folds.totals(view.own(view.slots.plain, Kind.CTR))
    gone_plus, gone_minus = totals_gone(view.slots.counter_gone).get(view.me, (0, 0))
    plus, minus = max(plus, gone_plus), max(minus, gone_minus)  # a restored backup may have fewer
    plus, minus = plus + max(by, 0), minus + max(-by, 0)
    if max(plus, minus) > COUNT_MAX:
        raise UsageError(f"counter {view.key!r} would exceed {COUNT_MAX}")
    return [Statement(view.slots.base, Kind.CTR, [plus, minus])]


def put_counter(view: View, value: Any, ttl_ms: int | None) -> list[Statement]:
    """counter: the difference to what is visible here."""
    if ttl_ms is not None:
        raise UsageError("a counter takes no ttl")
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"a counter is a whole number, not {value!r:.60}")
    found = view.take("counter")
    return add(view, value - (found.value if found else 0))


# -- sets and maps ------------------------------------------------------------------------------------------


def change_set(
    view: View, add: Sequence[Any], remove: Sequence[Any], ttl_ms: int | None = None
) -> list[Statement]:
    """set: one mv path for each element; a concurrent add wins over a remove."""
    view.take("set")
    base = view.slots.base
    said: dict[str, Statement] = {}
    for element in remove:
        path = element_path(base, _element(element))
        if folds.siblings(view.slots.elements.get(path, ()), view.now_ms):
            said[path] = _element_statement(view, path, None, Op.DEL)
    for element in add:
        path = element_path(base, _element(element))
        said[path] = _element_statement(view, path, element, Op.PUT, ttl_ms)
    _check_many(view, said)
    return list(said.values())


def _element_statement(view: View, path: str, value: Any, op: Op, ttl_ms: int | None = None) -> Statement:
    records = view.slots.elements.get(path) or view.slots.fields.get(path) or []
    return Statement(path, Kind.MV, value, op, ttl_ms, sees=view.sees(records, Kind.MV) or {})


def _element(value: Any) -> Any:
    if not isinstance(value, (str, int, float, bytes)):
        raise UsageError(f"a set holds text, numbers, bools and bytes, not {value!r:.60}")
    return value


def _check_many(view: View, said: Mapping[str, Statement]) -> None:
    if len(said) > ELEMENTS_MAX:
        raise UsageError(f"{len(said)} changes of {view.key!r} at once, at most {ELEMENTS_MAX} are allowed")


def put_set(view: View, value: Any, ttl_ms: int | None) -> list[Statement]:
    """set: the difference to what is visible here."""
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"a set is a list of elements, not {value!r:.60}")
    found = view.take("set")
    there = {element_order(element): element for element in (found.value if found else ())}
    wanted = {element_order(_element(element)): element for element in value}
    return change_set(
        view,
        [element for order, element in wanted.items() if order not in there],
        [element for order, element in there.items() if order not in wanted],
        ttl_ms,
    )


def change_map(
    view: View, set: Mapping[str, Any], delete: Iterable[str], ttl_ms: int | None = None
) -> list[Statement]:
    """map: one mv path for each field."""
    view.take("map")
    said: dict[str, Statement] = {}
    for name in delete:
        path = field_path(view.slots.base, name)
        if folds.siblings(view.slots.fields.get(path, ()), view.now_ms):
            said[path] = _element_statement(view, path, None, Op.DEL)
    for name, value in set.items():
        path = field_path(view.slots.base, name)
        said[path] = _element_statement(view, path, [name, value], Op.PUT, ttl_ms)
    _check_many(view, said)
    return list(said.values())


def put_map(view: View, value: Any, ttl_ms: int | None) -> list[Statement]:
    """map: the difference to what is visible here."""
    if not isinstance(value, dict):
        raise UsageError(f"a map is an object, not {value!r:.60}")
    found = view.take("map")
    there: dict[str, Any] = found.value if found else {}
    changed = {
        name: wanted for name, wanted in value.items() if name not in there or not _same(there[name], wanted)
    }
    return change_map(view, changed, [name for name in there if name not in value], ttl_ms)


# -- logs ---------------------------------------------------------------------------------------------------


def append(view: View, values: Sequence[Any], ttl_ms: int | None) -> list[Statement]:
    """log: every entry is its own slot, and ends after its ttl."""
    view.take("log")
    return [Statement(view.slots.base, Kind.LOG, value, ttl=ttl_ms or LOG_TTL_MS) for value in values]


def put_log(view: View, value: Any, ttl_ms: int | None) -> list[Statement]:
    """log: append each element."""
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"a log is put as a list of entries, not {value!r:.60}")
    return append(view, value, ttl_ms)


PUT: dict[str, Callable[[View, Any, int | None], list[Statement]]] = {
    "reg": put_register,
    "mv": put_multi,
    "flag": put_flag,
    "counter": put_counter,
    "set": put_set,
    "map": put_map,
    "log": put_log,
}


# -- compare and set, delete --------------------------------------------------------------------------------


def compare(view: View, type: str, expect: Mapping[str, Any]) -> None:
    """Refuse unless the state is as expected.

    Raises:
        Conflict: it is not; the message says what is there.
    """
    found = view.take(type)
    if found is None:
        if not expect.get("absent"):
            raise Conflict(f"key {view.key!r} is not there", "read it again and decide anew")
        return
    if "hlc" in expect:
        holds = str(found.newest.stamp) == str(expect["hlc"]) and not (type == "mv" and found.conflicts)
    else:
        holds = "value" in expect and _same(found.value, expect["value"])
    if not holds:
        also = f" beside {len(found.conflicts)} more" if found.conflicts else ""
        raise Conflict(
            f"key {view.key!r} holds {found.value!r:.120} of hlc {found.newest.stamp}{also}",
            "read it again and decide anew",
        )


def _same(one: Any, other: Any) -> bool:
    """Equality that tells 1 from true, as CBOR does."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def delete(view: View, type: str | None) -> list[Statement]:
    """Take away what is visible of one type.

    Raises:
        NotFound: nothing is.
    """
    name = type or next(iter(view.found), None)
    if name is None or name not in view.found:
        what = f"{type} " if type else ""
        raise NotFound(f"there is no {what}key {view.key!r}", "`meshctl kv ls` lists keys")
    slots, base = view.slots, view.slots.base
    if name == "reg":
        return [Statement(base, Kind.REG, op=Op.DEL, sees=view.sees(slots.plain, Kind.REG))]
    if name == "mv":
        return [Statement(base, Kind.MV, op=Op.DEL, sees=view.sees(slots.plain, Kind.MV) or {})]
    if name == "flag":
        return [Statement(base + FLAG, Kind.REG, op=Op.DEL, sees=view.sees(slots.flag, Kind.REG))]
    if name == "counter":
        return [_counter_gone(view)]
    if name == "log":
        return [_log_gone(view)]
    group = slots.elements if name == "set" else slots.fields
    present = [path for path, records in group.items() if folds.siblings(records, view.now_ms)]
    return [_element_statement(view, path, None, Op.DEL) for path in present]


def _counter_gone(view: View) -> Statement:
    """What is there now, by author, on top of what was deleted before."""
    gone = totals_gone(view.slots.counter_gone)
    for aid, (plus, minus) in totals(view.slots, view.now_ms, view.inherited).items():
        old = gone.get(aid, (0, 0))
        gone[aid] = (max(plus, old[0]), max(minus, old[1]))
    pairs = {aid: list(pair) for aid, pair in sorted(gone.items())}
    return Statement(view.slots.base + COUNTER_GONE, Kind.ALL, pairs)


def _log_gone(view: View) -> Statement:
    """The newest stamp of each author; needed as long as the longest-lived of these entries."""
    newest: dict[bytes, int] = {}
    until_ms = view.now_ms
    for aid, (hlc, expiry_ms) in view.slots.log.log_ends(view.slots.base).items():
        newest[aid] = hlc
        until_ms = max(until_ms, expiry_ms)
    own = view.own(view.slots.log_gone, Kind.ALL)
    if own is not None and isinstance(own.val, dict):
        for aid, hlc in own.val.items():
            newest[aid] = max(hlc, newest.get(aid, 0))
        until_ms = max(until_ms, own.expiry_ms or 0)
    ttl_ms = until_ms - view.now_ms + LOG_GONE_SLACK_MS
    return Statement(view.slots.base + LOG_GONE, Kind.ALL, dict(sorted(newest.items())), ttl=ttl_ms)


LOG_GONE_SLACK_MS = 600_000
