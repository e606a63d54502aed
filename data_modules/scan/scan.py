"""A CT scan: Hounsfield units, where they lie, how thick the slices are and how they were made.

From a NIfTI file or a folder of DICOM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.dicom import read_dicom, whole_hu
from data_modules.scan.geometry import AIR_HU, Grid, Volume, canonical, crop_box
from data_modules.scan.nifti import check_geometry, load_nifti, stored_values
from data_modules.scan.sidecar import read_sidecar
from data_modules.scan.slices import THICKNESS_UNKNOWN, SliceStack, StraightStack, straighten

_CLEARLY_LARGER = 1.2


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """A CT volume on its native grid.

    Attributes:
        hu: `[X, Y, Z]` int16, float32 only where the source does not hold whole numbers.
        grid: geometry, RAS+.
        slice_thickness_mm: how thick a slab a slice averages; the median over the slices where it changes.
        slice_axis: array axis across the slices.
        slice_thicknesses_mm: thickness of each slice along `slice_axis` where it changes, else None.
        thickness_from: where the thickness comes from: "file" (header or sidecar), "given" (by the caller, for slices
            of which the file says nothing) or "spacing" (a guess, for lack of both).
        kernel: convolution kernel, empty where unknown.
        manufacturer: of the scanner, empty where unknown.
        gantry_tilt_deg: tilt of the gantry, signed as in the header. The grid stands at right angles all the same.
        warnings: what a reader of the results should know about this scan.
    """

    hu: NDArray[Any]
    grid: Grid
    slice_thickness_mm: float
    slice_axis: int = 2
    slice_thicknesses_mm: tuple[float, ...] | None = None
    thickness_from: str = "file"
    kernel: str = ""
    manufacturer: str = ""
    gantry_tilt_deg: float = 0.0
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hu.shape != self.grid.shape:
            raise ValueError(f"HU of shape {self.hu.shape} on a grid of shape {self.grid.shape}")
        thicknesses = self.slice_thicknesses_mm
        if thicknesses is not None and len(thicknesses) != self.hu.shape[self.slice_axis]:
            raise ValueError(f"{len(thicknesses)} thicknesses for {self.hu.shape[self.slice_axis]} slices")

    @property
    def volume(self) -> Volume:
        """HU and grid alone."""
        return Volume(self.hu, self.grid)

    def crop(self, center_ras_mm: Any, size_mm: tuple[float, float, float]) -> Scan:
        """The box of `size_mm` (along the grid's axes) around a point, voxels untouched, air outside the scan."""
        box = crop_box(self.volume, center_ras_mm, size_mm, AIR_HU)
        thicknesses, thickness = self.slice_thicknesses_mm, self.slice_thickness_mm
        if thicknesses is not None:
            first = int(np.rint(self.grid.to_index(box.grid.affine[:3, 3])[self.slice_axis]))
            slices = np.arange(first, first + box.grid.shape[self.slice_axis])
            thicknesses = tuple(np.asarray(thicknesses)[np.clip(slices, 0, len(thicknesses) - 1)].tolist())
            thickness = float(np.median(thicknesses))
        return replace(self, hu=box.data, grid=box.grid, slice_thickness_mm=thickness, slice_thicknesses_mm=thicknesses)


def to_int16(hu: NDArray[Any]) -> NDArray[np.int16]:
    """Whole HU within the range of int16."""
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(hu), limits.min, limits.max).astype(np.int16)


def canonical_scan(scan: Scan) -> Scan:
    """Axes flipped and permuted to the nearest RAS+ order; the slice axis and the thicknesses follow."""
    volume = canonical(scan.volume)
    axis, flip = nib.orientations.io_orientation(scan.grid.affine)[scan.slice_axis]
    thicknesses = scan.slice_thicknesses_mm
    if thicknesses is not None and flip < 0:
        thicknesses = thicknesses[::-1]
    return replace(scan, hu=volume.data, grid=volume.grid, slice_axis=int(axis), slice_thicknesses_mm=thicknesses)


def read_scan(path: Path, series: str | None = None, slice_thickness_mm: float | None = None) -> Scan:
    """A CT scan from a NIfTI file or a folder of DICOM.

    The slice thickness is what the file says: a DICOM header, slice by slice; for NIfTI, which holds none, a BIDS-style
    JSON file of the same name beside it (`SliceThickness`, `ConvolutionKernel`, `Manufacturer`). Where it says nothing
    `slice_thickness_mm` counts, and without that the thickness is taken to be the spacing.
    The grid of a NIfTI file is kept exactly as it is, unless it is sheared; DICOM slices that do not form a regular
    grid, and sheared NIfTI, are brought onto one (`slices.straighten`), which is the scan's native grid
    from then on. HU below −1024 (padding) become −1024.

    Args:
        path: `.nii` or `.nii.gz` file, or a folder with one CT series.
        series: which series of a DICOM folder (see `data_modules.scan.dicom.read_dicom`).
        slice_thickness_mm: for slices of which neither header nor sidecar gives the thickness.

    Raises:
        UserError: the file is missing, damaged, not CT in HU, not 3D, or without usable geometry.
    """
    path = Path(path)
    if slice_thickness_mm is not None and not slice_thickness_mm > 0:
        raise UserError(f"slice_thickness_mm is {slice_thickness_mm}, expected a positive number of millimetres")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Expected a NIfTI file or a folder of DICOM.")
    if path.is_dir():
        return _read_dicom_scan(path, series, slice_thickness_mm)
    if series is not None:
        raise UserError(f"{path}: series={series!r} applies to folders of DICOM only; leave it out for a NIfTI file")
    return _read_nifti_scan(path, slice_thickness_mm)


def _read_dicom_scan(folder: Path, series: str | None, slice_thickness_mm: float | None) -> Scan:
    source = read_dicom(folder, series)
    remarks = [*source.warnings, *_check_hu(source.stack.planes, folder)]
    stack = source.stack
    unknown = ~np.isfinite(stack.thicknesses_mm)
    thickness_from = "file"
    if unknown.any():
        thickness_from = "spacing"
        if slice_thickness_mm is not None:
            thickness_from = "given"
            stack = replace(stack, thicknesses_mm=np.where(unknown, slice_thickness_mm, stack.thicknesses_mm))
    straight = straighten(stack)
    header_tilt = source.gantry_tilt_deg or 0.0
    if abs(abs(header_tilt) - straight.tilt_deg) > 1 and _is_axial(stack):
        remarks.append(
            f"the header gives a gantry tilt of {header_tilt:g}°, the slice positions {straight.tilt_deg:.1f}°: "
            "the positions were followed; see that the anatomy is not sheared"
        )
    return _scan_of(
        straight,
        thickness_from=thickness_from,
        kernel=source.kernel,
        manufacturer=source.manufacturer,
        gantry_tilt_deg=header_tilt or straight.tilt_deg,
        warnings=(*remarks, *straight.warnings),
    )


def _is_axial(stack: SliceStack) -> bool:
    """Whether the slices' normal is the table's direction: then a tilt in the header is not in their orientation."""
    return abs(np.cross(stack.x_direction, stack.y_direction)[2]) > 0.999


def _scan_of(straight: StraightStack, **facts: Any) -> Scan:
    thicknesses = straight.thicknesses_mm
    same = np.ptp(thicknesses) < 0.01
    return Scan(
        hu=straight.volume.data,
        grid=straight.volume.grid,
        slice_thickness_mm=float(np.median(thicknesses)),
        slice_thicknesses_mm=None if same else tuple(thicknesses.tolist()),
        **facts,
    )


def _read_nifti_scan(path: Path, slice_thickness_mm: float | None) -> Scan:
    image = load_nifti(path)
    sidecar = read_sidecar(path)
    remarks = check_geometry(image, path)
    raw, slope, intercept = stored_values(image, path)
    hu, n_lower = _hu_of(raw, slope, intercept, path)
    del raw
    remarks += _check_hu(hu, path)
    if n_lower:
        remarks.append(f"{n_lower} voxels below −1024 HU set to −1024 (padding)")
    grid = Grid(hu.shape, image.affine)
    axis = _slice_axis(image, grid)
    thickness, thickness_from = sidecar.get("SliceThickness"), "file"
    if thickness is None:
        thickness, thickness_from = slice_thickness_mm, "given"
    if thickness is None:
        thickness, thickness_from = grid.spacing_mm[axis], "spacing"
        remarks.append(f"{THICKNESS_UNKNOWN}, taken to be the spacing between slices ({thickness:.2f} mm)")
    tilt = float(sidecar.get("GantryDetectorTilt", 0.0))
    facts: dict[str, Any] = {
        "thickness_from": thickness_from,
        "kernel": str(sidecar.get("ConvolutionKernel", "")),
        "manufacturer": str(sidecar.get("Manufacturer", "")),
    }
    if not grid.is_orthogonal:
        straight = straighten(_sheared_stack(hu, grid, axis, float(thickness), path))
        remarks += straight.warnings
        return _scan_of(straight, gantry_tilt_deg=tilt or straight.tilt_deg, warnings=tuple(remarks), **facts)
    return Scan(
        hu=hu,
        grid=grid,
        slice_thickness_mm=float(thickness),
        slice_axis=axis,
        gantry_tilt_deg=tilt,
        warnings=tuple(remarks),
        **facts,
    )


def _hu_of(raw: NDArray[Any], slope: float, intercept: float, path: Path) -> tuple[NDArray[Any], int]:
    """HU, slice by slice (a scan in float64 would take four times the memory), and how many were below −1024."""
    hu: NDArray[Any] = np.empty(raw.shape, dtype=np.int16, order="F")
    n_lower = 0
    for k in range(raw.shape[2]):
        values = raw[..., k].astype(np.float64) * slope + intercept
        if not np.isfinite(values).all():
            n_bad = int((~np.isfinite(values)).sum())
            raise UserError(
                f"{path}: {n_bad} voxels of slice {k} are NaN or infinite, expected HU everywhere. "
                f"Set voxels outside the field of view to {AIR_HU} (air)."
            )
        n_lower += int((values < AIR_HU).sum())
        plane = whole_hu(values)
        if plane.dtype != np.int16 and hu.dtype == np.int16:
            hu = hu.astype(np.float32)
        hu[..., k] = plane
    return hu, n_lower


def _check_hu(hu: NDArray[Any], path: Path) -> list[str]:
    """Refuses values that cannot be HU of a head, remarks on doubtful ones.

    A head scan holds air, below −200 HU. A tight crop may hold none, but then still bone.

    Raises:
        UserError: naming the range of values that is not HU.
    """
    low, high = float(hu.min()), float(hu.max())
    remedy = "Give the original CT in Hounsfield units (air −1000, water 0)."
    if low >= 0:
        kind = (
            "windowed to grey values or a mask" if high <= 255 else "stored with an offset (such as +1024), or not CT"
        )
        raise UserError(f"{path}: values from {low:g} to {high:g}, none negative: {kind}, not HU. {remedy}")
    if low >= -200 and high <= 400:
        raise UserError(f"{path}: values from {low:g} to {high:g}: looks windowed, or is not CT, not HU. {remedy}")
    return [f"no air in the image: the lowest value is {low:g} HU"] if low >= -200 else []


def _slice_axis(image: nib.Nifti1Image, grid: Grid) -> int:
    """The axis the header names, else one of clearly larger spacing, else the one nearest to foot–head."""
    named = image.header.get_dim_info()[2]
    if named is not None:
        return int(named)
    order = np.argsort(grid.spacing_mm)
    if grid.spacing_mm[order[2]] > _CLEARLY_LARGER * grid.spacing_mm[order[1]]:
        return int(order[2])
    return int(np.flatnonzero(nib.orientations.io_orientation(grid.affine)[:, 0] == 2)[0])


def _sheared_stack(hu: NDArray[Any], grid: Grid, axis: int, thickness_mm: float, path: Path) -> SliceStack:
    """The slices of a sheared grid, each with its place.

    Slices are right-angled images; where the guessed slice axis contradicts that, another is taken.

    Raises:
        UserError: when no two axes stand at right angles.
    """
    cosines = np.abs(grid.directions.T @ grid.directions)
    for candidate in (axis, 2, 1, 0):
        x, y = (a for a in range(3) if a != candidate)
        if cosines[x, y] < 1e-3:
            break
    else:
        raise UserError(
            f"{path}: no two axes of the grid stand at right angles (affine {np.round(grid.affine[:3], 4).tolist()}), "
            "so these are no CT slices. Give the scan as acquired, without a transform in its header."
        )
    index = np.zeros((grid.shape[candidate], 3))
    index[:, candidate] = np.arange(grid.shape[candidate])
    y_direction = grid.directions[:, y] - (grid.directions[:, y] @ grid.directions[:, x]) * grid.directions[:, x]
    return SliceStack(
        planes=hu.transpose(candidate, y, x),
        positions_mm=grid.to_ras_mm(index),
        x_direction=grid.directions[:, x],
        y_direction=y_direction / np.linalg.norm(y_direction),
        pixel_mm=(grid.spacing_mm[x], grid.spacing_mm[y]),
        thicknesses_mm=np.full(grid.shape[candidate], thickness_mm),
    )
