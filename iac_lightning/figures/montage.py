"""Every lesion of a scan in one picture: three planes through the largest, and the slices that show all of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from data_modules.scan.geometry import Volume, canonical
from iac_lightning.evaluation.metrics.lesions import as_mask, components
from iac_lightning.figures.scans import (
    BONE_WINDOW_HU,
    OUTLINES,
    PLANES,
    draw_overlay,
    letters,
    outline,
    scale_bar,
    show_slice,
)
from iac_lightning.figures.style import VERMILLION

MOST_SLICES = 24
"""Panels; lesions that would need more are counted in the picture, the smallest ones as they come last."""

_COLUMNS = 4
_MARGIN_MM = 6.0
_LEAST_MM = 40.0
"""Views are no smaller than this, so that anatomy is seen around a single lesion."""

_CHARACTERS = 125
_HALO = [withStroke(linewidth=2.5, foreground="black")]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Which slices show which lesions.

    Attributes:
        ids: `[X, Y, Z]` number of the lesion that each voxel belongs to, from 1, the largest first; 0: none.
        slices: index along the axis across slices, of each panel, from below.
        hidden: lesions that no panel shows.
        voxels: of each lesion, the largest first.
    """

    ids: NDArray[np.int32]
    slices: tuple[int, ...]
    hidden: tuple[int, ...]
    voxels: tuple[int, ...]


def lesion_slices(mask: NDArray[np.bool_], axis: int, most: int = MOST_SLICES) -> Shown:
    """Slices that show every lesion at least once, as far as `most` go.

    From the largest lesion to the smallest: one that none of the slices so far shows adds that in which it covers most.

    Args:
        mask: `[X, Y, Z]`.
        axis: across slices.
        most: slices.
    """
    found, count = components(mask)
    sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    number = np.zeros(count + 1, dtype=np.int32)
    number[order + 1] = np.arange(1, count + 1)
    ids = number[found]
    areas = np.stack([np.bincount(s.ravel(), minlength=count + 1)[1:] for s in np.moveaxis(ids, axis, 0)])
    chosen: list[int] = []
    hidden: list[int] = []
    for k in range(count):
        if areas[chosen, k].any():
            continue
        if len(chosen) < most:
            chosen.append(int(areas[:, k].argmax()))
        else:
            hidden.append(k + 1)
    shown_by_later = [k for k in hidden if areas[chosen, k - 1].any()]
    return Shown(
        ids=ids,
        slices=tuple(sorted(chosen)),
        hidden=tuple(k for k in hidden if k not in shown_by_later),
        voxels=tuple(sizes[order].tolist()),
    )


def montage_figure(
    hu: Volume, mask: Volume, probability: Volume, title: Sequence[str], alarm: Sequence[str], axis: int = 2
) -> Figure:
    """Three planes through the largest lesion, and below them the slices that show all lesions, numbered by size.

    Args:
        hu: the region.
        mask: the result on the same grid.
        probability: on the same grid.
        title: lines that say what is seen; no names of patients.
        alarm: what a reader must know before believing it; drawn in colour.
        axis: array axis of the canonical region across slices.
    """
    shown = lesion_slices(as_mask(canonical(mask).data), axis)
    spacing = np.asarray(canonical(hu).grid.spacing_mm)
    low, high = _box(shown.ids > 0, spacing)
    across, up = [a for a in range(3) if a != axis]
    rows = -(-len(shown.slices) // _COLUMNS)
    row_inches = 2.45 * (high[up] - low[up]) / (high[across] - low[across]) + 0.3
    heading = [line for text in title for line in textwrap.wrap(text, _CHARACTERS)]
    alarms = [line for text in alarm for line in textwrap.wrap(text, _CHARACTERS)]
    heights = [0.19 * (len(heading) + len(alarms)) + 0.1, 7.7, row_inches * rows + 0.6]
    figure = Figure(figsize=(10.0, sum(heights)), layout="constrained")
    top, planes, below = figure.subfigures(3, 1, squeeze=False, height_ratios=heights).ravel()
    _heading(top, heading, alarms)
    draw_overlay(planes, hu, prediction=mask, probability=probability)
    image = canonical(hu).data
    if not shown.slices:
        below.suptitle("no lesion is marked", fontsize=10)
        return figure
    panels = below.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, index in zip(panels, shown.slices, strict=False):
        _panel(axes, image.take(index, axis=axis), np.take(shown.ids, index, axis=axis), axis, spacing)
        axes.set_xlim(high[across], low[across])  # the image's left is the patient's right or front
        axes.set_ylim(low[up], high[up])
        axes.set_title(f"slice {index + 1} of {image.shape[axis]}", fontsize=9)
        scale_bar(axes)
    for axes in panels[len(shown.slices) :]:
        axes.set_axis_off()
    below.suptitle(_caption(shown, axis, float(np.prod(spacing))), fontsize=10)
    return figure


def _heading(part: SubFigure, heading: Sequence[str], alarms: Sequence[str]) -> None:
    """Lines from the top, the alarms last and in colour."""
    lines = [(line, "black") for line in heading] + [(line, VERMILLION) for line in alarms]
    for k, (line, color) in enumerate(lines):
        weight = "bold" if color == VERMILLION or k == 0 else "normal"
        part.text(0.5, 1 - (k + 0.6) / (len(lines) + 0.2), line, color=color, fontsize=10, ha="center", va="center",
                  fontweight=weight)  # fmt: skip


def _caption(shown: Shown, axis: int, voxel_mm3: float) -> str:
    name = next(name for name, across, _, _ in PLANES if across == axis)
    text = f"{len(shown.voxels)} lesions, numbered by volume, on {len(shown.slices)} {name} slices, from below"
    if shown.hidden:
        volume = sum(shown.voxels[k - 1] for k in shown.hidden) * voxel_mm3
        first = shown.voxels[shown.hidden[0] - 1] * voxel_mm3
        text += (
            f"\nnot shown: {len(shown.hidden)} lesions, {volume:.1f} mm³ in all, the largest of {first:.1f} mm³ "
            f"(at most {MOST_SLICES} slices are drawn)"
        )
    return text


def _panel(axes: Axes, image: NDArray[Any], ids: NDArray[np.int32], axis: int, spacing: NDArray[np.float64]) -> None:
    """One slice `[across, up]` with outline and number of each lesion in it."""
    across, up = [a for a in range(3) if a != axis]
    show_slice(axes, image, axis, spacing, BONE_WINDOW_HU)
    axes.add_collection(LineCollection(outline(ids > 0, spacing[across], spacing[up]), **OUTLINES["prediction"]))
    for number in np.unique(ids[ids > 0]):
        voxels = np.argwhere(ids == number)
        # beside the lesion, towards the picture's right: x falls to the right
        at = (voxels[:, 0].min() - 1.0) * spacing[across], voxels[:, 1].mean() * spacing[up]
        axes.annotate(
            str(number), at, xytext=(2, 0), textcoords="offset points", color="white", fontsize=7, ha="left",
            va="center", path_effects=_HALO, annotation_clip=False,
        )  # fmt: skip
    _, _, left, right = next(plane for plane in PLANES if plane[1] == axis)
    letters(axes, left, right)
    axes.set_aspect("equal")
    axes.set_facecolor("black")
    axes.xaxis.set_major_locator(NullLocator())
    axes.yaxis.set_major_locator(NullLocator())


def _box(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners in mm around all lesions, on every panel the same."""
    voxels = np.argwhere(mask) if mask.any() else np.zeros((1, 3))
    low, high = voxels.min(axis=0) * spacing - _MARGIN_MM, voxels.max(axis=0) * spacing + _MARGIN_MM
    lacking = np.maximum(0, _LEAST_MM - (high - low)) / 2
    return low - lacking, high + lacking
