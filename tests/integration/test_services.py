"""Services between real agents: registered on one, known to all, gone when they are gone."""

from __future__ import annotations

import http.server
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from yard import Agent, Yard, eventually, fresh_yard

from mesh.errors import Conflict, Denied, MeshError, NotFound, UsageError


class Web(http.server.ThreadingHTTPServer):
    """A program whose health a test sets."""

    status = 200
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def town() -> Iterator[Yard]:
    """Three agents, the second with a services directory."""
    with fresh_yard() as made:
        beats = {"MESHD_MEMBERSHIP__LEASE_S": "3"}
        first = made.first(start=False)
        first.settings.update(beats)
        first.start()
        token = made.invite(first, uses=2)
        for name in ("n2", "n3"):
            agent = made.join(token, name, start=False)
            services = made.folder / f"{name}.d"
            services.mkdir(mode=0o755)
            agent.settings.update(beats, MESHD_SERVICES__DIR=str(services))
            agent.start()
        made.agree()
        yield made


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.end()


def health(agent: Agent, name: str) -> Any:
    """(state, health) of each service of this name, as an agent sees it."""
    with agent.client() as client:
        return sorted((row["state"], row["health"]) for row in client.services(name, all=True))


def put_file(path: Path, text: str, mode: int = 0o644) -> None:
    """At once whole and with its mode, whenever somebody looks."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)


def test_a_service_registered_on_one_is_found_on_all_and_only_its_owner_can_change_it(town: Yard) -> None:
    a, b, c = town.agents
    with a.client() as one, b.client() as two, c.client() as three:
        made = two.register({"name": "orders", "version": "1.4.2", "port": 8080, "tags": ["blue"]})
        for client in (one, two, three):
            (row,) = eventually(lambda client=client: client.services("orders"), "it is seen")
            assert (row["id"], row["owner_name"], row["state"]) == (made["id"], "n2", "live")
        assert two.register({"name": "orders", "version": "1.4.2", "port": 8080, "tags": ["blue"]}) == made
        with pytest.raises(Conflict, match="registered already by n2"):
            two.register({"name": "orders", "version": "1.4.2", "port": 8081})
        with pytest.raises(Denied, match="is n2's"):
            one.deregister(made["id"])
        with pytest.raises(UsageError, match="port is 0"):
            one.register({"name": "orders", "port": 0})
        with pytest.raises(Denied, match="own files only"):
            two.register(
                {"name": "x", "port": 1, "checks": [{"kind": "command", "argv": ["/usr/bin/touch", "/x"]}]}
            )
        mine = one.register({"name": "orders", "version": "2.0", "port": 9000, "tier": "edge"})
        assert mine["id"] != made["id"]
        eventually(lambda: len(three.services("orders")) == 2, "both are seen")
        assert [row["version"] for row in three.services("orders", version="^1.2")] == ["1.4.2"]
        assert [row["version"] for row in three.services(owner="n1")] == ["2.0"]
        assert [row["version"] for row in three.services(tag="blue")] == ["1.4.2"]
        assert [row["version"] for row in three.services(tier="edge")] == ["2.0"]
        assert one.services("orders", near=True)[0]["owner_name"] == "n1"
        two.register({"name": "orders", "version": "1.4.2", "port": 8081}, replace=True)
        eventually(
            lambda: three.service(made["id"])["endpoints"] == ["tcp://127.0.0.1:8081"], "the change is seen"
        )
        two.deregister("orders")
        one.deregister(mine["id"])
        eventually(lambda: three.services("orders", all=True) == [], "both are gone")
        with pytest.raises(NotFound):
            two.deregister(made["id"])
        wanted = {"service_registered", "service_updated", "service_deregistered"}
        eventually(
            lambda: wanted <= {event["type"] for event in three.events(type="service_*")}, "all is told"
        )


def test_a_check_that_falls_is_seen_by_all_and_so_is_its_rise(town: Yard, web: Web) -> None:
    a, b, _ = town.agents
    check = {"kind": "http", "interval_s": 1, "fall": 2, "rise": 1}
    with a.client() as one, b.client() as two:
        two.register({"name": "shop", "port": web.port, "checks": [check]})
        eventually(lambda: health(a, "shop") == [("live", "healthy")], "it is healthy")
        web.status = 503
        eventually(lambda: health(a, "shop") == [("live", "unhealthy")], "it falls")
        assert one.services("shop") == []
        assert one.service("shop")["why"] == "status 503"
        assert two.service("shop")["results"][0]["output"] == "status 503"
        web.status = 200
        eventually(lambda: health(a, "shop") == [("live", "healthy")], "it rises")
        two.deregister("shop")


def test_a_program_reports_itself_and_its_silence_is_noticed(town: Yard) -> None:
    a, b, _ = town.agents
    with a.client() as one, b.client() as two:
        report = {"name": "worker", "port": 1, "checks": [{"kind": "ttl"}]}
        two.register({**report, "ttl_s": 600})
        assert b.ctl("service", "pass", "worker").returncode == 0
        eventually(lambda: health(a, "worker") == [("live", "healthy")], "it reported")
        assert b.ctl("service", "warn", "worker", "queue is long").returncode == 0
        eventually(lambda: health(a, "worker") == [("live", "degraded")], "it warned")
        two.register({**report, "ttl_s": 2}, replace=True)
        eventually(lambda: health(a, "worker") == [("live", "unhealthy")], "it fell silent")
        assert one.service("worker")["why"] == "no report for 2 s"
        eventually(lambda: one.events(type="service_health"), "it is told")
        with pytest.raises(Denied):
            one.report_health("worker")
        two.deregister("worker")


def test_files_are_read_as_they_change_and_may_define_commands(town: Yard, tmp_path: Path) -> None:
    a, b, _ = town.agents
    folder = Path(b.settings["MESHD_SERVICES__DIR"])
    file, flag = folder / "db.toml", tmp_path / "well"
    flag.touch()
    put_file(
        file,
        '[[service]]\nname = "db"\nport = 5432\n'
        f'[[service.checks]]\nkind = "command"\nargv = ["/usr/bin/test", "-e", "{flag}"]\n'
        "interval_s = 1\nfall = 1\n"
        '[[service]]\nname = "cache"\nport = 6379\n',
    )
    eventually(lambda: health(a, "db") == [("live", "healthy")], "the file is read")
    flag.unlink()
    eventually(lambda: health(a, "db") == [("live", "unhealthy")], "the command says no")
    with b.client() as two:
        with pytest.raises(Conflict, match="file"):
            two.deregister("db")
        assert two.service("db")["source"] == f"file {file}"
        put_file(file, 'name = "db"\nport = "none"\n')
        alarm = eventually(
            lambda: [e for e in two.events(type="alarm.services-files") if "none" in e["message"]],
            "it is told",
        )
        assert "db.toml" in alarm[0]["message"]
        assert health(b, "cache") == [("live", "healthy")]
        put_file(file, 'name = "cache"\nport = 6380\n')
        b.signal(signal.SIGHUP)
        eventually(lambda: health(a, "db") == [], "what is in no file any more is withdrawn")
        eventually(
            lambda: two.service("cache")["endpoints"] == ["tcp://127.0.0.1:6380"], "the other is changed"
        )
        file.unlink()
        eventually(lambda: health(a, "cache") == [], "the last file is gone")


def test_files_that_others_can_write_are_not_believed(town: Yard) -> None:
    b = town.agents[1]
    file = Path(b.settings["MESHD_SERVICES__DIR"]) / "evil.toml"
    put_file(file, 'name = "evil"\nport = 1\n', mode=0o666)
    with b.client() as two:
        eventually(
            lambda: [e for e in two.events(type="alarm.services-files") if "evil.toml" in e["message"]],
            "it is told",
        )
        assert two.services("evil", all=True) == []
        file.chmod(0o644)
        eventually(lambda: two.services("evil"), "what was advised is enough")
        file.unlink()
        eventually(lambda: not two.services("evil", all=True), "it is gone with its file")


def test_services_of_a_killed_agent_are_gone_at_once_expire_and_come_back(town: Yard) -> None:
    a, _, c = town.agents
    with a.client() as one, c.client() as three:
        three.register({"name": "ledger", "port": 7000, "ttl_s": 1})
        eventually(lambda: one.services("ledger"), "it is seen")
        with one.watch_services("ledger") as changes:
            assert [next(changes)["change"] for _ in range(2)] == ["present", "ready"]
            c.kill()
            found = [next(changes) for _ in range(2)]
        assert [change["change"] for change in found] == ["lost", "expired"]
        assert one.services("ledger") == []
        assert health(a, "ledger") == [("expired", "healthy")]
        c.start()
        eventually(lambda: one.services("ledger"), "it is back without being registered again")
        with one.watch_services("ledger", cursor=found[0]["cursor"]) as changes:
            assert [next(changes)["change"] for _ in range(2)] == ["expired", "alive"]
        with c.client() as again:
            again.deregister("ledger")


def test_a_stop_takes_services_out_before_anybody_misses_the_agent(town: Yard) -> None:
    a, _, c = town.agents
    with a.client() as one:
        with c.client() as three:
            three.register({"name": "till", "port": 7001})
        eventually(lambda: one.services("till"), "it is seen")
        assert c.stop() == 0
        eventually(lambda: not one.services("till"), "it is not called any more")
        c.start()
        eventually(lambda: one.services("till"), "it is back")
        town.agree()


def test_a_right_that_is_taken_away_takes_services_with_it_everywhere(town: Yard) -> None:
    a, b, c = town.agents
    with a.client() as one, b.client() as two, c.client() as three:
        made = two.register({"name": "guest", "port": 1})
        eventually(lambda: three.services("guest"), "it is seen")
        one.set_policy({"member": {"write": ["kv/**", "health/{self}"]}})
        eventually(lambda: not one.services("guest") and not three.services("guest"), "it counts no more")
        eventually(lambda: two.policy()["roles"], "the policy arrives")
        with pytest.raises(Denied, match="may not write"):
            two.register({"name": "guest-2", "port": 1})
        one.set_policy({"member": {"write": ["kv/**", "*/{self}/**", "*/{self}"], "offer": ["shop"]}})
        eventually(lambda: two.policy()["roles"]["member"].get("offer"), "the policy arrives")
        with pytest.raises(Denied, match="may not offer guest-2"):
            two.register({"name": "guest-2", "port": 1})
        assert three.services("guest") == []
        one.reset_policy()
        eventually(lambda: not two.policy()["roles"], "the defaults arrive")
        eventually(lambda: three.services("guest"), "it counts again")
        two.deregister(made["id"])


def test_heartbeats_are_told_to_who_asks(town: Yard) -> None:
    a, b, _ = town.agents
    with b.client() as two:
        two.register({"name": "pulse", "port": 1})
    with a.client() as one, one.watch_services("pulse", heartbeats=True) as changes:
        kinds = set()
        while "heartbeat" not in kinds:
            kinds.add(next(changes)["change"])


def test_meshctl_lists_and_explains(town: Yard) -> None:
    a, b, _ = town.agents
    words = ("--name", "printer", "--port", "631", "--protocol", "http", "--tag", "ink", "--meta", "floor=2")
    done = b.ctl("service", "register", *words)
    assert done.returncode == 0, done.stderr
    eventually(lambda: "printer" in a.ctl("service", "ls").stdout, "it is listed")
    (row,) = json.loads(a.ctl("service", "ls", "printer", "--tag", "ink", "-o", "json").stdout)
    assert row["meta"] == {"floor": "2"}
    assert row["endpoints"] == ["http://127.0.0.1:631"]
    assert "http://127.0.0.1:631" in a.ctl("service", "show", "printer").stdout
    refused = b.ctl("service", "register", "--name", "printer", "--port", "632")
    assert (refused.returncode, "already by n2" in refused.stderr) == (5, True)
    assert a.ctl("service", "deregister", "printer").returncode == 6
    assert a.ctl("service", "register", "--name", "Bad Name", "--port", "1").returncode == 2
    assert a.ctl("service", "show", "nothing").returncode == 4
    assert b.ctl("service", "deregister", "printer").returncode == 0


def test_every_agent_gives_the_same_owner_of_a_key(town: Yard) -> None:
    town.agree()
    words = ("shard", "lookup", "customer/17", "--replicas", "2", "-o", "json")

    def owners() -> Any:
        found = [json.loads(each.ctl(*words).stdout) for each in town.agents]
        return found[0] if found[0] == found[1] == found[2] else None

    found = eventually(owners, "all say the same")
    assert len({node["id"] for node in found["nodes"]}) == 2


def test_registrations_beyond_the_bound_are_refused(yard: Yard) -> None:
    agent = yard.first(start=False)
    agent.settings["MESHD_SERVICES__PER_NODE_MAX"] = "3"
    agent.start()
    with agent.client() as client:
        for number in range(3):
            client.register({"name": f"s{number}", "port": 1})
        with pytest.raises(Conflict, match="as many as it may"):
            client.register({"name": "s3", "port": 1})


@pytest.mark.slow
def test_services_of_another_zone_are_found_through_its_gateway(yard: Yard) -> None:
    here = yard.first(start=False)
    here.settings["MESHD_MEMBERSHIP__PROFILE"] = "local"
    with here.start().client() as client:
        far = client.create_invite(uses=2, zone="berlin")["token"]
    there, other = yard.join(far, start=False), yard.join(far, start=False)
    for agent in (there, other):
        agent.settings.update(here.settings)
        agent.start()
    yard.agree()
    seen: list[str] = []

    def watch() -> None:
        with suppress(MeshError), here.client() as watching, watching.watch_services("orders") as changes:
            seen.extend(change["change"] for change in changes)

    thread = threading.Thread(target=watch)
    thread.start()
    eventually(lambda: seen == ["ready"], "it watches")
    with here.client() as one, there.client() as two:
        two.register({"name": "orders", "port": 8080})
        (row,) = eventually(lambda: one.services("orders"), "the summary tells of it")
        assert (row["zone"], row["summary"], row["owner_name"]) == ("berlin", True, there.name)
        there.kill()
        eventually(lambda: not one.services("orders"), "and that it is gone")
        there.start()
        eventually(lambda: one.services("orders"), "and that it is back")
    with there.client() as two:
        two.deregister("orders")
    with here.client() as one:
        eventually(lambda: not one.services("orders"), "and that it is withdrawn")
    assert other.alive()
    eventually(lambda: seen[-1] == "lost", "the watch tells it")
    assert seen[:3] == ["ready", "registered", "lost"]
    assert set(seen[3:-1]) <= {"registered", "alive", "lost"}
    here.kill()
    thread.join()
