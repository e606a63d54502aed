from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import roc_curve as sklearn_roc

from iac_lightning.evaluation.statistics.classification import (
    confusion_matrix,
    mcnemar,
    mcnemar_counts,
    roc,
    weighted_kappa,
    weighted_kappa_ci,
)
from iac_lightning.evaluation.statistics.jackknife import degrees_of_freedom

RNG = np.random.default_rng(0)
REFERENCE = RNG.integers(0, 4, 80)
ASSIGNED = np.clip(REFERENCE + RNG.integers(-1, 2, 80), 0, 3)


def test_confusion_matrix_and_kappa_are_scikit_learns():
    table = confusion_matrix(REFERENCE, ASSIGNED, 4)
    assert (table == sklearn_confusion(REFERENCE, ASSIGNED, labels=range(4))).all()
    expected = cohen_kappa_score(REFERENCE, ASSIGNED, weights="quadratic", labels=[0, 1, 2, 3])
    assert float(weighted_kappa(table)) == pytest.approx(expected)


def test_kappa_by_hand():
    # Observed Σ(i−j)²·n = 1·1 + 4·1 = 5 of 10; expected from margins (5, 3, 2) and (5, 2, 3) over 10.
    table = [[4, 0, 1], [1, 2, 0], [0, 0, 2]]
    expected = (1 * (5 * 2 + 3 * 5 + 3 * 3 + 2 * 2) + 4 * (5 * 3 + 2 * 5)) / 10
    assert float(weighted_kappa(table)) == pytest.approx(1 - 5 / expected)
    assert np.isnan(weighted_kappa([[7, 0], [0, 0]]))
    assert weighted_kappa([[[1, 0], [0, 1]], [[0, 1], [1, 0]]]).tolist() == [1.0, -1.0]


def test_interval_of_kappa_leaves_out_each_patient():
    patients = np.arange(80) // 4

    def kappa(rows: np.ndarray) -> float:
        return float(cohen_kappa_score(REFERENCE[rows], ASSIGNED[rows], weights="quadratic", labels=[0, 1, 2, 3]))

    found = weighted_kappa_ci(REFERENCE, ASSIGNED, patients, 4)
    value = kappa(np.arange(80))
    without = np.array([kappa(patients != g) for g in range(20)])
    apart = (REFERENCE - ASSIGNED) ** 2
    size = np.bincount(patients, weights=1 / 80 + apart / apart.sum())
    df = float(degrees_of_freedom(size))
    assert 10 < df < 19
    reach = stats.t.isf(0.025, df) * np.sqrt(19 / 20 * ((without - value) ** 2).sum()) / (1 - value**2)
    assert found.estimate == pytest.approx(value)
    assert [found.low, found.high] == pytest.approx(np.tanh(np.arctanh(value) + np.array([-1, 1]) * reach))
    perfect = weighted_kappa_ci(REFERENCE, REFERENCE, patients, 4)
    assert (perfect.estimate, perfect.remark) == (1.0, "no interval: all agree, or a single patient decides")
    assert np.isnan([perfect.low, perfect.high]).all()


def test_mcnemar_by_hand():
    # 6 cases only the first gets right, 1 only the second: p = 2·(1 + 7)/2⁷; mid-p takes 7/2⁷ off.
    first = np.array([1] * 6 + [0] * 1 + [1] * 5 + [0] * 2, dtype=bool)
    second = np.array([0] * 6 + [1] * 1 + [1] * 5 + [0] * 2, dtype=bool)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (6, 1)
    assert (found.exact_p, found.mid_p) == pytest.approx((16 / 128, 9 / 128))
    assert mcnemar(second, first).exact_p == found.exact_p
    assert mcnemar(first, first).exact_p == 1


@pytest.mark.parametrize("counts", [(6, 1), (3, 3), (0, 5), (12, 20)])
def test_mid_p_is_the_sum_over_less_likely_outcomes(counts):
    n = sum(counts)
    chance = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    same = np.isclose(chance, chance[counts[0]])
    expected = chance[(chance < chance[counts[0]]) & ~same].sum() + chance[same].sum() / 2
    assert mcnemar_counts(*counts).mid_p == pytest.approx(expected)


def test_mcnemar_is_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for b, c in [(6, 1), (3, 3), (0, 5), (12, 20)]:
        expected = tables.mcnemar([[9, b], [c, 4]], exact=True).pvalue
        assert mcnemar_counts(b, c).exact_p == pytest.approx(float(expected))


def test_roc_is_scikit_learns():
    positive = RNG.integers(0, 2, 60).astype(bool)
    score = np.maximum(0, RNG.normal(positive, 1.0)).round(1)  # many ties, as with empty predictions
    found = roc(score, positive)
    assert found.auc.estimate == pytest.approx(roc_auc_score(positive, score))
    assert found.auc.low < found.auc.estimate < found.auc.high
    fpr, tpr, _ = sklearn_roc(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positive_rate, fpr)
    np.testing.assert_allclose(found.true_positive_rate, tpr)
    assert found.n_positive == positive.sum()


def test_the_interval_of_the_area_is_delongs_on_the_logit_scale():
    positive = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    score = np.array([0.9, 0.8, 0.7, 0.4, 0.3, 0.6, 0.35, 0.2, 0.1, 0.1, 0.0])
    # Placements: of the positives 1, 1, 1, 5/6, 4/6; of the negatives 3/5, 4/5, 1, 1, 1, 1.
    parts = [np.var([1, 1, 1, 5 / 6, 4 / 6], ddof=1) / 5, np.var([3 / 5, 4 / 5, 1, 1, 1, 1], ddof=1) / 6]
    df = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 5)
    reach = stats.t.isf(0.025, df) * sum(parts) ** 0.5 / (0.9 * 0.1)
    found = roc(score, positive).auc
    assert found.estimate == pytest.approx(27 / 30)
    assert [found.low, found.high] == pytest.approx(special.expit(special.logit(0.9) + np.array([-1, 1]) * reach))
    few = roc(score[1:], positive[1:]).auc
    assert np.isnan(few.low)
    assert few.remark == "4 patients of one kind: too few for an interval"
    apart = roc(positive, positive).auc
    assert (apart.estimate, apart.remark) == (1.0, "no interval: the classes part perfectly")
    assert np.isnan(apart.high)


def test_roc_without_one_class_is_undefined():
    found = roc([1.0, 2.0], [True, True])
    assert np.isnan(found.auc.estimate)
    assert len(found.true_positive_rate) == 0


def test_wrong_shapes_and_classes():
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix([0, 1], [0], 2)
    with pytest.raises(ValueError, match="0 … 1"):
        confusion_matrix([0, 2], [0, 1], 2)
    with pytest.raises(ValueError, match="cases"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="shape"):
        roc([1.0], [True, False])
