"""A web program in three replicas behind its mesh service, under load, while everything happens to it.

Callers go through the HTTP proxy of their own agent, as any program of a device would. Its promise bounds
what they may see: a request without a body that broke before its answer is sent to another instance. And what
is asked for through one agent never goes back to an older generation by itself.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from leftovers import end_all
from yard import Agent, Yard, eventually, fresh_yard

from mesh.errors import Conflict, UsageError

pytestmark = pytest.mark.slow
WRK = shutil.which("wrk")
CALLERS = 4
NAMES = ("n2", "n3", "n4")
PROGRAM = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        bad = self.path == "/health" and sys.argv[1] == "bad"
        body = sys.argv[1].encode()
        self.send_response(500 if bad else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
LUA = """
request = function() return wrk.format("GET", "http://web.mesh/", {["Host"] = "web.mesh"}) end
delay = function() return 5 end
done = function(summary, latency, requests)
  local e, text = summary.errors, "RESULT %d %d %d %d %d %d"
  print(string.format(text, summary.requests, e.connect, e.read, e.write, e.status, e.timeout))
end
"""


class Place:
    """Four agents, each with a proxy, and a program that says its version."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.program, self.lua = yard.folder / "web.py", yard.folder / "load.lua"
        self.program.write_text(PROGRAM)
        self.lua.write_text(LUA)
        self._start(self.yard.first(start=False))
        token = self.yard.invite(self.first, uses=3)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: self._start(self.yard.join(token, name, start=False)), NAMES))
        self.yard.agents.sort(key=lambda agent: agent.name)
        self.yard.agree()
        with self.first.client() as client:
            # On a busy machine round trips differ: everyone healthy is to take turns all the same.
            client.set_route("*", {"default": "optimal", "margin": 1})

    @property
    def first(self) -> Agent:
        return self.yard.agents[0]

    def _start(self, agent: Agent) -> None:
        agent.settings = {
            "MESHD_WORKLOADS__ALONE_S": "1",
            "MESHD_MEMBERSHIP__FLAP_WINDOW_S": "0",
            "MESHD_PROXY__LISTEN": "0",
        }
        agent.start()

    def proxy(self, agent: Agent) -> tuple[str, int]:
        with agent.client() as client:
            row = next(row for row in client.listeners() if row["what"] == "proxy.listen")
        return row["host"], row["port"]

    def spec(self, version: str, **rollout: Any) -> dict[str, Any]:
        return {
            "name": "web",
            "version": version,
            "command": ["/usr/bin/python3", "-S", str(self.program), version],
            "replicas": 3,
            "ports": [{"protocol": "http"}],
            "checks": [{"kind": "http", "path": "/health", "interval_s": 1, "rise": 1, "fall": 1}],
            "resources": {"requests": {"cpu": 0.01, "memory": "8Mi"}, "limits": {"memory": "128Mi"}},
            "rollout": {"pause_s": 0.2, "bake_s": 0.5, "deadline_s": 60, "drain_s": 1, **rollout},
        }

    def apply(self, version: str, **rollout: Any) -> None:
        with self.first.client() as client:
            client.apply([self.spec(version, **rollout)])

    def nodes(self) -> list[tuple[str, str]]:
        """Node and version of each instance that answers checks, as the first agent resolves them."""
        with self.first.client() as client:
            return [
                (row["owner_name"], row["version"])
                for row in client.services(name="web")
                if row["state"] == "live" and row["health"] == "healthy"
                for _ in row["endpoints"]
            ]

    def three(self, version: str) -> set[str]:
        """Their nodes, once there are three of this version and no others."""

        def there() -> set[str] | None:
            found = self.nodes()
            return {node for node, _ in found} if [said for _, said in found] == [version] * 3 else None

        found: set[str] = eventually(there, f"three of {version} answer")
        return found

    def one_of(self, names: set[str]) -> Agent:
        """An agent with an instance that is not the one asked."""
        return next(agent for agent in self.yard.agents[1:] if agent.name in names)

    def over(self) -> str:
        with self.first.client() as client, client.watch_rollout("workload/web") as lines:
            return str([line["state"] for line in lines][-1])


@pytest.fixture
def place(made_place: Place) -> Iterator[Place]:
    """All four agents, and no workload, also after a test that failed."""
    for agent in made_place.yard.agents:
        if agent.process is None or agent.process.poll() is not None:
            agent.start()
    made_place.yard.agree()
    yield made_place
    with made_place.first.client() as client:
        for row in client.workloads():
            client.delete_workload(row["name"])
        eventually(lambda: client.services(name="web") == [], "nothing of it is left")


@pytest.fixture(scope="module")
def made_place() -> Iterator[Place]:
    with fresh_yard() as yard:
        yield Place(yard)


class Caller:
    """Asks for the service through one agent, again and again, and keeps what it was told."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.heard: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        while not self._ended.is_set():
            try:
                connection.request("GET", "http://web.mesh/")
                answer = connection.getresponse()
                said = answer.read().decode()
                self.heard.append(said if answer.status == 200 else f"{answer.status} {said}")
            except OSError as error:
                self.heard.append(repr(error))
                connection.close()
            time.sleep(0.002)
        connection.close()

    def turns(self) -> list[str]:
        """What was heard, repetitions left out."""
        return [word for at, word in enumerate(self.heard) if at == 0 or self.heard[at - 1] != word]

    def end(self) -> list[str]:
        self._ended.set()
        self._thread.join(60)
        return self.turns()


def test_the_service_changes_hands_in_one_step_and_back(place: Place) -> None:
    place.apply("1", strategy="bluegreen")
    place.three("1")
    for agent in place.yard.agents:
        with agent.client() as client:
            eventually(lambda client=client: len(client.services(name="web")) == 3, "it knows all three")
    callers = [Caller(*place.proxy(agent)) for agent in place.yard.agents]
    place.apply("2", strategy="bluegreen", drain_s=3)
    assert place.over() == "done"
    place.three("2")
    # Never healthy: nobody is told of it, and all go on with what they have.
    place.apply("bad", strategy="bluegreen", deadline_s=2)
    assert place.over() == "rolled back"
    # Called back in the time in which both still run.
    place.apply("3", strategy="bluegreen", drain_s=60)
    with place.first.client() as client:
        eventually(lambda: client.rollout("workload/web")["state"] == "switched", "it is the service")
        for caller in callers:
            eventually(lambda caller=caller: caller.turns()[-1] == "3", "callers get the new one")
        client.steer_rollout("workload/web", "abort")
    assert place.over() == "aborted"
    for caller in callers:
        eventually(lambda caller=caller: caller.turns()[-1] == "2", "callers get the old one again")
        assert caller.end() == ["1", "2", "3", "2"]
    with place.first.client() as client:
        rows = client.workload("web")["instances"]
    assert [row["instance"] for row in rows] == [f"web/{number}-green" for number in range(3)]


def test_what_cannot_stand_side_by_side_is_refused_by_name(place: Place) -> None:
    place.apply("1")
    with place.first.client() as client:
        spec = place.spec("2", strategy="bluegreen")
        with pytest.raises(UsageError, match="fixed to 8080"):
            client.apply([{**spec, "ports": [{"protocol": "http", "port": 8080}]}])
        eventually(lambda: client.workload("web")["running"] == 3, "it runs")
        large = {"requests": {"cpu": 0.01, "memory": "900Gi"}, "limits": {"memory": "900Gi"}}
        with pytest.raises(Conflict, match="no room for both generations on n"):
            client.apply([{**spec, "resources": large}])
        with pytest.raises(UsageError, match="bluegreen is for workloads"):
            client.set_document("all", {"log_level": "info"}, plan={"strategy": "bluegreen"})


@pytest.mark.skipif(WRK is None, reason="needs the program wrk")
def test_under_load_a_node_dies_one_is_drained_and_versions_change(place: Place) -> None:
    place.apply("1")
    place.three("1")
    host, port = place.proxy(place.first)
    words = [str(WRK), "-t1", f"-c{CALLERS}", "-d300s", "--timeout", "30s", "-s", str(place.lua)]
    load = subprocess.Popen([*words, f"http://{host}:{port}/"], stdout=subprocess.PIPE, text=True)
    try:
        dead = place.one_of(place.three("1"))
        dead.kill()
        end_all(dead.data)
        eventually(lambda: dead.name not in place.three("1"), "all three are elsewhere")
        drained = place.one_of(place.three("1"))
        with place.first.client() as client:
            client.drain(drained.name)
            eventually(lambda: drained.name not in place.three("1"), "it is drained")
            client.undrain(drained.name)
        place.apply("2", strategy="rolling", max_unavailable=1)
        assert place.over() == "done"
        place.three("2")
        place.apply("bad", strategy="canary", deadline_s=2)
        assert place.over() == "rolled back"
        place.three("2")
    finally:
        load.send_signal(signal.SIGINT)
        said, _ = load.communicate(timeout=60)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", said)
    assert found, said
    requests, *errors = map(int, found.groups())
    print(json.dumps({"requests": requests, "errors": errors}))
    assert requests > 100
    # At most what was under way to the instances that died without a word may be lost.
    assert sum(errors) <= CALLERS, said
