"""A CT slice as the index of files keeps it: its header, and what tells of what it is; as JSON, for it travels."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from data_modules.scan.dicom_headers import SliceHeader
from data_modules.scan.dicom_kinds import image_type
from data_modules.scan.dicom_tags import text

_ARRAYS = ("position", "x_direction", "y_direction")
_TUPLES = ("shape", "pixel_mm", "padding_hu", "remarks")


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFacts:
    """A CT slice, and what tells of what it is.

    Attributes:
        slice: its header as the reader of scans has it.
        file: number of the file in the index.
        instance_uid: SOPInstanceUID.
        series_uid: SeriesInstanceUID as the file has it.
        image_type: ImageType in capitals.
        body_part: BodyPartExamined.
        exam_words: StudyDescription and ProtocolName.
        burned_in: whether BurnedInAnnotation is YES.
    """

    slice: SliceHeader
    file: int
    instance_uid: str
    series_uid: str
    image_type: str
    body_part: str
    exam_words: str
    burned_in: bool


def facts_text(header: pydicom.Dataset, found: SliceHeader) -> str:
    """What `image_facts` makes a slice of."""
    own = asdict(replace(found, path=Path()))
    own.pop("path")
    facts = {
        "slice": {name: value.tolist() if name in _ARRAYS else value for name, value in own.items()},
        "image_type": image_type(header),
        "body_part": text(header, "BodyPartExamined"),
        "exam_words": f"{text(header, 'StudyDescription')} {text(header, 'ProtocolName')}".strip(),
        "burned_in": text(header, "BurnedInAnnotation").upper() == "YES",
    }
    return json.dumps(facts)


def image_facts(number: int, series: str, instance: str, facts: str) -> ImageFacts:
    """A slice of what `facts_text` told of it; its path is left open."""
    known = json.loads(facts)
    own = known.pop("slice")
    values: dict[str, Any] = {
        item.name: np.array(own[item.name])
        if item.name in _ARRAYS
        else tuple(own[item.name])
        if item.name in _TUPLES and own[item.name] is not None
        else own[item.name]
        for item in fields(SliceHeader)
        if item.name != "path"
    }
    header = SliceHeader(path=Path(), **values)
    return ImageFacts(slice=header, file=number, instance_uid=instance, series_uid=series, **known)
