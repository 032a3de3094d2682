"""Queries over the whole mesh: carries out what `core/query.py` decides, over the links that are up.

Functions of the agent's own (`mesh.…`) and names that local programs serve can be asked; a node where
nothing answers the name says so. Questions are verified before they are passed on, so a link that brings a
forged one is to blame for it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec
import trio

from mesh.agent.callstream import Call
from mesh.agent.drive import Drive
from mesh.agent.lasting import lasting, sparing
from mesh.agent.peers import Peers
from mesh.core import query as core
from mesh.core.combine import Combine, parse_combine
from mesh.core.policy import QUERY
from mesh.core.query import Query, QueryMachine
from mesh.core.selector import parse_selector
from mesh.errors import Denied, Failed, MeshError, PeerError, TimedOut
from mesh.identity.keys import NodeKey, peer_id_of
from mesh.observe.counters import Counters
from mesh.wire.messages import Ask, Reply

log = logging.getLogger(__name__)

STALE_MS = 120_000
ASKS_PER_LINK_S_MAX = 200
COMPUTE_MAX = 256
OWN_MAX = 256
JUDGED_MAX = 64

Function: TypeAlias = Callable[[Any], Any]


class QueryLinks(Protocol):
    """The links that are up."""

    def neighbours(self, scope: str) -> Sequence[bytes]:
        """Linked members; for scope "z" those of our zone only."""
        ...

    def send(self, aid: bytes, message: Ask | Reply) -> bool:
        """Queue a message; False when there is no such link."""
        ...


class Programs(Protocol):
    """Names that local programs serve."""

    @property
    def names(self) -> list[str]: ...

    async def ask(self, name: str, call: Call, *, query: bool = False) -> Any: ...


class Outcome(msgspec.Struct, frozen=True):
    """What a query brought together.

    Attributes:
        value: the combine's result, None when nobody answered.
        answered, missing: aids, sorted. Who failed is in neither.
        failed: (aid, code, message) of those who could not answer.
    """

    value: Any
    count: int
    answered: tuple[bytes, ...]
    failed: tuple[tuple[bytes, str, str], ...]
    missing: tuple[bytes, ...]
    elapsed_s: float


class Queries:
    """Asks, answers and passes on.

    Args:
        draw: n random bytes, for ids of questions.
        now_ms: mesh time.
    """

    def __init__(
        self,
        key: NodeKey,
        mesh_id: bytes,
        peers: Peers,
        links: QueryLinks,
        programs: Programs,
        counters: Counters,
        now_ms: Callable[[], int],
        draw: Callable[[int], bytes],
    ) -> None:
        self._key = key
        self._mesh_id = mesh_id
        self._peers = peers
        self._links = links
        self._programs = programs
        self._counters = counters
        self._now_ms = now_ms
        self._draw = draw
        self._functions: dict[str, Function] = {}
        self._answers: dict[bytes, _Waiting] = {}
        self._lost: list[bytes] = []
        self._asks: dict[bytes, list[float]] = {}
        self._judged: OrderedDict[tuple[bytes, bytes, bytes], Query] = OrderedDict()
        self._computing = 0
        self.machine = QueryMachine(key.aid)
        self.drive = Drive(self.machine, self._perform)

    def register(self, name: str, function: Function) -> None:
        """Let a function of the agent's own be asked: it takes the arguments, must be quick and not wait."""
        assert name.startswith("mesh."), name
        self._functions[name] = function

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compute answers and keep deadlines, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(lasting, self.drive.run)
            task_status.started()

    # -- asking -----------------------------------------------------------------------------------------

    async def ask(
        self,
        name: str,
        args: Any,
        *,
        deadline_s: float,
        combine: str = "collect",
        selector: str = "",
        scope: str = "m",
    ) -> Outcome:
        """Ask every present member that the selector takes.

        Returns:
            what came by the deadline; with nodes missing it is no error, the caller judges.

        Raises:
            UsageError: the combine, the selector or the arguments are not acceptable.
            Denied: this node may not ask this.
        """
        if not self._peers.may(self._key.aid, QUERY, name):
            raise Denied(f"this node may not query {name[:80]!r}")
        if self.machine.active >= OWN_MAX:
            raise Failed(f"{OWN_MAX} queries are under way here already")
        how = parse_combine(combine)
        chosen = parse_selector(selector)
        begun = trio.current_time()
        query = Query(self._draw(core.QID_BYTES), name, args, combine, selector, scope, self._now_ms())
        body, sig = core.sign_query(self._key.secret, self._mesh_id, query)
        ask = Ask(self._key.aid, body, sig, int(deadline_s * 1000), 0)
        expected = [aid for aid in self._peers.present() if chosen.takes(self._peers.labels_of(aid))]
        waiting = self._answers[query.qid] = _Waiting()
        self._counters["queries.asked"] += 1
        try:
            self._feed(self._asked(None, ask, query))
            await waiting.done.wait()
        finally:
            del self._answers[query.qid]
        assert waiting.complete is not None
        return self._outcome(how, waiting.complete, expected, trio.current_time() - begun)

    def _outcome(
        self, how: Combine, complete: core.Complete, expected: list[bytes], elapsed_s: float
    ) -> Outcome:
        value = None if complete.state is None else how.finish(complete.state, self._shown)
        missing = tuple(core.missing(expected, complete))
        answered = tuple(sorted(complete.nodes))
        return Outcome(value, complete.count, answered, complete.failed, missing, elapsed_s)

    def _shown(self, aid: bytes) -> str:
        public = self._peers.public_of(aid)
        return aid.hex() if public is None else peer_id_of(public)

    # -- links ------------------------------------------------------------------------------------------

    def receive(self, sender: bytes, message: Ask | Reply) -> None:
        """A message came over a link.

        Raises:
            PeerError: the link brought a question that its asker did not sign, or too many.
        """
        if isinstance(message, Reply):
            self._feed(core.Replied(sender, message))
            return
        self._check_rate(sender)
        public = self._peers.public_of(message.aid)
        if public is None:
            # Its certificate may not have come this way yet: we cannot judge, nor make the sender wait.
            self._counters["queries.unknown_asker"] += 1
            self._links.send(sender, Reply(core.qid_of(message), already=True))
            return
        self._counters["queries.in"] += 1
        query = self._opened(public, message)
        if self.machine.knows(query.qid):
            self._feed(core.Asked(sender, message, query, ()))
        else:
            self._feed(self._asked(sender, message, query))

    def _opened(self, public: bytes, message: Ask) -> Query:
        """A question that its asker signed. Each neighbour brings the same, and it is judged once."""
        key = (message.aid, message.body, message.sig)
        query = self._judged.get(key)
        if query is None:
            query = self._judged[key] = core.open_query(public, self._mesh_id, message)
            if len(self._judged) > JUDGED_MAX:
                self._judged.popitem(last=False)
        return query

    def link_ended(self, aid: bytes) -> None:
        """A link is down: nobody waits for it."""
        self._asks.pop(aid, None)
        self._feed(core.LinkEnded(aid))

    def _check_rate(self, sender: bytes) -> None:
        now = trio.current_time()
        state = self._asks.setdefault(sender, [now, 0.0])
        if now - state[0] >= 1.0:
            state[0], state[1] = now, 0.0
        state[1] += 1
        if state[1] > ASKS_PER_LINK_S_MAX:
            raise PeerError(f"more than {ASKS_PER_LINK_S_MAX} queries per second on one link")

    def _asked(self, sender: bytes | None, ask: Ask, query: Query) -> core.Asked:
        chosen = parse_selector(query.selector).takes(self._peers.labels_of(self._key.aid))
        neighbours = tuple(sorted(self._links.neighbours(query.scope)))
        return core.Asked(sender, ask, query, neighbours, chosen, self._refusal(ask.aid, query))

    def _refusal(self, asker: bytes, query: Query) -> tuple[str, str] | None:
        if abs(query.asked_ms - self._now_ms()) > STALE_MS:
            return "denied", "the question is too old, or a clock is wrong"
        if not self._peers.may(asker, QUERY, query.fn):
            return "denied", f"the asker may not query {query.fn[:80]!r}"
        if query.fn not in self._functions and query.fn not in self._programs.names:
            here = self._peers.name_of(self._key.aid) or "this node"
            return "no_handler", f"nothing on {here} answers {query.fn[:80]!r}"
        if self._computing >= COMPUTE_MAX:
            return "failed", "too many queries at once"
        return None

    # -- carrying out -----------------------------------------------------------------------------------

    def _feed(self, event: core.Event) -> None:
        self.drive.handle(event)
        while self._lost:
            self.drive.handle(core.LinkEnded(self._lost.pop()))

    def _perform(self, action: core.Action) -> None:
        match action:
            case core.Send(to=to, message=message):
                if not self._links.send(to, message):
                    self._lost.append(to)
            case core.Compute(query=query, asker=asker, deadline=deadline):
                self._computing += 1
                self._nursery.start_soon(sparing, self._compute, query, asker, deadline)
            case core.Complete(qid=qid):
                if waiting := self._answers.get(qid):
                    waiting.complete = action
                    waiting.done.set()

    async def _compute(self, query: Query, asker: bytes, deadline: float) -> None:
        event: core.Event
        try:
            event = core.Computed(query.qid, await self._value(query, asker, deadline))
        except MeshError as error:
            event = core.Failed(query.qid, error.code, error.message)
        except Exception as error:
            self._counters["queries.crashed"] += 1
            log.exception("query function crashed", extra={"function": query.fn})
            event = core.Failed(query.qid, Failed.code, f"{type(error).__name__} in {query.fn[:80]}")
        finally:
            self._computing -= 1
        self._feed(event)

    async def _value(self, query: Query, asker: bytes, deadline: float) -> Any:
        function = self._functions.get(query.fn)
        if function is not None:
            await trio.lowlevel.checkpoint()
            return function(query.args)
        public = self._peers.public_of(asker)
        if public is None:
            raise Denied("the asker is no longer a member")
        call = Call(public, query.fn, query.args, stream=False, deadline=deadline, emit=_no_parts)
        with trio.move_on_at(deadline):
            return await self._programs.ask(query.fn, call, query=True)
        raise TimedOut(f"{query.fn[:80]!r} did not answer in time")


class _Waiting:
    """An own question that is under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.complete: core.Complete | None = None


async def _no_parts(part: Any) -> None:
    raise AssertionError("a query takes one answer")
