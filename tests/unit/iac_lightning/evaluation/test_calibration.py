from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from iac_lightning.evaluation import calibration
from iac_lightning.evaluation.bootstrap import mean_ci
from iac_lightning.evaluation.calibration import (
    THRESHOLDS,
    Part,
    apply,
    calibrated_half,
    fit,
    quality,
    sample,
    threshold_at,
)
from iac_lightning.evaluation.calibration_figures import reliability_figure
from iac_lightning.evaluation.figures import png
from iac_lightning.evaluation.threshold import choose_threshold


def voxels(n: int, seed: int, sharpen: float = 1.0, shift: float = 0.0) -> Part:
    """Labels drawn from true probabilities (rare lesions); the model's logits are `sharpen` times the true ones."""
    rng = np.random.default_rng([seed])
    logit = rng.normal(-5, 2.5, n)
    label = rng.random(n) < special.expit(logit)
    return special.expit(sharpen * logit + shift).astype(np.float32), label


def joined(parts: list[Part]) -> Part:
    return np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts])


def names(n: int) -> list[str]:
    return [f"p{i // 2}" for i in range(n)]


# --- temperature and bias ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (0.3, -4.0), (2.5, 1.7), (20.0, -9.0), (0.05, 9.0)])
def test_the_uncalibrated_mask_is_found_in_the_calibrated_map(temperature, bias):
    rng = np.random.default_rng([8])
    p = np.concatenate([rng.random(20_000), [0, 0.5, 0.499, 0.501, 1e-30, 1]]).astype(np.float32)
    half = calibrated_half(temperature, bias)
    assert half == pytest.approx(special.expit(bias), rel=1e-6)
    np.testing.assert_array_equal(apply(p, temperature, bias) >= half, p >= 0.5)


def test_apply_by_hand():
    p = np.array([0.5, 0.9, 0.0, 1.0, 1e-30], np.float32)
    found = apply(p, 2.0, 1.0)
    assert found.dtype == np.float32
    assert found[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert found[1] == pytest.approx(1 / (1 + np.exp(-(np.log(9) / 2 + 1))))
    assert found[2] == 0
    assert 0.999 < found[3] < 1
    assert 0 < found[4] < 1e-8
    np.testing.assert_allclose(apply(p, 1.0, 0.0)[:2], p[:2], rtol=1e-6)


def test_apply_keeps_the_order_and_the_domain_at_extremes():
    p = np.geomspace(1e-38, 1, 400).astype(np.float32)
    for temperature in (0.05, 1.0, 20.0):
        found = apply(p, temperature, -2.0)
        assert (np.diff(found) >= 0).all()
        assert (found > 0).all()
        assert (found < 1).all()


def test_fit_equals_an_unpenalised_logistic_regression_on_the_logit():
    p, y = voxels(20_000, 0, sharpen=1.7, shift=-0.4)
    weight = np.random.default_rng([1]).uniform(0.2, 3, len(p))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    reference.fit(special.logit(p.astype(np.float64))[:, None], y, sample_weight=weight)
    found = fit(p, y, weight)
    assert 1 / found.temperature == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert found.bias == pytest.approx(reference.intercept_[0], rel=1e-4)
    assert not found.at_limit


def test_a_model_made_overconfident_is_brought_back():
    """Logits times 3: temperature about 3, errors after within the noise of the original's."""
    honest = [voxels(40_000, s) for s in range(10)]
    overconfident = [voxels(40_000, s, sharpen=3.0) for s in range(10)]
    scaling = fit(*sample(overconfident, seed=0))
    assert scaling.temperature == pytest.approx(3, rel=0.03)
    assert scaling.bias == pytest.approx(0, abs=0.1)
    repaired = [(apply(p, scaling.temperature, scaling.bias), y) for p, y in overconfident]
    original, before, after = (quality(parts, names(10), seed=0) for parts in (honest, overconfident, repaired))
    for figure in ("ece", "adaptive_ece"):
        assert before[figure] > 3 * original[figure]
        low, high = original[f"{figure}_ci95"]
        assert low - (high - low) < after[figure] < high + (high - low)
    for figure in ("brier", "nll"):
        assert after[figure] == pytest.approx(original[figure], rel=0.01)
        assert before[figure] > 1.02 * after[figure]


def test_sampling_weights_make_the_sample_stand_for_all_voxels():
    parts = [voxels(30_000, s, sharpen=1.5) for s in range(6)]
    p, y = joined(parts)
    whole = fit(p, y, np.ones(len(p)))
    draws = [sample(parts, seed, limit=3_000) for seed in range(40)]
    for found_p, found_y, weight in draws:
        assert len(found_p) == 3_000
        assert found_y.sum() == 1_500
        assert weight.sum() == pytest.approx(len(p))
    # the mean over many draws is the sum over the population; without weights it is far away
    estimates = np.array([(w * q).sum() for q, _, w in draws])
    assert estimates.mean() == pytest.approx(p.sum(), abs=3 * estimates.std() / np.sqrt(len(draws)))
    fits = [fit(*draw) for draw in draws]
    biases = np.array([f.bias for f in fits])
    assert biases.mean() == pytest.approx(whole.bias, abs=0.1)
    assert np.mean([f.temperature for f in fits]) == pytest.approx(whole.temperature, rel=0.05)
    unweighted = fit(draws[0][0], draws[0][1], np.ones(3_000))
    assert abs(unweighted.bias - whole.bias) > 1


def test_the_sample_is_fixed_by_its_seed_and_takes_all_that_fits():
    parts = [voxels(500, s) for s in range(3)]
    p, y = joined(parts)
    found = sample(parts, seed=1, limit=10_000)
    assert sorted(found[0]) == sorted(p)
    assert found[1].sum() == y.sum()
    assert set(found[2]) == {1.0}
    few = sample(parts, seed=1, limit=100)
    assert len(few[0]) == 100
    assert few[1].sum() == min(50, y.sum())
    for a, b in zip(few, sample(parts, seed=1, limit=100), strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(few[0]) != set(sample(parts, seed=2, limit=100)[0])


@pytest.mark.parametrize("flip", [False, True])
def test_a_temperature_has_limits(flip: bool):
    """Perfect separation wants 0, a model that is worse than chance wants a negative one."""
    y = np.arange(100) < 10
    p = np.where(y != flip, 0.6, 0.4).astype(np.float32)
    found = fit(p, y, np.ones(100))
    assert found.at_limit
    assert found.temperature == pytest.approx(20.0 if flip else 0.05)
    # with the temperature fixed the bias alone still makes the mean probability right
    assert special.expit(special.logit(p.astype(float)) / found.temperature + found.bias).mean() == pytest.approx(0.1)


def test_fit_needs_both_kinds():
    with pytest.raises(ValueError, match="with and without"):
        fit(np.full(3, 0.5, np.float32), np.zeros(3, bool), np.ones(3))


# --- how good probabilities are -------------------------------------------------------------------------------------


def test_ece_by_hand():
    # bins of equal width: [0, 1/15): two voxels, mean 0.05, no lesion; [9/15, 10/15): two voxels, mean 0.65, one lesion
    parts = [
        (np.array([0.04, 0.64], np.float32), np.array([False, True])),
        (np.array([0.06, 0.66], np.float32), np.array([False, False])),
    ]
    found = quality(parts, ["a", "b"], seed=0)
    assert found["ece"] == pytest.approx(0.5 * 0.05 + 0.5 * 0.15, abs=1e-7)
    first, second = found["reliability"]
    assert first["bin"] == pytest.approx([0, 1 / 15])
    assert (second["n_voxels"], second["n_patients"], second["lesion_share"]) == (2, 2, 0.5)
    assert second["mean_probability"] == pytest.approx(0.65)
    assert second["lesion_share_ci95"] == [0.0, 1.0]  # twice one patient or twice the other
    assert (found["n_voxels"], found["n_lesion_voxels"]) == (4, 1)


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    return [voxels(n, s, sharpen=2.0) for s, n in enumerate([700, 3_000, 1, 12_345])]


def test_figures_equal_plain_numpy_and_scikit_learn(parts: list[Part]):
    found = quality(parts, names(4), seed=0)
    p, y = joined(parts)
    assert found["brier"] == pytest.approx(brier_score_loss(y, p.astype(np.float64)), rel=1e-9)
    exact = np.clip(p, 1e-20, 1 - 1e-7).astype(np.float64)
    reference = log_loss(y, np.stack([1 - exact, exact], axis=1))
    assert found["nll"] == pytest.approx(reference, rel=1e-6)

    def error(bins: np.ndarray) -> float:
        return sum(
            np.mean(bins == b) * abs(y[bins == b].mean() - p[bins == b].mean(dtype=np.float64)) for b in np.unique(bins)
        )

    assert found["ece"] == pytest.approx(error(np.digitize(p, np.linspace(0, 1, 16)[1:-1])), abs=1e-7)
    order = np.argsort(p, kind="stable")
    assert len(np.unique(p)) > 0.99 * len(p)  # hardly a tie, so ranks alone give the bins
    mass = np.empty(len(p), int)
    mass[order] = np.searchsorted(np.arange(1, 15) * len(p) // 15, np.arange(len(p)), side="right")
    assert found["adaptive_ece"] == pytest.approx(error(mass), abs=1e-5)


def test_equal_probabilities_share_an_adaptive_bin():
    """One value everywhere: its mean is compared with all labels, whatever their order."""
    p, y = np.full(1_000, 0.25, np.float32), np.arange(1_000) < 400
    assert quality([(p, y)], ["a"], seed=0)["adaptive_ece"] == pytest.approx(0.15)


def test_order_statistics_are_exact(parts: list[Part]):
    arrays = [p for p, _ in parts]
    ranks = np.array([0, 1, 17, 8_000, 16_045])
    found = calibration._order_statistics(arrays, ranks)
    np.testing.assert_array_equal(found, np.sort(np.concatenate(arrays))[ranks])


def test_intervals_are_over_patients():
    """Ten series of one patient are no more certain than one; equal patients differ by nothing."""
    part = voxels(2_000, 0, sharpen=2.0)
    alone = quality([part] * 10, ["a"] * 10, seed=0)
    assert alone["ece_ci95"] is None
    assert all(row["lesion_share_ci95"] is None for row in alone["reliability"])
    equal = quality([part] * 10, [f"p{i}" for i in range(10)], seed=0)
    assert equal["ece_ci95"] == pytest.approx([equal["ece"]] * 2)
    different = [voxels(2_000, s, sharpen=2.0) for s in range(10)]
    low, high = quality(different, [f"p{i}" for i in range(10)], seed=0)["brier_ci95"]
    scores = [np.mean((p.astype(float) - y) ** 2) for p, y in different]  # equal sizes: the mean over patients
    assert (high - low) / 3.92 == pytest.approx(np.std(scores) / np.sqrt(10), rel=0.1)


# --- thresholds by slice thickness ----------------------------------------------------------------------------------


def test_thresholds_rise_and_reach_the_probabilities_of_a_weak_model():
    assert (np.diff(THRESHOLDS) > 0).all()
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (1e-5, 0.998)
    assert THRESHOLDS[THRESHOLDS >= 0.002] == pytest.approx(np.arange(1, 500) / 500)


def curves(best: np.ndarray) -> np.ndarray:
    """Dice over `THRESHOLDS` with the top at each series' best threshold."""
    return 0.9 - np.abs(THRESHOLDS[None] - best[:, None])


def stratified(difference: float, patients: int = 30) -> dict:
    rng = np.random.default_rng([5])
    thickness = np.tile([0.8, 5.0], patients)
    best = np.where(thickness < 1, 0.3, 0.3 + difference) + rng.normal(0, 0.05, 2 * patients)
    who = [f"p{i // 2}" for i in range(2 * patients)]
    return calibration.thresholds_by_thickness(curves(best), np.ones(2 * patients), who, thickness, seed=0)


def test_strata_that_differ_get_their_own_thresholds():
    found = stratified(0.4)
    assert found["used"]
    assert found["gain"]["ci95"][0] > 0.1
    assert "5-fold cross-validation" in found["why"]
    assert threshold_at(found, 0.8, 0.5) == pytest.approx(0.3, abs=0.05)
    assert threshold_at(found, 6.0, 0.5) == pytest.approx(0.7, abs=0.05)
    assert threshold_at(found, 6.01, 0.5) == 0.5  # nobody taught this stratum
    assert threshold_at(found, 1.5, 0.5) == 0.5


def tried(spread: float, best_mm: dict[float, float], patients: dict[float, int], seed: int = 3) -> tuple:
    """Scans of each thickness (two a patient), each with a best threshold around its thickness' own."""
    rng = np.random.default_rng([6])
    thickness = np.repeat(list(patients), [2 * n for n in patients.values()])
    who = np.concatenate([np.repeat([f"{mm}-{i}" for i in range(n)], 2) for mm, n in patients.items()])
    best = np.clip([best_mm[mm] for mm in thickness] + rng.normal(0, spread, len(thickness)), 0.01, 0.99)
    order = rng.permutation(len(who))
    dice, who, thickness = curves(best)[order], who[order], thickness[order]
    lesion = rng.random(len(who)) < 0.9
    return (
        calibration.thresholds_by_thickness(dice, lesion, who, thickness, seed),
        dice[lesion],
        who[lesion],
        thickness[lesion],
    )


def test_the_gain_is_that_of_scans_that_taught_nothing():
    """Against a plain loop over folds: each scan's thresholds come from patients of the other folds alone."""
    # An edge belongs to the thinner stratum; eleven and twelve patients are enough, seven are not.
    best, patients = {1.0: 0.3, 2.0: 0.7, 5.0: 0.1}, {1.0: 11, 2.0: 12, 5.0: 7}
    found, dice, who, thickness = tried(0.1, best, patients)
    names = sorted(set(who))
    fold = dict(zip(names, np.random.default_rng([3, 2]).permutation(len(names)) % 5, strict=True))
    folds = np.array([fold[name] for name in who])

    def best_of(rows: np.ndarray) -> int:
        return list(THRESHOLDS).index(choose_threshold(dice[rows], THRESHOLDS, np.ones(rows.sum(), dtype=bool))[0])

    gains = []
    for scan in range(len(who)):
        others = folds != folds[scan]
        alike = others & (thickness == thickness[scan])
        own = best_of(others if thickness[scan] == 5.0 else alike)
        gains.append(dice[scan, own] - dice[scan, best_of(others)])
    assert found["gain"]["mean"] == pytest.approx(np.mean(gains), abs=1e-9)
    interval = mean_ci(np.round(gains, 12), who, seed=3, resamples=2_000)
    assert found["gain"]["ci95"] == pytest.approx([interval.low, interval.high], abs=1e-9)
    assert found["gain"]["n_patients"] == len(names)
    assert found["used"]
    assert found["why"].startswith("thresholds by stratum gain +0.")
    limits = [(0, 1), (1, 2), (2, 4), (4, 6), (6, None)]
    assert [(s["above_mm"], s["up_to_mm"]) for s in found["strata"]] == limits
    counts = [len(set(who[thickness == mm])) for mm in patients]
    assert [s["n_patients"] for s in found["strata"]] == [counts[0], counts[1], 0, counts[2], 0]
    for k, mm in ((0, 1.0), (1, 2.0)):
        assert found["strata"][k]["threshold"] == THRESHOLDS[best_of(thickness == mm)]
    assert [s["threshold"] for s in found["strata"][2:]] == [None, None, None]


def test_noise_gains_nothing():
    """Thresholds fitted to the scans that they are judged on would always gain."""
    found, *_ = tried(0.4, {0.8: 0.5, 5.0: 0.5}, {0.8: 12, 5.0: 12})
    assert found["gain"]["mean"] < 0
    assert not found["used"]
    assert found["why"].startswith("one threshold for all: strata change -0.")
    alike, *_ = tried(0.0, {0.8: 0.5, 5.0: 0.5}, {0.8: 12, 5.0: 12})
    assert alike["gain"]["ci95"] == [0, 0]
    assert not alike["used"]


def test_ten_patients_are_enough_and_the_seed_decides_the_folds():
    def scans(patients: int, seed: int) -> dict:
        best = np.tile([0.3, 0.6], patients) + np.random.default_rng([7]).normal(0, 0.1, 2 * patients)
        who = [f"p{i // 2}" for i in range(2 * patients)]
        every = np.ones(2 * patients)
        return calibration.thresholds_by_thickness(curves(best), every, who, np.tile([0.8, 5.0], patients), seed)

    assert scans(10, 0)["gain"] is not None
    assert scans(9, 0)["gain"] is None
    assert scans(10, 0) == scans(10, 0)
    assert scans(10, 0)["gain"]["mean"] != scans(10, 1)["gain"]["mean"]


def test_strata_that_do_not_differ_share_one():
    found = stratified(0.0)
    assert not found["used"]
    assert abs(found["gain"]["mean"]) < 0.01
    assert threshold_at(found, 0.8, 0.5) == 0.5


def test_few_patients_support_no_strata():
    found = stratified(0.4, patients=9)
    assert not found["used"]
    assert found["gain"] is None
    assert "have 10 patients with lesions (≤ 1 mm: 9, 1–2 mm: 0, 2–4 mm: 0, 4–6 mm: 9, > 6 mm: 0)" in found["why"]


# --- figure -----------------------------------------------------------------------------------------------------------


def test_the_figure_shows_both_curves(parts: list[Part]):
    before = quality(parts, names(4), seed=0)
    after = quality([(apply(p, 2.0, 0.0), y) for p, y in parts], names(4), seed=0)
    figure = reliability_figure(before, after, "n, split, seed")
    curve = figure.axes[1].lines[1]
    assert curve.get_xdata() == pytest.approx([row["mean_probability"] for row in after["reliability"]])
    assert curve.get_ydata() == pytest.approx([row["lesion_share"] for row in after["reliability"]])
    assert [bar.get_height() for bar in figure.axes[2].patches] == [r["n_voxels"] for r in before["reliability"]]
    assert matplotlib.image.imread(io.BytesIO(png(figure))).std() > 0.01


def test_volumes_are_calibrated_like_their_voxels():
    volume = np.asfortranarray(np.random.default_rng([1]).random((5, 4, 3)).astype(np.float32) ** 8)
    volume[0, 0, 0] = 0
    found = apply(volume, 2.5, -0.5)
    np.testing.assert_array_equal(found.ravel(), apply(volume.ravel(), 2.5, -0.5), strict=True)
    assert found.flags.f_contiguous
