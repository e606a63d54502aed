"""Patients shared out over the splits: stratified by burden and slice thickness, the same on every machine."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.cohort.table import SPLITS, VOLUMES, nearest_name, split_conflicts
from data_modules.csv_files import number_in
from data_modules.errors import UserError


def assign_splits(table: pd.DataFrame, fractions: Mapping[str, float], seed: int) -> pd.DataFrame:
    """Give every patient without a split one, so that patients per split come as near to `fractions` as can be.

    Patients are stratified by burden (no calcium, then tertiles of the positive volumes, or unknown) times tertiles
    of slice thickness (or unknown), both the median over the patient's series where the table gives them. Each stratum
    is shared out by largest remainder; then the totals are made exact by the moves that disturb the strata least. The
    result depends on ids, values and `seed`, not on the order of rows. Splits that are already assigned stay, and count
    towards the fractions.
    Where some patients have labels and others have none, those without go to `pretrain`.

    Args:
        table: columns `patient_id` and `slice_thickness_mm`; used where present: `split`, `label`,
            `true_volume_mm3`, `label_volume_mm3`.
        fractions: share of the patients by split, summing to 1.
        seed: decides which patients of a stratum go where.

    Returns:
        A copy of the table with `split` filled in every row.

    Raises:
        UserError: when the fractions or the values of the columns used make no sense.
    """
    _check_fractions(fractions)
    if seed < 0:
        raise UserError(f"the seed is {seed}; expected a whole number of at least 0")
    missing = [column for column in ("patient_id", "slice_thickness_mm") if column not in table]
    if missing:
        raise UserError(f"the cohort table lacks column {missing[0]!r}, which splits are assigned by; add it")
    names = [name for name in SPLITS if name in fractions]
    facts = patient_facts(table)
    fixed = {patient: f["split"] for patient, f in facts.items() if f["split"]}
    free = [patient for patient in sorted(facts) if patient not in fixed]
    unlabelled = [patient for patient in free if not facts[patient]["labelled"]]
    if unlabelled and any(f["labelled"] for f in facts.values()):
        if not fractions.get("pretrain"):
            raise UserError(
                f"{len(unlabelled)} patients have no label (such as {unlabelled[0]!r}), and no share goes to "
                "'pretrain'; give 'pretrain' a share, add the labels or remove the rows"
            )
        fixed |= dict.fromkeys(unlabelled, "pretrain")
        free = [patient for patient in free if patient not in fixed]

    shares = np.array([fractions[name] for name in names]) / sum(fractions.values())
    wanted = _largest_remainder(len(facts) * shares, len(facts))
    open_places = np.maximum(0, wanted - np.array([list(fixed.values()).count(name) for name in names]))
    if open_places.sum() == 0:  # only where every patient is fixed, or none is left to place
        open_places = shares
    totals = _largest_remainder(open_places * len(free) / open_places.sum(), len(free))

    strata = strata_of(facts, free)
    ideal = np.array([[len(members) * n / max(1, len(free)) for n in totals] for members in strata])
    counts = np.array([_largest_remainder(row, len(m)) for row, m in zip(ideal, strata, strict=True)], dtype=np.int64)
    rng = np.random.default_rng([seed])
    for members, row in zip(strata, _correct_totals(counts, ideal, totals), strict=True):
        order = rng.permutation(members).tolist()
        fixed |= dict(zip(order, np.repeat(names, row).tolist(), strict=True))
    result = table.copy()
    result["split"] = [fixed[str(patient)] for patient in table["patient_id"]]
    return result


def _check_fractions(fractions: Mapping[str, float]) -> None:
    for name, share in fractions.items():
        if name not in SPLITS:
            raise UserError(f"unknown split {name!r}; use {', '.join(SPLITS)}{nearest_name(name, SPLITS)}")
        if not share >= 0:
            raise UserError(f"the share of split {name!r} is {share}; expected at least 0")
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise UserError(f"the shares of the splits sum to {sum(fractions.values()):g}, expected 1: {dict(fractions)}")


def patient_facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Per patient: split ("" where open), thickness and burden (NaN where unknown), whether any series is labelled.

    Raises:
        UserError: when a patient is in two splits, or a value makes no sense.
    """
    filled = table.reindex(columns=["patient_id", "split", "label", "slice_thickness_mm", *VOLUMES]).astype(object)
    filled = filled.where(filled.notna(), "").astype(str)
    conflicts = split_conflicts(zip(filled["patient_id"], filled["split"], strict=True))
    if conflicts:
        name, splits = next(iter(conflicts.items()))
        raise UserError(f"patient {name!r} is in {' and '.join(splits)}; a patient belongs to one split")
    unknown = sorted({split for split in filled["split"] if split and split not in SPLITS})
    if unknown:
        raise UserError(f"unknown split {unknown[0]!r}; use {', '.join(SPLITS)}{nearest_name(unknown[0], SPLITS)}")
    facts = {}
    for patient, rows in filled.groupby("patient_id"):
        thickness = [number_in(cell) for cell in rows["slice_thickness_mm"] if cell]
        if not all(value > 0 for value in thickness):
            raise UserError(
                f"patient {patient!r} has a slice_thickness_mm that is neither empty nor a number above 0; "
                "mend the table"
            )
        burden = [number_in(row[VOLUMES[0]] or row[VOLUMES[1]]) for _, row in rows.iterrows()]
        known = [value for value in burden if not math.isnan(value)]
        facts[str(patient)] = {
            "split": max(rows["split"]),
            "labelled": any(rows["label"]),
            "thickness": float(np.median(thickness)) if thickness else math.nan,
            "burden": float(np.median(known)) if known else math.nan,
        }
    return facts


def strata_of(facts: dict[str, dict[str, Any]], free: list[str]) -> list[list[str]]:
    """The free patients by burden class and thickness class; classes are cut over all patients of `facts`."""
    burden = np.array([f["burden"] for f in facts.values()])
    thickness = np.array([f["thickness"] for f in facts.values()])
    burden_cuts, thickness_cuts = _tertiles(burden[burden > 0]), _tertiles(thickness[thickness > 0])
    strata: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for patient in free:
        volume, thick = facts[patient]["burden"], facts[patient]["thickness"]
        volume_class = -1 if math.isnan(volume) else 0 if volume == 0 else 1 + int((volume > burden_cuts).sum())
        thickness_class = -1 if math.isnan(thick) else int((thick > thickness_cuts).sum())
        strata[volume_class, thickness_class].append(patient)
    return [strata[key] for key in sorted(strata)]


def _tertiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two cuts between three classes of equal size; none for no values."""
    return np.quantile(values, [1 / 3, 2 / 3]) if values.size else np.empty(0)


def _largest_remainder(ideal: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Integers that sum to `total`, nearest to `ideal` (which sums to it too); ties go to the first."""
    counts = np.floor(np.asarray(ideal) + 1e-9).astype(np.int64)
    remainder = np.round(ideal - counts, 9)
    counts[np.argsort(-remainder, kind="stable")[: total - int(counts.sum())]] += 1
    return counts


def _correct_totals(
    counts: NDArray[np.int64], ideal: NDArray[np.float64], totals: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Move single patients between splits, where it disturbs a stratum least, until columns sum to `totals`."""
    counts = counts.copy()
    while counts.size and (surplus := counts.sum(axis=0) - totals).any():
        over, under = int(surplus.argmax()), int(surplus.argmin())
        gain = np.round((counts - ideal)[:, over] - (counts - ideal)[:, under], 9)
        stratum = int(np.where(counts[:, over] > 0, gain, -np.inf).argmax())
        counts[stratum, over] -= 1
        counts[stratum, under] += 1
    return counts
