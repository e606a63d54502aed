from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from iac_lightning.evaluation.ablation.cells import VARIANTS, Training, measure_cells
from iac_lightning.evaluation.ablation.effects import (
    adjusted,
    cell_means,
    complete_contexts,
    differences,
    interactions,
    lead,
    level_means,
    seed_means,
    trend,
    two_way_means,
)
from iac_lightning.evaluation.statistics.intervals import mean_ci
from iac_lightning.evaluation.statistics.paired import holm
from tests.unit.iac_lightning.evaluation.ablation.conftest import FACTORS, by_hand, trainings


def test_two_cells_two_seeds_by_hand():
    def training(level, seed, a, b1, b2):
        return Training(levels={"f": level}, seed=seed, table=by_hand([("1", "a", a), ("2", "b", b1), ("3", "b", b2)]))

    cells = [
        training("x", 0, 0.3, 0.5, 0.7),
        training("x", 1, 0.5, 0.7, 0.9),
        training("y", 0, 0.7, 0.8, 0.9),
        training("y", 1, 0.7, 0.8, 0.9),
    ]
    sample = measure_cells(cells, {"f": ("x", "y")}, seed=0, resamples=4000)
    assert [e.estimate for e in cell_means(sample)] == pytest.approx([0.6, 0.8])  # means over scans, then seeds
    assert [dict(s) for s in sample.seeds] == [pytest.approx({0: 0.5, 1: 0.7}), pytest.approx({0: 0.8, 1: 0.8})]
    np.testing.assert_allclose(sample.by_patient, [[0.4, 0.7], [0.7, 0.85]])
    (difference,) = differences(sample, "f", "x")
    assert difference.estimate == pytest.approx(0.2)
    assert np.isnan([difference.low, difference.high]).all()  # two patients
    assert (sample.n_scans, sample.n_patients, sample.n_trainings, difference.n_trainings) == (3, 2, 4, 4)
    assert difference.p == 0.5  # two patients, both positive: 2 · (1/2)²


@pytest.fixture(scope="module")
def balanced():
    return measure_cells(trainings(), FACTORS, seed=0, resamples=500)


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
    sample = measure_cells(cells, FACTORS, seed=5, resamples=2000)
    table = cells[0].table[cells[0].table["has_lesion"]]
    alone = mean_ci(table["dice"], table["patient_id"], "difference")
    first = cell_means(sample)[0]
    assert first.estimate == pytest.approx(alone.estimate)
    assert first.high - first.low == pytest.approx(alone.high - alone.low, rel=0.12)
    assert sample.draws.seed_df == 0


def test_seeds_widen_intervals_and_cells_with_one_seed_borrow():
    def width(cells):
        sample = measure_cells(cells, FACTORS, seed=5, resamples=2000)
        return sample, [e.high - e.low for e in cell_means(sample)]

    loud = trainings(seed_sd=0.1)
    once = [t for t in loud if t.seed == 0 or t.levels["size"] != "large"]
    sample, widths = width(once)
    _, alone = width([t for t in loud if t.seed == 0])
    assert sample.draws.seed_df == 4
    assert all(w > 1.5 * a for w, a in zip(widths, alone, strict=True))
    assert np.mean(widths[4:]) > 1.2 * np.mean(widths[:4])  # once: σ, twice: σ/√2


def test_missing_cells_take_their_context_out():
    cells = [t for t in trainings() if t.levels != {"size": "large", "up": "b"}]
    sample = measure_cells(cells, FACTORS, seed=0, resamples=100)
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


def test_means_of_two_factors_average_the_rest():
    levels = {**FACTORS, "loss": ("x", "y")}
    cells = [
        Training(levels={**t.levels, "loss": loss}, seed=t.seed, table=t.table.assign(dice=t.table["dice"] + shift))
        for t in trainings()
        for loss, shift in (("x", 0.0), ("y", 0.02))
    ]
    sample = measure_cells(cells, levels, seed=0, resamples=50)
    means, n, total = two_way_means(sample, "size", "up")
    assert (n, total, len(means)) == (2, 2, 6)
    single = dict(zip(sample.cells, sample.draws.estimate[:, 0], strict=True))
    expected = np.mean([single["small", "b", loss] for loss in ("x", "y")])
    assert means["small", "b"].estimate == pytest.approx(expected)
    assert np.mean(list(seed_means(sample, "up")["b"].values())) == pytest.approx(
        {e.level: e for e in level_means(sample, "up")}["b"].estimate
    )
    holed = [t for t in cells if t.levels != {"size": "large", "up": "b", "loss": "y"}]
    means, n, total = two_way_means(measure_cells(holed, levels, seed=0, resamples=50), "size", "up")
    assert (n, total, len(means)) == (1, 2, 6), "a hole takes its context out"


def test_nothing_is_compared_without_a_complete_context():
    kept = [("small", "a"), ("middle", "b")]
    cells = [t for t in trainings() if tuple(t.levels.values()) in kept]
    sample = measure_cells(cells, FACTORS, seed=0, resamples=50)
    assert level_means(sample, "size") == differences(sample, "size", "small") == []
    assert lead(sample, "size") is None
    assert trend(sample, "size", {"small": 1, "middle": 2}) is None
    assert interactions(sample, {"size": "small", "up": "a"}) == []


def test_a_level_never_trained_does_not_hide_the_others():
    cells = [t for t in trainings() if t.levels["size"] != "large"]
    sample = measure_cells(cells, FACTORS, seed=0, resamples=50)
    assert [e.level for e in level_means(sample, "size")] == ["small", "middle"]
    assert differences(sample, "size", "large") == []


def test_calibration_is_a_factor_within_trainings():
    sample = measure_cells(trainings(gain=0.05), FACTORS, variants=tuple(VARIANTS), seed=0, resamples=300)
    assert (len(sample.cells), sample.n_trainings) == (12, 12)
    (effect,) = differences(sample, "calibration", "calibrated")
    assert (effect.level, effect.n_trainings, effect.contexts) == ("uncalibrated", 12, 6)
    # the same networks on the same scans: seeds and patients cancel exactly
    assert (effect.estimate, effect.low, effect.high) == pytest.approx((-0.05, -0.05, -0.05))
    plain = measure_cells(trainings(gain=0.05), FACTORS, seed=0, resamples=300)
    assert [e.estimate for e in cell_means(plain)] == pytest.approx([e.estimate for e in cell_means(sample)[::2]])


def test_lead_names_the_highest_level_and_how_often_it_is(balanced):
    found = lead(balanced, "size")
    assert (found.best.level, found.lead.baseline) == ("small", "middle")
    means = {e.level: e.estimate for e in level_means(balanced, "size")}
    assert found.lead.estimate == pytest.approx(means["small"] - means["middle"])
    assert found.highest_share == 1.0
    level = lead(measure_cells(trainings(seed_sd=0.3), FACTORS, seed=0, resamples=500), "size")
    assert 0.3 < level.highest_share < 0.99


def test_four_patients_have_no_interval():
    sample = measure_cells(trainings(patients=4), FACTORS, seed=0, resamples=50)
    effect = differences(sample, "up", "a")[0]
    assert np.isfinite(effect.estimate)
    assert np.isnan([effect.low, effect.high]).all()
    assert np.isnan(lead(sample, "up").highest_share)


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
        sample = measure_cells(cells, names, seed=run, resamples=200)
        effect = differences(sample, "f", "u")[0]  # truth: 0
        covered.append(effect.low <= 0 <= effect.high)
        widths.append((effect.high - effect.low) / (2 * 1.96))
        spread.append(effect.estimate)
    assert 0.915 <= np.mean(covered) <= 0.995  # 0.95 less 3 binomial errors; noise of scans widens
    assert 0.95 < np.mean(widths) / np.std(spread) < 1.35
