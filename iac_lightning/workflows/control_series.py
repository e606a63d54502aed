"""One series under a control of the network (`models.controls`): its Dice, kept so that a killed evaluation goes on.

Work of the host, as in `one_series`; nothing here imports torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_modules.cohort.look import read_label
from data_modules.cohort.series import read_series
from data_modules.files import write_json_atomic
from data_modules.prepare.sources import digest
from data_modules.scan.geometry import place
from iac_lightning.evaluation.calibration.record import DECIDING
from iac_lightning.evaluation.metrics.series import dice
from iac_lightning.workflows.one_series import EvaluationWork


@dataclass(frozen=True, kw_only=True)
class ControlWork(EvaluationWork):
    """A series that is measured under a control, with the calibration and the thresholds of the network itself.

    Attributes:
        control: which one.
    """

    control: str

    @property
    def path(self) -> Path:
        """Where its Dice is kept."""
        return self.folder / f"{self.item.series.series_id}_{self.control}.json"

    @property
    def key(self) -> dict[str, Any]:
        """What its Dice depends on; the label is among the sources."""
        return {**self.raw_key, "calibration": digest(self.calibration.facts(DECIDING))}

    def known(self) -> dict[str, float] | None:
        """What was measured before; None where nothing was, or of another network, calibration or scan."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return (
                {str(name): float(value) for name, value in kept["dice"].items()} if kept["key"] == self.key else None
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def is_saved(self) -> bool:
        """Whether the network need not be asked."""
        return self.known() is not None


def control_dice(work: ControlWork) -> dict[str, float] | None:
    """`dice` of the result and `plain_dice` of the mask of a threshold alone; None: ask the network."""
    known = work.known()
    if known is not None:
        return known
    region = work.on_region()
    if region is None:
        return None
    scan = read_series(work.item.series)
    label = read_label(work.item.series, like=scan, look=work.look)
    probability = work.calibration.apply(place(region, scan.grid, 0.0), work.item.slice_thickness_mm)
    mask, plain = work.calibration.masks(probability, scan.volume, work.item.slice_thickness_mm)
    found = {"dice": dice(mask.data, label.data), "plain_dice": dice(plain.data, label.data)}
    write_json_atomic(work.path, {"dice": found, "key": work.key})
    return found
