"""Secrets: values that workloads name and only some nodes can read.

    secret/<name>          (scope mesh, kind reg, by an admin)
                           {gen, box, wraps: {node: wrap}, selector, nodes}
    secret/<name>/wraps    (scope mesh, kind all, each admin its own)
                           {box: digest, wraps: {node: wrap}}

The value lies in `box`, sealed under a key that is used once and bound to mesh, name and generation; each
wrap is that key sealed to one node (`identity/sealing.py`). So all replicate it, and whom it is not for reads
who set it when and for whom, and about how long it is, within 64 bytes.

    who reads it   all admins; and every member that its `selector` and `nodes` allow and that may run, room
                   and standing apart, a workload which names it
    selector       over zone and tier only: those are in a node's certificate (where its invite left them open
                   they were its wish), and its id in `nodes` is its key. A label is its own word at any time,
                   by which it could ask for what is not meant for it
    set anew       another generation, another key: sealed to whom it is for at that time. Workloads that name
                   it are started anew by their rollout, unless they say `rotation = "keep"`
    newly eligible any admin that is up opens it, and says the missing wraps in a record of its own: two that
                   say different ones, or a new generation meanwhile, take nothing from each other. The admin
                   at place i of those present waits i x 2 s. With no admin up the node waits, and is no
                   candidate for the workload
    removed        whoever is no member, or not eligible any more, is sealed nothing from then on. What it
                   could read it may have kept: see `Held.exposed`

Admins read every secret, since they may order a workload that prints it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple

import msgspec

from mesh.core.record import AID_BYTES
from mesh.core.registry import name_ok
from mesh.core.selector import parse_selector
from mesh.core.workload import Workload
from mesh.errors import PeerError, UsageError

PREFIX = "secret/"
WRAPS = "/wraps"
VALUE_BYTES_MAX = 16 << 10
READERS_MAX = 400
SELECTED = ("zone", "tier")
_DOMAIN = b"mesh-secret-1\0"
_BOX_BYTES_MAX = VALUE_BYTES_MAX + 256
_DIGEST_BYTES = 16
Aid = Annotated[bytes, msgspec.Meta(min_length=AID_BYTES, max_length=AID_BYTES)]
Wrap = Annotated[bytes, msgspec.Meta(max_length=128)]
Wraps = Annotated[dict[Aid, Wrap], msgspec.Meta(max_length=READERS_MAX)]


class Secret(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an admin's record says. Neither its text form nor its box shows the value.

    Attributes:
        nodes: members that may read it; empty: whoever else is allowed.
    """

    gen: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    box: Annotated[bytes, msgspec.Meta(max_length=_BOX_BYTES_MAX)]
    wraps: Wraps
    selector: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    nodes: Annotated[tuple[Aid, ...], msgspec.Meta(max_length=READERS_MAX)] = ()

    @property
    def digest(self) -> bytes:
        """Names this very box."""
        return digest_of(self.box)

    def allows(self, aid: bytes, certified: Mapping[str, str]) -> bool:
        """Whether a member may be given it; `certified`: zone and tier of its certificate."""
        return (not self.nodes or aid in self.nodes) and parse_selector(self.selector).takes(certified)


class More(msgspec.Struct, frozen=True):
    """Wraps that an admin said later; `box` is the digest of that which they are for."""

    box: Annotated[bytes, msgspec.Meta(max_length=_DIGEST_BYTES)]
    wraps: Wraps


class Readers(NamedTuple):
    """Who can open a secret, and whom it is not for; everybody else waits for an admin."""

    readers: frozenset[bytes] = frozenset()
    barred: frozenset[bytes] = frozenset()


class Held(NamedTuple):
    """A secret with all wraps that were ever said for its box."""

    secret: Secret
    wraps: Mapping[bytes, bytes]

    def exposed(self, members: Iterable[bytes]) -> list[bytes]:
        """Nodes that could read the present generation and are members no more: time to set it anew."""
        return sorted(self.wraps.keys() - set(members))


def digest_of(box: bytes) -> bytes:
    """Names a box."""
    return blake2b(box, digest_size=_DIGEST_BYTES).digest()


def path_of(name: str) -> str:
    """Where a secret lives.

    Raises:
        UsageError: that cannot be its name.
    """
    if not name_ok(name):
        raise UsageError(
            f"secret name {name!r:.80} is not allowed",
            "1 to 63 lower-case letters, digits and '-', not at either end",
        )
    return PREFIX + name


def name_in(path: str) -> str | None:
    """The secret that a path belongs to; None for none."""
    name = path.removeprefix(PREFIX).removesuffix(WRAPS)
    return name if path.startswith(PREFIX) and name_ok(name) else None


def bound_to(mesh_id: bytes, name: str, gen: int) -> bytes:
    """What a box belongs to."""
    return _DOMAIN + mesh_id + b"\0" + name.encode() + b"\0" + str(gen).encode()


def check_selector(text: str) -> str:
    """A selector over what certificates say.

    Raises:
        UsageError: naming the label that a node could give itself.
    """
    for term in parse_selector(text).terms:
        if term.key not in SELECTED:
            raise UsageError(
                f"a secret's selector cannot ask for {term.key}: a node gives that label to itself",
                f"use {' and '.join(SELECTED)}, which its certificate has, or name the nodes",
            )
    return text


def check_value(value: bytes) -> bytes:
    """A value that can be kept; no message of this shows it.

    Raises:
        UsageError: its size.
    """
    if not 1 <= len(value) <= VALUE_BYTES_MAX:
        raise UsageError(f"the value has {len(value)} bytes", f"a secret has 1 to {VALUE_BYTES_MAX}")
    return value


def encode(value: Secret | More) -> dict[str, Any]:
    """As a record's value."""
    found: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return found


def decode(value: Any) -> Secret:
    """An admin's record.

    Raises:
        PeerError: malformed.
    """
    try:
        secret = msgspec.convert(value, Secret, builtin_types=(bytes,))
        check_selector(secret.selector)
    except (msgspec.ValidationError, UsageError):
        raise PeerError("a malformed secret") from None
    return secret


def held(secret: Secret, said: Iterable[Any]) -> Held:
    """A secret with what other admins said for it; what is malformed or for another box does not count."""
    wraps: dict[bytes, bytes] = {}
    for value in said:
        try:
            more = msgspec.convert(value, More, builtin_types=(bytes,))
        except msgspec.ValidationError:
            continue
        if more.box == secret.digest:
            wraps |= more.wraps
    return Held(secret, {**wraps, **secret.wraps})


def why_closed(workload: Workload, aid: bytes, secrets: Mapping[str, Readers]) -> str:
    """Why a node cannot open what a workload names, or ""."""
    for name in workload.secrets_named:
        found = secrets.get(name)
        if found is None:
            return f"secret {name} is not there: `meshctl secret set {name} -`"
        if aid in found.barred:
            return f"secret {name} is not for it: `meshctl secret show {name}`"
        if aid not in found.readers:
            return f"secret {name} is not sealed to it yet: an admin node that is up does that"
    return ""
