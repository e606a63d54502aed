"""How a command is declared: its words on the command line and its function, in one place."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Option = Callable[[Any], None]
"""Adds itself to a parser, or to a group of one."""
Function = Callable[[argparse.Namespace], int | None]
"""What a command does with its options; returns the status to end with, None for 0."""


@dataclass(frozen=True)
class Command:
    """One command of `iac`.

    Attributes:
        name: after `iac`.
        help: a line in the list of commands.
        options: added to its parser in this order.
        run: what it does.
        prints: its result is what it prints, so that lost output is a failure.
    """

    name: str
    help: str
    options: tuple[Option, ...]
    run: Function
    prints: bool = False

    def add_to(self, commands: Any) -> None:
        """Declare the command to argparse; the parsed arguments hold it as `command`."""
        parser = commands.add_parser(self.name, help=self.help)
        parser.set_defaults(command=self)
        for add in self.options:
            add(parser)


@dataclass(frozen=True)
class Family:
    """A command that is followed by one of several others, such as `iac export nnunet`.

    Attributes:
        name: after `iac`.
        help: a line in the list of commands.
        usage: how it is called.
        metavar: what its members are called in help.
        members: of which one must be named, but for `default`.
        default: the member that is meant where none is named.
    """

    name: str
    help: str
    usage: str
    metavar: str
    members: tuple[Command, ...]
    default: Command | None = None

    def with_default(self, words: list[str]) -> list[str]:
        """The words after the family's name, with that of the default member where they name none."""
        named = {*(member.name for member in self.members), "-h", "--help"}
        return words if self.default is None or not words or words[0] in named else [self.default.name, *words]

    def add_to(self, commands: Any) -> None:
        """Declare all of them to argparse."""
        parser = commands.add_parser(self.name, help=self.help, usage=self.usage)
        below = parser.add_subparsers(metavar=self.metavar, required=True)
        for member in self.members:
            member.add_to(below)


def command(name: str, help: str, *options: Option, prints: bool = False) -> Callable[[Function], Command]:
    """Turn a function into a command: ``@command("plan", "shapes and steps", *EXPERIMENT)``."""
    return lambda function: Command(name, help, options, function, prints)


def option(*names: str, **settings: Any) -> Option:
    """An argument, in the words of `argparse.ArgumentParser.add_argument`."""
    return lambda parser: parser.add_argument(*names, **settings)


def group(title: str, *options: Option) -> Option:
    """Options under a heading of their own."""

    def add(parser: Any) -> None:
        section = parser.add_argument_group(title)
        for add_one in options:
            add_one(section)

    return add


def one_of(*options: Option) -> Option:
    """Options of which exactly one must be given."""

    def add(parser: Any) -> None:
        choice = parser.add_mutually_exclusive_group(required=True)
        for add_one in options:
            add_one(choice)

    return add


def settings(help: str) -> Option:
    """`key=value` among the arguments."""
    return option("overrides", nargs="*", metavar="key=value", help=help)


def takes_settings(parser: argparse.ArgumentParser) -> None:
    """The option of a command that finds `key=value` among its other arguments, and wherever they follow options."""
    parser.set_defaults(overrides=[])


def paths_apart(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Runs, and the `key=value` settings that stand among them or after an option."""
    words = [*arguments.runs, *arguments.overrides]
    return [Path(w) for w in words if "=" not in w or Path(w).exists()], [
        w for w in words if "=" in w and not Path(w).exists()
    ]


EXPERIMENT: tuple[Option, ...] = (
    option("experiment", type=Path, help="YAML file, such as experiments/finetune/vit_mae.yaml"),
    settings("settings that win over the file"),
)
"""An experiment's file, and settings beside it; read by `load`."""
DRY_RUN = option("--dry-run", action="store_true", help="the plan only")


def split(default: str | None = "test", *, help: str) -> Option:
    """Which labelled split is measured."""
    return option("--split", choices=("dev", "test"), default=default, help=help)
