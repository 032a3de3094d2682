"""The command line of `meshd`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

import mesh
from mesh.errors import UsageError

_PLACES = textwrap.dedent(
    """\
    Places: as root /etc/meshd/meshd.toml, conf.d/*.toml beside it, /var/lib/meshd and
    /run/meshd/admin.sock; for other users the XDG directories. --data-dir puts everything
    of a node in one directory, so that several run on one machine.
    """
)
_FIRST_STEPS = textwrap.dedent(
    """\
    first device    meshd init --name hall --mesh home
                    meshd run
                    meshctl invite create            prints a token
    next device     meshd join TOKEN --name attic
                    meshd run
    """
)


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = argparse.ArgumentParser(
        prog="meshd",
        description="The agent of the mesh: the same on every device, no controller.",
        epilog=_FIRST_STEPS + "\n" + _PLACES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"meshd {mesh.__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", title="commands")
    _add_init(verbs)
    _add_join(verbs)
    _add_run(verbs)
    _add_validate(verbs)
    return top


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The words of the command line.

    Raises:
        UsageError: an option that does not exist, or a word too many.
    """
    top = parser()
    options, left = top.parse_known_args(argv)
    if not left:
        return options
    command = f"meshd {options.verb}" if options.verb else "meshd"
    if not left[0].startswith("-"):
        raise UsageError(f"too many words: {' '.join(left)}", f"{command} --help")
    import difflib

    name = left[0].partition("=")[0]
    known = _options_of(top, options.verb)
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{command} --help"
    raise UsageError(f"{command} has no option {name}", hint)


def _options_of(top: argparse.ArgumentParser, verb: str | None) -> list[str]:
    found = top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction) and verb is not None:
            found = action.choices[verb]
    return list(found._option_string_actions)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, more: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=summary,
        description=textwrap.dedent(more),
        epilog=_PLACES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.add_argument("--config", metavar="FILE", help="configuration file")
    verb.add_argument("--data-dir", metavar="DIR", help="keys, certificate and store of this node")
    return verb


def _add_node_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--name", metavar="NAME", help="what this node is called (default: the host's name)")
    verb.add_argument("--zone", metavar="ZONE", help="zone of the node (default: the mesh's, 'default')")
    verb.add_argument("--tier", metavar="TIER", help="a label: device, edge, region or cloud")
    verb.add_argument(
        "--label",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a word to select nodes by; may be given several times",
    )


def _add_init(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(
        verbs,
        "init",
        "make a mesh on this device",
        """\
        Make a mesh on this device: its root key, and this device as its first node and admin.

        The root key is written to root.key in the data directory. Daily work does not need it:
        move it to a safe place. It brings a mesh back whose last admin is lost.
        """,
    )
    _add_node_options(verb)
    verb.add_argument("--mesh", metavar="NAME", default="mesh", help="what the mesh is called (%(default)s)")


def _add_join(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(
        verbs,
        "join",
        "join a mesh with an invite",
        """\
        Enrol this device with an invite that an admin made with `meshctl invite create`.

        Works without a network: the token is checked, and the device certifies itself with it.
        Members have the last word when `meshd run` first reaches one of them; a refusal (used up,
        revoked) shows in `meshctl status` and ends `meshd run` with status 6.
        """,
    )
    verb.add_argument(
        "token",
        metavar="TOKEN",
        help="the invite, one line; - reads it from standard input, @FILE from a file",
    )
    _add_node_options(verb)


def _add_run(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(
        verbs,
        "run",
        "run the agent",
        """\
        Run the agent in the foreground until SIGTERM or SIGINT, which stop it without leaving the mesh.
        SIGHUP reads the configuration again. Flags go before the environment (MESHD_SECTION__KEY), that
        before configuration files.
        """,
    )
    address = "e.g. /ip4/0.0.0.0/tcp/6374; may be given several times"
    verb.add_argument("--listen", metavar="MULTIADDR", action="append", help=f"listen here, {address}")
    verb.add_argument(
        "--seed", metavar="MULTIADDR", action="append", help="a member to try first; several too"
    )
    verb.add_argument("--admin-socket", metavar="PATH", help="unix socket for meshctl")
    verb.add_argument(
        "--profile",
        choices=["local", "lan", "wan", "metered"],
        help="kind of network between members (default: lan)",
    )
    verb.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        help="least level written (default: info)",
    )


def _add_validate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _verb(
        verbs,
        "validate",
        "check the configuration and the node's keys",
        """\
        Check the configuration and, where there is one, this device's node, without changing or starting
        anything. Prints what was read; status 0 when `meshd run` would accept it.
        """,
    )
