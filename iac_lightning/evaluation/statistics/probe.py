"""A linear probe: how well a plane through features parts two classes, on patients that it was not fitted on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from iac_lightning.evaluation.statistics.classification import auc

Floats = NDArray[np.float64]

FOLDS = 5
PENALTY = 100.0
"""Features outnumber the lesions of a development split: weak penalties fit the patients, not the lesions."""
_ITERATIONS = 100


def probe_auc(features: ArrayLike, positive: ArrayLike, patients: ArrayLike) -> float | None:
    """Area under the ROC curve of a logistic regression, cross-validated by patient.

    Patients are dealt out to at most `FOLDS` folds, those with most positive rows first. Features are standardised by
    the rows that the probe is fitted on.

    Args:
        features: `[n, D]`.
        positive: `[n]` boolean.
        patients: `[n]`, whose rows stay together.

    Returns:
        Mean over the folds; None where fewer than two patients have positive rows, or a fold has no other rows.
    """
    x, y, owners = np.asarray(features, dtype=np.float64), np.asarray(positive, dtype=bool), np.asarray(patients)
    fold = patient_folds(y, owners)
    if not fold.any():  # one fold
        return None
    areas = []
    for k in range(fold.max() + 1):
        out = fold == k
        mean, deviation = x[~out].mean(axis=0), x[~out].std(axis=0)
        scaled = (x - mean) / np.where(deviation > 0, deviation, 1)
        weights = logistic_regression(scaled[~out], y[~out])
        areas.append(auc(scaled[out] @ weights[:-1], y[out]))
    return None if np.isnan(areas).any() else float(np.mean(areas))


def patient_folds(positive: NDArray[np.bool_], patients: NDArray[np.generic]) -> NDArray[np.int64]:
    """Fold of each row `[n]`: patients with most positive rows are dealt out first, in turn."""
    names, owner = np.unique(patients, return_inverse=True)
    n_positive = np.bincount(owner, weights=positive, minlength=len(names))
    folds = max(1, min(FOLDS, int((n_positive > 0).sum())))
    of_patient = np.empty(len(names), dtype=np.int64)
    of_patient[np.argsort(-n_positive, kind="stable")] = np.arange(len(names)) % folds
    return of_patient[owner]


def logistic_regression(x: Floats, y: NDArray[np.bool_], penalty: float = PENALTY) -> Floats:
    """Weights of the features and, last, the intercept `[D + 1]`.

    Args:
        x: `[n, D]`.
        y: `[n]`.
        penalty: half of it times the squared weights (not the intercept) is added to the summed log loss.
    """
    sign = np.where(y, 1.0, -1.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = sign * (x @ weights[:-1] + weights[-1])
        pull = -sign * special.expit(-margin)
        inner = weights[:-1]
        value = -special.log_expit(margin).sum() + penalty / 2 * inner @ inner
        return float(value), np.r_[x.T @ pull + penalty * inner, pull.sum()]

    start = np.zeros(x.shape[1] + 1)
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    weights: Floats = found.x
    return weights
