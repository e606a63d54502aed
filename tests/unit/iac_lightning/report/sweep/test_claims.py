from __future__ import annotations

from dataclasses import replace

import pytest

from iac_lightning.evaluation.ablation.claims import CLAIM_SPECS, CONTRADICTED, SUPPORTED, UNDECIDED, Claim, Lack
from iac_lightning.evaluation.ablation.recipe_statistics import Value
from iac_lightning.evaluation.ablation.recipes import CNN, MAE_VIT, SCRATCH_VIT
from iac_lightning.evaluation.clinical.risk import RiskCutoffs
from iac_lightning.report.sweep.claims import WORDS, claim_rows, claims_table, compared, ours, remark

BASIS = {"n_cells": 2, "n_trainings": 4, "n_scans": 18, "n_patients": 9}
AHEAD = Claim(
    name="vit ahead",
    value=Value(3.2, -0.04, 6.51),
    sides=(Value(65.1, 62.0, 68.4), Value(61.9, 59.0, 65.0)),
    verdict=UNDECIDED,
    n_sets=1,
    family=MAE_VIT,
    **BASIS,
)


def test_every_claim_has_words() -> None:
    assert list(WORDS) == [spec.name for spec in CLAIM_SPECS]


def test_vit_ahead() -> None:
    assert ours(AHEAD) == "Dice 65.1 [62.0; 68.4], +3.2 [+0.0; +6.5] points ahead"  # −0.04 rounds to no minus
    assert compared(AHEAD) == "the calibrated ViT against the nnU-Net-style CNN of this project; mean of 1 pair"
    nan = float("nan")
    alone = replace(AHEAD, value=Value(-3.2, nan, nan), sides=(Value(65.1, nan, nan), Value(1.0, nan, nan)))
    assert ours(alone) == "Dice 65.1, −3.2 points ahead"


def test_small_patches() -> None:
    claim = Claim(name="small patches", value=Value(-1.26, -2.0, -0.5), n_sets=2, patch_voxels=(64, 256, 512), **BASIS)
    assert ours(claim) == "−1.3 [−2.0; −0.5] points per doubling"
    assert compared(claim) == (
        "3 volumes from 64 to 512 voxels, slope averaged over 2 sets of ViTs alike but for the patch"
    )


def test_interpolation() -> None:
    claim = replace(AHEAD, name="interpolation", n_sets=2)
    assert ours(claim) == "+3.2 [+0.0; +6.5] points"
    assert compared(claim) == "ViTs alike but for the upsampling; mean of 2 pairs"


def test_thick_slices() -> None:
    claim = Claim(
        name="thick slices",
        value=Value(1.0, 0.5, 1.5),
        sides=(Value(-1.0, -1.2, -0.8), Value(-2.0, -2.2, -1.8)),
        n_sets=1,
        family=SCRATCH_VIT,
        simulated=True,
        **BASIS,
    )
    assert ours(claim) == (
        "ViT −1.00 [−1.20; −0.80], CNN −2.00 [−2.20; −1.80]; difference +1.00 [+0.50; +1.50] points per mm"
    )
    assert compared(claim) == (
        "ViT, from scratch against CNN, the same heads at simulated thicknesses (iac stress); mean of 1 pair"
    )
    assert "scans as they were acquired" in compared(replace(claim, simulated=False))
    undecided = replace(claim, relative=Value(2.0, -1.0, 5.0), verdict=UNDECIDED)
    assert ours(undecided).endswith("points per mm; of its own Dice +2.0 [−1.0; +5.0] % per mm")
    assert remark(undecided) == "little Dice has little to lose: in % of its own Dice per mm no difference is told"
    assert remark(replace(undecided, verdict=SUPPORTED)) == ""


def test_risk_groups() -> None:
    claim = replace(
        AHEAD,
        name="risk groups",
        value=Value(-45.6, -60.0, -20.0),
        sides=(Value(10.0, 5.0, 15.0), Value(18.38, 12.0, 25.0)),
        cutoffs=RiskCutoffs(low_mm3=40, medium_mm3=123.4, source="fixed in advance"),
    )
    assert ours(claim) == "−46 [−60; −20] % (10.0 % of scans misclassified against 18.4 %)"
    assert compared(claim) == (
        "ViT, MAE pre-trained against CNN; none ≤ 0 < low ≤ 40 < medium ≤ 123 < high mm³ (fixed in advance); mean of 1 "
        "pair"
    )


@pytest.mark.parametrize(
    ("lack", "expected"),
    [
        (Lack("families", (MAE_VIT, CNN)), "there is no ViT, MAE pre-trained and no CNN"),
        (Lack("pairs"), "the same data settings and loss; those here differ in them"),
        (
            Lack("patch sizes"),
            "patch_size alone (and in that of their pre-training), in two volumes at least",
        ),
        (Lack("upsamplings"), "interpolation and transposed that differ in nothing else"),
        (Lack("thicknesses"), "needs scans with lesions of at least two slice thicknesses"),
        (Lack("development"), "needs an evaluation of the development split (iac evaluate RUN --split dev), or fixed"),
        (Lack("cut-offs", ("too few volumes",)), "needs cut-offs: too few volumes"),
    ],
)
def test_what_is_needed(lack: Lack, expected: str) -> None:
    claim = Claim(name="vit ahead", lack=lack)
    assert expected in compared(claim)
    assert compared(claim).startswith("needs ")
    assert ours(claim) == ""


def test_remarks() -> None:
    assert remark(AHEAD) == ""
    assert remark(replace(AHEAD, n_patients=5, one_seed=True, too_few_patients=True)) == (
        "one seed a cell: the interval covers patients only; 5 patients are too few to decide (at least 6)"
    )


def test_rows_and_table() -> None:
    claims = [replace(AHEAD, verdict=SUPPORTED, one_seed=True), Claim(name="risk groups", lack=Lack("development"))]
    first, second = claim_rows(claims)
    assert list(first) == [
        "claim",
        "paper",
        "measure",
        "ours",
        "estimate",
        "low",
        "high",
        "verdict",
        "compared",
        "n_cells",
        "n_trainings",
        "n_scans",
        "n_patients",
        "remark",
    ]
    assert (first["estimate"], first["low"], first["high"], first["n_scans"]) == (3.2, -0.04, 6.51, 18)
    assert (second["ours"], second["verdict"]) == ("", "not tested here")
    table = claims_table(claims, "test split, seed 0")
    assert table.holes == [False, True]
    assert table.rows[0][3:] == [
        SUPPORTED,
        "The calibrated ViT against the nnU-Net-style CNN of this project; mean of 1 pair; one seed a cell: the "
        "interval covers patients only",
        "2, 4, 18, 9",
    ]
    assert (table.rows[1][2], table.rows[1][5]) == ("–", "–")
    assert table.legend.startswith("Test split, seed 0. Points are Dice × 100.")
    assert claims_table([replace(AHEAD, verdict=CONTRADICTED)], "x").holes == [False]
