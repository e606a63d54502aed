"""Patients drawn with replacement, each with all scans (a cluster bootstrap), for values that seeds change too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Resamples of an interval."""

_DRAWS_AT_ONCE = 4_000_000


def patient_counts(n_patients: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each patient is drawn, `[chunk, n_patients]` at a time, `resamples` rows in all.

    Patients stand in the order of their sorted names: the order of rows does not change a draw.
    """
    rng = np.random.default_rng([seed, n_patients])
    chunk = max(1, _DRAWS_AT_ONCE // n_patients)
    for start in range(0, resamples, chunk):
        draws = rng.integers(n_patients, size=(min(chunk, resamples - start), n_patients))
        places = draws + n_patients * np.arange(len(draws))[:, None]
        times = np.bincount(places.ravel(), minlength=n_patients * len(draws))
        yield times.reshape(len(draws), n_patients).astype(np.float64)
