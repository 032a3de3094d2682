"""The data directory: whole or not at all, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from mesh.errors import Denied, PeerError, StoreError, UsageError
from mesh.identity import certs, home, invites
from mesh.identity.certs import ADMIN, DAY_MS, MEMBER, LinkKind

NOW_MS = 1_800_000_000_000


def tree(path):
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


def token_for(first, **terms):
    fields = {"exp_ms": NOW_MS + DAY_MS, **terms}
    invite = invites.create(
        first.key, first.authority.data, first.mesh, certs.Terms(**fields), nbf_ms=NOW_MS, addresses=["/a/1"]
    )
    return invites.token_of(invite)


@pytest.fixture
def first(tmp_path):
    return home.create_mesh(tmp_path / "first", "laptop", "house", now_ms=NOW_MS, labels={"b": "2", "a": "1"})


def test_the_first_node_is_an_admin_with_everything_it_needs(first, tmp_path):
    assert tree(tmp_path / "first") == ["authority", "cert", "mesh.json", "node.key", "root.key"]
    assert (first.name, first.mesh.name, first.labels) == ("laptop", "house", {"a": "1", "b": "2"})
    assert first.cert.roles == (ADMIN, MEMBER)
    assert first.cert.exp_ms - first.cert.nbf_ms == 90 * DAY_MS
    assert first.authority.kind == LinkKind.AUTHORITY
    assert first.root_key().public == first.mesh.root_public
    for path, mode in (
        (first.path, 0o700),
        (first.path / "node.key", 0o600),
        (first.path / "root.key", 0o600),
    ):
        assert path.stat().st_mode & 0o777 == mode


def test_a_home_opens_as_it_was_made(first):
    assert home.open_home(first.path) == first


def test_the_root_key_may_be_moved_away(first, tmp_path):
    (first.path / "root.key").rename(tmp_path / "safe.key")
    assert home.open_home(first.path).root_key() is None


def test_a_device_joins_from_a_token_alone(first, tmp_path):
    token = token_for(first, zone="attic", labels={"site": "home"})
    joined = home.join_mesh(tmp_path / "second", token, "pump", now_ms=NOW_MS, labels={"colour": "red"})
    assert tree(tmp_path / "second") == ["cert", "mesh.json", "node.key"]
    assert joined.mesh == first.mesh
    assert (joined.name, joined.cert.zone, joined.seeds) == ("pump", "attic", ("/a/1",))
    assert joined.labels == {"colour": "red", "site": "home"}
    assert joined.authority is None
    assert joined.root_key() is None
    assert home.open_home(tmp_path / "second") == joined


def test_a_used_directory_is_refused_and_untouched(first, tmp_path):
    before = {path: (first.path / path).read_bytes() for path in tree(first.path)}
    with pytest.raises(StoreError, match="holds a node already"):
        home.create_mesh(first.path, "again", "house", now_ms=NOW_MS)
    with pytest.raises(StoreError, match="holds a node already"):
        home.join_mesh(first.path, token_for(first), "again", now_ms=NOW_MS)
    assert {path: (first.path / path).read_bytes() for path in tree(first.path)} == before
    assert tree(tmp_path) == ["first", *(f"first/{name}" for name in before)]


def test_a_directory_with_someone_elses_files_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "holiday.jpg").touch()
    with pytest.raises(StoreError, match=r"is not empty \(holiday\.jpg\)"):
        home.create_mesh(tmp_path / "d", "laptop", "house", now_ms=NOW_MS)
    assert tree(tmp_path) == ["d", "d/holiday.jpg"]


def test_an_empty_directory_is_taken_and_closed_to_others(tmp_path):
    (tmp_path / "d").mkdir(mode=0o755)
    made = home.create_mesh(tmp_path / "d", "laptop", "house", now_ms=NOW_MS)
    assert made.path.stat().st_mode & 0o777 == 0o700


def test_a_mount_point_with_lost_and_found_is_filled_in_place(tmp_path):
    (tmp_path / "d" / "lost+found").mkdir(parents=True)
    made = home.create_mesh(tmp_path / "d", "laptop", "house", now_ms=NOW_MS)
    assert tree(made.path) == ["authority", "cert", "lost+found", "mesh.json", "node.key", "root.key"]
    assert made.path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(StoreError, match="holds a node already"):
        home.create_mesh(tmp_path / "d", "laptop", "house", now_ms=NOW_MS)


def test_a_link_to_a_directory_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made = home.create_mesh(tmp_path / "link", "laptop", "house", now_ms=NOW_MS)
    assert made.path == tmp_path / "real"
    assert home.open_home(tmp_path / "link").key == made.key


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a b"},
        {"mesh": "../x"},
        {"zone": ""},
        {"tier": "é"},
        {"labels": {"a b": "c"}},
        {"labels": {"a": "\x1b[31m"}},
        {"labels": {"a": "x" * 200}},
        {"labels": {f"l{n}": "" for n in range(33)}},
    ],
)
def test_what_is_not_allowed_leaves_nothing_behind(tmp_path, change):
    fields = {"name": "laptop", "mesh": "house", **change}
    with pytest.raises(UsageError):
        home.create_mesh(tmp_path / "d", now_ms=NOW_MS, **fields)
    assert tree(tmp_path) == []


def test_a_failed_join_leaves_nothing_behind(first, tmp_path):
    token = token_for(first, zone="attic")
    for changes, error in (
        ({"token": token[:-3] + "AAA"}, UsageError),
        ({"now_ms": NOW_MS + 9 * DAY_MS}, Denied),
        ({"zone": "cellar"}, Denied),
        ({"name": ""}, UsageError),
    ):
        with pytest.raises(error):
            home.join_mesh(
                **{"data_dir": tmp_path / "d", "token": token, "name": "pump", "now_ms": NOW_MS, **changes}
            )
    assert not (tmp_path / "d").exists()


def test_a_parent_that_is_a_file_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        home.create_mesh(tmp_path / "file" / "d", "laptop", "house", now_ms=NOW_MS)
    with pytest.raises(StoreError):
        home.create_mesh(tmp_path / "file", "laptop", "house", now_ms=NOW_MS)
    with pytest.raises(StoreError):
        home.open_home(tmp_path / "file")


INTERRUPT = textwrap.dedent(
    """
    import os, resource, sys
    from mesh.identity import home
    how, count, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    left = count
    def step(real):
        def call(*args, **kwargs):
            global left
            left -= 1
            if left < 0:
                os._exit(9)
            return real(*args, **kwargs)
        return call
    if how == "die":
        for name in ("rename", "link", "fsync", "open", "chmod", "fchmod"):
            setattr(os, name, step(getattr(os, name)))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
    try:
        home.create_mesh(path, "laptop", "house", now_ms=1_800_000_000_000)
    except home.StoreError:
        os._exit(1)
    os._exit(0)
    """
)


def interrupted(how, count, path):
    return subprocess.run(
        [sys.executable, "-c", INTERRUPT, how, str(count), str(path)], check=False, timeout=60
    ).returncode


@pytest.mark.parametrize("in_place", [False, True])
def test_a_creation_that_dies_anywhere_leaves_a_whole_node_or_can_be_repeated(tmp_path, in_place):
    for count in range(0, 200, 6):
        path = tmp_path / f"d{count}"
        if in_place:
            (path / "lost+found").mkdir(parents=True)
        code = interrupted("die", count, path)
        if not (path / "mesh.json").exists():
            assert code == 9
            with pytest.raises(StoreError, match="there is no node"):
                home.open_home(path)
            home.create_mesh(path, "laptop", "house", now_ms=NOW_MS)
        home.open_home(path)
        names = {name for name in os.listdir(path) if not name.startswith(".new-")} - {"lost+found"}
        assert names == {"authority", "cert", "mesh.json", "node.key", "root.key"}
        if code == 0:
            break
    else:
        pytest.fail("the creation never came to its end: more steps to try")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path, in_place):
    path = tmp_path / "d"
    if in_place:
        (path / "lost+found").mkdir(parents=True)
    before = tree(tmp_path)
    for size in (0, 10, 100, 200):
        assert interrupted("full", size, path) == 1
        assert tree(tmp_path) == before


def test_a_directory_writable_by_others_is_refused(first):
    first.path.chmod(0o770)
    with pytest.raises(Denied, match="writable by others"):
        home.open_home(first.path)


def test_a_key_readable_by_others_is_refused(first):
    (first.path / "node.key").chmod(0o644)
    with pytest.raises(Denied, match="0644"):
        home.open_home(first.path)


@pytest.mark.parametrize("name", ["mesh.json", "cert", "authority", "node.key"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 50, b"[" * 2000])
def test_a_damaged_file_is_named(first, name, content):
    (first.path / name).write_bytes(content)
    with pytest.raises(StoreError) as caught:
        home.open_home(first.path)
    assert name in caught.value.message
    assert caught.value.hint


def test_a_missing_certificate_is_named(first):
    (first.path / "cert").unlink()
    with pytest.raises(StoreError, match="cert"):
        home.open_home(first.path)


def test_another_nodes_certificate_is_refused(first, tmp_path):
    joined = home.join_mesh(tmp_path / "second", token_for(first), "pump", now_ms=NOW_MS)
    (joined.path / "cert").write_bytes(first.cert.data)
    with pytest.raises(StoreError, match="not of this node"):
        home.open_home(joined.path)
    with pytest.raises(PeerError, match="not of this node"):
        joined.replace_certificate(first.cert.data)


def test_a_newer_format_is_not_guessed_at(first):
    text = (first.path / "mesh.json").read_text()
    (first.path / "mesh.json").write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreError, match="format 2"):
        home.open_home(first.path)


def test_a_renewed_certificate_and_an_authority_are_kept(first, tmp_path):
    joined = home.join_mesh(tmp_path / "second", token_for(first), "pump", now_ms=NOW_MS)
    renewed = certs.issue(
        first.key,
        first.authority.data,
        first.mesh,
        public=joined.key.public,
        name="pump",
        nbf_ms=NOW_MS + DAY_MS,
        exp_ms=NOW_MS + 91 * DAY_MS,
    )
    authority = home.authorise(
        first.key, first.authority.data, first.mesh, joined.key.public, "pump", NOW_MS + 1
    )
    joined.replace_certificate(renewed)
    joined.replace_authority(authority)
    reopened = home.open_home(joined.path)
    assert reopened == joined
    assert reopened.cert_chain == renewed
    assert reopened.authority.data == authority
