from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_modules import processes
from data_modules.config import DataConfig, GridConfig
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.resampling import resample_image
from tests.unit.data_modules.prepare.conftest import (
    GE_HEAD,
    LESIONS,
    SHAPE,
    SPACING,
    affine,
    folders,
    image,
    mask,
    only,
    save,
    touch,
    write_table,
)


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

    def test_the_peak_is_the_brightest_native_voxel_of_each(self, config: DataConfig) -> None:
        prepared = only(config)
        peak = prepared.peak_hu()
        assert isinstance(peak, np.memmap)
        assert peak.dtype == np.int16
        blocks = image(0)[8:32, 8:28, 4:16].reshape(12, 2, 10, 2, 6, 2).max(axis=(1, 3, 5))
        np.testing.assert_array_equal(peak, blocks)

    @pytest.mark.parametrize("profile", ["overlap", "gaussian", "linear"])
    def test_voxels_at_the_edge_average_their_true_neighbours(self, config: DataConfig, profile: str) -> None:
        """As if the whole scan had been resampled, though the region ends within a common voxel."""
        config.grid = GridConfig(spacing_mm=(1.3, 1.3, 3.2), roi_mm=(24.4, 20.4, 24.9), profile=profile)
        prepared = only(config)
        whole = Volume(image(0), Grid(SHAPE, affine(*SPACING)))
        expected = resample_image(whole, prepared.grid, profile=profile).data
        np.testing.assert_allclose(prepared.hu(), expected, atol=1.5 if profile == "gaussian" else 0.51)

    def test_no_air_is_mixed_in_where_the_scan_ends(self, config: DataConfig, tmp_path: Path) -> None:
        tissue = np.full(SHAPE, 40, dtype=np.int16)
        tissue[0], tissue[-1] = -1000, 1000  # air and bone beside the region
        save(tmp_path / "images" / "a.nii.gz", tissue)
        config.grid = GridConfig(spacing_mm=(1.0, 1.0, 1.0), roi_mm=(10.0, 10.0, 60.0))  # the scan: 40 mm
        prepared = only(config)
        np.testing.assert_array_equal(prepared.hu()[5, 5], [-1024] * 10 + [40] * 40 + [-1024] * 10)
        assert prepared.native_hu()[5, 5].tolist() == [-1024] * 5 + [40] * 20 + [-1024] * 5

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
        for name in (".new-a", ".old-b", ".a.12.0123abcd.tmp"):
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

        monkeypatch.setattr(processes, "ProcessPoolExecutor", Killed)
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
