"""Figures of a report. Each function returns a matplotlib figure and touches no global state.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers and line styles differ as well.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from data_modules.scan.geometry import Volume, canonical
from iac_lightning.evaluation.metrics.lesions import as_mask, components
from iac_lightning.evaluation.statistics.bootstrap import PairedDifference
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#777777",
)
MODEL_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
_MARKERS = "osD^vPX"
LABEL_COLOR, PREDICTION_COLOR = SKY, ORANGE

BONE_WINDOW_HU = (-100.0, 900.0)
"""Display window that keeps calcium (130 HU and more) apart from brain and from bone."""

_DPI = 130


def png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def dice_figure(tables: Mapping[str, pd.DataFrame], summaries: Mapping[str, dict[str, Any]], source: str) -> Figure:
    """Dice of each model: a point a patient (mean over the patient's scans with lesions), mean over scans with CI.

    Args:
        tables: model label to table of series.
        summaries: model label to its `summarise`.
        source: what the figure is drawn from (n, split, seed), stated below the title.
    """
    rows = [(label, "dice", summary["dice"]) for label, summary in summaries.items()]
    for label, summary in summaries.items():
        if "protocol_prior" in summary:
            rows.insert(
                next(i for i, row in enumerate(rows) if row[0] == label) + 1,
                (label, "prior_dice", summary["protocol_prior"]["dice"]),
            )
    figure, axes = _new(9.0, 1.7 + 0.5 * len(rows))
    labels = list(tables)
    jitter = np.random.default_rng([len(rows)])
    for y, (label, column, mean) in enumerate(rows):
        k = labels.index(label)
        table = tables[label]
        with_lesion = table[table["has_lesion"].astype(bool)]
        patients = with_lesion.groupby("patient_id")[column].mean().to_numpy()
        raw = column == "dice"
        axes.scatter(
            patients,
            y + jitter.uniform(-0.2, 0.2, len(patients)),
            s=22,
            marker=_marker(k),
            facecolors=_color(k) if raw else "none",
            edgecolors=_color(k),
            alpha=0.55,
            linewidths=0.9,
        )
        _mean_with_interval(axes, mean, y)
    axes.set_yticks(range(len(rows)), [f"{r[0]}" if r[1] == "dice" else "+ protocol prior" for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("Dice (1 is perfect)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    _point_and_mean_legend(figure)
    _title(axes, "Dice on the scans with lesions", source)
    return figure


def difference_figure(
    comparisons: Sequence[tuple[str, NDArray[np.float64], PairedDifference]], source: str, metric: str = "Dice"
) -> Figure:
    """Paired differences: a point a patient, mean with CI; right of zero the first model is better.

    Args:
        comparisons: for each pair a name such as "A − B", the differences of the patients `[n_patients]` and the
            statistics.
        source: what the figure is drawn from.
        metric: what is compared.
    """
    figure, axes = _new(9.0, 1.8 + 0.5 * len(comparisons))
    jitter = np.random.default_rng([len(comparisons)])
    for y, (_, patients, paired) in enumerate(comparisons):
        interval = paired.difference
        axes.scatter(patients, y + jitter.uniform(-0.2, 0.2, len(patients)), s=22, color=BLUE, alpha=0.5, linewidths=0)
        _mean_with_interval(axes, {"mean": interval.estimate, "ci95": [interval.low, interval.high]}, y)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--", zorder=0)
    widest = max([0.02, *(float(np.abs(p).max()) for _, p, _ in comparisons if len(p))])
    axes.set_xlim(-1.08 * widest, 1.08 * widest)
    axes.set_yticks(range(len(comparisons)), [name for name, _, _ in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {metric} (right of 0: the model named first is better)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    _point_and_mean_legend(figure)
    _title(axes, f"Paired differences in {metric}, same scans", source)
    return figure


def thickness_figure(
    tables: Mapping[str, pd.DataFrame],
    summaries: Mapping[str, dict[str, Any]],
    source: str,
    strata: Sequence[Stratum] = THICKNESS_STRATA,
) -> Figure:
    """Dice against slice thickness: a point a scan with lesions, and the mean with CI of each stratum.

    Args:
        tables: model label to table of series.
        summaries: model label to its `summarise`, with the same strata.
        source: what the figure is drawn from.
        strata: of slice thickness.
    """
    figure, axes = _new(9.0, 4.2)
    n_models = len(tables)
    longest = max(float(table["slice_thickness_mm"].max()) for table in tables.values())
    for k, (label, table) in enumerate(tables.items()):
        rows = table[table["has_lesion"].astype(bool)]
        shift = 0.12 * (k - (n_models - 1) / 2)
        axes.scatter(
            rows["slice_thickness_mm"] + shift,
            rows["dice"],
            s=16,
            marker=_marker(k),
            color=_color(k),
            alpha=0.35,
            linewidths=0,
        )
        places, means, low, high = [], [], [], []
        for (_, lower, upper), stratum in zip(strata, summaries[label]["thickness"], strict=True):
            if stratum["mean"] is None:
                continue
            inside = (rows["slice_thickness_mm"] > lower) & (rows["slice_thickness_mm"] <= upper)
            places.append(float(rows.loc[inside, "slice_thickness_mm"].mean()) + shift)
            means.append(stratum["mean"])
            ends = [stratum["mean"] if v is None else v for v in stratum["ci95"]]
            low.append(ends[0])
            high.append(ends[1])
        axes.vlines(places, low, high, color=_color(k), linewidth=1.6)
        axes.plot(places, means, color=_color(k), marker=_marker(k), markersize=8, markeredgecolor="white", label=label)
    for _, _, upper in strata:
        if upper < longest:
            axes.axvline(upper, color="#cccccc", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel("slice thickness (mm); dotted lines part the strata")
    axes.set_ylabel("Dice")
    axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    _legend_below(figure, axes.get_legend_handles_labels()[0])
    _title(axes, "Dice by slice thickness, scans with lesions", source)
    return figure


def volume_figure(tables: Mapping[str, pd.DataFrame], summaries: Mapping[str, dict[str, Any]], source: str) -> Figure:
    """Bland–Altman plot of predicted against labelled volume, one panel a model, the same axes in all."""
    columns = min(3, len(tables))
    n_rows = -(-len(tables) // columns)
    figure = Figure(figsize=(max(5.0, 3.6 * columns), 0.7 + 3.1 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True)
    for k, (label, table) in enumerate(tables.items()):
        axes = panels[k // columns, k % columns]
        error = summaries[label]["volume_error"]
        predicted, labelled = table["volume_mm3"], table["label_volume_mm3"]
        axes.scatter(
            (predicted + labelled) / 2,
            predicted - labelled,
            s=20,
            color=_color(k),
            marker=_marker(k),
            alpha=0.6,
            linewidths=0,
        )
        axes.axhline(0, color="#bbbbbb", linewidth=0.8)
        if error["bias_mm3"] is not None:
            axes.axhline(error["bias_mm3"], color=BLACK, linewidth=1.4, label=f"bias {_signed(error['bias_mm3'])} mm³")
            low, high = error["limits_mm3"]
            axes.axhline(
                high, color=BLACK, linewidth=1, linestyle="--", label=f"limits {_signed(low)} to {_signed(high)} mm³"
            )
            axes.axhline(low, color=BLACK, linewidth=1, linestyle="--")
            axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=8, loc="best")
        axes.set_title(label, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for spare in panels.ravel()[len(tables) :]:
        spare.set_visible(False)
    figure.supxlabel("mean of predicted and labelled volume (mm³)", fontsize=10)
    figure.supylabel("predicted − labelled (mm³)", fontsize=10)
    figure.suptitle(f"Agreement of volumes, all scans\n{source}", fontsize=10)
    return figure


def training_figure(table: pd.DataFrame, source: str) -> Figure:
    """Curves by epoch: every column with "loss" in its name to the left, with "dice" to the right.

    Args:
        table: a column `epoch`; undefined values are skipped.
        source: which run, seed and splits.
    """
    panels = [(name, [c for c in table if name in str(c).lower()]) for name in ("loss", "dice")]
    panels = [(name, columns) for name, columns in panels if columns]
    figure = Figure(figsize=(4.6 * max(1, len(panels)), 3.4), layout="constrained")
    for i, (name, columns) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for k, column in enumerate(columns):
            points = table[["epoch", column]].dropna()
            style = ("-", "--", "-.", ":")[k % 4]
            axes.plot(points["epoch"], points[column], style, color=_color(k), marker=".", label=str(column))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel({"loss": "loss", "dice": "Dice"}[name])
        if name == "dice":
            axes.set_ylim(-0.02, 1.02)
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.suptitle(f"Training curves\n{source}", fontsize=10)
    return figure


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
    volumes = {"hu": hu, "label": label, "prediction": prediction, "probability": probability}
    data = {name: canonical(v).data for name, v in volumes.items() if v is not None}
    masks: dict[str, NDArray[np.bool_]] = {n: as_mask(data[n]) for n in ("label", "prediction") if n in data}
    spacing = np.asarray(canonical(hu).grid.spacing_mm)
    center, what = _lesion_center(masks, data["hu"].shape)
    n_rows = 2 if probability is not None else 1
    figure = Figure(figsize=(10.0, 3.3 * n_rows + 1.1), layout="constrained")
    panels = figure.subplots(n_rows, 3, squeeze=False)
    planes = (("axial", 2, "R", "L"), ("coronal", 1, "R", "L"), ("sagittal", 0, "A", "P"))
    for row in range(n_rows):
        for column, (name, axis, left, right) in enumerate(planes):
            axes = panels[row, column]
            across, up = [a for a in range(3) if a != axis]
            extent = (-0.5 * spacing[across], (data["hu"].shape[across] - 0.5) * spacing[across])
            vertical = (-0.5 * spacing[up], (data["hu"].shape[up] - 0.5) * spacing[up])
            place = {"extent": (*extent, *vertical), "origin": "lower", "interpolation": "nearest"}
            image = data["hu"].take(center[axis], axis=axis).T
            axes.imshow(image, cmap="gray", vmin=window_hu[0], vmax=window_hu[1], **place)
            if row == 1:
                chance = data["probability"].take(center[axis], axis=axis).T
                # Fading with the probability leaves the anatomy visible where there is none.
                axes.imshow(chance, cmap="viridis", vmin=0, vmax=1, alpha=np.clip(2 * chance, 0, 0.75), **place)
            for mask_name, mask in masks.items():
                lines = outline(mask.take(center[axis], axis=axis), spacing[across], spacing[up])
                axes.add_collection(LineCollection(lines, **_OUTLINES[mask_name]))
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
            _letters(axes, left, right)
            _scale_bar(axes)
    if probability is not None:
        scale = ScalarMappable(Normalize(0, 1), cmap="viridis")
        figure.colorbar(scale, ax=panels[1, :].tolist(), label="probability", shrink=0.9, pad=0.01)
    voxel = " × ".join(f"{s:.3g}" for s in spacing)
    figure.suptitle(f"{title}\nplanes through {what}; {_window(window_hu)}; voxels {voxel} mm; bar 10 mm", fontsize=10)
    if masks:
        _legend_below(figure, [LineCollection([], label=name, **_OUTLINES[name]) for name in masks])
    return figure


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
        _letters(axes, "R", "L")
        _scale_bar(axes)
    figure.suptitle(f"{title}\naxial slice {k + 1} of {image.shape[2]}; {_window(window_hu)}; bar 10 mm", fontsize=10)
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


_OUTLINES: dict[str, dict[str, Any]] = {
    "label": {"colors": [LABEL_COLOR], "linewidths": 2.2, "linestyles": "solid"},
    "prediction": {"colors": [PREDICTION_COLOR], "linewidths": 1.4, "linestyles": "solid"},
}
"""The prediction is drawn thinner on top of the label, so that both show where they agree."""

_HALO = [withStroke(linewidth=4.5, foreground="black")]
"""White marks stay visible on white bone."""


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _title(axes: Axes, title: str, source: str) -> None:
    axes.set_title(f"{title}\n{source}", fontsize=10, loc="left")


def _legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    figure.legend(handles=list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _point_and_mean_legend(figure: Figure) -> None:
    point = Line2D([], [], marker="o", color=GREY, linestyle="", alpha=0.6, label="one patient")
    mean = Line2D([], [], marker="|", markersize=12, color=BLACK, label="mean over scans, 95 % CI over patients")
    _legend_below(figure, [point, mean])


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _window(window_hu: tuple[float, float]) -> str:
    return f"window {window_hu[0]:.0f} to {window_hu[1]:.0f} HU".replace("-", "−")


def _color(k: int) -> str:
    return MODEL_COLORS[k % len(MODEL_COLORS)]


def _marker(k: int) -> str:
    return _MARKERS[k % len(_MARKERS)]


def _mean_with_interval(axes: Axes, mean: dict[str, Any], y: float) -> None:
    if mean["mean"] is None or np.isnan(mean["mean"]):
        return
    low, high = (np.nan if v is None else v for v in mean["ci95"])
    axes.hlines(y, low, high, color=BLACK, linewidth=2.4, zorder=3)
    axes.vlines(mean["mean"], y - 0.22, y + 0.22, color=BLACK, linewidth=2.4, zorder=3)


def _lesion_center(masks: Mapping[str, NDArray[np.bool_]], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], str]:
    """Index of the voxel where the planes cross, and words for what lies there."""
    for name, mask in masks.items():
        if mask.any():
            ids, _ = components(mask)
            voxels = np.argwhere(ids == np.argmax(np.bincount(ids[ids > 0])))
            nearest = np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()
            return voxels[nearest], f"the largest lesion of the {name}"
    return np.asarray(shape) // 2, "the middle"


def _letters(axes: Axes, left: str, right: str) -> None:
    for x, letter in ((0.03, left), (0.93, right)):
        axes.text(
            x, 0.92, letter, transform=axes.transAxes, color="white", fontsize=9, fontweight="bold", path_effects=_HALO
        )


def _scale_bar(axes: Axes, length_mm: float = 10.0) -> None:
    """A bar in the lower left corner of the view; data units are millimetres."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    start, height = x0 + 0.05 * (x1 - x0), y0 + 0.06 * (y1 - y0)
    axes.plot(
        [start, start + np.sign(x1 - x0) * length_mm], [height, height], color="white", linewidth=3, path_effects=_HALO
    )
