"""Named regions around the arteries at the skull base, defined in template space and carried over to a scan.

A region is what lies within `REACH_MM` of an artery's usual course; where two reach a voxel, the nearer course has it.
The courses are those of the simulated arteries (`data_modules.phantom.vessels`), brought into MNI space with the
built-in head model and continued to where the vertebral arteries enter the skull. They are wide because registration
misses by some 5 mm: they say which artery a calcification belongs to, not where its wall is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from data_modules.scan.geometry import Grid, Volume

REGIONS = {
    1: "carotid_siphon_left",
    2: "carotid_siphon_right",
    3: "basilar",
    4: "vertebral_left",
    5: "vertebral_right",
    6: "middle_cerebral_left",
    7: "middle_cerebral_right",
}
"""Value of a voxel, and the region it stands for; 0 is none."""

REACH_MM = 9.0

# MNI mm, of the right side where there are two.
_SIPHON: tuple[tuple[float, float, float], ...] = (
    (27, -15, -44),
    (17, -10, -44),
    (13, -6, -40),
    (12, -2, -34),
    (12, 3, -32),
    (12, 9, -33),
)
_SIPHON += ((12, 14, -33), (12, 16, -30), (11, 13, -26), (11, 9, -22), (12, 7, -19), (12.5, 6, -16))
_MIDDLE_CEREBRAL = ((12.5, 6, -16), (20, 8, -14), (30, 10, -16), (42, 12, -19))
_BASILAR = ((0, -20, -52), (0, -16, -42), (0, -12, -32), (0, -10, -23))
_VERTEBRAL = ((0, -20, -52), (6, -26, -58), (13, -35, -68))
_STEP_MM = 0.5


def region_of(template_to_scan_ras: Any, ras_mm: Any) -> NDArray[np.uint8]:
    """The named region (`REGIONS`, 0 for none) of scan positions.

    Args:
        template_to_scan_ras: `[4, 4]`, as of a registration.
        ras_mm: `[..., 3]`.
    """
    matrix = np.linalg.inv(np.asarray(template_to_scan_ras, dtype=np.float64))
    places = np.asarray(ras_mm, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    courses = _courses()
    points = np.concatenate([course for _, course in courses])
    values = np.repeat([value for value, _ in courses], [len(course) for _, course in courses]).astype(np.uint8)
    _, nearest = cKDTree(points).query(places, distance_upper_bound=REACH_MM)
    return np.append(values, np.uint8(0))[nearest]  # what nothing reaches has the index behind the last


def named_regions(grid: Grid, template_to_scan_ras: Any) -> Volume:
    """The named regions (`REGIONS`) of a grid, uint8: each voxel's is that of its middle.

    Args:
        grid: of a region of interest or a scan.
        template_to_scan_ras: `[4, 4]`, as of a registration.
    """
    x, y, _ = grid.shape
    labels = np.empty(grid.shape, dtype=np.uint8)
    plane = np.stack(np.meshgrid(np.arange(x), np.arange(y), indexing="ij"), axis=-1)
    for k in range(grid.shape[2]):  # a slice at a time: positions of a whole scan take a gigabyte
        index = np.concatenate([plane, np.full((x, y, 1), k)], axis=-1)
        labels[:, :, k] = region_of(template_to_scan_ras, grid.to_ras_mm(index))
    return Volume(labels, grid)


def _courses() -> list[tuple[int, NDArray[np.float64]]]:
    """Value and course `[N, 3]` (MNI mm) of each region."""
    left, right = np.array((-1.0, 1.0, 1.0)), np.ones(3)
    both = ((_SIPHON, 1), (_VERTEBRAL, 4), (_MIDDLE_CEREBRAL, 6))
    sides = [(value + k, _dense(np.array(p) * side)) for p, value in both for k, side in enumerate((left, right))]
    return [*sides, (3, _dense(np.array(_BASILAR, dtype=np.float64)))]


def _dense(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A polyline sampled every `_STEP_MM`."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.arange(0.0, length[-1], _STEP_MM)
    return np.stack([np.interp(at, length, points[:, k]) for k in range(3)], axis=1)
