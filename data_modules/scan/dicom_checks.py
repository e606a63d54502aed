"""Whether the slices of one scan can be measured: their values HU, their sizes and places those of a patient.

All of it is known from headers, so that nothing is allocated and no pixel read for a scan that is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.dicom_headers import SliceHeader
from data_modules.scan.plausible import PLAUSIBLE_MM, is_plausible_mm
from data_modules.scan.slices import missing_slices, not_covered_by_thinner

MOST_INTERPOLATED = 0.2
"""Largest share of a scan's slices that may be missing between others and be interpolated."""
WIDEST_GAP = 5.0
"""Widest gap between two slices, as a multiple of the spacing around it, that is interpolated."""
_LONGEST_SCAN_MM = 2500.0
_WIDEST_IMAGE_MM = 1000.0
_SLOPES = (0.01, 100.0)  # HU a stored unit
_FARTHEST_INTERCEPT_HU = 1e5
_NEAR_WHOLE = 0.15  # a step this near to a multiple of the others is of missing slices
_BESIDE_MM = 2.0  # of a slice from where its neighbours say; rounding and drift are far less
_MOST_BESIDE = 0.3  # of all slices
_SHORT_STEP = 0.5  # of both its neighbours
_MOST_SHORT_STEPS = 0.2  # of all steps


def check_headers(slices: Sequence[SliceHeader]) -> None:
    """Refuses slices of which the header cannot be right.

    Raises:
        UserError: naming the tag, its value and a file.
    """
    _refuse(
        slices,
        lambda s: np.isfinite(s.slope) and np.isfinite(s.intercept),
        lambda s: "RescaleSlope or RescaleIntercept missing: stored values cannot be told from HU",
        "Both are required of CT and are removed by some anonymisers: restore them, or export the scan again.",
    )
    _refuse(
        slices,
        lambda s: _SLOPES[0] <= s.slope <= _SLOPES[1] and abs(s.intercept) <= _FARTHEST_INTERCEPT_HU,
        lambda s: f"RescaleSlope {s.slope:g} and RescaleIntercept {s.intercept:g} cannot give HU",
        f"Expected a slope of {_SLOPES[0]:g} to {_SLOPES[1]:g}: export the scan again.",
    )
    low, high = PLAUSIBLE_MM
    _refuse(
        slices,
        lambda s: all(map(is_plausible_mm, s.pixel_mm)),
        lambda s: f"PixelSpacing {s.pixel_mm[1]:g}\\{s.pixel_mm[0]:g} mm",
        f"Expected {low:g} to {high:g} mm: mend the tag.",
    )
    _refuse(
        slices,
        lambda s: max(n * mm for n, mm in zip(s.shape, s.pixel_mm[::-1], strict=True)) <= _WIDEST_IMAGE_MM,
        lambda s: f"{s.shape[0]} rows and {s.shape[1]} columns of PixelSpacing {s.pixel_mm[1]:g}\\{s.pixel_mm[0]:g} mm",
        f"No scanner's image is wider than {_WIDEST_IMAGE_MM:g} mm: mend Rows, Columns or PixelSpacing.",
    )
    _refuse(
        slices,
        lambda s: np.isnan(s.thickness_mm) or is_plausible_mm(s.thickness_mm),
        lambda s: f"SliceThickness {s.thickness_mm:g} mm",
        f"Expected {low:g} to {high:g} mm: mend the tag, or remove it and give the thickness otherwise.",
    )


def check_places(slices: Sequence[SliceHeader], height: NDArray[np.float64], in_plane: NDArray[np.float64]) -> None:
    """Refuses slices that do not lie as those of one scan do.

    Args:
        slices: one at each place, from the lowest to the highest.
        height: `[N]`, mm along the normal.
        in_plane: `[N, 2]`, mm along rows and columns.

    Raises:
        UserError: naming what is wrong and files.
    """
    if len(slices) == 1:
        return
    steps = np.diff(height)
    if height[-1] - height[0] > _LONGEST_SCAN_MM:
        far = slices[-1 if steps[-1] >= steps[0] else 0]
        raise UserError(
            f"{far.path}: slice positions span {height[-1] - height[0]:.0f} mm, more than any scanner's table; "
            "ImagePositionPatient of some slice is wrong. Remove that slice."
        )
    kept = not_covered_by_thinner(height, np.array([s.thickness_mm for s in slices]))
    slices, height, in_plane = [slices[k] for k in kept], height[kept], in_plane[kept]
    _check_steps(slices, np.diff(height))
    _check_gaps(slices, height)
    bends = np.abs(np.diff(in_plane, 2, axis=0)).max(axis=1, initial=0) / 2
    if (bends > _BESIDE_MM).sum() > max(2.0, _MOST_BESIDE * len(slices)):
        k = int(np.flatnonzero(bends > _BESIDE_MM)[0])
        raise UserError(
            f"{slices[k].path} and {slices[k + 1].path.name}: slices lie {bends.max():.1f} mm beside each other by "
            "turns: two acquisitions in one series. Put each into a folder of its own."
        )
    size_mm = np.array(slices[0].shape[::-1]) * slices[0].pixel_mm
    if (np.ptp(in_plane, axis=0) > size_mm).any():
        far = slices[int(np.abs(in_plane - np.median(in_plane, axis=0)).max(axis=1).argmax())]
        raise UserError(
            f"{far.path}: its image lies {np.ptp(in_plane, axis=0).max():.0f} mm beside others of the scan, more than "
            "an image is wide; ImagePositionPatient is wrong. Remove that slice, or export the scan again."
        )


def _refuse(
    slices: Sequence[SliceHeader],
    is_right: Callable[[SliceHeader], bool | np.bool_],
    says: Callable[[SliceHeader], str],
    remedy: str,
) -> None:
    """Raises for the first slice that is not right, saying how many are not."""
    wrong = [s for s in slices if not is_right(s)]
    if wrong:
        of_all = "in all" if len(wrong) == len(slices) else f"in {len(wrong)} of"
        raise UserError(f"{wrong[0].path}: {says(wrong[0])} ({of_all} {len(slices)} slices). {remedy}")


def _check_steps(slices: Sequence[SliceHeader], steps: NDArray[np.float64]) -> None:
    """Slices do not lie implausibly far from each other, nor close together by turns."""
    usual = float(np.median(steps)) if len(steps) else 0.0
    if usual > PLAUSIBLE_MM[1]:
        raise UserError(
            f"{slices[0].path.parent}: slices lie {usual:g} mm apart, expected up to {PLAUSIBLE_MM[1]:g} mm. "
            "ImagePositionPatient is wrong, or most slices are missing: export the scan again."
        )
    around = np.minimum(np.append(steps[1:], np.inf), np.insert(steps[:-1], 0, np.inf))
    short = steps < _SHORT_STEP * around
    if len(steps) > 2 and short.sum() > max(1.0, _MOST_SHORT_STEPS * len(steps)):
        k = int(np.flatnonzero(short)[0])
        raise UserError(
            f"{slices[k].path} and {slices[k + 1].path.name}: slices lie {steps[short].min():.2f} mm and "
            f"{np.median(steps[~short]):.2f} mm apart by turns: two reconstructions or acquisitions in one series. "
            "Put each into a folder of its own."
        )


def _check_gaps(slices: Sequence[SliceHeader], height: NDArray[np.float64]) -> None:
    """No slice lies far from all others, and not too many are missing between others.

    Steps are compared in units of the slices' thickness, so that thick slices after thin ones are no gap.

    Raises:
        UserError: naming a file on the edge of the gap.
    """
    steps = np.diff(height)
    thickness = np.array([s.thickness_mm for s in slices])
    unit = (thickness[1:] + thickness[:-1]) / 2 if np.isfinite(thickness).all() else np.ones(len(steps))
    gaps = missing_slices(np.concatenate([[0.0], np.cumsum(steps / unit)]))
    for gap in gaps:
        if gap.width_mm > WIDEST_GAP * gap.spacing_mm:
            n_below, n_above = gap.after + 1, len(slices) - gap.after - 1
            alone = slices[gap.after] if n_below < n_above else slices[gap.after + 1]
            raise UserError(
                f"{alone.path}: {min(n_below, n_above)} of {len(slices)} slices lie {steps[gap.after]:.0f} mm from the "
                f"others, which are {gap.spacing_mm * unit[gap.after]:.1f} mm apart. Slices between them are missing, "
                "or ImagePositionPatient is wrong: copy the scan again, or remove the slices that lie apart."
            )
    missing = max(sum(gap.missing for gap in gaps), _missing_by_turns(steps / unit, bool(np.isfinite(thickness).all())))
    share = missing / (len(slices) + missing)
    if share > MOST_INTERPOLATED:
        raise UserError(
            f"{slices[int(np.argmax(steps / unit))].path}: about {missing} slices are missing, some after this one: "
            f"{share:.0%} of the scan would be interpolated, at most {MOST_INTERPOLATED:.0%} is. Copy the scan again."
        )


def _missing_by_turns(steps: NDArray[np.float64], comparable: bool) -> int:
    """How many slices are missing where every second or third is, so that no step is wider than those around it.

    Args:
        steps: `[N - 1]`, in units of the slices' thickness.
        comparable: whether the thickness is known. Else wide steps may be those of thick slices.
    """
    if not comparable or len(steps) < 3:
        return 0
    ratio = steps / np.percentile(steps, 25)
    times = np.rint(ratio)
    return int((times - 1)[(times > 1) & (np.abs(ratio - times) < _NEAR_WHOLE)].sum())
