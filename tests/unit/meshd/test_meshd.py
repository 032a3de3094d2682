"""`meshd init | join | validate` as a person meets them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.identity import certs, home, invites
from meshd.__main__ import main
from meshd.enrol import host_name

NOW_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """Nothing of this machine's own mesh is read or written."""
    for name in [name for name in os.environ if name.startswith(("MESHD_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    umask = os.umask(0o022)
    yield
    os.umask(umask)


@pytest.fixture
def meshd(capsys, tmp_path):
    """Run a verb; returns (status, stdout, stderr)."""

    def call(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


@pytest.fixture
def token(meshd, tmp_path):
    """A fresh invite of a mesh made here, valid today."""
    assert meshd("init", "--data-dir", tmp_path / "first", "--name", "hall", "--mesh", "house")[0] == 0
    first = home.open_home(tmp_path / "first")
    terms = certs.Terms(exp_ms=first.cert.nbf_ms + certs.DAY_MS, labels={"site": "home"})
    invite = invites.create(first.key, first.authority.data, first.mesh, terms, nbf_ms=first.cert.nbf_ms)
    return invites.token_of(invite)


def test_init_makes_a_mesh_and_says_what_comes_next(meshd, tmp_path):
    status, out, err = meshd(
        "init", "--data-dir", tmp_path / "d", "--name", "hall", "--mesh", "house", "--tier", "edge"
    )
    assert (status, err) == (0, "")
    made = home.open_home(tmp_path / "d")
    assert (made.name, made.mesh.name, made.cert.tier) == ("hall", "house", "edge")
    for text in (made.key.peer_id, made.mesh.mesh_id.hex(), "root.key", f"meshd run --data-dir {tmp_path}/d"):
        assert text in out
    assert made.root_key().seed.hex() not in out


def test_join_enrols_this_device(meshd, tmp_path, token):
    status, out, err = meshd(
        "join", token, "--data-dir", tmp_path / "d", "--name", "attic", "--label", "room=attic"
    )
    assert (status, err) == (0, "")
    joined = home.open_home(tmp_path / "d")
    assert joined.name == "attic"
    assert joined.labels == {"room": "attic", "site": "home"}
    assert "enrolled in mesh house" in out


def test_a_token_need_not_show_in_the_process_list(meshd, tmp_path, token, monkeypatch):
    (tmp_path / "token").write_text(token + "\n")
    assert meshd("join", f"@{tmp_path}/token", "--data-dir", tmp_path / "a")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(token + "\n"))
    assert meshd("join", "-", "--data-dir", tmp_path / "b")[0] == 0
    status, _, err = meshd("join", f"@{tmp_path}/none", "--data-dir", tmp_path / "c")
    assert status == 2
    assert f"{tmp_path}/none" in err


def test_a_used_directory_is_refused_with_a_way_out(meshd, tmp_path, token):
    for words in (["init"], ["join", token]):
        status, out, err = meshd(*words, "--data-dir", tmp_path / "first")
        assert (status, out) == (1, "")
        assert f"the data directory {tmp_path}/first holds a node already" in err
        assert "try: choose another place with --data-dir" in err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "no command was given"),
        (["join", "mesh1-xyz"], 2, "damaged"),
        (["join", "hello"], 2, "does not begin with"),
        (["init", "--name", "a b"], 2, "'a b'"),
        (["init", "--name", "\x1b[31mred"], 2, "name"),
        (["init", "--mesh", ""], 2, "the mesh's name ''"),
        (["init", "--label", "x"], 2, "'x' has no value"),
        (["init", "--label", "x=1", "--label", "x=2"], 2, "given twice"),
        (["init", "--label", "x=\x1b[2J"], 2, "label x"),
        (["validate", "--config", "/nowhere/x.toml"], 2, "/nowhere/x.toml"),
        (["--bogus"], 2, "meshd has no option --bogus"),
        (["run", "--config", "/nowhere/x.toml"], 2, "/nowhere/x.toml"),
        (["run", "--listen", "nonsense"], 2, "nonsense"),
        (["run", "--profile", "fast"], 2, "invalid choice"),
        (["fly"], 2, "invalid choice"),
        (["init", "--nam", "x"], 2, "did you mean --name"),
        (["run", "extra"], 2, "too many words: extra"),
        (["init", "--data-dir", "/dev/null/x"], 1, "/dev/null/x"),
    ],
)
def test_mistakes_are_named_with_their_status_and_without_a_traceback(meshd, tmp_path, words, status, said):
    found, out, err = meshd(*words)
    assert found == status
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert not (tmp_path / "home").exists()


def test_an_expired_invite_is_denied(meshd, tmp_path):
    first = home.create_mesh(tmp_path / "old", "hall", "house", now_ms=NOW_MS - 900 * certs.DAY_MS)
    terms = certs.Terms(exp_ms=first.cert.nbf_ms + certs.DAY_MS)
    invite = invites.create(first.key, first.authority.data, first.mesh, terms, nbf_ms=first.cert.nbf_ms)
    status, _, err = meshd("join", invites.token_of(invite), "--data-dir", tmp_path / "d")
    assert status == 6
    assert "expired" in err
    assert "try: ask an admin for a new one" in err


def test_the_default_place_is_the_users_own(meshd, tmp_path):
    assert meshd("init", "--name", "hall")[0] == 0
    assert home.open_home(tmp_path / "home/.local/share/meshd").name == "hall"


def test_configuration_gives_the_data_directory_tier_and_certificate_days(meshd, tmp_path):
    config = tmp_path / "meshd.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}/d"\ntier = "cloud"\n[identity]\ncertificate_days = 7.0\n'
    )
    status, out, _ = meshd("init", "--config", config, "--name", "hall")
    assert status == 0
    assert f"meshd run --config {config}`" in out
    made = home.open_home(tmp_path / "d")
    assert made.cert.tier == "cloud"
    assert made.cert.exp_ms - made.cert.nbf_ms == 7 * certs.DAY_MS


def test_validate_says_what_it_read(meshd, tmp_path):
    config = tmp_path / "meshd.toml"
    config.write_text('[log]\nlevel = "debug"\n')
    status, out, _ = meshd("validate", "--config", config, "--data-dir", tmp_path / "d")
    assert status == 0
    assert f"read {config}" in out
    assert "no node" in out
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('proxy.listen = "99999"', "proxy.listen"),
        ('proxy.listen = "0.0.0.0:1080"', "not loopback"),
        ('proxy.imports = { "A b" = "1" }', "proxy.imports"),
        ('gateway.listen = "80a"', "gateway.listen"),
        ('gateway = { listen = "0", routes = { shop = "orders" } }', "gateway.routes"),
        ('gateway = { listen = "0", tls_cert = "/nowhere/c", tls_key = "/nowhere/k" }', "/nowhere/"),
    ],
)
def test_validate_refuses_what_a_start_would(meshd, tmp_path, text, named):
    config = tmp_path / "meshd.toml"
    config.write_text(text + "\n")
    status, _, err = meshd("validate", "--config", config, "--data-dir", tmp_path / "d")
    assert status == 2
    assert named in err


def test_validate_looks_at_the_node_too(meshd, tmp_path, token):
    status, out, _ = meshd("validate", "--data-dir", tmp_path / "first")
    assert status == 0
    assert "node of mesh house" in out
    (tmp_path / "first" / "node.key").chmod(0o644)
    status, _, err = meshd("validate", "--data-dir", tmp_path / "first")
    assert status == 6
    assert "open to others (mode 0644)" in err


def test_validate_refuses_an_unknown_setting_by_name(meshd, tmp_path):
    (tmp_path / "meshd.toml").write_text("[net]\nlisen = []\n")
    status, _, err = meshd("validate", "--config", tmp_path / "meshd.toml")
    assert status == 2
    assert "net.lisen" in err
    assert "net.listen" in err


def test_every_verb_has_help(meshd):
    for words in ([], ["init"], ["join"], ["run"], ["validate"]):
        status, out, _ = meshd(*words, "--help")
        assert status == 0
        assert "--data-dir" in out


def test_the_hosts_name_is_made_fit(monkeypatch):
    for host, name in (
        ("pi4.local", "pi4"),
        ("my_box-", "my_box"),
        ("---", "node"),
        ("", "node"),
        ("küche", "k-che"),
        ("a" * 80, "a" * 63),
    ):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert host_name() == name


def test_enrolling_loads_neither_trio_nor_libp2p_nor_lmdb(tmp_path):
    code = (
        "import sys; from meshd.__main__ import main;"
        f"assert main(['init', '--data-dir', {str(tmp_path / 'd')!r}, '--name', 'a']) == 0;"
        "bad = {'trio', 'libp2p', 'lmdb', 'psutil', 'h11'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_the_installed_command_works(tmp_path):
    meshd = Path(sys.executable).with_name("meshd")
    if not meshd.exists():
        pytest.skip("the package is not installed beside this python")
    done = subprocess.run([meshd, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("meshd ")
    reading, writing = os.pipe()
    os.close(reading)
    closed = subprocess.run(
        [meshd, "validate", "--data-dir", tmp_path / "d"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert closed.stderr == b""


def test_validate_refuses_a_group_that_run_would_refuse(meshd, tmp_path):
    config = tmp_path / "meshd.toml"
    config.write_text('[admin]\ngroup = "no-such-group"\n')
    status, _, err = meshd("validate", "--config", config, "--data-dir", tmp_path / "d")
    assert status == 2
    assert "there is no such group" in err
