"""Configuration documents: what nodes should have, and what each of them says that it has.

    config/<scope>      (scope mesh, kind reg, admins only) {gen, at, spec, past}, see `generations.py`
    spec                {"select": labels, "settings": {"log.level": "debug"},
                         "apps": {"web": {"GREETING": "hello"}}, "rollout": {...}}
    reported/<aid>      (scope mesh, kind all) {scope: [gen, state, why]} of the documents that select the
    node

A scope is a selector of labels, `zone=north,tier=edge`, or `all`. Of documents that select a node and set the
same thing the more special one counts: more terms first, then the name. Within the agent a document stands
between its file and its defaults, and may set only what can be changed while it runs: it never takes a device
from its owner's hands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from mesh.core.record import user_key, user_path
from mesh.core.selector import parse_selector
from mesh.core.wanted import fault
from mesh.core.workload_parts import Rollout
from mesh.errors import PeerError, UsageError

ROOM = "config"
PREFIX = "config/"
REPORTED = "reported/"
ALL = "all"
NAMES_MAX = 256
TEXT_CHARS_MAX = 4096
_APP = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One generation of a document. Settings are as in meshd.toml; an app's are texts by variable."""

    settings: Annotated[dict[str, Any], msgspec.Meta(max_length=NAMES_MAX)] = {}
    apps: Annotated[dict[str, dict[str, str]], msgspec.Meta(max_length=NAMES_MAX)] = {}
    rollout: Rollout = Rollout()


class Report(NamedTuple):
    """What a node says of one document: applied, or refused (it makes no sense here) or failed, and why."""

    gen: int
    state: str
    why: str


def scope_path(scope: str) -> str:
    """The path of a scope's document.

    Raises:
        UsageError: it is no selector.
    """
    if scope != ALL:
        parse_selector(scope)
    if not scope.strip():
        raise UsageError("the scope is empty", "a selector such as zone=north, or all")
    return user_path(scope, ROOM)


def scope_of(path: str) -> str:
    """The scope that a path is the document of. PeerError."""
    try:
        scope = user_key(path)
        if path != scope_path(scope):
            raise UsageError("")
    except (UsageError, ValueError):
        raise PeerError(f"path {path!r:.80} is no configuration document") from None
    return scope


def selects(scope: str, labels: Mapping[str, str]) -> bool:
    """Whether a scope's document is for a node with these labels."""
    return scope == ALL or parse_selector(scope).takes(labels)


def rank(scope: str) -> tuple[int, str]:
    """The larger, the more special."""
    return (0, "") if scope == ALL else (scope.count(",") + 1, scope)


def parse(value: Any) -> Spec:
    """Read a spec.

    Raises:
        UsageError: naming what is wrong.
    """
    try:
        spec = msgspec.convert(value, Spec)
    except msgspec.ValidationError as error:
        raise UsageError(fault("the document cannot be read", error, value)) from None
    for app, variables in spec.apps.items():
        if not _APP.fullmatch(app):
            raise UsageError(f"app {app!r:.80} is not a name", "small letters, digits, - _ and .")
        for name, text in variables.items():
            if not _VARIABLE.fullmatch(name) or len(text) > TEXT_CHARS_MAX or "\0" in text:
                raise UsageError(
                    f"app {app}: {name!r:.80} is not possible",
                    f"a variable's name, and a text of up to {TEXT_CHARS_MAX} characters",
                )
    return spec


def changed(
    spec: Spec,
    *,
    settings: Mapping[str, Any],
    app: str,
    variables: Mapping[str, str],
    unset: Iterable[str],
    rollout: Rollout | None,
) -> Spec:
    """A spec with some things set and others taken away.

    Raises:
        UsageError: something to be taken away is not there.
    """
    apps = {name: dict(held) for name, held in spec.apps.items()}
    held = apps.setdefault(app, {}) if app else dict(spec.settings)
    held.update(variables if app else settings)
    for name in unset:
        if held.pop(name, None) is None:
            raise UsageError(f"{name} is not set there", "`meshctl config docs` shows what is")
    apps = {name: found for name, found in apps.items() if found}
    new = Spec(spec.settings if app else held, apps, rollout or spec.rollout)
    return parse(msgspec.to_builtins(new))


def merged(specs: Mapping[str, Spec]) -> tuple[dict[str, tuple[str, Any]], dict[str, dict[str, str]]]:
    """What all documents of a node say together: settings with the scope they are from, and apps."""
    settings: dict[str, tuple[str, Any]] = {}
    apps: dict[str, dict[str, str]] = {}
    for scope in sorted(specs, key=rank):
        for name, value in specs[scope].settings.items():
            settings[name] = (scope, value)
        for app, variables in specs[scope].apps.items():
            apps.setdefault(app, {}).update(variables)
    return settings, apps


def decode_reports(value: Any) -> dict[str, Report]:
    """What a node reported. PeerError."""
    try:
        return msgspec.convert(value, dict[str, Report])
    except msgspec.ValidationError:
        raise PeerError("a malformed report") from None
