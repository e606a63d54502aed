"""Values of DICOM headers as text and numbers, whatever a damaged or careless header holds.

pydicom converts a value when it is asked for and raises errors of many kinds where it cannot; here that is one error,
which names the tag.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class UnreadableTag(ValueError):  # noqa: N818 - says what it is; its text is the reason that users read
    """A tag whose value cannot be what its name says."""


def numbers(header: pydicom.Dataset, keyword: str, *, comma: bool = False) -> list[float]:
    """The numbers of a tag, none where it is missing or empty.

    Args:
        header: of one file.
        keyword: of the tag.
        comma: whether a decimal comma is read as a point. Only for lengths: in other numbers it may part thousands.

    Raises:
        UnreadableTag: a value that is no finite number.
    """
    try:
        values = _values(header.get(keyword))
    except Exception:  # pydicom's own, of many kinds
        values = raw_value(header, keyword).decode("ascii", "replace").strip("\0 ").split("\\")
    try:
        found = [float(_with_point(value) if comma else value) for value in values]
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableTag(f"{keyword} is not a number") from error
    if not np.isfinite(found).all():
        raise UnreadableTag(f"{keyword} is not a finite number")
    return found


def number(header: pydicom.Dataset, keyword: str, default: float, *, comma: bool = False) -> float:
    """The one number of a tag, `default` where it is missing or empty.

    Raises:
        UnreadableTag: what is not one finite number.
    """
    found = numbers(header, keyword, comma=comma)
    if len(found) > 1:
        raise UnreadableTag(f"{keyword} is not one number but {len(found)}")
    return found[0] if found else default


def whole(header: pydicom.Dataset, keyword: str) -> int:
    """The number of a tag that only counts or orders; 0 where there is none that can be read."""
    try:
        return int(number(header, keyword, 0))
    except UnreadableTag:
        return 0


def text(header: pydicom.Dataset, keyword: str) -> str:
    """A tag's value, several joined by "/"; empty where it is missing, empty or cannot be read."""
    try:
        return "/".join(str(value) for value in _values(header.get(keyword))).strip()
    except Exception:  # pydicom's own, of many kinds
        return ""


def is_filled(header: pydicom.Dataset, keyword: str) -> bool:
    """Whether a tag is there and holds something, readable or not."""
    try:
        return bool(len(_values(header.get(keyword))))
    except Exception:  # pydicom's own, of many kinds
        return True


def _with_point(value: Any) -> Any:
    """Text of a number with a decimal comma as with a point; anything else as it is."""
    is_text = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip())
    return value.replace(",", ".") if is_text else value


def _values(value: Any) -> Sequence[Any]:
    """A DICOM value as a sequence: empty, single or multi-valued."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes) or not isinstance(value, Sequence) else value


def raw_value(header: pydicom.Dataset, keyword: str) -> bytes:
    """What stands in the file for a tag that cannot be converted."""
    tag = tag_for_keyword(keyword)
    try:
        value = header.get_item(tag).value if tag is not None else b""
    except Exception:  # pydicom's own, of many kinds
        return b""
    return value if isinstance(value, bytes) else str(value).encode()
