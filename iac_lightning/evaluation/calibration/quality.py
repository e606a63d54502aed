"""How well probabilities agree with how often they are right: calibration errors, proper scores, reliability.

Like the fit (`scaling`), all of it looks at the voxels of the model's domain only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.calibration.scaling import HIGHEST, LOWEST, Part
from iac_lightning.evaluation.statistics.intervals import sums_ci
from iac_lightning.evaluation.statistics.jackknife import POSITIVE, REAL, SHARE, Scale, Statistic, ratio

QUALITIES = ("ece", "adaptive_ece", "brier", "nll")
"""The values that `quality` gives, as they are called in files."""

STREAMED = ("ece", "brier", "nll")
"""Those that need no second look at the voxels (`quality_of_sums`)."""

BINS = 15


class Sums(NamedTuple):
    """What the quality of a scan's probabilities follows from, however many they are.

    Attributes:
        bins: `[BINS, 3]` in each bin of equal width: number, sum of probabilities, sum of labels.
        scores: `[3]` number, sum of squared differences, sum of negative log-likelihoods (nats).
    """

    bins: NDArray[np.float64]
    scores: NDArray[np.float64]


def sums_of(part: Part) -> Sums:
    """Sums over the voxels (or lesions) of one scan; probabilities are clipped to [`LOWEST`, `HIGHEST`] for the log."""
    probability, label = part
    p, y = probability.astype(np.float64), np.asarray(label, dtype=np.float64)
    q = np.clip(probability, LOWEST, HIGHEST).astype(np.float64)
    nll = -(np.log(q[label]).sum() + np.log1p(-q[~label]).sum())
    return Sums(
        bins=_bin_sums(np.minimum((p * BINS).astype(np.int64), BINS - 1), p, y),
        scores=np.array([len(p), ((p - y) ** 2).sum(), nll]),
    )


def quality(parts: Sequence[Part], patients: Sequence[str]) -> dict[str, Any]:
    """`quality_of_sums`, and `adaptive_ece`, which needs all voxels at hand: the error over bins of equal mass.

    With the probabilities sorted, bin k begins at the value of rank ⌊k·n/15⌋ (counted from 0); equal probabilities are
    never parted. The bins are those of the whole sample for the interval too.

    Args:
        parts: voxels of each series; probabilities above 0.
        patients: `[len(parts)]`, whose series it is.
    """
    sizes = [len(p) for p, _ in parts]
    total = sum(sizes)
    edges = _order_statistics([p for p, _ in parts], np.arange(1, BINS) * total // BINS)
    mass = [
        _bin_sums(np.searchsorted(edges, np.asarray(p), side="right"), p.astype(np.float64), np.asarray(y, np.float64))
        for p, y in parts
    ]
    value, ends = _with_interval([m.ravel() for m in mass], _ece, patients, sizes, POSITIVE)
    return {
        **quality_of_sums([sums_of(part) for part in parts], patients),
        "adaptive_ece": value,
        "adaptive_ece_ci95": ends,
    }


def quality_of_sums(sums: Sequence[Sums], patients: Sequence[str], counted: str = "voxels") -> dict[str, Any]:
    """Calibration error, proper scores and the reliability curve over all voxels (or lesions) of all scans.

    - `ece`: Σ_b n_b/n · |mean label − mean probability| over `BINS` bins of equal width, `[k/15, (k+1)/15)`;
    - `brier`: mean squared difference; `nll`: mean negative log-likelihood (nats);
    - `reliability`: one row for each bin that holds something.

    Intervals are 95 % over patients; None where there are too few (in a bin: that have something there).

    Args:
        sums: of each scan, at least one of which has something.
        patients: `[len(sums)]`, whose scan it is.
        counted: what probabilities are of, for the names of counts.

    Returns:
        Plain types: each of `STREAMED` and `<name>_ci95`, `reliability`, `n_voxels`, `n_lesion_voxels`, `n_patients`.
    """
    bins, scores = np.stack([s.bins for s in sums]), np.stack([s.scores for s in sums])
    columns = {"ece": bins.reshape(len(sums), -1), "brier": scores[:, [1, 0]], "nll": scores[:, [2, 0]]}
    result: dict[str, Any] = {}
    for name, statistic in (("ece", _ece), ("brier", _quotient), ("nll", _quotient)):
        result[name], result[f"{name}_ci95"] = _with_interval(
            columns[name], statistic, patients, scores[:, 0], POSITIVE
        )
    return {
        **result,
        f"n_{counted}": int(bins[..., 0].sum()),
        f"n_lesion_{counted}": int(bins[..., 2].sum()),
        "n_patients": len(np.unique(np.asarray(patients)[scores[:, 0] > 0])),
        "reliability": [row for k in range(BINS) if (row := _reliability_row(k, bins[:, k], patients, counted))],
    }


def ratio_of_sums(columns: NDArray[np.float64], patients: Sequence[str]) -> tuple[float, list[float] | None]:
    """Ratio of the sums of two columns `[n_scans, 2]`, of which the second counts, with its interval over patients."""
    return _with_interval(columns, _quotient, patients, columns[:, 1], REAL)


def _with_interval(
    columns: ArrayLike, statistic: Statistic, patients: Sequence[str], sizes: ArrayLike, scale: Scale
) -> tuple[float, list[float] | None]:
    """A statistic of sums over scans, and the ends of its 95 % interval over patients (`sums_ci`).

    Args:
        columns: `[n_scans, k]` what is summed.
        statistic: of the sums `[..., k]`.
        patients: `[n_scans]`.
        sizes: `[n_scans]` how much each scan holds; those of nothing do not count as patients.
        scale: of the interval.

    Returns:
        The ends are None where there is no interval, as with too few patients, or where it says nothing: an error in
        which patients cancel, so that it is near 0 with all of them and large without any, could be any number.
    """
    some = np.asarray(sizes) > 0
    found = sums_ci(
        np.asarray(columns, dtype=np.float64)[some],
        statistic,
        np.asarray(patients)[some],
        leverage=np.asarray(sizes, dtype=np.float64)[some],
        scale=scale,
    )
    return found.estimate, [found.low, found.high] if isfinite(found.low) and isfinite(found.high) else None


def _bin_sums(bins: NDArray[np.integer], p: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[BINS, 3]`: voxels, sum of probabilities, sum of labels."""
    return np.stack([np.bincount(bins, weights=w, minlength=BINS) for w in (np.ones_like(p), p, y)], axis=1)


def _ece(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[..., BINS · 3]` to `[...]`: n_b · |mean label − mean probability| is |Σ label − Σ probability|."""
    n, p, y = np.moveaxis(sums.reshape(*sums.shape[:-1], BINS, 3), -1, 0)
    return ratio(np.abs(y - p).sum(axis=-1), n.sum(axis=-1))


def _quotient(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[..., 2]` to `[...]`; nan where the second is 0."""
    return ratio(sums[..., 0], sums[..., 1])


def _reliability_row(k: int, sums: NDArray[np.float64], patients: Sequence[str], counted: str) -> dict[str, Any] | None:
    """Of the curve, from sums by scan `[n_scans, 3]` in bin k; None where it is empty."""
    n, p, y = sums.sum(axis=0)
    if not n:
        return None
    return {
        "bin": [k / BINS, (k + 1) / BINS],
        f"n_{counted}": int(n),
        "n_patients": len(np.unique(np.asarray(patients)[sums[:, 0] > 0])),
        "mean_probability": float(p / n),
        "lesion_share": float(y / n),
        "lesion_share_ci95": _with_interval(sums[:, [2, 0]], _quotient, patients, sums[:, 0], SHARE)[1],
    }


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
