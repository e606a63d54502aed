from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.splits import assign_splits
from data_modules.errors import UserError


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


def counts(assigned: pd.DataFrame) -> dict[str, int]:
    return {str(split): int(n) for split, n in assigned.groupby("split")["patient_id"].nunique().items()}


class TestAssignSplits:
    def test_strata_are_shared_out_exactly_where_they_can_be(self) -> None:
        """12 patients, 4 burden classes × 1 thickness × 3 patients: a third of every class goes to each split."""
        volumes = [0, 0, 0, 1, 2, 3, 10, 11, 12, 100, 110, 120]  # tertile cuts of the positive: 5.3…, 41.3…
        patients = table(
            patient_id=[f"p{i:02d}" for i in range(12)], slice_thickness_mm=[5.0] * 12, true_volume_mm3=volumes
        )
        assigned = assign_splits(patients, {"finetune": 1 / 3, "dev": 1 / 3, "test": 1 / 3}, seed=0)
        for start in range(0, 12, 3):
            assert sorted(assigned["split"][start : start + 3]) == ["dev", "finetune", "test"]

    def test_thickness_is_stratified_by_the_patient_median(self) -> None:
        """Three series a patient; only the median tells the three classes of 2 patients apart."""
        rows = [
            {"patient_id": f"p{i}", "slice_thickness_mm": t, "true_volume_mm3": 0}
            for i, median in enumerate([1, 1, 3, 3, 5, 5])
            for t in (0.5, median, 10)
        ]
        for seed in range(5):
            assigned = assign_splits(pd.DataFrame(rows), {"dev": 0.5, "test": 0.5}, seed)
            splits = assigned.drop_duplicates("patient_id")["split"].tolist()
            assert [sorted(splits[i : i + 2]) for i in (0, 2, 4)] == [["dev", "test"]] * 3

    def test_unknown_thickness_is_a_class_of_its_own(self) -> None:
        """Nine patients, three classes of three (1 mm, 5 mm, unknown): each split gets one of each class."""
        patients = table(
            patient_id=[f"p{i}" for i in range(9)],
            slice_thickness_mm=["1", "5", ""] * 3,
            true_volume_mm3=["0"] * 9,
        )
        assigned = assign_splits(patients, {"finetune": 1 / 3, "dev": 1 / 3, "test": 1 / 3}, seed=0)
        for k in range(3):
            assert sorted(assigned["split"][k::3]) == ["dev", "finetune", "test"]

    def test_totals_are_exact_though_every_stratum_rounds_the_same_way(self) -> None:
        """Seven strata of one patient: largest remainder alone would put all seven into finetune."""
        patients = table(
            patient_id=list("abcdefg"),
            slice_thickness_mm=[1, 1, 3, 3, 5, 5, 5],
            true_volume_mm3=["0", "9", "0", "9", "0", "9", ""],
        )
        assigned = assign_splits(patients, {"finetune": 0.6, "dev": 0.2, "test": 0.2}, seed=0)
        assert counts(assigned) == {"finetune": 4, "dev": 2, "test": 1}  # 4.2, 1.4, 1.4: the remainder goes to dev

    @pytest.mark.parametrize("seed", [0, 1])
    def test_many_patients(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        volume = rng.exponential(100, 203) * (rng.random(203) > 0.3)
        patients = table(
            patient_id=[f"p{i}" for i in range(203) for _ in range(2)],
            slice_thickness_mm=rng.choice([1.0, 2.5, 5.0], 406),
            true_volume_mm3=np.repeat(volume, 2),
        )
        fractions = {"pretrain": 0.5, "finetune": 0.3, "dev": 0.1, "test": 0.1}
        assigned = assign_splits(patients, fractions, seed)
        assert assigned.groupby("patient_id")["split"].nunique().max() == 1
        assert counts(assigned) == {"pretrain": 102, "finetune": 61, "dev": 20, "test": 20}  # 101.5, 60.9, 20.3, 20.3
        free_of_calcium = assigned["true_volume_mm3"] == 0
        overall = free_of_calcium.mean()
        for _, members in assigned.groupby("split"):
            assert abs((members["true_volume_mm3"] == 0).mean() - overall) < 0.1

    def test_seed_decides_and_row_order_does_not(self) -> None:
        rng = np.random.default_rng(0)
        patients = table(
            patient_id=[f"p{i % 40}" for i in range(80)],
            slice_thickness_mm=rng.choice([1.0, 5.0], 80),
            true_volume_mm3=rng.choice([0.0, 5.0, 50.0], 80),
        )
        fractions = {"finetune": 0.6, "dev": 0.2, "test": 0.2}
        first = assign_splits(patients, fractions, seed=3)
        shuffled = assign_splits(patients.sample(frac=1, random_state=1), dict(reversed(fractions.items())), seed=3)
        pd.testing.assert_frame_equal(first, shuffled.sort_index())
        assert not first.equals(assign_splits(patients, fractions, seed=4))

    def test_assigned_splits_stay_and_count_towards_the_fractions(self) -> None:
        patients = table(
            patient_id=["a", "b", "b", "c", "d", "e", "f", "g", "h"],
            slice_thickness_mm=["5"] * 9,
            split=["test", "test", "", "", "", "", "", "", ""],
        )
        assigned = assign_splits(patients, {"finetune": 0.5, "dev": 0.25, "test": 0.25}, seed=0)
        assert assigned["split"][:3].tolist() == ["test"] * 3
        assert counts(assigned) == {"finetune": 4, "dev": 2, "test": 2}
        assert patients["split"].tolist() == ["test", "test"] + [""] * 7  # the argument is left alone

    def test_everything_assigned_is_left_as_it_is(self) -> None:
        patients = table(patient_id=["a", "b"], slice_thickness_mm=[5, 5], split=["dev", "dev"])
        assert assign_splits(patients, {"test": 1.0}, seed=0)["split"].tolist() == ["dev", "dev"]

    def test_an_overfull_split_leaves_the_rest_in_proportion(self) -> None:
        patients = table(
            patient_id=list("abcdefghij"), slice_thickness_mm=[5] * 10, split=["pretrain"] * 7 + [None] * 3
        )
        assigned = assign_splits(patients, {"pretrain": 0.4, "finetune": 0.4, "test": 0.2}, seed=0)
        assert counts(assigned) == {"pretrain": 7, "finetune": 2, "test": 1}

    def test_patients_without_label_pretrain_where_others_have_one(self) -> None:
        patients = table(
            patient_id=list("abcdefgh"), slice_thickness_mm=[5] * 8, label=["", "", "x", "x", "x", "x", "x", "x"]
        )
        assigned = assign_splits(patients, {"pretrain": 0.5, "test": 0.5}, seed=0)
        assert assigned["split"][:2].tolist() == ["pretrain", "pretrain"]
        assert counts(assigned) == {"pretrain": 4, "test": 4}
        with pytest.raises(UserError, match="2 patients have no label"):
            assign_splits(patients, {"dev": 0.5, "test": 0.5}, seed=0)

    def test_label_volume_stands_in_for_the_true_volume(self) -> None:
        patients = table(patient_id=list("abcd"), slice_thickness_mm=[5] * 4, label_volume_mm3=["0", "8", "0", "8"])
        for seed in range(5):
            splits = assign_splits(patients, {"dev": 0.5, "test": 0.5}, seed)["split"].tolist()
            assert splits[0] != splits[2]
            assert splits[1] != splits[3]

    @pytest.mark.parametrize(
        ("columns", "fractions", "expected"),
        [
            ({}, {"train": 1.0}, "unknown split 'train'; use pretrain, finetune, dev, test; did you mean 'pretrain'"),
            ({}, {"dev": 0.5, "test": 0.4}, "sum to 0.9, expected 1"),
            ({}, {"dev": -0.5, "test": 1.5}, "share of split 'dev' is -0.5"),
            ({"split": ["dev", "test"]}, {"dev": 1.0}, "patient 'a' is in dev and test"),
            ({"split": ["tests", "tests"]}, {"dev": 1.0}, "unknown split 'tests'.*did you mean 'test'"),
            ({"slice_thickness_mm": ["5", "thick"]}, {"dev": 1.0}, "'a' has a slice_thickness_mm"),
        ],
    )
    def test_bad_arguments(self, columns: dict[str, list[str]], fractions: dict[str, float], expected: str) -> None:
        patients = table(**{"patient_id": ["a", "a"], "slice_thickness_mm": ["5", "5"]} | columns)
        with pytest.raises(UserError, match=expected):
            assign_splits(patients, fractions, seed=0)

    def test_a_table_without_thickness(self) -> None:
        with pytest.raises(UserError, match="lacks column 'slice_thickness_mm'"):
            assign_splits(table(patient_id=["a"]), {"dev": 1.0}, seed=0)
