"""The values that are averaged over scans: which scans count, and how a reader knows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iac_lightning.evaluation.statistics.intervals import Kind


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A value of single scans.

    Attributes:
        words: name and unit, for headings.
        lesions_only: averaged over the scans with lesions; else over every scan where it is defined.
        digits: decimals shown.
        better: 1 where higher is better, −1 where lower is, 0 where neither.
        kind: of the values, for their intervals.
    """

    words: str
    lesions_only: bool
    digits: int = 3
    better: int = 1
    kind: Kind = "share"

    @property
    def difference(self) -> Kind:
        """Kind of the difference of two models."""
        return "difference" if self.kind == "share" else "signed"


MEASURES = {
    "dice": Measure(words="Dice", lesions_only=True),
    "sensitivity": Measure(words="sensitivity", lesions_only=True),
    "ppv": Measure(words="PPV", lesions_only=False),
    "lesion_sensitivity": Measure(words="lesion sensitivity", lesions_only=True),
    "lesion_ppv": Measure(words="lesion PPV", lesions_only=False),
    "lesion_f1": Measure(words="lesion F1", lesions_only=True),
    "nsd_1mm": Measure(words="surface Dice at 1 mm", lesions_only=True),
    "hd95_mm": Measure(
        words="95th percentile Hausdorff distance, mm", lesions_only=False, digits=2, better=-1, kind="positive"
    ),
    "volume_error_mm3": Measure(words="volume error, mm³", lesions_only=False, digits=1, better=0, kind="signed"),
    "absolute_volume_error_mm3": Measure(
        words="|volume error|, mm³", lesions_only=False, digits=1, better=-1, kind="positive"
    ),
}
"""Columns of the table of series, `absolute_volume_error_mm3` derived, in the order in which they are shown."""


def values(table: pd.DataFrame, name: str, prefix: str = "") -> NDArray[np.float64]:
    """`[n_scans]` of a measure, nan where a scan does not count.

    PPV counts wherever something was predicted; the Hausdorff distance, infinite where one mask is empty, only where
    neither is.

    Args:
        table: from `series_table`.
        name: key of `MEASURES`.
        prefix: "plain_" for the mask of a threshold alone.
    """
    absolute = name.startswith("absolute_")
    column = table[prefix + name.removeprefix("absolute_")].to_numpy(dtype=float)
    column = np.where(np.isfinite(column), np.abs(column) if absolute else column, np.nan)
    return np.where(table["has_lesion"].astype(bool), column, np.nan) if MEASURES[name].lesions_only else column


def present(table: pd.DataFrame) -> list[str]:
    """The measures that a table has."""
    return [name for name in MEASURES if name.removeprefix("absolute_") in table]
