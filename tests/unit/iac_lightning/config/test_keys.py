"""The schema as a tree of dotted keys."""

from __future__ import annotations

from iac_lightning.config.keys import all_keys, default_of, fields_of, leaves, nearest_keys, value_at
from iac_lightning.config.schema import ExperimentConfig, LauncherConfig, ModelConfig


def test_leaves_are_settings_and_keys_also_sections() -> None:
    assert {"model", "model.vit", "model.vit.dim"} <= set(all_keys(ExperimentConfig))
    assert {"model.vit.dim", "data.grid.spacing_mm"} <= set(leaves(ExperimentConfig))
    assert not {"model", "model.vit"} & set(leaves(ExperimentConfig))
    assert "SHORTHAND" not in fields_of(LauncherConfig)


def test_a_misspelt_key_finds_the_one_beside_it_then_the_same_word_elsewhere() -> None:
    assert nearest_keys("optimiser", ExperimentConfig, "") == ["optimizer"]
    assert nearest_keys("patch_size", ModelConfig, "model") == ["model.vit.patch_size"]
    assert nearest_keys("zzz", ExperimentConfig, "") == []


def test_defaults() -> None:
    assert default_of("model.vit.patch_size") == (8, 8, 8)
    assert default_of("name") == "missing"  # required
    assert value_at(ExperimentConfig(seed=3), "seed") == 3
