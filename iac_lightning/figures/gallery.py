"""A scan that a model got wrong: three planes through the place, and every lesion of the scan in projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from data_modules.scan.geometry import Volume, canonical
from iac_lightning.evaluation.metrics.lesions import as_mask, components
from iac_lightning.figures.scans import (
    BONE_WINDOW_HU,
    OUTLINES,
    PLANES,
    letters,
    outline,
    scale_bar,
    show_slice,
    window_words,
)
from iac_lightning.figures.style import PURPLE, VERMILLION, legend_below

_FIELD_MM = 48.0
_MARGIN_MM = 15.0
"""Around all lesions, in the projections."""

_FILLS = {"missed": VERMILLION, "false": PURPLE}


def failure_figure(hu: Volume, masks: Mapping[str, Volume], place: str, title: str) -> Figure:
    """Above, three planes through the largest component of a mask; below, the whole scan projected along each axis.

    Projections show every lesion, wherever it lies: outlines of label and prediction over the mean of the window, what
    was missed and what is false filled.

    Args:
        hu: the scan.
        masks: "label", "prediction", "missed" and "false" on the same grid.
        place: which of these masks decides where the planes cross; else, or where it is empty, label or prediction.
        title: says which scan and what is wrong; no names of patients.
    """
    data = {name: as_mask(canonical(v).data) for name, v in masks.items()}
    image, spacing = canonical(hu).data, np.asarray(canonical(hu).grid.spacing_mm)
    center, what = _center(data, place, image.shape)
    everything = np.logical_or.reduce(list(data.values()))
    figure = Figure(figsize=(10.0, 7.6), layout="constrained")
    panels = figure.subplots(2, 3)
    half = np.full(3, _FIELD_MM / 2)
    for column, (name, axis, left, right) in enumerate(PLANES):
        slices = {key: mask.take(center[axis], axis=axis) for key, mask in data.items()}
        above, below = panels[0, column], panels[1, column]
        _view(above, image.take(center[axis], axis=axis), BONE_WINDOW_HU, slices, axis, spacing)
        _limits(above, axis, center * spacing - half, center * spacing + half)
        above.set_title(f"{name}, slice {center[axis] + 1} of {image.shape[axis]}", fontsize=9)
        shadow = np.clip(image, *BONE_WINDOW_HU).mean(axis=axis)
        _view(
            below, shadow, _range(shadow), {key: np.max(mask, axis=axis) for key, mask in data.items()}, axis, spacing
        )
        _limits(below, axis, *_box(everything, spacing, image.shape))
        across, up = [a for a in range(3) if a != axis]
        below.plot(center[across] * spacing[across], center[up] * spacing[up], "+", color="white", markersize=15)
        below.set_title(f"all lesions, {name} projection", fontsize=9)
        for axes in (above, below):
            letters(axes, left, right)
            scale_bar(axes)
    voxel = " × ".join(f"{s:.3g}" for s in spacing)
    figure.suptitle(
        f"{title}\nabove: planes through {what} (+ below); {window_words(BONE_WINDOW_HU)}; voxels {voxel} mm; "
        "bars 10 mm",
        fontsize=10,
    )
    outlines = [LineCollection([], label=name, **OUTLINES[name]) for name in ("label", "prediction")]
    fills = [Patch(facecolor=color, alpha=0.6, label=name) for name, color in _FILLS.items()]
    legend_below(figure, [*outlines, *fills])
    return figure


def _view(
    axes: Axes,
    image: NDArray[Any],
    window_hu: tuple[float, float],
    masks: Mapping[str, NDArray[np.bool_]],
    axis: int,
    spacing: NDArray[np.float64],
) -> None:
    """Image, fills and outlines of one view `[across, up]`."""
    across, up = [a for a in range(3) if a != axis]
    extent = show_slice(axes, image, axis, spacing, window_hu)
    for name, color in _FILLS.items():
        fill = np.zeros((*masks[name].T.shape, 4))
        fill[masks[name].T] = to_rgba(color, 0.6)
        axes.imshow(fill, extent=extent, origin="lower", interpolation="nearest")
    for name in ("label", "prediction"):
        axes.add_collection(LineCollection(outline(masks[name], spacing[across], spacing[up]), **OUTLINES[name]))
    axes.set_aspect("equal")
    axes.set_facecolor("black")
    axes.xaxis.set_major_locator(NullLocator())
    axes.yaxis.set_major_locator(NullLocator())


def _range(image: NDArray[Any]) -> tuple[float, float]:
    """Black and white of a projection: its own range, as a mean over bone, brain and air spans little."""
    low, high = np.percentile(image, (2, 99.8))
    return float(low), float(max(high, low + 1))


def _limits(axes: Axes, axis: int, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    across, up = [a for a in range(3) if a != axis]
    axes.set_xlim(high[across], low[across])  # the image's left is the patient's right or front
    axes.set_ylim(low[up], high[up])


def _box(
    mask: NDArray[np.bool_], spacing: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners in mm around all lesions, no tighter than the planes above."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        return np.zeros(3), (np.asarray(shape) - 1) * spacing
    low, high = voxels.min(axis=0) * spacing - _MARGIN_MM, voxels.max(axis=0) * spacing + _MARGIN_MM
    lacking = np.maximum(0, _FIELD_MM - (high - low)) / 2
    return low - lacking, high + lacking


def _center(masks: Mapping[str, NDArray[np.bool_]], place: str, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], str]:
    """Voxel of the largest component that lies nearest to its centroid, and words for it."""
    words = {"missed": "the largest missed lesion", "false": "the largest false component"}
    for name in (place, "label", "prediction"):
        if name in masks and masks[name].any():
            ids, _ = components(masks[name])
            voxels = np.argwhere(ids == np.argmax(np.bincount(ids[ids > 0])))
            nearest = np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()
            return voxels[nearest], words.get(name, f"the largest lesion of the {name}")
    return np.asarray(shape) // 2, "the middle"
