"""A series of the cohort as a scan: one slice thickness for all who ask, and what its row gets wrong.

The thickness that counts is the file's, over the region of interest where one is cut out. The cohort table's counts
only where the file has none.
"""

from __future__ import annotations

import numpy as np

from data_modules.cohort.table import Series
from data_modules.csv_files import number_in
from data_modules.errors import UserError
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan
from data_modules.scan.sidecar import read_sidecar

SPACING_TOLERANCE = 0.01
"""The table's voxel size may differ from the scan's by this share of it before anybody is told."""

THICKNESS_TOLERANCE = 0.1
"""A thickness that was given may differ from the scan's by this share of it before anybody is told."""

LABEL_TOLERANCE = 0.1
"""The table's volume of a label may differ from the mask's by this share of it, or by 1 mm³, before anybody is told."""


def read_series(series: Series) -> Scan:
    """The scan of a series, with the slice thickness that counts.

    Raises:
        UserError: as `read_scan`, and when neither the file nor the table knows how thick the slices are.
    """
    scan = read_scan(
        series.image,
        series=series.extra.get("dicom_series") or None,
        slice_thickness_mm=series.slice_thickness_mm,
    )
    if scan.thickness_from == "spacing":
        raise UserError(
            f"{series.image}: does not say how thick its slices are, and neither does the cohort table; fill "
            f"slice_thickness_mm in the row of {series.series_id}"
        )
    return scan


def known_thickness_mm(series: Series) -> float | None:
    """What the thickness of a series depends on, beside its image: of NIfTI the sidecar's, else the table's.

    A sidecar that cannot be read says nothing here; reading the scan says what is wrong.
    """
    if series.image.is_dir():
        return series.slice_thickness_mm
    try:
        thickness_mm = read_sidecar(series.image).get("SliceThickness")
    except UserError:
        thickness_mm = None
    return series.slice_thickness_mm if thickness_mm is None else float(thickness_mm)


def thickness_remark(given_mm: float | None, own_mm: float, giver: str) -> str | None:
    """What to tell where a thickness that was given is not the scan's; None where it is, or none was given.

    Args:
        given_mm: by a user.
        own_mm: of the scan's region, which counts.
        giver: such as "the cohort table".
    """
    if given_mm is None or abs(given_mm - own_mm) <= THICKNESS_TOLERANCE * own_mm:
        return None
    return (
        f"slice thickness by {giver} is not that of the file: {given_mm:g} mm, the file {own_mm:g} mm where it is "
        "looked at; the file's counts; see which is right and mend the other"
    )


def spacing_remark(series: Series, own_mm: tuple[float, float, float]) -> str | None:
    """What to tell where the table's voxel size is not the scan's; None where it is, or none is given.

    Args:
        series: with the voxel size that its row gives, in whatever order of axes: a coronal or sagittal image is turned
            in preparation.
        own_mm: voxel size of the scan.
    """
    if series.spacing_mm is None or np.allclose(
        sorted(series.spacing_mm), sorted(own_mm), rtol=SPACING_TOLERANCE, atol=0
    ):
        return None
    given, own = (" × ".join(f"{s:.3g}" for s in spacing) for spacing in (series.spacing_mm, own_mm))
    return (
        f"voxel size by the cohort table is not that of the file: {given} mm, the file {own} mm; see that the row "
        "names the right scan"
    )


def label_remark(series: Series, own_mm3: float | None) -> str | None:
    """What to tell where the table's volume of the label is not the mask's; None where it is, or either is unknown.

    The mask's own volume is not told: the series may be of the test split.
    """
    given_mm3 = number_in(series.extra.get("label_volume_mm3", ""))
    if own_mm3 is None or not abs(given_mm3 - own_mm3) > max(1.0, LABEL_TOLERANCE * own_mm3):
        return None
    return (
        f"label volume by the cohort table is not that of the mask: {given_mm3:g} mm³ by the table; see that the row "
        "names the right mask, or empty the cell"
    )


def table_remarks(
    series: Series, thickness_mm: float, spacing_mm: tuple[float, float, float], label_mm3: float | None = None
) -> tuple[str, ...]:
    """Where the row of a series contradicts its file.

    Args:
        series: the row.
        thickness_mm: of the slices, by the file.
        spacing_mm: voxel size, by the file.
        label_mm3: labelled volume, by the mask; None where there is none, or it is not known.
    """
    remarks = (
        thickness_remark(series.slice_thickness_mm, thickness_mm, "the cohort table"),
        spacing_remark(series, spacing_mm),
        label_remark(series, label_mm3),
    )
    return tuple(remark for remark in remarks if remark)
