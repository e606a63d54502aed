"""The command line of `iac`: every command and its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

BUNDLE = "bundle"
EXPORTS = (BUNDLE, "nnunet")
"""Words after `iac export`; anything else is a run."""


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
    parser = argparse.ArgumentParser(
        prog="iac", description="Segment and measure intracranial arterial calcification on CT head scans."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    phantom = commands.add_parser("phantom", help="make a digital cohort from a seed")
    phantom.add_argument("out", type=Path, help="folder for images, labels and cohort.csv")
    phantom.add_argument("--patients", type=int, default=150, help="how many")
    phantom.add_argument("--seed", type=int, default=0, help="decides every head and scan")
    phantom.add_argument("--workers", type=int, default=2, help="processes")
    phantom.add_argument("--max-series", type=int, default=3, help="most series a patient (1-3)")
    phantom.set_defaults(command="phantom")

    split = commands.add_parser("split", help="assign splits by patient to the rows of a cohort table without one")
    split.add_argument("cohort", type=Path, help="cohort table; it is written anew")
    split.add_argument("--seed", type=int, default=0, help="decides which patients go where")
    split.add_argument(
        "--fractions",
        nargs="+",
        default=["pretrain=0.43", "finetune=0.28", "dev=0.11", "test=0.18"],
        metavar="split=share",
        help="share of the patients of each split (default: %(default)s)",
    )
    split.set_defaults(command="split")

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
        command.set_defaults(command=name)

    sweep = commands.add_parser("sweep", help="an ablation: many runs from one file, here or on SLURM, and its report")
    sweep.add_argument("sweep", type=Path, help="YAML file, such as experiments/sweeps/mask_ratio.yaml, or its folder")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="name=, seeds=, launcher…=, or any setting")
    sweep.add_argument("--dry-run", action="store_true", help="the plan only")
    sweep.add_argument("--status", action="store_true", help="the state of each cell")
    sweep.add_argument("--retry", action="store_true", help="run failed cells again")
    sweep.add_argument("--finish", action="store_true", help="write the report of a sweep's folder as it is")
    sweep.set_defaults(command="sweep")

    cell = commands.add_parser("cell", help="one cell of a sweep (`iac sweep` starts it)")
    cell.add_argument("sweep", type=Path, help="folder of the sweep")
    cell.add_argument("name", help="of the cell")
    cell.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    cell.add_argument("overrides", nargs="*", metavar="key=value", help="settings that do not decide the result")
    cell.set_defaults(command="one_cell")

    calibrate = commands.add_parser("calibrate", help="temperature, bias and thresholds of a run, on its dev split")
    calibrate.add_argument("run", type=Path, help="run directory, such as runs/vit_mae")
    calibrate.set_defaults(command="calibrate")

    evaluate = commands.add_parser("evaluate", help="measure a run, or anybody's predictions, on native grids")
    evaluate.add_argument("run", type=Path, nargs="?", help="run directory, such as runs/vit_mae")
    evaluate.add_argument("--split", choices=("dev", "test"), default="test", help="whose scans are measured")
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
    others.add_argument("--workers", type=int, default=2, help="processes that measure")
    evaluate.set_defaults(command="evaluate")

    predict = commands.add_parser("predict", help="segment one scan")
    predict.add_argument("input", type=Path, help="NIfTI file or DICOM folder")
    predict.add_argument("out", type=Path, help="folder for mask, probability, result.json and overlay.png")
    model = predict.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, help="run directory, such as runs/vit_mae")
    model.add_argument("--bundle", type=Path, help="folder that `iac export` wrote; needs no run")
    predict.add_argument("--template", type=Path, help="CT head template (NIfTI, HU) to find the region of interest")
    predict.add_argument("--series", help="which series of a DICOM folder")
    predict.add_argument("--slice-thickness-mm", type=float, help="counts only where the file has none")
    predict.set_defaults(command="predict")

    report = commands.add_parser("report", help="evaluated runs in one HTML page")
    report.add_argument("runs", nargs="+", help="runs, or folders that `iac evaluate --predictions` wrote; or sweeps")
    report.add_argument("--out", type=Path, required=True, help="folder of the page, its tables and figures")
    report.add_argument("--split", choices=("dev", "test"), help="default: test; a sweep has its own")
    report.set_defaults(command="report", overrides=[])

    compare = commands.add_parser("compare", help="two evaluated runs on the same scans, in the terminal")
    compare.add_argument("runs", nargs="+", metavar="run", help="two of them, the baseline last; evaluation.key=value")
    compare.add_argument("--metric", nargs="+", default=["dice"], help="columns, corrected together (default: dice)")
    compare.add_argument("--split", choices=("dev", "test"), default="test", help="whose scans are compared")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(command="compare", overrides=[])

    stress = commands.add_parser("stress", help="the same heads through thicker and thicker slices")
    stress.add_argument("runs", type=Path, nargs="+", help="run directories; the last is the baseline")
    stress.add_argument(
        "--thickness", type=float, nargs="+", metavar="MM", default=[1.0, 2.0, 3.0, 5.0, 8.0], help="slices to make"
    )
    stress.add_argument("--split", choices=("dev", "test"), default="test", help="whose scans are re-imaged")
    stress.add_argument("--out", type=Path, help="folder of the page that compares the runs")
    stress.add_argument(
        "--spacing-ratio", type=float, default=1.0, help="distance of the slices over their thickness (1: they touch)"
    )
    stress.set_defaults(command="stress")

    demo = commands.add_parser("demo", help="the whole path on a phantom cohort")
    demo.add_argument(
        "--experiments", type=Path, default=Path("experiments/demo"), help="folder of the four experiments"
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs and their report")
    demo.add_argument("--data", type=Path, default=Path("data/demo"), help="folder of the phantom cohort")
    demo.add_argument("--patients", type=int, default=150, help="of the phantom cohort")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="settings for every experiment of the demo")
    demo.set_defaults(command="demo")

    export = commands.add_parser(
        "export",
        help="a trained model as a folder that stands alone, or a cohort for nnU-Net",
        usage="iac export RUN OUT, or iac export nnunet COHORT OUT …",
    )
    formats = export.add_subparsers(metavar="FORMAT", required=True)
    bundle = formats.add_parser(BUNDLE, help="the default: weights, settings, calibration and model card of a run")
    bundle.add_argument("run", type=Path, help="run directory, such as runs/vit_mae")
    bundle.add_argument("out", type=Path, help="folder of the bundle, for `iac predict --bundle`")
    bundle.set_defaults(command="export_bundle")
    nnunet = formats.add_parser("nnunet", help="raw data set of nnU-Net v2, with this project's splits by patient")
    nnunet.add_argument("cohort", type=Path, help="cohort table")
    nnunet.add_argument("out", type=Path, help="folder of the data set, such as nnU-Net's nnUNet_raw")
    nnunet.add_argument("--dataset-id", type=int, default=501, help="nnU-Net's number of the data set")
    nnunet.add_argument("--name", default="IAC", help="of the data set")
    nnunet.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    nnunet.set_defaults(command="export_nnunet")

    bench = commands.add_parser("bench", help="speed and memory against peers, as ratios in one run")
    bench.add_argument("--out", type=Path, default=Path("bench.json"), help="where the figures go")
    bench.add_argument("--scan", type=Path, help="a real head CT to prepare and predict")
    bench.add_argument("--template", type=Path, help="template for that scan")
    bench.add_argument("--run", type=Path, help="run that predicts it")
    bench.add_argument("--models", type=int, default=2, help="sets of predictions to evaluate")
    bench.add_argument("--series", type=int, default=40, help="scans of each")
    bench.set_defaults(command="bench")

    training = commands.add_parser("bench-training", help="speed, memory and waiting of a real training")
    training.add_argument("experiment", type=Path, help="such as experiments/sweeps/gpu/mae.yaml")
    training.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    training.add_argument("--patches", nargs="+", type=int, default=[8, 4], help="edges of the ViT's patches")
    training.add_argument("--peak-tflops", type=float, help="of the device at this precision: H100 SXM, bf16: 989")
    training.add_argument("--out", type=Path, default=Path("bench_training.json"), help="where the figures go")
    training.set_defaults(command="bench_training")

    ui = commands.add_parser("ui", help="show tracked runs in the browser (127.0.0.1)")
    ui.add_argument("--runs-dir", type=Path, default=Path("runs"), help="whose MLflow database is shown")
    ui.set_defaults(command="ui")
    return parser
