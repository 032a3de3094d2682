"""A mesh as it stands after forming, built and not grown, for meshes of many thousands.

Everybody runs and knows the members of its zone as alive, each by its first lease; links stand where the
rings want them (their greetings are on the way); gateways know the other zones as alive. The next leases
are due at even times over one period. What would have happened on the way is left out: dials, refused
handshakes, first leases on their way, and the words of gateways about their zones, which no replica holds
(`Fleet.words` is what they would say).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import lease as words
from mesh.core.lease import Lease
from mesh.core.record import LIVE, Kind, Record, SlotKey
from mesh.core.vitals import Action, State, StateChanged
from mesh.sim.network import Pipe

if TYPE_CHECKING:
    from mesh.sim.fleet import Fleet
    from mesh.sim.node import Node

GREETED_S = 0.3
Told = list[tuple[bytes, Lease, Record]]


def build(fleet: Fleet) -> None:
    """Start everybody, and put in what forming would have brought."""
    fleet.net.dialling = False
    fleet.start()
    fleet.net.dialling = True
    for zone, nodes in fleet.zone_nodes.items():
        told = [_said(node) for node in nodes]
        fleet.words[zone] = {"states": dict.fromkeys(sorted(node.aid for node in nodes), "alive")}
        for node in nodes:
            _know(node, told)
    for node in fleet.nodes:
        _link(node)
    fleet.run(GREETED_S)
    for nodes in fleet.zone_nodes.values():
        _grow_trees(nodes)


def _said(node: Node) -> tuple[bytes, Lease, Record]:
    assert node.replica is not None
    rec = node.replica.live.get(SlotKey(words.path_of(node.aid), Kind.ALL, node.aid))
    assert rec is not None, "a node says its lease when it starts"
    return node.aid, words.decode_lease(rec.val), rec


def _know(node: Node, told: Told) -> None:
    """The leases of the zone are here, and the rest of the mesh is alive."""
    machine, replica, now = node.machine, node.replica, node.fleet.world.now
    assert machine is not None
    assert replica is not None
    out: list[Action] = []
    for aid, lease, rec in told:
        if aid != node.aid:
            replica.live.put(rec)
            replica.live.set_marks(aid, head=rec.hlc, floor=0)
            machine.board.lease(aid, lease, rec.hlc, now, out)
    for member in list(machine.board):
        machine.board.report(member.aid, State.ALIVE, now, out)
    replica.machine.reload()
    for action in out:
        assert isinstance(action, StateChanged), action
        node.witness.changed(action)
    machine._lease_at = now + machine.board.lease_s() * node.fleet.rng.random()


def _link(node: Node) -> None:
    """The links that are wanted, dialled by the lower number."""
    fleet = node.fleet
    assert node.machine is not None
    assert node.replica is not None
    for aid in node.machine.wanted():
        other = fleet.nodes[fleet.number[aid]]
        assert other.replica is not None
        assert other.machine is not None
        if node.number < other.number or node.aid not in other.machine.wanted():
            pipe = Pipe(fleet.net, node.number, other.number, node.replica.greeting())
            node.on_pipe(pipe, other.replica.greeting())


def _grow_trees(nodes: list[Node]) -> None:
    """Each author's leases travel along a tree, as they do once every link has had its say."""
    machines = {node.aid: node.replica.machine for node in nodes if node.replica is not None}
    near = {aid: sorted(machines.keys() & machine.links.keys()) for aid, machine in machines.items()}
    for author in machines:
        key, parents = (LIVE, author), _parents(author, near)
        for aid, machine in machines.items():
            if aid not in parents or aid == author:
                continue
            machine._winner[key] = parents[aid]
            for other in near[aid]:
                link = machines[other].links.get(aid)
                if other not in (parents[aid], author) and link is not None:
                    link.quiet.add(key)
                    machine.links[other].hushed[key] = 0.0


def _parents(root: bytes, near: dict[bytes, list[bytes]]) -> dict[bytes, bytes]:
    """From whom each node has an author's records: the first one to reach it, hop by hop."""
    found, layer = {root: root}, [root]
    while layer:
        following = []
        for aid in layer:
            for other in near[aid]:
                if other not in found:
                    found[other] = aid
                    following.append(other)
        layer = following
    return found
