"""Two sites in two network namespaces, which a cable joins. Needs root, `ip` and `iptables`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from namespaces import NEEDED, missing
from yard import Agent

__all__ = ["NEEDED", "Sites", "able", "two_sites"]
able = not missing()


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Sites:
    """Two namespaces joined by a cable."""

    def __init__(self, tag: str) -> None:
        self.names = (f"{tag}a", f"{tag}b")
        self.addresses = ("10.213.7.1", "10.213.7.2")
        run("ip", "link", "add", f"{tag}x", "type", "veth", "peer", "name", f"{tag}y")
        for name, device, address in zip(self.names, (f"{tag}x", f"{tag}y"), self.addresses, strict=True):
            run("ip", "netns", "add", name)
            run("ip", "link", "set", device, "netns", name)
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", device)
            run("ip", "-n", name, "link", "set", device, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")

    def place(self, agent: Agent, site: int) -> Agent:
        agent.prefix = ["ip", "netns", "exec", self.names[site]]
        agent.listen = f"/ip4/{self.addresses[site]}/tcp/0"
        return agent

    def cut(self) -> None:
        for name, other in zip(self.names, reversed(self.addresses), strict=True):
            run("ip", "netns", "exec", name, "iptables", "-A", "INPUT", "-s", other, "-j", "DROP")

    def heal(self) -> None:
        for name in self.names:
            run("ip", "netns", "exec", name, "iptables", "-F", "INPUT")

    def end(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def two_sites() -> Iterator[Sites]:
    """Joined; both are gone afterwards."""
    made = Sites(f"mt{os.getpid() % 10_000}")
    try:
        yield made
    finally:
        made.end()
