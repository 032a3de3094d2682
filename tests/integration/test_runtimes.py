"""Instances and their agents: who outlives whom, and whose log is read from where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from yard import Agent, Yard, eventually

SCRIPT = "echo up $MESH_INSTANCE; while :; do sleep 0.1; echo tick; done"


@pytest.fixture
def pair(yard: Yard) -> list[Agent]:
    return yard.form(2)


def apply(agent: Agent, name: str, folder: Path, **more: Any) -> None:
    lines = [f'name = "{name}"', f"command = ['/bin/sh', '-c', '{SCRIPT}']", 'mode = "pinned"']
    lines += [f"{key} = {value}" for key, value in more.items()]
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


def test_an_instance_outlives_its_agent_and_its_log_is_read_from_anywhere(
    pair: list[Agent], tmp_path: Path
) -> None:
    apply(pair[0], "web", tmp_path)
    agent, pid = holder(pair, "web.0")
    other = next(each for each in pair if each is not agent)

    done = eventually(
        lambda: (done := other.ctl("logs", "web", "-n", "1000")).returncode == 0 and done, "its log is read"
    )
    assert f"[web/0 {agent.name}] up web/0" in done.stdout.splitlines()
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

    with agent.client() as client:
        client.leave()
    assert not alive(pid)
