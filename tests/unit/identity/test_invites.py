"""Tokens: made, copied, mistyped, used."""

from __future__ import annotations

import random

import msgspec
import pytest

from mesh.errors import Denied, UsageError
from mesh.identity import invites
from mesh.identity.certs import DAY_MS, Terms, verify_chain
from mesh.identity.keys import NodeKey


def test_a_token_is_one_url_safe_line_that_holds_everything(made):
    token = invites.token_of(made.invite)
    assert token.isascii()
    assert not set(token) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert invites.parse(token) == made.invite


def test_white_space_from_copying_is_ignored(made):
    token = invites.token_of(made.invite)
    assert invites.parse(f"  {token[:50]}\n {token[50:90]}\r\n{token[90:]}\n") == made.invite


def test_every_single_mistyped_character_is_recognised(made):
    token = invites.token_of(made.invite)
    dice = random.Random(4)
    for index in range(len(invites.PREFIX), len(token)):
        other = dice.choice([char for char in "ABCabc019-_" if char != token[index]])
        with pytest.raises(UsageError, match="damaged"):
            invites.parse(token[:index] + other + token[index + 1 :])


def test_a_missing_swapped_or_doubled_character_is_recognised(made):
    token = invites.token_of(made.invite)
    for index in range(len(invites.PREFIX), len(token) - 1, 7):
        for wrong in (
            token[:index] + token[index + 1 :],
            token[: index + 1] + token[index:],
            token[:index] + token[index + 1] + token[index] + token[index + 2 :],
        ):
            if wrong != token:
                with pytest.raises(UsageError, match="damaged"):
                    invites.parse(wrong)
    for cut in range(len(invites.PREFIX) + 1, len(token)):
        with pytest.raises(UsageError):
            invites.parse(token[:cut])


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "does not begin"),
        ("hello", "does not begin"),
        ("mesh2-abcd", "another version"),
        ("mesh1-", "characters"),
        ("mesh1-a+b=", "characters"),
        ("mesh1-é", "characters"),
        ("mesh1-" + "A" * 20_000, "characters"),
        ("mesh1-AAAA", "damaged"),
    ],
)
def test_what_is_not_a_token_is_said_to_be_none(token, why):
    with pytest.raises(UsageError, match=why):
        invites.parse(token)


def test_a_token_whose_key_is_not_the_invited_one_is_refused(made):
    forged = msgspec.structs.replace(made.invite, key=NodeKey.generate())
    with pytest.raises(UsageError, match="not the one"):
        invites.parse(invites.token_of(forged))


def test_a_token_with_a_chain_of_another_root_is_refused(made):
    mesh = msgspec.structs.replace(made.mesh, root_public=NodeKey.generate().public)
    with pytest.raises(UsageError, match="not valid"):
        invites.parse(invites.token_of(msgspec.structs.replace(made.invite, mesh=mesh)))


def test_an_expired_invite_says_since_when(made):
    with pytest.raises(Denied, match=r"expired 3 days ago"):
        invites.use(made.invite, NodeKey.generate(), name="pump", now_ms=made.now_ms + 4 * DAY_MS)


def test_a_device_without_a_clock_can_join(made):
    chain = invites.use(made.invite, NodeKey.generate(), name="pump", now_ms=0)
    cert = verify_chain(chain, made.mesh)
    assert (cert.nbf_ms, cert.exp_ms) == (made.now_ms, made.now_ms + 90 * DAY_MS)


def test_a_device_whose_clock_runs_a_little_fast_is_not_from_the_future(made):
    chain = invites.use(made.invite, NodeKey.generate(), name="pump", now_ms=made.now_ms + 3_000_000)
    assert verify_chain(chain, made.mesh).nbf_ms == made.now_ms


def test_the_device_chooses_only_what_the_invite_leaves_open(made):
    key = NodeKey.generate()
    with pytest.raises(Denied, match="zone kitchen, not attic"):
        invites.use(made.invite, key, name="pump", now_ms=made.now_ms, zone="attic")
    with pytest.raises(Denied, match="tier edge, not cloud"):
        invites.use(made.invite, key, name="pump", now_ms=made.now_ms, tier="cloud")
    open_terms = Terms(zone=None, tier=None, exp_ms=made.now_ms + DAY_MS)
    invite = invites.create(made.admin, made.authority, made.mesh, open_terms, nbf_ms=made.now_ms)
    chain = invites.use(invite, key, name="pump", now_ms=made.now_ms, zone="attic", tier="cloud")
    cert = verify_chain(chain, made.mesh)
    assert (cert.zone, cert.tier) == ("attic", "cloud")


def test_a_name_that_no_certificate_may_hold_is_refused(made):
    with pytest.raises(UsageError, match="the node's name"):
        invites.use(made.invite, NodeKey.generate(), name="a b", now_ms=made.now_ms)


def test_an_invite_needs_a_future(made):
    with pytest.raises(UsageError, match="expire before"):
        invites.create(made.admin, made.authority, made.mesh, Terms(exp_ms=5), nbf_ms=made.now_ms)


def test_at_most_eight_addresses_ride_on_a_token(made):
    many = [f"/ip4/192.0.2.{n}/tcp/6374" for n in range(30)]
    invite = invites.create(
        made.admin, made.authority, made.mesh, made.terms, nbf_ms=made.now_ms, addresses=many
    )
    assert invites.parse(invites.token_of(invite)).addresses == tuple(many[:8])
