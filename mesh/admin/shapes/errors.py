"""The shape of every failure."""

from __future__ import annotations

from typing import TypedDict


class Error(TypedDict):
    """What went wrong. `code` is stable; `hint` may be empty."""

    code: str
    message: str
    hint: str


class ErrorBody(TypedDict):
    """The body of every answer that is not 2xx, and the last line of a stream that fails."""

    error: Error
