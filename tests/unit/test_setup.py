"""Set-up leaves alone an environment that is not its user's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup() -> Any:
    sys.path.insert(0, str(ROOT / "scripts" / "lib"))
    try:
        import setup
    finally:
        sys.path.pop(0)
    return setup


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """What a virtual environment is recognised by."""
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").touch()
    return folder


def test_an_environment_of_ones_own_may_be_replaced(setup: Any, venv: Path) -> None:
    setup._check_ours(venv)
    setup._check_replaceable(venv)
    setup._check_replaceable(venv / "none")


@pytest.mark.parametrize("user", [0, 54321])
def test_an_environment_of_another_user_is_not_replaced(
    setup: Any, venv: Path, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == user:
        os.chown(venv, 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(setup.SetupError, match="belongs to"):
        setup._check_replaceable(venv)


def test_a_folder_that_venv_did_not_make_is_not_cleared(setup: Any, venv: Path) -> None:
    (venv / "pyvenv.cfg").unlink()
    with pytest.raises(setup.SetupError, match="not made by venv"):
        setup._check_replaceable(venv)
