"""Every error of the project, one small tree.

    MeshError                 anything a user may see: code, message, hint, exit status
    ├── Failed                it was tried and did not work               failed     exit 1
    ├── UsageError            the caller's words are wrong                usage      exit 2
    │   └── ConfigError       … in a configuration file or variable       config     exit 2
    ├── Unreachable           the agent (or peer) cannot be reached       unreachable exit 3
    ├── NotFound              no such key, member, handler                not_found  exit 4
    │   ├── UnknownNode       nobody of this name or id is a member       unknown_node exit 4
    │   ├── NoHandler         the node is there, nothing serves this name no_handler exit 4
    │   └── NoInstances       nobody offers the service, or nobody well no_instances exit 4
    ├── Conflict              the state is not what the caller assumed    conflict   exit 5
    ├── Denied                the caller may not                          denied     exit 6
    ├── TimedOut              no (or only some) answers in time           timeout    exit 7
    │   └── Partial           some of the work was done, some refused     partial    exit 7
    ├── StoreError            the data directory cannot be used           store      exit 1
    │   └── StoreFull         disk or quota exhausted: read-only for now  store_full exit 1
    └── PeerError             a peer sent nonsense: dropped and counted, never shown as a traceback

A message names the offending thing and its value; a hint says what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MeshError(Exception):
    """Base of every error with a meaning for users.

    Attributes:
        code: stable machine-readable word, part of the admin API.
        exit_code: exit status a command ends with.
        message: one sentence that names the offending thing and value.
        hint: what the user can do about it, or "".
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def body(self) -> dict[str, Any]:
        """The JSON body under which the admin API reports this error."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


class Failed(MeshError):
    """It was tried and did not work."""


class UsageError(MeshError):
    """The caller's words are wrong."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, variable or flag holds something we refuse."""

    code = "config"


class Unreachable(MeshError):
    """The agent, or a peer, cannot be reached."""

    code = "unreachable"
    exit_code = 3


class NotFound(MeshError):
    """No such key, member, topic or handler."""

    code = "not_found"
    exit_code = 4


class UnknownNode(NotFound):
    """Nobody of this name or id is a member."""

    code = "unknown_node"


class NoHandler(NotFound):
    """The node is there, but nothing on it serves this name."""

    code = "no_handler"


class NoInstances(NotFound):
    """Nobody who offers the service can take a call now."""

    code = "no_instances"


class Conflict(MeshError):
    """The state is not what the caller assumed."""

    code = "conflict"
    exit_code = 5


class Denied(MeshError):
    """The caller lacks the right."""

    code = "denied"
    exit_code = 6


class TimedOut(MeshError):
    """No answer, or not all answers, in time."""

    code = "timeout"
    exit_code = 7


class Partial(TimedOut):
    """Some of the work was done and some refused; the message counts both."""

    code = "partial"


class StoreError(MeshError):
    """The data directory cannot be used."""

    code = "store"


class StoreFull(StoreError):
    """Disk, map or quota exhausted; the store is read-only until there is room."""

    code = "store_full"


class PeerError(MeshError):
    """A peer sent something malformed, unsigned, oversized or not allowed."""

    code = "peer"


def leaves(error: BaseException) -> list[BaseException]:
    """The errors themselves, however many nurseries have wrapped them into groups."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in leaves(each)]


def ours(error: BaseException) -> MeshError | None:
    """The MeshError that it is; in a group the first, if there is nothing else in it."""
    found = leaves(error)
    known = [each for each in found if isinstance(each, MeshError)]
    return known[0] if len(known) == len(found) else None


def parted(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What failed, and apart from it what is no failure but an end: trio.Cancelled, Ctrl-C."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Exception)
    return (error, None) if isinstance(error, Exception) else (None, error)
