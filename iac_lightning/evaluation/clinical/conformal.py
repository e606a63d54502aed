"""Intervals of calcium volume that hold their promise whatever the model: split-conformal prediction.

Vovk, Gammerman & Shafer 2005; for calcium volumes with conditional coverage arXiv 2506.04030, which clusters
probability histograms where this module takes strata of slice thickness (Mondrian conformal prediction).

**Score**: |√predicted − √labelled| of a development scan. Volumes are skewed over decades and their error grows with
the volume; the square root steadies that and, unlike the logarithm, knows empty masks. A radius r in √mm³ makes the
interval [max(0, √predicted − r)², (√predicted + r)²].

**Several scans a patient**: patients are exchangeable, scans are not. Each of K development patients carries the weight
1/(K + 1), spread evenly over the patient's n_k scans, and infinity carries the last 1/(K + 1); the radius is the
(1 − α) quantile of that distribution (hierarchical conformal prediction, arXiv 2306.06342). With one scan a patient it
is the usual ⌈(K + 1)(1 − α)⌉-th smallest score. What is promised: a scan of a *new* patient is covered with
probability ≥ 1 − α, on average over patients (each counts once) and over development sets; not for every patient.

**Strata**: a stratum's radius comes from the scans in it, so that the promise holds in the stratum and not only on
average over all. A stratum with few development patients is merged with a neighbour, and the radius of the merged ones
promises nothing for each: errors on the thickest slices, the fewest, are larger. A merged stratum therefore keeps the
merged radius only where its own is not larger: with k development patients of its own, its k / (k + 1) quantile (the
largest score), or the promised one if that is less. Each stratum by itself is promised the smaller of the coverage and
k / (k + 1), and the result says how much that is. Merging looks at numbers of patients only, never at scores, and no
radius shrinks by it, so the promise on average stands too.

The development split has usually also chosen checkpoint, temperature and threshold; its scores are then a little too
small, which the promise does not cover and the coverage measured on the test split shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.risk import GROUPS, RiskCutoffs, risk_groups
from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum, stratum_index


@dataclass(frozen=True, kw_only=True)
class StratumRadius:
    """Half-width of the intervals of one stratum.

    Attributes:
        stratum: name of the stratum of slice thickness.
        merged: names of the strata whose development scans decide it together; of one that stands alone its own.
        n: development scans of the stratum itself.
        n_patients: development patients of the stratum itself.
        radius: in √mm³; infinite when the patients of all that were merged are too few for the promised coverage.
        promised: coverage that holds in this stratum by itself; 0 without a development patient in it.
    """

    stratum: str
    merged: tuple[str, ...]
    n: int
    n_patients: int
    radius: float
    promised: float


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """What `fit_conformal` learned from the development split.

    Attributes:
        coverage: promised, 1 − α.
        strata: strata of slice thickness as asked for.
        radii: of each stratum, thinnest first.
        remarks: which strata were merged, what is promised in each, and which have no finite interval.
    """

    coverage: float
    strata: tuple[Stratum, ...]
    radii: tuple[StratumRadius, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Coverage measured on scans that had no part in the fit.

    Attributes:
        stratum: of slice thickness, or "all".
        calibrated_in: names of the strata whose development scans decided the radius; empty for "all".
        coverage: mean over patients of the share of the patient's scans inside their interval.
        low: lower end of the 95 % Clopper–Pearson interval with patients as trials; conservative where a patient has
            several scans, since a share varies less than a yes or no; nan below `MIN_PATIENTS` patients.
        high: upper end.
        scan_coverage: share of all scans.
        mean_width_mm3: of the finite intervals; nan without one.
        n: scans.
        n_patients: patients.
        n_unbounded: scans whose interval has no upper end.
    """

    stratum: str
    calibrated_in: tuple[str, ...]
    coverage: float
    low: float
    high: float
    scan_coverage: float
    mean_width_mm3: float
    n: int
    n_patients: int
    n_unbounded: int


def conformal_radius(scores: ArrayLike, patients: ArrayLike, coverage: float) -> float:
    """(1 − α) quantile of the scores with each patient's weight spread over the patient's scans.

    Args:
        scores: `[n_scans]`.
        patients: `[n_scans]`, whose scan it is.
        coverage: 1 − α.

    Returns:
        The radius; infinite with fewer than coverage / (1 − coverage) patients.
    """
    s, names = np.asarray(scores, dtype=np.float64), np.asarray(patients)
    _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    order = np.argsort(s, kind="stable")
    weight = np.cumsum(1.0 / counts[codes[order]])
    reached = np.flatnonzero(weight >= coverage * (len(counts) + 1) - 1e-9)
    return float(s[order[reached[0]]]) if len(reached) else float("inf")


def fit_conformal(
    table: pd.DataFrame,
    coverage: float = 0.9,
    strata: Sequence[Stratum] = THICKNESS_STRATA,
    min_patients: int = 20,
) -> Conformal:
    """Radii of the intervals from the development split.

    Args:
        table: development series with `patient_id`, `slice_thickness_mm`, `volume_mm3`, `label_volume_mm3`, predicted
            as the scans to come will be (same threshold).
        coverage: promised, 1 − α.
        strata: of slice thickness, adjoining.
        min_patients: a stratum with fewer development patients joins its smaller neighbour.

    Raises:
        UserError: when `coverage` is not inside (0, 1) or the table is empty.
    """
    if not 0 < coverage < 1:
        raise UserError(f"coverage {coverage} of conformal intervals must lie between 0 and 1, such as 0.9")
    if table.empty:
        raise UserError("the development split holds no evaluated series; conformal intervals need some")
    scores = np.abs(np.sqrt(_volumes(table, "volume_mm3")) - np.sqrt(_volumes(table, "label_volume_mm3")))
    patients = as_text(table["patient_id"])
    index = stratum_index(table["slice_thickness_mm"].to_numpy(dtype=float), strata)

    radii, remarks = [], []
    for members in _merge(index, patients, len(strata), min_patients):
        inside = np.isin(index, members)
        n_patients = len(np.unique(patients[inside]))
        shared = conformal_radius(scores[inside], patients[inside], coverage)
        parts = [
            _stratum_radius(
                scores, patients, index == k, strata[k][0], shared, [strata[m][0] for m in members], coverage
            )
            for k in members
        ]
        radii += parts
        if len(members) > 1:
            each = ", ".join(f"{p.stratum}: {p.promised:.0%} by {p.n_patients}" for p in parts)
            remarks.append(
                f"strata merged for want of {min_patients} development patients in each; {coverage:.0%} is promised on "
                f"average over them, in each by itself no more than its own development patients can promise ({each})"
            )
        if np.isinf(shared):
            needed = int(np.ceil(coverage / (1 - coverage) - 1e-9))
            remarks.append(
                f"{', '.join(p.stratum for p in parts)}: {n_patients} development patients cannot promise "
                f"{coverage:.0%} (at least {needed} are needed); the intervals have no upper end"
            )
    return Conformal(coverage=coverage, strata=tuple(strata), radii=tuple(radii), remarks=tuple(remarks))


def volume_intervals(conformal: Conformal, table: pd.DataFrame, cutoffs: RiskCutoffs) -> pd.DataFrame:
    """Interval of each scan's volume, and the risk groups it touches.

    Args:
        conformal: from the development split of the same model.
        table: series with `series_id`, `patient_id`, `slice_thickness_mm`, `volume_mm3`, and `label_volume_mm3` (nan or
            absent where unknown).
        cutoffs: of the risk groups.

    Returns:
        One row a scan: `series_id`, `patient_id`, `stratum`, `volume_mm3`, `low_mm3`, `high_mm3` (may be infinite),
        `groups` (names joined by "|", so that it survives a CSV) and, where labelled, `label_volume_mm3` and `covered`.
    """
    root = np.sqrt(_volumes(table, "volume_mm3"))
    index = stratum_index(table["slice_thickness_mm"].to_numpy(dtype=float), conformal.strata)
    names = np.array([name for name, _, _ in conformal.strata])[index]
    by_name = {part.stratum: part.radius for part in conformal.radii}
    radius = np.array([by_name[name] for name in names], dtype=np.float64)
    intervals = table[["series_id", "patient_id", "volume_mm3"]].reset_index(drop=True)
    intervals.insert(2, "stratum", names)
    intervals["low_mm3"], intervals["high_mm3"] = np.maximum(root - radius, 0) ** 2, (root + radius) ** 2
    bounds = (risk_groups(intervals[column], cutoffs) for column in ("low_mm3", "high_mm3"))
    intervals["groups"] = ["|".join(GROUPS[first : last + 1]) for first, last in zip(*bounds, strict=True)]
    if "label_volume_mm3" in table:
        label = table["label_volume_mm3"].to_numpy(dtype=float)
        intervals["label_volume_mm3"] = label
        # Compared as scores are: squaring and back would put a scan at the very radius outside its own interval.
        covered = pd.Series(np.abs(root - np.sqrt(label)) <= radius, dtype="boolean")
        intervals["covered"] = covered.mask(np.isnan(label))
    return intervals


def measured_coverage(conformal: Conformal, intervals: pd.DataFrame) -> list[Coverage]:
    """Coverage and width over all labelled scans and by stratum as asked for; strata without scans are left out.

    Args:
        conformal: what made the intervals.
        intervals: from `volume_intervals`, of patients who had no part in the fit.
    """
    known = intervals[intervals["covered"].notna()]
    coverages = [_coverage("all", (), known)] if len(known) else []
    for part in conformal.radii:
        inside = known[known["stratum"] == part.stratum]
        if len(inside):
            coverages.append(_coverage(part.stratum, part.merged, inside))
    return coverages


def clopper_pearson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a proportion (Clopper & Pearson 1934); successes may be a sum of shares."""
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, successes, n - successes + 1)) if successes > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def _coverage(stratum: str, calibrated_in: tuple[str, ...], rows: pd.DataFrame) -> Coverage:
    covered = rows["covered"].astype(float)
    shares = covered.groupby(rows["patient_id"]).mean()
    low = high = float("nan")
    if len(shares) >= MIN_PATIENTS:
        low, high = clopper_pearson(float(shares.sum()), len(shares))
    width = (rows["high_mm3"] - rows["low_mm3"]).to_numpy(dtype=float)
    finite = np.isfinite(width)
    return Coverage(
        stratum=stratum,
        calibrated_in=calibrated_in,
        coverage=float(shares.mean()),
        low=low,
        high=high,
        scan_coverage=float(covered.mean()),
        mean_width_mm3=float(width[finite].mean()) if finite.any() else float("nan"),
        n=len(rows),
        n_patients=len(shares),
        n_unbounded=int((~finite).sum()),
    )


def _stratum_radius(
    scores: NDArray[np.float64],
    patients: NDArray[np.str_],
    inside: NDArray[np.bool_],
    name: str,
    shared: float,
    merged: Sequence[str],
    coverage: float,
) -> StratumRadius:
    """The radius of the merged strata, or the stratum's own where that is larger."""
    n_patients = len(np.unique(patients[inside]))
    promised = min(coverage, n_patients / (n_patients + 1))
    own = conformal_radius(scores[inside], patients[inside], promised) if n_patients else 0.0
    return StratumRadius(
        stratum=name,
        merged=tuple(merged),
        n=int(inside.sum()),
        n_patients=n_patients,
        radius=max(shared, own),
        promised=1.0 if np.isinf(shared) else promised,
    )


def _merge(
    index: NDArray[np.intp], patients: NDArray[np.str_], n_strata: int, min_patients: int
) -> list[tuple[int, ...]]:
    """Neighbouring strata joined until each has enough patients: smallest first, into its smaller neighbour."""
    groups: list[tuple[int, ...]] = [(k,) for k in range(n_strata)]

    def size(members: tuple[int, ...]) -> int:
        return len(np.unique(patients[np.isin(index, members)]))

    while len(groups) > 1:
        sizes = [size(members) for members in groups]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= min_patients:
            break
        neighbours = [k for k in (smallest - 1, smallest + 1) if 0 <= k < len(groups)]
        first = min(smallest, min(neighbours, key=lambda k: sizes[k]))
        groups[first : first + 2] = [groups[first] + groups[first + 1]]
    return groups


def _volumes(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    volumes = table[column].to_numpy(dtype=float)
    if not (np.isfinite(volumes) & (volumes >= 0)).all():
        raise ValueError(f"{column} must be finite and not negative")
    return volumes
