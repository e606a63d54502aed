from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from iac_lightning.models.vit import (
    Attention,
    Block,
    ViTEncoder,
    patchify,
    resize_position_embedding,
    sincos_position_embedding,
    token_grid,
    unpatchify,
)

CROP, PATCH = (8, 12, 8), (4, 4, 2)


def tiny_encoder(**changes: object) -> ViTEncoder:
    settings = {"crop": CROP, "patch_size": PATCH, "dim": 16, "depth": 3, "heads": 2} | changes
    torch.manual_seed(0)
    return ViTEncoder(**settings)  # type: ignore[arg-type]


def test_patches_hold_their_voxels_in_order() -> None:
    image = torch.arange(2 * 2 * 8 * 12 * 8).reshape(2, 2, *CROP).float()
    patches = patchify(image, PATCH)
    assert patches.shape == (2, 2 * 3 * 4, 2 * 4 * 4 * 2)
    token = (1 * 3 + 2) * 4 + 3  # grid position (1, 2, 3) of (2, 3, 4)
    assert torch.equal(patches[1, token], image[1, :, 4:8, 8:12, 6:8].flatten())
    assert torch.equal(unpatchify(patches, (2, 3, 4), PATCH), image)


def test_embedding_is_a_convolution_with_kernel_and_stride_of_the_patch() -> None:
    encoder = tiny_encoder(in_channels=2)
    image = torch.randn(2, 2, *CROP)
    _, (embedded,) = encoder(image, return_depths=(0,))
    weight = encoder.patch_embedding.weight.view(16, 2, *PATCH)
    convolved = F.conv3d(image, weight, encoder.patch_embedding.bias, stride=PATCH)
    expected = convolved.flatten(2).transpose(1, 2) + encoder.position_embedding
    torch.testing.assert_close(embedded, expected)


@pytest.mark.parametrize("first", [0, 3])
def test_attention_is_softmax_attention(first: int) -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, 3), torch.randn(2, 5, 12)
    qkv = (x @ attention.qkv.weight.T + attention.qkv.bias).reshape(2, 5, 3, 3, 4)
    heads = []
    for h in range(3):
        q, k, v = (qkv[:, :, i, h] for i in range(3))
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ v)  # √4 = 2
    expected = attention.projection(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, first), expected[:, first:])


def test_block_from_a_token_on_equals_the_whole_block() -> None:
    torch.manual_seed(0)
    block, x = Block(12, 3, 2.0), torch.randn(2, 5, 12)
    torch.testing.assert_close(block(x, 2), block(x)[:, 2:])


def test_sincos_by_hand() -> None:
    embedding = sincos_position_embedding((2, 3, 4), 14)  # two frequencies an axis, 1 and 1/100; two columns remain
    x, y, z = 1, 2, 3
    row = embedding[(x * 3 + y) * 4 + z].numpy()
    expected = [f(p * w) for p in (x, y, z) for f in (np.sin, np.cos) for w in (1, 0.01)]
    np.testing.assert_allclose(row, [*expected, 0, 0], atol=1e-7)
    assert embedding.shape == (24, 14)


@pytest.mark.parametrize("dim", [16, 512, 1024])
def test_sincos_tells_tokens_apart_at_any_width(dim: int) -> None:
    embedding = sincos_position_embedding((3, 4, 5), dim)
    assert embedding.shape == (60, dim)
    assert len(torch.unique(embedding, dim=0)) == 60


def test_resizing_to_the_same_grid_changes_nothing() -> None:
    weights = torch.randn(24, 5)
    assert torch.equal(resize_position_embedding(weights, (2, 3, 4), (2, 3, 4)), weights)


def test_resizing_is_linear_along_each_axis() -> None:
    # Cell centres of 4 cells over 2 lie at −0.25, 0.25, 0.75, 1.25 of the old ones.
    line = torch.tensor([[0.0], [1.0]])
    wanted = torch.tensor([[0.0], [0.25], [0.75], [1.0]])
    for axis in range(3):
        old, new = [1, 1, 1], [1, 1, 1]
        old[axis], new[axis] = 2, 4
        torch.testing.assert_close(resize_position_embedding(line, old, new), wanted)


def test_resizing_equals_interpolating_each_feature() -> None:
    weights = torch.randn(2 * 3 * 4, 2)
    resized = resize_position_embedding(weights, (2, 3, 4), (4, 3, 6)).reshape(4, 3, 6, 2)
    for feature in range(2):
        volume = weights[:, feature].reshape(1, 1, 2, 3, 4)
        expected = F.interpolate(volume, (4, 3, 6), mode="trilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(resized[..., feature], expected)


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
    whole, _ = encoder(image)
    shuffled, _ = encoder(image, keep=order)
    for b in range(2):
        torch.testing.assert_close(shuffled[b], whole[b, order[b]])


def test_features_of_depths() -> None:
    encoder, image = tiny_encoder().eval(), torch.randn(1, 1, *CROP)
    tokens, (second, first, last, again) = encoder(image, return_depths=(2, 1, 3, 1))
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


def test_drop_path_skips_or_scales_whole_samples() -> None:
    torch.manual_seed(0)
    block, x = Block(4, 1, 2.0, drop_path=0.75), torch.randn(1, 3, 4).expand(400, -1, -1)
    for parameter in block.attention.projection.parameters():
        torch.nn.init.zeros_(parameter)  # only the MLP branch is left
    branch = (block.eval()(x) - x)[0]
    change = block.train()(x) - x
    ratio = (change / branch).mean(dim=(1, 2))
    dropped = ratio.abs() < 1e-4
    torch.testing.assert_close(ratio[~dropped], torch.full_like(ratio[~dropped], 4.0), rtol=1e-3, atol=0)
    assert 0.65 < dropped.float().mean() < 0.85


def test_checkpointing_gives_the_same_gradients() -> None:
    image, gradients = torch.randn(2, 1, *CROP), []
    for checkpointing in (False, True):
        encoder = tiny_encoder(activation_checkpointing=checkpointing, drop_path=0.4).train()
        torch.manual_seed(3)
        tokens, _ = encoder(image)
        tokens.square().sum().backward()
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


def test_a_crop_of_broken_patches_is_refused() -> None:
    assert token_grid((48, 48, 32), (8, 8, 4)) == (6, 6, 8)
    with pytest.raises(ValueError, match=r"\(48, 50, 32\) voxels is not made of whole patches of \(8, 8, 4\)"):
        token_grid((48, 50, 32), (8, 8, 4))
    with pytest.raises(ValueError, match="whole patches"):
        token_grid((48, 0, 32), (8, 8, 4))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="5 attention heads do not divide a width of 16"):
        tiny_encoder(heads=5)
