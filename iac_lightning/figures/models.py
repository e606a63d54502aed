"""Figures of models: Dice, paired differences, slice thickness, volumes, training curves.

Each function returns a matplotlib figure and touches no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS
from iac_lightning.evaluation.statistics.paired import PairedDifference
from iac_lightning.evaluation.statistics.plain import plain_interval
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum
from iac_lightning.figures.style import (
    BLACK,
    BLUE,
    GREY,
    color_of,
    hide_spares,
    legend_below,
    line_style_of,
    marker_of,
    new_axes,
    signed,
    title_axes,
)

_HOLLOW: dict[str, Any] = {
    "linestyle": "",
    "markersize": 8,
    "markerfacecolor": "white",
    "markeredgecolor": GREY,
    "zorder": 4,
}
"""Of a mean without an interval."""


def dice_figure(tables: Mapping[str, pd.DataFrame], summaries: Mapping[str, dict[str, Any]], source: str) -> Figure:
    """Dice of each model: a point a patient (mean over the patient's scans with lesions), mean over scans with CI.

    Args:
        tables: model label to table of series.
        summaries: model label to its `summarise`.
        source: what the figure is drawn from (n, split, seed), stated below the title.
    """
    rows = [(label, "dice", summary["dice"]) for label, summary in summaries.items()]
    for label, summary in summaries.items():
        if "plain" in summary:
            rows.insert(
                next(i for i, row in enumerate(rows) if row[0] == label) + 1,
                (label, "plain_dice", summary["plain"]["dice"]),
            )
    figure, axes = new_axes(9.0, 1.7 + 0.5 * len(rows))
    labels = list(tables)
    jitter = np.random.default_rng([len(rows)])
    for y, (label, column, mean) in enumerate(rows):
        k = labels.index(label)
        table = tables[label]
        with_lesion = table[table["has_lesion"].astype(bool)]
        patients = with_lesion.groupby("patient_id")[column].mean().to_numpy()
        is_result = column == "dice"
        axes.scatter(
            patients,
            y + jitter.uniform(-0.2, 0.2, len(patients)),
            s=22,
            marker=marker_of(k),
            facecolors=color_of(k) if is_result else "none",
            edgecolors=color_of(k),
            alpha=0.55,
            linewidths=0.9,
        )
        _mean_with_interval(axes, mean, y)
    axes.set_yticks(range(len(rows)), [f"{r[0]}" if r[1] == "dice" else "+ threshold alone" for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("Dice (1 is perfect)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    _point_and_mean_legend(figure)
    title_axes(axes, "Dice on the scans with lesions", source)
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
    figure, axes = new_axes(9.0, 1.8 + 0.5 * len(comparisons))
    jitter = np.random.default_rng([len(comparisons)])
    for y, (_, patients, paired) in enumerate(comparisons):
        interval = paired.difference
        axes.scatter(patients, y + jitter.uniform(-0.2, 0.2, len(patients)), s=22, color=BLUE, alpha=0.5, linewidths=0)
        _mean_with_interval(axes, plain_interval(interval, "mean"), y)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--", zorder=0)
    widest = max([0.02, *(float(np.abs(p).max()) for _, p, _ in comparisons if len(p))])
    axes.set_xlim(-1.08 * widest, 1.08 * widest)
    axes.set_yticks(range(len(comparisons)), [name for name, _, _ in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {metric} (right of 0: the model named first is better)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    _point_and_mean_legend(figure)
    title_axes(axes, f"Paired differences in {metric}, same scans", source)
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
    figure, axes = new_axes(9.0, 4.2)
    n_models = len(tables)
    longest = max(float(table["slice_thickness_mm"].max()) for table in tables.values())
    for k, (label, table) in enumerate(tables.items()):
        rows = table[table["has_lesion"].astype(bool)]
        shift = 0.12 * (k - (n_models - 1) / 2)
        axes.scatter(
            rows["slice_thickness_mm"] + shift,
            rows["dice"],
            s=16,
            marker=marker_of(k),
            color=color_of(k),
            alpha=0.35,
            linewidths=0,
        )
        places, means, low, high, bare_at, bare = [], [], [], [], [], []
        for (_, lower, upper), stratum in zip(strata, summaries[label]["thickness"], strict=True):
            if stratum["mean"] is None:
                continue
            inside = (rows["slice_thickness_mm"] > lower) & (rows["slice_thickness_mm"] <= upper)
            places.append(float(rows.loc[inside, "slice_thickness_mm"].mean()) + shift)
            means.append(stratum["mean"])
            ends = [stratum["mean"] if v is None else v for v in stratum["ci95"]]
            low.append(ends[0])
            high.append(ends[1])
            if _bare(stratum):
                bare_at.append(places[-1])
                bare.append(stratum["mean"])
        axes.vlines(places, low, high, color=color_of(k), linewidth=1.6)
        axes.plot(
            places, means, color=color_of(k), marker=marker_of(k), markersize=8, markeredgecolor="white", label=label
        )
        axes.plot(bare_at, bare, marker=marker_of(k), **{**_HOLLOW, "markeredgecolor": color_of(k)})
    for _, _, upper in strata:
        if upper < longest:
            axes.axvline(upper, color="#cccccc", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel("slice thickness (mm); dotted lines part the strata")
    axes.set_ylabel("Dice")
    axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    handles = axes.get_legend_handles_labels()[0]
    if any(_bare(stratum) for summary in summaries.values() for stratum in summary["thickness"]):
        handles.append(Line2D([], [], marker="o", label=f"fewer than {MIN_PATIENTS} patients: no interval", **_HOLLOW))
    legend_below(figure, handles)
    title_axes(axes, "Dice by slice thickness, scans with lesions", source)
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
            color=color_of(k),
            marker=marker_of(k),
            alpha=0.6,
            linewidths=0,
        )
        axes.axhline(0, color="#bbbbbb", linewidth=0.8)
        if error["bias_mm3"] is not None:
            axes.axhline(
                error["bias_mm3"], color=BLACK, linewidth=1.4, label=f"bias {signed(error['bias_mm3'], 1)} mm³"
            )
            low, high = error["limits_mm3"]
            axes.axhline(
                high,
                color=BLACK,
                linewidth=1,
                linestyle="--",
                label=f"limits {signed(low, 1)} to {signed(high, 1)} mm³",
            )
            axes.axhline(low, color=BLACK, linewidth=1, linestyle="--")
            axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
        axes.set_title(label, fontsize=10, pad=34)
        axes.spines[["top", "right"]].set_visible(False)
    hide_spares(panels, len(tables))
    figure.supxlabel("mean of predicted and labelled volume (mm³)", fontsize=10)
    figure.supylabel("predicted − labelled (mm³)", fontsize=10)
    figure.suptitle(f"Agreement of volumes, all scans\n{source}", fontsize=10)
    return figure


_WORDS = {
    "train/loss": "training loss",
    "train/loss_epoch": "training loss",
    "dev/dice": "Dice, development split",
}
"""What logged columns are called in a figure."""


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
            style = line_style_of(k)
            axes.plot(
                points["epoch"],
                points[column],
                style,
                color=color_of(k),
                marker=".",
                label=_WORDS.get(str(column), str(column)),
            )
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


def _point_and_mean_legend(figure: Figure) -> None:
    point = Line2D([], [], marker="o", color=GREY, linestyle="", alpha=0.6, label="one patient")
    mean = Line2D([], [], marker="|", markersize=12, color=BLACK, label="mean over scans, 95 % CI over patients")
    legend_below(figure, [point, mean])


def _mean_with_interval(axes: Axes, mean: dict[str, Any], y: float) -> None:
    if mean["mean"] is None or np.isnan(mean["mean"]):
        return
    low, high = (np.nan if v is None else v for v in mean["ci95"])
    if without := mean.get("remark"):
        axes.annotate(without, (1, y + 0.35), xycoords=("axes fraction", "data"), ha="right", fontsize=8, color=GREY)
    axes.hlines(y, low, high, color=BLACK, linewidth=2.4, zorder=3)
    axes.vlines(mean["mean"], y - 0.22, y + 0.22, color=BLACK, linewidth=2.4, zorder=3)


def _bare(estimate: Mapping[str, Any]) -> bool:
    """Whether there is a mean without an interval."""
    return estimate["mean"] is not None and None in estimate["ci95"]
