from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from iac_lightning.config.reading import load_experiment
from iac_lightning.config.stored import decisive_settings
from iac_lightning.evaluation.ablation.recipe_statistics import Value
from iac_lightning.evaluation.ablation.recipes import CNN, MAE_CNN, MAE_VIT, NO_TRANSFORMER, SCRATCH_VIT, Candidate
from iac_lightning.evaluation.ablation.worth import decided, worths
from iac_lightning.evaluation.statistics.intervals import mean_ci
from tests.synthetic_sweep import REPOSITORY, invented

SCRATCH, BASELINE = "finetune/vit_scratch.yaml", "baselines/cnn.yaml"
DRAW = {"seed": 3, "resamples": 300}


def candidate(experiment: str, *overrides: str, mean: float = 0.6, seed: int = 0, **table: float) -> Candidate:
    key = (seed, sum(map(ord, experiment + "".join(overrides))))
    settings = decisive_settings(load_experiment(REPOSITORY / "experiments" / experiment, [*overrides, f"seed={seed}"]))
    return Candidate(settings=settings, table=invented(mean, key, patients=20, **table))


def lesions(c: Candidate) -> pd.DataFrame:
    return c.table[c.table["has_lesion"]].sort_values("series_id")


def test_one_training_each_gives_the_paired_difference_over_patients() -> None:
    vit, flat = candidate(SCRATCH, mean=0.66), candidate(SCRATCH, "model.vit.depth=0", mean=0.6)
    (found,) = worths([flat, vit], **DRAW)
    assert (found.part, found.families) == ("transformer", (SCRATCH_VIT, NO_TRANSFORMER))
    for value, column in ((found.difference, "dice"), (found.plain, "plain_dice")):
        difference = (lesions(vit)[column] - lesions(flat)[column]).to_numpy()
        expected = mean_ci(difference, lesions(vit)["patient_id"], "difference")
        assert value.estimate == pytest.approx(expected.estimate)
        assert value.high - value.low == pytest.approx(expected.high - expected.low, rel=0.2)
    assert found.sides[0].estimate == pytest.approx(lesions(vit)["dice"].mean())
    assert found.sides[1].estimate == pytest.approx(lesions(flat)["dice"].mean())
    assert found.one_seed
    assert (found.n_pairs, found.n_trainings, found.n_patients) == (1, 2, 18)
    assert decided(found.difference, found.n_patients)


def test_seeds_are_averaged_and_widen_the_interval() -> None:
    vits = [candidate(SCRATCH, mean=0.6, seed=s, seed_sd=0.05) for s in (0, 1, 2)]
    flats = [candidate(SCRATCH, "model.vit.depth=0", mean=0.6, seed=s, seed_sd=0.05) for s in (0, 1, 2)]
    (found,) = worths([*vits, *flats], **DRAW)
    (single,) = worths([vits[0], flats[0]], **DRAW)
    means = [np.mean([lesions(c)["dice"].mean() for c in arm]) for arm in (vits, flats)]
    assert found.difference.estimate == pytest.approx(means[0] - means[1])
    assert not found.one_seed
    assert found.n_trainings == 6
    assert found.difference.high - found.difference.low > single.difference.high - single.difference.low


def test_pretraining_of_vit_and_cnn_each_by_itself() -> None:
    arms = [
        candidate(SCRATCH, "init_from=runs/mae", mean=0.7),
        candidate(SCRATCH, mean=0.6),
        candidate(BASELINE, "init_from=runs/mae_cnn", mean=0.65),
        candidate(BASELINE, mean=0.64),
    ]
    vit, cnn = worths(arms, **DRAW)
    assert (vit.part, vit.families, cnn.families) == ("pre-training", (MAE_VIT, SCRATCH_VIT), (MAE_CNN, CNN))
    assert vit.difference.estimate > 0.08 > cnn.difference.estimate
    assert worths(arms[1:3], **DRAW) == []


def test_without_plain_masks_there_is_no_value_of_them() -> None:
    vit, flat = candidate(SCRATCH), candidate(SCRATCH, "model.vit.depth=0")
    (found,) = worths([vit, Candidate(settings=flat.settings, table=flat.table.drop(columns="plain_dice"))], **DRAW)
    assert found.plain is None


def test_an_interval_that_holds_zero_or_of_few_patients_decides_nothing() -> None:
    assert decided(Value(0.1, 0.01, 0.2), 6)
    assert decided(Value(-0.1, -0.2, -0.01), 6)
    assert not decided(Value(0.1, 0.01, 0.2), 5)
    assert not decided(Value(0.1, -0.01, 0.2), 60)
    assert not decided(Value(0.1, float("nan"), float("nan")), 60)
