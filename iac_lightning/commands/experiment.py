"""Commands on an experiment's settings alone: they need no data."""

from __future__ import annotations

import argparse

from iac_lightning.commands.command import EXPERIMENT, command
from iac_lightning.config.schema import ExperimentConfig


def load(arguments: argparse.Namespace) -> ExperimentConfig:
    """The experiment of a command, checked: before torch is imported, so that a typing mistake is answered at once."""
    from iac_lightning.config.reading import load_experiment

    return load_experiment(arguments.experiment, arguments.overrides)


@command("config", "print the resolved config of an experiment", *EXPERIMENT, prints=True)
def config(arguments: argparse.Namespace) -> None:
    """`iac config`."""
    from iac_lightning.config.stored import to_yaml

    print(to_yaml(load(arguments)), end="")


@command("plan", "shapes, parameters, steps and memory of an experiment, without data", *EXPERIMENT, prints=True)
def plan(arguments: argparse.Namespace) -> None:
    """`iac plan`."""
    print_plan(load(arguments))


def print_plan(experiment: ExperimentConfig) -> None:
    """What an experiment would do."""
    from iac_lightning.workflows.plan import plan

    print(plan(experiment))
