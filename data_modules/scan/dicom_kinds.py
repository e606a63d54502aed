"""What an image of a DICOM series is: a CT slice in HU, or something else that lies in the same folder."""

from __future__ import annotations

import re

import pydicom
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from data_modules.scan.dicom_tags import number, text

_LOCALIZER = re.compile(r"\b(LOCALI[SZ]ER|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM)\b")
_SUMMARY = re.compile(r"\b(SCREEN ?SAVE|DOSE( ?(INFO|REPORT|RECORD))?|SUMMARY|PROTOCOL|PROT|REPORT)\b")
_PROJECTION = re.compile(r"\b(MIP|MINIP|(MAX|MIN) ?IP|PROJECTION|VRT|SSD|VOLUME ?REND(ER(ED|ING)?)?)\b")
_MATERIAL = re.compile(
    r"\b(IODINE|VNC|VIRTUAL NON ?CONTRAST|CALCIUM ?(SUPP\w*|MAP|DENSITY)|URIC ?ACID|Z ?EFF|ELECTRON DENSITY|"
    r"EFFECTIVE (Z|ATOMIC NUMBER)|WATER|SUBTRACT\w*|BONE ?REMOV\w*|FUSED|OVERLAY|PERFUSION|CBF|CBV|MTT|TMAX|TTP)\b"
)
_DESCRIBED = re.compile(
    r"\b(LOCALI[SZ]ER|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM|SCREEN ?SAVE|DOSE (INFO|REPORT)|PATIENT PROTOCOL|EXAM SUMMARY)\b"
)
_SPELT_OUT = ("HOUNSFIELD", "HOUNSFIELD UNITS")
_UNSPECIFIED = ("US", "UNSPECIFIED")
_REFORMATTED = re.compile(r"\b(REFORMATTED|MPR)\b")
_MULTI_FRAME = "multi-frame image (expected one slice a file; convert it with dcm2niix)"


def not_a_ct_slice(header: pydicom.Dataset) -> str | None:
    """Why an image is no CT slice in HU; None where it is one.

    The storage class decides (PS3.4 B.5), not the modality alone: scanners put screen saves, dose reports and summaries
    of an examination into the series that they belong to, with Modality CT.
    """
    modality = text(header, "Modality") or "none"
    storage = UID(storage_class(header))
    if storage in (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage):
        return _MULTI_FRAME
    if storage and storage != CTImageStorage:
        name = storage.name if storage.name != storage else "an unknown storage class"
        return f"{name} (expected {CTImageStorage.name})"
    if modality != "CT":
        return f"modality {modality} (expected CT)"
    unit = text(header, "RescaleType").upper()
    if unit not in ("", "HU", *_SPELT_OUT, *_UNSPECIFIED):
        return f"RescaleType {unit} (expected HU)"
    kind = image_type(header)
    for pattern, name in (
        (_LOCALIZER, "localizer"),
        (_SUMMARY, "screen save, dose report or summary"),
        (_PROJECTION, "projection or rendering, no slice"),
        (_MATERIAL, "map of a material or a parameter, not HU"),
    ):
        if pattern.search(kind):
            return name
    if "AXIAL" not in kind and _DESCRIBED.search(text(header, "SeriesDescription").upper()):
        return "localizer, screen save, dose report or summary by its description"
    if number(header, "SamplesPerPixel", 1) != 1 or not _is_grey(header):
        return "colour image (expected one grey value a pixel)"
    if number(header, "NumberOfFrames", 1) > 1:
        return _MULTI_FRAME
    return None


def remarks_on_kind(header: pydicom.Dataset) -> list[str]:
    """What a reader of results should know of what kind a CT slice is."""
    remarks = []
    if not storage_class(header):
        remarks.append("no SOPClassUID: taken for CT images by their modality")
    if text(header, "RescaleType").upper() in _UNSPECIFIED:
        remarks.append("RescaleType is US (unspecified): values were taken for HU")
    if _REFORMATTED.search(image_type(header)):
        remarks.append("reformatted from other slices (ImageType): the thickness may not be that of the acquisition")
    return remarks


def storage_class(header: pydicom.Dataset) -> str:
    """The SOP class, of the header or else of the file's preamble; empty where there is none."""
    meta = getattr(header, "file_meta", None)
    return text(header, "SOPClassUID") or (text(meta, "MediaStorageSOPClassUID") if meta is not None else "")


def image_type(header: pydicom.Dataset) -> str:
    """ImageType's words, capital, each value apart from the next."""
    return text(header, "ImageType").upper().replace("_", " ")


def _is_grey(header: pydicom.Dataset) -> bool:
    photometric = text(header, "PhotometricInterpretation").upper()
    return not photometric or photometric.startswith("MONOCHROME")
