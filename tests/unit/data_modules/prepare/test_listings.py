from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare import preparation
from data_modules.prepare.preparation import list_warnings, prepare_cohort
from tests.unit.data_modules.prepare.conftest import (
    change_table,
    folders,
    mask,
    save,
)


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
        prepared = prepare_cohort(config)
        expected = [("a", 3), ("b", 1), ("c", 1)]
        assert [(name, len(prepared.warnings[name])) for name in sorted(prepared.warnings)] == expected
        rows = self.rows(prepared.directory)
        assert [(name, sum(row[0] == name for row in rows)) for name, _ in expected] == expected
        assert ("a", "voxel size by the cohort table is not that of the file") in rows
        assert "3 of 3 series carry warnings" in caplog.text
        caplog.clear()
        assert prepare_cohort(config, ["dev"]).warnings.keys() == {"b"}
        assert caplog.text == ""  # said when it was prepared

    def test_the_list_follows_the_table(self, config: DataConfig) -> None:
        prepared = prepare_cohort(config)
        assert prepared.warnings == {}
        assert not (prepared.directory / "warnings.csv").exists()
        change_table(config, spacing_x_mm=["1.0", "3.0", "1.0"])
        list_warnings(prepare_cohort(config))
        assert self.rows(prepared.directory) == [("b", "voxel size by the cohort table is not that of the file")]
        change_table(config, spacing_x_mm="1.0")
        list_warnings(prepare_cohort(config))
        assert not (prepared.directory / "warnings.csv").exists()


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

        monkeypatch.setattr(preparation, "resample_occupancy", fail)
        assert prepare_cohort(config).failed == dict.fromkeys("ab", "MemoryError: too large")
