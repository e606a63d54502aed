"""Folds: the patients of fine-tuning and development dealt out anew, so that each of them is held out once.

The column `fold` of the cohort table holds 0, 1, …; `data.fold: k` makes the patients of fold k the development set and
those of all other folds the ones to fine-tune on. Patients of pretrain and test have no fold and stay what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from data_modules.cohort.splits import patient_facts, strata_of
from data_modules.cohort.table import FOLDED, Cohort, read_cohort
from data_modules.config import DataConfig
from data_modules.errors import UserError

FEWEST = 2


def cohort_of(config: DataConfig) -> Cohort:
    """The cohort table as an experiment sees it: with the splits that its fold makes.

    Raises:
        UserError: when the table is not valid, or has not the folds that are held out.
    """
    cohort = read_cohort(config.cohort)
    return cohort if config.fold is None else held_out(cohort, (config.fold, *config.more_folds))


def held_out(cohort: Cohort, folds: Sequence[int]) -> Cohort:
    """The cohort with the patients of some folds as development set and those of the others to fine-tune on.

    Raises:
        UserError: when the table has no such fold, or a patient of fine-tuning or development has none.
    """
    again = f"iac split {cohort.path} --folds N"
    known = sorted({s.fold for s in cohort.series if s.fold is not None})
    if not known:
        raise UserError(f"data.fold: {cohort.path} has no folds; deal its patients out first: {again}")
    if missing := sorted(set(folds) - set(known)):
        raise UserError(
            f"data.fold: {cohort.path} has no fold {', '.join(map(str, missing))}; its folds are "
            f"{', '.join(map(str, known))}"
        )
    without = sorted({s.patient_id for s in cohort.split(*FOLDED) if s.fold is None})
    if without:
        raise UserError(
            f"data.fold: {len(without)} patients of {' and '.join(FOLDED)} in {cohort.path} have no fold, such as "
            f"{', '.join(without[:3])}; the same command as before deals out those alone: {again}"
        )
    series = [
        s if s.fold is None else replace(s, split="dev" if s.fold in folds else "finetune") for s in cohort.series
    ]
    return Cohort(cohort.path, tuple(series))


def assign_folds(table: pd.DataFrame, n_folds: int, seed: int) -> pd.DataFrame:
    """Give every patient of fine-tuning and development that has no fold one of 0 to `n_folds` − 1.

    Patients are dealt out stratum by stratum (burden times slice thickness, as splits are assigned): each goes to the
    fold with the fewest of its stratum, then with the fewest in all. Where nobody had a fold before, the folds differ
    by at most one patient, in each stratum and in all. The result depends on ids, values and `seed`, not on the order
    of rows. Patients that have a fold keep it.

    Args:
        table: of a cohort, with all splits assigned; columns as for `assign_splits`, and `fold` where present.
        n_folds: how many.
        seed: decides which patients of a stratum go where.

    Returns:
        A copy of the table with `fold` filled ("" for patients of other splits).

    Raises:
        UserError: for a number of folds that the cohort cannot have, or has not.
    """
    facts = patient_facts(table)
    before = table["fold"] if "fold" in table else pd.Series("", index=table.index)
    folds = {
        str(patient): int(fold)
        for patient, fold in zip(table["patient_id"], before.fillna("").astype(str), strict=True)
        if fold
    }
    if folds and set(folds.values()) != set(range(n_folds)):
        raise UserError(
            f"--folds {n_folds}: the table has folds {', '.join(map(str, sorted(set(folds.values()))))} already, and a "
            "patient keeps its fold; give their number, or empty the column fold to deal all patients out anew"
        )
    concerned = {patient: f for patient, f in facts.items() if f["split"] in FOLDED}
    if not FEWEST <= n_folds <= len(concerned):
        raise UserError(
            f"--folds {n_folds}: expected from {FEWEST} to {len(concerned)}, the number of patients of "
            f"{' and '.join(FOLDED)}"
        )
    in_all = Counter(folds.values())
    rng = np.random.default_rng([seed, n_folds])
    for members in strata_of(concerned, sorted(concerned)):
        here = Counter(folds[patient] for patient in members if patient in folds)
        for patient in rng.permutation([patient for patient in members if patient not in folds]).tolist():
            fold = min(range(n_folds), key=lambda k: (here[k], in_all[k], k))
            folds[patient] = fold
            here[fold] += 1
            in_all[fold] += 1
    result = table.copy()
    result["fold"] = [str(folds.get(str(patient), "")) for patient in table["patient_id"]]
    return result
