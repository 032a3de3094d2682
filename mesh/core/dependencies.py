"""Which workloads wait for which: a circle of dependencies could never start, and is refused."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.workload import Workload
from mesh.errors import UsageError


def circle(specs: Mapping[str, Workload]) -> list[str]:
    """The first circle of dependencies, as [a, b, a], or [] if there is none. Unknown names are no part."""
    done: set[str] = set()
    for start in sorted(specs):
        path: list[str] = []
        stack = [(start, iter(specs[start].depends))]
        while stack:
            name, rest = stack[-1]
            if len(path) < len(stack):
                path.append(name)
            following = next((n for n in rest if n in specs and n not in done), None)
            if following is None:
                done.add(name)
                stack.pop()
                path.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                stack.append((following, iter(specs[following].depends)))
    return []


def refuse_circle(specs: Mapping[str, Workload]) -> None:
    """Refuse workloads that wait for each other.

    Raises:
        UsageError: naming the circle.
    """
    if found := circle(specs):
        raise UsageError(
            f"dependencies run in a circle: {' -> '.join(found)}", "none of them could ever start"
        )
