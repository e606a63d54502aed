"""Commands on a trained model: calibrate, measure, stress it; segment one scan."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_modules.errors import UserError
from iac_lightning.commands.command import command, group, one_of, option, paths_apart, settings, split, takes_settings

RUN = "run directory, such as runs/vit_mae"
MOVED = "data.cohort=, data.prepared_dir=: where the run's data were moved to"


@command(
    "calibrate",
    "temperature, bias and thresholds of a run, on its dev split",
    option("run", type=Path, help=RUN),
    settings(f"evaluation.operating_point=: what masks are cut for; {MOVED}"),
)
def calibrate(arguments: argparse.Namespace) -> None:
    """`iac calibrate`."""
    from iac_lightning.evaluation.calibration.record import describe_calibration
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.calibrate import calibrate_run

    print(describe_calibration(calibrate_run(load_run(arguments.run, arguments.overrides))))
    print(f"  all of it: {arguments.run / 'calibration.json'}, {arguments.run / 'figures' / 'reliability.png'}")


@command(
    "evaluate",
    "measure a run, or anybody's predictions, on native grids",
    option("run", type=Path, nargs="?", help=RUN),
    split(help="whose scans are measured"),
    option("--devices", type=int, help="processes that share the scans (default: torchrun's, else 1)"),
    settings("settings of inference and evaluation; data.cohort=: where the run's data were moved to"),
    group(
        "predictions of another program, instead of a run",
        option("--predictions", type=Path, help="folder of NIfTI named after series; nnU-Net's own will do"),
        option("--cohort", type=Path, help="cohort table with the labels"),
        option("--threshold", type=float, help="use probabilities, from this one on; else masks, or 0.5"),
        option(
            "--dev-predictions",
            type=Path,
            help="probabilities of the dev split: choose threshold and calibration by them",
        ),
        option("--out", type=Path, help="folder for evaluation/ and model.json (default: the predictions')"),
        option("--label", default="", help="name of the model in reports (default: that of the folder)"),
        option("--workers", type=int, default=2, help="processes that measure"),
    ),
)
def evaluate(arguments: argparse.Namespace) -> None:
    """`iac evaluate`."""
    if arguments.predictions and arguments.run and "=" in str(arguments.run):  # a setting where a run could stand
        arguments.overrides.insert(0, str(arguments.run))
        arguments.run = None
    if (arguments.run is None) == (arguments.predictions is None) or bool(arguments.predictions) != bool(
        arguments.cohort
    ):
        raise UserError("iac evaluate takes either a run, or --predictions DIR with --cohort TABLE")
    if arguments.predictions:
        evaluate_others(arguments)
        return
    from iac_lightning.runs.directory import load_run

    run = load_run(arguments.run, arguments.overrides)
    from iac_lightning.cluster import sharding
    from iac_lightning.runs.directory import is_main_process
    from iac_lightning.workflows.evaluate import describe_evaluation, evaluate

    sharding.launch(run.config.trainer.accelerator, arguments.devices)
    summary = evaluate(run, arguments.split)
    if not is_main_process():
        return
    print(describe_evaluation(summary))
    print(f"  scan by scan: {arguments.run / 'evaluation' / arguments.split}.csv")


def evaluate_others(arguments: argparse.Namespace) -> None:
    """`iac evaluate --predictions`."""
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
        evaluation=external.external_settings(None, arguments.overrides),
    )
    print(external.describe_predictions(summary))


@command(
    "predict",
    "segment one scan",
    option("input", type=Path, help="NIfTI, .nrrd or .mha file, or DICOM folder"),
    option(
        "out",
        type=Path,
        help="folder for masks, probability, result.json and overlay.png; files of others are never replaced",
    ),
    one_of(
        option("--run", type=Path, help=RUN),
        option("--bundle", type=Path, help="folder that `iac export` wrote; needs no run"),
    ),
    option("--template", type=Path, help="CT head template (NIfTI, HU) to find the region of interest"),
    option("--series", help="which series of a DICOM folder"),
    option("--slice-thickness-mm", type=float, help="counts only where the file has none"),
    option(
        "--allow-phantom-model",
        action="store_true",
        help="segment a patient's scan by a model that has learnt from simulated heads alone; measures nothing",
    ),
)
def predict(arguments: argparse.Namespace) -> None:
    """`iac predict`."""
    if arguments.bundle:
        from iac_lightning.workflows.bundle import load_bundle

        model = load_bundle(arguments.bundle)
    else:
        from iac_lightning.runs.directory import load_run
        from iac_lightning.workflows.calibrate import load_calibrated

        model = load_calibrated(load_run(arguments.run))
    from iac_lightning.workflows.predict import predict, result_words

    result = predict(
        arguments.input,
        arguments.out,
        model,
        arguments.template,
        arguments.series,
        arguments.slice_thickness_mm,
        arguments.allow_phantom_model,
    )
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    print(f"{result['volume_mm3']:.1f} mm³ in {result['n_lesions']} lesions; see {arguments.out}/overlay.png")
    print(f"  {result_words(result)}")


@command(
    "stress",
    "the same heads through thicker and thicker slices",
    option("runs", nargs="+", help=f"run directories; the last is the baseline; {MOVED}"),
    option(
        "--thickness", type=float, nargs="+", metavar="MM", default=[1.0, 2.0, 3.0, 5.0, 8.0], help="slices to make"
    ),
    split(help="whose scans are re-imaged"),
    option("--out", type=Path, help="folder of the page that compares the runs"),
    option(
        "--spacing-ratio", type=float, default=1.0, help="distance of the slices over their thickness (1: they touch)"
    ),
    takes_settings,
)
def stress(arguments: argparse.Namespace) -> None:
    """`iac stress`."""
    from iac_lightning.report.stress import describe_stress
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.stress import stress

    paths, overrides = paths_apart(arguments)
    runs = [load_run(path, overrides) for path in paths]
    for summary in stress(runs, arguments.split, arguments.thickness, arguments.out, arguments.spacing_ratio):
        print(describe_stress(summary))
    for path in paths:
        print(f"  scan by scan: {path / 'stress' / arguments.split}.csv")
    if arguments.out:
        print(arguments.out / "index.html")


@command(
    "ensemble",
    "several trained runs as one: the mean of their probabilities, calibrated together",
    option("runs", type=Path, nargs="+", help="run directories of its members: seeds, folds or kinds of network"),
    option("--name", required=True, help="of the ensemble's run directory, which takes the place of a run everywhere"),
    option("--runs-dir", help="parent of that directory (default: the first member's)"),
)
def ensemble(arguments: argparse.Namespace) -> None:
    """`iac ensemble`."""
    from iac_lightning.evaluation.calibration.record import describe_calibration
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.ensemble import make_ensemble

    run, calibration = make_ensemble([load_run(path) for path in arguments.runs], arguments.name, arguments.runs_dir)
    print(describe_calibration(calibration))
    print(f"{run.directory}: an ensemble of {len(arguments.runs)}; iac evaluate {run.directory}")
