"""Reliability of probabilities, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iac_lightning.evaluation.calibration.quality import BINS
from iac_lightning.figures.style import BLACK, BLUE, VERMILLION


def reliability_figure(before: dict[str, Any], after: dict[str, Any], source: str) -> Figure:
    """Share of lesion voxels against mean probability by bin, before and after calibration, above the bins' sizes.

    Bars are 95 % bootstrap intervals over patients; a bin in which only one patient has voxels goes without.

    Args:
        before: from `quality.quality`.
        after: likewise, after calibration.
        source: which model, n, split and seed.
    """
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    for column, (name, quality, color, marker) in enumerate(
        (("before", before, VERMILLION, "s"), ("after", after, BLUE, "o"))
    ):
        curve, sizes = panels[:, column]
        _curve(curve, quality["reliability"], color, marker)
        curve.set_title(
            f"{name} calibration: ECE {quality['ece']:.2g}, adaptive ECE {quality['adaptive_ece']:.2g}\n"
            f"Brier {quality['brier']:.2g}, negative log-likelihood {quality['nll']:.2g}",
            fontsize=9,
        )
        for row in quality["reliability"]:
            sizes.bar(row["bin"][0], row["n_voxels"], width=1 / BINS, align="edge", color=color, edgecolor="white")
        sizes.set_yscale("log")
        sizes.set_xlabel("probability")
        for axes in (curve, sizes):
            axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("share of voxels with lesion")
    panels[1, 0].set_ylabel("voxels")
    figure.suptitle(f"Reliability; bars: 95 % intervals over patients\n{source}", fontsize=10)
    return figure


def _curve(axes: Axes, rows: list[dict[str, Any]], color: str, marker: str) -> None:
    x, y = np.array([[row["mean_probability"], row["lesion_share"]] for row in rows]).T
    axes.plot([0, 1], [0, 1], color=BLACK, linewidth=0.8, linestyle=":")
    axes.plot(x, y, color=color, marker=marker, markersize=5, linewidth=1.4)
    for row in rows:
        if row["lesion_share_ci95"]:
            axes.vlines(row["mean_probability"], *row["lesion_share_ci95"], color=color, linewidth=2.4, alpha=0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color="#eeeeee")


def reliability_of_models(calibrations: Mapping[str, Mapping[str, Any]], source: str) -> Figure:
    """Reliability before and after calibration of each model, one panel a model, above the sizes of the bins.

    Args:
        calibrations: model label to what `calibration.json` holds.
        source: n, split and seed.
    """
    columns = min(3, len(calibrations))
    blocks = -(-len(calibrations) // columns)
    figure = Figure(figsize=(max(5.0, 3.4 * columns), 0.8 + 4.2 * blocks), layout="constrained")
    panels = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=[3, 1] * blocks)
    for k, (label, calibration) in enumerate(calibrations.items()):
        curve, sizes = (panels[2 * (k // columns) + row, k % columns] for row in (0, 1))
        for when, color, marker, width in (("before", VERMILLION, "s", 1.0), ("after", BLUE, "o", 0.55)):
            rows = calibration[f"reliability_{when}"]
            _curve(curve, rows, color, marker)
            for row in rows:
                middle, step = (row["bin"][0] + row["bin"][1]) / 2, width / BINS
                sizes.bar(middle, row["n_voxels"], width=step, color=color, alpha=0.85, linewidth=0)
        curve.set_title(f"{label}\nECE {calibration['ece_before']:.2g} → {calibration['ece_after']:.2g}", fontsize=9)
        curve.set_ylabel("share of voxels with lesion" if k % columns == 0 else "")
        sizes.set_yscale("log")
        sizes.set_ylim(bottom=0.7)
        sizes.set_xlim(-0.02, 1.02)
        sizes.set_xlabel("probability")
        sizes.set_ylabel("voxels" if k % columns == 0 else "")
        for axes in (curve, sizes):
            axes.spines[["top", "right"]].set_visible(False)
    for spare in range(len(calibrations), blocks * columns):
        for row in (0, 1):
            panels[2 * (spare // columns) + row, spare % columns].set_visible(False)
    handles = [
        Line2D([], [], color=color, marker=marker, label=f"{when} calibration")
        for when, color, marker in (("before", VERMILLION, "s"), ("after", BLUE, "o"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(f"Reliability; bars: 95 % intervals over patients\n{source}", fontsize=10)
    return figure
