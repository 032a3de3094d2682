"""TLS on the gateway's port: certificate and key from files, and the encrypted pipe.

The files are judged before they count: what the agent cannot use, or what others than it (and root) may read,
is refused with what to do. They are read again on SIGHUP; ones that are refused then leave the old ones in
use. OpenSSL does the protocol, over two buffers in memory (`ssl.SSLObject`): a pipe like any other.
"""

from __future__ import annotations

import os
import ssl
import stat

import trio

from mesh.agent.pipes import READ_BYTES, TcpPipe
from mesh.errors import ConfigError, Unreachable

HANDSHAKE_S = 10.0
_HANDSHAKE_RECORD = 0x16
_SAID = b'{"error":{"code":"usage","message":"this port speaks TLS","hint":"https:// in its place"}}\n'
PLAIN = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_SAID), _SAID)


def load(cert: str, key: str) -> ssl.SSLContext | None:
    """What a port needs to speak TLS; None if neither file is named.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    if not cert and not key:
        return None
    if not cert or not key:
        missing = "gateway.tls_key" if cert else "gateway.tls_cert"
        raise ConfigError(f"{missing} is not set", "certificate and key go together, as two PEM files")
    _check_pem("gateway.tls_cert", cert, b"-----BEGIN CERTIFICATE-----")
    _check_private(key)
    _check_pem("gateway.tls_key", key, b"PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    asked: list[bool] = []

    def password() -> str:
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(cert, key, password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _refused(cert, key, error, encrypted=bool(asked)) from None
    return context


def _refused(cert: str, key: str, error: Exception, *, encrypted: bool) -> ConfigError:
    if encrypted:
        return ConfigError(
            f"gateway.tls_key: {key} is encrypted",
            f"openssl pkey -in {key} -out PLAIN.pem; only the agent may read it",
        )
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return ConfigError(
            f"gateway.tls_key: {key} is not the key of the certificate {cert}",
            "the first certificate of the file must be the server's own",
        )
    return ConfigError(f"gateway.tls_cert, gateway.tls_key: {error}", "two PEM files that fit together")


def _check_pem(what: str, path: str, mark: bytes) -> None:
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError as error:
        raise ConfigError(f"{what}: {path}: {error.strerror}", "a PEM file that the agent may read") from None
    if mark not in data:
        raise ConfigError(f"{what}: {path} has no {mark.decode().strip('-')} in it", "a PEM file")


def _check_private(path: str) -> None:
    """A key is for the agent (and root) alone."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(f"gateway.tls_key: {path}: {error.strerror}", "a PEM file") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"gateway.tls_key: {path} is not a file")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"gateway.tls_key: others may use {path} (mode {mode:o})", f"chmod 600 {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"gateway.tls_key: {path} belongs to user {status.st_uid}", f"chown {os.geteuid()} {path}"
        )


class TlsPipe:
    """An encrypted connection on a plain one. `shake` first."""

    def __init__(self, pipe: TcpPipe, context: ssl.SSLContext) -> None:
        self._pipe = pipe
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._turn = trio.Lock()
        self._closed = False

    @property
    def remote(self) -> tuple[str, int]:
        """As of the plain one."""
        return self._pipe.remote

    async def shake(self) -> None:
        """Raises Unreachable: the other end speaks no TLS that we do, or not in time."""
        with trio.move_on_after(HANDSHAKE_S):
            first = await self._pipe.receive()
            if first and first[0] != _HANDSHAKE_RECORD:
                await self._pipe.send(PLAIN, last=True)
                raise Unreachable("the client does not speak TLS")
            self._feed(first)
            while True:
                try:
                    self._tls.do_handshake()
                    await self._flush()
                    return
                except ssl.SSLWantReadError:
                    await self._flush()
                    self._feed(await self._pipe.receive())
                except ssl.SSLError as error:
                    await self._flush()  # the alert that tells the client
                    raise Unreachable(f"no TLS with the client: {error.reason or error}") from None
        raise Unreachable(f"no TLS within {HANDSHAKE_S:g} s")

    def _feed(self, data: bytes) -> None:
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _flush(self) -> None:
        """Send what OpenSSL has written; in turns, because records must not change places."""
        async with self._turn:
            if data := self._out.read():
                await self._pipe.send(data)

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Send all of `data`. Raises Unreachable."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise Unreachable(f"the connection broke: {error.reason or error}") from None
        await self._flush()
        if last:
            await self.close()

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """What is there; b"" at the end. Raises Unreachable."""
        while True:
            try:
                data = self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                await self._flush()
                self._feed(await self._pipe.receive())
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise Unreachable(f"the connection broke: {error.reason or error}") from None
            else:
                await trio.lowlevel.checkpoint()
                return data

    async def close(self) -> None:
        """Close our direction, and say so in TLS: an answer that only its end ends is whole then."""
        if not self._closed:
            self._closed = True
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it waits for the other side's word, which we do not
            try:
                await self._flush()
            except Unreachable:
                pass
            await self._pipe.close()

    async def reset(self) -> None:
        """End both directions."""
        await self._pipe.reset()
