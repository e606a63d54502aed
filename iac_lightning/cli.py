"""`iac …`: a thin face over the workflows, one function a command.

Experiments are read and checked before torch is imported, so that a typing mistake is answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_modules.errors import UserError
from iac_lightning.launch import RequeuedError, requeue_on_signal

if TYPE_CHECKING:
    from iac_lightning.schema import ExperimentConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a `UserError` is printed without traceback and gives status 2."""
    arguments = parse(argv)
    try:
        with requeue_on_signal():
            status = arguments.command(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RequeuedError:
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    except OSError as error:
        from iac_lightning.files import FULL, disk_full

        if error.errno not in FULL:
            raise
        print(f"error: {disk_full(error)}", file=sys.stderr)
        return 2
    return int(status or 0)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with `key=value` settings on either side of options, which argparse alone does not take."""
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["export"] and len(words) > 1 and words[1] not in EXPORTS and not words[1].startswith("-"):
        words.insert(1, BUNDLE)
    arguments, rest = parser.parse_known_args(words)
    foreign = [word for word in rest if "overrides" not in arguments or word.startswith("-")]
    if foreign:
        parser.error(f"unrecognized arguments: {' '.join(foreign)}")
    if rest:
        arguments.overrides += rest
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="iac", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    phantom = commands.add_parser("phantom", help="make a digital cohort from a seed")
    phantom.add_argument("out", type=Path)
    phantom.add_argument("--patients", type=int, default=150)
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--workers", type=int, default=2)
    phantom.add_argument("--max-series", type=int, default=3, help="most series a patient (1-3)")
    phantom.set_defaults(command=run_phantom)

    split = commands.add_parser("split", help="assign splits by patient to the rows of a cohort table without one")
    split.add_argument("cohort", type=Path)
    split.add_argument("--seed", type=int, default=0)
    split.add_argument(
        "--fractions",
        nargs="+",
        default=["pretrain=0.43", "finetune=0.28", "dev=0.11", "test=0.18"],
        metavar="split=share",
        help="share of the patients of each split (default: %(default)s)",
    )
    split.set_defaults(command=run_split)

    for name, help_text in (
        ("config", "print the resolved config of an experiment"),
        ("plan", "shapes, parameters, steps and memory of an experiment, without data"),
        ("prepare", "bring an experiment's cohort onto the common grid"),
        ("pretrain", "pre-train a masked autoencoder"),
        ("finetune", "train a segmentation: ViT or CNN"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("experiment", type=Path, help="YAML file, such as experiments/finetune/vit_mae.yaml")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
        if name in ("pretrain", "finetune"):
            command.add_argument("--dry-run", action="store_true", help="the plan only")
        command.set_defaults(command=EXPERIMENT_COMMANDS[name])

    sweep = commands.add_parser("sweep", help="an ablation: many runs from one file, here or on SLURM, and its report")
    sweep.add_argument("sweep", type=Path, help="YAML file, such as experiments/sweeps/mask_ratio.yaml, or its folder")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="name=, seeds=, launcher…=, or any setting")
    sweep.add_argument("--dry-run", action="store_true", help="the plan only")
    sweep.add_argument("--status", action="store_true", help="the state of each cell")
    sweep.add_argument("--retry", action="store_true", help="run failed cells again")
    sweep.add_argument("--finish", action="store_true", help="write the report of a sweep's folder as it is")
    sweep.set_defaults(command=run_sweep)

    cell = commands.add_parser("cell", help="one cell of a sweep (`iac sweep` starts it)")
    cell.add_argument("sweep", type=Path, help="folder of the sweep")
    cell.add_argument("name")
    cell.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    cell.add_argument("overrides", nargs="*", metavar="key=value", help="settings that do not decide the result")
    cell.set_defaults(command=run_one_cell)

    calibrate = commands.add_parser("calibrate", help="temperature, bias and thresholds of a run, on its dev split")
    calibrate.add_argument("run", type=Path, help="run directory, such as runs/vit_mae")
    calibrate.set_defaults(command=run_calibrate)

    evaluate = commands.add_parser("evaluate", help="measure a run, or anybody's predictions, on native grids")
    evaluate.add_argument("run", type=Path, nargs="?", help="run directory, such as runs/vit_mae")
    evaluate.add_argument("--split", choices=("dev", "test"), default="test")
    evaluate.add_argument("--devices", type=int, help="processes that share the scans (default: torchrun's, else 1)")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="settings of inference and evaluation")
    others = evaluate.add_argument_group("predictions of another program, instead of a run")
    others.add_argument("--predictions", type=Path, help="folder of NIfTI named after series; nnU-Net's own will do")
    others.add_argument("--cohort", type=Path, help="cohort table with the labels")
    others.add_argument("--threshold", type=float, help="use probabilities, from this one on; else masks, or 0.5")
    others.add_argument(
        "--dev-predictions", type=Path, help="probabilities of the dev split: choose threshold and calibration by them"
    )
    others.add_argument("--out", type=Path, help="folder for evaluation/ and model.json (default: the predictions')")
    others.add_argument("--label", default="", help="name of the model in reports (default: that of the folder)")
    others.add_argument("--workers", type=int, default=2)
    evaluate.set_defaults(command=run_evaluate)

    predict = commands.add_parser("predict", help="segment one scan")
    predict.add_argument("input", type=Path, help="NIfTI file or DICOM folder")
    predict.add_argument("out", type=Path, help="folder for mask, probability, result.json and overlay.png")
    model = predict.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, help="run directory, such as runs/vit_mae")
    model.add_argument("--bundle", type=Path, help="folder that `iac export` wrote; needs no run")
    predict.add_argument("--template", type=Path, help="CT head template (NIfTI, HU) to find the region of interest")
    predict.add_argument("--series", help="which series of a DICOM folder")
    predict.add_argument("--slice-thickness-mm", type=float, help="for NIfTI, which does not know it")
    predict.set_defaults(command=run_predict)

    report = commands.add_parser("report", help="evaluated runs in one HTML page")
    report.add_argument("runs", nargs="+", help="runs, or folders that `iac evaluate --predictions` wrote; or sweeps")
    report.add_argument("--out", type=Path, required=True)
    report.add_argument("--split", choices=("dev", "test"), help="default: test; a sweep has its own")
    report.set_defaults(command=run_report, overrides=[])

    compare = commands.add_parser("compare", help="two evaluated runs on the same scans, in the terminal")
    compare.add_argument("runs", nargs="+", metavar="run", help="two of them, the baseline last; evaluation.key=value")
    compare.add_argument("--metric", nargs="+", default=["dice"], help="columns, corrected together (default: dice)")
    compare.add_argument("--split", choices=("dev", "test"), default="test")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(command=run_compare, overrides=[])

    stress = commands.add_parser("stress", help="the same heads through thicker and thicker slices")
    stress.add_argument("runs", type=Path, nargs="+", help="run directories; the last is the baseline")
    stress.add_argument(
        "--thickness", type=float, nargs="+", metavar="MM", default=[1.0, 2.0, 3.0, 5.0, 8.0], help="slices to make"
    )
    stress.add_argument("--split", choices=("dev", "test"), default="test")
    stress.add_argument("--out", type=Path, help="folder of the page that compares the runs")
    stress.add_argument(
        "--spacing-ratio", type=float, default=1.0, help="distance of the slices over their thickness (1: they touch)"
    )
    stress.set_defaults(command=run_stress)

    demo = commands.add_parser("demo", help="the whole path on a phantom cohort")
    demo.add_argument("--experiments", type=Path, default=Path("experiments/demo"))
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--data", type=Path, default=Path("data/demo"))
    demo.add_argument("--patients", type=int, default=150)
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="settings for every experiment of the demo")
    demo.set_defaults(command=run_demo)

    export = commands.add_parser(
        "export",
        help="a trained model as a folder that stands alone, or a cohort for nnU-Net",
        usage="iac export RUN OUT, or iac export nnunet COHORT OUT …",
    )
    formats = export.add_subparsers(metavar="FORMAT", required=True)
    bundle = formats.add_parser(BUNDLE, help="the default: weights, settings, calibration and model card of a run")
    bundle.add_argument("run", type=Path, help="run directory, such as runs/vit_mae")
    bundle.add_argument("out", type=Path, help="folder of the bundle, for `iac predict --bundle`")
    bundle.set_defaults(command=run_export_bundle)
    nnunet = formats.add_parser("nnunet", help="raw data set of nnU-Net v2, with this project's splits by patient")
    nnunet.add_argument("cohort", type=Path, help="cohort table")
    nnunet.add_argument("out", type=Path, help="folder of the data set, such as nnU-Net's nnUNet_raw")
    nnunet.add_argument("--dataset-id", type=int, default=501)
    nnunet.add_argument("--name", default="IAC")
    nnunet.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    nnunet.set_defaults(command=run_export_nnunet)

    bench = commands.add_parser("bench", help="speed and memory against peers, as ratios in one run")
    bench.add_argument("--out", type=Path, default=Path("bench.json"))
    bench.add_argument("--scan", type=Path, help="a real head CT to prepare and predict")
    bench.add_argument("--template", type=Path, help="template for that scan")
    bench.add_argument("--run", type=Path, help="run that predicts it")
    bench.add_argument("--models", type=int, default=2, help="sets of predictions to evaluate")
    bench.add_argument("--series", type=int, default=40, help="scans of each")
    bench.set_defaults(command=run_bench)

    training = commands.add_parser("bench-training", help="speed, memory and waiting of a real training")
    training.add_argument("experiment", type=Path, help="such as experiments/sweeps/gpu/mae.yaml")
    training.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    training.add_argument("--patches", nargs="+", type=int, default=[8, 4], help="edges of the ViT's patches")
    training.add_argument("--peak-tflops", type=float, help="of the device at this precision: H100 SXM, bf16: 989")
    training.add_argument("--out", type=Path, default=Path("bench_training.json"))
    training.set_defaults(command=run_bench_training)

    ui = commands.add_parser("ui", help="show tracked runs in the browser (127.0.0.1)")
    ui.add_argument("--runs-dir", type=Path, default=Path("runs"))
    ui.set_defaults(command=run_ui)
    return parser


def load(arguments: argparse.Namespace) -> ExperimentConfig:
    """The experiment of a command, checked."""
    from iac_lightning.config import load_experiment

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
    from data_modules.cohort import assign_splits, read_cohort, read_table, write_cohort

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
    from iac_lightning.config import to_yaml

    print(to_yaml(load(arguments)), end="")


def run_plan(arguments: argparse.Namespace) -> None:
    """`iac plan`, and `--dry-run` of the training commands."""
    config = load(arguments)
    from iac_lightning.workflows.plan import plan

    print(plan(config))


def run_prepare(arguments: argparse.Namespace) -> None:
    """`iac prepare`."""
    config = load(arguments)
    from data_modules.store import prepare_cohort

    store = prepare_cohort(config.data)
    print(f"{len(store.series) + store.n_withheld} series in {store.directory}")


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
    from iac_lightning.launch import submit_run

    name = "pretrain" if config.task == "pretrain" else "finetune"
    print(submit_run([name, str(arguments.experiment), *arguments.overrides], config))


def run_sweep(arguments: argparse.Namespace) -> int:
    """`iac sweep`."""
    from iac_lightning.workflows.sweep import finish, status, sweep

    if arguments.status:
        print(status(arguments.sweep, arguments.overrides))
        return 0
    if arguments.finish:
        return finish(arguments.sweep)
    return sweep(arguments.sweep, arguments.overrides, dry_run=arguments.dry_run, retry=arguments.retry)


def run_one_cell(arguments: argparse.Namespace) -> None:
    """`iac cell`."""
    from iac_lightning.sweeps.local import end_with_parent
    from iac_lightning.workflows.cell import run_cell

    if arguments.with_parent:
        end_with_parent()
    run_cell(arguments.sweep, arguments.name, tuple(arguments.overrides))


def run_calibrate(arguments: argparse.Namespace) -> None:
    """`iac calibrate`."""
    from iac_lightning.evaluation.calibration_record import describe
    from iac_lightning.runs import load_run
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
        from iac_lightning.workflows import external

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
    from iac_lightning.runs import load_run

    run = load_run(arguments.run, arguments.overrides)
    from iac_lightning import sharding
    from iac_lightning.runs import is_main_process
    from iac_lightning.workflows.evaluate import describe, evaluate

    sharding.launch(run, arguments.devices)
    summary = evaluate(run, arguments.split)
    if not is_main_process():
        return
    print(describe(summary))
    print(f"  scan by scan: {arguments.run / 'evaluation' / arguments.split}.csv")


def run_predict(arguments: argparse.Namespace) -> None:
    """`iac predict`."""
    if arguments.bundle:
        from iac_lightning.workflows.bundle import load_bundle

        model = load_bundle(arguments.bundle)
    else:
        from iac_lightning.runs import load_run
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
    from iac_lightning.workflows.evaluated import load_entry
    from iac_lightning.workflows.report import report
    from iac_lightning.workflows.sweep_report import all_sweeps, sweep_report

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
    from iac_lightning.workflows.compare import compare, describe
    from iac_lightning.workflows.evaluated import load_entry

    first, second = (load_entry(path, overrides) for path in paths)
    found = compare(first, second, arguments.split, arguments.metric)
    print(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) if arguments.json else describe(found))


def paths_apart(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Runs, and the `key=value` settings that stand among them or after an option."""
    words = [*arguments.runs, *arguments.overrides]
    return [Path(w) for w in words if "=" not in w or Path(w).exists()], [
        w for w in words if "=" in w and not Path(w).exists()
    ]


def run_stress(arguments: argparse.Namespace) -> None:
    """`iac stress`."""
    from iac_lightning.runs import load_run
    from iac_lightning.workflows.stress import describe, stress

    runs = [load_run(path) for path in arguments.runs]
    for summary in stress(runs, arguments.split, arguments.thickness, arguments.out, arguments.spacing_ratio):
        print(describe(summary))
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
    from iac_lightning.runs import load_run
    from iac_lightning.workflows.bundle import export_bundle
    from iac_lightning.workflows.mlflow_model import log_bundle

    run = load_run(arguments.run)
    out = export_bundle(run, arguments.out)
    log_bundle(run)
    print(f"{out}: see {out / 'MODEL_CARD.md'}; iac predict SCAN OUT --bundle {out}")


def run_export_nnunet(arguments: argparse.Namespace) -> None:
    """`iac export nnunet`."""
    from iac_lightning.workflows.nnunet import export_nnunet

    data = export_nnunet(arguments.cohort, arguments.out, arguments.dataset_id, arguments.name, arguments.copy)
    print(f"{data.directory}: {data.n_train} series to train on, {data.n_val} to validate, {data.n_test} to predict")
    print("splits_final.json goes into the data set's folder of nnUNet_preprocessed; see docs/nnunet.md")


def run_bench(arguments: argparse.Namespace) -> None:
    """`iac bench`."""
    from iac_lightning.workflows.bench import bench

    bench(arguments.out, arguments.scan, arguments.template, arguments.run, arguments.models, arguments.series)


def run_bench_training(arguments: argparse.Namespace) -> None:
    """`iac bench-training`."""
    from iac_lightning.workflows.bench_training import bench_training

    bench_training(arguments.experiment, arguments.overrides, arguments.patches, arguments.peak_tflops, arguments.out)


def run_ui(arguments: argparse.Namespace) -> int:
    """`iac ui`."""
    import subprocess

    from iac_lightning.tracking import serve_command

    command = serve_command(arguments.runs_dir)
    print("http://127.0.0.1:5000 (Ctrl-C ends it)", flush=True)
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:  # the way to end it
        return 0


BUNDLE = "bundle"
EXPORTS = (BUNDLE, "nnunet")
"""Words after `iac export`; anything else is a run."""

EXPERIMENT_COMMANDS = {
    "config": run_config,
    "plan": run_plan,
    "prepare": run_prepare,
    "pretrain": lambda arguments: run_training(arguments, "pretrain"),
    "finetune": lambda arguments: run_training(arguments, "segment"),
}

if __name__ == "__main__":
    sys.exit(main())
