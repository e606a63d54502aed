from __future__ import annotations

import pytest
import torch
from torch import nn

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.modules.transfer import other_conventions, transfer_encoder, transfer_table


def encoder(crop: tuple[int, int, int] = (8, 8, 8), dim: int = 12, depth: int = 2) -> ViTEncoder:
    return ViTEncoder(crop=crop, patch_size=(4, 4, 4), dim=dim, depth=depth, heads=2, mlp_ratio=2.0, drop_path=0.0)


class Segmenter(nn.Module):
    def __init__(self, encoder: ViTEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(12, 1)


def pretrained() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mae = MaskedAutoencoder(encoder(), decoder_dim=12, decoder_depth=1, decoder_heads=2)
    for parameter in mae.parameters():
        nn.init.normal_(parameter)
    return mae.state_dict()


def test_every_encoder_tensor_moves_and_is_listed() -> None:
    source = pretrained()
    target = Segmenter(encoder())
    head = target.head.weight.clone()
    rows = transfer_encoder(target, source, (2, 2, 2), "runs/mae")
    by_status = {s: {r.name for r in rows if r.status == s} for s in ("loaded", "resized", "new", "left")}
    names = {n for n in target.state_dict() if n.startswith("encoder.")}
    assert by_status["loaded"] == names
    assert by_status["new"] == {"head.weight", "head.bias"}
    assert by_status["left"] == set(source) - names
    assert not by_status["resized"]
    for name in names:
        assert torch.equal(target.state_dict()[name], source[name])
    assert torch.equal(target.head.weight, head)
    assert transfer_table(rows).startswith(f"{len(names)} loaded, 0 resized, 2 new, {len(source) - len(names)} left\n")


def test_the_position_embedding_follows_a_new_crop() -> None:
    source = pretrained()
    target = Segmenter(encoder(crop=(16, 8, 8)))
    rows = transfer_encoder(target, source, (2, 2, 2), "runs/mae")
    assert [r.name for r in rows if r.status == "resized"] == ["encoder.position_embedding"]
    embedding = target.encoder.position_embedding.detach().reshape(4, 2, 2, 12)
    old = source["encoder.position_embedding"].reshape(2, 2, 2, 12)
    torch.testing.assert_close(embedding.mean(dim=0), old.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_a_half_fitting_encoder_is_refused() -> None:
    source = pretrained()
    with pytest.raises(UserError, match=r"runs/mae does not fit.*not in the checkpoint"):
        transfer_encoder(Segmenter(encoder(depth=3)), source, (2, 2, 2), "runs/mae")
    del source["encoder.blocks.1.norm1.weight"]
    with pytest.raises(UserError, match=r"blocks\.1\.norm1\.weight"):
        transfer_encoder(Segmenter(encoder()), source, (2, 2, 2), "runs/mae")


def test_another_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"is .* in the checkpoint and"):
        transfer_encoder(Segmenter(encoder(dim=24)), pretrained(), (2, 2, 2), "runs/mae")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.window_hu=[-100,1000]", "data.window_hu was [-200.0, 1000.0] and is [-100.0, 1000.0] here"),
        ("data.grid.spacing_mm=[1,1,2]", "data.grid.spacing_mm was [0.8, 0.8, 1.6] and is [1.0, 1.0, 2.0] here"),
        ("data.grid.profile=linear", "data.grid.profile was overlap and is linear here"),
        ("model.vit.patch_size=[8,4,16]", "model.vit.patch_size was [8, 8, 8] and is [8, 4, 16] here"),
        ("model.vit.mlp_ratio=2", "model.vit.mlp_ratio was 4.0 and is 2.0 here"),
        ("model.vit.heads=6", "model.vit.heads was 3 and is 6 here"),
        ("model.vit.depth=5", "model.vit.depth was 6 and is 5 here"),
    ],
)
def test_each_convention_that_shapes_do_not_tell_is_compared(setting: str, told: str) -> None:
    source = load_experiment(None, ["name=mae", "task=pretrain"])
    assert other_conventions(source, load_experiment(None, ["name=a", setting])) == [told]
    assert other_conventions(source, load_experiment(None, ["name=a", "model.vit.preset=tiny", "seed=4"])) == []


def test_a_preset_is_compared_by_its_sizes() -> None:
    source = load_experiment(None, ["name=mae", "task=pretrain"])
    small = load_experiment(None, ["name=a", "model.vit.preset=small", "model.vit.depth=6", "model.vit.heads=3"])
    assert other_conventions(source, small) == ["model.vit.dim was 192 and is 384 here"]
