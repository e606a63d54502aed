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
from iac_lightning.evaluation.statistics.intervals import ratio_ci

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
    found = assess_risk(_table(label, volume, list("aabbccdd")), CUTOFFS)
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
    found = compare_risk(model, baseline, CUTOFFS)
    assert (found.misclassified, found.baseline_misclassified) == (1, 4)
    assert found.relative_change.estimate == -0.75
    assert (found.mcnemar.only_first, found.mcnemar.only_second) == (4, 1)
    assert found.mcnemar.exact_p == pytest.approx(12 / 32)
    # Patients: a better by two, b equal, d better by one.
    assert (found.patients.only_first, found.patients.only_second) == (2, 0)
    assert found.relative_change.remark == "4 patients: too few for an interval"


def test_the_interval_of_a_change_is_that_of_the_ratio():
    rng = np.random.default_rng(4)
    label, patients = rng.choice([0, 5, 50, 500], 60), [f"p{k // 3:02d}" for k in range(60)]
    model, baseline = (_table(label, np.where(rng.random(60) < p, 5, label), patients) for p in (0.3, 0.5))
    found = compare_risk(model, baseline, CUTOFFS).relative_change
    wrong = [t["volume_mm3"] != t["label_volume_mm3"] for t in (model, baseline)]
    expected = ratio_ci(*wrong, patients)
    assert [found.low, found.high] == pytest.approx([expected.low - 1, expected.high - 1])
    assert -1 < found.low < found.estimate < found.high


def test_comparison_with_itself_and_with_other_series():
    table = _table([5, 50], [5, 50], ["a", "b"])
    same = compare_risk(table, table, CUTOFFS)
    assert np.isnan(same.relative_change.estimate)
    assert (same.mcnemar.exact_p, same.patients.mid_p) == (1, 1)
    with pytest.raises(ValueError, match="same series"):
        compare_risk(table, table[::-1], CUTOFFS)


def test_undefined_volumes_are_refused():
    with pytest.raises(ValueError, match="finite"):
        assess_risk(_table([5], [np.nan], ["a"]), CUTOFFS)
