from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from data_modules.phantom.anatomy import Anatomy, build_anatomy
from data_modules.phantom.canvas import FINE_MM


def test_true_volume_is_what_was_painted(painted: Anatomy) -> None:
    assert painted.true_volume_mm3 == pytest.approx(painted.plaque.sum() * FINE_MM**3, rel=1e-5)
    assert painted.true_volume_mm3 == pytest.approx(sum(p.volume_mm3 for p in painted.plaques), rel=1e-4)
    assert painted.true_volume_mm3 == pytest.approx(80.0, rel=0.25)
    assert painted.plaque.max() <= 1 + 1e-6
    whole = painted.plaque > 0.99
    assert painted.hu[whole].min() >= 129.9
    assert painted.hu[whole].max() <= 1300.1
    assert -1000.1 <= painted.hu.min() < -900
    assert 1000 < painted.hu.max() <= 1500.1


def test_siphons_hold_blood_to_their_radius_and_touch_bone() -> None:
    anatomy = build_anatomy(np.random.default_rng([6]), 0.0, (40.0, 34.0, 26.0))
    assert anatomy.true_volume_mm3 == 0
    assert anatomy.plaques == ()
    bone = ndimage.distance_transform_edt(anatomy.other_signal < 150) * FINE_MM
    for vessel in (v for v in anatomy.vessels if v.name.startswith("siphon")):
        part = slice(*vessel.plaque_range)
        assert 2.0 <= vessel.radius_mm.min() <= vessel.radius_mm.max() <= 2.5
        tangent = np.gradient(vessel.center_mm, axis=0)[part]
        across = np.cross(tangent, [0.3, 1.0, 0.2])
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        center, radius = vessel.center_mm[part], vessel.radius_mm[part, None]
        inner, outer = (
            ndimage.map_coordinates(
                anatomy.hu, anatomy.grid.to_index(center + side * (radius + d) * across).T, order=0, mode="nearest"
            )
            for side, d in ((1, -0.75), (1, 0.75))
        )
        blood = np.median(inner)
        assert 40 <= blood <= 50
        assert np.mean(np.abs(inner - blood) < 0.5) > 0.97
        assert np.mean(np.abs(outer - blood) < 0.5) < 0.3
        index = anatomy.grid.to_index(center).round().astype(int)
        assert np.mean(bone[tuple(index.T)] - radius[:, 0] < 1.0) > 0.6
