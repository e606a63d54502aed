"""Every lesion is on the picture, numbered by size, or counted as not shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure, SubFigure

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.figures import montage
from iac_lightning.figures.montage import lesion_slices, montage_figure

SHAPE = (30, 30, 8)


def a_mask(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for box in boxes:
        mask[box] = True
    return mask


SMALL = np.s_[2:4, 2:4, 6:7]
MIDDLE = np.s_[10:14, 2:4, 1:2]
LARGE = np.s_[20:24, 20:24, 1:4]


def texts(figure: Figure | SubFigure) -> str:
    words = [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(words)


def drawn(mask: np.ndarray, alarm: tuple[str, ...] = ()) -> Figure:
    grid = Grid(SHAPE, np.diag([1.0, 1.0, 5.0, 1.0]))
    hu = Volume(np.full(SHAPE, 40, dtype=np.int16), grid)
    return montage_figure(hu, hu.with_data(mask), hu.with_data(mask * 0.5), ["what was found"], alarm)


def test_the_largest_comes_first_and_slices_are_shared() -> None:
    shown = lesion_slices(a_mask(SMALL, MIDDLE, LARGE), axis=2)
    assert shown.voxels == (48, 8, 4)
    assert shown.ids[21, 21, 2] == 1
    assert shown.ids[11, 2, 1] == 2
    assert shown.ids[2, 2, 6] == 3
    assert shown.slices == (1, 6)  # the largest covers as much of slice 1 as of others, where the second is too
    assert shown.hidden == ()


def test_lesions_beyond_the_limit_are_named_hidden() -> None:
    many = [np.s_[k * 3 : k * 3 + 1, 0:1, k : k + 1] for k in range(8)]
    shown = lesion_slices(a_mask(*many), axis=2, most=5)
    assert len(shown.slices) == 5
    assert shown.hidden == (6, 7, 8)
    on_panels = {int(i) for k in shown.slices for i in np.unique(shown.ids[:, :, k]) if i}
    assert on_panels | set(shown.hidden) == set(range(1, 9))


def test_a_small_lesion_that_a_later_slice_shows_is_not_hidden() -> None:
    a, b, c = np.s_[0:3, 0:3, 0:1], np.s_[0:2, 10:12, 4:5], np.s_[20:21, 20:21, 4:5]
    assert lesion_slices(a_mask(a, b, c), axis=2, most=2).hidden == ()


def test_other_axes_across_slices() -> None:
    assert lesion_slices(a_mask(LARGE), axis=1).slices == (20,)


def test_the_picture_names_each_lesion_its_slices_and_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(a_mask(SMALL, MIDDLE, LARGE), ("this scan is not like the others",))
    written = texts(figure)
    for words in (
        "what was found",
        "this scan is not like the others",
        "3 lesions, numbered by volume, on 2 axial slices, from below",
        "slice 2 of 8",
        "slice 7 of 8",
    ):
        assert words in written
    assert {"1", "2", "3"} <= set(written.split("\n"))
    monkeypatch.setattr(montage, "MOST_SLICES", 1)
    monkeypatch.setattr(montage, "lesion_slices", lambda mask, axis: lesion_slices(mask, axis, most=1))
    assert "not shown: 1 lesions, 20.0 mm³ in all, the largest of 20.0 mm³" in texts(
        drawn(a_mask(SMALL, MIDDLE, LARGE))
    )


def test_a_scan_without_lesions_says_so(tmp_path: Path) -> None:
    figure = drawn(a_mask())
    assert "no lesion is marked" in texts(figure)
    figure.savefig(tmp_path / "a.png", dpi=30)
