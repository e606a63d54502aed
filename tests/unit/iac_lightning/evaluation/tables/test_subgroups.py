from __future__ import annotations

from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.tables.subgroups import NOT_GIVEN, OTHERS, attributes_of, contrast, corrected, subgroups


def test_a_difference_with_one_scan_a_patient_is_that_of_two_means():
    rng = np.random.default_rng(0)
    x, inside = np.r_[rng.normal(0.6, 0.1, 12), rng.normal(0.8, 0.1, 30)], np.arange(42) < 12
    names = np.arange(42).astype(str)
    difference, low, high, p = contrast(x, inside, names)
    welch = stats.ttest_ind(x[inside], x[~inside], equal_var=False)
    assert difference == pytest.approx(welch.statistic * welch._standard_error)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 11) * welch._standard_error, rel=0.06)
    assert p < 0.001
    assert low < difference < high < 0


def test_patients_on_both_sides_count_once_and_too_few_are_not_tested():
    x, inside = np.tile([0.5, 0.7], 6), np.tile([True, False], 6)
    patients = np.repeat(list("abcdef"), 2)
    difference, low, _, _ = contrast(x, inside, patients)
    assert difference == pytest.approx(-0.2)
    assert isnan(low)  # all patients agree
    assert all(isnan(v) for v in contrast(x[:8], inside[:8], patients[:8]))
    scattered = x + np.repeat(np.arange(6) * 0.05, 2)  # a shift of a whole patient is no difference
    assert isnan(contrast(scattered, inside, patients)[1])


def test_levels_of_the_cohort_table(make_table):
    table = make_table(0.8, 0)
    ids = list(table["series_id"])
    kernels = {name: ("B", "A", "", "rare 1")[k % 4] if k < len(ids) - 2 else f"x{k}" for k, name in enumerate(ids)}
    found = attributes_of(table, {"kernel": kernels, "manufacturer": dict.fromkeys(ids, "V")})
    assert list(found) == ["kernel", "slice thickness"]
    assert set(found["kernel"]) == {"A", "B", "rare 1", NOT_GIVEN, OTHERS}
    rows = subgroups(table, found, ["≤ 1 mm", "1–2 mm"])
    assert [row.level for row in rows if row.attribute == "kernel"] == ["A", "B", "rare 1", NOT_GIVEN, OTHERS]
    assert next(row.level for row in rows if row.attribute == "slice thickness" and row.level[0] == "≤") == "≤ 1 mm"
    assert sum(row.n for row in rows if row.attribute == "kernel") == len(table)
    thick = {row.level: row for row in rows}
    assert thick["≤ 1 mm"].dice > thick["> 6 mm"].dice


def test_holm_runs_over_all_rows_and_two_levels_are_one_test(make_table):
    row = subgroups(make_table(0.8, 0), {"kernel": np.array(["A"] * 48)}, [])[0]
    rows = [
        replace(row, attribute="kernel", level="A", difference=0.1, p=0.02),
        replace(row, attribute="kernel", level="B", difference=-0.1, p=0.02),
        replace(row, attribute="thickness", level="thin", difference=0.3, p=0.01),
        replace(row, attribute="thickness", level="thick", difference=nan, p=nan),
    ]
    adjusted = [r.holm_p for r in corrected(rows)]
    assert adjusted[:3] == [pytest.approx(0.02)] * 3
    assert isnan(adjusted[3])
    assert [r.established for r in corrected(rows)] == [True, True, True, False]
