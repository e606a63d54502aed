"""What the files of an export are, by their headers: whose, when, of what.

What names a patient goes into the index of files alone, which lies in the private folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom

from data_modules.intake.archives import is_archive
from data_modules.intake.codes import UNREADABLE
from data_modules.intake.facts import facts_text
from data_modules.intake.kinds import kind_of_file
from data_modules.scan.dicom_headers import read_header
from data_modules.scan.dicom_tags import text

_MORE_TAGS = (
    "SOPInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "BodyPartExamined",
    "StudyDescription",
    "ProtocolName",
    "BurnedInAnnotation",
)
SLICE, OTHER, DAMAGED, FOREIGN, ARCHIVE = "slice", "other", "damaged", "foreign", "archive"
"""What a file is."""


def read_files(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What each file is, as plain types: `kind`, and of DICOM `patient`, `study`, `series`, `instance`, `date`.

    A header is read and nothing of the pixels. Of a slice, `facts` are those of `facts.image_facts`.
    """
    return [_read_file(path) for path in paths]


def _read_file(path: Path) -> dict[str, Any]:
    header, result = read_header(path, _MORE_TAGS)
    if header is None:
        begins_as_dicom, archive = _content(path)
        code, found = kind_of_file(None, result if isinstance(result, str) else "", begins_as_dicom)
        kind = ARCHIVE if archive else DAMAGED if code else FOREIGN
        return {"kind": kind, "code": code, "found": found}
    if not any(text(header, tag) for tag in ("SeriesInstanceUID", "SOPInstanceUID", "Modality")):
        return {"kind": DAMAGED, "code": UNREADABLE, "found": "the file is cut off within its header"}
    known: dict[str, Any] = {
        "series": text(header, "SeriesInstanceUID"),
        "instance": text(header, "SOPInstanceUID"),
        "study": text(header, "StudyInstanceUID"),
        "patient": "/".join(filter(None, (text(header, "PatientID"), text(header, "IssuerOfPatientID")))),
        "date": next((d for k in ("StudyDate", "SeriesDate", "AcquisitionDate") if (d := _date(header, k))), ""),
    }
    known["patient"] = known["patient"] or known["study"] or known["series"]
    if isinstance(result, str):
        code, found = kind_of_file(header, result, is_damaged=True)
        more = {name: text(header, tag) for name, tag in (("modality", "Modality"), ("manufacturer", "Manufacturer"))}
        return {**known, "kind": OTHER, "code": code, "found": found, "facts": json.dumps(more)}
    return {**known, "kind": SLICE, "code": "", "found": "", "facts": facts_text(header, result)}


def _content(path: Path) -> tuple[bool, bool]:
    """Whether a file begins as DICOM does, and whether it is an archive."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM", is_archive(path)
    except OSError:
        return False, False


def _date(header: pydicom.Dataset, keyword: str) -> str:
    """A date as eight digits; empty where it is none."""
    value = text(header, keyword).replace(".", "").replace("-", "")[:8]
    return value if len(value) == 8 and value.isdecimal() and value > "1900" else ""
