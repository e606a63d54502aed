"""The linear probe, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from iac_lightning.evaluation.statistics.probe import PENALTY, logistic_regression, patient_folds, probe_auc


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of which the third tells the classes apart, and each patient's level, which tells nothing."""
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(12), 60)
    positive = rng.random(720) < np.where(patients % 3 == 0, 0, 0.1)
    x = rng.normal(size=(720, 6)) * [1, 5, 1, 0.1, 1, 1] + [0, 3, 0, 0, 0, 0]
    x[:, 2] += 1.5 * positive
    x[:, 4] += 4 * rng.normal(size=12)[patients]
    return x, positive, patients


def test_the_regression_is_scikit_learns(rows: tuple[np.ndarray, ...]) -> None:
    x, y, _ = rows
    for penalty in (0.5, PENALTY):
        other = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(x, y)
        expected = np.r_[other.coef_[0], other.intercept_]
        assert logistic_regression(x, y, penalty) == pytest.approx(expected, abs=2e-3)


def test_the_area_is_that_of_patients_left_out(rows: tuple[np.ndarray, ...]) -> None:
    x, y, patients = rows
    fold = patient_folds(y, patients)
    areas = []
    for k in range(5):
        out = fold == k
        mean, deviation = x[~out].mean(axis=0), x[~out].std(axis=0)
        model = LogisticRegression(C=1 / PENALTY, tol=1e-8).fit((x[~out] - mean) / deviation, y[~out])
        areas.append(roc_auc_score(y[out], model.decision_function((x[out] - mean) / deviation)))
    assert probe_auc(x, y, patients) == pytest.approx(np.mean(areas), abs=2e-3)
    assert np.mean(areas) > 0.75


def test_folds_part_patients_and_share_out_the_positive_rows(rows: tuple[np.ndarray, ...]) -> None:
    _, y, patients = rows
    fold = patient_folds(y, patients)
    for patient in range(12):
        assert len(set(fold[patients == patient])) == 1
    assert [len(set(patients[fold == k])) for k in range(5)] == [3, 3, 2, 2, 2]
    assert min(y[fold == k].sum() for k in range(5)) > 0
    assert set(patient_folds(y & (patients < 4), patients)) == {0, 1}  # two patients have any


def test_what_only_knows_the_patient_is_worth_nothing() -> None:
    patients = np.repeat(np.arange(10), 40)
    positive = np.random.default_rng(0).random(400) < np.where(patients < 5, 0.5, 0.1)
    area = probe_auc(np.eye(10)[patients], positive, patients)
    assert area == pytest.approx(0.5, abs=0.02)  # a split by rows would say 0.77


def test_too_few_lesions_give_none(rows: tuple[np.ndarray, ...]) -> None:
    x, y, patients = rows
    assert probe_auc(x, np.zeros_like(y), patients) is None
    assert probe_auc(x, y & (patients == 1), patients) is None
    assert probe_auc(x, patients >= 0, patients) is None  # no other row
