"""A second reader against the first, and models on the same scans: how far people agree is what a model can reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data_modules.csv_files import as_text
from iac_lightning.evaluation.clinical.analysis import paired_measure
from iac_lightning.evaluation.statistics.agreement import agreement_ci, bland_altman, icc_2_1
from iac_lightning.evaluation.statistics.intervals import mean_ci
from iac_lightning.evaluation.statistics.plain import correct, plain_interval
from iac_lightning.evaluation.tables.measures import MEASURES, values
from iac_lightning.evaluation.tables.series_table import AGAINST_READER_2, METRICS, READER_2

SECOND = "Second reader"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Masks against those of one reader.

    Attributes:
        dice: mean over the scans in which this reader marked something, with its interval (`plain_interval`).
        bias_mm3: mean of their volume − this reader's.
        limits_mm3: 95 % limits of agreement (Bland & Altman 1986).
        volume_icc: ICC(2,1) of volumes, likewise.
    """

    dice: dict[str, Any]
    bias_mm3: float
    limits_mm3: tuple[float, float]
    volume_icc: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The second reader, or a model, against readers.

    Attributes:
        name: of the model, or `SECOND`.
        first: against the first reader's labels.
        second: against the second reader's masks (of the second reader: the first reader against these); None where
            that was not measured.
        lesion_f1: mean over the scans with lesions of the first reader.
        against_reader: its Dice − the second reader's on the same scans (`paired_measure`), with `holm_p` over the
            models; None of the second reader.
    """

    name: str
    first: Agreement
    second: Agreement | None
    lesion_f1: dict[str, Any]
    against_reader: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What was read twice.

    Attributes:
        n: scans with both readers' masks.
        n_lesion: those where the first reader marked something.
        n_lesion_2: those where the second did.
        n_patients: whose they are.
        rows: the second reader, then the models.
    """

    n: int
    n_lesion: int
    n_lesion_2: int
    n_patients: int
    rows: tuple[Reading, ...]


def readings(tables: Mapping[str, pd.DataFrame]) -> Readings | None:
    """Second reader and models on the scans that were read twice; None where none was.

    Args:
        tables: model label to table of series, of the same scans.
    """
    first = next(iter(tables.values()))
    if f"{READER_2}dice" not in first or not first[f"{READER_2}dice"].notna().any():
        return None
    both = {
        name: table[table[f"{READER_2}dice"].notna()].sort_values("series_id", ignore_index=True)
        for name, table in tables.items()
        if f"{READER_2}dice" in table
    }
    rows = next(iter(both.values()))
    reader = rows.drop(columns=list(METRICS)).rename(columns={f"{READER_2}{name}": name for name in METRICS})
    reader["both_empty"] = reader["both_empty"].astype(bool)
    swapped = reader.assign(volume_mm3=reader["label_volume_mm3"], label_volume_mm3=reader["volume_mm3"])
    compared = {name: paired_measure(table, reader, "dice") for name, table in both.items()}
    correct(list(compared.values()), "wilcoxon_p")
    marked = swapped["label_volume_mm3"] > 0
    return Readings(
        n=len(rows),
        n_lesion=int(rows["has_lesion"].astype(bool).sum()),
        n_lesion_2=int(marked.sum()),
        n_patients=int(rows["patient_id"].nunique()),
        rows=(
            Reading(
                name=SECOND,
                first=_agreement(reader),
                second=_agreement(swapped.assign(has_lesion=marked)),
                lesion_f1=_mean(reader, "lesion_f1"),
            ),
            *(
                Reading(
                    name=name,
                    first=_agreement(table),
                    second=_against_second(table),
                    lesion_f1=_mean(table, "lesion_f1"),
                    against_reader=compared[name],
                )
                for name, table in both.items()
            ),
        ),
    )


def _against_second(table: pd.DataFrame) -> Agreement | None:
    """None of an evaluation of before models were measured against the second reader."""
    if AGAINST_READER_2 not in table:
        return None
    volumes_mm3 = table[f"{READER_2}volume_mm3"]
    return _agreement(
        table.assign(dice=table[AGAINST_READER_2], label_volume_mm3=volumes_mm3, has_lesion=volumes_mm3 > 0)
    )


def _agreement(table: pd.DataFrame) -> Agreement:
    """Of a table of series whose label is the reader's."""
    volumes = table[["volume_mm3", "label_volume_mm3"]].to_numpy(dtype=float)
    limits = bland_altman(volumes[:, 0], volumes[:, 1])
    return Agreement(
        dice=_mean(table, "dice"),
        bias_mm3=limits.bias,
        limits_mm3=(limits.low, limits.high),
        volume_icc=plain_interval(agreement_ci(volumes, as_text(table["patient_id"]), icc_2_1)),
    )


def _mean(table: pd.DataFrame, measure: str) -> dict[str, Any]:
    found = mean_ci(values(table, measure), as_text(table["patient_id"]), MEASURES[measure].kind)
    return plain_interval(found, "mean")
