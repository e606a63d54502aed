"""Voxel grids in space: where each voxel of an array lies in the patient.

World coordinates are RAS+ millimetres (NIfTI, nibabel, TorchIO); SimpleITK and DICOM use LPS, which
differs by the sign of x and y. Array axes are `[X, Y, Z]`, in the order of the affine's columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from data_modules.config import region_voxels

AIR_HU = -1024
"""Value of every voxel outside the field of view."""

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_GRID_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid: shape and affine from voxel index to RAS+ millimetres.

    Attributes:
        shape: number of voxels along x, y, z.
        affine: `[4, 4]` float64; column k is the step of axis k, the last column the centre of voxel (0, 0, 0).
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"affine has shape {affine.shape}, expected (4, 4)")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel: the absolute determinant of the affine."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Extent of the grid along each axis, voxel edges included."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    @property
    def directions(self) -> NDArray[np.float64]:
        """`[3, 3]`, unit step of each axis as columns."""
        return self.affine[:3, :3] / np.asarray(self.spacing_mm)

    @property
    def axis_codes(self) -> str:
        """Letters of the nearest anatomical direction of each axis, such as ``"RAS"``."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @property
    def center_ras_mm(self) -> NDArray[np.float64]:
        """`[3]`, the middle of the grid."""
        return self.to_ras_mm((np.asarray(self.shape) - 1) / 2)

    @property
    def is_orthogonal(self) -> bool:
        """Whether the axes stand at right angles, that is, whether the grid is not sheared."""
        gram = self.directions.T @ self.directions
        return bool(np.abs(gram - np.eye(3)).max() < _GRID_TOLERANCE)

    def to_ras_mm(self, index: Any) -> NDArray[np.float64]:
        """World position `[..., 3]` of voxel indices `[..., 3]` (fractions allowed)."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, ras_mm: Any) -> NDArray[np.float64]:
        """Fractional voxel index `[..., 3]` of world positions `[..., 3]`."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(ras_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def holds(self, ras_mm: Any) -> bool:
        """Whether a world position `[3]` lies in one of the voxels."""
        index = self.to_index(ras_mm)
        return bool(((index >= -0.5) & (index <= np.asarray(self.shape) - 0.5)).all())

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Grid:
        """The grid whose voxel (0, 0, 0) is this grid's voxel `start`; may reach outside."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_ras_mm(start)
        return Grid(shape, affine)

    def with_spacing(self, spacing_mm: tuple[float, float, float], size_mm: tuple[float, float, float]) -> Grid:
        """A grid with the same directions and centre, another voxel size, covering `size_mm` (rounded up)."""
        shape = region_voxels(spacing_mm, size_mm)
        affine = np.eye(4)
        affine[:3, :3] = self.directions * np.asarray(spacing_mm)
        affine[:3, 3] = self.center_ras_mm - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
        return Grid(shape, affine)

    def same_as(self, other: Grid, tolerance_mm: float = 0.01) -> bool:
        """Whether both grids put every voxel at the same place, to `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1).T
        return bool(np.abs(self.to_ras_mm(corners) - other.to_ras_mm(corners)).max() <= tolerance_mm)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Grid:
        """The inverse of `to_dict`."""
        x, y, z = data["shape"]
        return Grid((x, y, z), np.asarray(data["affine"]))


@dataclass(frozen=True, eq=False)
class Volume:
    """An array and the grid it lives on.

    Attributes:
        data: `[X, Y, Z]`: HU, probability, occupancy in [0, 1] or a mask.
        grid: its geometry; `grid.shape == data.shape`.
    """

    data: NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise ValueError(f"array of shape {self.data.shape} on a grid of shape {self.grid.shape}")

    def with_data(self, data: NDArray[Any]) -> Volume:
        """The same grid with other values."""
        return replace(self, data=data)


def canonical(volume: Volume) -> Volume:
    """Axes flipped and permuted to the nearest RAS+ order; voxel values and places stay as they are."""
    orientation = nib.orientations.io_orientation(volume.grid.affine)
    data = nib.orientations.apply_orientation(volume.data, orientation)
    affine = volume.grid.affine @ nib.orientations.inv_ornt_aff(orientation, volume.grid.shape)
    return Volume(data, Grid(data.shape, affine))


def crop_box(volume: Volume, center_ras_mm: Any, size_mm: tuple[float, float, float], fill: float) -> Volume:
    """The voxels of a box of `size_mm` along the grid's axes around a point, on the volume's own grid.

    Where the box reaches outside the volume, voxels hold `fill` (−1024 HU for CT: air).
    """
    shape = tuple(max(1, round(m / s)) for m, s in zip(size_mm, volume.grid.spacing_mm, strict=True))
    middle = volume.grid.to_index(center_ras_mm)
    start = tuple(round(float(c - (n - 1) / 2)) for c, n in zip(middle, shape, strict=True))
    target = volume.grid.crop((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))
    return place(volume, target, fill)


def place(volume: Volume, target: Grid, fill: float) -> Volume:
    """Copy voxels onto `target`, a grid that holds the same voxels up to flips, permutation, crop or padding.

    No interpolation happens: this brings a cropped region back into its scan, exactly.

    Raises:
        ValueError: when the voxels of the two grids do not coincide.
    """
    mapping = np.linalg.inv(volume.grid.affine) @ target.affine  # target index -> volume index
    matrix, offset = mapping[:3, :3], mapping[:3, 3]
    steps, shift = np.rint(matrix).astype(int), np.rint(offset).astype(int)
    permutes = (np.abs(steps).sum(axis=0) == 1).all() and (np.abs(steps).sum(axis=1) == 1).all()
    reach = max(*volume.grid.shape, *target.shape)
    if not permutes or np.abs(matrix - steps).max() * reach > 0.05 or np.abs(offset - shift).max() > 0.05:
        raise ValueError("the voxels of the two grids do not coincide; resample instead of placing")
    out = np.full(target.shape, fill, dtype=volume.data.dtype)
    axis_of = [int(np.flatnonzero(steps[:, k])[0]) for k in range(3)]  # target axis k runs along this volume axis
    source = volume.data.transpose(axis_of)
    into: list[slice] = []
    take: list[slice] = []
    for k, axis in enumerate(axis_of):
        sign, first, n_source = int(steps[axis, k]), int(shift[axis]), volume.grid.shape[axis]
        inside = [i for i in range(target.shape[k]) if 0 <= first + sign * i < n_source]
        if not inside:
            return Volume(out, target)
        a, b = first + sign * inside[0], first + sign * inside[-1]
        into.append(slice(inside[0], inside[-1] + 1))
        take.append(slice(a, b + 1) if sign > 0 else slice(a, b - 1 if b > 0 else None, -1))
    out[tuple(into)] = source[tuple(take)]
    return Volume(out, target)


def to_sitk(volume: Volume) -> sitk.Image:
    """SimpleITK image (LPS) of a volume with right-angled axes; masks become uint8."""
    if not volume.grid.is_orthogonal:
        raise ValueError("SimpleITK cannot hold a sheared grid")
    data = volume.data.astype(np.uint8) if volume.data.dtype == bool else volume.data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    lps = _LPS @ volume.grid.affine
    directions = lps[:3, :3] / np.asarray(volume.grid.spacing_mm)
    u, _, vt = np.linalg.svd(directions)
    image.SetSpacing(volume.grid.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((u @ vt).ravel().tolist())
    return image


def lps_from_ras(point_mm: Any) -> tuple[float, float, float]:
    """A world point in DICOM's and SimpleITK's convention (and, being its own inverse, back)."""
    x, y, z = (float(v) for v in point_mm)
    return -x, -y, z
