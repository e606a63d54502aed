"""Hounsfield units: whether values are such, and how they are stored.

The judgement goes by the histogram, for minimum and maximum tell nothing behind padding or metal. What single values
are padding is set aside first; then air (−1000), soft tissue (brain, muscle) and bone must lie where they do on any
scanner. Something is refused only for what is found, never for what is missing: a region may show no air, a drawn
head no noise. Each threshold stands beside the nearest value of ordinary CT that was measured: 2 real heads and a
template, crops of them, and phantoms of 14 kernels in slices of 0.6 to 10 mm.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import AIR_HU
from data_modules.scan.histogram import PEAK_HALF_HU, Histogram, histogram_of
from data_modules.scan.slice_offsets import offset_slices

_REMEDY = "Give the original CT in Hounsfield units (air −1000, water 0)."
_NO_AIR_HU = -200  # where nothing is darker, a scan shows no air
_NOT_AIR_HU = -850  # tissue and bone are brighter, partial volume with air and foam aside
_AIR_RANGE_HU = (-1100, -850)  # ordinary: −1023 to −953
_TISSUE_HU = (-140, 110)  # from fat to muscle with contrast; ordinary: 22 to 55
_BRAIN_HU = (18, 70)  # ordinary: 22 to 55
_EIGHT_BITS = (200, 255)  # where the brightest grey value of 8 bits lies
_GREY_HU = 10  # grey values and MR begin at 0, tissue without air does not
_CLEAR = 0.25  # share of what is not air in the peak of tissue; ordinary: at least 0.48, noise of all HU 0.1
_SECOND = 0.12  # a peak as far above another as tissue is above air; ordinary bone: 0.065 of the peak of tissue
_ABOVE_AIR_HU = (980, 1090)  # soft tissue above air: 1035
_PEAK = 0.05  # share that makes a peak of air; between −850 and −250 HU ordinary CT has 0.012
_FILLED = 0.01  # share of a single value, apart from its neighbours, that is no chance
_LIMIT_SHARE = 1e-4  # the same at −1024 and below, where scanners saturate
_GAP_HU = 50
_FEW_VALUES = 50  # drawn heads have 3 to 26; ordinary regions at least 100
_BRIGHT = 0.15  # share of a sharp peak where only bone may be; ordinary bone: 0.05
_AIR = 0.2  # share of air beside which tissue must be seen
_MAIN = 0.2  # share of a sharp peak between air and fat; ordinary: 0.012
_DARKER = 2e-3  # and what must be darker still
_FEWEST_JUDGED = 50  # voxels that make a histogram
_FEWEST = 20  # voxels at one value that are no chance; ordinary: 2
_PILE = 2e-4
_LIMIT_HU = 2000  # scanners saturate at 3071 and above, software that prepares images at this or less
_TAIL = 0.02  # of a pile must lie within the 50 HU below it: a head with noise; clipped at 200 to 1300 HU: 0.08
_BONE_HU = 600  # bone is brighter, drawn or not
_DRAWN_AIR = 0.3  # share of air in a drawn head: 0.36 to 0.45
_MOST_ABOVE = 0.01  # of the voxels above 4095 HU, where metal alone may be
_SMALLEST_RANGE_HU = 20


class NotHounsfield(UserError):  # noqa: N818 - says what is wrong; every user error is one
    """The values of a scan are not Hounsfield units."""


def to_int16(hu: NDArray[Any]) -> NDArray[np.int16]:
    """Whole HU within the range of int16."""
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(hu), limits.min, limits.max).astype(np.int16)


def whole_hu(hu: NDArray[np.float64], lowest: int = AIR_HU) -> NDArray[Any]:
    """HU kept within [`lowest`, 32767], as int16 where all are whole numbers, else float32."""
    hu = np.clip(hu, lowest, np.iinfo(np.int16).max)
    rounded = np.rint(hu)
    return rounded.astype(np.int16) if np.abs(hu - rounded).max(initial=0) <= 1e-3 else hu.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Indicators:
    """What a histogram shows, padding set aside.

    Attributes:
        padding: share of the voxels at each value that was set aside.
        rest: histogram of all others.
        tissue_hu: the highest peak above air, soft tissue in every head.
        tissue: its share of what is not air.
        drawn: whether that peak is a single value, as in a head without noise.
        dark_hu: the highest peak below −250 HU, None where nothing lies there.
        dark: its share.
        air: share where air belongs.
        tissue_above_hu: a peak as far above the highest as tissue is above air, and with something brighter, as bone;
            None where there is none.
        tissue_above: its size, relative to the other's.
    """

    padding: dict[int, float]
    rest: Histogram
    tissue_hu: int
    tissue: float
    drawn: bool
    dark_hu: int | None
    dark: float
    air: float
    tissue_above_hu: int | None
    tissue_above: float

    @property
    def is_clear(self) -> bool:
        """Whether there is a peak of tissue, at whatever value."""
        return self.tissue >= _CLEAR and self.rest.is_sharp(self.tissue_hu)

    @property
    def is_brain(self) -> bool:
        """Whether it lies where brain and muscle do."""
        return self.is_clear and _BRAIN_HU[0] <= self.tissue_hu <= _BRAIN_HU[1]


def indicators(whole: Histogram) -> Indicators:
    """What a histogram of more than padding shows."""
    padding, drawn = _padding(whole)
    rest = whole.without(padding)
    tissue = rest.peak(-250, rest.highest) or 0
    dark = rest.peak(rest.lowest, -251)
    above_hu, above = None, 0.0
    lows = {rest.peak(rest.lowest, rest.highest) or 0, tissue}
    for low, half in itertools.product(lows, (40, PEAK_HALF_HU)):  # noise makes a peak as wide as the second
        high = rest.peak(low + _ABOVE_AIR_HU[0], low + _ABOVE_AIR_HU[1])
        if high is not None and high > _TISSUE_HU[1]:
            size = rest.around(high, half) / max(1e-9, rest.around(low, half))
            brighter = rest.count(high + 100, rest.highest) >= 0.01 * rest.count(high - 40, high + 40)
            sharp = rest.is_sharp(low, half) and rest.is_sharp(high, half) and rest.around(high, half) >= _PEAK
            if brighter and sharp and size > above:
                above_hu, above = high, size
    return Indicators(
        padding={v: whole.share(v, v) for v in padding},
        rest=rest,
        tissue_hu=tissue,
        tissue=rest.count(tissue - 60, tissue + 60) / max(1, rest.count(_NOT_AIR_HU, rest.highest)),
        drawn=drawn,
        dark_hu=dark,
        dark=0.0 if dark is None else rest.around(dark),
        air=rest.share(*_AIR_RANGE_HU),
        tissue_above_hu=above_hu,
        tissue_above=above,
    )


def _padding(whole: Histogram) -> tuple[list[int], bool]:
    """Values that were filled in, and whether the head is drawn, every tissue a single value.

    Spikes up to −1024 are filled in always. Elsewhere those are in which a head with noise has no share: in the middle
    of the scale, and beyond a gap at its end. 0 is what programs fill with; a drawn tissue is another value.
    """
    limits = whole.spikes(_LIMIT_SHARE, whole.lowest, AIR_HU) if whole.lowest <= AIR_HU else []
    body = whole.without(limits)
    if not body.total:
        return limits[:-1], False
    low, high = body.lowest, body.highest
    if body.n_values < _FEW_VALUES:
        return limits, True
    often = body.spikes(_FILLED, low + 1, high - 1)
    body = body.without([0] if 0 in often else [])
    peak = body.peak(low + 100, high - 100) if high - low > 200 else None
    if peak is not None:
        own = sum(body.count(v, v) for v in often if abs(v - peak) <= PEAK_HALF_HU)
        if own > body.count(peak - PEAK_HALF_HU, peak + PEAK_HALF_HU) / 2:
            return limits, True
    far = [low] if not body.count(low + 1, low + _GAP_HU) and body.share(low, low) > _FILLED / 2 else []
    aside = sorted({*limits, *often, *far})
    return (aside, False) if whole.without(aside).total > 0.05 * body.total else (limits, True)


def check_hu(hu: NDArray[Any], path: Path, slice_axis: int = 0) -> list[str]:
    """Refuses values that cannot be HU of a head, remarks on doubtful ones.

    Args:
        hu: three axes in any order, whole numbers or not.
        path: what the values come from, for messages.
        slice_axis: array axis across the slices.

    Raises:
        NotHounsfield: naming what was found, with its HU.
    """
    planes = list(np.moveaxis(hu, slice_axis, 0))
    constant = np.array([bool((plane == plane.flat[0]).all()) for plane in planes])
    whole = histogram_of([plane for plane, same in zip(planes, constant, strict=True) if not same] or planes)
    finding = _no_image(whole)
    if finding is None and whole.total < _FEWEST_JUDGED:
        return [f"{whole.total} voxels are too few to tell whether they are HU"]
    if finding is None:
        shown = indicators(whole)
        finding = _misplaced(shown) or _windowed(shown) or offset_slices(planes, constant)
    if finding is not None:
        raise NotHounsfield(f"{path}: {finding}. {_REMEDY}")
    return [*_remarks(shown), *_constant_slices(planes, constant, shown), *_beyond_int16(whole)]


def _no_image(whole: Histogram) -> str | None:
    """What is wrong with values that show nothing at all."""
    low, high = whole.lowest, whole.highest
    if whole.n_values == 1:
        return f"every voxel holds {low} HU: no image, or scaled, not HU"
    if whole.n_values == 2 and low >= 0:
        return f"only the values {low} and {high}: windowed to grey values or a mask, not HU"
    if high - low < _SMALLEST_RANGE_HU:
        return f"values from {low} to {high}, scaled or no CT, not HU (air and bone lie 1500 HU apart)"
    if high < _TISSUE_HU[0]:
        return f"values from {low} to {high}, soft tissue (0 to 100 HU) nowhere: stored with an offset, not HU"
    return None


def _misplaced(shown: Indicators) -> str | None:
    """Air, soft tissue and bone that lie elsewhere than in HU."""
    rest, peak = shown.rest, shown.tissue_hu
    low, high = rest.lowest, rest.highest
    window = "looks windowed, or " if min(peak - low, high - peak) <= 5 else ""
    expected = f"expected at {_BRAIN_HU[0]} to {_BRAIN_HU[1]}"
    if _is_inverted(shown):
        return (
            f"soft tissue peak at {rest.peak(-250, 250)} HU ({expected}), what air would be above it "
            f"(to {high} HU) and what bone would be below (to {low} HU): the grey values are inverted, not HU"
        )
    if rest.share(4096, high) > _MOST_ABOVE:
        return f"{rest.share(4096, high):.1%} of the voxels lie above 4095 HU (to {high} HU): scaled, not HU"
    if shown.tissue_above >= _SECOND:
        return (
            f"a soft tissue peak at {shown.tissue_above_hu} HU ({expected}), air about 1035 HU below it: stored with "
            "an offset (such as +1024), in all or some of the slices, not HU"
        )
    if peak > _TISSUE_HU[1] and rest.is_sharp(peak) and rest.around(peak) > _BRIGHT:
        return (
            f"soft tissue peak at {peak} HU ({expected}): "
            f"{window}stored with an offset (such as +1024), or scaled, or "
            "not CT, not HU"
        )
    crop = shown.is_brain and low >= _GREY_HU and not _EIGHT_BITS[0] <= high <= _EIGHT_BITS[1]
    if low >= 0 and not crop:
        kind = (
            "windowed to grey values or a mask" if high <= 255 else "stored with an offset (such as +1024), or not CT"
        )
        return f"values from {low} to {high}, none negative: {kind}, not HU"
    if shown.is_clear and peak < _TISSUE_HU[0]:
        return f"soft tissue peak at {peak} HU ({expected}): {window}stored with an offset, not HU"
    dark = shown.dark_hu
    misplaced = dark is not None and not _AIR_RANGE_HU[0] <= dark <= _NOT_AIR_HU and rest.is_sharp(dark)
    if dark is not None and misplaced and shown.dark >= _PEAK and shown.air < shown.dark / 4:
        if dark < _AIR_RANGE_HU[0] or (rest.is_sharp(peak) and rest.around(peak) >= _PEAK):
            return (
                f"a peak at {dark} HU where air would lie (−1000), one at {peak} HU where soft tissue would "
                f"({expected}): scaled or stored with an offset, not HU"
            )
        if shown.dark >= _MAIN and (shown.padding or rest.share(low, dark - 200) > _DARKER):
            return f"the main peak lies at {dark} HU, soft tissue {expected}: stored with an offset, not HU"
    if shown.air >= _AIR and not (shown.is_clear and peak <= _TISSUE_HU[1]):
        return (
            f"a peak of air at {shown.dark_hu} HU but none of soft tissue ({expected}): stored with an offset, or no "
            "head, not HU"
        )
    return None


def _is_inverted(shown: Indicators) -> bool:
    """Whether tissue lies where fat and muscle do not, with air above it and bone below."""
    rest = shown.rest
    peak = rest.peak(-250, 250)
    if peak is None or not -75 < peak < -10 or rest.around(peak) < _PEAK:
        return False
    bright, dark = rest.share(700, 1400), rest.share(-1400, -700)
    return (bright >= _PEAK and bright > 2 * dark) or rest.share(-900, -150) > 1.5 * rest.share(150, 900)


def _windowed(shown: Indicators) -> str | None:
    """Values cut off at either side, which pile up there."""
    rest = shown.rest
    low, high = rest.lowest, rest.highest
    fewest = max(_FEWEST, _PILE * rest.total)
    below, above = rest.pile(low, 1), rest.pile(high, -1)
    cut = []
    if (
        low > _NOT_AIR_HU
        and below >= (_DRAWN_AIR * rest.total if shown.drawn else fewest)
        and (low < shown.tissue_hu - 20 or (rest.n_values >= _FEW_VALUES and low < _BRAIN_HU[0]))
    ):
        cut.append(f"{below} voxels ({below / rest.total:.1%}) at the lowest value, {low} HU")
    if above >= fewest and (high > shown.tissue_hu + 5 or not shown.drawn):
        tail = not shown.drawn and rest.count(high - 50, high - 1) >= _TAIL * above
        if high <= _BONE_HU or (tail and high <= _LIMIT_HU):
            cut.append(f"{above} voxels ({above / rest.total:.1%}) at the highest, {high} HU")
    if cut:
        return f"{' and '.join(cut)}: looks windowed, clipped there, not HU of the whole scale"
    if low >= _NO_AIR_HU and high <= 400 and not shown.is_brain:
        return f"values from {low} to {high}, neither air nor bone: looks windowed, or is not CT, not HU"
    return None


def _remarks(shown: Indicators) -> list[str]:
    """What is odd but no contradiction."""
    remarks = []
    rest = shown.rest
    for value, share in shown.padding.items():
        if value > _NOT_AIR_HU:
            remarks.append(f"{share:.1%} of the voxels hold exactly {value} HU: filled in, not measured")
    if rest.lowest >= _NO_AIR_HU:
        remarks.append(f"no air in the image: the lowest value is {rest.lowest} HU")
        if rest.highest <= 400:
            remarks.append(f"no bone in the image: the highest value is {rest.highest} HU")
    above = rest.pile(rest.highest, -1)
    if above > _FEWEST and rest.highest <= 1000:
        remarks.append(
            f"{above} voxels ({above / rest.total:.1%}) hold the highest value, {rest.highest} HU: clipped there, "
            "or drawn"
        )
    low, high = _BRAIN_HU
    if shown.is_clear and not low <= shown.tissue_hu <= high:
        remarks.append(f"the soft tissue peak lies at {shown.tissue_hu} HU, usually at {low} to {high}")
    return remarks


def _constant_slices(planes: list[NDArray[Any]], constant: NDArray[np.bool_], shown: Indicators) -> list[str]:
    """Slices of one value between others, or of one value that is not air."""
    if not constant.any():
        return []
    image = np.flatnonzero(~constant)
    lost = [k for k in np.flatnonzero(constant) if image[0] < k < image[-1] or planes[k].flat[0] > _AIR_RANGE_HU[1]]
    if shown.drawn:
        lost = [k for k in lost if abs(planes[k].flat[0] - shown.tissue_hu) > 1]  # a slice of nothing but brain
    if not lost:
        return []
    values = sorted({f"{planes[k].flat[0]:g}" for k in lost}, key=float)
    slices = "1 slice holds" if len(lost) == 1 else f"{len(lost)} slices hold"
    return [
        f"{slices} one value only ({', '.join(values)} HU), lost in transfer or filled in: "
        f"{_ranges(lost)} of {len(planes)}"
    ]


def _ranges(numbers: Sequence[Any]) -> str:
    """Numbers from 1, runs of them as "6–8"."""
    runs: list[list[int]] = []
    for k in numbers:
        if runs and k == runs[-1][1] + 1:
            runs[-1][1] = k
        else:
            runs.append([k, k])
    return ", ".join(f"{a + 1}" if a == b else f"{a + 1}–{b + 1}" for a, b in runs)


def _beyond_int16(whole: Histogram) -> list[str]:
    limit = np.iinfo(np.int16).max
    count = whole.count(limit, limit)
    return [f"{count} voxels beyond {limit} HU set to {limit}"] if count else []
