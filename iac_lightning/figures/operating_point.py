"""Free-response operating characteristic, with the point that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iac_lightning.figures.style import GREY, color_of, legend_below, line_style_of, marker_of, new_axes, title_axes


def froc_figure(
    points: Mapping[str, Mapping[str, Any]], evaluated: Mapping[str, tuple[float, float]], split: str, source: str
) -> Figure:
    """Share of all lesions that are hit against false components a scan, as the threshold falls.

    Args:
        points: model label to `operating_point` of `calibration.json`, with `froc` and `fitted`.
        evaluated: model label to false components a scan and share of lesions at that point on the evaluated split.
        split: which split that is.
        source: n, split and seed of the curves.
    """
    figure, axes = new_axes(9.0, 4.8)
    for k, (label, point) in enumerate(points.items()):
        curve, fitted = point["froc"], point["fitted"]
        axes.plot(
            curve["false_components_per_scan"],
            curve["lesion_sensitivity"],
            line_style_of(k),
            color=color_of(k),
            linewidth=1.6,
            label=label,
        )
        chosen = fitted["false_components_per_scan"], fitted["lesion_sensitivity"]
        for at, inside in ((chosen, color_of(k)), (evaluated[label], "white")):
            axes.plot(*at, marker=marker_of(k), markersize=9, color=color_of(k), markerfacecolor=inside, clip_on=False)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("false components a scan (linear up to 1, logarithmic beyond)")
    axes.set_ylabel("share of all lesions hit")
    axes.grid(color="#dddddd", linewidth=0.8)
    marks = [
        Line2D([], [], marker="o", color=GREY, markerfacecolor=inside, linestyle="", markersize=8, label=words)
        for inside, words in ((GREY, "operating point, development split"), ("white", f"the same, {split} split"))
    ]
    legend_below(figure, [*axes.get_legend_handles_labels()[0], *marks])
    title_axes(axes, "FROC: lesions found against false components", source)
    return figure
