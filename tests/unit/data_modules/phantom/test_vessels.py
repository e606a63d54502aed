from __future__ import annotations

import numpy as np
import pytest

from data_modules.phantom.canvas import FINE_MM, random_frame
from data_modules.phantom.vessels import Vessel, draw_vessels, tube_around
from data_modules.scan.geometry import Grid


def straight_vessel(length_mm: float = 20.0, radius_mm: float = 2.0) -> Vessel:
    """Along z through the origin."""
    z = np.arange(-length_mm / 2, length_mm / 2, 0.25)
    return Vessel(
        name="straight",
        center_mm=np.stack([0 * z, 0 * z, z], axis=1),
        radius_mm=np.full(len(z), radius_mm),
        plaque_range=(20, 60),
    )


def grid() -> Grid:
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = -12
    return Grid((49, 49, 49), affine)


@pytest.mark.parametrize("seed", range(3))
def test_the_arteries_of_a_patient(seed: int) -> None:
    rng = np.random.default_rng([seed])
    vessels = {v.name: v for v in draw_vessels(random_frame(rng), rng)}
    pairs = [f"{name}_{side}" for name in ("siphon", "mca", "aca", "pca") for side in ("left", "right")]
    assert set(vessels) == {"basilar", *pairs}
    for name, vessel in vessels.items():
        steps = np.linalg.norm(np.diff(vessel.center_mm, axis=0), axis=1)
        np.testing.assert_allclose(steps, 0.25, rtol=0.02)
        assert len(vessel.radius_mm) == len(vessel.center_mm)
        first, stop = vessel.plaque_range
        assert 0 <= first < stop <= len(vessel.center_mm)
        low, high = {"siphon": (1.99, 2.51), "basilar": (1.5, 1.8), "mca": (1.3, 1.6)}.get(
            name.split("_")[0], (0.75 * 1.3, 0.75 * 1.6)
        )
        assert low <= vessel.radius_mm.min() <= vessel.radius_mm.max() <= high
    for name in ("siphon", "mca"):
        assert vessels[f"{name}_right"].center_mm[:, 0].mean() > 5
        assert vessels[f"{name}_left"].center_mm[:, 0].mean() < -5
    for side in ("left", "right"):  # the middle and anterior stems leave the top of the siphon
        top = vessels[f"siphon_{side}"].center_mm[-1]
        for name in ("mca", "aca"):
            assert np.linalg.norm(vessels[f"{name}_{side}"].center_mm[0] - top) < 0.5


def test_a_tube_in_its_own_coordinates() -> None:
    vessel = straight_vessel()
    tube = tube_around(vessel, grid(), 3.0)
    x, y, z = grid().to_ras_mm(np.stack(np.unravel_index(tube.index, grid().shape), axis=1)).T
    inside = np.abs(z) < 9  # beyond, the nearest point is an end
    np.testing.assert_allclose(tube.rho[inside], np.hypot(x, y)[inside], atol=0.01)
    assert tube.rho.max() <= 3.0
    np.testing.assert_allclose(vessel.center_mm[tube.point[inside], 2], z[inside], atol=0.13)
    # Every voxel that near is there, once.
    everywhere = grid().to_ras_mm(np.stack(np.unravel_index(np.arange(49**3), grid().shape), axis=1))
    near = (np.hypot(everywhere[:, 0], everywhere[:, 1]) <= 3) & (np.abs(everywhere[:, 2]) < 9)
    assert set(tube.index[inside]) == set(np.flatnonzero(near))
    assert len(np.unique(tube.index)) == len(tube.index)


def test_angles_do_not_twist_along_the_tube() -> None:
    tube = tube_around(straight_vessel(), grid(), 3.0)
    x, y, z = grid().to_ras_mm(np.stack(np.unravel_index(tube.index, grid().shape), axis=1)).T
    shown = (np.hypot(x, y) > 1) & (np.abs(z) < 9)
    offset = np.exp(1j * (tube.theta - np.arctan2(y, x)))[shown]
    assert np.abs(offset - offset[0]).max() < 1e-6  # the same turn everywhere, and in the same sense
