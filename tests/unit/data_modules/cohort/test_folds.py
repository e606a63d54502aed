"""Folds: dealt out evenly, held out one by one, and never those of pre-training and test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.folds import assign_folds, cohort_of, held_out
from data_modules.cohort.splits import patient_facts, strata_of
from data_modules.cohort.table import Cohort, Series, read_cohort
from data_modules.config import DataConfig
from data_modules.errors import UserError


def patients(n: int, split: str = "finetune", first: int = 0) -> pd.DataFrame:
    """One series each; burden and thickness go through all their classes."""
    return pd.DataFrame(
        {
            "patient_id": [f"p{first + k:03d}" for k in range(n)],
            "split": split,
            "slice_thickness_mm": [str((1, 3, 5)[k % 3]) for k in range(n)],
            "true_volume_mm3": [str((0, 10, 50, 200)[k // 3 % 4] + k / 100 * (k // 3 % 4 > 0)) for k in range(n)],
        }
    )


def fold_of(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["patient_id"], table["fold"], strict=True))


def series(patient: str, split: str, fold: int | None = None) -> Series:
    return Series(patient, f"{patient}_S1", Path("i"), None, split, 1.0, fold=fold)


FIVE = Cohort(
    Path("c.csv"),
    (
        series("a", "finetune", 0),
        series("b", "dev", 1),
        series("c", "finetune", 1),
        series("d", "test"),
        series("e", "pretrain"),
    ),
)


class TestAssignFolds:
    def test_each_stratum_and_the_whole_are_dealt_out_evenly(self) -> None:
        table = pd.concat([patients(50), patients(13, "dev", 50)], ignore_index=True)
        folds = fold_of(assign_folds(table, 5, seed=0))
        facts = patient_facts(table)
        groups = [list(facts), *strata_of(facts, sorted(facts))]
        assert len(groups) == 1 + 12
        for members in groups:
            sizes = Counter(folds[patient] for patient in members)
            counts = [sizes[str(k)] for k in range(5)]
            assert sum(counts) == len(members)
            assert max(counts) - min(counts) <= 1
        burden = {k: np.mean([facts[p]["burden"] for p in folds if folds[p] == k]) for k in "01234"}
        assert max(burden.values()) < 1.4 * min(burden.values())

    def test_the_others_have_none(self) -> None:
        table = pd.concat(
            [patients(4), patients(4, "dev", 4), patients(4, "test", 8), patients(4, "pretrain", 12)], ignore_index=True
        )
        folds = list(fold_of(assign_folds(table, 4, seed=1)).values())
        assert sorted(folds[:8]) == ["0", "0", "1", "1", "2", "2", "3", "3"]
        assert folds[8:] == [""] * 8

    def test_the_order_of_rows_does_not_matter_and_the_seed_does(self) -> None:
        table = patients(30)
        one = fold_of(assign_folds(table, 3, seed=0))
        assert fold_of(assign_folds(table[::-1], 3, seed=0)) == one
        assert fold_of(assign_folds(table, 3, seed=1)) != one

    def test_a_patient_stays_in_its_fold_when_others_come(self) -> None:
        before = assign_folds(patients(20), 4, seed=0)
        both = pd.concat([before, patients(4, "finetune", 20).assign(fold="")], ignore_index=True)
        after = fold_of(assign_folds(both, 4, seed=5))
        assert {p: f for p, f in after.items() if p < "p020"} == fold_of(before)
        assert Counter(after.values()) == {str(k): 6 for k in range(4)}

    def test_all_series_of_a_patient_are_in_one(self) -> None:
        table = pd.concat([patients(6), patients(6)], ignore_index=True)
        assert fold_of(assign_folds(table, 3, seed=0)).keys() == set(table["patient_id"])
        assigned = assign_folds(table, 3, seed=0)
        assert (assigned.groupby("patient_id")["fold"].nunique() == 1).all()

    @pytest.mark.parametrize("n", [1, 7])
    def test_as_many_folds_as_there_can_be(self, n: int) -> None:
        with pytest.raises(UserError, match=rf"--folds {n}: expected from 2 to 6"):
            assign_folds(patients(6), n, seed=0)

    def test_another_number_than_the_table_has_is_refused(self) -> None:
        assigned = assign_folds(patients(6), 3, seed=0)
        with pytest.raises(UserError, match="the table has folds 0, 1, 2 already"):
            assign_folds(assigned, 2, seed=0)


class TestHeldOut:
    def test_one_fold_is_developed_on_and_the_others_are_trained_on(self) -> None:
        zero, one = held_out(FIVE, [0]), held_out(FIVE, [1])
        assert (zero.patients("dev"), zero.patients("finetune")) == (("a",), ("b", "c"))
        assert (one.patients("dev"), one.patients("finetune")) == (("b", "c"), ("a",))
        for cohort in (zero, one):
            assert (cohort.patients("test"), cohort.patients("pretrain")) == (("d",), ("e",))

    def test_an_ensemble_holds_out_all_folds_of_its_members(self) -> None:
        both = held_out(FIVE, [0, 1])
        assert (both.patients("dev"), both.patients("finetune")) == (("a", "b", "c"), ())

    def test_what_the_table_lacks_is_named(self) -> None:
        with pytest.raises(UserError, match=r"has no fold 2; its folds are 0, 1"):
            held_out(FIVE, [2])
        with pytest.raises(UserError, match=r"c\.csv has no folds.*iac split c\.csv --folds N"):
            held_out(Cohort(Path("c.csv"), FIVE.series[3:]), [0])
        with pytest.raises(UserError, match=r"1 patients of finetune and dev in c\.csv have no fold, such as f"):
            held_out(Cohort(Path("c.csv"), (*FIVE.series, series("f", "dev"))), [0])


def test_the_table_says_who_is_in_which_fold(tmp_path: Path) -> None:
    header = "patient_id,series_id,image,label,split,slice_thickness_mm,kernel,manufacturer,fold\n"
    rows = [f"{p},{p}1,{p}.nii.gz,,{split},5,,,{fold}\n" for p, split, fold in (("a", "dev", 1), ("b", "finetune", 0))]
    for name in "ab":
        (tmp_path / f"{name}.nii.gz").touch()
    path = tmp_path / "cohort.csv"
    path.write_text(header + "".join(rows))
    assert [s.fold for s in read_cohort(path).series] == [1, 0]
    config = DataConfig(cohort=str(path))
    assert cohort_of(config).patients("dev") == ("a",)
    config.fold = 0
    assert cohort_of(config).patients("dev") == ("b",)
    config.more_folds = (1,)
    assert cohort_of(config).patients("dev") == ("a", "b")


@pytest.mark.parametrize(
    ("split", "fold", "told"),
    [
        ("dev", "x", r"row 2, column 'fold': 'x'; expected 0, 1"),
        ("dev", "-1", r"column 'fold': '-1'"),
        ("dev", "01", r"column 'fold': '01'"),
        ("test", "0", r"column 'fold': '0' for a patient of test; only those of finetune and dev"),
        ("dev", "1\na,a2,a.nii.gz,,dev,5,,,0", r"column 'fold': patient 'a' is in 0 and 1 \(rows 2, 3\)"),
    ],
)
def test_a_fold_that_cannot_be_is_refused(split: str, fold: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    header = "patient_id,series_id,image,label,split,slice_thickness_mm,kernel,manufacturer,fold\n"
    (tmp_path / "cohort.csv").write_text(f"{header}a,a1,a.nii.gz,,{split},5,,,{fold}\n")
    with pytest.raises(UserError, match=told):
        read_cohort(tmp_path / "cohort.csv")
