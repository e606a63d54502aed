"""Which saved predictions are taken for those of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.workflows.prediction_files import is_saved, saved_prediction, write_prediction


def test_a_prediction_is_read_again_only_under_its_key(tmp_path: Path) -> None:
    grid = Grid((2, 3, 4), np.diag([1.0, 1.0, 2.0, 1.0]))
    probability = Volume(np.random.default_rng([1]).random((2, 3, 4)).astype(np.float32), grid)
    path = tmp_path / "a1_probability.nii.gz"
    assert saved_prediction(path, {"x": 1}) is None
    assert not is_saved(path, {"x": 1})
    write_prediction(probability, path, {"x": 1})
    assert is_saved(path, {"x": 1})
    saved = saved_prediction(path, {"x": 1}, like=grid)
    assert saved is not None
    np.testing.assert_array_equal(saved.data, probability.data)
    assert saved_prediction(path, {"x": 2}) is None
    assert not is_saved(path, {"x": 2})
    for damaged in (tmp_path / "a1_probability.json", path):
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[: len(whole) // 2])
        assert saved_prediction(path, {"x": 1}) is None
        damaged.write_bytes(whole)
    (tmp_path / "a1_probability.json").unlink()  # as when a process was killed between the two files
    assert saved_prediction(path, {"x": 1}) is None
