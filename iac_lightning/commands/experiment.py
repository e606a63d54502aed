"""Commands on an experiment's settings alone: they need no data."""

from __future__ import annotations

import argparse
import sys

from data_modules.errors import UserError
from iac_lightning.commands.command import EXPERIMENT, command, option
from iac_lightning.config.schema import ExperimentConfig


def load(arguments: argparse.Namespace) -> ExperimentConfig:
    """The experiment of a command, checked: before torch is imported, so that a typing mistake is answered at once.

    A line on standard error says where an experiment runs at a processor's size.
    """
    from iac_lightning.config.profiles import profile_words
    from iac_lightning.config.reading import load_experiment
    from iac_lightning.runs.directory import is_main_process

    experiment = load_experiment(arguments.experiment, arguments.overrides)
    if (words := profile_words(experiment)) and is_main_process():
        print(words, file=sys.stderr)
    return experiment


@command("config", "print the resolved config of an experiment", *EXPERIMENT, prints=True)
def config(arguments: argparse.Namespace) -> None:
    """`iac config`."""
    from iac_lightning.config.stored import to_yaml

    print(to_yaml(load(arguments)), end="")


@command(
    "plan",
    "shapes, parameters, steps, memory of an experiment, and what its grid lets anybody reach",
    *EXPERIMENT,
    option(
        "--ceiling",
        type=int,
        metavar="SERIES",
        help="measure the grid's ceiling on so many labelled series (without this: on some prepared ones, if any)",
    ),
    prints=True,
)
def plan(arguments: argparse.Namespace) -> None:
    """`iac plan`."""
    experiment = load(arguments)
    if arguments.ceiling is not None and arguments.ceiling < 1:
        raise UserError(f"--ceiling {arguments.ceiling}: expected how many series to measure, at least 1")
    print_plan(experiment)
    from iac_lightning.workflows.ceiling import ceiling_words

    print(ceiling_words(experiment, arguments.ceiling))


def print_plan(experiment: ExperimentConfig) -> None:
    """What an experiment would do."""
    from iac_lightning.workflows.plan import plan

    print(plan(experiment))
