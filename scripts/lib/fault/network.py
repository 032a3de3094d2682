"""A hub with a cable to each agent's network namespace; what passes between agents passes its FORWARD chain.

Every agent has a namespace of its own with one address, 10.213.SIDE.NUMBER, and routes all through the hub,
another namespace. So one place sees each packet once in its direction: loss is `iptables -m statistic`, a cut
is DROP by source and destination, one way or both, delay is NFQUEUE (`delay.py`), and a change of all rules
is one `iptables-restore`, atomic. The host's own network is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import sweeping

NEEDED = ("ip", "iptables", "iptables-restore")
HUB_ADDRESS = "10.213.255.1"
EVERYBODY = "10.213.0.0/16"
DELAY = Path(__file__).with_name("delay.py")
QUEUE = 213


class Delay(NamedTuple):
    """How long a packet is on its way, within a side and between sides; by what share that varies."""

    near_ms: float = 0.0
    far_ms: float = 0.0
    jitter: float = 0.0


NO_DELAY = Delay()


def lacking() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, iptables)"
    name = f"mf{sweeping.mark()}t"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


def no_delay() -> str:
    """Why packets cannot be delayed here; empty if they can."""
    words = [sys.executable, str(DELAY), str(os.getpid() % 60_000 + 1), "--probe"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return ""
    why = tried.stdout.strip() or tried.stderr.strip().splitlines()[-1]
    return f"no packet queue (CONFIG_NETFILTER_NETLINK_QUEUE in the kernel, and root): {why}"


def side(number: int) -> str:
    """All addresses of one side, for rules."""
    return f"10.213.{number}.0/24"


class Network:
    """The namespaces of one field."""

    def __init__(self, delay: Delay = NO_DELAY) -> None:
        self._tag = f"mf{sweeping.mark()}"
        self._hub = f"{self._tag}h"
        self._made: list[str] = []
        self._loss = 0.0
        self._cuts: list[tuple[str, str]] = []
        self._delayer: subprocess.Popen[str] | None = None
        self._add(self._hub)
        _run("ip", "netns", "exec", self._hub, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        if delay.near_ms or delay.far_ms:
            self._delay(delay)

    def _delay(self, delay: Delay) -> None:
        """From here on every packet is delayed, also after `heal`: that is how far apart the agents are."""
        words = ["ip", "netns", "exec", self._hub, sys.executable, str(DELAY), str(QUEUE), *map(str, delay)]
        self._delayer = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._delayer.stdout is not None
        said = self._delayer.stdout.readline().strip()
        if said != "ready":
            self.end()
            raise OSError(f"packets cannot be delayed here: {said}")
        self._apply()

    def plug(self, number: int, at_side: int) -> tuple[str, list[str]]:
        """Make a namespace; its address, and the words that run a command in it."""
        name, address = f"{self._tag}n{number}", f"10.213.{at_side}.{number}"
        self._add(name)
        cable = f"h{number}"
        _batch(
            self._hub,
            [
                f"link add {cable} type veth peer name e0 netns {name}",
                f"addr add {HUB_ADDRESS}/32 dev {cable}",
                f"link set {cable} up",
                f"route add {address}/32 dev {cable}",
            ],
        )
        _batch(
            name,
            [
                f"addr add {address}/32 peer {HUB_ADDRESS} dev e0",
                "link set lo up",
                "link set e0 up",
                f"route add default via {HUB_ADDRESS}",
            ],
        )
        return address, ["ip", "netns", "exec", name]

    def lose(self, share: float) -> None:
        """Every packet is lost with this probability, in each direction by itself."""
        self._loss = share
        self._apply()

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Nothing passes from the first to the second of each pair of addresses or sides."""
        self._cuts += pairs
        self._apply()

    def cut_sides(self) -> None:
        """Side 1 and side 2 do not reach each other."""
        self.cut([(side(1), side(2)), (side(2), side(1))])

    def heal(self) -> None:
        """Everything passes again."""
        self._loss, self._cuts = 0.0, []
        self._apply()

    def end(self) -> None:
        if self._delayer is not None:
            self._delayer.kill()
            self._delayer.communicate()
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _add(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        self._made.append(name)

    def _apply(self) -> None:
        rules = [f"-A FORWARD -s {one} -d {other} -j DROP" for one, other in self._cuts]
        if self._loss:
            lost = f"-m statistic --mode random --probability {self._loss:.4f} -j DROP"
            rules.append(f"-A FORWARD -s {EVERYBODY} {lost}")
        if self._delayer is not None:
            rules.append(f"-A FORWARD -s {EVERYBODY} -j NFQUEUE --queue-num {QUEUE} --queue-bypass")
        chains = ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"
        table = "\n".join(["*filter", *chains, *rules, "COMMIT", ""])
        _run("ip", "netns", "exec", self._hub, "iptables-restore", given=table)


def _batch(namespace: str, lines: Sequence[str]) -> None:
    _run("ip", "-n", namespace, "-batch", "-", given="\n".join(lines) + "\n")


def _run(*words: str, given: str = "") -> None:
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or f'status {done.returncode}'}")
