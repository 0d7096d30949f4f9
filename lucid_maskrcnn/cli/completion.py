"""``completion``: scripts with which a shell completes commands, options, names of weights and files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from lucid_maskrcnn.streams import write_text

from .parser import Parser, commands_of

__all__ = ["add_commands"]

_SHELLS = ("bash", "zsh", "fish", "powershell")
_FOLDERS = {"DIR", "IMAGES"}  # metavars whose values are folders
_FILES = ("FILE", "IMAGE", "ANNOTATIONS", "IN", "OUT", "PATH")  # begin those whose values may be files

_DESCRIPTION = """Print a script with which your shell completes commands, options, names of weights and files. To try
it in the shell that is open:

  source <(lucid-maskrcnn completion bash)
  source <(lucid-maskrcnn completion zsh)
  lucid-maskrcnn completion fish | source
  lucid-maskrcnn completion powershell | Out-String | Invoke-Expression

To keep it, write the line into ~/.bashrc, ~/.zshrc after compinit, ~/.config/fish/config.fish or $PROFILE. The script
is made by shtab, which comes with the extra: pip install 'lucid-maskrcnn[completion]'."""


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    completion = commands.add_parser(
        "completion", help="print a script with which a shell completes commands", description=_DESCRIPTION
    )
    completion.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    completion.set_defaults(run=_completion)


def _completion(args: argparse.Namespace) -> None:
    from . import build_parser

    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            "completion needs shtab, which writes the script: pip install 'lucid-maskrcnn[completion]'."
        ) from error
    parser = build_parser()
    for command in [parser, *(command for _, command in commands_of(parser).values())]:
        _say_what_completes(command, shtab)
    write_text(f"{shtab.complete(parser, args.shell)}\n", sys.stdout)


def _say_what_completes(parser: Parser, shtab: Any) -> None:
    """Give shtab for each argument the files, folders or names that it may be."""
    for action in parser._actions:
        metavar = str(action.metavar or "")
        if action.choices is not None or action.nargs == 0:
            continue
        if "NAME|FILE" in metavar or metavar == "IN":
            names = _weights_names(backbones="backbone" in action.dest)
            action.complete = _names_or_files(names)  # type: ignore[attr-defined]
        elif metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif metavar.startswith(_FILES):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _weights_names(*, backbones: bool) -> list[str]:
    from lucid_maskrcnn.weights import list_weights

    return list(dict.fromkeys(entry.name for entry in list_weights() if (entry.categories is None) == backbones))


def _names_or_files(names: Iterable[str]) -> dict[str, Any]:
    """Return how the shells complete one of some names, or a file."""
    words = " ".join(names)
    # With "_file" in its name, shtab's script has bash treat what it prints as files: folders get a slash.
    function = f"_lucid_maskrcnn_{words.partition(' ')[0]}_or_files"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"(printf '%s\\n' {words}; __fish_complete_path (commandline -ct))",
        "powershell": function,
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "{words}" -- "$1"\n  compgen -f -- "$1"\n}}',
            "zsh": f"{function}() {{\n  compadd -- {words}\n  _files\n}}",
            "powershell": f"function {function} {{\n  param([string]$WordToComplete)\n"
            f"  -split '{words}' | Where-Object {{ $_ -like \"$WordToComplete*\" }}\n"
            "  _shtab_powershell_compgen_files $WordToComplete\n}",
        },
    }
