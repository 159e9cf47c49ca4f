"""isochrone completion: scripts that complete commands, recipes and options in bash, zsh and fish."""

from __future__ import annotations

import argparse

from isochrone.cli.args import Parser, one
from isochrone.cli.output import show
from isochrone.core.errors import UserError, did_you_mean

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = """\
  eval "$(isochrone completion bash)"                                       in ~/.bashrc
  eval "$(isochrone completion zsh)"                                        in ~/.zshrc, after compinit
  isochrone completion fish > ~/.config/fish/completions/isochrone.fish
"""
BASH = """\
_isochrone() {{
  local words
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "${{COMP_WORDS[1]}}"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o filenames -F _isochrone isochrone
"""
ZSH = """\
_isochrone() {{
  local words_
  if (( CURRENT == 2 )); then
    compadd -- {commands}
    return
  fi
  case "${{words[2]}}" in
{cases}
  esac
  compadd -- ${{=words_}}
  _files
}}
compdef _isochrone isochrone
"""


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "completion",
        ["bash|zsh|fish"],
        "Prints a script that completes commands, recipes and options of isochrone in a shell.",
        EXAMPLES,
    )
    out.add_argument("shell", nargs="*", metavar="SHELL", help=", ".join(SHELLS))
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0."""
    shell = one(args.shell, "shell", "bash")
    if shell not in SHELLS:
        raise UserError(f"no completion for '{shell}'{did_you_mean(shell, SHELLS)}")
    show(script(shell), end="")
    return 0


def script(shell: str) -> str:
    """The completion script of one shell."""
    from isochrone.cli import COMMANDS

    words = {name: candidates(name) for name in COMMANDS}
    if shell == "fish":
        lines = ["complete -c isochrone -n __fish_use_subcommand -f"]
        for name, text in COMMANDS.items():
            lines.append(f"complete -c isochrone -n __fish_use_subcommand -a {name} -d '{text}'")
            seen = f"complete -c isochrone -n '__fish_seen_subcommand_from {name}' -a '{' '.join(words[name])}'"
            lines.append(seen)
        return "\n".join(lines) + "\n"
    variable = "words" if shell == "bash" else "words_"
    cases = "\n".join(f'    {name}) {variable}="{" ".join(some)}" ;;' for name, some in words.items())
    return (BASH if shell == "bash" else ZSH).format(commands=" ".join(COMMANDS), cases=cases)


def candidates(command: str) -> list[str]:
    """What may follow a command: its options, recipes, kinds or subcommands, and the options of the config."""
    from isochrone.cli import data, listing, module_of
    from isochrone.core import registry
    from isochrone.core.config import option_paths
    from isochrone.recipes.schema import Config

    parser = module_of(command).parser()
    out = [f"--{name}" for name in parser.names()]
    if command in ("train", "routes"):
        out += registry.names("recipe")
    out += {"data": data.ACTIONS, "list": listing.KINDS, "completion": SHELLS}.get(command, ())
    return out + ([f"--{path.replace('_', '-')}" for path in option_paths(Config())] if parser.config_options else [])
