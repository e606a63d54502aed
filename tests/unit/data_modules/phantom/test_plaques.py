from __future__ import annotations

import numpy as np
import pytest

from data_modules.phantom.anatomy import Anatomy
from data_modules.phantom.canvas import FINE_MM
from data_modules.phantom.plaques import _plaque_coverage, add_plaque
from data_modules.phantom.vessels import Tube, Vessel, tube_around
from data_modules.scan.geometry import Grid

RADIUS_MM = 2.25
NAMES = ("siphon_left", "siphon_right", "basilar", "mca_left", "mca_right")


def fine_grid() -> Grid:
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = (-8, -8, -32)
    return Grid((33, 33, 129), affine)


def straight_vessel(name: str) -> tuple[Vessel, Tube]:
    """Along z, with plaques around its middle, far from its ends."""
    z = np.arange(-30, 30, 0.25)
    center = np.stack([0 * z, 0 * z, z], axis=1)
    vessel = Vessel(name=name, center_mm=center, radius_mm=np.full(len(z), RADIUS_MM), plaque_range=(118, 122))
    return vessel, tube_around(vessel, fine_grid(), RADIUS_MM + 1)


@pytest.mark.parametrize(("kind", "volume_mm3"), [("intimal", 5.0), ("intimal", 20.0), ("medial", 20.0)])
def test_a_plaque_has_about_its_volume_and_lies_in_the_wall(kind: str, volume_mm3: float) -> None:
    vessel, tube = straight_vessel("siphon_left")
    volumes, lengths = [], []
    for seed in range(12):
        covered = _plaque_coverage(kind, volume_mm3, vessel, tube, np.random.default_rng([seed]))
        assert covered.dtype == np.float32
        assert (covered.min(), covered.max() <= 1) == (0, True)
        volumes.append(covered.sum() * FINE_MM**3)
        lengths.append(np.ptp(vessel.center_mm[tube.point[covered > 0.2], 2]))
        rho = tube.rho[covered > 0]
        assert rho.max() <= RADIUS_MM + 0.25 + FINE_MM  # the wall's outer surface, and half a voxel
        assert rho.min() >= RADIUS_MM + 0.25 - (0.85 * RADIUS_MM if kind == "intimal" else 1.0) - FINE_MM
    assert np.mean(volumes) == pytest.approx(volume_mm3, rel=0.25)
    assert (max(lengths) > 8) == (kind == "medial")  # sheets are long, domes are not


def test_plaques_never_fill_a_voxel_twice() -> None:
    vessels, tubes = zip(*(straight_vessel(name) for name in NAMES), strict=True)
    by_name = dict(zip(NAMES, tubes, strict=True))
    plaque, signal, texture = (np.zeros(fine_grid().shape, np.float32) for _ in range(3))
    rng = np.random.default_rng([4])
    blood = 45.0
    painted = [add_plaque(fine_grid(), vessels, by_name, 40.0, blood, texture, plaque, signal, rng) for _ in range(12)]
    assert 0 <= plaque.min() <= plaque.max() <= 1 + 1e-6
    assert sum(p.volume_mm3 for p in painted) == pytest.approx(plaque.sum() * FINE_MM**3, rel=1e-4)
    assert painted[-1].volume_mm3 < 0.5 * painted[0].volume_mm3  # the wall is nearly full
    assert {p.kind for p in painted} == {"intimal", "medial"}
    brightest = max(p.hu for p in painted)
    whole = plaque > 0.99
    assert whole.any()
    assert signal[whole].max() <= brightest - blood + 1
    assert signal[whole].min() >= min(p.hu for p in painted) - blood - 1
    assert not signal[plaque == 0].any()


def test_plaque_lies_in_an_arterial_wall(painted: Anatomy) -> None:
    places = painted.grid.to_ras_mm(np.argwhere(painted.plaque > 0.5))
    names = {p.vessel for p in painted.plaques}
    nearest = np.full(len(places), np.inf)
    for vessel in (v for v in painted.vessels if v.name in names):
        distance = np.linalg.norm(places[:, None] - vessel.center_mm[None], axis=-1)
        beyond = distance.min(1) - vessel.radius_mm[distance.argmin(1)]
        nearest = np.minimum(nearest, beyond)
    assert nearest.max() <= 0.25 + FINE_MM  # the wall is a quarter of a millimetre beyond the lumen
    assert nearest.min() >= -2.2
