"""The socket file, and who may connect."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mesh.admin import door
from mesh.admin.memory import Features, running
from mesh.errors import ConfigError, Conflict, Denied


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "admin.sock")


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_socket_is_for_its_owner_alone(path: str) -> None:
    with door.open_socket(path):
        assert mode_of(path) == 0o600


def test_a_group_makes_it_readable_for_that_group(path: str) -> None:
    with door.open_socket(path, group=os.getegid()):
        assert mode_of(path) == 0o660


def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "meshd" / "admin.sock")
    with door.open_socket(path):
        assert mode_of(str(tmp_path / "run" / "meshd")) == 0o700


def test_a_stale_socket_is_replaced(path: str) -> None:
    door.open_socket(path).close()
    assert os.path.exists(path)
    with door.open_socket(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_living_socket_is_not_replaced(path: str) -> None:
    with door.open_socket(path), pytest.raises(Conflict, match="already answers"):
        door.open_socket(path)


def test_a_link_in_the_place_of_the_socket_is_refused(path: str, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(Denied, match="symbolic link"):
        door.open_socket(path)


def test_a_file_in_the_place_of_the_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(Denied, match="no socket"):
        door.open_socket(path)
    assert Path(path).read_text() == "precious"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(Denied, match="others may write"):
        door.open_socket(str(directory / "admin.sock"))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_of_another_group_that_may_write_it_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    os.chown(directory, -1, 4321)
    directory.chmod(0o770)
    with pytest.raises(Denied, match="others may write"):
        door.open_socket(str(directory / "admin.sock"))
    door.open_socket(str(directory / "admin.sock"), group=4321).close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir()
    os.chown(directory, 4321, -1)
    with pytest.raises(Denied, match="belongs to user 4321"):
        door.open_socket(str(directory / "admin.sock"))


def test_a_path_too_long_for_a_socket_is_refused_with_its_length(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 120))
    with pytest.raises(ConfigError, match=str(len(path))):
        door.open_socket(path)


def test_an_unknown_group_is_refused_by_name() -> None:
    assert door.group_id("") is None
    with pytest.raises(ConfigError, match="no-such-group"):
        door.group_id("no-such-group")


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = door.peer_of(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert os.getegid() in peer.gids
    assert set(os.getgroups()) <= peer.gids


def test_owner_and_root_may_enter_and_others_only_by_the_group() -> None:
    def peer(uid: int, *gids: int) -> door.Peer:
        return door.Peer(1, uid, frozenset(gids))

    assert door.may_enter(peer(1000), owner=1000, group=None)
    assert door.may_enter(peer(0), owner=1000, group=None)
    assert not door.may_enter(peer(1001, 50), owner=1000, group=None)
    assert not door.may_enter(peer(1001, 51), owner=1000, group=50)
    assert door.may_enter(peer(1001, 49, 50), owner=1000, group=50)


def test_many_groups_of_a_peer_are_all_seen() -> None:
    class Socket:
        def getsockopt(self, level: int, optname: int, buflen: int) -> bytes:
            if optname == socket.SO_PEERCRED:
                return struct.pack("=iII", 7, 1000, 100)
            if buflen < 4 * 200:
                raise OSError(34, "ERANGE")
            return struct.pack("=200I", *range(200))

    assert door.peer_of(Socket()).gids == frozenset(range(200))


ASK_AS = """
import os, socket, sys
os.setgroups([int(sys.argv[3])]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /v1/version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print(s.recv(12).decode())
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_refused_even_where_the_file_lets_them_in() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        os.chmod(directory, 0o711)
        with running(Features(), f"{directory}/admin.sock") as path:
            os.chmod(path, 0o666)

            def status(uid: int, gid: int) -> str:
                command = [sys.executable, "-c", ASK_AS, path, str(uid), str(gid)]
                done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
                return done.stdout.strip()

            assert status(65534, 65534) == "HTTP/1.1 403"
            assert status(0, 0) == "HTTP/1.1 200"


def test_a_group_that_cannot_enter_the_sockets_directory_is_told_of(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(door, "group_id", lambda name: 12_345 if name else None)
    shut = tmp_path / "data"
    shut.mkdir(mode=0o700)
    assert f"cannot enter {shut}" in door.group_fault(str(shut / "admin.sock"), "helpers")
    assert door.group_fault(str(shut / "admin.sock"), "") == ""
    assert door.group_fault("/run/to-be-made/admin.sock", "helpers") == ""
