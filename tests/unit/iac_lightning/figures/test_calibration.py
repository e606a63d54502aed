from __future__ import annotations

import io

import matplotlib.image
import pytest

from iac_lightning.evaluation.calibration.quality import quality
from iac_lightning.evaluation.calibration.scaling import apply
from iac_lightning.figures.calibration import reliability_figure
from iac_lightning.figures.style import png
from tests.unit.iac_lightning.evaluation.calibration.synthetic_voxels import names, voxels


def test_the_figure_shows_both_curves():
    parts = [voxels(n, s, sharpen=2.0) for s, n in enumerate([700, 3_000, 1, 12_345])]
    before = quality(parts, names(4))
    after = quality([(apply(p, 2.0, 0.0), y) for p, y in parts], names(4))
    figure = reliability_figure(before, after, "n, split, seed")
    curve = figure.axes[1].lines[1]
    assert curve.get_xdata() == pytest.approx([row["mean_probability"] for row in after["reliability"]])
    assert curve.get_ydata() == pytest.approx([row["lesion_share"] for row in after["reliability"]])
    assert [bar.get_height() for bar in figure.axes[2].patches] == [r["n_voxels"] for r in before["reliability"]]
    assert "cross-validated" in reliability_figure(before, after, "n", "cross-validated").axes[1].get_title()
    assert matplotlib.image.imread(io.BytesIO(png(figure))).std() > 0.01
