"""A small mesh's certificates, made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mesh.identity import certs, home, invites
from mesh.identity.certs import ADMIN, DAY_MS, MEMBER, LinkKind, MeshIdentity, Terms
from mesh.identity.keys import NodeKey

NOW_MS = 1_800_000_000_000


@pytest.fixture
def made() -> SimpleNamespace:
    """A root, an admin with its authority, and an invite of it."""
    root, admin = NodeKey.generate(), NodeKey.generate()
    mesh = MeshIdentity.of(root.public, "home")
    authority = home.authorise(root, None, mesh, admin.public, "laptop", NOW_MS)
    chain = certs.issue(
        root,
        None,
        mesh,
        public=admin.public,
        name="laptop",
        roles=(ADMIN, MEMBER),
        nbf_ms=NOW_MS,
        exp_ms=NOW_MS + 90 * DAY_MS,
    )
    terms = Terms(zone="kitchen", tier="edge", labels={"site": "home"}, uses=2, exp_ms=NOW_MS + DAY_MS)
    invite = invites.create(
        admin, authority, mesh, terms, nbf_ms=NOW_MS, addresses=["/ip4/192.0.2.1/tcp/6374"]
    )
    return SimpleNamespace(
        root=root,
        admin=admin,
        mesh=mesh,
        authority=authority,
        chain=chain,
        terms=terms,
        invite=invite,
        now_ms=NOW_MS,
        NODE=LinkKind.NODE,
    )
