from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection

from data_modules.scan.geometry import Grid, Volume, canonical
from iac_lightning.figures.scans import outline, overlay_figure, reconstruction_figure


def test_outline_follows_voxel_edges():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2] = True
    segments = np.array(outline(mask, 0.5, 2.0))
    lengths = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
    assert lengths.sum() == pytest.approx(2 * 2.0 + 4 * 0.5)  # two edges along y, two times two along x
    assert segments[..., 0].min() == pytest.approx(0.25)
    assert segments[..., 0].max() == pytest.approx(1.25)
    assert segments[..., 1].min() == pytest.approx(3.0)
    assert segments[..., 1].max() == pytest.approx(5.0)
    full = outline(np.ones((2, 2), bool), 1.0, 1.0)
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
    figure = overlay_figure(hu, label, prediction, title="series s, Dice 0.5")
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
    axes = overlay_figure(hu, label).axes[0]
    outline = np.concatenate(axes.collections[0].get_segments())
    assert outline[:, 0].min() == pytest.approx((56 - 0.5) * 0.5)
    assert outline[:, 0].max() == pytest.approx((59 + 0.5) * 0.5)
    image = np.asarray(axes.images[0].get_array())  # [y, x]
    assert (image[26:30, 56:60] == 600).all()
    assert (image == 600).sum() == 16


def test_overlay_without_label_and_without_any_lesion(scan):
    hu, label = scan
    probability = label.with_data(label.data * np.float32(0.8))
    figure = overlay_figure(hu, prediction=label, probability=probability, title="predicted")
    assert "lesion of the prediction" in figure.get_suptitle()
    assert len(figure.axes) == 7  # two rows of three planes and the colour bar
    empty = label.with_data(np.zeros_like(label.data))
    figure = overlay_figure(hu, empty, empty)
    assert "the middle" in figure.get_suptitle()
    assert "slice 7 of 12" in figure.axes[0].get_title()


def test_reconstruction_shows_restored_voxels_only_where_hidden():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (8, 6, 4))
    hidden = np.zeros(image.shape, bool)
    hidden[:4] = True
    figure = reconstruction_figure(
        image, hidden, np.zeros(image.shape), spacing_mm=(1, 2, 4), title="mae", window_hu=(-200, 1000)
    )
    original, seen, restored = (np.ma.asarray(axes.images[0].get_array()) for axes in figure.axes)
    assert np.array_equal(original, image[:, :, 2].T)
    assert np.array_equal(np.ma.getmaskarray(seen), hidden[:, :, 2].T)
    assert (restored[:, :4] == 0).all()
    assert np.array_equal(restored[:, 4:], original[:, 4:])
    assert figure.axes[0].images[0].get_extent() == [0, 8, 0, 12]
    assert "50%" in figure.axes[1].get_title()


def test_a_long_title_of_a_reconstruction_stays_within_the_figure():
    image, said = np.zeros((8, 6, 4)), "what was learnt, in words " * 12
    figure = reconstruction_figure(
        image, image > 0, image, spacing_mm=(1, 2, 4), title=f"mae\n{said}", window_hu=(-200, 1000)
    )
    width = figure.bbox.width
    title = figure._suptitle.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert 0 <= title.x0 < title.x1 <= width
    assert said.strip() in figure.get_suptitle().replace("\n", " ")
