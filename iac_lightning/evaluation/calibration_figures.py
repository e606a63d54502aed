"""Reliability of probabilities, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iac_lightning.evaluation.calibration import BINS
from iac_lightning.evaluation.figures import BLACK, BLUE, VERMILLION


def reliability_figure(before: dict[str, Any], after: dict[str, Any], source: str) -> Figure:
    """Share of lesion voxels against mean probability by bin, before and after calibration, above the bins' sizes.

    Bars are 95 % bootstrap intervals over patients; a bin in which only one patient has voxels goes without.

    Args:
        before: from `calibration.quality`.
        after: likewise, after calibration.
        source: which model, n, split and seed.
    """
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    for column, (name, found, color, marker) in enumerate(
        (("before", before, VERMILLION, "s"), ("after", after, BLUE, "o"))
    ):
        curve, sizes = panels[:, column]
        _curve(curve, found["reliability"], color, marker)
        curve.set_title(
            f"{name} calibration: ECE {found['ece']:.2g}, adaptive ECE {found['adaptive_ece']:.2g}\n"
            f"Brier {found['brier']:.2g}, negative log-likelihood {found['nll']:.2g}",
            fontsize=9,
        )
        for row in found["reliability"]:
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
