"""An undamaged head: simulated from formulas, so that the truth of every damaged copy is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_modules.scan.scan import Scan

SHAPE = (52, 46, 14)
SPACING_MM = (1.6, 1.7, 3.0)
THICKNESS_MM = 4.0
KERNEL = "H31s"

_PLACE_MM = 0.5
_HU = 2.0
_SHARE = 0.02
"""Scanners are calibrated no better: a change of HU that is smaller than both is no damage."""


def _axes() -> NDArray[np.float64]:
    """`[X, Y, Z, 3]`, world coordinates of the voxels, centred on the origin."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    return (index - (np.asarray(SHAPE) - 1) / 2) * SPACING_MM


def _ellipsoid(place: NDArray[np.float64], center: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.float64]:
    """Below 1 inside."""
    return np.linalg.norm((place - center) / radii, axis=-1)


def simulated_hu() -> NDArray[np.int16]:
    """Air, skin, skull, brain, ventricles, a sinus of air and four spheres of calcium, with the noise of a scanner."""
    place, rng = _axes(), np.random.default_rng([5])
    hu = np.full(SHAPE, -1000.0)
    outer = _ellipsoid(place, (0, 0, 0), (37, 34, 60))
    hu[outer < 1] = 45
    skull = (outer < 0.94) & (outer >= 0.82)
    hu[skull] = 700 + 500 * np.cos(np.linspace(0, 9, skull.sum())) ** 2
    hu[outer < 0.82] = 34
    hu[_ellipsoid(place, (0, 0, 3), (8, 12, 9)) < 1] = 8
    hu[_ellipsoid(place, (0, 22, -8), (6, 5, 9)) < 1] = -980
    for x, y, z, peak in ((-9, 3, -6, 420), (9, 3, -6, 520), (-12, -6, 3, 650), (11, -9, 0, 350)):
        near = np.linalg.norm(place - (x, y, z), axis=-1)
        hu = np.maximum(hu, np.where(near < 3.4, peak * np.clip(3.6 - near, 0, 1), -1000))
    noisy = hu + rng.normal(0, 5, SHAPE)
    return np.clip(np.rint(noisy), -1024, 3071).astype(np.int16)


def lesion_mask() -> NDArray[np.uint8]:
    """What somebody would draw: bright spots inside the skull."""
    inside = _ellipsoid(_axes(), (0, 0, 0), (37, 34, 60)) < 0.75
    return ((simulated_hu() >= 130) & inside).astype(np.uint8)


def affine() -> NDArray[np.float64]:
    """Of the head as it is stored in NIfTI: RAS."""
    matrix = np.diag([*SPACING_MM, 1.0])
    matrix[:3, 3] = -(np.asarray(SHAPE) - 1) / 2 * SPACING_MM
    return matrix


@dataclass(frozen=True, eq=False)
class Truth:
    """What a reader of a scan must find.

    Attributes:
        hu: `[X, Y, Z]` at the places of `affine`.
        affine: voxel index to RAS mm.
        thickness_mm: None where nothing says it, so that any is a guess.
        kernel: None where nothing says it.
        thick_axis: number of the world's axis across the slices; None: not compared.
    """

    hu: NDArray[np.int16] = field(default_factory=simulated_hu)
    affine: NDArray[np.float64] = field(default_factory=affine)
    thickness_mm: float | None = THICKNESS_MM
    kernel: str | None = KERNEL
    thick_axis: int | None = 2

    def differs(self, scan: Scan) -> str:
        """In what a scan differs from this; empty where it does not."""
        if scan.hu.size != self.hu.size:
            return f"{scan.hu.shape} voxels instead of {self.hu.shape}"
        index = np.stack(np.meshgrid(*[np.arange(n) for n in self.hu.shape], indexing="ij"), axis=-1)
        places = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        found = np.rint(scan.grid.to_index(places)).astype(int)
        if (found < 0).any() or (found >= scan.hu.shape).any():
            return "lies elsewhere"
        away = np.linalg.norm(scan.grid.to_ras_mm(found) - places, axis=-1).max()
        if away > _PLACE_MM:
            return f"voxels are {away:.2f} mm away"
        values = scan.hu[tuple(np.moveaxis(found, -1, 0))].astype(float)
        wrong = np.abs(values - self.hu) > np.maximum(_HU, _SHARE * np.abs(self.hu))
        if wrong.any():
            return f"{wrong.sum()} voxels of other HU, by up to {np.abs(values - self.hu).max():.0f}"
        if self.thickness_mm is not None and abs(scan.slice_thickness_mm / self.thickness_mm - 1) > 0.02:
            return f"thickness {scan.slice_thickness_mm:g} instead of {self.thickness_mm:g} mm"
        if self.kernel is not None and scan.kernel != self.kernel:
            return f"kernel {scan.kernel!r} instead of {self.kernel!r}"
        across = int(np.abs(scan.grid.affine[:3, scan.slice_axis]).argmax())
        if self.thick_axis is not None and across != self.thick_axis:
            return f"slices along world axis {across} instead of {self.thick_axis}"
        return ""
