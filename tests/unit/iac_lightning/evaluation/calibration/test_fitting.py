"""What is fitted to voxels of known probabilities, and what a reader is told of it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest
from scipy import special

from data_modules.errors import UserError
from data_modules.files import DiskFull
from iac_lightning.evaluation.calibration import fitting
from iac_lightning.evaluation.calibration.fitting import calibrate_voxels, remarks, voxels_on_disk
from iac_lightning.evaluation.calibration.quality import QUALITIES, quality
from iac_lightning.evaluation.calibration.record import reliability
from iac_lightning.evaluation.calibration.scaling import Part, Scaling, apply, fit, sample

PATIENTS = ["a", "a", "b", "c"]


@pytest.fixture(scope="module")
def voxels() -> list[Part]:
    """Three patients, four scans; logits are three times too large."""
    rng = np.random.default_rng([1])
    logits = [rng.normal(-3, 2, n) for n in (900, 1, 2_000, 1_500)]
    return [(special.expit(3 * z).astype(np.float32), rng.random(len(z)) < special.expit(z)) for z in logits]


def test_the_record_says_what_was_fitted_and_how_good_it_is(voxels: list[Part], tmp_path: Path) -> None:
    found = calibrate_voxels(voxels, PATIENTS, [2.0] * 4, seed=4, folder=tmp_path)
    scaling, record = found.scaling, found.record
    assert scaling == fit(*sample(voxels, 4))
    assert scaling.temperature == pytest.approx(3, rel=0.15)
    assert (record["temperature"], record["bias"]) == (scaling.temperature, scaling.bias)
    assert (record["scaling"], record["by_thickness"]) == ("temperature and bias", None)
    before = quality(voxels, PATIENTS)
    held = [(apply(p, s.temperature, s.bias), y) for (p, y), s in zip(voxels, found.held, strict=True)]
    for when, values in (("before", before), ("after", quality(held, PATIENTS))):
        for name in QUALITIES:
            assert record[f"{name}_{when}"] == values[name]
            assert record[f"{name}_{when}_ci95"] == values[f"{name}_ci95"]
        assert reliability(record, when) == {name: values[name] for name in (*QUALITIES, "reliability")}
    assert record["after"] == "cross-validated by patient in 3 folds"
    assert record["ece_after"] < record["ece_before"]
    counts = {"n_series": 4, "n_patients": 3, "n_voxels": 4_401, "n_fit_voxels": 4_401}
    counts["n_lesion_voxels"] = sum(int(y.sum()) for _, y in voxels)
    facts = {"split": "dev", "seed": 4, "bins": 15, "clip": pytest.approx([1e-20, 1 - 1e-7])}
    assert {name: record[name] for name in counts | facts} == counts | facts
    assert record["warnings"] == []
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_parts_come_back_from_disk_as_they_were(voxels: list[Part], tmp_path: Path) -> None:
    wide = [(p.astype(np.float64), y) for p, y in voxels]
    with voxels_on_disk(iter(wide), tmp_path) as found:
        assert len(found) == 4
        for (p, y), (q, z) in zip(voxels, found, strict=True):
            np.testing.assert_array_equal(q, p, strict=True)
            np.testing.assert_array_equal(z, y, strict=True)
            assert isinstance(q.base if q.base is not None else q, np.memmap)


def test_without_a_voxel_there_is_nothing_to_calibrate(tmp_path: Path) -> None:
    nothing = (np.zeros(0, np.float32), np.zeros(0, bool))
    with pytest.raises(UserError, match="nothing to calibrate"), voxels_on_disk([nothing, nothing], tmp_path):
        pass


def test_a_reader_is_told_of_limits_and_of_an_error_that_did_not_fall() -> None:
    good, bad = {"ece": 0.01, "nll": 0.1}, {"ece": 0.02, "nll": 0.2}
    plain = Scaling(temperature=1.5, bias=0.0)
    assert remarks(plain, bad, good) == []
    assert remarks(plain, good, good) == []
    (worse,) = remarks(plain, good, bad)
    assert "did not fall in cross-validation (0.01 to 0.02)" in worse
    assert "likelihood (0.1 to 0.2)" in worse
    (sharp,) = remarks(Scaling(temperature=0.05, bias=0.0, at_limit=True), bad, good)
    assert "temperature 0.05 is a limit" in sharp
    assert "without error" in sharp
    (vague,) = remarks(Scaling(temperature=20.0, bias=0.0, at_limit=True), bad, good)
    assert "knows next to nothing" in vague
    assert len(remarks(Scaling(temperature=20.0, bias=0.0, at_limit=True), good, bad)) == 2


def test_voxels_lie_in_the_folder_that_is_given_and_are_not_written_to(
    voxels: list[Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def opened(dir: Path) -> Any:
        folders.append(dir)
        return TemporaryFile(dir=dir)

    monkeypatch.setattr(fitting, "TemporaryFile", opened)
    with voxels_on_disk(voxels, tmp_path) as found:
        assert folders == [tmp_path, tmp_path]
        assert not any(array.flags.writeable for part in found for array in part)


def test_a_full_disk_is_told_with_its_folder(tmp_path: Path) -> None:
    def parts() -> Iterator[Part]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    told = re.escape(f"{tmp_path}/(voxels of the calibration)")
    with pytest.raises(DiskFull, match=told), voxels_on_disk(parts(), tmp_path):
        pass
