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


def reliability_figure(before: dict[str, Any], after: dict[str, Any], source: str, words: str = "") -> Figure:
    """Share of lesion voxels against mean probability by bin, before and after calibration, above the bins' sizes.

    Bars are 95 % bootstrap intervals over patients; a bin in which only one patient has voxels goes without.

    Args:
        before: from `quality.quality`.
        after: likewise, after calibration.
        source: which model, n, split and seed.
        words: of what the curve after calibration is, such as "cross-validated by patient".
    """
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    for column, (name, quality, color, marker) in enumerate(
        (
            ("before calibration", before, VERMILLION, "s"),
            ("after calibration" + (f" ({words})" if words else ""), after, BLUE, "o"),
        )
    ):
        curve, sizes = panels[:, column]
        _curve(curve, quality["reliability"], color, marker)
        curve.set_title(
            f"{name}\nECE {quality['ece']:.2g}, adaptive ECE {quality['adaptive_ece']:.2g}\n"
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
    axes.plot(x, y, color=color, marker=marker, markersize=5, linestyle="none")
    # Bins of too few patients are points alone: a line through them would draw their noise.
    known = np.array([bool(row["lesion_share_ci95"]) for row in rows])
    axes.plot(x[known], y[known], color=color, linewidth=1.4)
    for row in rows:
        if row["lesion_share_ci95"]:
            axes.vlines(row["mean_probability"], *row["lesion_share_ci95"], color=color, linewidth=2.4, alpha=0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color="#eeeeee")


def reliability_of_models(models: Mapping[str, Mapping[str, Mapping[str, Any]]], source: str) -> Figure:
    """Reliability before and after calibration: a row of panels a model, a column for each kind and split.

    Args:
        models: model label to heading of the column (such as "voxels, test") to `before` and `after`, each with `ece`
            and `reliability`.
        source: n, split and seed.
    """
    columns = list(dict.fromkeys(name for found in models.values() for name in found))
    figure = Figure(figsize=(3.0 * len(columns) + 0.4, 3.2 * len(models) + 0.9), layout="constrained")
    panels = figure.subplots(len(models), len(columns), squeeze=False, sharex=True, sharey=True)
    for row, (label, found) in zip(panels, models.items(), strict=True):
        row[0].set_ylabel(f"{label}\nshare that is lesion", fontsize=9)
        for axes, name in zip(row, columns, strict=True):
            axes.spines[["top", "right"]].set_visible(False)
            if name not in found:
                axes.set_title(f"{name}\nnot known", fontsize=9)
                continue
            for when, color, marker in _WHEN:
                _curve(axes, found[name][when]["reliability"], color, marker)
            errors = " → ".join(f"{found[name][when]['ece']:.2g}" for when, _, _ in _WHEN)
            axes.set_title(f"{name}\nECE {errors}", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("probability")
    handles = [Line2D([], [], color=color, marker=marker, label=f"{when} calibration") for when, color, marker in _WHEN]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(f"Reliability; bars: 95 % intervals over patients\n{source}", fontsize=10)
    return figure


_WHEN = (("before", VERMILLION, "s"), ("after", BLUE, "o"))
