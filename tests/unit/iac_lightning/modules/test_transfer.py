from __future__ import annotations

import pytest
import torch
from torch import nn

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.models.build import build_model
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.modules.transfer import other_conventions, pretrained_part, transfer_encoder, transfer_table


def encoder(
    crop: tuple[int, int, int] = (8, 8, 8), dim: int = 12, depth: int = 2, condition_on: tuple[str, ...] = ()
) -> ViTEncoder:
    return ViTEncoder(
        crop=crop,
        patch_size=(4, 4, 4),
        dim=dim,
        depth=depth,
        heads=2,
        mlp_ratio=2.0,
        drop_path=0.0,
        condition_on=condition_on,
    )


SMALL = (
    "data.sampling.crop=[16,16,16]", "data.grid.spacing_mm=[1,1,1]", "model.vit.patch_size=[8,8,8]", "model.vit.dim=24",
    "model.vit.depth=1", "model.vit.heads=2", "model.decoder.channels=4", "model.cnn.base_features=4",
)  # fmt: skip
SEGMENTER = ("task=pretrain", "model.mae.pretrain=segmenter")


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


def changed(network: nn.Module) -> nn.Module:
    """With other weights than a network starts with."""
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize("more", [[], ["model.decoder.name=unetr", "model.decoder.deep_supervision=true"]])
def test_of_a_whole_segmenter_all_moves_but_the_head(more: list[str]) -> None:
    source, config = (load_experiment(None, ["name=x", *SMALL, *more, *own]) for own in (SEGMENTER, ()))
    state = changed(build_model(source)).state_dict()
    target = build_model(config)
    rows = transfer_encoder(target, state, (2, 2, 2), "runs/mae", pretrained_part(source))
    new = {r.name for r in rows if r.status == "new"}
    assert new
    assert all("head" in name for name in new)
    assert any(r.name.startswith("decoder.") for r in rows if r.status == "loaded")
    for name, tensor in target.state_dict().items():
        assert (name in new) != torch.equal(tensor, state.get(name, torch.zeros(0))), name
    assert {"mask_tokens.0"} <= {r.name for r in rows if r.status == "left"}
    other = load_experiment(None, ["name=x", *SMALL, *more, "model.decoder.channels=8"])
    with pytest.raises(UserError, match=r"the network of runs/mae does not fit .* Give model\.vit and model\.decoder"):
        transfer_encoder(build_model(other), state, (2, 2, 2), "runs/mae", "segmenter")


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_of_a_cnn_all_moves_but_the_heads(kind: str) -> None:
    settings = ["name=x", *SMALL, "model.name=cnn", f"model.cnn.encoder={kind}"]
    source, config = (load_experiment(None, [*settings, *own]) for own in (["task=pretrain"], ()))
    state = changed(build_model(source)).state_dict()
    target = build_model(config)
    rows = transfer_encoder(target, state, (2, 2, 2), "runs/mae", pretrained_part(source))
    new = {r.name for r in rows if r.status == "new"}
    assert new == {"heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias"}
    for name, tensor in target.state_dict().items():
        assert (name in new) != torch.equal(tensor, state.get(f"network.{name}", torch.zeros(0))), name
    with pytest.raises(UserError, match=r"the network of runs/mae does not fit .* Give model\.cnn and"):
        transfer_encoder(
            build_model(load_experiment(None, [*settings, "model.cnn.base_features=8"])), state, (), "runs/mae", "cnn"
        )


def test_the_plan_of_a_cnn_is_compared() -> None:
    settings = ["name=x", *SMALL, "model.name=cnn"]
    source = load_experiment(None, [*settings, "task=pretrain"])
    assert other_conventions(source, load_experiment(None, [*settings, "model.vit.heads=3", "model.vit.dim=36"])) == []
    (told,) = other_conventions(source, load_experiment(None, [*settings, "data.sampling.crop=[16,16,4]"]))
    assert told.startswith("the plan of strides was [[1, 1, 1], [2, 2, 2]")
    (told,) = other_conventions(source, load_experiment(None, [*settings, "model.cnn.encoder=residual"]))
    assert told == "model.cnn.encoder was plain and is residual here"


def test_what_tells_an_encoder_more_than_the_image_may_be_new() -> None:
    source, told = pretrained(), encoder(condition_on=("position",))
    rows = transfer_encoder(Segmenter(told), source, (2, 2, 2), "runs/mae")
    assert {r.name for r in rows if r.status == "new" and r.name.startswith("encoder.")} == {
        "encoder.film.hidden.weight", "encoder.film.hidden.bias", "encoder.film.weight", "encoder.film.bias"
    }  # fmt: skip
    image = torch.randn(2, 1, 8, 8, 8)
    plain = Segmenter(encoder())
    transfer_encoder(plain, source, (2, 2, 2), "runs/mae")
    found = told(image, condition=torch.randn(2, 3)).tokens
    assert torch.equal(found, plain.encoder(image).tokens)


def test_of_two_that_are_told_everything_moves() -> None:
    source = {f"encoder.{n}": t + 1 for n, t in encoder(condition_on=("position",)).state_dict().items()}
    told = encoder(condition_on=("position",))
    transfer_encoder(Segmenter(told), source, (2, 2, 2), "runs/mae")
    assert told.film is not None
    assert (told.film.weight == 1).all()
    with pytest.raises(UserError, match=r"encoder\.film\.hidden\.weight"):
        transfer_encoder(Segmenter(encoder(condition_on=("slice_thickness",))), source, (2, 2, 2), "runs/mae")
    del source["encoder.film.weight"]
    with pytest.raises(UserError, match=r"encoder\.film\.weight"):
        transfer_encoder(Segmenter(told), source, (2, 2, 2), "runs/mae")


def test_an_encoder_may_be_told_more_and_not_less() -> None:
    plain, told = (
        load_experiment(None, ["name=x", f"model.condition_on={words}"]) for words in ("[]", "[slice_thickness]")
    )
    assert other_conventions(plain, told) == []
    assert other_conventions(told, plain) == ["model.condition_on was ['slice_thickness'] and is [] here"]


def test_another_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"is .* in the checkpoint and"):
        transfer_encoder(Segmenter(encoder(dim=24)), pretrained(), (2, 2, 2), "runs/mae")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.window_hu=[-100,1000]", "data.window_hu was [-200.0, 1000.0] and is [-100.0, 1000.0] here"),
        ("data.grid.spacing_mm=[1,1,2]", "data.grid.spacing_mm was [0.8, 0.8, 1.6] and is [1.0, 1.0, 2.0] here"),
        ("data.grid.profile=linear", "data.grid.profile was overlap and is linear here"),
        ("model.vit.patch_size=[8,4,12]", "model.vit.patch_size was [8, 8, 4] and is [8, 4, 12] here"),
        ("model.vit.mlp_ratio=2", "model.vit.mlp_ratio was 2.667 and is 2 here"),
        ("model.vit.position=rope", "model.vit.position was both and is rope here"),
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
    assert other_conventions(source, small) == ["model.vit.dim was 216 and is 432 here"]
