"""Where training patches are cut: patients equally often, lesion components equally often, borders included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.config import SamplingConfig
from data_modules.prepare.store import PreparedSeries

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """Where one patch is cut.

    Attributes:
        series: index of the series.
        corner: voxel (x, y, z) of the series' common grid that becomes the patch's voxel (0, 0, 0); may lie outside.
        around_lesion: whether the patch was placed around a lesion component.
    """

    series: int
    corner: Corner
    around_lesion: bool


class PlaceSampler:
    """Draws a patient, one of the patient's series, and a place in it.

    Patients are drawn uniformly, so that one with many series does not count for more. With probability
    `lesion_fraction` the patient is drawn among those with lesions, the series among the patient's with lesions, the
    lesion component uniformly whatever its size, and the patch is placed around one of its voxels. Otherwise
    the patch lies anywhere. A cohort without lesions gives patches anywhere.

    Args:
        series: prepared series; only `components`, the grid's shape and the patient are looked at.
        config: patch shape, lesion fraction and jitter.
        labels: whether lesions may be looked at; False places every patch anywhere.
    """

    def __init__(self, series: Sequence[PreparedSeries], config: SamplingConfig, *, labels: bool = True) -> None:
        self.config = config
        self._shapes = [s.grid.shape for s in series]
        self._patients = _by_patient(series, range(len(series)))
        bearing = [i for i, s in enumerate(series) if labels and len(s.components)]
        self._patients_with_lesions = _by_patient(series, bearing)
        self._components = {i: np.asarray(series[i].components) for i in bearing}

    def __call__(self, rng: np.random.Generator) -> Place:
        """The next place; depends on the state of `rng` alone."""
        around_lesion = bool(rng.random() < self.config.lesion_fraction) and bool(self._patients_with_lesions)
        patients = self._patients_with_lesions if around_lesion else self._patients
        of_patient = patients[rng.integers(len(patients))]
        index = of_patient[rng.integers(len(of_patient))]
        if around_lesion:
            corner = lesion_corner(self._components[index], self.config.crop, self.config.jitter, rng)
        else:
            corner = uniform_corner(self._shapes[index], self.config.crop, rng)
        return Place(index, corner, around_lesion)


def lesion_corner(
    components: NDArray[np.int32], crop: tuple[int, int, int], jitter: float, rng: np.random.Generator
) -> Corner:
    """Corner of a patch that holds a voxel of a lesion component drawn uniformly, whatever its size.

    The voxel lies up to `jitter` × half the patch from the patch's centre, along each axis, also where the patch then
    reaches outside the volume: a lesion in an end slice is centred as often as any other.

    Args:
        components: `[n, 4]`, rows of component id, x, y, z; not empty.
        crop: patch shape.
        jitter: 0 centres the voxel; 1 lets it lie anywhere in the patch.
        rng: source of randomness.
    """
    ids = np.unique(components[:, 0])
    voxels = components[components[:, 0] == ids[rng.integers(len(ids))], 1:]
    voxel = voxels[rng.integers(len(voxels))]
    half = (np.asarray(crop) - 1) / 2
    inside = np.rint(half + rng.uniform(-jitter, jitter, 3) * half).astype(int)  # the voxel's place in the patch
    x, y, z = (int(v) for v in voxel - inside)
    return x, y, z


def uniform_corner(shape: tuple[int, int, int], crop: tuple[int, int, int], rng: np.random.Generator) -> Corner:
    """Corner of a patch anywhere inside a volume of `shape`; where the patch is larger, it is padded evenly."""
    x, y, z = (
        int(rng.integers(size - length + 1)) if size >= length else -((length - size) // 2)
        for size, length in zip(shape, crop, strict=True)
    )
    return x, y, z


def cut(array: NDArray[Any], corner: Corner, out: NDArray[Any], fill: float) -> None:
    """Copy a patch out of a volume, reading (from a memory map: from disk) nothing but the patch.

    Args:
        array: `[X, Y, Z]`.
        corner: voxel of `array` that becomes voxel (0, 0, 0) of the patch; may lie outside.
        out: the patch to write, of the patch's shape and of any type that holds the values.
        fill: value outside the volume.
    """
    low = [max(c, 0) for c in corner]
    high = [max(a, min(c + n, size)) for a, c, n, size in zip(low, corner, out.shape, array.shape, strict=True)]
    inside = [slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True)]
    for axis, side in enumerate(inside):
        before = (slice(None),) * axis
        out[(*before, slice(None, side.start))] = fill
        out[(*before, slice(side.stop, None))] = fill
    np.copyto(out[tuple(inside)], array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], casting="unsafe")


def _by_patient(series: Sequence[PreparedSeries], indices: Iterable[int]) -> list[list[int]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index in indices:
        groups[series[index].series.patient_id].append(index)
    return [groups[patient] for patient in sorted(groups)]
