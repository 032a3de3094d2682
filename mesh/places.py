"""Where files lie when nobody says otherwise: the system's places for root, the XDG ones for everyone else.

On the standard library alone, so that `meshctl` finds the admin socket without loading anything heavy.

| what          | root                      | anyone else                                                   |
|---------------|---------------------------|---------------------------------------------------------------|
| configuration | /etc/meshd/meshd.toml     | $XDG_CONFIG_HOME/meshd/meshd.toml (~/.config)                 |
| more of it    | conf.d/*.toml beside that | the same                                                      |
| data          | /var/lib/meshd            | $XDG_DATA_HOME/meshd (~/.local/share)                         |
| admin socket  | /run/meshd/admin.sock     | $XDG_RUNTIME_DIR/meshd/admin.sock, else in the data directory |

A data directory named on purpose has its admin socket inside, so that several agents fit on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

SOCKET_NAME = "admin.sock"
CONFIG_NAME = "meshd.toml"
SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux is 108 bytes with its closing zero


class Places(NamedTuple):
    """Default paths, all absolute."""

    config_file: str
    data_dir: str
    socket: str


def places(environ: Mapping[str, str] | None = None, *, root: bool | None = None) -> Places:
    """The default paths for this user.

    Args:
        environ: the environment to read; the process's own when None.
        root: whether to answer for root; asks the effective user id when None.
    """
    env = os.environ if environ is None else environ
    if os.geteuid() == 0 if root is None else root:
        return Places(f"/etc/meshd/{CONFIG_NAME}", "/var/lib/meshd", f"/run/meshd/{SOCKET_NAME}")
    home = env.get("HOME") or os.path.expanduser("~")
    data_dir = os.path.join(_absolute(env.get("XDG_DATA_HOME")) or f"{home}/.local/share", "meshd")
    config_dir = os.path.join(_absolute(env.get("XDG_CONFIG_HOME")) or f"{home}/.config", "meshd")
    runtime = _absolute(env.get("XDG_RUNTIME_DIR"))
    socket_dir = os.path.join(runtime, "meshd") if runtime else data_dir
    return Places(os.path.join(config_dir, CONFIG_NAME), data_dir, os.path.join(socket_dir, SOCKET_NAME))


def socket_in(data_dir: str) -> str:
    """The admin socket of an agent whose data directory was named on purpose."""
    return os.path.join(os.path.abspath(data_dir), SOCKET_NAME)


def _absolute(path: str | None) -> str:
    """The path when it is absolute; the XDG standard says that others are to be ignored."""
    return path if path and os.path.isabs(path) else ""
