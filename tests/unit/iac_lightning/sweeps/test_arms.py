"""The sweeps that are there hold the arms by which transformer and pre-training are judged, alike in all else."""

from __future__ import annotations

import pandas as pd
import pytest

from iac_lightning.config.stored import decisive_settings
from iac_lightning.evaluation.ablation.recipes import (
    CNN,
    MAE_CNN,
    MAE_VIT,
    SCRATCH_VIT,
    Candidate,
    Recipe,
    group_recipes,
    pretraining_pairs,
    transformer_pairs,
)
from iac_lightning.sweeps.cells import cells
from iac_lightning.sweeps.spec import read_sweep
from tests.synthetic_sweep import REPOSITORY


def recipes_of(sweep: str) -> list[Recipe]:
    planned = cells(read_sweep(REPOSITORY / "experiments" / f"{sweep}.yaml", ["seeds=[0]"]))
    settings = {c.name: decisive_settings(c.config) for c in planned}
    kinds = {c.name: c.kind for c in planned}
    return group_recipes(
        [
            Candidate(
                settings=settings[c.name],
                pretraining=next((settings[n] for n in c.needs if kinds.get(n) == "pretrain"), None),
                table=pd.DataFrame(),
            )
            for c in planned
            if c.kind != "pretrain"
        ]
    )


@pytest.mark.parametrize(
    ("sweep", "transformers", "pretrainings"),
    [
        ("sweeps/models", 1, 1),
        ("sweeps/models_cpu", 1, 1),
        ("sweeps/decoder", 1, 0),
        ("sweeps/decoder_cpu", 1, 0),
        ("sweeps/pretraining_x_labels", 4, 4),
        ("sweeps/pretraining_x_labels_cpu", 4, 4),
        ("sweeps/patch_size_x_upsampling_cpu", 3, 0),
        ("study/study", 1, 1),
        ("study/study_cpu", 1, 1),
        ("study/study_cpu_hour", 1, 1),
    ],
)
def test_arms_are_alike_but_for_what_they_judge(sweep: str, transformers: int, pretrainings: int) -> None:
    recipes = recipes_of(sweep)
    assert len(transformer_pairs(recipes)) == transformers
    assert len(pretraining_pairs(recipes, MAE_VIT, SCRATCH_VIT)) == pretrainings
    assert len(pretraining_pairs(recipes, MAE_CNN, CNN)) == sweep.startswith("study/")
