"""Colours, markers, axes and PNG: what all figures of a report share.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers and line styles differ as well.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import isnan

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy import object_
from numpy.typing import NDArray

from iac_lightning.evaluation.statistics.intervals import Interval

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
LINE_STYLES = ("-", "--", "-.", ":")
MODEL_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
MARKERS = "osD^vPX"

_DPI = 130


def png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel without upper and right frame; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def title_axes(axes: Axes, title: str, source: str) -> None:
    """Heading, and below it what the figure is drawn from."""
    axes.set_title(f"{title}\n{source}", fontsize=10, loc="left")


def legend_below(figure: Figure | SubFigure, handles: Sequence[Artist]) -> None:
    """A legend under all panels."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def hide_spares(panels: NDArray[object_], n: int) -> None:
    """Hide what is left of a grid of panels `[rows, columns]` after the first n; the lowest shown name their ticks."""
    for k, axes in enumerate(panels.ravel()):
        axes.set_visible(k < n)
        axes.tick_params(labelbottom=k + panels.shape[1] >= n)


def color_of(k: int) -> str:
    """Colour of the k-th model."""
    return MODEL_COLORS[k % len(MODEL_COLORS)]


def marker_of(k: int) -> str:
    """Marker of the k-th model."""
    return MARKERS[k % len(MARKERS)]


def line_style_of(k: int) -> str:
    """Line style of the k-th model."""
    return LINE_STYLES[k % len(LINE_STYLES)]


def bracket(value: Interval, digits: int = 3) -> str:
    """The interval in brackets, or why there is none."""
    if isnan(value.low) or isnan(value.high):
        return f"({value.remark or 'undefined'})"
    return f"[{value.low:z.{digits}f}; {value.high:z.{digits}f}]".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A number with its sign, a true minus, none for what rounds to zero; a dash when undefined."""
    return "–" if isnan(value) else f"{value:+z.{digits}f}".replace("-", "−")
