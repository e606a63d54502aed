from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss

from iac_lightning.evaluation.calibration import quality as quality_module
from iac_lightning.evaluation.calibration.quality import (
    QUALITIES,
    STREAMED,
    quality,
    quality_of_sums,
    ratio_of_sums,
    sums_of,
)
from iac_lightning.evaluation.calibration.scaling import Part, apply, fit, sample
from tests.unit.iac_lightning.evaluation.calibration.synthetic_voxels import joined, names, voxels


def test_ece_by_hand():
    # bins of equal width: [0, 1/15): two voxels, mean 0.05, no lesion; [9/15, 10/15): two voxels, mean 0.65, one lesion
    parts = [
        (np.array([0.04, 0.64], np.float32), np.array([False, True])),
        (np.array([0.06, 0.66], np.float32), np.array([False, False])),
    ]
    found = quality(parts, ["a", "b"])
    assert found["ece"] == pytest.approx(0.5 * 0.05 + 0.5 * 0.15, abs=1e-7)
    first, second = found["reliability"]
    assert first["bin"] == pytest.approx([0, 1 / 15])
    assert (second["n_voxels"], second["n_patients"], second["lesion_share"]) == (2, 2, 0.5)
    assert second["mean_probability"] == pytest.approx(0.65)
    assert second["lesion_share_ci95"] is None  # of two patients
    assert (found["n_voxels"], found["n_lesion_voxels"]) == (4, 1)


def test_an_error_in_which_patients_cancel_has_no_interval():
    p = np.full(10_000, 0.5, np.float32)
    lesions = [10_000, 10_000, 10_000, 0, 0, 1]  # a voxel too many of 60,000; without any patient, every tenth
    found = quality([(p, np.arange(10_000) < n) for n in lesions], list("abcdef"))
    assert found["ece"] == pytest.approx(1 / 60_000, abs=1e-9)
    assert found["ece_ci95"] is None  # its upper end would be infinite, which JSON does not know


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    return [voxels(n, s, sharpen=2.0) for s, n in enumerate([700, 3_000, 1, 12_345])]


def test_values_equal_plain_numpy_and_scikit_learn(parts: list[Part]):
    found = quality(parts, names(4))
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
    assert quality([(p, y)], ["a"])["adaptive_ece"] == pytest.approx(0.15)


def test_order_statistics_are_exact(parts: list[Part]):
    arrays = [p for p, _ in parts]
    ranks = np.array([0, 1, 17, 8_000, 16_045])
    found = quality_module._order_statistics(arrays, ranks)
    np.testing.assert_array_equal(found, np.sort(np.concatenate(arrays))[ranks])


def test_intervals_are_over_patients():
    """Ten series of one patient are no more certain than one; equal patients differ by nothing."""
    part = voxels(2_000, 0, sharpen=2.0)
    alone = quality([part] * 10, ["a"] * 10)
    assert alone["ece_ci95"] is None
    assert all(row["lesion_share_ci95"] is None for row in alone["reliability"])
    equal = quality([part] * 10, [f"p{i}" for i in range(10)])
    assert equal["ece_ci95"] == pytest.approx([equal["ece"]] * 2)
    different = [voxels(2_000, s, sharpen=2.0) for s in range(10)]
    low, high = quality(different, [f"p{i}" for i in range(10)])["brier_ci95"]
    scores = [np.mean((p.astype(float) - y) ** 2) for p, y in different]  # equal sizes: the mean over patients
    reach = stats.t.ppf(0.975, 9) * np.std(scores, ddof=1) / np.sqrt(10) / np.mean(scores)  # of the logarithm
    assert [low, high] == pytest.approx(np.mean(scores) * np.exp([-reach, reach]), rel=1e-6)


def test_a_model_made_overconfident_is_brought_back():
    """Logits times 3: temperature about 3, errors after within the noise of the original's."""
    honest = [voxels(40_000, s) for s in range(10)]
    overconfident = [voxels(40_000, s, sharpen=3.0) for s in range(10)]
    scaling = fit(*sample(overconfident, seed=0))
    assert scaling.temperature == pytest.approx(3, rel=0.03)
    assert scaling.bias == pytest.approx(0, abs=0.1)
    repaired = [(apply(p, scaling.temperature, scaling.bias), y) for p, y in overconfident]
    original, before, after = (quality(parts, names(10)) for parts in (honest, overconfident, repaired))
    for name in ("ece", "adaptive_ece"):
        assert before[name] > 3 * original[name]
        low, high = original[f"{name}_ci95"]
        assert low - (high - low) < after[name] < high + (high - low)
    for name in ("brier", "nll"):
        assert after[name] == pytest.approx(original[name], rel=0.01)
        assert before[name] > 1.02 * after[name]


def test_adaptive_bins_by_hand():
    """Thirty voxels, two a bin, one of them a lesion: Σ p of bin k is (4k + 3) / 31."""
    p, y = np.arange(1, 31, dtype=np.float32) / 31, np.arange(30) % 2 == 0
    expected = sum(abs(1 - (4 * k + 3) / 31) for k in range(15)) / 30
    assert quality([(p[::-1], y[::-1])], ["a"])["adaptive_ece"] == pytest.approx(expected, rel=1e-6)


def test_probabilities_of_nothing_and_of_one_have_finite_scores():
    found = quality([(np.array([1.0, 1e-30], np.float32), np.array([False, True]))], ["a"])
    assert found["brier"] == pytest.approx(1.0)
    assert found["nll"] == pytest.approx((20 * np.log(10) - np.log(1 - float(np.float32(1 - 1e-7)))) / 2, rel=1e-6)
    assert [row["bin"] for row in found["reliability"]] == [pytest.approx([0, 1 / 15]), pytest.approx([14 / 15, 1])]


def test_five_patients_with_voxels_are_enough_for_an_interval():
    parts = [voxels(500, k, sharpen=2.0) for k in range(5)]
    nothing = (np.zeros(0, np.float32), np.zeros(0, bool))
    few = quality([*parts[:4], nothing], list("abcde"))
    enough = quality([*parts, nothing], list("abcdef"))
    for name in QUALITIES:
        assert few[f"{name}_ci95"] is None
        low, high = enough[f"{name}_ci95"]
        assert low < enough[name] < high
    assert enough["n_patients"] == 5


def test_sums_of_scans_give_what_their_voxels_give(parts: list[Part]):
    """Whatever the order and the number of scans of a patient, and with scans of which nothing is said."""
    nothing = (np.zeros(0, np.float32), np.zeros(0, bool))
    whole = quality(parts, names(4))
    sums = [sums_of(part) for part in (nothing, *parts[::-1])]
    found = quality_of_sums(sums, ["nobody", *names(4)[::-1]], "candidates")
    for name in STREAMED:
        assert found[name] == pytest.approx(whole[name], rel=1e-12)
        assert found[f"{name}_ci95"] == pytest.approx(whole[f"{name}_ci95"])
    assert (found["n_candidates"], found["n_patients"]) == (whole["n_voxels"], 2)
    assert [row["lesion_share"] for row in found["reliability"]] == pytest.approx(
        [row["lesion_share"] for row in whole["reliability"]]
    )


def test_a_ratio_of_sums_by_hand():
    columns = np.array([[1.0, 2.0], [2.0, 4.0], [-1.0, 1.0], [2.0, 1.0], [1.0, 1.0], [3.0, 1.0]])
    assert ratio_of_sums(columns[:2], ["a", "a"]) == (0.5, None)
    value, ends = ratio_of_sums(columns, list("aabcde"))
    assert value == pytest.approx(0.8)
    assert ends is not None
    assert ends[0] < 0.8 < ends[1]
    assert ends[0] + ends[1] == pytest.approx(1.6)  # a difference: symmetric
