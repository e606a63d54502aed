"""Cut the region of interest around the cavernous sinus out of a scan, on the scan's own voxels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.config import GridConfig
from data_modules.errors import UserError
from data_modules.prepare.contrast import contrast_remarks
from data_modules.prepare.registration import Registration, find_roi_center
from data_modules.scan.geometry import Grid
from data_modules.scan.scan import Scan, canonical_scan

_MOSTLY = 0.9
_WHOLE_HEAD_MM = 150.0
"""A scan at least this wide and long is a whole head: its centre is not the cavernous sinus."""


def region_of_interest(scan: Scan, grid: GridConfig) -> Scan:
    """The region of interest in canonical orientation: voxels of the scan, none interpolated.

    The box of `grid.roi_mm` stands along the scan's own axes, around the sella turcica where `grid.template` is set,
    else around the scan's centre. Where it reaches outside the scan it holds air, and the scan's warnings say so.

    Raises:
        RegistrationFailed: when the scan does not fit the template or does not show the region.
        UserError: when the template cannot be read.
    """
    return find_region_of_interest(scan, grid)[0]


def find_region_of_interest(scan: Scan, grid: GridConfig) -> tuple[Scan, Registration | None]:
    """`region_of_interest`, and the registration that found it (None: the scan's centre)."""
    scan = canonical_scan(scan)
    center_ras_mm, registration = locate(scan, grid)
    region = scan.crop(center_ras_mm, grid.roi_mm)
    shown = _share_inside(region.grid, scan.grid)
    if shown < _MOSTLY:
        warning = f"the scan shows {shown:.0%} of the region of interest; the rest is taken to be air"
        region = replace(region, warnings=(*region.warnings, warning))
    return replace(region, warnings=(*region.warnings, *contrast_remarks(region))), registration


def locate(scan: Scan, grid: GridConfig) -> tuple[NDArray[np.float64], Registration | None]:
    """Centre `[3]` (RAS mm) of the region of interest, and the registration that found it (None: scan's centre).

    `grid.template` is relative to the working directory.

    Raises:
        RegistrationFailed: when the scan does not fit the template or does not show the region.
        UserError: when the template cannot be read, or there is none and the scan is a whole head.
    """
    if grid.template is None:
        if min(scan.grid.size_mm[:2]) >= _WHOLE_HEAD_MM:
            size = " × ".join(f"{m:.0f}" for m in scan.grid.size_mm)
            raise UserError(
                f"the scan covers {size} mm, a whole head, and no template says where the region of interest lies. "
                "Give a CT template of the head in MNI space: data.grid.template=TEMPLATE.nii.gz (iac predict: "
                "--template TEMPLATE.nii.gz)"
            )
        return scan.grid.center_ras_mm, None
    return find_roi_center(scan, Path(grid.template))


def _share_inside(region: Grid, scan: Grid) -> float:
    """How much of a region lies inside the scan that it was cropped from."""
    first = np.rint(scan.to_index(region.affine[:3, 3]))
    last = np.minimum(first + region.shape, scan.shape)
    inside = np.maximum(last - np.maximum(first, 0), 0)
    return float(np.prod(inside / region.shape))
