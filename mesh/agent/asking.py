"""Asking the program behind a service: the call `sys/service` with [id, name, payload, origin].

    caller ──[id, name, payload]──────────────────────────────────> owner      an instance of our own zone
    caller ──["", name, payload]──> gateway ──[…, caller's aid]──> owner      one of another zone

The owner decides: the right to call the service is enough, and another node's word for who asks counts from
gateways only. A gateway takes the instance that routing says, asks another one of its zone when nothing can
have been done by the first, and says who answered: its answer is [aid, answer]. Calls pass one gateway only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import trio

from mesh.agent.calls import OPEN_S_MAX, Calls, NotSent
from mesh.agent.callstream import PROGRAMS, Call
from mesh.agent.peers import Peers
from mesh.agent.picking import Picked, Surroundings
from mesh.agent.programs import Programs
from mesh.agent.routing import Router
from mesh.agent.talk import Talk, relay
from mesh.core.policy import CALL
from mesh.core.record import AID_BYTES
from mesh.core.registry import Instance, Service
from mesh.errors import Denied, MeshError, NoHandler, NoInstances, TimedOut, Unreachable, UsageError
from mesh.identity.keys import peer_id_of
from mesh.net.base import Refused

METHOD = "sys/service"
# A gateway that cannot be reached in this time is passed over for the next one; a guess.
GATEWAY_S = 3.0
TAKEN_S = 30.0
TRIES_MAX = 3
# Nothing can have been done there: another one may be asked.
UNDONE = (NoHandler, Refused, NotSent)
T = TypeVar("T")


class Offers(Protocol):
    """What this node offers, and which nodes pass calls on."""

    def own(self, id_: str) -> Service | None: ...

    def may_relay(self, aid: bytes) -> bool: ...


class Answered(NamedTuple):
    """An answer, and the aid of the node that gave it."""

    by: bytes
    payload: Any


class Asking:
    """Both ends, and the gateway between; see the module."""

    def __init__(
        self,
        calls: Calls,
        programs: Programs,
        peers: Peers,
        around: Surroundings,
        router: Router,
        offers: Offers,
    ) -> None:
        self._calls = calls
        self._programs = programs
        self._peers = peers
        self._around = around
        self._router = router
        self._offers = offers
        calls.handle(METHOD, self._asked)

    # -- asking -------------------------------------------------------------------------------------------

    async def ask(self, instance: Instance, payload: Any, timeout_s: float) -> Answered:
        """The answer of the program beside an instance. Raises as `Calls.request`."""
        service = instance.service
        body = ["" if instance.summary else service.id, service.name, payload]

        async def once(public: bytes, left_s: float, open_s: float) -> Any:
            return await self._calls.request(public, METHOD, body, deadline_s=left_s, open_s=open_s)

        answer = await self._reach(instance, timeout_s, once)
        if not instance.summary:
            return Answered(service.owner, answer)
        if not (isinstance(answer, list) and len(answer) == 2 and isinstance(answer[0], bytes)):
            raise Unreachable(f"the gateway of zone {service.zone} gave no answer that makes sense")
        return Answered(*answer)

    async def talk(self, instance: Instance, payload: Any, timeout_s: float) -> tuple[bytes, Talk]:
        """A talk with the program beside an instance, and who it is. Raises as `Calls.talk`."""
        service = instance.service
        body = ["" if instance.summary else service.id, service.name, payload]

        async def once(public: bytes, left_s: float, open_s: float) -> Talk:
            return await self._calls.talk(public, METHOD, body, deadline_s=left_s, open_s=open_s)

        talk = await self._reach(instance, timeout_s, once)
        return talk.by or service.owner, talk

    async def _reach(
        self, instance: Instance, timeout_s: float, once: Callable[[bytes, float, float], Awaitable[T]]
    ) -> T:
        """Ask the owner; of another zone its gateways, in the order of their rank, until one is reached."""
        end = trio.current_time() + timeout_s
        ways = self._ways(instance)
        last: MeshError = TimedOut(f"no time left to ask {instance.service.name}")
        for left, public in zip(range(len(ways), 0, -1), ways, strict=True):
            left_s = end - trio.current_time()
            if left_s <= 0:
                break
            try:
                return await once(public, left_s, GATEWAY_S if left > 1 else OPEN_S_MAX)
            except (Refused, NotSent) as error:
                last = error
        raise last

    def _ways(self, instance: Instance) -> list[bytes]:
        service = instance.service
        aids = self._around.gateways_of(service.zone) if instance.summary else [service.owner]
        found = [public for aid in aids if (public := self._around.public_of(aid)) is not None]
        if not found and instance.summary:
            raise NotSent(f"zone {service.zone} has no gateway that is alive")
        if not found:
            raise NoHandler(f"the owner of {service.name} is no member any more")
        return found

    # -- being asked --------------------------------------------------------------------------------------

    async def _asked(self, call: Call) -> Any:
        body = call.body
        if not (
            isinstance(body, list)
            and len(body) in (3, 4)
            and all(isinstance(each, str) for each in body[:2])
            and all(isinstance(each, bytes) and len(each) == AID_BYTES for each in body[3:])
        ):
            raise UsageError("a call of a service names its id and its name")
        id_, name, payload, *origin = body
        if origin:
            call.public = self._origin(call.public[:16], origin[0])
        aid = call.public[:16]
        if not self._peers.may(aid, CALL, name):
            raise Denied(
                f"{self._peers.name_of(aid) or peer_id_of(call.public)} may not call {name[:80]!r}",
                "an admin can grant it: the verb `call` in the policy",
            )
        if not id_ and not origin:
            return await self._pass_on(call, name, payload)
        service = self._offers.own(id_)
        handler = self._programs.find(PROGRAMS + name)
        if service is None or service.name != name or handler is None:
            raise NoHandler(f"no program behind {name[:80]} on this node answers calls")
        call.method, call.body = PROGRAMS + name, payload
        return await handler(call)

    def _origin(self, gateway: bytes, aid: bytes) -> bytes:
        """The key of the node that a call began at, on a gateway's word."""
        if not self._offers.may_relay(gateway):
            raise Denied("this node may not pass calls on", "only gateways of a zone may")
        public = self._peers.public_of(aid)
        if public is None:
            raise Denied("the node that the call began at is not a member")
        return public

    # -- between zones ------------------------------------------------------------------------------------

    async def _pass_on(self, call: Call, name: str, payload: Any) -> Any:
        """Ask an instance of our zone for a caller of another one."""
        tried = self._router.of_other_zones(name)
        last: MeshError = NoInstances(f"no available instances of {name[:80]} in this zone")
        for _ in range(TRIES_MAX):
            try:
                picked = self._router.pick(name, tried=tried)
            except NoInstances:
                break
            usage = self._router.meter.begin(picked.candidate.key)
            try:
                return await self._pass_to(call, picked, payload)
            except UNDONE as error:
                last = error
                tried.append(picked.candidate.key)
                if not isinstance(error, NoHandler):
                    self._router.failed(picked, conclusive=isinstance(error, Refused))
            except (Unreachable, TimedOut):
                self._router.failed(picked)
                raise
            finally:
                self._router.meter.end(usage)
        raise last

    async def _pass_to(self, call: Call, picked: Picked, payload: Any) -> Any:
        service = picked.instance.service
        public = self._around.public_of(service.owner)
        if public is None:
            raise NoHandler(f"the owner of {service.name} is no member any more")
        body = [service.id, service.name, payload, call.public[:16]]
        left_s = max(0.0, call.deadline - trio.current_time())
        if not call.stream:
            answer = await self._calls.request(public, METHOD, body, deadline_s=left_s)
            self._router.answered(picked)
            return [service.owner, answer]
        far = await self._calls.talk(public, METHOD, body, deadline_s=min(left_s, TAKEN_S))
        try:
            self._router.answered(picked)
            await call.accept(service.owner)
            await _relayed(call, far)
        finally:
            with trio.CancelScope(shield=True):
                await far.close()
        return None


async def _relayed(call: Call, far: Talk) -> None:
    """Carry a talk over. Once it was taken, what it fails with is final: it is asked nowhere else."""
    try:
        await relay(call, far)
    except UNDONE as error:
        raise Unreachable(error.message, error.hint) from None
