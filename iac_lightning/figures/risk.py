"""Figures of risk groups, conformal intervals, slopes over slice thickness and detection, in the style of `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from data_modules.csv_files import as_text
from iac_lightning.evaluation.clinical.conformal import Coverage
from iac_lightning.evaluation.clinical.risk import GROUPS, RiskCutoffs
from iac_lightning.evaluation.statistics.classification import Roc
from iac_lightning.evaluation.statistics.intervals import Interval
from iac_lightning.evaluation.statistics.thickness import line_band
from iac_lightning.figures.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    bracket,
    color_of,
    legend_below,
    line_style_of,
    marker_of,
    new_axes,
    signed,
    title_axes,
)

MOST_SCANS = 150
"""Intervals drawn at most; of more scans, every k-th by predicted volume is drawn, and the figure says so."""


def confusion_figure(confusions: Mapping[str, ArrayLike], cutoffs: RiskCutoffs, source: str) -> Figure:
    """Confusion matrices of risk groups, one panel a model: counts, shaded by the share of the label's group.

    Args:
        confusions: model label to `[4, 4]` counts, rows the labels' groups.
        cutoffs: named on the axes.
        source: what the figure is drawn from (n, split, seed).
    """
    columns = min(3, len(confusions))
    n_rows = -(-len(confusions) // columns)
    width = max(5.5, 3.3 * columns)
    figure = Figure(figsize=(width, 1.2 + (3.0 if columns > 1 else 3.6) * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, columns, squeeze=False)
    for axes, (label, counts) in zip(panels.ravel(), confusions.items(), strict=False):
        table = np.asarray(counts)
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(table.shape):
            color = "white" if share[i, j] > 0.55 else BLACK
            weight = "bold" if i == j else "normal"
            axes.text(j, i, f"{table[i, j]}", ha="center", va="center", color=color, fontweight=weight, fontsize=11)
            if table[i].sum():
                axes.text(j, i + 0.33, f"{share[i, j]:.0%}", ha="center", va="center", color=color, fontsize=7.5)
        axes.set_xticks(range(len(GROUPS)), GROUPS)
        axes.set_yticks(range(len(GROUPS)), GROUPS)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        wrong = int(table.sum() - np.trace(table))
        axes.set_title(f"{label}\n{wrong} of {int(table.sum())} scans misclassified", fontsize=10)
    for spare in panels.ravel()[len(confusions) :]:
        spare.set_visible(False)
    figure.supxlabel("risk group by predicted volume", fontsize=10)
    figure.supylabel("risk group by labelled volume", fontsize=10)
    none, low, medium = (f"{limit:.3g}" for limit in cutoffs.limits_mm3)
    limits = f"none ≤ {none} < low ≤ {low} < medium ≤ {medium} < high (mm³)"
    lines = [line for text in (limits, cutoffs.source, source) for line in wrap(text, int(13 * width))]
    figure.suptitle("\n".join(["Risk groups; per cent of the row", *lines]), fontsize=9)
    return figure


def intervals_figure(intervals: pd.DataFrame, cutoffs: RiskCutoffs, coverage: float, source: str) -> Figure:
    """Conformal intervals of the scans of one model, sorted by predicted volume, on a square-root axis.

    Args:
        intervals: from `volume_intervals`; scans without a label are left out.
        cutoffs: drawn as lines.
        coverage: promised.
        source: what the figure is drawn from, the model included.
    """
    rows = intervals[intervals["covered"].notna()].sort_values(["volume_mm3", "series_id"], ignore_index=True)
    step = -(-len(rows) // MOST_SCANS) if len(rows) else 1
    total, rows = len(rows), rows.iloc[::step].reset_index(drop=True)
    figure, axes = new_axes(9.0, 4.4)
    root = {name: np.sqrt(rows[f"{name}_mm3"].to_numpy(dtype=float)) for name in ("low", "high", "volume")}
    label = np.sqrt(rows["label_volume_mm3"].to_numpy(dtype=float))
    finite = root["high"][np.isfinite(root["high"])]
    top = 1.08 * float(np.r_[1.0, finite, root["volume"], label].max())
    place = np.arange(len(rows))
    covered = rows["covered"].to_numpy(dtype=bool)
    axes.vlines(place, root["low"], np.minimum(root["high"], top), color="#b5b5b5", linewidth=2.2)
    axes.plot(place, root["volume"], "_", color=BLACK, markersize=5)
    axes.plot(place[covered], label[covered], "o", color=BLUE, markersize=4, markeredgewidth=0)
    axes.plot(place[~covered], label[~covered], "X", color=VERMILLION, markersize=7, markeredgewidth=0)
    crowded = np.sqrt(cutoffs.medium_mm3) - np.sqrt(cutoffs.low_mm3) < 0.06 * top
    sides = ("top", "bottom") if crowded else ("center", "center")
    for limit, name, side in zip(cutoffs.limits_mm3[1:], ("low", "medium"), sides, strict=True):
        axes.axhline(np.sqrt(limit), color=GREY, linewidth=0.9, linestyle=":", zorder=0)
        axes.text(len(rows) + 0.5, np.sqrt(limit), f"{name} ≤ {limit:.3g}", fontsize=8, va=side, color="#555555")
    axes.set_ylim(-0.03 * top, top)
    axes.set_xlim(-1, len(rows))
    _volume_axis(axes, top)
    axes.set_ylabel("volume (mm³, square-root axis)")
    some = f", every {_ordinal(step)} of {total} shown" if step > 1 else ""
    axes.set_xlabel(f"scans sorted by predicted volume{some}")
    outside = f"{int((~covered).sum())} of {len(rows)}"
    legend_below(
        figure,
        [
            Line2D([], [], color="#b5b5b5", linewidth=3, label=f"{coverage:.0%} interval"),
            Line2D([], [], color=BLACK, marker="_", linestyle="", label="predicted volume"),
            Line2D([], [], color=BLUE, marker="o", markersize=5, linestyle="", label="label inside"),
            Line2D([], [], color=VERMILLION, marker="X", linestyle="", label="label outside"),
        ],
    )
    title_axes(
        axes,
        f"Conformal volume intervals, one radius a stratum of slice thickness: {outside} labels drawn lie outside",
        source,
    )
    return figure


def coverage_figure(coverages: Mapping[str, Sequence[Coverage]], promised: float, source: str) -> Figure:
    """Measured coverage and mean width of conformal intervals by stratum of slice thickness, for each model.

    Args:
        coverages: model label to `measured_coverage`.
        promised: 1 − α, drawn as a line.
        source: what the figure is drawn from.
    """
    names = list(dict.fromkeys(row.stratum for rows in coverages.values() for row in rows))
    figure = Figure(figsize=(9.0, 1.7 + (0.38 + 0.1 * len(coverages)) * max(2, len(names))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    spread = 0.5 / max(1, len(coverages))
    handles = []
    for k, (label, rows) in enumerate(coverages.items()):
        style: dict[str, Any] = {"color": color_of(k), "marker": marker_of(k), "linestyle": "", "markersize": 7}
        for row in rows:
            y = names.index(row.stratum) + spread * (k - (len(coverages) - 1) / 2)
            left.hlines(y, row.low, row.high, color=color_of(k), linewidth=1.8)
            left.plot(row.coverage, y, **style)
            right.plot(row.mean_width_mm3, y, **style)
            if row.n_unbounded:
                note = f"  {row.n_unbounded} of {row.n} without upper end"
                x = 0.0 if np.isnan(row.mean_width_mm3) else row.mean_width_mm3
                right.text(x, y, note, fontsize=8, va="center", color=color_of(k))
        handles.append(Line2D([], [], label=label, **style))
    left.axvline(promised, color=GREY, linewidth=1, linestyle="--", zorder=0)
    handles.append(Line2D([], [], color=GREY, linestyle="--", label=f"promised, {promised:.0%}"))
    sizes = {row.stratum: row for rows in coverages.values() for row in rows}
    merged = {name: "merged; " if len(sizes[name].calibrated_in) > 1 else "" for name in names}
    ticks = [f"{name}\n{merged[name]}{sizes[name].n} scans, {sizes[name].n_patients} pat." for name in names]
    left.set_yticks(range(len(names)), ticks, fontsize=9)
    left.set_ylim(len(names) - 0.5, -0.5)
    lowest = min([0.8, *(row.low for rows in coverages.values() for row in rows if not np.isnan(row.low))])
    left.set_xlim(max(-0.02, lowest - 0.05), 1.02)
    left.set_xlabel("measured coverage over patients, 95 % CI")
    right.set_xlim(left=0)
    if all(np.isnan(row.mean_width_mm3) for rows in coverages.values() for row in rows):
        right.set_xticks([0])
    right.set_xlabel("mean width of the interval (mm³)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
    legend_below(figure, handles)
    figure.suptitle(f"Conformal intervals: coverage and width by slice thickness\n{source}", fontsize=10)
    return figure


def slope_figure(
    tables: Mapping[str, pd.DataFrame],
    slopes: Mapping[str, Interval],
    source: str,
    metric: str = "dice",
) -> Figure:
    """A metric against slice thickness: a faint point a scan with lesions, each model's fitted line with a band.

    The band holds 95 % over patients, pointwise.

    Args:
        tables: model label to table of series.
        slopes: model label to `slope_ci`, stated in the legend.
        source: what the figure is drawn from.
        metric: column.
    """
    figure, axes = new_axes(9.0, 4.4)
    handles = []
    for k, (label, table) in enumerate(tables.items()):
        rows = table[table["has_lesion"].astype(bool) & table[metric].notna()]
        x, y = rows["slice_thickness_mm"].to_numpy(dtype=float), rows[metric].to_numpy(dtype=float)
        shift = 0.08 * (k - (len(tables) - 1) / 2)
        axes.scatter(x + shift, y, s=14, marker=marker_of(k), color=color_of(k), alpha=0.3, linewidths=0)
        if len(np.unique(x)) > 1:
            grid = np.linspace(x.min(), x.max(), 60)
            line, low, high = line_band(x, y, as_text(rows["patient_id"]), grid)
            axes.fill_between(grid, low, high, color=color_of(k), alpha=0.15, linewidth=0)
            axes.plot(grid, line, color=color_of(k), linewidth=2, linestyle=line_style_of(k))
        slope = slopes[label]
        text = f"{label}: {signed(slope.estimate, 3)} per mm {bracket(slope)}"
        style: dict[str, Any] = {
            "color": color_of(k),
            "marker": marker_of(k),
            "linestyle": line_style_of(k),
        }
        handles.append(Line2D([], [], label=text, **style))
    name = "Dice" if metric == "dice" else metric.replace("_", " ")
    axes.set_xlabel("slice thickness (mm)")
    axes.set_ylabel(name)
    axes.set_xlim(left=0)
    if all(table[metric].dropna().between(0, 1).all() for table in tables.values()):
        axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    title_axes(axes, f"{name} by slice thickness, fitted lines with 95 % bands over patients", source)
    return figure


def roc_figure(curves: Mapping[str, Roc], source: str, score: str = "largest predicted volume") -> Figure:
    """ROC of detecting patients with calcification.

    Args:
        curves: model label to `roc`.
        source: what the figure is drawn from.
        score: what was thresholded, for the caption.
    """
    figure, axes = new_axes(6.2, 5.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", zorder=0)
    handles = []
    for k, (label, curve) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": color_of(k), "linestyle": line_style_of(k), "linewidth": 2}
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, **style)
        area = curve.auc
        text = "one class only" if np.isnan(area.estimate) else f"{area.estimate:.3f} {bracket(area)}"
        handles.append(Line2D([], [], label=f"{label}: area {text}", **style))
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel("1 − specificity (patients without calcification flagged)")
    axes.set_ylabel("sensitivity (patients with calcification flagged)")
    axes.grid(color="#eeeeee")
    axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=9)
    first = next(iter(curves.values()))
    patients = f"{first.n_positive} of {first.auc.n} patients with calcification"
    title_axes(axes, f"Detection by {score}\n{patients}", source)
    return figure


def _volume_axis(axes: Axes, top: float) -> None:
    """Ticks of round volumes on an axis of their square roots."""
    candidates = np.array([0, 1, 5, 10, 25, 50, 100, 200, 400, 700, 1000, 1500, 2000, 3000, 5000, 10000, 20000, 50000])
    inside = np.sqrt(candidates[candidates <= top**2])
    far = [0.0]
    for place in inside:
        if place - far[-1] > 0.06 * top:
            far.append(float(place))
    axes.set_yticks(far)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda root, _: f"{root**2:.0f}"))


def _ordinal(k: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(k, f"{k}th")
