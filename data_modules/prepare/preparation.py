"""Preparing: each series of a cohort cropped to its region of interest and resampled, once.

What a store holds is described in `data_modules.prepare.store`. A series is prepared again when the size or time of
one of its files changes, or its arrays are not those that were written (`facts`); otherwise the volumes are used as
they are, without opening a scan. A series appears whole or not at all. Series that fail are listed in `failed.csv`,
what is remarked on the others in `warnings.csv`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.cohort.look import RecordedLook
from data_modules.cohort.region_hints import age_years, center_lps_mm
from data_modules.cohort.series import read_series
from data_modules.cohort.table import Cohort, Series
from data_modules.config import DataConfig, GridConfig
from data_modules.files import remove_folder, remove_leftovers, replacing_folder, write_json_atomic
from data_modules.prepare.common_grid import on_common_grid, surroundings
from data_modules.prepare.facts import broken_array, read_meta, write_meta
from data_modules.prepare.images import refuse_copies, with_images
from data_modules.prepare.labels import check_label
from data_modules.prepare.listings import (
    FAILED_FILE,
    WARNINGS_FILE,
    read_failed,
    warnings_text,
    write_failed,
    write_warnings,
)
from data_modules.prepare.registration import REGISTRATION_VERSION
from data_modules.prepare.roi import find_region_of_interest, region_facts
from data_modules.prepare.sources import source_sha256, source_state
from data_modules.prepare.store import (
    PreparedStore,
    all_warnings,
    open_prepared,
    preparation_settings,
    select_series,
    store_directory,
)
from data_modules.prepare.templates import BUILT_IN, template_paths
from data_modules.processes import mapped
from data_modules.scan.content import image_digests, thumbnail
from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.hounsfield import to_int16
from data_modules.scan.nifti import mask_remarks, read_mask
from data_modules.scan.resampling import resample_occupancy, resample_peak
from data_modules.scan.slices import THICKNESS_UNKNOWN
from data_modules.system_errors import in_words, place_of

_log = logging.getLogger(__name__)

Job = tuple[Series, str, GridConfig, Path]
"""A series to prepare, the state of its files, the settings, and the store's folder."""


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
    cohort, series = select_series(config, splits)
    directory = store_directory(config, cohort)
    todo = _todo(directory, series, config, retry_failed)
    if todo:
        with place_of("set data.prepared_dir=… to a place where prepared volumes can be written", directory):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / ".lock").touch()
        with FileLock(directory / ".lock"):
            lacking = [item for item, _ in todo]
            todo = _todo(directory, lacking, config, retry_failed)  # another process may have done it
            if todo:
                _prepare_all(directory, todo, cohort, config)
                write_warnings(directory, all_warnings(directory, cohort))
    store = with_images(open_prepared(directory, cohort, series, config.grid, look), config.prepare_workers)
    refuse_copies(store.series, cohort.path)
    if todo and store.warnings:
        n = len(store.series) + store.n_withheld
        _log.warning("%d of %d series carry warnings; see %s", len(store.warnings), n, directory / WARNINGS_FILE)
    return store


def list_warnings(store: PreparedStore) -> Path:
    """Bring `warnings.csv` up to date, a row a warning, where the table has been changed since; returns its path."""
    path = store.directory / WARNINGS_FILE
    rows = all_warnings(store.directory, store.cohort)
    if (path.read_bytes() if path.is_file() else b"") != warnings_text(rows).encode():
        with FileLock(store.directory / ".lock"):
            write_warnings(store.directory, all_warnings(store.directory, store.cohort))
    return path


def _todo(
    directory: Path, series: Sequence[Series], config: DataConfig, retry_failed: bool
) -> list[tuple[Series, str]]:
    """The series that are not ready, with the present state of their files; says which are damaged."""
    failed = {} if retry_failed else read_failed(directory)
    root = Path(config.cohort).absolute().parent

    def look(item: Series) -> tuple[str, bool, str | None]:
        """State of its files, whether they are those that were prepared, and what is wrong with its arrays."""
        state = source_state(item, root)
        meta = read_meta(directory / item.series_id)
        if meta is None or meta["source_state"] != state or _guessed(meta, item) or _other_template(meta, item):
            return state, False, None
        return state, True, broken_array(directory / item.series_id, meta, labelled=item.label is not None)

    todo = []
    with ThreadPoolExecutor(config.prepare_workers) as pool:  # reading and summing go on beside each other
        for item, (state, same, broken) in zip(series, pool.map(look, series), strict=True):
            if broken is not None:
                _log.warning("%s: %s; prepared again", directory / item.series_id, broken)
            if (not same or broken is not None) and failed.get(item.series_id, ("", ""))[1] != state:
                todo.append((item, state))
    return todo


def _guessed(meta: dict[str, Any], series: Series) -> bool:
    """Whether a thickness was taken from the spacing though the table knows it, as was done with DICOM once."""
    before = "thickness_from" not in meta and any(w.startswith(THICKNESS_UNKNOWN) for w in meta["warnings"])
    return before and series.slice_thickness_mm is not None


def _other_template(meta: dict[str, Any], series: Series) -> bool:
    """Whether the region was found with a built-in model of before, or with a template chosen for another age."""
    region = meta.get("region") or {}
    outdated = region.get("template") == BUILT_IN and region["version"] != REGISTRATION_VERSION
    return outdated or ("age_years" in region and region["age_years"] != age_years(series))


def _prepare_all(directory: Path, todo: list[tuple[Series, str]], cohort: Cohort, config: DataConfig) -> None:
    """Prepare series in `config.prepare_workers` processes and keep `failed.csv`; only under the store's lock."""
    remove_leftovers(directory)  # of an interrupted preparation: nobody else holds the lock
    for before in (*directory.glob(".new-*"), *directory.glob(".old-*")):  # as they were called once
        shutil.rmtree(before)
    write_json_atomic(directory / "settings.json", preparation_settings(config.grid))
    known = {item.series_id for item in cohort.series}
    failed = {name: entry for name, entry in read_failed(directory).items() if name in known}
    jobs = [(item, state, config.grid, directory) for item, state in todo]
    workers = config.prepare_workers
    results = mapped(
        _prepare_guarded, jobs, workers, "preparing", "series", in_order=False, setting="data.prepare_workers"
    )
    for (item, state, *_), reason in results:
        failed.pop(item.series_id, None)
        if reason is not None:
            failed[item.series_id] = reason, state
            remove_folder(directory / item.series_id)  # made of files that have changed since
    write_failed(directory, failed)
    n_failed = sum(item.series_id in failed for item, _ in todo)
    if n_failed:
        _log.warning("%d of %d series could not be prepared; see %s", n_failed, len(todo), directory / FAILED_FILE)


def _prepare_guarded(job: Job) -> str | None:
    """Prepare one series; the reason instead of an error, for one bad scan among thousands must not stop the rest."""
    try:
        _prepare_series(*job)
    except Exception as error:
        words = in_words(error, "prepare")
        reason = " ".join((words.kept if words else str(error)).split())
        return reason if words else f"{type(error).__name__}: {reason}"
    return None


def _prepare_series(series: Series, state: str, grid: GridConfig, directory: Path) -> None:
    """Read, crop and resample one series, and move it to its place once it is whole."""
    scan = read_series(series)
    age = age_years(series)
    roi, registration = find_region_of_interest(scan, grid, center_lps_mm(series), age)
    chosen = registration.template if registration and len(template_paths(grid.template)) > 1 else ""
    image = on_common_grid(scan, roi, grid)
    common = image.grid
    native_hu = to_int16(roi.hu)
    arrays: dict[str, NDArray[Any]] = {
        "hu": image.data,
        "peak_hu": resample_peak(Volume(native_hu, roi.grid), common).data,
        "native_hu": native_hu,
        "components": np.empty((0, 4), dtype=np.int32),
    }
    warnings = list(roi.warnings)
    label_mm3 = None
    if series.label is not None:
        mask = read_mask(series.label, like=scan)
        warnings += mask_remarks(series.label, scan)
        label = place(mask, roi.grid, fill=0)
        check_label(label.data.astype(bool), roi.hu, series.label)
        arrays["native_label"] = label.data.astype(bool)
        arrays["occupancy"], arrays["components"] = _soft_label(surroundings(mask, roi.grid, common), common)
        label_mm3 = float(np.count_nonzero(mask.data)) * mask.grid.voxel_volume_mm3
        outside = int(np.count_nonzero(mask.data)) - int(np.count_nonzero(label.data))
        if outside:
            warnings.append(f"{outside} labelled voxels lie outside the region of interest")
    if series.label_2 is not None:  # for evaluation alone, which reads the file: here it is only checked
        second = read_mask(series.label_2, like=scan)
        check_label(place(second, roi.grid, fill=0).data.astype(bool), roi.hu, series.label_2)
        warnings += mask_remarks(series.label_2, scan)
    meta = {
        "series_id": series.series_id,
        "source_state": state,
        "source_sha256": source_sha256(series, scan.thickness_from, chosen),
        "grid": common.to_dict(),
        "native_grid": roi.grid.to_dict(),
        "slice_thickness_mm": roi.slice_thickness_mm,
        "thickness_from": scan.thickness_from,
        "slice_axis": roi.slice_axis,
        "label_volume_mm3": label_mm3,
        "registration_similarity": None if registration is None else registration.similarity,
        "region": region_facts(registration) | ({"age_years": age} if chosen else {}),
        "image": {"digests": image_digests(scan), "thumbnail": thumbnail(image.data)},
        "warnings": warnings,
    }
    with replacing_folder(directory / series.series_id) as folder:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        write_meta(folder, meta)


def _soft_label(label: Volume, common: Grid) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Occupancy (255 = full) on the common grid and its 26-connected components `[n, 4]`.

    A lesion so small that all of its occupancy rounds to 0 keeps one voxel of 1/255.
    """
    occupancy = resample_occupancy(label, common).data
    full = np.rint(255 * occupancy).astype(np.uint8)
    neighbours = np.ones((3, 3, 3))
    covered, n_lesions = ndimage.label(occupancy > 1e-6, neighbours)
    if n_lesions:
        largest = ndimage.maximum_position(occupancy, covered, range(1, n_lesions + 1))
        for position in largest:
            full[position] = max(1, full[position])
    components, _ = ndimage.label(full > 0, neighbours)
    voxels = np.argwhere(components)
    return full, np.column_stack([components[tuple(voxels.T)], voxels]).astype(np.int32)
