"""What a verb works with: the client, the output, and questions to the person."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mesh.errors import UsageError
from meshctl.output import Output

if TYPE_CHECKING:
    from mesh.client import Client


class Context:
    """One run of meshctl."""

    def __init__(self, socket: str | None, form: str | None) -> None:
        self.out = Output(form)
        self._socket = socket
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client; nothing is connected before the first call. Bytes stay {"base64": text}."""
        if self._client is None:
            from mesh.client import Client

            self._client = Client(self._socket, decode_bytes=False)
        return self._client

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something that cannot be undone.

        Raises:
            UsageError: the answer is not yes, or nobody is there to give one.
        """
        if yes:
            return
        if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
            raise UsageError(
                f"nothing was done: {question}",
                "give --yes: without a terminal nobody can be asked",
            )
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was done", "answer y, or give --yes")
