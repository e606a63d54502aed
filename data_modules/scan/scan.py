"""A CT scan: Hounsfield units, where they lie, how thick the slices are and how they were made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_modules.scan.geometry import AIR_HU, Grid, Volume, canonical, crop_box
from data_modules.scan.slices import StraightStack


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
        file_grid: of the file's voxels where they were moved onto another grid (sheared files), else None.
        is_resampled: whether slices were moved or interpolated to make the grid.
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
    file_grid: Grid | None = None
    is_resampled: bool = False

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
        return replace(
            self,
            hu=box.data,
            grid=box.grid,
            slice_thickness_mm=thickness,
            slice_thicknesses_mm=thicknesses,
            file_grid=None,
        )


def canonical_scan(scan: Scan) -> Scan:
    """Axes flipped and permuted to the nearest RAS+ order; the slice axis and the thicknesses follow."""
    volume = canonical(scan.volume)
    axis, flip = nib.orientations.io_orientation(scan.grid.affine)[scan.slice_axis]
    thicknesses = scan.slice_thicknesses_mm
    if thicknesses is not None and flip < 0:
        thicknesses = thicknesses[::-1]
    return replace(scan, hu=volume.data, grid=volume.grid, slice_axis=int(axis), slice_thicknesses_mm=thicknesses)


def scan_of(straight: StraightStack, **facts: Any) -> Scan:
    """The scan of slices brought onto one grid; `facts` are the attributes that the slices do not know."""
    thicknesses = straight.thicknesses_mm
    same = np.ptp(thicknesses) < 0.01
    return Scan(
        hu=straight.volume.data,
        grid=straight.volume.grid,
        slice_thickness_mm=float(np.median(thicknesses)),
        slice_thicknesses_mm=None if same else tuple(thicknesses.tolist()),
        is_resampled=straight.is_resampled,
        **facts,
    )
