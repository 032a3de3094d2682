"""What decides between instances, on real agents: rules, turns, groups, regions, costs, data; and shards."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import closed_port
from yard import Agent, Yard, eventually, fresh_yard

from mesh.client import Client
from mesh.errors import NoInstances

ANY = {"default": "optimal", "margin": 1}


@pytest.fixture(scope="module")
def town() -> Iterator[Yard]:
    """n1 asks; n2 is at the edge in eu-west, n3 in the cloud in us-east."""
    with fresh_yard() as made:
        first = made.first(start=False)
        first.settings = {"MESHD_NODE__TIER": "edge"}
        first.start()
        token = made.invite(first, uses=2)
        for name, tier, region in (("n2", "edge", "eu-west"), ("n3", "cloud", "us-east")):
            agent = made.join(token, name, start=False)
            agent.settings = {"MESHD_NODE__TIER": tier, "MESHD_NODE__REGION": region}
            agent.start()
        made.agree()
        yield made


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a program that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as held:

        def serve() -> None:
            try:
                while True:
                    held.enter_context(listener.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def job(town: Yard, port: int, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of n1; `job` is offered by n2 (data, gpu, dear) and n3 (cheap), both well.

    Each test has a version of its own, because what calls have taught n1 of an instance outlives the test.
    """
    a, b, c = town.agents
    version = request.node.name.replace("_", "-")[5:40].strip("-")
    kinds: dict[str, dict[str, Any]] = {
        "n2": {"meta": {"data": "maps", "cost": "0.9"}, "capabilities": ["gpu"], "type": "inference"},
        "n3": {"meta": {"cost": "0.1"}, "capabilities": ["gpu"], "type": "inference"},
    }
    for agent in (b, c):
        with agent.client() as client:
            more = {"ttl_s": 600, "checks": [{"kind": "ttl"}], **kinds[agent.name]}
            client.register({"name": "job", "version": version, "port": port, **more})
            client.report_health("job", "pass")
    with a.client() as client:
        eventually(
            lambda: [row["version"] for row in client.services("job")] == [version] * 2, "both are well"
        )
        yield client
        for route in client.routes():
            client.delete_route(route["name"])
    for agent in (b, c):
        with agent.client() as client:
            client.deregister("job")


@contextmanager
def unwell(agent: Agent, client: Client) -> Iterator[None]:
    """A while in which the job of an agent fails its check."""
    with agent.client() as own:
        own.report_health("job", "fail", "on purpose")
        eventually(lambda: len(client.services("job")) == 1, "it is out")
        yield
        own.report_health("job", "pass")
    eventually(lambda: len(client.services("job")) == 2, "it is back")


def taken(client: Client, count: int = 1, **wants: Any) -> Counter[str]:
    return Counter(client.resolve("job", **wants)["owner_name"] for _ in range(count))


def test_rules_in_order_choose_between_edge_and_cloud(town: Yard, job: Client) -> None:
    rules = [
        {"latency_ms": 50, "target": "edge"},
        {"size_above_bytes": 1e6, "target": "cloud"},
        {"type": ["inference"], "capabilities": ["gpu"], "target": "edge"},
    ]
    job.set_route("job", {"rules": rules, "margin": 1})
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"latency_ms": 20, "size_bytes": 2e6}, "n2", "rule 1"),
        ({"latency_ms": 200, "size_bytes": 2e6}, "n3", "rule 2"),
        ({"capabilities": "gpu"}, "n2", "rule 3"),
        ({}, "n3", "no rule holds"),
    ]

    def chosen(wants: dict[str, Any]) -> tuple[str, str]:
        found = job.resolve("job", **wants)
        return found["owner_name"], found["because"]

    for wants, node, because in cases:  # a node that is late for a moment is passed over
        eventually(
            lambda wants=wants, node=node, because=because: chosen(wants) == (node, because),
            f"{wants}: {node}",
        )
    shown = town.agents[0].ctl("route", "explain", "job", "--latency", "20ms")
    assert "target edge, by rule 1" in shown.stderr
    with unwell(town.agents[2], job):  # a decision that was kept is dropped
        assert taken(job) == {"n2": 1}
        job.set_route("job", {"rules": rules, "strict": True})
        with pytest.raises(NoInstances, match="tier edge is not cloud"):
            job.resolve("job")
    assert taken(job) == {"n3": 1}


def test_each_way_of_taking_turns(job: Client) -> None:
    def by(algorithm: str, **more: Any) -> None:
        job.set_route("job", {**ANY, "algorithm": algorithm, **more})

    by("round-robin")
    assert taken(job, 10) == {"n2": 5, "n3": 5}
    by("smooth", regions={"eu-west": 70})
    assert taken(job, 17) == {"n2": 7, "n3": 10}
    by("hash")
    owners = {source: taken(job, 4, source=source) for source in (f"10.0.0.{n}" for n in range(20))}
    assert all(len(each) == 1 for each in owners.values())
    assert len({next(iter(each)) for each in owners.values()}) == 2
    by("least-connections")
    with ExitStack() as held:
        # Whoever has fewer open connections is next, so they spread evenly.
        for _ in range(6):
            held.enter_context(job.connect("job"))
        in_flight = {row["node"]: row["in_flight"] for row in job.explain("job")["candidates"]}
        assert in_flight == {"n2": 3, "n3": 3}
    for algorithm in ("least-time", "two-choices"):
        by(algorithm)
        assert taken(job, 6).total() == 6


def test_a_group_fails_over_and_is_used_again(town: Yard, job: Client) -> None:
    groups = [{"name": "first", "select": "name=n2"}, {"name": "second", "select": "name=n3"}]
    route = {**ANY, "groups": groups, "return_s": 1}
    job.set_route("job", route)
    assert taken(job, 3) == {"n2": 3}
    with unwell(town.agents[1], job):
        assert taken(job, 3) == {"n3": 3}
    eventually(lambda: taken(job) == {"n2": 1}, "it was well for long enough")
    # Three calls that fail take it out as well: nobody listens behind it any more.
    with closed_port() as closed:
        with town.agents[1].client() as own:
            version = job.resolve("job")["version"]
            own.register({"name": "job", "version": version, "port": closed, "ttl_s": 600}, replace=True)
        eventually(lambda: f":{closed}" in str(job.services("job")), "the change is seen")
        job.set_route("job", {**route, "return_s": 300})
        for _ in range(3):
            job.connect("job").close()
        assert job.explain("job")["group"] == "second"
    job.set_route("job", {**route, "failover": "manual", "active": "first"})
    assert job.explain("job")["group"] == "first"
    job.set_route("job", {**route, "mode": "active-active"})
    assert {row["verdict"] for row in job.explain("job")["candidates"]} == {"taken"}


def test_weights_of_the_score_are_the_operators(job: Client) -> None:
    job.set_route(
        "job", {"default": "optimal", "weights": {"distance": 0, "network": 0, "load": 0, "cost": 1}}
    )
    assert taken(job, 4) == {"n3": 4}
    rows = {row["node"]: row for row in job.explain("job")["candidates"]}
    assert (rows["n2"]["score"], rows["n3"]["score"]) == (0.9, 0.1)
    assert rows["n2"]["why"] == "0.80 above the least"


def test_local_first_stays_where_the_data_is(town: Yard, job: Client) -> None:
    job.set_route("job", {"default": "optimal", "local_first": True})
    assert taken(job, 3, data="maps") == {"n2": 3}
    assert job.explain("job", data="maps")["candidates"][1]["why"].startswith("local first: a peer with data")
    assert taken(job, 3, data="music") == {"n2": 3}
    assert job.explain("job", data="music")["candidates"][1]["why"] == "local first: a capable peer"
    with unwell(town.agents[1], job):
        assert taken(job, 1, data="maps") == {"n3": 1}
    with town.agents[1].client() as own:
        eventually(lambda: own.explain("job")["document"], "the route arrived")
        assert taken(own, 3, data="maps", need="memory=1") == {"n2": 3}
        assert own.explain("job", data="maps")["candidates"][1]["why"] == "local first: here"


def test_a_check_that_hangs_delays_no_other_and_one_that_cannot_run_is_an_error(
    town: Yard, port: int
) -> None:
    a, b, _ = town.agents
    with a.client() as one, b.client() as two:
        hangs = [{"kind": "http", "interval_s": 1, "timeout_s": 30} for _ in range(8)]
        two.register({"name": "slow", "port": port, "protocol": "http", "checks": hangs})
        tcp = {"kind": "tcp", "interval_s": 1, "rise": 1}
        two.register({"name": "quick", "port": port, "checks": [tcp]})
        two.register({"name": "lost", "endpoints": ["tcp://no-such..host:1"], "checks": [tcp]})
        eventually(lambda: one.services("quick"), "the quick one is well")
        states = {row["name"]: row["health"] for row in one.services(all=True)}
        assert states["slow"] == "unknown"
        eventually(lambda: one.service("lost")["health"] == "error", "it cannot even be tried")
        for name in ("slow", "quick", "lost"):
            two.deregister(name)


def test_only_the_shards_of_a_member_that_goes_move(town: Yard) -> None:
    town.agree()  # one that comes back just then, after another test, moves its own as well
    a, _, c = town.agents
    with a.client() as one:
        gone = c.status()["id"]
        one.shard_lookup("k")
        with one.watch_shards() as changes:
            owners = {}
            for change in changes:
                if change["change"] == "ready":
                    break
                owners[change["shard"]] = change["after"][0]["id"]
            theirs = {shard for shard, owner in owners.items() if owner == gone}
            assert theirs
            c.kill()
            moved = [next(changes) for _ in theirs]
            assert {change["shard"] for change in moved} == theirs
            assert {change["before"][0]["id"] for change in moved} == {gone}
            c.start()
            back = [next(changes) for _ in theirs]
            assert {change["shard"] for change in back} == theirs
        eventually(lambda: len(one.events(type="shards_moved")) >= 2, "it is told")
        found = one.shard_lookup("k", replicas=3, selector="tier=edge")
        assert {node["name"] for node in found["nodes"]} == {"n1", "n2"}
    town.agree()


def test_what_is_wrong_is_refused_and_says_what_would_be_right(town: Yard, tmp_path: Path) -> None:
    a = town.agents[0]
    files = {"bad.toml": "name = ", "two.toml": 'name = "a"\nport = 1\nweight = "heavy"\n', "empty.toml": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    a_service = ("service", "register", "--name", "a", "--port")
    cases: list[tuple[tuple[str, ...], int, str]] = [
        ((*a_service, "1", "--protocol", "smtp"), 2, "one of tcp, tls, http"),
        ((*a_service, "0"), 2, "from 1 to 65535"),
        ((*a_service, "65536"), 2, "from 1 to 65535"),
        ((*a_service, "1", "--ttl", "0s"), 2, "ttl"),
        ((*a_service, "1", "--weight", "1001"), 2, "from 0 to 1000"),
        (("service", "register", "--name", "a\x1b[2J", "--port", "1"), 2, "it is a DNS label"),
        (("service", "register", "-f", str(tmp_path / "none.toml")), 4, "there is no file"),
        (("service", "register", "-f", str(tmp_path / "bad.toml")), 2, "is not TOML"),
        (("service", "register", "-f", str(tmp_path / "two.toml")), 2, "a whole number"),
        (("service", "register", "-f", str(tmp_path / "empty.toml")), 2, "has no name"),
        (("service", "ls", "--version", "abc"), 2, "=abc for a version that is a word"),
        (("service", "ls", "--label", "tier=="), 2, "has no value"),
        (("route", "explain", "nope"), 4, "nobody offers a service nope"),
        (("service", "resolve", "nope"), 4, "nobody offers a service nope"),
        (("service", "call", "nope"), 4, "no available instances of nope"),
    ]
    for words, status, says in cases:
        done = a.ctl(*words)
        assert (done.returncode, says in done.stderr) == (status, True), (words, done.stderr)
        assert "\x1b" not in done.stderr
        assert "Traceback" not in done.stderr
    routes = [
        ('{"weights": {"distance": 0, "network": 0, "load": 0}}', "at least one share"),
        ('{"weights": {"distance": 2}}', "between 0 and 1"),
        ('{"mode": "both"}', "active-passive, active-active"),
        ('{"rules": [{"target": "moon"}]}', "edge, cloud, optimal"),
        ('{"to": "two"}', ""),
        ('{"to": "one"}', "in a circle: two -> one -> two"),
    ]
    for number, (text, says) in enumerate(routes):
        name = "one" if number < len(routes) - 1 else "two"
        done = a.ctl("route", "set", name, "-", stdin=text)
        assert (done.returncode, says in done.stderr) == (2 if says else 0, True), (text, done.stderr)
    assert a.ctl("route", "delete", "one").returncode == 0
    assert a.ctl("route", "set", "one", str(tmp_path / "none.json")).returncode == 4
