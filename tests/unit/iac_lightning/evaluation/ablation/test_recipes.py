from __future__ import annotations

from typing import Any

import pandas as pd

from iac_lightning.config.reading import load_experiment
from iac_lightning.config.stored import decisive_settings
from iac_lightning.evaluation.ablation.recipes import (
    CNN,
    MAE_CNN,
    MAE_VIT,
    NO_TRANSFORMER,
    SCRATCH_VIT,
    Candidate,
    absent_families,
    family,
    family_pairs,
    group_recipes,
    patch_sets,
    patch_voxels,
    pretraining_pairs,
    recipe_settings,
    transformer_pairs,
    upsampling_pairs,
)
from tests.synthetic_sweep import REPOSITORY

MAE = "pretrain/mae.yaml"
VIT, SCRATCH, BASELINE = "finetune/vit_mae.yaml", "finetune/vit_scratch.yaml", "baselines/cnn.yaml"


def settings(experiment: str, *overrides: str) -> dict[str, Any]:
    return decisive_settings(load_experiment(REPOSITORY / "experiments" / experiment, overrides))


def candidate(experiment: str, *overrides: str, before: tuple[str, ...] | None = ()) -> Candidate:
    known = settings(MAE, *before) if experiment == VIT and before is not None else None
    return Candidate(settings=settings(experiment, *overrides), pretraining=known, table=pd.DataFrame())


def test_families() -> None:
    assert [family(settings(e)) for e in (VIT, SCRATCH, BASELINE)] == [MAE_VIT, SCRATCH_VIT, CNN]


def test_families_without_a_transformer_and_with_a_pretrained_cnn() -> None:
    flat, begun = "model.vit.depth=0", "init_from=runs/mae_cnn"
    assert [family(settings(e, o)) for e, o in ((SCRATCH, flat), (VIT, flat), (BASELINE, begun))] == [
        NO_TRANSFORMER,
        NO_TRANSFORMER,
        MAE_CNN,
    ]


def test_a_transformer_is_compared_with_the_network_that_lacks_nothing_else() -> None:
    scratch, flat = candidate(SCRATCH), candidate(SCRATCH, "model.vit.depth=0")
    ((first, second),) = transformer_pairs(group_recipes([flat, scratch]))
    assert (first.family, second.family) == (SCRATCH_VIT, NO_TRANSFORMER)
    begun = candidate(VIT)
    begun_flat = candidate(VIT, "model.vit.depth=0", before=("model.vit.depth=0",))
    ((first, _),) = transformer_pairs(group_recipes([begun, begun_flat]))
    assert first.family == MAE_VIT
    assert transformer_pairs(group_recipes([begun, flat])) == []  # pre-training differs as well
    assert transformer_pairs(group_recipes([candidate(SCRATCH, "optimizer.lr=0.5"), flat])) == []
    assert transformer_pairs(group_recipes([candidate(SCRATCH, "trainer.max_epochs=3"), flat])) == []


def test_networks_without_a_transformer_are_no_vits_of_the_claims() -> None:
    flat = [candidate(SCRATCH, "model.vit.depth=0", f"model.vit.patch_size={p}") for p in ("[4,4,4]", "[8,8,8]")]
    assert patch_sets(group_recipes(flat)) == []
    names = ("transposed", "interpolation")
    flat = [candidate(SCRATCH, "model.vit.depth=0", f"model.decoder.upsampling={name}") for name in names]
    assert upsampling_pairs(group_recipes(flat)) == []
    assert family_pairs(group_recipes([*flat, candidate(BASELINE)]), SCRATCH_VIT) == []


def test_a_pretraining_is_compared_with_scratch_whatever_the_optimiser() -> None:
    same = ("data.sampling.samples_per_epoch=100", "trainer.max_epochs=2")
    begun, scratch = candidate(VIT, *same, "optimizer.lr=0.5"), candidate(SCRATCH, *same)
    ((first, second),) = pretraining_pairs(group_recipes([scratch, begun]), MAE_VIT, SCRATCH_VIT)
    assert (first.family, second.family) == (MAE_VIT, SCRATCH_VIT)
    longer = candidate(SCRATCH, *same, "trainer.max_epochs=9")
    assert pretraining_pairs(group_recipes([longer, begun]), MAE_VIT, SCRATCH_VIT) == []
    cnns = group_recipes([candidate(BASELINE, "init_from=runs/mae_cnn"), candidate(BASELINE)])
    ((first, second),) = pretraining_pairs(cnns, MAE_CNN, CNN)
    assert first.settings["pretraining"] == "MAE"
    assert pretraining_pairs(cnns, MAE_VIT, SCRATCH_VIT) == []


def test_only_settings_of_the_own_kind_of_network_count() -> None:
    cnn, vit = recipe_settings(candidate(BASELINE)), recipe_settings(candidate(VIT))
    assert not any(k.startswith(("model.vit.", "model.decoder.", "model.mae.", "pretraining")) for k in cnn)
    assert not any(k.startswith(("model.cnn.", "model.mae.", "pretraining.loss.")) for k in vit)
    assert not {"name", "seed", "init_from"} & (set(cnn) | set(vit))
    assert vit["pretraining"] == "MAE"
    assert vit["pretraining.model.mae.mask_ratio"] == settings(MAE)["model.mae.mask_ratio"]
    unknown = recipe_settings(candidate(VIT, before=None))
    assert [k for k in unknown if k.startswith("pretraining")] == ["pretraining"]


def test_seeds_of_a_recipe_come_together_in_order() -> None:
    cells = [candidate(SCRATCH, f"seed={seed}", f"name=run{seed}") for seed in (2, 0, 1)]
    (recipe,) = group_recipes(cells)
    assert [c.settings["seed"] for c in recipe.trainings] == [0, 1, 2]
    assert [c.name for c in recipe.trainings] == ["run0", "run1", "run2"]
    assert len(group_recipes([*cells, candidate(SCRATCH, "optimizer.lr=0.5")])) == 2
    assert len(group_recipes([*cells, candidate(SCRATCH, "model.cnn.encoder=residual")])) == 1, "a ViT has no CNN"


def test_patch_sets_need_two_volumes_and_their_own_pretraining() -> None:
    def patched(size: str, before: str) -> Candidate:
        return candidate(VIT, f"model.vit.patch_size={size}", before=(f"model.vit.patch_size={before}",))

    small, large = patched("[4,4,4]", "[4,4,4]"), patched("[8,8,8]", "[8,8,8]")
    (members,) = patch_sets(group_recipes([small, large]))
    assert sorted(map(patch_voxels, members)) == [64, 512]
    assert patch_sets(group_recipes([small, patched("[8,8,8]", "[4,4,4]")])) == []
    assert patch_sets(group_recipes([small, candidate(BASELINE)])) == []
    assert patch_sets(group_recipes([patched("[4,4,8]", "[4,4,8]"), patched("[8,4,4]", "[8,4,4]")])) == []


def test_upsampling_pairs_are_interpolation_first() -> None:
    names = ("transposed", "interpolation", "pixelshuffle")
    cells = [candidate(SCRATCH, f"model.decoder.upsampling={name}") for name in names]
    ((first, second),) = upsampling_pairs(group_recipes(cells))
    assert first.settings["model.decoder.upsampling"] == "interpolation"
    assert second.settings["model.decoder.upsampling"] == "transposed"
    assert upsampling_pairs(group_recipes([cells[0], cells[2]])) == []
    other = candidate(SCRATCH, "model.decoder.upsampling=interpolation", "optimizer.lr=0.5")
    assert upsampling_pairs(group_recipes([cells[0], other])) == []


def test_vit_and_cnn_share_data_and_loss_alone() -> None:
    vit, cnn = candidate(VIT, "optimizer.lr=0.5", "trainer.max_epochs=3"), candidate(BASELINE)
    ((first, second),) = family_pairs(group_recipes([cnn, vit]), MAE_VIT)
    assert (first.family, second.family) == (MAE_VIT, CNN)
    assert family_pairs(group_recipes([vit, candidate(BASELINE, "data.window_hu=[-100,900]")]), MAE_VIT) == []
    assert absent_families(group_recipes([vit]), MAE_VIT) == (CNN,)
    assert absent_families(group_recipes([vit, cnn]), SCRATCH_VIT) == (SCRATCH_VIT,)
