"""The socket file: where it may lie, and who may connect.

Whoever can write the socket's directory can put another socket in its place and be asked in our stead, so a
directory that others may write is refused, sticky ones such as /tmp too. The file is bound, given its mode
and only then listened on, so that nobody slips in between. Beyond the file's mode every connection is
judged by what the kernel says of its other end (SO_PEERCRED, SO_PEERGROUPS): the owner, root, or a member
of the configured group.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import NamedTuple, Protocol

from mesh.errors import ConfigError, Conflict, Denied, StoreError
from mesh.places import SOCKET_PATH_BYTES_MAX

BACKLOG = 128
_SO_PEERGROUPS = 59
_CREDENTIALS = struct.Struct("=iII")
_GROUPS_MAX = 65_536


class _Socket(Protocol):
    def getsockopt(self, level: int, optname: int, buflen: int) -> bytes: ...


class Peer(NamedTuple):
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int
    gids: frozenset[int]


def group_id(name: str) -> int | None:
    """The number of a group, or None for the empty name.

    Raises:
        ConfigError: there is no such group.
    """
    if not name:
        return None
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"admin.group = {name!r}: there is no such group", f"create it: groupadd {name}"
        ) from None


def shut_out(path: str, group: int) -> str | None:
    """The directory above a socket that members of the group cannot enter, or None."""
    directory = os.path.dirname(os.path.abspath(path))
    while True:
        try:
            found = os.stat(directory)
        except OSError:
            pass  # it will be made, for the group
        else:
            ours = stat.S_IXGRP if found.st_gid == group else stat.S_IXOTH
            if not found.st_mode & ours:
                return directory
        if directory == "/":
            return None
        directory = os.path.dirname(directory)


def group_fault(path: str, name: str) -> str:
    """Why a group that may use the socket cannot reach it, and what to do; empty if it can.

    Raises:
        ConfigError: there is no such group.
    """
    group = group_id(name)
    directory = None if group is None else shut_out(path, group)
    if directory is None:
        return ""
    return (
        f"admin.group = {name!r}: that group cannot enter {directory}, so it does not reach the admin socket"
        f" {path}; set admin.socket to a place outside, e.g. /run/meshd/admin.sock"
    )


def open_socket(path: str, *, group: int | None = None) -> socket.socket:
    """Bind and listen; a stale socket is replaced.

    Args:
        path: absolute path; its directory is made (0700, with a group 0710) when missing.
        group: id of a group that may connect as well: the socket is then 0660 instead of 0600.

    Raises:
        ConfigError: the path is too long for a unix socket.
        Denied: the place is unsafe, or not ours to write.
        Conflict: another agent answers there.
        StoreError: the file system refuses.
    """
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"the admin socket's path has {size} bytes, a unix socket's path may have"
            f" {SOCKET_PATH_BYTES_MAX}: {path}",
            "choose a shorter one with admin.socket, or a shorter data directory",
        )
    try:
        _make_directory(os.path.dirname(path), group)
        _check_directory(os.path.dirname(path), group)
        _clear(path)
        return _bind(path, group)
    except PermissionError as error:
        raise Denied(
            f"cannot make the admin socket {path}: {error.strerror}",
            "choose a place that this user may write with admin.socket",
        ) from error
    except OSError as error:
        raise StoreError(f"cannot make the admin socket {path}: {error.strerror or error}") from error


def _make_directory(directory: str, group: int | None) -> None:
    if os.path.isdir(directory):
        return
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    os.mkdir(directory, 0o700)
    if group is not None:
        os.chown(directory, -1, group)
        os.chmod(directory, 0o710)


def _check_directory(directory: str, group: int | None) -> None:
    found = os.stat(directory)
    if found.st_uid not in (0, os.geteuid()):
        raise Denied(
            f"{directory} belongs to user {found.st_uid}, who could replace the admin socket in it",
            f"chown it, or choose another place with admin.socket: {directory}",
        )
    trusted = {os.getegid(), 0, *(() if group is None else (group,))}
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid not in trusted):
        raise Denied(
            f"others may write {directory} (mode {stat.S_IMODE(found.st_mode):04o}) and could replace the"
            " admin socket in it",
            f"chmod go-w {directory}, or choose another place with admin.socket",
        )


def _clear(path: str) -> None:
    """Remove what a dead agent left behind; refuse to touch anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise Denied(f"the admin socket {path} is a symbolic link", f"remove it: rm {path}")
    if not stat.S_ISSOCK(mode):
        raise Denied(f"{path} exists and is no socket", "move it away, or choose another admin.socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass  # its backlog is full, so somebody listens
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    raise Conflict(f"an agent already answers on {path}", "stop it, or give this one another admin.socket")


def _bind(path: str, group: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        try:
            if group is not None:
                os.chown(path, -1, group)
            os.chmod(path, 0o600 if group is None else 0o660)
            sock.listen(BACKLOG)
        except BaseException:
            os.unlink(path)
            raise
    except BaseException:
        sock.close()
        raise
    return sock


def peer_of(sock: _Socket) -> Peer:
    """Who is at the other end of a connected unix socket."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * 64)
    except OSError as error:
        if error.errno != errno.ERANGE:  # older kernels: only the primary group is known
            return Peer(pid, uid, frozenset({gid}))
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"={len(groups) // 4}I", groups)}))


def may_enter(peer: Peer, *, owner: int, group: int | None) -> bool:
    """Whether this peer may use the admin socket of `owner`."""
    return peer.uid in (0, owner) or (group is not None and group in peer.gids)
