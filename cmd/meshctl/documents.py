"""Files that people write: TOML, JSON or YAML, with one table or several."""

from __future__ import annotations

from typing import Any

from mesh.errors import UsageError
from meshctl import parse

YAML = (".yaml", ".yml")


def read(path: str, word: str) -> list[dict[str, Any]]:
    """The tables of a file: itself, its `[[word]]` entries, or the elements of its list.

    Raises:
        UsageError: it is none of these, or cannot be read.
    """
    raw = _loaded(path)
    found = _tables(raw, word)
    for name, value in raw.items() if isinstance(raw, dict) and len(raw) == 1 else ():
        if name != word and isinstance(value, list) and all(isinstance(each, dict) for each in value):
            raise UsageError(f"{path}: [[{name}]] is not read", f"[[{word}]]")
    if not found or not all(isinstance(each, dict) for each in found):
        raise UsageError(f"{path} holds no {word}", f"one table, or [[{word}]] tables")
    return found


def _tables(raw: Any, word: str) -> list[Any]:
    if isinstance(raw, dict) and isinstance(raw.get(word), list) and len(raw) == 1:
        return list(raw[word])
    return raw if isinstance(raw, list) else [raw]


def _loaded(path: str) -> Any:
    data = parse.read_bytes(path)
    if path.endswith(YAML):
        return _yaml(data, path)
    if path.endswith(".json") or data.lstrip()[:1] in (b"{", b"["):
        return _json_or_toml(data, path)
    return _toml(data, path)


def _json_or_toml(data: bytes, path: str) -> Any:
    """A TOML file may begin with a bracket too: [[workload]]."""
    if not path.endswith(".json") and data.lstrip()[:2] == b"[[":
        return _toml(data, path)
    return parse.parse_json(data, path)


def _toml(data: bytes, path: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", 'name = "web"') from None


def _yaml(data: bytes, path: str) -> Any:
    import yaml

    try:
        found = [each for each in yaml.safe_load_all(data) if each is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    return found[0] if len(found) == 1 else found
