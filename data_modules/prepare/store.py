"""Prepared volumes: each series cropped to its region of interest, on disk as memory-mapped arrays.

`<prepared_dir>/<fingerprint of the settings>/<series_id>/` holds

- `hu.npy`, `occupancy.npy`: int16 HU and uint8 occupancy (255 = full) on the common grid, for training;
- `peak_hu.npy`: int16, the largest HU of the native voxels that overlap each voxel of the common grid, for the loss;
- `native_hu.npy`, `native_label.npy`: int16 HU and bool mask of the region on the scan's own voxels, for evaluation;
- `components.npy`: int32 `[n, 4]`, the lesion components of the occupancy, for sampling;
- `meta.json`: both grids, slice thickness, fingerprints of the sources, sizes and sums of the arrays (`facts`).

Other settings lead to another folder. `data_modules.prepare.preparation` makes what is opened here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.cohort.folds import cohort_of
from data_modules.cohort.look import GUARDED, RecordedLook, require_look
from data_modules.cohort.series import table_remarks
from data_modules.cohort.table import Cohort, Series
from data_modules.config import DataConfig, GridConfig
from data_modules.errors import UserError
from data_modules.prepare.facts import read_meta
from data_modules.prepare.listings import FAILED_FILE, read_failed
from data_modules.prepare.named_regions import named_regions
from data_modules.prepare.registration import REGISTRATION_VERSION
from data_modules.prepare.sources import digest
from data_modules.prepare.templates import templates_digest
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.resampling import resample_peak

PREPARATION_VERSION = 1
"""Raised whenever the code prepares volumes differently, so that old ones are not taken for new ones."""

_HEADER_BYTES = 128
"""What `np.save` puts before every three-dimensional array of these types: padded to whole 64 bytes."""


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
        image_digests: what the whole image is, however it is stored (`scan.content`); none where it is not known.
        thumbnail: of the region (`scan.content`); empty where it is not known.
        template_to_scan_ras: rows of the matrix `[4, 4]` that registration found; None where it was not registered, or
            prepared before this was kept.
    """

    series: Series
    directory: Path
    grid: Grid
    native_grid: Grid
    slice_thickness_mm: float
    slice_axis: int
    source_sha256: str
    warnings: tuple[str, ...] = ()
    image_digests: tuple[str, ...] = ()
    thumbnail: str = ""
    template_to_scan_ras: tuple[tuple[float, ...], ...] | None = None

    @cached_property
    def components(self) -> NDArray[np.int32]:
        """`[n, 4]`: lesion component (from 1), x, y, z of each voxel of the common grid with occupancy above 0."""
        path = self.directory / "components.npy"
        try:
            array: NDArray[np.int32] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise _damaged(path) from None
        return array

    def hu(self) -> NDArray[np.int16]:
        """`[X, Y, Z]` HU on the common grid, memory-mapped."""
        return _open(self.directory / "hu.npy", np.int16, self.grid)

    def occupancy(self) -> NDArray[np.uint8] | None:
        """`[X, Y, Z]` covered share of each voxel of the common grid (255 = full), memory-mapped; None: no label."""
        return _open(self.directory / "occupancy.npy", np.uint8, self.grid) if self.series.label else None

    def peak_hu(self) -> NDArray[np.int16]:
        """`[X, Y, Z]` the largest HU of the region's native voxels that overlap each voxel of the common grid.

        Memory-mapped, or computed where the series was prepared before this was kept.
        """
        path = self.directory / "peak_hu.npy"
        if path.is_file():
            return _open(path, np.int16, self.grid)
        peak: NDArray[np.int16] = resample_peak(Volume(self.native_hu(), self.native_grid), self.grid).data
        return peak

    def native_hu(self) -> NDArray[np.int16]:
        """`[X, Y, Z]` HU of the region on the native grid, memory-mapped."""
        return _open(self.directory / "native_hu.npy", np.int16, self.native_grid)

    def named_regions(self) -> Volume | None:
        """Regions around the arteries (`named_regions.REGIONS`) on the native grid, uint8; None: not registered.

        Computed from the matrix: kept on disk, they would take as much room as half the region itself.
        """
        if self.template_to_scan_ras is None:
            return None
        return named_regions(self.native_grid, self.template_to_scan_ras)

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


def open_store(
    config: DataConfig, splits: Sequence[str] | None = None, look: RecordedLook | None = None
) -> PreparedStore:
    """Open what `preparation.prepare_cohort` has prepared with these settings (for ranks other than the first).

    Raises:
        UserError: when the cohort is not valid, or nothing of it is prepared.
    """
    cohort, series = select_series(config, splits)
    return open_prepared(store_directory(config, cohort), cohort, series, config.grid, look)


def select_series(config: DataConfig, splits: Sequence[str] | None) -> tuple[Cohort, tuple[Series, ...]]:
    """The cohort, with the splits that `config.fold` makes, and its series of some splits (None: all).

    Raises:
        UserError: when the cohort is not valid, or has no series in `splits`.
    """
    cohort = cohort_of(config)
    series = cohort.series if splits is None else cohort.split(*splits)
    if not series:
        present = sorted({s.split or "no split" for s in cohort.series})
        raise UserError(
            f"{cohort.path}: no series in {' or '.join(splits or ())}; the table has {', '.join(present)}: "
            "assign splits first"
        )
    return cohort, series


def store_directory(config: DataConfig, cohort: Cohort) -> Path:
    """Where the cohort prepared with these settings lies."""
    parent = Path(config.prepared_dir).absolute() if config.prepared_dir else cohort.path.parent / "prepared"
    return parent / digest(preparation_settings(config.grid))[:12]


def preparation_settings(grid: GridConfig) -> dict[str, Any]:
    """Everything but the scan itself that decides what a prepared volume holds; a template counts by its content.

    Raises:
        UserError: when a template cannot be read.
    """
    settings: dict[str, Any] = {"preparation_version": PREPARATION_VERSION, **asdict(grid)}
    if grid.template is not None:
        settings["template"] = templates_digest(grid.template)
        settings["registration_version"] = REGISTRATION_VERSION
    return settings


def open_prepared(
    directory: Path, cohort: Cohort, series: Sequence[Series], grid: GridConfig, look: RecordedLook | None
) -> PreparedStore:
    """The prepared ones of some series of a cohort.

    Raises:
        UserError: when none of them is prepared.
    """
    prepared = []
    for item in series:
        meta = read_meta(directory / item.series_id)
        if meta is not None:
            prepared.append(prepared_series(item, directory / item.series_id, meta))
    missing = {item.series_id for item in series} - {p.series.series_id for p in prepared}
    failed = {name: reason for name, (reason, _) in read_failed(directory).items() if name in missing}
    if not prepared and failed:
        name, reason = next(iter(failed.items()))
        raise UserError(
            f"none of the {len(series)} series of {cohort.path} could be prepared; all are listed in "
            f"{directory / FAILED_FILE}. The first, {name}: {reason}"
        )
    if not prepared:
        raise UserError(f"{directory}: no series is prepared with these settings yet; prepare the cohort first")
    described = sorted((p.series.series_id, p.series.split, p.source_sha256) for p in prepared)
    warnings = {p.series.series_id: p.warnings for p in prepared if p.warnings}
    shown = tuple(p for p in prepared if p.series.split != GUARDED or (look is not None and look.is_on_record))
    fingerprint = digest([preparation_settings(grid), described])
    return PreparedStore(directory, fingerprint, cohort, shown, failed, look, len(prepared) - len(shown), warnings)


def prepared_series(series: Series, directory: Path, meta: dict[str, Any]) -> PreparedSeries:
    """A series as the facts of its folder say."""
    native_grid = Grid.from_dict(meta["native_grid"])
    # of the table as it is now, which may be mended without preparing again
    label_mm3 = meta.get("label_volume_mm3") if series.label else None  # not in what was prepared earlier
    remarks = table_remarks(series, meta["slice_thickness_mm"], native_grid.spacing_mm, label_mm3)
    return PreparedSeries(
        series=series,
        directory=directory,
        grid=Grid.from_dict(meta["grid"]),
        native_grid=native_grid,
        slice_thickness_mm=meta["slice_thickness_mm"],
        slice_axis=meta["slice_axis"],
        source_sha256=meta["source_sha256"],
        warnings=(*meta["warnings"], *remarks),
        **image_facts(meta),
    )


def image_facts(meta: dict[str, Any]) -> dict[str, Any]:
    """What the facts of a prepared series say of its image; nothing in what was prepared earlier."""
    known = meta.get("image") or {"digests": (), "thumbnail": ""}
    matrix = (meta.get("region") or {}).get("template_to_scan_ras")
    return {
        "image_digests": tuple(known["digests"]),
        "thumbnail": known["thumbnail"],
        "template_to_scan_ras": None if matrix is None else tuple(tuple(row) for row in matrix),
    }


def all_warnings(directory: Path, cohort: Cohort) -> list[tuple[str, str]]:
    """(series id, warning) of every warning of every prepared series of the table, by series id."""
    rows = []
    for item in sorted(cohort.series, key=lambda item: item.series_id):
        meta = read_meta(directory / item.series_id)
        if meta is not None:
            warnings = prepared_series(item, directory / item.series_id, meta).warnings
            rows += [(item.series_id, warning) for warning in warnings]
    return rows


def _open(path: Path, dtype: type[np.generic], grid: Grid) -> NDArray[Any]:
    """Map a `.npy` file of known type and shape: three times as fast as `np.load`, which parses the header.

    Raises:
        UserError: when the file is not as long as that takes.
    """  # noqa: DOC501 - `_damaged` makes a UserError
    try:
        header = path.stat().st_size - math.prod(grid.shape) * np.dtype(dtype).itemsize
    except OSError:
        header = 0
    if header != _HEADER_BYTES:
        raise _damaged(path)
    return np.memmap(path, dtype=dtype, mode="r", offset=header, shape=grid.shape)


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: missing, cut off or foreign; run the same command again, which prepares the series anew")
