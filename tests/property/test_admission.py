"""Admission for any set of records in any order: one verdict everywhere, and nobody in who should not be."""

from __future__ import annotations

import random
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.admission import Directory
from mesh.core.judgement import Verdict
from mesh.core.record import Op
from mesh.identity import certs
from mesh.sim.village import Village, Villager

ADMINS, INVITES, JOINERS, USES = 3, 2, 8, 2


class Town:
    """A village whose people and papers are made once; examples choose which records exist."""

    def __init__(self):
        self.v = v = Village(random.Random(77))
        self.founder = v.founder()
        self.admins = [self.founder]
        for index in range(1, ADMINS):
            self.admins.append(v.admin(self.admins[(index - 1) // 2], f"admin-{index}"))
        self.invites = [v.invite(self.admins[index], uses=USES) for index in range(INVITES)]
        self.joiners = [v.joiner(self.invites[index % INVITES], f"n{index}") for index in range(JOINERS)]
        self.people = self.admins + self.joiners

    def invite_of(self, index):
        return self.invites[index % INVITES]


@cache
def town():
    return Town()


def records(step):
    """One record for a drawn step (what, who, whom, when, flag)."""
    t, (what, who, whom, at, flag) = town(), step
    v, person, joiner = t.v, t.people[who], t.joiners[whom % JOINERS]
    admin = t.admins[who % ADMINS]
    if what == "member":
        return v.member(person, at=at)
    if what == "admit":
        return v.admit(person, joiner, at=at, asof=at // 2 + 1 if flag else None)
    if what == "renew":
        chain = v.settle(admin, joiner, t.invite_of(whom % JOINERS), stamp_at=at // 2, at=at)
        return v.renew(admin, joiner, chain, at=at)
    if what == "revoke":
        return v.revoke(person, t.invites[whom % INVITES], at=at, purge=flag)
    if what == "fork":
        return v.fork(person, joiner, at=at)
    keep = [certs.verify_chain(other.chain, v.mesh).links[-1].digest for other in t.people[:whom]]
    op = Op.DEL if flag and whom % 2 else Op.PUT
    return v.remove(person, t.people[whom].aid, at=at, keep=keep if flag else (), op=op)


STEPS = st.tuples(
    st.sampled_from(["member", "admit", "admit", "admit", "renew", "revoke", "remove", "fork"]),
    st.integers(0, ADMINS + JOINERS - 1),
    st.integers(0, ADMINS + JOINERS - 1),
    st.integers(1, 1000),
    st.booleans(),
)
HISTORIES = st.lists(STEPS, max_size=40)


def newest(steps):
    """What a store holds after a history: the newest record of each slot, and the admins' own."""
    slots = {}
    for rec in [*(town().v.member(admin, at=1) for admin in town().admins), *map(records, steps)]:
        if rec.slot not in slots or rec.order > slots[rec.slot].order:
            slots[rec.slot] = rec
    return list(slots.values())


def judged(held, batches=1):
    directory = Directory(town().v.mesh)
    for index in range(batches):
        directory.feed(held[index::batches])
    return directory


@settings(max_examples=150, deadline=None)
@given(HISTORIES, st.randoms(use_true_random=False), st.integers(1, 9))
def test_the_verdicts_do_not_depend_on_order_batches_or_detours(steps, dice, batches):
    held = newest(steps)
    expected = judged(held).known()
    shuffled = list(held)
    dice.shuffle(shuffled)
    directory = judged(shuffled, batches)
    assert directory.known() == expected
    # records that were replaced meanwhile, and slots that come and go, leave no trace
    for step in steps[:10]:
        older = records(step)
        current = next(rec for rec in held if rec.slot == older.slot)
        directory.feed([older])
        directory.feed([], [older.slot])
        directory.feed([current])
    assert directory.known() == expected


@settings(max_examples=150, deadline=None)
@given(HISTORIES)
def test_no_more_live_identities_than_uses_and_nobody_without_a_sponsor(steps):
    directory = judged(newest(steps))
    for invite in town().invites:
        uses = directory.uses(invite.key.public)
        assert len(uses) <= USES
        assert list(uses) == sorted(uses)
        living = [who for who in town().joiners if directory.is_member(who.aid)]
        via = [who for who in living if directory.certificate(who.aid).via_invite == invite.key.public]
        assert {who.aid for who in via} <= {use.aid for use in uses}
    for aid in directory.members():
        found = directory.standing(aid)
        if not found.cert.settled:
            assert found.stamp > 0
            assert directory.public_of(found.by) is not None


@settings(max_examples=150, deadline=None)
@given(HISTORIES, STEPS)
def test_a_removal_that_counts_counts_whatever_else_is_said(steps, extra):
    held = newest(steps)
    before = judged(held)
    removed = {aid for aid, it in before.known().items() if it.verdict == Verdict.REMOVED}
    later = records(extra)
    # An admin's removal may be written over, by another one, a delete, a void: it still counts.
    kept = [rec for rec in held if rec.slot != later.slot]
    after = judged([*kept, later])
    for aid in removed:
        assert after.verdict(aid) == Verdict.REMOVED
        assert aid not in after.members()
        assert after.limits(aid).removed


@settings(max_examples=150, deadline=None)
@given(HISTORIES, st.lists(STEPS, max_size=20))
def test_certificates_learned_before_their_records_are_judged_as_if_all_were_looked_at(steps, learned):
    directory = judged(newest(steps))
    for what, who, whom, at, _ in learned:
        t, joiner = town(), town().joiners[whom % JOINERS]
        admin = t.admins[who % ADMINS]
        chain = admin.chain
        if what != "member":
            chain = t.v.settle(admin, joiner, t.invite_of(whom % JOINERS), stamp_at=at, at=at)
        holder = Villager(joiner.key if what != "member" else admin.key, chain)
        directory.introduce(t.v.member(holder, at=at))
    before = dict(directory.known())
    uses = {invite.key.public: list(directory.uses(invite.key.public)) for invite in town().invites}
    assert directory._judge() == []
    assert directory.known() == before
    assert {invite: list(directory.uses(invite)) for invite in uses} == uses


@settings(max_examples=100, deadline=None)
@given(HISTORIES)
def test_what_plain_members_write_never_removes_revokes_or_promotes(steps):
    held = newest(steps)
    admins = {admin.aid for admin in town().admins}
    rights = ("removed/", "invite/")
    honest = [rec for rec in held if rec.aid in admins or not rec.path.startswith(rights)]
    assert judged(held).known() == judged(honest).known()


@settings(max_examples=100, deadline=None)
@given(HISTORIES, st.integers(0, JOINERS - 1))
def test_a_welcome_agrees_with_the_verdict_it_leads_to(steps, index):
    """Whoever is told to be countersigned is a member afterwards, on every node that has the same records."""
    v, new = town().v, town().joiners[index]
    held = newest(steps)
    directory = judged(held)
    if not directory.is_member(town().founder.aid):
        return
    try:
        welcome = directory.welcome(
            new.chain, new.key.public, certs.verify_chain(new.chain, v.mesh).nbf_ms + 5
        )
    except certs.Denied:
        assert not directory.is_member(new.aid)
        return
    if welcome.admit:
        admit = v.admit(town().founder, new, at=5000)
        directory.feed([admit])
        assert judged([*(rec for rec in held if rec.slot != admit.slot), admit]).known() == directory.known()
    assert directory.verdict(new.aid) in (Verdict.MEMBER, Verdict.FORKED)
