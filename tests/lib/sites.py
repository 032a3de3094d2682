"""Sites in network namespaces, joined by a switch and cut apart. Needs root, `ip` and `iptables`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from yard import Agent


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Sites:
    """Namespaces that all reach each other: a bridge in one more of them, with a cable to each."""

    def __init__(self, tag: str, count: int) -> None:
        self._hub = f"{tag}h"
        self.names = [f"{tag}{'abcdef'[number]}" for number in range(count)]
        self.addresses = [f"10.213.7.{number + 1}" for number in range(count)]
        run("ip", "netns", "add", self._hub)
        run("ip", "-n", self._hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self._hub, "link", "set", "br0", "up")
        for number, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            cable = f"c{number}"
            run("ip", "netns", "add", name)
            run("ip", "-n", self._hub, "link", "add", cable, "type", "veth", "peer", "e0", "netns", name)
            run("ip", "-n", self._hub, "link", "set", cable, "master", "br0", "up")
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "e0")
            run("ip", "-n", name, "link", "set", "e0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")

    def place(self, agent: Agent, site: int) -> Agent:
        agent.prefix = ["ip", "netns", "exec", self.names[site]]
        agent.listen = f"/ip4/{self.addresses[site]}/tcp/0"
        return agent

    def cut(self, one: int = 0, other: int = 1) -> None:
        """Nothing passes between two sites, and nobody is told."""
        for here, there in ((one, other), (other, one)):
            words = ("iptables", "-A", "INPUT", "-s", self.addresses[there], "-j", "DROP")
            run("ip", "netns", "exec", self.names[here], *words)

    def heal(self) -> None:
        for name in self.names:
            run("ip", "netns", "exec", name, "iptables", "-F", "INPUT")

    def end(self) -> None:
        for name in (*self.names, self._hub):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def joined(count: int) -> Iterator[Sites]:
    """So many sites; all are gone afterwards."""
    made = Sites(f"mt{os.getpid() % 10_000}", count)
    try:
        yield made
    finally:
        made.end()
