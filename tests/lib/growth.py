"""How much is in every container that hangs on an object, by the way that leads there."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

OURS = ("mesh.",)


def sizes(**roots: Any) -> Counter[str]:
    """Entries of all dicts, lists, sets and deques below these objects, as far as they are ours.

    The key is the path, such as `node.links.sessions[]._urgent`; containers at one path are added up.
    """
    found: Counter[str] = Counter()
    seen: set[int] = set()
    todo: deque[tuple[str, Any]] = deque(roots.items())
    while todo:
        path, it = todo.popleft()
        if id(it) in seen or isinstance(it, (str, bytes, int, float, type)):
            continue
        seen.add(id(it))
        if isinstance(it, Mapping):
            found[path] += len(it)
            todo += [(f"{path}[]", value) for value in it.values()]
        elif isinstance(it, (list, set, frozenset, deque, tuple)):
            found[path] += 0 if isinstance(it, tuple) else len(it)
            todo += [(f"{path}[]", value) for value in it]
        elif type(it).__module__.startswith(OURS):
            todo += [(f"{path}.{name}", getattr(it, name, None)) for name in _names(it)]
    return found


def _names(it: Any) -> list[str]:
    names = set(getattr(it, "__dict__", ()))
    for kind in type(it).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names |= {slots} if isinstance(slots, str) else set(slots)
    names |= set(getattr(type(it), "__struct_fields__", ()))
    return sorted(names)


def grown(before: Counter[str], after: Counter[str], by: int) -> list[str]:
    """Where at least so many entries more are."""
    return sorted(path for path in after if after[path] - before[path] >= by)
