"""The feature `certs`: membership certificates, and the end of a membership.

Removing a node is done by an admin that an authority or the root confirmed. What the node wrote stays: its
decisions are said again under the admin's name first (`core/removal.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh.agent.author import Statement
from mesh.agent.node import Node
from mesh.agent.words import iso
from mesh.core import removal
from mesh.core.collect import plan_removal
from mesh.core.evidence import CERT, path_of
from mesh.core.judgement import Standing, Verdict, removed_keys, void_by
from mesh.core.log import Log
from mesh.core.record import AID_BYTES, MESH, ZONE, Kind, Op
from mesh.core.renewal import Renewal, renewal
from mesh.errors import Conflict, Denied, NotFound, UsageError
from mesh.identity import certs, home
from mesh.identity.certs import Certificate
from mesh.identity.keys import peer_id_of, public_of

Json = dict[str, Any]
Rows = list[Json]

GONE = ("dead", "left")
ORDER = "order/"


class Certs:
    """See `mesh.admin.features.Certs`; also `forget`, `prune` and `move_zone` of its `Members`.

    Args:
        rows: the members as people are shown them (`Members.rows`).
    """

    def __init__(self, node: Node, rows: Callable[[], Rows]) -> None:
        self._node = node
        self._rows = rows

    # -- rights -----------------------------------------------------------------------------------------

    def require_admin(self) -> Certificate:
        """Our certificate, which makes us an admin that others believe.

        Raises:
            Denied: it does not, or not yet.
        """
        cert = self._node.directory.certificate(self._node.me)
        if cert is None or not cert.is_admin:
            raise Denied(f"{self._node.home.name} is not an admin node", "run this on an admin node")
        if not cert.settled:
            raise Denied(
                f"{self._node.home.name} became an admin by an invite and is not confirmed yet",
                "another admin that is up confirms it by itself, within a minute of seeing it",
            )
        return cert

    def authority(self) -> Certificate:
        """The chain with which we certify others.

        Raises:
            Denied: we are no admin, or have none.
        """
        self.require_admin()
        found = self._node.home.authority
        if found is None or void_by(found, removed_keys(self._node.directory.evidence)) is not None:
            raise Denied(
                f"{self._node.home.name} may not certify others: it has no valid authority",
                "another admin gives it, or the root key put back as root.key in the data directory",
            )
        return found

    # -- certificates -----------------------------------------------------------------------------------

    async def show(self, node: str) -> Json:
        return self.row(self._aid(node))

    def row(self, aid: bytes) -> Json:
        """`shapes.Certificate` of a key that anything is known of."""
        directory, now_ms = self._node.directory, self._node.now_ms()
        standing = directory.standing(aid)
        cert = standing.cert
        assert cert is not None
        reason = ""
        try:
            if standing.verdict != Verdict.MEMBER:
                raise directory.explain(aid)
            certs.check_time(cert, now_ms)
        except Denied as error:
            reason = error.message
        return {
            "id": cert.peer_id,
            "name": cert.name,
            "roles": list(cert.roles),
            "zone": cert.zone,
            "tier": cert.tier,
            "labels": dict(cert.terms.labels) if cert.terms is not None else {},
            "not_before": iso(cert.nbf_ms),
            "expires": iso(cert.exp_ms),
            "admitted_by": self._admitted_by(cert),
            "countersigned_by": self._countersigned_by(cert, standing),
            "valid": not reason,
            "reason": reason,
        }

    def _admitted_by(self, cert: Certificate) -> str | None:
        if cert.via_invite is not None:
            return peer_id_of(cert.via_invite)
        issuer = cert.links[-1].issuer
        return None if issuer == self._node.home.mesh.root_public else peer_id_of(issuer)

    def _countersigned_by(self, cert: Certificate, standing: Standing) -> str | None:
        if cert.settled or standing.by is None:
            return None
        public = self._node.directory.public_of(standing.by)
        return peer_id_of(public) if public is not None else None

    def certify(self, wanted: Renewal, *, zone: str | None = None) -> Statement:
        """A newer certificate for a member, as a statement to write. Raises Denied, UsageError."""
        node, authority, old = self._node, self.authority(), wanted.cert
        # Newer than the old one also where its issuer's clock was ahead of ours: the newest counts.
        nbf_ms = max(node.now_ms(), authority.nbf_ms, old.nbf_ms + 1 if old.settled else 0)
        life_ms = int(node.config.identity.certificate_days * certs.DAY_MS)
        value = {
            "cert": certs.issue(
                node.key,
                authority.data,
                node.home.mesh,
                public=old.public,
                name=old.name,
                roles=old.roles,
                zone=zone or old.zone,
                tier=old.tier,
                nbf_ms=nbf_ms,
                exp_ms=min(nbf_ms + life_ms, authority.exp_ms),
                via=wanted.via,
                renew=old.renew,
            )
        }
        right = self._right(wanted, authority)
        if right is not None:
            value["authority"] = right
        return Statement(path_of(CERT, old.aid), Kind.REG, value)

    def _right(self, wanted: Renewal, authority: Certificate) -> bytes | None:
        """The right to certify that goes with an admin's renewal: new, or the one it has.

        It stays published, because whoever removes its issuer must know of it to keep it valid.
        """
        node, old = self._node, wanted.cert
        if wanted.authority:
            return home.authorise(
                node.key, authority.data, node.home.mesh, old.public, old.name, node.now_ms()
            )
        if old.aid == node.me:
            return authority.data
        known = node.directory.evidence.authorities.get(old.aid, {})
        return min((cert.data for cert in known.values()), key=len, default=None)

    async def move_zone(self, node: str, zone: str) -> None:
        """Certify a member for another zone; it moves when it learns of it.

        Raises:
            Denied, UsageError, NotFound.
        """
        aid = self._aid(node)
        certs.check_word("the zone", zone)
        if self._node.directory.certificate(aid) is None:
            raise self._node.directory.explain(aid)
        statement = self.certify(renewal(self._node.directory, aid), zone=zone)
        await self._node.author.say(MESH, lambda _: [statement])

    # -- removal ----------------------------------------------------------------------------------------

    async def revoke(self, node: str, *, reason: str) -> Json:
        return await self._end(self._aid(node), reason)

    async def forget(self, node: str) -> Json:
        """Remove a node that is not coming back.

        Raises:
            Denied: this node is no confirmed admin.
            Conflict: the node is alive.
            NotFound: nobody knows it.
        """
        aid = self._aid(node)
        row = self._row_of(aid)
        if row["state"] in ("alive", "suspect"):
            raise Conflict(
                f"{row['name']} is {row['state']}",
                "`meshctl leave` on it first; or `meshctl cert revoke` to remove it while it runs",
            )
        return await self._end(aid, "forgotten")

    async def prune(self, *, older_than_s: float, dry_run: bool) -> Rows:
        """Remove, or in a dry run list, every node that has been dead or left for longer than this."""
        self.require_admin()
        old = [row for row in self._rows() if row["state"] in GONE and (row["state_s"] or 0) >= older_than_s]
        if not dry_run:
            for row in old:
                await self.remove(public_of(row["id"])[:AID_BYTES], "pruned")
        return [_forgotten(row) for row in old]

    async def _end(self, aid: bytes, why: str) -> Json:
        row = self._row_of(aid)
        await self.remove(aid, why)
        return _forgotten(row)

    async def remove(self, aid: bytes, why: str) -> None:
        """Remove a key for ever; returns when that is on disk here.

        Raises:
            Denied: we are no confirmed admin.
            UsageError: it is our own key.
        """
        node, by = self._node, self.require_admin()
        if aid == node.me:
            raise UsageError("a node does not remove itself", "`meshctl leave` leaves the mesh")
        own = [cert for cert in (node.home.authority, node.home.cert) if cert is not None]

        def save_zone(slots: Log) -> Sequence[Statement]:
            saved = plan_removal(slots, node.me, aid, node.now_ms(), node.view.counts)
            return removal.counters(aid, saved)

        def save_and_remove(slots: Log) -> Sequence[Statement]:
            saved = plan_removal(slots, node.me, aid, node.now_ms(), node.view.counts)
            order = ORDER + aid.hex()
            ordered = any(rec.op == Op.PUT for rec in slots.slots(order))
            return [
                *([Statement(order, Kind.REG, op=Op.DEL)] if ordered else ()),
                *removal.statements(
                    node.directory, aid, saved, by=by, now_ms=node.now_ms(), why=why, own=own
                ),
            ]

        await node.author.say(ZONE, save_zone)
        await node.author.say(MESH, save_and_remove)

    def _aid(self, node: str) -> bytes:
        aid = public_of(node)[:AID_BYTES]
        if self._node.directory.standing(aid).cert is None:
            raise NotFound(f"no member {node}", "`meshctl members` lists them")
        return aid

    def _row_of(self, aid: bytes) -> Mapping[str, Any]:
        cert = self._node.directory.standing(aid).cert
        assert cert is not None
        unseen = {"id": cert.peer_id, "name": cert.name, "state": "removed", "state_s": None}
        return next((row for row in self._rows() if row["id"] == cert.peer_id), unseen)


def _forgotten(row: Mapping[str, Any]) -> Json:
    return {key: row[key] for key in ("id", "name", "state", "state_s")}
