"""`python -m benchmarks.region`, from the project's root: how far the region's centre moves when a head is moved.

A head is turned, shifted, cut, thinned, scaled and mirrored by known transforms, and found again each time. The centre
that is found, taken back by the transform, is compared with the one found on the scan as it is. Seconds are of the
processor.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data_modules.errors import UserError
from data_modules.prepare.registration import RegistrationFailed, find_roi_center
from data_modules.scan.geometry import AIR_HU, Grid
from data_modules.scan.reading import read_scan
from data_modules.scan.resampling import resample_image, slab_widths
from data_modules.scan.scan import Scan, canonical_scan

ANGLE_DEG, SHIFT_MM, KEPT_MM, SLICE_MM, SCALES = 20.0, 60.0, 80.0, 5.0, (0.73, 0.85, 1.15)
COLUMNS = ("scan", "change", "moved_mm", "similarity", "seconds", "refused")


@dataclass(frozen=True, eq=False)
class Moved:
    """A head that was changed: its name, the scan, and the matrix `[4, 4]` from the original's RAS mm to its own."""

    name: str
    scan: Scan
    matrix: NDArray[np.float64]


def moved_heads(scan: Scan) -> Iterator[Moved]:
    """A scan as it is, then turned, shifted, cut, thinned, scaled, mirrored, and several of these at once.

    Turned heads are imaged anew, on upright slices, as a scanner would image a head that lies askew; `header` turns
    the slices with the head, as a tilted gantry does.
    """
    scan = canonical_scan(scan)
    yield Moved("as it is", scan, np.eye(4))
    axes = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1), "xyz": (1, 1, 1), "x−y": (1, -1, 0), "y−z": (0, 1, -1)}
    for name, axis in axes.items():
        for degrees in (ANGLE_DEG, -ANGLE_DEG):
            yield turned(scan, axis, degrees, f"turned {degrees:+.0f}° about {name}")
    for k, name in enumerate("xyz"):
        for degrees in (ANGLE_DEG, -ANGLE_DEG):
            matrix = _about(scan, _rotation(np.eye(3)[k], degrees))
            yield Moved(f"turned {degrees:+.0f}° about {name} (header)", _carried(scan, matrix), matrix)
    for k, name in enumerate("xyz"):
        for mm in (SHIFT_MM, -SHIFT_MM):
            matrix = np.eye(4)
            matrix[k, 3] = mm
            yield Moved(f"shifted {mm:+.0f} mm along {name}", _carried(scan, matrix), matrix)
    yield Moved(f"lower {KEPT_MM / 10:.0f} cm", lower_part(scan), np.eye(4))
    yield Moved(f"slices of {SLICE_MM:.0f} mm", thinned(scan), np.eye(4))
    for scale in SCALES:
        yield scaled(scan, scale)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    yield Moved("mirrored (header)", _carried(scan, mirror), mirror)
    for degrees in (ANGLE_DEG, -ANGLE_DEG):
        head = turned(scan, (1, 1, 1), degrees, "")
        yield Moved(f"turned {degrees:+.0f}° about xyz, lower 8 cm, 5 mm", thinned(lower_part(head.scan)), head.matrix)
    for scale in SCALES:
        head = scaled(scan, scale)
        yield Moved(f"{head.name}, lower 8 cm, 5 mm", thinned(lower_part(head.scan)), head.matrix)


def turned(scan: Scan, axis: Sequence[float], degrees: float, name: str) -> Moved:
    """The head turned about the scan's middle and imaged on the same upright grid, air where nothing was scanned."""
    matrix = _about(scan, _rotation(axis, degrees))
    mapping = np.linalg.inv(scan.grid.affine) @ np.linalg.inv(matrix) @ scan.grid.affine
    hu = ndimage.affine_transform(
        scan.hu.astype(np.float32), mapping[:3, :3], mapping[:3, 3], order=1, mode="constant", cval=AIR_HU
    )
    return Moved(name, replace(scan, hu=np.rint(hu).astype(np.int16), slice_thicknesses_mm=None), matrix)


def lower_part(scan: Scan, kept_mm: float = KEPT_MM) -> Scan:
    """The lowest slices."""
    x, y, _ = scan.grid.shape
    n = round(kept_mm / scan.grid.spacing_mm[2])
    thicknesses = scan.slice_thicknesses_mm
    return replace(
        scan,
        hu=scan.hu[:, :, :n],
        grid=scan.grid.crop((0, 0, 0), (x, y, n)),
        slice_thicknesses_mm=None if thicknesses is None else thicknesses[:n],
    )


def thinned(scan: Scan, slice_mm: float = SLICE_MM) -> Scan:
    """Thicker and fewer slices."""
    x, y, _ = scan.grid.spacing_mm
    grid = scan.grid.with_spacing((x, y, slice_mm), scan.grid.size_mm)
    thick = resample_image(scan.volume, grid, slab_widths(scan.grid, scan.slice_axis, scan.slice_thickness_mm))
    hu = np.rint(thick.data).astype(np.int16)
    return replace(scan, hu=hu, grid=grid, slice_thickness_mm=slice_mm, slice_thicknesses_mm=None)


def scaled(scan: Scan, scale: float) -> Moved:
    """A larger or smaller head, in slices as much thicker or thinner."""
    matrix = _about(scan, scale * np.eye(3))
    head = _carried(scan, matrix)
    return Moved(f"scaled by {scale}", replace(head, slice_thickness_mm=scale * scan.slice_thickness_mm), matrix)


def measure(path: Path, template: str | None, only: str = "") -> Iterator[dict[str, Any]]:
    """A row of `COLUMNS` for each change of one scan whose name holds `only`."""
    scan = read_scan(path)
    reference = None
    for head in moved_heads(scan):
        if only not in head.name and reference is not None:
            continue
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"scan": path.name, "change": head.name}
        start = time.process_time()
        try:
            center, registration = find_roi_center(head.scan, template)
        except RegistrationFailed as error:
            row["refused"] = str(error).split(": ", 1)[1].split(". Expected")[0]
        else:
            back = np.linalg.inv(head.matrix)
            center = back[:3, :3] @ center + back[:3, 3]
            reference = center if reference is None else reference
            row["moved_mm"] = float(np.linalg.norm(center - reference))
            row["similarity"] = registration.similarity
        yield row | {"seconds": time.process_time() - start}
        if reference is None:
            return


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; a `UserError` gives status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.region", description="How far the region of interest moves when a head is moved."
    )
    parser.add_argument("scans", nargs="+", type=Path, help="head CT: NIfTI files or DICOM folders")
    parser.add_argument("--template", help="CT template in MNI space; by default the built-in head model")
    parser.add_argument("--only", default="", help="changes whose name holds this")
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    arguments = parser.parse_args(argv)
    rows = []
    try:
        for path in arguments.scans:
            for row in measure(path, arguments.template, arguments.only):
                rows.append(row)
                moved, refused = row["moved_mm"], row["refused"]
                result = f"refused: {refused}" if refused else f"{moved:6.2f} mm  similarity {row['similarity']:.4f}"
                print(f"{row['scan']:20} {row['change']:45} {result}  {row['seconds']:.1f} s", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if arguments.out:
        table.to_csv(arguments.out, index=False)
    found = pd.to_numeric(table["moved_mm"])
    print(f"{found.notna().sum()} of {len(table)} found; largest movement {found.max():.2f} mm")
    return 0


def _rotation(axis: Sequence[float] | NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    unit = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    return np.asarray(Rotation.from_rotvec(np.deg2rad(degrees) * unit).as_matrix())


def _about(scan: Scan, linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[4, 4]`: a linear map that leaves the scan's middle in place."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = scan.grid.center_ras_mm - linear @ scan.grid.center_ras_mm
    return matrix


def _carried(scan: Scan, matrix: NDArray[np.float64]) -> Scan:
    """The voxels as they are, at other places."""
    return replace(scan, grid=Grid(scan.grid.shape, matrix @ scan.grid.affine))


if __name__ == "__main__":
    sys.exit(main())
