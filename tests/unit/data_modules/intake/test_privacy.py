"""What a search for identifiers finds, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.intake.privacy import check_privacy


def out_with(folder: Path, text: str, name: str = "inventory.csv") -> Path:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    (out / name).write_text(text, encoding="utf-8")
    return out


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a,1.2.840.113619.2.55.3.604688119.971,b", "UID"),
        ("a,20240131,b", "a date"),
        ('"2024-01-31"', "a date"),
        ("31.01.2024 read", "a date"),
        ("a,Müller^Hans,b", "a name"),
        ("a,/home/clinic/export/1.dcm,b", "an absolute path"),
        (r"C:\export\1.dcm", "an absolute path"),
        ("a,HOSP-4711,b", "a raw identifier"),
        ("see hosp-4711.", "a raw identifier"),
        ("a,30021977,b", "a raw identifier"),
    ],
)
def test_what_tells_of_a_patient_is_found_and_not_repeated(tmp_path: Path, text: str, kind: str) -> None:
    out = out_with(tmp_path, f"series_id\n{text}\n")
    private = tmp_path / "private"
    private.mkdir()
    (private / "ids.csv").write_text("kind,raw,code\npatient,HOSP-4711,P1\npatient,30021977,P2\npatient,7,P3\n")
    checked = check_privacy(out, private)
    assert any(kind in finding for finding in checked.findings), checked
    assert all(finding.startswith("inventory.csv, line 2: ") for finding in checked.findings)
    assert not any(word in finding for finding in checked.findings for word in text.split(",") if len(word) > 3)


@pytest.mark.parametrize(
    "text",
    [
        "S0123456789ab,P20240131abcd,0.4883,20240131.5,148.1,7,18.5,yes",
        "images/S0123456789ab.nii.gz,W/O contrast,12.5 mm/HU,1.2.3",
        '{"state": "20240131abcd", "digest": "a7dd68fb2135927ed043a6db77b45ab7"}',
        "slices step 18.5° off their normal; 14 slices of 4 mm, 14 slices of 7 mm",
    ],
)
def test_ordinary_cells_are_clean(tmp_path: Path, text: str) -> None:
    assert check_privacy(out_with(tmp_path, text), tmp_path / "none").findings == ()


def test_headers_extensions_and_names_of_files(tmp_path: Path) -> None:
    out = out_with(tmp_path, "clean")
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    nib.save(image, out / "clean.nii.gz")
    assert check_privacy(out, tmp_path).findings == ()
    image.header["descrip"] = b"MUELLER^HANS"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born 1950-02-03"))
    nib.save(image, out / "image.nii.gz")
    (out / "20240131.txt").touch()
    (out / "cut.nii.gz").write_bytes(b"\x1f\x8b1234")
    (out / "picture.png").write_bytes(b"\x89PNG\r\n\x00\x01Author\x00MUELLER^HANS\x00\x01")
    found = "\n".join(check_privacy(out, tmp_path).findings)
    assert "image.nii.gz, header field descrip: a name" in found
    assert "image.nii.gz, extension 1: a date" in found
    assert "20240131.txt (its name): a date" in found
    assert "cut.nii.gz: cannot be read" in found
    assert "picture.png: a name" in found


def test_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        check_privacy(tmp_path / "none", tmp_path)
