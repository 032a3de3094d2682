"""Locks on real agents: one holder, growing tokens, a minority has none, voters that are replaced."""

from __future__ import annotations

import os
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import belonging_to
from yard import PATIENCE_S, PROGRAMS, Agent, Yard, eventually, fresh_yard

from mesh.client import Client
from mesh.errors import Conflict, Denied, NotFound, TimedOut, UsageError

TTL_S = 2.0
LONG_S = 600.0  # of what is not to end by itself, however slow the machine is
pytestmark = pytest.mark.slow


@pytest.fixture
def agents(made: Yard) -> list[Agent]:
    """Four agents that see each other, whatever was before; the first three vote in `main`."""
    made.agree()
    return made.agents


@pytest.fixture(scope="module")
def made() -> Iterator[Yard]:
    with fresh_yard() as yard:
        formed = yard.form(4)
        with formed[0].client() as client:
            made = client.create_quorum("main", ["n1", "n2", "n3"])
        assert [voter["state"] for voter in made["voters"]] == ["voting"] * 3
        for agent in formed:
            eventually(lambda agent=agent: quorums(agent) == ["main"], f"{agent.name} knows the quorum")
        yield yard


def quorums(agent: Agent) -> list[str]:
    with agent.client() as client:
        return [row["name"] for row in client.quorums()]


def refusal(client: Client, name: str) -> str:
    """Why a lock is not to be had, once a majority of the voters says so: one round may be late."""

    def words() -> str:
        with pytest.raises(Conflict) as refused:
            client.acquire(name, ttl_s=TTL_S)
        return refused.value.message

    found: str = eventually(words, f"{name} is refused")
    return found


def test_one_holds_and_the_other_is_told_who(agents: list[Agent]) -> None:
    with agents[3].client() as one, agents[1].client() as other:
        lease = one.acquire("jobs/a", ttl_s=LONG_S)
        assert "n4" in refusal(other, "jobs/a")
        assert other.lock("jobs/a")["node_name"] == "n4"
        assert one.renew(lease["session"])["token"] == lease["token"]
        assert "jobs/a" in [row["name"] for row in one.leases()]
        one.release(lease["session"])
        with pytest.raises(NotFound):
            one.renew(lease["session"])
        following = other.acquire("jobs/a", ttl_s=LONG_S)
        assert following["token"] > lease["token"]
        other.release(following["session"])
        assert not one.lock("jobs/a")["held"]


def test_a_stream_holds_while_it_is_read_and_a_waiting_one_gets_it_then(agents: list[Agent]) -> None:
    got: list[int] = []

    def wait() -> None:
        with agents[2].client() as client, client.hold("jobs/b", ttl_s=TTL_S) as lines:
            got.append(next(lines)["token"])

    waiting = threading.Thread(target=wait)
    with agents[0].client() as client, client.hold("jobs/b", ttl_s=TTL_S) as lines:
        first = next(lines)
        waiting.start()
        renewed = [next(lines) for _ in range(4)]
        assert {line["state"] for line in renewed} == {"renewed"}
        assert renewed[-1]["until_boot_s"] > first["until_boot_s"] + TTL_S / 3
        assert got == []
    waiting.join(timeout=PATIENCE_S)
    assert got == [first["token"] + 1]


def test_a_killed_holder_is_followed_with_a_larger_token_when_its_lease_is_over(agents: list[Agent]) -> None:
    holder = agents[3]
    client = holder.client()
    lines = client.hold("jobs/c", ttl_s=TTL_S)
    first = next(lines)
    taken: list[tuple[float, int]] = []

    def wait() -> None:
        with agents[1].client() as other:
            lease = other.acquire("jobs/c", ttl_s=TTL_S, wait_s=PATIENCE_S)
            taken.append((time.clock_gettime(time.CLOCK_BOOTTIME), lease["token"]))

    waiting = threading.Thread(target=wait)
    waiting.start()
    believed = next(line for line in lines if line["until_boot_s"] > first["until_boot_s"])["until_boot_s"]
    holder.kill()
    waiting.join(timeout=2 * PATIENCE_S)
    lines.close()
    holder.start()
    at, token = taken[0]
    assert token > first["token"]
    # Never sooner than the holder may have believed in it.
    assert at > believed


class FileServer:
    """What a lock guards: it remembers the largest token, and refuses smaller ones."""

    def __init__(self) -> None:
        self.token = 0
        self.lines: list[str] = []

    def write(self, token: int, line: str) -> bool:
        if token < self.token:
            return False
        self.token = token
        self.lines.append(line)
        return True


def test_a_writer_that_was_paused_for_three_leases_is_refused_by_its_old_token(agents: list[Agent]) -> None:
    server = FileServer()
    paused = agents[3]
    with paused.client() as client, client.hold("jobs/w", ttl_s=TTL_S) as lines:
        old = next(lines)
        assert server.write(old["token"], "before")
        paused.signal(signal.SIGSTOP)
        try:
            for number in range(3):
                # Each waits the whole lease of the one before, which is given up without a word.
                with agents[number % 2].client() as other:
                    lease = other.acquire("jobs/w", ttl_s=TTL_S, wait_s=PATIENCE_S)
                    assert lease["token"] == old["token"] + 1 + number
                    assert server.write(lease["token"], f"holder {number}")
        finally:
            paused.signal(signal.SIGCONT)
        assert not server.write(old["token"], "late")
        assert [line["state"] for line in lines][-1] == "lost"
    assert server.lines == ["before", "holder 0", "holder 1", "holder 2"]
    eventually(lambda: paused.states()["n1"] == "alive", "it is back among the others")


class TokenServer(socketserver.ThreadingTCPServer):
    """A file server for many writers: a line is `TOKEN TEXT`, and one with an older token is refused."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.file, self.refused, self.guard = FileServer(), list[int](), threading.Lock()
        super().__init__(("127.0.0.1", 0), Writes)


class Writes(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        assert isinstance(self.server, TokenServer)
        for line in self.rfile:
            token = int(line.split()[0])
            with self.server.guard:
                done = self.server.file.write(token, line.decode().strip())
                if not done:
                    self.server.refused.append(token)
            self.wfile.write(b"ok\n" if done else b"stale\n")


WRITER = """
import os, socket, sys, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
    answers = server.makefile("r")
    while True:
        server.sendall(f"{os.environ['MESH_EPOCH']} {os.environ['MESH_NODE']}\\n".encode())
        answers.readline()
        time.sleep(0.05)
"""


def test_an_exclusive_writer_on_a_device_that_was_frozen_for_three_leases_is_refused(
    agents: list[Agent],
) -> None:
    with TokenServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        spec = {
            "name": "writer",
            "command": [sys.executable, "-c", WRITER, str(server.server_address[1])],
            "resources": {"requests": {"cpu": 0.01, "memory": "4Mi"}, "limits": {}},
            "mode": "exclusive",
            "voters": "main",
            "lease_s": TTL_S,
        }
        with agents[0].client() as client:
            client.apply([spec])
        eventually(lambda: len(server.file.lines) > 3, "the holder of the lease writes")
        frozen(agents, server, *eventually(lambda: writing(agents, server), "who writes is known"))
        assert server.file.lines == sorted(server.file.lines, key=lambda line: int(line.split()[0]))
        with agents[0].client() as client:
            client.delete_workload("writer")
        for agent in agents:
            eventually(lambda agent=agent: not belonging_to(agent.data / "work"), "nothing runs")
        server.shutdown()


def about(pid: int, what: str) -> bytes:
    """A file of /proc; empty when the process has just ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def shims_of(agent: Agent) -> list[int]:
    return [pid for pid in belonging_to(agent.data / "work") if b"shim of" in about(pid, "cmdline")]


def writing(agents: list[Agent], server: TokenServer) -> tuple[Agent, int] | None:
    """The agent whose program holds the newest token, and the token."""
    token = server.file.token
    variable = f"MESH_EPOCH={token}".encode()
    for agent in agents:
        for pid in set(belonging_to(agent.data / "work")) - set(shims_of(agent)):
            if variable in about(pid, "environ").split(b"\0"):
                return agent, token
    return None


def frozen(agents: list[Agent], server: TokenServer, holder: Agent, token: int) -> None:
    """Stop the device that has this token, with all on it; wake its program first, and see it refused."""
    assert holder.process is not None
    pids, shims = belonging_to(holder.data / "work"), shims_of(holder)
    for pid in (holder.process.pid, *pids):
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        eventually(lambda: server.file.token > token, "another node writes, with a larger token")
        while time.monotonic() - began < 3 * TTL_S:
            time.sleep(0.05)
        for pid in pids:
            if pid not in shims:
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: token in server.refused, "the late write is refused")
    finally:
        for pid in (*shims, holder.process.pid):
            os.kill(pid, signal.SIGCONT)
    eventually(lambda: not belonging_to(holder.data / "work"), "its watchdog ends the late writer")
    eventually(lambda: holder.states()["n1"] == "alive", "it is back among the others")


def test_who_sees_no_majority_gets_none_and_loses_what_it_held(agents: list[Agent]) -> None:
    with agents[0].client() as client, client.hold("jobs/d", ttl_s=TTL_S) as lines:
        next(lines)
        for voter in agents[1:3]:
            voter.signal(signal.SIGSTOP)
        try:
            states = [line["state"] for line in lines]
            assert states[-1] == "lost"
            with pytest.raises(TimedOut, match="majority"):
                client.acquire("jobs/e", ttl_s=TTL_S)
        finally:
            for voter in agents[1:3]:
                voter.signal(signal.SIGCONT)
        eventually(lambda: client.acquire("jobs/e", ttl_s=TTL_S), "a majority is back")


def test_a_command_runs_with_its_token_and_ends_with_its_lock(agents: list[Agent], tmp_path: Path) -> None:
    done = agents[0].ctl("lock", "jobs/f", "--ttl", "2s", "--", "sh", "-c", "echo $MESH_LOCK_TOKEN; exit 7")
    assert (done.stdout.strip().isdecimal(), done.returncode) == (True, 7)
    mark = tmp_path / "pid"
    words = ["lock", "jobs/f", "--ttl", "2s", "--", "sh", "-c", f"echo $$ > {mark}; exec sleep 1000"]
    argv = [str(PROGRAMS / "meshctl"), "--socket", str(agents[0].socket), *words]
    running = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    eventually(lambda: mark.exists() and mark.read_text().strip(), "the command runs")
    pid = int(mark.read_text())
    with agents[1].client() as other:
        assert refusal(other, "jobs/f")
    for voter in agents[1:3]:
        voter.signal(signal.SIGSTOP)
    try:
        _, said = running.communicate(timeout=PATIENCE_S)
    finally:
        for voter in agents[1:3]:
            voter.signal(signal.SIGCONT)
    assert running.returncode == 5
    assert "lost" in said
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_locks_outlive_the_loss_of_a_voters_disk_and_its_replacement(agents: list[Agent]) -> None:
    with agents[1].client() as client:
        held = client.acquire("jobs/g", ttl_s=LONG_S)
    lost = agents[2]
    lost.stop()
    shutil.rmtree(lost.data / "store")
    lost.start()

    def states() -> dict[str, str]:
        with agents[0].client() as client:
            return {voter["node_name"]: voter["state"] for voter in client.quorum("main")["voters"]}

    eventually(lambda: states() == {"n1": "voting", "n2": "voting", "n3": "lost"}, "n3 votes no more")
    with agents[0].client() as admin:
        replaced = admin.replace_voters("main", {"n3": "n4"})
    assert [voter["node_name"] for voter in replaced["voters"]] == ["n1", "n2", "n4"]
    assert {voter["state"] for voter in replaced["voters"]} == {"voting"}
    with agents[3].client() as client:
        eventually(lambda: client.quorum("main")["generation"] >= 2, "n4 knows")
        assert "n2" in refusal(client, "jobs/g")
    with agents[1].client() as client:
        eventually(lambda: client.quorum("main")["generation"] >= 2, "n2 knows")
        client.release(held["session"])
        assert client.acquire("jobs/g", ttl_s=TTL_S)["token"] == held["token"] + 1
    with agents[0].client() as admin:
        back = admin.replace_voters("main", {"n4": "n3"})
    assert [voter["node_name"] for voter in back["voters"]] == ["n1", "n2", "n3"]
    for agent in agents:
        with agent.client() as client:
            eventually(lambda client=client: client.quorum("main")["generation"] == 3, "all know")


def test_what_makes_no_sense_is_refused_with_the_reason(agents: list[Agent]) -> None:
    with agents[0].client() as admin, agents[1].client() as member:
        with pytest.raises(UsageError, match="3 or 5"):
            admin.create_quorum("even", ["n1", "n2", "n3", "n4"])
        with pytest.raises(UsageError, match="twice"):
            admin.create_quorum("twice", ["n1", "n1", "n2"])
        with pytest.raises(Conflict, match="there already"):
            admin.create_quorum("main", ["n1", "n2", "n3"])
        with pytest.raises(Denied, match="admin"):
            member.create_quorum("mine", ["n1", "n2", "n3"])
        with pytest.raises(NotFound, match="no quorum"):
            member.acquire("x", quorum="nowhere")
        with pytest.raises(UsageError, match="ttl"):
            member.acquire("x", ttl_s=0.1)
