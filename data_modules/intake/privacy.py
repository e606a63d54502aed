"""Whether an output tells who its patients are: every file of it is searched.

Text is searched for raw identifiers (where the private list of an import is at hand), DICOM's unique identifiers,
dates, names as DICOM writes them, and absolute paths; NIfTI for the same in its header and extensions. Findings name
the place, never the value. Faces can be drawn from a head CT: that is not looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from data_modules.csv_files import read_csv
from data_modules.errors import UserError
from data_modules.intake.tables import IDS
from data_modules.scan.image_files import NIFTI_SUFFIXES, has_suffix

_SHORTEST = 5
"""Characters of a raw identifier that are looked for anywhere; a shorter one is some number too."""
_PATTERNS = (
    ("a unique identifier of DICOM (UID)", re.compile(r"(?<![\w.])[012](?:\.(?:0|[1-9]\d*)){5,}(?![\w.])")),
    ("a date", re.compile(r"(?<![\w.])(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\w|\.\d)")),
    ("a date", re.compile(r"(?<!\d)(?:19|20)\d\d[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])(?!\d)")),
    ("a date", re.compile(r"(?<![\d.])(?:0?[1-9]|[12]\d|3[01])[-/.](?:0?[1-9]|[12]\d|3[01])[-/.](?:19|20)\d\d(?!\d)")),
    ("a name as DICOM writes it", re.compile(r"[^\W\d_]{2,}\^[^\W\d_]*")),
    ("an absolute path", re.compile(r"(?<![\w.:/<])/(?:[\w.~-]+/)+[\w.~-]*|(?<!\w)[A-Za-z]:\\\w|(?<!\w)\\\\\w+\\")),
)
_TEXT_FIELDS = ("data_type", "db_name", "descrip", "aux_file", "intent_name")
_TEXTS = (".csv", ".json", ".txt", ".md", ".html", ".yaml", ".yml", ".jsonl", ".log", ".svg", ".css", ".js")
_MOST_FINDINGS = 200


@dataclass(frozen=True)
class Checked:
    """What a search has found.

    Attributes:
        findings: file, place and kind of each.
        n_files: searched.
        n_known: raw identifiers that were looked for.
    """

    findings: tuple[str, ...]
    n_files: int
    n_known: int


def check_privacy(out: Path, private: Path) -> Checked:
    """Search every file below a folder, and the files' names.

    Args:
        out: the folder.
        private: folder of `ids.csv`; without one, raw identifiers are known by their patterns alone.

    Raises:
        UserError: when there is no such folder.
    """
    if not out.is_dir():
        raise UserError(f"{out}: no such folder. Expected the output of iac import.")
    raw = _raw_identifiers(private / IDS)
    findings: list[str] = []
    n_files = 0
    for path in sorted(path for path in out.rglob("*") if not path.is_dir()):
        n_files += 1
        shown = path.relative_to(out).as_posix()
        try:
            findings += [f"{shown}{place}: {what}" for place, text in _texts(path, shown) for what in _found(text, raw)]
        except Exception as error:  # nibabel's and the packers', of many kinds
            findings.append(f"{shown}: cannot be read ({type(error).__name__}), so it cannot be said what it holds")
        if len(findings) >= _MOST_FINDINGS:
            return Checked((*findings, "… and perhaps more: the search was ended here"), n_files, len(raw))
    return Checked(tuple(findings), n_files, len(raw))


def _raw_identifiers(path: Path) -> set[str]:
    """What stood in the headers for patients, examinations and series."""
    if not path.is_file():
        return set()
    given = read_csv(path).cells["raw"]
    return {part.strip().casefold() for raw in given for part in (raw, *raw.split("/")) if part.strip()}


def _texts(path: Path, shown: str) -> Iterator[tuple[str, str]]:
    """Places of a file and the text there; first its name. What cannot be searched is said where a finding would be."""
    yield " (its name)", shown
    if path.is_symlink():
        yield " (a link)", str(path.readlink())
    elif has_suffix(path, NIFTI_SUFFIXES):
        yield from _nifti_texts(path)
    elif has_suffix(path, _TEXTS):
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from ((f", line {k}", line) for k, line in enumerate(lines, start=1))
    else:
        # Of other files (pictures, archives) what is text in them; bytes between are blanks.
        yield "", re.sub(r"[^\x20-\x7e]+", " ", path.read_bytes().decode("latin-1"))


def _nifti_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Text fields of a header, and its extensions."""
    header = nib.load(path).header
    for name in _TEXT_FIELDS:
        yield f", header field {name}", _plain(header[name].tobytes())
    for k, extension in enumerate(header.extensions, start=1):
        yield f", extension {k}", _plain(extension.get_content())


def _plain(content: object) -> str:
    text = content.decode("latin-1") if isinstance(content, bytes) else str(content)
    return text.strip("\0 ")


def _found(text: str, raw: set[str]) -> Iterator[str]:
    """Kinds of what a text tells; each once."""
    kinds = dict.fromkeys(kind for kind, pattern in _PATTERNS if pattern.search(text))
    yield from kinds
    words = {word.strip(".^-") for word in re.split(r"[^\w.^-]+", text.casefold())}
    if any(word in raw for word in words if len(word) >= _SHORTEST):
        yield "a raw identifier of the export"
