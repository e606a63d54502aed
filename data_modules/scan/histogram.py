"""The histogram of a scan: its padding, its peaks, and what lies between two values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_LOWEST = int(np.iinfo(np.int16).min)
_SMOOTHING_HU = 10.0
"""Less than lies between any two tissues that a peak is sought of, more than the gaps of eight-bit grey values."""
PEAK_HALF_HU = 60
"""A peak is what lies this near to its top: a tissue with the noise of thin slices and sharp kernels (σ to 60 HU)."""
_SHARP = 0.57
"""Share of a peak within a third of its surroundings; tissue of ordinary CT at least 0.65, ramps 0.33 to 0.48."""
_SPIKE = 10.0
"""A single value this many times as frequent as those beside it is no tissue but written by a program or a limit."""
_NEIGHBOURS = 20


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many voxels hold each whole HU of int16.

    Attributes:
        counts: `[65536]`, from −32768 on.
    """

    counts: NDArray[np.int64]

    @property
    def total(self) -> int:
        """Number of voxels."""
        return int(self.counts.sum())

    @cached_property
    def _below(self) -> NDArray[np.int64]:
        """`[65537]`: voxels below each value."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def _smooth(self) -> NDArray[np.float64]:
        used = np.flatnonzero(self.counts)
        smooth = np.zeros(self.counts.shape)
        if used.size:
            pad = int(5 * _SMOOTHING_HU)
            part = slice(max(0, used[0] - pad), used[-1] + pad + 1)
            smooth[part] = ndimage.gaussian_filter1d(self.counts[part].astype(np.float64), _SMOOTHING_HU)
        return smooth

    def count(self, low: float, high: float) -> int:
        """Voxels from `low` to `high` HU, both counted."""
        first, last = (int(np.clip(v - _LOWEST, 0, self.counts.size)) for v in (low, high + 1))
        return int(self._below[last] - self._below[first]) if last > first else 0

    def share(self, low: float, high: float) -> float:
        """The same as a share of all voxels."""
        return self.count(low, high) / max(1, self.total)

    @property
    def lowest(self) -> int:
        """The lowest value that occurs."""
        return int(np.flatnonzero(self.counts)[0]) + _LOWEST

    @property
    def highest(self) -> int:
        """The highest value that occurs."""
        return int(np.flatnonzero(self.counts)[-1]) + _LOWEST

    @property
    def n_values(self) -> int:
        """How many values occur."""
        return int(np.count_nonzero(self.counts))

    def peak(self, low: float, high: float) -> int | None:
        """Where the histogram, smoothed, is highest between two values; None where nothing lies between them."""
        if not self.count(low, high):
            return None
        first = int(low) - _LOWEST
        return int(np.argmax(self._smooth[first : int(high) - _LOWEST + 1])) + int(low)

    def around(self, peak: float, half: float = PEAK_HALF_HU) -> float:
        """Share of the voxels that make a peak."""
        return self.share(peak - half, peak + half)

    def is_sharp(self, peak: int, half: float = PEAK_HALF_HU) -> bool:
        """Whether the histogram is highest there and falls off on either side, as no ramp or noise of all HU does."""
        if self.peak(peak - half, peak + half) != peak:
            return False
        return self.count(peak - half, peak + half) >= _SHARP * self.count(peak - 3 * half, peak + 3 * half)

    def pile(self, value: int, side: int) -> int:
        """Voxels of exactly `value` where it towers over the values beside it on one side (−1, +1), else 0."""
        count = self.count(value, value)
        first = value - _LOWEST + (1 if side > 0 else -_NEIGHBOURS)
        beside = self.counts[max(0, first) : max(0, first + _NEIGHBOURS)]
        occupied = beside[beside > 0]  # eight-bit grey values leave gaps
        return count if not occupied.size or count > _SPIKE * occupied.mean() else 0

    def spikes(self, share: float, low: int, high: int) -> list[int]:
        """Values between two that hold at least a share of all voxels and tower over those on either side."""
        counts = self.counts[low - _LOWEST : high - _LOWEST + 1]
        often = np.flatnonzero(counts >= max(1.0, share * self.total)) + low
        return [int(v) for v in often if self.pile(int(v), 1) and self.pile(int(v), -1)]

    def without(self, values: list[int]) -> Histogram:
        """The same without some values."""
        counts = self.counts.copy()
        counts[np.asarray(values, dtype=int) - _LOWEST] = 0
        return Histogram(counts)


def histogram_of(planes: list[NDArray[Any]]) -> Histogram:
    """The histogram of some slices of HU; fractions are rounded."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for plane in planes:
        whole = plane if plane.dtype == np.int16 else np.rint(plane).astype(np.int16)
        counts += np.bincount(whole.ravel(order="K").view(np.uint16), minlength=1 << 16)
    return Histogram(np.roll(counts, 1 << 15))
