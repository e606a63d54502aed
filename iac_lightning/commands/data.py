"""Commands before any training: a cohort, its splits, its volumes on the common grid."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_modules.errors import UserError
from iac_lightning.commands.command import EXPERIMENT, command, option
from iac_lightning.commands.experiment import load


@command(
    "phantom",
    "make a digital cohort from a seed, or a hospital's DICOM export of one",
    option("out", type=Path, help="folder for images, labels and cohort.csv; or for dicom/ and expected.csv"),
    option("--patients", type=int, default=150, help="how many"),
    option("--seed", type=int, default=0, help="decides every head and scan"),
    option("--workers", type=int, default=2, help="processes"),
    option("--max-series", type=int, help="most series a patient of a cohort (1-3; default: 3)"),
    option(
        "--format",
        choices=("cohort", "dicom"),
        default="cohort",
        help="a cohort to train on, or whole heads as hospitals export them, with all troubles (default: %(default)s)",
    ),
    option("--matrix", type=int, help="rows and columns of the images of an export (64-1024; default: 96)"),
)
def phantom(arguments: argparse.Namespace) -> None:
    """`iac phantom`."""
    if arguments.format == "dicom":
        if arguments.max_series is not None:
            raise UserError("--max-series applies to cohorts; leave it out with --format dicom")
        from data_modules.phantom.hospital import MATRIX, make_hospital_export

        matrix = MATRIX if arguments.matrix is None else arguments.matrix
        path = make_hospital_export(arguments.out, arguments.patients, arguments.seed, arguments.workers, matrix)
        print(f"{path.parent / 'dicom'}\n{path}\n{path.parent / 'heads.csv'}")
        return
    if arguments.matrix is not None:
        raise UserError("--matrix applies to --format dicom; a cohort has pixels of 0.4 to 0.6 mm")
    from data_modules.phantom.cohort import make_phantom_cohort

    max_series = 3 if arguments.max_series is None else arguments.max_series
    path = make_phantom_cohort(arguments.out, arguments.patients, arguments.seed, arguments.workers, max_series)
    print(f"{path}\n{path.parent / 'contact_sheet.png'}")


@command(
    "split",
    "assign splits, and folds, by patient to the rows of a cohort table without one",
    option("cohort", type=Path, help="cohort table; it is written anew"),
    option("--seed", type=int, default=0, help="decides which patients go where"),
    option(
        "--fractions",
        nargs="+",
        default=["pretrain=0.43", "finetune=0.28", "dev=0.11", "test=0.18"],
        metavar="split=share",
        help="share of the patients of each split (default: %(default)s)",
    ),
    option(
        "--folds", type=int, metavar="N", help="also deal the patients of finetune and dev out to N folds (data.fold)"
    ),
    option("--workers", type=int, default=1, help="processes that measure the masks whose volume the table lacks"),
)
def split(arguments: argparse.Namespace) -> None:
    """`iac split`."""
    from data_modules.cohort.assigning import split_cohort

    fractions: dict[str, float] = {}
    for part in arguments.fractions:
        name, _, share = part.partition("=")
        if name in fractions:
            raise UserError(f"--fractions: {name!r} is given twice; give each split one share")
        try:
            fractions[name] = float(share)
        except ValueError:
            raise UserError(f"--fractions: {part!r} is not split=share, such as dev=0.1") from None
    cohort = split_cohort(arguments.cohort, fractions, arguments.seed, arguments.workers, arguments.folds)
    for name in fractions:
        print(f"{name}: {len(cohort.patients(name))} patients, {len(cohort.split(name))} series")
    for fold in range(arguments.folds or 0):
        series = [s for s in cohort.series if s.fold == fold]
        print(f"fold {fold}: {len({s.patient_id for s in series})} patients, {len(series)} series")


@command("prepare", "bring an experiment's cohort onto the common grid", *EXPERIMENT)
def prepare(arguments: argparse.Namespace) -> None:
    """`iac prepare`."""
    config = load(arguments)
    from data_modules.prepare.preparation import list_warnings, prepare_cohort

    store = prepare_cohort(config.data)
    print(f"{len(store.series) + store.n_withheld} series in {store.directory}")
    path = list_warnings(store)
    if store.warnings:
        print(f"{len(store.warnings)} of them carry warnings: {path}")
    if store.failed:
        print(f"{len(store.failed)} more could not be prepared: {path.with_name('failed.csv')}")
