"""`meshctl policy` as a person calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]

SENSORS = {"roles": {"sensor": {"write": ["kv/sensors/{id}/**"]}}}


def test_the_defaults_are_shown_as_rows(meshctl: Run) -> None:
    done = meshctl("policy", "show")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["WHO", "VERB", "PATTERNS", "FROM"]
    assert any(row[:2] == ["admin", "write"] and row[-1] == "default" for row in rows)


def test_a_policy_is_set_from_a_file_shown_and_reset(meshctl: Run, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(SENSORS))
    assert meshctl("policy", "set", str(tmp_path / "p.json")).code == 0
    assert json.loads(meshctl("-o", "json", "policy", "show").out)["roles"] == SENSORS["roles"]
    assert any(line.startswith("sensor ") for line in meshctl("policy", "show").out.splitlines())
    assert meshctl("policy", "reset", "--yes").code == 0
    assert json.loads(meshctl("-o", "json", "policy", "show").out)["roles"] == {}


def test_mistakes_are_named(meshctl: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for content, said in (
        ("nonsense", "is not JSON"),
        ("[]", "is not a policy"),
        ('{"rolls": {}}', "is not a policy"),
        ('{"roles": {"a": {"fly": []}}}', "unknown verb 'fly'"),
        ('{"roles": {"a": {"write": ["a//b"]}}}', "is not a pattern"),
        ('{"nodes": {"nobody": {"write": ["kv/a"]}}}', "nobody"),
    ):
        path.write_text(content)
        done = meshctl("policy", "set", str(path))
        assert done.code in (2, 4), content
        assert said in done.err, content
    assert meshctl("policy", "set", str(tmp_path / "none.json")).code == 4


def test_a_right_is_asked_for_and_the_status_says_it(meshctl: Run) -> None:
    allowed = meshctl("policy", "check", "alpha", "publish", "a/b")
    assert (allowed.code, "yes" in allowed.out) == (0, True)
    denied = meshctl("-o", "json", "policy", "check", "beta", "write", "config/a")
    assert denied.code == 6
    assert json.loads(denied.out)["allowed"] is False
    assert meshctl("policy", "check", "nobody", "write", "kv/a").code == 4
    assert meshctl("policy", "check", "alpha", "fly", "kv/a").code == 2


def test_what_members_lose_is_told_before_and_after_a_policy_is_set(meshctl: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"roles": {"member": {"call": ["**"], "offer": ["**"]}}}')
    tried = meshctl("policy", "set", str(path), "--dry-run")
    assert tried.code == 0
    assert "warning: role member: it may not write" in tried.err
    assert json.loads(meshctl("-o", "json", "policy", "show").out)["roles"] == {}
    assert "they offer no services and run no workloads" in meshctl("policy", "set", str(path)).err
    assert "warning: role member" in meshctl("policy", "show").err
    assert meshctl("policy", "reset", "--yes").err == ""
