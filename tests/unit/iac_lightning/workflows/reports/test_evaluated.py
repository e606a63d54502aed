from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.workflows.reports.evaluated import shown_path


def test_paths_below_the_working_directory_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "runs" / "vit") == shown_path(Path("runs/vit")) == "runs/vit"
    assert shown_path(tmp_path.parent / "elsewhere" / "vit") == shown_path(Path("../elsewhere/vit")) == "…/vit"
