from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import roc_curve as sklearn_roc

from iac_lightning.evaluation.statistics.bootstrap import statistic_ci
from iac_lightning.evaluation.statistics.classification import (
    confusion_matrix,
    mcnemar,
    mcnemar_counts,
    roc,
    weighted_kappa,
    weighted_kappa_ci,
)

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


def test_interval_of_kappa_is_the_bootstrap_of_scikit_learns_kappa():
    patients = np.arange(80) // 3
    found = weighted_kappa_ci(REFERENCE, ASSIGNED, patients, 4, seed=3, resamples=200)
    slow = statistic_ci(
        lambda r: cohen_kappa_score(REFERENCE[r], ASSIGNED[r], weights="quadratic", labels=[0, 1, 2, 3]),
        patients,
        seed=3,
        resamples=200,
    )
    assert (found.estimate, found.low, found.high) == pytest.approx((slow.estimate, slow.low, slow.high))


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
    found = roc(score, positive, seed=0, resamples=300)
    assert found.auc.estimate == pytest.approx(roc_auc_score(positive, score))
    assert found.auc.low < found.auc.estimate < found.auc.high
    fpr, tpr, _ = sklearn_roc(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positive_rate, fpr)
    np.testing.assert_allclose(found.true_positive_rate, tpr)
    assert found.n_positive == positive.sum()


def test_roc_without_one_class_is_undefined():
    found = roc([1.0, 2.0], [True, True], seed=0, resamples=10)
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
        roc([1.0], [True, False], seed=0)
