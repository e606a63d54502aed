"""What a prepared series says of itself (`meta.json`), and whether its arrays are those that were written.

Every array has its size and CRC-32 there, and the facts a digest of their own. Series of before have none of these:
of them, the arrays' headers and lengths are looked at.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.files import write_text_atomic
from data_modules.prepare.sources import digest
from data_modules.scan.geometry import Grid

META_FILE = "meta.json"

_KINDS: dict[str, type | tuple[type, ...]] = {
    "series_id": str,
    "source_state": str,
    "source_sha256": str,
    "grid": dict,
    "native_grid": dict,
    "slice_thickness_mm": (int, float),
    "slice_axis": int,
    "warnings": list,
}
_ARRAYS = {
    "hu": (np.int16, "grid"),
    "native_hu": (np.int16, "native_grid"),
    "occupancy": (np.uint8, "grid"),
    "native_label": (np.bool_, "native_grid"),
}
_CHUNK_BYTES = 2**22


def write_meta(directory: Path, meta: dict[str, Any]) -> None:
    """Write the facts of a series whose arrays lie in `directory` already, with sizes and sums."""
    arrays = {
        path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in sorted(directory.glob("*.npy"))
    }
    facts = {**meta, "arrays": arrays}
    text = json.dumps({**facts, "digest": digest(facts)})
    (directory / META_FILE).write_text(text + "\n", encoding="utf-8")


def add_facts(directory: Path, more: dict[str, Any]) -> None:
    """Add to the facts of a prepared series what earlier preparations did not note."""
    meta = read_meta(directory)
    if meta is not None:
        facts = {key: value for key, value in meta.items() if key != "digest"} | more
        write_text_atomic(directory / META_FILE, json.dumps({**facts, "digest": digest(facts)}) + "\n")


def read_meta(directory: Path) -> dict[str, Any] | None:
    """The facts of a prepared series; None where it is not prepared, or they are damaged or of something else."""
    try:
        meta = json.loads((directory / META_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return meta if _is_whole(meta, directory.name) else None


def broken_array(directory: Path, meta: dict[str, Any], *, labelled: bool) -> str | None:
    """What is wrong with the arrays of a prepared series, None where they are as they were written.

    Args:
        directory: of the series; all of its arrays are read.
        meta: its facts, from `read_meta`.
        labelled: whether there must be a label.
    """
    names = ["hu", "native_hu", "components", *(["occupancy", "native_label"] if labelled else [])]
    known = meta.get("arrays")
    if known is not None and "peak_hu.npy" in known:  # not in what was prepared earlier
        names.append("peak_hu")
    for file in (f"{name}.npy" for name in names):
        path = directory / file
        try:
            if known is None:
                fine = _has_its_length(path, meta)
            else:
                fine = path.stat().st_size == known[file]["bytes"] and _crc32(path) == known[file]["crc32"]
        except (OSError, EOFError, KeyError, TypeError, ValueError):
            fine = False
        if not fine:
            return f"{file} is missing, cut off or changed"
    return None


def _is_whole(meta: Any, series_id: str) -> bool:
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key), kind) for key, kind in _KINDS.items()):
        return False
    if "digest" in meta and meta["digest"] != digest({key: value for key, value in meta.items() if key != "digest"}):
        return False
    try:
        grids = [Grid.from_dict(meta[key]) for key in ("grid", "native_grid")]
    except (KeyError, TypeError, ValueError):
        return False
    return (
        meta["series_id"] == series_id
        and all(min(grid.shape) > 0 and bool(np.isfinite(grid.affine).all()) for grid in grids)
        and meta["slice_thickness_mm"] > 0
        and meta["slice_axis"] in (0, 1, 2)
        and all(isinstance(warning, str) for warning in meta["warnings"])
    )


def _has_its_length(path: Path, meta: dict[str, Any]) -> bool:
    """Whether an array is of the type and shape that it must have, and its file as long as that takes."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses a file that is shorter than its header says
    if path.stem in _ARRAYS:
        dtype, grid = _ARRAYS[path.stem]
        right = array.dtype == dtype and list(array.shape) == list(meta[grid]["shape"])
    else:
        right = array.dtype == np.int32 and array.shape[1:] == (4,)
    return right and path.stat().st_size == array.offset + array.nbytes


def _crc32(path: Path) -> str:
    """CRC-32 of a file, 8 hexadecimal digits."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"
