from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.files import shown_path


def test_a_path_for_readers_tells_nothing_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path("runs/a"), tmp_path / "here/runs/a", Path("x/../runs/a"), Path("../here/runs/a")):
        assert shown_path(path) == str(Path("runs/a"))
    for path in (tmp_path / "b.yaml", Path("../b.yaml"), Path("../heretic/b.yaml")):
        assert shown_path(path) == "…/b.yaml"
        assert shown_path(path, whole=True) == str(path)
    assert shown_path(Path("..a/b"), whole=True) == str(Path("..a/b"))
