"""A member removed while what it sent is still on its way to the disk."""

from __future__ import annotations

from nodes import Village, until

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.core.heads import Digest
from mesh.core.record import MESH, Kind
from mesh.core.sync import Outcome
from mesh.identity.keys import peer_id_of
from mesh.wire.messages import Delta


def as_stored(node: Node) -> bytes:
    """The digest of what a node has on disk, reckoned anew."""
    digest = Digest()
    with node.store.read(MESH) as log:
        for aid, state in log.authors():
            digest.update(aid, state.head, state.fp)
    return digest.root()


async def test_what_a_removed_member_had_sent_does_not_outlive_its_removal(village: Village) -> None:
    first, second, third = await village.settle(3)
    (late,) = await third.author.say(MESH, lambda _: [Statement("kv/late", Kind.REG, 1)])
    await until(lambda: late.hlc == first.spread.machine._head(MESH, third.me))
    with first.store.read(MESH) as log:
        before = log.author(third.me)
    village.scopes[third.me].cancel()  # it would end with the refusal
    await village.ended[third.me].wait()
    await Certs(first, Members(first).rows).revoke(peer_id_of(third.key.public), reason="a drill")

    def buried() -> bool:
        with first.store.read(MESH) as log:
            return not log.author(third.me).count

    await until(buried)
    # A commit from before the removal is reported when its task gets to run.
    delta = Delta(MESH, third.me, 0, late.hlc, False, [(late.body, late.sig)])
    first.spread._report(second.me, delta, Outcome(before, [late], []))
    assert first.spread.machine.root(MESH) == as_stored(first)
