"""Dice of networks under controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iac_lightning.figures.style import BLACK, BLUE, VERMILLION, legend_below, new_axes, title_axes

_LOOKS = {
    "": ("as it is", BLACK, "o"),
    "mean_tokens": ("all tokens replaced by their mean", VERMILLION, "s"),
    "silenced_attention": ("attention silenced", BLUE, "D"),
}


def controls_figure(summaries: Mapping[str, dict[str, Any]], source: str) -> Figure:
    """Mean Dice with its interval of each network: as it is, and under each control.

    Args:
        summaries: model label to its `summarise`, with `controls`.
        source: what the figure is drawn from (n, split, seed), stated below the title.
    """
    figure, axes = new_axes(9.0, 1.7 + 0.7 * len(summaries))
    for y, summary in enumerate(summaries.values()):
        for k, (name, (_, color, marker)) in enumerate(_LOOKS.items()):
            found = summary["dice"] if not name else summary["controls"].get(name, {}).get("dice")
            if found is None or found["mean"] is None:
                continue
            place = y + 0.22 * (k - 1)
            low, high = (np.nan if v is None else v for v in found["ci95"])
            axes.hlines(place, low, high, color=color, linewidth=1.8)
            axes.plot(found["mean"], place, marker, color=color, markersize=7, markeredgecolor="white")
    axes.set_yticks(range(len(summaries)), list(summaries))
    axes.set_ylim(len(summaries) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("Dice (1 is perfect)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    legend_below(
        figure,
        [
            Line2D([], [], marker=marker, color=color, linestyle="-", label=word)
            for word, color, marker in _LOOKS.values()
        ],
    )
    title_axes(axes, "Dice under controls, mean with 95 % CI over patients", source)
    return figure
