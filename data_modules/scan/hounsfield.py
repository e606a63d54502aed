"""Hounsfield units: whether values are such, and how they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import AIR_HU


def to_int16(hu: NDArray[Any]) -> NDArray[np.int16]:
    """Whole HU within the range of int16."""
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(hu), limits.min, limits.max).astype(np.int16)


def whole_hu(hu: NDArray[np.float64]) -> NDArray[Any]:
    """HU kept within [−1024, 32767], as int16 where all are whole numbers, else float32."""
    hu = np.clip(hu, AIR_HU, np.iinfo(np.int16).max)
    rounded = np.rint(hu)
    return rounded.astype(np.int16) if np.abs(hu - rounded).max(initial=0) <= 1e-3 else hu.astype(np.float32)


def check_hu(hu: NDArray[Any], path: Path) -> list[str]:
    """Refuses values that cannot be HU of a head, remarks on doubtful ones.

    A head scan holds air, below −200 HU. A tight crop may hold none, but then still bone.

    Raises:
        UserError: naming the range of values that is not HU.
    """
    low, high = float(hu.min()), float(hu.max())
    remedy = "Give the original CT in Hounsfield units (air −1000, water 0)."
    if low >= 0:
        kind = (
            "windowed to grey values or a mask" if high <= 255 else "stored with an offset (such as +1024), or not CT"
        )
        raise UserError(f"{path}: values from {low:g} to {high:g}, none negative: {kind}, not HU. {remedy}")
    if low >= -200 and high <= 400:
        raise UserError(f"{path}: values from {low:g} to {high:g}: looks windowed, or is not CT, not HU. {remedy}")
    return [f"no air in the image: the lowest value is {low:g} HU"] if low >= -200 else []
