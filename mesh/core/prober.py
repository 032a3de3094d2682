"""Whom we can reach: pings on every wanted link, questions to others, redials, and the way back to the lost.

`liveness.py` tells the rules. The prober holds one `Link` per member that we should hold a link with, hold
one with, or look for. It reads the board, and tells it whom we accuse. All times are the machine's own.
"""

from __future__ import annotations

import random

from mesh.core.favours import Favours
from mesh.core.lease import Evidence
from mesh.core.link import KEEPALIVE_S, Check, Link
from mesh.core.member import FOREVER, NEVER, Charge
from mesh.core.verdict import Board
from mesh.core.vitals import (
    GONE_FOR_NOW,
    Accuse,
    Action,
    Answer,
    AnyProbe,
    Ask,
    CloseLink,
    DialNow,
    DialResult,
    LivenessConfig,
    Ping,
    Pong,
    Redial,
    SendDatagram,
    SendFrame,
    State,
    Withdraw,
)

DIAL_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STRANGERS = 4
HELPERS = 2


class Prober:
    """The links of one node.

    Attributes:
        mute_until: before this we accuse nobody of silence, because our own loop was late.
        links: by member.
        missed: False while no link can have a miss, so that nobody needs to look.
    """

    def __init__(self, config: LivenessConfig, board: Board, rng: random.Random) -> None:
        self.config = config
        self.links: dict[bytes, Link] = {}
        self.mute_until, self.missed = NEVER, False
        self._board = board
        self._rng = rng
        self._nonce = rng.getrandbits(32)
        self._heard = 0.0
        self._favours = Favours(config, board, self.links, self._next_nonce)
        self._strangers_at = NEVER
        self._due = NEVER  # never later than the first `wake`: links that were heard of move theirs on

    def _next_nonce(self) -> int:
        self._nonce = (self._nonce + 1) & 0xFFFFFFFF
        return self._nonce

    # --- which links there are ---

    def retarget(self, t: float, out: list[Action]) -> None:
        """Follow the rings after somebody died, rose, came or went."""
        wanted, lost = set(self._board.wanted()), set(self._board.lost())
        for aid in sorted((wanted | lost) - self.links.keys()):
            self.links[aid] = Link(aid, pings=self._board.me < aid)
        for aid in sorted(self.links):
            link = self.links[aid]
            if aid not in self._board.members:
                if link.up:
                    out.append(CloseLink(aid, "no longer a member"))
                del self.links[aid]
                continue
            if not link.up and (aid in wanted, aid in lost) != (link.wanted, link.lost):
                link.tries = 0
                link.dial_at = t + (DIAL_BACKOFF_S[0] if aid in lost else self._turn_s(link))
            link.wanted, link.lost = aid in wanted, aid in lost
            link.unwanted_since = None if link.wanted else link.unwanted_since or t
            if link.charge and not self._accusable(link) and self._state(aid) not in GONE_FOR_NOW:
                self._withdraw(link, t, out)
            if not (link.wanted or link.lost or link.up):
                del self.links[aid]
            else:
                self._rewake(link, t)

    def _turn_s(self, link: Link) -> float:
        """The lower id dials at once, the other a little later, so that both rarely do."""
        return 0.0 if link.pings else self.config.miss_s

    def _state(self, aid: bytes) -> State:
        return self._board.members[aid].state

    def _accusable(self, link: Link) -> bool:
        member = self._board.members[link.aid]
        return not self._board.remote(member) and self._board.may_accuse(self._board.me, link.aid)

    # --- what happens to them ---

    def link_up(self, aid: bytes, t: float, out: list[Action]) -> None:
        """A stream stands (again)."""
        link = self.links.get(aid)
        if link is None:
            link = self.links[aid] = Link(aid, pings=self._board.me < aid, unwanted_since=t)
        link.up = link.ever_up = True
        link.ended_at = link.gone_at = FOREVER
        link.tries, link.dial_at, link.stream_pinged = 0, FOREVER, None
        link.keepalive = t
        if link.datagram_heard == NEVER:  # the answer shows where it listens, so that a refusal there counts
            out.append(SendDatagram(aid, Ping(self._next_nonce())))
        if not link.wanted:
            link.unwanted_since = t
        self.heard(aid, None, True, t, out)
        self._rewake(link, t)

    def stood_still(self, t: float) -> None:
        """We slept for seconds. What ended meanwhile may have told nobody, so each stream is asked now.

        Else a stream whose other end is gone looks up while datagrams pass, and brings no news until the next
        keepalive.
        """
        for link in self.links.values():
            if link.up:
                link.framed = link.keepalive = min(link.framed, t - KEEPALIVE_S)
                self._rewake(link, t)

    def link_down(self, aid: bytes, eof: bool, t: float) -> None:
        """The stream ended."""
        link = self.links.get(aid)
        if link is None or not link.up:
            return
        link.up, link.stream_pinged = False, None
        link.ended_at = link.gone_at = t if eof else FOREVER
        if link.wanted or link.lost:
            link.dial_at = t + self.config.miss_s + self._turn_s(link)
            self._rewake(link, t)
        else:
            del self.links[aid]

    def calmly_heard(self, aid: bytes, t: float) -> bool:
        """Note a frame without a probe, unless anything else hangs on it; whether that was all."""
        link, member = self.links.get(aid), self._board.members.get(aid)
        if link is None or member is None or not link.calm or self._favours.open:
            return False
        self._heard = member.heard = link.heard = link.framed = t
        link.stream_pinged = None
        return True

    def heard(self, aid: bytes, probe: AnyProbe | None, frame: bool, t: float, out: list[Action]) -> None:
        """Something came from a member: by datagram or as a frame on its stream."""
        self._heard = t
        self._board.heard(aid, t)
        if probe is not None:
            self._hear_probe(aid, probe, frame, t, out)
        if self._favours.open:
            self._favours.heard(aid, out)
        link = self.links.get(aid)
        if link is None:
            if not frame and aid in self._board.members and self._state(aid) == State.DEAD:
                out.append(DialNow(aid))
            return
        if frame:
            link.framed, link.stream_pinged = t, None
            if link.calm and probe is None:  # the usual case: what is due moves on, and `tick` will find it
                link.heard = t
                return
        else:
            self._hear_datagram(link, t, out)
        if isinstance(probe, Pong) and probe.nonce == link.nonce:
            link.nonce = -1
            link.datagram_rounds = link.datagram_rounds + 1 if frame else 0
            if not frame or not link.datagrams_pass():
                link.rtt.add(t - link.pinged)
        if link.waiting is not None:
            link.waiting = None
            link.loss -= link.loss / 16
        link.heard, link.misses = t, 0
        if t > link.ended_at + self.config.miss_s:  # not on its way when the stream ended: its agent lives
            link.gone_at = FOREVER
        if link.check is not None and not link.check.only_redial:
            link.check = None
        if link.charge is not None and self._state(aid) not in GONE_FOR_NOW:
            self._withdraw(link, t, out)
        self._rewake(link, t)

    def _hear_probe(self, aid: bytes, probe: AnyProbe, frame: bool, t: float, out: list[Action]) -> None:
        if isinstance(probe, Ping):
            out.append((SendFrame if frame else SendDatagram)(aid, Pong(probe.nonce)))
        elif isinstance(probe, Ask):
            self._favours.asked(aid, probe, t, out)
        elif isinstance(probe, Answer):
            self._answer_heard(aid, probe, t, out)

    def _hear_datagram(self, link: Link, t: float, out: list[Action]) -> None:
        """A datagram from a member without a living stream is the sign to make one."""
        link.datagram_heard, link.datagram_rounds = t, 0
        if not link.up:
            soon = max(t + self._turn_s(link), link.dialled + 1.0)
            link.tries, link.dial_at = 0, min(link.dial_at, soon)
        elif self._state(link.aid) == State.DEAD and link.stream_pinged is None and t - link.framed > 1.0:
            self._ping_stream(link, t, out)

    def redialled(self, aid: bytes, result: DialResult, t: float, out: list[Action]) -> None:
        """A redial that we asked for came to its end."""
        link = self.links.get(aid)
        if link is None or link.check is None:
            return
        check = link.check
        check.redialling = False
        if result == DialResult.OK:
            link.check, link.gone_at = None, FOREVER
            link.ask_after = t + 5 * self.config.interval_s
        elif result == DialResult.REFUSED and link.ended_at < FOREVER and not link.up:
            link.check, link.gone_at = None, FOREVER
            self._accuse(link, Evidence.GONE, t, out)
        else:
            if link.gone_at < FOREVER:
                link.gone_at = min(link.gone_at, t + self.config.miss_s / 2)
            if check.only_redial:
                link.check = None
            elif not check.open:
                self._conclude(link, t, out)
        self._rewake(link, t)

    # --- asking others ---

    def _answer_heard(self, helper: bytes, answer: Answer, t: float, out: list[Action]) -> None:
        link = self.links.get(answer.subject)
        if link is None or link.check is None or helper not in link.check.open:
            return
        if answer.heard:
            link.check = None
            link.vouched = t
            link.ask_after = t + 5 * self.config.interval_s
        else:
            link.check.open.discard(helper)
            if not link.check.open and not link.check.redialling:
                self._conclude(link, t, out)
        self._rewake(link, t)

    def _start_check(self, link: Link, t: float, out: list[Action], *, only_redial: bool = False) -> None:
        helpers = [] if only_redial else self._helpers(link.aid, t)
        deadline_s = self.redial_s(link)
        if link.ended_at < FOREVER:
            # A process that is killed may keep its port for seconds on a busy machine.
            link.gone_at = t + deadline_s + self.config.miss_s / 2
        link.check = Check(t + deadline_s, set(helpers), only_redial=only_redial)
        out.append(Redial(link.aid, deadline_s))
        ask = Ask(self._next_nonce(), link.aid)
        for helper in helpers:
            out.append(SendDatagram(helper, ask))
            way = self.links.get(helper)
            if way is not None and way.up:
                out.append(SendFrame(helper, ask))

    def redial_s(self, link: Link) -> float:
        """Time for connect, handshake and hello: an accepted connect alone proves nothing."""
        return 2 * link.miss_s(self.config)

    def _helpers(self, subject: bytes, t: float) -> list[bytes]:
        """Two to ask: other monitors of the subject if we can hear them, else other neighbours of ours."""
        near = [aid for aid in self._board.monitors(subject) if self._hears(aid, t)]
        if len(near) < HELPERS:
            near += [aid for aid in sorted(self.links) if aid not in near and self._hears(aid, t)]
        near = [aid for aid in near if aid not in (subject, self._board.me)]
        return self._rng.sample(near, min(HELPERS, len(near)))

    def _hears(self, aid: bytes, t: float) -> bool:
        member = self._board.members[aid]
        return (
            member.state not in GONE_FOR_NOW
            and t - member.heard <= self.config.interval_s + self.config.miss_s
        )

    def _conclude(self, link: Link, t: float, out: list[Action]) -> None:
        """Nobody reached it: accuse, unless the fault may be ours."""
        link.check = None
        link.ask_after = t + self.config.interval_s
        if t < self.mute_until:
            link.ask_after = self.mute_until
        elif not self.alone(t):
            self._accuse(link, Evidence.SILENT, t, out)

    def missing(self) -> tuple[int, int]:
        """(wanted links that miss, wanted links)."""
        missing = [link.wanted for link in self.links.values() if link.misses]
        self.missed = bool(missing)
        return sum(missing), sum([link.wanted for link in self.links.values()])

    def alone(self, t: float) -> bool:
        """Whether it is us who are cut off: of more than two links over half miss, and nothing is heard."""
        missing, wanted = self.missing()
        return wanted > 2 and missing * 2 > wanted and t - self._heard > 3 * self.config.interval_s

    # --- accusing ---

    def _accuse(self, link: Link, evidence: Evidence, t: float, out: list[Action]) -> None:
        member = self._board.members[link.aid]
        if member.state in GONE_FOR_NOW or not self._accusable(link) or t < member.asleep_until:
            return
        link.charge, link.charged = Charge(member.inc, evidence), t
        out.append(Accuse(link.aid, member.inc, evidence, self._charge_ttl_s()))
        self._board.accuse(link.aid, self._board.me, link.charge, t, out)

    def _charge_ttl_s(self) -> float:
        return 2 * self.config.lease_factor * self._board.lease_s()

    def _withdraw(self, link: Link, t: float, out: list[Action]) -> None:
        link.charge = None
        link.ask_after = t + self.config.interval_s
        out.append(Withdraw(link.aid, self._charge_ttl_s()))
        self._board.withdraw(link.aid, self._board.me, t, out)

    def refuted(self, aid: bytes, t: float) -> None:
        """The member raised its incarnation: what we held against it no longer stands."""
        link = self.links.get(aid)
        if link is not None and link.charge is not None:
            member = self._board.members[aid]
            if member.inc > link.charge.inc or member.state in GONE_FOR_NOW:
                link.charge = None
                link.ask_after = t + 5 * self.config.interval_s
                self._rewake(link, t)

    # --- time ---

    def tick(self, t: float, out: list[Action]) -> None:
        """Send what is due."""
        if self._favours.open:
            self._favours.tick(t, out)
        for aid in sorted([aid for aid, link in self.links.items() if link.wake <= t]):
            link = self.links.get(aid)
            if link is not None:
                self._step(link, t, out)
        self._due = min([link.wake for link in self.links.values()], default=FOREVER)
        if self.missed:
            self._search(t, out)

    def due(self) -> float:
        """When `tick` next has something to do (perhaps)."""
        return min(self._due, self._favours.due()) if self._favours.open else self._due

    def _rewake(self, link: Link, t: float) -> None:
        link.wake = link.next_due(self.config, self._board.members[link.aid], t)
        if link.wake < self._due:
            self._due = link.wake

    def _step(self, link: Link, t: float, out: list[Action]) -> None:
        if link.waiting is not None and link.waiting <= t:
            link.waiting = None
            link.misses += 1
            self.missed = True
            link.loss += (1 - link.loss) / 16
        if link.waiting is None and link.ping_due(self.config, self._board.members[link.aid], t) <= t:
            self._ping(link, t, out)
        if link.check is not None and link.check.deadline <= t:
            if link.check.only_redial:
                link.check = None
            else:
                self._conclude(link, t, out)
        if link.doubtful:
            self._suspect(link, t, out)
        self._tend(link, t, out)
        if link.aid in self.links:
            self._rewake(link, t)

    def _ping(self, link: Link, t: float, out: list[Action]) -> None:
        link.nonce, link.pinged = self._next_nonce(), t
        link.waiting = t + link.miss_s(self.config)
        passes = link.datagrams_pass()
        if passes or self._nonce % 8 == 0:
            out.append(SendDatagram(link.aid, Ping(link.nonce)))
        if link.up and (link.misses > 0 or not passes):
            self._ping_stream(link, t, out)

    def _ping_stream(self, link: Link, t: float, out: list[Action]) -> None:
        out.append(SendFrame(link.aid, Ping(link.nonce if link.nonce >= 0 else 0)))
        link.keepalive = t
        if link.stream_pinged is None:
            link.stream_pinged = t

    def _suspect(self, link: Link, t: float, out: list[Action]) -> None:
        """Go from misses to a check, keep an accusation from expiring before its verdict."""
        member = self._board.members[link.aid]
        if member.state in GONE_FOR_NOW or not link.wanted or not self._accusable(link):
            link.gone_at = FOREVER
            return
        if t < member.asleep_until:
            return
        if link.charge is not None and t - link.charged >= self._board.lease_s():
            self._accuse(link, link.charge.evidence, t, out)
        if link.check is not None:
            return
        if link.misses >= self.config.misses and t >= link.ask_after and link.charge is None:
            self._start_check(link, t, out)
        elif link.gone_at <= t:
            self._start_check(link, t, out, only_redial=True)

    def _tend(self, link: Link, t: float, out: list[Action]) -> None:
        """Dial, replace and close streams."""
        if not link.up:
            if link.dial_at <= t and (link.wanted or link.lost):
                self._dial(link, t, out)
            return
        if link.stream_pinged is not None and link.stall_at(self._state(link.aid)) <= t:
            stalled_since, link.stream_pinged = link.stream_pinged, None
            if stalled_since is not None and link.datagram_heard > stalled_since:
                out.append(DialNow(link.aid, replace=True))
            elif stalled_since is not None and link.vouched > link.heard and link.heard < stalled_since:
                # It lives, others hear it, and nothing passes here: without this stream it is sought anew,
                # also through those others.
                out.append(CloseLink(link.aid, "nothing comes this way, and others hear it"))
        if link.keepalive_at() <= t:
            self._ping_stream(link, t, out)
        if link.unwanted_since is not None and t >= link.unwanted_since + self.config.linger_s:
            link.unwanted_since = t
            out.append(CloseLink(link.aid, "not wanted by the rings"))

    def _dial(self, link: Link, t: float, out: list[Action]) -> None:
        wait = DIAL_BACKOFF_S[min(link.tries, len(DIAL_BACKOFF_S) - 1)]
        link.tries += 1
        link.dialled = t
        link.dial_at = t + wait * (0.5 + self._rng.random())
        out.append(DialNow(link.aid))

    def _search(self, t: float, out: list[Action]) -> None:
        """While over half of the links miss, ping a few members at random: the way out of a split."""
        missing, wanted = self.missing()
        if missing * 2 <= wanted or t < self._strangers_at:
            return
        self._strangers_at = t + self.config.interval_s
        others = [m.aid for m in self._board if m.state != State.LEFT and m.aid not in self.links]
        others = sorted(aid for aid in others if aid != self._board.me)
        for aid in self._rng.sample(others, min(STRANGERS, len(others))):
            out.append(SendDatagram(aid, Ping(self._next_nonce())))
