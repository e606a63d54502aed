from __future__ import annotations

import numpy as np
import pytest

from iac_lightning.evaluation.calibration.lesions import candidate_lesions


def test_the_surest_voxel_and_any_overlap_by_hand() -> None:
    """Two candidates: a pair whose surer voxel is unlabelled and whose other is a lesion; a single one beside none."""
    mask = np.array([1, 1, 0, 0, 1, 0], bool).reshape(6, 1, 1)
    probability = np.array([0.5, 0.75, 0.99, 0.0, 0.6, 0.9], np.float32).reshape(6, 1, 1)
    label = np.array([1, 0, 0, 0, 0, 1], np.uint8).reshape(6, 1, 1)
    p, hit = candidate_lesions(mask, probability, label)
    assert p.tolist() == pytest.approx([0.75, 0.6])
    assert (p.dtype, hit.tolist()) == (np.float32, [True, False])


def test_neighbours_at_corners_are_one_and_nothing_is_nothing() -> None:
    mask = np.zeros((2, 2, 2), bool)
    p, hit = candidate_lesions(mask, mask.astype(np.float32), mask)
    assert (len(p), len(hit)) == (0, 0)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    p, hit = candidate_lesions(mask, np.where(mask, 0.25, 0).astype(np.float32), ~mask)
    assert (p.tolist(), hit.tolist()) == ([0.25], [False])
