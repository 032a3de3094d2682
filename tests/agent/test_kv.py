"""Users' keys on real stores: what is written is read, what clashes is shown, nothing unseen is lost."""

from __future__ import annotations

import random

import pytest
import trio

from mesh.agent.author import Author
from mesh.agent.kv import Kv
from mesh.config import Store as Settings
from mesh.core import sync
from mesh.core.collect import Statement
from mesh.core.record import Kind
from mesh.errors import Conflict, Denied, Failed, NotFound, StoreFull, TimedOut, UsageError
from mesh.identity.keys import NodeKey
from mesh.store import rows
from mesh.store.store import Store

MESH_ID = b"mesh-of-the-test"
START_MS = 1_800_000_000_000
OPTIONS = {"scope": "mesh", "durable": "local"}


class Bench:
    """Nodes that share a clock and hand each other their state when told."""

    def __init__(self, tmp_path, nursery):
        self.now_ms = START_MS
        self.tmp_path = tmp_path
        self.nursery = nursery
        self.nodes = []
        self.names = {}

    async def node(self, **parts):
        number = len(self.nodes)
        key = NodeKey.from_seed(bytes([number + 1]) * 32)
        self.names[key.aid] = (key.peer_id, f"node-{number + 1}")
        home = self.tmp_path / str(number)
        home.mkdir()
        settings = Settings(ballast_bytes=0)
        store = Store.open(home / "store", mesh_id=MESH_ID, zone="default", settings=settings)
        await self.nursery.start(store.run)
        limits = parts.pop("limits", None)
        author = Author(store, key, MESH_ID, "default", lambda: self.now_ms, limits)
        kv = Kv(store, author, now_ms=lambda: self.now_ms, who=self.names.__getitem__, **parts)
        self.nodes.append(kv)
        return kv

    async def exchange(self, *nodes):
        """Everybody gets everybody's records."""
        nodes = nodes or self.nodes
        for source in nodes:
            for target in nodes:
                if source is not target:
                    await self.copy(source, target)

    async def copy(self, source, target):
        for scope in ("m", "z"):
            with source._store.read(scope) as log:
                parts = [(aid, list(log.since(aid, 0))) for aid, _ in log.authors()]
            for aid, records in parts:

                def job(txn, scope=scope, aid=aid, records=records):
                    part = sync.Part(0, records[-1].hlc, False, records, False)
                    delta = sync.delta_of(scope, aid, part)
                    return sync.receive(txn.log(scope), delta, records, now_ms=self.now_ms + 50_000)

                if records:
                    await target._store.write(job)
                    target._author.clock.receive(records[-1].hlc)


@pytest.fixture
async def bench(tmp_path):
    async with trio.open_nursery() as nursery:
        bench = Bench(tmp_path, nursery)
        yield bench
        nursery.cancel_scope.cancel()
    for node in bench.nodes:
        node._store.close()


@pytest.fixture
async def kv(bench):
    return await bench.node()


async def put(kv, key, value, type=None, ttl_ms=None, **how):
    return await kv.put(key, value, type=type, ttl_ms=ttl_ms, **{**OPTIONS, **how})


async def get(kv, key, type=None, scope="mesh"):
    return await kv.get(key, type=type, scope=scope)


async def value(kv, key, type=None):
    return (await get(kv, key, type))["value"]


async def keys(kv, prefix="", **how):
    how = {"type": None, "scope": "mesh", "after": None, "limit": 1000, "values": True, **how}
    return [row["key"] for row in await kv.list(prefix, **how)]


# -- reg ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", [None, True, 7, -1.5, "text", b"\x00bytes", [1, [2]], {"a": {"b": None}}, "é" * 1000]
)
async def test_what_is_put_is_got(kv, what):
    written = await put(kv, "some/key é", what)
    entry = await get(kv, "some/key é")
    assert entry["value"] == what
    assert entry["type"] == "reg"
    assert entry["key"] == "some/key é"
    assert entry["hlc"] == written["hlc"]
    assert (entry["author"], entry["author_name"]) == (written["author"], "node-1")
    assert entry["time"] == "2027-01-15T08:00:00.000Z"
    assert entry["expires"] is None
    assert entry["conflicts"] == []
    assert entry["types"] == ["reg"]


async def test_a_missing_key_is_not_found_by_name(kv):
    with pytest.raises(NotFound, match="'nowhere'"):
        await get(kv, "nowhere")


async def test_a_deleted_key_is_gone_and_may_come_again(kv):
    await put(kv, "a", 1)
    await kv.delete("a", type=None, **OPTIONS)
    with pytest.raises(NotFound):
        await get(kv, "a")
    with pytest.raises(NotFound):
        await kv.delete("a", type=None, **OPTIONS)
    await put(kv, "a", 2)
    assert await value(kv, "a") == 2


async def test_scopes_are_apart(kv):
    await put(kv, "a", "mesh")
    await put(kv, "a", "zone", scope="zone")
    assert (await get(kv, "a", scope="zone"))["value"] == "zone"
    assert await value(kv, "a") == "mesh"
    with pytest.raises(UsageError, match="galaxy"):
        await get(kv, "a", scope="galaxy")


async def test_the_newest_write_counts_and_the_other_stays_visible_until_a_write_that_saw_both(bench):
    a, b = await bench.node(), await bench.node()
    await put(a, "k", "first")
    await bench.exchange()
    bench.now_ms += 1000
    await put(a, "k", "from a")
    bench.now_ms += 1000
    await put(b, "k", "from b")
    await bench.exchange()
    for node in (a, b):
        entry = await get(node, "k")
        assert entry["value"] == "from b"
        assert [(c["value"], c["author_name"], c["deleted"]) for c in entry["conflicts"]] == [
            ("from a", "node-1", False)
        ]
    await put(a, "k", "saw both")
    await bench.exchange()
    for node in (a, b):
        entry = await get(node, "k")
        assert (entry["value"], entry["conflicts"]) == ("saw both", [])


async def test_a_delete_beside_a_newer_value_is_a_conflict_too(bench):
    a, b = await bench.node(), await bench.node()
    await put(a, "k", 1)
    await bench.exchange()
    await a.delete("k", type=None, **OPTIONS)
    bench.now_ms += 1000
    await put(b, "k", 2)
    await bench.exchange()
    entry = await get(a, "k")
    assert entry["value"] == 2
    assert [conflict["deleted"] for conflict in entry["conflicts"]] == [True]


async def test_writes_one_after_the_other_are_no_conflict(bench):
    a, b = await bench.node(), await bench.node()
    for number in range(4):
        await put((a, b)[number % 2], "k", number)
        await bench.exchange()
    assert (await get(a, "k"))["conflicts"] == []


async def test_a_value_with_a_ttl_is_gone_after_it(bench, kv):
    await put(kv, "a", 1, ttl_ms=5000)
    assert (await get(kv, "a"))["expires"] == "2027-01-15T08:00:05.000Z"
    bench.now_ms += 5000
    with pytest.raises(NotFound):
        await get(kv, "a")
    assert await keys(kv) == []


# -- limits and refusals ------------------------------------------------------------------------------------


async def test_large_values_are_refused_with_their_size(kv):
    await put(kv, "a", b"x" * 65_000)
    with pytest.raises(UsageError, match="70000 bytes"):
        await put(kv, "a", b"x" * 70_000)
    with pytest.raises(UsageError, match="at most 65536"):
        await put(kv, "a", ["x" * 1000] * 70)
    assert await value(kv, "a") == b"x" * 65_000


@pytest.mark.parametrize("what", [2**64, object(), {1: 2}, {"a": {2, 3}}])
async def test_values_that_peers_would_refuse_are_refused(kv, what):
    with pytest.raises(UsageError):
        await put(kv, "a", what)


@pytest.mark.parametrize("key", ["", "k" * 300, "\ud800"])
async def test_keys_that_cannot_be_are_refused(kv, key):
    with pytest.raises(UsageError):
        await put(kv, key, 1)


async def test_a_write_without_the_right_is_refused_and_others_slots_do_not_count(bench):
    def permit(path):
        if path.startswith("kv/admin/"):
            raise Denied(f"may not write {path}")

    a = await bench.node(permit=permit, may=lambda aid, path: not path.startswith("kv/admin/"))
    b = await bench.node()
    with pytest.raises(Denied):
        await put(a, "admin/x", 1)
    batch = await a.put_many(
        [{"key": "admin/x", "value": 1}, {"key": "ok", "value": 1}], dry_run=False, **OPTIONS
    )
    assert batch["refused"][0]["error"]["code"] == "denied"
    await put(b, "admin/x", "sneaked in")
    await b.set_change("admin/s", add=["x"], remove=[], **OPTIONS)
    await bench.exchange()
    assert await keys(a) == ["ok"]
    assert await keys(b) == ["admin/s", "admin/x", "ok"]


async def test_a_quota_refuses_new_keys_but_not_deletes(bench):
    kv = await bench.node(limits=sync.Limits(slots_max=3))
    for number in range(3):
        await put(kv, f"k{number}", 1)
    with pytest.raises(StoreFull, match="quota of 3"):
        await put(kv, "k3", 1)
    await put(kv, "k0", 2)
    await kv.delete("k1", type=None, **OPTIONS)
    batch = await kv.put_many(
        [{"key": "k2", "value": 5}, {"key": "k4", "value": 5}], dry_run=False, **OPTIONS
    )
    assert batch["written"] == 1
    assert batch["refused"][0]["error"]["code"] == "store_full"


# -- one key, one type --------------------------------------------------------------------------------------

ONE_OF_EACH = {
    "reg": "text",
    "mv": "text",
    "flag": True,
    "counter": 5,
    "set": ["a"],
    "map": {"a": 1},
    "log": ["a"],
}


@pytest.mark.parametrize("there", ONE_OF_EACH)
async def test_a_key_of_one_type_is_not_written_as_another(kv, there):
    await put(kv, "k", ONE_OF_EACH[there], there)
    for type, what in ONE_OF_EACH.items():
        if type != there:
            with pytest.raises(Conflict, match=f"is a {there}, not a {type}"):
                await put(kv, "k", what, type)
    assert (await get(kv, "k"))["types"] == [there]
    with pytest.raises(NotFound, match=f"it is a {there}"):
        await get(kv, "k", "mv" if there != "mv" else "reg")


@pytest.mark.parametrize("there", ONE_OF_EACH)
async def test_a_deleted_key_may_become_another_type(kv, there):
    await put(kv, "k", ONE_OF_EACH[there], there)
    deleted = await kv.delete("k", type=None, **OPTIONS)
    assert deleted["type"] == there
    assert await keys(kv) == []
    for type, what in ONE_OF_EACH.items():
        await put(kv, "k", what, type)
        assert (await get(kv, "k"))["type"] == type
        await kv.delete("k", type=type, **OPTIONS)


async def test_two_types_at_the_same_time_are_both_shown(bench):
    a, b = await bench.node(), await bench.node()
    await put(a, "k", 5, "counter")
    await put(b, "k", "text")
    await bench.exchange()
    entry = await get(a, "k")
    assert (entry["type"], entry["value"], entry["types"]) == ("reg", "text", ["reg", "counter"])
    assert await value(a, "k", "counter") == 5
    exported = [(row["key"], row["type"]) async for row in a.export("", scope="mesh")]
    assert exported == [("k", "reg"), ("k", "counter")]
    await a.delete("k", type="reg", **OPTIONS)
    assert (await get(a, "k"))["types"] == ["counter"]


@pytest.mark.parametrize(
    ("type", "what"),
    [
        ("flag", "yes"),
        ("flag", 1),
        ("counter", True),
        ("counter", "5"),
        ("counter", 1 << 70),
        ("set", "a"),
        ("set", [["a"]]),
        ("map", [1]),
        ("log", "a"),
        ("tree", 1),
    ],
)
async def test_a_value_that_does_not_fit_its_type_is_refused(kv, type, what):
    with pytest.raises(UsageError):
        await put(kv, "k", what, type)
    assert await keys(kv) == []


# -- mv -----------------------------------------------------------------------------------------------------


async def test_concurrent_values_are_all_shown_until_one_replaces_them(bench):
    nodes = [await bench.node() for _ in range(3)]
    for number, node in enumerate(nodes):
        bench.now_ms += 10
        await put(node, "k", number, "mv")
    await bench.exchange()
    entry = await get(nodes[0], "k")
    assert [entry["value"], *(c["value"] for c in entry["conflicts"])] == [2, 1, 0]
    await put(nodes[0], "k", "merged", "mv")
    await bench.exchange()
    for node in nodes:
        entry = await get(node, "k")
        assert (entry["value"], entry["conflicts"]) == ("merged", [])


# -- compare and set ----------------------------------------------------------------------------------------


async def test_compare_and_set_by_hlc_value_or_absence(kv):
    cas = {"type": None, "ttl_ms": None, **OPTIONS}
    first = await kv.cas("k", 1, expect={"absent": True}, **cas)
    with pytest.raises(Conflict, match=f"holds 1 of hlc {first['hlc']}"):
        await kv.cas("k", 2, expect={"absent": True}, **cas)
    second = await kv.cas("k", 2, expect={"hlc": first["hlc"]}, **cas)
    with pytest.raises(Conflict):
        await kv.cas("k", 3, expect={"hlc": first["hlc"]}, **cas)
    with pytest.raises(Conflict):
        await kv.cas("k", 3, expect={"value": 1}, **cas)
    await kv.cas("k", 1, expect={"value": 2}, **cas)
    with pytest.raises(Conflict):
        await kv.cas("k", 3, expect={"value": True}, **cas)
    with pytest.raises(Conflict, match="is not there"):
        await kv.cas("other", 3, expect={"hlc": second["hlc"]}, **cas)
    with pytest.raises(UsageError):
        await kv.cas("k", object(), expect={"absent": True}, **cas)


async def test_of_many_comparing_at_once_one_wins(kv):
    wins = []

    async def attempt(number):
        try:
            await kv.cas("k", number, expect={"absent": True}, type=None, ttl_ms=None, **OPTIONS)
            wins.append(number)
        except Conflict:
            pass

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(attempt, number)
    assert len(wins) == 1
    assert await value(kv, "k") == wins[0]


async def test_an_mv_in_conflict_is_not_as_expected(bench):
    a, b = await bench.node(), await bench.node()
    await put(a, "k", 1, "mv")
    await put(b, "k", 2, "mv")
    await bench.exchange()
    hlc = (await get(a, "k"))["hlc"]
    with pytest.raises(Conflict, match="beside 1 more"):
        await a.cas("k", 3, expect={"hlc": hlc}, type="mv", ttl_ms=None, **OPTIONS)


# -- counter ------------------------------------------------------------------------------------------------


async def test_a_counter_is_the_sum_of_everybodys_additions(bench):
    a, b = await bench.node(), await bench.node()
    assert (await a.counter_add("c", 5, **OPTIONS))["value"] == 5
    await b.counter_add("c", 3, **OPTIONS)
    await b.counter_add("c", -10, **OPTIONS)
    await bench.exchange()
    assert await value(a, "c") == await value(b, "c") == -2
    await put(a, "c", 100, "counter")
    await bench.exchange()
    assert await value(b, "c") == 100


async def test_a_deleted_counter_keeps_what_the_deleter_had_not_seen(bench):
    a, b = await bench.node(), await bench.node()
    await a.counter_add("c", 5, **OPTIONS)
    await bench.exchange()
    await b.counter_add("c", 2, **OPTIONS)
    await a.delete("c", type="counter", **OPTIONS)
    with pytest.raises(NotFound):
        await get(a, "c")
    await bench.exchange()
    assert await value(a, "c") == await value(b, "c") == 2
    await b.delete("c", type="counter", **OPTIONS)
    await bench.exchange()
    assert await keys(a) == await keys(b) == []
    assert (await a.counter_add("c", 1, **OPTIONS))["value"] == 1
    await bench.exchange()
    assert await value(b, "c") == 1


async def test_a_counter_outlives_its_removed_author_and_its_deletion_too(bench):
    a, b = await bench.node(), await bench.node()
    await b.counter_add("c", 7, **OPTIONS)
    await a.counter_add("c", 1, **OPTIONS)
    await bench.exchange()
    gone = b._author.aid
    removal = await a._author.say(
        "m", lambda log: [Statement(f"removed/{gone.hex()}", Kind.ALL, {"counters": {"kv/c": [7, 0]}})]
    )
    await a._store.write(lambda txn: txn.log("m").drop_author(gone))
    a._removals = lambda scope: removal if scope == "m" else []
    assert await value(a, "c") == 8
    await a.delete("c", type=None, **OPTIONS)
    assert await keys(a) == []
    assert (await a.counter_add("c", 2, **OPTIONS))["value"] == 2


async def test_additions_at_once_all_count(kv):
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lambda: kv.counter_add("c", 1, **OPTIONS))
    assert await value(kv, "c") == 50


async def test_a_counter_that_would_overflow_is_refused(kv):
    await kv.counter_add("c", (1 << 63) - 1, **OPTIONS)
    with pytest.raises(UsageError, match="would exceed"):
        await kv.counter_add("c", 1, **OPTIONS)


# -- sets, maps, flags, logs --------------------------------------------------------------------------------


async def test_a_set_holds_each_element_once_and_a_concurrent_add_wins(bench):
    a, b = await bench.node(), await bench.node()
    await a.set_change("s", add=["x", 2, True, b"b", "x"], remove=["never"], **OPTIONS)
    await bench.exchange()
    assert await value(b, "s") == [True, 2, "x", b"b"]
    await a.set_change("s", add=[], remove=["x", 2], **OPTIONS)
    await b.set_change("s", add=["x"], remove=[], **OPTIONS)
    await bench.exchange()
    assert await value(a, "s") == await value(b, "s") == [True, "x", b"b"]
    await put(a, "s", ["x", "y"], "set")
    await bench.exchange()
    assert await value(b, "s") == ["x", "y"]
    await a.set_change("s", add=[], remove=["x", "y"], **OPTIONS)
    with pytest.raises(NotFound):
        await get(a, "s")


async def test_fields_of_a_map_are_merged_one_by_one(bench):
    a, b = await bench.node(), await bench.node()
    await put(a, "m", {"one": 1, "two": 2, "é" * 100: "long name"}, "map")
    await bench.exchange()
    await a.map_change("m", set={"one": "a"}, delete=["two"], **OPTIONS)
    bench.now_ms += 5
    await b.map_change("m", set={"one": "b", "three": 3}, delete=["nothing"], **OPTIONS)
    await bench.exchange()
    entry = await get(a, "m")
    assert entry["value"] == {"one": "b", "three": 3, "é" * 100: "long name"}
    assert [conflict["value"] for conflict in entry["conflicts"]] == [{"one": "a"}]
    assert (await get(b, "m"))["value"] == entry["value"]


async def test_a_flag_is_a_bool(kv):
    await put(kv, "f", True, "flag")
    assert await value(kv, "f") is True
    await put(kv, "f", False, "flag")
    assert await value(kv, "f") is False


async def test_a_log_is_read_in_order_from_anywhere(bench):
    a, b = await bench.node(), await bench.node()
    for number in range(4):
        bench.now_ms += 10
        await (a, b)[number % 2].log_append("l", number, ttl_ms=None, **OPTIONS)
    await bench.exchange()
    rows = await a.log_read("l", scope="mesh", after=None, limit=10)
    assert [row["value"] for row in rows] == [0, 1, 2, 3]
    assert [row["author_name"] for row in rows] == ["node-1", "node-2"] * 2
    later = await a.log_read("l", scope="mesh", after=rows[1]["hlc"], limit=1)
    assert [row["value"] for row in later] == [2]
    assert await a.log_read("l", scope="mesh", after=str(2**62), limit=1) == []
    newest = await a.log_read("l", scope="mesh", after=None, limit=2)
    assert [row["value"] for row in newest] == [2, 3]
    assert [row["value"] for row in (await get(a, "l"))["value"]] == [0, 1, 2, 3]


async def test_entries_of_a_log_end_after_thirty_days(bench, kv):
    await kv.log_append("l", "x", ttl_ms=None, **OPTIONS)
    await kv.log_append("l", "short", ttl_ms=10, **OPTIONS)
    bench.now_ms += 10
    assert [row["value"] for row in await value(kv, "l")] == ["x"]
    bench.now_ms += 30 * 86_400_000
    for after in (None, "0"):
        with pytest.raises(NotFound, match="no log key 'l'"):
            await kv.log_read("l", scope="mesh", after=after, limit=10)


async def test_a_deleted_log_keeps_what_the_deleter_had_not_seen(bench):
    a, b = await bench.node(), await bench.node()
    await a.log_append("l", "old", ttl_ms=None, **OPTIONS)
    await bench.exchange()
    await b.log_append("l", "unseen", ttl_ms=None, **OPTIONS)
    await a.delete("l", type=None, **OPTIONS)
    await bench.exchange()
    for node in (a, b):
        assert [row["value"] for row in await value(node, "l")] == ["unseen"]


async def test_appending_to_a_long_log_does_not_read_it(kv, monkeypatch):
    async def decoded_by(append):
        decoded = []
        unpack = rows.unpack_record
        monkeypatch.setattr(
            rows, "unpack_record", lambda key, value: decoded.append(key) or unpack(key, value)
        )
        await append()
        monkeypatch.setattr(rows, "unpack_record", unpack)
        return len(decoded)

    async def append():
        await kv.log_append("l", "x", ttl_ms=None, **OPTIONS)

    await append()
    few = await decoded_by(append)
    await kv.put_many(
        [{"key": "l", "value": list(range(50)), "type": "log"} for _ in range(20)], dry_run=False, **OPTIONS
    )
    assert await decoded_by(append) == few
    assert len((await get(kv, "l"))["value"]) == 1000
    assert len(await kv.log_read("l", scope="mesh", after="0", limit=5000)) == 1003


# -- ranges -------------------------------------------------------------------------------------------------


async def test_lists_are_in_the_order_of_keys_and_paged(kv):
    names = ["a", "aé", "a b", "a/b", "a-b", "b", "é", "日本"]
    for name in names:
        await put(kv, name, name)
    await kv.set_change("a/set", add=[1, 2, 3], remove=[], **OPTIONS)
    wanted = sorted([*names, "a/set"])
    assert await keys(kv) == wanted
    assert await keys(kv, "a/") == ["a/b", "a/set"]
    assert await keys(kv, "a", type="set") == ["a/set"]
    paged, after = [], None
    while page := await keys(kv, limit=2, after=after):
        paged += page
        after = page[-1]
    assert paged == wanted
    rows = await kv.list("b", type=None, scope="mesh", after=None, limit=5, values=False)
    assert [(row["key"], row["value"]) for row in rows] == [("b", None)]


async def test_a_long_list_passes_over_what_is_deleted(kv):
    entries = [{"key": f"k{number:04}", "value": number} for number in range(600)]
    await kv.put_many(entries, dry_run=False, **OPTIONS)
    await kv.put_many(
        [{"key": entry["key"], "delete": True} for entry in entries[:550]], dry_run=False, **OPTIONS
    )
    assert await keys(kv, limit=3) == ["k0550", "k0551", "k0552"]
    assert len(await keys(kv)) == 50


async def test_what_is_exported_can_be_imported(bench):
    a, b = await bench.node(), await bench.node()
    for type, what in ONE_OF_EACH.items():
        await put(a, f"k/{type}", what, type)
    await put(a, "k/ttl", 1, ttl_ms=1000)
    rows = [row async for row in a.export("k/", scope="mesh")]
    assert [row["key"] for row in rows] == sorted([*(f"k/{type}" for type in ONE_OF_EACH), "k/ttl"])
    entries = [
        {
            "key": row["key"],
            "type": row["type"],
            "value": [line["value"] for line in row["value"]] if row["type"] == "log" else row["value"],
        }
        for row in rows
    ]
    batch = await b.put_many(entries, dry_run=False, **OPTIONS)
    assert (batch["written"], batch["refused"]) == (len(rows), [])
    copied = [row async for row in b.export("", scope="mesh")]
    assert [(row["key"], row["type"]) for row in copied] == [(row["key"], row["type"]) for row in rows]


# -- batches ------------------------------------------------------------------------------------------------


async def test_a_batch_is_one_commit_and_spares_what_is_good(kv):
    await put(kv, "counter", 1, "counter")
    before = kv._store.commit_number
    batch = await kv.put_many(
        [
            {"key": "a", "value": 1},
            {"key": "counter", "value": "text"},
            {"key": "", "value": 1},
            {"key": "a", "value": 2},
            {"key": "gone", "delete": True},
            {"key": "s", "value": ["x"], "type": "set", "ttl_ms": 1000},
            {"key": "counter", "delete": True},
        ],
        dry_run=False,
        **OPTIONS,
    )
    assert kv._store.commit_number == before + 1
    assert batch["written"] == 4
    assert [(row["index"], row["error"]["code"]) for row in batch["refused"]] == [
        (1, "conflict"),
        (2, "usage"),
        (4, "not_found"),
    ]
    assert [hlc is None for hlc in batch["hlcs"]] == [False, True, True, False, True, False, False]
    assert await value(kv, "a") == 2
    assert await keys(kv) == ["a", "s"]


async def test_a_dry_run_writes_nothing_and_says_what_would_be_refused(kv):
    await put(kv, "counter", 1, "counter")
    batch = await kv.put_many(
        [{"key": "a", "value": 1}, {"key": "counter", "value": 1}], dry_run=True, **OPTIONS
    )
    assert (batch["written"], batch["hlcs"]) == (0, [None, None])
    assert [row["key"] for row in batch["refused"]] == ["counter"]
    assert await keys(kv) == ["counter"]


# -- history ------------------------------------------------------------------------------------------------


async def test_history_shows_who_wrote_what_when(bench):
    a, b = await bench.node(), await bench.node()
    for number in range(3):
        bench.now_ms += 1000
        await put(a, "k", number)
    await bench.exchange()
    bench.now_ms += 1000
    await b.delete("k", type=None, **OPTIONS)
    await bench.exchange()
    rows = await a.history("k", scope="mesh")
    assert [(row["author_name"], row["op"], row["value"], row["current"]) for row in rows] == [
        ("node-2", "delete", None, True),
        ("node-1", "put", 2, False),
        ("node-1", "put", 1, False),
        ("node-1", "put", 0, False),
    ]
    with pytest.raises(NotFound):
        await a.history("other", scope="mesh")


async def test_history_of_collections_names_elements(kv):
    await put(kv, "m", {"f": 1}, "map")
    await put(kv, "m", {"f": 2}, "map")
    rows = await kv.history("m", scope="mesh")
    assert [(row["type"], row["value"]) for row in rows] == [("map", {"f": 2}), ("map", {"f": 1})]


# -- watching -----------------------------------------------------------------------------------------------


class Reading:
    """Reads a stream with a limit on waiting."""

    def __init__(self, stream):
        self.stream = stream

    async def next(self):
        with trio.fail_after(60):
            return await anext(self.stream)

    async def some(self, count):
        return [await self.next() for _ in range(count)]


def watch(kv, prefix="", cursor=None, initial=False):
    return Reading(kv.watch(prefix, scope="mesh", cursor=cursor, initial=initial))


async def test_a_watch_gives_what_is_there_then_what_changes(kv):
    await put(kv, "a/1", 1)
    await put(kv, "b", 1)
    reading = watch(kv, "a/", initial=True)
    first, ready = await reading.some(2)
    assert (first["change"], first["key"], first["entry"]["value"]) == ("put", "a/1", 1)
    assert ready["change"] == "ready"
    await put(kv, "b", 2)
    await put(kv, "a/2", "new")
    change = await reading.next()
    assert (change["change"], change["key"], change["entry"]["value"]) == ("put", "a/2", "new")
    await kv.delete("a/1", type=None, **OPTIONS)
    change = await reading.next()
    assert (change["change"], change["key"], change["entry"]) == ("delete", "a/1", None)
    await kv.set_change("a/s", add=["x", "y", "z"], remove=[], **OPTIONS)
    change = await reading.next()
    assert (change["key"], change["type"], change["entry"]["value"]) == ("a/s", "set", ["x", "y", "z"])
    await reading.stream.aclose()


async def test_a_watch_goes_on_from_its_cursor(kv):
    reading = watch(kv, initial=True)
    cursor = (await reading.next())["cursor"]
    await reading.stream.aclose()
    await put(kv, "a", 1)
    await put(kv, "a", 2)
    await put(kv, "b", 1)
    reading = watch(kv, cursor=cursor)
    assert [change["key"] for change in await reading.some(2)] == ["a", "b"]
    await reading.stream.aclose()


async def test_a_strange_cursor_means_rescan_and_a_malformed_one_is_refused(kv):
    reading = watch(kv, cursor="0123456789abcdef.17")
    assert (await reading.next())["change"] == "rescan"
    await put(kv, "a", 1)
    assert (await reading.next())["key"] == "a"
    await reading.stream.aclose()
    with pytest.raises(UsageError, match="cursor"):
        await watch(kv, cursor="yesterday").next()


async def test_an_expired_key_is_told_as_deleted(bench, kv):
    kv._store.expire(bench.now_ms)
    await put(kv, "a", 1, ttl_ms=100)
    reading = watch(kv, initial=True)
    await reading.some(2)
    bench.now_ms += 100
    kv._store.expire(bench.now_ms)
    change = await reading.next()
    assert (change["change"], change["key"]) == ("delete", "a")
    await reading.stream.aclose()


# -- durability ---------------------------------------------------------------------------------------------


async def test_a_write_waits_for_as_many_copies_as_asked(bench):
    asked = []

    async def copies(scope, hlc, count, timeout_s):
        asked.append((scope, count))
        return 2

    kv = await bench.node(copies=copies)
    assert (await put(kv, "a", 1, durable=2))["acknowledged"] == 2
    with pytest.raises(TimedOut, match="on 2 of the 3"):
        await put(kv, "b", 1, durable=3)
    assert await value(kv, "b") == 1
    assert asked == [("m", 2), ("m", 3)]
    with pytest.raises(Failed, match="no links"):
        await put(await bench.node(), "c", 1, durable=1)


async def test_a_queued_write_is_seen_once_it_is_committed(kv):
    written = await put(kv, "a", 1, durable="queued")
    assert int(written["hlc"]) > 0
    await put(kv, "b", 1)
    assert await value(kv, "a") == 1


# -- many nodes, any order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_nodes_agree_on_every_key_whatever_was_done_where(bench, seed):
    dice = random.Random(seed)
    nodes = [await bench.node() for _ in range(3)]
    names = ["x", "x/y", "é"]
    for _ in range(120):
        bench.now_ms += dice.randrange(50)
        node, name = dice.choice(nodes), dice.choice(names)
        type = dice.choice(list(ONE_OF_EACH))
        what = {
            "counter": dice.randrange(-9, 9),
            "flag": dice.random() < 0.5,
            "set": dice.sample(["a", "b", "c", 1], dice.randrange(1, 4)),
            "map": {field: dice.randrange(3) for field in dice.sample("abc", 2)},
            "log": [dice.randrange(9)],
        }.get(type, dice.randrange(9))
        try:
            if dice.random() < 0.2:
                await node.delete(name, type=dice.choice([None, type]), **OPTIONS)
            else:
                await put(node, name, what, type)
        except (Conflict, NotFound):
            pass
        if dice.random() < 0.1:
            await bench.copy(*dice.sample(nodes, 2))
    for _ in range(2):
        await bench.exchange()
    shown = [[row async for row in node.export("", scope="mesh")] for node in nodes]
    assert shown[0] == shown[1] == shown[2]
    for node in nodes:
        assert await node._store.tender.scrub() == 0
