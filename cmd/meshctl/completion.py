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
    """For bash; zsh runs it too, by its bashcompinit. Where nothing is offered, the shell offers files."""
    cases = []
    for path, verb in verbs().items():
        fixed, asked = _words_of(_positional(verb))
        words = f'words="{fixed}"; ' if fixed else ""
        ask = f"_meshctl_offer < <({asked}); " if asked else ""
        cases.append(f'    "{" ".join(path)}") {words}{ask}opts="{" ".join(_options(verb))}";;')
    groups = "\n".join(
        f'    "{word}") words="{" ".join(path[1] for path in verbs() if path[0] == word)}";;'
        for word in dict.fromkeys(path[0] for path in verbs() if len(path) == 2)
    )
    names = " ".join(dict.fromkeys(path[0] for path in verbs() if len(path) == 2))
    return _BASH.format(first=" ".join(WORDS), group_words=names, groups=groups, cases="\n".join(cases))


_BASH = """\
# bash completion for meshctl: source <(meshctl completion bash)
# Names and keys are other people's words: compgen would expand what is in them, this does not.
_meshctl_offer() {{
  local word
  [[ "$cur" == -* ]] && return
  while IFS= read -r word; do
    [[ "$word" == "$cur"* ]] && COMPREPLY+=("$(printf %q "$word")")
  done
}}
_meshctl() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}"
  local path="" words="" opts="" at word
  COMPREPLY=()
  case "$prev" in
    -o|--output) COMPREPLY=($(compgen -W "table wide json jsonl name" -- "$cur")); return;;
    --socket) return;;
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
  elif [[ -n "$words" ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi
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


def _quoted(text: str) -> str:
    """Text in single quotes as fish reads them."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_FISH = """\
# fish completion for meshctl: meshctl completion fish | source
function __meshctl_words
    set -l skip no
    for word in (commandline -opc)[2..]
        if test $skip = yes
            set skip no
        else if contains -- $word -o --output --socket
            set skip yes
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end
function __meshctl_exactly
    set -l words (__meshctl_words)
    test "$words" = "$argv"
end
function __meshctl_begins
    set -l words (__meshctl_words)
    test (count $words) -ge (count $argv); and test "$words[1..$(count $argv)]" = "$argv"
end
complete -c meshctl -f
complete -c meshctl -s o -l output -x -a 'table wide json jsonl name' -d 'output format'
complete -c meshctl -l socket -r -F -d 'admin socket'"""


def fish() -> str:
    """For fish."""
    lines = [_FISH]
    for word, entry in WORDS.items():
        lines.append(f"complete -c meshctl -n __meshctl_exactly -a {word} -d {_quoted(entry.summary)}")
    for path, verb in verbs().items():
        if len(path) == 2:
            group = f"'__meshctl_exactly {path[0]}'"
            lines.append(f"complete -c meshctl -n {group} -a {path[1]} -d {_quoted(verb.summary)}")
        lines += _fish_verb(f"complete -c meshctl -n '__meshctl_begins {' '.join(path)}'", verb)
    return "\n".join(lines)


def _fish_verb(start: str, verb: Verb) -> list[str]:
    lines = []
    for item in verb.args:
        takes = "" if item.how.get("action") == "store_true" else " -r"
        lines += [f"{start} -l {name[2:]}{takes}" for name in item.names if name.startswith("--")]
    first = _positional(verb)
    fixed, asked = _words_of(first)
    source = fixed or (f"({asked.replace('$cur', '')})" if asked else "")
    if first is not None:
        lines.append(f"{start} -a '{source}'" if source else f"{start} -F")
    return lines


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
