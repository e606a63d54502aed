from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series
from data_modules.config import DataConfig, GridConfig
from data_modules.errors import UserError
from data_modules.prepare import store as store_module
from data_modules.prepare.store import PreparedSeries, list_warnings, open_store, prepare_cohort
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.resampling import resample_image
from data_modules.scan.scan import Scan, read_scan, write_nifti
from tests.unit.data_modules.scan.test_dicom import START, stepping, write_series

SHAPE = (40, 36, 20)
SPACING = (1.0, 1.0, 2.0)
GE_HEAD = Path(__file__).parents[5] / "shared" / "data" / "ge_head_dicom"


def affine(*spacing: float) -> NDArray[np.float64]:
    """Centred on the origin."""
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = -np.asarray(spacing) * (np.asarray(SHAPE) - 1) / 2
    return matrix


def save(path: Path, data: NDArray[Any], matrix: NDArray[np.float64] | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    found = nib.Nifti1Image(data, affine(*SPACING) if matrix is None else matrix)
    found.header.set_xyzt_units("mm")
    nib.save(found, path)


def image(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng([seed]).integers(-1000, 1500, SHAPE).astype(np.int16)


def mask(*voxels: tuple[slice | int, slice | int, slice | int]) -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, dtype=np.uint8)
    for voxel in voxels:
        label[voxel] = 1
    return label


LESIONS = mask((slice(18, 21), slice(17, 19), slice(9, 11)), (25, 22, 12))


def write_table(folder: Path, rows: list[dict[str, object]]) -> Path:
    defaults = {
        "label": "",
        "split": "finetune",
        "slice_thickness_mm": 2.0,
        "spacing_x_mm": 1.0,
        "spacing_y_mm": 1.0,
        "spacing_z_mm": 2.0,
        "kernel": "",
        "manufacturer": "",
    }
    table = pd.DataFrame([defaults | row for row in rows])
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Three series: a with two lesions, b with an empty mask, c without label."""
    for seed, name in enumerate("abc"):
        save(tmp_path / "images" / f"{name}.nii.gz", image(seed))
    save(tmp_path / "labels" / "a.nii.gz", LESIONS)
    save(tmp_path / "labels" / "b.nii.gz", mask())
    rows: list[dict[str, object]] = [
        {"patient_id": f"p{name}", "series_id": name, "image": f"images/{name}.nii.gz", "split": split, "label": label}
        for name, split, label in (
            ("a", "finetune", "labels/a.nii.gz"),
            ("b", "dev", "labels/b.nii.gz"),
            ("c", "pretrain", ""),
        )
    ]
    cohort = write_table(tmp_path, rows)
    grid = GridConfig(spacing_mm=(2.0, 2.0, 4.0), roi_mm=(24.0, 20.0, 24.0))
    return DataConfig(cohort=str(cohort), prepare_workers=1, grid=grid)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were read."""
    names: list[str] = []

    def recording(series: Series) -> Scan:
        names.append(series.image.name.split(".")[0])
        return read_series(series)

    monkeypatch.setattr(store_module, "read_series", recording)
    return names


def touch(path: Path) -> None:
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))


def folders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def only(config: DataConfig, name: str = "a") -> PreparedSeries:
    return next(p for p in prepare_cohort(config).series if p.series.series_id == name)


class TestContent:
    def test_the_native_region_is_copied_voxel_by_voxel(self, config: DataConfig) -> None:
        prepared = only(config)
        inner = np.s_[8:32, 8:28, 4:16]  # 24 × 20 × 24 mm in the middle of 40 × 36 × 20 voxels of 1 × 1 × 2 mm
        np.testing.assert_array_equal(prepared.native_hu(), image(0)[inner])
        label = prepared.native_label()
        assert label is not None
        assert label.dtype == bool
        np.testing.assert_array_equal(label, LESIONS[inner] == 1)
        np.testing.assert_allclose(prepared.native_grid.affine[:3, 3], [-11.5, -9.5, -11.0])
        assert (prepared.slice_thickness_mm, prepared.slice_axis) == (2.0, 2)

    def test_hu_on_a_grid_twice_as_coarse_averages_eight_voxels(self, config: DataConfig) -> None:
        prepared = only(config)
        blocks = image(0)[8:32, 8:28, 4:16].reshape(12, 2, 10, 2, 6, 2).mean(axis=(1, 3, 5))
        hu = prepared.hu()
        assert hu.dtype == np.int16
        assert isinstance(hu, np.memmap)
        assert prepared.grid.spacing_mm == pytest.approx((2, 2, 4))
        np.testing.assert_allclose(hu, blocks, atol=0.51)

    @pytest.mark.parametrize("profile", ["overlap", "gaussian", "linear"])
    def test_voxels_at_the_edge_average_their_true_neighbours(self, config: DataConfig, profile: str) -> None:
        """As if the whole scan had been resampled, though the region ends within a common voxel."""
        config.grid = GridConfig(spacing_mm=(1.3, 1.3, 3.2), roi_mm=(24.4, 20.4, 24.9), profile=profile)
        prepared = only(config)
        whole = Volume(image(0), Grid(SHAPE, affine(*SPACING)))
        expected = resample_image(whole, prepared.grid, profile=profile).data
        np.testing.assert_allclose(prepared.hu(), expected, atol=1.5 if profile == "gaussian" else 0.51)

    def test_no_air_is_mixed_in_where_the_scan_ends(self, config: DataConfig, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.nii.gz", np.full(SHAPE, -500, dtype=np.int16))
        config.grid = GridConfig(spacing_mm=(1.0, 1.0, 1.0), roi_mm=(10.0, 10.0, 60.0))  # the scan: 40 mm
        prepared = only(config)
        np.testing.assert_array_equal(prepared.hu()[5, 5], [-1024] * 10 + [-500] * 40 + [-1024] * 10)
        assert prepared.native_hu()[5, 5].tolist() == [-1024] * 5 + [-500] * 20 + [-1024] * 5

    def test_occupancy_keeps_the_volume(self, config: DataConfig) -> None:
        config.grid = replace(config.grid, spacing_mm=(1.7, 2.3, 3.1))
        prepared = only(config)
        occupancy = prepared.occupancy()
        assert occupancy is not None
        assert occupancy.dtype == np.uint8
        volume = occupancy.sum() / 255 * prepared.grid.voxel_volume_mm3
        rounding = np.count_nonzero(occupancy) * 0.5 / 255 * prepared.grid.voxel_volume_mm3
        assert volume == pytest.approx(13 * 2.0, abs=rounding)  # 13 voxels of 2 mm³

    def test_components_are_the_voxels_of_each_lesion(self, config: DataConfig) -> None:
        prepared = only(config)
        occupancy = prepared.occupancy()
        assert occupancy is not None
        # native 18…20 × 17…18 × 9…10 less the corner (8, 8, 4) → 10…12 × 9…10 × 5…6 → blocks 5…6 × 4…5 × 2…3;
        # native (25, 22, 12) → (17, 14, 8) → block (8, 7, 4)
        first = [(1, x, y, z) for x in (5, 6) for y in (4, 5) for z in (2, 3)]
        assert [tuple(row) for row in prepared.components.tolist()] == [*first, (2, 8, 7, 4)]
        assert prepared.components.dtype == np.int32
        assert occupancy[8, 7, 4] == 32  # one voxel of eight: 255 / 8
        assert occupancy[5, 4, 2] == 64
        assert occupancy[6, 4, 2] == 32

    def test_voxels_that_touch_at_a_corner_are_one_component(self, config: DataConfig, tmp_path: Path) -> None:
        save(tmp_path / "labels" / "a.nii.gz", mask((18, 18, 10), (20, 20, 12), (26, 20, 12)))  # blocks 5-6 and 9
        components = only(config).components
        assert components[:, 0].tolist() == [1, 1, 2]

    def test_a_lesion_that_rounds_to_nothing_is_kept(self, config: DataConfig, tmp_path: Path) -> None:
        save(tmp_path / "labels" / "a.nii.gz", mask((20, 18, 10)))
        config.grid = GridConfig(spacing_mm=(12.0, 10.0, 12.0), roi_mm=(24.0, 20.0, 24.0))  # 2 / 1440 of a voxel
        prepared = only(config)
        occupancy = prepared.occupancy()
        assert occupancy is not None
        assert occupancy.sum() == 1
        assert prepared.components.tolist() == [[1, 1, 1, 1]]

    def test_empty_and_absent_labels(self, config: DataConfig) -> None:
        empty = only(config, "b")
        occupancy, label = empty.occupancy(), empty.native_label()
        assert occupancy is not None
        assert label is not None
        assert occupancy.max() == 0
        assert not label.any()
        assert empty.components.shape == (0, 4)
        absent = only(config, "c")
        assert absent.occupancy() is None
        assert absent.native_label() is None
        assert absent.components.shape == (0, 4)

    def test_axes_come_in_ras_order_and_the_label_with_them(self, config: DataConfig, tmp_path: Path) -> None:
        flipped = affine(*SPACING) @ np.diag([-1.0, 1.0, -1.0, 1.0])
        flipped[:3, 3] = affine(*SPACING)[:3, 3] * [-1, 1, -1]
        order = [1, 2, 0]
        stored = np.eye(4)
        stored[:3, :3] = flipped[:3, order]
        stored[:3, 3] = flipped[:3, 3]
        save(tmp_path / "images" / "a.nii.gz", image(0)[::-1, :, ::-1].transpose(order), stored)
        save(tmp_path / "labels" / "a.nii.gz", LESIONS[::-1, :, ::-1].transpose(order), stored)
        prepared = only(config)
        np.testing.assert_array_equal(prepared.native_hu(), image(0)[8:32, 8:28, 4:16])
        np.testing.assert_array_equal(prepared.native_label(), LESIONS[8:32, 8:28, 4:16] == 1)
        np.testing.assert_array_equal(prepared.native_hu(), np.load(prepared.directory / "native_hu.npy"))
        assert prepared.native_grid.axis_codes == "RAS"
        assert prepared.slice_axis == 2

    def test_labelled_voxels_outside_the_region_are_remarked(self, config: DataConfig, tmp_path: Path) -> None:
        save(tmp_path / "labels" / "a.nii.gz", mask((18, 18, 10), (0, 0, slice(0, 3))))
        assert "3 labelled voxels lie outside the region of interest" in only(config).warnings

    def test_slice_thickness_of_the_table_decides_the_profile(self, config: DataConfig) -> None:
        config.grid = replace(config.grid, spacing_mm=(2.0, 2.0, 6.0))  # three slices of 2 mm
        thin = np.array(only(config).hu())
        table = pd.read_csv(config.cohort, dtype=str, keep_default_na=False)
        table["slice_thickness_mm"] = "6.0"  # slices that overlap: the middle one has averaged it all
        table.to_csv(config.cohort, index=False)
        thick = only(config)
        assert thick.slice_thickness_mm == 6.0
        inner = image(0)[8:32, 8:28, 4:16].reshape(12, 2, 10, 2, 12).mean(axis=(1, 3))
        np.testing.assert_allclose(thin, inner.reshape(12, 10, 4, 3).mean(axis=3), atol=0.51)
        np.testing.assert_allclose(thick.hu(), inner[..., 1::3], atol=0.51)

    def test_a_series_travels_in_few_bytes_and_opens_elsewhere(self, config: DataConfig) -> None:
        prepared = only(config)
        hu = np.array(prepared.hu())
        _ = prepared.components, prepared.occupancy()
        packed = pickle.dumps(prepared)
        assert len(packed) < 5000
        np.testing.assert_array_equal(pickle.loads(packed).hu(), hu)

    def test_dicom(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not GE_HEAD.is_dir():
            pytest.skip(f"no real DICOM series at {GE_HEAD}")
        monkeypatch.setattr("data_modules.prepare.roi._WHOLE_HEAD_MM", 1000.0)  # the middle of the head will do
        scan = read_scan(GE_HEAD)
        middle = tuple(n // 2 for n in scan.grid.shape)
        label = np.zeros(scan.grid.shape, dtype=bool)
        label[middle] = True
        write_nifti(Volume(label, scan.grid), tmp_path / "label.nii.gz")
        cohort = write_table(
            tmp_path, [{"patient_id": "g", "series_id": "g", "image": str(GE_HEAD), "label": "label.nii.gz"}]
        )
        grid = GridConfig(spacing_mm=(1.0, 1.0, 3.0), roi_mm=(30.0, 30.0, 30.0))
        prepared = only(DataConfig(cohort=str(cohort), prepare_workers=1, grid=grid), "g")
        assert prepared.slice_thickness_mm != 2.0  # the headers' own, not the table's
        native = prepared.native_label()
        assert native is not None
        (place,) = np.argwhere(native)
        np.testing.assert_allclose(prepared.native_grid.to_ras_mm(place), scan.grid.to_ras_mm(middle), atol=1e-6)
        assert prepared.native_hu()[tuple(place)] == round(float(scan.hu[middle]))


def write_sidecar(config: DataConfig, name: str, thickness_mm: float) -> None:
    path = Path(config.cohort).parent / "images" / f"{name}.json"
    path.write_text(json.dumps({"SliceThickness": thickness_mm}))


def change_table(config: DataConfig, **columns: str) -> None:
    table = pd.read_csv(config.cohort, dtype=str, keep_default_na=False).assign(**columns)
    table.to_csv(config.cohort, index=False)


def change_meta(directory: Path, name: str, **facts: Any) -> None:
    path = directory / name / "meta.json"
    meta = json.loads(path.read_text()) | facts
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


class TestOneThickness:
    @pytest.mark.parametrize(("table", "told"), [("2.0", False), ("5.4", False), ("5.6", True), ("", False)])
    def test_the_file_goes_before_the_table(self, config: DataConfig, table: str, told: bool) -> None:
        write_sidecar(config, "a", 5)
        change_table(config, slice_thickness_mm=[table, "2.0", "2.0"])
        told = told or table == "2.0"
        prepared = prepare_cohort(config)
        assert [p.slice_thickness_mm for p in prepared.series] == [5.0, 2.0, 2.0]
        remarks = ["\n".join(p.warnings) for p in prepared.series]
        assert ["slice thickness by the cohort table" in text for text in remarks] == [told, False, False]

    def test_where_neither_knows_the_reason_is_given(self, config: DataConfig, tmp_path: Path) -> None:
        change_table(config, slice_thickness_mm=["", "2.0", "2.0"])
        with pytest.raises(UserError, match=r"row 2, column 'slice_thickness_mm': '' and no JSON file"):
            prepare_cohort(config)
        write_series(tmp_path / "dicom", stepping(START, np.arange(12) * 3.0), SliceThickness=None)
        change_table(config, image=["dicom", "images/b.nii.gz", "images/c.nii.gz"], label="")
        assert "fill slice_thickness_mm in the row of a" in prepare_cohort(config).failed["a"]
        change_table(config, slice_thickness_mm=["4.5", "2.0", "2.0"])
        mended = prepare_cohort(config)
        assert (mended.failed, mended.series[0].slice_thickness_mm) == ({}, 4.5)

    def test_a_store_of_the_version_before_is_used_as_it_is(self, config: DataConfig, reads: list[str]) -> None:
        write_sidecar(config, "a", 2.0)  # as the table
        first = prepare_cohort(config)
        root = Path(config.cohort).parent
        for p in first.series:  # what was written then
            files = [p.series.image, *([root / "images/a.json"] if p.series.series_id == "a" else [])]
            files += [p.series.label] if p.series.label else []
            state: list[Any] = [2.0, "", p.series.label is not None]
            state += [[os.path.relpath(f, root), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
            digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
            change_meta(first.directory, p.series.series_id, source_state=digest, thickness_from=None)
        reads.clear()
        assert prepare_cohort(config).fingerprint == first.fingerprint
        assert reads == []
        write_sidecar(config, "a", 3.0)
        facts = (root / "images/a.json").stat()
        state = [2.0, "", True]  # prepared by the table's 2 mm, though the file says 3
        for f in ("images/a.nii.gz", "images/a.json", "labels/a.nii.gz"):
            facts = (root / f).stat()
            state.append([f, facts.st_size, facts.st_mtime_ns])
        digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
        change_meta(first.directory, "a", source_state=digest)
        assert prepare_cohort(config).series[0].slice_thickness_mm == 3.0
        assert reads == ["a"]

    def test_dicom_prepared_by_a_guess_though_the_table_knows(
        self, config: DataConfig, reads: list[str], tmp_path: Path
    ) -> None:
        write_series(tmp_path / "dicom", stepping(START, np.arange(12) * 3.0), SliceThickness=None)
        change_table(config, image=["dicom", "images/b.nii.gz", "images/c.nii.gz"], label="")
        first = prepare_cohort(config)
        guess = "slice thickness unknown, taken to be the spacing between slices (3.00 mm)"
        change_meta(first.directory, "a", slice_thickness_mm=3.0, warnings=[guess], thickness_from=None)
        reads.clear()
        for _ in range(2):  # once is enough
            assert prepare_cohort(config).series[0].slice_thickness_mm == 2.0
        assert reads == ["dicom"]
        assert prepare_cohort(config).series[0].source_sha256 != store_module._source_sha256(first.series[0].series)


class TestVoxelSize:
    @pytest.mark.parametrize(
        ("spacing", "told"),
        [
            ((1.0, 1.0, 2.0), False),
            ((1.005, 0.995, 2.01), False),
            ((2.0, 1.0, 1.0), False),  # axes in another order
            ((1.0, 1.0, 2.1), True),
            ((1.0, 1.03, 2.0), True),
            (("", "", ""), False),
        ],
    )
    def test_the_table_is_checked_against_the_file(
        self, config: DataConfig, reads: list[str], spacing: tuple[float, ...], told: bool
    ) -> None:
        prepare_cohort(config)
        reads.clear()
        columns = {f"spacing_{axis}_mm": str(mm) for axis, mm in zip("xyz", spacing, strict=True)}
        change_table(config, **columns)
        assert [[w for w in p.warnings if "voxel size" in w] != [] for p in prepare_cohort(config).series] == [told] * 3
        assert reads == []


class TestWarnings:
    def rows(self, directory: Path) -> list[tuple[str, str]]:
        with (directory / "warnings.csv").open(newline="") as file:
            return [(row["series_id"], row["warning"].partition(":")[0]) for row in csv.DictReader(file)]

    def test_they_are_counted_and_listed_a_row_each(
        self, config: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        change_table(config, spacing_x_mm=["3.0", "1.0", "1.0"], split=["finetune", "dev", "test"])
        save(tmp_path / "labels" / "a.nii.gz", mask((0, 0, 0)))
        config.grid = replace(config.grid, roi_mm=(24.0, 20.0, 60.0))  # the scan: 40 mm
        store = prepare_cohort(config)
        expected = [("a", 3), ("b", 1), ("c", 1)]
        assert [(name, len(store.warnings[name])) for name in sorted(store.warnings)] == expected
        rows = self.rows(store.directory)
        assert [(name, sum(row[0] == name for row in rows)) for name, _ in expected] == expected
        assert ("a", "voxel size by the cohort table is not that of the file") in rows
        assert "3 of 3 series carry warnings" in caplog.text
        caplog.clear()
        assert prepare_cohort(config, ["dev"]).warnings.keys() == {"b"}
        assert caplog.text == ""  # said when it was prepared

    def test_the_list_follows_the_table(self, config: DataConfig) -> None:
        store = prepare_cohort(config)
        assert store.warnings == {}
        assert not (store.directory / "warnings.csv").exists()
        change_table(config, spacing_x_mm=["1.0", "3.0", "1.0"])
        list_warnings(prepare_cohort(config))
        assert self.rows(store.directory) == [("b", "voxel size by the cohort table is not that of the file")]
        change_table(config, spacing_x_mm="1.0")
        list_warnings(prepare_cohort(config))
        assert not (store.directory / "warnings.csv").exists()


class TestWhenToPrepare:
    def test_a_second_run_reads_nothing(self, config: DataConfig, reads: list[str]) -> None:
        first = prepare_cohort(config)
        assert sorted(reads) == ["a", "b", "c"]
        reads.clear()
        second = prepare_cohort(config)
        assert reads == []
        assert second.fingerprint == first.fingerprint
        assert second.directory == first.directory == Path(config.cohort).parent / "prepared" / first.directory.name
        assert len(first.directory.name) == 12
        assert [p.series.series_id for p in second.series] == ["a", "b", "c"]
        assert [p.series.series_id for p in second.split("dev", "pretrain")] == ["b", "c"]

    def test_only_the_splits_asked_for(self, config: DataConfig, reads: list[str]) -> None:
        dev = prepare_cohort(config, ["dev"])
        assert reads == ["b"]
        assert [p.series.series_id for p in dev.series] == ["b"]
        assert prepare_cohort(config).fingerprint != dev.fingerprint
        assert sorted(reads) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        "change", [{"spacing_mm": (2.0, 2.0, 3.0)}, {"roi_mm": (20.0, 20.0, 20.0)}, {"profile": "linear"}]
    )
    def test_other_settings_go_to_another_folder(
        self, config: DataConfig, reads: list[str], change: dict[str, Any]
    ) -> None:
        first = prepare_cohort(config, ["dev"])
        other = prepare_cohort(replace(config, grid=replace(config.grid, **change)), ["dev"])
        assert other.directory != first.directory
        assert other.directory.parent == first.directory.parent
        assert other.fingerprint != first.fingerprint
        assert reads == ["b", "b"]
        prepare_cohort(config, ["dev"])
        assert reads == ["b", "b"]

    def test_settings_that_do_not_touch_volumes_change_nothing(self, config: DataConfig, reads: list[str]) -> None:
        first = prepare_cohort(config)
        reads.clear()
        assert prepare_cohort(replace(config, batch_size=7, window_hu=(0.0, 1.0))).fingerprint == first.fingerprint
        assert reads == []

    def test_another_version_of_the_preparation_prepares_again(
        self, config: DataConfig, reads: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = prepare_cohort(config, ["dev"])
        monkeypatch.setattr(store_module, "PREPARATION_VERSION", store_module.PREPARATION_VERSION + 1)
        assert prepare_cohort(config, ["dev"]).directory != first.directory
        assert reads == ["b", "b"]

    def test_a_template_counts_by_its_content(
        self, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_module, "region_of_interest", lambda scan, grid: scan)
        directories = []
        for name, content in (("one", b"1"), ("two", b"2"), ("copy", b"1")):
            (tmp_path / name).write_bytes(content)
            grid = replace(config.grid, template=str(tmp_path / name))
            directories.append(prepare_cohort(replace(config, grid=grid), ["dev"]).directory)
        assert directories[0] == directories[2] != directories[1]
        grid = replace(config.grid, template=str(tmp_path / "none"))
        with pytest.raises(UserError, match=r"data.grid.template: .*none cannot be read"):
            prepare_cohort(replace(config, grid=grid))

    @pytest.mark.parametrize("changed", ["images/a.nii.gz", "labels/a.nii.gz", "images/a.json"])
    def test_a_touched_file_prepares_its_series_again(
        self, config: DataConfig, reads: list[str], tmp_path: Path, changed: str
    ) -> None:
        (tmp_path / "images/a.json").write_text("{}")
        first = prepare_cohort(config)
        reads.clear()
        touch(tmp_path / changed)
        again = prepare_cohort(config)
        assert reads == ["a"]
        assert again.fingerprint == first.fingerprint  # of the content, which is the same
        assert folders(first.directory) == ["a", "b", "c"]

    def test_another_content_gives_another_array_and_fingerprint(self, config: DataConfig, tmp_path: Path) -> None:
        first = prepare_cohort(config)
        save(tmp_path / "images" / "b.nii.gz", image(9))
        again = prepare_cohort(config)
        assert again.fingerprint != first.fingerprint
        np.testing.assert_array_equal(again.series[1].native_hu(), image(9)[8:32, 8:28, 4:16])

    def test_the_fingerprint_is_that_of_a_copy_elsewhere(self, config: DataConfig, tmp_path: Path) -> None:
        first = prepare_cohort(config)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for name in ("images", "labels", "cohort.csv"):
            subprocess.run(["cp", "-r", str(tmp_path / name), str(elsewhere)], check=True)
        copy = replace(config, cohort=str(elsewhere / "cohort.csv"), prepared_dir=str(tmp_path / "other"))
        second = prepare_cohort(copy)
        assert second.fingerprint == first.fingerprint
        assert second.directory.parent == tmp_path / "other"

    def test_a_split_is_part_of_the_fingerprint(self, config: DataConfig, reads: list[str]) -> None:
        first = prepare_cohort(config)
        reads.clear()
        table = pd.read_csv(config.cohort, dtype=str, keep_default_na=False)
        table.loc[0, "split"] = "test"
        table.to_csv(config.cohort, index=False)
        assert prepare_cohort(config).fingerprint != first.fingerprint
        assert reads == []

    def test_every_file_of_a_dicom_folder_counts(self, tmp_path: Path) -> None:
        folder = tmp_path / "dicom"
        (folder / "inner").mkdir(parents=True)
        for name in ("1", "2", "inner/3"):
            (folder / name).write_text(name)
        series = Series("p", "s", folder, None, "dev", 5.0, (1.0, 1.0, 5.0))
        states = {store_module._source_state(series, tmp_path)}
        contents = {store_module._source_sha256(series)}
        touch(folder / "inner/3")
        states.add(store_module._source_state(series, tmp_path))
        contents.add(store_module._source_sha256(series))
        assert (len(states), len(contents)) == (2, 1)
        (folder / "1").unlink()
        assert store_module._source_state(series, tmp_path) not in states
        assert store_module._source_sha256(series) not in contents
        other = replace(series, extra={"dicom_series": "1.2"})
        assert store_module._source_state(other, tmp_path) != store_module._source_state(series, tmp_path)

    def test_open_store_prepares_nothing(self, config: DataConfig, reads: list[str]) -> None:
        with pytest.raises(UserError, match="prepare the cohort first"):
            open_store(config)
        assert reads == []
        prepared = prepare_cohort(config)
        assert open_store(config).fingerprint == prepared.fingerprint

    def test_splits_without_series(self, config: DataConfig) -> None:
        with pytest.raises(UserError, match="no series in test; the table has dev, finetune, pretrain"):
            prepare_cohort(config, ["test"])


class TestInterruption:
    def test_nothing_is_left_half_written(
        self, config: DataConfig, reads: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved = 0
        original = np.save

        def interrupted(*args: Any, **kwargs: Any) -> None:
            nonlocal saved
            saved += 1
            if saved == 8:  # in the midst of the second series
                raise KeyboardInterrupt
            original(*args, **kwargs)

        monkeypatch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_cohort(config)
        monkeypatch.undo()
        (directory,) = (Path(config.cohort).parent / "prepared").iterdir()
        assert folders(directory) == ["a"]
        assert [p.series.series_id for p in prepare_cohort(config).series] == ["a", "b", "c"]

    def test_leftovers_of_a_killed_process_are_cleared(self, config: DataConfig) -> None:
        directory = prepare_cohort(config, ["dev"]).directory
        for name in (".new-a", ".old-b"):
            (directory / name).mkdir()
            (directory / name / "hu.npy").write_bytes(b"half")
        assert len(prepare_cohort(config).series) == 3
        assert folders(directory) == ["a", "b", "c"]

    def test_a_folder_without_its_facts_is_prepared_again(self, config: DataConfig, reads: list[str]) -> None:
        directory = prepare_cohort(config, ["dev"]).directory
        (directory / "b" / "meta.json").write_text('{"half": ')
        prepare_cohort(config, ["dev"])
        assert reads == ["b", "b"]

    def test_the_old_volumes_stay_until_the_new_ones_are_whole(
        self, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = prepare_cohort(config).directory
        touch(tmp_path / "images" / "a.nii.gz")

        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_cohort(config)
        assert folders(directory) == ["a", "b", "c"]
        assert (directory / "a" / "hu.npy").is_file()

    def test_two_at_once_prepare_each_series_once(self, config: DataConfig, reads: list[str]) -> None:
        results = []
        threads = [threading.Thread(target=lambda: results.append(prepare_cohort(config))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(reads) == ["a", "b", "c"]
        assert len({result.fingerprint for result in results}) == 1
        assert len(results) == 4


class TestFailures:
    def break_label(self, tmp_path: Path) -> None:
        save(tmp_path / "labels" / "b.nii.gz", np.zeros((4, 4, 4), dtype=np.uint8))

    def failed(self, directory: Path) -> list[dict[str, str]]:
        with (directory / "failed.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def test_one_is_listed_and_the_rest_goes_on(self, config: DataConfig, tmp_path: Path) -> None:
        self.break_label(tmp_path)
        prepared = prepare_cohort(config)
        assert [p.series.series_id for p in prepared.series] == ["a", "c"]
        (row,) = self.failed(prepared.directory)
        assert row["series_id"] == "b"
        assert "another grid" in row["reason"]
        assert prepared.failed == {"b": row["reason"]}
        assert folders(prepared.directory) == ["a", "c"]

    def test_a_failure_is_tried_again(self, config: DataConfig, reads: list[str], tmp_path: Path) -> None:
        self.break_label(tmp_path)
        prepare_cohort(config)
        reads.clear()
        prepare_cohort(config)
        assert reads == ["b"]
        reads.clear()
        assert prepare_cohort(config, retry_failed=False).failed.keys() == {"b"}
        assert reads == []
        save(tmp_path / "labels" / "b.nii.gz", mask())
        mended = prepare_cohort(config, retry_failed=False)
        assert reads == ["b"]
        assert (len(mended.series), mended.failed) == (3, {})
        assert not (mended.directory / "failed.csv").exists()

    def test_a_series_that_can_no_longer_be_prepared_is_taken_away(self, config: DataConfig, tmp_path: Path) -> None:
        directory = prepare_cohort(config).directory
        self.break_label(tmp_path)
        assert [p.series.series_id for p in prepare_cohort(config).series] == ["a", "c"]
        assert folders(directory) == ["a", "c"]

    def test_failures_of_other_splits_stay_listed(self, config: DataConfig, tmp_path: Path) -> None:
        self.break_label(tmp_path)
        prepare_cohort(config, ["dev", "finetune"])
        directory = prepare_cohort(config, ["pretrain"]).directory
        assert [row["series_id"] for row in self.failed(directory)] == ["b"]

    def test_when_all_fail_the_first_reason_is_shown(self, config: DataConfig, tmp_path: Path) -> None:
        self.break_label(tmp_path)
        with pytest.raises(UserError, match=r"none of the 1 series .*failed.csv. The first, b: .*another grid"):
            prepare_cohort(config, ["dev"])

    def test_other_errors_carry_their_type(self, config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise MemoryError("too\nlarge")

        monkeypatch.setattr(store_module, "resample_occupancy", fail)
        assert prepare_cohort(config).failed == dict.fromkeys("ab", "MemoryError: too large")


class TestProcesses:
    @pytest.mark.slow
    def test_a_pool_prepares_the_same(self, config: DataConfig, tmp_path: Path) -> None:
        alone = prepare_cohort(config)
        pool = prepare_cohort(replace(config, prepare_workers=2, prepared_dir=str(tmp_path / "pool")))
        assert pool.fingerprint == alone.fingerprint
        for one, two in zip(alone.series, pool.series, strict=True):
            for path in sorted(one.directory.iterdir()):
                assert path.read_bytes() == (two.directory / path.name).read_bytes()

    def test_a_killed_worker(self, config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        class Killed(ThreadPoolExecutor):
            def __init__(self, workers: int, **_: Any) -> None:
                super().__init__(workers)

            def submit(self, *_: Any, **__: Any) -> Future[Any]:
                future: Future[Any] = Future()
                future.set_exception(BrokenProcessPool())
                return future

        monkeypatch.setattr(store_module, "ProcessPoolExecutor", Killed)
        with pytest.raises(UserError, match=r"set data.prepare_workers below 2"):
            prepare_cohort(replace(config, prepare_workers=2))

    def test_workers_do_not_import_torch(self) -> None:
        code = "import sys, data_modules.prepare.store; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_grid_survives_the_facts_file(config: DataConfig) -> None:
    """Affines keep all their digits, so that predictions go back exactly."""
    prepared = only(config)
    expected = Grid(SHAPE, affine(*SPACING)).crop((8, 8, 4), (24, 20, 12))
    np.testing.assert_array_equal(prepared.native_grid.affine, expected.affine)
