"""Figures of subgroups (maker of the scanner, kernel, slice thickness): each against all other scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from data_modules.csv_files import as_text
from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS
from iac_lightning.evaluation.statistics.paired import holm
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum, stratum_index
from iac_lightning.evaluation.tables.measures import values

NOT_GIVEN, OTHERS = "not given", "others"
FEWEST_PATIENTS = 3
"""Patients from which on a maker or kernel has a row of its own."""


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """One subgroup under one model.

    Attributes:
        attribute: what the scans have in common.
        level: which of its values.
        n: scans.
        n_patients: whose they are.
        n_lesion: scans with lesions.
        dice: mean over the scans with lesions; nan without.
        lesion_f1: likewise.
        bias_mm3: mean of predicted − labelled volume.
        n_false_alarm: lesion-free scans with a prediction.
        n_free: lesion-free scans.
        difference: mean Dice of these − that of all other scans with lesions; nan where either are of too few patients.
        low: lower end of its 95 % interval over patients.
        high: upper end.
        p: two-sided test that it is 0.
        holm_p: the same after Holm's correction (`corrected`).
    """

    attribute: str
    level: str
    n: int
    n_patients: int
    n_lesion: int
    dice: float
    lesion_f1: float
    bias_mm3: float
    n_false_alarm: int
    n_free: int
    difference: float
    low: float
    high: float
    p: float
    holm_p: float = nan

    @property
    def established(self) -> bool:
        """Whether it differs from the others beyond chance, after correction."""
        return not isnan(self.holm_p) and self.holm_p < 0.05


def attributes_of(
    table: pd.DataFrame, given: Mapping[str, Mapping[str, str]], strata: Sequence[Stratum] = THICKNESS_STRATA
) -> dict[str, NDArray[np.str_]]:
    """Attribute to the level of each scan `[n_scans]`; attributes that part nothing are left out.

    Args:
        table: from `series_table`.
        given: attribute to level by series, as the cohort table has it; rare levels become `OTHERS`.
        strata: of slice thickness.
    """
    found: dict[str, NDArray[np.str_]] = {}
    patients = table["patient_id"].astype(str)
    for attribute, by_series in given.items():
        levels = table["series_id"].astype(str).map(by_series).fillna("").str.strip().replace("", NOT_GIVEN)
        counts = patients.groupby(levels.to_numpy()).nunique()
        rare = set(counts.index[counts < FEWEST_PATIENTS]) - {NOT_GIVEN}
        if len(rare) > 1:
            levels = levels.where(~levels.isin(rare), OTHERS)
        found[attribute] = levels.to_numpy(dtype=str)
    names = np.array([name for name, _, _ in strata])
    found["slice thickness"] = names[stratum_index(table["slice_thickness_mm"], strata)]
    return {attribute: levels for attribute, levels in found.items() if len(np.unique(levels)) > 1}


def subgroups(table: pd.DataFrame, attributes: Mapping[str, NDArray[np.str_]], order: Sequence[str]) -> list[Subgroup]:
    """Every level of every attribute, not corrected yet.

    Args:
        table: from `series_table`.
        attributes: from `attributes_of`.
        order: of levels that have one (strata); others follow by name.
    """
    patients = as_text(table["patient_id"])
    dice, f1 = values(table, "dice"), values(table, "lesion_f1")
    lesion = table["has_lesion"].astype(bool).to_numpy()
    predicted = table["volume_mm3"].to_numpy(dtype=float)
    error = predicted - table["label_volume_mm3"].to_numpy(dtype=float)
    places = {name: k for k, name in enumerate(order)}
    rows = []
    for attribute, levels in attributes.items():
        names = sorted(np.unique(levels), key=lambda name: (places.get(name, -1), name in (OTHERS, NOT_GIVEN), name))
        for level in names:
            inside = levels == level
            difference, low, high, p = contrast(dice, inside, patients)
            rows.append(
                Subgroup(
                    attribute=attribute,
                    level=str(level),
                    n=int(inside.sum()),
                    n_patients=len(np.unique(patients[inside])),
                    n_lesion=int((inside & lesion).sum()),
                    dice=_mean(dice[inside]),
                    lesion_f1=_mean(f1[inside]),
                    bias_mm3=float(error[inside].mean()),
                    n_false_alarm=int((inside & ~lesion & (predicted > 0)).sum()),
                    n_free=int((inside & ~lesion).sum()),
                    difference=difference,
                    low=low,
                    high=high,
                    p=p,
                )
            )
    return rows


def corrected(rows: Sequence[Subgroup]) -> list[Subgroup]:
    """With p after Holm's correction over all rows; the two levels of an attribute that has only two are one test."""
    pairs: dict[tuple[str, float], list[int]] = {}
    for k, row in enumerate(rows):
        if not isnan(row.p):
            pairs.setdefault((row.attribute, round(abs(row.difference), 12)), []).append(k)
    adjusted = holm([rows[members[0]].p for members in pairs.values()])
    by_row = {k: float(p) for members, p in zip(pairs.values(), adjusted, strict=True) for k in members}
    return [replace(row, holm_p=by_row.get(k, nan)) for k, row in enumerate(rows)]


def contrast(
    x: NDArray[np.float64], inside: NDArray[np.bool_], patients: NDArray[np.str_]
) -> tuple[float, float, float, float]:
    """Mean inside − mean outside with its 95 % interval and p: patients left out one by one, Student's t.

    A patient may have scans on both sides. Degrees of freedom are one less than the patients of the smaller side, which
    decide how well the spread is known. All nan where either side has fewer than `MIN_PATIENTS`.

    Args:
        x: `[n_scans]`; nan do not count.
        inside: `[n_scans]`.
        patients: `[n_scans]`, whose scan it is.
    """
    known = ~np.isnan(x)
    x, inside, names = x[known], inside[known], patients[known]
    smaller = min(len(np.unique(names[side])) for side in (inside, ~inside))
    if smaller < MIN_PATIENTS:
        return nan, nan, nan, nan
    found, codes = np.unique(names, return_inverse=True)
    sides = [(np.bincount(codes, side * x), np.bincount(codes, side.astype(float))) for side in (inside, ~inside)]
    means = [(sums.sum() - sums) / (counts.sum() - counts) for sums, counts in sides]
    without = means[0] - means[1]
    estimate = float(x[inside].mean() - x[~inside].mean())
    n = len(found)
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    if error < 1e-12:
        return estimate, nan, nan, nan
    reach = float(stats.t.ppf(0.975, smaller - 1)) * error
    p = float(2 * stats.t.sf(abs(estimate) / error, smaller - 1))
    return estimate, estimate - reach, estimate + reach, p


def _mean(x: NDArray[np.float64]) -> float:
    return nan if np.isnan(x).all() else float(np.nanmean(x))
