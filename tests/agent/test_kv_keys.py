"""Keys of any text, in the order of their code points, whatever their paths look like."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.agent import kv_keys
from mesh.agent.kv_keys import ELEMENT, FLAG, base_path, element_path, in_order, key_of, prefix_path
from mesh.core.memory import MemoryLog
from mesh.core.record import Kind, Record, path_ok
from mesh.errors import UsageError

TRICKY = "ab/%+-.é~ \x00=\U0001f600Z"


def log_of(paths):
    log = MemoryLog(fingerprints=False)
    for hlc, path in enumerate(paths, 1):
        log.put(Record(b"a" * 16, path, Kind.MV, hlc, 0, None, 1, None, None, b"s" * 64, b""))
    return log


keys = st.text(alphabet=TRICKY, min_size=1, max_size=6)


@settings(max_examples=400, deadline=None)
@given(
    present=st.sets(keys, max_size=25),
    suffixes=st.lists(st.sampled_from(["", FLAG, ELEMENT + "00", ELEMENT + "ff"]), min_size=1, max_size=4),
    prefix=st.text(alphabet=TRICKY, max_size=3),
    after=st.none() | keys,
)
@example(present={"a/", "a//b", "a/ ", "a"}, suffixes=[""], prefix="a/", after=None)
@example(present={"a", "aé", "ab"}, suffixes=[ELEMENT + "00", ""], prefix="", after="a")
def test_keys_come_in_the_order_of_code_points(present, suffixes, prefix, after):
    present = {unicodedata.normalize("NFC", key) for key in present}
    paths = [base_path(key) + suffix for key in present for suffix in suffixes]
    assert all(path_ok(path) for path in paths)
    found = list(in_order(log_of(paths), prefix, after))
    wanted = sorted(key for key in present if key.startswith(prefix) and (after is None or key > after))
    assert found == wanted


@settings(deadline=None)
@given(key=st.text(alphabet=TRICKY, min_size=1, max_size=8))
def test_a_path_gives_its_key_back(key):
    base = base_path(key)
    for path in (base, base + FLAG, element_path(base, "x")):
        assert key_of(path) == unicodedata.normalize("NFC", key)
        assert path.startswith(prefix_path(key[:2]))


@given(one=keys, other=keys)
def test_paths_of_two_keys_never_meet(one, other):
    if unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", other):
        assert not {base_path(one), base_path(one) + FLAG} & {base_path(other), base_path(other) + FLAG}


def test_the_longest_key_leaves_room_for_collections():
    key = "k" * 216
    assert path_ok(element_path(base_path(key), "x"))
    with pytest.raises(UsageError, match="at most 216"):
        base_path(key + "k")
    with pytest.raises(UsageError, match="at most 216"):
        base_path("é" * 40)


@pytest.mark.parametrize("key", ["", "\ud800"])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(UsageError):
        base_path(key)


def test_reading_a_page_does_not_visit_the_rest():
    log = log_of([f"kv/{n:04}" for n in range(1000)])
    visited = []
    paths = log.paths

    def counting(prefix, start=""):
        for path in paths(prefix, start):
            visited.append(path)
            yield path

    log.paths = counting
    walk = in_order(log, "", "0500")
    assert [next(walk) for _ in range(3)] == ["0501", "0502", "0503"]
    assert len(visited) < 30


def test_the_mark_is_no_part_of_any_encoding():
    assert kv_keys.MARK not in base_path("a%+b%/%+")
