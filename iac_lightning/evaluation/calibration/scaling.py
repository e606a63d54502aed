"""Temperature and bias of the logits, and how well probabilities agree with how often they are right.

Everything here looks at voxels with a probability above 0 only: the model's **domain**. A network with a restricted
objective (`loss.restrict_hu`) says nothing about darker voxels, and outside its region of interest there is no
prediction; both are exactly 0, in memory and in saved files. So all figures can be computed again from a probability
map and a label without knowing the region or the scan: take the voxels where the map is above 0.

Voxels come as *parts*, one a series: a pair of flat arrays, probabilities (float32) and labels (bool). Parts may be
memory-mapped; each is looked at by itself, so that memory does not grow with the number of series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from iac_lightning.evaluation.calibration.threshold import choose_threshold
from iac_lightning.evaluation.statistics.bootstrap import paired_difference
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum

Part = tuple[NDArray[np.float32], NDArray[np.bool_]]

LOWEST, HIGHEST = np.float32(1e-20), np.float32(1 - 1e-7)
"""Probabilities are clipped to this before a logarithm. Overconfident background lies far below 1e-7 in float32: cut
there, logits that are three times too large could not be divided back. Near 1 float32 ends at about 1 - 1e-7."""

BINS = 15
RESAMPLES = 2_000
FIT_VOXELS = 500_000
"""Most voxels that temperature and bias are fitted on."""
THRESHOLDS = np.array(
    [*(digit / 10**power for power in (5, 4) for digit in (1, 2, 3, 5, 7)), 0.001, *(k / 500 for k in range(1, 500))]
)
"""Thresholds of calibrated probability to choose from: 0.002, 0.004 … 0.998, and some from 0.00001 on. Lesions are
rare: where a model knows little, its calibrated probabilities are all near their share."""
TEMPERATURES = (0.05, 20.0)
"""Limits of the temperature; a model that reaches one separates perfectly, or knows nothing."""
STRATUM_PATIENTS = 10
"""Fewest patients with lesions for which a slice-thickness stratum may have a threshold of its own."""
FOLDS = 5


# --- temperature and bias ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Calibrated logit = logit / temperature + bias (Guo et al. 2017; with a bias: Platt 1999).

    Attributes:
        temperature: above 1 where the model was too sure.
        bias: of the logit.
        at_limit: the likelihood wanted a temperature beyond `TEMPERATURES`.
    """

    temperature: float
    bias: float
    at_limit: bool = False


def apply(probability: NDArray[np.floating], temperature: float, bias: float) -> NDArray[np.float32]:
    """Calibrated probabilities `sigmoid(logit(p) / temperature + bias)`, clipped to [`LOWEST`, `HIGHEST`].

    Exact zeros stay zeros: the model says nothing there. float32 in, the same shape out.
    """
    if probability.ndim > 1:  # slice by slice: a whole head in float64 several times over takes a gigabyte
        result = np.empty_like(probability, dtype=np.float32)
        for k in range(probability.shape[-1]):
            result[..., k] = apply(probability[..., k], temperature, bias)
        return result
    logit = _logit(probability) / temperature + bias
    calibrated = np.clip(special.expit(logit).astype(np.float32), LOWEST, HIGHEST)
    return np.where(probability > 0, calibrated, np.float32(0))


def calibrated_half(temperature: float, bias: float) -> float:
    """Where the calibrated probability lies of a voxel whose uncalibrated one is 0.5.

    `apply` keeps order and rounds alike wherever it is called, so a calibrated map at or above this is the mask of the
    uncalibrated network at 0.5, but for probabilities that float32 no longer tells from 0.5 after scaling.
    """
    return float(apply(np.array([0.5], np.float32), temperature, bias)[0])


def sample(
    parts: Sequence[Part], seed: int, limit: int = FIT_VOXELS
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """At most `limit` voxels, as many with as without lesion where there are enough, and their weights.

    Within each of the two kinds every voxel of all parts has the same chance (simple random sampling without
    replacement). A voxel weighs one over its chance of being drawn, so that a weighted sum over the sample is an
    unbiased estimate of the sum over all voxels. Nothing is drawn where all fit.

    Returns:
        Probabilities, labels and weights, `[n]` each.
    """
    rng = np.random.default_rng([seed, 1])
    counts = {kind: np.array([int((y == kind).sum()) for _, y in parts]) for kind in (True, False)}
    lesion = min(int(counts[True].sum()), max(limit // 2, limit - int(counts[False].sum())))
    wanted = {True: lesion, False: min(int(counts[False].sum()), limit - lesion)}
    found_p, found_y, found_w = [], [], []
    for kind, n in wanted.items():
        if not n:
            continue
        total = int(counts[kind].sum())
        shares = rng.multivariate_hypergeometric(counts[kind], n, method="marginals")
        for (p, y), have, take in zip(parts, counts[kind], shares, strict=True):
            places = np.flatnonzero(y == kind)
            if take < have:
                places = np.sort(rng.choice(places, take, replace=False, shuffle=False))
            found_p.append(np.asarray(p[places]))
            found_y.append(np.full(len(places), kind))
            found_w.append(np.full(len(places), total / n))
    return np.concatenate(found_p), np.concatenate(found_y), np.concatenate(found_w)


def fit(probability: NDArray[np.floating], label: NDArray[np.bool_], weight: NDArray[np.floating]) -> Scaling:
    """Temperature and bias of the greatest weighted likelihood, the temperature within `TEMPERATURES`.

    The negative log-likelihood is convex in (1 / temperature, bias): where the best temperature lies beyond a limit,
    the best bias for the limit is the solution.

    Args:
        probability: `[n]` above 0.
        label: `[n]`; both kinds must be there.
        weight: `[n]` above 0.

    Raises:
        ValueError: with only one kind of voxels.
    """
    y, w, z = label.astype(np.float64), weight / weight.sum(), _logit(probability)
    if not label.any() or label.all():
        raise ValueError("temperature and bias need voxels with and without lesion")
    features = np.stack([z, np.ones_like(z)])

    def newton(free: slice, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Minimise over the free ones of (1 / temperature, bias)."""
        x = features[free]

        def both(theta: NDArray[np.float64]) -> NDArray[np.float64]:
            full = start.copy()
            full[free] = theta
            return full @ features

        def loss(theta: NDArray[np.float64]) -> float:
            logit = both(theta)
            return float(w @ (np.logaddexp(0, logit) - y * logit))

        def gradient(theta: NDArray[np.float64]) -> NDArray[np.float64]:
            return x @ (w * (special.expit(both(theta)) - y))

        def hessian(theta: NDArray[np.float64]) -> NDArray[np.float64]:
            q = special.expit(both(theta))
            return (x * (w * q * (1 - q))) @ x.T

        # Lesions are rare: their share of the gradient is small, and so must be the tolerance.
        result = optimize.minimize(
            loss, start[free], jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9 * float(w @ y)}
        )
        best = start.copy()
        best[free] = result.x
        return best

    slope, bias = newton(slice(0, 2), np.array([1.0, 0.0]))
    lowest, highest = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    at_limit = not lowest <= slope <= highest
    if at_limit:
        slope, bias = newton(slice(1, 2), np.array([np.clip(slope, lowest, highest), 0.0]))
    return Scaling(temperature=float(1 / slope), bias=float(bias), at_limit=at_limit)


def _logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    logit: NDArray[np.float64] = special.logit(np.clip(probability, LOWEST, HIGHEST).astype(np.float64))
    return logit


# --- how good probabilities are -------------------------------------------------------------------------------------


def quality(parts: Sequence[Part], patients: Sequence[str], seed: int) -> dict[str, Any]:
    """Calibration errors, proper scores and the reliability curve over all voxels of all parts.

    - `ece`: Σ_b n_b/n · |mean label − mean probability| over `BINS` bins of equal width, `[k/15, (k+1)/15)`;
    - `adaptive_ece`: the same over bins of equal mass. With the probabilities sorted, bin k begins at the value of rank
      ⌊k·n/15⌋ (counted from 0); equal probabilities are never parted;
    - `brier`: mean squared difference; `nll`: mean negative log-likelihood (nats), probabilities clipped to [`LOWEST`,
      `HIGHEST`];
    - `reliability`: one row for each bin of equal width that holds a voxel.

    Intervals are 95 % percentile bootstraps over patients; None below two patients (in a bin: two that have voxels
    there). The adaptive bins are those of the whole sample in every resample.

    Args:
        parts: voxels of each series; probabilities above 0.
        patients: `[len(parts)]`, whose series it is.
        seed: decides the resamples.

    Returns:
        Plain types: each figure and `<figure>_ci95`, `reliability`, `n_voxels`, `n_lesion_voxels`.
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
    resampled = np.tensordot(times, width, axes=1)
    score_draws = times @ scores
    figures = {
        "ece": (_ece(width.sum(axis=0)), _ece(resampled)),
        "adaptive_ece": (_ece(mass.sum(axis=0)), _ece(np.tensordot(times, mass, axes=1))),
        "brier": (scores[:, 1].sum() / total, score_draws[:, 1] / score_draws[:, 0]),
        "nll": (scores[:, 2].sum() / total, score_draws[:, 2] / score_draws[:, 0]),
    }
    result: dict[str, Any] = {}
    for name, (value, values) in figures.items():
        result[name] = float(value)
        result[f"{name}_ci95"] = _interval(values) if n_patients > 1 else None
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


# --- thresholds by slice thickness ----------------------------------------------------------------------------------


def thresholds_by_thickness(
    dice: NDArray[np.float64],
    has_lesion: ArrayLike,
    patients: Sequence[str],
    thickness_mm: ArrayLike,
    seed: int,
    thickness_strata: Sequence[Stratum] = THICKNESS_STRATA,
) -> dict[str, Any]:
    """Whether thresholds of their own help the strata of slice thickness, and which they are.

    A stratum may have its own threshold from `STRATUM_PATIENTS` patients with lesions on; two
    strata are needed. In a cross-validation by patient both ways choose on the other folds and are compared on the
    scans left out; own thresholds are used where the 95 % interval of the gain in Dice over patients lies above 0.

    Args:
        dice: `[n_series, len(THRESHOLDS)]`.
        has_lesion: `[n_series]`; scans without do not count.
        patients: `[n_series]`.
        thickness_mm: `[n_series]`.
        seed: of the folds and the bootstrap.
        thickness_strata: which strata are tried.

    Returns:
        Plain types: `used`, `why`, `gain` (mean, ci95, n_patients; None where not tried), and `strata`, a list of
        `stratum`, `above_mm`, `up_to_mm` (None: no limit), `n_patients`, `threshold` (None: too few).
    """
    lesion = np.asarray(has_lesion, dtype=bool)
    names, thickness = np.asarray(patients)[lesion], np.asarray(thickness_mm, dtype=float)[lesion]
    scores = np.asarray(dice)[lesion]
    strata: list[dict[str, Any]] = []
    member = np.full(len(names), -1)
    for k, (name, low, high) in enumerate(thickness_strata):
        inside = (thickness > low) & (thickness <= high)
        n_patients = len(np.unique(names[inside]))
        enough = n_patients >= STRATUM_PATIENTS
        if enough:
            member[inside] = k
        strata.append(
            {
                "stratum": name,
                "above_mm": low,
                "up_to_mm": None if np.isinf(high) else high,
                "n_patients": n_patients,
                "threshold": _best(scores[inside]) if enough else None,
            }
        )
    result: dict[str, Any] = {"used": False, "gain": None, "strata": strata}
    if sum(s["threshold"] is not None for s in strata) < 2:
        largest = ", ".join(f"{s['stratum']}: {s['n_patients']}" for s in strata)
        why = f"one threshold for all: fewer than two strata have {STRATUM_PATIENTS} patients with lesions ({largest})"
        return {**result, "why": why}

    unique, codes = np.unique(names, return_inverse=True)
    fold = (np.random.default_rng([seed, 2]).permutation(len(unique)) % FOLDS)[codes]
    shared, own = np.empty(len(names)), np.empty(len(names))
    for f in range(FOLDS):
        held, rest = fold == f, fold != f
        common = _best(scores[rest])
        shared[held] = own[held] = scores[held, _step(common)]
        for k in np.unique(member[held & (member >= 0)]):
            learn, judge = rest & (member == k), held & (member == k)
            if learn.any():
                own[judge] = scores[judge, _step(_best(scores[learn]))]
    gain = paired_difference(own, shared, names, seed=seed, resamples=RESAMPLES).difference
    used = not isnan(gain.low) and gain.low > 0
    words = f"{gain.estimate:+.4f} Dice [{gain.low:+.4f}; {gain.high:+.4f}] in {FOLDS}-fold cross-validation by patient"
    return {
        **result,
        "used": used,
        "gain": {"mean": gain.estimate, "ci95": [gain.low, gain.high], "n_patients": gain.n_patients},
        "why": f"thresholds by stratum gain {words}" if used else f"one threshold for all: strata change {words}",
    }


def threshold_at(thickness: dict[str, Any], thickness_mm: float, threshold: float) -> float:
    """The threshold for a scan: its stratum's own where `thresholds_by_thickness` found them useful, else the general.

    Args:
        thickness: from `thresholds_by_thickness`.
        thickness_mm: of the scan.
        threshold: for scans of all kinds.
    """
    for stratum in thickness["strata"] if thickness["used"] else ():
        below = stratum["up_to_mm"] is None or thickness_mm <= stratum["up_to_mm"]
        if thickness_mm > stratum["above_mm"] and below and stratum["threshold"] is not None:
            return float(stratum["threshold"])
    return threshold


def _best(scores: NDArray[np.float64]) -> float:
    return choose_threshold(scores, THRESHOLDS, np.ones(len(scores), dtype=bool))[0]


def _step(threshold: float) -> int:
    return int(np.searchsorted(THRESHOLDS, threshold))
