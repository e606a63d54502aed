from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare import preparation, store
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import open_store
from tests.unit.data_modules.prepare.conftest import (
    change_table,
    only,
)


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
        monkeypatch.setattr(store, "PREPARATION_VERSION", store.PREPARATION_VERSION + 1)
        assert prepare_cohort(config, ["dev"]).directory != first.directory
        assert reads == ["b", "b"]

    def test_a_template_counts_by_its_content(
        self, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preparation, "find_region_of_interest", lambda scan, grid, *_: (scan, None))
        directories = []
        for name, content in (("one", b"1"), ("two", b"2"), ("copy", b"1")):
            (tmp_path / name).write_bytes(content)
            grid = replace(config.grid, template=str(tmp_path / name))
            directories.append(prepare_cohort(replace(config, grid=grid), ["dev"]).directory)
        assert directories[0] == directories[2] != directories[1]
        grid = replace(config.grid, template=str(tmp_path / "none"))
        with pytest.raises(UserError, match=r"data.grid.template: .*none cannot be read"):
            prepare_cohort(replace(config, grid=grid))


class TestOpen:
    def test_a_series_travels_in_few_bytes_and_opens_elsewhere(self, config: DataConfig) -> None:
        prepared = only(config)
        hu = np.array(prepared.hu())
        _ = prepared.components, prepared.occupancy()
        packed = pickle.dumps(prepared)
        assert len(packed) < 5000
        np.testing.assert_array_equal(pickle.loads(packed).hu(), hu)

    def test_open_store_prepares_nothing(self, config: DataConfig, reads: list[str]) -> None:
        with pytest.raises(UserError, match="prepare the cohort first"):
            open_store(config)
        assert reads == []
        prepared = prepare_cohort(config)
        assert open_store(config).fingerprint == prepared.fingerprint

    def test_splits_without_series(self, config: DataConfig) -> None:
        with pytest.raises(UserError, match="no series in test; the table has dev, finetune, pretrain"):
            prepare_cohort(config, ["test"])
