"""Two models on the same scans: paired differences, effect sizes, Holm's correction for several tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from iac_lightning.evaluation.statistics.intervals import Interval, Kind, defined_values, mean_ci

SIGNIFICANT = 0.05
"""A difference is called established when its Holm-adjusted p is below this and its interval excludes 0."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Model a against model b on the same scans.

    Attributes:
        difference: mean of a − b over scans, with its interval over patients.
        wilcoxon_p: two-sided Wilcoxon signed-rank test on each patient's mean difference; 1 when all are zero,
            nan without a pair.
        wins: scans where a is higher.
        ties: scans where both are equal.
        losses: scans where a is lower.
    """

    difference: Interval
    wilcoxon_p: float
    wins: int
    ties: int
    losses: int


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    patients: ArrayLike,
    kind: Kind = "difference",
) -> PairedDifference:
    """Compare two models on the same scans; scans where either value is nan are left out.

    Args:
        a: `[n_scans]` values of the first model.
        b: `[n_scans]` values of the second, in the same order of scans.
        patients: `[n_scans]`, whose scan it is.
        kind: of the differences: "signed" where their size differs by decades (mm³).
    """
    # Rounding makes 0.3 - 0.2 and 0.4 - 0.3 the tie that they are.
    difference = np.round(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), 12)
    d, codes = defined_values(difference, patients)
    interval = mean_ci(difference, patients, kind)
    p = float("nan")
    if len(d):
        by_patient = np.round(np.bincount(codes, weights=d) / np.bincount(codes), 12)
        p = float(stats.wilcoxon(by_patient).pvalue) if by_patient.any() else 1.0
    return PairedDifference(
        difference=interval,
        wilcoxon_p=p,
        wins=int((d > 0).sum()),
        ties=int((d == 0).sum()),
        losses=int((d < 0).sum()),
    )


@dataclass(frozen=True, kw_only=True)
class EffectSize:
    """Size of a paired difference in units that do not depend on the sample size; patients are the units.

    Attributes:
        dz: Cohen's dz, mean over standard deviation (n − 1) of the patients' differences (Cohen 1988); nan below two
            patients or when all differ by the same.
        rank_biserial: matched-pairs rank-biserial correlation, (W₊ − W₋) / (W₊ + W₋) of the Wilcoxon rank sums (Kerby
            2014): 1 when every patient who differs is higher, 0 when balanced, also when none differs.
        n_patients: patients behind it.
    """

    dz: float
    rank_biserial: float
    n_patients: int


def effect_size(a: ArrayLike, b: ArrayLike, patients: ArrayLike) -> EffectSize:
    """Effect sizes of a − b over patients (each the mean of the patient's scans); scans with a nan are left out."""
    difference = np.round(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), 12)
    d, codes = defined_values(difference, patients)
    if not len(d):
        return EffectSize(dz=float("nan"), rank_biserial=float("nan"), n_patients=0)
    by_patient = np.round(np.bincount(codes, weights=d) / np.bincount(codes), 12)
    spread = float(by_patient.std(ddof=1)) if len(by_patient) > 1 else 0.0
    moved = by_patient[by_patient != 0]
    ranks = stats.rankdata(np.abs(moved))
    return EffectSize(
        dz=float(by_patient.mean()) / spread if spread > 1e-12 else float("nan"),
        rank_biserial=float((ranks * np.sign(moved)).sum() / ranks.sum()) if len(moved) else 0.0,
        n_patients=len(by_patient),
    )


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for the number of comparisons (Holm 1979, step-down); nan stays nan and is not counted."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0) if len(order) else []
    return adjusted
