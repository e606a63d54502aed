from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.risk import (
    RiskCutoffs,
    assess_risk,
    compare_risk,
    cutoffs_from_development,
    risk_groups,
)
from iac_lightning.evaluation.statistics.bootstrap import statistic_ci

CUTOFFS = RiskCutoffs(low_mm3=10, medium_mm3=100, source="fixed")


def _table(label: list[float], volume: list[float], patients: list[str]) -> pd.DataFrame:
    names = [f"s{i}" for i in range(len(label))]
    return pd.DataFrame({"series_id": names, "patient_id": patients, "label_volume_mm3": label, "volume_mm3": volume})


def test_limits_belong_to_the_lower_group():
    assert risk_groups([0, 0.1, 10, 10.1, 100, 100.1], CUTOFFS).tolist() == [0, 1, 1, 2, 2, 3]
    strict = RiskCutoffs(none_mm3=1, low_mm3=10, medium_mm3=100, source="fixed")
    assert risk_groups([1.0, 1.1], strict).tolist() == [0, 1]


def test_confusion_by_hand():
    label = [0, 0, 5, 5, 50, 500, 500, 500]
    volume = [0, 3, 5, 20, 50, 500, 50, 0]
    found = assess_risk(_table(label, volume, list("aabbccdd")), CUTOFFS, seed=0, resamples=200)
    assert found.confusion.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 1, 1]]
    assert found.misclassified == 4
    assert (found.accuracy.estimate, found.accuracy.n, found.accuracy.n_patients) == (0.5, 8, 4)
    # Σ(i−j)²·n = 1 + 1 + 1 + 9 = 12; rows (2, 2, 1, 3), columns (2, 2, 3, 1) over 8.
    rows, columns, i = np.array([2, 2, 1, 3]), np.array([2, 2, 3, 1]), np.arange(4)
    expected = ((i[:, None] - i) ** 2 * rows[:, None] * columns).sum() / 8
    assert found.kappa.estimate == pytest.approx(1 - 12 / expected)


def test_cutoffs_count_each_patient_once():
    # Medians over scans with calcification: a 2, b 4, c 6, d 8; e has none.
    table = _table([1, 2, 30, 0, 4, 6, 8, 0], [0] * 8, list("aaabbcde"))
    found = cutoffs_from_development(table, quantiles=(1 / 3, 2 / 3))
    assert (found.none_mm3, found.low_mm3, found.medium_mm3) == pytest.approx((0, 4, 6))
    assert "4 development patients" in found.source
    assert "0.333" in found.source


@pytest.mark.parametrize("labels", [[0.0, 0.0], [3.0, 3.0]])
def test_development_without_enough_volumes(labels):
    with pytest.raises(UserError, match="development"):
        cutoffs_from_development(_table(labels, [0, 0], ["a", "b"]))


def test_falling_cutoffs():
    with pytest.raises(UserError, match="must rise"):
        RiskCutoffs(low_mm3=100, medium_mm3=10, source="fixed")


def test_change_by_hand():
    label, patients = [5, 5, 5, 50, 50, 0], list("aabbcd")
    model = _table(label, [5, 5, 50, 50, 50, 0], patients)  # one wrong: the third
    baseline = _table(label, [0, 0, 5, 5, 50, 3], patients)  # four wrong: 1, 2, 4, 6
    found = compare_risk(model, baseline, CUTOFFS, seed=0, resamples=500)
    assert (found.misclassified, found.baseline_misclassified) == (1, 4)
    assert found.relative_change.estimate == -0.75
    assert (found.mcnemar.only_first, found.mcnemar.only_second) == (4, 1)
    assert found.mcnemar.exact_p == pytest.approx(12 / 32)
    # Patients: a better by two, b equal, d better by one.
    assert (found.patients.only_first, found.patients.only_second) == (2, 0)
    wrong = np.array([[0, 0, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1]])

    def change(rows: np.ndarray) -> float:
        model_wrong, baseline_wrong = wrong[:, rows].sum(axis=1)
        return (model_wrong - baseline_wrong) / baseline_wrong if baseline_wrong else float("nan")

    slow = statistic_ci(change, patients, seed=0, resamples=500)
    assert (found.relative_change.low, found.relative_change.high) == pytest.approx((slow.low, slow.high))


def test_comparison_with_itself_and_with_other_series():
    table = _table([5, 50], [5, 50], ["a", "b"])
    same = compare_risk(table, table, CUTOFFS, seed=0, resamples=10)
    assert np.isnan(same.relative_change.estimate)
    assert (same.mcnemar.exact_p, same.patients.mid_p) == (1, 1)
    with pytest.raises(ValueError, match="same series"):
        compare_risk(table, table[::-1], CUTOFFS, seed=0)


def test_undefined_volumes_are_refused():
    with pytest.raises(ValueError, match="finite"):
        assess_risk(_table([5], [np.nan], ["a"]), CUTOFFS, seed=0)
