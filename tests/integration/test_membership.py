"""Real agents find each other, see each other fall and return."""

from __future__ import annotations

import json
import signal

from yard import Agent, Yard, eventually


def test_agents_form_a_mesh_and_agree(yard: Yard) -> None:
    agents = yard.form(3)
    yard.same_roots()
    all_alive = {"alive": 3, "suspect": 0, "dead": 0, "left": 0}
    for agent in agents:
        eventually(lambda agent=agent: agent.status()["members"] == all_alive, f"{agent.name} counts them")
        status = agent.status()
        assert status["state"] == "alive"
        assert status["problems"] == []


def test_a_killed_agent_is_seen_dead_by_all_and_welcomed_when_it_returns(yard: Yard) -> None:
    agents = yard.form(4)
    lost = agents[2]
    lost.kill()
    rest = [agent for agent in agents if agent is not lost]
    for agent in rest:
        eventually(lambda agent=agent: agent.states()[lost.name] == "dead", f"{agent.name} sees it dead")
    lost.start()
    yard.agree()


def test_a_frozen_agent_is_found_and_nobody_else_is_suspected(yard: Yard) -> None:
    agents = yard.form(4)
    frozen = agents[3]
    frozen.signal(signal.SIGSTOP)
    rest = agents[:3]
    for agent in rest:
        eventually(lambda agent=agent: agent.states()[frozen.name] == "dead", f"{agent.name} sees it dead")
        others = {name: state for name, state in agent.states().items() if name != frozen.name}
        assert set(others.values()) == {"alive"}
    frozen.signal(signal.SIGCONT)
    yard.agree()


def test_a_stop_is_not_a_leave(yard: Yard) -> None:
    agents = yard.form(3)
    assert agents[1].stop() == 0
    assert agents[0].states()[agents[1].name] != "left"
    agents[1].start()
    yard.agree()


def test_leaving_is_seen_by_all_and_stops_the_agent(yard: Yard) -> None:
    agents = yard.form(3)
    done = agents[2].ctl("leave", "--yes")
    assert done.returncode == 0, done.stderr
    assert agents[2].ended() == 0
    for agent in agents[:2]:
        eventually(lambda agent=agent: agent.states()["n3"] == "left", f"{agent.name} sees it has left")


def test_everyone_restarted_at_once_forms_one_mesh(yard: Yard) -> None:
    agents = yard.form(4)
    for agent in agents:
        agent.kill()
    for agent in agents:
        agent.start()
    yard.agree()
    yard.same_roots()


def test_a_node_moved_to_another_zone_is_alive_there_for_everyone(yard: Yard) -> None:
    agents = yard.form(3)
    agents[0].ctl("node", "move-zone", agents[2].name, "north")
    for agent in agents:

        def moved(agent: Agent = agent) -> bool:
            rows = {row["name"]: row for row in json.loads(agent.ctl("-o", "json", "members").stdout)}
            return rows[agents[2].name]["zone"] == "north" and set(agent.states().values()) == {"alive"}

        eventually(moved, f"{agent.name} sees the moved node alive in its new zone")
