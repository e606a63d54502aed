"""The recipes: what a cluster runs, and that a processor's profile is the same thing, small."""

from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.config.batching import global_batch, learning_rate
from iac_lightning.config.model_schema import resolved_vit
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.remarks import remarks
from iac_lightning.config.schema import ExperimentConfig
from tests.integration.settings import REPOSITORY

FOLDER = REPOSITORY / "experiments"
RECIPES = sorted(
    str(path.relative_to(FOLDER).with_suffix(""))
    for room in ("pretrain", "finetune", "baselines")
    for path in (FOLDER / room).glob("*.yaml")
    if path.stem != "rule"  # which learns nothing
)
LONG = [name for name in RECIPES if name.endswith(("_full", "_base"))]
DAY = [name for name in RECIPES if name not in LONG]


def recipe(name: str, profile: str) -> ExperimentConfig:
    return load_experiment(FOLDER / f"{name}.yaml", [f"profile={profile}"])


def samples(config: ExperimentConfig) -> int:
    return config.data.sampling.samples_per_epoch * config.trainer.max_epochs


@pytest.mark.parametrize("name", RECIPES)
def test_a_gpus_recipe_is_long_wide_and_needs_no_remark(name: str) -> None:
    config = recipe(name, "gpu")
    assert samples(config) >= (16_000_000 if name in LONG else 1_600_000)
    assert config.data.batch_size == global_batch(config) >= 128  # on one GPU
    assert config.data.sampling.samples_per_epoch % config.data.batch_size == 0
    assert config.trainer.precision == "bf16-mixed"
    assert config.launcher.gpus_per_node == 1
    assert config.optimizer.layer_decay == 1
    assert config.name == name.partition("/")[2]
    assert remarks(config) == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_processors_profile_is_the_same_family_small(name: str) -> None:
    whole, small = recipe(name, "gpu"), recipe(name, "cpu")
    assert samples(small) <= 4000
    assert small.trainer.precision == "32-true"
    for key in ("name", "task", "init_from"):
        assert getattr(small, key) == getattr(whole, key)
    assert small.data.sampling.crop == whole.data.sampling.crop
    assert small.model.name == whole.model.name
    for key in ("tokeniser", "position", "mlp", "layer_scale", "patch_size", "initialisation"):
        assert getattr(small.model.vit, key) == getattr(whole.model.vit, key)
    for key in ("name", "upsampling", "normalise", "image", "tokeniser_skips"):
        assert getattr(small.model.decoder, key) == getattr(whole.model.decoder, key)
    assert small.model.cnn.encoder == whole.model.cnn.encoder
    assert small.optimizer.name == whole.optimizer.name


def test_vits_have_the_sources_values() -> None:
    for name in ("pretrain/mae", "finetune/vit_scratch", "finetune/vit_mae"):
        config = recipe(name, "gpu")
        optimizer = config.optimizer
        assert (optimizer.name, optimizer.betas, optimizer.weight_decay) == ("adamw", (0.9, 0.98), 0.05)
        assert (optimizer.schedule, optimizer.warmup_fraction) == ("poly", 0.05)
        assert optimizer.lr == (1e-4 if name == "finetune/vit_mae" else 3e-4)
        assert config.trainer.gradient_clip_val == 1
        assert config.model.vit.drop_path == 0.2
        assert resolved_vit(config.model.vit) == (432, 12, 6)
    assert learning_rate(recipe("finetune/vit_scratch", "gpu")) == pytest.approx(3e-4 * 2**0.5)  # 128 for 64
    for name in ("pretrain/mae_base", "finetune/vit_scratch_base", "finetune/vit_mae_base"):
        assert resolved_vit(recipe(name, "gpu").model.vit) == (864, 12, 12)
        assert resolved_vit(recipe(name, "cpu").model.vit) == (216, 6, 3)


def test_the_cnn_has_nnunets_recipe() -> None:
    for name in ("baselines/cnn", "baselines/cnn_residual"):
        config = recipe(name, "gpu")
        optimizer = config.optimizer
        assert (optimizer.name, optimizer.momentum, optimizer.lr, optimizer.weight_decay) == ("sgd", 0.99, 1e-2, 3e-5)
        assert (optimizer.schedule, optimizer.warmup_fraction) == ("poly", 0)
        assert config.trainer.gradient_clip_val == 12
        assert config.model.cnn.deep_supervision
        assert (config.model.cnn.base_features, config.model.cnn.max_features) == (32, 320)


def test_all_arms_see_as_many_patches_of_one_kind() -> None:
    for room, names in (("day", DAY), ("long", LONG)):
        arms = [recipe(name, "gpu") for name in names if not name.startswith("pretrain/")]
        assert len({(samples(c), global_batch(c), c.data.sampling.crop, str(c.data.grid)) for c in arms}) == 1, room
    assert recipe("finetune/vit_no_transformer", "gpu").model.vit.depth == 0


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("finetune/vit_mae", "pretrain/mae"),
        ("finetune/vit_mae_full", "pretrain/mae_full"),
        ("finetune/vit_mae_base", "pretrain/mae_base"),
        ("baselines/cnn_mae", "pretrain/mae_cnn"),
    ],
)
def test_a_pretrained_network_is_the_one_that_was_pretrained(name: str, source: str, profile: str) -> None:
    config, before = recipe(name, profile), recipe(source, profile)
    assert config.init_from == f"{before.runs_dir}/{before.name}"
    network = config.model.name
    assert before.model.name == network
    assert getattr(config.model, network) == getattr(before.model, network)
    assert config.data.sampling.crop == before.data.sampling.crop
    assert config.data.grid == before.data.grid


@pytest.mark.parametrize("name", ["vit", "vit_scratch", "mae", "cnn"])
def test_sweeps_on_gpus_take_the_recipes_and_never_their_profile(name: str) -> None:
    source = {"vit": "finetune/vit_mae", "vit_scratch": "finetune/vit_scratch", "mae": "pretrain/mae"}
    cell = load_experiment(Path(FOLDER / f"sweeps/gpu/{name}.yaml"))
    whole = recipe(source.get(name, "baselines/cnn"), "gpu")
    assert cell.profile == "gpu"
    assert cell.trainer.accelerator == "gpu"
    assert (cell.model, cell.data, cell.optimizer) == (whole.model, whole.data, whole.optimizer)
    assert samples(cell) == samples(whole)
