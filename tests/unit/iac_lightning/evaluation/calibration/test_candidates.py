"""Which scaling is shipped."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from iac_lightning.evaluation.calibration.candidates import NONE, THICKNESS, TWO, Choice, choose_scaling, folds
from iac_lightning.evaluation.calibration.quality import quality
from iac_lightning.evaluation.calibration.scaling import IDENTITY, Part, apply, fit, joined, thinned
from tests.unit.iac_lightning.evaluation.calibration.synthetic_voxels import voxels

PATIENTS = [f"p{k}" for k in range(12)]
THICKNESS_MM = [1.0, 2.0, 4.0, 8.0] * 3


def chosen(parts: list[Part], patients: list[str] = PATIENTS, thickness_mm: list[float] = THICKNESS_MM) -> Choice:
    return choose_scaling(parts, thinned(parts, 0), patients, thickness_mm, 0)


def nll(parts: list[Part], patients: list[str] = PATIENTS) -> float:
    value: float = quality(parts, patients)["nll"]
    return value


def test_too_sure_a_model_is_brought_back_and_judged_by_others() -> None:
    parts = [voxels(3_000, k, sharpen=3.0) for k in range(12)]
    found = chosen(parts)
    assert found.name == TWO
    assert found.scaling == fit(*joined(thinned(parts, 0)))
    assert found.words == "cross-validated by patient in 5 folds"
    fold = folds([True] * 12, PATIENTS, 0)
    assert fold is not None
    for k in range(12):  # each scan by a fit to the patients of other folds, and to all of those
        rest = [part for part, own in zip(parts, fold, strict=True) if own != fold[k]]
        expected = fit(*joined(thinned(rest, 0)))
        assert found.held[k].temperature == pytest.approx(expected.temperature, rel=1e-6)
        assert found.held[k].bias == pytest.approx(expected.bias, abs=1e-6)
    held = [(apply(p, s.temperature, s.bias), y) for (p, y), s in zip(parts, found.held, strict=True)]
    none, two, _ = found.candidates
    assert (none["nll"], two["nll"]) == pytest.approx((nll(parts), nll(held)), rel=1e-6)
    assert two["gain"] == pytest.approx(none["nll"] - two["nll"])
    assert two["gain_ci95"][0] > 0
    assert "temperature and bias -" in found.why


def test_a_scaling_that_is_worse_for_those_left_out_is_never_shipped() -> None:
    """Patients who differ, each in their own way: what is fitted to some is wrong for the others."""
    parts = [voxels(400, k, shift=1.5 * (-1) ** (k // 2)) for k in range(4)]
    found = chosen(parts, PATIENTS[:4], [1.0] * 4)
    assert [c["name"] for c in found.candidates] == [NONE, TWO]
    assert found.candidates[1]["gain"] < 0
    assert (found.name, found.scaling, found.held) == (NONE, IDENTITY, [IDENTITY] * 4)
    assert found.why.startswith("no calibration: none helps patients who had no part in the fit; change of")
    assert found.words == "probabilities as they are"


def by_thickness(slope: float) -> list[Part]:
    """Logits that are the true ones times 1 + slope · log(thickness)."""
    return [voxels(3_000, k, sharpen=1 / (0.6 + slope * np.log(mm / np.sqrt(8)))) for k, mm in enumerate(THICKNESS_MM)]


def test_slice_thickness_counts_where_it_helps() -> None:
    parts = by_thickness(0.3)
    found = chosen(parts)
    assert found.name == THICKNESS
    term = found.scaling.by_thickness
    assert term is not None
    assert (term.thinnest_mm, term.thickest_mm) == (1.0, 8.0)
    assert 1 / found.scaling.temperature == pytest.approx(0.6, rel=0.05)
    assert term.slope == pytest.approx(0.3, rel=0.1)
    assert chosen(by_thickness(0.0)).name == TWO
    assert [c["name"] for c in chosen(parts, thickness_mm=[2.0] * 12).candidates] == [NONE, TWO]


def test_the_likelihood_of_thickness_is_at_its_maximum() -> None:
    parts = by_thickness(0.3)
    p, y, w = joined(thinned(parts, 0))
    mm = np.repeat(THICKNESS_MM, 3_000)
    found = fit(p, y, w, mm)
    term = found.by_thickness
    assert term is not None
    x, z = np.log(mm / np.sqrt(8)), special.logit(p.astype(float))
    error = special.expit(z * (1 / found.temperature + term.slope * x) + found.bias + term.bias * x) - y
    for feature in (z, np.ones_like(z), x * z, x):
        assert (w * error * feature).sum() / len(p) == pytest.approx(0, abs=1e-8)


def test_one_patient_with_lesions_shows_nothing() -> None:
    parts = [voxels(2_000, 0, sharpen=3.0), (np.full(50, 0.5, np.float32), np.zeros(50, bool))]
    found = chosen(parts, ["a", "b"], [1.0, 2.0])
    assert (found.name, found.scaling, found.candidates) == (NONE, IDENTITY, [])
    assert "fewer than two development patients have lesions" in found.why
    with pytest.raises(ValueError, match="with and without lesion"):
        chosen(parts[1:], ["b"], [2.0])


def test_patients_stay_together_and_every_fold_has_others_with_lesions() -> None:
    patients = [f"p{k // 2}" for k in range(16)]
    lesion = [k in (0, 5, 6, 7) for k in range(16)]
    found = folds(lesion, patients, seed=3)
    assert found is not None
    assert found.max() == 2  # three patients with lesions: as many folds
    assert all(found[k] == found[k + 1] for k in range(0, 16, 2))
    assert len({int(found[k]) for k in (0, 5, 6)}) == 3
    assert folds([True, True, False], ["a", "a", "b"], 0) is None
