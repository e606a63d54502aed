"""What a file is that holds no CT slice, and what a stack of slices is, by headers alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pydicom
from pydicom.uid import EncapsulatedPDFStorage

from data_modules.intake import codes
from data_modules.intake.facts import ImageFacts
from data_modules.scan.dicom_headers import NOT_DICOM
from data_modules.scan.dicom_kinds import image_type, not_a_ct_slice, storage_class
from data_modules.scan.dicom_tags import UnreadableTag, text

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds, 7.1 to 7.4
_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_DOSE_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.68", "1.2.840.10008.5.1.4.1.1.88.76")
_LOCALIZER = re.compile(r"\b(LOCALI[SZ]ER|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM)\b")
_DOSE = re.compile(r"\b(DOSE|DOSIS|CTDI|DLP)\b")
_SUMMARY = re.compile(r"\b(SUMMARY|PROTOCOL|PROT|PROTOKOLL|REPORT)\b")
_SCREEN = re.compile(r"\b(SCREEN ?(SAVE|SHOT|CAPTURE)?|SECONDARY CAPTURE)\b")

_HEAD = re.compile(
    r"\b(HEAD|BRAIN|SKULL|CRANI\w*|CRANE|CEREBR\w*|INTRACRANIAL|KOPF\w*|SCHAEDEL\w*|SCHÄDEL\w*|NEURO\w*|CCT|NCCT|"
    r"HOOFD|HERSENEN|SCHEDEL|TETE|CABEZA|SELLA|PITUITARY|HEADNECK|HEAD NECK)\b"
)
_ELSEWHERE = re.compile(
    r"\b(CHEST|THORA\w*|LUNGS?|ABDOM\w*|PELVI\w*|BECKEN|([CTL] ?)?SPINE|[CTL]SPINE|CERVICAL|LUMB\w*|HWS|BWS|LWS|NECK|"
    r"HALS|KNEE|HIP|FOOT|HAND|WRIST|SHOULDER|ANKLE|ELBOW|EXTREMITY|LEG|ARM|HEART|CARDIAC|CORONARY|AORTA|LIVER|KIDNEY|"
    r"COLON|WHOLEBODY|WHOLE BODY|JAW|DENTAL|TSPINE|CHEST ABDOMEN)\b"
)
_REFORMATTED = re.compile(r"\b(REFORMATTED|MPR|CPR|MIP|MINIP|VRT|PROJECTION)\b")
_WITHOUT = re.compile(
    r"\b(WITHOUT|W/O|WO|NON|NO|OHNE|SANS|SIN|PRE|BEFORE)[ -]?(IV |I V )?(CONTRAST\w*|ENHANCED|KM|CM|PDC|C)\b|"
    r"\bNATIV\w*|\bUNENHANCED\b|\bNCCT\b|\bC-(?!\w)"
)
_WITH = re.compile(
    r"\b(CTA|CTV|ANGIO\w*|CONTRAST\w*|ENHANCED|KM|PERFUSION|CTP|ARTERIAL|VENOUS|POST)\b|\bC\+|\+C\b|\bCE\b"
)

SHORTEST_MM = 40.0
"""Shortest scan: the region of interest is 48 mm high, and what is not shown is taken to be air."""
FEWEST_SLICES = 6
_SLOPES = (0.01, 100.0)
_AXIAL = 0.7  # of the slices' normal along the body: within 45°


def words_of(description: str) -> str:
    """Capitals, with blanks for what joins words; signs that mean contrast stay."""
    return re.sub(r"[_.,;:()\[\]\\^]+", " ", description).upper()


def kind_of_file(header: pydicom.Dataset | None, reason: str, is_damaged: bool) -> tuple[str, str]:
    """Code, and what was found, of a file that is no CT slice.

    Args:
        header: as far as it could be read.
        reason: for which it is no slice, of `scan.dicom_headers.read_header`.
        is_damaged: whether it begins as DICOM does, where the header is None.

    Returns:
        An empty code for what is no DICOM at all.
    """
    if header is None:
        return (codes.UNREADABLE, "the header is damaged") if is_damaged or reason != NOT_DICOM else ("", "")
    storage, kind = storage_class(header), image_type(header)
    said = f"{kind} {words_of(text(header, 'SeriesDescription'))}"
    if storage.startswith(_REPORTS):
        is_dose = storage in _DOSE_REPORTS or _DOSE.search(said)
        return (codes.DOSE_REPORT, "structured report of the dose") if is_dose else (codes.EXAM_SUMMARY, "report")
    if storage == EncapsulatedPDFStorage:
        return (codes.DOSE_REPORT if _DOSE.search(said) else codes.EXAM_SUMMARY), "PDF document"
    if text(header, "Modality") not in ("CT", "OT", "SC") and not storage.startswith(_SECONDARY_CAPTURE):
        return codes.NOT_CT, "another modality"
    is_capture = storage == _SECONDARY_CAPTURE or storage.startswith(f"{_SECONDARY_CAPTURE}.")
    if _DOSE.search(said):
        return codes.DOSE_REPORT, "picture of a dose report"
    if _LOCALIZER.search(said):
        return codes.LOCALIZER, "localizer"
    if _SUMMARY.search(said):
        return codes.EXAM_SUMMARY, "picture of a protocol or summary"
    if is_capture or _SCREEN.search(said):
        return codes.SECONDARY_CAPTURE, "secondary capture"
    return _other_image(header, reason, kind)


def _other_image(header: pydicom.Dataset, reason: str, kind: str) -> tuple[str, str]:
    """As `kind_of_file`, of an image of a CT that is neither a localizer nor a picture of something."""
    try:
        why = not_a_ct_slice(header)
    except UnreadableTag:
        return codes.UNREADABLE, "unreadable numbers in the header"
    if why is None:
        is_place = reason.startswith(("no position", "image orientation"))
        return (codes.GEOMETRY, reason) if is_place else (codes.UNREADABLE, reason)
    if why.startswith("multi-frame"):
        return codes.UNREADABLE, why
    if why.startswith("colour"):
        return codes.SECONDARY_CAPTURE, "colour image"
    if why.startswith("RescaleType"):
        return codes.NOT_HU, "RescaleType is not HU"
    if _REFORMATTED.search(kind) or why.startswith("projection"):
        return codes.REFORMAT, "projection or rendering, no slice"
    if why.startswith("map"):
        return codes.NOT_HU, "map of a material or a parameter"
    return codes.NOT_CT, "another kind of image"


def kind_of_stack(images: Sequence[ImageFacts], *, allow_contrast: bool) -> tuple[str, str]:
    """Code, and what was found, of slices that make one scan; `codes.OK` where it is worth reading.

    The first that applies counts: what a series is comes before how good it is.
    """
    first, slices = images[0], [image.slice for image in images]
    if elsewhere := _other_part(first):
        return codes.NOT_HEAD, elsewhere
    if _REFORMATTED.search(first.image_type):
        return codes.REFORMAT, "reformatted from other slices (ImageType)"
    normal = np.cross(slices[0].x_direction, slices[0].y_direction)
    if abs(normal[2]) < _AXIAL:
        return codes.REFORMAT, f"{('sagittal', 'coronal')[int(abs(normal[1]) > abs(normal[0]))]} slices"
    if has_contrast(images) and not allow_contrast:
        return codes.CONTRAST, "contrast agent is named in the header or the description"
    height = np.array([s.position for s in slices]) @ normal
    n_places = len(np.unique(height.round(1)))
    thickness = float(np.nanmedian([*(s.thickness_mm for s in slices), 0.0]))
    covered = float(np.ptp(height)) + thickness
    if n_places < FEWEST_SLICES or covered < SHORTEST_MM:
        found = f"{covered:.0f} mm in {n_places}, expected at least {SHORTEST_MM:.0f} mm in {FEWEST_SLICES}"
        return codes.TOO_FEW_SLICES, found
    if not all(np.isfinite([s.slope, s.intercept]).all() and _SLOPES[0] <= s.slope <= _SLOPES[1] for s in slices):
        return codes.NOT_HU, "RescaleSlope or RescaleIntercept is missing or cannot be right"
    return codes.OK, "head CT"


def has_contrast(images: Sequence[ImageFacts]) -> bool:
    """Whether contrast was given, by the header or by what the series is called; "without contrast" is none."""
    if any(image.slice.contrast for image in images):
        return True
    said = words_of(images[0].slice.description)
    return bool(_WITH.search(_WITHOUT.sub(" ", said)))


def _other_part(image: ImageFacts) -> str:
    """What says that a series shows another part of the body than the head; empty where nothing does.

    What the series is called counts more than BodyPartExamined, which stays what it was when a technician goes on from
    head to spine; the names of the examination and its protocol count where both say nothing.
    """
    for source, said in (
        ("SeriesDescription", words_of(image.slice.description)),
        ("BodyPartExamined", words_of(image.body_part)),
        ("the examination's name", words_of(image.exam_words)),
    ):
        if _HEAD.search(said):
            return ""
        if _ELSEWHERE.search(said):
            return f"{source} names another part of the body"
    return ""
