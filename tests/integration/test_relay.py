"""Three agents in network namespaces: two that cannot reach each other any more go by the third."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from namespaces import missing
from sites import Sites, joined
from yard import Agent, Yard, eventually

from mesh.errors import MeshError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

SERVER = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


@pytest.fixture
def sites() -> Iterator[Sites]:
    with joined(3) as made:
        yield made


@contextmanager
def serving(agent: Agent, sites: Sites, site: int) -> Iterator[None]:
    """A program on this agent answers requests `echo`, and another is its service `web`."""

    def answer() -> None:
        with suppress(MeshError), agent.client() as client:
            client.handle("echo", lambda payload: payload)

    thread = threading.Thread(target=answer)
    words = ["ip", "netns", "exec", sites.names[site], sys.executable, "-c", SERVER]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
        thread.start()
        try:
            assert server.stdout is not None
            with agent.client() as client:
                client.register({"name": "web", "port": int(server.stdout.readline())})
            yield
        finally:
            server.kill()
            agent.stop()
            thread.join()


def placed(agent: Agent, sites: Sites, site: int) -> Agent:
    """Start an agent at a site, with the quickest probes."""
    agent.settings["MESHD_MEMBERSHIP__PROFILE"] = "local"
    return sites.place(agent, site).start()


def way(agent: Agent, other: Agent) -> dict[str, Any]:
    """The link of one agent with another."""
    with agent.client() as client:
        return next((row for row in client.links() if row["name"] == other.name), {})


def links_check(agent: Agent) -> dict[str, Any]:
    with agent.client() as client:
        return next(check for check in client.doctor() if check["check"] == "links")


def says(agent: Agent, other: Agent, timeout_s: float = 10.0) -> bool:
    with agent.client() as client:
        return client.request(other.name, "echo", "hello", timeout_s=timeout_s)["payload"] == "hello"


def reaches_web(agent: Agent) -> bool:
    with agent.client() as client, client.connect("web") as connection:
        connection.settimeout(20)
        connection.sendall(b"hello")
        return bool(connection.recv(100) == b"hello")


@pytest.mark.slow
def test_two_that_cannot_reach_each_other_any_more_go_by_the_third(yard: Yard, sites: Sites) -> None:
    first = placed(yard.first(start=False), sites, 0)
    token = yard.invite(first, uses=2)
    second, third = (placed(yard.join(token, start=False), sites, site) for site in (1, 2))
    with serving(third, sites, 2):
        yard.agree()
        eventually(lambda: way(second, third).get("state") == "connected", "the link stands")
        eventually(lambda: says(second, third), "the handler is known")
        eventually(lambda: reaches_web(second), "the service is known")

        sites.cut(1, 2)
        eventually(lambda: says(second, third), "a request goes by the first")
        assert reaches_web(second)
        eventually(lambda: way(second, third).get("relay") == first.name, "the link goes by the first")
        eventually(lambda: links_check(second)["result"] == "warning", "the doctor tells of it")
        assert f"through others: {third.name}" in links_check(second)["message"]
        assert second.states()[third.name] == "alive"

        sites.heal()
        eventually(
            lambda: way(second, third).get("state") == "connected" and way(second, third)["relay"] is None,
            "the link is direct again",
        )
        assert says(second, third)
        eventually(lambda: links_check(second)["result"] == "ok", "the doctor is content")
