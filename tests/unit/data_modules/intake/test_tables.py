"""Cells, duplicates and identifiers of the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.intake.cells import number_text, plain_words
from data_modules.intake.codes import ACCEPTED, CODES, FAILED, RETRIED
from data_modules.intake.exams import FoundSeries
from data_modules.intake.ids import Codes, read_salt
from data_modules.intake.tables import mark_duplicates


def test_cells_hold_numbers_and_names_alone() -> None:
    assert [number_text(v) for v in (0.48828125, 5.0, -0.00001, float("nan"), None)] == ["0.4883", "5", "0", "", ""]
    assert plain_words("H31s\\3^Müller; 1950-02-03\n" + "x" * 50) == "H31s 3 Müller 1950-02-03 xxxxxxxxxxxxxxxx"[:40]


def test_codes_depend_on_salt_kind_and_every_part() -> None:
    ids = Codes(b"a" * 32)
    codes = [
        ids.code("P", "1"),
        ids.code("E", "1"),
        ids.code("E", "1", "2"),
        ids.code("E", "12"),
        Codes(b"b" * 32).code("P", "1"),
    ]
    assert len({code[1:] for code in codes}) == 5
    assert codes[0] == ids.code("P", "1")
    assert len(codes[0]) == 13


def test_a_salt_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "salt").write_text("not hexadecimal")
    with pytest.raises(UserError, match="is no salt"):
        read_salt(tmp_path, may_make=True)


def test_the_first_of_alike_series_stays() -> None:
    def series(name: str, days: str, number: int, patient: str = "P1") -> FoundSeries:
        return FoundSeries(series_id=name, patient_id=patient, exam_id="E", days=days, code="ok", order=(number, name))

    found = [
        series("a", "9", 1),
        series("b", "0", 5),
        series("c", "0", 2),
        series("d", "0", 1),
        series("e", "20", 1, "P2"),
    ]
    mark_duplicates(found, {"a": "x", "b": "x", "c": "x", "d": "y", "e": "x"})
    assert [item.code for item in found] == ["duplicate", "duplicate", "ok", "ok", "duplicate"]
    assert {item.found for item in found if item.code == "duplicate"} == {"series c"}
    assert "two patients" in found[4].warnings[0]
    assert not found[0].warnings


def test_every_code_is_of_one_kind() -> None:
    assert {*ACCEPTED, *FAILED, *RETRIED} < {*CODES}
    assert not {*ACCEPTED} & {*FAILED}
    assert np.all([sentence and sentence[-1] != "." for sentence in CODES.values()])
