"""`meshd init`, `meshd join` and `meshd validate`."""

from __future__ import annotations

import os
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence

from mesh.config import Config
from mesh.errors import UsageError
from mesh.identity import certs, home
from mesh.identity.home import Home
from mesh.settings import knobs, load

TOKEN_FILE_BYTES_MAX = 65_536


def init(options: Namespace) -> int:
    """Make a mesh on this device."""
    config = settings(options)
    made = home.create_mesh(
        config.node.data_dir,
        options.name or host_name(),
        options.mesh,
        now_ms=_wall_ms(),
        zone=options.zone or certs.DEFAULT_ZONE,
        tier=options.tier or config.node.tier,
        labels=labels(options.label),
        life_ms=int(config.identity.certificate_days * certs.DAY_MS),
    )
    print(f"mesh {made.mesh.name} ({made.mesh.mesh_id.hex()}) made")
    _describe(made)
    root = made.path / home.ROOT_KEY
    print(f"  root key     {root}: move it to a safe place, daily work does not need it")
    _next_steps(options, "start this node")
    print("then `meshctl invite create` prints a token with which the next device joins")
    return 0


def join(options: Namespace) -> int:
    """Enrol this device from an invite."""
    token = read_token(options.token)
    config = settings(options)
    joined = home.join_mesh(
        config.node.data_dir,
        token,
        options.name or host_name(),
        now_ms=_wall_ms(),
        zone=options.zone,
        tier=options.tier or config.node.tier or None,
        labels=labels(options.label),
    )
    print(f"enrolled in mesh {joined.mesh.name} ({joined.mesh.mesh_id.hex()})")
    _describe(joined)
    _next_steps(options, "start this node; the first member it reaches lets it in")
    return 0


def validate(options: Namespace) -> int:
    """Check configuration and node."""
    config = settings(options)
    for path in config.files:
        print(f"read {path}")
    from mesh.admin import door

    if fault := door.group_fault(config.admin.socket, config.admin.group):
        print(f"meshd: warning: {fault}", file=sys.stderr)
    _check_listeners(config)
    changed = [name for name in knobs() if name in config.origins]
    print(f"configuration is valid: {len(changed)} of {len(knobs())} settings are not left to their default")
    if not os.path.lexists(os.path.join(config.node.data_dir, home.MESH_FILE)):
        print(f"no node in {config.node.data_dir} yet: meshd init, or meshd join")
        return 0
    found = home.open_home(config.node.data_dir)
    certs.check_time(found.cert, _wall_ms())
    print(f"node of mesh {found.mesh.name} ({found.mesh.mesh_id.hex()}) is valid")
    _describe(found)
    return 0


def _check_listeners(config: Config) -> None:
    """Refuse what the agent would only refuse when it starts: proxy and gateway. ConfigError."""
    from mesh.agent import gateway, proxy

    if config.proxy.listen or config.proxy.imports or config.proxy.dns:
        proxy.check(config.proxy)
    if config.gateway.listen:
        gateway.check(config.gateway, config.proxy.domain)


VERBS: dict[str, Callable[[Namespace], int]] = {"init": init, "join": join, "validate": validate}


def settings(options: Namespace) -> Config:
    """The configuration with the flags that every verb has."""
    return load(options.config, flags={"node.data_dir": options.data_dir})


def labels(words: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE words as a dict.

    Raises:
        UsageError: a word without "=", or a key twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"the label {word!r} has no value", "write --label KEY=VALUE")
        if key in found:
            raise UsageError(f"the label {key} is given twice")
        found[key] = value
    return found


def read_token(word: str) -> str:
    """The token itself, or what `-` and `@FILE` stand for, so that it need not show in the process list."""
    if word == "-":
        return sys.stdin.read(TOKEN_FILE_BYTES_MAX)
    if not word.startswith("@"):
        return word
    try:
        with open(word[1:], encoding="utf-8") as file:
            return file.read(TOKEN_FILE_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the token file {word[1:]} cannot be read: {error}") from None


def host_name() -> str:
    """This host's short name as far as it can be a node's."""
    short = socket.gethostname().partition(".")[0]
    name = "".join(char if certs.word_ok(char) or char in "-_" else "-" for char in short)[:63].strip("-_")
    return name if certs.word_ok(name) else "node"


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000  # noqa: TID251 - there is no mesh clock before the agent runs


def _describe(node: Home) -> None:
    print(f"  node         {node.name}")
    print(f"  id           {node.key.peer_id}")
    print(f"  zone         {node.cert.zone}" + (f"   tier {node.cert.tier}" if node.cert.tier else ""))
    print(f"  roles        {', '.join(node.cert.roles)}")
    print(f"  data         {node.path}")
    expires = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(node.cert.exp_ms / 1000))
    print(f"  certificate  until {expires}, renewed by itself")


def _next_steps(options: Namespace, why: str) -> None:
    flags = [f"--config {options.config}"] if options.config else []
    flags += [f"--data-dir {options.data_dir}"] if options.data_dir else []
    print(f"next: `{' '.join(['meshd run', *flags])}` to {why}")
