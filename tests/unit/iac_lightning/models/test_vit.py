from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_positions import resize_position_embedding
from iac_lightning.models.vit_tokens import mask_of, patchify, spread_tokens, unpatchify

CROP, PATCH = (8, 12, 8), (4, 4, 2)


def tiny_encoder(**changes: object) -> ViTEncoder:
    settings = {"crop": CROP, "patch_size": PATCH, "dim": 16, "depth": 3, "heads": 2} | changes
    torch.manual_seed(0)
    return ViTEncoder(**settings)  # type: ignore[arg-type]


def test_embedding_is_a_convolution_with_kernel_and_stride_of_the_patch() -> None:
    encoder = tiny_encoder(in_channels=2)
    image = torch.randn(2, 2, *CROP)
    (embedded,) = encoder(image, return_depths=(0,)).features
    weight = encoder.patch_embedding.weight.view(16, 2, *PATCH)
    convolved = F.conv3d(image, weight, encoder.patch_embedding.bias, stride=PATCH)
    expected = convolved.flatten(2).transpose(1, 2) + encoder.position_embedding
    torch.testing.assert_close(embedded, expected)


def test_another_crop_equals_an_encoder_made_for_it() -> None:
    small, large_crop = tiny_encoder().eval(), (12, 12, 12)
    large = tiny_encoder(crop=large_crop).eval()
    state = small.state_dict()
    state["position_embedding"] = resize_position_embedding(state["position_embedding"], small.grid, large.grid)
    large.load_state_dict(state)
    image = torch.randn(1, 1, *large_crop)
    torch.testing.assert_close(small(image)[0], large(image)[0])


def test_kept_tokens_keep_their_place_and_content() -> None:
    encoder, image = tiny_encoder().eval(), torch.randn(2, 1, *CROP)
    order = torch.stack([torch.randperm(24), torch.randperm(24)])
    whole, shuffled = encoder(image).tokens, encoder(image, keep=order).tokens
    for b in range(2):
        torch.testing.assert_close(shuffled[b], whole[b, order[b]])


def test_features_of_depths() -> None:
    encoder, image = tiny_encoder().eval(), torch.randn(1, 1, *CROP)
    tokens, (second, first, last, again), _ = encoder(image, return_depths=(2, 1, 3, 1))
    torch.testing.assert_close(encoder.blocks[1](first), second)
    torch.testing.assert_close(encoder.norm(last), tokens)
    assert torch.equal(first, again)


def test_drop_path_is_off_in_eval_and_grows_with_depth() -> None:
    dropping, plain = tiny_encoder(drop_path=0.5), tiny_encoder()
    image = torch.randn(2, 1, *CROP)
    assert torch.equal(dropping.eval()(image)[0], plain.eval()(image)[0])
    assert [block.drop_path for block in dropping.blocks] == [0, 0.25, 0.5]
    dropping.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(dropping(image)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_checkpointing_gives_the_same_gradients() -> None:
    image, gradients = torch.randn(2, 1, *CROP), []
    for checkpointing in (False, True):
        encoder = tiny_encoder(activation_checkpointing=checkpointing, drop_path=0.4).train()
        torch.manual_seed(3)
        encoder(image).tokens.square().sum().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient)


def test_checkpointing_stores_less() -> None:
    image, stored = torch.randn(2, 1, *CROP), []
    for checkpointing in (False, True):
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
            tiny_encoder(activation_checkpointing=checkpointing).train()(image)
        stored.append(sum(t.nbytes for t in kept))
    assert stored[1] < stored[0] / 4


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="5 attention heads do not divide a width of 16"):
        tiny_encoder(heads=5)


OPTIONS: dict[str, dict[str, Any]] = {
    "conv": {"tokeniser": "conv", "tokeniser_channels": 4},
    "rope": {"position": "rope"},
    "both": {"position": "both"},
    "swiglu": {"mlp": "swiglu", "mlp_ratio": 8 / 3},
    "layer_scale": {"layer_scale": 0.1},
    "qk_norm": {"qk_norm": True},
    "inner_norm": {"inner_norm": True},
    "registers": {"registers": 3},
    "depth_scaled": {"initialisation": "depth_scaled"},
    "drop_path": {"drop_path": 0.1},
    "no_transformer": {"depth": 0, "registers": 3, "position": "both"},
}
OPTIONS["all"] = {key: value for name, one in OPTIONS.items() if name != "no_transformer" for key, value in one.items()}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kept", [None, 5])
def test_every_option_gives_shapes_and_gradients(name: str, kept: int | None) -> None:
    encoder = tiny_encoder(dim=12, **OPTIONS[name]).train()
    keep = None if kept is None else torch.stack([torch.randperm(24)[:kept] for _ in range(2)])
    depths = (0, 2) if encoder.depth else (0,)
    torch.manual_seed(1)  # so that no branch is dropped for both
    tokens, features, details = encoder(torch.randn(2, 1, *CROP), keep, depths)
    assert tokens.shape == (2, kept or 24, 12)
    assert [f.shape for f in features] == [tokens.shape] * len(depths)
    assert [d.shape[1] for d in details] == encoder.detail_channels
    (tokens * torch.randn_like(tokens)).sum().backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("name", ["conv", "both", "registers", "all"])
@pytest.mark.parametrize("keep", [False, True])
def test_another_crop_goes_through_every_option(name: str, keep: bool) -> None:
    small, large_crop = tiny_encoder(dim=12, **OPTIONS[name]).eval(), (12, 12, 12)
    large = tiny_encoder(dim=12, crop=large_crop, **OPTIONS[name]).eval()
    state = small.state_dict()
    if "position_embedding" in state:
        state["position_embedding"] = resize_position_embedding(state["position_embedding"], small.grid, large.grid)
    large.load_state_dict(state)
    image, chosen = torch.randn(1, 1, *large_crop), torch.tensor([[1, 40, 7]]) if keep else None
    torch.testing.assert_close(small(image, chosen).tokens, large(image, chosen).tokens)


@pytest.mark.parametrize("name", OPTIONS)
def test_hidden_voxels_reach_no_visible_token(name: str) -> None:
    encoder = tiny_encoder(dim=12, **OPTIONS[name]).eval()
    image, keep = torch.randn(2, 1, *CROP), torch.stack([torch.randperm(24)[:6] for _ in range(2)])
    hidden = spread_tokens(mask_of(keep, 24, torch.float32), encoder.grid, PATCH) == 0
    changed = torch.where(hidden, 1e3 * torch.randn(2, 1, *CROP), image)
    before, after = encoder(image, keep, (0,)), encoder(changed, keep, (0,))
    assert torch.equal(before.tokens, after.tokens)
    assert torch.equal(before.features[0], after.features[0])
    for one, other in zip(before.details, after.details, strict=True):
        assert torch.equal(one, other)
    image.requires_grad_()
    encoder(image, keep).tokens.square().sum().backward()
    assert image.grad is not None
    assert not image.grad[hidden].any()
    assert image.grad[~hidden].all()


@pytest.mark.parametrize("position", ["rope", "both"])
def test_rotations_tell_places_apart(position: str) -> None:
    encoder = tiny_encoder(dim=12, position=position).eval()
    if encoder.position_embedding is not None:
        torch.nn.init.zeros_(encoder.position_embedding)
    image = torch.randn(1, 1, *CROP)
    order = torch.randperm(24)[None]
    torch.testing.assert_close(encoder(image, order).tokens, encoder(image).tokens[:, order[0]])
    moved = unpatchify(patchify(image, PATCH)[:, order[0]], encoder.grid, PATCH)
    assert (encoder(moved).tokens - encoder(image).tokens[:, order[0]]).abs().max() > 1e-3


def test_registers_change_tokens_and_are_none_of_them() -> None:
    encoder, image = tiny_encoder(dim=12, registers=2, position="both").eval(), torch.randn(1, 1, *CROP)
    before = encoder(image).tokens
    assert encoder.registers is not None
    torch.nn.init.normal_(encoder.registers)
    assert (encoder(image).tokens - before).abs().max() > 1e-3
    assert encoder.n_tokens == before.shape[1] == 24


def test_without_blocks_tokens_are_the_tokeniser_s() -> None:
    encoder, image = tiny_encoder(dim=12, depth=0, registers=2, position="rope").eval(), torch.randn(1, 1, *CROP)
    encoded = encoder(image, return_depths=(0,))
    torch.testing.assert_close(encoded.tokens, encoder.norm(encoder.patch_embedding(patchify(image, PATCH))))
    assert set(encoder.state_dict()) == {"norm.weight", "norm.bias", "patch_embedding.weight", "patch_embedding.bias"}


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"tokeniser": "mlp"}, "'mlp' is none of linear, conv"),
        ({"position": "sine"}, "'sine' is none of learned, rope, both"),
        ({"initialisation": "he"}, "'he' is none of xavier, depth_scaled"),
        ({"position": "rope"}, "heads of a multiple of 6, not 8 wide"),
    ],
)
def test_unknown_options_are_refused(option: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny_encoder(**option)
