"""How well probabilities agree with how often they are right: calibration errors, proper scores, reliability.

Like the fit (`scaling`), all of it looks at the voxels of the model's domain only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iac_lightning.evaluation.calibration.scaling import HIGHEST, LOWEST, Part

QUALITIES = ("ece", "adaptive_ece", "brier", "nll")
"""The values that `quality` gives, as they are called in files."""

BINS = 15
RESAMPLES = 2_000


def quality(parts: Sequence[Part], patients: Sequence[str], seed: int) -> dict[str, Any]:
    """Calibration errors, proper scores and the reliability curve over all voxels of all parts.

    - `ece`: Σ_b n_b/n · |mean label − mean probability| over `BINS` bins of equal width, `[k/15, (k+1)/15)`;
    - `adaptive_ece`: the same over bins of equal mass. With the probabilities sorted, bin k begins at the value of rank
      ⌊k·n/15⌋ (counted from 0); equal probabilities are never parted;
    - `brier`: mean squared difference; `nll`: mean negative log-likelihood (nats), probabilities clipped to [`LOWEST`,
      `HIGHEST`];
    - `reliability`: one row for each bin of equal width that holds a voxel.

    Intervals are 95 % percentile bootstraps over patients; None below two patients that have voxels (in a bin: there).
    The adaptive bins are those of the whole sample in every resample.

    Args:
        parts: voxels of each series; probabilities above 0.
        patients: `[len(parts)]`, whose series it is.
        seed: decides the resamples.

    Returns:
        Plain types: each of `QUALITIES` and `<name>_ci95`, `reliability`, `n_voxels`, `n_lesion_voxels`.
    """
    _, codes = np.unique(np.asarray(patients), return_inverse=True)
    n_patients = int(codes.max()) + 1
    total = sum(len(p) for p, _ in parts)
    edges = _order_statistics([p for p, _ in parts], np.arange(1, BINS) * total // BINS)
    width, mass = np.zeros((2, n_patients, BINS, 3))
    scores = np.zeros((n_patients, 3))
    for code, (probability, label) in zip(codes, parts, strict=True):
        p, y = probability.astype(np.float64), np.asarray(label, dtype=np.float64)
        width[code] += _bin_sums(np.minimum((p * BINS).astype(np.int64), BINS - 1), p, y)
        mass[code] += _bin_sums(np.searchsorted(edges, np.asarray(probability), side="right"), p, y)
        q = np.clip(probability, LOWEST, HIGHEST).astype(np.float64)
        nll = -(np.log(q[label]).sum() + np.log1p(-q[~label]).sum())
        scores[code] += len(p), ((p - y) ** 2).sum(), nll
    # A resample draws as many patients as there are: how often each was drawn is all that sums need.
    rng = np.random.default_rng([seed, n_patients])
    times = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=RESAMPLES)
    times = times[times @ scores[:, 0] > 0]  # a draw of patients of whom nothing is said tells nothing
    resampled = np.tensordot(times, width, axes=1)
    score_draws = times @ scores
    scored = {
        "ece": (_ece(width.sum(axis=0)), _ece(resampled)),
        "adaptive_ece": (_ece(mass.sum(axis=0)), _ece(np.tensordot(times, mass, axes=1))),
        "brier": (scores[:, 1].sum() / total, score_draws[:, 1] / score_draws[:, 0]),
        "nll": (scores[:, 2].sum() / total, score_draws[:, 2] / score_draws[:, 0]),
    }
    result: dict[str, Any] = {}
    for name, (value, values) in scored.items():
        result[name] = float(value)
        result[f"{name}_ci95"] = _interval(values) if np.count_nonzero(scores[:, 0]) > 1 else None
    return {
        **result,
        "n_voxels": total,
        "n_lesion_voxels": int(width[..., 2].sum()),
        "reliability": _reliability(width, resampled),
    }


def _bin_sums(bins: NDArray[np.integer], p: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[BINS, 3]`: voxels, sum of probabilities, sum of labels."""
    return np.stack([np.bincount(bins, weights=w, minlength=BINS) for w in (np.ones_like(p), p, y)], axis=1)


def _ece(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[..., BINS, 3]` to `[...]`: n_b · |mean label − mean probability| is |Σ label − Σ probability|."""
    error: NDArray[np.float64] = np.abs(sums[..., 2] - sums[..., 1]).sum(axis=-1) / sums[..., 0].sum(axis=-1)
    return error


def _reliability(sums: NDArray[np.float64], resampled: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Rows of the curve from sums by patient `[n_patients, BINS, 3]` and by resample `[RESAMPLES, BINS, 3]`."""
    rows = []
    for k in range(BINS):
        n, p, y = sums[:, k].sum(axis=0)
        if not n:
            continue
        patients = int((sums[:, k, 0] > 0).sum())
        drawn = resampled[:, k][resampled[:, k, 0] > 0]
        rows.append(
            {
                "bin": [k / BINS, (k + 1) / BINS],
                "n_voxels": int(n),
                "n_patients": patients,
                "mean_probability": float(p / n),
                "lesion_share": float(y / n),
                "lesion_share_ci95": _interval(drawn[:, 2] / drawn[:, 0]) if patients > 1 else None,
            }
        )
    return rows


def _interval(values: NDArray[np.float64]) -> list[float]:
    return [float(v) for v in np.quantile(values, [0.025, 0.975])]


def _order_statistics(arrays: Iterable[NDArray[np.float32]], ranks: NDArray[np.int64]) -> NDArray[np.float32]:
    """The values at some ranks of all arrays together, exactly and without holding them at once.

    Positive floats sort as their bits: one count of the upper 16 finds each rank's bucket, a count of the lower 16
    within the bucket finds the value.
    """
    bits = [np.ascontiguousarray(array, dtype=np.float32).view(np.uint32) for array in arrays]
    size = 1 << 16
    high = sum((np.bincount(b >> 16, minlength=size) for b in bits), start=np.zeros(size, dtype=np.int64))
    ends = high.cumsum()
    buckets = np.searchsorted(ends, ranks, side="right")
    values = []
    for bucket, rank in zip(buckets, ranks, strict=True):
        low = sum(
            (np.bincount(b[b >> 16 == bucket] & (size - 1), minlength=size) for b in bits),
            start=np.zeros(size, dtype=np.int64),
        )
        within = rank - (ends[bucket] - high[bucket])
        values.append((int(bucket) << 16) | int(np.searchsorted(low.cumsum(), within, side="right")))
    return np.array(values, dtype=np.uint32).view(np.float32)
