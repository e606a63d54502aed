"""Checkpoints of nnssl, put together from timm's parts in the layout that nnssl writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import build_model
from iac_lightning.modules.foreign import ForeignEncoder, licence_words, read_foreign
from iac_lightning.modules.transfer import transfer_encoder
from tests.unit.iac_lightning.models import eva

SETTINGS = (
    "model.vit.tokeniser=linear",
    "model.vit.patch_size=[4,4,4]",
    "model.vit.dim=36",
    "model.vit.depth=2",
    "model.vit.heads=2",
    "model.vit.inner_norm=true",
    "data.sampling.crop=[16,12,8]",
    "data.grid.spacing_mm=[1,1,1]",
    "init_from_licence=CC-BY-SA 4.0; OpenMind",
)


def settings(*more: str) -> ExperimentConfig:
    return load_experiment(None, ["name=a", *SETTINGS, *more])


def saved(folder: Path, sequence: tuple[int, int, int] = (1, 0, 2), **changes: Any) -> tuple[Path, torch.nn.Module]:
    """A checkpoint as nnssl's MAE for Primus writes it (`EvaMAE`, scaled branches, inner norms), and its encoder."""
    torch.manual_seed(0)
    peer = eva.primus((4, 4, 4), (3, 3, 3), 36, 2, 2, sequence=sequence, v3=True)
    weights = {f"module.{name}": t for name, t in peer.state_dict().items()}
    weights |= {"module.mask_token": torch.zeros(1, 1, 36), "module.decoder.blocks.0.norm1.bias": torch.zeros(36)}
    configuration = {"spacing": [1, 1, 1], "patch_size": [12, 12, 12], "normalization_schemes": ["ZScoreNormalization"]}
    plan = {
        "architecture_plans": {"arch_class_name": "PrimusX", "arch_kwargs": None},
        "pretrain_plan": {
            "dataset_name": "Dataset745_OpenMind",
            "transpose_forward": [0, 1, 2],
            "configurations": {"onemmiso": configuration},
        },
    }
    checkpoint = {
        "network_weights": {n: t for n, t in (weights | changes).items() if t is not None},
        "optimizer_state": {"state": {}, "param_groups": []},
        "current_epoch": 3,
        "trainer_name": "BaseEvaMAETrainer_BS8",
        "nnssl_adaptation_plan": plan,
    }
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    return folder / "checkpoint_final.pth", peer


def read(path: Path, config: ExperimentConfig) -> ForeignEncoder:
    foreign = read_foreign(path, config)
    assert foreign is not None
    return foreign


def test_an_encoder_of_nnssl_computes_here_what_it_does_there(tmp_path: Path) -> None:
    path, peer = saved(tmp_path)
    config = settings("data.sampling.crop=[12,12,12]")
    network: Any = build_model(config).eval()
    rows = transfer_encoder(network, read(path, config).state, read(path, config).grid, str(path))
    assert {row.status for row in rows if row.name.startswith("encoder.")} == {"loaded"}
    assert {row.name for row in rows if row.status == "left"} == {"mask_token", "decoder.blocks.0.norm1.bias"}
    image = torch.randn(2, 1, 12, 12, 12)
    theirs = peer(image.permute(0, 1, 4, 3, 2))
    tokens = network.encoder(image).tokens.reshape(2, 3, 3, 3, 36)
    torch.testing.assert_close(tokens, theirs, rtol=1e-5, atol=1e-5)


def test_its_place_embedding_follows_another_crop(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    config = settings()
    rows = transfer_encoder(build_model(config), read(path, config).state, read(path, config).grid, str(path))
    assert [row.name for row in rows if row.status == "resized"] == ["encoder.position_embedding"]


def test_what_it_learnt_otherwise_and_what_a_card_says_of_it(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    foreign = read(path, settings("data.grid.spacing_mm=[0.8,0.8,1.6]"))
    assert foreign.others == [
        "intensities were ZScoreNormalization and are HU of [-200.0, 1000.0] scaled to -1…1 here",
        "voxels were [1.0, 1.0, 1.0] and are [0.8, 0.8, 1.6] mm here",
    ]
    assert len(read(path, settings()).others) == 1
    words = licence_words(foreign.record)
    for part in ("BaseEvaMAETrainer_BS8", "Dataset745_OpenMind", "CC-BY-SA 4.0; OpenMind.", "not known to the leakage"):
        assert part in words


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["model.vit.depth=3", "model.vit.layer_scale=null"], "set model.vit.depth=2 model.vit.layer_scale=0.1.$"),
        (["model.vit.patch_size=[4,4,2]", "model.vit.tokeniser=conv"], r"tokeniser=linear model.vit.patch_size=\[4, 4"),
        (
            ["model.vit.position=rope", "model.vit.mlp=gelu"],
            "position=both model.vit.mlp=swiglu model.vit.mlp_ratio=2.66",
        ),
        (["model.vit.registers=1", "model.vit.qk_norm=true"], "set model.vit.registers=0 model.vit.qk_norm=false"),
        (["model.vit.inner_norm=false", "model.vit.dim=72"], "set model.vit.dim=36 model.vit.inner_norm=true"),
        (["init_from_licence=null"], "say under which licence its weights were given"),
        (["model.name=cnn", "data.sampling.crop=[16,16,16]"], "holds a ViT's encoder, and model.name is cnn"),
    ],
)
def test_settings_of_another_encoder_are_refused_with_what_to_set(tmp_path: Path, more: list[str], told: str) -> None:
    path, _ = saved(tmp_path)
    with pytest.raises(UserError, match=told):
        read_foreign(path, settings(*more))


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("module.eva.blocks.1.attn.k_proj.weight", None, r"attn\.k_proj\.weight is missing"),
        ("module.eva.blocks.1.attn.extra", torch.ones(1), r"eva\.blocks\.1\.attn\.extra has no place"),
        ("module.eva.norm.weight", torch.full((36,), float("nan")), "not finite"),
        ("module.eva.norm.weight", None, "holds no encoder of Primus"),
        (
            "module.down_projection.stem.blocks.0.conv1.conv.weight",
            torch.ones(1),
            "convolutional tokeniser of PrimusV2",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, told: str
) -> None:
    path, _ = saved(tmp_path, **{name: tensor})
    with pytest.raises(UserError, match=told):
        read_foreign(path, settings())


def test_other_checkpoints_are_none_of_its_business(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    assert read_foreign(tmp_path / "a.ckpt", settings()) is None
