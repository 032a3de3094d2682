"""Which certificates an admin renews, and when: by a rule that makes one admin do it and others stand by.

For each member the confirmed admins have an order (rendezvous hashing, `core/rings.py`). The first renews a
certificate when no more than `before` of its life is left, the next ones a day later each (a tenth of
`before` if that is less), should it still be due. An admin sees to its own first. A member that is away is
renewed too, so that it is welcome when it returns; what ends a membership is removal, or an invite that says
its certificates are not renewed.

An admin that came by an invite has certified itself. It is confirmed, and given the right to certify, by the
first admin at once and by the next ones CONFIRM_S later each: until then it may admit and remove nobody.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from mesh.core.admission import Directory
from mesh.core.rings import hrw_top
from mesh.identity.certs import DAY_MS, Certificate, Via

CONFIRM_S = 20.0


class Renewal(msgspec.Struct, frozen=True):
    """Certify a key anew. `authority`: also give it the right to certify others."""

    cert: Certificate
    via: Via | None
    authority: bool


def rank(aid: bytes, admin: bytes, admins: Collection[bytes]) -> int:
    """Where an admin stands in the order of those who renew a key; its own is its own affair first."""
    if aid == admin:
        return 0
    order = hrw_top(aid, sorted({*admins, admin} - {aid}), 1 << 30)
    return order.index(admin) + (aid in admins)


def due(directory: Directory, me: bytes, now_ms: int, before_ms: int) -> list[Renewal]:
    """Certificates that we are to renew now, those that end soonest first."""
    admins = confirmed(directory)
    step_ms = min(DAY_MS, before_ms // 10)
    found = []
    for aid in directory.members():
        cert = directory.certificate(aid)
        if cert is None or not cert.renew or cert.exp_ms - now_ms > before_ms:
            continue
        if cert.exp_ms - now_ms <= before_ms - rank(aid, me, admins) * step_ms:
            found.append(renewal(directory, aid))
    return sorted(found, key=lambda it: (it.cert.exp_ms, it.cert.aid))


def unconfirmed(directory: Directory, me: bytes) -> list[tuple[bytes, float]]:
    """Admins that only an invite made, and for how many seconds we leave them to admins before us."""
    admins = confirmed(directory)
    found = []
    for aid in directory.members():
        cert = directory.certificate(aid)
        if cert is not None and cert.is_admin and not cert.settled and aid != me:
            found.append((aid, rank(aid, me, admins) * CONFIRM_S))
    return found


def renewal(directory: Directory, aid: bytes) -> Renewal:
    """What a member's next certificate carries on."""
    standing = directory.standing(aid)
    cert = standing.cert
    assert cert is not None
    if cert.settled:
        return Renewal(cert, cert.links[-1].via, authority=False)
    assert cert.via_invite is not None
    assert cert.terms is not None
    via = Via(cert.via_invite, standing.stamp, cert.terms.uses)
    return Renewal(cert, via, authority=cert.is_admin)


def confirmed(directory: Directory) -> list[bytes]:
    """Members that an authority or the root made admins, ascending."""
    certs = ((aid, directory.certificate(aid)) for aid in directory.members())
    return [aid for aid, cert in certs if cert is not None and cert.is_admin and cert.settled]
