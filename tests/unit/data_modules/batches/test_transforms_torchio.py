"""The two engines, transform by transform and all together, with the same plans."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.batches import transforms, transforms_torchio
from tests.unit.data_modules.batches.plans import data_config, lesions, plan_of, smooth_hu

N = 6
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "affine": {
        "affine": [True, True, False, True, True, True],
        "scales": np.random.default_rng(0).uniform(0.9, 1.1, (N, 3)),
        "degrees": np.random.default_rng(1).uniform(-10, 10, (N, 3)),
    },
    "thickness": {
        "thicker_mm": [3.0, np.nan, 4.2, 6.0, 5.0, 2.1],
        "roundness": [0, 0, 0.5, 1, 0, 0.2],
        "widening": [1, 1, 1.1, 1.3, 1.2, 1],
    },
    "blur": {"blur_mm": [0, 0.2, 0.5, 0.8, 1.5, 0]},
    "gain": {"gain": np.linspace(0.95, 1.05, N), "offset_hu": np.linspace(-10, 10, N)},
    "noise": {"noise_hu": [0, 5, 20, 0, 10, 1]},
    "gamma": {"gamma": [1, 0.7, 1.5, 1, 2, 0.5]},
    "window": {"window_hu": [(-200 + 10 * k, 1000 - 20 * k) for k in range(N)]},
}
CHANGES["everything"] = {name: value for changes in CHANGES.values() for name, value in changes.items()}


@pytest.mark.parametrize("kind", ["occupancy", "protocol"])
@pytest.mark.parametrize("peak", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_both_engines_make_the_same_samples(name: str, peak: bool, kind: str) -> None:
    plan, config = plan_of(N, **CHANGES[name]), data_config(thickness_label=kind)
    hu, occupancy = smooth_hu(N).round() + 100, lesions(N)
    peak_hu = (hu + 80).to(torch.int16) if peak else None
    batched, reference = (
        engine.augment(hu.clone(), occupancy.clone(), None if peak_hu is None else peak_hu.clone(), plan, config, 150.0)
        for engine in (transforms, transforms_torchio)
    )
    for a, b, tolerance in zip(batched, reference, (2e-4, 1e-4, 0), strict=True):
        assert a is not None
        assert b is not None
        assert a.dtype == b.dtype
        # A threshold, or the end of the patch, may fall on either side of rounding.
        assert ((a.float() - b.float()).abs() > tolerance).float().mean() < 1e-3
    assert 0.01 < batched[2].float().mean() < 0.9  # type: ignore[union-attr]


def test_without_labels() -> None:
    plan, config = plan_of(N, **CHANGES["everything"]), data_config()
    batched, reference = (
        engine.augment(smooth_hu(N), None, None, plan, config) for engine in (transforms, transforms_torchio)
    )
    assert batched[1:] == reference[1:] == (None, None)
    assert ((batched[0] - reference[0]).abs() > 2e-4).float().mean() < 1e-3


def test_no_global_generator_is_touched() -> None:
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    for engine in (transforms, transforms_torchio):
        engine.augment(smooth_hu(N), lesions(N), None, plan_of(N, **CHANGES["everything"]), data_config(), 100.0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (str(np.random.get_state()), random.getstate()) == states[1:]  # noqa: NPY002
