"""The feature `quorums`: sets of voters, declared and replaced by admins, shown to everybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import trio

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.agent.proposing import Proposer
from mesh.agent.table import Table
from mesh.agent.votes import ASK_SEAT, FREEZE, Page, Votes
from mesh.core import voters
from mesh.core.handover import Announce, Copy, Freeze, Run, hand_over, unless_there
from mesh.core.log import Log
from mesh.core.quorum import Ballot, Cell, Chosen, NoQuorum
from mesh.core.record import AID_BYTES, MESH, Kind
from mesh.core.voters import PREFIX, Seat, Term, Voters
from mesh.errors import Conflict, Denied, Failed, MeshError, NotFound, PeerError, TimedOut, UsageError
from mesh.identity.keys import peer_id_of, public_of

Json = dict[str, Any]
Rows = list[Json]

ASK_S = 3.0
STEP_S = 10.0
QUORUMS_MAX = 64
COPIES_AT_ONCE = 32


class Quorums:
    """See `mesh.admin.features.Quorums`."""

    def __init__(self, node: Node, certs: Certs, table: Table, votes: Votes, proposer: Proposer) -> None:
        self._node = node
        self._certs = certs
        self._table = table
        self._votes = votes
        self._proposer = proposer

    # -- what is there ----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Quorums that count."""
        with self._node.store.read(MESH) as slots:
            found = [path.removeprefix(PREFIX) for path in slots.paths(PREFIX)]
        return [name for name in found if self._votes.known(name) is not None]

    def get(self, name: str) -> Voters:
        """A quorum's voters. NotFound."""
        found = self._votes.known(name)
        if found is None:
            raise NotFound(f"there is no quorum {name[:80]!r}", "`meshctl quorum ls` lists them")
        return found

    def pick(self, name: str) -> str:
        """The quorum that is meant; "": the only one. NotFound, UsageError."""
        if name:
            self.get(name)
            return name
        names = self.names()
        if not names:
            raise NotFound("there is no quorum", "an admin makes one: `meshctl quorum create main A B C`")
        if len(names) > 1:
            raise UsageError(f"which quorum? there are {', '.join(names)}", "name it with --quorum")
        return names[0]

    def _row(self, name: str, found: Voters) -> Json:
        return {
            "name": name,
            "generation": found.gen,
            "voters": [self._voter(seat.aid) for seat in found.seats],
            "next": None if found.next is None else [self._voter(aid) for aid in found.next.aids],
            "majority": None,
        }

    def _voter(self, aid: bytes) -> Json:
        node, name = self._table.who(aid)
        return {"node": node, "node_name": name, "state": None}

    async def show(self, name: str) -> Json:
        """One quorum, each voter asked whether it votes."""
        found = self.get(name)
        row = self._row(name, found)
        states: dict[bytes, str] = {}

        async def ask(seat: Seat) -> None:
            states[seat.aid] = await self._state(name, found, seat)

        async with trio.open_nursery() as nursery:
            for seat in found.seats:
                nursery.start_soon(ask, seat)
        for voter, seat in zip(row["voters"], found.seats, strict=True):
            voter["state"] = states[seat.aid]
        ready = sum(state == "voting" for state in states.values())
        return {**row, "majority": ready > len(found.seats) // 2}

    async def _state(self, name: str, found: Voters, seat: Seat) -> str:
        try:
            held, term = await self._seat_of(name, seat.aid)
        except MeshError as error:
            return "silent" if not isinstance(error, PeerError) else "failed"
        if held != seat.seat:
            return "lost"
        over = term is not None and (term.gen > found.gen or (term.set_id == found.id and term.frozen))
        return "frozen" if over else "voting"

    async def _seat_of(self, name: str, aid: bytes) -> tuple[bytes, Term | None]:
        answer = await self._proposer.call(aid, ASK_SEAT, name, ASK_S)
        try:
            seat, term = answer
            return msgspec.convert(seat, bytes), msgspec.convert(term, Term | None)
        except (ValueError, TypeError, msgspec.ValidationError):
            raise PeerError("a voter answered nonsense") from None

    # -- changes ----------------------------------------------------------------------------------------

    async def create(self, name: str, nodes: Sequence[str]) -> Json:
        """Declare voters.

        Raises:
            Denied: no admin. UsageError: the name, or not 3 or 5 nodes. Conflict: it is there already.
            Unreachable, TimedOut: a voter does not answer; all must, once.
        """
        self._certs.require_admin()
        voters.check_name(name)
        if self._votes.known(name) is not None:
            raise Conflict(f"quorum {name} is there already", "`meshctl quorum replace` changes its voters")
        if len(self.names()) >= QUORUMS_MAX:
            raise UsageError(f"a mesh has at most {QUORUMS_MAX} quorums", "locks of all kinds share one")
        made = Voters(1, await self._seats(name, nodes, fresh=True))
        await self._announce(name, made)
        return await self.show(name)

    async def _seats(self, name: str, nodes: Sequence[str], *, fresh: bool = False) -> tuple[Seat, ...]:
        """The seats that nodes have now."""
        aids = [public_of(node)[:AID_BYTES] for node in nodes]
        voters.check_size(aids)
        seats = []
        for aid in aids:
            if self._table.public_of(aid) is None:
                raise NotFound(f"{self._table.who(aid)[0]} is not a member", "`meshctl members` lists them")
            try:
                seat, term = await self._seat_of(name, aid)
            except MeshError as error:
                error.message = f"voter {self._table.who(aid)[1]}: {error.message}"
                raise
            if fresh and term is not None:
                raise Conflict(
                    f"{self._table.who(aid)[1]} has voted in a quorum {name} before", "use another name"
                )
            seats.append(Seat(aid, seat))
        return tuple(seats)

    async def replace(self, name: str, changes: Mapping[str, str]) -> Json:
        """Replace voters: old to new, or a node by itself when its votes are lost. None: go on with a change.

        Raises:
            Denied, NotFound, UsageError, Unreachable. TimedOut: no majority of the voters answers.
        """
        self._certs.require_admin()
        present = self.get(name)
        wanted = present.next
        if wanted is None:
            if not changes:
                raise UsageError(f"which voter of {name} is to be replaced?", "OLD=NEW, or OLD=OLD")
            nodes = [self._instead(aid, changes) for aid in present.aids]
            strangers = [old for old in changes if public_of(old)[:AID_BYTES] not in present.aids]
            if strangers:
                stranger = self._table.who(public_of(strangers[0])[:AID_BYTES])[1]
                raise NotFound(f"{stranger} is no voter of {name}", f"`meshctl quorum show {name}`")
            wanted = Voters(present.gen + 1, await self._kept_seats(name, present, nodes, changes))
        procedure = hand_over(present, wanted)
        answer: Any = None
        while True:
            try:
                step = procedure.send(answer)
            except StopIteration:
                return await self.show(name)
            if isinstance(step, Announce):
                await self._announce(name, step.voters)
                answer = None
            elif isinstance(step, Freeze):
                answer = await self._freeze(name, step.voters)
            elif isinstance(step, Copy):
                await self._copy(name, step)
                answer = None
            else:
                answer = await self._run(name, step)

    def _instead(self, aid: bytes, changes: Mapping[str, str]) -> str:
        public = self._table.public_of(aid)
        node = self._table.who(aid)[0] if public is None else peer_id_of(public)
        return changes.get(node, node)

    async def _kept_seats(
        self, name: str, present: Voters, nodes: Sequence[str], changes: Mapping[str, str]
    ) -> tuple[Seat, ...]:
        """Who stays keeps its seat; newcomers are asked for theirs."""
        aids = [public_of(node)[:AID_BYTES] for node in nodes]
        voters.check_size(aids)
        asked = {public_of(node)[:AID_BYTES] for node in changes.values()}
        seats = []
        for aid in aids:
            kept = None if aid in asked else present.seat_of(aid)
            seats.append(Seat(aid, kept or (await self._seat_of(name, aid))[0]))
        return tuple(seats)

    async def _announce(self, name: str, made: Voters) -> None:
        def build(slots: Log) -> list[Statement]:
            held = voters.in_force(slots.slots(PREFIX + name), self._node.directory)
            if held is not None and held.gen > made.gen:
                return []
            return [Statement(PREFIX + name, Kind.REG, voters.to_value(made))]

        await self._node.author.say(MESH, build)

    async def _run(self, name: str, step: Run) -> Any:
        """Run rounds until the newest record has come to enough voters, and one is chosen."""
        end = trio.current_time() + STEP_S
        while True:
            outcome = await self._proposer.propose(name, step.voters, step.register, step.change, STEP_S)
            if isinstance(outcome, Chosen):
                return outcome.value
            if trio.current_time() > end:
                raise no_quorum(name, outcome)
            await trio.sleep(0.2)

    async def _copy(self, name: str, step: Copy) -> None:
        """Many at a time: until it is done nobody can renew a lease."""
        limit = trio.CapacityLimiter(COPIES_AT_ONCE)
        failed: list[MeshError] = []

        async def one(register: str, value: Any) -> None:
            async with limit:
                try:
                    if not failed:
                        await self._run(name, Run(step.voters, register, unless_there(value)))
                except MeshError as error:
                    failed.append(error)

        async with trio.open_nursery() as nursery:
            for register, value in sorted(step.values.items()):
                nursery.start_soon(one, register, value)
        if failed:
            raise failed[0]

    async def _freeze(self, name: str, present: Voters) -> list[dict[str, Cell]]:
        found: list[dict[str, Cell]] = []

        async def ask(seat: Seat) -> None:
            cells = await self._cells(name, present, seat)
            if cells is not None:
                found.append(cells)

        async with trio.open_nursery() as nursery:
            for seat in present.seats:
                nursery.start_soon(ask, seat)
        if len(found) <= len(present.seats) // 2:
            raise TimedOut(
                f"only {len(found)} of {len(present.seats)} voters of {name} answer: no majority",
                "start them; `meshctl quorum replace` without voters goes on",
            )
        return found

    async def _cells(self, name: str, present: Voters, seat: Seat) -> dict[str, Cell] | None:
        cells: dict[str, Cell] = {}
        after = ""
        try:
            while True:
                page = Page(name, present.gen, present.id, seat.seat, after)
                body = msgspec.to_builtins(page, builtin_types=(bytes,))
                refused, rows = await self._proposer.call(seat.aid, FREEZE, body, ASK_S)
                if refused:
                    return None
                if not rows:
                    return cells
                for register, (accepted, value) in rows:
                    cells[register] = Cell(accepted=msgspec.convert(accepted, Ballot), value=value)
                    after = register
        except (MeshError, ValueError, TypeError, msgspec.ValidationError):
            return None

    async def list(self) -> Rows:
        """All quorums, their voters not asked."""
        return [self._row(name, self.get(name)) for name in self.names()]


def no_quorum(name: str, outcome: object) -> MeshError:
    """Why nothing could be changed, in words."""
    barred = outcome.barred if isinstance(outcome, NoQuorum) else ()
    why = "; ".join(voters.WHY.get(each, "a voter refuses") for each in barred)
    if voters.DENIED in barred:
        return Denied(f"this node may not use that lock of quorum {name}", "an admin grants `write lock/**`")
    if not isinstance(outcome, NoQuorum):
        return Failed(f"quorum {name}: others were always faster", "try again")
    return TimedOut(f"quorum {name}: no majority of its voters answers" + (f" ({why})" if why else ""))
