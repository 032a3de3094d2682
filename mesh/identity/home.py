"""The data directory: everything that makes this device this node. Mode 0700, made whole or not at all.

    node.key        the node's key (0600)
    root.key        where the mesh was made: the root key, to be moved to a safe place (0600)
    mesh.json       which mesh, and what this node says of itself: labels, addresses to try first
    cert            the certificate chain, replaced when it is renewed
    authority       an admin's chain that lets it certify others; absent on other nodes
    store/          the replicated state (mesh/store)

A new directory is built beside its place, synced, and renamed into it. Where that cannot be (a mount
point, a parent that is not ours) it is built in a subdirectory and moved file by file, `mesh.json` last:
without that file a directory holds no node, and what an interrupted creation left is cleared by the next.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mesh.errors import Denied, MeshError, PeerError, StoreError, UsageError
from mesh.identity import certs, files, invites
from mesh.identity.certs import ADMIN, MEMBER, Certificate, LinkKind, MeshIdentity
from mesh.identity.keys import NodeKey, encode_key, load_key

NODE_KEY, ROOT_KEY, MESH_FILE, CERT, AUTHORITY = "node.key", "root.key", "mesh.json", "cert", "authority"
STORE_DIRECTORY = "store"
FORMAT = 1
LABELS_MAX = 32
LABEL_CHARS_MAX = 128
_TEMPORARY = ".new-"
_IGNORED = {"lost+found"}


class Home(msgspec.Struct):
    """An opened data directory.

    Attributes:
        labels: the node's own words, written at `init` or `join`.
        seeds: multiaddrs from the invite.
        authority: the chain with which this node certifies others, or None.
    """

    path: Path
    key: NodeKey
    mesh: MeshIdentity
    cert: Certificate
    authority: Certificate | None
    labels: dict[str, str]
    seeds: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.cert.name

    @property
    def cert_chain(self) -> bytes:
        return self.cert.data

    @property
    def store(self) -> Path:
        return self.path / STORE_DIRECTORY

    def root_key(self) -> NodeKey | None:
        """The root key if it is still here.

        Raises:
            Denied, StoreError: it is, but open to others or damaged.
        """
        path = self.path / ROOT_KEY
        return load_key(path) if path.exists() else None

    def replace_certificate(self, chain: bytes) -> None:
        """Keep a renewed certificate.

        Raises:
            PeerError: it is not a certificate of this node in this mesh.
            StoreError: it cannot be written; the old one is kept.
        """
        cert = _own(certs.verify_chain(chain, self.mesh), self.key)
        files.replace(self.path / CERT, chain)
        self.cert = cert

    def replace_authority(self, chain: bytes) -> None:
        """Keep the right to certify others, given or renewed by another admin. Raises as above."""
        authority = _own(certs.verify_chain(chain, self.mesh, LinkKind.AUTHORITY), self.key)
        files.replace(self.path / AUTHORITY, chain)
        self.authority = authority


def create_mesh(
    data_dir: str | os.PathLike[str],
    name: str,
    mesh: str,
    *,
    now_ms: int,
    zone: str = certs.DEFAULT_ZONE,
    tier: str = "",
    labels: Mapping[str, str] | None = None,
    life_ms: int = certs.MEMBER_DAYS * certs.DAY_MS,
) -> Home:
    """Make a mesh: its root key, this node's key, its authority as an admin and its certificate.

    Raises:
        UsageError: a name, label or zone is not allowed.
        StoreError: the directory is used already, or cannot be written; nothing is left behind.
    """
    certs.check_word("the mesh's name", mesh)
    certs.check_word("the node's name", name)
    certs.check_word("the zone", zone)
    if tier:
        certs.check_word("the tier", tier)
    labels = check_labels(labels or {})
    root, key = NodeKey.generate(), NodeKey.generate()
    identity = MeshIdentity.of(root.public, mesh)
    authority = authorise(root, None, identity, key.public, name, now_ms)
    chain = certs.issue(
        root,
        None,
        identity,
        public=key.public,
        name=name,
        roles=(ADMIN, MEMBER),
        zone=zone,
        tier=tier,
        nbf_ms=now_ms,
        exp_ms=now_ms + life_ms,
    )
    content = {
        ROOT_KEY: encode_key(root),
        NODE_KEY: encode_key(key),
        CERT: chain,
        AUTHORITY: authority,
        MESH_FILE: _mesh_file(identity, labels, ()),
    }
    return open_home(_build(Path(data_dir), content))


def join_mesh(
    data_dir: str | os.PathLike[str],
    token: str,
    name: str,
    *,
    now_ms: int,
    zone: str | None = None,
    tier: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Home:
    """Enrol this device from an invite, offline. Members have the last word at the first contact.

    Raises:
        UsageError: the token is damaged, or a name or label is not allowed.
        Denied: the invite expired or does not admit this zone or tier.
        StoreError: as `create_mesh`.
    """
    invite = invites.parse(token)
    merged = check_labels({**(labels or {}), **invite.terms.labels})
    key = NodeKey.generate()
    chain = invites.use(invite, key, name=name, now_ms=now_ms, zone=zone, tier=tier)
    content = {
        NODE_KEY: encode_key(key),
        CERT: chain,
        MESH_FILE: _mesh_file(invite.mesh, merged, invite.addresses),
    }
    return open_home(_build(Path(data_dir), content))


def authorise(
    signer: NodeKey, parent: bytes | None, mesh: MeshIdentity, public: bytes, name: str, now_ms: int
) -> bytes:
    """Sign an admin's right to certify others: as long as its issuer's, ended only by removal.

    Args:
        parent: the signer's own authority, None when the root key signs.
    """
    above = certs.verify_chain(parent, mesh, LinkKind.AUTHORITY) if parent else None
    nbf_ms = max(now_ms, above.nbf_ms) if above else now_ms
    return certs.issue(
        signer,
        parent,
        mesh,
        public=public,
        name=name,
        roles=(ADMIN,),
        kind=LinkKind.AUTHORITY,
        nbf_ms=nbf_ms,
        exp_ms=above.exp_ms if above else nbf_ms + certs.AUTHORITY_DAYS * certs.DAY_MS,
    )


def open_home(data_dir: str | os.PathLike[str]) -> Home:
    """Open a data directory.

    Raises:
        StoreError: it holds no node, or is damaged; the message names the file.
        Denied: the directory is writable, or a key readable, by others.
    """
    path = Path(data_dir).resolve()
    try:
        mode = path.stat().st_mode & 0o777
        raw = (path / MESH_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"there is no node in {path}", "make a mesh with `meshd init` or join one with `meshd join`"
        ) from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", "run as the user that owns it") from None
    if mode & 0o022:
        raise Denied(
            f"the data directory {path} is writable by others (mode {mode:04o})", f"chmod 700 {path}"
        )
    mesh, labels, seeds = _read_mesh_file(path / MESH_FILE, raw)
    key = load_key(path / NODE_KEY)
    cert = _read_chain(path / CERT, mesh, key, LinkKind.NODE)
    authority = None
    if (path / AUTHORITY).exists():
        authority = _read_chain(path / AUTHORITY, mesh, key, LinkKind.AUTHORITY)
    return Home(path, key, mesh, cert, authority, labels, seeds)


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A node's labels, sorted: keys are words as names are, values at most 128 printable characters.

    Raises:
        UsageError: naming the label that is not allowed.
    """
    for key, value in labels.items():
        certs.check_word("the label", key)
        if len(value) > LABEL_CHARS_MAX or not value.isprintable():
            raise UsageError(
                f"the label {key} has a value that is not allowed: {value[:80]!r}",
                f"at most {LABEL_CHARS_MAX} printable characters",
            )
    if len(labels) > LABELS_MAX:
        raise UsageError(f"{len(labels)} labels are too many", f"at most {LABELS_MAX}")
    return dict(sorted(labels.items()))


def _own(cert: Certificate, key: NodeKey) -> Certificate:
    if cert.public != key.public:
        raise PeerError(f"the certificate is that of {cert.peer_id}, not of this node")
    return cert


def _mesh_file(mesh: MeshIdentity, labels: Mapping[str, str], seeds: tuple[str, ...]) -> bytes:
    document = {
        "format": FORMAT,
        "mesh": {"id": mesh.mesh_id.hex(), "name": mesh.name, "root": mesh.root_public.hex()},
        "node": {"labels": dict(labels), "seeds": list(seeds)},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _read_mesh_file(path: Path, raw: bytes) -> tuple[MeshIdentity, dict[str, str], tuple[str, ...]]:
    try:
        document: Any = msgspec.json.decode(raw)
        version = document["format"]
        mesh = MeshIdentity.of(bytes.fromhex(document["mesh"]["root"]), document["mesh"]["name"])
        labels = msgspec.convert(document["node"]["labels"], dict[str, str])
        seeds = msgspec.convert(document["node"]["seeds"], tuple[str, ...])
        if mesh.mesh_id.hex() != document["mesh"]["id"] or not certs.word_ok(mesh.name):
            raise ValueError
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError):
        raise StoreError(f"{path} is damaged", "restore it from a backup, or join again elsewhere") from None
    if version != FORMAT:
        raise StoreError(f"{path} has format {version}, this version knows {FORMAT}", "upgrade mesh")
    return mesh, labels, seeds


def _read_chain(path: Path, mesh: MeshIdentity, key: NodeKey, kind: LinkKind) -> Certificate:
    try:
        with open(path, "rb") as file:
            data = file.read(certs.CHAIN_BYTES_MAX + 1)
        return _own(certs.verify_chain(data, mesh, kind), key)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", "restore it from a backup") from None
    except PeerError as error:
        raise StoreError(f"{path} is not valid: {error.message}", "restore it from a backup") from None


def _build(data_dir: Path, content: Mapping[str, bytes]) -> Path:
    """Create the directory with these files, or leave everything as it was. Returns its real path."""
    data_dir = data_dir.absolute()
    try:
        data_dir = data_dir.resolve()
        _refuse_used(data_dir)
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        if not _build_beside(data_dir, content):
            _build_inside(data_dir, content)
    except MeshError:
        raise
    except OSError as error:
        raise StoreError(
            f"{data_dir} cannot be made: {error.strerror}", "choose another place with --data-dir"
        ) from None
    return data_dir


def _refuse_used(data_dir: Path) -> set[str]:
    """Raise StoreError if the directory is in use; returns what an interrupted creation left there."""
    if not data_dir.exists():
        return set()
    names = {entry.name for entry in data_dir.iterdir()} - _IGNORED
    left = {name for name in names if name.startswith(_TEMPORARY)}
    if left and MESH_FILE not in names:
        left |= names & {NODE_KEY, ROOT_KEY, CERT, AUTHORITY}
        names -= left
    if names:
        what = "holds a node already" if MESH_FILE in names else f"is not empty ({min(names)})"
        raise StoreError(f"the data directory {data_dir} {what}", "choose another place with --data-dir")
    return left


def _fill(directory: Path, content: Mapping[str, bytes]) -> None:
    for name, data in content.items():
        files.write_new(directory / name, data)
    files.sync_directory(directory)


def _build_beside(data_dir: Path, content: Mapping[str, bytes]) -> bool:
    """Build beside and rename. False when only the directory itself can be written to."""
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{data_dir.name}{_TEMPORARY}", dir=data_dir.parent))
    except OSError:
        if data_dir.is_dir():
            return False
        raise
    try:
        _fill(temporary, content)
        os.rename(temporary, data_dir)  # replaces an empty directory and nothing else
        files.sync_directory(data_dir.parent)
        return True
    except OSError as error:
        if error.errno in (
            errno.ENOTEMPTY,
            errno.EEXIST,
            errno.EBUSY,
            errno.EXDEV,
            errno.EACCES,
            errno.EPERM,
        ):
            return False
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _build_inside(data_dir: Path, content: Mapping[str, bytes]) -> None:
    """Build in a subdirectory and move file by file, the one that makes it a node last."""
    lock = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two creations at once: the second finds the first one's node
        for name in _refuse_used(data_dir):
            path = data_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.chmod(data_dir, 0o700)
        _move_in(Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=data_dir)), data_dir, content)
    finally:
        os.close(lock)


def _move_in(temporary: Path, data_dir: Path, content: Mapping[str, bytes]) -> None:
    moved: list[Path] = []
    try:
        _fill(temporary, content)
        for name in sorted(content, key=lambda name: name == MESH_FILE):
            os.rename(temporary / name, data_dir / name)
            moved.append(data_dir / name)
        files.sync_directory(data_dir)
    except BaseException:
        for path in reversed(moved):
            path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
