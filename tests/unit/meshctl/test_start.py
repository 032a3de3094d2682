"""What is loaded, and that every verb explains itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshctl.command import Parser
from meshctl.completion import verbs
from meshctl.index import INDEX, WORDS

Run = Callable[..., Any]

HEAVY = {
    "trio",
    "msgspec",
    "h11",
    "cbor2",
    "nacl",
    "lmdb",
    "libp2p",
    "psutil",
    "asyncio",
    "http",
    "email",
    "urllib",
    "inspect",
    "dataclasses",
    "subprocess",
    "logging",
    "textwrap",
    "shutil",
    "tempfile",
    "csv",
}
OURS = {"mesh", "mesh.errors", "mesh.client"}
COMMANDS = ["members", "status", "kv get k", "kv put k v", "pub t v", "node show beta", "counter add c"]

# The commands that people were promised.
PROMISED = [
    "status",
    "members",
    "doctor",
    "leave",
    "ping",
    "rtt",
    "reachability",
    "events",
    "metrics",
    "links",
    "log-level",
    "completion",
    "version",
    "pub",
    "sub",
    "request",
    "query",
    "backup",
    "restore",
]
PROMISED_GROUPS = {
    "node": "show drain cordon label force-leave uncordon undrain prune forget move-zone",
    "invite": "create ls revoke",
    "cert": "show revoke",
    "kv": "get put delete ls watch history cas export import",
    "mv": "get put delete",
    "set": "add remove members",
    "counter": "add get",
    "log": "append read",
    "map": "set get del",
    "flag": "enable disable get",
    "config": "show",
    "debug": "bundle",
    "service": "ls show watch register deregister pass warn fail resolve",
    "shard": "lookup watch",
    "route": "explain show set delete",
    "token": "create ls revoke",
    "proxy": "show",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_only_what_it_needs(command: str, environ: dict[str, str]) -> None:
    code = (
        "import sys; from meshctl.__main__ import main; main(sys.argv[1:]);"
        "print(' '.join(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], env=environ, capture_output=True, text=True
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    ours = {name for name in loaded if name.partition(".")[0] == "mesh"}
    assert {name for name in ours if not name.startswith("mesh.client.")} <= OURS
    assert {name for name in loaded if name.startswith("meshctl.")} & {
        "meshctl.completion",
        "meshctl.rows",
    } == set()


def test_every_promised_verb_is_there() -> None:
    known = set(verbs())
    assert {(word,) for word in PROMISED} <= known
    assert {(word, verb) for word, text in PROMISED_GROUPS.items() for verb in text.split()} <= known


@pytest.mark.parametrize("path", sorted(verbs()), ids=" ".join)
def test_every_verb_has_a_manual_page(path: tuple[str, ...]) -> None:
    verb = verbs()[path]
    text = Parser(path, verb).format_help()
    for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "EXIT STATUS", "COMMON OPTIONS"):
        assert f"\n{title}\n" in f"\n{text}"
    assert verb.summary
    assert not verb.summary.endswith(".")
    assert "None" not in text
    for command, what in verb.examples:
        assert " ".join(["meshctl", *path]) in command or "completions" in command
        assert what
    assert all(len(line) <= 100 for line in text.splitlines())
    for names, how in verb.args:
        assert how.get("help"), names


@pytest.mark.parametrize(
    "words", [["--help"], ["help"], ["-h"], ["kv", "--help"], ["kv", "get", "-h"], ["help", "kv", "get"]]
)
def test_help_is_an_answer_not_an_error(meshctl: Run, words: list[str]) -> None:
    done = meshctl(*words)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("NAME\n")


def test_the_overview_names_every_first_word(meshctl: Run) -> None:
    text = meshctl("--help").out
    assert all(f"    {word} " in text for word in WORDS)
    assert all(title in text for title in INDEX)


def test_version_as_an_option(meshctl: Run) -> None:
    assert meshctl("--version").out.startswith("meshctl ")


def complete(script: str, environ: dict[str, str], *line: str) -> list[str]:
    """What bash would offer for the last word of a line."""
    ask = (
        f'{script}\nmeshctl() {{ {sys.executable} -m meshctl "$@"; }}\n'
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _meshctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", ask, "bash", "meshctl", *line], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_words_options_nodes_and_keys(meshctl: Run, environ: dict[str, str]) -> None:
    script = meshctl("completion", "bash").out
    meshctl("kv", "put", "complete/me", "1")
    assert complete(script, environ, "mem") == ["members"]
    assert complete(script, environ, "kv", "de") == ["delete"]
    assert complete(script, environ, "-o", "js") == ["json", "jsonl"]
    assert complete(script, environ, "-o", "json", "node", "dr") == ["drain"]
    assert complete(script, environ, "node", "drain", "be") == ["beta"]
    assert complete(script, environ, "kv", "get", "complete/") == ["complete/me"]
    assert complete(script, environ, "kv", "put", "--dur") == ["--durable"]
    assert complete(script, environ, "log-level", "w") == ["warning"]


def test_what_others_named_is_never_run_by_completing_it(
    meshctl: Run, environ: dict[str, str], tmp_path: Path
) -> None:
    script = meshctl("completion", "bash").out
    for key in ("evil/$(touch pwned)", "evil/`touch pwned`", "evil/;touch pwned", "evil/a b", "evil/*"):
        meshctl("kv", "put", key, "1")
    offered = complete(script, environ, "kv", "get", "evil/")
    assert r"evil/\$\(touch\ pwned\)" in " ".join(offered)
    assert not (tmp_path / "pwned").exists()
    assert not Path("pwned").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_every_verb(meshctl: Run, shell: str) -> None:
    script = meshctl("completion", shell).out
    for path in verbs():
        assert path[-1] in script
