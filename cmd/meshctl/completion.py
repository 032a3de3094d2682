"""completion: scripts for bash, zsh and fish, made from the verbs themselves."""

from __future__ import annotations

import importlib
from argparse import Namespace
from typing import Any

from meshctl.command import GLOBAL, Arg, Commands, Verb, arg
from meshctl.context import Context
from meshctl.index import WORDS

SHELLS = ("bash", "zsh", "fish")
_ASKED = {
    "NODE": "meshctl members -o name 2>/dev/null",
    "KEY": 'meshctl kv ls "$cur" -o name 2>/dev/null | head -n 200',
    "INVITE": "meshctl invite ls -o name 2>/dev/null",
}


def verbs() -> dict[tuple[str, ...], Verb]:
    """Every verb by its words."""
    found: dict[tuple[str, ...], Verb] = {}
    for word, entry in WORDS.items():
        commands = importlib.import_module(f"meshctl.{entry.module}").COMMANDS[word]
        if isinstance(commands, Verb):
            found[(word,)] = commands._replace(summary=entry.summary)
        else:
            found |= {(word, verb.name): verb for verb in commands}
    return found


def completion(context: Context, args: Namespace) -> None:
    print(_SCRIPTS[args.shell]())


def _options(verb: Verb) -> list[str]:
    return [name for item in (*verb.args, *GLOBAL) for name in item.names if name.startswith("--")] + [
        "--help"
    ]


def _positional(verb: Verb) -> Arg | None:
    return next((item for item in verb.args if not item.names[0].startswith("-")), None)


def _words_of(item: Arg | None) -> tuple[str, str]:
    """Fixed words of a positional argument, or the command that lists them."""
    how: dict[str, Any] = item.how if item else {}
    return " ".join(map(str, how.get("choices", ()))), _ASKED.get(str(how.get("metavar")), "")


def bash() -> str:
    """For bash; zsh runs it too, by its bashcompinit."""
    cases = []
    for path, verb in verbs().items():
        fixed, asked = _words_of(_positional(verb))
        words = f'words="{fixed}"' if fixed else f'words="$({asked})"' if asked else "files=yes"
        cases.append(f'    "{" ".join(path)}") opts="{" ".join(_options(verb))}"; {words};;')
    groups = "\n".join(
        f'    "{word}") words="{" ".join(path[1] for path in verbs() if path[0] == word)}";;'
        for word in dict.fromkeys(path[0] for path in verbs() if len(path) == 2)
    )
    names = " ".join(dict.fromkeys(path[0] for path in verbs() if len(path) == 2))
    return _BASH.format(first=" ".join(WORDS), group_words=names, groups=groups, cases="\n".join(cases))


_BASH = """\
# bash completion for meshctl: source <(meshctl completion bash)
_meshctl() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}"
  local path="" words="" opts="" files="" at word
  case "$prev" in
    -o|--output) COMPREPLY=($(compgen -W "table wide json jsonl name" -- "$cur")); return;;
    --socket) COMPREPLY=($(compgen -f -- "$cur")); return;;
  esac
  for ((at = 1; at < COMP_CWORD; at++)); do
    word="${{COMP_WORDS[at]}}"
    case "$word" in
      -o|--output|--socket) ((at++));;
      -*) ;;
      *) if [[ -z "$path" ]]; then path="$word"; else
           case " {group_words} " in *" $path "*) path="$path $word";; esac
         fi;;
    esac
  done
  case "$path" in
    "") words="{first}";;
{groups}
{cases}
  esac
  if [[ "$cur" == -* ]]; then COMPREPLY=($(compgen -W "$opts --output --socket --help" -- "$cur"))
  elif [[ -n "$files" ]]; then COMPREPLY=($(compgen -f -- "$cur"))
  else COMPREPLY=($(compgen -W "$words" -- "$cur")); fi
}}
complete -o default -F _meshctl meshctl"""


def zsh() -> str:
    """For zsh."""
    return "\n".join(
        [
            "#compdef meshctl",
            "# zsh completion for meshctl: source <(meshctl completion zsh)",
            "autoload -U +X compinit && compinit",
            "autoload -U +X bashcompinit && bashcompinit",
            bash(),
        ]
    )


def fish() -> str:
    """For fish."""
    lines = ["# fish completion for meshctl: meshctl completion fish | source", "complete -c meshctl -f"]
    formats = "table wide json jsonl name"
    lines.append(f"complete -c meshctl -s o -l output -x -a '{formats}' -d 'output format'")
    lines.append("complete -c meshctl -l socket -r -F -d 'admin socket'")
    for word, entry in WORDS.items():
        lines.append(f"complete -c meshctl -n __fish_use_subcommand -a {word} -d '{entry.summary}'")
    for path, verb in verbs().items():
        seen = " ; and ".join(f"__fish_seen_subcommand_from {word}" for word in path)
        if len(path) == 2:
            others = " ".join(other[1] for other in verbs() if other[0] == path[0] and len(other) == 2)
            first = f"__fish_seen_subcommand_from {path[0]}; and not __fish_seen_subcommand_from {others}"
            lines.append(f"complete -c meshctl -n '{first}' -a {path[1]} -d '{verb.summary}'")
        for item in verb.args:
            for name in item.names:
                if name.startswith("--"):
                    takes = "" if item.how.get("action") == "store_true" else " -r"
                    lines.append(f"complete -c meshctl -n '{seen}' -l {name[2:]}{takes}")
        fixed, asked = _words_of(_positional(verb))
        source = fixed or (f"({asked.replace('$cur', '')})" if asked else "")
        if source:
            lines.append(f"complete -c meshctl -n '{seen}' -a '{source}'")
        elif _positional(verb):
            lines.append(f"complete -c meshctl -n '{seen}' -F")
    return "\n".join(lines)


_SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}

COMMANDS: Commands = {
    "completion": Verb(
        "completion",
        completion,
        args=(arg("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish"),),
        text="Print a script that makes the shell complete commands, options, member names and keys.",
        examples=(
            ("source <(meshctl completion bash)", "in ~/.bashrc"),
            ("meshctl completion fish > ~/.config/fish/completions/meshctl.fish", "once"),
        ),
    ),
}
