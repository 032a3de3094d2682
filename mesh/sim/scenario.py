"""A scenario is a TOML file that a person can write: what mesh, what happens to it, what is expected.

    summary = "half of the mesh behind a cut while both sides write"
    [mesh]                  size, zones, profile, how long
    [lines.near]            what lies between nodes of one zone; [lines.far] between zones
    [[fault]]               what, when, to how many
    [load]                  writes per second, and of what kind
    [expect]                figures that must be met, beside the checks that never sleep
    [placement] [quorum] [rollout]   one of them: played by that feature's own simulator (`kinds.py`)

Unknown names are refused with the place where they stand, and so is what cannot be meant (`bounds.py`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from mesh.errors import UsageError
from mesh.sim.network import Line
from mesh.sim.placement import Scene
from mesh.sim.voting import Weather

EXAMPLE = "meshctl sim show split-writes"


class Mesh(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Size and time.

    Attributes:
        gateways: members per zone able to carry its traffic to other zones.
        duration_s: virtual seconds in which faults and load happen, once the mesh stands.
        bound_s: so long after the end all must agree and be equal.
        quiet_s: between the mesh's standing and the first second that counts.
        shared: nodes share what never changes of their views, for meshes of many thousands.
        formed: the mesh is built as it stands after forming (`formed.py` says what is left out).
    """

    nodes: int = 32
    zones: int = 1
    gateways: int = 3
    profile: str = "lan"
    duration_s: float = 60.0
    bound_s: float = 60.0
    quiet_s: float = 5.0
    shared: bool = False
    formed: bool = False


class LineTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One class of links; `bytes_per_s` 0 means no limit."""

    latency_ms: float = 1.0
    jitter: float = 0.5
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    bytes_per_s: float = 0.0

    def line(self) -> Line:
        """As the network has it."""
        return Line(
            self.latency_ms / 1000, self.jitter, self.loss, self.reorder, self.duplicate, self.bytes_per_s
        )


class Lines(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Links inside a zone and between zones; the second is as the first unless given."""

    near: LineTable = LineTable()
    far: LineTable | None = None


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One trouble, or one that comes again and again.

    Attributes:
        what: one of the names in `faults.py`.
        at_s, every_s, times: when, and how often after that.
        for_s: how long it lasts; 0 for the rest of the run where that makes sense.
        count, share, nodes, zone: to whom: so many, such a part, these numbers, or all of one zone.
        rate: of a loss. offset_s: of a clock. days: of an absence. age_s: of a backup.
    """

    what: str
    at_s: float = 0.0
    every_s: float = 0.0
    times: int = 1
    for_s: float = 0.0
    count: int | None = None
    share: float | None = None
    nodes: list[int] | None = None
    zone: int | None = None
    rate: float | None = None
    offset_s: float | None = None
    days: int | None = None
    age_s: float | None = None


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What users write meanwhile.

    Attributes:
        writes_per_s: over the whole mesh, at random moments.
        keys: so many keys, chosen at random; 0 for a new key with every write.
        kinds: of "reg" and "mv".
        deletes: share of writes that delete what is there.
        zone_share: share of writes in the writer's zone only.
        writers: so many nodes write; 0 for all.
        until_s: when it ends; 0 for the end of the run.
        ttl_s: what is put expires after that; 0 for never. ttl_share: of so many puts.
    """

    writes_per_s: float = 0.0
    keys: int = 50
    kinds: tuple[str, ...] = ("reg", "mv")
    deletes: float = 0.2
    zone_share: float = 0.0
    writers: int = 0
    until_s: float = 0.0
    ttl_s: float = 0.0
    ttl_share: float = 1.0


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Figures of a run that must be met; what is not named is not asked.

    Attributes:
        found_s: killed, powered off or frozen nodes are known to all who can know, at most.
        settled_s: after a split, until each side sees the other as gone.
        changes: changes of mind in all.
        false_dead: verdicts about healthy, reachable members.
        others: changes of mind about members that nothing was done to.
        agree_s, identical_s: after the end of all faults.
        reach_p50_s, reach_max_s: from the acknowledgement of a write to a node's commit.
        frames_per_write: frames of replication between nodes. messages_per_write: those that leave together,
            in one write to a stream, counted once.
        bytes_per_s: sent by the average node, headers included.
    """

    found_s: float | None = None
    settled_s: float | None = None
    changes: int | None = None
    false_dead: int | None = 0
    others: int | None = None
    agree_s: float | None = None
    identical_s: float | None = None
    reach_p50_s: float | None = None
    reach_max_s: float | None = None
    frames_per_write: float | None = None
    messages_per_write: float | None = None
    bytes_per_s: float | None = None


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new generation is rolled out; see `rolling.py`, and for strategy bluegreen `greens.py`.

    Attributes:
        drain_s: bluegreen: how long the old generation stays after the switch.
        bad_every: on every so many-th node it fails; 0 for nowhere.
        falls_every_s: so often on average a node dies for a while; 0 for never.
        delay_s: what nodes say takes up to this long to be heard.
        ends: what must be in the end: done, rolled back, halted.
    """

    strategy: Literal["rolling", "canary", "gradual", "bluegreen"] = "rolling"
    max_unavailable: int = 1
    pause_s: float = 5.0
    bake_s: float = 5.0
    deadline_s: float = 60.0
    drain_s: float = 30.0
    max_fail: float = 0.05
    bad_every: int = 0
    falls_every_s: float = 0.0
    delay_s: float = 0.5
    ends: Literal["done", "rolled back", "halted"] = "done"


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One scenario; see the head of this file."""

    summary: str = ""
    name: str = ""
    mesh: Mesh = Mesh()
    lines: Lines = Lines()
    fault: list[Fault] = []
    load: Load = Load()
    expect: Expect = Expect()
    placement: Scene | None = None
    quorum: Weather | None = None
    rollout: Rollout | None = None

    @property
    def own(self) -> bool:
        """Whether it belongs to a simulator of its own (`kinds.py`)."""
        return not (self.placement is None and self.quorum is None and self.rollout is None)


def names() -> list[str]:
    """The scenarios that come with the product, ascending."""
    files = (resources.files("mesh.sim") / "scenarios").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def text_of(name: str) -> str:
    """The file of a scenario, by its name or path.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    if name in names():
        return (resources.files("mesh.sim") / "scenarios" / f"{name}.toml").read_text()
    if not name.endswith(".toml") and "/" not in name:
        near = difflib.get_close_matches(name, names(), n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "meshctl sim list, or a path"
        raise UsageError(f"there is no scenario {name!r}", hint)
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{name}: cannot be read: {why}") from None


def load(name: str) -> Scenario:
    """A scenario by its name or path.

    Raises:
        UsageError: it is not there, or not a scenario.
    """
    return parse(text_of(name), name)


def parse(text: str, name: str) -> Scenario:
    """Read a scenario.

    Raises:
        UsageError: naming the place, what is wrong there and what is allowed.
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: not TOML: {error}") from None
    return of(raw | {"name": Path(name).name.removesuffix(".toml")}, name)


def of(raw: Any, name: str) -> Scenario:
    """A scenario from plain data, as in a failure file.

    Raises:
        UsageError: as `parse`.
    """
    try:
        scenario = msgspec.convert(raw, Scenario)
    except msgspec.ValidationError as error:
        raise UsageError(f"{name}: {_readable(str(error))}", f"`{EXAMPLE}` shows a whole one") from None
    from mesh.sim.bounds import check  # which stands on this module

    check(scenario, name)
    return scenario


def _readable(message: str) -> str:
    what, _, where = message.partition(" - at ")
    place = where.strip("`").removeprefix("$").lstrip(".")
    table: type[msgspec.Struct] = Scenario
    for part in re.findall(r"[a-z_]+", place):
        table = _TABLES.get(part, table)
    unknown = re.search(r"unknown field `(.+?)`", what)
    if unknown:
        near = difflib.get_close_matches(unknown[1], table.__struct_fields__, n=2)
        known = " or ".join(near) if near else ", ".join(table.__struct_fields__)
        what = f"nothing is called {unknown[1]!r} here; perhaps {known}"
    return f"{place}: {what}" if place else what


_TABLES: dict[str, type[msgspec.Struct]] = {
    "mesh": Mesh,
    "near": LineTable,
    "far": LineTable,
    "lines": Lines,
    "fault": Fault,
    "load": Load,
    "expect": Expect,
    "placement": Scene,
    "quorum": Weather,
    "rollout": Rollout,
}
