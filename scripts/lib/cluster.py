"""A mesh of several agents on this machine's loopback, for `scripts/up` and `scripts/down`.

    DIR/node-K/              the data directory of the node named node-K, mode 0700
    DIR/node-K/meshd.toml    its configuration: the port chosen once, seeds, mDNS off
    DIR/node-K/admin.sock    agent.log    agent.pid
    DIR/up.json              what was imported, so that a second `up` imports only with --data

Everything is asked of the two programs as a user would; nothing here knows what they write.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from setup import VENV, say

SOCKET_PATH_BYTES_MAX = 107
NODES_MAX = 64
PORTS = range(
    20_000, 32_000
)  # below Linux's ephemeral range, so that no outgoing connection takes a kept port
START_S = 30.0
STOP_S = 20.0
AGREE_S = 60.0
HOLD_S = 120.0
Held = dict[str, list[tuple[str, str, int]]]  # of each node what `held_by` said


class UpError(Exception):
    """The mesh is not up (or not down); the message gives the reason and where to look."""


class Node:
    """One agent: where its files are and what its process does."""

    def __init__(self, directory: Path, number: int, programs: Path) -> None:
        self.number = number
        self.name = f"node-{number}"
        self.data = directory / self.name
        self.socket = self.data / "admin.sock"
        self.log = self.data / "agent.log"
        self.pid_file = self.data / "agent.pid"
        self.config = self.data / "meshd.toml"
        self.programs = programs
        self.prefix: list[str] = []  # words before the command, e.g. to run it in a network namespace
        self.environment: dict[str, str] = {}

    @property
    def enrolled(self) -> bool:
        """Whether `init` or `join` has finished here; both leave nothing behind when they fail."""
        return (self.data / "mesh.json").exists()

    def pid(self) -> int | None:
        """The running agent's process id; None when it does not run, or the number now belongs to another."""
        try:
            pid = int(self.pid_file.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError, IndexError):
            return None
        ours = {os.path.realpath(word) for word in words if word.startswith(b"/")}
        return pid if os.path.realpath(os.fsencode(self.data)) in ours and state != "Z" else None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the agent in the background, its output appended to the log."""
        command = [self.programs / "meshd", "run", "--data-dir", self.data, "--config", self.config]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [*self.prefix, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={"MESHD_RUNTIMES__KEEP_RUNNING": "false", **_environment(), **self.environment},
            )
        self.pid_file.write_text(f"{process.pid}\n")
        return process

    def ctl(self, *words: str, timeout_s: float = 60.0) -> str:
        """What `meshctl` prints for this agent.

        Raises:
            UpError: it failed or took too long.
        """
        command = [str(self.programs / "meshctl"), "--socket", str(self.socket), *words]
        return run(command, timeout_s, f"{self.name} (log: {self.log})")

    def json(self, *words: str) -> Any:
        return json.loads(self.ctl("-o", "json", *words))

    def takes_part(self) -> bool:
        """Whether the agent answers on its socket, and the mesh has let it in.

        Raises:
            UpError: the mesh has refused it.
        """
        try:
            status = self.json("status")
        except UpError:
            return False
        if status["state"] == "refused":
            raise UpError(
                f"{self.name} is refused by the mesh: {'; '.join(status['problems'])}\n{tail(self)}"
            )
        return bool(status["state"] == "alive")


def _environment() -> dict[str, str]:
    """Ours. Where compiled code may not lie beside the sources it lies in `.venv`: to compile everything at
    every start takes as long as the rest of it."""
    found = dict(os.environ)
    if found.pop("PYTHONDONTWRITEBYTECODE", ""):
        found.setdefault("PYTHONPYCACHEPREFIX", str(VENV / "pycache"))
    return found


def run(command: Sequence[str], timeout_s: float, where: str, given: str = "") -> str:
    """What a command prints, given this on its standard input.

    Raises:
        UpError: it failed or took too long.
    """
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        raise UpError(f"{where}: no answer in {timeout_s:.0f} s from: {' '.join(command)}") from None
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise UpError(f"{where}: status {done.returncode} from: {' '.join(command)}\n{said}")
    return done.stdout


def check_length(directory: Path, nodes: int) -> None:
    """Refuse a directory whose sockets would not fit into a unix socket's address."""
    longest = len(os.fsencode(directory / f"node-{nodes}" / "admin.sock"))
    if longest > SOCKET_PATH_BYTES_MAX:
        over = longest - SOCKET_PATH_BYTES_MAX
        raise UpError(
            f"{directory} is {over} bytes too long for the path of a unix socket; choose a shorter --dir"
        )


def nodes_in(directory: Path, programs: Path) -> list[Node]:
    """The nodes that exist, in order."""
    numbers = []
    for path in directory.glob("node-*"):
        number = path.name[len("node-") :]
        if number.isdecimal() and str(int(number)) == number and path.is_dir():
            numbers.append(int(number))
    return [Node(directory, number, programs) for number in sorted(numbers)]


def free_port(taken: set[int]) -> int:
    """A port free for TCP and UDP on loopback, out of everyone's way."""
    dice = random.SystemRandom()
    for _ in range(1_000):
        port = dice.choice(PORTS)
        if port in taken:
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                stack.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", port))
            return port
    raise UpError(f"no free port found between {PORTS.start} and {PORTS.stop}")


def port_of(node: Node) -> int | None:
    """The port written into a node's configuration."""
    for line in node.config.read_text().splitlines() if node.config.exists() else ():
        if line.startswith("listen"):
            return int(line.rpartition("/")[2].rstrip('"]'))
    return None


def configure(node: Node, others: Sequence[Node], port: int) -> None:
    """Write the node's configuration; its seeds are the first three other nodes."""
    seeds = [f"/ip4/127.0.0.1/tcp/{port_of(other)}" for other in others[:3] if port_of(other)]
    lines = ["# written by scripts/up", "[net]", f'listen = ["/ip4/127.0.0.1/tcp/{port}"]']
    lines += [f"seeds = {json.dumps(seeds)}", "", "[discovery]", "mdns = false", ""]
    node.config.write_text("\n".join(lines))


def enrol(node: Node, others: Sequence[Node], mesh: str) -> None:
    """Make the mesh on the first node, or join it with a fresh invite of the first."""
    meshd = str(node.programs / "meshd")
    data = ["--data-dir", str(node.data), "--name", node.name]
    if not node.enrolled and not others:
        say(f"making the mesh {mesh} on {node.name}")
        run([meshd, "init", *data, "--mesh", mesh], 60.0, node.name)
    elif not node.enrolled:
        say(f"{node.name} joins with an invite from {others[0].name}")
        token = others[0].ctl("invite", "create").strip()
        run([meshd, "join", "-", *data], 60.0, node.name, token)  # not as a word: others see those in ps
    node.data.chmod(0o700)
    if not node.config.exists():
        configure(node, others, free_port({port for other in others if (port := port_of(other))}))


def wait_for(what: str, seconds: float, condition: Callable[[], bool], alive: Sequence[Node]) -> None:
    """Wait until a condition holds, and give up at once when an agent ends.

    Raises:
        UpError: with the end of the log of the agent that is to blame.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        for node in alive:
            if node.pid() is None:
                raise UpError(f"{node.name} ended while waiting until {what}.\n{tail(node)}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"  {node.log}" for node in alive)
            raise UpError(f"after {seconds:.0f} s it is not so that {what}. Logs:\n{logs}")
        time.sleep(0.05)


def tail(node: Node) -> str:
    """The end of a node's log, under its path."""
    with contextlib.suppress(OSError):
        return f"{node.log}:\n" + "\n".join(node.log.read_text(errors="replace").splitlines()[-15:])
    return f"{node.log} is missing"


def start(nodes: Sequence[Node]) -> None:
    """Start those that are stopped, and wait until each answers and is let in."""
    stopped = [node for node in nodes if node.pid() is None]
    for node in stopped:
        node.start()
    for node in stopped:
        wait_for(f"{node.name} answers and takes part", START_S, node.takes_part, [node])


def agree(nodes: Sequence[Node]) -> bool:
    """Whether every agent sees the same members in the same states, and all of ours alive."""
    views = []
    for node in nodes:
        try:
            members = node.json("members")
        except UpError:
            return False
        views.append(sorted((member["id"], member["name"], member["state"]) for member in members))
    alive = {name for _, name, state in views[0] if state == "alive"}
    return all(view == views[0] for view in views) and {node.name for node in nodes} <= alive


def load(node: Node, file: Path) -> str:
    """Import a file through one agent and return what it says of it."""
    say(f"importing {file} through {node.name}")
    return node.ctl("kv", "import", str(file), timeout_s=3600.0).strip()


def same(nodes: Sequence[Node], held: Held) -> bool:
    """Whether every agent holds the same records: equal digests of the mesh, and of each zone in it.

    Leaves in `held` what was compared: a moment later a mesh with work in it has written something else.
    """
    digests: dict[str, set[str]] = {}
    try:
        held.update({node.name: held_by(node) for node in nodes})
    except UpError:
        return False
    for rows in held.values():
        for where, digest, _ in rows:
            digests.setdefault(where, set()).add(digest)
    return all(len(found) == 1 for found in digests.values())


def held_by(node: Node) -> list[tuple[str, str, int]]:
    """What a node keeps on disk: the mesh's and its zone's name, digest and number of records."""
    status = node.json("status")
    names = {"mesh": "mesh", "zone": f"zone {status['zone']}"}
    return [
        (names[scope["scope"]], scope["root"], scope["records"])
        for scope in status["scopes"]
        if scope["scope"] in names
    ]


def show(nodes: Sequence[Node], held: Held, directory: Path | None) -> None:
    """Print the members, who holds what, and what to try next; names the directory if it is not the usual."""
    first = nodes[0]
    print(first.ctl("members").rstrip())
    print(f"\n{'NODE':10} {'HOLDS':14} {'RECORDS':>8}  DIGEST")
    for node in nodes:
        for where, digest, records in held[node.name]:
            print(f"{node.name:10} {where:14} {records:8}  {digest[:16]}")
    meshctl = os.path.relpath(first.programs / "meshctl")
    last, where = nodes[-1], f" --dir {directory}" if directory else ""
    print(
        f"""
all {len(nodes)} agents agree and hold the same data. Try:
  export MESHCTL_SOCKET={first.socket}
  {meshctl} members
  {meshctl} kv get airports/FRA
  {meshctl} kv put greeting hello
  {meshctl} --socket {last.socket} kv get greeting
  {meshctl} members --watch          # and in another terminal:
  kill -9 $(cat {last.pid_file})
  scripts/up{where}                  # brings it back
  scripts/down{where}                # stops all; --purge removes keys and data too"""
    )


def shims(node: Node) -> list[int]:
    """Processes that hold an instance of a workload of this node; they outlive an agent that was killed."""
    work = os.fsencode(os.path.join(os.path.realpath(node.data), "work", ""))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if b"mesh.runtimes.shim" in line and work in line:
                    found.append(int(entry.name))
    return found


def end_instances(nodes: Sequence[Node]) -> None:
    """End what agents left running that were killed before; a shim ends its instance, with its grace."""
    left = [pid for node in nodes for pid in shims(node)]
    for number in (signal.SIGTERM, signal.SIGKILL):  # the kernel kills the command of a killed shim
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + STOP_S
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            alive = {pid for node in nodes for pid in shims(node)}
            left = [pid for pid in left if pid in alive]


def stop(nodes: Sequence[Node]) -> list[Node]:
    """Ask every agent to end, wait for the exits, and return those that did not.

    An agent that `start` started takes its instances along; those of one that was killed are ended here.
    """
    running = {node: pid for node in nodes if (pid := node.pid())}
    for pid in running.values():
        for number in (signal.SIGTERM, signal.SIGCONT):  # a frozen agent has to wake up to hear it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    deadline = time.monotonic() + STOP_S
    while any(node.pid() for node in running) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [node for node in running if node.pid()]
    end_instances([node for node in nodes if node not in left])
    for node in nodes:
        if node not in left:
            node.pid_file.unlink(missing_ok=True)
    return left


def purge(directory: Path, nodes: Sequence[Node]) -> None:
    """Remove what `up` made, and the directory itself when nothing else is in it."""
    for node in nodes:
        shutil.rmtree(node.data)
    for name in ("up.json", "up.lock"):
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
