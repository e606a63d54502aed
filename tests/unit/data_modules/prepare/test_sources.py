from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.look import read_label
from data_modules.cohort.table import Series
from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.sources import source_sha256, source_state
from tests.dicom_series import START, stepping, write_series
from tests.unit.data_modules.prepare.conftest import (
    change_meta,
    change_table,
    folders,
    image,
    save,
    touch,
    write_sidecar,
)


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
        assert prepare_cohort(config).series[0].source_sha256 != source_sha256(first.series[0].series)


class TestChangedSources:
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
        states = {source_state(series, tmp_path)}
        contents = {source_sha256(series)}
        touch(folder / "inner/3")
        states.add(source_state(series, tmp_path))
        contents.add(source_sha256(series))
        assert (len(states), len(contents)) == (2, 1)
        (folder / "1").unlink()
        assert source_state(series, tmp_path) not in states
        assert source_sha256(series) not in contents
        other = replace(series, extra={"dicom_series": "1.2"})
        assert source_state(other, tmp_path) != source_state(series, tmp_path)

    def test_files_of_a_linked_folder_count(self, tmp_path: Path) -> None:
        (tmp_path / "archive").mkdir()
        (tmp_path / "archive" / "1").write_text("1")
        (tmp_path / "dicom").mkdir()
        (tmp_path / "dicom" / "linked").symlink_to(tmp_path / "archive", target_is_directory=True)
        series = Series("p", "s", tmp_path / "dicom", None, "dev", 5.0, (1.0, 1.0, 5.0))
        before = source_state(series, tmp_path), source_sha256(series)
        (tmp_path / "archive" / "1").write_text("other")
        assert source_state(series, tmp_path) != before[0]
        assert source_sha256(series) != before[1]


class TestSecondReader:
    def test_its_mask_is_checked_and_a_changed_one_prepared_again(self, config: DataConfig, reads: list[str]) -> None:
        root = Path(config.cohort).parent
        before = prepare_cohort(config)
        save(root / "labels" / "a2.nii.gz", np.zeros_like(image(0), dtype=np.uint8))
        change_table(config, label_2=["labels/a2.nii.gz", "", ""])
        reads.clear()
        store = prepare_cohort(config)
        assert reads == ["a"]  # the others are as they were
        assert [p.source_sha256 for p in store.series[1:]] == [p.source_sha256 for p in before.series[1:]]
        first, again = (np.asarray(p.native_label()) for p in (before.series[0], store.series[0]))
        assert np.array_equal(first, again)  # nothing learns from the second reader
        assert read_label(store.series[0].series).data.any()
        assert not read_label(store.series[0].series, second=True).data.any()
        save(root / "labels" / "a2.nii.gz", np.zeros((4, 4, 4), dtype=np.uint8))
        assert "a2.nii.gz" in prepare_cohort(config).failed["a"]
