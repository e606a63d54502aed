"""Simulated patients with one to three scans: Dice with zeros and ones, volumes that differ by decades, thicknesses.

All arrays are `[samples, patients, 3]`, one place a scan; `scans` says which places are filled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Generator = np.random.Generator

SCANS = 3
"""Most scans of a patient."""

THICKNESSES_MM, SHARES = (0.8, 1.5, 3.0, 5.0, 7.0), (0.3, 0.2, 0.2, 0.2, 0.1)

CUTOFFS_MM3 = (0.0, 30.0, 90.0)
"""Upper limits of the risk groups none, low and medium."""


@dataclass(frozen=True)
class Patients:
    """How many patients each sample has, and where the draws come from."""

    rng: Generator
    samples: int
    patients: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of every array."""
        return self.samples, self.patients, SCANS

    def own(self) -> Floats:
        """A standard normal value of each patient."""
        return self.rng.normal(size=(self.samples, self.patients, 1))

    def each(self) -> Floats:
        """A standard normal value of each scan."""
        return self.rng.normal(size=self.shape)


def scans(p: Patients) -> NDArray[np.bool_]:
    """One to three scans a patient, equally likely."""
    return np.arange(SCANS) < p.rng.integers(1, SCANS + 1, size=(p.samples, p.patients, 1))


def thickness_mm(p: Patients) -> Floats:
    """Half of a patient's scans have the patient's usual thickness, the others any."""
    usual = p.rng.choice(THICKNESSES_MM, p=SHARES, size=(p.samples, p.patients, 1))
    other = p.rng.choice(THICKNESSES_MM, p=SHARES, size=p.shape)
    return np.where(p.rng.random(p.shape) < 0.5, usual, other)


def dice(p: Patients, missed: float, per_mm: float = 0.0, mm: Floats | None = None) -> Floats:
    """Skewed to the left, alike within patients; a share is missed (0), more on thick slices, and 2 % are perfect."""
    thick = 0.0 if mm is None else mm
    hit = 1 / (1 + np.exp(-(1.2 + 0.8 * p.own() + 0.5 * p.each() + per_mm * thick)))
    chance = p.rng.random(p.shape)
    return np.where(chance > 0.98, 1.0, np.where(chance < missed * (1 + np.multiply(thick, 0.5)), 0.0, hit))


def two_models(p: Patients) -> tuple[Floats, Floats]:
    """Dice of two models that are equally good, on the same scans: each misses 5 %, a tenth of the scans are ties."""
    patient, scan = p.own(), p.each()

    def model() -> Floats:
        own = 1 / (1 + np.exp(-(1.2 + 0.8 * patient + 0.5 * scan + 0.4 * p.own() + 0.3 * p.each())))
        return np.where(p.rng.random(p.shape) < 0.05, 0.0, own)

    a, b = model(), model()
    return np.where(p.rng.random(p.shape) < 0.1, b, a), b


def rare_failure(p: Patients) -> tuple[Floats, Floats]:
    """Dice of two models alike but for the first, which is 0.03 better and misses 6 % of the scans outright."""
    b = 1 / (1 + np.exp(-(1.2 + 0.8 * p.own() + 0.5 * p.each())))
    a = np.clip(b + 0.03 + 0.04 * p.each(), 0, 1)
    return np.where(p.rng.random(p.shape) < 0.06, 0.0, a), b


def volumes_mm3(p: Patients, noise: float = 1.0) -> tuple[Floats, Floats]:
    """Predicted and labelled: lognormal over decades, a fifth of the patients without, 4 % missed, false alarms."""
    label = np.exp(4 + 1.3 * p.own() + 0.15 * p.each()) * (p.rng.random((p.samples, p.patients, 1)) > 0.2)
    predicted = label * np.exp(noise * (0.25 * p.own() + 0.2 * p.each())) * (p.rng.random(p.shape) > 0.04)
    alarm = np.exp(1.5 + p.each()) * (p.rng.random(p.shape) < 0.3)
    return predicted + np.where(label == 0, alarm, 0.0), label


def risk_group(volume_mm3: Floats) -> NDArray[np.intp]:
    """Index of the group of each volume."""
    return np.searchsorted(CUTOFFS_MM3, volume_mm3)
