"""Bars of a step's phases."""

from __future__ import annotations

import pytest

from iac_lightning.figures.profile import step_figure

PHASES = tuple("abcdefghij")


def test_bars_are_as_long_as_the_step_and_what_the_gpu_lacks_is_idle() -> None:
    figure = step_figure({"process": {"a": 6.0, "b": 3.9, "c": 0.001}, "GPU": {"b": 2.0}}, PHASES, "A title", "a run")
    (axes,) = figure.axes
    assert axes.get_xlim() == (0, pytest.approx(9.901))
    spans = {(patch.get_y() > 0.5, round(patch.get_width(), 3)) for patch in axes.patches}
    assert spans == {(False, 6.0), (False, 3.9), (True, 2.0), (True, 7.901)}  # 1 µs cannot be seen
    assert {text.get_text() for text in axes.texts} == {"a\n6 ms", "b\n3.9 ms", "b\n2 ms", "idle\n7.9 ms"}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert axes.get_xlabel() == "ms a step (below: process / GPU)"
    assert legend == ["a: 6 / 0 ms", "b: 3.9 / 2 ms"]
