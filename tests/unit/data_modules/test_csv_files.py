"""CSV files as people and their programs write them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules import csv_files
from data_modules.csv_files import CsvForm, as_text, number_in, read_csv, read_typed, write_csv
from data_modules.errors import UserError

NAMES = ["NA", "None", "null", "nan", "007", "1e5", "True", "", "-1.50"]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cells(table: pd.DataFrame) -> list[list[str]]:
    return [table.columns.tolist(), *table.to_numpy().tolist()]


class TestRead:
    def test_cells_are_text_whatever_they_spell(self, tmp_path: Path) -> None:
        path = write(tmp_path, "id,other\n" + "".join(f"{name},x\n" for name in NAMES))
        assert read_csv(path).cells["id"].tolist() == NAMES

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("start", ["", "\ufeff", "sep={0}{1}", "sep={0}{0}{0}{1}", '\ufeff"sep={0}"{1}'])
    def test_separators_ends_of_lines_and_marks(self, tmp_path: Path, separator: str, newline: str, start: str) -> None:
        rows = [["id", "note (a, b; c\td)"], ["1", 'say "x"'], ["", " "], ["2", f"two{newline}lines{separator} one"]]
        quoted = [separator.join(f'"{c.replace(chr(34), 2 * chr(34))}"' for c in row) for row in rows]
        path = write(tmp_path, start.format(separator, newline) + newline.join([*quoted, "", ""]))
        found = read_csv(path, ["id", "other"])
        assert cells(found.cells) == [rows[0], rows[1], rows[3]]
        assert found.cells.index.tolist() == [2, 4]  # as a spreadsheet counts
        assert (found.form.separator, found.form.newline) == (separator, newline)
        assert found.form.has_bom == start.startswith("\ufeff")

    @pytest.mark.parametrize(
        ("header", "separator"),
        [("id;a,b;c", ";"), ("id,a;b,c", ","), ("id\ta,b,c,d,e", "\t"), ("ID;x", ";"), ("x;y;z,a", ";"), ("a,b", ",")],
    )
    def test_the_names_that_are_expected_show_the_separator(self, tmp_path: Path, header: str, separator: str) -> None:
        row = separator.join(["1"] * (header.count(separator) + 1))
        assert read_csv(write(tmp_path, f"{header}\n{row}\n"), ["id"]).form.separator == separator

    def test_columns_and_rows_of_nothing_are_left_out(self, tmp_path: Path) -> None:
        found = read_csv(write(tmp_path, "\n,id,,x,,\n,1,,2,,\n,,,,,\n,3,kept,4,,\n"), ["id"])
        assert cells(found.cells) == [["id", "", "x"], ["1", "", "2"], ["3", "kept", "4"]]
        assert found.cells.index.tolist() == [3, 5]

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"", "has no rows"),
            (b"\xef\xbb\xbf", "has no rows"),
            (b"a,b\n\n,\n", "has no rows"),
            (b"a|b\n1|2\n", "one column only"),
            (
                b"a,b\n1,2\n1,2,3\n1\n",
                r"2 problems in the list\n  row 3: 3 cells under 2 columns; (?s:.*)row 4: 1 cells",
            ),
            (b"a,b,a\n1,2,3\n", "row 1: column 'a' occurs twice"),
            (b'a,b\n1,2\n3,"open\n5,6\n', "row 3 of the list cannot be read"),
            (b'a,b\n1,"2" x\n', "row 2 of the list cannot be read"),
            (b"a,b\n1," + b"x" * 140_000, "row 2 of the list cannot be read"),
            (b"a,b\r\n1,M\xfcller\r\n", r"line 2 holds a byte that is not UTF-8 \(0xfc; in Latin-1 it is 'ü'\)"),
            ("\ufeffa,b\n1,2\n".encode("utf-16-le"), "it is UTF-16"),
            ("a,b\n1,2\n".encode("utf-16-le"), "line 1 holds NUL bytes"),
            (b"a,b\n1,2\0\n", "line 2 holds NUL bytes"),
            (b"PK\x03\x04....xl/workbook.xml", "it is an Excel workbook"),
            (b"PK\x03\x04....", "it is a ZIP archive"),
            (b"\xd0\xcf\x11\xe0\xa1", r"it is an Excel workbook \(.xls\)"),
            (b"\x1f\x8b\x08", "it is a gzip archive"),
        ],
    )
    def test_what_is_no_table_is_named(self, tmp_path: Path, content: bytes, complaint: str) -> None:
        with pytest.raises(UserError, match=complaint):
            read_csv(write(tmp_path, content), ["a", "b"], "list")

    def test_what_is_no_file_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(tmp_path / "pipe")
        path = write(tmp_path, "a,b\n1,2\n")
        for name, complaint in (
            (tmp_path, "is a folder"),
            (tmp_path / "pipe", "is no ordinary file"),
            (tmp_path / "none", "there is no such list; make one"),
            (path / "none", "there is no such list"),
            (tmp_path / ("x" * 300), "cannot be read"),
        ):
            with pytest.raises(UserError, match=complaint):
                read_csv(name, what="list", remedy="make one")
        monkeypatch.setattr(csv_files, "MAX_BYTES", 5)
        with pytest.raises(UserError, match="at most"):
            read_csv(path)


class TestWrite:
    @pytest.mark.parametrize("form", [CsvForm(), CsvForm(";", "\r\n", True), CsvForm("\t", "\r", False, "sep=\t\r")])
    def test_reads_back_as_written(self, tmp_path: Path, form: CsvForm) -> None:
        table = pd.DataFrame(
            {"id": NAMES, "text": ['"', "a,b;c\td", "\n", "\r", "\r\n", "ü", " x ", "y", ""]}, dtype=str
        )
        found = read_csv(write(tmp_path, write_csv(table, form)), ["id"])
        assert cells(found.cells) == cells(table)
        assert found.form == form

    def test_a_file_as_it_was(self, tmp_path: Path) -> None:
        content = 'id;a\r\n1;"x;y"\r\n2;\r\n'.encode("utf-8-sig")
        found = read_csv(write(tmp_path, content), ["id"])
        assert write_csv(found.cells, found.form) == content


class TestNumbers:
    def test_what_is_a_number(self) -> None:
        texts = ["5", " 5.0 ", "-.5", "1e2", "5,0", "", "nan", "inf", "1_000", "٣", "0x1", "1e999", "five"]
        found = [number_in(text) for text in texts]
        np.testing.assert_array_equal(found, [5, 5, -0.5, 100] + 9 * [np.nan])

    def test_decimal_commas_where_cells_are_separated_by_something_else(self, tmp_path: Path) -> None:
        found = read_csv(write(tmp_path, "id;mm;note\n1;0,488;1,5\n2;-1,5e3;\n3;7;\n4;;\n"), ["id", "mm"])
        points = found.with_points(["mm"])
        assert points["mm"].tolist() == ["0.488", "-1.5e3", "7", ""]
        assert points["note"].tolist()[0] == "1,5"  # no number
        assert found.cells["mm"].tolist()[0] == "0,488"  # to be written back
        quoted = read_csv(write(tmp_path, 'id,mm\n1,"0,488"\n'), ["id", "mm"])
        assert quoted.with_points(["mm"])["mm"].tolist() == ["0,488"]

    def test_numbers_that_may_be_thousands_are_asked_about(self, tmp_path: Path) -> None:
        found = read_csv(write(tmp_path, "id;mm3;mm\n1;1.234;5,0\n2;12.5;0.250\n"), ["id", "mm"])
        with pytest.raises(UserError, match=r"1 problem (?s:.*)row 2, column 'mm3': '1.234' may be meant"):
            found.with_points(["mm", "mm3"])
        assert found.with_points(["mm"])["mm"].tolist() == ["5.0", "0.250"]


class TestTyped:
    def read(self, path: Path) -> pd.DataFrame:
        return read_typed(path, ("id",), ("x", "is_it"), "list", "write it again")

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_names_stay_and_numbers_are_numbers(self, tmp_path: Path, separator: str) -> None:
        rows = [["x", "id", "is_it"], ["0.1", "NA", "True"], ["", "007", "False"], ["inf", "1e5", "TRUE"]]
        text = "\n".join(separator.join(row) for row in rows)
        table = self.read(write(tmp_path, text if separator == "," else text.replace(".", ",")))
        assert table.columns.tolist() == rows[0]
        assert table["id"].tolist() == ["NA", "007", "1e5"]
        np.testing.assert_array_equal(table["x"], [0.1, np.nan, np.inf])
        assert table["is_it"].tolist() == [True, False, True]

    @pytest.mark.parametrize(
        ("rows", "complaint"),
        [
            ("x,id\n1,2\n", "lacks the columns is_it; write it again"),
            ("x,id,is_it\n1,,True\n", "row 2, column 'id': '' is no name"),
            ("x,id,is_it\n1,a,True\nfive,b,True\n", "row 3, column 'x': 'five'; expected a number"),
            ("x,id,is_it\n1,a,True\n2,b,\n", "row 3, column 'is_it': ''; expected True or False"),
            ("x,id,is_it,more\n1,a,True,no number\n", "column 'more': 'no number'"),
        ],
    )
    def test_cells_that_make_no_sense_are_named(self, tmp_path: Path, rows: str, complaint: str) -> None:
        with pytest.raises(UserError, match=complaint):
            self.read(write(tmp_path, rows))

    def test_names_are_never_cut(self) -> None:
        assert as_text(pd.Series(["P", "P0002"])).tolist() == ["P", "P0002"]
        with pytest.raises(TypeError, match="not text"):
            as_text(pd.Series(["P0001", None, "P0002"], name="patient_id"))
