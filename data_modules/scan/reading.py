"""A CT scan from what a user has: a file (NIfTI, NRRD, MetaImage) or a folder of DICOM."""

from __future__ import annotations

from pathlib import Path

from data_modules.errors import UserError
from data_modules.scan.dicom_scan import read_dicom_scan
from data_modules.scan.image_files import EXPECTED
from data_modules.scan.nifti_scan import read_nifti_scan
from data_modules.scan.plausible import PLAUSIBLE_MM, is_plausible_mm
from data_modules.scan.scan import Scan


def read_scan(path: Path, series: str | None = None, slice_thickness_mm: float | None = None) -> Scan:
    """A CT scan from one file or a folder of DICOM.

    The slice thickness is what the file says: a DICOM header, slice by slice; for others, which hold none, a BIDS-style
    JSON file of the same name beside it (`SliceThickness`, `ConvolutionKernel`, `Manufacturer`). Where it says nothing
    `slice_thickness_mm` counts, and without that the thickness is taken to be the spacing.
    The grid of a file is kept exactly as it is, unless it is sheared; DICOM slices that do not form a regular
    grid, and sheared files, are brought onto one (`slices.straighten`), which is the scan's native grid
    from then on. HU below −1024 (padding) become −1024.

    Args:
        path: NIfTI (`.nii`, `.nii.gz`, whatever the case), NRRD or MetaImage, or a folder with one CT series.
        series: which series of a DICOM folder (see `data_modules.scan.dicom.read_dicom`).
        slice_thickness_mm: for slices of which neither header nor sidecar gives the thickness.

    Raises:
        UserError: the file is missing, damaged, not CT in HU, not 3D, or without usable geometry.
    """
    path = Path(path)
    if slice_thickness_mm is not None and not is_plausible_mm(slice_thickness_mm):
        low, high = PLAUSIBLE_MM
        raise UserError(f"slice_thickness_mm is {slice_thickness_mm:g}, expected millimetres from {low:g} to {high:g}")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. {EXPECTED}.")
    if path.is_dir():
        return read_dicom_scan(path, series, slice_thickness_mm)
    if series is not None:
        raise UserError(f"{path}: series={series!r} applies to folders of DICOM only; leave it out for a file")
    return read_nifti_scan(path, slice_thickness_mm)
