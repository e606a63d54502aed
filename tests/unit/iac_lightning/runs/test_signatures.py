from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.runs.signatures import FILE, complaint, read_signatures, sign, was_changed


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "split_salt").write_text("ab" * 32)
    (tmp_path / "run").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "run" / name).write_text("1")
    sign(tmp_path / "run", [tmp_path / "run/a.csv"], tmp_path / "cohort.csv")
    return tmp_path / "cohort.csv"


def said(table: Path, name: str = "a.csv") -> str:
    return complaint(table.parent / "run", table.parent / "run" / name, table)


def test_a_file_as_it_was_signed_has_nothing_against_it(table: Path) -> None:
    assert said(table) == ""
    sign(table.parent / "run", [table.parent / "run/b.csv"], table)
    assert (said(table), said(table, "b.csv")) == ("", "")
    assert (table.parent / "run").rename(table.parent / "moved").is_dir()
    assert complaint(table.parent / "moved", table.parent / "moved/a.csv", table) == ""


def test_a_changed_file_is_known(table: Path) -> None:
    path = table.parent / "run/a.csv"
    assert not was_changed(path.parent, path)
    path.write_text("2")
    assert said(table) == "was changed after it was written"
    assert was_changed(path.parent, path)


def test_a_sum_that_was_changed_with_the_file_lacks_the_salt(table: Path) -> None:
    path = table.parent / "run/a.csv"
    before = read_signatures(path.parent)["a.csv"]["sha256"]
    path.write_text("2")
    other = table.parent / "elsewhere" / "cohort.csv"
    sign(path.parent, [path], other)  # without the salt
    assert said(table).startswith("is as it was signed, but without")
    other.parent.mkdir()
    other.with_name("split_salt").write_text("cd" * 32)
    sign(path.parent, [path], other)
    assert said(table).startswith("was signed with another split_salt")
    assert read_signatures(path.parent)["a.csv"]["sha256"] != before


def test_without_a_signature_it_says_so_and_nothing_was_changed(table: Path) -> None:
    assert said(table, "b.csv").startswith("is not signed")
    assert not was_changed(table.parent / "run", table.parent / "run/b.csv")
    (table.parent / "run" / FILE).write_text("{")
    assert said(table).startswith("is not signed")
