from __future__ import annotations

import numpy as np

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.figures.gallery import failure_figure
from iac_lightning.figures.style import PURPLE, VERMILLION
from iac_lightning.figures.volumes import ratio_figure

GRID = Grid((40, 30, 20), np.diag([0.5, 0.5, 2.0, 1.0]))


def volume(*boxes):
    data = np.zeros(GRID.shape, dtype=bool)
    for box in boxes:
        data[box] = True
    return Volume(data, GRID)


FOUND, MISSED, FALSE = np.s_[5:8, 5:8, 5:7], np.s_[30:33, 20:24, 15:17], np.s_[20:22, 10:12, 2:3]


def test_planes_go_through_the_place_and_projections_show_every_lesion():
    masks = {
        "label": volume(FOUND, MISSED),
        "prediction": volume(FOUND, FALSE),
        "missed": volume(MISSED),
        "false": volume(FALSE),
    }
    hu = Volume(np.full(GRID.shape, 40.0), GRID)
    figure = failure_figure(hu, masks, "false", "A: largest false component\nscan 3fa9c1")
    panels = figure.axes
    assert [axes.get_title() for axes in panels[:3]] == [
        "axial, slice 3 of 20",
        "coronal, slice 11 of 30",
        "sagittal, slice 21 of 40",
    ]
    projection = panels[3]
    filled = [image.get_array() for image in projection.images[1:]]
    assert [int((fill[..., 3] > 0).sum()) for fill in filled] == [3 * 4, 2 * 2]  # missed, false
    label, prediction = (len(lines.get_segments()) for lines in projection.collections)
    assert (label, prediction) == (12 + 14, 12 + 8)  # edges around found and missed, found and false
    assert "planes through the largest false component" in figure.get_suptitle()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["label", "prediction", "missed", "false"]
    colors = [tuple(np.round(np.array(f.max(axis=(0, 1))[:3]) * 255).astype(int)) for f in filled]
    assert colors == [tuple(int(c[k : k + 2], 16) for k in (1, 3, 5)) for c in (VERMILLION, PURPLE)]


def test_without_what_was_looked_for_the_planes_go_through_the_label():
    empty = volume()
    masks = {"label": volume(FOUND), "prediction": empty, "missed": volume(FOUND), "false": empty}
    figure = failure_figure(Volume(np.zeros(GRID.shape), GRID), masks, "worst", "T")
    assert "planes through the largest lesion of the label" in figure.get_suptitle()
    nothing = dict.fromkeys(masks, empty)
    assert (
        "planes through the middle"
        in failure_figure(Volume(np.zeros(GRID.shape), GRID), nothing, "worst", "T").get_suptitle()
    )


def test_ratios_are_drawn_and_what_has_none_lies_at_the_edges(make_table):
    table = make_table(0.8, 0)
    table.loc[table.index[1], ["label_volume_mm3", "volume_mm3"]] = [9.0, 0.0]
    axes = ratio_figure({"A": table}, "n").axes[0]
    both = int(((table["volume_mm3"] > 0) & (table["label_volume_mm3"] > 0)).sum())
    points, missed, false = (np.asarray(c.get_offsets()) for c in axes.collections)
    assert len(points) == both
    assert (missed[:, 1] == 1 / 16).all()
    assert len(missed) >= 1
    assert len(false) == int(((table["volume_mm3"] > 0) & (table["label_volume_mm3"] == 0)).sum())
    assert axes.get_xscale() == axes.get_yscale() == "log"
