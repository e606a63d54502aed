from __future__ import annotations

from math import inf, isnan, sqrt

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from iac_lightning.evaluation.metrics.lesions import bounding_box
from iac_lightning.evaluation.metrics.surface import surface_metrics, surface_voxels

EMPTY = np.zeros((9, 8, 7), bool)


def line(first: int, n: int, z: int = 2) -> np.ndarray:
    mask = EMPTY.copy()
    mask[first : first + n, 3, z] = True
    return mask


def test_by_hand_in_plane():
    # voxel centres at x = 0, 0.5, 1 and at 1, 1.5, 2, 2.5 mm
    found = surface_metrics(line(0, 3), line(2, 4), (0.5, 0.5, 5.0))
    # first to second: 1, 0.5, 0; second to first: 0, 0.5, 1, 1.5: six of seven within 1 mm
    assert found.nsd == pytest.approx(6 / 7)
    assert found.hd95_mm == pytest.approx(1.0 + 0.85 * 0.5)  # 95 % of the way along four values: position 2.85


def test_across_slices_one_voxel_is_five_millimetres():
    found = surface_metrics(line(2, 3, z=2), line(2, 3, z=3), (0.5, 0.5, 5.0))
    assert (found.nsd, found.hd95_mm) == (0.0, 5.0)
    assert surface_metrics(line(2, 3, z=2), line(2, 3, z=3), (0.5, 0.5, 1.0)).nsd == 1.0


def test_a_distance_of_the_tolerance_agrees_in_single_precision_too():
    assert surface_metrics(line(0, 1), line(2, 1), (float(np.float32(0.5000001)), 1, 1)).nsd == 1.0
    assert surface_metrics(line(0, 1), line(2, 1), (0.501, 1, 1)).nsd == 0.0


def test_inner_voxels_are_no_surface_and_the_border_of_the_image_is():
    cube = EMPTY.copy()
    cube[0:3, 0:3, 0:3] = True
    assert len(surface_voxels(cube)) == 26
    assert [1, 1, 1] not in surface_voxels(cube).tolist()
    moved = np.roll(cube, (4, 3, 2), axis=(0, 1, 2))
    np.testing.assert_array_equal(surface_voxels(moved), surface_voxels(cube) + np.array([4, 3, 2]))


def test_empty_masks():
    both, one, other = (
        surface_metrics(*pair, (1, 1, 1)) for pair in ((EMPTY, EMPTY), (EMPTY, ~EMPTY), (~EMPTY, EMPTY))
    )
    assert both.nsd == 1.0
    assert isnan(both.hd95_mm)
    assert (one.nsd, one.hd95_mm, other.nsd, other.hd95_mm) == (0.0, inf, 0.0, inf)


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_monai(seed):
    rng = np.random.default_rng([seed])
    spacing = (0.43, 0.47, (0.6, 2.5)[seed % 2])
    masks = []
    for density in (0.05, 0.3):
        mask = np.zeros((22, 20, 9), bool)
        mask[3:18, 2:17, 1:8] = rng.random((15, 15, 7)) < density  # MONAI treats the image's border in its own way
        masks.append(mask)
    found = surface_metrics(*masks, spacing)
    p, g = (torch.from_numpy(m[None, None].astype(np.float32)) for m in masks)
    nsd = compute_surface_dice(p, g, [1.0], include_background=True, spacing=spacing)
    hd95 = compute_hausdorff_distance(p, g, include_background=True, percentile=95, spacing=spacing)
    assert found.nsd == pytest.approx(nsd.item(), abs=1e-6)
    assert found.hd95_mm == pytest.approx(hd95.item(), rel=1e-5)


def test_a_diagonal_distance():
    a, b = EMPTY.copy(), EMPTY.copy()
    a[1, 1, 1] = b[4, 5, 2] = True
    assert surface_metrics(a, b, (1.0, 1.0, 2.0)).hd95_mm == pytest.approx(sqrt(9 + 16 + 4))


def test_bounding_box():
    assert bounding_box(EMPTY) is None
    assert bounding_box(line(2, 3)) == (slice(2, 5), slice(3, 4), slice(2, 3))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="shape"):
        surface_metrics(EMPTY, EMPTY[:4], (1, 1, 1))
    with pytest.raises(ValueError, match="threshold"):
        surface_metrics(EMPTY.astype(np.float32), EMPTY, (1, 1, 1))
