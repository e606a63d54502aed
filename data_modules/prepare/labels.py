"""Whether a label can be arterial calcification at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError

_AIR_HU = -200
_MOST_AIR = 0.5
"""Share of air among labelled voxels; calcification, its edge in thick slices too, is brighter (phantoms: 0)."""
_LARGEST = 0.1
"""Share of a region; a phantom of 800 mm³ of plaque, labelled with every kernel and thickness, has 0.006."""
LARGEST_OF_SCAN = 0.5
"""The same of a whole scan, which may be a crop around a lesion; an inverted label has more."""


def check_label(label: NDArray[np.bool_], hu: NDArray[Any], path: Path | None, most: float = _LARGEST) -> None:
    """Refuses a label that cannot be calcification: inverted, filling the image, or in air.

    Args:
        label: mask, of a region of interest or of a whole scan.
        hu: of the same voxels.
        path: of the label, for messages; series whose labels are read have one.
        most: largest share of the voxels that may be labelled; a scan may be cropped tighter than a region.

    Raises:
        UserError: naming how much is labelled, and how much of that is air.
    """
    values = hu[label]
    if not values.size:
        return
    share, air = values.size / label.size, float((values < _AIR_HU).mean())
    if share > most:
        raise UserError(
            f"{path}: {share:.0%} of the voxels are labelled ({air:.0%} of these are air), expected at most "
            f"{most:.0%}: background and lesion look swapped, or the whole image is marked. Label calcification "
            "alone, with 1 or more, all else with 0."
        )
    if air > _MOST_AIR:
        raise UserError(
            f"{path}: {air:.0%} of the {values.size} labelled voxels are air (below {_AIR_HU} HU), expected calcium: "
            "the label lies elsewhere than what it marks, or belongs to another scan. Draw it on this scan."
        )
