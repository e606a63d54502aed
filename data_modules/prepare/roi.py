"""Cut the region of interest around the cavernous sinus out of a scan, on the scan's own voxels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.config import GridConfig
from data_modules.errors import UserError
from data_modules.prepare.contrast import contrast_remarks
from data_modules.prepare.registration import REGISTRATION_VERSION, Registration, find_roi_center
from data_modules.prepare.templates import BUILT_IN
from data_modules.scan.geometry import Grid, lps_from_ras
from data_modules.scan.scan import Scan, canonical_scan

_MOSTLY = 0.9
_WHOLE_HEAD_MM = 150.0
"""A scan at least this wide and long is a whole head: its centre is not the cavernous sinus."""

MODEL_USED = (
    "no CT template is given: the region of interest was found with the built-in head model, which is simulated; see "
    "that it holds the sella turcica, or set data.grid.template"
)
"""Warning of a region that was found by the built-in model."""


def region_of_interest(scan: Scan, grid: GridConfig, center_lps_mm: Any = None, age_years: float | None = None) -> Scan:
    """The region of interest in canonical orientation: voxels of the scan, none interpolated.

    The box of `grid.roi_mm` stands along the scan's own axes, around the point that `locate` finds. Where it reaches
    outside the scan it holds air, and the scan's warnings say so.

    Args:
        scan: in any orientation.
        grid: size of the region, and the templates.
        center_lps_mm: as of `locate`.
        age_years: likewise.

    Raises:
        RegistrationFailed: when the scan does not fit the template or does not show the region.
        UserError: when the template cannot be read, or the given centre lies outside the scan.
    """
    return find_region_of_interest(scan, grid, center_lps_mm, age_years)[0]


def find_region_of_interest(
    scan: Scan, grid: GridConfig, center_lps_mm: Any = None, age_years: float | None = None
) -> tuple[Scan, Registration | None]:
    """`region_of_interest`, and the registration that found it (None: by a given centre, or the scan's)."""
    scan = canonical_scan(scan)
    center_ras_mm, registration = locate(scan, grid, center_lps_mm, age_years)
    region = scan.crop(center_ras_mm, grid.roi_mm)
    shown = _share_inside(region.grid, scan.grid)
    warnings = region.warnings
    if shown < _MOSTLY:
        warnings += (f"the scan shows {shown:.0%} of the region of interest; the rest is taken to be air",)
    if registration is not None and registration.template == BUILT_IN:
        warnings += (MODEL_USED,)
    return replace(region, warnings=(*warnings, *contrast_remarks(region))), registration


def locate(
    scan: Scan, grid: GridConfig, center_lps_mm: Any = None, age_years: float | None = None
) -> tuple[NDArray[np.float64], Registration | None]:
    """Centre `[3]` (RAS mm) of the region of interest, and the registration that found it, if one did.

    It is the point that is given; else of a scan less than `_WHOLE_HEAD_MM` wide or long its middle, for such a scan
    has been cut around the region already; else what registration to a template finds.

    Args:
        scan: in canonical orientation.
        grid: its `template` names files, relative to the working directory. Without one the built-in model serves.
        center_lps_mm: `[3]`, where the region is known to lie.
        age_years: of the patient, which chooses among several templates; None where it is not known.

    Raises:
        RegistrationFailed: when the scan does not fit the template or does not show the region.
        UserError: when a template cannot be read, or the given centre lies outside the scan.
    """
    if center_lps_mm is not None:
        center_ras_mm = np.asarray(lps_from_ras(center_lps_mm))
        if not scan.grid.holds(center_ras_mm):
            corners = scan.grid.to_ras_mm([(0, 0, 0), np.asarray(scan.grid.shape) - 1]) * (-1, -1, 1)
            spans = ", ".join(f"{a:.0f} to {b:.0f}" for a, b in np.sort(corners.T))
            given = " ".join(f"{v:g}" for v in center_lps_mm)
            raise UserError(
                f"roi_center_lps_mm {given}: lies outside the scan, which reaches along x, y, z from about {spans} mm "
                "(LPS). Give the point in DICOM's coordinates: of RAS, as viewers of NIfTI show it, turn the signs of "
                "x and y; or empty the cell, and registration finds it"
            )
        return center_ras_mm, None
    if min(scan.grid.size_mm[:2]) < _WHOLE_HEAD_MM:
        return scan.grid.center_ras_mm, None
    return find_roi_center(scan, grid.template, age_years)


def region_facts(registration: Registration | None) -> dict[str, Any]:
    """How a region was found, for JSON, so that `named_regions` can be carried over; empty without registration."""
    if registration is None:
        return {}
    return {
        "template": registration.template,
        "template_to_scan_ras": registration.affine.tolist(),
        "version": REGISTRATION_VERSION,
    }


def _share_inside(region: Grid, scan: Grid) -> float:
    """How much of a region lies inside the scan that it was cropped from."""
    first = np.rint(scan.to_index(region.affine[:3, 3]))
    last = np.minimum(first + region.shape, scan.shape)
    inside = np.maximum(last - np.maximum(first, 0), 0)
    return float(np.prod(inside / region.shape))
