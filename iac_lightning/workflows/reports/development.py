"""What the development split adds to a page about another: the tables that decide risk groups and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from iac_lightning.config.schema import EvaluationConfig
from iac_lightning.evaluation.clinical.analysis import shortage
from iac_lightning.evaluation.tables.series_table import read_series_table
from iac_lightning.evaluation.tables.summary import read_summary
from iac_lightning.report.models.missing import missing_development, small_development
from iac_lightning.workflows.reports.evaluated import Entry, evaluate_command, fixed_cutoffs

SAME_MODEL = ("checkpoint_sha256", "threshold", "plain_threshold", "calibration")
"""What the evaluations of a model on two splits share, unless it has changed in between."""


def development(
    entries: Mapping[str, Entry], split: str, settings: EvaluationConfig
) -> tuple[dict[str, pd.DataFrame], str, tuple[str, ...]]:
    """Tables of the development split, which decide risk groups and intervals.

    Args:
        entries: name to evaluated model.
        split: that the page is about; the development split cannot judge itself.
        settings: coverage of the intervals, and cut-offs where they are fixed.

    Returns:
        Name to table, or none of them; a sentence that says what is missing; the commands that make it.
    """
    if split == "dev":
        return {}, "", ()
    cutoffs = fixed_cutoffs(settings)
    lacking = [name for name, entry in entries.items() if not has_development(entry.directory / "evaluation", split)]
    if lacking:
        sentence = missing_development(lacking, split, cutoffs_fixed=cutoffs is not None)
        return {}, sentence, tuple(evaluate_command(entries[name], "dev") for name in lacking)
    tables = {name: read_series_table(entry.directory / "evaluation" / "dev.csv") for name, entry in entries.items()}
    if small := shortage(tables, settings.coverage, cutoffs):
        sentence = small_development(small, cutoffs_fixed=cutoffs is not None)
        return {}, sentence, tuple(evaluate_command(entry, "dev") for entry in entries.values())
    return tables, "", ()


def has_development(folder: Path, split: str) -> bool:
    """Whether `evaluation/` holds the development split, predicted by the same weights and calibration as `split`."""
    if not (folder / "dev.csv").exists() or not (folder / "dev.json").exists():
        return False
    dev, other = (read_summary(folder / f"{name}.json") for name in ("dev", split))
    return all(dev.get(key) == other.get(key) for key in SAME_MODEL)
