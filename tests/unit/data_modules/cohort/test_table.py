from __future__ import annotations

import hashlib
import hmac
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort import table as cohort_module
from data_modules.cohort.table import (
    COLUMNS,
    Cohort,
    Series,
    assign_splits,
    check_leakage,
    check_trains_on,
    check_unseen,
    hash_patients,
    read_cohort,
    read_table,
    seen_patients,
    split_salt,
    write_cohort,
)
from data_modules.errors import UserError

ROW = {
    "patient_id": "007",
    "series_id": "007-a",
    "image": "images/a.nii.gz",
    "label": "labels/a.nii.gz",
    "split": "finetune",
    "slice_thickness_mm": "5.0",
    "spacing_x_mm": "0.4",
    "spacing_y_mm": "0.5",
    "spacing_z_mm": "4.5",
    "kernel": "H30s",
    "manufacturer": "Siemens",
}


def write(folder: Path, *rows: dict[str, str], files: bool = True) -> Path:
    """A cohort table of `ROW` with changes, and empty files where it points."""
    records = [ROW | row for row in rows]
    for record in records if files else ():
        for path in (folder / record["image"], folder / record["label"]):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch()
    path = folder / "cohort.csv"
    pd.DataFrame(records).to_csv(path, index=False)
    return path


def series(patient: str, split: str) -> Series:
    return Series(patient, f"{patient}-a", Path("/a.nii"), None, split, 5.0, (1.0, 1.0, 5.0))


class TestRead:
    def test_a_row_becomes_a_series(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"true_volume_mm3": "12.5", "site": "012"}, {"series_id": "b", "label": ""})
        cohort = read_cohort(path)
        assert cohort.path == path
        assert cohort.series[0] == Series(
            patient_id="007",
            series_id="007-a",
            image=tmp_path / "images/a.nii.gz",
            label=tmp_path / "labels/a.nii.gz",
            split="finetune",
            slice_thickness_mm=5.0,
            spacing_mm=(0.4, 0.5, 4.5),
            kernel="H30s",
            manufacturer="Siemens",
            true_volume_mm3=12.5,
            extra={"site": "012"},
        )
        assert cohort.series[1].label is None
        assert cohort.series[1].true_volume_mm3 is None

    def test_a_relative_path_to_the_table_gives_absolute_paths(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, {})
        monkeypatch.chdir(tmp_path)
        assert read_cohort("cohort.csv").series[0].image == tmp_path / "images/a.nii.gz"

    def test_absolute_paths_and_dicom_folders_are_taken(self, tmp_path: Path) -> None:
        folder = tmp_path / "elsewhere" / "dicom"
        folder.mkdir(parents=True)
        (tmp_path / "table").mkdir()
        path = write(tmp_path / "table", {"image": str(folder), "label": ""})
        assert read_cohort(path).series[0].image == folder

    def test_splits_and_patients(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            {"patient_id": "2", "series_id": "2a", "image": "2"},
            {"patient_id": "1", "series_id": "1a", "image": "1", "split": "test"},
            {"patient_id": "2", "series_id": "2b", "image": "3"},
            {"patient_id": "0", "series_id": "0a", "image": "0", "split": ""},
        )
        cohort = read_cohort(path)
        assert [s.series_id for s in cohort.split("finetune", "test")] == ["2a", "1a", "2b"]
        assert cohort.patients("finetune") == ("2",)
        assert cohort.patients("test", "finetune") == ("1", "2")
        with pytest.raises(UserError, match="did you mean 'finetune'"):
            cohort.split("fine-tune")

    def test_all_problems_come_in_one_message(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            {},
            {"series_id": "../x", "slice_thickness_mm": "five", "spacing_z_mm": "0"},
            {"split": "tst", "patient_id": "", "spacing_x_mm": "inf", "true_volume_mm3": "-1"},
            {"series_id": "c", "split": "test"},
            {"patient_id": "8", "series_id": "d"},
        )
        (tmp_path / "labels/a.nii.gz").unlink()
        with pytest.raises(UserError) as caught:
            read_cohort(path)
        message = str(caught.value)
        for part in (
            f"{path}: 15 problems",
            "row 3, column 'series_id': '../x'",
            "row 3, column 'slice_thickness_mm': 'five'",
            "row 3, column 'spacing_z_mm': '0'",
            "row 4, column 'split': 'tst' is unknown; use pretrain, finetune, dev, test or leave it empty; did you "
            "mean 'test'?",
            "row 4, column 'patient_id': ''",
            "row 4, column 'spacing_x_mm': 'inf'",
            "row 4, column 'true_volume_mm3': '-1'",
            "row 2, column 'label': 'labels/a.nii.gz' does not exist",
            "column 'series_id': '007-a' occurs in rows 2, 4",
            "patient '007' is in finetune and test (rows 2, 3, 5)",
            "column 'image': 'images/a.nii.gz' belongs to 3 patients",
        ):
            assert part in message

    def test_a_long_list_is_cut_and_counted(self, tmp_path: Path) -> None:
        path = write(tmp_path, *[{"series_id": f"s{i}", "spacing_x_mm": "x"} for i in range(25)])
        with pytest.raises(UserError) as caught:
            read_cohort(path)
        lines = str(caught.value).splitlines()
        assert len(lines) == 22
        assert lines[0].endswith("25 problems in the cohort table")
        assert lines[-1] == "  … and 5 more"

    def test_missing_columns_are_named_with_the_nearest_one_present(self, tmp_path: Path) -> None:
        path = write(tmp_path, {})
        path.write_text(path.read_text().replace("slice_thickness_mm", "slice_thickness").replace("kernel,", "", 1))
        rows = path.read_text().splitlines()
        path.write_text("\n".join([rows[0], rows[1].replace("H30s,", "")]))
        with pytest.raises(UserError) as caught:
            read_cohort(path)
        assert "2 problems" in str(caught.value)
        assert "column 'slice_thickness_mm' is missing" in str(caught.value)
        assert "did you mean 'slice_thickness'?" in str(caught.value)
        assert "column 'kernel' is missing" in str(caught.value)

    def test_the_voxel_size_may_be_left_out_but_not_in_part(self, tmp_path: Path) -> None:
        path = write(tmp_path, {})
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.drop(columns=[f"spacing_{axis}_mm" for axis in "xyz"]).to_csv(path, index=False)
        (found,) = read_cohort(path).series
        assert (found.spacing_mm, found.extra) == (None, {})
        table.assign(spacing_x_mm="", spacing_y_mm="", spacing_z_mm="").to_csv(path, index=False)
        assert read_cohort(path).series == (found,)
        table.drop(columns="spacing_x_mm").assign(spacing_y_mm="").to_csv(path, index=False)
        with pytest.raises(UserError, match=r"'spacing_z_mm': is given without spacing_x_mm and spacing_y_mm"):
            read_cohort(path)

    def test_the_thickness_may_be_left_to_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "dicom").mkdir()
        path = write(tmp_path, {"slice_thickness_mm": ""}, {"series_id": "b", "image": "images/b.nii.gz"})
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        dicom = ROW | {"series_id": "c", "image": "dicom", "label": "", "slice_thickness_mm": ""}
        pd.concat([table, pd.DataFrame([dicom])]).to_csv(path, index=False)
        with pytest.raises(UserError, match=r"1 problem (?s:.*)row 2, column 'slice_thickness_mm': ''"):
            read_cohort(path)
        (tmp_path / "images/a.json").write_text("{")
        with pytest.raises(UserError, match=r"1 problem (?s:.*)row 2, (?s:.*)not valid JSON"):
            read_cohort(path)
        (tmp_path / "images/a.json").write_text('{"SliceThickness": 3}')
        assert [s.slice_thickness_mm for s in read_cohort(path).series] == [None, 5.0, None]

    def test_a_missing_image_is_a_problem(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"row 2, column 'image': 'images/a.nii.gz' does not exist"):
            read_cohort(write(tmp_path, {"label": ""}, files=False))

    def test_several_series_of_one_dicom_folder(self, tmp_path: Path) -> None:
        rows = [{"series_id": f"s{i}", "patient_id": f"p{i}", "dicom_series": f"1.{i}"} for i in range(2)]
        assert read_cohort(write(tmp_path, *rows)).series[1].extra == {"dicom_series": "1.1"}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "has no rows"),
            (",".join(COLUMNS), "has no rows"),
            (";".join(COLUMNS) + "\n" + ";" * 10, "separate cells by commas"),
            ("patient_id,patient_id\n1,2", "column 'patient_id' occurs twice"),
            ("patient_id,series_id\n\n1,2\n1,2,3", "row 4: 3 cells under 2 columns"),
        ],
    )
    def test_malformed_tables(self, tmp_path: Path, text: str, expected: str) -> None:
        path = tmp_path / "cohort.csv"
        path.write_text(text)
        with pytest.raises(UserError, match=expected):
            read_cohort(path)

    def test_missing_and_binary_files(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such cohort table"):
            read_cohort(tmp_path / "cohort.csv")
        (tmp_path / "cohort.csv").write_bytes(b"\xff\xfe\x00\x01")
        with pytest.raises(UserError, match="cannot be read as a table"):
            read_cohort(tmp_path / "cohort.csv")

    def test_a_byte_order_mark_is_no_part_of_the_header(self, tmp_path: Path) -> None:
        path = write(tmp_path, {})
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read_cohort(path).series[0].patient_id == "007"


class TestWrite:
    def test_reads_back_as_written(self, tmp_path: Path) -> None:
        table = read_table(write(tmp_path, {"site": "A, B"}, {"series_id": "b", "site": "ü"}))
        write_cohort(tmp_path / "cohort.csv", table)
        pd.testing.assert_frame_equal(read_table(tmp_path / "cohort.csv"), table)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort.csv", "images", "labels"]

    def test_a_failure_leaves_the_old_table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, {})
        before = path.read_bytes()

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_cohort(path, read_table(path).assign(split="test"))
        assert path.read_bytes() == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort.csv", "images", "labels"]


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


class TestLeakage:
    def test_a_patient_in_two_splits_is_refused(self) -> None:
        good = Cohort(Path("/c.csv"), (series("a", "dev"), series("b", "test"), series("b", "")))
        check_leakage(good)
        with pytest.raises(UserError, match="patient 'a' is in dev and test"):
            check_leakage(replace(good, series=(*good.series, series("a", "test"))))

    def test_training_on_other_splits_is_refused(self) -> None:
        check_trains_on([series("a", "finetune"), series("b", "pretrain")], ("pretrain", "finetune"))
        with pytest.raises(UserError, match=r"2 training series .* finetune: b-a \(dev\), c-a \(no split\)"):
            check_trains_on([series("a", "finetune"), series("b", "dev"), series("c", "")], ("finetune",))

    def test_hashes_are_hmacs_in_the_order_given(self) -> None:
        expected = [hmac.new(b"salt", p.encode(), hashlib.sha256).hexdigest() for p in ("b", "a")]
        assert hash_patients(["b", "a"], "salt") == expected

    def test_a_seen_patient_is_refused(self, tmp_path: Path) -> None:
        salt = split_salt(tmp_path / "cohort.csv")
        seen = seen_patients(["a", "b", "b"], salt)
        assert seen["hashes"] == sorted(hash_patients(["a", "b"], salt))
        assert salt not in str(seen)
        assert check_unseen(["c", "d"], seen, salt) is None
        with pytest.raises(UserError, match=r"1 of 2 patients .* such as b;"):
            check_unseen(["b", "c", "c"], seen, salt)

    def test_another_salt_gives_a_warning(self, tmp_path: Path) -> None:
        seen = seen_patients(["a"], split_salt(tmp_path / "one.csv"))
        (tmp_path / "elsewhere").mkdir()
        warning = check_unseen(["a"], seen, split_salt(tmp_path / "elsewhere" / "one.csv"))
        assert warning is not None
        assert "cannot be verified" in warning


class TestSalt:
    def test_it_is_created_once_and_travels_with_the_table(self, tmp_path: Path) -> None:
        salt = split_salt(tmp_path / "cohort.csv")
        assert len(salt) == 64
        assert split_salt(tmp_path / "cohort.csv") == salt
        other = tmp_path / "copy"
        other.mkdir()
        (other / "split_salt").write_text((tmp_path / "split_salt").read_text())
        assert split_salt(other / "cohort.csv") == salt
        assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "split_salt"]

    def test_all_who_create_it_at_once_agree(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(16) as pool:
            salts = set(pool.map(lambda _: split_salt(tmp_path / "cohort.csv"), range(64)))
        assert len(salts) == 1

    def test_the_loser_of_the_race_takes_the_winners(self, tmp_path: Path) -> None:
        winner = "ab" * 32
        (tmp_path / "split_salt").write_text(winner)
        cohort_module._create_salt(tmp_path / "split_salt")  # has seen no file a moment before
        assert split_salt(tmp_path / "cohort.csv") == winner

    def test_a_file_system_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise PermissionError("no hard links")

        monkeypatch.setattr(os, "link", fail)
        salt = split_salt(tmp_path / "cohort.csv")
        assert split_salt(tmp_path / "cohort.csv") == salt
        cohort_module._create_salt(tmp_path / "split_salt")
        assert split_salt(tmp_path / "cohort.csv") == salt

    def test_a_damaged_or_impossible_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read or created"):
            split_salt(tmp_path / "nowhere" / "cohort.csv")
        (tmp_path / "split_salt").write_text("short")
        with pytest.raises(UserError, match="holds 5 characters, expected 64"):
            split_salt(tmp_path / "cohort.csv")
