from __future__ import annotations

import numpy as np
import pytest
import torch

from iac_lightning.models import mae
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.restoring import MAEOutput
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_tokens import patchify

CROP, PATCH, GRID = (8, 12, 8), (4, 4, 2), (2, 3, 4)


def tiny_mae(mask_ratio: float = 0.75, **changes: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder_settings = {k: changes.pop(k) for k in ("activation_checkpointing",) if k in changes}
    encoder = ViTEncoder(crop=CROP, patch_size=PATCH, dim=16, depth=2, heads=2, **encoder_settings)  # type: ignore[arg-type]
    return MaskedAutoencoder(encoder, mask_ratio=mask_ratio, decoder_dim=12, decoder_heads=2, **changes)  # type: ignore[arg-type]


def run(model: MaskedAutoencoder, image: torch.Tensor, seed: int = 5) -> MAEOutput:
    output = model(image, torch.Generator().manual_seed(seed))
    assert isinstance(output, MAEOutput)
    return output


def voxels(mask: torch.Tensor) -> np.ndarray:
    """Independent spreading of a token mask over voxels."""
    grids = mask.numpy().reshape(-1, 1, *GRID)
    return np.stack([np.kron(grid[0], np.ones(PATCH))[None] for grid in grids]) > 0


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 18), (0.9, 22), (0.5, 12), (0.6, 14)])
def test_number_of_hidden_tokens(ratio: float, hidden: int) -> None:
    assert run(tiny_mae(ratio), torch.randn(2, 1, *CROP)).mask.sum(dim=1).tolist() == [hidden, hidden]


def test_nine_tenths_of_a_thousand_are_nine_hundred() -> None:
    encoder = ViTEncoder(crop=(10, 10, 10), patch_size=(1, 1, 1), dim=6, depth=1, heads=1)
    assert MaskedAutoencoder(encoder, mask_ratio=0.9).n_hidden == 900  # int((1 − 0.9) · 1000) keeps 99


def test_the_smallest_noise_stays_visible() -> None:
    noise = torch.arange(24.0).flip(0).expand(2, -1)
    mask = tiny_mae(0.75)(torch.randn(2, 1, *CROP), noise=noise).mask
    assert mask[0].tolist() == [True] * 18 + [False] * 6


def test_generator_decides_the_mask() -> None:
    model, image = tiny_mae(), torch.randn(2, 1, *CROP)
    first, same, other = run(model, image, 1), run(model, image, 1), run(model, image, 2)
    assert torch.equal(first.mask, same.mask)
    assert torch.equal(first.loss, same.loss)
    assert not torch.equal(first.mask, other.mask)
    assert not torch.equal(first.mask[0], first.mask[1])


@pytest.mark.parametrize("normalise", [False, True])
def test_hidden_voxels_do_not_reach_the_prediction_and_visible_ones_do(normalise: bool) -> None:
    model, image = tiny_mae(normalise_targets=normalise).eval(), torch.randn(2, 1, *CROP)
    before = run(model, image)
    hidden = torch.from_numpy(voxels(before.mask))
    other = torch.randn_like(image)
    without_content = run(model, torch.where(hidden, other, image))
    assert not torch.allclose(without_content.loss, before.loss)
    assert before.reconstruction is not None
    assert without_content.reconstruction is not None
    if not normalise:  # else each patch is scaled back by its own, changed, mean and deviation
        assert torch.equal(without_content.reconstruction, before.reconstruction)
    changed = run(model, torch.where(hidden, image, other))
    assert changed.reconstruction is not None
    assert not torch.allclose(changed.reconstruction[hidden], before.reconstruction[hidden])


def test_loss_is_the_mean_square_over_hidden_voxels() -> None:
    model, image = tiny_mae().eval(), torch.randn(2, 1, *CROP)
    output = run(model, image)
    assert output.reconstruction is not None
    error = (output.reconstruction - image).numpy() ** 2
    assert output.loss.item() == pytest.approx(error[voxels(output.mask)].mean(), rel=1e-5)


def test_normalised_loss_and_the_way_back_to_image_units() -> None:
    model = tiny_mae(normalise_targets=True, target_floor=1e-3).eval()
    image = 3 + 5 * torch.randn(2, 1, *CROP)
    output = run(model, image)
    assert output.reconstruction is not None
    losses = []
    for b, token in np.argwhere(output.mask.numpy()):
        x, y, z = np.unravel_index(token, GRID)
        box = np.s_[b, 0, 4 * x : 4 * x + 4, 4 * y : 4 * y + 4, 2 * z : 2 * z + 2]
        truth, restored = image.numpy()[box], output.reconstruction.numpy()[box]
        losses.append((((restored - truth) / truth.std(ddof=1)) ** 2).mean())
    assert output.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_noise_in_air_counts_less_than_bone_where_there_is_a_floor() -> None:
    image = torch.full((1, 1, *CROP), -1.0)
    image[..., :4] += 0.01 * torch.randn(CROP[0], CROP[1], 4)  # air to the one side, bone to the other
    image[..., 4:] += 0.8 * torch.randn(CROP[0], CROP[1], 4)
    patches = patchify(image, PATCH)
    air = patches.var(-1) < 0.01
    targets = {floor: tiny_mae(normalise_targets=True, target_floor=floor).targets(patches) for floor in (1e-3, 0.05)}
    expected = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 0.05**2).sqrt()
    torch.testing.assert_close(targets[0.05], expected)
    assert targets[1e-3][air].std() > 0.8
    assert targets[0.05][air].std() < 0.3
    assert targets[0.05][~air].std() > 0.8
    model = tiny_mae(normalise_targets=True)
    torch.testing.assert_close(model.in_units_of(patches, model.targets(patches)), patches)


def test_constant_patches_do_not_break_normalised_targets() -> None:
    output = run(tiny_mae(normalise_targets=True), torch.full((1, 1, *CROP), -1.0))
    output.loss.backward()
    assert torch.isfinite(output.loss)


def test_training_loss_equals_that_of_eval_though_it_decodes_less() -> None:
    model, image = tiny_mae(), torch.randn(2, 1, *CROP)
    training, evaluating = run(model.train(), image), run(model.eval(), image)
    torch.testing.assert_close(training.loss, evaluating.loss)
    assert training.reconstruction is None
    assert evaluating.reconstruction is not None
    assert evaluating.reconstruction.shape == image.shape


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(checkpointing: bool) -> None:
    model = tiny_mae(activation_checkpointing=checkpointing).train()
    run(model, torch.randn(2, 1, *CROP)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_checkpointing_gives_the_same_gradients() -> None:
    image, gradients = torch.randn(2, 1, *CROP), []
    for checkpointing in (False, True):
        model = tiny_mae(activation_checkpointing=checkpointing).train()
        run(model, image).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_it_learns_a_pattern() -> None:
    model = tiny_mae(0.5).train()
    pattern = torch.sin(torch.arange(8.0))[None, None, :, None, None].expand(2, 1, *CROP)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss = run(model, pattern, step).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_token_mask_over_voxels() -> None:
    mask = torch.rand(2, 24) < 0.5
    assert np.array_equal(tiny_mae().token_mask_to_voxels(mask).numpy(), voxels(mask))


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0])
def test_masking_nothing_or_everything_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="of 24 tokens"):
        tiny_mae(ratio)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8, 8\) voxels"):
        tiny_mae()(torch.zeros(1, 1, 8, 8, 8))


def test_decoder_heads_are_checked() -> None:
    with pytest.raises(ValueError, match="5 attention heads do not divide a width of 12"):
        MaskedAutoencoder(ViTEncoder(crop=CROP, patch_size=PATCH), decoder_dim=12, decoder_heads=5)


def test_what_is_not_said_is_as_documented() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(ViTEncoder(crop=CROP, patch_size=PATCH, dim=16, depth=2, heads=2))
    assert (model.n_hidden, model.normalise_targets, model.target_floor) == (18, False, 0.05)
    assert len(model.decoder_blocks) == 2
    assert model.mask_token.shape == (96,)
    assert {tuple(m.weight.shape) for m in model.decoder_blocks.modules() if isinstance(m, torch.nn.Linear)} == {
        (3 * 96, 96), (96, 96), (4 * 96, 96), (96, 4 * 96)
    }  # fmt: skip
    assert model.decoder_blocks[0].attention.heads == 3


def test_the_decoder_starts_from_small_tokens_and_without_biases() -> None:
    model = tiny_mae()
    wide = MaskedAutoencoder(model.encoder, decoder_dim=960)
    assert wide.mask_token.std().item() == pytest.approx(0.02, rel=0.1)
    assert abs(wide.mask_token.mean().item()) < 0.005
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            assert not module.bias.any()
    for layer in (model.decoder_embedding, model.head):
        bound = (6 / sum(layer.weight.shape)) ** 0.5  # Xavier
        assert 0.8 * bound < layer.weight.abs().max().item() <= bound


@pytest.mark.parametrize(("checkpointing", "training"), [(True, True), (True, False), (False, True)])
def test_activations_are_recomputed_in_training_where_asked_for(
    checkpointing: bool, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def untouched(blocks: object, x: torch.Tensor, *, recompute: bool, last_from: int) -> tuple[torch.Tensor, list]:
        seen.append(recompute)
        return x[:, last_from:], []

    monkeypatch.setattr(mae, "run_blocks", untouched)
    run(tiny_mae(activation_checkpointing=checkpointing).train(training), torch.randn(1, 1, *CROP))
    assert seen == [checkpointing and training]
