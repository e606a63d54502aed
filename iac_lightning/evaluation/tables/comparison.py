"""Pairs of models on the same scans, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from iac_lightning.evaluation.statistics.paired import SIGNIFICANT, PairedDifference, holm, paired_difference
from iac_lightning.evaluation.tables.model_result import ModelResult

COLUMNS = {
    "variant": "result, or plain: of a threshold alone",
    "first": "label of the first model",
    "second": "label of the second model",
    "difference": "mean Dice of the first − that of the second, over the scans with lesions",
    "low": "lower end of its 95 % interval over patients",
    "high": "upper end of its 95 % interval over patients",
    "p": "Wilcoxon signed-rank test over patients, two-sided",
    "p_holm": "the same after Holm's correction over the pairs of the variant",
    "wins": "scans where the first is higher",
    "ties": "scans where both are equal",
    "losses": "scans where the first is lower",
    "n_patients": "patients behind it",
    "remark": "why there is no interval; empty where there is one",
    "points": "where patients are too few for an interval, the difference of each, rising, separated by spaces",
}
"""Columns of the table of pairs (`comparison_rows`), and what they hold."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A pair of models on the same scans.

    Attributes:
        first: label of the first model.
        second: label of the second.
        paired: difference first − second.
        adjusted_p: Wilcoxon p after Holm's correction over the table.
        patients: differences of the patients `[n_patients]`, means over their scans with lesions.
    """

    first: str
    second: str
    paired: PairedDifference
    adjusted_p: float
    patients: NDArray[np.float64] = field(repr=False)

    @property
    def established(self) -> bool:
        """Whether test and interval agree that the difference is more than chance."""
        d = self.paired.difference
        return self.adjusted_p < SIGNIFICANT and (d.low > 0 or d.high < 0)

    def reversed(self) -> Comparison:
        """Second − first."""
        d, paired = self.paired.difference, self.paired
        points = tuple(-point for point in reversed(d.points))
        turned = replace(d, estimate=-d.estimate, low=-d.high, high=-d.low, points=points)
        return Comparison(
            first=self.second,
            second=self.first,
            paired=replace(paired, difference=turned, wins=paired.losses, losses=paired.wins),
            adjusted_p=self.adjusted_p,
            patients=-self.patients,
        )


def compare(models: Mapping[str, ModelResult], column: str, reference: str | None = None) -> list[Comparison]:
    """Paired comparisons of a column of the tables over the scans with lesions.

    Args:
        models: name to result; the order decides who is named first.
        column: such as ``dice`` or ``plain_dice``.
        reference: compare every other model with this one, the other named first; else all pairs.

    Raises:
        UserError: when the models were evaluated on different series, or `reference` is not among them.
    """
    if reference is not None and reference not in models:
        raise UserError(f"reference model '{reference}' is not among {', '.join(models)}; name one of them")
    check_same_series(models)
    pairs = [(n, reference) for n in models if n != reference] if reference else list(combinations(models, 2))
    differences = []
    for first, second in pairs:
        a, b = (_lesion_rows(models[name]) for name in (first, second))
        patients = as_text(a["patient_id"])
        x, y = a[column].to_numpy(dtype=float), b[column].to_numpy(dtype=float)
        paired = paired_difference(x, y, patients)
        by_patient = pd.Series(x - y).groupby(patients).mean().to_numpy()
        differences.append((models[first].label, models[second].label, paired, by_patient))
    adjusted = holm([paired.wilcoxon_p for _, _, paired, _ in differences])
    return [
        Comparison(first=first, second=second, paired=paired, adjusted_p=float(p), patients=by_patient)
        for (first, second, paired, by_patient), p in zip(differences, adjusted, strict=True)
    ]


def check_same_series(models: Mapping[str, ModelResult]) -> None:
    """Models can be compared only on the same scans with the same labels.

    Raises:
        UserError: naming the model that differs.
    """
    names = list(models)
    expected = _identity(models[names[0]])
    for name in names[1:]:
        other = _identity(models[name])
        if other != expected:
            differing = sorted({row[0] for row in expected ^ other})
            raise UserError(
                f"'{names[0]}' and '{name}' were not evaluated on the same series with the same labels "
                f"({len(differing)} differ: {', '.join(differing[:5])}); evaluate both on the same split of the same "
                "cohort"
            )


def comparison_rows(results: Sequence[Comparison], plain: Sequence[Comparison]) -> pd.DataFrame:
    """One row a pair and variant, with full precision."""
    rows = []
    for variant, comparisons in (("result", results), ("plain", plain)):
        for c in comparisons:
            paired, d = c.paired, c.paired.difference
            estimate = (d.estimate, d.low, d.high, paired.wilcoxon_p, c.adjusted_p)
            without = (d.n_patients, d.remark, " ".join(f"{point:.6g}" for point in d.points))
            rows.append((variant, c.first, c.second, *estimate, paired.wins, paired.ties, paired.losses, *without))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _identity(model: ModelResult) -> set[tuple[str, str, float]]:
    columns = (model.table[c] for c in ("series_id", "patient_id", "label_volume_mm3"))
    return {(str(s), str(p), round(float(v), 3)) for s, p, v in zip(*columns, strict=True)}


def _lesion_rows(model: ModelResult) -> pd.DataFrame:
    return model.table[model.table["has_lesion"].astype(bool)].sort_values("series_id")
