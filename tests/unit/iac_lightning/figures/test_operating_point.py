from __future__ import annotations

import numpy as np

from iac_lightning.figures.operating_point import froc_figure


def test_each_curve_carries_its_point_and_the_one_of_the_evaluated_split() -> None:
    froc = {"false_components_per_scan": [80.0, 2.0, 0.0], "lesion_sensitivity": [0.95, 0.5, 0.0]}
    fitted = {"false_components_per_scan": 2.0, "lesion_sensitivity": 0.5}
    figure = froc_figure({"A": {"froc": froc, "fitted": fitted}}, {"A": (3.0, 0.45)}, "test", "20 scans")
    axes = figure.axes[0]
    curve, chosen, evaluated = (np.column_stack(line.get_data()).tolist() for line in axes.lines)
    assert curve == [[80.0, 0.95], [2.0, 0.5], [0.0, 0.0]]
    assert (chosen, evaluated) == ([[2.0, 0.5]], [[3.0, 0.45]])
    assert axes.lines[2].get_markerfacecolor() == "white"
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["A", "operating point, development split", "the same, test split"]
    assert "20 scans" in axes.get_title("left")
