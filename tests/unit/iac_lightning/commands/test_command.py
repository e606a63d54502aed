"""A command's declaration becomes its parser."""

from __future__ import annotations

import argparse

import pytest

from iac_lightning.commands.command import Command, Family, command, group, one_of, option, settings


@command(
    "cut",
    "cut it",
    option("what"),
    settings("settings"),
    group("more", option("--deep", action="store_true")),
    one_of(option("--here"), option("--there")),
)
def cut(arguments: argparse.Namespace) -> int:
    return 7


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    cut.add_to(commands)
    Family("give", "give it", "give cut WHAT", "WHAT", (cut,)).add_to(commands)
    return parser.parse_args(words)


def test_the_function_is_the_command() -> None:
    assert isinstance(cut, Command)
    arguments = parsed("cut", "cake", "a=1", "--deep", "--here", "x")
    assert (arguments.what, arguments.overrides, arguments.deep, arguments.here) == ("cake", ["a=1"], True, "x")
    assert arguments.command is cut
    assert arguments.command.run(arguments) == 7


def test_exactly_one_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["cut", "cake"], ["cut", "cake", "--here", "x", "--there", "y"]):
        with pytest.raises(SystemExit):
            parsed(*words)
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_member_of_a_family() -> None:
    assert parsed("give", "cut", "cake", "--here", "x").command is cut
    with pytest.raises(SystemExit):
        parsed("give")
