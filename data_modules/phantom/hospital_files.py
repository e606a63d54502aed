"""DICOM files of a simulated hospital: headers full of made-up names, dates and remarks, pixels stored in four ways."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
    generate_uid,
)

from data_modules.phantom.hospital_plan import ExamPlan, HospitalPlan, SeriesPlan
from data_modules.phantom.mark import MARK

_TO_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class _Storage:
    """How a manufacturer stores HU: intercept, sign, padding outside the field (stored value), transfer syntax."""

    intercept: int
    signed: bool
    padding: int | None
    syntax: UID


_STORAGE = {
    "Vendor A": _Storage(intercept=-1024, signed=False, padding=None, syntax=ExplicitVRLittleEndian),
    "Vendor B": _Storage(intercept=-1024, signed=True, padding=-2000, syntax=ImplicitVRLittleEndian),
    "Vendor C": _Storage(intercept=0, signed=True, padding=-1500, syntax=ExplicitVRLittleEndian),
    "Vendor D": _Storage(intercept=-8192, signed=False, padding=None, syntax=ExplicitVRLittleEndian),
}


def uid(plan: HospitalPlan, *parts: object) -> str:
    """A unique identifier that follows from the seed, the patient and what it is of."""
    return str(generate_uid(entropy_srcs=["/".join(map(str, ("phantom", *plan.key, *parts)))]))


def series_uid(plan: HospitalPlan, exam: int, series: SeriesPlan) -> str:
    """SeriesInstanceUID; a copy's comes after the original's in the order of text."""
    if series.number not in (20, 21) or series.code not in ("ok", "duplicate"):
        return uid(plan, exam, series.number)
    first, second = sorted(uid(plan, exam, number) for number in (20, 21))
    return second if series.defect == "copied" else first


def study_uid(plan: HospitalPlan, exam: int) -> str:
    """StudyInstanceUID."""
    return uid(plan, exam)


def header(plan: HospitalPlan, exam_number: int, series: SeriesPlan) -> Dataset:
    """What the files of one series share: whose, when, where, by what; none of it true of anybody."""
    exam: ExamPlan = plan.exams[exam_number]
    date = f"{exam.date:%Y%m%d}"
    time = f"10{series.number % 60:02d}00"
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.ImageType = list(series.image_type)
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = date
    data.StudyTime, data.SeriesTime, data.AcquisitionTime, data.ContentTime = "100000", time, time, time
    data.AccessionNumber = f"PHANTOM-{plan.name}-{exam_number}"
    data.Modality = {"mr": "MR", "dose_sr": "SR"}.get(series.what, "CT")
    data.Manufacturer, data.ManufacturerModelName = plan.manufacturer, MARK
    data.InstitutionName, data.InstitutionAddress = "No Such Hospital", "1 Nowhere Road, Noplace"
    data.StationName, data.DeviceSerialNumber = "NOSTATION", "SERIAL-PHANTOM"
    data.ReferringPhysicianName, data.OperatorsName = "NOBODY^NOREEN", "MADEUP^MAX"
    data.StudyDescription, data.SeriesDescription, data.ProtocolName = exam.description, series.description, "Made up"
    data.PatientName, data.PatientID = f"PHANTOM^{plan.name}", f"PHANTOM-ID-{plan.name}"
    data.OtherPatientIDs = f"OTHER-PHANTOM-{plan.name}"
    data.PatientBirthDate, data.PatientSex = f"20{plan.number % 60 + 10}0101", "O"
    data.PatientAge, data.PatientAddress = f"{exam.date.year - 2010 - plan.number % 60:03d}Y", "2 Nowhere Road, Noplace"
    data.PatientComments = f"Free text about PHANTOM {plan.name}: telephone 555-0100"
    data.ImageComments = f"Made-up remark; referred by Dr NOBODY for PHANTOM {plan.name}"
    data.StudyInstanceUID, data.SeriesInstanceUID = study_uid(plan, exam_number), series_uid(plan, exam_number, series)
    data.StudyID, data.SeriesNumber, data.AcquisitionNumber = f"STUDY{plan.name}", series.number, 1
    private = data.private_block(0x0009, "PHANTOM PRIVATE", create=True)
    private.add_new(0x10, "LO", f"private remark about PHANTOM^{plan.name}")
    return data


def image_files(plan: HospitalPlan, exam_number: int, series: SeriesPlan, hu: NDArray[np.int16]) -> list[bytes]:
    """One file a slice of `hu` `[N, rows, columns]`; slices of another thickness are an acquisition of their own."""
    stack, storage = series.stack, _STORAGE[plan.manufacturer]
    assert stack is not None
    origin = np.asarray(plan.exams[exam_number].origin_ras_mm)
    data = header(plan, exam_number, series)
    is_mr = series.what == "mr"
    data.SOPClassUID = MRImageStorage if is_mr else CTImageStorage
    data.BodyPartExamined = series.what.upper() if series.what in ("chest", "neck") else "HEAD"
    data.FrameOfReferenceUID, data.PatientPosition, data.KVP = uid(plan, exam_number, "frame"), "HFS", 120
    data.ConvolutionKernel = stack.kernel.name
    if series.what == "contrast":
        data.ContrastBolusAgent, data.ContrastBolusVolume = "MADE-UP AGENT", 50
    x, y, across = stack.directions * _TO_LPS
    data.ImageOrientationPatient = [_decimal(v, 8) for v in (*x, *y)]
    data.PixelSpacing = [_decimal(stack.pixel_mm, 6)] * 2
    if abs(stack.turn_deg) < 45:
        data.GantryDetectorTilt = _decimal(stack.turn_deg, 1)
    _describe_pixels(data, hu.shape[1:], storage, series)
    stored = _stored(hu, storage, has_padding=abs(stack.turn_deg) < 45 and series.what != "localizer")
    acquisitions = 1 + np.cumsum(np.diff(stack.thicknesses_mm, prepend=stack.thicknesses_mm[0]) != 0)
    corners = (stack.corners_mm + origin) * _TO_LPS
    files = []
    for k, (corner, thickness) in enumerate(zip(corners, stack.thicknesses_mm, strict=True)):
        data.SOPInstanceUID = uid(plan, exam_number, series.number, k)
        data.InstanceNumber, data.AcquisitionNumber = k + 1, int(acquisitions[k])
        data.ImagePositionPatient = [_decimal(v, 4) for v in corner]
        data.SliceLocation, data.SliceThickness = _decimal(corner @ across, 3), _decimal(thickness, 3)
        data.PixelData = stored[k].tobytes()
        files.append(_encoded(data, storage.syntax))
    return files


def picture_file(plan: HospitalPlan, exam_number: int, series: SeriesPlan, matrix: int) -> bytes:
    """A picture of a page with lines as of writing, in colour, as scanners put dose reports among images."""
    rng = np.random.default_rng([*plan.key, series.number])
    page = np.zeros((matrix, matrix), dtype=np.uint8)
    for row in range(6, matrix - 6, 8):
        words = np.repeat(rng.random(matrix // 3 + 1) < 0.7, 3)[:matrix]
        page[row : row + 4, 4 : 4 + int(rng.integers(matrix // 3, matrix - 8))] = 255
        page[row : row + 4, ~words] = 0
    data = header(plan, exam_number, series)
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, uid(plan, exam_number, series.number, 0)
    data.ConversionType, data.BurnedInAnnotation, data.InstanceNumber = "WSD", "YES", 1
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows = data.Columns = matrix
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = np.repeat(page[:, :, None], 3, axis=2).tobytes()
    return _encoded(data, ExplicitVRLittleEndian)


def dose_file(plan: HospitalPlan, exam_number: int, series: SeriesPlan) -> bytes:
    """A structured report of the dose."""
    data = header(plan, exam_number, series)
    data.SOPClassUID, data.SOPInstanceUID = XRayRadiationDoseSRStorage, uid(plan, exam_number, series.number, 0)
    data.InstanceNumber, data.ValueType, data.ContinuityOfContent = 1, "CONTAINER", "SEPARATE"
    data.CompletionFlag, data.VerificationFlag = "COMPLETE", "UNVERIFIED"
    data.ConceptNameCodeSequence = [_code("113701", "X-Ray Radiation Dose Report")]
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence = [_code("121106", "Comment")]
    item.TextValue = f"Made-up dose of PHANTOM {plan.name}"
    data.ContentSequence = [item]
    return _encoded(data, ExplicitVRLittleEndian)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _describe_pixels(data: Dataset, shape: tuple[int, ...], storage: _Storage, series: SeriesPlan) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = int(shape[0]), int(shape[1])
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(storage.signed)
    if storage.padding is not None:
        data.PixelPaddingValue = storage.padding
    if series.what != "mr" and series.defect != "no_rescale":
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = storage.intercept, 1, "HU"
    data.WindowCenter, data.WindowWidth = 40, 80


def _stored(hu: NDArray[np.int16], storage: _Storage, has_padding: bool) -> NDArray[Any]:
    """HU as the manufacturer stores them; outside the round field of view its padding."""
    stored = hu.astype(np.int32) - storage.intercept
    if storage.padding is not None and has_padding:
        n = hu.shape[-1]
        places = np.arange(n) - (n - 1) / 2
        stored[:, np.hypot(places[:, None], places[None]) > n / 2] = storage.padding
    return stored.astype("<i2" if storage.signed else "<u2")


def _decimal(value: float, digits: int) -> str:
    """A decimal string of at most 16 characters, as DICOM wants it."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _encoded(data: Dataset, syntax: UID) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    data.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()
