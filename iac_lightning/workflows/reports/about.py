"""What a page says of its data: splits, slice thickness, simulated heads, warnings of the preparation."""

from __future__ import annotations

import json
from collections.abc import Sequence

from data_modules.cohort.table import Series
from data_modules.phantom.mark import is_phantom_series
from data_modules.prepare.warnings import warnings_sentence
from iac_lightning.workflows.reports.evaluated import Entry, named, warnings_file


def cohort_sentence(series: Sequence[Series], evaluated_mm: Sequence[float]) -> str:
    """Patients and series of each split, and the range of slice thickness of the evaluated scans."""
    parts = []
    for split in ("pretrain", "finetune", "dev", "test"):
        rows = [s for s in series if s.split == split]
        parts.append(f"{split} {len({s.patient_id for s in rows})} patients ({len(rows)} series)")
    return (
        f"Split by patient: {', '.join(parts)}. "
        f"Slices of the evaluated scans: {min(evaluated_mm):g} to {max(evaluated_mm):g} mm."
    )


def phantom_sentence(series: Sequence[Series], split: str) -> str:
    """How many of a split's series are simulated heads, and what follows; empty where none is."""
    of_split = [s for s in series if s.split == split]
    simulated = sum(map(is_phantom_series, of_split))
    if not simulated:
        return ""
    if simulated == len(of_split):
        return (
            f"All {simulated} series of the {split} split are simulated heads (phantoms): its \u201cpatients\u201d and "
            "scanners are simulated too, and no value here is one of a real patient."
        )
    return (
        f"{simulated} of the {len(of_split)} series of the {split} split are simulated heads (phantoms): values over "
        "all scans mix them with patients."
    )


def preparation_sentences(entries: Sequence[Entry], split: str) -> list[str]:
    """Which warnings the evaluated scans carry: once where all models say the same; nothing of earlier evaluations."""
    found: dict[str, list[str]] = {}
    for name, entry in named(entries).items():
        path = warnings_file(entry.directory / "evaluation", split)
        if path.exists():
            found.setdefault(warnings_sentence(json.loads(path.read_text(encoding="utf-8"))), []).append(name)
    if len(found) < 2:
        return list(found)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in found.items()]
