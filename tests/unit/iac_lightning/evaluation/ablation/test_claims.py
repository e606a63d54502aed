from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.stored import decisive_settings
from iac_lightning.evaluation.ablation.claims import (
    CONTRADICTED,
    NOT_TESTED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Lack,
    assess_claims,
    verdict,
    with_enough_patients,
)
from iac_lightning.evaluation.ablation.recipe_statistics import Value
from iac_lightning.evaluation.ablation.recipes import MAE_VIT, SCRATCH_VIT, Candidate, group_recipes
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, compare_risk, cutoffs_from_development
from iac_lightning.evaluation.statistics.intervals import Interval, mean_ci
from iac_lightning.evaluation.statistics.thickness import slope_ci, within_patient_slope_ci
from tests.synthetic_sweep import REPOSITORY, invented

VIT, SCRATCH, CNN = "finetune/vit_mae.yaml", "finetune/vit_scratch.yaml", "baselines/cnn.yaml"
DRAW = {"seed": 3, "resamples": 1_000}


def candidate(experiment: str, *overrides: str, seed: int = 0, patch=None, dev=True, **table) -> Candidate:
    settings = [f"seed={seed}", *overrides]
    if patch:
        settings.append(f"model.vit.patch_size={patch}")
    key = (seed, sum(map(ord, experiment + "".join(settings))))
    rows = invented(**{"mean": 0.6, "key": key, "patients": 20, **table})
    before = None
    if experiment == VIT:
        before = [f"model.vit.patch_size={patch}"] if patch else []
        before = decisive_settings(load_experiment(REPOSITORY / "experiments/pretrain/mae.yaml", before))
    return Candidate(
        settings=decisive_settings(load_experiment(REPOSITORY / "experiments" / experiment, settings)),
        pretraining=before,
        table=rows,
        dev=rows.assign(patient_id="d" + rows["patient_id"]) if dev else None,
    )


def lesions(c: Candidate):
    return c.table[c.table["has_lesion"]].sort_values("series_id")


def test_one_vit_and_one_cnn_give_the_values_of_the_paired_functions():
    vit = candidate(VIT, mean=0.65, per_mm=-0.01, bias=0.1)
    cnn = candidate(CNN, mean=0.6, per_mm=-0.03, bias=0.9)
    ahead, patches, upsampling, thick, risk = assess_claims([vit, cnn], **DRAW)
    a, b = lesions(vit), lesions(cnn)
    difference = (a["dice"] - b["dice"]).to_numpy()
    expected = mean_ci(difference, a["patient_id"], "difference")
    assert_close(ahead.value, expected)
    assert (ahead.verdict, ahead.n_cells, ahead.n_trainings, ahead.n_patients) == (SUPPORTED, 2, 2, 18)
    assert_close(thick.value, slope_ci(difference, a["slice_thickness_mm"], a["patient_id"]))
    assert thick.verdict == SUPPORTED
    assert thick.one_seed
    change = compare_risk(vit.table, cnn.table, cutoffs_from_development(vit.dev)).relative_change
    assert risk.value.estimate == pytest.approx(100 * change.estimate)
    assert risk.value.low < risk.value.estimate < risk.value.high < 0
    assert risk.verdict == SUPPORTED
    assert (patches.verdict, upsampling.verdict) == (NOT_TESTED, NOT_TESTED)
    assert (patches.lack, upsampling.lack) == (Lack("patch sizes"), Lack("upsamplings"))
    assert np.isnan(patches.value).all()
    for claim in (ahead, thick):
        assert claim.sides[0].estimate - claim.sides[1].estimate == pytest.approx(claim.value.estimate)
    vit_share, cnn_share = (side.estimate for side in risk.sides)
    assert 100 * (vit_share - cnn_share) / cnn_share == pytest.approx(risk.value.estimate)
    assert ahead.sides[0].estimate == pytest.approx(100 * a["dice"].mean())


def assert_close(value: Value, expected: Interval) -> None:
    """The same estimate in per cent, and an interval as wide as that without seeds but for the noise of draws."""
    assert value.estimate == pytest.approx(100 * expected.estimate)
    assert value.high - value.low == pytest.approx(100 * (expected.high - expected.low), rel=0.25)
    assert value.low < value.estimate < value.high


def test_verdicts():
    assert verdict(0.1, 0.2, 1) == verdict(-0.2, -0.1, -1) == SUPPORTED
    assert verdict(0.1, 0.2, -1) == verdict(-0.2, -0.1, 1) == CONTRADICTED
    assert verdict(-0.1, 0.2, 1) == verdict(0.0, 0.2, 1) == verdict(float("nan"), float("nan"), 1) == UNDECIDED


def test_a_better_cnn_contradicts():
    found = assess_claims([candidate(VIT, mean=0.5, bias=0.8), candidate(CNN, mean=0.7)], **DRAW)
    assert found[0].verdict == found[4].verdict == CONTRADICTED


def test_patches_and_upsampling_average_over_sets_alike_in_all_else():
    sizes = {"[4,4,4]": 64, "[8,8,8]": 512}
    cells = [
        candidate(
            VIT, f"model.decoder.upsampling={up}", patch=size, seed=seed, mean=0.7 - 0.02 * np.log2(n / 64) + gain
        )
        for size, n in sizes.items()
        for up, gain in (("transposed", 0.0), ("interpolation", 0.04))
        for seed in (0, 1)
    ]
    assert [len(r.trainings) for r in group_recipes(cells)] == [2, 2, 2, 2]
    # differs in two settings from each: in no pair, whatever its Dice
    stray = candidate(VIT, "model.decoder.upsampling=pixelshuffle", "optimizer.lr=0.01", patch="[16,16,8]", mean=0.1)
    _, patches, upsampling, *_ = assess_claims([*cells, stray], **DRAW)
    mean = {
        (c.settings["model.vit.patch_size"][0], c.settings["model.decoder.upsampling"], c.settings["seed"]): lesions(c)[
            "dice"
        ].mean()
        for c in cells
    }
    slopes = [(mean[8, up, s] - mean[4, up, s]) / 3 for up in ("transposed", "interpolation") for s in (0, 1)]
    assert patches.value.estimate == pytest.approx(100 * np.mean(slopes))
    gains = [mean[p, "interpolation", s] - mean[p, "transposed", s] for p in (4, 8) for s in (0, 1)]
    assert upsampling.value.estimate == pytest.approx(100 * np.mean(gains))
    assert (patches.n_cells, patches.n_trainings) == (upsampling.n_cells, upsampling.n_trainings) == (4, 8)
    assert (patches.n_sets, upsampling.n_sets) == (2, 2)
    assert patches.patch_voxels == (64, 512)
    assert not patches.one_seed


def test_other_pretraining_settings_are_another_thing():
    small, large = candidate(VIT, patch="[4,4,4]"), candidate(VIT, patch="[8,8,8]")
    assert assess_claims([small, large], **DRAW)[1].verdict != NOT_TESTED
    longer = load_experiment(
        REPOSITORY / "experiments/pretrain/mae.yaml", ["model.vit.patch_size=[8,8,8]", "trainer.max_epochs=99"]
    )
    large = replace(large, pretraining=decisive_settings(longer))
    assert assess_claims([small, large], **DRAW)[1].verdict == NOT_TESTED


def test_vit_and_cnn_on_other_data_are_not_compared():
    found = assess_claims([candidate(VIT), candidate(CNN, "data.window_hu=[-100,900]")], **DRAW)
    assert found[0].verdict == NOT_TESTED
    assert found[0].lack == Lack("pairs")
    only = assess_claims([candidate(SCRATCH), candidate(CNN)], **DRAW)
    assert only[0].lack == Lack("families", (MAE_VIT,))
    assert only[3].family == SCRATCH_VIT  # slices need a ViT of any kind


def test_simulated_thicknesses_are_taken_within_patients():
    rng = np.random.default_rng([1])
    found = []
    for k, experiment in enumerate((VIT, CNN)):
        c = candidate(experiment)
        first = c.table.groupby("patient_id").head(1)
        versions = [first.assign(slice_thickness_mm=t, dice=0.8 - 0.01 * (1 + k) * t) for t in (1.0, 3.0, 5.0)]
        stress = pd.concat(versions, ignore_index=True)
        stress["dice"] += rng.normal(0, 0.005, len(stress))
        found.append(replace(c, stress=stress))
    thick = assess_claims(found, **DRAW)[3]
    a, b = (f.stress[f.stress["has_lesion"]].sort_values(["series_id", "slice_thickness_mm"]) for f in found)
    expected = within_patient_slope_ci((a["dice"] - b["dice"]).to_numpy(), a["slice_thickness_mm"], a["patient_id"])
    assert_close(thick.value, expected)
    assert thick.value.estimate == pytest.approx(1.0, abs=0.3)
    assert thick.simulated
    found[0] = replace(found[0], stress=found[0].stress.iloc[1:])  # other scans than the CNN's: as they were acquired
    assert not assess_claims(found, **DRAW)[3].simulated


def test_little_dice_has_little_to_lose():
    rng = np.random.default_rng([2])

    def thick(vit: tuple[float, float], cnn: tuple[float, float]):
        """The claim where Dice at 1 mm and what it loses per mm are these."""
        found = []
        for experiment, (dice, loss) in ((VIT, vit), (CNN, cnn)):
            c = candidate(experiment)
            first = c.table.groupby("patient_id").head(1)
            versions = [first.assign(slice_thickness_mm=t, dice=dice - loss * (t - 1)) for t in (1.0, 3.0, 5.0)]
            stress = pd.concat(versions, ignore_index=True)
            stress["dice"] += rng.normal(0, 0.002, len(stress))
            found.append(replace(c, stress=stress))
        return assess_claims(found, **DRAW)[3]

    weak = thick((0.1, 0.01), (0.4, 0.04))  # a quarter of the Dice, a quarter of the loss
    assert weak.value.low > 0
    assert weak.relative.estimate == pytest.approx(0, abs=1)
    assert weak.verdict == UNDECIDED
    flat = thick((0.4, 0.01), (0.4, 0.04))  # 1 of .38 against 4 of .32 points
    assert flat.relative.estimate == pytest.approx(100 * (-0.01 / 0.38 + 0.04 / 0.32), abs=1)
    assert flat.verdict == SUPPORTED


def test_risk_needs_cutoffs_or_a_development_split():
    cells = [candidate(VIT, dev=False), candidate(CNN, dev=False)]
    assert assess_claims(cells, **DRAW)[4].lack == Lack("development")
    cutoffs = RiskCutoffs(low_mm3=50, medium_mm3=100, source="fixed in advance")
    found = assess_claims(cells, cutoffs=cutoffs, **DRAW)[4]
    assert found.verdict != NOT_TESTED
    assert found.cutoffs is cutoffs
    few = [replace(c, dev=c.table.iloc[:1]) for c in cells]
    lack = assess_claims(few, **DRAW)[4].lack
    assert lack.what == "cut-offs"
    assert "development patients" in lack.names[0]


def test_one_patient_is_undecided():
    found = assess_claims([candidate(VIT, patients=1, dev=False), candidate(CNN, patients=1, dev=False)], **DRAW)
    assert found[0].verdict == UNDECIDED
    assert np.isfinite(found[0].value.estimate)


def test_other_scans_are_refused():
    with pytest.raises(UserError, match="same scans"):
        assess_claims([candidate(VIT), candidate(CNN, cohort=1)], **DRAW)


def test_nothing_evaluated():
    assert {c.verdict for c in assess_claims([], **DRAW)} == {NOT_TESTED}


def test_one_thickness_has_no_slope():
    cells = [candidate(VIT), candidate(CNN)]
    for cell in cells:
        cell.table["slice_thickness_mm"] = 5.0
    assert assess_claims(cells, **DRAW)[3].lack == Lack("thicknesses")


def test_few_patients_decide_nothing():
    one = Claim(name="vit ahead", verdict=SUPPORTED, n_patients=5)
    few = with_enough_patients(one)
    assert (few.verdict, few.too_few_patients) == (UNDECIDED, True)
    assert with_enough_patients(replace(one, n_patients=6)) == replace(one, n_patients=6)
