from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchio as tio

from data_modules.batches.subjects import subjects
from data_modules.cohort.look import TestSetGuardError
from data_modules.config import DataConfig
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries
from tests.unit.data_modules.batches.conftest import build


def test_a_cohort_opens_as_torchios_data_set(config: DataConfig) -> None:
    series = build(config).train_series
    opened = subjects(config, "finetune")
    assert isinstance(opened, tio.SubjectsDataset)
    assert [s.series_id for s in opened.dry_iter()] == ["s0", "s1", "s2", "s3", "s4"]
    for subject, prepared in zip(opened, series, strict=True):
        occupancy = prepared.occupancy()
        assert occupancy is not None
        assert isinstance(subject.image, tio.ScalarImage)
        assert isinstance(subject.label, tio.LabelMap)
        np.testing.assert_array_equal(subject.image.data[0], prepared.hu())
        np.testing.assert_allclose(subject.label.data[0], np.asarray(occupancy) / 255, atol=1e-7)
        assert subject.label.data.dtype == torch.float32
        np.testing.assert_allclose(subject.image.affine, prepared.grid.affine)
        assert (subject.patient_id, subject.split) == (prepared.series.patient_id, "finetune")
        assert subject.slice_thickness_mm == 3.0


def test_on_the_scans_own_voxels(config: DataConfig) -> None:
    series = build(config).train_series
    for subject, prepared in zip(subjects(config, "finetune", native=True), series, strict=True):
        label = prepared.native_label()
        assert label is not None
        np.testing.assert_array_equal(subject.image.data[0], prepared.native_hu())
        np.testing.assert_array_equal(subject.label.data[0] > 0, label)
        np.testing.assert_allclose(subject.label.affine, prepared.native_grid.affine)


def test_series_without_a_label(config: DataConfig) -> None:
    build(config, "pretrain")
    (subject,) = subjects(config, "pretrain")
    assert "label" not in subject


def test_arrays_are_read_when_they_are_asked_for(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    build(config)
    read: list[str] = []
    hu = PreparedSeries.hu
    monkeypatch.setattr(PreparedSeries, "hu", lambda self: read.append(self.series.series_id) or hu(self))
    opened = subjects(config, "finetune", "dev")
    assert len(opened) == 7
    assert read == []
    assert opened[5].image.data.shape == (1, 20, 18, 14)
    assert read == ["s5"]


def test_loader_processes_read_them(config: DataConfig) -> None:
    build(config)
    loader = tio.SubjectsLoader(subjects(config, "finetune"), batch_size=2, num_workers=2)
    assert [len(batch["image"][tio.DATA]) for batch in loader] == [2, 2, 1]


def test_the_test_split_needs_a_look_on_record(config: DataConfig, tmp_path: Path) -> None:
    prepare_cohort(config, ("test",))
    with pytest.raises(TestSetGuardError):
        subjects(config, "test")
    with pytest.raises(TestSetGuardError):
        subjects(config, "dev", "test")
