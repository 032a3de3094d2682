"""The view over services on a node: what counts, what it costs, and what it tells."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from mesh.agent.author import Statement
from mesh.agent.changes import Changes, Kind, moved_between
from mesh.agent.checks import GAP_S, Checks
from mesh.agent.node import Node
from mesh.agent.offers import FILE, META, WORKLOAD, Offers
from mesh.agent.owners import Owners
from mesh.agent.registry import Registry
from mesh.agent.serviceevents import ServiceEvents
from mesh.agent.services import Services
from mesh.config import Config, Discovery, Store
from mesh.core.checks import Check
from mesh.core.health import HEALTH_PREFIX, Health, Outcome, Result, Word, words_value
from mesh.core.record import ZONE, Op
from mesh.core.record import Kind as RecordKind
from mesh.core.registry import OWNER_SERVICES_MAX, Instance, Service, parse, path_of, value_of
from mesh.core.vitals import State
from mesh.errors import Conflict, Denied, NotFound, UsageError
from mesh.identity import home
from mesh.net.base import Admission
from mesh.net.memory import MemoryDatagrams, MemoryHost, Switchboard
from mesh.store.store import Change

NOW_MS = 1_800_000_000_000
CONFIG = Config(
    store=Store(map_bytes=64 << 20, ballast_bytes=0, linger_ms=0.0), discovery=Discovery(mdns=False)
)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition; the bound only keeps a failed test from hanging."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


class Place:
    """One node with a registry, and what it offers."""

    def __init__(self, folder: Path) -> None:
        board = Switchboard(random.Random(5))

        def host(node: Node) -> tuple[MemoryHost, MemoryDatagrams]:
            made = MemoryHost(
                board,
                node.key,
                listen=["/ip4/10.0.0.1/tcp/0"],
                gate=lambda public, _: Admission[node.directory.gate(public).name],
            )
            return made, MemoryDatagrams(board, node.key, node.public_of_member, host="10.0.0.1")

        self.node = Node(
            home.open_home(folder), CONFIG, host, wall_ms=lambda: NOW_MS + int(trio.current_time())
        )
        self.registry = Registry(self.node, lambda aid: {"name": "n0"}, lambda aid, name: name != "forbidden")
        self.results: dict[int, Result] = {}
        self.checks = Checks(
            self.node.me,
            self.node.author.say_live,
            self._probe,
            self.node.now_ms,
            random.Random(1),
            running_max=16,
            commands_max=2,
        )
        self.offers = Offers(
            self.node, self.checks, lambda service: None, lambda aid: "n0", self.registry.owner_of, 5
        )
        self.services = Services(
            self.registry,
            self.offers,
            self.checks,
            lambda aid: (aid.hex(), "n0"),
            bytes.fromhex,
            lambda aid: None,
            self.node.now_ms,
        )
        self.told: list[tuple[str, str]] = []
        self.registry.changes.listeners.append(lambda it: self.told.append((str(it.kind), it.service.name)))

    async def _probe(self, check: Check) -> Outcome:
        return Outcome(self.results.get(check.port, Result.PASS), "tried")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.node.run)
            for task in (self.registry.run, self.checks.run, self.offers.run):
                nursery.start_soon(task)
            await self.registry.loaded.wait()
            task_status.started()

    def service(self, name: str, **more: Any) -> Service:
        return parse({"name": name, "port": 80, **more}).service(self.node.key.public, self.node.zone)

    async def say(self, *services: Service, path: str = "") -> None:
        statements = [Statement(path or path_of(each), RecordKind.ALL, value_of(each)) for each in services]
        await self.node.author.say(ZONE, lambda _: statements)

    def health(self, name: str) -> Health:
        return self.registry.instances(name)[0].health


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home.create_mesh(tmp_path / "n0", "n0", "village", now_ms=NOW_MS)
    return tmp_path / "n0"


@pytest.fixture
async def place(folder: Path, nursery: trio.Nursery) -> AsyncIterator[Place]:
    made = Place(folder)
    scope = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await made.run(task_status=task_status)

    await nursery.start(run)
    yield made
    scope.cancel()


async def test_a_thousand_too_many_are_left_out_the_same_ones_whatever_the_order(place: Place) -> None:
    services = [place.service(f"s{number}") for number in range(OWNER_SERVICES_MAX + 100)]
    random.Random(2).shuffle(services)
    await place.say(*services)
    kept = {each.service.id for each in place.registry.everything()}
    assert kept == set(sorted(each.id for each in services)[:OWNER_SERVICES_MAX])
    assert ("services", place.node.me) in place.node.alarms


async def test_what_stands_at_anothers_path_or_makes_no_sense_does_not_count(place: Place) -> None:
    service = place.service("orders")
    await place.say(service, path=f"svc/{'0' * 32}/{service.id}")
    await place.say(service, path=f"svc/{place.node.me.hex()}/{'0' * 16}")
    bad = Statement(path_of(service), RecordKind.ALL, {"name": "a\x1b[2J", "version": "1"})
    await place.node.author.say(ZONE, lambda _: [bad])
    assert place.registry.everything() == []
    assert "\x1b" not in "".join(place.node.alarms.values())
    await place.say(service, place.service("forbidden"))
    assert len(place.registry.everything()) == len(place.registry.instances("orders")) == 1


async def test_a_command_in_a_record_is_nothing_that_anybody_runs(place: Place) -> None:
    service = place.service("orders")
    value = {**value_of(service), "checks": [{"kind": "command", "argv": ["/usr/bin/touch", "/x"]}]}
    await place.node.author.say(ZONE, lambda _: [Statement(path_of(service), RecordKind.ALL, value)])
    assert place.registry.everything() == []
    assert place.checks.gauges(service.id) == ()


async def test_only_names_that_moved_are_folded_again_and_told(place: Place) -> None:
    touched: list[frozenset[str] | None] = []
    await place.say(place.service("orders"), place.service("shop"))
    place.registry.on_change.append(touched.append)
    orders, shop = place.registry.instances("orders"), place.registry.instances("shop")
    await place.say(place.service("orders", weight=5))
    assert touched == [frozenset({"orders"})]
    assert place.registry.instances("shop") is shop
    assert place.registry.instances("orders") is not orders
    assert place.registry.instances("orders")[0].service.weight == 5
    assert place.told == [("registered", "orders"), ("registered", "shop"), ("updated", "orders")]


async def test_a_registered_service_is_checked_and_never_seems_well_before(place: Place) -> None:
    seen: list[Health] = []
    place.registry.on_change.append(lambda _: seen.extend(i.health for i in place.registry.instances("web")))
    check = {"kind": "tcp", "port": 7, "interval_s": 1, "rise": 1, "fall": 1}
    service = await place.offers.register({"name": "web", "port": 80, "checks": [check]})
    assert seen[0] == Health.UNKNOWN
    await until(lambda: place.health("web") == Health.HEALTHY)
    place.results[7] = Result.ERROR
    await until(lambda: place.health("web") == Health.ERROR)
    assert place.registry.instances("web")[0].why == "tried"
    await place.offers.deregister(service.id)
    assert place.registry.instances("web") == []


async def test_endpoints_take_turns_and_those_that_fail_come_last(place: Place) -> None:
    endpoints = [f"tcp://127.0.0.1:{port}" for port in (7, 8, 9)]
    check = {"kind": "tcp", "interval_s": 1, "rise": 1, "fall": 1}
    place.results[8] = Result.FAIL
    service = await place.offers.register({"name": "web", "endpoints": endpoints, "checks": [check]})
    await until(
        lambda: [gauge.health.word for gauge in place.checks.gauges(service.id)].count("unknown") == 0
    )
    assert place.health("web") == Health.DEGRADED
    ports = [[each.port for each in place.checks.turn(service).endpoints] for _ in range(4)]
    assert ports == [[7, 9, 8], [9, 7, 8]] * 2


async def test_what_a_workload_or_file_registered_is_changed_there_only(place: Place) -> None:
    spec = {"name": "job", "port": 80}
    made = await place.offers.register(spec, origin=WORKLOAD, source="nightly")
    assert await place.offers.register(spec, origin=WORKLOAD, source="nightly") == made
    for refused in (place.offers.register(spec), place.offers.deregister(made.id)):
        with pytest.raises(Conflict, match="workload nightly"):
            await refused
    changed = {**spec, "weight": 3}
    await place.offers.register(changed, origin=WORKLOAD, source="nightly", replace=True)
    await place.offers.deregister(made.id, origin=WORKLOAD, source="nightly")
    with pytest.raises(NotFound):
        await place.offers.deregister(made.id, origin=WORKLOAD, source="nightly")
    command = {"kind": "command", "argv": ["/bin/true"]}
    with pytest.raises(Denied, match="own files"):
        await place.offers.register({**spec, "checks": [command]}, origin=WORKLOAD, source="nightly")
    await place.offers.register({**spec, "checks": [command]}, origin=FILE, source="/x.toml")


async def test_more_than_the_bound_is_refused(place: Place) -> None:
    for number in range(5):
        await place.offers.register({"name": f"s{number}", "port": 80})
    with pytest.raises(Conflict, match="as many as it may"):
        await place.offers.register({"name": "s5", "port": 80})
    await place.offers.register({"name": "s1", "port": 81}, replace=True)


async def test_reports_are_for_services_that_report(place: Place) -> None:
    plain = await place.offers.register({"name": "plain", "port": 80})
    with pytest.raises(UsageError, match="no check of kind ttl"):
        place.offers.report(plain.id, "pass")
    checked = await place.offers.register({"name": "beat", "port": 80, "checks": [{"kind": "ttl"}]})
    with pytest.raises(UsageError, match="'fine'"):
        place.offers.report(checked.id, "fine")
    place.offers.report(checked.id, "warn", "\x1b[31mlate\n")
    await until(lambda: place.health("beat") == Health.DEGRADED)
    assert place.registry.instances("beat")[0].why == "\\x1b[31mlate"


async def test_a_report_is_answered_with_what_it_made_of_the_service(place: Place) -> None:
    await place.offers.register({"name": "beat", "port": 80, "checks": [{"kind": "ttl"}]})
    for status, health, why in (
        ("pass", "healthy", ""),
        ("warn", "degraded", "late"),
        ("pass", "healthy", ""),
    ):
        row = await place.services.report("beat", status, "late")
        assert (row["health"], row["why"]) == (health, why)


async def test_a_name_means_the_service_of_this_node_where_others_offer_it_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse({"name": "orders", "port": 80})
    others = [Instance(spec.service(bytes([n]) * 32, "z"), Health.HEALTHY, alive=True) for n in (1, 2)]
    own = place.registry.instances
    monkeypatch.setattr(place.registry, "instances", lambda name: [*others, *own(name)])
    with pytest.raises(UsageError, match="2 services are named orders") as error:
        await place.services.show("orders")
    assert f"{others[0].service.id} (n0)" in error.value.hint
    mine = await place.offers.register({"name": "orders", "port": 80})
    await until(lambda: own("orders"))
    assert (await place.services.show("orders"))["id"] == mine.id


async def test_what_programs_registered_outlives_a_restart_and_what_nobody_claims_goes(
    folder: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.agent.offers.ORPHAN_S", 0.1)
    for life in range(2):
        place, scope, ended = Place(folder), trio.CancelScope(), trio.Event()

        async def run(
            task_status: trio.TaskStatus[None], place: Place = place, scope: Any = scope, ended: Any = ended
        ) -> None:
            with scope:
                await place.run(task_status=task_status)
            ended.set()

        await nursery.start(run)
        if life == 0:
            await place.offers.register({"name": "kept", "port": 80, "checks": [{"kind": "ttl"}]})
            await place.offers.register({"name": "work", "port": 80}, origin=WORKLOAD, source="w")
            moved = await place.offers.register({"name": "moved", "port": 80})  # its record goes with a zone
            gone = Statement(path_of(moved), RecordKind.ALL, None, Op.DEL)
            await place.node.author.say(ZONE, lambda _, gone=gone: [gone])
        else:
            await until(lambda place=place: place.registry.names() == ["kept", "moved"])
            assert place.checks.gauges(place.registry.instances("kept")[0].service.id)
        scope.cancel()
        await ended.wait()


async def test_what_a_member_said_before_it_moved_to_another_zone_is_lost() -> None:
    aid, at = bytes(16), SimpleNamespace(zone="here")
    board = SimpleNamespace(members={aid: SimpleNamespace(state=State.ALIVE, lease=None)})
    node = SimpleNamespace(
        me=bytes([1]) * 16,
        zone="here",
        vitality=SimpleNamespace(machine=SimpleNamespace(board=board)),
        directory=SimpleNamespace(certificate=lambda aid: at),
    )
    owners = Owners(cast(Node, node), lambda aid: {})
    assert owners.stands(aid) == (True, False)
    at.zone = "far"
    assert owners.moved(aid) == ((True, False), (False, False))
    assert aid in owners.away
    at.zone = "here"
    assert owners.moved(aid) == ((False, False), (True, False))


async def test_the_view_kept_up_by_changes_is_the_view_made_anew(place: Place) -> None:
    rng = random.Random(11)
    for step in range(120):
        name = f"s{rng.randrange(12)}"
        service = place.service(name, weight=rng.randrange(9), version=str(rng.randrange(3)))
        match rng.randrange(5):
            case 0 | 1:
                await place.say(service)
            case 2:
                gone = Statement(path_of(service), RecordKind.ALL, None, Op.DEL)
                await place.node.author.say(ZONE, lambda _, gone=gone: [gone])
            case 3:
                words = {service.id: Word(Health(rng.randrange(5)), step, "why")}
                place.node.author.say_live(
                    [
                        Statement(
                            f"health/{place.node.me.hex()}",
                            RecordKind.ALL,
                            words_value(words),
                            Op.PUT,
                            60_000,
                        )
                    ]
                )
            case 4:
                place.registry.instances(name)
    fresh = Registry(place.node, lambda aid: {"name": "n0"}, lambda aid, name: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fresh.run)
        await fresh.loaded.wait()
        assert fresh.everything() == place.registry.everything()
        assert len(fresh.everything()) > 3
        nursery.cancel_scope.cancel()


async def test_many_changes_at_once_are_one_event_and_few_are_told_singly(nursery: trio.Nursery) -> None:
    changes, told = Changes(lambda: 5), list[tuple[str, str, int]]()
    events = ServiceEvents(changes, lambda type, text, **data: told.append((type, text, data["count"])))
    nursery.start_soon(events.run)
    for number in range(300):
        changes.add(Kind.LOST, parse({"name": f"s{number}", "port": 1}).service(b"k" * 32))
    single = parse({"name": "web", "port": 1}).service(b"o" * 32)
    changes.add(Kind.HEALTH, single, was=Health.HEALTHY, health=Health.ERROR, why="gone")
    await until(lambda: len(told) == 2)
    assert told[0][0] == "service_lost"
    assert told[0][1].startswith("300 services: s0, s1")
    assert told[0][1].endswith("and 284 more")
    assert told[1] == ("service_health", "web 1: healthy -> error: gone", 1)


async def test_a_ring_of_changes_says_when_it_has_forgotten() -> None:
    changes = Changes(lambda: 5, ring_max=3)
    service = parse({"name": "a", "port": 1}).service(b"k" * 32)
    for _ in range(5):
        changes.add(Kind.UPDATED, service)
    assert [each.number for each in changes.since(3) or ()] == [4, 5]
    assert changes.since(5) == []
    assert changes.since(1) is None
    assert changes.parse(changes.cursor(4)) == 4
    assert changes.parse("other.4") is None
    with pytest.raises(UsageError):
        changes.parse("nonsense")


def test_what_happens_in_another_zone_is_told_by_what_its_gateway_names() -> None:
    def seen(number: int, *, alive: bool = True, port: int = 1) -> Instance:
        service = parse({"name": "far", "version": str(number), "port": port}).service(bytes(32), "berlin")
        return Instance(service, Health.HEALTHY, alive=alive, summary=True)

    def told(before: list[Instance], after: list[Instance]) -> list[tuple[str, str]]:
        found = moved_between({"far": before}, {"far": after})
        return sorted((str(kind), service.version) for kind, service in found)

    assert told([], [seen(1), seen(2, alive=False)]) == [("registered", "1")]
    assert told([seen(1), seen(2)], [seen(1)]) == [("lost", "2")]
    assert told([seen(1), seen(2, alive=False)], [seen(1, alive=False), seen(2)]) == [
        ("alive", "2"),
        ("lost", "1"),
    ]
    assert told([seen(1)], [seen(1, port=2)]) == [("updated", "1")]
    assert told([seen(1, alive=False)], []) == []
    assert told([seen(1)], [seen(1)]) == []


async def test_a_registration_is_one_commit_and_what_nobody_checks_costs_no_word_on_its_health(
    place: Place,
) -> None:
    words: list[int] = []
    path = HEALTH_PREFIX + place.node.me.hex()

    def note(changes: list[Change]) -> None:
        words.extend(change.hlc for change in changes if change.path == path)

    place.node.store.add_listener(note)
    await place.offers.register({"name": "first", "port": 1})
    await until(lambda: words)  # whatever a former life said of it, it is well
    before = place.node.store.commit_number
    second = await place.offers.register({"name": "second", "port": 2})
    assert place.node.store.commit_number == before + 1
    assert place.node.store.meta(META + second.id) is not None
    await place.offers.deregister(second.id)
    assert place.node.store.commit_number == before + 2
    assert place.node.store.meta(META + second.id) is None
    await place.offers.register({"name": "third", "port": 3, "checks": [{"kind": "ttl"}]})
    await until(lambda: len(words) >= 2)  # one that is checked is unknown until a check says more
    assert place.health("third") == Health.UNKNOWN
    place.offers.report(place.offers.ids_of("third")[0], "pass")
    await until(lambda: place.health("third") == Health.HEALTHY)
    said = len(words)
    await place.offers.register({"name": "fourth", "port": 4})
    await trio.sleep(GAP_S * 2)
    assert len(words) == said
