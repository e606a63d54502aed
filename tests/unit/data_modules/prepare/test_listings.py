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
from tests.dicom_series import START, stepping, write_series
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

    def test_a_label_volume_that_the_mask_has_not(self, config: DataConfig) -> None:
        change_table(config, label_volume_mm3=["26", "0", ""])  # 13 voxels of 2 mm³
        assert prepare_cohort(config).warnings == {}
        change_table(config, label_volume_mm3=["30", "2", "7"])
        list_warnings(prepared := prepare_cohort(config))
        differs = "label volume by the cohort table is not that of the mask"
        assert self.rows(prepared.directory) == [("a", differs), ("b", differs)]

    def test_a_list_of_another_kind_is_written_anew(self, config: DataConfig) -> None:
        path = prepare_cohort(config).directory / "warnings.csv"
        path.write_bytes(b"\xff\xfe\x00")
        assert list_warnings(prepare_cohort(config)) == path
        assert not path.exists()


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

    def test_what_the_terminal_shows_of_a_patient_is_not_kept(self, config: DataConfig, tmp_path: Path) -> None:
        for uid in ("1.2.3456789.1", "1.2.3456789.2"):
            write_series(
                tmp_path / "dicom",
                stepping(START, np.arange(12) * 3.0),
                prefix=uid[-1],
                SeriesInstanceUID=uid,
                SeriesDescription="Meier",
            )
        change_table(config, image=["images/a.nii.gz", "dicom", "images/c.nii.gz"], label="")
        prepared = prepare_cohort(config)
        (row,) = self.failed(prepared.directory)
        assert "2: 12 slices, axial, 3 mm, kernel H31s" in row["reason"]
        change_table(config, dicom_series=["", "3456789.3", ""])
        prepare_cohort(config)
        (other,) = self.failed(prepared.directory)
        assert "the series named fits 0 CT series" in other["reason"]
        assert "Meier" not in row["reason"] + other["reason"]
        assert "3456789" not in row["reason"] + other["reason"]

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

    @pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"series_id,reason\nb,x\n", b"\xff\xfe\x00", b'a,"b'])
    def test_a_list_of_another_kind_is_written_anew(self, config: DataConfig, tmp_path: Path, content: bytes) -> None:
        self.break_label(tmp_path)
        path = prepare_cohort(config).directory / "failed.csv"
        written = path.read_bytes()
        path.write_bytes(content)
        assert prepare_cohort(config, retry_failed=False).failed.keys() == {"b"}
        assert path.read_bytes() == written

    def test_when_all_fail_the_first_reason_is_shown(self, config: DataConfig, tmp_path: Path) -> None:
        self.break_label(tmp_path)
        with pytest.raises(UserError, match=r"none of the 1 series .*failed.csv. The first, b: .*another grid"):
            prepare_cohort(config, ["dev"])

    def test_other_errors_carry_their_type(self, config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise ArithmeticError("too\nlarge")

        monkeypatch.setattr(preparation, "resample_occupancy", fail)
        assert prepare_cohort(config).failed == dict.fromkeys("ab", "ArithmeticError: too large")
