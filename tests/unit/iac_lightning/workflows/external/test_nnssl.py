"""Encoders on their way to nnssl and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules.errors import UserError
from data_modules.files import sha256
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.stored import config_dict, to_yaml
from iac_lightning.models.build import build_model
from iac_lightning.modules.checkpoint import AtomicCheckpointIO
from iac_lightning.modules.foreign import read_foreign
from iac_lightning.modules.segmentation_module import SegmentationModule
from iac_lightning.runs.directory import Run, load_run, open_run
from iac_lightning.workflows.external.nnssl import export_nnssl
from iac_lightning.workflows.model_card import foreign_encoder
from iac_lightning.workflows.reports.evaluated import model_label
from iac_lightning.workflows.train import start_from_pretraining
from tests.unit.iac_lightning.models import eva

SETTINGS = (
    "model.vit.tokeniser=linear",
    "model.vit.patch_size=[4,4,2]",
    "model.vit.dim=36",
    "model.vit.depth=2",
    "model.vit.heads=2",
    "model.vit.inner_norm=true",
    "data.sampling.crop=[16,12,8]",
)
SEEN = [{"salt_id": "a", "hashes": ["b"]}]


def trained(folder: Path, *more: str) -> tuple[Run, Any]:
    """A run whose pre-training has left a checkpoint, and its network."""
    config = load_experiment(None, [f"runs_dir={folder}", "name=mae", "task=pretrain", *SETTINGS, *more])
    torch.manual_seed(0)
    network: Any = build_model(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    (folder / "mae/checkpoints").mkdir(parents=True)
    (folder / "mae/config.yaml").write_text(to_yaml(config), encoding="utf-8")
    checkpoint = {"state_dict": state, "iac": {"config": config_dict(config), "trained_on": SEEN}}
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "mae/checkpoints/last.ckpt")
    return load_run(folder / "mae"), network


def test_an_encoder_comes_back_as_it_went(tmp_path: Path) -> None:
    run, network = trained(tmp_path, "model.vit.registers=2")
    written = export_nnssl(run, tmp_path / "out")
    assert written.architecture == "Primus"
    config = load_experiment(None, ["name=b", *SETTINGS, "model.vit.registers=2", "init_from_licence=ours"])
    foreign = read_foreign(tmp_path / "out/checkpoint_final.pth", config)
    assert foreign is not None
    before = {name: t for name, t in network.state_dict().items() if name.startswith("encoder.")}
    assert all(torch.equal(foreign.state[name], tensor) for name, tensor in before.items())
    assert foreign.state.keys() == before.keys() | {"register_tokens"}
    assert (foreign.others, foreign.grid, foreign.trained_on) == ([], (4, 3, 4), SEEN)


def test_timm_computes_from_it_what_we_do(tmp_path: Path) -> None:
    run, network = trained(tmp_path)
    export_nnssl(run, tmp_path / "out")
    checkpoint = torch.load(tmp_path / "out/checkpoint_final.pth", weights_only=True)
    peer = eva.primus((2, 4, 4), (4, 3, 4), 36, 2, 2, v3=True)
    peer.load_state_dict(checkpoint["network_weights"])  # strict
    image = torch.randn(1, 1, 16, 12, 8)
    ours = network.encoder(image).tokens.reshape(1, 4, 3, 4, 36)
    torch.testing.assert_close(peer(image.permute(0, 1, 4, 3, 2)), ours, rtol=1e-5, atol=1e-5)


def test_its_plan_says_what_nnssl_asks_for(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    export_nnssl(run, tmp_path / "out")
    plan = json.loads((tmp_path / "out/adaptation_plan.json").read_text())
    kwargs = plan["architecture_plans"]["arch_kwargs"]
    assert (kwargs["embed_dim"], kwargs["patch_embed_size"], kwargs["input_shape"]) == (36, [2, 4, 4], [8, 12, 16])
    assert plan["pretrain_plan"]["configurations"]["fixed"]["spacing"] == [1.6, 0.8, 0.8]
    assert (plan["key_to_encoder"], plan["key_to_stem"], plan["key_to_lpe"]) == (
        "eva",
        "down_projection",
        "eva.pos_embed",
    )
    export_nnssl(run, tmp_path / "out")  # again, over itself


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["model.vit.tokeniser=conv"], "no counterpart of model.vit.tokeniser conv. Train with"),
        (
            ["model.vit.position=learned", "model.vit.qk_norm=true"],
            "model.vit.position learned, model.vit.qk_norm True",
        ),
        (["model.condition_on=[spacing]"], r"model.condition_on \['spacing'\]"),
    ],
)
def test_what_primus_cannot_compute_is_refused(tmp_path: Path, more: list[str], told: str) -> None:
    run, _ = trained(tmp_path, *more)
    with pytest.raises(UserError, match=told):
        export_nnssl(run, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="exists and is no export of nnssl alone"):
        export_nnssl(run, tmp_path / "out")
    assert (tmp_path / "out/thesis.txt").exists()


def test_a_segmentation_starts_from_it_and_its_card_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, network = trained(tmp_path)
    folder = export_nnssl(run, tmp_path / "out").directory
    path = folder / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["iac_lightning"]["trained_on"] = []  # of somebody else, who has told us nothing
    checkpoint["iac_lightning"]["window_hu"] = None
    torch.save(checkpoint, path)
    more = ["name=b", f"runs_dir={tmp_path}", f"init_from={path}", "init_from_licence=CC0; two heads"]
    config = load_experiment(None, [*SETTINGS, *more])
    module = SegmentationModule(config)
    with open_run(config) as begun:
        with pytest.raises(UserError, match=r"intensities were NoNormalization .* set init_from_other=true"):
            start_from_pretraining(module, path, begun)
        begun.config.init_from_other = True
        start_from_pretraining(module, path, begun)
    ours: Any = module.model
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(ours.encoder.state_dict()[name], tensor)
    assert "warning: the pre-training learnt otherwise: intensities were" in capsys.readouterr().out
    record = foreign_encoder(begun)
    assert record is not None
    assert record["licence"] == "CC0; two heads"
    assert record["sha256"] == sha256(path)
    assert model_label(config) == "ViT, pre-trained elsewhere"
