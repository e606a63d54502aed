from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from data_modules.errors import UserError
from iac_lightning.evaluation.ablation.cells import VARIANTS, Training, measure
from iac_lightning.evaluation.ablation.effects import (
    adjusted,
    cell_means,
    complete_contexts,
    differences,
    interactions,
    lead,
    level_means,
    trend,
)
from iac_lightning.evaluation.statistics.bootstrap import holm, mean_ci
from iac_lightning.evaluation.statistics.two_level import seed_remark, two_level
from tests.synthetic_sweep import invented

FACTORS = {"size": ("small", "middle", "large"), "up": ("a", "b")}
MEAN = {("small", "a"): 0.6, ("small", "b"): 0.7, ("middle", "a"): 0.55, ("middle", "b"): 0.6}
MEAN |= {("large", "a"): 0.5, ("large", "b"): 0.4}


def trainings(seeds=(0, 1), factors=FACTORS, **settings) -> list[Training]:
    found = []
    for k, combination in enumerate(product(*factors.values())):
        for seed in seeds:
            table = invented(MEAN[combination], (k, seed), **{"patients": 12, **settings})
            found.append(Training(levels=dict(zip(factors, combination, strict=True)), seed=seed, table=table))
    return found


def by_hand(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    """Series of patients with Dice; everything else as `invented` has it."""
    table = invented(0.5, (0,), patients=len(rows), scans=1).iloc[: len(rows)].copy()
    table["series_id"], table["patient_id"], table["dice"] = map(list, zip(*rows, strict=True))
    return table.assign(has_lesion=True, label_volume_mm3=10.0)


def test_two_cells_two_seeds_by_hand():
    def training(level, seed, a, b1, b2):
        return Training(levels={"f": level}, seed=seed, table=by_hand([("1", "a", a), ("2", "b", b1), ("3", "b", b2)]))

    cells = [
        training("x", 0, 0.3, 0.5, 0.7),
        training("x", 1, 0.5, 0.7, 0.9),
        training("y", 0, 0.7, 0.8, 0.9),
        training("y", 1, 0.7, 0.8, 0.9),
    ]
    sample = measure(cells, {"f": ("x", "y")}, seed=0, resamples=4000)
    assert [e.estimate for e in cell_means(sample)] == pytest.approx([0.6, 0.8])  # means over scans, then seeds
    assert [dict(s) for s in sample.seeds] == [pytest.approx({0: 0.5, 1: 0.7}), pytest.approx({0: 0.8, 1: 0.8})]
    np.testing.assert_allclose(sample.by_patient, [[0.4, 0.7], [0.7, 0.85]])
    (difference,) = differences(sample, "f", "x")
    assert difference.estimate == pytest.approx(0.2)
    # patients aa, ab (twice) or bb, wherever the four deviations drawn from {+, −, 0, 0} cancel
    cancelled = np.mean([a + b == c + d for a, b, c, d in product((1, -1, 0, 0), repeat=4)])
    drawn = (sample.draws.resampled[:, 1, 0] - sample.draws.resampled[:, 0, 0]).round(9)
    for value, share in ((0.3, 1 / 4), (0.2, 1 / 2), (0.15, 1 / 4)):
        assert (drawn == value).mean() == pytest.approx(share * cancelled, abs=0.015)
    assert (sample.n_scans, sample.n_patients, sample.n_trainings, difference.n_trainings) == (3, 2, 4, 4)
    assert difference.p == 0.5  # two patients, both positive: 2 · (1/2)²


def test_the_spread_over_seeds_is_the_pooled_one_with_students_tails():
    rng = np.random.default_rng([5])
    figures = rng.normal(0, 1, (40, 3))
    draws = two_level(
        lambda w: np.broadcast_to(figures.reshape(1, -1, 1), (len(w), 120, 1)), [3] * 40, 2, seed=1, resamples=4000
    )
    assert draws.seed_df == 80
    pooled = figures.var(axis=1, ddof=1).mean() / 3
    deviations = draws.resampled[:, :, 0] - figures.mean(axis=1)
    assert deviations.var() == pytest.approx(pooled * 80 / 78, rel=0.01)
    few = two_level(
        lambda w: np.broadcast_to(np.array([0.0, 2, 0, 2]).reshape(1, -1, 1), (len(w), 4, 1)),
        [2, 2],
        2,
        seed=1,
        resamples=20_000,
    )
    # all deviations are ±√2, so a mean of two is ±√2 or 0 (half of the time), times √(2 / χ²₂)
    scaled = np.abs(few.resampled[:, 0, 0] - 1) / 2**0.5
    assert (scaled < 1e-9).mean() == pytest.approx(0.5, abs=0.01)
    assert np.quantile(scaled[scaled > 1e-9] ** 2 / 2, 0.5) == pytest.approx(1 / stats.chi2.ppf(0.5, 2), rel=0.03)


@pytest.fixture(scope="module")
def balanced():
    return measure(trainings(), FACTORS, seed=0, resamples=500)


def test_balanced_estimates_are_those_of_least_squares(balanced):
    rows = pd.concat([t.table[t.table["has_lesion"]].assign(**t.levels) for t in trainings()])
    treatment = smf.ols("dice ~ C(size, Treatment('small')) * C(up, Treatment('a'))", rows).fit().params
    for effect in interactions(balanced, {"size": "small", "up": "a"}):
        name = f"C(size, Treatment('small'))[T.{effect.level}]:C(up, Treatment('a'))[T.b]"
        assert effect.estimate == pytest.approx(treatment[name], abs=1e-12)
        assert (effect.n_cells, effect.contexts_of) == (4, 1)
    main = smf.ols("dice ~ C(size, Treatment('small')) + C(up, Treatment('a'))", rows).fit().params
    found = [*differences(balanced, "size", "small"), *differences(balanced, "up", "a")]
    assert [e.level for e in found] == ["middle", "large", "b"]
    for effect in found:
        baseline = {"size": "small", "up": "a"}[effect.factor]
        name = f"C({effect.factor}, Treatment('{baseline}'))[T.{effect.level}]"
        assert effect.estimate == pytest.approx(main[name], abs=1e-12)
        assert effect.contexts == effect.contexts_of == (2 if effect.factor == "size" else 3)
    for effect in level_means(balanced, "size"):
        assert effect.estimate == pytest.approx(rows.loc[rows["size"] == effect.level, "dice"].mean())
    numbers = {"small": 64.0, "middle": 256.0, "large": 4096.0}
    slope = trend(balanced, "size", numbers)
    assert slope.estimate == pytest.approx(
        smf.ols("dice ~ x", rows.assign(x=np.log2(rows["size"].map(numbers)))).fit().params["x"], abs=1e-12
    )


def test_p_is_wilcoxon_over_patients_and_holm_over_the_table(balanced):
    found = adjusted(differences(balanced, "size", "small"))
    means = [
        pd.concat([t.table[t.table["has_lesion"]].assign(**t.levels, seed=t.seed) for t in trainings()])
        .groupby(["size", "up", "seed", "patient_id"])["dice"]
        .mean()
        .groupby(["size", "patient_id"])
        .mean()
        .unstack("size")
    ][0]
    raw = [stats.wilcoxon((means[e.level] - means["small"]).round(12)).pvalue for e in found]
    assert [e.p for e in found] == pytest.approx(raw)
    assert [e.adjusted_p for e in found] == pytest.approx(holm(raw))


def test_one_seed_gives_the_interval_over_patients_alone():
    cells = trainings(seeds=(3,))
    sample = measure(cells, FACTORS, seed=5, resamples=2000)
    table = cells[0].table[cells[0].table["has_lesion"]]
    alone = mean_ci(table["dice"], table["patient_id"], seed=5, resamples=2000)
    first = cell_means(sample)[0]
    assert (first.estimate, first.low, first.high) == pytest.approx((alone.estimate, alone.low, alone.high))
    assert "cannot be known" in seed_remark(sample.draws)


def test_seeds_widen_intervals_and_cells_with_one_seed_borrow():
    def width(cells):
        sample = measure(cells, FACTORS, seed=5, resamples=2000)
        return sample, [e.high - e.low for e in cell_means(sample)]

    loud = trainings(seed_sd=0.1)
    once = [t for t in loud if t.seed == 0 or t.levels["size"] != "large"]
    sample, widths = width(once)
    _, alone = width([t for t in loud if t.seed == 0])
    assert sample.draws.seed_df == 4
    assert "2 of 6 cells were trained once and borrow the spread" in seed_remark(sample.draws)
    assert all(w > 1.5 * a for w, a in zip(widths, alone, strict=True))
    assert np.mean(widths[4:]) > 1.2 * np.mean(widths[:4])  # once: σ, twice: σ/√2


def test_missing_cells_take_their_context_out():
    cells = [t for t in trainings() if t.levels != {"size": "large", "up": "b"}]
    sample = measure(cells, FACTORS, seed=0, resamples=100)
    assert sample.missing == [("large", "b")]
    contexts, levels, total = complete_contexts(sample, "size")
    assert (contexts, levels, total) == ([("a",)], ("small", "middle", "large"), 2)
    means = {e.level: e for e in cell_means(sample)}
    found = {e.level: e for e in differences(sample, "size", "small")}
    assert found["large"].estimate == pytest.approx(means["large, a"].estimate - means["small, a"].estimate)
    assert (found["large"].contexts, found["large"].contexts_of) == (1, 2)
    (up,) = differences(sample, "up", "a")
    expected = [means[f"{s}, b"].estimate - means[f"{s}, a"].estimate for s in ("small", "middle")]
    assert up.estimate == pytest.approx(np.mean(expected))
    assert [e.level for e in interactions(sample, {"size": "small", "up": "a"})] == ["middle"]


def test_nothing_is_compared_without_a_complete_context():
    kept = [("small", "a"), ("middle", "b")]
    cells = [t for t in trainings() if tuple(t.levels.values()) in kept]
    sample = measure(cells, FACTORS, seed=0, resamples=50)
    assert level_means(sample, "size") == differences(sample, "size", "small") == []
    assert lead(sample, "size") is None
    assert trend(sample, "size", {"small": 1, "middle": 2}) is None
    assert interactions(sample, {"size": "small", "up": "a"}) == []


def test_a_level_never_trained_does_not_hide_the_others():
    cells = [t for t in trainings() if t.levels["size"] != "large"]
    sample = measure(cells, FACTORS, seed=0, resamples=50)
    assert [e.level for e in level_means(sample, "size")] == ["small", "middle"]
    assert differences(sample, "size", "large") == []


def test_calibration_is_a_factor_within_trainings():
    sample = measure(trainings(gain=0.05), FACTORS, variants=tuple(VARIANTS), seed=0, resamples=300)
    assert (len(sample.cells), sample.n_trainings) == (12, 12)
    (effect,) = differences(sample, "calibration", "calibrated")
    assert (effect.level, effect.n_trainings, effect.contexts) == ("uncalibrated", 12, 6)
    # the same networks on the same scans: seeds and patients cancel exactly
    assert (effect.estimate, effect.low, effect.high) == pytest.approx((-0.05, -0.05, -0.05))
    plain = measure(trainings(gain=0.05), FACTORS, seed=0, resamples=300)
    assert [e.estimate for e in cell_means(plain)] == pytest.approx([e.estimate for e in cell_means(sample)[::2]])


def test_lead_names_the_highest_level_and_how_often_it_is(balanced):
    found = lead(balanced, "size")
    assert (found.best.level, found.lead.baseline) == ("small", "middle")
    means = {e.level: e.estimate for e in level_means(balanced, "size")}
    assert found.lead.estimate == pytest.approx(means["small"] - means["middle"])
    assert found.highest_share == 1.0
    level = lead(measure(trainings(seed_sd=0.3), FACTORS, seed=0, resamples=500), "size")
    assert 0.3 < level.highest_share < 0.99


def test_one_patient_has_no_interval():
    sample = measure(trainings(patients=1), FACTORS, seed=0, resamples=50)
    effect = differences(sample, "up", "a")[0]
    assert np.isfinite(effect.estimate)
    assert np.isnan([effect.low, effect.high]).all()
    assert effect.p == 1.0
    assert np.isnan(lead(sample, "up").highest_share)


def test_the_same_draws_for_any_order_of_trainings():
    one = measure(trainings(), FACTORS, seed=4, resamples=50)
    two = measure(trainings()[::-1], FACTORS, seed=4, resamples=50)
    np.testing.assert_array_equal(one.draws.resampled, two.draws.resampled)


def test_refusals():
    cells = trainings(seeds=(0,))
    with pytest.raises(UserError, match="twice"):
        measure([*cells, cells[0]], FACTORS, seed=0)
    with pytest.raises(UserError, match="large"):
        measure(cells, {**FACTORS, "size": ("small", "middle")}, seed=0)
    other = Training(levels=cells[1].levels, seed=0, table=cells[1].table.iloc[1:])
    with pytest.raises(UserError, match="same scans"):
        measure([cells[0], other], FACTORS, seed=0)
    with pytest.raises(UserError, match="nothing to compare"):
        measure([], FACTORS, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("seed_sd", "scan_sd"), [(0.03, 0.02), (0.0, 0.05)])
def test_coverage_is_nominal_or_above(seed_sd, scan_sd):
    """Simulated sweeps with patients, patients' own reactions to the level, seeds and scans drawn anew."""
    n_patients, seeds, levels, runs = 25, 2, 6, 400
    rng = np.random.default_rng([2024])
    covered, widths, spread = [], [], []
    template = by_hand([(f"{p:03d}", f"{p:03d}", 0.0) for p in range(n_patients)])
    names = {"f": tuple("uvwxyz"[:levels])}
    for run in range(runs):
        patient = rng.normal(0, 0.1, n_patients)
        cells = []
        for level in names["f"]:
            own = rng.normal(0, 0.04, n_patients)
            for seed in range(seeds):
                dice = 0.6 + patient + own + rng.normal(0, seed_sd) + rng.normal(0, scan_sd, n_patients)
                cells.append(Training(levels={"f": level}, seed=seed, table=template.assign(dice=dice)))
        sample = measure(cells, names, seed=run, resamples=200)
        effect = differences(sample, "f", "u")[0]  # truth: 0
        covered.append(effect.low <= 0 <= effect.high)
        widths.append((effect.high - effect.low) / (2 * 1.96))
        spread.append(effect.estimate)
    assert 0.915 <= np.mean(covered) <= 0.995  # 0.95 less 3 binomial errors; noise of scans widens
    assert 0.95 < np.mean(widths) / np.std(spread) < 1.35
