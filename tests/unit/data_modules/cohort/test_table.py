from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest

from data_modules.cohort.table import COLUMNS, Series, read_cohort, read_table, write_cohort
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


class TestSecondReader:
    def test_its_mask_stands_beside_the_label(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"label_2": "labels/b.nii.gz"}, {"series_id": "b", "label_2": ""})
        (tmp_path / "labels/b.nii.gz").touch()
        cohort = read_cohort(path)
        assert [s.label_2 for s in cohort.series] == [tmp_path / "labels/b.nii.gz", None]
        assert "label_2" not in cohort.series[0].extra

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"label_2": "labels/none.nii.gz"}, "'labels/none.nii.gz' does not exist"),
            ({"label_2": "images/a.nii.gz", "label": ""}, "without a label; give the first reader's mask as label"),
            ({"label_2": "labels/a.nii.gz"}, "is the label itself"),
        ],
    )
    def test_what_is_no_second_reading_is_refused(self, tmp_path: Path, row: dict[str, str], message: str) -> None:
        with pytest.raises(UserError, match=f"column 'label_2': .*{message}"):
            read_cohort(write(tmp_path, row))


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
        assert cohort.series[0].label_2 is None
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
            (";".join(COLUMNS) + "\n" + ";" * 7, "has no rows"),
            ("|".join(COLUMNS) + "\n" + "|" * 7, "separate its cells by commas"),
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

    @pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "007", "1e5", "True"])
    def test_ids_are_text_whatever_they_spell(self, tmp_path: Path, name: str) -> None:
        (series,) = read_cohort(write(tmp_path, {"patient_id": name, "series_id": name})).series
        assert (series.patient_id, series.series_id) == (name, name)

    @pytest.mark.parametrize("separator", [";", "\t"])
    def test_an_export_with_decimal_commas(self, tmp_path: Path, separator: str) -> None:
        volume = {"true_volume_mm3": "12.25", "label_volume_mm3": "0.5"}
        path = write(tmp_path, volume)
        expected = read_cohort(path)
        numbers = {"slice_thickness_mm": "5,0", "spacing_x_mm": "0,4", "spacing_y_mm": "0,5", "spacing_z_mm": "4,5"}
        row = ROW | numbers | {"true_volume_mm3": "12,25", "label_volume_mm3": "0,5"}
        pd.DataFrame([row]).to_csv(path, index=False, sep=separator)
        assert read_cohort(path) == expected

    def test_patients_that_are_one_in_all_likelihood_are_asked_about(self, tmp_path: Path) -> None:
        ids = ["7", "007", "P1", "07"]
        rows = [{"patient_id": name, "series_id": f"s{k}", "image": f"i{k}"} for k, name in enumerate(ids)]
        question = r"1 problem (?s:.*)'007' \(row 3\), '07' \(row 5\), '7' \(row 2\): are these one patient\?"
        with pytest.raises(UserError, match=question):
            read_cohort(write(tmp_path, *rows))
        partly = [row | {"distinct": "yes" if k < 2 else ""} for k, row in enumerate(rows)]
        with pytest.raises(UserError, match=question):
            read_cohort(write(tmp_path, *partly))
        cohort = read_cohort(write(tmp_path, *[row | {"distinct": "Yes"} for row in rows]))
        assert cohort.patients("finetune") == ("007", "07", "7", "P1")
        assert cohort.series[0].extra == {}
        with pytest.raises(UserError, match="row 2, column 'distinct': 'no'; expected yes, or nothing"):
            read_cohort(write(tmp_path, *[row | {"distinct": "no"} for row in rows[2:]]))

    def test_ids_that_cannot_name_folders(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"series_id": "a"}, {"series_id": "A"}, {"series_id": "x" * 300}, {"series_id": "b"})
        with pytest.raises(UserError) as caught:
            read_cohort(path)
        assert "2 problems" in str(caught.value)
        assert "'A' (row 3), 'a' (row 2) differ by capitals alone" in str(caught.value)
        assert "row 4, column 'series_id': 'xxxxxxxxxxxxxxxxxxxx…' has 300 characters" in str(caught.value)

    @pytest.mark.parametrize("value", ["0.008", "1e9", "0", "-5", "20.1", "5,0", "1_0", "nan", "NA"])
    @pytest.mark.parametrize("column", ["slice_thickness_mm", "spacing_x_mm"])
    def test_lengths_that_no_scan_has_are_named(self, tmp_path: Path, column: str, value: str) -> None:
        with pytest.raises(UserError, match=f"column '{column}': '{value}'; expected a number of millimetres from 0.1"):
            read_cohort(write(tmp_path, {column: value}))

    def test_volumes_that_no_head_has_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"column 'label_volume_mm3': '1e30'; expected a volume in mm³ from 0"):
            read_cohort(write(tmp_path, {"label_volume_mm3": "1e30"}))

    def test_an_image_is_a_file_or_a_folder(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="'pipe' is neither a file nor a folder"):
            read_cohort(write(tmp_path, {"image": "pipe", "label": ""}))
        with pytest.raises(UserError, match=r"'x{300}' does not exist"):
            read_cohort(write(tmp_path, {"image": "x" * 300, "label": ""}, files=False))

    def test_one_image_of_two_patients_is_found_behind_links(self, tmp_path: Path) -> None:
        rows = [{"patient_id": f"p{k}", "series_id": f"s{k}", "image": f"i{k}"} for k in range(3)]
        path = write(tmp_path, *rows)
        (tmp_path / "i1").unlink()
        (tmp_path / "i1").symlink_to(tmp_path / "i0")
        with pytest.raises(UserError, match=r"1 problem (?s:.*)'i0' belongs to 2 patients \(rows 2, 3\)"):
            read_cohort(path)


class TestWrite:
    def test_reads_back_as_written(self, tmp_path: Path) -> None:
        table = read_table(write(tmp_path, {"site": "A, B"}, {"series_id": "b", "site": "ü"}))
        write_cohort(tmp_path / "cohort.csv", table)
        pd.testing.assert_frame_equal(read_table(tmp_path / "cohort.csv"), table)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort.csv", "images", "labels"]

    def test_a_folder_that_takes_no_file_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, {})

        def fail(*_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(UserError, match=r"cohort.csv: .* cannot be written \(Read-only file system\); make its"):
            write_cohort(path, read_table(path))

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
