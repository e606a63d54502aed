"""`iac import`: an export becomes an inventory of all that is in it and a cohort of what can be used.

Codes and order depend on the salt and on what the files hold, never on their names, folders or order, nor on who read
them: the same export, shuffled, gives the same output byte for byte. What identifies anybody stays in the private
folder.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data_modules.errors import UserError
from data_modules.files import remove_leftovers
from data_modules.guarded import GuardedPool, Limits
from data_modules.intake import codes
from data_modules.intake.exams import FoundSeries, exam_of
from data_modules.intake.headers import FOREIGN
from data_modules.intake.ids import PATIENT, SERIES, Codes, private_folder, read_salt
from data_modules.intake.index import Index, IndexedFile
from data_modules.intake.planning import TASKS, Runner, read_all
from data_modules.intake.reading import UNPACKED, bring_up_to_date
from data_modules.intake.running import results
from data_modules.intake.tables import (
    COHORT,
    FILES,
    IDS,
    cohort_table,
    has_image,
    mark_duplicates,
    proposals,
    write_private,
    write_tables,
)
from data_modules.intake.tasks import IMAGES
from data_modules.intake.walk import missing_of_index

_OWN_FILE = re.compile(rf"{SERIES}[0-9a-f]{{12}}\.(nii\.gz|json)")


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How an export is imported.

    Attributes:
        source: folder of DICOM files in any layout, its DICOMDIR, or an archive.
        out: folder of the tables and images; what an earlier import left is used.
        private: folder for salt and lists; None: beside the output, named as it is and `_private`.
        template: CT template to find the region of interest by; None: it is not looked for.
        allow_contrast: whether series with contrast are accepted.
        every: whether the cohort holds all accepted series instead of the best of each examination.
        workers: processes.
        limits: of reading one series.
        scheduler: address of a dask scheduler whose workers read the series; empty: processes of this machine.
        unpacked_gb: that archives may hold in all.
    """

    source: Path
    out: Path
    private: Path | None
    template: Path | None
    allow_contrast: bool
    every: bool
    workers: int
    limits: Limits
    scheduler: str
    unpacked_gb: float


@dataclass(frozen=True)
class Imported:
    """What an import has found.

    Attributes:
        codes: how many series have each code.
        n_ready: images, of which the cohort holds some or all.
        n_failed: series that should have been read and could not be.
        n_warned: series with warnings.
        n_cohort: rows of the cohort.
        n_foreign: files that are no DICOM.
        private: folder of salt and lists.
        remarks: what to tell beside.
    """

    codes: dict[str, int]
    n_ready: int
    n_failed: int
    n_warned: int
    n_cohort: int
    n_foreign: int
    private: Path
    remarks: tuple[str, ...]


def import_dicom(settings: ImportSettings) -> Imported:
    """Import an export; an interrupted import goes on where it was.

    Raises:
        UserError: places that cannot be used, a source without a file, another import that runs.
    """
    source, out = settings.source, settings.out
    private = settings.private or out.with_name(f"{out.name}_private")
    _check_places(source, out, private)
    ids = read_salt(private_folder(private), may_make=not (out / TASKS).exists())
    lock = FileLock(private / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{out}: another import is writing it; wait until it has ended") from None
    with lock, Index(private) as index, GuardedPool(settings.workers, settings.limits) as pool:
        for folder in (out, out / IMAGES, out / TASKS):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        bring_up_to_date(index, source, private, pool, settings.unpacked_gb)
        if not index.count():
            raise UserError(f"{source}: no file at all. Expected DICOM files, in any layout.")
        imported = from_index(index, ids, settings, private, partial(results, pool=pool, scheduler=settings.scheduler))
        shutil.rmtree(private / UNPACKED, ignore_errors=True)
    return imported


def from_index(index: Index, ids: Codes, settings: ImportSettings, private: Path, runner: Runner) -> Imported:
    """All that follows once every header is in the index: series, tasks, tables.

    Args:
        index: up to date.
        ids: makes codes.
        settings: of the import.
        private: folder for the lists that lead back.
        runner: reads series.
    """
    series, raw = _inventory(index, ids, settings)
    known = read_all(index, ids, series, settings.out, settings.template, runner)
    return _write(index, series, raw, known, private, settings)


def _check_places(source: Path, out: Path, private: Path) -> None:
    """Refuses output within the source, the private folder within either, and folders of others."""
    if not source.exists():
        raise UserError(f"{source}: no such folder. Expected DICOM in any layout, its DICOMDIR, or an archive.")
    whole = source.resolve() if source.is_dir() else source.resolve().parent
    for name, folder in (("output", out.resolve()), ("private folder", private.resolve())):
        if source.is_dir() and folder.is_relative_to(whole):
            raise UserError(f"{folder}: the {name} lies within the export {source}; choose a place outside of it")
    if private.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{private}: the private folder lies within the output; choose a place outside (--private)")
    if out.exists() and any(out.iterdir()) and not (out / TASKS).exists():
        raise UserError(f"{out}: holds files that are not of an import; give a new or empty folder")


def _inventory(index: Index, ids: Codes, settings: ImportSettings) -> tuple[list[FoundSeries], list[tuple[str, ...]]]:
    """All series by their headers, and what their codes stand for."""
    first_dates = index.first_dates()
    found: list[FoundSeries] = []
    raw: list[tuple[str, ...]] = []
    for files in index.exams():
        exam = exam_of(
            files,
            ids,
            first_dates.get(files[0].patient, ""),
            index.sha256,
            allow_contrast=settings.allow_contrast,
            memory_gb=settings.limits.memory_gb,
        )
        found += exam.series
        raw += exam.raw
        index.own(exam.owners)
    found += _damaged(index, ids)
    index.commit()
    found.sort(key=lambda item: (item.patient_id, int(item.days or 0), item.exam_id, item.series_id))
    return found, sorted(set(raw))


def _damaged(index: Index, ids: Codes) -> list[FoundSeries]:
    """A row for each file of which nothing is known but that it should have been read: named by its content."""
    rows: dict[str, FoundSeries] = {}
    for file in list(index.damaged()):
        content = _content(index, file)
        code = ids.code(SERIES, "file", content)
        row = rows.setdefault(
            code,
            FoundSeries(
                series_id=code,
                patient_id=ids.code(PATIENT, "of file", content),
                exam_id="",
                days="",
                code=file.code,
                found=file.found,
            ),
        )
        row.n_files += 1
        index.own([(file.id, code, file.code, "")])
    return list(rows.values())


def _content(index: Index, file: IndexedFile) -> str:
    try:
        return index.sha256(file)
    except OSError:  # not even its bytes can be read
        return f"{file.size}"


def _write(
    index: Index,
    series: list[FoundSeries],
    raw: list[tuple[str, ...]],
    known: dict[str, dict[str, Any]],
    private: Path,
    settings: ImportSettings,
) -> Imported:
    """All tables; what an earlier import left of series that are no longer accepted goes."""
    out = settings.out
    mark_duplicates(series, {code: result["digest"] for code, result in known.items() if "digest" in result})
    proposed = proposals(series)
    centers = {code: result.get("roi_center_lps_mm", "") for code, result in known.items()}
    cohort = cohort_table(series, proposed, centers, every=settings.every)
    n_gone = write_tables(out, series, cohort, proposed)
    with_image = {item.series_id for item in series if has_image(item)}
    _remove_stale(out / IMAGES, with_image)
    _remove_stale(out / TASKS, set(known))
    write_private(private / IDS, ("kind", "raw", "code"), raw)
    code_of = {item.series_id: item.code for item in series}
    rows = ((path, owner, code or code_of.get(owner, ""), name) for path, owner, code, name in index.listing())
    write_private(private / FILES, ("path", "series_id", "code", "slice"), rows)
    remarks = [f"{n_gone} rows of the earlier {COHORT} are no longer in it"] if n_gone else []
    if missing := missing_of_index(settings.source):
        remarks.append(f"{missing} files that the DICOMDIR names are not there")
    return Imported(
        codes=dict(sorted(Counter(item.code for item in series if not item.joined).items())),
        n_ready=len(with_image),
        n_failed=sum(item.code in codes.FAILED for item in series),
        n_warned=sum(bool(item.warnings) for item in series if has_image(item)),
        n_cohort=len(cohort),
        n_foreign=index.count(FOREIGN),
        private=private,
        remarks=tuple(remarks),
    )


def _remove_stale(folder: Path, wanted: set[str]) -> None:
    for path in folder.iterdir():
        if _OWN_FILE.fullmatch(path.name) and path.name.split(".")[0] not in wanted:
            path.unlink()
