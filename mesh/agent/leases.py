"""The feature `leases`: locks for local programs and for the agent's own work, on quorum registers.

One task drives each session (`mesh/core/locks.py`): it asks, waits, renews, and says when the lease is lost.
Times are of CLOCK_BOOTTIME, which runs on while the machine sleeps; since trio's clock does not, every
session is woken when the machine has slept. `until_boot_s` of an answer is of that clock, so a program on
this machine can hold itself to it without asking.

    hold(...)                for the agent: a Hold with `token`, `lost`, `release`
    acquire, renew, release  for programs that renew themselves; over when the ttl passes
    hold_lines               a stream that holds while it is read: released when the program goes
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import trio

from mesh.agent.lasting import sparing
from mesh.agent.liveness import slept_s
from mesh.agent.proposing import Proposer
from mesh.agent.quorum import Quorums, no_quorum
from mesh.agent.table import Table
from mesh.core import locks, voters
from mesh.core.locks import Ask, Config, Contender, Finished, Held, Lease, Look, Looked, Lost, State
from mesh.core.quorum import NoQuorum, Outcome, Promise
from mesh.errors import Conflict, MeshError, NotFound, PeerError, UsageError

Json = dict[str, Any]
Rows = list[Json]

SESSIONS_MAX = 1024
SLEEP_CHECK_S = 1.0
ROUND_S_MAX = 5.0
ROUND_S_MIN = 0.3
WATCH_S = 0.5


def boot_s() -> float:
    """Seconds since the machine booted, its sleep included where the system counts it."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Hold:
    """One session.

    Attributes:
        held: set once it is held.
        lost: set once it is over: lost, or released.
        why: why it was lost, or "".
        problem: the last outcome that was none, while waiting.
    """

    def __init__(self, name: str, quorum: str, session: bytes, machine: Contender) -> None:
        self.name = name
        self.quorum = quorum
        self.session = session
        self.machine = machine
        self.held = trio.Event()
        self.lost = trio.Event()
        self.renewed = trio.Event()
        self.why = ""
        self.problem: Outcome | None = None
        self.tried = trio.Event()
        self.woken = trio.Event()

    @property
    def token(self) -> int:
        """The fencing token."""
        return self.machine.token

    @property
    def until(self) -> float:
        """CLOCK_BOOTTIME, seconds, at which it is over unless it is renewed."""
        return self.machine.until

    @property
    def holds(self) -> bool:
        """Whether it is held at this moment."""
        return self.machine.holds(boot_s())

    def wake(self) -> None:
        self.woken.set()


class Leases:
    """See `mesh.admin.features.Leases`."""

    def __init__(
        self, me: bytes, quorums: Quorums, proposer: Proposer, table: Table, rng: random.Random
    ) -> None:
        self._me = me
        self._quorums = quorums
        self._proposer = proposer
        self._table = table
        self._rng = rng
        self._started = trio.Event()
        self._sessions: dict[bytes, Hold] = {}
        self._seen: OrderedDict[tuple[str, str], tuple[Lease, float]] = OrderedDict()
        self._ended = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive all sessions, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._started.set()
            task_status.started()
            try:
                await self._notice_sleep()
            finally:
                self._ended = True

    async def _notice_sleep(self) -> None:
        slept = slept_s()
        while True:
            await trio.sleep(SLEEP_CHECK_S)
            before, slept = slept, slept_s()
            if slept > before + SLEEP_CHECK_S / 10:
                for hold in list(self._sessions.values()):
                    hold.wake()

    # -- for the agent ----------------------------------------------------------------------------------

    def begin(
        self,
        name: str,
        *,
        quorum: str = "",
        ttl_s: float = locks.TTL_S,
        session: bytes | None = None,
        renews: bool = True,
        on_lost: Callable[[Hold], None] | None = None,
    ) -> Hold:
        """Want a lock: its session, which waits, holds and renews in the background until `release`.

        Args:
            session: of an earlier life, to go on with: the same token, while nobody else took it.
            on_lost: called on the loop when it was held and is no more.

        Raises:
            UsageError, NotFound: the name, the ttl, the quorum. Conflict: too many sessions.
        """
        chosen = self._quorums.pick(quorum)
        voters.lock_path(chosen, name)
        config = Config(ttl_s=locks.check_ttl(ttl_s))
        if len(self._sessions) >= SESSIONS_MAX:
            raise Conflict(f"{SESSIONS_MAX} locks are wanted or held here already", "release some")
        ident = session or self._rng.randbytes(locks.SESSION_BYTES)
        if ident in self._sessions:
            raise Conflict(f"session {ident.hex()} is under way already")
        seen, seen_at = self._seen.get((chosen, name), (None, 0.0))
        machine = Contender(self._me, ident, config, self._rng, renews=renews, seen=seen, seen_at=seen_at)
        hold = Hold(name, chosen, ident, machine)
        self._sessions[ident] = hold
        self._nursery.start_soon(sparing, self._keep, hold, on_lost)
        return hold

    async def hold(
        self,
        name: str,
        *,
        wait_s: float = float("inf"),
        quorum: str = "",
        ttl_s: float = locks.TTL_S,
        session: bytes | None = None,
        renews: bool = True,
        on_lost: Callable[[Hold], None] | None = None,
    ) -> Hold:
        """As `begin`, and wait until it is held.

        Raises:
            Conflict: somebody else holds it, and `wait_s` is over. TimedOut: no majority of voters answers.
        """
        await self._started.wait()
        hold = self.begin(name, quorum=quorum, ttl_s=ttl_s, session=session, renews=renews, on_lost=on_lost)
        try:
            with trio.move_on_after(max(wait_s, 0)) as patience:
                await hold.held.wait()
            if patience.cancelled_caught and wait_s <= 0:
                with trio.move_on_after(ROUND_S_MAX):
                    await hold.tried.wait()
            if hold.held.is_set():
                return hold
            raise self._not_held(hold)
        except BaseException:
            self.release_nowait(hold)
            raise

    def _not_held(self, hold: Hold) -> MeshError:
        seen = hold.machine.seen
        if seen is None or seen.free or hold.problem is not None:
            return no_quorum(hold.quorum, hold.problem or NoQuorum(False))
        node, name = self._table.who(seen.owner)
        return Conflict(
            f"lock {hold.name} is held by {name or node} (token {seen.epoch})", "wait longer: --wait 1m"
        )

    def release_nowait(self, hold: Hold) -> None:
        """Give it back; the voters are told in the background."""
        actions = hold.machine.release(boot_s())
        self._sessions.pop(hold.session, None)
        hold.lost.set()
        hold.wake()
        if not self._ended:
            for action in actions:
                self._nursery.start_soon(sparing, self._perform, hold, action)

    async def _keep(self, hold: Hold, on_lost: Callable[[Hold], None] | None) -> None:
        try:
            await self._drive(hold, on_lost)
        except Exception:
            self._lost(hold, Lost(hold.token, "the agent failed to renew it"), on_lost)
            raise

    async def _drive(self, hold: Hold, on_lost: Callable[[Hold], None] | None) -> None:
        machine = hold.machine
        while machine.state != State.OVER:
            now = boot_s()
            for action in machine.tick(now):
                if isinstance(action, Lost):
                    self._lost(hold, action, on_lost)
                else:
                    self._nursery.start_soon(sparing, self._perform, hold, action, on_lost)
            hold.woken = trio.Event()
            with trio.move_on_after(max(0.0, min(machine.deadline() - boot_s(), 3600.0))):
                await hold.woken.wait()

    async def _perform(
        self, hold: Hold, action: locks.Action, on_lost: Callable[[Hold], None] | None = None
    ) -> None:
        event: locks.Event
        if isinstance(action, Ask):
            event = Finished(action, await self._ask(hold, action))
            hold.problem = event.outcome if isinstance(event.outcome, NoQuorum) else None
        else:
            assert isinstance(action, Look)
            event = await self._look(hold)
        for told in hold.machine.handle(event, boot_s()):
            if isinstance(told, Ask):
                self._nursery.start_soon(sparing, self._perform, hold, told)
            elif isinstance(told, Held):
                hold.held.set()
                hold.renewed.set()
                hold.renewed = trio.Event()
            elif isinstance(told, Lost):
                self._lost(hold, told, on_lost)
        self._remember(hold)
        if isinstance(event, Finished) or hold.machine.waits:
            hold.tried.set()
        hold.wake()

    def _remember(self, hold: Hold) -> None:
        """What was seen of a lock, for the sessions that come after this one."""
        if hold.machine.seen is not None:
            self._seen[hold.quorum, hold.name] = (hold.machine.seen, hold.machine.seen_at)
            self._seen.move_to_end((hold.quorum, hold.name))
            if len(self._seen) > SESSIONS_MAX:
                self._seen.popitem(last=False)

    async def _ask(self, hold: Hold, ask: Ask) -> Outcome:
        round_s = min(ROUND_S_MAX, max(ROUND_S_MIN, hold.machine.config.renew_s))
        try:
            found = self._quorums.get(hold.quorum)
        except MeshError:
            return NoQuorum(False)
        change = partial(locks.changed, ask)
        return await self._proposer.propose(hold.quorum, found, hold.name, change, round_s)

    async def _look(self, hold: Hold) -> Looked:
        try:
            found = self._quorums.get(hold.quorum)
        except MeshError:
            return Looked(None, known=False)
        told = await self._proposer.look(hold.quorum, found, hold.name, ROUND_S_MAX)
        hold.problem = told if isinstance(told, NoQuorum) else None
        return Looked(told.value) if isinstance(told, Promise) else Looked(None, known=False)

    def _lost(self, hold: Hold, lost: Lost, on_lost: Callable[[Hold], None] | None) -> None:
        hold.why = lost.why
        self._sessions.pop(hold.session, None)
        hold.lost.set()
        hold.wake()
        if on_lost is not None:
            on_lost(hold)

    # -- for programs -----------------------------------------------------------------------------------

    def _row(self, hold: Hold) -> Json:
        return {
            "name": hold.name,
            "quorum": hold.quorum,
            "session": hold.session.hex(),
            "token": hold.token,
            "until_boot_s": round(hold.until, 3),
            "expires_in_s": round(hold.until - boot_s(), 3),
        }

    async def acquire(
        self, name: str, *, quorum: str, ttl_s: float, wait_s: float, session: str | None
    ) -> Json:
        """A lease that its program renews itself. Raises as `hold`."""
        known = None if session is None else _session(session)
        hold = await self.hold(name, wait_s=wait_s, quorum=quorum, ttl_s=ttl_s, session=known, renews=False)
        return self._row(hold)

    async def renew(self, session: str) -> Json:
        """Renew it for its ttl. NotFound: it is over. TimedOut: no majority; it may be tried again."""
        hold = self._held(session)
        renewed, hold.tried = hold.renewed, trio.Event()
        tried = hold.tried
        for action in hold.machine.renew(boot_s()):
            if isinstance(action, Lost):
                self._lost(hold, action, None)
            else:
                self._nursery.start_soon(sparing, self._perform, hold, action)
        with trio.move_on_after(ROUND_S_MAX):
            await tried.wait()
        if hold.lost.is_set():
            raise NotFound(f"the lease on {hold.name} is over: {hold.why}", "acquire it again")
        if not renewed.is_set():
            raise no_quorum(hold.quorum, hold.problem or NoQuorum(False))
        return self._row(hold)

    async def release(self, session: str) -> Json:
        """Give it back. NotFound: it is over already."""
        hold = self._held(session)
        row = self._row(hold)
        actions = hold.machine.release(boot_s())
        self._sessions.pop(hold.session, None)
        hold.lost.set()
        hold.wake()
        for action in actions:
            await self._perform(hold, action)
        return {**row, "expires_in_s": 0.0}

    def _held(self, session: str) -> Hold:
        hold = self._sessions.get(_session(session))
        if hold is None or not hold.held.is_set():
            raise NotFound(f"there is no lease with session {session}", "its time may be over")
        return hold

    async def hold_lines(
        self, name: str, *, quorum: str, ttl_s: float, wait_s: float | None
    ) -> AsyncIterator[Json]:
        """Hold a lock while this is iterated: "held", "renewed" with each renewal, "lost" at the end."""
        hold = await self.hold(
            name, wait_s=float("inf") if wait_s is None else wait_s, quorum=quorum, ttl_s=ttl_s
        )
        try:
            state = "held"
            while True:
                renewed = hold.renewed
                yield {"state": state, **self._row(hold), "why": ""}
                state = "renewed"
                await _either(renewed, hold.lost)
                if hold.lost.is_set():
                    yield {"state": "lost", **self._row(hold), "why": hold.why}
                    return
        finally:
            self.release_nowait(hold)

    async def show(self, name: str, *, quorum: str) -> Json:
        """Who holds a lock, as a majority of the voters tells. TimedOut: none does."""
        chosen = self._quorums.pick(quorum)
        voters.lock_path(chosen, name)
        told = await self._proposer.look(chosen, self._quorums.get(chosen), name, ROUND_S_MAX)
        if isinstance(told, NoQuorum):
            raise no_quorum(chosen, told)
        try:
            lease = locks.parse(told.value)
        except PeerError:
            raise NotFound(f"{name} of quorum {chosen} is no lock") from None
        node, node_name = (None, None) if lease is None or lease.free else self._table.who(lease.owner)
        return {
            "name": name,
            "quorum": chosen,
            "held": node is not None,
            "node": node,
            "node_name": node_name,
            "token": None if lease is None else lease.epoch,
            "ttl_s": None if lease is None or lease.free else lease.ttl_ms / 1000,
        }

    async def list(self) -> Rows:
        """Leases held through this node."""
        return [self._row(hold) for hold in self._sessions.values() if hold.held.is_set()]

    async def watch(self, name: str, *, quorum: str) -> AsyncIterator[Json]:
        """Who holds it, now and after each change."""
        last: Json | None = None
        while True:
            try:
                row = await self.show(name, quorum=quorum)
            except MeshError as error:
                if last is None or isinstance(error, NotFound | UsageError):
                    raise
                row = last
            if row != last:
                last = row
                yield row
            await trio.sleep(WATCH_S)


async def _either(one: trio.Event, other: trio.Event) -> None:
    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, one)
        nursery.start_soon(wait, other)


def _session(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != locks.SESSION_BYTES:
        raise UsageError(f"{text[:80]!r} is not a session", "`meshctl lease acquire` prints it")
    return found
