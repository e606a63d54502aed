"""Commands that turn what others have into a cohort."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_modules.errors import UserError
from iac_lightning.commands.command import Family, command, option

if TYPE_CHECKING:
    from data_modules.intake.listed import Listed


@command(
    "dicom",
    "the default: an export of DICOM files, in any layout",
    option("source", type=Path, nargs="?", help="folder, its DICOMDIR, or a ZIP or TAR archive"),
    option("out", type=Path, nargs="?", help="folder for cohort.csv, inventory.csv and images"),
    option("--private", type=Path, metavar="FOLDER", help="for salt and lists of names (default: OUT_private)"),
    option("--template", type=Path, help="CT template (NIfTI, HU, MNI space) by which the region of interest is found"),
    option("--allow-contrast", action="store_true", help="accept series with contrast agent"),
    option("--all", action="store_true", help="all accepted series, not only the best of each examination"),
    option("--workers", type=int, help="processes (default: one a core)"),
    option("--memory-gb", type=float, default=4.0, help="most memory that reading one series may take (default 4)"),
    option("--seconds", type=float, default=600.0, help="longest that reading one series may take (default 600)"),
    option("--unpacked-gb", type=float, default=200.0, help="most that archives may hold in all (default 200)"),
    option(
        "--scheduler", default="", metavar="ADDRESS", help="dask scheduler whose workers read, such as tcp://n1:8786"
    ),
    option("--check-privacy", type=Path, metavar="OUT", help="instead: look for names, dates and paths in an output"),
)
def dicom(arguments: argparse.Namespace) -> int:
    """`iac import SRC OUT`, `iac import --check-privacy OUT`."""
    if arguments.check_privacy:
        return _check_privacy(arguments)
    from data_modules.guarded import Limits
    from data_modules.intake.importing import ImportSettings, import_dicom
    from data_modules.processes import cores

    if arguments.out is None:
        raise UserError("iac import takes two folders: SRC, the export, and OUT, a new folder for the cohort")
    for name in ("workers", "memory_gb", "seconds", "unpacked_gb"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    found = import_dicom(
        ImportSettings(
            source=arguments.source,
            out=arguments.out,
            private=arguments.private,
            template=arguments.template,
            allow_contrast=arguments.allow_contrast,
            every=arguments.all,
            workers=arguments.workers or cores(),
            limits=Limits(arguments.seconds, arguments.memory_gb),
            scheduler=arguments.scheduler,
            unpacked_gb=arguments.unpacked_gb,
        )
    )
    for remark in found.remarks:
        print(f"warning: {remark}")
    print(f"series by code: {', '.join(f'{code} {n}' for code, n in found.codes.items())}")
    if found.n_foreign:
        print(f"{found.n_foreign} files are no DICOM and were left alone")
    print(f"{arguments.out / 'cohort.csv'}: {found.n_cohort} series; {arguments.out / 'inventory.csv'} tells of all")
    print(f"{found.private}: salt and lists that lead from codes back to people; keep it, and give it to nobody")
    print(f"{found.n_ready} ready, {found.n_failed} failed, {found.n_warned} with warnings")
    return int(found.n_failed > 0)


def _check_privacy(arguments: argparse.Namespace) -> int:
    from data_modules.intake.privacy import check_privacy

    out = arguments.check_privacy
    checked = check_privacy(out, arguments.private or out.with_name(f"{out.name}_private"))
    for finding in checked.findings:
        print(finding)
    against = (
        f"{checked.n_known} raw identifiers" if checked.n_known else "no raw identifiers: their list was not found"
    )
    verdict = f"{len(checked.findings)} findings" if checked.findings else "clean"
    print(f"{out}: {verdict}; {checked.n_files} files were looked through, and compared with {against}")
    return int(bool(checked.findings))


@command(
    "nnunet",
    "a raw data set of nnU-Net v2",
    option("dataset", type=Path, help="folder with dataset.json, such as nnUNet_raw/Dataset501_IAC"),
    option("out", type=Path, help="folder for cohort.csv and inventory.csv"),
    option("--splits", type=Path, help="splits_final.json (default: the data set's, or that of nnUNet_preprocessed)"),
    option("--patient-pattern", default="", metavar="REGEX", help="one group: the patient in a case's name"),
    option("--workers", type=int, help="processes (default: one a core)"),
)
def import_nnunet(arguments: argparse.Namespace) -> int:
    """`iac import nnunet`."""
    from data_modules.intake.nnunet import nnunet_rows

    return _listed(nnunet_rows(arguments.dataset, arguments.splits, arguments.patient_pattern), arguments)


@command(
    "bids",
    "a BIDS data set with CT",
    option("dataset", type=Path, help="folder with sub-*/[ses-*/]ct/*_ct.nii.gz"),
    option("out", type=Path, help="folder for cohort.csv and inventory.csv"),
    option("--labels", metavar="PATTERN", help="of masks (default: derivatives/*/{folder}/{entities}*_mask.nii*)"),
    option("--workers", type=int, help="processes (default: one a core)"),
)
def import_bids(arguments: argparse.Namespace) -> int:
    """`iac import bids`."""
    from data_modules.intake.bids import LABELS, bids_rows

    return _listed(bids_rows(arguments.dataset, arguments.labels or LABELS), arguments)


@command(
    "table",
    "any CSV or TSV table of images",
    option("table", type=Path, help="the table; paths in it are relative to its folder"),
    option("out", type=Path, help="folder for cohort.csv and inventory.csv"),
    option("--map", nargs="+", default=[], metavar="NAME=COLUMN", help="column of the cohort table=column of this one"),
    option("--workers", type=int, help="processes (default: one a core)"),
)
def import_table(arguments: argparse.Namespace) -> int:
    """`iac import table`."""
    from data_modules.intake.table_in import table_rows

    return _listed(table_rows(arguments.table, arguments.map), arguments)


def _listed(rows: list[Listed], arguments: argparse.Namespace) -> int:
    from data_modules.intake.listed import import_listed
    from data_modules.processes import cores

    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: expected a number above 0")
    found = import_listed(rows, arguments.out, arguments.workers or cores())
    for remark in found.remarks:
        print(f"warning: {remark}")
    print(f"{arguments.out / 'cohort.csv'}; {arguments.out / 'inventory.csv'} tells of all")
    print(f"{found.n_ready} ready, {found.n_failed} failed, {found.n_warned} with warnings")
    return int(found.n_failed > 0)


import_ = Family(
    "import",
    "a hospital's export as a cohort, with an inventory of all that is in it",
    usage="iac import SRC OUT, iac import nnunet|bids|table SRC OUT, or iac import --check-privacy OUT",
    metavar="FORMAT",
    members=(dicom, import_nnunet, import_bids, import_table),
    default=dicom,
)
