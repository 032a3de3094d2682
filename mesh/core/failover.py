"""Which group of instances (primary, secondary, tertiary) is in use, and when another takes over.

    in use ──`failures` in a row, or nobody healthy──> out ──healthy for `return_s`──> may be used again

The first group that is not out is used, in the order of the document. A group that has nobody healthy is out
at once: there is nothing to wait for. One that is back counts as healthy from the moment it has somebody, and
each failure starts the time anew, so that a site whose power flickers does not pull the traffic to and fro.
Where all groups are out, the first one that has anybody is used: a poor answer beats none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec


class _Group(msgspec.Struct):
    """`healthy_since` is None while it has nobody; `out` until it was healthy for long enough."""

    failures: int = 0
    out: bool = False
    healthy_since: float | None = None


class Failover:
    """The groups of one service, as this node sees them."""

    def __init__(self, *, failures: int = 3, return_s: float = 300.0) -> None:
        self.failures_max = failures
        self.return_s = return_s
        self._groups: dict[str, _Group] = {}

    def _group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())

    def keep(self, names: Collection[str]) -> None:
        """Forget groups that the document has no more."""
        self._groups = {name: group for name, group in self._groups.items() if name in names}

    def present(self, name: str, present: bool, now: float) -> None:
        """Whether a group has anybody healthy."""
        group = self._group(name)
        if not present:
            group.out, group.healthy_since, group.failures = True, None, 0
        elif group.healthy_since is None:
            group.healthy_since = now

    def failed(self, name: str, now: float) -> bool:
        """A call to this group failed; whether that took it out of use."""
        group = self._group(name)
        group.failures += 1
        if group.healthy_since is not None:
            group.healthy_since = now
        turned = group.failures >= self.failures_max and not group.out
        group.out = group.out or turned
        return turned

    def answered(self, name: str) -> None:
        """A call to this group was answered."""
        self._group(name).failures = 0

    def choose(self, order: Sequence[str], now: float) -> str:
        """The group to use; "" if none has anybody."""
        having = [name for name in order if self._group(name).healthy_since is not None]
        for name in having:
            group = self._group(name)
            assert group.healthy_since is not None
            if group.out and now - group.healthy_since >= self.return_s:
                group.out, group.failures = False, 0
            if not group.out:
                return name
        return having[0] if having else ""

    def next_change(self, now: float) -> float | None:
        """When a group that is out may be used again, if nothing else happens."""
        ends = [
            group.healthy_since + self.return_s
            for group in self._groups.values()
            if group.out and group.healthy_since is not None
        ]
        later = [end for end in ends if end > now]
        return min(later) if later else None
