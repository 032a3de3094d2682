"""The mutation yard: rules broken on purpose, each of which some check must notice.

A harness that finds nothing proves nothing. Every mutant replaces one part by a wrong one that once looked
right, or that somebody may one day write by mistake; it names the scenario in which it is hunted, and within
how many seeds it must be found. The true parts pass the same scenarios. Those that begin with `model:` are
the wrong rules of the random model of replication (`sim/model/variants.py`), found by its oracle; `locks:`,
`rollouts:` and `bluegreen:` are hunted in simulators of their own (`sim/locks.py`, `sim/rolling.py`,
`sim/greens.py`).
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mesh.core.comparison import Comparison
from mesh.core.dissemination import Dissemination
from mesh.core.lease import Lease
from mesh.core.link import Link
from mesh.core.liveness import Liveness
from mesh.core.member import Member
from mesh.core.neighbour import Neighbour
from mesh.core.prober import Prober
from mesh.core.record import Record
from mesh.core.rings import Place
from mesh.core.tidings import Key
from mesh.core.verdict import Board
from mesh.core.vitals import Action
from mesh.errors import UsageError
from mesh.sim import greenmutants, lockmutants, placemutants, rollmutants, statemutants
from mesh.sim.model.run import run as run_model
from mesh.sim.model.variants import CAUGHT_BY, VARIANTS
from mesh.sim.parts import Parts
from mesh.sim.run import Run
from mesh.sim.scenario import Scenario, load
from mesh.sim.summary import Summary
from mesh.wire.messages import Root

# -- broken liveness ------------------------------------------------------------------------------------


def machine(prober: type[Prober] = Prober, board: type[Board] = Board) -> Parts:
    """Parts whose liveness has another prober or board."""

    class Machine(Liveness):
        def make_board(self, place: Place, mesh_id: bytes) -> Board:
            return board(self.config, self.me, place, mesh_id)

        def make_prober(self, rng: random.Random) -> Prober:
            return prober(self.config, self.board, rng)

    return Parts(liveness=Machine)


class SlowRedial(Prober):
    def redial_s(self, link: Link) -> float:
        return 5.0


class DoubtFromMissingLinks(Liveness):
    def _enter(self, now: float) -> float:
        t = super()._enter(now)
        self.board.slowness = min(8, self.slowness(now) + self.prober.missing()[0])
        return t


class SilentWhenHalfMiss(Prober):
    def alone(self, t: float) -> bool:
        missing, wanted = self.missing()
        return wanted > 2 and missing * 2 >= wanted


class NeverAlone(Prober):
    def alone(self, t: float) -> bool:
        return False


class AlwaysTwo(Board):
    def need(self, member: Member) -> int:
        return 2


class OneIsEnough(Board):
    def need(self, member: Member) -> int:
        return 1


class NeverSearches(Prober):
    def _search(self, t: float, out: list[Action]) -> None:
        return


class ForgetsTheLost(Board):
    def lost(self) -> list[bytes]:
        return []


class BelievesTheUnsteady(Board):
    def _revives(self, member: Member, lease: Lease, t: float) -> bool:
        return super()._revives(member, msgspec.structs.replace(lease, steady=True), t)


class NeverLate(Liveness):
    def _take_off(self, late: float, now: float) -> None:
        return


class NeverAsks(Prober):
    def _helpers(self, subject: bytes, t: float) -> list[bytes]:
        return []


class RefutesNothing(Liveness):
    def _accused(self, inc: int) -> None:
        return


class RaisesOthers(Board):
    """Takes what an accuser says for the subject's own word."""

    def lease(self, aid: bytes, lease: Lease, hlc: int, t: float, out: list[Action]) -> None:
        super().lease(aid, msgspec.structs.replace(lease, inc=lease.inc + 1), hlc, t, out)


# -- broken dissemination -------------------------------------------------------------------------------


class NeverWants(Dissemination):
    """Hears of more, and does not ask for it."""

    def _ask(self, name: bytes, key: Key, since: int, now: float) -> None:
        return


class _NoComparison(Comparison):
    def begin(self, link: Neighbour, scope: str, now: float, *, asks: bool) -> None:
        return

    def root(self, link: Neighbour, message: Root, now: float) -> None:
        return


class NeverCompares(Dissemination):
    """Believes that what is pushed is all there is."""

    def make_comparison(self) -> Comparison:
        return _NoComparison(self._me, self.digests, self.config, self._entry, self._control)


class BelievesTheOldest(Summary):
    """Reads the oldest word about another zone instead of the newest."""

    def choose(self, words: Sequence[Record]) -> Record:
        return min(words, key=lambda rec: rec.order)


# -- the yard -------------------------------------------------------------------------------------------


class Mutant(msgspec.Struct, frozen=True):
    """One broken rule.

    Attributes:
        scenario: in which it is hunted; "model" and those with a `trial` are simulators of their own.
        allowed: seeds within which it must be found.
        first: where the hunt begins,
        known: after these seeds, by which it was once caught.
        quick: found in a second or two, so that the gate can afford it.
        trial: one run of a simulator of its own, given the part of the name after the colon and the seed.
    """

    name: str
    summary: str
    scenario: str
    parts: Parts | None = None
    allowed: int = 3
    first: int = 1
    quick: bool = False
    trial: Callable[[str, int], str | None] | None = None
    known: tuple[int, ...] = ()


def _probing() -> list[Mutant]:
    """Of who accuses whom, and when."""
    make = Mutant
    return [
        make("slow-redial", "a redial may take five seconds", "freeze", machine(SlowRedial)),
        make(
            "doubt-by-links", "self doubt from missing links", "freeze", Parts(liveness=DoubtFromMissingLinks)
        ),
        make(
            "silent-when-half", "whose links half miss accuses nobody", "split", machine(SilentWhenHalfMiss)
        ),
        make("never-alone", "one who is cut off accuses all", "cut-off", machine(NeverAlone), quick=True),
        make(
            "always-two",
            "two accusers are always needed",
            "two-of-three",
            machine(board=AlwaysTwo),
            quick=True,
        ),
        make(
            "one-is-enough",
            "one accuser is a verdict",
            "accuser",
            machine(board=OneIsEnough),
            quick=True,
        ),
        make(
            "no-finding-back",
            "the dead are not looked for",
            "long-split",
            machine(NeverSearches, ForgetsTheLost),
        ),
        make(
            "believes-unsteady",
            "a stumbling node is welcomed at once",
            "flap",
            machine(board=BelievesTheUnsteady),
        ),
        make(
            "never-late", "accuses though it slept itself", "suspend", Parts(liveness=NeverLate), quick=True
        ),
        make("never-asks", "accuses without asking others", "one-way", machine(NeverAsks), quick=True),
    ]


def _memory() -> list[Mutant]:
    """Of what is said about oneself, and what a restart remembers."""
    make = Mutant
    return [
        make("no-refutation", "does not refute", "freeze", Parts(liveness=RefutesNothing), quick=True),
        make(
            "raises-others",
            "believes more than the subject said",
            "freeze",
            machine(board=RaisesOthers),
            quick=True,
        ),
        make("forgets-incarnation", "restarts at zero", "quick", Parts(keeps_incarnation=False), quick=True),
        make(
            "forgets-ceiling",
            "restarts its stamps by the clock (I2)",
            "clock-back",
            Parts(keeps_ceiling=False),
            quick=True,
        ),
        make(
            "acks-before-commit",
            "acknowledges before the disk",
            "power-cuts",
            Parts(commits_first=False),
            quick=True,
        ),
        make("no-rewind", "keeps what a wrong clock wrote", "clocks", Parts(takes_back=False)),
        make("no-fence", "trusts a store that was set back", "set-back", Parts(fenced=False), allowed=10),
    ]


def _spreading() -> list[Mutant]:
    """Of how records travel."""
    make = Mutant
    return [
        make(
            "never-wants",
            "does not ask for what it hears of",
            "quick",
            Parts(dissemination=NeverWants),
            quick=True,
        ),
        make(
            "never-compares",
            "compares no digests",
            "stragglers",
            Parts(dissemination=NeverCompares),
            quick=True,
        ),
        make("oldest-summary", "believes a zone's oldest word", "zones", Parts(organs=(BelievesTheOldest,))),
    ]


def _state() -> list[Mutant]:
    """Of the replicated state: one or more for each of its invariants."""
    return [
        Mutant(name, it.summary, it.scenario, it.parts, quick=it.quick)
        for name, it in statemutants.BROKEN.items()
    ]


def _agreeing() -> list[Mutant]:
    """Of placement, quorums, leases and rollouts."""
    own = (
        ("placement", placemutants, 1),
        ("locks", lockmutants, 0),
        ("rollouts", rollmutants, 0),
        ("bluegreen", greenmutants, 0),
    )
    return [
        Mutant(f"{word}:{name}", it.summary, word, None, it.allowed, first, True, simulator.trial)
        for word, simulator, first in own
        for name, it in simulator.BROKEN.items()
    ]


def yard() -> list[Mutant]:
    """All mutants."""
    model = [
        Mutant(
            f"model:{name}",
            (variant.__doc__ or name).strip().splitlines()[0].rstrip(".").lower(),
            "model",
            allowed=100,
            first=0,
            known=CAUGHT_BY[name],
        )
        for name, variant in VARIANTS.items()
    ]
    return [*_probing(), *_memory(), *_spreading(), *_state(), *_agreeing(), *model]


def chosen(names: Sequence[str], *, quick: bool = False) -> list[Mutant]:
    """Mutants by name; all of them (or all quick ones) without names.

    Raises:
        UsageError: there is none by a name.
    """
    known = {mutant.name: mutant for mutant in yard()}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else "meshctl sim mutants lists them"
            raise UsageError(f"there is no mutant {name!r}", hint)
    found = [known[name] for name in names] or list(known.values())
    return [mutant for mutant in found if mutant.quick or not quick]


def parts_of(name: str) -> Parts | None:
    """The broken parts of a mutant.

    Raises:
        UsageError: there is none by that name, or it belongs to the random model.
    """
    mutant = chosen([name])[0]
    if mutant.scenario == "model" or mutant.trial is not None:
        raise UsageError(f"{name} belongs to a simulator of its own", f"meshctl sim mutants {name}")
    return mutant.parts


def hunt(mutant: Mutant) -> dict[str, Any]:
    """Try seeds until a check notices, or no more are allowed; a row of the table."""
    check, tried = None, 0
    own = mutant.scenario == "model" or mutant.trial is not None
    scenario = None if own else load(mutant.scenario)
    while check is None and tried < mutant.allowed:
        beyond = tried - len(mutant.known)
        check = _caught(mutant, scenario, mutant.known[tried] if beyond < 0 else mutant.first + beyond)
        tried += 1
    return {
        "name": mutant.name,
        "found": "yes" if check else "no",
        "check": check,
        "seeds": tried,
        "allowed": mutant.allowed,
        "scenario": mutant.scenario,
        "summary": mutant.summary,
    }


def _caught(mutant: Mutant, scenario: Scenario | None, seed: int) -> str | None:
    if mutant.trial is not None:
        return mutant.trial(mutant.name.partition(":")[2], seed)
    if scenario is None:
        problem = run_model(seed, VARIANTS[mutant.name.removeprefix("model:")]()).problem
        return None if problem is None else problem.partition(":")[0]
    failure = Run(scenario, seed, parts=mutant.parts).execute().failure
    return None if failure is None else failure.check
