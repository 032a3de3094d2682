"""Trying one check: over HTTP, TCP, gRPC, or by a command. Whatever happens, an outcome comes in time.

What a check meets is not trusted, and what it asks cannot be turned against somebody else:

- A name is resolved once, the address judged and then connected to, so a name that changes its mind between
  the two gains nothing. Link-local, multicast and cloud metadata addresses are refused.
- No redirect is followed. At most BODY_BYTES_MAX of a body are read, headers are bounded by h11.
- A command is an absolute path and words, never a shell line; only the device's own files define one. It
  gets no environment of ours, limits on processor, files and memory, and a process group of its own, which is
  killed when its time is up or when it has said more than FLOOD_BYTES.
- What is kept of an answer is short and escaped; of a command that says much its last lines, as these tell
  what became of it.
"""

from __future__ import annotations

import ipaddress
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable

import trio

from mesh.core.checks import COMMAND, GRPC, HTTP, TCP, Check
from mesh.core.health import Outcome, Result, ending, shown
from mesh.core.words import forbidden
from mesh.errors import MeshError

BODY_BYTES_MAX = 64 << 10
OUTPUT_BYTES = 4 << 10
FLOOD_BYTES = 256 << 10
READ_BYTES = 16 << 10
MIB = 1 << 20
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "HOME": "/"}
LIMITS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 256),
    (resource.RLIMIT_FSIZE, 16 * MIB),
    (resource.RLIMIT_AS, 2048 * MIB),
)


class _Untried(Exception):
    """The check could not be tried; says why."""


async def probe(check: Check) -> Outcome:
    """Try a check; never raises."""
    began = trio.current_time()
    found = Outcome(Result.FAIL, f"no answer within {check.timeout_s:g} s")
    try:
        with trio.move_on_after(check.timeout_s):
            found = await _KINDS[check.kind](check)
    except _Untried as error:
        found = Outcome(Result.ERROR, shown(str(error)))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        why = f": {error.__cause__}" if error.__cause__ is not None else ""
        found = Outcome(Result.FAIL, shown(f"the connection broke{why}"))
    except MeshError as error:
        found = Outcome(Result.FAIL, shown(error.message))
    except OSError as error:
        found = Outcome(Result.FAIL, shown(os.strerror(error.errno) if error.errno else str(error)))
    took_s = trio.current_time() - began
    slow = check.degraded_ms and took_s * 1000 > check.degraded_ms
    if found.result == Result.PASS and slow:
        return Outcome(Result.WARN, f"{found.output}, slow: {took_s * 1000:.0f} ms", took_s)
    return Outcome(found.result, found.output, took_s)


async def resolve(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    """(family, address) to connect to: the first address of a host that may be called.

    Raises:
        _Untried: there is none.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _Untried(f"{host} is not known: {error.strerror or error}") from None
    except UnicodeError:  # from the codec for names: of a label that is empty or too long
        raise _Untried(f"{host[:80]} cannot be a name") from None
    for family, _, _, _, address in found:
        if not forbidden(ipaddress.ip_address(str(address[0]).partition("%")[0])):
            return family, address
    raise _Untried(f"{host} has only addresses that are never called: link-local, multicast or metadata")


async def connect(host: str, port: int) -> trio.SocketStream:
    """A TCP connection to a host that was judged."""
    family, address = await resolve(host, port)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def _tcp(check: Check) -> Outcome:
    stream = await connect(check.host, check.port)
    stream.socket.close()
    return Outcome(Result.PASS, "connected")


async def _http(check: Check) -> Outcome:
    from mesh.agent.httpcheck import ask

    stream: trio.abc.Stream = await connect(check.host, check.port)
    try:
        if check.scheme == "https":
            stream = _secured(stream, check)
        return await ask(stream, check, BODY_BYTES_MAX)
    finally:
        await trio.aclose_forcefully(stream)


def _secured(stream: trio.abc.Stream, check: Check) -> trio.abc.Stream:
    import ssl

    context = ssl.create_default_context()
    if not check.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return trio.SSLStream(stream, context, server_hostname=check.host, https_compatible=True)


async def _grpc(check: Check) -> Outcome:
    try:
        from mesh.agent.grpccheck import ask
    except ImportError:
        raise _Untried("grpc checks need the package h2 beside the agent: pip install h2") from None
    stream = await connect(check.host, check.port)
    try:
        return await ask(stream, check, BODY_BYTES_MAX)
    finally:
        await trio.aclose_forcefully(stream)


# -- commands ---------------------------------------------------------------------------------------------


async def _command(check: Check) -> Outcome:
    try:
        process = await trio.lowlevel.open_process(
            list(check.argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise _Untried(f"{check.argv[0]} cannot be run: {why}") from None
    try:
        _limit(process.pid, check.timeout_s)
        output, flooded = await _read(process)
        status = 0 if flooded else await process.wait()
    finally:
        await _end(process)
    text = ending(output.decode(errors="replace"))
    if flooded:
        return Outcome(Result.FAIL, f"it said more than {FLOOD_BYTES >> 10} KiB: {text}")
    if status == 0:
        return Outcome(Result.PASS, text)
    ended = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
    return Outcome(Result.FAIL, f"{ended}: {text}" if text else ended)


def _limit(pid: int, timeout_s: float) -> None:
    """Bound what a command can use, right after it began."""
    wanted = [*LIMITS, (resource.RLIMIT_CPU, int(timeout_s) + 1)]
    for what, most in wanted:
        try:
            _, hard = resource.prlimit(pid, what)
            top = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, what, (top, top))
        except ProcessLookupError:
            return  # it has ended already


async def _read(process: trio.Process) -> tuple[bytes, bool]:
    """(the last of what it says, whether it says too much)."""
    assert process.stdout is not None
    kept, total = b"", 0
    while data := await process.stdout.receive_some(READ_BYTES):
        total += len(data)
        kept = (kept + bytes(data))[-OUTPUT_BYTES:]
        if total > FLOOD_BYTES:
            return kept, True
    return kept, False


async def _end(process: trio.Process) -> None:
    """End all of its process group, also what it left behind, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody of the group is left
    with trio.CancelScope(shield=True):
        assert process.stdout is not None
        await process.stdout.aclose()
        await process.wait()


_KINDS: dict[str, Callable[[Check], Awaitable[Outcome]]] = {
    HTTP: _http,
    TCP: _tcp,
    COMMAND: _command,
    GRPC: _grpc,
}
