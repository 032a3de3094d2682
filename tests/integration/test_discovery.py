"""First peers, found in each way alone by real agents; and what each way says when it finds nobody."""

from __future__ import annotations

from typing import Any

import pytest
from namespaces import missing
from ports import free_port
from sites import joined
from yard import Agent, Yard, eventually


def moved(agent: Agent) -> int:
    """Stop an agent; it will listen elsewhere than its invites say. The new port."""
    agent.stop()
    port = free_port()
    agent.listen = f"/ip4/127.0.0.1/tcp/{port}"
    return port


def discovery(agent: Agent) -> dict[str, Any]:
    with agent.client() as client:
        (row,) = [row for row in client.doctor() if row["check"] == "discovery"]
    return row


def test_a_name_of_the_dns_leads_to_a_member_and_later_the_address_book_does(yard: Yard) -> None:
    first = yard.first()
    token = yard.invite(first)
    port = moved(first)
    first.start()
    second = yard.join(token, start=False)
    second.settings["MESHD_DISCOVERY__DNS"] = f"localhost:{port}"
    second.start()
    yard.agree()

    second.stop()
    del second.settings["MESHD_DISCOVERY__DNS"]
    first.stop()
    first.start()
    second.start()
    yard.agree()


def test_seeds_that_lead_nowhere_are_told_one_by_one(yard: Yard) -> None:
    other = Agent(yard.folder, "other", [])
    yard.meshd("init", "--data-dir", other.data, "--name", "other", "--mesh", "another")
    other.start()
    try:
        closed = f"/ip4/127.0.0.1/tcp/{free_port()}"
        alone = yard.first(start=False)
        alone.seeds = [closed, other.listen]
        alone.start()
        for seed, why in (
            (closed, "nobody listens there"),
            (other.listen, "it is of another mesh, or no agent"),
        ):
            eventually(
                lambda seed=seed, why=why: (
                    f"seeds: {seed}: " in (told := discovery(alone)["message"]) and why in told
                ),
                f"{seed} is told",
            )
        assert discovery(alone)["result"] == "warning"
        with alone.client() as client:
            assert len(client.members()) == 1
    finally:
        other.stop()


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_agents_of_one_network_find_each_other_by_multicast_alone(yard: Yard) -> None:
    with joined(2) as sites:
        first = yard.first()
        token = yard.invite(first)
        first.stop()
        second = yard.join(token, start=False)
        for site, agent in enumerate((first, second)):
            sites.place(agent, site).settings["MESHD_DISCOVERY__MDNS"] = "true"
            agent.start()
        yard.agree()
