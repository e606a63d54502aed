"""One scan through thicker slices: where it is measured, and which thickness counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.reimaging import finest_mm, thicker
from data_modules.scan.scan import Scan
from iac_lightning.workflows import stress_series as workflow


def test_overlap_is_measured_on_the_thin_slices_and_volume_on_the_thick_ones() -> None:
    """Five slices of 1 mm make slices of 2 mm; the third of them ends beyond the scan."""
    hu = np.full((3, 1, 5), 300, dtype=np.int16)
    thin = Scan(hu=hu, grid=Grid(hu.shape, np.diag([0.5, 2.0, 1.0, 1.0])), slice_thickness_mm=1.0)
    thick = thicker(thin, 2.0)
    label = np.zeros(hu.shape, dtype=bool)
    label[0, 0, 0] = label[1, 0, 4] = True
    mask = np.zeros(thick.hu.shape, dtype=bool)
    mask[0, 0, 0] = mask[1, 0, 2] = mask[2, 0, 2] = True
    found = workflow.against_thin(Volume(mask, thick.grid), thin.volume.with_data(label), thick, thin)
    # on thin slices: 2 + 1 + 1 predicted voxels, of which both labelled ones are hit
    assert found.dice == pytest.approx(2 * 2 / (4 + 2))
    assert (found.sensitivity, found.ppv) == (1.0, 0.5)
    assert found.label_volume_mm3 == pytest.approx(2.0)
    assert found.volume_mm3 == pytest.approx(3 * 0.5 * 2.0 * 2.0)
    # 300 HU: factor 3; areas of 1 mm² and 2 mm² in slices 2 mm apart
    assert found.agatston == pytest.approx((1 + 2) * 3 * 2 / 3)
    assert found.label_agatston == pytest.approx((1 + 1) * 3 * 1 / 3)
    own = workflow.against_thin(thin.volume.with_data(label), thin.volume.with_data(label), thin, thin)
    assert (own.dice, own.volume_mm3) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("first", "count", "profile_mm", "finest"), [(1, 4, 4.0, 4.0), (4, 5, 7.0, 7.0), (2, 4, 4.0, 7.0)]
)
def test_where_thickness_changes_the_region_decides(
    monkeypatch: pytest.MonkeyPatch, first: int, count: int, profile_mm: float, finest: float
) -> None:
    """A skull base of 4 mm slices below a vault of 7 mm slices, on one grid: which of them the region shows counts."""
    hu = np.full((20, 20, 9), 40, dtype=np.int16)
    scan = Scan(
        hu=hu,
        grid=Grid(hu.shape, np.diag([1.0, 1.0, 4.0, 1.0])),
        slice_thickness_mm=4.0,
        slice_thicknesses_mm=(4.0,) * 5 + (7.0,) * 4,
    )
    region = scan.grid.crop((2, 2, first), (10, 10, count))
    item: Any = SimpleNamespace(
        series=SimpleNamespace(image=Path("scan.nii.gz"), label=Path("label"), slice_thickness_mm=4.0, extra={}),
        native_grid=region,
    )
    monkeypatch.setattr(workflow, "read_series", lambda _: scan)
    monkeypatch.setattr(workflow, "read_label", lambda *_, **__: Volume(hu > 100, scan.grid))
    thin, _, center = workflow.read_thin(item)
    assert (thin.slice_thickness_mm, finest_mm(thin)) == (profile_mm, finest)
    np.testing.assert_allclose(center, region.center_ras_mm)
    assert thin.grid is scan.grid
