"""What the options of `scripts/fault` and `scripts/bench` may say, checked before anything runs.

Each of the first three makes a `type` for argparse, which refuses with the option's name and status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Optional


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number in a range."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= int(text) <= most:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least:,} to {most:,}")

    return read


def real(least: float, most: float, *, below: bool = False) -> Callable[[str], float]:
    """A number in a range, finite therefore; `below`: the most itself is too much."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            number = float(text)  # nan is in no range
            if least <= number <= most and not (below and number == most):
                return number
        upto = "below " if below else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {upto}{most:,g}")

    return read


def positive(most: float) -> Callable[[str], float]:
    """A number above 0."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 < float(text) <= most:  # nan is not
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to {most:,g}")

    return read


def check_outputs(parser: argparse.ArgumentParser, **files: Optional[Path]) -> None:
    """Refuse files that could not be written in hours, when there is something to write; changes none."""
    places: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        if wrong := _not_writable(path):
            parser.error(f"--{option} {path}: {wrong}")
        other = places.setdefault(path.resolve(), option)
        if other != option and (path.is_file() or not path.exists()):
            parser.error(f"--{option} {path}: this is the file of --{other} too")


def _not_writable(path: Path) -> str:
    """Why a file cannot be written; empty if it can."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        kind = 0
    except OSError as error:
        return str(error.strerror)
    if stat.S_ISDIR(kind):
        return "is a directory; name a file"
    if kind and not stat.S_ISREG(kind):
        return "" if os.access(path, os.W_OK) else "may not be written"
    if not path.parent.is_dir():
        return f"there is no directory {path.parent}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    if not kind:
        path.unlink()
    return ""
