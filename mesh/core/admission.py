"""Who is a member: a pure fold over the records of `mesh/core/evidence.py`, the same on every node.

    certificate   the newest that its issuer did not lose by removal; an admin's word goes before that of an
                  invite's key, so a member cannot undo a demotion with its old invite
    by an admin   or the root: a member
    by an invite  a member once a member countersigned it (`admit/<aid>`): an invite's uses are counted in
                  the order of (stamp of the countersignature, aid), those beyond the count stay out. Stamps
                  are the countersigners' own, so a joiner cannot displace anyone with a backdated use; after
                  a split in which more were let in than allowed, every node keeps the same ones. A
                  countersignature counts if its author is a member by an earlier stamp (or an admin).
                  A use stays used when the member is removed or its certificate renewed.
    removal       `removed/<aid>` by a key that an authority or the root made an admin counts for ever: no
                  delete, ttl or removal of that admin undoes it. What the removed key had certified is void,
                  but for the links that the remover listed (`keep`), so a thief cannot certify backwards.
    revocation    of an invite: uses with a later stamp do not count; with `purge` none does
    two histories proven (`mesh/core/forks.py`): quarantined

Removal and quarantine ask nothing else, and admission is computed from the least stamp upwards, so the
verdicts depend on the set of records and not on the order in which they came. What is left to an attacker:
a stolen token together with a malicious member, or an admin's key.

Records of an author are stored when it is a member, up to the newest expiry known of its certificate
(`limits`). Expiry against the clock is looked at in the handshake (`welcome`) only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import msgspec

from mesh.core.evidence import LEARNED_MAX, MEMBER, PREFIXES, Evidence, Notice, subject_of
from mesh.core.judgement import (
    Judgement,
    Standing,
    Use,
    Verdict,
    judge,
    judge_newcomer,
    revocation,
    void_by,
)
from mesh.core.log import Log
from mesh.core.quota import Limits
from mesh.core.record import AID_BYTES, Record, SlotKey
from mesh.errors import Denied, PeerError
from mesh.identity import certs
from mesh.identity.certs import Certificate, MeshIdentity

SLOTS_MAX = 100_000
BYTES_MAX = 64 << 20


class Gate(Enum):
    """What a connection may do right after its handshake: STRANGER may say hello and be told why not."""

    MEMBER = "member"
    STRANGER = "stranger"
    REFUSED = "refused"


class Welcome(msgspec.Struct, frozen=True):
    """How to receive a peer that said hello. `admit`: countersign it, a use of its invite is free."""

    cert: Certificate
    admit: bool


NOBODY = Standing(Verdict.UNKNOWN)


class Directory:
    """The members of a mesh.

    Every answer is a lookup in tables that are replaced as a whole, so `limits` and `public_of` may be
    asked from the thread that writes the store while the loop feeds records.

    Args:
        me: our own aid: until we are a member ourselves, whoever shows a valid chain is believed.
    """

    def __init__(self, mesh: MeshIdentity, me: bytes | None = None) -> None:
        self.mesh = mesh
        self.evidence = Evidence(mesh)
        self._me = me
        self._found = Judgement({}, {}, {}, {})
        self._news: dict[bytes, None] = {}

    def load(self, log: Log) -> None:
        """Take everything that the store holds about members. `log` is that of scope mesh."""
        for prefix in PREFIXES:
            for path in log.paths(prefix):
                for record in log.slots(path):
                    self.evidence.take(record)
        self._judge()

    def feed(self, records: Iterable[Record], dropped: Iterable[SlotKey] = ()) -> list[bytes]:
        """Take changed and dropped slots of scope mesh; returns the keys that are judged otherwise now.

        Those too whose certificate was learned since the last call: their records change nothing any more.
        """
        changed = [self.evidence.drop(slot) for slot in dropped]
        changed += [self.evidence.take(record) for record in records]
        judged = self._judge() if any(changed) else []
        news, self._news = self._news, {}
        return sorted({*judged, *news})

    def introduce(self, record: Record) -> bytes | None:
        """The public key of an unknown author, from its own member record, if that makes it a member.

        The certificate proves itself, so the record need not be verified yet.
        """
        if subject_of(record.path) != (MEMBER, record.aid) or not isinstance(record.val, dict):
            return None
        try:
            cert = certs.verify_chain(record.val.get("cert", b""), self.mesh)
        except (PeerError, TypeError):
            return None
        if cert.aid != record.aid:
            return None
        self._learn(cert)
        return cert.public if self.standing(cert.aid).verdict == Verdict.MEMBER else None

    # -- asking -----------------------------------------------------------------------------------------

    def standing(self, aid: bytes) -> Standing:
        """Verdict and certificate of a key."""
        return self._found.standings.get(aid, NOBODY)

    def verdict(self, aid: bytes) -> Verdict:
        return self.standing(aid).verdict

    def is_member(self, aid: bytes) -> bool:
        return self.standing(aid).verdict == Verdict.MEMBER

    def certificate(self, aid: bytes) -> Certificate | None:
        """The certificate of a member, None for everyone else."""
        found = self.standing(aid)
        return found.cert if found.verdict == Verdict.MEMBER else None

    def author(self, aid: bytes) -> Certificate | None:
        """The certificate of an author whose records count: a member, or one in quarantine."""
        found = self.standing(aid)
        return found.cert if found.verdict in (Verdict.MEMBER, Verdict.FORKED) else None

    def members(self) -> list[bytes]:
        """All members, ascending."""
        return sorted(aid for aid, it in self._found.standings.items() if it.verdict == Verdict.MEMBER)

    def known(self) -> Mapping[bytes, Standing]:
        """Everyone anything is known of."""
        return self._found.standings

    def public_of(self, aid: bytes) -> bytes | None:
        """The public key of an aid, also of one that is no longer a member."""
        cert = self.standing(aid).cert
        return cert.public if cert is not None else None

    def gate(self, public: bytes) -> Gate:
        """What a connection may do whose other end proved to hold this key."""
        aid = public[:AID_BYTES]
        if aid == self._me:
            return Gate.REFUSED  # ourselves, or a clone of us
        return Gate.MEMBER if self.is_member(aid) else Gate.STRANGER

    def limits(self, aid: bytes) -> Limits:
        """What is stored of an author."""
        cert, until_ms = self.author(aid), self.standing(aid).until_ms
        confirmed = aid in self.evidence.admins
        if cert is None:
            return Limits(SLOTS_MAX, BYTES_MAX, removed=True, admin=confirmed)
        if cert.is_admin:
            return Limits(until_ms=until_ms, admin=confirmed)
        return Limits(SLOTS_MAX, BYTES_MAX, until_ms=until_ms, admin=confirmed)

    def names(self) -> dict[str, list[bytes]]:
        """Members by name. More than one under a name: the name is claimed twice."""
        found: dict[str, list[bytes]] = {}
        for aid in self.members():
            cert = self._found.standings[aid].cert
            assert cert is not None
            found.setdefault(cert.name, []).append(aid)
        return found

    def uses(self, invite: bytes) -> Sequence[Use]:
        """The uses of an invite (by its public key) that count, in order."""
        return self._found.uses.get(invite, ())

    def overused(self) -> Mapping[bytes, int]:
        """Invites with which more keys came than they allow, and how many were kept out: worth an alarm."""
        return self._found.surplus

    def revocation(self, invite: bytes) -> Notice | None:
        """The revocation of an invite (by its aid) that counts, or None."""
        return revocation(self.evidence, invite)

    # -- receiving --------------------------------------------------------------------------------------

    def welcome(self, chain: bytes, public: bytes, now_ms: int | None, *, agreed: bool = True) -> Welcome:
        """Judge the certificate in a peer's hello.

        Args:
            public: the key that the handshake proved.
            now_ms: mesh time, or None where no clock is believable: then dates are not looked at.
            agreed: whether others agree to that time. A clock that stands alone may be behind, and refuse
                everybody who could set it right; so by it nobody is refused whose certificate begins later.

        Raises:
            PeerError: not a certificate of this key in this mesh.
            Denied: not (or no longer) a member, and cannot become one; the message is for the peer.
        """
        cert = certs.verify_chain(chain, self.mesh)
        if cert.public != public:
            raise PeerError(f"the certificate is that of {cert.peer_id}, not of the key in the handshake")
        found = self.standing(cert.aid)
        if found.verdict not in (Verdict.MEMBER, Verdict.UNKNOWN, Verdict.UNADMITTED):
            raise self._denied(cert, found)
        if found.verdict != Verdict.MEMBER and void_by(cert, self._found.removed):
            raise self._denied(cert, Standing(Verdict.VOID, cert))
        newest = cert
        if found.cert is not None and found.verdict == Verdict.MEMBER and found.cert.exp_ms > cert.exp_ms:
            newest = found.cert
        if now_ms is not None:
            certs.check_time(newest, now_ms, begun=agreed)
        if found.verdict == Verdict.MEMBER or (self._me is not None and not self.is_member(self._me)):
            return Welcome(newest, admit=False)
        if not cert.settled:
            self._check_use(cert, now_ms)
            return Welcome(cert, admit=True)
        self._learn(cert)
        found = self.standing(cert.aid)
        if found.verdict != Verdict.MEMBER:
            raise self._denied(cert, found)
        return Welcome(cert, admit=False)

    def explain(self, aid: bytes) -> Denied:
        """Why a key is not a member, in words for its owner."""
        found = self.standing(aid)
        assert found.verdict != Verdict.MEMBER
        return self._denied(found.cert, found)

    def _check_use(self, cert: Certificate, now_ms: int | None) -> None:
        terms, invite = cert.terms, cert.via_invite
        assert terms is not None
        assert invite is not None
        if self.revocation(invite[:AID_BYTES]) is not None:
            raise self._denied(cert, Standing(Verdict.REVOKED, cert))
        if now_ms is not None and now_ms > terms.exp_ms:
            ago = certs.spell_days(now_ms - terms.exp_ms)
            raise Denied(
                f"the invite of {cert.name} expired {ago} ago, before any member let it in",
                "ask an admin for a new invite",
            )
        if len(self.uses(invite)) >= terms.uses:
            raise self._denied(cert, Standing(Verdict.USED_UP, cert))

    def _denied(self, cert: Certificate | None, found: Standing) -> Denied:
        who = f"{cert.name} ({cert.peer_id})" if cert is not None else "this key"
        again = "ask an admin for a new invite, and join with a new key"
        messages = {
            Verdict.REMOVED: f"{who} was removed from the mesh" + (f": {found.why}" if found.why else ""),
            Verdict.PURGED: f"{who} was removed from the mesh together with its invite",
            Verdict.REVOKED: f"the invite of {who} was revoked before it was used",
            Verdict.USED_UP: f"the invite of {who} is used up",
            Verdict.VOID: f"{who} was certified by an admin that has been removed",
            Verdict.FORKED: f"the key of {who} is in use twice and is in quarantine",
            Verdict.UNADMITTED: f"{who} has not been let in by a member yet",
        }
        forked = "an admin removes the key; then both copies join anew"
        hint = forked if found.verdict == Verdict.FORKED else again
        return Denied(messages.get(found.verdict, f"{who} is not a member"), hint)

    def _judge(self) -> list[bytes]:
        """Compute every verdict anew; returns the keys whose standing changed."""
        before, self._found = self._found.standings, judge(self.evidence)
        after = self._found.standings
        changed = {aid for aid, it in after.items() if before.get(aid) != it}
        return sorted(changed | (before.keys() - after.keys()))

    def _learn(self, cert: Certificate) -> None:
        """Believe a certificate; a new node is told of thousands, so they are not all judged each time."""
        if not self.evidence.learn(cert):
            return
        alone = judge_newcomer(self.evidence, self._found, cert)
        self._news |= dict.fromkeys([cert.aid] if alone else self._judge())
        while len(self._news) > LEARNED_MAX:
            del self._news[next(iter(self._news))]
