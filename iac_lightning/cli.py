"""`iac …`: reads the command line, runs the command, and turns what stops it into a message and a status."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from data_modules.system_errors import in_words
from iac_lightning import terminal
from iac_lightning.cluster import ranks
from iac_lightning.cluster.slurm import RequeuedError, requeue_on_signal
from iac_lightning.commands import data, evaluation, experiment, export, intake, reports, training
from iac_lightning.commands.command import Command, Family

COMMANDS: tuple[Command | Family, ...] = (
    data.phantom,
    intake.import_,
    data.split,
    experiment.config,
    experiment.plan,
    data.prepare,
    training.pretrain,
    training.finetune,
    training.profile,
    training.sweep,
    training.cell,
    training.cells,
    evaluation.ensemble,
    evaluation.calibrate,
    evaluation.evaluate,
    evaluation.predict,
    reports.report,
    reports.compare,
    evaluation.stress,
    training.demo,
    export.export,
    reports.ui,
)
"""In the order of `iac --help`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what its user can mend is printed without traceback and gives status 2."""
    terminal.make_robust()
    arguments = parse(argv)
    ranks.forget_stray_variables()
    try:
        with requeue_on_signal():
            status = int(arguments.command.run(arguments) or 0)
    except RequeuedError:
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        words = in_words(error, arguments.command.name)
        if words is None:
            raise
        cut = re.sub(r"\S{600,}", lambda found: f"{found.group()[:300]}…", str(words))  # a value may be a whole file
        print(f"error: {cut}", file=sys.stderr)
        return 2
    if lost := terminal.lost_output():
        print(f"warning: what was printed is lost ({lost.strerror}); the work itself is done", file=sys.stderr)
        return status or int(arguments.command.prints)
    return status


def run_in_job(command: Sequence[str], folder: str) -> None:
    """What a SLURM job runs: one `iac` command, in the folder where it was submitted; ends with its status."""
    os.chdir(folder)
    status = main(command)
    if status:
        sys.exit(status)  # a dependency `afterok` looks at it


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with `key=value` settings on either side of options, which argparse alone does not take.

    Returns:
        The options, the `command` that they belong to, and as `job_entry` what a SLURM job would call.
    """
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    for family in COMMANDS:
        if isinstance(family, Family) and words[:1] == [family.name]:
            words[1:] = family.with_default(words[1:])
    arguments, rest = parser.parse_known_args(words)
    foreign = [word for word in rest if "overrides" not in arguments or word.startswith("-")]
    if foreign:
        parser.error(f"unrecognized arguments: {' '.join(foreign)}")
    if rest:
        arguments.overrides += rest
    arguments.job_entry = run_in_job
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="iac", description="Segment and measure intracranial arterial calcification on CT head scans."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    from iac_lightning import cli  # under its own name, by which a SLURM job finds `run_in_job`

    sys.exit(cli.main())
