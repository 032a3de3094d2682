"""Removed from the mesh: what a member shows to the key concerned, and what convinces that key's own agent.

Whoever is removed while it is away, or whose links close before the news has passed them, finds every door
shut. One member's word is no reason to stop: it may lie, or be the one that is removed, and a device that
others trust goes on. An admin's signed removal is a reason, because nothing takes it back. So a refusal
carries the records that say so, and the agent that they name checks the signatures and judges by what it
knows of its admins itself, beside its store, which takes nothing from a refusal. Convinced, it stops, with
the exit status of a refusal; so does one that finds its own removal in its store.

A use of an invite that does not count (used up, revoked before it was used) is judged anew with every record
that comes, and convinces nobody for good.
"""

from __future__ import annotations

import trio

from mesh.core import record
from mesh.core.admission import Directory
from mesh.core.evidence import REMOVED, path_of
from mesh.core.judgement import Verdict
from mesh.core.log import Log
from mesh.core.record import MESH, Record, scope_tag
from mesh.errors import PeerError
from mesh.store.store import Store

PROOF_BYTES_MAX = 48 << 10
PROOF_RECORDS_MAX = 4

Proof = list[tuple[bytes, bytes, bytes]]


class Refusal(Exception):
    """The members refuse this node, which never was one of them or never will be: there is nothing to run."""


class End:
    """Ends the agent with a refusal: raised where one comes in, it would only cost that link."""

    def __init__(self) -> None:
        self._why = ""
        self._come = trio.Event()

    def now(self, why: str) -> None:
        """This is why; the first counts."""
        self._why = self._why or why
        self._come.set()

    async def run(self) -> None:
        """Wait for it. Raises Refusal."""
        await self._come.wait()
        raise Refusal(self._why)


def proof_of(slots: Log, aid: bytes) -> Proof:
    """The removals of a key, as many as fit a refusal. `slots`: those of scope mesh."""
    proof: Proof = []
    left = PROOF_BYTES_MAX
    for rec in slots.slots(path_of(REMOVED, aid)):
        left -= rec.size
        if left >= 0 and len(proof) < PROOF_RECORDS_MAX:
            proof.append((rec.aid, rec.body, rec.sig))
    return proof


def is_final(directory: Directory, aid: bytes) -> bool:
    """Whether a key is removed for ever."""
    return directory.verdict(aid) == Verdict.REMOVED


def convinced(directory: Directory, me: bytes, store: Store, proof: Proof) -> str:
    """Why we are removed, by what a neighbour shows and what we know; empty if that does not show it."""
    shown = [
        rec
        for aid, body, sig in proof[:PROOF_RECORDS_MAX]
        if (rec := _verified(directory, aid, body, sig)) is not None and rec.path == path_of(REMOVED, me)
    ]
    if not shown:
        return ""
    trial = Directory(directory.mesh, me)
    with store.read(MESH) as slots:
        trial.load(slots)
    trial.feed(shown)
    return trial.explain(me).message if is_final(trial, me) else ""


def _verified(directory: Directory, aid: bytes, body: bytes, sig: bytes) -> Record | None:
    public = directory.public_of(aid)
    if public is None or not record.verify(public, directory.mesh.mesh_id, scope_tag(MESH, ""), body, sig):
        return None
    try:
        return record.parse(aid, body, sig)
    except PeerError:
        return None
