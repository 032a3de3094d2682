"""The brokers that `scripts/bench` measures beside ours, each started on free ports of loopback and ended.

None of them is a dependency: what is not installed is said and left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import cluster
from figures import Figures
from measure import fleet

START_S = 10.0
GET = "scripts/bench --with-peers installs it"


class Broker(NamedTuple):
    """One side of the comparison.

    Attributes:
        kind: as `topic_program.py` names it.
        subscriber, publisher: the address that each is given.
        configuration: how it was set up, for the report.
    """

    name: str
    kind: str
    subscriber: str
    publisher: str
    configuration: str

    def address(self, role: str) -> str:
        """The address for a program of this role."""
        return self.subscriber if role == "subscribe" else self.publisher


@contextlib.contextmanager
def brokers(figures: Figures, programs: Path) -> Iterator[list[Broker]]:
    """Ours and every other that is here, running."""
    with contextlib.ExitStack() as stack:
        found = [_ours(stack, programs)]
        for name, start in (("Zenoh", _zenoh), ("NATS", _nats), ("mosquitto", _mosquitto)):
            try:
                found.append(start(stack))
            except (LookupError, OSError, TimeoutError) as error:
                figures.skip(f"pub/sub beside {name}", str(error))
        yield found


def _ours(stack: contextlib.ExitStack, programs: Path) -> Broker:
    one, other = stack.enter_context(fleet(programs, 2)).nodes
    return Broker(
        "mesh",
        "mesh",
        str(other.socket),
        str(one.socket),
        "two agents, TCP with Noise between them, every record signed; publisher and subscriber each at the "
        "admin socket of their own agent with mesh.client, qos 0; one by one at a pace, "
        "100 in a call when flooding",
    )


def _need(module: str, package: str) -> str:
    """The version of a package that must be there."""
    if importlib.util.find_spec(module) is None:
        raise LookupError(f"the Python package {package} is not there: {GET}")
    return f"{package} {metadata.version(package)}"


def _zenoh(stack: contextlib.ExitStack) -> Broker:
    version = _need("zenoh", "eclipse-zenoh")
    endpoint = f"tcp/127.0.0.1:{cluster.free_port(set())}"
    return Broker(
        "Zenoh",
        "zenoh",
        f"listen={endpoint}",
        f"connect={endpoint}",
        f"{version}: two peers, TCP without encryption, no multicast scouting, default congestion control",
    )


def _nats(stack: contextlib.ExitStack) -> Broker:
    client = _need("nats", "nats-py")
    program = shutil.which("nats-server", path=_path())
    if program is None:
        raise LookupError(f"no nats-server here: {GET}, or apt-get install nats-server")
    port = cluster.free_port(set())
    _start(stack, [program, "-a", "127.0.0.1", "-p", str(port)], port)
    version = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return Broker(
        "NATS",
        "nats",
        f"nats://127.0.0.1:{port}",
        f"nats://127.0.0.1:{port}",
        f"{version}, defaults, no TLS, no JetStream; {client}: both programs at one server",
    )


def _mosquitto(stack: contextlib.ExitStack) -> Broker:
    client = _need("paho", "paho-mqtt")
    program = shutil.which("mosquitto", path=_path())
    if program is None:
        raise LookupError("no mosquitto here: apt-get install mosquitto")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mb-")))
    port = cluster.free_port(set())
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence false",
        "set_tcp_nodelay true",
    ]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    folder.chmod(0o755)  # it drops its rights
    _start(stack, [program, "-c", str(folder / "mosquitto.conf")], port)
    return Broker(
        "mosquitto",
        "mqtt",
        f"127.0.0.1:{port}",
        f"127.0.0.1:{port}",
        f"mosquitto, QoS 0, no TLS, no persistence; {client}: both programs at one broker",
    )


def _path() -> str:
    """Where programs may lie: beside our Python, and where administrators' programs are."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])


def _start(stack: contextlib.ExitStack, words: list[str], port: int) -> None:
    """Start a server and wait until it listens.

    Raises:
        TimeoutError: it does not.
    """
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{words[0]} does not listen on port {port}")
