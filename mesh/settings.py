"""Settings: where each knob's value comes from, checked and named.

    flag  >  environment MESHD_SECTION__KEY  >  conf.d/*.toml, last name first  >  meshd.toml
          >  a document of the mesh (only what can be changed while the agent runs)  >  default

An unknown section or key is refused with its nearest right name, a wrong type with what is expected, and both
with the source that said so: a typing mistake never becomes a default in silence. Variables without a double
underscore are left alone, because container platforms invent names such as MESHD_PORT.

    python -m mesh.settings        prints configs/meshd.toml: every knob, commented out, with its reason
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from mesh.config import SECTIONS, Config
from mesh.errors import ConfigError
from mesh.places import Places, places, socket_in

ENVIRON_PREFIX = "MESHD_"
DEFAULT = "default"
_ADDRESSES = {"net.listen", "net.seeds", "net.announce"}
_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/\s]+)/tcp/(\d{1,5})(/p2p/[A-Za-z0-9]+)?")


class Knob(NamedTuple):
    """One key of a section, as declared in `mesh/config.py`."""

    section: str
    key: str
    type: Any
    default: Any
    reason: str
    reload: bool
    limits: msgspec.Meta

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        return f"{ENVIRON_PREFIX}{self.section}__{self.key}".upper()


class Changes(NamedTuple):
    """What a reload brings: names of knobs it may apply, and of those that wait for a restart."""

    reloadable: list[str]
    restart: list[str]


# Where a knob has no limit of its own: seconds of many lives, bytes of any machine.
_FLOAT_MAX, _INT_MAX = 1e12, 1 << 60


@cache
def knobs() -> dict[str, Knob]:
    """Every knob by its name `section.key`, in the order of the file."""
    return {knob.name: knob for section, cls in SECTIONS.items() for knob in _knobs_of(section, cls)}


def _knobs_of(section: str, cls: type[msgspec.Struct]) -> Iterator[Knob]:
    hints = get_type_hints(cls, include_extras=True)
    defaults = cls()
    for key in cls.__struct_fields__:
        hint = hints[key]
        assert get_origin(hint) is Annotated, f"{section}.{key} lacks its knob(...)"
        kind, meta = get_args(hint)
        yield Knob(section, key, kind, getattr(defaults, key), meta.description, meta.extra["reload"], meta)


def load(
    file: str | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    where: Places | None = None,
) -> Config:
    """Read every source and put the winner of each knob into one Config.

    Args:
        file: the configuration file; it must exist when named. None: the default place, which may be absent.
        flags: `section.key` -> value from the command line; None values are flags not given.
        environ: environment variables; the process's own when None.
        where: default places; those of the user when None.

    Raises:
        ConfigError: an unreadable file, an unknown name or a value that is refused; the message names it,
            its source and what is expected.
    """
    env = os.environ if environ is None else environ
    where = where or places(env)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    files = tuple(_files(file, where))
    sources = [*((path, _read(path)) for path in files), ("environment", _from_environment(env))]
    sources.append(("flag", {name: value for name, value in (flags or {}).items() if value is not None}))
    for source, found in sources:
        for name, value in found.items():
            origin = f"environment {knobs()[name].variable}" if source == "environment" else source
            values[name] = _checked(knobs()[name], value, origin)
            origins[name] = origin
    _place(values, origins, where)
    sections = {
        section: cls(
            **{
                key: values[f"{section}.{key}"]
                for key in cls.__struct_fields__
                if f"{section}.{key}" in values
            }
        )
        for section, cls in SECTIONS.items()
    }
    return Config(**sections, origins=origins, files=files)  # type: ignore[arg-type]


def _place(values: dict[str, Any], origins: dict[str, str], where: Places) -> None:
    """Fill in the data directory and the socket: a data directory named on purpose holds its own socket."""
    named = values.get("node.data_dir")
    if not values.get("admin.socket"):
        values["admin.socket"] = socket_in(named) if named else where.socket
        origins.pop("admin.socket", None)
    values["node.data_dir"] = os.path.abspath(named) if named else where.data_dir


def _files(file: str | None, where: Places) -> Iterator[str]:
    """The configuration files to read, weakest first: the file, then conf.d beside it in order of name."""
    if file is not None and not os.path.isfile(file):
        raise ConfigError(
            f"no configuration file {file}", "name an existing file with --config, or leave it out"
        )
    path = os.path.abspath(file or where.config_file)
    if os.path.isfile(path):
        yield path
    more = os.path.join(os.path.dirname(path), "conf.d")
    if os.path.isdir(more):
        yield from (os.path.join(more, name) for name in sorted(os.listdir(more)) if name.endswith(".toml"))


def _read(path: str) -> dict[str, Any]:
    """The knobs a file sets, by name."""
    import tomllib

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", "the format is TOML: https://toml.io") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    found: dict[str, Any] = {}
    for section, table in document.items():
        if section not in SECTIONS:
            raise _unknown("section", section, SECTIONS, path)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} is a section", f"write [{section}] and its keys below it")
        for key, value in table.items():
            if f"{section}.{key}" not in knobs():
                raise _unknown("key", f"{section}.{key}", knobs(), path)
            found[f"{section}.{key}"] = value
    return found


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    """The knobs that variables set, their text turned into what the knob holds."""
    by_variable = {knob.variable: knob for knob in knobs().values()}
    found = {}
    for variable in sorted(env):
        if not variable.startswith(ENVIRON_PREFIX) or "__" not in variable:
            continue
        if variable not in by_variable:
            raise _unknown("variable", variable, by_variable, "the environment")
        knob = by_variable[variable]
        found[knob.name] = _from_text(knob, env[variable])
    return found


def _from_text(knob: Knob, text: str) -> Any:
    """A variable's text: lists are parted by commas, tables are written name=value,name=value."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if get_origin(knob.type) is dict:
        return dict(part.partition("=")[::2] for part in parts)
    element = get_args(knob.type)[0] if get_origin(knob.type) is tuple else knob.type
    try:
        if get_origin(knob.type) is tuple:
            return [msgspec.convert(part, element, strict=False) for part in parts]
        return msgspec.convert(text, element, strict=False)
    except msgspec.ValidationError:
        return text  # refused by name in _checked


def _checked(knob: Knob, value: Any, origin: str) -> Any:
    """The value as the knob's type, or a ConfigError that says what is expected."""
    try:
        checked = msgspec.convert(value, Annotated[knob.type, knob.limits])
        if isinstance(checked, float) and not math.isfinite(checked):
            raise ValueError(checked)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(
            f"{origin}: {knob.name} = {value!r}: expected {expected(knob)}", knob.reason
        ) from error
    most = _FLOAT_MAX if isinstance(checked, float) else _INT_MAX
    if isinstance(checked, int | float) and abs(checked) > most:
        raise ConfigError(f"{origin}: {knob.name} = {value!r:.40}: at most {most:g} makes sense", knob.reason)
    for item in checked if knob.name in _ADDRESSES else ():
        if not _is_address(item, dialled=knob.name != "net.listen"):
            example = "/ip4/192.0.2.7/tcp/6374"
            raise ConfigError(
                f"{origin}: {knob.name}: {item!r} is no address we know", f"write it like {example}"
            )
    if knob.name == "node.location" and len(checked) not in (0, 2):
        raise ConfigError(f"{origin}: {knob.name} = {value!r}: expected [latitude, longitude]", "in degrees")
    return checked


def _is_address(text: str, *, dialled: bool) -> bool:
    """Whether a multiaddr is one we can use: only addresses that are dialled may hold a name or a peer id."""
    match = _ADDRESS.fullmatch(text)
    if not match or int(match[3]) > 65_535:
        return False
    if match[1].startswith("dns") or match[4]:
        return dialled
    try:
        return ipaddress.ip_address(match[2]).version == int(match[1][2])
    except ValueError:
        return False


def _unknown(what: str, name: str, known: Iterable[str], origin: str) -> ConfigError:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return ConfigError(
        f"{origin}: unknown {what} {name}", f"did you mean {near[0]}?" if near else "see configs/meshd.toml"
    )


def expected(knob: Knob) -> str:
    """What a knob takes, in words: `a number, at least 0`."""
    kind, limits = knob.type, knob.limits
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if get_origin(kind) is dict:
        return 'a table of text, e.g. {name = "value"}'
    if get_origin(kind) is tuple:
        return "a list of " + ("numbers" if get_args(kind)[0] is float else "texts")
    bounds = {"at least": limits.ge, "above": limits.gt, "at most": limits.le}
    return ", ".join(
        [words[kind], *(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)]
    )


def knob_named(word: str) -> str:
    """The name of a knob from what people type: `log.level`, or `log_level`.

    Raises:
        UsageError: there is none.
    """
    by_word = {name.replace(".", "_"): name for name in knobs()}
    if word in knobs() or word in by_word:
        return by_word.get(word, word)
    raise _unknown("setting", word, knobs(), "the document")


def check_document(name: str, value: Any, origin: str) -> Any:
    """A document's value for a knob, as the knob's type.

    Raises:
        ConfigError: unknown, not to be changed while the agent runs, or of a wrong type.
    """
    knob = knobs().get(name)
    if knob is None:
        raise _unknown("setting", name, knobs(), origin)
    if not knob.reload:
        raise ConfigError(
            f"{origin}: {name} cannot be set by the mesh: it counts after a restart only",
            "set it in the device's own meshd.toml",
        )
    return _checked(knob, value, origin)


def with_document(config: Config, document: Mapping[str, tuple[str, Any]]) -> Config:
    """A configuration with what a document of the mesh says where nothing of the device's own does.

    Args:
        config: as `load` gave it.
        document: name of a knob -> the scope it is from, and its value, checked before.
    """
    sections: dict[str, dict[str, Any]] = {}
    origins = dict(config.origins)
    for name, (scope, value) in document.items():
        if name not in config.origins and name in knobs():
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = check_document(name, value, f"document {scope}")
            origins[name] = f"document {scope}"
    changed = {
        section: msgspec.structs.replace(getattr(config, section), **values)
        for section, values in sections.items()
    }
    return msgspec.structs.replace(config, **changed, origins=origins)


def diff(old: Config, new: Config) -> Changes:
    """Which knobs differ between two configurations, parted by whether SIGHUP can apply them."""
    changed = [knob for knob in knobs().values() if value_of(old, knob.name) != value_of(new, knob.name)]
    return Changes(
        [knob.name for knob in changed if knob.reload], [knob.name for knob in changed if not knob.reload]
    )


def in_force(running: Config, new: Config) -> Config:
    """What an agent goes by that runs with one configuration and has read another.

    Of settings that count after a restart only, the value and its origin stay; `pending` has the new ones.
    """
    waiting = diff(running, new).restart
    kept: dict[str, dict[str, Any]] = {}
    origins = {name: origin for name, origin in new.origins.items() if name not in waiting}
    for name in waiting:
        section, _, key = name.partition(".")
        kept.setdefault(section, {})[key] = value_of(running, name)
        if name in running.origins:
            origins[name] = running.origins[name]
    sections = {
        section: msgspec.structs.replace(getattr(new, section), **values) for section, values in kept.items()
    }
    pending = {name: value_of(new, name) for name in waiting}
    return msgspec.structs.replace(new, **sections, origins=origins, pending=pending)


def value_of(config: Config, name: str) -> Any:
    """The value of the knob `section.key`."""
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def show(config: Config) -> list[dict[str, Any]]:
    """One row per knob for `config show`: name, value, origin, default, reloadable, pending.

    `value` is what the agent goes by; where a reload has found another one that counts after a restart,
    `pending` is a list of that one, else it is empty.
    """
    return [
        {
            "key": knob.name,
            "value": msgspec.to_builtins(value_of(config, knob.name)),
            "origin": config.origins.get(knob.name, DEFAULT),
            "default": msgspec.to_builtins(knob.default),
            "reloadable": knob.reload,
            "pending": [msgspec.to_builtins(config.pending[knob.name])]
            if knob.name in config.pending
            else [],
        }
        for knob in knobs().values()
    ]


def toml(value: Any) -> str:
    """A value in TOML's notation."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def defaults_file() -> str:
    """The text of configs/meshd.toml."""
    lines = [
        "# Every setting of meshd with its default. Uncomment what you change; what is commented out is the"
    ]
    lines += ["# default. `+` after the reason: applied on SIGHUP; the others wait for a restart."]
    for section, cls in SECTIONS.items():
        comment = (cls.__doc__ or "").strip().splitlines()
        lines += ["", *(f"# {line.strip()}".rstrip() for line in comment), f"[{section}]"]
        for knob in (knob for knob in knobs().values() if knob.section == section):
            lines += [f"# {knob.reason}{' +' if knob.reload else ''}", f"#{knob.key} = {toml(knob.default)}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(defaults_file(), end="")
