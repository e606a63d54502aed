"""The schema as a tree of dotted keys."""

from __future__ import annotations

from omegaconf import OmegaConf

from iac_lightning.config.keys import (
    all_keys,
    complete_stored,
    default_of,
    fields_of,
    leaves,
    nearest_keys,
    tree_of_defaults,
    value_at,
)
from iac_lightning.config.model_schema import ModelConfig
from iac_lightning.config.schema import ExperimentConfig, LauncherConfig


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
    assert default_of("model.vit.patch_size") == (8, 8, 4)
    assert default_of("name") == "missing"  # required
    assert value_at(ExperimentConfig(seed=3), "seed") == 3


def test_presets_of_before_keep_their_sizes() -> None:
    stored = {"model.vit.preset": "small", "model.vit.dim": None, "model.vit.depth": 2, "model.vit.heads": None}
    complete_stored(stored)
    assert [stored[f"model.vit.{key}"] for key in ("dim", "depth", "heads")] == [384, 2, 6]
    assert stored["model.vit.mlp"] == "gelu"
    now = {"model.vit.preset": "small", "model.vit.dim": None, "model.vit.tokeniser": "conv"}
    complete_stored(now)
    assert now["model.vit.dim"] is None
    assert now["model.vit.tokeniser"] == "conv"


def test_who_changes_a_tree_of_defaults_changes_no_other() -> None:
    first, untouched = tree_of_defaults(), ExperimentConfig().data
    first.name, first.data.batch_size, first.data.grid.spacing_mm = "x", 77, (9.0, 9.0, 9.0)
    second = tree_of_defaults()
    assert second.data.batch_size == untouched.batch_size
    assert tuple(second.data.grid.spacing_mm) == untouched.grid.spacing_mm
    assert "name" in OmegaConf.missing_keys(second)
