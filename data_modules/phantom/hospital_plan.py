"""What a hospital delivers of each simulated patient: exams, their series, and what is wrong with them.

Every patient has one exam by one of four protocols (helical; sequential with the gantry tilted; the same with thin
slices through the skull base and thick ones above; base and vault as two series) and one trouble of `TROUBLES`. Twelve
patients show every trouble, forty-eight every trouble with every protocol. Names, numbers, dates and texts are made up
and look it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_modules.phantom.cohort import KERNELS, PLAQUE_FREE
from data_modules.phantom.imaging import Kernel
from data_modules.phantom.stacks import Stack

FIELD_MM = 240.0
"""Field of view of a head."""

TROUBLES = (
    "contrast",
    "follow_up",
    "chest",
    "twice",
    "truncated",
    "gap",
    "mr",
    "few_slices",
    "neck",
    "no_rescale",
    "one_missing",
    "screen",
)
"""What happens to patient number 0, 1, 2 …, over and over."""

_PROTOCOLS = ("helical", "tilted", "two_thicknesses", "two_series")
_BOTTOM_MM, _TOP_MM = (-46.0, -40.0), 124.0  # of the scanned head, above the sella
_BASE_TOP_MM = (24.0, 30.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class SeriesPlan:
    """One series as it is delivered.

    Attributes:
        number: SeriesNumber.
        description: SeriesDescription.
        what: what is imaged: ``"plain"``, ``"contrast"``, ``"chest"``, ``"neck"``; or what else it is:
            ``"localizer"``, ``"picture"``, ``"dose_sr"``, ``"mr"``.
        stack: its slices; None where it has none.
        code: how an import should end with it, a code of the inventory.
        why: the same in words.
        image_type: ImageType.
        defect: what is done to its files: ``""``, ``"twice"``, ``"copied"`` (once more under new identifiers),
            ``"truncated"``, ``"gap"``, ``"one_missing"``, ``"no_rescale"``.
    """

    number: int
    description: str
    what: str
    code: str
    why: str
    stack: Stack | None = None
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    defect: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class ExamPlan:
    """One exam: its date, description, where the patient's origin lies in the scanner (RAS mm), its series."""

    date: datetime.date
    description: str
    origin_ras_mm: tuple[float, float, float]
    series: tuple[SeriesPlan, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class HospitalPlan:
    """One patient: number (from 0), key of random numbers, intended plaque volume, scanner, exams."""

    number: int
    key: tuple[int, int]
    plaque_volume_mm3: float
    manufacturer: str
    exams: tuple[ExamPlan, ...]

    @property
    def name(self) -> str:
        """Such as ``"0007"``."""
        return f"{self.number + 1:04d}"


def plan_hospital_patient(seed: int, number: int, matrix: int) -> HospitalPlan:
    """Decide everything about patient `number` (from 0) but how the files are laid out."""
    rng = np.random.default_rng([seed, number, 7])
    trouble = TROUBLES[number % len(TROUBLES)]
    protocol = _PROTOCOLS[(number + number // len(TROUBLES)) % len(_PROTOCOLS)]
    manufacturer = str(rng.choice([name for name, kernels in KERNELS.items() if kernels[-1].kind == "sharp"]))
    volume = float(np.clip(np.exp(rng.normal(np.log(100.0), 0.9)), 5.0, 800.0))
    volume = 0.0 if rng.random() < PLAQUE_FREE else volume
    series = _main_series(protocol, trouble, manufacturer, matrix, rng)
    day = datetime.date(2091, 1, 1) + datetime.timedelta(days=int(rng.integers(2500)))
    exams = [ExamPlan(date=day, description="HEAD", origin_ras_mm=_origin(rng), series=tuple(series))]
    later = day + datetime.timedelta(days=int(rng.integers(20, 400)))
    soft = KERNELS[manufacturer][0]
    if trouble == "follow_up":
        stack = _helical(5.0, 5.0, soft, matrix, rng)
        again = (_localizer(matrix), _whole_head(2, "Head 5.0 follow-up", stack))
        exams.append(ExamPlan(date=later, description="HEAD", origin_ras_mm=_origin(rng), series=again))
    if trouble in ("chest", "neck", "mr"):
        other = _other_exam(trouble, soft, matrix, rng)
        exams.append(ExamPlan(date=later, description=other.description, origin_ras_mm=_origin(rng), series=(other,)))
    return HospitalPlan(
        number=number, key=(seed, number), plaque_volume_mm3=volume, manufacturer=manufacturer, exams=tuple(exams)
    )


def _origin(rng: np.random.Generator) -> tuple[float, float, float]:
    x, y, z = np.round(rng.uniform((-8, -8, -600), (8, 8, 600)), 1)
    return float(x), float(y), float(z)


def _main_series(
    protocol: str, trouble: str, manufacturer: str, matrix: int, rng: np.random.Generator
) -> list[SeriesPlan]:
    soft, sharp = KERNELS[manufacturer][0], KERNELS[manufacturer][-1]
    series = [_localizer(matrix)]
    if protocol == "helical":
        thickness = float(rng.choice((1.0, 1.25, 1.5, 2.0)))
        thin = _helical(thickness, max(1.0, 0.8 * thickness), soft, matrix, rng)
        series.append(_whole_head(2, f"Head {thickness:g} {soft.name}", thin))
        series.append(_whole_head(3, f"Head 5.0 {soft.name}", _helical(5.0, 5.0, soft, matrix, rng)))
        series.append(_whole_head(4, f"Bone {sharp.name}", _helical(2.0, 2.0, sharp, matrix, rng)))
        series.append(
            SeriesPlan(
                number=5,
                description="Head 3.0 COR",
                what="plain",
                stack=_coronal(soft, matrix),
                image_type=("DERIVED", "SECONDARY", "REFORMATTED", "MPR"),
                code="reformat",
                why="coronal reformat of the thin series",
            )
        )
    else:
        series += _sequential(protocol, soft, matrix, rng)
    series += _troubled(trouble, soft, matrix, rng)
    series.append(_picture(900, "Dose Report", "dose_report", "dose report as a picture"))
    if rng.random() < 0.5:
        series.append(
            SeriesPlan(
                number=901,
                description="Radiation Dose Record",
                what="dose_sr",
                code="dose_report",
                why="dose report as structured report",
            )
        )
    if trouble == "screen" or rng.random() < 0.3:
        series.append(_picture(902, "Exam Summary", "exam_summary", "summary of the exam as a picture"))
    return series


def _troubled(trouble: str, soft: Kernel, matrix: int, rng: np.random.Generator) -> list[SeriesPlan]:
    """The series that a trouble adds to the main exam."""
    stack = _helical(5.0, 5.0, soft, matrix, rng)
    if trouble == "contrast":
        named = SeriesPlan(
            number=20, description="Head CE", what="contrast", code="contrast", why="contrast given", stack=stack
        )
        thin = replace(named, number=21, description="CTA", stack=_helical(1.5, 1.5, soft, matrix, rng))
        return [named, thin]
    if trouble == "twice":
        twice = _whole_head(20, "Head 5.0 sent twice", stack, "twice", why="every file is there twice")
        copy = SeriesPlan(
            number=21,
            description="Head 5.0 sent twice",
            what="plain",
            code="duplicate",
            why="the images of series 20 under other identifiers",
            stack=stack,
            defect="copied",
        )
        return [twice, copy]
    if trouble == "one_missing":
        return [_whole_head(20, "Head 5.0 gap", stack, trouble, why="one slice is missing and is interpolated")]
    broken = {
        "truncated": ("unreadable", "a file is cut off"),
        "gap": ("geometry", "slices in the middle are missing"),
        "no_rescale": ("not_hu", "RescaleSlope and RescaleIntercept are missing"),
    }
    if trouble in broken:
        code, why = broken[trouble]
        plan = SeriesPlan(
            number=20, description="Head 5.0", what="plain", code=code, why=why, stack=stack, defect=trouble
        )
        return [plan]
    if trouble == "few_slices":
        middle = len(stack.centers_mm) // 2
        return [
            SeriesPlan(
                number=20 + n,
                description="Head test slices",
                what="plain",
                code="too_few_slices",
                why=f"{n} slices",
                stack=_part(stack, slice(middle, middle + n)),
            )
            for n in (1, 2)
        ]
    if trouble == "screen":
        return [_picture(22, "Screen Save", "secondary_capture", "picture of a screen")]
    return []


def _whole_head(number: int, description: str, stack: Stack, defect: str = "", why: str = "head CT") -> SeriesPlan:
    return SeriesPlan(
        number=number, description=description, what="plain", code="ok", why=why, stack=stack, defect=defect
    )


def _localizer(matrix: int) -> SeriesPlan:
    centers = np.array([(0.0, -20.0, 0.0)])
    stack = Stack(
        centers_mm=centers,
        thicknesses_mm=np.array([400.0]),
        turn_deg=90.0,
        matrix=matrix,
        pixel_mm=_pixel(280.0, matrix),
        kernel=Kernel(name="T1", kind="soft", fwhm_mm=1.5),
    )
    return SeriesPlan(
        number=1,
        description="Scout",
        what="localizer",
        stack=stack,
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        code="localizer",
        why="localizer",
    )


def _picture(number: int, description: str, code: str, why: str) -> SeriesPlan:
    return SeriesPlan(
        number=number,
        description=description,
        what="picture",
        image_type=("DERIVED", "SECONDARY", "OTHER"),
        code=code,
        why=why,
    )


def _other_exam(trouble: str, soft: Kernel, matrix: int, rng: np.random.Generator) -> SeriesPlan:
    """The one series of an exam of another body part, or by another modality."""
    if trouble == "mr":
        stack = _stack(np.arange(-10.0, 41.0, 5.0), 5.0, 0.0, soft, matrix, rng)
        return SeriesPlan(
            number=2, description="T1 TSE TRA", what="mr", stack=stack, code="not_ct", why="magnetic resonance"
        )
    reach, field = (100.0, 380.0) if trouble == "chest" else (60.0, 200.0)
    stack = _stack(np.arange(-reach, reach + 1, 5.0), 5.0, 0.0, soft, matrix, rng, field)
    centers = stack.centers_mm * (1, 0, 1)
    name = trouble.upper()
    return SeriesPlan(
        number=2,
        description=name,
        what=trouble,
        stack=replace(stack, centers_mm=centers),
        code="not_head",
        why=f"a {trouble}",
    )


def _helical(thickness_mm: float, step_mm: float, kernel: Kernel, matrix: int, rng: np.random.Generator) -> Stack:
    bottom = float(rng.uniform(*_BOTTOM_MM))
    return _stack(np.arange(bottom, _TOP_MM, step_mm), thickness_mm, 0.0, kernel, matrix, rng)


def _coronal(kernel: Kernel, matrix: int) -> Stack:
    y = np.arange(80.0, -115.0, -4.0)
    return Stack(
        centers_mm=np.stack([np.zeros_like(y), y, np.full_like(y, 40.0)], axis=1),
        thicknesses_mm=np.full(len(y), 3.0),
        turn_deg=90.0,
        matrix=matrix,
        pixel_mm=_pixel(FIELD_MM, matrix),
        kernel=kernel,
    )


def _sequential(protocol: str, kernel: Kernel, matrix: int, rng: np.random.Generator) -> list[SeriesPlan]:
    """Slices that step along the table while the gantry is tilted, as one series or two."""
    tilt = round(float(rng.choice((1, 1, 1, -1)) * rng.uniform(8, 20)), 1)
    bottom, top = float(rng.uniform(*_BOTTOM_MM)), float(rng.uniform(*_BASE_TOP_MM))
    slope = 1 / np.cos(np.deg2rad(tilt))  # slices of thickness t touch where they step by t / cos(tilt)
    thin, thick = (5.0, 5.0) if protocol == "tilted" else (float(rng.choice((3.0, 4.0))), float(rng.choice((7.0, 8.0))))
    base = np.arange(bottom, top, thin * slope)
    meet = (thin + thick) / 2 * slope
    if protocol == "two_thicknesses" and rng.random() < 0.5:
        meet = 1.14  # as one real scan has it: the first thick slice lies within the last thin ones
    vault = base[-1] + meet + thick * slope * np.arange(int((_TOP_MM - base[-1] - meet) / (thick * slope)) + 1)
    low, high = (_stack(z, t, tilt, kernel, matrix, rng) for z, t in ((base, thin), (vault, thick)))
    if protocol != "two_series":
        both = replace(
            low,
            centers_mm=np.concatenate([low.centers_mm, high.centers_mm]),
            thicknesses_mm=np.concatenate([low.thicknesses_mm, high.thicknesses_mm]),
        )
        return [_whole_head(2, "Head sequential", both)]
    return [
        SeriesPlan(number=n, description=f"Head {part}", what="plain", code="joined", why=f"{part} alone", stack=stack)
        for n, part, stack in ((2, "base", low), (3, "vault", replace(high, dose_noise=low.dose_noise)))
    ]


def _stack(
    z_mm: NDArray[np.float64],
    thickness_mm: float,
    turn_deg: float,
    kernel: Kernel,
    matrix: int,
    rng: np.random.Generator,
    field_mm: float = FIELD_MM,
) -> Stack:
    """Slices one above the other at heights `[N]` along the table."""
    return Stack(
        centers_mm=np.stack([np.zeros_like(z_mm), np.full_like(z_mm, -20.0), z_mm], axis=1),
        thicknesses_mm=np.full(len(z_mm), thickness_mm),
        turn_deg=turn_deg,
        matrix=matrix,
        pixel_mm=_pixel(field_mm, matrix),
        kernel=kernel,
        dose_noise=float(np.clip(np.exp(rng.normal(0, 0.2)), 0.7, 1.6)),
    )


def _part(stack: Stack, which: slice) -> Stack:
    return replace(stack, centers_mm=stack.centers_mm[which], thicknesses_mm=stack.thicknesses_mm[which])


def _pixel(field_mm: float, matrix: int) -> float:
    return round(field_mm / matrix, 6)
