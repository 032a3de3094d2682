"""Fixtures of tests on real agents."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from yard import Yard


@pytest.fixture
def yard() -> Iterator[Yard]:
    """A folder for agents; not tmp_path, because a unix socket's path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="yard-"))
    made = Yard(folder)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)
