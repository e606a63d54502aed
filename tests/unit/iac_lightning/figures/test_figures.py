from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection

from data_modules.scan.geometry import Grid, Volume, canonical
from iac_lightning.evaluation.statistics.bootstrap import paired_difference
from iac_lightning.evaluation.tables.summary import summarise
from iac_lightning.figures import figures


@pytest.fixture(scope="module")
def models(make_table):
    tables = {"A": make_table(0.75, 0), "B": make_table(0.65, 1)}
    return tables, {label: summarise(table, 0, resamples=100) for label, table in tables.items()}


def points(axes) -> list[np.ndarray]:
    return [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]


def test_dice_figure_shows_patient_means_of_scans_with_lesions(models):
    tables, summaries = models
    axes = figures.dice_figure(tables, summaries, "n, split, seed").axes[0]
    rows = tables["A"][tables["A"]["has_lesion"]]
    assert points(axes)[0][:, 0] == pytest.approx(rows.groupby("patient_id")["dice"].mean().to_numpy())
    assert points(axes)[1][:, 0] == pytest.approx(rows.groupby("patient_id")["prior_dice"].mean().to_numpy())
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A", "+ protocol prior", "B", "+ protocol prior"]
    assert "n, split, seed" in axes.get_title(loc="left")


def test_difference_figure_is_symmetric_about_zero():
    d = np.array([0.1, -0.3, 0.05])
    paired = paired_difference(d, np.zeros(3), [0, 1, 2], seed=0, resamples=50)
    axes = figures.difference_figure([("A − B", d, paired)], "source").axes[0]
    assert points(axes)[0][:, 0] == pytest.approx(d)
    low, high = axes.get_xlim()
    assert low == -high
    assert high > 0.3


def test_thickness_figure_marks_the_means_of_the_strata(models):
    tables, summaries = models
    axes = figures.thickness_figure(tables, summaries, "source").axes[0]
    curves = {line.get_label(): line for line in axes.lines}
    expected = [s["mean"] for s in summaries["B"]["thickness"] if s["mean"] is not None]
    assert curves["B"].get_ydata() == pytest.approx(expected)
    assert len(points(axes)[0]) == summaries["A"]["n_with_lesion"]


def test_volume_figure_draws_differences_over_means(models):
    tables, summaries = models
    figure = figures.volume_figure(tables, summaries, "source")
    table = tables["B"]
    drawn = points(figure.axes[1])[0]
    assert drawn[:, 0] == pytest.approx((table["volume_mm3"] + table["label_volume_mm3"]) / 2)
    assert drawn[:, 1] == pytest.approx(table["volume_mm3"] - table["label_volume_mm3"])
    bias = next(line for line in figure.axes[1].lines if str(line.get_label()).startswith("bias"))
    assert bias.get_ydata()[0] == pytest.approx(summaries["B"]["volume_error"]["bias_mm3"])


def test_training_figure_splits_losses_from_dice():
    table = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [3.0, 2, 1], "dev_dice": [np.nan, 0.2, 0.4], "lr": 1.0})
    loss, dice = figures.training_figure(table, "run").axes
    assert [line.get_label() for line in loss.lines] == ["train_loss"]
    assert dice.lines[0].get_xydata().tolist() == [[1, 0.2], [2, 0.4]]


def test_outline_follows_voxel_edges():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2] = True
    segments = np.array(figures.outline(mask, 0.5, 2.0))
    lengths = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
    assert lengths.sum() == pytest.approx(2 * 2.0 + 4 * 0.5)  # two edges along y, two times two along x
    assert segments[..., 0].min() == pytest.approx(0.25)
    assert segments[..., 0].max() == pytest.approx(1.25)
    assert segments[..., 1].min() == pytest.approx(3.0)
    assert segments[..., 1].max() == pytest.approx(5.0)
    full = figures.outline(np.ones((2, 2), bool), 1.0, 1.0)
    assert len(full) == 8  # the border of the array closes the outline


@pytest.fixture
def scan():
    """A bright lesion of 2 voxels high in z, right of the middle, on an L-P-S grid with thick slices."""
    affine = np.diag([-0.5, -0.5, 4.0, 1.0])
    hu = np.full((80, 80, 12), 40, np.int16)
    label = np.zeros(hu.shape, bool)
    label[20:24, 50:54, 7:9] = True
    label[60, 10, 2] = True
    hu[label] = 600
    grid = Grid(hu.shape, affine)
    return Volume(hu, grid), Volume(label, grid)


def test_overlay_goes_through_the_largest_lesion_in_true_proportions(scan):
    hu, label = scan
    prediction = label.with_data(np.roll(label.data, 1, 0))
    figure = figures.overlay_figure(hu, label, prediction, title="series s, Dice 0.5")
    titles = [axes.get_title() for axes in figure.axes]
    # canonical RAS: x and y are flipped, so voxels 20..23 become 56..59 and 50..53 become 26..29
    shape, voxels = canonical(label).data.shape, np.argwhere(canonical(label).data[:, :, 7:9])
    assert shape == (80, 80, 12)
    assert voxels.min(axis=0).tolist()[:2] == [56, 26]
    numbers = [int(t.split("slice ")[1].split(" of")[0]) - 1 for t in titles]
    assert numbers[0] in (7, 8)
    assert 26 <= numbers[1] <= 29
    assert 56 <= numbers[2] <= 59
    for axes in figure.axes:
        assert axes.get_aspect() == 1.0  # both axes are in mm
        x, y = axes.get_xlim(), axes.get_ylim()
        assert x[0] - x[1] == pytest.approx(48)  # the patient's right (or front) is on the left
        assert y[1] - y[0] == pytest.approx(48)
        assert len([c for c in axes.collections if isinstance(c, LineCollection)]) == 2
        bar = axes.lines[-1].get_xdata()
        assert abs(bar[1] - bar[0]) == pytest.approx(10)
    left, right, bottom, top = figure.axes[1].images[0].get_extent()
    assert right - left == pytest.approx(80 * 0.5)
    assert top - bottom == pytest.approx(12 * 4.0)
    assert "−100 to 900 HU" in figure.get_suptitle()
    assert "lesion of the label" in figure.get_suptitle()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["label", "prediction"]


def test_overlay_outline_lies_on_the_lesion(scan):
    hu, label = scan
    axes = figures.overlay_figure(hu, label).axes[0]
    outline = np.concatenate(axes.collections[0].get_segments())
    assert outline[:, 0].min() == pytest.approx((56 - 0.5) * 0.5)
    assert outline[:, 0].max() == pytest.approx((59 + 0.5) * 0.5)
    image = np.asarray(axes.images[0].get_array())  # [y, x]
    assert (image[26:30, 56:60] == 600).all()
    assert (image == 600).sum() == 16


def test_overlay_without_label_and_without_any_lesion(scan):
    hu, label = scan
    probability = label.with_data(label.data * np.float32(0.8))
    figure = figures.overlay_figure(hu, prediction=label, probability=probability, title="predicted")
    assert "lesion of the prediction" in figure.get_suptitle()
    assert len(figure.axes) == 7  # two rows of three planes and the colour bar
    empty = label.with_data(np.zeros_like(label.data))
    figure = figures.overlay_figure(hu, empty, empty)
    assert "the middle" in figure.get_suptitle()
    assert "slice 7 of 12" in figure.axes[0].get_title()


def test_reconstruction_shows_restored_voxels_only_where_hidden():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (8, 6, 4))
    hidden = np.zeros(image.shape, bool)
    hidden[:4] = True
    figure = figures.reconstruction_figure(
        image, hidden, np.zeros(image.shape), spacing_mm=(1, 2, 4), title="mae", window_hu=(-200, 1000)
    )
    original, seen, restored = (np.ma.asarray(axes.images[0].get_array()) for axes in figure.axes)
    assert np.array_equal(original, image[:, :, 2].T)
    assert np.array_equal(np.ma.getmaskarray(seen), hidden[:, :, 2].T)
    assert (restored[:, :4] == 0).all()
    assert np.array_equal(restored[:, 4:], original[:, 4:])
    assert figure.axes[0].images[0].get_extent() == [0, 8, 0, 12]
    assert "50%" in figure.axes[1].get_title()


def test_png_is_reproducible(models):
    first = figures.png(figures.dice_figure(*models, "source"))
    assert first == figures.png(figures.dice_figure(*models, "source"))
    assert matplotlib.image.imread(io.BytesIO(first)).shape[1] == 9 * 130
