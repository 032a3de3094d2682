"""Keys, peer ids and key files."""

from __future__ import annotations

import os

import pytest

from mesh.errors import Denied, StoreError, UsageError
from mesh.identity.files import write_new
from mesh.identity.keys import NodeKey, encode_key, load_key, peer_id_of, public_of

KNOWN_SEED = bytes(range(32))
KNOWN_PEER_ID = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


def test_a_key_is_the_same_every_time_it_is_made_from_its_seed():
    first, second = NodeKey.from_seed(KNOWN_SEED), NodeKey.from_seed(KNOWN_SEED)
    assert first == second
    assert first.secret == first.seed + first.public
    assert first.aid == first.public[:16]


def test_peer_ids_are_those_of_libp2p():
    keys = pytest.importorskip("libp2p.crypto.ed25519")
    ids = pytest.importorskip("libp2p.peer.id")
    key = NodeKey.from_seed(KNOWN_SEED)
    theirs = ids.ID.from_pubkey(keys.create_new_key_pair(KNOWN_SEED).public_key).to_base58()
    assert key.peer_id == theirs == KNOWN_PEER_ID


def test_a_peer_id_holds_its_key():
    for _ in range(50):
        key = NodeKey.generate()
        assert public_of(key.peer_id) == key.public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "12D3KooW",
        "l" * 52,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "1" + KNOWN_PEER_ID,
        KNOWN_PEER_ID + "1",
        KNOWN_PEER_ID[:-1],
        KNOWN_PEER_ID + "\n",
        "z" * 1000,
        "é" * 52,
    ],
)
def test_what_is_not_a_node_id_is_refused(text):
    with pytest.raises(UsageError):
        public_of(text)


def test_the_text_of_a_key_does_not_show_the_secret():
    key = NodeKey.generate()
    for text in (str(key), repr(key), f"{key}"):
        assert key.seed.hex() not in text
        assert repr(key.seed) not in text


def save_key(path, key):
    write_new(path, encode_key(key))


def test_a_saved_key_comes_back_with_mode_0600_whatever_the_umask(tmp_path):
    key = NodeKey.generate()
    old = os.umask(0o777)
    try:
        save_key(tmp_path / "node.key", key)
    finally:
        os.umask(old)
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path / "node.key") == key
    assert [path.name for path in tmp_path.iterdir()] == ["node.key"]


def test_a_saved_key_is_never_overwritten(tmp_path):
    key = NodeKey.generate()
    save_key(tmp_path / "node.key", key)
    with pytest.raises(StoreError, match="exists already"):
        save_key(tmp_path / "node.key", NodeKey.generate())
    assert load_key(tmp_path / "node.key") == key
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601, 0o666])
def test_a_key_open_to_others_is_refused_naming_path_mode_and_remedy(tmp_path, mode):
    path = tmp_path / "node.key"
    save_key(path, NodeKey.generate())
    path.chmod(mode)
    with pytest.raises(Denied) as caught:
        load_key(path)
    assert str(path) in caught.value.message
    assert f"{mode:04o}" in caught.value.message
    assert "chmod 600" in caught.value.hint


def test_a_missing_key_is_named():
    with pytest.raises(StoreError, match=r"/nowhere/node\.key"):
        load_key("/nowhere/node.key")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"mesh-key-1", b"mesh-key-1 00", b"mesh-key-2 " + b"00" * 32, b"a b c"]
)
def test_a_damaged_key_file_is_refused(tmp_path, content):
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError, match="not a key file"):
        load_key(path)


def test_saving_into_a_missing_directory_is_an_error_of_ours(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        save_key(tmp_path / "no" / "node.key", NodeKey.generate())


def test_peer_ids_differ_when_keys_differ():
    assert peer_id_of(bytes(32)) != peer_id_of(bytes(31) + b"\1")
