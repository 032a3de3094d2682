"""Chains and tokens against anything: what verifies was signed, and nothing crashes."""

from __future__ import annotations

import base64
import random
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import Denied, PeerError, UsageError
from mesh.identity import certs, invites
from mesh.identity.certs import LinkKind, verify_chain
from mesh.identity.keys import NodeKey, peer_id_of, public_of
from mesh.identity.link import sign_link
from mesh.sim.village import FOUNDED_MS, Village
from mesh.wire import codec

WORDS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(max_size=80)
    | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@cache
def village():
    v = Village(random.Random(1))
    founder = v.founder()
    invite = v.invite(founder, uses=3, zone="attic", tier="edge", labels={"a": "b"})
    return v, founder, invite, v.joiner(invite)


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_and_keys_convert_both_ways(public):
    assert public_of(peer_id_of(public)) == public


@given(st.text(max_size=60))
def test_no_text_but_a_node_id_is_taken_for_one(text):
    try:
        assert peer_id_of(public_of(text)) == text
    except UsageError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600) | ANYTHING.map(codec.encode))
def test_garbage_is_a_peers_error_and_nothing_worse(data):
    v = village()[0]
    for kind in LinkKind:
        try:
            verify_chain(data, v.mesh, kind)
        except PeerError:
            continue
        raise AssertionError("garbage was verified")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(ANYTHING, min_size=1, max_size=3), min_size=1, max_size=4))
def test_well_formed_links_with_wrong_content_are_a_peers_error(links):
    v = village()[0]
    try:
        verify_chain(codec.encode(links), v.mesh)
    except PeerError:
        return
    raise AssertionError("garbage was verified")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_mutation_of_a_chain_verifies(data):
    v, founder, _, joiner = village()
    chain = data.draw(st.sampled_from([founder.chain, joiner.chain]))
    at = data.draw(st.integers(0, len(chain) - 1))
    length = data.draw(st.integers(0, 8))
    changed = chain[:at] + data.draw(st.binary(max_size=8)) + chain[at + length :]
    if changed == chain:
        return
    try:
        verify_chain(changed, v.mesh)
    except PeerError:
        return
    raise AssertionError("a damaged chain was verified")


@settings(max_examples=200, deadline=None)
@given(ANYTHING, st.integers(0, 8))
def test_a_rightly_signed_body_of_any_shape_is_read_or_refused(value, field):
    """A malicious admin signs nonsense in one field."""
    v, founder, _, joiner = village()
    body = codec.decode(codec.decode(joiner.chain)[-1][0])
    body[field] = value
    chain = codec.encode([*codec.decode(founder.authority), sign_link(founder.key, v.mesh.mesh_id, body)])
    for kind in LinkKind:
        try:
            cert = verify_chain(chain, v.mesh, kind)
        except PeerError:
            continue
        assert certs.word_ok(cert.name)
        assert cert.nbf_ms < cert.exp_ms


@settings(max_examples=100, deadline=None)
@given(
    roles=st.lists(WORDS, min_size=1, max_size=5),
    zone=st.none() | WORDS,
    tier=st.none() | WORDS,
    labels=st.dictionaries(WORDS, st.text(max_size=30), max_size=4),
    uses=st.integers(1, 1 << 40),
    name=WORDS,
    addresses=st.lists(st.text("abc/0123", max_size=40), max_size=8),
    joined_at=st.integers(-1000, 24),
)
def test_what_an_invite_says_is_what_its_user_gets(
    roles, zone, tier, labels, uses, name, addresses, joined_at
):
    v, founder, _, _ = village()
    terms = {"roles": tuple(roles), "zone": zone, "tier": tier, "labels": labels, "uses": uses}
    invite = v.invite(founder, **terms)
    invite = invites.Invite(invite.mesh, invite.key, invite.cert, tuple(addresses))
    read = invites.parse(invites.token_of(invite))
    assert read == invite
    key = NodeKey.generate()
    chain = invites.use(read, key, name=name, now_ms=FOUNDED_MS + joined_at * 3_600_000)
    cert = verify_chain(chain, v.mesh)
    assert cert.public == key.public
    assert cert.roles == tuple(sorted(set(roles)))
    assert (cert.zone, cert.tier) == (zone or "default", tier or "")
    assert cert.via_invite == invite.key.public
    certs.check_time(cert, max(FOUNDED_MS, FOUNDED_MS + joined_at * 3_600_000))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.from_regex(r"mesh1-[A-Za-z0-9_-]{0,80}", fullmatch=True))
def test_no_text_but_a_token_is_taken_for_one(text):
    try:
        invites.parse(text)
    except UsageError:
        return
    raise AssertionError("text was taken for a token")


@settings(max_examples=200, deadline=None)
@given(ANYTHING)
def test_a_token_with_a_right_checksum_and_any_content_is_refused_in_words(value):
    data = codec.encode(value)
    token = base64.urlsafe_b64encode(data + invites._check(data)).decode().rstrip("=")
    try:
        invites.parse(invites.PREFIX + token)
    except (UsageError, Denied):
        return
    raise AssertionError("garbage was taken for a token")
