from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from iac_lightning.evaluation.statistics.paired import paired_difference
from iac_lightning.evaluation.tables.summary import summarise
from iac_lightning.figures.models import (
    dice_figure,
    difference_figure,
    thickness_figure,
    training_figure,
    volume_figure,
)


@pytest.fixture(scope="module")
def models(make_table):
    tables = {"A": make_table(0.75, 0), "B": make_table(0.65, 1)}
    return tables, {label: summarise(table) for label, table in tables.items()}


def points(axes) -> list[np.ndarray]:
    return [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]


def test_dice_figure_shows_patient_means_of_scans_with_lesions(models):
    tables, summaries = models
    axes = dice_figure(tables, summaries, "n, split, seed").axes[0]
    rows = tables["A"][tables["A"]["has_lesion"]]
    assert points(axes)[0][:, 0] == pytest.approx(rows.groupby("patient_id")["dice"].mean().to_numpy())
    assert points(axes)[1][:, 0] == pytest.approx(rows.groupby("patient_id")["plain_dice"].mean().to_numpy())
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A", "+ threshold alone", "B", "+ threshold alone"]
    assert "n, split, seed" in axes.get_title(loc="left")


def test_difference_figure_is_symmetric_about_zero():
    d = np.array([0.1, -0.3, 0.05])
    paired = paired_difference(d, np.zeros(3), [0, 1, 2])
    axes = difference_figure([("A − B", d, paired)], "source").axes[0]
    assert points(axes)[0][:, 0] == pytest.approx(d)
    low, high = axes.get_xlim()
    assert low == -high
    assert high > 0.3


def test_thickness_figure_marks_the_means_of_the_strata(models):
    tables, summaries = models
    axes = thickness_figure(tables, summaries, "source").axes[0]
    curves = {line.get_label(): line for line in axes.lines}
    expected = [s["mean"] for s in summaries["B"]["thickness"] if s["mean"] is not None]
    assert curves["B"].get_ydata() == pytest.approx(expected)
    assert len(points(axes)[0]) == summaries["A"]["n_with_lesion"]


def test_volume_figure_draws_differences_over_means(models):
    tables, summaries = models
    figure = volume_figure(tables, summaries, "source")
    table = tables["B"]
    drawn = points(figure.axes[1])[0]
    assert drawn[:, 0] == pytest.approx((table["volume_mm3"] + table["label_volume_mm3"]) / 2)
    assert drawn[:, 1] == pytest.approx(table["volume_mm3"] - table["label_volume_mm3"])
    bias = next(line for line in figure.axes[1].lines if str(line.get_label()).startswith("bias"))
    assert bias.get_ydata()[0] == pytest.approx(summaries["B"]["volume_error"]["bias_mm3"])


def test_training_figure_splits_losses_from_dice():
    table = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [3.0, 2, 1], "dev_dice": [np.nan, 0.2, 0.4], "lr": 1.0})
    loss, dice = training_figure(table, "run").axes
    assert [line.get_label() for line in loss.lines] == ["train_loss"]
    assert dice.lines[0].get_xydata().tolist() == [[1, 0.2], [2, 0.4]]
