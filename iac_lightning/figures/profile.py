"""Where a training step's time goes, as bars of one length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from iac_lightning.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    legend_below,
    new_axes,
    title_axes,
)

IDLE = "idle"
"""Name of what is left of a bar."""
_YELLOW, _PALE = "#F0E442", "#DDDDDD"
_COLORS = (ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, _YELLOW, GREY, BLACK, _PALE)
_DARK = (GREEN, BLUE, VERMILLION, GREY, BLACK)
_LABELLED, _SEEN = 0.09, 5e-4
"""Least shares of a bar that have room for a name, and that can be seen."""


def step_figure(bars: Mapping[str, Mapping[str, float]], phases: tuple[str, ...], title: str, source: str) -> Figure:
    """One stacked bar a row, phases in the same order and colour in all; what a bar lacks to the longest is idle.

    Args:
        bars: for each row the ms a step of its phases.
        phases: all of them, in order.
        title: what is shown.
        source: of which run, on what.
    """
    colors = dict(zip(phases, _COLORS, strict=True))
    whole = max(sum(row.values()) for row in bars.values())
    figure, axes = new_axes(9.0, 2.3 + 0.7 * len(bars))
    for k, row in enumerate(bars.values()):
        left = 0.0
        for phase in (*phases, IDLE):
            width = whole - left if phase == IDLE else row.get(phase, 0.0)
            if width <= _SEEN * whole:
                continue
            look: dict[str, Any] = (
                {"color": "white", "edgecolor": GREY, "hatch": "///"} if phase == IDLE else {"color": colors[phase]}
            )
            axes.barh(k, width, left=left, height=0.62, linewidth=0.5, **look)
            if width > _LABELLED * whole:
                axes.text(
                    left + width / 2,
                    k,
                    f"{phase}\n{width:.3g} ms",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if colors.get(phase) in _DARK else BLACK,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5} if phase == IDLE else None,
                )
            left += width
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlim(0, whole)
    axes.set_xlabel("ms a step" + (f" (below: {' / '.join(bars)})" if len(bars) > 1 else ""))
    title_axes(axes, title, source)
    shown = [p for p in phases if any(row.get(p, 0.0) > _SEEN * whole for row in bars.values())]
    legend_below(figure, [Patch(color=colors[p], label=f"{p}: {_in_words(p, bars)} ms") for p in shown])
    return figure


def _in_words(phase: str, bars: Mapping[str, Mapping[str, float]]) -> str:
    return " / ".join(f"{row.get(phase, 0.0):.3g}" for row in bars.values())
