"""Risk groups by calcium volume: none, low, medium, high, and how often a model puts a scan in the wrong one.

The unit is the scan: each series is classified by its own volume, and misclassified scans are counted. Scans of one
patient are alike, so intervals draw patients, and beside McNemar's test over scans stands the exact sign test over
patients; with one scan a patient the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from iac_lightning.evaluation.statistics.classification import (
    McNemar,
    confusion_matrix,
    mcnemar,
    mcnemar_counts,
    weighted_kappa_ci,
)
from iac_lightning.evaluation.statistics.intervals import Interval, mean_ci, ratio_ci

GROUPS = ("none", "low", "medium", "high")


@dataclass(frozen=True, kw_only=True)
class RiskCutoffs:
    """Upper limits (included) of the groups none, low and medium, in mm³.

    Attributes:
        none_mm3: volumes up to here are "none"; 0 unless tiny volumes shall not count.
        low_mm3: largest volume that is "low".
        medium_mm3: largest volume that is "medium"; above it is "high".
        source: where the limits come from, stated with every value.
    """

    low_mm3: float
    medium_mm3: float
    source: str
    none_mm3: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.none_mm3 < self.low_mm3 < self.medium_mm3 < float("inf"):
            raise UserError(
                f"risk cut-offs none {self.none_mm3:g}, low {self.low_mm3:g}, medium {self.medium_mm3:g} mm³ "
                f"({self.source}) must rise from 0; give rising cut-offs, or a development split with more volumes"
            )

    @property
    def limits_mm3(self) -> tuple[float, float, float]:
        """The three limits, rising."""
        return self.none_mm3, self.low_mm3, self.medium_mm3


@dataclass(frozen=True, kw_only=True)
class RiskResult:
    """How a model's risk groups agree with those of the labels.

    Attributes:
        confusion: `[4, 4]` scans; rows are the labels' groups, columns the predictions'.
        accuracy: share of scans in the right group, interval over patients.
        kappa: quadratic-weighted κ, interval over patients.
        misclassified: scans in a wrong group.
    """

    confusion: NDArray[np.int64] = field(repr=False)
    accuracy: Interval
    kappa: Interval
    misclassified: int


@dataclass(frozen=True, kw_only=True)
class RiskChange:
    """Misclassified scans of a model relative to a baseline on the same scans.

    Attributes:
        misclassified: scans in a wrong group by the model.
        baseline_misclassified: by the baseline.
        relative_change: (model − baseline) / baseline, −0.46 is 46 % fewer; interval over patients from that of the
            ratio; nan when the baseline makes none.
        mcnemar: over scans; `only_first` are those that only the model gets right. It takes scans as independent.
        patients: exact sign test over patients: `only_first` counts those of whom the model misclassifies fewer scans.
    """

    misclassified: int
    baseline_misclassified: int
    relative_change: Interval
    mcnemar: McNemar
    patients: McNemar


def cutoffs_from_development(
    table: pd.DataFrame, quantiles: tuple[float, float] = (1 / 3, 2 / 3), none_mm3: float = 0.0
) -> RiskCutoffs:
    """Cut-offs at quantiles of the labelled volumes of the development split.

    Each patient counts once, with the median over the patient's scans whose volume is above `none_mm3`.

    Args:
        table: series of the development split with `patient_id` and `label_volume_mm3`.
        quantiles: where low ends and where medium ends.
        none_mm3: volumes up to here are "none".

    Raises:
        UserError: when too few volumes make no two different cut-offs.
    """
    above = table[table["label_volume_mm3"] > none_mm3]
    volumes = above.groupby("patient_id")["label_volume_mm3"].median().to_numpy(dtype=float)
    if len(volumes) < 2:
        raise UserError(
            f"{len(volumes)} development patients have a labelled volume above {none_mm3:g} mm³, which makes no risk "
            "groups; fix the cut-offs, or label more development patients"
        )
    low, medium = np.quantile(volumes, quantiles)
    source = (
        f"quantiles {quantiles[0]:.3g} and {quantiles[1]:.3g} of the labelled volumes of {len(volumes)} development "
        "patients with calcification"
    )
    return RiskCutoffs(none_mm3=none_mm3, low_mm3=float(low), medium_mm3=float(medium), source=source)


def risk_groups(volume_mm3: ArrayLike, cutoffs: RiskCutoffs) -> NDArray[np.int64]:
    """Index into `GROUPS` of each volume; limits belong to the lower group."""
    return np.searchsorted(cutoffs.limits_mm3, np.asarray(volume_mm3, dtype=np.float64), side="left").astype(np.int64)


def assess_risk(table: pd.DataFrame, cutoffs: RiskCutoffs) -> RiskResult:
    """Compare the groups of `volume_mm3` with those of `label_volume_mm3`, one row a scan."""
    labelled, predicted = _groups(table, cutoffs)
    patients = as_text(table["patient_id"])
    right = labelled == predicted
    return RiskResult(
        confusion=confusion_matrix(labelled, predicted, len(GROUPS)),
        accuracy=mean_ci(right, patients),
        kappa=weighted_kappa_ci(labelled, predicted, patients, len(GROUPS)),
        misclassified=int((~right).sum()),
    )


def compare_risk(table: pd.DataFrame, baseline: pd.DataFrame, cutoffs: RiskCutoffs) -> RiskChange:
    """Relative change of misclassified scans of a model against a baseline.

    Args:
        table: series of the model.
        baseline: the same series in the same order by the baseline.
        cutoffs: of the groups.

    Raises:
        ValueError: when the rows are not the same series.
    """
    if list(table["series_id"]) != list(baseline["series_id"]):
        raise ValueError("the model's and the baseline's rows are not the same series in the same order")
    wrong, wrong_before = (np.not_equal(*_groups(rows, cutoffs)) for rows in (table, baseline))
    patients = as_text(table["patient_id"])
    _, codes = np.unique(patients, return_inverse=True)
    fewer = np.bincount(codes, weights=wrong_before.astype(float) - wrong)
    change = ratio_ci(wrong, wrong_before, patients)
    return RiskChange(
        misclassified=int(wrong.sum()),
        baseline_misclassified=int(wrong_before.sum()),
        relative_change=replace(change, estimate=change.estimate - 1, low=change.low - 1, high=change.high - 1),
        mcnemar=mcnemar(~wrong, ~wrong_before),
        patients=mcnemar_counts(int((fewer > 0).sum()), int((fewer < 0).sum())),
    )


def _groups(table: pd.DataFrame, cutoffs: RiskCutoffs) -> Sequence[NDArray[np.int64]]:
    volumes = table[["label_volume_mm3", "volume_mm3"]].to_numpy(dtype=float)
    if not np.isfinite(volumes).all():
        raise ValueError("risk groups need finite volumes of labels and predictions")
    return risk_groups(volumes[:, 0], cutoffs), risk_groups(volumes[:, 1], cutoffs)
