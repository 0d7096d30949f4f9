"""The parser of the command line: errors of one sentence with a line of usage, help with examples."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NoReturn

from lucid_maskrcnn import validators
from lucid_maskrcnn.streams import write_text

from .output import say, warn

__all__ = ["HelpFormatter", "Parser", "commands_of"]


class HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs to the terminal, and leaves indented lines, which are examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for kind, lines in itertools.groupby(text.splitlines(), _kind_of):
            block = list(lines)
            filled.append("\n".join(block) if kind != "text" else super()._fill_text("\n".join(block), width, indent))
        return "\n".join(filled)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a sentence on stderr and a line of usage, and exit code 2.

    The sentence names the option and, where an option, a command or a choice is misspelt, the nearest one there is.
    """

    def __init__(self, **options: Any) -> None:
        # An abbreviation would change its meaning with a new option.
        super().__init__(allow_abbrev=False, **{"formatter_class": HelpFormatter} | options)

    # -------------------------------------------------------------- errors

    def check_options(self, arguments: Sequence[str], others: Collection[Parser] = ()) -> None:
        """Exit if one of the arguments is an option that this parser does not have.

        Parameters
        ----------
        arguments : sequence of str
        others : collection of Parser
            Whose options are named where they are given here.
        """
        for argument in itertools.takewhile(lambda a: a != "--", arguments):
            name = argument.partition("=")[0]
            if re.match("--?[a-zA-Z]", name) and name not in self._option_string_actions:
                self.error(f"there is no option {name!r}; {self._instead_of(name, others)}")

    def _instead_of(self, name: str, others: Collection[Parser]) -> str:
        """Return what may have been meant by an option that there is not."""
        near = _nearest_option(name, self._option_string_actions)
        owners = [other.prog.rpartition(" ")[2] for other in others if name in other._option_string_actions]
        if owners and not (near and near.startswith(name)):
            return f"it is an option of {', '.join(map(repr, owners))}."
        return f"did you mean {near!r}?" if near else f"'{self.prog} --help' lists them."

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and how the command is called, and exit."""
        message = re.sub("^argument (.+?): (?=must )", r"\1 ", message).removeprefix("argument ")
        message = re.sub(
            "^the following arguments are required: (.*)", rf"missing: \1; see '{self.prog} --help'", message
        )
        warn(f"{self.prog}: {message}" + ("" if message.endswith((".", "?")) else "."))
        say(self.brief_usage(), to_stderr=True)
        sys.exit(2)

    def brief_usage(self) -> str:
        """Return a line with the arguments that must or may come, without the options that need not."""
        exclusive = [group for group in self._mutually_exclusive_groups if group.required]
        options = [" | ".join(_option(action) for action in group._group_actions) for group in exclusive]
        required = [f"({option})" for option in options]
        required += [_option(a) for a in self._actions if a.option_strings and a.required]
        positional = [_positional(a) for a in self._actions if not a.option_strings]
        return " ".join([f"usage: {self.prog}", *required, *positional, "[OPTIONS]"])

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            try:
                validators.choice("", value, list(action.choices))
            except (TypeError, ValueError) as error:
                raise argparse.ArgumentError(action, str(error).strip()) from error

    def _print_message(self, message: str, file: Any = None) -> None:
        write_text(message, file or sys.stdout)


def _kind_of(line: str) -> str:
    if not line.strip():
        return "empty"
    return "example" if line.startswith("  ") else "text"


def _nearest_option(name: str, known: Collection[str]) -> str | None:
    """Return the option most like a name, None if there is none near; the dashes, which all have, do not count."""
    by_word = {option[2:]: option for option in known if option.startswith("--")}
    word = name.lstrip("-").lower()
    longer = [option for known_word, option in by_word.items() if known_word.startswith(f"{word}-")]
    near = validators.nearest(word, by_word, 0.6)
    return longer[0] if longer else by_word[near] if near else None


def _metavar(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _option(action: argparse.Action) -> str:
    return action.option_strings[-1] + ("" if action.nargs == 0 else f" {_metavar(action)}")


def _positional(action: argparse.Action) -> str:
    name = _metavar(action)
    forms: dict[Any, str] = {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]", "A...": f"{name} ..."}
    return forms.get(action.nargs, name)


def commands_of(parser: argparse.ArgumentParser) -> dict[str, tuple[str, Parser]]:
    """Return the commands of a parser: by name, what the list says of them, and their parsers."""
    found: dict[str, tuple[str, Parser]] = {}
    for action in _subparsers(parser):
        texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
        found |= {name: (texts.get(name, ""), command) for name, command in action.choices.items()}
    return found


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[Any]:
    yield from (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
