"""Which scaling is applied: none, temperature and bias, or both by slice thickness, as cross-validation says.

Each candidate is fitted to the patients of the other folds and judged by the negative log-likelihood of those left out.
A candidate that is worse there than none is never used; one that also goes by slice thickness only where it is better
beyond what the patients differ by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iac_lightning.evaluation.calibration.quality import ratio_of_sums, sums_of
from iac_lightning.evaluation.calibration.scaling import IDENTITY, Drawn, Part, Scaling, apply, fit, joined

FOLDS = 5

NONE, TWO, THICKNESS = "none", "temperature and bias", "temperature and bias by slice thickness"
"""Candidates, from the simplest on."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What cross-validation chose.

    Attributes:
        scaling: fitted to all patients.
        held: of each series, see `fitting.Fitted`.
        name: of the candidate.
        why: in words.
        candidates: of each its `name`, cross-validated `nll`, and how much less that is than with none (`gain`,
            `gain_ci95`); empty where nothing could be cross-validated.
        words: of what the quality after calibration is.
    """

    scaling: Scaling
    held: list[Scaling]
    name: str
    why: str
    candidates: list[dict[str, Any]]
    words: str


def choose_scaling(
    voxels: Sequence[Part], drawn: Sequence[Drawn], patients: Sequence[str], thickness_mm: Sequence[float], seed: int
) -> Choice:
    """The candidate with which the voxels of patients left out are least surprising.

    Args:
        voxels: of each development series.
        drawn: of each series, what is fitted (`scaling.thinned`).
        patients: `[len(voxels)]`.
        thickness_mm: `[len(voxels)]`.
        seed: of the folds.

    Raises:
        ValueError: with only one kind of voxels.
    """
    thickness = np.asarray(thickness_mm, dtype=np.float64)
    whole = fit(*joined(drawn))  # refuses voxels of one kind
    fold = folds([bool(y.any()) for _, y, _ in drawn], patients, seed)
    if fold is None:
        return Choice(
            scaling=IDENTITY,
            held=[IDENTITY] * len(voxels),
            name=NONE,
            why="no calibration: fewer than two development patients have lesions, so none can be shown to help",
            candidates=[],
            words="probabilities as they are",
        )
    held = {NONE: [IDENTITY] * len(voxels), TWO: _held(drawn, thickness, fold, whole, by_thickness=False)}
    if all(len(np.unique(thickness[fold != k])) > 1 for k in range(fold.max() + 1)):
        held[THICKNESS] = _held(drawn, thickness, fold, whole, by_thickness=True)
    nll = {name: _nll(voxels, scalings) for name, scalings in held.items()}
    chosen = TWO if _gain(nll[NONE], nll[TWO], patients)[0] > 0 else NONE
    if THICKNESS in held:
        _, ends = _gain(nll[chosen], nll[THICKNESS], patients)
        chosen = THICKNESS if ends and ends[0] > 0 else chosen
    scaling = {NONE: IDENTITY, TWO: whole}.get(chosen) or _fitted(drawn, thickness, np.ones(len(drawn), bool), whole)
    candidates = []
    for name, of_scans in nll.items():
        gain, ends = _gain(nll[NONE], of_scans, patients)
        value = float(of_scans[:, 1].sum() / of_scans[:, 0].sum())
        candidates.append({"name": name, "nll": value, "gain": gain, "gain_ci95": ends})
    n = int(fold.max()) + 1
    return Choice(
        scaling=scaling,
        held=held[chosen],
        name=chosen,
        why=_why(chosen, candidates, n),
        candidates=candidates,
        words="probabilities as they are" if chosen == NONE else f"cross-validated by patient in {n} folds",
    )


def folds(has_lesion: Sequence[bool], patients: Sequence[str], seed: int) -> NDArray[np.int64] | None:
    """`[n]` in which of at most `FOLDS` folds each scan lies; None where no two patients have lesions.

    All scans of a patient lie in one fold, and patients with lesions are dealt first, so that every fold has others.
    """
    unique, codes = np.unique(patients, return_inverse=True)
    with_lesion = np.bincount(codes, weights=has_lesion) > 0
    if with_lesion.sum() < 2:
        return None
    order = np.random.default_rng([seed, 3]).permutation(len(unique))
    order = order[np.argsort(~with_lesion[order], kind="stable")]
    fold_of = np.empty(len(unique), dtype=np.int64)
    fold_of[order] = np.arange(len(unique)) % min(FOLDS, int(with_lesion.sum()))
    found: NDArray[np.int64] = fold_of[codes]
    return found


def _held(
    drawn: Sequence[Drawn],
    thickness_mm: NDArray[np.float64],
    fold: NDArray[np.int64],
    near: Scaling,
    *,
    by_thickness: bool,
) -> list[Scaling]:
    """Of each scan, fitted to those of other folds."""
    known = thickness_mm if by_thickness else None
    fits = [_fitted(drawn, known, fold != k, near) for k in range(fold.max() + 1)]
    return [fits[k].of(t) for k, t in zip(fold, thickness_mm, strict=True)]


def _fitted(
    drawn: Sequence[Drawn], thickness_mm: NDArray[np.float64] | None, chosen: NDArray[np.bool_], near: Scaling
) -> Scaling:
    """To the chosen scans; by slice thickness where it is given."""
    of_chosen = [part for part, is_chosen in zip(drawn, chosen, strict=True) if is_chosen]
    of_voxel = None
    if thickness_mm is not None:
        of_voxel = np.repeat(thickness_mm[chosen], [len(p) for p, _, _ in of_chosen])
    return fit(*joined(of_chosen), thickness_mm=of_voxel, near=near)


def _nll(voxels: Sequence[Part], scalings: Sequence[Scaling]) -> NDArray[np.float64]:
    """`[n_scans, 2]` voxels and sum of negative log-likelihoods."""
    scores = [sums_of((apply(p, s.temperature, s.bias), y)).scores for (p, y), s in zip(voxels, scalings, strict=True)]
    return np.array(scores)[:, [0, 2]]


def _gain(
    before: NDArray[np.float64], after: NDArray[np.float64], patients: Sequence[str]
) -> tuple[float, list[float] | None]:
    """How much less the mean negative log-likelihood is, with its interval."""
    return ratio_of_sums(np.stack([before[:, 1] - after[:, 1], before[:, 0]], axis=1), patients)


def _why(chosen: str, candidates: Sequence[dict[str, Any]], n_folds: int) -> str:
    told = []
    for candidate in candidates[1:]:
        low, high = candidate["gain_ci95"] or (float("nan"), float("nan"))
        ends = "" if isnan(low) else f" [{-high:+.3g}; {-low:+.3g}]"
        told.append(f"{candidate['name']} {-candidate['gain']:+.3g}{ends}")
    words = "no calibration: none helps patients who had no part in the fit" if chosen == NONE else chosen
    return (
        f"{words}; change of the mean negative log-likelihood (without: {candidates[0]['nll']:.4g}) in {n_folds}-fold "
        f"cross-validation by patient: {', '.join(told)}"
    )
