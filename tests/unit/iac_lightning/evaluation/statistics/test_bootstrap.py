from __future__ import annotations

import numpy as np

from iac_lightning.evaluation.statistics import bootstrap
from iac_lightning.evaluation.statistics.bootstrap import patient_counts


def drawn(n_patients: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate(list(patient_counts(n_patients, resamples, seed)))


def test_as_many_patients_are_drawn_as_there_are():
    counts = drawn(4, 20_000, 0)
    assert counts.shape == (20_000, 4)
    assert (counts.sum(axis=1) == 4).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.03)
    assert abs((counts[:, 0] == 0).mean() - 0.75**4) < 0.01


def test_chunks_change_nothing_and_the_seed_does(monkeypatch):
    whole = drawn(13, 300, 3)
    assert not np.array_equal(whole, drawn(13, 300, 4))
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 13 * 77)
    np.testing.assert_array_equal(drawn(13, 300, 3), whole)
