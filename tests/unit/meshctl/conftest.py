"""meshctl as a process, against the features in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh.admin.memory import Features, running


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def features() -> Features:
    return Features()


@pytest.fixture
def socket_path(features: Features, tmp_path: Path) -> Iterator[str]:
    with running(features, str(tmp_path / "admin.sock")) as path:
        yield path


@pytest.fixture
def environ(socket_path: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MESH", "NO_COLOR"))}
    return {**kept, "MESHCTL_SOCKET": socket_path, "COLUMNS": "80"}


@pytest.fixture
def meshctl(environ: dict[str, str], tmp_path: Path) -> Callable[..., Done]:
    """Runs one command; `input` is its standard input, text or bytes."""

    def run(*words: str, input: str | bytes = "", **more: str) -> Done:
        data = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            [sys.executable, "-m", "meshctl", *words],
            input=data,
            capture_output=True,
            env={**environ, **more},
            cwd=tmp_path,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
