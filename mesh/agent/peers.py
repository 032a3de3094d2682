"""What messaging features need to know of the members; the node's member table is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Peers(Protocol):
    """The member table, as far as messages go. `aid` is 16 bytes, `public` a 32-byte key."""

    def name_of(self, aid: bytes) -> str:
        """The name of a node, "" when unknown."""
        ...

    def public_of(self, aid: bytes) -> bytes | None:
        """The key of a member, None of anyone else."""
        ...

    def present(self) -> Sequence[bytes]:
        """Members that are alive or suspect, ourselves included."""
        ...

    def labels_of(self, aid: bytes) -> Mapping[str, str]:
        """A member's labels, with `name`, `zone` and `tier` among them."""
        ...

    def may(self, aid: bytes, verb: str, name: str) -> bool:
        """Whether a member may; the verbs, and what the names are, are in `mesh/core/policy.py`."""
        ...
