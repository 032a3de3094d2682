"""The feature `routing`: a connection with an instance of a service, whichever routing chose.

A call that cannot be connected goes to another instance, ATTEMPTS_MAX in all and within the retry budget of
its service; what was sent to a service is never sent twice. An agent that refuses connections is out at once,
which is faster than any verdict; other failures count in a row (`core/breaker.py`). The deadline of a call
travels with it, as what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.agent.forward import Forward
from mesh.agent.picking import Picked, Picker
from mesh.agent.pipes import Pipe
from mesh.core.balancing import Usage
from mesh.core.breaker import RetryBudget
from mesh.core.routing import ANYTHING, Wants
from mesh.errors import Denied, MeshError, NoInstances, TimedOut, Unreachable, UsageError
from mesh.net.base import Refused
from mesh.wire.forward import HOPS_MAX, Open

ATTEMPTS_MAX = 3
ATTEMPT_S = 2.0
CONNECT_S = 10.0


class Connection:
    """A connection with an instance. `end` it; `failed` if it broke before it answered."""

    def __init__(self, router: Router, pipe: Pipe, picked: Picked, usage: Usage) -> None:
        self.pipe = pipe
        self.picked = picked
        self._router = router
        self._usage: Usage | None = usage

    @property
    def key(self) -> str:
        return self.picked.candidate.key

    def answered(self, after_s: float) -> None:
        """The service began to answer."""
        self._router.answered(self.picked)
        if self._usage is not None:
            self._usage.answered(after_s)

    def failed(self) -> None:
        """It broke before it answered."""
        self._router.failed(self.picked)

    def again(self) -> None:
        """A kept connection takes one more call."""
        if self._usage is None:
            self._usage = self._router.meter.begin(self.key)

    def end(self) -> None:
        """The call is over."""
        if self._usage is not None:
            self._router.meter.end(self._usage)
            self._usage = None


class Router(Picker):
    """Picks and connects; `forward` is set once this node has a host."""

    forward: Forward

    async def connect(
        self,
        name: str,
        wants: Wants = ANYTHING,
        *,
        source: tuple[str, int] = ("", 0),
        deadline_s: float = CONNECT_S,
        tried: Sequence[str] = (),
        first: Picked | None = None,
        proof: bool = True,
    ) -> Connection:
        """A connection with an instance.

        Args:
            source: address and port of the program that calls, for the service and for `hash`.
            tried: instances that are not to be taken again.
            first: one that has been picked already.
            proof: that it connects shows that it works; else its answer has to (`Connection.answered`).

        Raises:
            NoInstances, Denied, Unreachable, TimedOut: it cannot be had, and why.
        """
        end = self._now() + deadline_s
        out = list(tried)
        last: MeshError | None = None
        for attempt in range(ATTEMPTS_MAX):
            try:
                picked = first or self.pick(name, wants, source=source[0].encode(), tried=out)
                first = None
            except NoInstances:
                if last is None:
                    raise
                break
            kept = self.kept.get(picked.service)
            budget = kept.budget if kept is not None else RetryBudget()
            if attempt and not budget.take(self._now()):
                break
            if not attempt:
                budget.called()
            left_s = end - self._now()
            if left_s <= 0:
                break
            share_s = left_s if attempt == ATTEMPTS_MAX - 1 else min(left_s, max(ATTEMPT_S, left_s / 4))
            try:
                return await self.reach(picked, source, share_s, proof=proof)
            except (Denied, UsageError):
                raise
            except MeshError as error:
                last = error
                out.append(picked.candidate.key)
        raise last or TimedOut(f"no connection with {name[:80]} within {deadline_s:.1f} s")

    async def reach(
        self, picked: Picked, source: tuple[str, int], deadline_s: float, *, proof: bool = True
    ) -> Connection:
        """A connection with this instance. What comes of it is remembered."""
        key, began = picked.candidate.key, self._now()
        self.breaker.begun(key, began)
        usage = self.meter.begin(key)
        stands = False
        try:
            pipe = await self._open(picked, source, deadline_s)
            now = self._now()
            usage.answered(now - began)
            if proof:
                self.answered(picked)
            stands = True
            return Connection(self, pipe, picked, usage)
        except (Denied, UsageError):
            raise
        except Refused:
            self.failed(picked, conclusive=True)
            raise
        except MeshError:
            self.failed(picked)
            raise
        finally:
            if not stands:
                self.meter.end(usage)

    async def _open(self, picked: Picked, source: tuple[str, int], deadline_s: float) -> Pipe:
        service = picked.instance.service
        deadline_ms = max(1, int(deadline_s * 1000))
        if not picked.instance.summary:
            public = self._around.public_of(service.owner)
            if public is None:
                raise Unreachable(f"the owner of {service.name} is no member any more")
            head = Open(service.name, service.id, deadline_ms, source[0], source[1])
            return (await self.forward.open(public, head, deadline_s))[0]
        return await self._through_gateway(service.name, service.zone, source, deadline_s)

    async def _through_gateway(
        self, name: str, zone: str, source: tuple[str, int], deadline_s: float
    ) -> Pipe:
        """Services of another zone are called through that zone's gateways, in the order of their rank."""
        gateways = self._around.gateways_of(zone)
        last: MeshError = Unreachable(f"zone {zone} has no gateway that is alive")
        end = self._now() + deadline_s
        for left, aid in zip(range(len(gateways), 0, -1), gateways, strict=True):
            public = self._around.public_of(aid)
            share_s = (end - self._now()) / left
            if public is None or share_s <= 0:
                continue
            head = Open(name, "", int(share_s * 1000), source[0], source[1], hops=HOPS_MAX)
            try:
                return (await self.forward.open(public, head, share_s))[0]
            except (Denied, NoInstances):
                raise
            except MeshError as error:
                last = error
        raise last
