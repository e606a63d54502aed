"""One cohort of scans of every extent: whole heads, skull bases, regions that were cut already, and given centres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_modules.config import DataConfig, GridConfig
from data_modules.errors import UserError
from data_modules.prepare import registration
from data_modules.prepare.facts import read_meta
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.registration import SELLA_MNI_MM, Registration
from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.nifti import write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan

MATRIX = np.eye(4)
MATRIX[:3, 3] = 3, -5, 20
SELLA = np.asarray(SELLA_MNI_MM) + MATRIX[:3, 3]
EXTENTS = {"head": (90, 100, 40), "base": (90, 100, 16), "cut": (36, 30, 16), "given": (90, 100, 40)}
FLIPS = {"head": (1, 1, 1), "base": (-1, 1, 1), "cut": (-1, -1, 1), "given": (1, 1, -1)}
"""Order of the axes in each file."""
GIVEN = "10 -6 -14"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Four series of random HU, and a registration that always finds `MATRIX`, best with `b.nii.gz`."""
    rows = []
    for k, (name, shape) in enumerate(EXTENTS.items()):
        hu = np.random.default_rng(k).integers(-1000, 1500, shape).astype(np.int16)
        affine = np.diag([2.0 * FLIPS[name][0], 2.0 * FLIPS[name][1], 4.0 * FLIPS[name][2], 1.0])
        affine[:3, 3] = SELLA + np.array([1, 1, 2]) - affine[:3, :3] @ (np.array(shape) / 2)
        write_nifti(Volume(hu, Grid(shape, affine)), tmp_path / f"{name}.nii.gz")
        rows.append(
            {"patient_id": f"p{k}", "series_id": name, "image": f"{name}.nii.gz", "age": ["8", "70", "", "70"][k]}
        )
    table = pd.DataFrame(rows).assign(label="", split="dev", slice_thickness_mm="4", kernel="", manufacturer="")
    table["roi_center_lps_mm"] = [GIVEN if name == "given" else "" for name in EXTENTS]
    table.to_csv(tmp_path / "cohort.csv", index=False)
    for k, name in enumerate("ab"):
        hu = np.random.default_rng(9).integers(-1000, 1500, (9, 9, 9)).astype(np.int16)
        hu[0, 0, 0] = k
        write_nifti(Volume(hu, Grid(hu.shape, np.diag([20.0, 20.0, 20.0, 1.0]))), tmp_path / f"{name}.nii.gz")
    (tmp_path / "a.json").write_text('{"AgesYears": [0, 18]}')

    def register(scan: Scan, template: Volume, *_: Any) -> Registration:
        return Registration(MATRIX, 0.7 + 0.1 * float(template.data[0, 0, 0]), True, "")

    monkeypatch.setattr(registration, "register_to_template", register)
    grid = GridConfig(roi_mm=(48, 40, 48), template=(str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")))
    return DataConfig(cohort=str(tmp_path / "cohort.csv"), prepare_workers=1, grid=grid)


def test_every_extent_is_prepared_by_its_own_way(config: DataConfig) -> None:
    store = prepare_cohort(config)
    found = {p.series.series_id: p for p in store.series}
    assert not store.failed
    used = {name: (read_meta(p.directory) or {})["region"].get("template") for name, p in found.items()}
    assert used == {"head": "a.nii.gz", "base": "b.nii.gz", "cut": None, "given": None}  # by age, by likeness
    for name in ("head", "base", "cut"):
        assert np.abs(found[name].native_grid.center_ras_mm - SELLA).max() <= 3, name
    assert np.abs(found["given"].native_grid.center_ras_mm - (-10, 6, -14)).max() <= 2
    named = found["head"].named_regions()
    assert named is not None
    assert set(np.unique(named.data)) >= {0, 1, 2, 3}
    assert found["cut"].named_regions() is None


def test_the_regions_voxels_are_the_files_own(config: DataConfig) -> None:
    for prepared in prepare_cohort(config).series:
        source = read_scan(prepared.series.image, slice_thickness_mm=4.0)
        region = np.asarray(prepared.native_hu())
        back = place(Volume(region, prepared.native_grid), source.grid, -32000).data
        inside = back != -32000
        assert np.array_equal(back[inside], source.hu[inside])
        shown = place(source.volume, prepared.native_grid, -32000).data != -32000
        assert inside.sum() == shown.sum() > 0.5 * region.size
        assert (region[~shown] == -1024).all()


def change(config: DataConfig, column: str, name: str, value: str) -> None:
    table = pd.read_csv(config.cohort, dtype=str, keep_default_na=False)
    table.loc[table["series_id"] == name, column] = value
    table.to_csv(config.cohort, index=False)


def test_another_age_or_centre_prepares_a_series_again(config: DataConfig) -> None:
    before = prepare_cohort(config)
    change(config, "age", "head", "70")
    change(config, "roi_center_lps_mm", "given", "14 -6 -14")
    after = prepare_cohort(config)
    old, new = ({p.series.series_id: p for p in store.series} for store in (before, after))
    assert (read_meta(new["head"].directory) or {})["region"]["template"] == "b.nii.gz"
    assert new["given"].native_grid.center_ras_mm[0] == old["given"].native_grid.center_ras_mm[0] - 4
    changed = {name for name in old if old[name].source_sha256 != new[name].source_sha256}
    assert changed == {"head", "given"}
    assert after.fingerprint != before.fingerprint


def test_a_centre_outside_the_scan_fails_that_series_alone(config: DataConfig) -> None:
    change(config, "roi_center_lps_mm", "given", "10 -6 400")
    store = prepare_cohort(config)
    assert set(store.failed) == {"given"}
    assert "roi_center_lps_mm 10 -6 400: lies outside the scan" in store.failed["given"]


def test_a_template_that_is_no_file_is_named(config: DataConfig) -> None:
    config.grid.template = "none.nii.gz"
    with pytest.raises(UserError, match=r"data\.grid\.template: none\.nii\.gz cannot be read"):
        prepare_cohort(config)
