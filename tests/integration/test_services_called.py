"""Programs that nobody here wrote call each other through three real agents: redis and nginx, by name."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from place import NEEDED, Place, able
from yard import Agent, Yard, eventually, fresh_yard

from mesh.errors import Denied, Failed, MeshError, NoInstances

pytestmark = pytest.mark.skipif(not able, reason=f"needs the programs {', '.join(NEEDED)}")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with fresh_yard() as yard:
        made = Place(yard)
        try:
            yield made
        finally:
            made.end()


@pytest.fixture
def token(place: Place) -> Iterator[dict[str, Any]]:
    with place.near.client() as client:
        made = client.create_token(["web"], paths=["/web"], ttl_s=600, note="test")
        yield made
        client.revoke_token(made["id"])


def test_redis_cli_reaches_redis_on_another_node(place: Place) -> None:
    assert place.redis("ping").stdout == "PONG\n"
    big = "x" * 200_000
    host, port = place.at["proxy.imports.cache"]
    script = f"SET big {big}\nSTRLEN big\nDBSIZE\n"
    command = ["redis-cli", "-h", host, "-p", str(port)]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split("\n")[:3] == ["OK", "200000", "1"]


def test_curl_reaches_nginx_through_socks_and_http(place: Place) -> None:
    proxy = "{}:{}".format(*place.at["proxy.listen"])
    for words in (["--socks5-hostname", proxy], ["-x", f"http://{proxy}"], ["-p", "-x", f"http://{proxy}"]):
        heard: set[str] = set()

        def both(words: list[str] = words, heard: set[str] = heard) -> bool:
            heard.add(place.curl(*words, "http://web.mesh/a?b").partition(" ")[0])
            return heard == {"n2", "n3"}

        eventually(both, "both instances are called")
    status = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert place.curl("-x", f"http://{proxy}", *status, "http://example.org/") == "404"


def test_a_name_leads_to_a_listener_with_the_service_s_own_port(place: Place) -> None:
    host, port = place.lookup("web.mesh")
    assert place.curl(f"http://{host}:{port}/").partition(" ")[0] in ("n2", "n3")


def test_the_gateway_lets_tokens_in_and_nobody_else(place: Place, token: dict[str, Any]) -> None:
    bearer = ["-H", f"Authorization: Bearer {token['token']}"]
    assert place.curl(place.gateway("/ping")) == "pong\n"
    assert place.curl(*bearer, place.gateway("/web/a")).endswith(f" /a {token['id']}\n")
    status = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert place.curl(*status, place.gateway("/web/a")) == "401"
    assert place.curl(*status, *bearer, place.gateway("/cache/a")) == "403"
    assert place.curl(*status, *bearer, place.gateway("/nobody/")) == "403"
    with place.near.client() as client:
        other = client.create_token(["web"])
        assert place.curl(*status, "-H", f"X-Token: {other['token']}", place.gateway("/web/")) == "200"
        client.revoke_token(other["id"])
    assert place.curl(*status, "-H", f"X-Token: {other['token']}", place.gateway("/web/")) == "401"
    assert other["token"].rpartition("_")[2] not in place.near.ctl("token", "ls", "-o", "json").stdout


def test_a_load_balancer_sees_whether_a_gateway_s_node_takes_work(place: Place) -> None:
    status = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert '"status": "ok"' in place.curl(place.gateway("/healthz"))
    assert place.near.ctl("node", "drain", place.near.name).returncode == 0
    try:
        eventually(lambda: place.curl(*status, place.gateway("/healthz")) == "503", "it drains")
        assert place.curl(place.gateway("/ping")) == "pong\n"
    finally:
        assert place.near.ctl("node", "undrain", place.near.name).returncode == 0
    eventually(lambda: place.curl(*status, place.gateway("/healthz")) == "200", "it takes work again")


def test_the_gateway_speaks_tls_with_a_certificate_that_may_change(
    place: Place, token: dict[str, Any]
) -> None:
    secured = place.far[0]
    with secured.client() as client:
        ((host, port),) = [
            (row["host"], row["port"]) for row in client.listeners() if row["what"] == "gateway.listen"
        ]
        eventually(lambda: token["id"] in {row["id"] for row in client.tokens()}, "the token arrived")
    bearer = ["-H", f"Authorization: Bearer {token['token']}", "--cacert", str(place.certificate)]
    url = f"https://{host}:{port}/web/"
    assert place.curl(*bearer, url).endswith(f" / {token['id']}\n")
    assert place.curl(url) == ""
    assert "this port speaks TLS" in place.curl(f"http://{host}:{port}/web/")

    place.make_certificate()
    assert place.curl(*bearer, url) == ""
    secured.signal(signal.SIGHUP)
    eventually(lambda: place.curl(*bearer, url), "the new certificate is in use")
    key = place.yard.folder / "key.pem"
    key.chmod(0o644)
    secured.signal(signal.SIGHUP)
    eventually(lambda: f"others may use {key} (mode 644)" in secured.ctl("doctor").stdout, "it is told")
    assert place.curl(*bearer, url)
    key.chmod(0o600)
    secured.signal(signal.SIGHUP)
    eventually(lambda: "others may use" not in secured.ctl("doctor").stdout, "it is mended")

    wrong = f"mesht_{'0' * 12}_{'0' * 64}"
    words = ["--cacert", str(place.certificate), "-H", f"X-Token: {wrong}", "-o", "/dev/null"]
    said = place.curl(*words, "-w", "%{http_code} %header{retry-after}\\n", f"{url}[1-22]").splitlines()
    assert said[:20] == ["401 "] * 20
    assert all(line.startswith("429 ") and 0 < int(line.split()[1]) <= 60 for line in said[20:])
    assert "20 wrong tokens from 127.0.0.1" in place.curl(*bearer, url)
    assert place.curl(*bearer, f"https://{host}:{port}/ping") == "pong\n"
    with secured.client() as client:
        eventually(
            lambda: client.metrics()["groups"]["agent"].get("gateway.too_many_wrong_tokens") == 3,
            "it is counted",
        )
        assert client.metrics()["groups"]["agent"]["gateway.wrong_tokens"] == 20


def test_a_program_calls_and_connects_by_name(place: Place) -> None:
    serving = threading.Event()

    def serve() -> None:
        with place.far[0].client() as client, client.serve("adder") as calls:
            serving.set()
            for call in calls:
                client.answer(call["call"], payload=call["payload"] + 1)
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert serving.wait(60)
    with place.far[0].client() as client:
        client.register({"name": "adder", "port": 9})
    with place.near.client() as client:
        eventually(lambda: client.services("adder"), "adder is known")
        assert client.call("adder", 41)["payload"] == 42
        assert place.near.ctl("route", "explain", "ader").stderr.count("did you mean adder?") == 1
        with client.connect("cache") as sock:
            sock.sendall(b"PING\r\n")
            assert sock.recv(100) == b"+PONG\r\n"
        with pytest.raises(NoInstances):
            client.call("nobody", 1)
    thread.join()
    with place.far[0].client() as client:
        client.deregister("adder")


def sums(start: int, parts: Iterator[int]) -> Iterator[int]:
    """A program: the sum so far, after each part."""
    yield start
    for part in parts:
        start += part
        yield start


class Serving:
    """A program on a node that handles a name until its agent goes, beside a service of this name."""

    def __init__(self, place: Place, agent: Agent, name: str, function: Any) -> None:
        self.place, self.agent, self.name, self.function = place, agent, name, function
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        place.threads.append(self.thread)
        with agent.client() as client:
            eventually(lambda: client.request(agent.name, name, 0), "the program serves")
            client.register({"name": name, "port": 9})

    def _run(self) -> None:
        with suppress(MeshError), self.agent.client() as client:
            client.handle(self.name, self.function, parts=True)

    def end(self) -> None:
        """Take it out, and wait until none that is called by other tests thinks that it is there."""
        with self.agent.client() as client:
            me = client.status()["name"]
            client.deregister(self.name)
        for agent in (self.place.near, *self.place.far):
            with agent.client() as client:
                eventually(
                    lambda client=client: me not in {row["owner_name"] for row in client.services(self.name)},
                    "it is gone",
                )


def test_a_program_talks_with_a_service_in_parts_both_ways(place: Place) -> None:
    serving = Serving(place, place.far[0], "sums", sums)
    try:
        with place.near.client() as client:
            eventually(lambda: client.call("sums", 5)["payload"] == 5, "a program serves it")
            with client.stream("sums", 10) as talk:
                assert (talk.node_name, next(talk)) == ("n2", 10)
                for part, sum_ in ((1, 11), (2, 13), (3, 16)):
                    talk.send(part)
                    assert next(talk) == sum_
                talk.end()
                assert list(talk) == []
            with client.stream("sums", "x") as talk:
                talk.send(1)
                with pytest.raises(Failed, match="the handler failed: TypeError"):
                    list(talk)
            with pytest.raises(NoInstances):
                client.stream("nobody")
        words = ("service", "call", "sums", "1", "--json")
        assert place.near.ctl(*words, stdin="").stdout == "1\n"
        done = place.near.ctl(*words, "--stream", "-o", "jsonl", stdin="2\n3\n")
        assert [json.loads(line)["payload"] for line in done.stdout.splitlines()] == [1, 3, 6]
    finally:
        serving.end()


def test_what_an_admin_writes_steers_calls_on_every_node(place: Place) -> None:
    route = '{"default": "optimal", "groups": [{"name": "one", "select": "name=n3"}, {"name": "two"}]}'
    done = place.near.ctl("route", "set", "web", "-", stdin=route)
    assert done.returncode == 0, done.stderr
    try:
        with place.far[0].client() as client:
            eventually(lambda: client.explain("web")["group"] == "one", "the route arrived")
            rows = client.explain("web")["candidates"]
            assert {row["node"]: row["verdict"] for row in rows} == {"n3": "taken", "n2": "standby"}
            assert {client.resolve("web")["owner_name"] for _ in range(4)} == {"n3"}
        shown = place.near.ctl("route", "explain", "web")
        assert "group one is in use" in shown.stdout
        assert place.near.ctl("route", "set", "web", "-", stdin='{"margin": 9}').returncode == 2
        refused = place.near.ctl("route", "set", "web", "-", stdin='{"mode": "both"}')
        assert (refused.returncode, "active-passive, active-active" in refused.stderr) == (2, True)
        assert place.near.ctl("service", "resolve", "nobody").returncode == 4
    finally:
        assert place.near.ctl("route", "delete", "web").returncode == 0


def test_who_may_call_is_decided_by_the_called_side(place: Place) -> None:
    with place.near.client() as client:
        client.set_policy({"member": {**client.policy()["defaults"]["member"], "call": ["web"]}})
        try:
            with place.far[0].client() as other:
                eventually(
                    lambda: not other.may("n2", "call", "cache")["allowed"], "the policy arrived at n2"
                )
                done = place.far[1].ctl("policy", "check", "n2", "call", "cache")
                eventually(
                    lambda: place.far[1].ctl("policy", "check", "n2", "call", "cache").returncode == 6,
                    f"the policy arrived at n3: {done.stdout}",
                )
                for refused in (other.connect, other.call):
                    with pytest.raises(Denied, match="may not call 'cache'"):
                        refused("cache")
        finally:
            defaults(place, client)


def defaults(place: Place, client: Any) -> None:
    """What every member may by default counts again, everywhere."""
    client.reset_policy()
    for agent in place.yard.agents:
        with agent.client() as each:
            eventually(lambda each=each: not each.policy()["roles"], f"{agent.name} has the defaults")


def test_a_port_that_is_taken_is_told_and_taken_up_once_it_is_free(yard: Yard) -> None:
    agent = yard.first(start=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent.settings = {"MESHD_PROXY__LISTEN": str(port)}
        agent.start()
        eventually(lambda: f"cannot listen on 127.0.0.1:{port}" in agent.ctl("doctor").stdout, "it is told")
        assert agent.status()["members"]["alive"] == 1
    with agent.client() as client:
        eventually(client.listeners, "the proxy listens")
    agent.stop()
    agent.settings = {"MESHD_PROXY__LISTEN": "0.0.0.0:1"}
    with suppress(AssertionError):
        agent.start()
    assert agent.ended() == 2
    assert "is not loopback" in agent.tail()


@pytest.mark.slow
def test_a_service_of_another_zone_is_called_through_its_gateway_and_told_who_calls(place: Place) -> None:
    with place.near.client() as client:
        invite = client.create_invite(uses=2, zone="attic")["token"]
        me = client.status()["id"]
    attic = [place.yard.join(invite, name) for name in ("a1", "a2")]
    place.yard.agree()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for agent in attic:
            with agent.client() as client:
                client.register({"name": "far", "port": port, "meta": {"caller": "proxy-v2"}})
        with place.near.client() as client:
            eventually(lambda: len(client.services("far")) == 2, "the zone's summary arrived")
            assert all(row["summary"] for row in client.services("far"))
            host, named = place.lookup("far.mesh")
            assert named == port
            for number in range(4):
                # Twice by the client library, twice as a program that knows the name only.
                by_name = socket.create_connection((host, named)) if number % 2 else client.connect("far")
                with by_name as sock:
                    sock.sendall(b"hello")
                    served, _ = listener.accept()
                    with served:
                        heard = b""
                        while not heard.endswith(b"hello"):
                            heard += (more := served.recv(4096))
                            assert more, "it was closed"
                        assert me.encode() in heard
                        served.sendall(b"bye")
                    assert sock.recv(10) == b"bye"
    # Their node names are what a program sees; who asked is told through the gateway.
    serving = [Serving(place, agent, "sums", sums) for agent in attic]
    with place.near.client() as client:
        eventually(lambda: len(client.services("sums")) == 2, "the zone's summary arrived")
        asked = {client.call("sums", number)["payload"] for number in range(6)}
        assert asked == set(range(6))
        with client.stream("sums", 1) as talk:
            assert talk.node_name in ("a1", "a2")
            talk.send(41)
            talk.end()
            assert list(talk) == [1, 42]
        with attic[0].client() as there:
            there_calls = there.call("sums", 7)
            assert there_calls["payload"] == 7
        with place.yard.agents[1].client() as other:
            eventually(lambda: len(other.services("sums")) == 2, "the zone's summary arrived there too")
            assert other.call("sums", 3)["node_name"] in ("a1", "a2")
        client.set_policy({"member": {**client.policy()["defaults"]["member"], "call": ["web"]}})
        try:
            with attic[0].client() as there, attic[1].client() as second:
                for each in (there, second):
                    eventually(lambda each=each: not each.may("n2", "call", "sums")["allowed"], "it arrived")
            with place.yard.agents[1].client() as other:
                for refused in (other.call, other.stream):
                    with pytest.raises(Denied, match="n2 may not call 'sums'"):
                        refused("sums", 1)
        finally:
            defaults(place, client)
    for each in serving:
        each.end()


class Caller(threading.Thread):
    """Asks again and again; notes when each question was asked, and whether it was answered."""

    def __init__(self, ask: Any) -> None:
        super().__init__(daemon=True)
        self.asked: list[tuple[float, bool]] = []
        self.ended = False
        self._ask = ask

    def run(self) -> None:
        while not self.ended:
            begun = time.monotonic()
            self.asked.append((begun, self._ask()))

    def since(self, moment: float) -> list[bool]:
        return [answered for begun, answered in list(self.asked) if begun > moment]


@pytest.mark.slow
def test_when_the_instance_in_use_is_killed_calls_go_on_elsewhere(
    place: Place, token: dict[str, Any]
) -> None:
    bearer = ["-H", f"Authorization: Bearer {token['token']}"]
    web = Caller(lambda: place.curl(*bearer, place.gateway("/web/")).startswith(("n2", "n3")))
    cache = Caller(lambda: place.redis("ping").stdout == "PONG\n")
    callers = [web, cache]
    for caller in callers:
        caller.start()
    victim = place.far[1]
    try:
        for caller in callers:
            eventually(lambda caller=caller: len(caller.asked) > 10, "calls are made")
        killed = time.monotonic()
        victim.kill()
        for caller in callers:
            eventually(lambda caller=caller: len(caller.since(killed)) > 20, "calls go on")
        with place.near.client() as client:
            eventually(
                lambda: {row["owner_name"] for row in client.services("web")} == {"n2"},
                "n3 is out of rotation",
            )
        settled = time.monotonic()
        for caller in callers:
            eventually(lambda caller=caller: len(caller.since(settled)) > 10, "calls go on")
            # One caller, one question at a time: the one that was on its way may be lost, no other.
            assert caller.since(0).count(False) <= 1
            assert all(caller.since(settled))
    finally:
        for caller in callers:
            caller.ended = True
            caller.join()
        victim.start()
        place.yard.agree()
        with place.near.client() as client:
            for name in ("cache", "web"):
                eventually(lambda name=name: len(client.services(name)) == 2, f"{name} is whole again")
