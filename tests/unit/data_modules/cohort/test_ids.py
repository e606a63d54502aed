"""Which ids are ids, and which are one patient in all likelihood."""

from __future__ import annotations

import pytest

from data_modules.cohort.ids import MAX_LENGTH, alike, id_problem, some_rows


@pytest.mark.parametrize(
    "names",
    [
        ["007", "07", "7"],
        ["7", "7.0"],
        ["0", "000"],
        ["A", "a"],
        ["P0009", "P9"],
        ["P0 ", "P0"],
        ["P-7", "P7", "P_07", "p 7"],
        ["P7", "\uff30\uff17"],  # as wide as Chinese characters
        ["S1-P02", "s1.p2"],
    ],
)
def test_one_patient_in_all_likelihood(names: list[str]) -> None:
    assert alike([*names, "other", names[0]]) == [sorted(names)]


@pytest.mark.parametrize(
    "names",
    [
        [f"P{k:03d}" for k in range(1, 151)],
        [str(k) for k in range(2000)],
        [f"{site}{k}" for site in "ABC" for k in range(1, 130)],
        [f"{site}-{k:04d}" for site in range(1, 30) for k in range(1, 40)],
        ["1-11", "11-1", "111", "1-1-1"],
        ["A-B", "AB", "A1B", "A1B1", "A1B0"],
        ["P1", "P10", "P100", "P1a", "P1b"],
        ["_", "__"],
        ["NA", "None", "null", "nan", "True"],
    ],
)
def test_ordinary_ids_are_never_taken_for_one(names: list[str]) -> None:
    assert alike(names) == []


def test_what_an_id_may_be() -> None:
    assert [id_problem(name) for name in ("NA", "1e5", "a.b-c_d", "x" * MAX_LENGTH)] == [""] * 4
    assert "has 300 characters; use at most 128" in id_problem("x" * 300)
    for name in ("", "a b", " a", "a\n", "../a", ".a", "-a", "é", "=1+1", "a/b"):
        assert "is not an id" in id_problem(name)
    for name in ("failed.csv", "Settings.json"):
        assert "lies beside the prepared series" in id_problem(name)


def test_rows_in_words() -> None:
    assert some_rows([3]) == "row 3"
    assert some_rows(range(2, 12)) == "rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    assert some_rows(range(2, 13)) == "rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 …"
