"""The parts of py-libp2p that a node uses, loaded without the rest.

`import libp2p` runs package files that pull in everything py-libp2p can do: QUIC, TLS, WebSocket, DHT,
Bitswap, mDNS, UPnP, an HTTP client, Prometheus: 1,300 modules, 0.6 s, 88 MiB resident. A node speaks
TCP + Noise + Yamux and needs of it the keys, the peer ids and the Noise handshake. They import cleanly
once two things are arranged, for the time of this import only:

- HOLLOW packages: found where they are, but their `__init__` (nothing but re-exports) is not run;
- ABSENT modules: named in type annotations, as base classes or for keys nobody here has. A stand-in
  takes their place whose every attribute is an empty class that refuses to be used.

This leans on how version 0.8.1 is laid out, so that version is pinned. Should it not work, the plain
import takes over, with a warning: the same objects, only later and larger.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

HOLLOW = ("libp2p", "libp2p.security", "libp2p.transport", "libp2p.utils")
ABSENT = (
    "libp2p.crypto.rsa",  # pycryptodome; our identities are Ed25519 and no other is admitted
    "libp2p.crypto.secp256k1",  # coincurve
    "libp2p.pubsub",  # never run here: one malformed message ends the host
    "libp2p.tools",  # a service manager on anyio, base class of the network we do not use
    "libp2p.transport.quic",  # aioquic and pyOpenSSL
)
_logger = logging.getLogger("mesh.net")


class _Unused:
    """Stands for a class that is never used."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.from_bytes(b"")

    @classmethod
    def from_bytes(cls, _data: bytes) -> NoReturn:
        raise ValueError("this part of libp2p is not loaded: only Ed25519, TCP, Noise and Yamux are spoken")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Unused,), {}) if name[0].isupper() else _StandIn(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for HOLLOW and ABSENT names, and lets the import system find all others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in HOLLOW:
            found = importlib.machinery.PathFinder.find_spec(fullname, path)
            if found is None:
                return None
            spec = importlib.machinery.ModuleSpec(fullname, self, origin=found.origin, is_package=True)
            spec.submodule_search_locations = found.submodule_search_locations
            return spec
        if any(fullname == name or fullname.startswith(name + ".") for name in ABSENT):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None if spec.name in HOLLOW else _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "libp2p.utils":
            # Its submodules are imported by name elsewhere; only the varint helpers are wanted from here.
            varint = importlib.import_module("libp2p.utils.varint")
            module.__dict__.update(
                (name, value) for name, value in vars(varint).items() if not name.startswith("_")
            )


def _forget_libp2p() -> None:
    for name in [name for name in sys.modules if name == "libp2p" or name.startswith("libp2p.")]:
        del sys.modules[name]


def _load() -> tuple[Any, ...]:
    names = (
        "libp2p.crypto.ed25519",
        "libp2p.crypto.x25519",
        "libp2p.peer.id",
        "libp2p.security.noise.patterns",
        "libp2p.security.noise.exceptions",
    )
    modules: tuple[Any, ...] = tuple(importlib.import_module(name) for name in names)
    keys, noise_keys, ids, patterns, _ = modules
    pair = keys.create_new_key_pair(bytes(32))
    me = ids.ID.from_pubkey(pair.public_key)
    patterns.PatternXX(me, pair.private_key, noise_keys.create_new_key_pair().private_key)
    if not me.to_bytes().startswith(bytes.fromhex("002408011220")):
        raise ImportError("peer ids are not what they should be")
    return modules


def load() -> tuple[Any, ...]:
    """The modules named in `_load`, by the light way or else by the plain one."""
    if "libp2p" in sys.modules:
        return _load()
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        return _load()
    except Exception as error:
        _logger.warning("libp2p is loaded whole, for the light import failed: %s", error)
    finally:
        sys.meta_path.remove(finder)
    _forget_libp2p()
    return _load()


_ed25519, _x25519, _id, _patterns, _exceptions = load()


class _Quieter(logging.Handler):
    """py-libp2p reports ordinary failed dials as errors; what matters of it reaches us as exceptions."""

    def emit(self, record: logging.LogRecord) -> None:
        _logger.debug("libp2p: %s", record.getMessage())


_libp2p_logger = logging.getLogger("libp2p")
_libp2p_logger.handlers = [_Quieter()]
_libp2p_logger.propagate = False
_libp2p_logger.setLevel(logging.WARNING)

PeerId = _id.ID
Pattern = _patterns.PatternXX
WrongPeer = _exceptions.PeerIDMismatchesPubkey
new_identity = _ed25519.create_new_key_pair
new_noise_key = _x25519.create_new_key_pair
