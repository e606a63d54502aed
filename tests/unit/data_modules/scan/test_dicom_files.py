"""Files below a folder, through links too, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.prepare.sources import source_files
from data_modules.scan.dicom_files import files_below
from data_modules.scan.reading import read_scan
from tests.dicom_series import START, field_errors, stepping, write_series


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    positions = stepping(START, np.arange(6) * 3.0)
    write_series(tmp_path / "archive", positions[:3], prefix="a")
    write_series(tmp_path / "archive2", positions[3:], prefix="b")
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "below").symlink_to(tmp_path / "archive", target_is_directory=True)
    for path in (tmp_path / "archive2").glob("*.dcm"):
        (folder / path.name).symlink_to(path)
    scan = read_scan(folder)
    assert scan.hu.shape[2] == 6
    assert scan.warnings == ()
    assert field_errors(scan).max() <= 0.51


def test_what_is_reached_twice_is_listed_once(tmp_path: Path) -> None:
    inner = tmp_path / "scan" / "inner"
    inner.mkdir(parents=True)
    (inner / "z").write_text("")
    (tmp_path / "scan" / "up").symlink_to(tmp_path / "scan", target_is_directory=True)
    (inner / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "scan" / "a").symlink_to(inner / "z")
    (tmp_path / "scan" / "nowhere").symlink_to(tmp_path / "gone")
    assert files_below(tmp_path / "scan") == [inner / "z"]


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(folder: Path, *, followlinks: bool, onerror: Callable[[OSError], None]) -> Iterator[Any]:
        onerror(PermissionError(13, "Permission denied", str(folder / "inner")))
        yield from ()

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(UserError, match=r"inner: the folder cannot be read \(Permission denied\)"):
        read_scan(tmp_path)
    series = Series("p", "s", tmp_path, None, "dev", 5.0, (1.0, 1.0, 5.0))
    assert source_files(series) == []  # one bad folder among many does not stop a preparation
