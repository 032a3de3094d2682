"""The verdict on every key: the pure fold from evidence, as `mesh/core/admission.py` tells it.

    UNKNOWN ──▶ UNADMITTED ──▶ MEMBER ──▶ FORKED            a valid chain · countersigned · two histories
                    ├──▶ USED_UP, REVOKED                   its use of the invite does not count
                    └──▶ VOID, PURGED, REMOVED              its issuer, its invite, itself was removed

Members by an admin's word stand first. Uses of invites then enter in ascending (stamp, aid); each that enters
adds the uses that it countersigned later. So the order is one that nobody chooses, and it cannot go round
in a circle: two outsiders who countersign each other enter neither.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter
from enum import Enum

import msgspec

from mesh.core.clock import unix_ms_of
from mesh.core.evidence import Evidence, Notice
from mesh.core.record import AID_BYTES
from mesh.identity.certs import SKEW_MS, Certificate


class Verdict(Enum):
    """What a key is. Only a MEMBER takes part; what FORKED wrote is kept, but nobody links with it."""

    MEMBER = "member"
    FORKED = "forked"
    UNKNOWN = "unknown"
    UNADMITTED = "unadmitted"
    USED_UP = "used up"
    REVOKED = "revoked"
    VOID = "void"
    PURGED = "purged"
    REMOVED = "removed"


class Standing(msgspec.Struct, frozen=True):
    """The verdict on one key.

    Attributes:
        cert: the certificate that counts, or the best there is.
        until_ms: newest expiry known, unix milliseconds.
        stamp: when an invite let it in (hlc), else 0.
        by: aid of who countersigned or removed it.
        why: the remover's words.
    """

    verdict: Verdict
    cert: Certificate | None = None
    until_ms: int = 0
    stamp: int = 0
    by: bytes | None = None
    why: str = ""


class Use(msgspec.Struct, frozen=True, order=True):
    """One key's use of one invite, in the order in which they count. `by`: who countersigned it."""

    stamp: int
    aid: bytes
    invite: bytes
    uses: int
    by: bytes


Kept = dict[bytes, frozenset[bytes]]


class Judgement(msgspec.Struct, frozen=True):
    """All verdicts.

    Attributes:
        uses: those that count, by invite (public key), in order.
        surplus: how many keys were kept out, by invite.
        removed: removed keys, and the links they signed that stay valid.
    """

    standings: dict[bytes, Standing]
    uses: dict[bytes, list[Use]]
    surplus: dict[bytes, int]
    removed: Kept


def judge(evidence: Evidence) -> Judgement:
    """Judge every key that anything is known of."""
    return _Judge(evidence).run()


def judge_newcomer(evidence: Evidence, so_far: Judgement, cert: Certificate) -> bool:
    """Add the verdict on a key that nothing was known of, by an admin's word, if it moves nobody else's.

    Returns whether that was so; else everything is to be judged anew.
    """
    aid, via = cert.aid, cert.links[-1].via
    alone = aid not in so_far.standings and aid not in evidence.admits and aid not in evidence.forked
    plain = cert.settled and not cert.is_admin  # an admin's word on others may wait in the evidence
    if not (alone and plain and aid not in so_far.removed and void_by(cert, so_far.removed) is None):
        return False
    standing = Standing(Verdict.MEMBER, cert, cert.exp_ms)
    if via is not None:
        uses = so_far.uses.setdefault(via.invite, [])
        if len(uses) >= via.uses or revocation(evidence, via.invite[:AID_BYTES]) is not None:
            return False
        use = Use(via.stamp, aid, via.invite, via.uses, cert.links[-1].issuer[:AID_BYTES])
        if uses and max(other.uses for other in uses) != via.uses:
            return False
        insort(uses, use)
        standing = Standing(Verdict.MEMBER, cert, cert.exp_ms, use.stamp, use.by)
    so_far.standings[aid] = standing
    return True


def removed_keys(evidence: Evidence) -> Kept:
    """Removed keys; for each the digests of the links it signed that stay valid."""
    return {
        subject: evidence.kept(subject)
        for subject in evidence.removals
        if next(evidence.removers(subject), None) is not None
    }


def void_by(cert: Certificate, removed: Kept) -> bytes | None:
    """The removed key that a chain rests on and that was not kept, or None when the chain holds."""
    for link in cert.links if removed else ():
        issuer = link.issuer[:AID_BYTES]
        if issuer in removed and link.digest not in removed[issuer]:
            return issuer
    return None


def revocation(evidence: Evidence, invite: bytes) -> Notice | None:
    """The first revocation of an invite (by its aid); with `purge` if any of them asks for it."""
    found = [notice for _, notice in evidence.revocations(invite)]
    if not found:
        return None
    first = min(found, key=lambda notice: notice.stamp)
    return msgspec.structs.replace(first, purge=any(notice.purge for notice in found))


def _rank(cert: Certificate) -> tuple[bool, int, int, bytes]:
    return (cert.settled, cert.nbf_ms, cert.exp_ms, cert.links[-1].digest)


class _Judge:
    """One pass."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._removed = removed_keys(evidence)
        found = ((invite, revocation(evidence, invite)) for invite in evidence.notices)
        self._revoked = {invite: notice for invite, notice in found if notice is not None}
        self._valid: dict[bytes, list[Certificate]] = {}
        self._best: dict[bytes, Certificate] = {}
        self._entered: dict[bytes, Use] = {}
        self._refused: dict[bytes, Verdict] = {}
        self._heap: list[Use] = []
        self._uses: dict[bytes, list[Use]] = {}
        self._surplus: Counter[bytes] = Counter()

    def run(self) -> Judgement:
        for aid, claims in self._evidence.claims.items():
            valid = list(claims.values())
            if self._removed:
                valid = [cert for cert in valid if void_by(cert, self._removed) is None]
            if valid:
                self._valid[aid] = valid
                self._best[aid] = valid[0] if len(valid) == 1 else max(valid, key=_rank)
        for aid, cert in self._best.items():
            via = cert.links[-1].via
            if cert.settled and via is None:
                self._sponsor(aid, 0)
            elif via is not None:
                issuer = cert.links[-1].issuer[:AID_BYTES]
                heapq.heappush(self._heap, Use(via.stamp, aid, via.invite, via.uses, issuer))
        self._admit()
        standings = {aid: self._standing(aid) for aid in self._evidence.claims}
        for aid in self._removed:
            standings.setdefault(aid, self._standing(aid))
        return Judgement(standings, self._uses, dict(self._surplus), self._removed)

    def _sponsor(self, aid: bytes, stamp: int) -> None:
        """A key is a member since this stamp: take up the uses it countersigned."""
        if aid in self._removed:
            return  # its countersignatures go with it; the remover's own have taken their place
        admin = self._best[aid].is_admin
        for subject, admit in self._evidence.admits.get(aid, {}).items():
            cert = admit.cert
            best = self._best.get(subject)
            if best is None or best.settled or void_by(cert, self._removed) is not None:
                continue
            terms, invite = cert.terms, cert.via_invite
            assert terms is not None
            assert invite is not None
            late = unix_ms_of(admit.stamp) > terms.exp_ms + SKEW_MS
            if not late and (admin or admit.stamp > stamp):
                heapq.heappush(self._heap, Use(admit.stamp, subject, invite, terms.uses, aid))

    def _admit(self) -> None:
        """Let uses in, least stamp first."""
        done: set[tuple[bytes, bytes]] = set()
        while self._heap:
            use = heapq.heappop(self._heap)
            if (use.aid, use.invite) in done:
                continue
            done.add((use.aid, use.invite))
            notice = self._revoked.get(use.invite[:AID_BYTES])
            if notice is not None and notice.purge:
                self._refused[use.aid] = Verdict.PURGED
                continue
            if notice is not None and use.stamp > notice.stamp:
                self._refused.setdefault(use.aid, Verdict.REVOKED)
                continue
            uses = self._uses.setdefault(use.invite, [])
            if len(uses) >= use.uses:
                self._refused.setdefault(use.aid, Verdict.USED_UP)
                self._surplus[use.invite] += 1
                continue
            uses.append(use)
            if use.aid not in self._entered:
                self._entered[use.aid] = use
                self._sponsor(use.aid, use.stamp)

    def _standing(self, aid: bytes) -> Standing:
        best = self._best.get(aid)
        if aid in self._removed:
            author, removal = next(self._evidence.removers(aid))
            return Standing(Verdict.REMOVED, best or self._any(aid), by=author, why=removal.why)
        if best is None:
            void = self._any(aid)
            return Standing(Verdict.VOID, void, by=void_by(void, self._removed) if void else None)
        use = self._entered.get(aid)
        if use is None and not (best.settled and best.links[-1].via is None):
            return Standing(self._refused.get(aid, Verdict.UNADMITTED), best)
        valid = self._valid[aid]
        if use is not None and not best.settled:
            best = max((cert for cert in valid if cert.via_invite == use.invite), key=_rank)
        verdict = Verdict.FORKED if aid in self._evidence.forked else Verdict.MEMBER
        until_ms = max(cert.exp_ms for cert in valid)
        if use is None:
            return Standing(verdict, best, until_ms)
        return Standing(verdict, best, until_ms, use.stamp, use.by)

    def _any(self, aid: bytes) -> Certificate | None:
        """The best certificate of a key, void or not: it still tells the key and its name."""
        return max(self._evidence.claims.get(aid, {}).values(), key=_rank, default=None)
