"""Instances and their agents: who outlives whom, and whose log is read from where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from engines import IMAGE, missing, podman_socket
from yard import Agent, Yard, eventually

SCRIPT = "echo up $MESH_INSTANCE $TOLD; while :; do sleep 0.1; echo tick; done"


@pytest.fixture
def pair(yard: Yard) -> list[Agent]:
    return yard.form(2)


def apply(agent: Agent, name: str, folder: Path, *more: str) -> None:
    lines = [f'name = "{name}"', f"command = ['/bin/sh', '-c', '{SCRIPT}']", 'mode = "pinned"', *more]
    spec = folder / f"{name}.toml"
    spec.write_text("\n".join(lines))
    done = agent.ctl("apply", str(spec))
    assert done.returncode == 0, done.stderr


def pid_of(agent: Agent, instance: str) -> int:
    """Of the command of an instance, as its shim wrote it down; 0 when there is none that lives."""
    try:
        state = json.loads((agent.data / "work" / "instances" / instance / "state.json").read_text())
    except FileNotFoundError:
        return 0
    return int(state["pid"]) if state["phase"] == "running" and alive(state["pid"]) else 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def holder(agents: list[Agent], instance: str) -> tuple[Agent, int]:
    """Who runs it, and its pid."""

    def look() -> Any:
        found = [(agent, pid) for agent in agents if (pid := pid_of(agent, instance))]
        return found[0] if len(found) == 1 else None

    found: tuple[Agent, int] = eventually(look, f"{instance} runs once")
    return found


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_container_outlives_its_agent_and_what_cannot_be_pulled_says_so(yard: Yard, tmp_path: Path) -> None:
    with podman_socket() as socket:
        agent = yard.first(start=False)
        agent.settings["MESHD_RUNTIMES__CONTAINER"] = socket
        agent.start()
        with agent.client() as client:
            client.set_secret("db", "hunter-two")
        told = 'env = { TOLD = { secret = "db" } }'
        apply(agent, "web", tmp_path, f'image = "{IMAGE}"', 'runtime = "container"', "stop_grace_s = 1", told)
        apply(agent, "none", tmp_path, 'image = "localhost:1/none:1"', 'runtime = "container"')

        def shown(name: str) -> Any:
            with agent.client() as client:
                rows = client.workload(name)["instances"]
            return rows[0] if rows else {"state": "", "why": ""}

        eventually(lambda: shown("web")["state"] == "running", "the container runs")
        words = eventually(lambda: shown("none")["why"], "the image is missed")
        assert "localhost:1/none:1 cannot be pulled" in words

        def said() -> list[str]:
            return agent.ctl("logs", "web/0", "-n", "10000").stdout.splitlines()

        eventually(lambda: said()[:1] == ["up web/0 hunter-two"], "it has its secret")

        agent.kill()
        agent.start()
        eventually(lambda: shown("web")["state"] == "running", "the container is adopted")
        before = len(eventually(said, "its log is there"))
        again = eventually(lambda: len(found := said()) > before and found, "it goes on")
        assert again.count("up web/0 hunter-two") == 1
        agent.may_end()
        with agent.client() as client:
            client.leave()


def test_an_instance_outlives_its_agent_and_its_log_is_read_from_anywhere(
    pair: list[Agent], tmp_path: Path
) -> None:
    apply(pair[0], "web", tmp_path)
    agent, pid = holder(pair, "web.0")
    other = next(each for each in pair if each is not agent)

    up = f"[web/0 {agent.name}] up web/0"
    eventually(lambda: up in other.ctl("logs", "web", "-n", "10000").stdout.splitlines(), "its log is read")
    assert other.ctl("logs", "web/7").returncode == 4
    with other.client() as client, client.logs("web/0", tail=0, follow=True) as lines:
        assert next(lines)["line"] == "tick"

    def figures() -> Any:
        with other.client() as client:
            row = client.workload("web")["instances"][0]
        return row["measured"] and row["measured"]["memory_bytes"] and row["measured"]

    assert eventually(figures, "what it takes is shown")["starts"] == 1

    agent.kill()
    assert alive(pid)
    agent.start()
    assert holder(pair, "web.0") == (agent, pid)

    assert agent.stop() == 0
    assert alive(pid)
    agent.start()
    assert holder(pair, "web.0") == (agent, pid)

    agent.may_end()
    with agent.client() as client:
        client.leave()
    assert not alive(pid)
