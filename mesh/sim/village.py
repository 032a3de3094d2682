"""A mesh on paper: keys, certificates and the records about them, with stamps as told.

For simulators and tests of admission: everything is signed as on a real node, nothing is stored or sent.
Times are milliseconds after FOUNDED_MS.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec

from mesh.core import evidence, forks, record
from mesh.core.clock import hlc_of
from mesh.core.record import MESH, Kind, Op, Record
from mesh.identity import certs, home, invites
from mesh.identity.certs import ADMIN, DAY_MS, MEMBER, LinkKind, MeshIdentity, Terms, Via
from mesh.identity.invites import Invite
from mesh.identity.keys import NodeKey

FOUNDED_MS = 1_800_000_000_000
_MESH_TAG = record.scope_tag(MESH, "")


class Villager(msgspec.Struct):
    """A node's key with its certificate, and its authority if it is an admin."""

    key: NodeKey
    chain: bytes
    authority: bytes | None = None

    @property
    def aid(self) -> bytes:
        return self.key.aid


class Village:
    """The mesh.

    Args:
        rng: makes the keys, so that a seed gives the same mesh.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.root = self.new_key()
        self.mesh = MeshIdentity.of(self.root.public, "village")

    def new_key(self) -> NodeKey:
        return NodeKey.from_seed(self._rng.randbytes(32))

    # -- people -----------------------------------------------------------------------------------------

    def founder(self, name: str = "founder") -> Villager:
        """An admin by the root's word."""
        key = self.new_key()
        authority = home.authorise(self.root, None, self.mesh, key.public, name, FOUNDED_MS)
        chain = self.certify(None, key.public, name, roles=(ADMIN, MEMBER))
        return Villager(key, chain, authority)

    def admin(self, by: Villager, name: str = "admin") -> Villager:
        """An admin by another admin's word."""
        key = self.new_key()
        authority = home.authorise(by.key, by.authority, self.mesh, key.public, name, FOUNDED_MS)
        chain = self.certify(by, key.public, name, roles=(ADMIN, MEMBER))
        return Villager(key, chain, authority)

    def invite(self, by: Villager, *, uses: int = 1, hours: float = 24, **terms: Any) -> Invite:
        exp_ms = FOUNDED_MS + int(hours * 3_600_000)
        assert by.authority is not None
        return invites.create(
            by.key, by.authority, self.mesh, Terms(uses=uses, exp_ms=exp_ms, **terms), nbf_ms=FOUNDED_MS
        )

    def joiner(self, invite: Invite, name: str = "joiner") -> Villager:
        """A device that certified itself with an invite; nobody has let it in yet."""
        key = self.new_key()
        return Villager(key, invites.use(invite, key, name=name, now_ms=FOUNDED_MS))

    def certify(self, by: Villager | None, public: bytes, name: str, *, at: int = 0, **fields: Any) -> bytes:
        """A certificate by an admin, or (None) by the root. `via` and `days` as `certs.issue` and Terms."""
        days = fields.pop("days", 90)
        return certs.issue(
            by.key if by else self.root,
            by.authority if by else None,
            self.mesh,
            public=public,
            name=name,
            nbf_ms=FOUNDED_MS + at,
            exp_ms=FOUNDED_MS + at + days * DAY_MS,
            **fields,
        )

    def settle(self, by: Villager, who: Villager, invite: Invite, stamp_at: int, at: int) -> bytes:
        """An admin's renewal of a key that an invite let in."""
        via = Via(invite.key.public, hlc_of(FOUNDED_MS + stamp_at), invite.terms.uses)
        return self.certify(by, who.key.public, "settled", at=at, via=via)

    # -- records ----------------------------------------------------------------------------------------

    def says(
        self,
        who: Villager,
        path: str,
        val: Any,
        *,
        at: int,
        kind: int = Kind.ALL,
        op: int = Op.PUT,
        asof: int | None = None,
    ) -> Record:
        """Any record in scope mesh."""
        return record.sign(
            who.key.secret,
            self.mesh.mesh_id,
            _MESH_TAG,
            path=path,
            kind=kind,
            hlc=hlc_of(FOUNDED_MS + at),
            op=op,
            val=val,
            asof=None if asof is None else hlc_of(FOUNDED_MS + asof),
        )

    def member(self, who: Villager, *, at: int = 1, **more: Any) -> Record:
        path = evidence.path_of(evidence.MEMBER, who.aid)
        return self.says(who, path, {"cert": who.chain, **more}, at=at)

    def admit(self, by: Villager, who: Villager, *, at: int, asof: int | None = None) -> Record:
        path = evidence.path_of(evidence.ADMIT, who.aid)
        return self.says(by, path, {"cert": who.chain}, at=at, asof=asof)

    def renew(
        self, by: Villager, who: Villager, chain: bytes, *, at: int, authority: bytes | None = None
    ) -> Record:
        path = evidence.path_of(evidence.CERT, who.aid)
        value = {"cert": chain} if authority is None else {"cert": chain, "authority": authority}
        return self.says(by, path, value, at=at, kind=Kind.REG)

    def revoke(self, by: Villager, invite: Invite, *, at: int, purge: bool = False) -> Record:
        path = evidence.path_of(evidence.INVITE, invite.key.aid)
        value = {"cert": invite.cert.data, "revoked": True, "purge": purge}
        return self.says(by, path, value, at=at, kind=Kind.REG)

    def remove(
        self,
        by: Villager,
        whom: bytes,
        *,
        at: int,
        keep: Iterable[bytes] = (),
        op: int = Op.PUT,
        why: str = "",
    ) -> Record:
        path = evidence.path_of(evidence.REMOVED, whom)
        value = {"by": by.chain, "keep": sorted(keep), "name": "", "why": why} if op == Op.PUT else None
        return self.says(by, path, value, at=at, op=op)

    def fork(self, by: Villager, liar: Villager, *, at: int) -> Record:
        """A proof that somebody said two things at once."""
        one = self.says(liar, "kv/a", 1, at=5)
        two = self.says(liar, "kv/a", 2, at=5)
        value = forks.proof(liar.key.public, _MESH_TAG, one, two)
        return self.says(by, evidence.path_of(evidence.FORK, liar.aid), value, at=at)

    def link_of(self, chain: bytes, kind: LinkKind = LinkKind.NODE) -> bytes:
        """Digest of a chain's last link: what a removal may keep."""
        return certs.verify_chain(chain, self.mesh, kind).links[-1].digest
