from __future__ import annotations

from dataclasses import replace

import pandas as pd

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import decisive_settings
from iac_lightning.evaluation.ablation.recipe_statistics import Value
from iac_lightning.evaluation.ablation.recipes import CNN, MAE_CNN, NO_TRANSFORMER, SCRATCH_VIT, Candidate
from iac_lightning.evaluation.ablation.worth import Worth
from iac_lightning.report.worth import WORTH_COLUMNS, missing_arms, worth_rows, worth_sentence, worth_table

ONE = Worth(
    part="transformer",
    families=(SCRATCH_VIT, NO_TRANSFORMER),
    difference=Value(0.031, -0.01, 0.07),
    sides=(Value(0.6, 0.5, 0.7), Value(0.569, 0.5, 0.6)),
    plain=Value(0.02, 0.001, 0.04),
    n_pairs=1,
    n_trainings=2,
    n_scans=30,
    n_patients=18,
    one_seed=True,
)
SURE = Value(0.031, 0.01, 0.07)


def test_an_interval_with_zero_is_undecided() -> None:
    assert worth_sentence(ONE) == (
        "The transformer is worth +0.031 [−0.010; +0.070] Dice (of a threshold alone +0.020 [+0.001; +0.040]): "
        "undecided, and each was trained once. ViT, from scratch against the same network without it."
    )


def test_one_seed_establishes_nothing_beyond_its_networks() -> None:
    once, often = replace(ONE, difference=SURE), replace(ONE, difference=SURE, one_seed=False, plain=None, n_pairs=2)
    assert "more than chance of patients, for networks that were trained once each" in worth_sentence(once)
    assert "established" not in worth_sentence(once)
    assert worth_sentence(often) == (
        "The transformer is worth +0.031 [+0.010; +0.070] Dice: established over patients and seeds. ViT, from scratch "
        "against the same network without it, mean of 2 pairs."
    )
    assert "undecided, 5 patients are too few" in worth_sentence(replace(often, n_patients=5))


def test_pretraining_names_what_it_was_compared_with() -> None:
    of_cnn = replace(ONE, part="pre-training", families=(MAE_CNN, CNN))
    assert worth_sentence(of_cnn).startswith("Pre-training is worth +0.031")
    assert worth_sentence(of_cnn).endswith("CNN, MAE pre-trained against CNN.")


def test_rows_of_the_files() -> None:
    (row,) = worth_rows([replace(ONE, difference=SURE)])
    assert list(row) == list(WORTH_COLUMNS)
    assert (row["with"], row["dice_without"], row["low"], row["plain_high"]) == (SCRATCH_VIT, 0.569, 0.01, 0.04)
    assert row["verdict"] == "of these networks"
    assert worth_rows([replace(ONE, plain=None)])[0]["plain_difference"] is None
    table = worth_table([ONE], "30 scans")
    assert table.rows[0][4] == ("+0.031", "−0.010; +0.070")
    assert table.rows[0][6] == "undecided"
    assert all(len(cells) == len(table.header) for cells in table.rows)


def test_absent_arms_are_asked_for_where_there_is_a_vit() -> None:
    vit, cnn = ExperimentConfig(name="a"), ExperimentConfig(name="b")
    cnn.model.name = "cnn"
    vits, cnns = ([Candidate(settings=decisive_settings(config), table=pd.DataFrame())] for config in (vit, cnn))
    text = missing_arms([ONE], vits)
    assert "the pre-training (runs alike but for init_from" in text
    assert "model.vit.depth" not in text
    assert "model.vit.depth=0" in missing_arms([], vits)
    assert missing_arms([ONE, replace(ONE, part="pre-training")], vits) == ""
    assert missing_arms([], cnns) == ""
