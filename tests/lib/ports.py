"""Ports of loopback that stay free between the moment they are chosen and the moment they are bound."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

# Below Linux's ephemeral range: neither an outgoing connection nor a bind to port 0 is ever given one.
# Below those of `scripts/up` and of workloads as well.
_RANGE = range(10_000, 20_000)
_given: set[int] = set()


def free_port() -> int:
    """A port that is free for TCP and UDP, and that no other call in this process is given."""
    dice = random.SystemRandom()
    while True:
        port = dice.choice(_RANGE)
        if port in _given:
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                held.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", port))
            _given.add(port)
            return port


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
