"""Plaques in the wall of an artery: how much of each voxel they fill, and how bright they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_modules.phantom.canvas import FINE_MM, Floats
from data_modules.phantom.vessels import Tube, Vessel
from data_modules.scan.geometry import Grid


@dataclass(frozen=True, eq=False, kw_only=True)
class Plaque:
    """One painted plaque: its kind (``"intimal"`` or ``"medial"``), vessel, brightness and volume."""

    kind: str
    vessel: str
    hu: float
    volume_mm3: float


def _plaque_coverage(kind: str, volume_mm3: float, vessel: Vessel, tube: Tube, rng: np.random.Generator) -> Floats:
    """Share of each voxel of a tube that a plaque of about `volume_mm3` fills.

    Intimal plaques are short domes that reach into the lumen; medial ones are long thin sheets in the wall with a
    ragged outline.
    """
    start, stop = vessel.plaque_range
    center = int(rng.integers(start, stop))
    radius = float(vessel.radius_mm[center])
    turn = (tube.theta - rng.uniform(-np.pi, np.pi) + np.pi) % (2 * np.pi) - np.pi
    along, around = (tube.point - center) * 0.25, turn * radius
    outer = vessel.radius_mm[tube.point] + 0.25
    if kind == "intimal":  # volume of the dome: 2/3 π · thickness · half length · half width
        thick, length, width = rng.uniform(0.9, 1.5), rng.uniform(1.2, 2.4), rng.uniform(1.0, 2.0)
        grow = (volume_mm3 / (2 / 3 * np.pi * thick * length * width)) ** (1 / 3)
        thick, width = min(thick * grow, 0.85 * radius), min(width * grow, 0.75 * np.pi * radius)
        length = volume_mm3 / (2 / 3 * np.pi * thick * width)
        shape = np.sqrt(np.clip(1 - (along / length) ** 2 - (around / width) ** 2, 0, None))
    else:
        thick, width = rng.uniform(0.6, 1.0), rng.uniform(1.5, 0.9 * np.pi * radius)
        length = np.clip(volume_mm3 / (0.85 * np.pi * thick * width), 3.0, 16.0)
        width = min(volume_mm3 / (0.85 * np.pi * thick * length), np.pi * radius)
        ragged = np.zeros_like(along)
        for _ in range(3):
            phase = rng.uniform(0, 2 * np.pi)
            ragged += np.sin(along * rng.uniform(0.5, 1.6) + around * rng.uniform(-1.6, 1.6) + phase)
        shape = np.clip(3 * (1 - (along / length) ** 2 - (around / width) ** 2 + 0.2 * ragged), 0, 1)
        shape[np.abs(along) > 1.3 * length] = 0
    half = thick * shape / 2
    depth = tube.rho - (outer - half)
    overlap = np.minimum(half, depth + FINE_MM / 2) - np.maximum(-half, depth - FINE_MM / 2)
    return np.clip(overlap / FINE_MM, 0, 1).astype(np.float32)


def add_plaque(
    grid: Grid,
    vessels: tuple[Vessel, ...],
    tubes: dict[str, Tube],
    volume_mm3: float,
    blood_hu: float,
    texture: Floats,
    plaque: Floats,
    signal: Floats,
    rng: np.random.Generator,
) -> Plaque:
    """Add one plaque to the fields `plaque` and `signal`, where no other plaque lies yet."""
    places = ("siphon_left", "siphon_right", "basilar", "mca_left", "mca_right")
    name = str(rng.choice(places, p=(0.44, 0.44, 0.06, 0.03, 0.03)))
    vessel, tube = next(v for v in vessels if v.name == name), tubes[name]
    kind = "intimal" if rng.random() < 0.55 else "medial"
    covered = _plaque_coverage(kind, volume_mm3, vessel, tube, rng)
    median, low = (650, 250) if kind == "intimal" else (450, 200)
    hu = float(np.clip(np.exp(rng.normal(np.log(median), 0.4)), low, 1300))
    grain = np.clip(1 + 0.15 * texture.reshape(-1)[tube.index], 0.6, 1.4)
    bright = np.clip(hu * grain, 130, 1300).astype(np.float32)
    added = np.maximum(covered - plaque.reshape(-1)[tube.index], 0)
    plaque.reshape(-1)[tube.index] += added
    signal.reshape(-1)[tube.index] += added * (bright - np.float32(blood_hu))
    volume = float(added.sum(dtype=np.float64)) * grid.voxel_volume_mm3
    return Plaque(kind=kind, vessel=name, hu=hu, volume_mm3=volume)
