"""Prepared volumes: each series cropped to its region of interest, on disk as memory-mapped arrays.

`<prepared_dir>/<fingerprint of the settings>/<series_id>/` holds

- `hu.npy`, `occupancy.npy`: int16 HU and uint8 occupancy (255 = full) on the common grid, for training;
- `native_hu.npy`, `native_label.npy`: int16 HU and bool mask of the region on the scan's own voxels, for evaluation;
- `components.npy`: int32 `[n, 4]`, the lesion components of the occupancy, for sampling;
- `meta.json`: both grids, slice thickness, and fingerprints of the sources.

Other settings lead to another folder. A series is prepared again when the size or time of one of its files changes;
otherwise the volumes are used as they are, without opening a scan. A series appears whole or not at all: it is
written to a temporary folder, which is then renamed. Series that fail are listed in `failed.csv`, what is remarked on
the others in `warnings.csv`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from data_modules.cohort.look import GUARDED, RecordedLook, require_look
from data_modules.cohort.series import known_thickness_mm, read_series, table_remarks
from data_modules.cohort.table import Cohort, Series, read_cohort
from data_modules.config import DataConfig, GridConfig
from data_modules.errors import UserError
from data_modules.prepare.common_grid import on_common_grid, surroundings, to_int16
from data_modules.prepare.roi import region_of_interest
from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.resampling import resample_occupancy
from data_modules.scan.scan import read_mask
from data_modules.scan.sidecar import sidecar_path
from data_modules.scan.slices import THICKNESS_UNKNOWN

PREPARATION_VERSION = 1
"""Raised whenever the code prepares volumes differently, so that old ones are not taken for new ones."""

WARNINGS_FILE = "warnings.csv"
"""Beside the prepared series: what was remarked on them."""

_NEW, _OLD = ".new-", ".old-"  # no series id begins with a dot
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PreparedSeries:
    """One prepared series. Arrays are opened when asked for, so that it travels cheaply to worker processes.

    Attributes:
        series: its row of the cohort table.
        directory: where its arrays lie.
        grid: the common grid, of `hu` and `occupancy`.
        native_grid: the region of interest on the scan's own voxels, of `native_hu` and `native_label`.
        slice_thickness_mm: how thick a slab a slice of the region averages: the one that everything goes by, whatever
            the table says.
        slice_axis: array axis of the native grid across slices.
        source_sha256: content of the files it was made from.
        warnings: remarks of reading and preparing, and where the table contradicts the file; readable.
    """

    series: Series
    directory: Path
    grid: Grid
    native_grid: Grid
    slice_thickness_mm: float
    slice_axis: int
    source_sha256: str
    warnings: tuple[str, ...] = ()

    @cached_property
    def components(self) -> NDArray[np.int32]:
        """`[n, 4]`: lesion component (from 1), x, y, z of each voxel of the common grid with occupancy above 0."""
        array: NDArray[np.int32] = np.load(self.directory / "components.npy")
        return array

    def hu(self) -> NDArray[np.int16]:
        """`[X, Y, Z]` HU on the common grid, memory-mapped."""
        return _open(self.directory / "hu.npy", np.int16, self.grid)

    def occupancy(self) -> NDArray[np.uint8] | None:
        """`[X, Y, Z]` covered share of each voxel of the common grid (255 = full), memory-mapped; None: no label."""
        return _open(self.directory / "occupancy.npy", np.uint8, self.grid) if self.series.label else None

    def native_hu(self) -> NDArray[np.int16]:
        """`[X, Y, Z]` HU of the region on the native grid, memory-mapped."""
        return _open(self.directory / "native_hu.npy", np.int16, self.native_grid)

    def native_label(self) -> NDArray[np.bool_] | None:
        """`[X, Y, Z]` mask of the region on the native grid, memory-mapped; None: no label."""
        return _open(self.directory / "native_label.npy", np.bool_, self.native_grid) if self.series.label else None


@dataclass(frozen=True, eq=False)
class PreparedStore:
    """Prepared series of a cohort, in the order of its table.

    Attributes:
        directory: folder of the settings they were prepared with.
        fingerprint: of the settings and of every series' id, split and source content; the same on every machine.
        cohort: the whole table.
        series: what could be prepared; without a look on record, the test split is left out.
        failed: reason by series id, of what could not.
        look: at the test split, that it was opened for.
        n_withheld: series of the test split that were left out.
        warnings: remarks by series id, of those that carry any (of the test split too, as for `failed`).
    """

    directory: Path
    fingerprint: str
    cohort: Cohort
    series: tuple[PreparedSeries, ...]
    failed: dict[str, str] = field(default_factory=dict)
    look: RecordedLook | None = None
    n_withheld: int = 0
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def split(self, *names: str) -> tuple[PreparedSeries, ...]:
        """The prepared series of the named splits.

        Raises:
            TestSetGuardError: for the test split, unless the store was opened for a look on record.
        """
        require_look(names, self.look, "prepared series")
        return tuple(p for p in self.series if p.series.split in names)


def prepare_cohort(
    config: DataConfig,
    splits: Sequence[str] | None = None,
    *,
    retry_failed: bool = True,
    look: RecordedLook | None = None,
) -> PreparedStore:
    """Prepare what is not prepared yet, and open the store.

    Safe to interrupt and to run in several processes at once: one prepares, the others wait and find it done. A
    folder set as `config.prepared_dir` belongs to one cohort.

    Args:
        config: cohort, grid, folder and number of processes.
        splits: only series of these splits; by default all.
        retry_failed: try again what failed before, even if neither its files nor the settings have changed.
        look: opens the test split, which is prepared like every other but else withheld.

    Raises:
        UserError: when the cohort is not valid, has no series in `splits`, or none of them can be prepared.
    """
    cohort, series = _select(config, splits)
    directory = _store_directory(config, cohort)
    todo = _todo(directory, series, cohort.path.parent, retry_failed)
    if todo:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock"):
            todo = _todo(directory, series, cohort.path.parent, retry_failed)  # another process may have done it
            if todo:
                _prepare_all(directory, todo, cohort, config)
                _write_warnings(directory, cohort)
    store = _open_store(directory, cohort, series, config.grid, look)
    if todo and store.warnings:
        n = len(store.series) + store.n_withheld
        _log.warning("%d of %d series carry warnings; see %s", len(store.warnings), n, directory / WARNINGS_FILE)
    return store


def list_warnings(store: PreparedStore) -> Path:
    """Bring `warnings.csv` up to date, a row a warning, where the table has been changed since; returns its path."""
    path = store.directory / WARNINGS_FILE
    if (path.read_text(encoding="utf-8") if path.exists() else "") != _warnings_text(store.directory, store.cohort):
        with FileLock(store.directory / ".lock"):
            _write_warnings(store.directory, store.cohort)
    return path


def open_store(
    config: DataConfig, splits: Sequence[str] | None = None, look: RecordedLook | None = None
) -> PreparedStore:
    """Open what `prepare_cohort` has prepared with these settings; prepares nothing (for ranks other than the first).

    Raises:
        UserError: when the cohort is not valid, or nothing of it is prepared.
    """
    cohort, series = _select(config, splits)
    return _open_store(_store_directory(config, cohort), cohort, series, config.grid, look)


def _select(config: DataConfig, splits: Sequence[str] | None) -> tuple[Cohort, tuple[Series, ...]]:
    cohort = read_cohort(config.cohort)
    series = cohort.series if splits is None else cohort.split(*splits)
    if not series:
        present = sorted({s.split or "no split" for s in cohort.series})
        raise UserError(
            f"{cohort.path}: no series in {' or '.join(splits or ())}; the table has {', '.join(present)}: "
            "assign splits first"
        )
    return cohort, series


def _store_directory(config: DataConfig, cohort: Cohort) -> Path:
    parent = Path(config.prepared_dir).absolute() if config.prepared_dir else cohort.path.parent / "prepared"
    return parent / _digest(_settings(config.grid))[:12]


def _settings(grid: GridConfig) -> dict[str, Any]:
    """Everything but the scan itself that decides what a prepared volume holds; a template counts by its content."""
    settings: dict[str, Any] = {"preparation_version": PREPARATION_VERSION, **asdict(grid)}
    if grid.template is not None:
        try:
            settings["template"] = hashlib.sha256(Path(grid.template).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"data.grid.template: {grid.template} cannot be read ({error.strerror}); give the path of a NIfTI file "
                "in HU, or null where scans are centred on the region"
            ) from None
    return settings


def _todo(directory: Path, series: Sequence[Series], root: Path, retry_failed: bool) -> list[tuple[Series, str]]:
    """The series that are not ready, with the present state of their files."""
    failed = {} if retry_failed else _read_failed(directory)
    todo = []
    for item in series:
        state = _source_state(item, root)
        meta = _read_meta(directory / item.series_id)
        is_ready = meta is not None and meta["source_state"] == state and not _guessed(meta, item)
        if not is_ready and failed.get(item.series_id, ("", ""))[1] != state:
            todo.append((item, state))
    return todo


def _guessed(meta: dict[str, Any], series: Series) -> bool:
    """Whether a thickness was taken from the spacing though the table knows it, as was done with DICOM once."""
    before = "thickness_from" not in meta and any(w.startswith(THICKNESS_UNKNOWN) for w in meta["warnings"])
    return before and series.slice_thickness_mm is not None


def _prepare_all(directory: Path, todo: list[tuple[Series, str]], cohort: Cohort, config: DataConfig) -> None:
    """Prepare series in `config.prepare_workers` processes and keep `failed.csv`; only under the store's lock."""
    for prefix in (_NEW, _OLD):  # left by an interrupted preparation: nobody else holds the lock
        for stale in directory.glob(f"{prefix}*"):
            shutil.rmtree(stale)
    _write_text(directory / "settings.json", json.dumps(_settings(config.grid), indent=2) + "\n")
    known = {item.series_id for item in cohort.series}
    failed = {name: entry for name, entry in _read_failed(directory).items() if name in known}
    jobs = [(item, state, config.grid, directory) for item, state in todo]
    with tqdm(total=len(jobs), desc="preparing", unit="series", disable=None) as progress:
        for item, state, reason in _run(jobs, config.prepare_workers):
            failed.pop(item.series_id, None)
            if reason is not None:
                failed[item.series_id] = reason, state
                _remove(directory, item.series_id)  # made of files that have changed since
            progress.update()
    _write_failed(directory, failed)
    count = sum(item.series_id in failed for item, _ in todo)
    if count:
        _log.warning("%d of %d series could not be prepared; see %s", count, len(todo), directory / "failed.csv")


Job = tuple[Series, str, GridConfig, Path]


def _run(jobs: list[Job], workers: int) -> Iterator[tuple[Series, str, str | None]]:
    """(series, state of its files, reason of failure or None) of each job, as they finish."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            yield job[0], job[1], _prepare_guarded(job)
        return
    context = multiprocessing.get_context("spawn")  # forking a process with threads (torch, ITK) can hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(_prepare_guarded, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                item, state, *_ = futures[future]
                yield item, state, future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that prepares volumes was killed; if it shows no error above, memory ran out: set "
                f"data.prepare_workers below {workers} and run again: what is finished is kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_guarded(job: Job) -> str | None:
    """Prepare one series; the reason instead of an error, for one bad scan among thousands must not stop the rest."""
    try:
        _prepare_series(*job)
    except Exception as error:
        reason = " ".join(str(error).split())
        return reason if isinstance(error, UserError) else f"{type(error).__name__}: {reason}"
    return None


def _prepare_series(series: Series, state: str, grid: GridConfig, directory: Path) -> None:
    """Read, crop and resample one series, and move it to its place once it is whole."""
    scan = read_series(series)
    roi = region_of_interest(scan, grid)
    image = on_common_grid(scan, roi, grid)
    common = image.grid
    arrays: dict[str, NDArray[Any]] = {
        "hu": image.data,
        "native_hu": to_int16(roi.hu),
        "components": np.empty((0, 4), dtype=np.int32),
    }
    warnings = list(roi.warnings)
    if series.label is not None:
        mask = read_mask(series.label, like=scan.grid)
        label = place(mask, roi.grid, fill=0)
        arrays["native_label"] = label.data.astype(bool)
        arrays["occupancy"], arrays["components"] = _soft_label(surroundings(mask, roi.grid, common), common)
        outside = int(np.count_nonzero(mask.data)) - int(np.count_nonzero(label.data))
        if outside:
            warnings.append(f"{outside} labelled voxels lie outside the region of interest")
    meta = {
        "series_id": series.series_id,
        "source_state": state,
        "source_sha256": _source_sha256(series, scan.thickness_from),
        "grid": common.to_dict(),
        "native_grid": roi.grid.to_dict(),
        "slice_thickness_mm": roi.slice_thickness_mm,
        "thickness_from": scan.thickness_from,
        "slice_axis": roi.slice_axis,
        "warnings": warnings,
    }
    temporary = directory / f"{_NEW}{series.series_id}"
    temporary.mkdir()
    try:
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        _write_text(temporary / "meta.json", json.dumps(meta) + "\n")
        _remove(directory, series.series_id)
        os.replace(temporary, directory / series.series_id)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(directory: Path, series_id: str) -> None:
    """Take a prepared series away, at once for readers: it is renamed before its files are deleted one by one."""
    if (directory / series_id).exists():
        os.replace(directory / series_id, directory / f"{_OLD}{series_id}")
        shutil.rmtree(directory / f"{_OLD}{series_id}")


def _soft_label(label: Volume, common: Grid) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Occupancy (255 = full) on the common grid and its 26-connected components `[n, 4]`.

    A lesion so small that all of its occupancy rounds to 0 keeps one voxel of 1/255.
    """
    occupancy = resample_occupancy(label, common).data
    full = np.rint(255 * occupancy).astype(np.uint8)
    neighbours = np.ones((3, 3, 3))
    covered, count = ndimage.label(occupancy > 1e-6, neighbours)
    if count:
        largest = ndimage.maximum_position(occupancy, covered, range(1, count + 1))
        for position in largest:
            full[position] = max(1, full[position])
    components, _ = ndimage.label(full > 0, neighbours)
    voxels = np.argwhere(components)
    return full, np.column_stack([components[tuple(voxels.T)], voxels]).astype(np.int32)


def _open_store(
    directory: Path, cohort: Cohort, series: Sequence[Series], grid: GridConfig, look: RecordedLook | None
) -> PreparedStore:
    prepared = []
    for item in series:
        meta = _read_meta(directory / item.series_id)
        if meta is not None:
            prepared.append(_prepared_series(item, directory / item.series_id, meta))
    missing = {item.series_id for item in series} - {p.series.series_id for p in prepared}
    failed = {name: reason for name, (reason, _) in _read_failed(directory).items() if name in missing}
    if not prepared and failed:
        name, reason = next(iter(failed.items()))
        raise UserError(
            f"none of the {len(series)} series of {cohort.path} could be prepared; all are listed in "
            f"{directory / 'failed.csv'}. The first, {name}: {reason}"
        )
    if not prepared:
        raise UserError(f"{directory}: no series is prepared with these settings yet; prepare the cohort first")
    described = sorted((p.series.series_id, p.series.split, p.source_sha256) for p in prepared)
    warnings = {p.series.series_id: p.warnings for p in prepared if p.warnings}
    shown = tuple(p for p in prepared if p.series.split != GUARDED or (look is not None and look.is_on_record))
    fingerprint = _digest([_settings(grid), described])
    return PreparedStore(directory, fingerprint, cohort, shown, failed, look, len(prepared) - len(shown), warnings)


def _prepared_series(series: Series, directory: Path, meta: dict[str, Any]) -> PreparedSeries:
    native_grid = Grid.from_dict(meta["native_grid"])
    # of the table as it is now, which may be mended without preparing again
    remarks = table_remarks(series, meta["slice_thickness_mm"], native_grid.spacing_mm)
    return PreparedSeries(
        series=series,
        directory=directory,
        grid=Grid.from_dict(meta["grid"]),
        native_grid=native_grid,
        slice_thickness_mm=meta["slice_thickness_mm"],
        slice_axis=meta["slice_axis"],
        source_sha256=meta["source_sha256"],
        warnings=(*meta["warnings"], *remarks),
    )


def _open(path: Path, dtype: type[np.generic], grid: Grid) -> NDArray[Any]:
    """Map a `.npy` file of known type and shape: three times as fast as `np.load`, which parses the header."""
    header = path.stat().st_size - math.prod(grid.shape) * np.dtype(dtype).itemsize
    return np.memmap(path, dtype=dtype, mode="r", offset=header, shape=grid.shape)


def _source_files(series: Series) -> list[Path]:
    """The files that decide a prepared series: image (all of a DICOM folder), its JSON sidecar, and label."""
    if series.image.is_dir():
        files = sorted(path for path in series.image.rglob("*") if path.is_file())
    else:
        sidecar = sidecar_path(series.image)
        files = [series.image, *([sidecar] if sidecar.is_file() else [])]
    return files + ([series.label] if series.label else [])


def _source_state(series: Series, root: Path) -> str:
    """Digest of the names, sizes and times of the source files: cheap, and changed whenever they are written."""
    state: list[Any] = [known_thickness_mm(series), series.extra.get("dicom_series", ""), series.label is not None]
    for path in _source_files(series):
        facts = path.stat()
        state.append([os.path.relpath(path, root), facts.st_size, facts.st_mtime_ns])
    return _digest(state)


def _source_sha256(series: Series, thickness_from: str = "file") -> str:
    """Digest of what the source files hold, wherever they lie."""
    facts: tuple[Any, ...] = (known_thickness_mm(series), series.extra.get("dicom_series", ""))
    if series.image.is_dir() and thickness_from != "file":
        facts = (*facts, thickness_from)
    digest = hashlib.sha256(repr(facts).encode())
    for path in _source_files(series):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _read_meta(directory: Path) -> dict[str, Any] | None:
    """The facts of a prepared series, None where it is not prepared."""
    try:
        meta: dict[str, Any] = json.loads((directory / "meta.json").read_bytes())
    except (OSError, ValueError):
        return None
    return meta


def _read_failed(directory: Path) -> dict[str, tuple[str, str]]:
    """(reason, state of the source files) by series id."""
    try:
        with (directory / "failed.csv").open(encoding="utf-8", newline="") as file:
            return {row["series_id"]: (row["reason"], row["source_state"]) for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}


def _write_warnings(directory: Path, cohort: Cohort) -> None:
    """Keep `warnings.csv`; no file where there is no warning. Only under the store's lock."""
    if text := _warnings_text(directory, cohort):
        _write_text(directory / WARNINGS_FILE, text)
    else:
        (directory / WARNINGS_FILE).unlink(missing_ok=True)


def _warnings_text(directory: Path, cohort: Cohort) -> str:
    """Every warning of every prepared series of the table, as CSV; empty where there is none."""
    rows = []
    for item in sorted(cohort.series, key=lambda item: item.series_id):
        meta = _read_meta(directory / item.series_id)
        if meta is not None:
            found = _prepared_series(item, directory / item.series_id, meta).warnings
            rows += [(item.series_id, warning) for warning in found]
    return _csv_text(("series_id", "warning"), rows) if rows else ""


def _csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()


def _write_failed(directory: Path, failed: dict[str, tuple[str, str]]) -> None:
    path = directory / "failed.csv"
    if not failed:
        path.unlink(missing_ok=True)
        return
    rows = [(name, reason, state) for name, (reason, state) in sorted(failed.items())]
    _write_text(path, _csv_text(("series_id", "reason", "source_state"), rows))


def _write_text(path: Path, text: str) -> None:
    """Write a small file so that it appears whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
