"""Pictures of scans: outlines of label and prediction, and what a masked autoencoder restores."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from data_modules.scan.geometry import Volume, canonical
from iac_lightning.evaluation.metrics.lesions import as_mask, components
from iac_lightning.figures.style import BLUE, ORANGE, SKY, legend_below

LABEL_COLOR, PREDICTION_COLOR = SKY, ORANGE

BONE_WINDOW_HU = (-100.0, 900.0)
"""Display window that keeps calcium (130 HU and more) apart from brain and from bone."""

PLANES = (("axial", 2, "R", "L"), ("coronal", 1, "R", "L"), ("sagittal", 0, "A", "P"))
"""Name, array axis across, and what lies at the left and right edge, as radiologists look."""

OUTLINES: dict[str, dict[str, Any]] = {
    "label": {"colors": [LABEL_COLOR], "linewidths": 2.2, "linestyles": "solid"},
    "prediction": {"colors": [PREDICTION_COLOR], "linewidths": 1.4, "linestyles": "solid"},
}
"""The prediction is drawn thinner on top of the label, so that both show where they agree."""

_TITLE_CHARACTERS = 120
"""A longer line of a title would leave a figure of 10 inches."""

_HALO = [withStroke(linewidth=4.5, foreground="black")]
"""White marks stay visible on white bone."""


def overlay_figure(
    hu: Volume,
    label: Volume | None = None,
    prediction: Volume | None = None,
    probability: Volume | None = None,
    title: str = "",
    *,
    window_hu: tuple[float, float] = BONE_WINDOW_HU,
    field_mm: float = 48.0,
) -> Figure:
    """Three planes through the largest lesion with outlines of label and prediction along voxel edges.

    The largest component of the label decides the place, without one that of the prediction, else the volume's middle;
    the planes cross in the lesion voxel nearest to its centroid. Axial and coronal planes are seen as radiologists
    see them: the patient's right is on the left. Proportions follow the spacing; a tilted grid is drawn as if upright.

    Args:
        hu: the scan.
        label: mask on the same grid, or None.
        prediction: mask on the same grid, or None.
        probability: on the same grid, or None; adds a second row with the probability in colour.
        title: says which series and what is seen; no names of patients.
        window_hu: HU shown black and white.
        field_mm: width of each view around the lesion.
    """
    figure = Figure(figsize=(10.0, 3.3 * (1 if probability is None else 2) + 1.1), layout="constrained")
    draw_overlay(figure, hu, label, prediction, probability, title, window_hu=window_hu, field_mm=field_mm)
    return figure


def show_slice(
    axes: Axes, image: NDArray[Any], axis: int, spacing: NDArray[np.float64], window_hu: tuple[float, float]
) -> tuple[float, float, float, float]:
    """A view `[across, up]` of a canonical volume in grey, in proportion.

    Args:
        axes: to draw on.
        image: HU.
        axis: of the volume that is looked along.
        spacing: of the volume, mm.
        window_hu: HU shown black and white.

    Returns:
        Left, right, bottom and top of the picture in mm, for what is drawn over it.
    """
    across, up = [a for a in range(3) if a != axis]
    extent = (
        -0.5 * spacing[across],
        (image.shape[0] - 0.5) * spacing[across],
        -0.5 * spacing[up],
        (image.shape[1] - 0.5) * spacing[up],
    )
    low, high = window_hu
    axes.imshow(image.T, cmap="gray", vmin=low, vmax=high, extent=extent, origin="lower", interpolation="nearest")
    return extent


def draw_overlay(
    figure: Figure | SubFigure,
    hu: Volume,
    label: Volume | None = None,
    prediction: Volume | None = None,
    probability: Volume | None = None,
    title: str = "",
    *,
    window_hu: tuple[float, float] = BONE_WINDOW_HU,
    field_mm: float = 48.0,
) -> None:
    """`overlay_figure` on a figure, or a part of one, that is there."""
    volumes = {"hu": hu, "label": label, "prediction": prediction, "probability": probability}
    data = {name: canonical(v).data for name, v in volumes.items() if v is not None}
    masks: dict[str, NDArray[np.bool_]] = {n: as_mask(data[n]) for n in ("label", "prediction") if n in data}
    spacing = np.asarray(canonical(hu).grid.spacing_mm)
    center, what = _lesion_center(masks, data["hu"].shape)
    n_rows = 2 if probability is not None else 1
    panels = figure.subplots(n_rows, 3, squeeze=False)
    for row in range(n_rows):
        for column, (name, axis, left, right) in enumerate(PLANES):
            axes = panels[row, column]
            across, up = [a for a in range(3) if a != axis]
            extent = show_slice(axes, data["hu"].take(center[axis], axis=axis), axis, spacing, window_hu)
            if row == 1:
                chance = data["probability"].take(center[axis], axis=axis).T
                # Fading with the probability leaves the anatomy visible where there is none.
                place: dict[str, Any] = {"extent": extent, "origin": "lower", "interpolation": "nearest"}
                axes.imshow(chance, cmap="viridis", vmin=0, vmax=1, alpha=np.clip(2 * chance, 0, 0.75), **place)
            for mask_name, mask in masks.items():
                lines = outline(mask.take(center[axis], axis=axis), spacing[across], spacing[up])
                axes.add_collection(LineCollection(lines, **OUTLINES[mask_name]))
            middle = center * spacing
            half = field_mm / 2
            # The image's left is the patient's right (x) or front (y): both rise to the left on RAS+ axes.
            axes.set_xlim(middle[across] + half, middle[across] - half)
            axes.set_ylim(middle[up] - half, middle[up] + half)
            axes.set_aspect("equal")
            axes.set_facecolor("black")
            axes.xaxis.set_major_locator(NullLocator())
            axes.yaxis.set_major_locator(NullLocator())
            if row == 0:
                axes.set_title(f"{name}, slice {center[axis] + 1} of {data['hu'].shape[axis]}", fontsize=9)
            letters(axes, left, right)
            scale_bar(axes)
    if probability is not None:
        chances = ScalarMappable(Normalize(0, 1), cmap="viridis")
        figure.colorbar(chances, ax=panels[1, :].tolist(), label="probability", shrink=0.9, pad=0.01)
    voxel = " × ".join(f"{s:.3g}" for s in spacing)
    scale = f"{window_words(window_hu)}; voxels {voxel} mm; bar 10 mm"
    figure.suptitle(f"{title}\n" * bool(title) + f"planes through {what}; {scale}", fontsize=10)
    if masks:
        legend_below(figure, [LineCollection([], label=name, **OUTLINES[name]) for name in masks])


def reconstruction_figure(
    image: NDArray[Any],
    hidden: NDArray[np.bool_],
    reconstruction: NDArray[Any],
    *,
    spacing_mm: tuple[float, float, float],
    title: str,
    window_hu: tuple[float, float],
) -> Figure:
    """What a masked autoencoder saw and what it restored: the middle axial slice of a crop.

    Args:
        image: what the network is given, `[X, Y, Z]` in [-1, 1], on RAS+ axes.
        hidden: `[X, Y, Z]`, True where the network saw nothing.
        reconstruction: `[X, Y, Z]` in [-1, 1]; drawn where hidden, the original elsewhere.
        spacing_mm: voxel size.
        title: run, seed and what the error is.
        window_hu: the HU that -1 and 1 stand for.
    """
    k = image.shape[2] // 2
    original, mask = image[:, :, k].astype(float), np.asarray(hidden, dtype=bool)[:, :, k]
    panels = {
        "original": original,
        f"what the network saw ({1 - np.mean(hidden):.0%} of the crop)": np.ma.masked_array(original, mask),
        "hidden part restored": np.where(mask, reconstruction[:, :, k], original),
    }
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    extent = (0.0, original.shape[0] * spacing_mm[0], 0.0, original.shape[1] * spacing_mm[1])
    for axes, (name, shown) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.set_facecolor(BLUE)
        axes.imshow(shown.T, cmap="gray", vmin=-1, vmax=1, extent=extent, origin="lower", interpolation="nearest")
        axes.set_xlim(extent[1], extent[0])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(name, fontsize=10)
        letters(axes, "R", "L")
        scale_bar(axes)
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, _TITLE_CHARACTERS)]
    lines.append(f"axial slice {k + 1} of {image.shape[2]}; {window_words(window_hu)}; bar 10 mm")
    figure.suptitle("\n".join(lines), fontsize=10)
    return figure


def outline(mask: NDArray[np.bool_], step_x: float, step_y: float) -> list[NDArray[np.float64]]:
    """Line segments along the voxel edges where a 2D mask `[X, Y]` begins or ends.

    Voxel (i, j) is centred at (i·step_x, j·step_y). Small lesions keep their true size, which contours would round off.
    """
    padded = np.pad(mask.astype(bool), 1)
    segments = []
    for i, j in np.argwhere(padded[1:, :] != padded[:-1, :]):  # edge between voxels i-1 and i (of the unpadded mask)
        x = (i - 0.5) * step_x
        segments.append(np.array([[x, (j - 1.5) * step_y], [x, (j - 0.5) * step_y]]))
    for i, j in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        y = (j - 0.5) * step_y
        segments.append(np.array([[(i - 1.5) * step_x, y], [(i - 0.5) * step_x, y]]))
    return segments


def window_words(window_hu: tuple[float, float]) -> str:
    """Such as ``window −100 to 900 HU``."""
    return f"window {window_hu[0]:.0f} to {window_hu[1]:.0f} HU".replace("-", "−")


def _lesion_center(masks: Mapping[str, NDArray[np.bool_]], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], str]:
    """Index of the voxel where the planes cross, and words for what lies there."""
    for name, mask in masks.items():
        if mask.any():
            ids, _ = components(mask)
            voxels = np.argwhere(ids == np.argmax(np.bincount(ids[ids > 0])))
            nearest = np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()
            return voxels[nearest], f"the largest lesion of the {name}"
    return np.asarray(shape) // 2, "the middle"


def letters(axes: Axes, left: str, right: str) -> None:
    """The sides of the patient that the left and the right edge of a view show."""
    for x, letter in ((0.03, left), (0.93, right)):
        axes.text(
            x, 0.92, letter, transform=axes.transAxes, color="white", fontsize=9, fontweight="bold", path_effects=_HALO
        )


def scale_bar(axes: Axes, length_mm: float = 10.0) -> None:
    """A bar in the lower left corner of the view; data units are millimetres."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    start, height = x0 + 0.05 * (x1 - x0), y0 + 0.06 * (y1 - y0)
    axes.plot(
        [start, start + np.sign(x1 - x0) * length_mm], [height, height], color="white", linewidth=3, path_effects=_HALO
    )
