from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from iac_lightning.evaluation.calibration.scaling import apply, calibrated_half, fit, sample
from tests.unit.iac_lightning.evaluation.calibration.synthetic_voxels import joined, voxels


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


def test_volumes_are_calibrated_like_their_voxels():
    volume = np.asfortranarray(np.random.default_rng([1]).random((5, 4, 3)).astype(np.float32) ** 8)
    volume[0, 0, 0] = 0
    found = apply(volume, 2.5, -0.5)
    np.testing.assert_array_equal(found.ravel(), apply(volume.ravel(), 2.5, -0.5), strict=True)
    assert found.flags.f_contiguous


@pytest.mark.parametrize(("n_lesion", "n_other", "drawn"), [(100, 10, (30, 10)), (10, 100, (10, 30)), (0, 50, (0, 40))])
def test_where_one_kind_is_rare_the_other_fills_the_sample(n_lesion: int, n_other: int, drawn: tuple[int, int]):
    n = n_lesion + n_other
    p, y = np.linspace(0.1, 0.9, n, dtype=np.float32), np.arange(n) < n_lesion
    parts = [(p[::2], y[::2]), (p[1::2], y[1::2])]
    found_p, found_y, weight = sample(parts, seed=3, limit=40)
    assert (found_y.sum(), (~found_y).sum()) == drawn
    assert len(np.unique(found_p)) == 40  # without replacement
    assert set(found_p) <= set(p)
    for kind, have, take in ((True, n_lesion, drawn[0]), (False, n_other, drawn[1])):
        np.testing.assert_allclose(weight[found_y == kind], have / max(take, 1))


def test_calibrated_volumes_are_single_precision():
    volume = np.random.default_rng([2]).random((3, 2, 2))
    assert apply(volume, 1.5, 0.0).dtype == np.float32
    np.testing.assert_allclose(apply(volume, 1.0, 0.0), volume, rtol=1e-5)
