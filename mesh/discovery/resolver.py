"""A stub resolver for SRV and TXT, which the system's `getaddrinfo` does not ask for.

Asks the name servers of /etc/resolv.conf in order, by UDP, and by TCP when the answer was cut.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import trio

from mesh.discovery import dns
from mesh.discovery.dns import Question, Resource
from mesh.errors import NotFound, PeerError, TimedOut, Unreachable

RESOLV_CONF = "/etc/resolv.conf"
TRY_S = 2.0
TRIES = 2
SERVERS_MAX = 3
NO_SUCH_NAME = 3


def name_servers(path: str = RESOLV_CONF) -> list[str]:
    """The name servers of a resolv.conf; the local one when it names none, as resolvers do."""
    servers = []
    try:
        for line in Path(path).read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                servers.append(words[1])
    except OSError:
        pass
    return servers[:SERVERS_MAX] or ["127.0.0.1"]


async def lookup(
    name: str, kind: int, rng: random.Random, servers: Sequence[str] | None = None, port: int = 53
) -> list[Resource]:
    """Records of one type (SRV or TXT) at a name.

    Args:
        servers: IP addresses; those of the system when None.

    Raises:
        NotFound: the name has none.
        TimedOut: no server answered.
        Unreachable: no server could be asked.
    """
    question = Question(dns.name_of(name), kind)
    problem: Exception = TimedOut(f"no name server answered for {name}")
    for _ in range(TRIES):
        for server in servers or name_servers():
            try:
                with trio.fail_after(TRY_S):
                    packet = await _ask(server, port, question, rng)
            except trio.TooSlowError:
                continue
            except (OSError, PeerError) as error:
                problem = Unreachable(f"name server {server}: {error}")
                continue
            if packet.code not in (0, NO_SUCH_NAME):
                problem = Unreachable(f"name server {server} answered {name} with error {packet.code}")
                continue
            answers = [resource for resource in packet.known if resource.type == kind]
            if not answers:
                raise NotFound(f"the name {name} has no such record")
            return answers
    raise problem


async def _ask(server: str, port: int, question: Question, rng: random.Random) -> dns.Packet:
    ident = rng.getrandbits(16)
    query = dns.pack([question], flags=dns.RECURSION_DESIRED, ident=ident)
    family = trio.socket.AF_INET6 if ":" in server else trio.socket.AF_INET
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as sock:
        await sock.connect((server, port))
        await sock.send(query)
        while True:
            try:
                packet = dns.parse(await sock.recv(4096))
            except PeerError:
                continue
            if _answers(packet, ident, question):
                break
    return await _ask_tcp(server, port, query, question, ident) if packet.truncated else packet


async def _ask_tcp(server: str, port: int, query: bytes, question: Question, ident: int) -> dns.Packet:
    data = bytearray()
    async with await trio.open_tcp_stream(server, port) as stream:
        await stream.send_all(len(query).to_bytes(2, "big") + query)
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = await stream.receive_some(4096)
            if not more:
                raise PeerError("the answer over TCP was cut")
            data += more
    packet = dns.parse(bytes(data[2:]))
    if not _answers(packet, ident, question):
        raise PeerError("the answer over TCP is to another question")
    return packet


def _answers(packet: dns.Packet, ident: int, question: Question) -> bool:
    return (
        packet.is_response
        and packet.ident == ident
        and len(packet.questions) == 1
        and packet.questions[0].type == question.type
        and dns.same(packet.questions[0].name, question.name)
    )
