"""`iac …`: a thin face over the workflows, one function a command.

Experiments are read and checked before torch is imported, so that a typing mistake is answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_modules.errors import UserError
from iac_lightning.arguments import parse
from iac_lightning.cluster.slurm import RequeuedError, requeue_on_signal

if TYPE_CHECKING:
    from iac_lightning.config.schema import ExperimentConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a `UserError` is printed without traceback and gives status 2."""
    arguments = parse(argv)
    try:
        with requeue_on_signal():
            status = COMMANDS[arguments.command](arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RequeuedError:
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    except OSError as error:
        from data_modules.files import FULL, disk_full

        if error.errno not in FULL:
            raise
        print(f"error: {disk_full(error)}", file=sys.stderr)
        return 2
    return int(status or 0)


def run_in_job(command: Sequence[str], folder: str) -> None:
    """What a SLURM job runs: one `iac` command, in the folder where it was submitted; ends with its status."""
    os.chdir(folder)
    status = main(command)
    if status:
        sys.exit(status)  # a dependency `afterok` looks at it


def load(arguments: argparse.Namespace) -> ExperimentConfig:
    """The experiment of a command, checked."""
    from iac_lightning.config.reading import load_experiment

    return load_experiment(arguments.experiment, arguments.overrides)


def run_phantom(arguments: argparse.Namespace) -> None:
    """`iac phantom`."""
    from data_modules.phantom.cohort import make_phantom_cohort

    path = make_phantom_cohort(
        arguments.out, arguments.patients, arguments.seed, arguments.workers, arguments.max_series
    )
    print(f"{path}\n{path.parent / 'contact_sheet.png'}")


def run_split(arguments: argparse.Namespace) -> None:
    """`iac split`."""
    from data_modules.cohort.table import assign_splits, read_cohort, read_table, write_cohort

    fractions = {}
    for part in arguments.fractions:
        name, _, share = part.partition("=")
        try:
            fractions[name] = float(share)
        except ValueError:
            raise UserError(f"--fractions: {part!r} is not split=share, such as dev=0.1") from None
    write_cohort(arguments.cohort, assign_splits(read_table(arguments.cohort), fractions, arguments.seed))
    cohort = read_cohort(arguments.cohort)
    for name in fractions:
        print(f"{name}: {len(cohort.patients(name))} patients, {len(cohort.split(name))} series")


def run_config(arguments: argparse.Namespace) -> None:
    """`iac config`."""
    from iac_lightning.config.stored import to_yaml

    print(to_yaml(load(arguments)), end="")


def run_plan(arguments: argparse.Namespace) -> None:
    """`iac plan`, and `--dry-run` of the training commands."""
    config = load(arguments)
    from iac_lightning.workflows.plan import plan

    print(plan(config))


def run_prepare(arguments: argparse.Namespace) -> None:
    """`iac prepare`."""
    config = load(arguments)
    from data_modules.prepare.store import list_warnings, prepare_cohort

    store = prepare_cohort(config.data)
    print(f"{len(store.series) + store.n_withheld} series in {store.directory}")
    path = list_warnings(store)
    if store.warnings:
        print(f"{len(store.warnings)} of them carry warnings: {path}")
    if store.failed:
        print(f"{len(store.failed)} more could not be prepared: {path.with_name('failed.csv')}")


def run_training(arguments: argparse.Namespace, task: str) -> None:
    """`iac pretrain` and `iac finetune`."""
    config = load(arguments)
    if config.task != task:
        command = "pretrain" if config.task == "pretrain" else "finetune"
        raise UserError(f"{arguments.experiment}: task is '{config.task}'. Use: iac {command} {arguments.experiment}")
    if arguments.dry_run:
        run_plan(arguments)
        return
    if config.launcher.name == "slurm":
        submit_training(arguments, config)
        return
    from iac_lightning.workflows.train import train

    train(config)


def submit_training(arguments: argparse.Namespace, config: ExperimentConfig) -> None:
    """`iac pretrain` and `iac finetune` with `launcher=slurm`."""
    from iac_lightning.cluster.slurm import submit_run

    name = "pretrain" if config.task == "pretrain" else "finetune"
    print(submit_run([name, str(arguments.experiment), *arguments.overrides], config, run_in_job))


def run_sweep(arguments: argparse.Namespace) -> int:
    """`iac sweep`."""
    from iac_lightning.workflows.sweep import finish, status, sweep

    if arguments.status:
        print(status(arguments.sweep, arguments.overrides))
        return 0
    if arguments.finish:
        return finish(arguments.sweep)
    return sweep(
        arguments.sweep, arguments.overrides, entry=run_in_job, dry_run=arguments.dry_run, retry=arguments.retry
    )


def run_one_cell(arguments: argparse.Namespace) -> None:
    """`iac cell`."""
    from iac_lightning.sweeps.local import end_with_parent
    from iac_lightning.workflows.cell import run_cell

    if arguments.with_parent:
        end_with_parent()
    run_cell(arguments.sweep, arguments.name, tuple(arguments.overrides))


def run_calibrate(arguments: argparse.Namespace) -> None:
    """`iac calibrate`."""
    from iac_lightning.evaluation.calibration.record import describe
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.calibrate import calibrate_run

    print(describe(calibrate_run(load_run(arguments.run))))
    print(f"  all of it: {arguments.run / 'calibration.json'}, {arguments.run / 'figures' / 'reliability.png'}")


def run_evaluate(arguments: argparse.Namespace) -> None:
    """`iac evaluate`."""
    if arguments.predictions and arguments.run and "=" in str(arguments.run):  # a setting where a run could stand
        arguments.overrides.insert(0, str(arguments.run))
        arguments.run = None
    if (arguments.run is None) == (arguments.predictions is None) or bool(arguments.predictions) != bool(
        arguments.cohort
    ):
        raise UserError("iac evaluate takes either a run, or --predictions DIR with --cohort TABLE")
    if arguments.predictions:
        from iac_lightning.workflows.external import evaluate as external

        summary = external.evaluate_predictions(
            arguments.predictions,
            arguments.cohort,
            arguments.split,
            arguments.out,
            threshold=arguments.threshold,
            dev_predictions=arguments.dev_predictions,
            label=arguments.label,
            workers=arguments.workers,
            evaluation=external.external_settings({}, arguments.overrides),
        )
        print(external.describe(summary))
        return
    from iac_lightning.runs.directory import load_run

    run = load_run(arguments.run, arguments.overrides)
    from iac_lightning.cluster import sharding
    from iac_lightning.runs.directory import is_main_process
    from iac_lightning.workflows.evaluate import describe_evaluation, evaluate

    sharding.launch(run, arguments.devices)
    summary = evaluate(run, arguments.split)
    if not is_main_process():
        return
    print(describe_evaluation(summary))
    print(f"  scan by scan: {arguments.run / 'evaluation' / arguments.split}.csv")


def run_predict(arguments: argparse.Namespace) -> None:
    """`iac predict`."""
    if arguments.bundle:
        from iac_lightning.workflows.bundle import load_bundle

        model = load_bundle(arguments.bundle)
    else:
        from iac_lightning.runs.directory import load_run
        from iac_lightning.workflows.calibrate import load_calibrated

        model = load_calibrated(load_run(arguments.run))
    from iac_lightning.workflows.predict import predict

    result = predict(
        arguments.input, arguments.out, model, arguments.template, arguments.series, arguments.slice_thickness_mm
    )
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    print(f"{result['volume_mm3']:.1f} mm³ in {result['n_lesions']} lesions; see {arguments.out}/overlay.png")


def run_report(arguments: argparse.Namespace) -> None:
    """`iac report`."""
    paths, overrides = paths_apart(arguments)
    from iac_lightning.workflows.reports.evaluated import load_entry
    from iac_lightning.workflows.reports.models import report
    from iac_lightning.workflows.reports.sweep import all_sweeps, sweep_report

    if all_sweeps(paths):
        if arguments.split or overrides:
            raise UserError(
                "a sweep compares its cells on the split and with the settings that its file names; leave "
                f"{'--split' if arguments.split else overrides[0]} out"
            )
        print(sweep_report(paths, arguments.out))
        return
    print(report([load_entry(path, overrides) for path in paths], arguments.out, arguments.split or "test"))


def run_compare(arguments: argparse.Namespace) -> None:
    """`iac compare`."""
    import json

    paths, overrides = paths_apart(arguments)
    if len(paths) != 2:
        raise UserError(f"iac compare takes two models, the baseline last; {len(paths)} were given")
    from iac_lightning.report.models.comparison import describe_comparison
    from iac_lightning.workflows.reports.compare import compare
    from iac_lightning.workflows.reports.evaluated import load_entry

    first, second = (load_entry(path, overrides) for path in paths)
    comparison = compare(first, second, arguments.split, arguments.metric)
    if arguments.json:
        print(json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(describe_comparison(comparison))


def paths_apart(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Runs, and the `key=value` settings that stand among them or after an option."""
    words = [*arguments.runs, *arguments.overrides]
    return [Path(w) for w in words if "=" not in w or Path(w).exists()], [
        w for w in words if "=" in w and not Path(w).exists()
    ]


def run_stress(arguments: argparse.Namespace) -> None:
    """`iac stress`."""
    from iac_lightning.report.stress import describe_stress
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.stress import stress

    runs = [load_run(path) for path in arguments.runs]
    for summary in stress(runs, arguments.split, arguments.thickness, arguments.out, arguments.spacing_ratio):
        print(describe_stress(summary))
    for path in arguments.runs:
        print(f"  scan by scan: {path / 'stress' / arguments.split}.csv")
    if arguments.out:
        print(arguments.out / "index.html")


def run_demo(arguments: argparse.Namespace) -> None:
    """`iac demo`."""
    from iac_lightning.workflows.demo import demo

    demo(arguments.experiments, arguments.out, arguments.data, arguments.patients, arguments.overrides)


def run_export_bundle(arguments: argparse.Namespace) -> None:
    """`iac export RUN OUT`."""
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.bundle import export_bundle
    from iac_lightning.workflows.mlflow_model import log_bundle

    run = load_run(arguments.run)
    out = export_bundle(run, arguments.out)
    log_bundle(run)
    print(f"{out}: see {out / 'MODEL_CARD.md'}; iac predict SCAN OUT --bundle {out}")


def run_export_nnunet(arguments: argparse.Namespace) -> None:
    """`iac export nnunet`."""
    from iac_lightning.workflows.external.nnunet import export_nnunet

    data = export_nnunet(arguments.cohort, arguments.out, arguments.dataset_id, arguments.name, arguments.copy)
    print(f"{data.directory}: {data.n_train} series to train on, {data.n_val} to validate, {data.n_test} to predict")
    print("splits_final.json goes into the data set's folder of nnUNet_preprocessed; see docs/nnunet.md")


def run_bench(arguments: argparse.Namespace) -> None:
    """`iac bench`."""
    from benchmarks.bench import bench

    bench(arguments.out, arguments.scan, arguments.template, arguments.run, arguments.models, arguments.series)


def run_bench_training(arguments: argparse.Namespace) -> None:
    """`iac bench-training`."""
    from benchmarks.training import bench_training

    bench_training(arguments.experiment, arguments.overrides, arguments.patches, arguments.peak_tflops, arguments.out)


def run_ui(arguments: argparse.Namespace) -> int:
    """`iac ui`."""
    import subprocess

    from iac_lightning.tracking.logger import serve_command

    command = serve_command(arguments.runs_dir)
    print("http://127.0.0.1:5000 (Ctrl-C ends it)", flush=True)
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:  # the way to end it
        return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "config": run_config,
    "plan": run_plan,
    "prepare": run_prepare,
    "pretrain": lambda arguments: run_training(arguments, "pretrain"),
    "finetune": lambda arguments: run_training(arguments, "segment"),
    "phantom": run_phantom,
    "split": run_split,
    "sweep": run_sweep,
    "one_cell": run_one_cell,
    "calibrate": run_calibrate,
    "evaluate": run_evaluate,
    "predict": run_predict,
    "report": run_report,
    "compare": run_compare,
    "stress": run_stress,
    "demo": run_demo,
    "export_bundle": run_export_bundle,
    "export_nnunet": run_export_nnunet,
    "bench": run_bench,
    "bench_training": run_bench_training,
    "ui": run_ui,
}
"""What each command of `arguments` does."""

if __name__ == "__main__":
    from iac_lightning import cli  # under its own name, by which a SLURM job finds `run_in_job`

    sys.exit(cli.main())
