"""Checks against real sockets and real programs: what they find, and what they refuse to be used for."""

from __future__ import annotations

import os
import random
import re
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hostnames import Names, no_network
from trio.testing import MockClock

from mesh.agent.probes import probe
from mesh.core.checks import parse_check
from mesh.core.health import Outcome, Result, ending, shown

OK = b"HTTP/1.1 200 OK\r\nServer: here\r\nContent-Length: 5\r\n\r\nhello"
PASS, WARN, FAIL, ERROR = Result


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    with no_network() as made:
        yield made


async def answer(stream: trio.SocketStream, text: bytes) -> None:
    await stream.receive_some(65536)
    await stream.send_all(text)


@asynccontextmanager
async def serving(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A TCP server on a free port."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def http(text: bytes, **check: Any) -> Outcome:
    async with serving(lambda stream: answer(stream, text)) as port:
        return await probe(parse_check("x", {"kind": "http", **check}, "127.0.0.1", port))


async def run(*argv: str, **check: Any) -> Outcome:
    return await probe(parse_check("x", {"kind": "command", "argv": list(argv), **check}, "127.0.0.1", 1))


async def python(source: str, **check: Any) -> Outcome:
    return await run(sys.executable, "-c", source, **check)


# -- http ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "check", "result", "says"),
    [
        (OK, {}, PASS, "status 200"),
        (OK, {"status": [204]}, FAIL, "status 200"),
        (OK.replace(b"200", b"503"), {}, FAIL, "status 503"),
        (OK.replace(b"200", b"204"), {"status": [200, 204]}, PASS, "status 204"),
        (OK, {"expect_headers": {"server": "he"}}, PASS, "200"),
        (OK, {"expect_headers": {"server": "there"}}, FAIL, "header server"),
        (OK, {"expect_headers": {"x-missing": ""}}, FAIL, "x-missing"),
        (OK, {"body": "ell"}, PASS, "200"),
        (OK, {"body": "goodbye"}, FAIL, "goodbye"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", {}, FAIL, "not followed"),
        (b"SSH-2.0-OpenSSH\r\n", {}, FAIL, "not HTTP"),
        (b"", {}, FAIL, "without an answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, {}, PASS, "200"),
        (b"HTTP/1.1 200 \x1b[31m\r\n\r\n", {"status": [500]}, FAIL, "status 200"),
    ],
)
async def test_an_answer_is_judged(text: bytes, check: dict[str, Any], result: Result, says: str) -> None:
    found = await http(text, **check)
    assert (found.result, says in found.output) == (result, True), found
    assert found.output.isprintable()


async def test_a_body_that_never_ends_is_not_read_to_its_end() -> None:
    sent = 0

    async def flood(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)
            sent += 65536

    async with serving(flood) as port:
        check = parse_check("x", {"kind": "http", "body": "needle"}, "127.0.0.1", port)
        assert (await probe(check)).result == FAIL
    assert sent < 16 << 20


async def test_endless_headers_and_silence_end_in_time() -> None:
    async def dribble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"X-Filler: " + b"y" * 1000 + b"\r\n")

    for handler in (dribble, lambda stream: trio.sleep_forever()):
        async with serving(handler) as port:
            check = parse_check("x", {"kind": "http", "timeout_s": 0.3}, "127.0.0.1", port)
            assert (await probe(check)).result == FAIL


async def test_an_answer_that_takes_long_is_degraded() -> None:
    async def slow(stream: trio.SocketStream) -> None:
        await trio.sleep(0.05)
        await answer(stream, OK)

    async with serving(slow) as port:
        check = parse_check("x", {"kind": "http", "degraded_ms": 20}, "127.0.0.1", port)
        found = await probe(check)
    assert found.result == WARN
    assert "slow" in found.output


async def test_the_request_is_what_was_asked_for() -> None:
    asked = b""

    async def note(stream: trio.SocketStream) -> None:
        nonlocal asked
        asked = bytes(await stream.receive_some(65536))
        await stream.send_all(OK)

    more = {"path": "/health?full=1", "method": "HEAD", "headers": {"Host": "orders.mesh", "X-A": "b"}}
    async with serving(note) as port:
        await probe(parse_check("x", {"kind": "http", **more}, "127.0.0.1", port))
    lines = asked.decode().split("\r\n")
    assert lines[0] == "HEAD /health?full=1 HTTP/1.1"
    assert "host: orders.mesh" in {line.lower() for line in lines}
    assert [line for line in lines if line.lower().startswith("host:")] == ["Host: orders.mesh"]


# -- tcp, names ------------------------------------------------------------------------------------------


async def test_a_port_is_open_or_not() -> None:
    async with serving(lambda stream: trio.sleep(0)) as port:
        check = parse_check("x", {"kind": "tcp"}, "127.0.0.1", port)
        assert (await probe(check)).result == PASS
    found = await probe(check)
    assert (found.result, found.output) == (FAIL, "Connection refused")


async def test_an_unknown_name_is_an_error_of_the_check(names: Names) -> None:
    found = await probe(parse_check("x", {"kind": "tcp"}, "no-such-host.invalid", 80))
    assert found.result == ERROR
    assert "no-such-host.invalid is not known: Name or service not known" in found.output


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".org"])
async def test_what_cannot_be_a_name_is_an_error_of_the_check(host: str) -> None:
    found = await probe(parse_check("x", {"kind": "tcp"}, host, 80))
    assert found.result == ERROR
    assert "cannot be a name" in found.output


async def test_a_name_is_resolved_once_and_may_not_mean_what_is_never_called(names: Names) -> None:
    names.known["metadata.internal"] = ["169.254.169.254", "100.100.100.200"]
    found = await probe(parse_check("x", {"kind": "http"}, "metadata.internal", 80))
    assert found.result == ERROR
    assert "never called" in found.output
    assert names.asked == ["metadata.internal"]


# -- commands --------------------------------------------------------------------------------------------


async def test_a_command_passes_by_ending_with_0_only() -> None:
    assert (await run("/bin/echo", "well done")).output == "well done"
    found = await python("import sys; print('no room'); sys.exit(3)")
    assert (found.result, found.output) == (FAIL, "exit status 3: no room")
    found = await python("import os; os.kill(os.getpid(), 9)")
    assert (found.result, found.output) == (FAIL, "ended by signal 9")


async def test_a_command_that_is_not_there_is_an_error_of_the_check() -> None:
    found = await run("/no/such/program")
    assert found.result == ERROR
    assert "/no/such/program" in found.output


async def test_no_shell_ever_reads_the_words(tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    for word in (
        f"; touch {trap}",
        f"$(touch {trap})",
        f"`touch {trap}`",
        f"| touch {trap}",
        f"\n touch {trap}",
    ):
        assert (await run("/bin/echo", word)).result == PASS
    assert not trap.exists()


async def test_ten_thousand_fuzzed_words_arrive_as_they_are_and_no_shell_is_started() -> None:
    rng, letters = random.Random(15), "abc $`;|&<>(){}[]*?!~#'\"\\\n\t\x1b\u202e\u00fc-=%@/"
    for _ in range(180):
        words = ["".join(rng.choices(letters, k=rng.randrange(1, 20))) for _ in range(58)]
        found = await run("/bin/echo", "first", *words)
        assert found == Outcome(PASS, shown(" ".join(["first", *words])), found.took_s)


async def test_a_command_sees_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_SECRET", "s3cret")
    found = await run("/usr/bin/env")
    assert "s3cret" not in found.output
    assert "PATH=" in found.output


async def test_a_command_that_hangs_ends_with_all_it_started(tmp_path: Path, mock_clock: MockClock) -> None:
    pid_file = tmp_path / "pid"
    source = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pid_file) + '.new'!r}, 'w').write(str(child.pid))\n"
        f"os.rename({str(pid_file) + '.new'!r}, {str(pid_file)!r})\n"
        "time.sleep(600)\n"
    )
    found: list[Outcome] = []

    async def check() -> None:
        found.append(await python(source, timeout_s=1.5))

    mock_clock.rate = 0.02  # its time hardly runs until it has come as far as that
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        await trio.to_thread.run_sync(_appears, pid_file)
        mock_clock.rate = 1.0
    assert found[0].result == FAIL
    assert "no answer" in found[0].output
    pid = int(pid_file.read_text())
    with trio.fail_after(60):
        while _runs(pid):
            await trio.sleep(0.01)


def _appears(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_command_that_floods_is_ended_and_little_of_it_is_kept() -> None:
    flood = "for n in range(10**9): print('\\x1b[31mline', n, 'x' * 70, flush=n % 100 == 0)"
    found = await python(flood, timeout_s=20)
    assert found.result == FAIL
    assert found.output.startswith("it said more than 256 KiB: …")
    lines = [int(word) for word in re.findall(r"line (\d+) ", found.output)]
    assert len(lines) > 5
    assert lines == list(range(lines[0], lines[0] + len(lines)))
    assert lines[0] > 2000  # the last ones, not the first
    assert len(found.output) <= 1024
    assert found.output.isprintable()
    found = await python("print('x' * 100000); print('the end')")
    assert found.result == PASS
    assert found.output.endswith("the end")
    assert len(found.output) <= 1024


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        (" all\nof it \n", "all of it"),
        ("first\nsecond\nthird", "…third"),
        ("a" * 30, "…" + "a" * 10),
        ("\x1b", "\\x1b"),
        ("first\n\x1b\x1b\x1b\x1b", "…1b\\x1b\\x1b"),
    ],
)
def test_of_a_long_output_the_last_lines_are_kept(text: str, told: str) -> None:
    found = ending(text, 11)
    assert found == told
    assert len(found) <= 11


async def test_a_command_has_limits() -> None:
    source = (
        "import resource, time\n"
        "deadline = time.monotonic() + 50\n"
        "while resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256 and time.monotonic() < deadline: pass\n"
        "names = ('NOFILE', 'CORE', 'CPU')\n"
        "print([resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[0] for name in names])\n"
    )
    assert (await python(source, timeout_s=60)).output == "[256, 0, 61]"


async def test_a_program_without_the_right_to_run_is_an_error_of_the_check(tmp_path: Path) -> None:
    script = tmp_path / "check"
    script.write_text("#!/no/such/interpreter\n")
    assert (await run(str(script))).result == ERROR
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert (await run(str(script))).result == ERROR
    assert os.path.exists(script)


# -- grpc ------------------------------------------------------------------------------------------------


def grpc_server(status: int, code: str = "0") -> Callable[[trio.SocketStream], Awaitable[None]]:
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import DataReceived, RequestReceived, StreamEnded

    async def handle(stream: trio.SocketStream) -> None:
        conn = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        conn.initiate_connection()
        path, body = "", b""
        await stream.send_all(conn.data_to_send())
        while data := await stream.receive_some(65536):
            for event in conn.receive_data(bytes(data)):
                if isinstance(event, RequestReceived):
                    path = dict(event.headers)[":path"]
                elif isinstance(event, DataReceived):
                    body += event.data
                elif isinstance(event, StreamEnded):
                    assert (path, body) == ("/grpc.health.v1.Health/Check", b"\0\0\0\0\x08\n\x06orders")
                    conn.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
                    message = bytes([8, status]) if status else b""
                    conn.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message)
                    conn.send_headers(1, [("grpc-status", code)], end_stream=True)
            await stream.send_all(conn.data_to_send())

    return handle


@pytest.mark.parametrize(
    ("status", "code", "result", "says"),
    [
        (1, "0", PASS, "SERVING"),
        (2, "0", FAIL, "NOT_SERVING"),
        (0, "0", FAIL, "UNKNOWN"),
        (1, "12", FAIL, "grpc-status 12"),
    ],
)
async def test_a_grpc_server_tells_its_health(status: int, code: str, result: Result, says: str) -> None:
    async with serving(grpc_server(status, code)) as port:
        check = parse_check("x", {"kind": "grpc", "service": "orders"}, "127.0.0.1", port)
        found = await probe(check)
    assert (found.result, says in found.output) == (result, True), found


async def test_a_grpc_check_of_what_is_no_grpc_fails() -> None:
    async with serving(lambda stream: answer(stream, OK)) as port:
        found = await probe(parse_check("x", {"kind": "grpc"}, "127.0.0.1", port))
    assert found.result == FAIL
