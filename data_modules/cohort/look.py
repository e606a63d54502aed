"""The guard of the test split: its prepared series and its labels are read only for a look that stands in a record.

A model that is judged on the test split again and again is fitted to it by whoever looks. Training, calibration and
everything else therefore never hold a `RecordedLook`; evaluation and reports write one down first
(`iac_lightning.runs.looks`), and how many there were is part of what they report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import read_mask
from data_modules.scan.scan import Scan

GUARDED = "test"
"""The split that is looked at only for a record."""


class TestSetGuardError(UserError):
    """Something asked for the test split without a look on record."""

    __test__ = False  # no class of tests


@dataclass(frozen=True)
class RecordedLook:
    """A look at the test split that is on record.

    Attributes:
        path: the record, one line of JSON a look.
        id: of its line.
    """

    path: Path
    id: str

    @property
    def is_on_record(self) -> bool:
        """Whether the line stands in the file; an object alone opens nothing."""
        return bool(self.id) and self.path.is_file() and self.id in self.path.read_text(encoding="utf-8")


def require_look(splits: Iterable[str], look: RecordedLook | None, what: str) -> None:
    """Refuse the test split without a look on record.

    Args:
        splits: what is asked for.
        look: what `iac_lightning.runs.looks.record_look` gave.
        what: is asked for, for the message.

    Raises:
        TestSetGuardError: when `splits` holds the test split and there is no such look.
    """
    if GUARDED in splits and (look is None or not look.is_on_record):
        raise TestSetGuardError(
            f"{what} of the split '{GUARDED}': only evaluation and reports may look at them, each time on record "
            "(test_looks.jsonl of the run). Choose settings on the dev split; judge with `iac evaluate`."
        )


def read_label(
    series: Series, like: Scan | Grid | None = None, look: RecordedLook | None = None, *, second: bool = False
) -> Volume:
    """The labelled mask of a series of the cohort, as `read_mask` reads it.

    Args:
        series: with a label.
        like: the scan, or grid, that it must lie on.
        look: needed for a series of the test split.
        second: the mask of the second reader, where there is one, instead of the label.

    Raises:
        TestSetGuardError: for a series of the test split without a look on record.
        UserError: when the mask cannot be read.
    """
    require_look((series.split,), look, f"label of {series.series_id}, a series")
    if second:
        assert series.label_2 is not None, "callers check that there is a second label"
        return read_mask(series.label_2, like=like)
    assert series.label is not None, "callers check that there is a label"
    return read_mask(series.label, like=like)
