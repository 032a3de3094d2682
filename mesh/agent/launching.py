"""From a workload's spec to what a runtime starts: ports chosen, words filled in.

A port that the spec leaves open is chosen once for each instance, from `workloads.ports`, and kept across
restarts of the agent, so that what runs can be recognised and nobody has to be told a new address.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Mapping

from mesh.core.claims import Seat
from mesh.core.seating import Spec
from mesh.core.workload import Workload
from mesh.runtimes.base import Directory, Launch, Limits
from mesh.runtimes.base import Port as Forward

LOOPBACK = "127.0.0.1"
_WORD = re.compile(r"\$\{(PORT(?:_[A-Z0-9_]+)?)\}")


def launch_of(
    seat: Seat, spec: Spec, epoch: int, ports: Mapping[str, int], node: str, *, until_boot_s: float = 0.0
) -> Launch:
    """What is to run in a seat.

    Args:
        ports: number of each named port.
        until_boot_s: of an exclusive one, until when it may live.
    """
    it = spec.workload
    words = {f"PORT_{name.upper().replace('-', '_')}": str(number) for name, number in ports.items()}
    if it.ports:
        words = {"PORT": str(ports[it.ports[0].name]), **words}
    command, args = _filled(it.command, words), _filled(it.args, words)
    limits = it.resources.limits
    return Launch(
        instance=str(seat),
        workload=it.name,
        runtime=it.runtime,
        epoch=epoch,
        argv=command + args,
        entrypoint=bool(command),
        image=it.image,
        env={
            **{name: _fill(text, words) for name, text in it.plain_env.items()},
            **words,
            "MESH_VERSION": it.version,
            "MESH_GENERATION": str(spec.gen),
            "MESH_NODE": node,
        },
        cwd=it.workdir,
        directories=tuple(
            Directory(mount.name, mount.path, mount.kind != "scratch", mount.source, mount.read_only)
            for mount in it.mounts
        ),
        limits=Limits(limits.cpu, limits.memory, limits.storage),
        user=it.user,
        network=it.network,
        ports=tuple(
            Forward(
                port.inside or ports[port.name], ports[port.name], "udp" if port.protocol == "udp" else "tcp"
            )
            for port in it.ports
        ),
        stop_signal=it.stop_signal,
        grace_s=it.stop_grace_s,
        restart=it.restart,
        exclusive=it.mode == "exclusive",
        secret_env=it.secret_env,
        secret_files=it.secrets,
        deadline_s=until_boot_s,
    )


def _filled(argv: tuple[str, ...], words: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(_fill(text, words) for text in argv)


def _fill(text: str, words: Mapping[str, str]) -> str:
    return _WORD.sub(lambda match: words.get(match[1], match[0]), text)


def choose_ports(
    seat: Seat, it: Workload, held: Mapping[str, int], taken: set[int], low: int, high: int
) -> dict[str, int]:
    """The port of each name: the spec's, the one held already, or a free one of the range."""
    found: dict[str, int] = {}
    for port in it.ports:
        number = port.port or held.get(port.name, 0)
        if not number:
            number = _free(f"{seat}/{port.name}", taken | set(found.values()), low, high)
        found[port.name] = number
    return found


def _free(key: str, taken: set[int], low: int, high: int) -> int:
    size = max(1, high - low + 1)
    start = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % size
    for step in range(size):
        number = low + (start + step) % size
        if number not in taken and _can_bind(number):
            return number
    return 0  # whatever is free when the program asks for it


def _can_bind(number: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, number))
        except OSError:
            return False
    return True


def seat_named(instance: str) -> Seat | None:
    """The seat of an instance's name, such as web/2 or web/2-green."""
    name, _, rest = instance.partition("/")
    number, _, colour = rest.partition("-")
    return Seat(name, int(number), colour) if name and number.isascii() and number.isdigit() else None
