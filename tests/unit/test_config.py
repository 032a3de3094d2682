"""Settings: the order of sources, names and types that are refused, reload, places."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import PROFILES, SECTIONS, Config, Membership, timing
from mesh.errors import ConfigError
from mesh.places import Places, places
from mesh.settings import DEFAULT, defaults_file, diff, in_force, knobs, load, show, toml, value_of


@pytest.fixture
def where(tmp_path: Path) -> Places:
    return Places(str(tmp_path / "etc/meshd.toml"), str(tmp_path / "var"), str(tmp_path / "run/admin.sock"))


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_without_any_source_every_knob_has_its_default(where: Places) -> None:
    config = load(environ={}, where=where)
    assert config.origins == {}
    places_filled_in = {"node.data_dir", "admin.socket"}
    for name, knob in knobs().items():
        if name not in places_filled_in:
            assert value_of(config, name) == knob.default
    assert config.node.data_dir == where.data_dir
    assert config.admin.socket == where.socket


def test_a_flag_beats_a_variable_beats_conf_d_beats_the_file(where: Places, tmp_path: Path) -> None:
    file = write(
        tmp_path / "etc/meshd.toml", "[metrics]\ninterval_s = 20\nring_samples = 20\n[log]\nlevel='debug'"
    )
    write(tmp_path / "etc/conf.d/10-a.toml", "[metrics]\ninterval_s = 30\nring_samples = 30\n")
    last = write(
        tmp_path / "etc/conf.d/20-b.toml", "[metrics]\ninterval_s = 40\n[messages]\nqueue_max = 40\n"
    )
    variables = {"MESHD_METRICS__INTERVAL_S": "50", "MESHD_MESSAGES__QUEUE_MAX": "50"}
    config = load(environ=variables, flags={"metrics.interval_s": 60, "log.format": None}, where=where)
    assert config.metrics.interval_s == 60
    assert config.metrics.ring_samples == 30
    assert config.messages.queue_max == 50
    assert config.log.level == "debug"
    assert config.origins == {
        "metrics.interval_s": "flag",
        "metrics.ring_samples": str(tmp_path / "etc/conf.d/10-a.toml"),
        "messages.queue_max": "environment MESHD_MESSAGES__QUEUE_MAX",
        "log.level": file,
    }
    assert config.files == (file, str(tmp_path / "etc/conf.d/10-a.toml"), last)


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("[metrics]\nintervall_s = 1", "metrics.intervall_s", "metrics.interval_s"),
        ("[metricss]\ninterval_s = 1", "metricss", "metrics"),
        ("metrics = 1", "metrics", "[metrics]"),
        ("[metrics]\ninterval_s = 'soon'", "metrics.interval_s = 'soon': expected a number, at least 1", ""),
        ("[metrics]\ninterval_s = 0.5", "expected a number, at least 1", ""),
        ("[metrics]\ninterval_s = nan", "expected a number", ""),
        ("[membership]\nlease_s = 1e308", "at most 1e+12 makes sense", ""),
        ("[node]\nmemory_bytes = 99999999999999999999", "at most 1.15292e+18 makes sense", ""),
        ("[metrics]\nring_samples = 1.5", "expected a whole number, at least 1, at most 100000", ""),
        ("[discovery]\nmdns = 'yes'", "expected true or false", ""),
        ("[net]\nseeds = 'a'", "expected a list of texts", ""),
        ("[net]\nseeds = [1]", "expected a list of texts", ""),
        ("[node]\nlabels = ['a']", "expected a table of text", ""),
        ("[node]\nlocation = [1.0]", "expected [latitude, longitude]", ""),
        ("[membership]\nprofile = 'moon'", "expected one of 'local', 'lan', 'wan', 'metered'", ""),
        ("[net]\nlisten = ['0.0.0.0:1']", "'0.0.0.0:1' is no address", "/ip4/"),
        ("[net]\nlisten = ['/ip4/0.0.0.0/tcp/65536']", "is no address", "/ip4/"),
        ("[net]\nlisten = ['/ip4/::/tcp/1']", "is no address", "/ip4/"),
        ("[net]\nlisten = ['/dns/example.org/tcp/1']", "is no address", "/ip4/"),
        ("[net", "meshd.toml", "TOML"),
        ("\xff", "meshd.toml", "TOML"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_what_is_right(
    text: str, named: str, hint: str, where: Places, tmp_path: Path
) -> None:
    file = write(tmp_path / "etc/meshd.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(environ={}, where=where)
    assert named in caught.value.message
    assert file in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_is_not_text_is_refused(where: Places, tmp_path: Path) -> None:
    write(tmp_path / "etc/meshd.toml", "")
    (tmp_path / "etc/meshd.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"meshd\.toml"):
        load(environ={}, where=where)


def test_a_file_that_is_nested_without_end_is_refused(where: Places, tmp_path: Path) -> None:
    write(tmp_path / "etc/meshd.toml", "a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match=r"meshd\.toml"):
        load(environ={}, where=where)


def test_a_named_file_must_exist_but_the_default_one_need_not(where: Places, tmp_path: Path) -> None:
    load(environ={}, where=where)
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load(str(tmp_path / "missing.toml"), environ={}, where=where)


def test_variables_hold_lists_tables_numbers_and_switches(where: Places) -> None:
    config = load(
        environ={
            "MESHD_NET__SEEDS": "/ip4/192.0.2.7/tcp/6374, /dns/a.example/tcp/1/p2p/12D3KooW",
            "MESHD_NODE__LABELS": "room=lab,rack=2",
            "MESHD_NODE__LOCATION": "52.5,13.4",
            "MESHD_DISCOVERY__MDNS": "false",
            "MESHD_STORE__HISTORY_MAX": "7",
        },
        where=where,
    )
    assert config.net.seeds == ("/ip4/192.0.2.7/tcp/6374", "/dns/a.example/tcp/1/p2p/12D3KooW")
    assert config.node.labels == {"room": "lab", "rack": "2"}
    assert config.node.location == (52.5, 13.4)
    assert config.discovery.mdns is False
    assert config.store.history_max == 7


@pytest.mark.parametrize("variable", ["MESHD_NET__LISTN", "MESHD_NETS__LISTEN", "MESHD___"])
def test_an_unknown_variable_of_ours_is_refused(variable: str, where: Places) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(environ={variable: "1"}, where=where)


def test_variables_that_a_platform_invents_are_left_alone(where: Places) -> None:
    load(environ={"MESHD_PORT": "tcp://10.0.0.1:6374", "MESHD_SERVICE_HOST": "10.0.0.1"}, where=where)


def test_a_wrong_variable_names_itself_and_what_is_expected(where: Places) -> None:
    with pytest.raises(ConfigError, match=r"MESHD_STORE__HISTORY_MAX.*expected a whole number, at least 0"):
        load(environ={"MESHD_STORE__HISTORY_MAX": "many"}, where=where)


def test_a_data_directory_named_on_purpose_holds_its_socket(where: Places, tmp_path: Path) -> None:
    config = load(environ={}, flags={"node.data_dir": str(tmp_path / "n1")}, where=where)
    assert config.admin.socket == str(tmp_path / "n1/admin.sock")
    named = load(environ={"MESHD_ADMIN__SOCKET": "/run/x.sock"}, flags={"node.data_dir": "n1"}, where=where)
    assert named.admin.socket == "/run/x.sock"
    assert os.path.isabs(named.node.data_dir)


def test_a_reload_parts_what_it_applies_from_what_needs_a_restart(where: Places) -> None:
    old = load(environ={}, where=where)
    new = load(environ={"MESHD_LOG__LEVEL": "debug", "MESHD_STORE__MAP_BYTES": str(1 << 30)}, where=where)
    assert diff(old, old) == ([], [])
    assert diff(old, new) == (["log.level"], ["store.map_bytes"])


def test_what_counts_after_a_restart_stays_in_force_and_is_shown_as_pending(where: Places) -> None:
    old = load(environ={}, where=where)
    new = load(environ={"MESHD_LOG__LEVEL": "debug", "MESHD_STORE__MAP_BYTES": str(1 << 30)}, where=where)
    running = in_force(old, new)
    rows = {row["key"]: row for row in show(running)}
    assert rows["log.level"]["value"] == "debug"
    assert rows["log.level"]["pending"] == []
    assert rows["store.map_bytes"]["value"] == old.store.map_bytes
    assert rows["store.map_bytes"]["origin"] == DEFAULT
    assert rows["store.map_bytes"]["pending"] == [1 << 30]
    assert in_force(running, new) == running
    assert in_force(running, old) == old  # taken back: nothing waits any more


def test_config_show_tells_value_default_and_origin_of_every_knob(where: Places) -> None:
    rows = show(load(environ={"MESHD_LOG__LEVEL": "debug"}, where=where))
    assert [row["key"] for row in rows] == list(knobs())
    by_key = {row["key"]: row for row in rows}
    assert by_key["log.level"] == {
        "key": "log.level",
        "value": "debug",
        "origin": "environment MESHD_LOG__LEVEL",
        "default": "info",
        "reloadable": True,
        "pending": [],
    }
    assert by_key["net.listen"]["origin"] == DEFAULT
    msgspec.json.encode(rows)


def test_every_knob_and_section_gives_its_reason() -> None:
    assert all(knob.reason for knob in knobs().values())
    assert all(cls.__doc__ for cls in SECTIONS.values())
    assert set(SECTIONS) == set(Config.__struct_fields__) - {"origins", "files", "pending"}


def test_the_defaults_file_uncommented_is_the_defaults(where: Places, tmp_path: Path) -> None:
    lines = defaults_file().splitlines()
    text = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in lines
    )
    document = tomllib.loads(text.replace("\n\n", "\n"))
    assert {f"{section}.{key}" for section, table in document.items() for key in table} == set(knobs())
    file = write(tmp_path / "all.toml", text)
    config = load(file, environ={}, where=where)
    assert diff(config, load(environ={}, where=where)) == ([], [])


@given(
    st.recursive(
        st.booleans()
        | st.integers(-(2**62), 2**62)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_is_written_as_toml_reads_back(value: object) -> None:
    assert tomllib.loads(f"x = {toml(value)}")["x"] == value


def test_a_profile_gives_the_times_and_one_can_be_overridden() -> None:
    assert timing(Membership()) == PROFILES["lan"]
    mixed = timing(Membership(profile="wan", lease_s=7.0))
    assert (mixed.probe_interval_s, mixed.miss_s, mixed.confirm_s, mixed.lease_s) == (5.0, 3.0, 10.0, 7.0)


def test_root_uses_the_system_places_and_others_the_xdg_ones() -> None:
    assert places({}, root=True) == ("/etc/meshd/meshd.toml", "/var/lib/meshd", "/run/meshd/admin.sock")
    plain = places({"HOME": "/home/ann"}, root=False)
    assert plain.config_file == "/home/ann/.config/meshd/meshd.toml"
    assert plain.data_dir == "/home/ann/.local/share/meshd"
    assert plain.socket == "/home/ann/.local/share/meshd/admin.sock"
    xdg = {"HOME": "/home/ann", "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d", "XDG_RUNTIME_DIR": "/r"}
    assert places(xdg, root=False) == ("/c/meshd/meshd.toml", "/d/meshd", "/r/meshd/admin.sock")
    relative = {"HOME": "/home/ann", "XDG_CONFIG_HOME": "c", "XDG_RUNTIME_DIR": ""}
    assert places(relative, root=False) == plain
