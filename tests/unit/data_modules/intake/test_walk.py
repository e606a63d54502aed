"""Files of a tree, each once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydicom.fileset import FileSet

from data_modules.errors import UserError
from data_modules.intake.walk import files_of, missing_of_index
from tests.dicom_exports import add


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "src"
    (root / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for path in (root / "b" / "1", root / ".hidden", root / "DICOMDIR", tmp_path / "elsewhere" / "2"):
        path.write_text(path.name)
    (root / "a_link_to_b").symlink_to(root / "b")
    (root / "above").symlink_to(root)
    (root / "far").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root / "circle")
    (root / "broken").symlink_to(root / "none")
    (root / "c").symlink_to(root / "b" / "1")
    found = list(files_of(root))
    assert [(f.path, f.is_link) for f in found] == [("c", True), ("b/1", False), ("far/2", True)]
    assert found[0].inode == found[1].inode


def test_a_single_archive_and_a_dicomdir(tmp_path: Path) -> None:
    for name in ("a.zip", "other"):
        (tmp_path / name).touch()
    (tmp_path / "DICOMDIR").touch()
    assert [f.path for f in files_of(tmp_path / "a.zip")] == ["a.zip"]
    assert [f.path for f in files_of(tmp_path / "DICOMDIR")] == ["a.zip", "other"]
    with pytest.raises(UserError, match="no such folder"):
        list(files_of(tmp_path / "none"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(UserError, match="cannot be read"):
        list(files_of(tmp_path))


def test_what_a_dicomdir_names_and_is_not_there(tmp_path: Path) -> None:
    add(tmp_path / "src", "plain", PatientName="A", StudyTime="120000", StudyID="1", AccessionNumber="")
    index = FileSet()
    for path in sorted((tmp_path / "src").iterdir()):
        index.add(path)
    index.write(tmp_path / "medium")
    assert missing_of_index(tmp_path / "medium") == 0
    next(p for p in (tmp_path / "medium").rglob("*") if p.is_file() and p.name != "DICOMDIR").unlink()
    assert missing_of_index(tmp_path / "medium") == 1
    assert missing_of_index(tmp_path / "medium" / "DICOMDIR") == 1
    (tmp_path / "medium" / "DICOMDIR").write_text("nothing")
    assert missing_of_index(tmp_path / "medium") == 0
