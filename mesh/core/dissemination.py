"""How statements spread over links: eager trees, lazy heads, wants, and the comparison of digests.

Plumtree (Leitao, Pereira, Rodrigues 2007) per author, with the author's head as the lazy announcement:

    push      a delta goes at once to every neighbour that has not sent `quiet` for its author
    first     the first copy wins; a duplicate is answered with `quiet` on its link: one tree per author.
              The link that brought an author's newest record must not be quiet: if it was told to be, it
              is woken. (For one record these links are a tree; so whoever lacks the next one has a way up
              to somebody who has it. Silencing by duplicates alone makes circles that nothing enters.)
              When that link ends, another is woken
    announce  quiet links get `heads` of changed authors, at most once a second (live scope: every 5 s)
    repair    announced, but not received by another way in time: `want` there, and `wake` the link
    compare   roots differ (at the hello, then every 30 s): one sends its bucket sums, the other answers with
              heads, the first tells what the other lacks (`core/comparison.py`), and the lower side wants;
              heads equal but fingerprints not: exchange listings and pull what is missing

A link holds no queue of messages but a set of dirty authors: the shell pulls the next frames when the
stream takes more, and they are read from the log at that moment, so a slow peer costs no memory and
superseded records are never sent. A delta accepted whole is passed on unchanged before it is committed;
what a node announces as its own head is always on its disk.

No number from the wire moves a head here: heads come only from `Applied`, after `core/sync.py` judged.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from mesh.core import sync
from mesh.core.comparison import Comparison
from mesh.core.heads import Digest
from mesh.core.log import NO_AUTHOR, AuthorState
from mesh.core.neighbour import Neighbour, Read, bucket_of
from mesh.core.patience import Patience
from mesh.core.questions import Questions
from mesh.core.record import LIVE, MESH, SCOPES
from mesh.core.tidings import (
    Acknowledged,
    Action,
    Applied,
    Apply,
    AuthorGone,
    ClockSet,
    Config,
    DeltaRefused,
    DeltaVerified,
    Event,
    Key,
    LinkDown,
    LinkUp,
    Received,
    Remembered,
    Wakeup,
)
from mesh.wire.messages import Delta, Heads, Listing, Message, Pull, Quiet, Root, Wake, Want


class Dissemination:
    """The machine of one node, for all its links and scopes.

    Args:
        scopes: those this node takes part in.
        read: a short read snapshot of a scope's log.
        rng: for jitter only.
        fences: per durable scope, up to where our memory of our own log is certain (`core/fence.py`):
            each new neighbour is asked for the rest before it hears anything newer of us.
    """

    def __init__(
        self,
        me: bytes,
        scopes: Iterable[str],
        read: Read,
        rng: random.Random,
        config: Config | None = None,
        fences: Mapping[str, int] | None = None,
    ) -> None:
        self.fences = dict(fences or {})
        self.config = config or Config()
        self._me, self._read, self._rng = me, read, rng
        self.scopes = tuple(scope for scope in SCOPES if scope in set(scopes))
        self.heads: dict[str, dict[bytes, AuthorState]] = {scope: {} for scope in self.scopes}
        self.digests = {scope: Digest(with_fp=scope != LIVE) for scope in self.scopes}
        self._accepted: dict[Key, int] = {}
        self._accepted_at: dict[Key, float] = {}
        self._winner: dict[Key, bytes] = {}
        self.links: dict[bytes, Neighbour] = {}
        self._questions = Questions(self.config)
        self._patience = Patience()
        self._comparison = self.make_comparison()
        self._changed_at: dict[Key, float] = {}
        self._listed_at: dict[tuple[bytes, Key], float] = {}
        self._due = float("inf")  # never later than the truth; `tick` finds out anew
        self.duplicates = 0
        self.reload()

    def reload(self) -> None:
        """Take the heads from the logs anew: at the start, and after records were taken back."""
        for scope in self.scopes:
            self.heads[scope].clear()
            self.digests[scope] = Digest(with_fp=scope != LIVE)
            with self._read(scope) as log:
                for aid, state in log.authors():
                    self._set_head(scope, aid, state)

    # -- events ---------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event; returns what the shell is to do, in order."""
        out: list[Action] = []
        if type(event) is DeltaVerified:
            link = self.links.get(event.link)
            if link is not None and event.delta.scope in link.scopes:
                self._delta(event, link, now, out)
        elif type(event) is Applied:
            self._applied(event, now, out)
        else:
            self._seldom(event, now, out)
        return out

    def _seldom(self, event: Event, now: float, out: list[Action]) -> None:
        match event:
            case Received(link=link, message=message):
                if link in self.links:
                    self._received(link, message, now, out)
            case DeltaRefused(link=link, scope=scope, aid=aid):
                self._refused(link, (scope, aid), now)
            case LinkUp():
                self._link_up(event.link, event.roots, event.asks, now, out)
            case LinkDown(link=link):
                self._link_down(link, out)
            case ClockSet():
                self._patience.over()
                self._questions.all_due(now)
                self._soon(now)
            case AuthorGone(aid=aid):
                self._forget(aid)

    def _link_up(
        self, name: bytes, roots: dict[str, bytes], asks: bool, now: float, out: list[Action]
    ) -> None:
        jitter = self._rng.uniform(0.5, 1.0)
        shared = [scope for scope in self.scopes if scope in roots]
        self.links[name] = link = self.make_neighbour(shared, now, now + self.config.compare_s * jitter)
        for scope in shared:
            if roots[scope] == self.digests[scope].root():
                self._comparison.in_step(link, scope, now)
                if scope in self.fences:
                    out.append(Remembered(scope))
                continue
            if scope in self.fences:
                link.fenced.add(scope)
                self._control(link, Heads(scope, [(self._me, 0, b"")], False, True))
            self._comparison.begin(link, scope, now, asks=asks)
        self._soon(link.due())
        self._wake(name, out)

    def make_neighbour(self, scopes: Iterable[str], now: float, compare_at: float) -> Neighbour:
        """A new link; apart so that a simulation can exchange it."""
        return Neighbour(scopes, now, compare_at)

    def make_comparison(self) -> Comparison:
        """What finds differences; apart for the same reason."""
        return Comparison(self._me, self.digests, self.config, self._entry, self._control)

    def _link_down(self, name: bytes, out: list[Action]) -> None:
        self.links.pop(name, None)
        self._wake_another(name, out)
        self._questions.link_gone(name)
        self._soon(self._questions.first())
        self._listed_at = {listed: at for listed, at in self._listed_at.items() if listed[0] != name}

    def _wake_another(self, gone: bytes, out: list[Action]) -> None:
        """Authors that came by a link that is gone: one that we had silenced is to push them again."""
        woken: dict[tuple[bytes, str], list[bytes]] = {}
        for key in sorted(key for key, winner in self._winner.items() if winner == gone):
            del self._winner[key]
            for name in sorted(self.links):
                if self.links[name].hushed.pop(key, None) is not None:
                    woken.setdefault((name, key[0]), []).append(key[1])
                    break
        for (name, scope), aids in woken.items():
            self._control(self.links[name], Wake(scope, aids))
            self._wake(name, out)

    def _received(self, name: bytes, message: Message, now: float, out: list[Action]) -> None:
        link = self.links[name]
        if getattr(message, "scope", MESH) not in link.scopes:
            return
        match message:
            case Heads():
                self._heads_received(name, message, now, out)
                self._repair_due(now, out)
            case Root():
                self._comparison.root(link, message, now)
                self._soon(link.due())
            case Want(scope=scope, aid=aid, since=since):
                self._want_received(link, (scope, aid), since)
            case Quiet(scope=scope, aids=aids):
                link.quiet.update((scope, aid) for aid in aids if aid in self.heads[scope])
            case Wake(scope=scope, aids=aids):
                for key in ((scope, aid) for aid in aids):
                    link.quiet.discard(key)
                    if key in link.lazy[bucket_of(key)] and key in link.sent:
                        link.dirty.setdefault(key, None)
            case Listing() if message.scope != LIVE:
                self._listing_received(name, message, now)
            case Pull(scope=scope, aid=aid, hlcs=hlcs, head=head) if scope != LIVE:
                if self._head(scope, aid) == head:
                    with self._read(scope) as log:
                        self._control(link, sync.serve_pull(log, scope, aid, hlcs[:4096], head))
        self._wake(name, out)

    # -- deltas ---------------------------------------------------------------------------------------

    def _delta(self, event: DeltaVerified, link: Neighbour, now: float, out: list[Action]) -> None:
        delta, name = event.delta, event.link
        key = (delta.scope, delta.aid)
        if delta.aid == self._me:
            self._own_delta(event, link, key, out)
            return
        records = event.records
        newest = records[0].hlc if len(records) == 1 else max([rec.hlc for rec in records], default=0)
        known = max(self.heads[key[0]].get(key[1], NO_AUTHOR).head, self._accepted.get(key, 0))
        want = self._questions.wants.get(key)
        asked = want is not None and want.link == name
        if asked and want is not None:
            want.at = now
            if not (records or delta.more):
                self._questions.denied(name, key, delta.upto)
            if not delta.more:
                self._unwant(key)
        if delta.pull or delta.reset:
            out.append(Apply(name, delta, records))
            return
        # Behind a hole of its own a relay sends records beyond `upto`: valid, but no claim to be complete.
        reach = delta.upto if delta.upto < newest else newest
        link.sent[key] = max(link.sent.get(key, 0), reach)
        if newest <= known:
            self._duplicate(link, name, key, bool(records) and not asked, now, out)
            return
        self._winner[key] = name
        if link.hushed.pop(key, None) is not None:
            self._control(link, Wake(key[0], [key[1]]))
            self._wake(name, out)
        if delta.since <= known < reach:
            self._accepted[key], self._accepted_at[key] = reach, now
            self._pass_on(event, key, reach, out)
        out.append(Apply(name, delta, records))

    def _own_delta(self, event: DeltaVerified, link: Neighbour, key: Key, out: list[Action]) -> None:
        """What a neighbour knows of ourselves: looked at, never passed on; its end lifts the fence."""
        delta = event.delta
        if delta.records or key[0] in link.fenced:
            out.append(Apply(event.link, delta, event.records))
        if not (delta.more or delta.pull) and key[0] in link.fenced:
            self._lift(event.link, link, key, delta.since, out)

    def _duplicate(
        self, link: Neighbour, name: bytes, key: Key, pushed: bool, now: float, out: list[Action]
    ) -> None:
        if pushed:
            self.duplicates += 1
            winner = self._winner.get(key)
            if winner == name or winner not in self.links:
                self._winner[key] = name
                return
            if now - link.hushed.get(key, -1e9) >= self.config.announce_s:
                link.hushed[key] = now
                self._control(link, Quiet(key[0], [key[1]]))
                self._wake(name, out)

    def _pass_on(self, event: DeltaVerified, key: Key, newest: int, out: list[Action]) -> None:
        since, source, scope, urgent = event.delta.since, event.link, key[0], event.urgent
        for name, link in self.links.items():
            if key in link.quiet and not urgent:
                continue
            if name == source or scope not in link.scopes:
                continue
            held = link.sent.get(key, since)
            if held >= newest or held < since or key in link.dirty:
                continue
            if len(link.passing) < self.config.passing_max:
                link.passing.append(event.body)
                link.sent[key] = newest
                out.append(Wakeup(name))

    def _refused(self, name: bytes, key: Key, now: float) -> None:
        self._accepted.pop(key, None)
        others, want = self._questions.withdrawn(name, key), self._questions.wants.get(key)
        if want is not None and want.link == name:
            self._unwant(key)
        if others:
            self._questions.later(key, now)
            self._soon(now)

    def _applied(self, event: Applied, now: float, out: list[Action]) -> None:
        key = (event.scope, event.aid)
        before = self.heads[event.scope].get(event.aid, NO_AUTHOR).head
        self._changed_at[key] = now
        self._set_head(event.scope, event.aid, event.state)
        head = event.state.head
        # Links apply side by side: a delta that comes to the disk before what it builds on finds a hole.
        if event.want is not None or self._accepted.get(key, 0) <= max(head, event.reach):
            self._accepted.pop(key, None)
        if event.refused:
            self._patience.refused(key, now)
        elif head > before:
            self._patience.taken(key)
        if head > before or event.dirty:
            bucket = bucket_of(key)
            for name, link in self.links.items():
                if key[0] not in link.scopes:
                    continue
                if event.urgent or name == event.link or link.tell or key not in link.quiet:
                    self._mark(name, link, key, before, event, out)
                else:  # most links are quiet: the next announcement tells them
                    link.lazy[bucket].add(key)
                    self._soon(link.lazy_at[bucket])
        if event.better is not None and event.link in self.links:
            self._control(self.links[event.link], event.better)
            self._wake(event.link, out)
        if event.want is not None and event.link in self.links and key not in self._questions.wants:
            self._ask(event.link, key, event.want, now)
            self._wake(event.link, out)
        offers = self._questions.offers.get(key)
        if offers and max(offers.values()) <= head:
            self._questions.held(key)

    def _mark(
        self, name: bytes, link: Neighbour, key: Key, before: int, event: Applied, out: list[Action]
    ) -> None:
        head = event.state.head
        if link.tell and link.tell.get(key, head + 1) <= head:
            del link.tell[key]
            self._control(link, Heads(key[0], [self._entry(key)]))
        elif name == event.link:
            pass
        elif key in link.quiet and not event.urgent:
            bucket = bucket_of(key)
            link.lazy[bucket].add(key)
            self._soon(link.lazy_at[bucket])
            return
        elif link.sent.setdefault(key, before) < head:
            link.dirty.setdefault(key, None)
        if link.control or link.passing or link.dirty:
            out.append(Wakeup(name))

    # -- comparing ------------------------------------------------------------------------------------

    def _heads_received(self, name: bytes, message: Heads, now: float, out: list[Action]) -> None:
        link = self.links[name]
        fresh = now - link.up_since < self.config.want_timeout_s
        if message.reply:
            self._comparison.reply(name, link, message)
        scope, me, heads, sent = message.scope, self._me, self.heads[message.scope], link.sent
        for aid, head, fp in message.heads:
            key = (scope, aid)
            if message.ask:
                self._tell(link, key, head)
                continue
            out.append(Acknowledged(name, scope, aid, head))
            mine = heads.get(aid, NO_AUTHOR)
            if aid == me and scope in link.fenced:
                self._remembered(name, link, key, head, fp, out)
                continue
            known, held = sent.get(key), mine.head
            if held or known is not None or len(sent) < self.config.offers_max // 4:
                sent[key] = head if known is None or aid == me or head > known else known
            if head > held:
                self._offered(name, key, head, now if fresh or not held else now + self.config.repair_s)
            elif head == held and scope != LIVE and fp != mine.fp.to_bytes(16, "big"):
                self._maybe_list(name, link, key, now)
            elif aid == me and head < held and key not in link.quiet:
                link.dirty.setdefault(key, None)

    def _remembered(
        self, name: bytes, link: Neighbour, key: Key, head: int, fp: bytes, out: list[Action]
    ) -> None:
        """What a new neighbour holds of ourselves: the same, nothing, or something to be looked at."""
        mine = self.heads[key[0]].get(self._me, NO_AUTHOR)
        if head and (head != mine.head or fp != mine.fp.to_bytes(16, "big")):
            self._control(link, Want(key[0], self._me, self.fences[key[0]]))
            return
        if head:
            out.append(Remembered(key[0]))
        self._lift(name, link, key, head, out)

    def _lift(self, name: bytes, link: Neighbour, key: Key, since: int, out: list[Action]) -> None:
        """The neighbour has said what it knows of ourselves: now it hears the rest from us."""
        link.fenced.discard(key[0])
        if link.sent.get(key, 0) < self._head(*key):
            link.sent.setdefault(key, since)
            link.dirty.setdefault(key, None)
            self._wake(name, out)

    def _offered(self, name: bytes, key: Key, head: int, due: float) -> None:
        due = max(due, self._patience.until(key))
        if self._questions.offered(name, key, head, due):
            self._soon(due)

    def _tell(self, link: Neighbour, key: Key, head: int) -> None:
        if self._head(*key) >= head:
            self._control(link, Heads(key[0], [self._entry(key)]))
        elif key in link.tell or len(link.tell) < self.config.control_max:
            link.tell[key] = max(head, link.tell.get(key, 0))

    def _want_received(self, link: Neighbour, key: Key, since: int) -> None:
        if self._head(*key) <= since:
            self._control(link, Delta(key[0], key[1], since, since, False, []))
            return
        link.sent[key] = since
        link.dirty[key] = None

    def _maybe_list(self, name: bytes, link: Neighbour, key: Key, now: float) -> None:
        quiet_since = self._changed_at.get(key, -1e9)
        listed = self._listed_at.get((name, key), -1e9)
        if (
            key in self._questions.wants
            or now - quiet_since < self.config.calm_s
            or now - listed < self.config.list_s
        ):
            return
        self._listed_at[(name, key)] = now
        with self._read(key[0]) as log:
            for listing in sync.listings(log, key[0], key[1]):
                self._control(link, listing)

    def _listing_received(self, name: bytes, message: Listing, now: float) -> None:
        key = (message.scope, message.aid)
        if self._head(*key) != message.head:
            return
        link = self.links[name]
        with self._read(message.scope) as log:
            missing = sync.missing(log, message)
        for start in range(0, len(missing), 4096):
            self._control(link, Pull(message.scope, message.aid, missing[start : start + 4096], message.head))
        self._maybe_list(name, link, key, now)

    # -- asking ---------------------------------------------------------------------------------------

    def ask_heads(self, scope: str, aid: bytes, head: int, out: list[Action]) -> int:
        """Ask every neighbour to announce when it holds the author up to `head` on disk; returns how many."""
        asked = [(name, link) for name, link in self.links.items() if scope in link.scopes]
        for name, link in asked:
            self._control(link, Heads(scope, [(aid, head, b"")], False, True))
            self._wake(name, out)
        return len(asked)

    def _ask(self, name: bytes, key: Key, since: int, now: float) -> None:
        self._questions.asked(name, key, now)
        self._soon(now + self.config.want_timeout_s)
        link = self.links[name]
        hushed = link.hushed.pop(key, None) is not None
        self._control(link, Want(key[0], key[1], since))
        if hushed or now - link.up_since >= self.config.want_timeout_s:  # a new link was never told to hush
            self._control(link, Wake(key[0], [key[1]]))

    def _unwant(self, key: Key) -> None:
        """A want is over: offers that waited for it may be due."""
        self._questions.over(key)
        self._soon(self._questions.first())

    def _soon(self, at: float) -> None:
        if at < self._due:
            self._due = at

    def tick(self, now: float) -> list[Action]:
        """Do what is due: repairs, timeouts of wants, lazy announcements, comparisons."""
        out: list[Action] = []
        self._questions.end_unanswered(now)
        self._repair_due(now, out)
        self._due = self._questions.first()
        for name, link in self.links.items():
            if (due := link.due()) <= now:
                self._announce(name, link, now, out)
                due = link.due()
            self._soon(due)
        return out

    def _repair_due(self, now: float, out: list[Action]) -> None:
        for key in self._questions.due(now):
            self._repair(key, now, out)

    def _repair(self, key: Key, now: float, out: list[Action]) -> None:
        head = self._head(*key)
        offers = {name: h for name, h in self._questions.offers.get(key, {}).items() if h > head}
        offers = {name: h for name, h in offers.items() if name in self.links}
        if not offers:
            self._questions.held(key)
            return
        due = max(now + self.config.repair_s, self._patience.until(key))
        self._questions.later(key, due)
        self._soon(due)
        if self._patience.until(key) > now:
            return
        if self._accepted.get(key, 0) >= max(offers.values()):
            if now < self._accepted_at[key] + self.config.compare_s:
                return
            del self._accepted[key]  # it never came to the disk; the answer must not count as a duplicate
        name = max(offers, key=lambda name: (offers[name], name))
        if self._questions.may_ask(name, key):
            self._ask(name, key, head, now)
            out.append(Wakeup(name))

    def _announce(self, name: bytes, link: Neighbour, now: float, out: list[Action]) -> None:
        for bucket, every in ((LIVE, self.config.announce_live_s), ("", self.config.announce_s)):
            if link.lazy_at[bucket] > now or not link.lazy[bucket]:
                continue
            keys = sorted(link.lazy[bucket])
            link.lazy_at[bucket] = now + every
            link.lazy[bucket].clear()
            for scope in (LIVE,) if bucket == LIVE else self.scopes:
                heads, told = self.heads[scope], link.sent if scope == LIVE else {}
                due = [  # a link that told us of the same live head needs no word of it
                    (key[1], state.head, state.fp.to_bytes(16, "big"))
                    for key in keys
                    if key[0] == scope and told.get(key, 0) < (state := heads.get(key[1], NO_AUTHOR)).head
                ]
                if due:
                    self._control(link, Heads(scope, due))
            out.append(Wakeup(name))
        if self._comparison.overdue(link, now):
            out.append(Wakeup(name))
        if link.compare_at <= now:
            link.compare_at = now + self.config.compare_s
            for scope in sorted(link.scopes):
                self._control(link, Root(scope, self.digests[scope].root()))
            out.append(Wakeup(name))

    def deadline(self) -> float:
        """When `tick` next has something to do (perhaps), monotonic seconds."""
        return self._due

    # -- sending --------------------------------------------------------------------------------------

    def pull(self, name: bytes, *, whole: bool = True) -> list[bytes]:
        """The next frame bodies for a link; empty when there is nothing to send (see `Neighbour.pull`)."""
        link = self.links.get(name)
        return [] if link is None else link.pull(self._me, self._read, self.config.frame_bytes, whole=whole)

    def has_work(self, name: bytes) -> bool:
        """Whether `pull` would return something."""
        link = self.links.get(name)
        return link is not None and link.pending

    # -- small parts ----------------------------------------------------------------------------------

    def root(self, scope: str) -> bytes:
        """Digest of a scope, 16 bytes, for the hello."""
        return self.digests[scope].root()

    def behind(self, scope: str) -> int:
        """Authors of whom some neighbour has announced more than we hold."""
        return sum(
            key[0] == scope and max(offers.values(), default=0) > self._head(*key)
            for key, offers in self._questions.offers.items()
        )

    def holders(self, scope: str, aid: bytes, hlc: int) -> set[bytes]:
        """Neighbours of whom we know without having asked that they hold an author up to `hlc` on their disk.

        That is the author itself, and whoever has shown our digest since what we hold of the author last
        changed; of ourselves we remember what we held when it did.
        """
        if self._head(scope, aid) < hlc:
            return set()
        changed_at = self._changed_at.get((scope, aid), -1e9)
        held = {aid} & self.links.keys()
        for name, link in self.links.items():
            at, own = link.in_step.get(scope, (-1e9, -1))
            if own >= hlc if aid == self._me else at > changed_at:
                held.add(name)
        return held

    def _head(self, scope: str, aid: bytes) -> int:
        return self.heads[scope].get(aid, NO_AUTHOR).head

    def _set_head(self, scope: str, aid: bytes, state: AuthorState) -> None:
        self.heads[scope][aid] = state
        self.digests[scope].update(aid, state.head, state.fp)
        if state == NO_AUTHOR:  # a removed one: what of it was on its way comes after it was forgotten
            del self.heads[scope][aid]
            self._changed_at.pop((scope, aid), None)  # none where it is only read from the log

    def _entry(self, key: Key) -> tuple[bytes, int, bytes]:
        state = self.heads[key[0]].get(key[1], NO_AUTHOR)
        return (key[1], state.head, state.fp.to_bytes(16, "big"))

    def _control(self, link: Neighbour, message: Message) -> None:
        if len(link.control) < self.config.control_max:
            link.control.append(message)

    def _wake(self, name: bytes, out: list[Action]) -> None:
        if (link := self.links.get(name)) is not None and (link.control or link.passing or link.dirty):
            out.append(Wakeup(name))

    def _forget(self, aid: bytes) -> None:
        for scope in self.scopes:
            if self.heads[scope].pop(aid, None) is not None:
                self.digests[scope].remove(aid)
            key = (scope, aid)
            self._questions.forget(key)
            for table in (self._accepted, self._accepted_at, self._changed_at):
                table.pop(key, None)
            self._winner.pop(key, None)
            self._patience.taken(key)
            for link in self.links.values():
                link.sent.pop(key, None)
                link.dirty.pop(key, None)
                link.quiet.discard(key)
                link.lazy[bucket_of(key)].discard(key)
