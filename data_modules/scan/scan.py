"""A CT scan: Hounsfield units, where they lie, how thick the slices are and how they were made.

Reads NIfTI files and folders of DICOM, reads masks, and writes NIfTI.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.dicom import read_dicom, whole_hu
from data_modules.scan.geometry import AIR_HU, Grid, Volume, canonical, crop_box
from data_modules.scan.sidecar import read_sidecar
from data_modules.scan.slices import THICKNESS_UNKNOWN, SliceStack, StraightStack, straighten

_CLEARLY_LARGER = 1.2
_PLAUSIBLE_SPACING_MM = (0.1, 20.0)


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
    image = _load_nifti(path)
    sidecar = read_sidecar(path)
    remarks = _check_geometry(image, path)
    raw, slope, intercept = _stored(image, path)
    hu, lower = _hu_of(raw, slope, intercept, path)
    del raw
    remarks += _check_hu(hu, path)
    if lower:
        remarks.append(f"{lower} voxels below −1024 HU set to −1024 (padding)")
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


def read_mask(path: Path, like: Grid | None = None) -> Volume:
    """A mask (any label above 0) from a NIfTI file.

    Args:
        path: the file; whole numbers from 0 up.
        like: the grid that it must be drawn on.

    Returns:
        bool data; on `like` itself where given.

    Raises:
        UserError: not a readable 3D mask, or on another grid than `like` (more than 5 % of a voxel away).
    """
    path = Path(path)
    raw, slope, intercept, affine = _stored_companion(path, "mask")
    if (slope, intercept) == (1.0, 0.0) and raw.dtype.kind in "ub":
        mask = raw != 0
    else:
        mask = np.empty(raw.shape, dtype=bool)
        for k in range(raw.shape[2]):
            values = raw[..., k].astype(np.float64) * slope + intercept
            # a scaled mask comes back as 0.99999
            if not np.isfinite(values).all() or values.min() < -1e-3 or np.abs(values - np.rint(values)).max() > 1e-3:
                raise UserError(
                    f"{path}: slice {k} holds values from {values.min():g} to {values.max():g}, not the whole "
                    "numbers from 0 up that a mask holds. Give the mask itself, not an image or probabilities."
                )
            mask[..., k] = np.rint(values) > 0
    return _on_scan_grid(Volume(mask, Grid(mask.shape, affine)), like, path, "mask")


def read_probability(path: Path, like: Grid | None = None) -> Volume:
    """A probability map from a NIfTI file, such as one that a model wrote.

    Args:
        path: the file.
        like: the grid that it must lie on.

    Returns:
        float32 data in [0, 1]; on `like` itself where given.

    Raises:
        UserError: not a readable 3D map of values from 0 to 1, or on another grid than `like`.
    """
    path = Path(path)
    raw, slope, intercept, affine = _stored_companion(path, "probability map")
    data = (raw * np.float32(slope) + np.float32(intercept)).astype(np.float32, copy=False)
    if not np.isfinite(data).all() or data.min() < 0 or data.max() > 1:
        raise UserError(
            f"{path}: holds values from {data.min():g} to {data.max():g}. Expected probabilities from 0 to 1."
        )
    return _on_scan_grid(Volume(data, Grid(data.shape, affine)), like, path, "probability map")


def _stored_companion(path: Path, what: str) -> tuple[NDArray[Any], float, float, NDArray[np.float64]]:
    """Stored values, slope, intercept and affine of a file that belongs to a scan."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Expected the NIfTI file of a {what}.")
    image = _load_nifti(path)
    _check_affine(image.affine, path)
    return *_stored(image, path), image.affine


def _on_scan_grid(volume: Volume, like: Grid | None, path: Path, what: str) -> Volume:
    """The volume on the scan's very grid; an error where it lies more than 5 % of a voxel elsewhere."""
    if like is None:
        return volume
    if not volume.grid.same_as(like, tolerance_mm=0.05 * min(like.spacing_mm)):
        raise UserError(
            f"{path}: the {what} lies on another grid than its scan. {what.capitalize()}: {_describe(volume.grid)}. "
            f"Scan: {_describe(like)}. Expected the scan's own voxels: draw it on the scan, or resample it there first."
        )
    return Volume(volume.data, like)


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume as NIfTI; the file appears under its name only when it is whole.

    Masks become uint8, other floats float32, whole numbers stay. Sform and qform are both set (code 1, scanner),
    units are millimetres, and the same volume gives the same bytes.

    Raises:
        UserError: when the name ends in neither `.nii` nor `.nii.gz`.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UserError(f"{path}: expected a name that ends in .nii or .nii.gz")
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype.kind == "f":
        data = data.astype(np.float32, copy=False)
    image = nib.Nifti1Image(data, volume.grid.affine, dtype=data.dtype)
    image.set_sform(volume.grid.affine, code=1)
    image.set_qform(volume.grid.affine, code=1)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            if path.name.endswith(".gz"):
                with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                    image.to_stream(packed)
            else:
                image.to_stream(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what nibabel, gzip and the file system raise into one message."""
    try:
        yield
    except (ImageFileError, HeaderDataError, EOFError) as error:
        raise UserError(f"{path}: not a whole NIfTI file ({error}). {_COPY_AGAIN}") from error
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read, truncated or damaged ({error}). {_COPY_AGAIN}") from error


_COPY_AGAIN = "Expected .nii or .nii.gz, or a folder of DICOM: copy or convert it again."


def _load_nifti(path: Path) -> nib.Nifti1Image:
    """Header and a handle on the voxels of a 3D grey image."""
    with _readable(path):
        image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        raise UserError(f"{path}: not NIfTI but {type(image).__name__}. {_COPY_AGAIN}")
    dtype, shape = image.get_data_dtype(), image.shape
    if dtype.kind not in "iuf":
        kind = "an RGB image" if dtype.names else f"an image of type {dtype}"
        raise UserError(f"{path}: {kind}, expected one grey value a voxel. Export the CT itself, not a rendering.")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise UserError(
            f"{path}: {len(shape)}D image of shape {tuple(shape)}, expected 3D. "
            "Give one volume (split a 4D series, join single slices)."
        )
    if 0 in shape:
        raise UserError(f"{path}: image of shape {tuple(shape)} holds no voxels. {_COPY_AGAIN}")
    return image


def _stored(image: nib.Nifti1Image, path: Path) -> tuple[NDArray[Any], float, float]:
    """Stored voxels `[X, Y, Z]` with the slope and intercept that make values of them."""
    with _readable(path):
        raw = np.asanyarray(image.dataobj.get_unscaled())
        return raw.reshape(raw.shape[:3], order="F"), float(image.dataobj.slope), float(image.dataobj.inter)


def _hu_of(raw: NDArray[Any], slope: float, intercept: float, path: Path) -> tuple[NDArray[Any], int]:
    """HU, slice by slice (a scan in float64 would take four times the memory), and how many were below −1024."""
    hu: NDArray[Any] = np.empty(raw.shape, dtype=np.int16, order="F")
    lower = 0
    for k in range(raw.shape[2]):
        values = raw[..., k].astype(np.float64) * slope + intercept
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise UserError(
                f"{path}: {count} voxels of slice {k} are NaN or infinite, expected HU everywhere. "
                f"Set voxels outside the field of view to {AIR_HU} (air)."
            )
        lower += int((values < AIR_HU).sum())
        plane = whole_hu(values)
        if plane.dtype != np.int16 and hu.dtype == np.int16:
            hu = hu.astype(np.float32)
        hu[..., k] = plane
    return hu, lower


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


def _check_affine(affine: NDArray[np.float64], path: Path) -> None:
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    usable = np.isfinite(affine).all() and columns.min() > 0
    if not usable or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-3:
        raise UserError(
            f"{path}: the affine {np.round(affine[:3], 4).tolist()} is not invertible (an axis has no length or two "
            "are parallel), so voxels have no place. Convert the scan again from DICOM, or repair the sform."
        )


def _check_geometry(image: nib.Nifti1Image, path: Path) -> list[str]:
    """Refuses a NIfTI header without usable geometry, remarks on a doubtful one."""
    _check_affine(image.affine, path)
    remarks = []
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    shown = " × ".join(f"{s:g}" for s in spacing)
    header = image.header
    units = header.get_xyzt_units()[0] if int(header["xyzt_units"]) & 7 in (0, 1, 2, 3) else "unknown"
    low, high = _PLAUSIBLE_SPACING_MM
    if units not in ("mm", "unknown"):
        raise UserError(
            f"{path}: the header gives the spacing {shown} in {units}, expected mm. "
            "Set xyzt_units to mm (and scale the affine)."
        )
    if units == "unknown":
        if spacing.min() < low or spacing.max() > high:
            raise UserError(
                f"{path}: spacing {shown} without a unit, and not plausible in mm ({low:g} to {high:g}). "
                "Set xyzt_units to mm and see that the spacing is right."
            )
        remarks.append(f"the header has no spatial unit; the spacing {shown} is taken to be in mm")
    (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), header.get_qform(coded=True)
    if not sform_code and not qform_code:
        remarks.append("the header has no orientation (sform and qform codes are 0): left and right are a guess")
    elif sform_code and qform_code:
        shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
        if not Grid(shape, sform).same_as(Grid(shape, qform), tolerance_mm=1.0):
            remarks.append("sform and qform of the header differ by more than 1 mm; the sform was followed")
    return remarks


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


def _describe(grid: Grid) -> str:
    spacing = " × ".join(f"{s:.3f}" for s in grid.spacing_mm)
    corner = ", ".join(f"{c:.2f}" for c in grid.affine[:3, 3])
    return f"shape {grid.shape}, {spacing} mm, axes {grid.axis_codes}, first voxel at ({corner})"
