"""Real processes in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import running_folder


@pytest.fixture
def root() -> Iterator[Path]:
    with running_folder() as folder:
        yield folder
