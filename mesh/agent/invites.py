"""The feature `invites`: tokens that let devices in, made and revoked on admin nodes.

An invite works without its record (`invite/<aid>`): the token proves itself. The record lists it on every
node, and carries its revocation. The token is shown once and kept nowhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.agent.words import iso
from mesh.core.evidence import INVITE, path_of
from mesh.core.record import AID_BYTES, MESH, Kind
from mesh.errors import NotFound, UsageError
from mesh.identity import certs, invites
from mesh.identity.certs import ADMIN, MEMBER, Certificate, Terms
from mesh.identity.home import check_labels
from mesh.identity.keys import peer_id_of

Json = dict[str, Any]
Rows = list[Json]

USES_MAX = 100_000
TTL_S_MAX = 366 * 86_400.0
OWN_ADDRESSES = 4


class Invites:
    """See `mesh.admin.features.Invites`."""

    def __init__(self, node: Node, certificates: Certs) -> None:
        self._node = node
        self._certs = certificates
        self._told: dict[bytes, int] = {}
        node.on_members.append(lambda joined, gone: self._count())

    def _count(self) -> None:
        """An invite used more often than it allows, as on both sides of a split, is in too many hands."""
        for invite, kept_out in self._node.directory.overused().items():
            if kept_out > self._told.get(invite, 0):
                text = f"{kept_out} more came with this invite than it allows, and were kept out: revoke it"
                self._node.alarm("invite_overused", invite[:AID_BYTES], text)
            self._told[invite] = kept_out

    async def create(
        self,
        *,
        roles: Sequence[str],
        zone: str | None,
        tier: str | None,
        labels: Mapping[str, str],
        uses: int,
        ttl_s: float | None,
    ) -> Json:
        """Make an invite; without a zone, for the zone of this node.

        Raises:
            Denied: this node is no admin, or may not certify (yet).
            UsageError: a role, zone, tier, label, the uses or the life is not allowed.
        """
        node, identity = self._node, self._node.config.identity
        authority = self._certs.authority()
        for what, words in (
            ("role", roles),
            ("zone", [zone] if zone else []),
            ("tier", [tier] if tier else []),
        ):
            for word in words:
                certs.check_word(f"the {what}", word)
        if not 1 <= uses <= USES_MAX:
            raise UsageError(f"an invite cannot have {uses} uses", f"from 1 to {USES_MAX}")
        ttl_s = identity.invite_hours * 3600 if ttl_s is None else ttl_s
        if not 0 < ttl_s <= TTL_S_MAX:
            raise UsageError(
                f"an invite cannot live for {ttl_s / 86400:g} days", f"at most {TTL_S_MAX / 86400:.0f} days"
            )
        now_ms = max(node.now_ms(), authority.nbf_ms)
        terms = Terms(
            roles=_roles(roles, node.view.policy.roles),
            zone=zone or node.zone,
            tier=tier,
            labels=check_labels(labels),
            uses=uses,
            exp_ms=now_ms + int(ttl_s * 1000),
            life_ms=int(identity.certificate_days * certs.DAY_MS),
        )
        invite = invites.create(
            node.key, authority.data, node.home.mesh, terms, nbf_ms=now_ms, addresses=list(self._addresses())
        )
        await self._say(invite.cert, {})
        return {**self._row(invite.cert), "token": invites.token_of(invite)}

    async def list(self) -> Rows:
        rows = [self._row(cert) for cert in self._known().values()]
        return sorted(rows, key=lambda row: (row["created"], row["id"]), reverse=True)

    async def revoke(self, invite: str, *, remove_admitted: bool) -> Json:
        """Stop further uses of an invite.

        Raises:
            NotFound, UsageError: no, or more than one, invite has this id or end of an id.
            Denied: this node is no admin, or not confirmed yet.
        """
        self._certs.require_admin()
        cert = self._find(invite)
        await self._say(cert, {"revoked": True})
        if remove_admitted:
            for use in list(self._node.directory.uses(cert.public)):
                if use.aid != self._node.me and self._node.directory.is_member(use.aid):
                    await self._certs.remove(use.aid, "its invite was revoked")
            await self._say(cert, {"revoked": True, "purge": True})
        return self._row(cert)

    async def _say(self, cert: Certificate, more: Json) -> None:
        value = {"cert": cert.data, **more}
        await self._node.author.say(MESH, lambda _: [Statement(path_of(INVITE, cert.aid), Kind.REG, value)])

    def _known(self) -> dict[bytes, Certificate]:
        """Invites by their aid."""
        found = {}
        for aid, notices in self._node.directory.evidence.notices.items():
            for _, notice in sorted(notices.items()):
                if notice.cert is not None:
                    found[aid] = notice.cert
        return found

    def _find(self, words: str) -> Certificate:
        found = [cert for cert in self._known().values() if words and cert.peer_id.endswith(words)]
        if not found:
            raise NotFound(f"no invite {words}", "`meshctl invite ls` lists them")
        if len(found) > 1:
            raise UsageError(f"{len(found)} invites end in {words}", "give more of the id")
        return found[0]

    def _row(self, cert: Certificate) -> Json:
        terms, directory = cert.terms, self._node.directory
        assert terms is not None
        used = directory.uses(cert.public)
        issuer = directory.public_of(cert.links[-1].issuer[:AID_BYTES]) or cert.links[-1].issuer
        return {
            "id": cert.peer_id,
            "state": self._state(cert, terms, len(used)),
            "roles": list(terms.roles),
            "zone": terms.zone or "",
            "tier": terms.tier or "",
            "labels": dict(terms.labels),
            "uses": terms.uses,
            "used": len(used),
            "created": iso(cert.nbf_ms),
            "created_by": peer_id_of(issuer),
            "expires": iso(terms.exp_ms),
            "admitted": [peer_id_of(public) for use in used if (public := directory.public_of(use.aid))],
        }

    def _state(self, cert: Certificate, terms: Terms, used: int) -> str:
        if self._node.directory.revocation(cert.aid) is not None:
            return "revoked"
        if used >= terms.uses:
            return "used"
        return "expired" if self._node.now_ms() > terms.exp_ms else "open"

    def _addresses(self) -> Iterator[str]:
        """Where the new device may find a member: us first, then our neighbours."""
        node = self._node
        yield from _at(node.hello().addresses[:OWN_ADDRESSES], node.key.peer_id)
        for session in sorted(node.links.sessions.values(), key=lambda session: session.since):
            yield from _at(session.hello.addresses[:1], peer_id_of(session.wire.public))


def _at(addresses: Sequence[str], peer_id: str) -> list[str]:
    return [f"{address}/p2p/{peer_id}" for address in addresses if "/p2p/" not in address]


def _roles(roles: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """None named: a plain member. An admin is a member too.

    Raises:
        UsageError: a role that is nearly one that has rights: a slip of the pen would make a powerless node.
            Quite another one may get its rights later, by a policy.
    """
    for role in roles:
        near = difflib.get_close_matches(role, known, 1, cutoff=0.7)
        if near and role not in known:
            raise UsageError(f"there is no role {role!r}", f"did you mean {near[0]}?")
    chosen = set(roles) or {MEMBER}
    return tuple(sorted(chosen | {MEMBER} if ADMIN in chosen else chosen))
