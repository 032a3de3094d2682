"""TLS on the gateway's port: files that are judged, bytes that go through, certificates that change."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from front import SECRET, Front, web

from mesh.agent import tls
from mesh.config import Gateway as Settings
from mesh.core import tokens
from mesh.errors import ConfigError


class Files:
    """A self-signed certificate and its key."""

    def __init__(self, folder: Path, name: str = "one", *, password: bytes = b"") -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.cert, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        self.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
        )
        self.key.chmod(0o600)

    def settings(self, **more: object) -> Settings:
        return msgspec.structs.replace(
            Settings(listen="0", tls_cert=str(self.cert), tls_key=str(self.key)), **more
        )

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cert))


# -- files ------------------------------------------------------------------------------------------------


def test_without_files_there_is_no_tls(tmp_path: Path) -> None:
    assert tls.load("", "") is None
    files = Files(tmp_path)
    assert tls.load(str(files.cert), str(files.key)) is not None


def refused(cert: object, key: object) -> str:
    with pytest.raises(ConfigError) as caught:
        tls.load(str(cert), str(key))
    assert caught.value.hint or "not a file" in caught.value.message
    return caught.value.message


def test_files_that_cannot_be_used_are_refused_and_named(tmp_path: Path) -> None:
    one, two = Files(tmp_path), Files(tmp_path, "two")
    locked = Files(tmp_path, "locked", password=b"secret")
    assert "tls_key is not set" in refused(one.cert, "")
    assert "tls_cert is not set" in refused("", one.key)
    assert "No such file" in refused(tmp_path / "none", one.key)
    assert "No such file" in refused(one.cert, tmp_path / "none")
    assert "is not a file" in refused(one.cert, tmp_path)
    assert "is not the key of" in refused(one.cert, two.key)
    assert "is encrypted" in refused(locked.cert, locked.key)
    assert "no BEGIN CERTIFICATE" in refused(one.key, one.key)
    (tmp_path / "bad").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    assert "gateway.tls_cert" in refused(tmp_path / "bad", one.key)
    assert "has no PRIVATE KEY" in refused(two.cert, _private(tmp_path / "text"))


def _private(path: Path) -> Path:
    path.write_text("x")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    files = Files(tmp_path)
    files.key.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:o}") as caught:
        tls.load(str(files.cert), str(files.key))
    assert caught.value.hint == f"chmod 600 {files.key}"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_key_that_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    os.chown(files.key, 12_345, -1)
    assert "belongs to user 12345" in refused(files.cert, files.key)


# -- bytes ------------------------------------------------------------------------------------------------


@pytest.fixture
async def secured(front: Front, tmp_path: Path) -> Secured:
    return Secured(front, Files(tmp_path))


class Secured:
    """A gateway with a certificate, in front of the program of `test_gateway.py`."""

    def __init__(self, front: Front, files: Files) -> None:
        self.front, self.files = front, files
        front.settings = files.settings()
        front.gateway.reload()

    async def connect(self, files: Files | None = None) -> trio.SSLStream[trio.SocketStream]:
        assert self.front.gateway.listening is not None
        tcp = await trio.open_tcp_stream(*self.front.gateway.listening)
        context = (files or self.files).trusted()
        stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def ask(self, head: str, body: bytes = b"", files: Files | None = None) -> bytes:
        bearer = f"Authorization: Bearer {tokens.text_of('a' * 12, SECRET)}\r\n"
        async with await self.connect(files) as stream:
            await stream.send_all(f"{head}\r\nHost: x\r\n{bearer}\r\n".encode() + body)
            return b"".join([part async for part in stream])


async def test_requests_and_answers_of_any_size_go_through(secured: Secured) -> None:
    front, body = secured.front, os.urandom(3_000_000)
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    said = await secured.ask(
        f"POST /orders/ HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(body)}", body
    )
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(body)
    assert b"x-forwarded-proto: https" in said.lower()


async def test_an_answer_that_its_end_ends_is_told_apart_from_one_that_was_cut(secured: Secured) -> None:
    front = secured.front
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    # trio raises BrokenResourceError where TLS does not say that this is the end.
    said = await secured.ask("GET /orders/stream HTTP/1.0")
    assert said.endswith(b"part 2\n")


async def test_an_upgrade_is_tied_through_both_ways(secured: Secured) -> None:
    front = secured.front
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    bearer = f"X-Token: {tokens.text_of('a' * 12, SECRET)}\r\n"
    async with await secured.connect() as stream:
        upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n"
        await stream.send_all(f"GET /orders/ws HTTP/1.1\r\nHost: x\r\n{bearer}{upgrade}\r\n".encode())
        said = b""
        while not said.endswith(b"\r\n\r\n"):
            said += await stream.receive_some()
        assert said.startswith(b"HTTP/1.1 101")
        sent, heard = os.urandom(500_000), b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, sent)
            while len(heard) < len(sent):
                heard += await stream.receive_some()
        assert heard == sent


async def test_a_client_that_speaks_no_tls_is_told(secured: Secured) -> None:
    said = await secured.front.get("/ping")
    assert said.startswith(b"HTTP/1.1 400")
    assert b"this port speaks TLS" in said
    assert secured.front.counters["gateway.tls_failed"] == 1


async def test_nonsense_and_silence_end(secured: Secured, autojump_clock: trio.testing.MockClock) -> None:
    assert (await secured.front.ask(b"\x16\x03\x01\xff\xff" + bytes(100)))[:1] in (b"", b"\x15")
    assert secured.front.gateway.listening is not None
    async with await trio.open_tcp_stream(*secured.front.gateway.listening) as silent:
        assert await silent.receive_some() == b""
    assert secured.front.counters["gateway.tls_failed"] == 2


async def test_a_new_certificate_counts_once_it_is_read_and_a_bad_one_does_not(
    secured: Secured, tmp_path: Path
) -> None:
    front, other = secured.front, Files(tmp_path, "other")
    kept = await secured.connect()
    front.settings = other.settings()
    front.gateway.reload()
    assert (await secured.ask("GET /ping HTTP/1.0", files=other)).endswith(b"pong\n")
    with pytest.raises(trio.BrokenResourceError):
        await secured.connect()
    other.key.chmod(0o644)
    front.gateway.reload()
    assert (await secured.ask("GET /ping HTTP/1.0", files=other)).endswith(b"pong\n")
    assert "others may use" in front.alarms[-1]
    other.key.chmod(0o600)
    front.gateway.reload()
    assert front.alarms[-1] == ""
    await kept.send_all(b"GET /ping HTTP/1.0\r\n\r\n")
    assert (await kept.receive_some()).startswith(b"HTTP/1.1 200")
    await kept.aclose()


async def test_an_agent_does_not_start_with_files_that_cannot_be_used(front: Front, tmp_path: Path) -> None:
    front.settings = Settings(listen="0", tls_cert=str(tmp_path / "none"), tls_key=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="tls_cert"):
        front.gateway.check()
