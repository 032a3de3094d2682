"""What a node offers to workloads when it is not the only one of its kind."""

from __future__ import annotations

from nodes import NOW_MS, Village, until

from mesh.agent.certs import Certs
from mesh.agent.forks import CLONE
from mesh.agent.invites import Invites
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.sites import Sites
from mesh.agent.table import Table
from mesh.core.vitals import State
from mesh.identity import home


def sites_of(node: Node) -> Sites:
    """What placement is told on a node, joined to it as in an agent."""
    members = Members(node)
    sites = Sites(node, Table(node, members), members, ("process",), lambda event: None)
    node.on_state.append(sites.state_changed)
    node.on_members.append(sites.members_changed)
    return sites


def offered(sites: Sites, node: Node) -> str:
    offer = sites.offer(node.me)
    return "" if offer is None else offer.st


async def test_of_two_nodes_with_one_name_the_one_that_came_later_is_given_nothing_new(
    village: Village,
) -> None:
    first, second = await village.settle(2)
    fields = {"roles": [], "zone": None, "tier": None, "labels": {}, "uses": 1, "ttl_s": None}
    made = await Invites(first, Certs(first, Members(first).rows)).create(**fields)
    home.join_mesh(village.folder / "n2", made["token"], "n1", now_ms=NOW_MS)
    elder = sites_of(second)
    third = await village._start("n2")
    younger = sites_of(third)
    await until(lambda: offered(younger, third) == "namesake")
    await until(lambda: village.all_see(village.nodes, [third], State.ALIVE))
    await elder.refresh()
    assert offered(elder, second) == "up"

    village.scopes[second.me].cancel()
    await until(lambda: village.all_see([first, third], [second], State.DEAD))
    await until(lambda: offered(younger, third) == "up")
    again = await village.restart(second)
    await until(lambda: village.all_see([third], [again], State.ALIVE))
    await until(lambda: offered(younger, third) == "namesake")


async def test_a_node_whose_key_runs_twice_is_given_nothing_new(village: Village) -> None:
    (node,) = await village.settle(1)
    sites = sites_of(node)
    assert offered(sites, node) == "up"
    node.alarm(CLONE, node.me, "its key is in use by two processes")
    await until(lambda: offered(sites, node) == "clone")
    node.clear_alarm(CLONE, node.me)
    await sites.refresh()
    assert offered(sites, node) == "up"
