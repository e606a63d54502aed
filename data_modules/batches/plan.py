"""What decides the samples of a batch, drawn for whole batches on the host before anything is cut.

Every number of a sample comes from a place of its own in a vector of uniform numbers that follows from (seed, epoch,
index): a transform that is added draws from new places and leaves all others as they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_modules.batches.condition import SLICE_AXIS, Acquisition, position_mm
from data_modules.batches.philox import PLAN, uniform
from data_modules.config import AugmentationConfig, DataConfig, SamplingConfig
from data_modules.prepare.store import PreparedSeries

Floats = NDArray[np.float64]

_CHUNK = 512
"""Samples drawn at once: few enough to cost nothing where an epoch is short."""

# Places in the vector of a sample. Those of a transform stay free where it is not applied.
_AROUND, _PATIENT, _SERIES, _COMPONENT, _VOXEL, _WHERE = 0, 1, 2, 3, 4, slice(5, 8)
_FLIP = 8
_AFFINE, _SCALES, _DEGREES = 9, slice(10, 13), slice(13, 16)
_THICKNESS, _THICKER, _ROUNDNESS, _WIDENING = 16, 17, 18, 19
_INTENSITY, _GAIN, _OFFSET = 20, 21, 22
_BLUR, _BLUR_MM = 23, 24
_NOISE, _NOISE_HU = 25, 26
_GAMMA, _POWER = 27, 28
_WINDOW, _ENDS = 29, slice(30, 32)
_PLACES = 32


@dataclass(frozen=True, eq=False)
class PatchPlan:
    """All that decides the samples of a batch, one row (``B``) a sample; arrays of the host.

    Attributes:
        seed: of all samples; with epoch and index it decides their noise.
        epoch: of all samples.
        index: `[B]` int64, of each sample within the epoch.
        series: `[B]` int64, which series each is cut from.
        corner: `[B, 3]` int64, voxel of the series' common grid that becomes voxel (0, 0, 0); may lie outside.
        around_lesion: `[B]` bool, whether the patch was placed around a lesion component.
        flip: `[B]` bool, mirrored left and right.
        affine: `[B]` bool, rotated and scaled.
        scales: `[B, 3]`, factors of size along x, y, z; 1 where not `affine`.
        degrees: `[B, 3]`, rotation about x, y, z; 0 where not `affine`.
        own_mm: `[B]`, width along z over which the patch was averaged before: by its slices or by the common grid.
        position_mm: `[B, 3]`, the patch's middle as seen from the region's, mirrored with the patch; rotation and scale
            leave it where it is.
        thicker_mm: `[B]`, nominal thickness of the slices that the patch is re-imaged with; nan: it is not.
        roundness: `[B]`, shape of the slice profile, from 0 (box) to 1 (triangle).
        widening: `[B]`, full width at half maximum of the profile over the nominal thickness.
        slice_thickness_mm: `[B]` float32, nominal thickness of the sample's slices as the network is told it.
        spacing_mm: `[B, 3]`, of the scan's voxels, along z of the slices that the patch is re-imaged with.
        gain: `[B]`, factor of HU; 1 where unchanged.
        offset_hu: `[B]`; 0 where unchanged.
        blur_mm: `[B]`, standard deviation in plane; 0: none.
        noise_hu: `[B]`, standard deviation; 0: none.
        gamma: `[B]`, power of brightness within the window; 1: none.
        window_hu: `[B, 2]`, HU that become −1 and 1.
    """

    seed: int
    epoch: int
    index: NDArray[np.int64]
    series: NDArray[np.int64]
    corner: NDArray[np.int64]
    around_lesion: NDArray[np.bool_]
    flip: NDArray[np.bool_]
    affine: NDArray[np.bool_]
    scales: Floats
    degrees: Floats
    own_mm: Floats
    position_mm: Floats
    thicker_mm: Floats
    roundness: Floats
    widening: Floats
    slice_thickness_mm: NDArray[np.float32]
    spacing_mm: Floats
    gain: Floats
    offset_hu: Floats
    blur_mm: Floats
    noise_hu: Floats
    gamma: Floats
    window_hu: Floats

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, rows: Any) -> PatchPlan:
        """The plan of some of the samples: a slice or an array of row numbers."""
        return PatchPlan(**{f.name: _row(getattr(self, f.name), rows) for f in fields(self)})


class PatchPlanner:
    """Draws plans: where patches are cut and how they are changed.

    Patients are drawn uniformly, so that one with many series does not count for more. With probability
    `lesion_fraction` the patient is drawn among those with lesions, the series among the patient's with lesions, the
    lesion component uniformly whatever its size, and the patch is placed around one of its voxels: that voxel lies up
    to `jitter` × half the patch from the patch's centre along each axis, also where the patch then reaches outside the
    volume, so that a lesion in an end slice is centred as often as any other. Otherwise the patch lies anywhere, and
    where it is larger than the volume, it is padded evenly. A cohort without lesions gives patches anywhere.

    Args:
        series: prepared series; only `components`, the grid's shape, the patient and the slices are looked at.
        config: grid, window, sampling and augmentation.
        seed: with epoch and index, decides a sample.
        labels: whether lesions may be looked at; False puts every patch anywhere.
    """

    def __init__(self, series: Sequence[PreparedSeries], config: DataConfig, seed: int, *, labels: bool) -> None:
        self.config = config
        self.seed = seed
        self._positions = _Positions(series, config.sampling, labels=labels)
        spacing_mm = config.grid.spacing_mm[SLICE_AXIS]
        thickness_mm = np.array([s.slice_thickness_mm for s in series])
        along_z = np.array([s.slice_axis == SLICE_AXIS for s in series])
        self._own_mm = np.maximum(np.where(along_z, thickness_mm, 0), spacing_mm)  # the common grid averages too
        self._told_mm = np.array([Acquisition.of_series(s).told_thickness_mm(spacing_mm) for s in series])
        self._spacing_mm = np.array([s.native_grid.spacing_mm for s in series])
        self._drawn: dict[tuple[int, int], PatchPlan] = {}

    def __call__(self, epoch: int, indices: NDArray[np.int64] | Sequence[int]) -> PatchPlan:
        """The plan of the samples of these indices of an epoch: each row depends on (seed, epoch, index) alone."""
        indices = np.asarray(indices, dtype=np.int64)
        chunks, place = np.unique(indices // _CHUNK, return_inverse=True)
        drawn = [self._chunk(epoch, chunk) for chunk in chunks.tolist()]
        plan = drawn[0] if len(drawn) == 1 else _joined(drawn)
        return plan.rows(place * _CHUNK + indices % _CHUNK)

    def _chunk(self, epoch: int, chunk: int) -> PatchPlan:
        """Drawn once: batches come in order, and one may lie across two chunks."""
        key = epoch, chunk
        if key not in self._drawn:
            while len(self._drawn) >= 2:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[key] = self._draw(epoch, chunk)
        return self._drawn[key]

    def _draw(self, epoch: int, chunk: int) -> PatchPlan:
        index = np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        u = uniform(self.seed, PLAN, epoch, torch.from_numpy(index), _PLACES).numpy()
        series, corner, around_lesion = self._positions(u)
        own_mm = self._own_mm[series]
        changes = _changes(u, self.config.augmentation, own_mm, self.config.window_hu)
        told_mm = np.fmax(self._told_mm[series], changes["thicker_mm"])
        scan_mm = self._spacing_mm[series]
        thicker = ~np.isnan(changes["thicker_mm"])
        scan_mm[thicker, SLICE_AXIS] = changes["thicker_mm"][thicker]  # which touch
        crop, shapes = self.config.sampling.crop, self._positions.shapes
        place_mm = position_mm(corner, crop, shapes[series], self.config.grid.spacing_mm)
        place_mm[:, 0] *= np.where(changes["flip"], -1, 1)
        return PatchPlan(
            seed=self.seed,
            epoch=epoch,
            index=index,
            series=series,
            corner=corner,
            around_lesion=around_lesion,
            own_mm=own_mm,
            position_mm=place_mm,
            spacing_mm=scan_mm,
            slice_thickness_mm=told_mm.astype(np.float32),
            **changes,
        )


class _Positions:
    """Series and corner of patches from uniform numbers; groups of unequal size lie end to end in flat arrays.

    Attributes:
        shapes: `[n, 3]` voxels of each series' region.
    """

    def __init__(self, series: Sequence[PreparedSeries], config: SamplingConfig, *, labels: bool) -> None:
        self.config = config
        self.shapes = np.array([s.grid.shape for s in series], dtype=np.int64)
        self._anywhere = _Groups(_by_patient(series, range(len(series))))
        bearing = [i for i, s in enumerate(series) if labels and len(s.components)]
        self._bearing = _Groups(_by_patient(series, bearing))
        by_component = {i: _by_component(np.asarray(series[i].components)) for i in bearing}
        voxels = [group for i in bearing for group in by_component[i]]
        numbers = iter(range(len(voxels)))
        of_series = [[next(numbers) for _ in by_component.get(i, ())] for i in range(len(series))]
        self._components = _Groups(of_series)
        self._voxels = _Groups(voxels)

    def __call__(self, u: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """`[B]` series, `[B, 3]` corner and `[B]` whether around a lesion, from `[B, _PLACES]`."""
        crop = np.array(self.config.crop)
        around = (u[:, _AROUND] < self.config.lesion_fraction) & bool(len(self._bearing))
        series = self._anywhere.draw(_below(len(self._anywhere), u[:, _PATIENT]), u[:, _SERIES])
        room = self.shapes[series] - crop
        corner = np.where(room >= 0, _below(room + 1, u[:, _WHERE]), -((-room) // 2))
        if around.any():
            series[around], corner[around] = self._around_lesions(u[around])
        return series, corner, around

    def _around_lesions(self, u: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        series = self._bearing.draw(_below(len(self._bearing), u[:, _PATIENT]), u[:, _SERIES])
        voxel = self._voxels.draw(self._components.draw(series, u[:, _COMPONENT]), u[:, _VOXEL])
        half = (np.array(self.config.crop) - 1) / 2
        inside = np.rint(half + self.config.jitter * _between(-1, 1, u[:, _WHERE]) * half)  # its place in the patch
        return series, voxel - inside.astype(np.int64)


class _Groups:
    """Groups of members, end to end."""

    def __init__(self, groups: Sequence[Any]) -> None:
        self._sizes = np.array([len(group) for group in groups], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        filled = [np.asarray(group, dtype=np.int64) for group in groups if len(group)]
        self._members = np.concatenate(filled) if filled else np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._sizes)

    def draw(self, group: NDArray[np.int64], u: Floats) -> NDArray[np.int64]:
        """One member of each of these groups, all members of a group alike."""
        members: NDArray[np.int64] = self._members[self._starts[group] + _below(self._sizes[group], u)]
        return members


def _changes(u: Floats, config: AugmentationConfig, own_mm: Floats, window_hu: tuple[float, float]) -> dict[str, Any]:
    """The parts of a plan that augmentation decides, from `[B, _PLACES]`."""

    def where(place: int, probability: float) -> NDArray[np.bool_]:
        return u[:, place] < (probability if config.enabled else 0)

    affine, intensity = where(_AFFINE, config.affine_probability), where(_INTENSITY, config.intensity_probability)
    thicker_mm = _between(*config.thickness_range_mm, u[:, _THICKER])
    thicker = where(_THICKNESS, config.thickness_probability) & (thicker_mm > own_mm)
    jitter_hu = min(config.window_jitter_hu, (window_hu[1] - window_hu[0] - 1) / 2)  # the ends keep their order
    window = where(_WINDOW, config.window_probability)
    low, high = config.gamma
    power = low * (high / low) ** u[:, _POWER]  # 2 as often as 1/2
    return {
        "flip": where(_FLIP, config.flip_probability),
        "affine": affine,
        "scales": np.where(affine[:, None], _between(1 - config.scale, 1 + config.scale, u[:, _SCALES]), 1),
        "degrees": np.where(affine[:, None], config.rotation_deg * _between(-1, 1, u[:, _DEGREES]), 0),
        "thicker_mm": np.where(thicker, thicker_mm, np.nan),
        "roundness": _between(*config.profile_roundness, u[:, _ROUNDNESS]),
        "widening": _between(*config.profile_widening, u[:, _WIDENING]),
        "gain": np.where(intensity, _between(1 - config.gain, 1 + config.gain, u[:, _GAIN]), 1),
        "offset_hu": np.where(intensity, config.offset_hu * _between(-1, 1, u[:, _OFFSET]), 0),
        "blur_mm": np.where(where(_BLUR, config.blur_probability), config.blur_mm * u[:, _BLUR_MM], 0),
        "noise_hu": np.where(where(_NOISE, config.noise_probability), config.noise_hu * u[:, _NOISE_HU], 0),
        "gamma": np.where(where(_GAMMA, config.gamma_probability), power, 1),
        "window_hu": np.array(window_hu) + np.where(window[:, None], jitter_hu * _between(-1, 1, u[:, _ENDS]), 0),
    }


def _between(low: float, high: float, u: Floats) -> Floats:
    return low + (high - low) * u


def _below(n: NDArray[np.int64] | int, u: Floats) -> NDArray[np.int64]:
    """Whole numbers from 0 to n − 1, uniformly."""
    return np.floor(n * u).astype(np.int64)


def _row(values: Any, rows: Any) -> Any:
    return values[rows] if isinstance(values, np.ndarray) else values


def _joined(plans: Sequence[PatchPlan]) -> PatchPlan:
    """Plans of one seed and epoch, one after the other."""

    def column(name: str) -> Any:
        values = [getattr(plan, name) for plan in plans]
        return np.concatenate(values) if isinstance(values[0], np.ndarray) else values[0]

    return PatchPlan(**{f.name: column(f.name) for f in fields(PatchPlan)})


def _by_patient(series: Sequence[PreparedSeries], indices: Iterable[int]) -> list[list[int]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index in indices:
        groups[series[index].series.patient_id].append(index)
    return [groups[patient] for patient in sorted(groups)]


def _by_component(components: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The voxels `[n, 3]` of each lesion component, from rows of component, x, y, z."""
    ordered = components[np.argsort(components[:, 0], kind="stable")]
    borders = np.flatnonzero(np.diff(ordered[:, 0])) + 1
    return list(np.split(ordered[:, 1:], borders))
