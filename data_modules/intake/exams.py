"""From the files of one examination to its series: what belongs together, what each is, and what it is called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from data_modules.intake import codes
from data_modules.intake.cells import number_text, plain_words
from data_modules.intake.facts import ImageFacts, image_facts
from data_modules.intake.headers import SLICE
from data_modules.intake.ids import EXAM, PATIENT, SERIES, Codes
from data_modules.intake.index import IndexedFile, other_facts
from data_modules.intake.joining import parts_of_one_scan
from data_modules.intake.kinds import has_contrast, kind_of_stack
from data_modules.scan.dicom_groups import group

_BURNED_IN = "text is burned into the image (BurnedInAnnotation): look for names before it is shown to anybody"
_BYTES_A_VOXEL = 8  # of reading: stored values, HU, and one more copy
_JOINABLE = (codes.OK, codes.TOO_FEW_SLICES)


@dataclass(kw_only=True)
class FoundSeries:
    """A series as its headers have it, and later as it was read.

    Attributes:
        series_id: its code; of a joined one a code of its own.
        patient_id: code.
        exam_id: code.
        days: since the patient's first examination; empty where a date is missing.
        code: see `codes`.
        found: details of the code.
        n_files: that belong to it.
        modality: as in the header.
        facts: what else the inventory tells, by column.
        parts: of a joined series the codes of both.
        joined: of a part the code of the whole.
        order: by which the first of several alike is known, raw and never written.
        warnings: what a reader should know.
    """

    series_id: str
    patient_id: str
    exam_id: str
    days: str
    code: str
    found: str = ""
    n_files: int = 0
    modality: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    joined: str = ""
    order: tuple[int, str] = (0, "")
    warnings: list[str] = field(default_factory=list)


NewSeries = Callable[..., FoundSeries]
"""Makes a series of an examination from what else is known of it."""


@dataclass(frozen=True)
class Exam:
    """What became of the files of one examination.

    Attributes:
        series: found.
        raw: (kind, identifier, code) of patient, examination and series, for the private list.
        owners: (file, series, code, name among the slices) of each file.
    """

    series: list[FoundSeries]
    raw: list[tuple[str, str, str]]
    owners: list[tuple[int, str, str, str]]


def exam_of(
    files: Sequence[IndexedFile],
    ids: Codes,
    first_date: str,
    digest: Callable[[IndexedFile], str],
    *,
    allow_contrast: bool,
    memory_gb: float,
) -> Exam:
    """The series of one examination; the same whatever its files are called and in which order they come.

    Args:
        files: of one patient and one StudyInstanceUID.
        ids: makes codes.
        first_date: of the patient's first examination, eight digits; empty where unknown.
        digest: hash of a file's content, asked for where files claim to be the same image.
        allow_contrast: whether contrast is no reason to reject.
        memory_gb: that reading a series may take.
    """
    patient, study = files[0].patient, files[0].study
    known = min((file.date for file in files if file.date), default="")
    patient_id, exam_id = ids.code(PATIENT, patient), ids.code(EXAM, patient, study)
    days = _days(first_date, known) if first_date and known else ""
    new: NewSeries = partial(FoundSeries, patient_id=patient_id, exam_id=exam_id, days=days)
    exam = Exam([], [("patient", patient, patient_id), ("exam", study, exam_id)], [])
    kept, copies = _without_copies([file for file in files if file.kind == SLICE], digest)
    images = _in_order(kept)
    stacks: list[tuple[FoundSeries, list[ImageFacts]]] = []
    for raw, stack, single in _named(images):
        code, found = kind_of_stack(stack, allow_contrast=allow_contrast)
        series = new(series_id=ids.code(SERIES, *raw), code=code, found=found, modality="CT", order=_order(stack, raw))
        series.facts = _header_facts(stack)
        if any(image.burned_in for image in stack):
            series.warnings.append(_BURNED_IN)
        if single:
            series.warnings.append(f"{len(single)} single images with a geometry of their own left out")
            series.n_files += len(single)
            exam.owners.extend((image.file, series.series_id, "", "") for image in single)
        exam.raw.append(("series", "/".join(raw), series.series_id))
        stacks.append((series, stack))
    _join(stacks, exam, ids, new, allow_contrast)
    for series, stack in stacks:
        _refuse_large(series, stack, memory_gb)
        series.n_files += len(stack)
        exam.owners.extend((image.file, series.series_id, "", f"{k:05d}.dcm") for k, image in enumerate(stack, start=1))
        exam.series.append(series)
    _add_others([file for file in files if file.kind != SLICE], exam, stacks, ids, new)
    _add_copies(copies, exam, stacks)
    return exam


def _days(first: str, this: str) -> str:
    try:
        return str((date.fromisoformat(this) - date.fromisoformat(first)).days)
    except ValueError:  # the 31st of February
        return ""


def _without_copies(
    files: Sequence[IndexedFile], digest: Callable[[IndexedFile], str]
) -> tuple[list[tuple[str, IndexedFile]], list[IndexedFile]]:
    """Each image once, with the hash of its content where another claims to be the same, and the copies."""
    by_name: defaultdict[tuple[str, str], list[IndexedFile]] = defaultdict(list)
    for file in files:
        by_name[file.series, file.instance].append(file)
    kept, copies = [], []
    for same in by_name.values():
        if len(same) == 1:
            kept.append(("", same[0]))
            continue
        by_content: dict[str, IndexedFile] = {}
        for file in same:
            content = digest(file)
            if content in by_content:
                copies.append(file)
            else:
                by_content[content] = file
        kept.extend(by_content.items())
    return kept, copies


def _in_order(kept: Sequence[tuple[str, IndexedFile]]) -> list[ImageFacts]:
    """Slices in an order that depends on what they hold alone; their paths are the places in it."""
    found = [(image_facts(file.id, file.series, file.instance, file.facts), file.size, sha) for sha, file in kept]
    found.sort(
        key=lambda f: (f[0].slice.series_number, f[0].series_uid, f[0].slice.instance, f[0].instance_uid, *f[1:])
    )
    return [replace(image, slice=replace(image.slice, path=Path(f"{k:07d}"))) for k, (image, _, _) in enumerate(found)]


def _named(
    images: Sequence[ImageFacts],
) -> list[tuple[tuple[str, ...], list[ImageFacts], list[ImageFacts]]]:
    """The stacks that slices make, each with what names it, and single images that are left out beside it.

    The largest stack of a SeriesInstanceUID is named by that alone; others by it and their first SOPInstanceUID.
    """
    by_place = {image.slice.path: image for image in images}
    grouped = [[by_place[s.path] for s in stack] for stack in group([image.slice for image in images])]
    by_uid: defaultdict[str, list[list[ImageFacts]]] = defaultdict(list)
    for stack in grouped:
        by_uid[min(image.series_uid for image in stack)].append(stack)
    named: list[tuple[tuple[str, ...], list[ImageFacts], list[ImageFacts]]] = []
    for uid, stacks in by_uid.items():
        whole = [stack for stack in stacks if len(stack) > 1]
        single = [stack[0] for stack in stacks if len(stack) == 1]
        if not whole:
            whole, single = [single], []
        whole.sort(key=lambda stack: (-len(stack), min(image.instance_uid for image in stack)))
        named.append(((uid,), whole[0], single))
        named.extend(((uid, min(image.instance_uid for image in stack)), stack, []) for stack in whole[1:])
    return named


def _order(stack: Sequence[ImageFacts], raw: tuple[str, ...]) -> tuple[int, str]:
    return stack[0].slice.series_number, "/".join(raw)


def _header_facts(stack: Sequence[ImageFacts]) -> dict[str, str]:
    """What headers tell of slices, by column of the inventory."""
    slices = [image.slice for image in stack]
    first = slices[0]
    normal = np.cross(first.x_direction, first.y_direction)
    height = np.unique((np.array([s.position for s in slices]) @ normal).round(2))
    thickness = float(np.nanmedian([s.thickness_mm for s in slices])) if _any_thickness(stack) else float("nan")
    step = float(np.median(np.diff(height))) if len(height) > 1 else thickness
    covered = float(np.ptp(height)) + np.nan_to_num(thickness)
    return {
        "manufacturer": plain_words(first.manufacturer),
        "kernel": plain_words(first.kernel),
        "slice_thickness_mm": number_text(thickness),
        "spacing_x_mm": number_text(first.pixel_mm[0]),
        "spacing_y_mm": number_text(first.pixel_mm[1]),
        "spacing_z_mm": number_text(step),
        "n_slices": str(len(height)),
        "coverage_mm": number_text(covered, 1),
        "gantry_tilt_deg": number_text(first.tilt_deg if first.tilt_deg is not None else float("nan"), 2),
        "contrast": "yes" if has_contrast(stack) else "no",
    }


def _any_thickness(stack: Sequence[ImageFacts]) -> bool:
    return any(np.isfinite(image.slice.thickness_mm) for image in stack)


def _join(
    stacks: list[tuple[FoundSeries, list[ImageFacts]]],
    exam: Exam,
    ids: Codes,
    new: NewSeries,
    allow_contrast: bool,
) -> None:
    """Adds a series for each pair that makes one scan; its parts say so."""
    open_ = [k for k, (series, stack) in enumerate(stacks) if series.code in _JOINABLE and len(stack) > 1]
    for lower, upper in parts_of_one_scan([stacks[k][1] for k in open_]):
        (one, of_one), (two, of_two) = stacks[open_[lower]], stacks[open_[upper]]
        images = [*of_one, *of_two]
        if kind_of_stack(images, allow_contrast=allow_contrast)[0] != codes.OK:
            continue
        raw = ("joined", one.order[1], two.order[1])
        whole = new(
            series_id=ids.code(SERIES, *raw),
            code=codes.JOINED,
            found=f"skull base {one.series_id} and vault {two.series_id}",
            modality="CT",
            parts=(one.series_id, two.series_id),
            order=min(one.order, two.order),
            n_files=len(images),
            facts=_header_facts(images),
        )
        exam.series.append(whole)
        one.joined = two.joined = whole.series_id


def _refuse_large(series: FoundSeries, stack: Sequence[ImageFacts], memory_gb: float) -> None:
    """A series whose headers claim more voxels than fit is not read at all."""
    claimed_gb = sum(float(np.prod(image.slice.shape)) for image in stack) * _BYTES_A_VOXEL / 2**30
    if series.code == codes.OK and claimed_gb > memory_gb:
        series.code = codes.TOO_LARGE
        series.found = f"its headers claim {claimed_gb:,.1f} GB of reading, the limit is {memory_gb:g} GB"


def _add_others(
    files: Sequence[IndexedFile],
    exam: Exam,
    stacks: Sequence[tuple[FoundSeries, list[ImageFacts]]],
    ids: Codes,
    new: NewSeries,
) -> None:
    """Files that are no slices: beside the slices of their series left out, else a series of their own."""
    main = {stack[0].series_uid: series for series, stack in reversed(stacks)}
    by_series: defaultdict[tuple[str, ...], list[IndexedFile]] = defaultdict(list)
    for file in files:
        by_series[(file.series,) if file.series else ("no series", file.study, file.code)].append(file)
    for raw, group_ in sorted(by_series.items()):
        counts = Counter((file.code, file.found) for file in group_)
        (code, found), _ = min(counts.items(), key=lambda item: (-item[1], item[0]))
        series = main.get(raw[0])
        if series is not None:
            series.warnings += [f"{n} files left out: {what}" for (_, what), n in sorted(counts.items())]
        else:
            known = [other_facts(file) for file in group_]
            series = new(
                series_id=ids.code(SERIES, *raw),
                code=code,
                found=found,
                modality=min(plain_words(facts.get("modality", "")) for facts in known),
                facts={"manufacturer": min(plain_words(facts.get("manufacturer", "")) for facts in known)},
                order=(0, "/".join(raw)),
            )
            exam.series.append(series)
            if raw == (raw[0],):
                exam.raw.append(("series", raw[0], series.series_id))
        series.n_files += len(group_)
        exam.owners.extend((file.id, series.series_id, file.code, "") for file in group_)


def _add_copies(
    copies: Sequence[IndexedFile], exam: Exam, stacks: Sequence[tuple[FoundSeries, list[ImageFacts]]]
) -> None:
    """Files that are an image once more: left out, and told of."""
    by_file = {image.series_uid: series for series, stack in reversed(stacks) for image in stack}
    for series_uid, n in sorted(Counter(file.series for file in copies).items()):
        by_file[series_uid].warnings.append(f"{n} files left out: copies of others of the series")
        by_file[series_uid].n_files += n
    exam.owners.extend((file.id, by_file[file.series].series_id, codes.DUPLICATE, "") for file in copies)
