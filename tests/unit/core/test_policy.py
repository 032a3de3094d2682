"""Rights: roles, patterns, and the view they are."""

from __future__ import annotations

import random

import pytest

from mesh.core.admission import Directory
from mesh.core.policy import DEFAULTS, VERBS, Policy, View, check, chosen, warnings
from mesh.core.record import Kind, Op, user_path
from mesh.errors import Denied, UsageError
from mesh.identity.certs import ADMIN, MEMBER, verify_chain
from mesh.sim.village import Village


class Scene:
    """An admin, a plain member, a reader and a sensor in zone attic."""

    def __init__(self):
        self.v = v = Village(random.Random(8))
        self.founder = v.founder()
        invite = v.invite(self.founder, uses=9, roles=(MEMBER,), zone="attic")
        self.member = v.joiner(invite)
        self.reader = v.joiner(v.invite(self.founder, roles=("reader",)))
        self.sensor = v.joiner(v.invite(self.founder, roles=("sensor",), zone="attic"))
        self.everyone = [self.member, self.reader, self.sensor]
        self.directory = Directory(v.mesh)
        self.directory.feed(
            [v.member(self.founder), *(v.admit(self.founder, who, at=10) for who in self.everyone)]
        )

    def cert(self, who):
        return verify_chain(who.chain, self.v.mesh)

    def may(self, policy, who, verb, path):
        return policy.may(self.cert(who), verb, path)

    def policy(self, value, *, by=None, at=100, op=Op.PUT):
        return self.v.says(by or self.founder, "policy", value, at=at, kind=Kind.REG, op=op)


@pytest.fixture
def scene():
    return Scene()


def test_by_default_members_write_users_keys_and_what_is_theirs(scene):
    policy, me, other = Policy(), scene.member.aid.hex(), scene.founder.aid.hex()
    allowed = [
        *("kv/a", "kv/a/b/c", user_path("küche/licht an"), "set/x/y", f"member/{me}", f"admit/{other}"),
        *(f"node/{other}", f"fork/{other}", f"link/{me}", f"audit/{me}/3", "~gc"),
    ]
    refused = [
        *("policy", "config/a", "config/a/b", f"removed/{me}", f"removed/{other}", f"invite/{me}"),
        *(f"cert/{me}", f"member/{other}", f"link/{other}", "kv", "job/a", "policy/x", f"config/{me}"),
    ]
    for path in allowed:
        assert scene.may(policy, scene.member, "write", path), path
    for path in refused:
        assert not scene.may(policy, scene.member, "write", path), path


def test_admins_may_do_everything_whatever_the_policy_says(scene):
    policy = Policy({"roles": {ADMIN: {}, MEMBER: {}}})
    for path in ("policy", "removed/x", "kv/a", "anything/else"):
        assert scene.may(policy, scene.founder, "write", path)
    assert scene.may(policy, scene.founder, "publish", "a/b")


def test_no_policy_grants_what_is_reserved_or_takes_what_taking_part_needs(scene):
    me = scene.member.aid.hex()
    generous = Policy({"roles": {MEMBER: {"write": ["**", "*/*", "policy", "removed/**"]}}})
    assert scene.may(generous, scene.member, "write", "job/a")
    for path in (
        "policy",
        f"removed/{me}",
        f"invite/{me}",
        "config/x",
        "cert/x",
        "wl/job",
        "roll/1",
        "quorum/q",
    ):
        assert not scene.may(generous, scene.member, "write", path)
    nothing = Policy({"roles": {MEMBER: {}}})
    for path in (f"member/{me}", "node/x", "admit/x"):
        assert scene.may(nothing, scene.member, "write", path)
    assert not scene.may(nothing, scene.member, "write", "kv/a")


def test_a_role_that_the_policy_does_not_name_keeps_its_default(scene):
    policy = Policy({"roles": {"sensor": {"write": ["kv/sensors/{self}/**"]}}})
    assert scene.may(policy, scene.member, "write", "kv/a")
    assert scene.may(policy, scene.reader, "subscribe", "a")
    assert not scene.may(policy, scene.reader, "write", "kv/a")
    assert not scene.may(policy, scene.sensor, "write", "kv/a")
    assert not scene.may(Policy(), scene.sensor, "write", "kv/a"), "an unknown role is no right"


def test_placeholders_stand_for_the_node_its_id_and_its_zone(scene):
    write = ["kv/by-aid/{self}/*", "kv/by-id/{id}", "kv/zones/{zone}/**"]
    policy = Policy({"roles": {"sensor": {"write": write}}})
    aid, peer_id = scene.sensor.aid.hex(), scene.sensor.key.peer_id
    for path in (f"kv/by-aid/{aid}/x", f"kv/by-id/{peer_id}", "kv/zones/attic/a/b"):
        assert scene.may(policy, scene.sensor, "write", path)
    other = scene.member.aid.hex()
    for path in (f"kv/by-aid/{other}/x", f"kv/by-aid/{aid}", f"kv/by-aid/{aid}/x/y", "kv/zones/cellar/a"):
        assert not scene.may(policy, scene.sensor, "write", path)


def test_single_nodes_get_more_than_their_role(scene):
    policy = Policy({"nodes": {scene.reader.key.peer_id: {"write": ["kv/notes/**"], "serve": ["echo"]}}})
    assert scene.may(policy, scene.reader, "write", "kv/notes/a")
    assert scene.may(policy, scene.reader, "serve", "echo")
    assert not scene.may(policy, scene.reader, "serve", "other")
    assert not scene.may(policy, scene.sensor, "write", "kv/notes/a")


def test_rights_are_the_union_of_all_roles(scene):
    both = scene.v.joiner(scene.v.invite(scene.founder, roles=("a", "b")))
    policy = Policy({"roles": {"a": {"write": ["kv/a/**"]}, "b": {"write": ["kv/b/**"]}}})
    assert scene.may(policy, both, "write", "kv/a/1")
    assert scene.may(policy, both, "write", "kv/b/1")
    assert not scene.may(policy, both, "write", "kv/c/1")


def test_patterns_mean_what_they_say(scene):
    cases = [
        ("kv/*", ["kv/a", "kv/%"], ["kv", "kv/a/b", "kvx/a"]),
        ("kv/**", ["kv/a", "kv/a/b"], ["kv", "kvx"]),
        ("kv/*/state", ["kv/a/state"], ["kv/a/b/state", "kv/state", "kv/a/statex"]),
        ("*", ["kv"], ["kv/a"]),
        ("**", ["kv", "kv/a/b"], []),
        ("kv/a.c", ["kv/a.c"], ["kv/abc"]),
        ("kv/küche licht", [user_path("küche licht")], ["kv/küche licht"]),
        ("kv/a%20b", ["kv/a%20b"], []),
        ("kv/{what}", [user_path("{what}")], []),
    ]
    for pattern, matching, others in cases:
        policy = Policy({"roles": {"sensor": {"write": [pattern]}}})
        assert policy.fault == ""
        for path in matching:
            assert scene.may(policy, scene.sensor, "write", path), (pattern, path)
        for path in others:
            assert not scene.may(policy, scene.sensor, "write", path), (pattern, path)


def test_topics_and_names_are_matched_as_users_write_them(scene):
    policy = Policy({"roles": {"sensor": {"publish": ["room 1/*/temp"], "request": ["reboot"]}}})
    assert scene.may(policy, scene.sensor, "publish", "room 1/a b/temp")
    assert not scene.may(policy, scene.sensor, "publish", "room 1/a/b/temp")
    assert scene.may(policy, scene.sensor, "request", "reboot")
    assert not scene.may(policy, scene.sensor, "request", "reboot\n")
    assert not scene.may(policy, scene.sensor, "subscribe", "room 1/a/temp")


def test_a_refusal_names_roles_verb_and_path(scene):
    with pytest.raises(Denied, match=r"joiner \(reader\) may not write 'kv/a'") as caught:
        Policy().require(scene.cert(scene.reader), "write", "kv/a")
    assert caught.value.hint
    Policy().require(scene.cert(scene.member), "write", "kv/a")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "object"),
        ({"roles": []}, "objects"),
        ({"roles": {"a b": {}}}, "'a b'"),
        ({"roles": {1: {}}}, "not a word"),
        ({"roles": {"a": []}}, "role a"),
        ({"roles": {"a": {"write": "kv/**"}}}, "list"),
        ({"roles": {"a": {"write": [5]}}}, "pattern"),
        ({"roles": {"a": {"write": ["kv/**/x"]}}}, "pattern"),
        ({"roles": {"a": {"write": ["kv/a*"]}}}, "pattern"),
        ({"roles": {"a": {"write": ["kv//x"]}}}, "pattern"),
        ({"roles": {"a": {"write": ["/kv"]}}}, "pattern"),
        ({"roles": {"a": {"write": [""]}}}, "pattern"),
        ({"roles": {"a": {"write": ["kv/" + "x" * 300]}}}, "pattern"),
        ({"roles": {"a": {"write": ["kv/x"] * 300}}}, "256"),
        ({"roles": {f"r{n}": {} for n in range(100)}}, "64 roles"),
        ({"nodes": {"pump": {}}}, "'pump' is not a node id"),
        ({"nodes": {b"x": {}}}, "not a node id"),
    ],
)
def test_a_malformed_policy_is_named_and_counts_as_none(scene, value, said):
    with pytest.raises(UsageError, match=said):
        check(value)
    policy = Policy(value)
    assert said in policy.fault
    assert scene.may(policy, scene.member, "write", "kv/a")
    assert not scene.may(policy, scene.member, "write", "config/a")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"role": {}}, "roles"),
        ({"roles": {"a": {"fly": []}}}, "unknown verb 'fly'"),
        ({"seasons": {}, "roles": {"member": {"write": ["kv/a"], "fly": ["**"]}}}, "`roles` and `nodes`"),
    ],
)
def test_what_a_later_version_adds_to_a_policy_is_passed_over_but_not_set(scene, value, said):
    with pytest.raises(UsageError, match=said):
        check(value)
    policy = Policy(value)
    assert policy.fault == ""
    assert scene.may(policy, scene.member, "write", "kv/a")
    assert scene.may(policy, scene.member, "write", "kv/b") == ("seasons" not in value)


def test_the_defaults_are_a_policy():
    check(
        {
            "roles": {
                role: {verb: list(texts) for verb, texts in grants.items()}
                for role, grants in DEFAULTS.items()
            }
        }
    )
    assert set(DEFAULTS[ADMIN]) == set(VERBS)


def test_only_an_admins_policy_counts_and_the_newest_of_them(scene):
    closed, open_ = {"roles": {MEMBER: {}}}, {"roles": {MEMBER: {"write": ["**"]}}}
    coup = scene.policy(open_, by=scene.member, at=500)
    first, second = scene.policy(open_, at=100), scene.policy(closed, at=200)
    policy = chosen([coup, second], scene.directory)
    assert not scene.may(policy, scene.member, "write", "kv/a")
    assert scene.may(chosen([coup], scene.directory), scene.member, "write", "kv/a")
    assert not scene.may(chosen([coup], scene.directory), scene.member, "write", "job/b")
    assert scene.may(chosen([first], scene.directory), scene.member, "write", "job/b")


def test_deleting_the_policy_brings_the_default_back(scene):
    gone = scene.policy(None, at=300, op=Op.DEL)
    assert scene.may(chosen([gone], scene.directory), scene.member, "write", "kv/a")
    assert chosen([], scene.directory).fault == ""


def test_a_policy_of_an_admin_that_was_removed_does_not_count(scene):
    other = scene.v.admin(scene.founder)
    record = scene.policy({"roles": {MEMBER: {}}}, by=other)
    scene.directory.feed([scene.v.member(other)])
    assert not scene.may(chosen([record], scene.directory), scene.member, "write", "kv/a")
    scene.directory.feed([scene.v.remove(scene.founder, other.aid, at=150)])
    assert scene.may(chosen([record], scene.directory), scene.member, "write", "kv/a")


def test_the_view_leaves_out_what_its_author_may_not_say(scene):
    v = scene.v
    stranger = v.joiner(v.invite(scene.founder))
    said = [
        v.says(who, path, 1, at=50)
        for who in (scene.founder, scene.member, scene.reader, stranger)
        for path in ("kv/a", "config/a")
    ]
    view = View(Policy(), scene.directory)
    assert [(rec.aid, rec.path) for rec in view.visible(said)] == [
        (scene.founder.aid, "kv/a"),
        (scene.founder.aid, "config/a"),
        (scene.member.aid, "kv/a"),
    ]


def test_the_view_asks_for_the_right_to_publish_where_topics_are_kept(scene):
    message = scene.v.says(scene.sensor, user_path("room 1/temp", "topic"), 1, at=50)
    allowed = Policy({"roles": {"sensor": {"publish": ["room 1/**"]}}})
    assert View(allowed, scene.directory).counts(message)
    assert not View(Policy({"roles": {"sensor": {"write": ["**"]}}}), scene.directory).counts(message)


def test_what_an_author_in_quarantine_wrote_still_counts_and_what_a_removed_one_wrote_does_not(scene):
    v = scene.v
    said = v.says(scene.member, "kv/a", 1, at=50)
    scene.directory.feed([v.fork(scene.founder, scene.member, at=60)])
    assert View(Policy(), scene.directory).counts(said)
    scene.directory.feed([v.remove(scene.founder, scene.member.aid, at=70)])
    assert not View(Policy(), scene.directory).counts(said)


def test_calls_of_services_are_granted_by_name(scene):
    assert scene.may(Policy(), scene.member, "call", "orders")
    some = Policy({"roles": {MEMBER: {"call": ["orders"]}}})
    assert scene.may(some, scene.member, "call", "orders")
    assert not scene.may(some, scene.member, "call", "ledger")
    assert scene.may(some, scene.founder, "call", "ledger")


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({}, []),
        ({"sensor": {"write": ["kv/s/{id}/**"]}}, []),
        ({"member": {verb: list(had) for verb, had in DEFAULTS["member"].items()}}, []),
        ({"admin": {"write": ["kv/**"]}}, ["role admin: what is written"]),
        ({"reader": {"subscribe": ["**"]}}, ["role reader: it may not request, query any more"]),
        (
            {"member": {"call": ["**"], "offer": ["**"]}},
            ["role member: it may not write, publish", "role member: without `*/{self}`"],
        ),
        ({"sensor": {"offer": ["**"], "write": ["kv/**"]}}, ["role sensor: without `*/{self}`"]),
        ({"sensor": {"offer": ["**"], "write": ["*/{self}", "*/{self}/**"]}}, []),
        ({"sensor": {"offer": ["**"], "write": ["**"]}}, []),
    ],
)
def test_what_a_role_loses_by_being_named_is_a_warning(roles, said):
    check({"roles": roles})
    found = warnings({"roles": roles})
    assert len(found) == len(said)
    assert all(warning.startswith(begin) for warning, begin in zip(found, said, strict=True))
