"""Chains: what verifies, and everything that must not."""

from __future__ import annotations

import msgspec
import pytest
from nacl.bindings import crypto_sign

from mesh.errors import Denied, PeerError, UsageError
from mesh.identity import certs, home, invites
from mesh.identity.certs import ADMIN, DAY_MS, MEMBER, LinkKind, MeshIdentity, Terms, Via, verify_chain
from mesh.identity.keys import NodeKey
from mesh.wire import codec

NOW_MS = 1_800_000_000_000


def node(made, signer, parent, **changes):
    fields = {
        "public": NodeKey.generate().public,
        "name": "pump",
        "nbf_ms": NOW_MS,
        "exp_ms": NOW_MS + 90 * DAY_MS,
        **changes,
    }
    return certs.issue(signer, parent, made.mesh, **fields)


def resign(made, signer, parent, **changes):
    """A last link with any content, rightly signed: what a malicious holder of a key can make."""
    fields = {
        "kind": 0,
        "public": NodeKey.generate().public,
        "name": "pump",
        "roles": [MEMBER],
        "zone": "kitchen",
        "tier": "edge",
        "nbf_ms": NOW_MS,
        "exp_ms": NOW_MS + 90 * DAY_MS,
        "caps": {},
        **changes,
    }
    body = codec.encode(list(fields.values()))
    sig = crypto_sign(b"mesh-cert-1\0" + made.mesh.mesh_id + signer.public + body, signer.secret)[:64]
    return codec.encode([*(codec.decode(parent) if parent else []), [body, sig]])


def test_the_root_certifies_a_node(made):
    cert = verify_chain(made.chain, made.mesh)
    assert (cert.name, cert.roles, cert.zone) == ("laptop", (ADMIN, MEMBER), "default")
    assert cert.settled
    assert cert.via_invite is None
    assert cert.is_admin
    assert (cert.aid, cert.peer_id) == (made.admin.aid, made.admin.peer_id)


def test_an_admin_certifies_under_its_authority_without_the_root(made):
    cert = verify_chain(node(made, made.admin, made.authority, zone="attic", tier="device"), made.mesh)
    assert [link.kind for link in cert.links] == [LinkKind.AUTHORITY, LinkKind.NODE]
    assert (cert.zone, cert.tier, cert.settled) == ("attic", "device", True)


def test_an_invite_lets_a_device_certify_itself(made):
    key = NodeKey.generate()
    cert = verify_chain(invites.use(made.invite, key, name="pump", now_ms=NOW_MS), made.mesh)
    assert cert.public == key.public
    assert (cert.roles, cert.zone, cert.tier) == ((MEMBER,), "kitchen", "edge")
    assert cert.via_invite == made.invite.key.public
    assert not cert.settled
    assert cert.terms == made.terms


def test_a_renewal_remembers_the_invite(made):
    via = Via(made.invite.key.public, 77, 2)
    cert = verify_chain(node(made, made.admin, made.authority, via=via), made.mesh)
    assert cert.via_invite == made.invite.key.public
    assert cert.settled
    assert cert.links[-1].via == via


def test_an_admin_authorises_a_second_and_a_third_but_no_fourth(made):
    signer, parent = made.admin, made.authority
    for _ in range(2):
        key = NodeKey.generate()
        parent = home.authorise(signer, parent, made.mesh, key.public, "next", NOW_MS + 1)
        signer = key
    invite = invites.create(signer, parent, made.mesh, made.terms, nbf_ms=NOW_MS + 1)
    assert (
        len(verify_chain(invites.use(invite, made.admin, name="pump", now_ms=NOW_MS), made.mesh).links) == 5
    )
    with pytest.raises(UsageError, match="more than 3 authorities"):
        home.authorise(signer, parent, made.mesh, NodeKey.generate().public, "fourth", NOW_MS + 2)


def test_a_chain_of_another_mesh_is_refused(made):
    other = MeshIdentity.of(NodeKey.generate().public, "home")
    with pytest.raises(PeerError, match="another mesh"):
        verify_chain(made.chain, other)
    # … also where the same root key were to serve two meshes under made-up ids
    with pytest.raises(PeerError, match="another mesh"):
        verify_chain(made.chain, MeshIdentity(bytes(16), made.root.public, "home"))


def test_a_plain_node_certifies_nobody(made):
    key = NodeKey.generate()
    chain = node(made, made.admin, made.authority, public=key.public)
    with pytest.raises(UsageError, match="certifies nobody"):
        node(made, key, chain)


def test_a_chain_of_the_wrong_kind_is_refused(made):
    for chain, kind in (
        (made.authority, LinkKind.NODE),
        (made.invite.cert.data, LinkKind.NODE),
        (made.chain, LinkKind.AUTHORITY),
        (made.chain, LinkKind.INVITE),
    ):
        with pytest.raises(PeerError, match="ends in a certificate of kind"):
            verify_chain(chain, made.mesh, kind)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"roles": [ADMIN]}, "admits member"),
        ({"roles": []}, "nobody"),
        ({"zone": "attic"}, "zone kitchen"),
        ({"tier": "cloud"}, "tier edge"),
        ({"tier": ""}, "tier edge"),
        ({"kind": 1}, "plain nodes only"),
        ({"caps": {"via": [bytes(32), 0, 1]}}, "plain nodes only"),
        ({"nbf_ms": NOW_MS - 1}, "reach beyond"),
        ({"exp_ms": NOW_MS + 200 * DAY_MS}, "reach beyond"),
        ({"exp_ms": NOW_MS + 90 * DAY_MS + 1}, "longer than it allows"),
        ({"nbf_ms": NOW_MS + DAY_MS + 1}, "after the invite expired"),
    ],
)
def test_an_invite_signs_nothing_beyond_its_terms(made, changes, why):
    with pytest.raises(PeerError, match=why):
        verify_chain(resign(made, made.invite.key, made.invite.cert.data, **changes), made.mesh)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 3},
        {"kind": True},
        {"public": bytes(31)},
        {"public": "text"},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 64},
        {"zone": "../up"},
        {"tier": 7},
        {"roles": "admin"},
        {"roles": [1]},
        {"roles": ["r"] * 17},
        {"nbf_ms": -1},
        {"nbf_ms": True},
        {"exp_ms": NOW_MS},
        {"exp_ms": 1 << 60},
        {"caps": []},
        {"caps": {b"x": 1}},
        {"caps": {"via": [bytes(31), 0, 1]}},
        {"caps": {"via": [bytes(32), -1, 1]}},
        {"caps": {"via": [bytes(32), 1]}},
        {"kind": 2, "caps": {}},
        {"kind": 2, "caps": {"admit": {"roles": []}}},
        {"kind": 2, "caps": {"admit": {"uses": 0}}},
        {"kind": 2, "caps": {"admit": {"zone": "a/b"}}},
        {"kind": 2, "caps": {"admit": {"labels": {"a": 1}}}},
    ],
)
def test_a_malformed_certificate_is_refused_also_when_rightly_signed(made, changes):
    chain = resign(made, made.admin, made.authority, **changes)
    kind = LinkKind.INVITE if changes.get("kind") == 2 else LinkKind.NODE
    with pytest.raises(PeerError):
        verify_chain(chain, made.mesh, kind)


def test_fields_that_a_later_version_adds_are_ignored(made):
    body = codec.encode(
        [0, made.admin.public, "a", [MEMBER], "z", "", NOW_MS, NOW_MS + 1, {"new": [1]}, "more", {"and": 1}]
    )
    sig = crypto_sign(b"mesh-cert-1\0" + made.mesh.mesh_id + made.root.public + body, made.root.secret)[:64]
    assert verify_chain(codec.encode([[body, sig]]), made.mesh).name == "a"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        codec.encode([]),
        codec.encode({}),
        codec.encode([[b"", b""]]),
        codec.encode([[b"x"]]),
        codec.encode(["text"]),
        codec.encode([[b"", bytes(64)]] * 7),
        codec.encode([[bytes(5000), bytes(64)]]),
    ],
)
def test_garbage_is_refused(made, data):
    with pytest.raises(PeerError):
        verify_chain(data, made.mesh)


def test_every_flipped_byte_breaks_the_chain(made):
    chain = invites.use(made.invite, NodeKey.generate(), name="pump", now_ms=NOW_MS)
    for index in range(len(chain)):
        damaged = chain[:index] + bytes([chain[index] ^ 1]) + chain[index + 1 :]
        with pytest.raises(PeerError):
            verify_chain(damaged, made.mesh)


def test_links_cannot_be_left_out_or_swapped(made):
    links = codec.decode(invites.use(made.invite, NodeKey.generate(), name="pump", now_ms=NOW_MS))
    for wrong in (links[1:], [links[0], links[2]], links[::-1], [links[2]], links[:2], links * 2):
        with pytest.raises(PeerError):
            verify_chain(codec.encode(wrong), made.mesh)


def test_a_signature_for_something_else_is_no_certificate(made):
    body = codec.decode(made.chain)[0][0]
    sig = crypto_sign(b"mesh-rec-1\0" + made.mesh.mesh_id + b"m" + made.root.aid + body, made.root.secret)[
        :64
    ]
    with pytest.raises(PeerError):
        verify_chain(codec.encode([[body, sig]]), made.mesh)


def test_dates_against_a_clock(made):
    cert = verify_chain(made.chain, made.mesh)
    certs.check_time(cert, NOW_MS)
    certs.check_time(cert, NOW_MS - certs.SKEW_MS)
    certs.check_time(cert, NOW_MS + 90 * DAY_MS)
    with pytest.raises(Denied, match=r"expired 2 days ago"):
        certs.check_time(cert, NOW_MS + 92 * DAY_MS)
    with pytest.raises(Denied, match=r"begins in 24\.0 hours"):
        certs.check_time(cert, NOW_MS - DAY_MS)


def test_what_nobody_would_accept_is_not_issued(made):
    for changes in ({"name": "no good"}, {"zone": ""}, {"roles": ("a b",)}, {"exp_ms": NOW_MS}):
        with pytest.raises(UsageError, match="would not be valid"):
            node(made, made.admin, made.authority, **changes)


def test_words():
    for word in ("a", "node-1", "Berlin.2", "x" * 63):
        assert certs.word_ok(word)
    for word in ("", "-a", "a-", ".a", "a b", "a/b", "x" * 64, "ü", "a\n", "\x1b[1m"):
        assert not certs.word_ok(word)


def test_terms_survive_the_wire(made):
    terms = Terms(("admin", "member"), None, None, {"a": "b"}, 7, NOW_MS + 5, 1000, False)
    assert msgspec.convert(codec.decode(codec.encode(msgspec.to_builtins(terms))), Terms) == terms
