from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from iac_lightning.config.model_schema import VIT_PRESETS
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import activation_bytes, build_model, count_parameters, model_summary
from iac_lightning.models.cnn import PlannedUNet
from iac_lightning.models.decoders import ViTSegmenter
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.vit import ViTEncoder


def tiny_config(task: str = "segment", name: str = "vit", **vit: object) -> ExperimentConfig:
    config = ExperimentConfig(name="tiny", task=task)
    config.data.sampling.crop = (16, 16, 8)
    config.model.name = name
    for key, value in ({"dim": 12, "depth": 2, "heads": 2, "patch_size": (8, 8, 4)} | vit).items():
        setattr(config.model.vit, key, value)
    config.model.cnn.base_features = 2
    config.model.decoder.channels = 2
    config.model.mae.decoder_dim, config.model.mae.decoder_heads = 12, 2
    return config


def test_each_task_and_name_gives_its_network() -> None:
    assert isinstance(build_model(tiny_config("pretrain")), MaskedAutoencoder)
    assert isinstance(build_model(tiny_config()), ViTSegmenter)
    assert isinstance(build_model(tiny_config(name="cnn")), PlannedUNet)


def test_presets_and_what_overrides_them() -> None:
    config = tiny_config("pretrain", dim=None, depth=None, heads=None)
    for preset, (dim, depth, heads) in VIT_PRESETS.items():
        if preset == "base":
            continue
        config.model.vit.preset = preset
        encoder: Any = build_model(config).encoder
        assert (encoder.dim, encoder.depth, encoder.blocks[0].attention.heads) == (dim, depth, heads)
    config.model.vit.depth = 3
    config.model.vit.drop_path = 0.2
    encoder = build_model(config).encoder
    assert encoder.depth == 3
    assert [b.drop_path for b in encoder.blocks] == [0, 0.1, 0.2]


def test_encoder_has_the_same_names_and_shapes_in_both_tasks() -> None:
    pretraining, segmenting = (
        {n: t.shape for n, t in build_model(tiny_config(task)).state_dict().items() if n.startswith("encoder.")}
        for task in ("pretrain", "segment")
    )
    assert pretraining == segmenting
    assert {
        "encoder.position_embedding",
        "encoder.norm.weight",
        "encoder.blocks.1.mlp.projection.bias",
    } <= pretraining.keys()


@pytest.mark.parametrize("decoder", ["linear", "progressive", "unetr"])
def test_outputs_start_at_the_bias_of_rare_lesions(decoder: str) -> None:
    config = tiny_config()
    config.model.decoder.name = decoder
    config.model.output_bias = -20.0
    assert (build_model(config).eval()(torch.zeros(1, 1, 16, 16, 8)) < -10).all()


def test_all_resolutions_of_the_cnn_start_at_the_bias() -> None:
    torch.manual_seed(0)
    config = tiny_config(name="cnn")
    config.model.output_bias = -20.0
    levels = build_model(config).train()(torch.randn(1, 1, 16, 16, 8))
    assert len(levels) == 2
    assert all((level < -10).all() for level in levels)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.name", "unet", "no network 'unet'"),
        ("model.vit.heads", 5, "5 attention heads do not divide"),
        ("model.vit.patch_size", (8, 8, 3), r"not made of whole patches of \(8, 8, 3\)"),
        ("model.decoder.name", "mlp", "'mlp' is none of the decoders"),
    ],
)
def test_settings_that_no_check_has_seen_are_refused(key: str, value: object, message: str) -> None:
    config = tiny_config()
    target: object = config
    *path, last = key.split(".")
    for part in path:
        target = getattr(target, part)
    setattr(target, last, value)
    with pytest.raises(ValueError, match=message):
        build_model(config)


def test_count_leaves_frozen_parameters_out() -> None:
    layer = nn.Linear(4, 3)
    assert count_parameters(layer) == 15
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 12


def test_activation_bytes_by_hand() -> None:
    # The first layer keeps its input (5 × 4), the GELU its own (5 × 3), the second layer the GELU's output (5 × 3).
    network = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
    assert activation_bytes(network, torch.zeros(5, 4)) == 4 * (20 + 15 + 15)


def test_checkpointing_lowers_the_estimate_to_inputs_and_one_block() -> None:
    image, estimates = torch.zeros(2, 1, 16, 16, 8), {}
    for depth in (2, 8):
        for checkpointing in (False, True):
            network = build_model(tiny_config("pretrain", depth=depth, activation_checkpointing=checkpointing))
            estimates[depth, checkpointing] = activation_bytes(network, image)
            encoder = network.encoder
            assert isinstance(encoder, ViTEncoder)
            assert encoder.activation_checkpointing == checkpointing
    visible_token_bytes = 2 * 2 * 12 * 4  # two patches, two of eight tokens, 12 wide, float32
    assert estimates[8, True] - estimates[2, True] == 6 * visible_token_bytes
    assert estimates[8, False] - estimates[2, False] > 6 * 10 * visible_token_bytes


def test_checkpointing_lowers_the_estimate_of_a_cnn_to_inputs_and_one_stage() -> None:
    config, image, estimates = tiny_config(name="cnn"), torch.zeros(2, 1, 16, 16, 8), []
    for checkpointing in (False, True):
        config.model.cnn.activation_checkpointing = checkpointing
        network = build_model(config)
        estimates.append(activation_bytes(network, image))
        assert isinstance(network, PlannedUNet)
        assert network.activation_checkpointing == checkpointing
    assert estimates[1] < 0.8 * estimates[0]


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_a_mixed_precision_keeps_as_much_as_a_real_step_in_it(name: str) -> None:
    config = tiny_config(name=name)
    config.data.sampling.crop = (32, 32, 32)
    config.model.cnn.base_features = config.model.decoder.channels = 8
    config.trainer.precision = "bf16-mixed"
    image = torch.zeros(2, 1, 32, 32, 32)
    whole = activation_bytes(build_model(config), image) / 2**20
    with torch.autocast("cpu", torch.bfloat16):
        mixed = activation_bytes(build_model(config), image) / 2**20
    assert mixed < 0.8 * whole
    assert f"bf16-mixed): {mixed:,.0f} kept" in model_summary(config)


def test_fsdp_gives_each_device_its_part_of_weights_and_optimiser() -> None:
    config = tiny_config("pretrain", dim=192, depth=4)
    config.trainer.strategy, config.trainer.devices = "fsdp", 4
    state = 4 * 4 * count_parameters(build_model(config)) / 2**20  # weights, gradients, two moments in float32
    assert state > 20
    assert f"{state / 4:,.0f} weights and optimiser (of {state:,.0f})" in model_summary(config)


def test_summary_of_a_segmenter() -> None:
    config = tiny_config()
    network = build_model(config)
    text = model_summary(config)
    assert f"parameters   {count_parameters(network):,}" in text
    assert "2 × 2 × 2 = 8 of 8 × 8 × 4 voxels" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "2 × 8 × 12 " in lines["encoder"]
    assert "2 × 1 × 16 × 16 × 8" in lines["decoder.head"]
    kept = activation_bytes(network, torch.zeros(2, 1, 16, 16, 8)) / 2**20
    assert f"{kept:,.0f} kept for the backward pass" in lines["memory"]


def test_summary_of_an_autoencoder_and_a_cnn() -> None:
    assert "8 of 8 × 8 × 4 voxels, 6 hidden" in model_summary(tiny_config("pretrain"))
    config = tiny_config(name="cnn")
    network = build_model(config)
    assert isinstance(network, PlannedUNet)
    text = model_summary(config)
    assert str(network.plan) in text
    assert "heads.0" in text


def test_summary_estimate_is_that_of_a_real_step() -> None:
    # Large enough for whole MiB; fake tensors must count what real ones do.
    config = tiny_config(name="cnn")
    config.data.sampling.crop = (32, 32, 32)
    config.model.cnn.base_features = 8
    kept = activation_bytes(build_model(config), torch.zeros(2, 1, 32, 32, 32)) / 2**20
    assert kept > 5
    assert f" {kept:,.0f} kept" in model_summary(config)
