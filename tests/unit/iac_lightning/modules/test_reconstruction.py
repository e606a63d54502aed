"""R² of what was hidden, and what needs no network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iac_lightning.models.vit_tokens import patchify
from iac_lightning.modules.reconstruction import Explained, interpolated


def test_r2_is_that_of_all_batches_together() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(3, 2, 100).astype(np.float32)
    said = [truth + rng.normal(0, s, 100).astype(np.float32) for s in (0.5, 3.0)]
    metric = Explained(2)
    for rows in (slice(0, 30), slice(30, 100)):
        metric.update(torch.from_numpy(truth[rows]), [torch.from_numpy(s[rows]) for s in said])
    expected = [1 - ((s - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum() for s in said]
    assert metric.compute().tolist() == pytest.approx(expected, rel=1e-5)


def test_halved_numbers_are_summed_in_full() -> None:
    metric = Explained(1).bfloat16()
    for _ in range(600):
        metric.update(torch.tensor([0.0, 1.0], dtype=torch.bfloat16), [torch.tensor([0.5, 0.5])])
    assert metric.compute().item() == pytest.approx(0, abs=1e-6)


def test_a_hidden_patch_gets_the_visible_ones_by_the_inverse_cube_of_their_distance() -> None:
    # Patches of 1 × 1 × 1 voxels: nothing is interpolated between centres.
    values = torch.tensor([[1.0, 9.0, 4.0, 9.0]])[..., None]
    hidden = torch.tensor([[False, True, False, True]])
    said = interpolated(values, hidden, (1, 1, 4), (1, 1, 1), (1.0, 1.0, 2.0))[0, :, 0]
    last = (1 / 6**3 * 1 + 1 / 2**3 * 4) / (1 / 6**3 + 1 / 2**3)
    assert said.tolist() == pytest.approx([1, 2.5, 4, last])


def test_distances_are_in_millimetres() -> None:
    values = torch.tensor([0.0, 0.0, 1.0, 0.0])[None, :, None]  # on a grid of 2 × 1 × 2: along z, then along x
    hidden = torch.tensor([[True, False, False, True]])
    near_x = interpolated(values, hidden, (2, 1, 2), (1, 1, 1), (1.0, 1.0, 4.0))[0, 0, 0]
    near_z = interpolated(values, hidden, (2, 1, 2), (1, 1, 1), (4.0, 1.0, 1.0))[0, 0, 0]
    assert near_x.item() == pytest.approx(64 / 65)
    assert near_z.item() == pytest.approx(1 / 65)


def test_between_centres_means_are_interpolated_linearly() -> None:
    ramp = torch.arange(16.0).repeat(4, 4, 1)[None, None]
    patches = patchify(ramp, (2, 2, 2))
    said = interpolated(patches, torch.zeros(1, 32, dtype=torch.bool), (2, 2, 8), (2, 2, 2), (1.0, 1.0, 1.0))
    inner = patchify(ramp, (2, 2, 2)).reshape(2, 2, 8, 8)[:, :, 1:-1]
    torch.testing.assert_close(said.reshape(2, 2, 8, 8)[:, :, 1:-1], inner)
