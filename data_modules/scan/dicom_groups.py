"""Which CT slices of a folder belong together, and which of several scans is meant.

Slices are never stacked across series, frames of reference, matrices, pixel spacings or orientations. Acquisitions of
one series are one scan where they follow each other along the table: step-and-shoot gives each slice, and a head with
thin slices through the base and thick ones above gives each part, an acquisition of its own. Acquisitions that overlap
in space are separate scans, for the patient may have moved between them, or contrast have come; so are two kernels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.dicom_headers import SliceHeader
from data_modules.scan.plausible import SAME_PLACE_MM

SAME_DIRECTION = 0.005
"""Largest difference of direction cosines between a slice and the next, about 0.3°."""
JOINED = "a SeriesInstanceUID for each slice"
"""How the remark begins that such slices were joined."""
_SAME_SPACING = 1e-3  # of pixels, relative
_FEWEST_JOINED = 3
_MOST_RUNS = 4


def group(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """The scans that slices make, in the order in which they are listed."""
    stacks = []
    for alike in _split(_joined(slices), lambda s: (s.series_uid, s.frame_of_reference, s.shape)):
        for parallel in _parallel(alike):
            for kernel in _apart(parallel, lambda s: s.kernel):
                for acquired in _apart(kernel, lambda s: (s.acquisition, s.temporal_position)):
                    for at_once in _at_few_times(acquired):
                        stacks.extend(_runs(at_once))
    return sorted(
        (sorted(stack, key=lambda s: s.path) for stack in stacks),
        key=lambda stack: (stack[0].series_number, stack[0].series_uid, -len(stack), min(map(_order, stack))),
    )


def choose(stacks: list[list[SliceHeader]], series: str | None, folder: Path) -> list[SliceHeader]:
    """The stack that `series` names, or the only one.

    Raises:
        UserError: none or several fit. What it says on the terminal tells them apart; what is kept of it (`kept`)
            holds neither descriptions nor identifiers.
    """
    if series is None:
        matches = stacks
    elif series.isdecimal() and 1 <= int(series) <= len(stacks):
        matches = [stacks[int(series) - 1]]
    else:
        matches = [stack for stack in stacks if series and any(s.series_uid.endswith(series) for s in stack)]
    if len(matches) == 1:
        return matches[0]
    asks = "expected one. Choose with series=NUMBER from this list (or the end of a SeriesInstanceUID):"
    if series is None:
        shown = kept = f"{folder}: {len(stacks)} CT series, {asks}"
    else:
        shown = f"{folder}: series {series!r} fits {len(matches)} CT series, {asks}"
        kept = f"{folder}: the series named fits {len(matches)} CT series, {asks}"
    for i, stack in enumerate(stacks, start=1):
        line = f"\n  {i}: {_describe(stack)}"
        kept += line
        shown += f"{line}, {_identify(stack, stacks)}"
    raise UserError(shown, kept=kept)


def unit_directions(slices: Sequence[SliceHeader]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean directions along rows and columns, LPS, at right angles."""
    x = np.mean([s.x_direction for s in slices], axis=0)
    x /= np.linalg.norm(x)
    y = np.mean([s.y_direction for s in slices], axis=0)
    y -= (y @ x) * x
    y /= np.linalg.norm(y)
    return x, y


def _split(slices: Sequence[SliceHeader], key: Callable[[SliceHeader], Hashable]) -> list[list[SliceHeader]]:
    """Slices by key, in the order in which keys come."""
    parts: dict[Hashable, list[SliceHeader]] = defaultdict(list)
    for item in slices:
        parts[key(item)].append(item)
    return list(parts.values())


def _order(item: SliceHeader) -> tuple[int, int, int]:
    return item.acquisition, item.temporal_position, item.instance


def _joined(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Slices of which an anonymiser made a series each, under one SeriesInstanceUID where all else agrees."""
    by_uid = _split(slices, lambda s: s.series_uid)
    result = [item for part in by_uid if len(part) > 1 for item in _in_one_frame(part)]
    alone = [part[0] for part in by_uid if len(part) == 1]
    remark = f"{JOINED}: joined, for number, description, matrix, spacing, thickness and kernel agree"
    for part in _split(alone, _all_else):
        together = _in_one_frame(part)
        if len(part) >= _FEWEST_JOINED and len({s.frame_of_reference for s in together}) == 1:
            uid = part[0].series_uid
            together = [replace(s, series_uid=uid, remarks=(remark, *s.remarks)) for s in together]
        result.extend(together)
    return result


def _in_one_frame(slices: list[SliceHeader]) -> list[SliceHeader]:
    """Slices that all have a frame of reference of their own, which then tells nothing, under the first's.

    Some anonymisers make up an identifier for each file, and so do libraries that write slice by slice.
    """
    frames = {s.frame_of_reference for s in slices}
    if len(slices) < _FEWEST_JOINED or len(frames) < len(slices):
        return slices
    remark = "a FrameOfReferenceUID for each slice: taken to be one"
    return [replace(s, frame_of_reference=slices[0].frame_of_reference, remarks=(remark, *s.remarks)) for s in slices]


def _all_else(item: SliceHeader) -> Hashable:
    """What slices of one series agree in."""
    return (
        item.series_number,
        item.description,
        item.shape,
        item.pixel_mm,
        item.kernel,
        str(item.thickness_mm),
        item.contrast,
    )


def _parallel(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices parallel to each other and of one pixel spacing, where a drift from slice to slice is followed."""
    facts = np.array([np.concatenate([s.x_direction, s.y_direction, np.log(s.pixel_mm)]) for s in slices])
    tolerance = np.array([SAME_DIRECTION] * 6 + [_SAME_SPACING] * 2)
    kinds, kind_of = np.unique(facts.round(6), axis=0, return_inverse=True)
    label = np.full(len(kinds), -1)
    for seed in range(len(kinds)):
        if label[seed] >= 0:
            continue
        label[seed], reached = seed, [seed]
        while reached:
            near = (np.abs(kinds - kinds[reached.pop()]) <= tolerance).all(axis=1)
            new = np.flatnonzero(near & (label < 0))
            label[new] = seed
            reached.extend(new.tolist())
    labels = label[kind_of.ravel()]
    return [[s for s, own in zip(slices, labels, strict=True) if own == seed] for seed in dict.fromkeys(labels)]


def _heights(slices: Sequence[SliceHeader]) -> NDArray[np.float64]:
    return np.array([s.position for s in slices]) @ np.cross(*unit_directions(slices))


def _apart(slices: list[SliceHeader], key: Callable[[SliceHeader], Any]) -> list[list[SliceHeader]]:
    """Stacks of parts (slices of one key, in its order): one stack where they follow each other in space.

    The last stack is tried first: a second passage over the same place then goes on by itself.
    """
    heights = dict(zip(map(id, slices), _heights(slices), strict=True))
    stacks: list[list[SliceHeader]] = []
    for part in sorted(_split(slices, key), key=lambda part: key(part[0])):
        for stack in reversed(stacks):
            if _follow(part, stack, heights):
                stack.extend(part)
                break
        else:
            stacks.append(list(part))
    return stacks


def _follow(part: list[SliceHeader], stack: list[SliceHeader], heights: dict[int, float]) -> bool:
    """Whether `part` lies above or below `stack`.

    Where two parts of a scan meet, the last slice of one may lie within the first of the other: they may overlap by a
    slice, but by less than half of either.
    """
    low, high = min(heights[id(s)] for s in part), max(heights[id(s)] for s in part)
    lowest, highest = min(heights[id(s)] for s in stack), max(heights[id(s)] for s in stack)
    shared = min(high, highest) - max(low, lowest)  # negative where they do not overlap
    if shared < -SAME_PLACE_MM:
        return True
    thickest = np.nanmax([0.0, *(s.thickness_mm for s in (*part, *stack))])
    return bool(shared <= thickest and shared < min(high - low, highest - lowest) / 2)


def _at_few_times(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Acquisitions that only their times tell apart. Times of single slices, as of a helix, tell nothing."""
    times = {s.acquired_at for s in slices}
    few = "" not in times and len(times) <= _MOST_RUNS and _FEWEST_JOINED * len(times) <= len(slices)
    return _apart(slices, lambda s: s.acquired_at) if few else [slices]


def _runs(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Passages over the same place that only the numbers of the images tell apart.

    Images are numbered along the table. Where the numbers run over the same place again, and the slices do not lie at
    the same positions (those are copies), there were several acquisitions. Numbers without order tell nothing.
    """
    times = set(Counter(s.instance for s in slices).values())  # that a number is used
    if len(times) != 1 or len(slices) < 2 * _FEWEST_JOINED:
        return [slices]
    heights = _heights(slices)
    order = np.lexsort((heights, np.array([s.instance for s in slices])))
    ordered, heights = [slices[k] for k in order], heights[order]
    if (n_runs := times.pop()) > 1:  # numbered anew
        runs = [np.arange(i, len(ordered), n_runs) for i in range(n_runs)]
    else:
        steps = np.diff(heights)
        back = np.flatnonzero(steps * np.sign(np.median(steps)) <= 0)
        runs = np.split(np.arange(len(ordered)), back + 1)
    if not 1 < len(runs) <= _MOST_RUNS or min(map(len, runs)) < _FEWEST_JOINED:
        return [slices]
    for i, run in enumerate(runs):
        others = heights[np.concatenate([other for j, other in enumerate(runs) if j != i])]
        nearest = np.abs(heights[run][:, None] - others[None]).min(axis=1)
        if np.median(nearest) <= SAME_PLACE_MM:
            return [slices]
    run_of = {id(ordered[k]): i for i, run in enumerate(runs) for k in run}
    return _apart(slices, lambda s: run_of[id(s)])


def _describe(stack: list[SliceHeader]) -> str:
    """What tells scans apart without naming anybody."""
    thicknesses = sorted({s.thickness_mm for s in stack if np.isfinite(s.thickness_mm)})
    thickness = " and ".join(f"{t:g}" for t in thicknesses) + " mm" if thicknesses else "unknown thickness"
    normal = np.abs(np.cross(stack[0].x_direction, stack[0].y_direction))
    plane = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    contrast = "with contrast" if any(s.contrast for s in stack) else "no contrast named"
    acquisitions = sorted({s.acquisition for s in stack})
    acquired = f"acquisition {acquisitions[0]}" + (f" to {acquisitions[-1]}" if len(acquisitions) > 1 else "")
    return (
        f"{len(stack)} slices, {plane}, {thickness}, kernel {stack[0].kernel or 'unknown'}, {contrast}, "
        f"series number {stack[0].series_number}, {acquired}"
    )


def _identify(stack: list[SliceHeader], stacks: list[list[SliceHeader]]) -> str:
    """What names a scan, for the user's own eyes: its description and as much of its UID as is its own."""
    uid = stack[0].series_uid
    others = {other[0].series_uid for other in stacks} - {uid}
    length = next((n for n in range(8, len(uid)) if not any(o.endswith(uid[-n:]) for o in others)), len(uid))
    shown = "".join(c if c.isprintable() else " " for c in stack[0].description)
    return f"{shown!r}, UID …{uid[-length:]}"
