"""Folds: any order, any repetition, any grouping of what is known; equal to registers kept by brute force."""

from __future__ import annotations

from authors import NOTARY, NOW_MS, TAG, rec, stamp
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import folds
from mesh.core.collect import Statement
from mesh.core.record import Kind, Op, Record
from mesh.sim.model.wire import aid_of

AUTHORS = st.integers(0, 3)
LATER_MS = NOW_MS + 50
OPS = st.sampled_from([Op.PUT, Op.PUT, Op.DEL, Op.VOID])


def records(kind: Kind) -> st.SearchStrategy[list[Record]]:
    """At most one record per slot, as a path has them; of kind LOG any."""
    one = st.builds(
        lambda author, ms, op, ttl, val: rec(
            author, "kv/x", ms, kind=kind, op=op if kind != Kind.LOG else Op.PUT, ttl=ttl, val=val
        ),
        AUTHORS,
        st.integers(1, 40),
        OPS,
        st.sampled_from([None, 5, 1000]) if kind != Kind.LOG else st.sampled_from([5, 1000]),
        st.lists(st.integers(0, 9), min_size=2, max_size=2) if kind == Kind.CTR else st.integers(0, 9),
    )
    return st.lists(one, max_size=8, unique_by=lambda r: (r.aid, r.hlc if kind == Kind.LOG else 0))


def read(found: list[Record]) -> tuple[object, ...]:
    """Everything that readers of a path see."""
    return (
        folds.register(found, LATER_MS),
        folds.siblings(found, LATER_MS),
        folds.counter(found, LATER_MS),
        folds.entries(found, LATER_MS),
        folds.everyone(found, LATER_MS),
        folds.sees_of(found, aid_of(0)),
    )


@given(st.sampled_from(list(Kind)).flatmap(records), st.randoms())
def test_the_order_in_which_slots_are_known_does_not_matter(found: list[Record], rng: object) -> None:
    mixed = list(found)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert read(mixed) == read(found)


def joined(*parts: list[Record]) -> list[Record]:
    """The join of what several replicas hold: per slot the larger (hlc, H(sig))."""
    best: dict[object, Record] = {}
    for found in parts:
        for record in found:
            if record.slot not in best or record.order > best[record.slot].order:
                best[record.slot] = record
    return list(best.values())


@given(*[st.sampled_from(list(Kind)).flatmap(records)] * 3)
def test_joins_are_commutative_associative_and_idempotent(
    one: list[Record], two: list[Record], three: list[Record]
) -> None:
    def seen(found: list[Record]) -> tuple[object, ...]:
        return read(sorted(found, key=lambda record: record.slot))

    assert seen(joined(one, two)) == seen(joined(two, one))
    assert seen(joined(joined(one, two), three)) == seen(joined(one, joined(two, three)))
    assert seen(joined(one, one)) == seen(joined(one))
    assert seen(joined(joined(one, two), two)) == seen(joined(one, two))


# A step: who writes, a delete or a put, and from whom it hears everything before.
STEPS = st.lists(st.tuples(AUTHORS, st.booleans(), st.sets(AUTHORS)), max_size=14)


@given(STEPS)
def test_a_multi_value_key_equals_one_kept_by_dots(steps: list[tuple[int, bool, set[int]]]) -> None:
    """Against the multi-value register with a set of dots: each write replaces exactly what its replica had
    seen, however the news went round."""
    held: dict[int, dict[int, Record]] = {who: {} for who in range(4)}
    dots: dict[int, set[int]] = {who: set() for who in range(4)}  # all writes a replica has seen
    over: dict[int, set[int]] = {}  # what each write replaced
    alive: dict[int, Record] = {}
    for number, (who, delete, sources) in enumerate(steps, 1):
        for source in sorted(sources):
            dots[who] |= dots[source]
            for author, record in held[source].items():
                if author not in held[who] or record.hlc > held[who][author].hlc:
                    held[who][author] = record
        sees = folds.sees_of(held[who].values(), aid_of(who))
        op = Op.DEL if delete else Op.PUT
        record = rec(who, "kv/x", number, kind=Kind.MV, op=op, sees=sees, val=number)
        over[number] = set(dots[who])
        dots[who].add(number)
        held[who][who] = record
        alive[number] = record
    for who in range(4):
        replaced = set().union(*(over[number] for number in dots[who]))
        right = {number for number in dots[who] - replaced if alive[number].op == Op.PUT}
        assert {record.val for record in folds.siblings(held[who].values(), LATER_MS)} == right


def test_a_set_element_is_there_while_an_add_is_that_no_remove_has_seen() -> None:
    """Add wins: one who removes and one who adds without having heard of each other leave the element in."""
    add = rec(1, "kv/s/e", 2, kind=Kind.MV, sees={}, val=True)
    remove = rec(0, "kv/s/e", 3, kind=Kind.MV, op=Op.DEL, sees={aid_of(2): stamp(1)})
    first = rec(2, "kv/s/e", 1, kind=Kind.MV, sees={}, val=True)
    assert [record.aid for record in folds.siblings([add, remove, first], LATER_MS)] == [aid_of(1)]
    seen = rec(3, "kv/s/e", 4, kind=Kind.MV, op=Op.DEL, sees=folds.sees_of([add, remove, first], aid_of(3)))
    assert folds.siblings([add, remove, first, seen], LATER_MS) == []


@given(st.lists(st.tuples(AUTHORS, st.integers(0, 99), st.integers(0, 99)), max_size=6))
def test_a_counter_is_the_sum_of_what_each_author_says_of_itself(said: list[tuple[int, int, int]]) -> None:
    last = {who: (plus, minus) for who, plus, minus in said}
    slots = [rec(who, "kv/c", 1, kind=Kind.CTR, val=list(pair)) for who, pair in last.items()]
    assert folds.counter(slots, LATER_MS) == sum(plus - minus for plus, minus in last.values())


@given(st.one_of(st.none(), st.text(), st.lists(st.integers(-5, 5), max_size=3), st.booleans()))
def test_nonsense_in_a_counter_counts_nothing_and_never_fails(value: object) -> None:
    plus, minus = folds.totals(rec(0, "kv/c", 1, kind=Kind.CTR, val=value))
    assert plus >= 0
    assert minus >= 0


@given(st.integers(1, 100), st.integers(0, 200))
def test_an_expired_value_reads_as_deleted_never_as_absent(ttl: int, later: int) -> None:
    old = rec(0, "kv/r", 1, val="old")
    short = rec(1, "kv/r", 2, val="short", ttl=ttl)
    shown = folds.register([old, short], NOW_MS + later)
    assert shown == (short if later < 2 + ttl else None)


@given(st.sampled_from(list(Kind)).flatmap(records))
def test_a_register_shows_the_newest_statement_or_nothing(found: list[Record]) -> None:
    spoken = [record for record in found if record.kind == Kind.REG and record.op != Op.VOID]
    best = max(spoken, key=lambda record: (record.stamp, record.aid), default=None)
    shown = folds.register(found, LATER_MS)
    assert shown == (best if best is not None and folds.live(best, LATER_MS) else None)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_record_said_again_keeps_its_place(first: int, second: int) -> None:
    """`asof`: a delete that is said again must not beat what was written after it first was."""
    again = NOTARY.sign(aid_of(0), TAG, stamp(90), Statement("kv/r", Kind.REG, op=Op.DEL, asof=stamp(first)))
    other = rec(1, "kv/r", second, val="v")
    newest = (stamp(second), aid_of(1)) > (stamp(first), aid_of(0))
    assert (folds.register([again, other], LATER_MS) == other) == newest
