from __future__ import annotations

import io

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from iac_lightning.figures.style import (
    MARKERS,
    MODEL_COLORS,
    color_of,
    hide_spares,
    marker_of,
    new_axes,
    png,
    signed,
    title_axes,
)


def test_png_is_reproducible():
    def drawn() -> bytes:
        figure, axes = new_axes(9.0, 3.0)
        axes.scatter([0, 1], [1, 0], color=color_of(1), marker=marker_of(1))
        title_axes(axes, "title", "source")
        return png(figure)

    first = drawn()
    assert first == drawn()
    assert matplotlib.image.imread(io.BytesIO(first)).shape[1] == 9 * 130


def test_models_are_told_apart_by_colour_and_marker():
    looks = [(color_of(k), marker_of(k)) for k in range(len(MODEL_COLORS))]
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == len(MODEL_COLORS)
    assert (color_of(len(MODEL_COLORS)), marker_of(len(MARKERS))) == looks[0]


def test_numbers_have_a_true_minus():
    assert (signed(-0.25, 1), signed(0.125, 3), signed(np.nan, 2)) == ("−0.2", "+0.125", "–")
    assert (signed(-0.04, 1), signed(0.0, 1)) == ("+0.0", "+0.0"), "a minus before zero"


def test_the_lowest_panel_of_each_column_names_its_ticks():
    panels = Figure().subplots(2, 3, sharex=True)
    hide_spares(panels, 4)
    assert [axes.get_visible() for axes in panels.ravel()] == [True] * 4 + [False] * 2
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels.ravel()[:4]] == [False, True, True, True]
