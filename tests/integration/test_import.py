"""A simulated hospital's export, with every trouble that it knows, from its files to a clean cohort."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from data_modules.phantom.hospital import make_hospital_export
from iac_lightning.cli import main
from tests.dicom_exports import content, shuffled


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.mark.slow
def test_every_series_of_a_hospital_ends_with_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_hospital_export(tmp_path / "hospital", 12, 0, 2, 64)
    out, private = tmp_path / "out", tmp_path / "out_private"
    assert main(["import", str(tmp_path / "hospital" / "dicom"), str(out)]) == 1  # a truncated series is a failure
    assert "ready" in capsys.readouterr().out
    ids, found = table(private / "ids.csv"), table(out / "inventory.csv").set_index("series_id")
    code_of = dict(zip(ids.raw, ids.code, strict=True))
    expected = table(tmp_path / "hospital" / "expected.csv")
    wrong = [
        (row.series_uid, row.why, row.code, found.code.get(code_of[row.series_uid]))
        for row in expected.itertuples()
        if (row.status, row.code) != tuple(found.loc[code_of[row.series_uid], ["status", "code"]])
    ]
    assert not wrong
    assert len(expected) > 60
    assert main(["import", "--check-privacy", str(out)]) == 0
    (tmp_path / "again_private").mkdir()
    shutil.copy(private / "salt", tmp_path / "again_private")
    shuffled(tmp_path / "hospital" / "dicom", tmp_path / "moved", seed=3)
    assert main(["import", str(tmp_path / "moved"), str(tmp_path / "again"), "--workers", "1"]) == 1
    assert content(tmp_path / "again") == content(out)
    (out / "note.txt").write_text("seen by MUELLER^HANS")
    assert main(["import", "--check-privacy", str(out)]) == 1
    assert main(["import", str(tmp_path / "moved")]) == 2
