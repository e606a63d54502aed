"""Commands that train: one experiment, a sweep of many, the whole demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_modules.errors import UserError
from iac_lightning.commands.command import DRY_RUN, EXPERIMENT, command, option, settings
from iac_lightning.commands.experiment import load, print_plan


@command("pretrain", "pre-train a masked autoencoder", *EXPERIMENT, DRY_RUN)
def pretrain(arguments: argparse.Namespace) -> None:
    """`iac pretrain`."""
    train_or_submit(arguments, "pretrain")


@command("finetune", "train a segmentation: ViT or CNN", *EXPERIMENT, DRY_RUN)
def finetune(arguments: argparse.Namespace) -> None:
    """`iac finetune`."""
    train_or_submit(arguments, "segment")


def train_or_submit(arguments: argparse.Namespace, task: str) -> None:
    """Train here, send the training to SLURM (`launcher=slurm`), or print its plan."""
    config = load(arguments)
    name = "pretrain" if config.task == "pretrain" else "finetune"
    if config.task != task:
        raise UserError(f"{arguments.experiment}: task is '{config.task}'. Use: iac {name} {arguments.experiment}")
    if arguments.dry_run:
        print_plan(config)
    elif config.launcher.name == "slurm":
        from iac_lightning.cluster.slurm import submit_run

        print(submit_run([name, str(arguments.experiment), *arguments.overrides], config, arguments.job_entry))
    else:
        from iac_lightning.workflows.train import train

        train(config)


@command(
    "profile",
    "where a training step's time goes: a few steps, timed and traced",
    *EXPERIMENT,
    option("--steps", type=int, default=20, help="that are timed"),
    option("--warmup", type=int, default=5, help="steps before them, which compile and fill caches"),
    option("--traced", type=int, default=3, help="steps after them, for operators, the GPU's time and the trace"),
    prints=True,
)
def profile(arguments: argparse.Namespace) -> None:
    """`iac profile`."""
    config = load(arguments)
    if config.launcher.name == "slurm":
        from iac_lightning.cluster.slurm import submit_run

        numbers = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "warmup", "traced")]
        words = ["profile", str(arguments.experiment), *numbers, *arguments.overrides]
        config.name = f"profile/{config.name}"
        print(submit_run(words, config, arguments.job_entry))
        return
    from iac_lightning.workflows.profile import describe_profile, profile

    measured, folder = profile(config, arguments.steps, arguments.warmup, arguments.traced)
    if measured is not None:
        print(f"{describe_profile(measured)}\n\nresults: {folder}")


@command(
    "sweep",
    "an ablation: many runs from one file, here or on SLURM, and its report",
    option("sweep", type=Path, help="YAML file, such as experiments/sweeps/mask_ratio.yaml, or its folder"),
    settings("name=, seeds=, folds=, launcher…=, or any setting"),
    DRY_RUN,
    option("--status", action="store_true", help="the state of each cell"),
    option("--retry", action="store_true", help="run failed cells again"),
    option("--finish", action="store_true", help="write the report of a sweep's folder as it is"),
    option("--minutes", type=float, help="stop cleanly after so long, with status 75; the same command goes on"),
)
def sweep(arguments: argparse.Namespace) -> int:
    """`iac sweep`."""
    from iac_lightning.workflows.sweep import finish, status, sweep

    if arguments.status:
        print(status(arguments.sweep, arguments.overrides))
        return 0
    if arguments.finish:
        return finish(arguments.sweep)
    return sweep(
        arguments.sweep,
        arguments.overrides,
        entry=arguments.job_entry,
        dry_run=arguments.dry_run,
        retry=arguments.retry,
        minutes=arguments.minutes,
    )


@command(
    "cell",
    "one cell of a sweep (`iac sweep` starts it)",
    option("sweep", type=Path, help="folder of the sweep"),
    option("name", help="of the cell"),
    option("--with-parent", action="store_true", help="stop when standard input ends"),
    settings("settings that do not decide the result"),
)
def cell(arguments: argparse.Namespace) -> None:
    """`iac cell`."""
    from iac_lightning.sweeps.local import end_with_parent
    from iac_lightning.workflows.cell import run_cell

    if arguments.with_parent:
        end_with_parent()
    run_cell(arguments.sweep, arguments.name, tuple(arguments.overrides))


@command(
    "cells",
    "cells of a sweep that share the GPU of a SLURM job (`iac sweep` submits it)",
    option("sweep", type=Path, help="folder of the sweep"),
    option("names", help="of the cells, with commas between"),
    settings("settings that do not decide the result"),
)
def cells(arguments: argparse.Namespace) -> int:
    """`iac cells`."""
    from iac_lightning.sweeps.local import run_together
    from iac_lightning.sweeps.state import open_sweep

    return run_together(open_sweep(arguments.sweep), arguments.names.split(","), tuple(arguments.overrides))


@command(
    "demo",
    "the whole path on a phantom cohort",
    option("--experiments", type=Path, default=Path("experiments/demo"), help="folder of the five experiments"),
    option("--out", type=Path, default=Path("runs/demo"), help="folder of the runs and their report"),
    option("--data", type=Path, default=Path("data/demo"), help="folder of the phantom cohort"),
    option("--patients", type=int, default=150, help="of the phantom cohort"),
    settings("settings for every experiment of the demo"),
)
def demo(arguments: argparse.Namespace) -> None:
    """`iac demo`."""
    from iac_lightning.workflows.demo import demo

    demo(arguments.experiments, arguments.out, arguments.data, arguments.patients, arguments.overrides)
