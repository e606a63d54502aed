"""The ceiling of an experiment's common grid on its cohort's own labels, beside those of finer grids."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from data_modules.cohort.look import read_label
from data_modules.cohort.region_hints import age_years, center_lps_mm
from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series, read_cohort
from data_modules.config import DataConfig, GridConfig
from data_modules.errors import UserError
from data_modules.prepare.facts import read_meta
from data_modules.prepare.roi import region_of_interest
from data_modules.prepare.store import prepared_series, store_directory
from data_modules.processes import mapped
from data_modules.scan.geometry import Volume, place
from data_modules.system_errors import in_words
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.clinical.round_trip import RoundTrip, ceiling, lost, round_trip
from iac_lightning.evaluation.statistics.strata import strata_from_edges

QUICK = 24
"""Prepared series that every plan measures: they take about two seconds."""
FINER_MM = ((0.5, 0.5, 1.6), (0.5, 0.5, 1.0))
"""Common grids that the planned one is held against, where they are finer."""
SIZES_MM3 = (0.0, 5.0, 10.0, 50.0, math.inf)
"""Where classes of lesion volume part."""
_NAME = "ceiling      "
_INDENT = " " * len(_NAME)

Spacing = tuple[float, float, float]
Job = tuple[Series, GridConfig, Path, tuple[Spacing, ...]]


def ceiling_words(config: ExperimentConfig, n_series: int | None) -> str:
    """What the planned grid lets a faultless network reach, as text; never of the test split.

    Args:
        config: the experiment.
        n_series: labelled series of a random sample that are measured; those that are not prepared are read and
            cropped, without keeping anything. None: at most `QUICK` of those that are prepared, and no error where
            there are none.

    Raises:
        UserError: with `n_series`, when the cohort is not valid or holds no label with a lesion.
    """
    if n_series is not None:
        return _NAME + _table(config, *_measured(config, n_series, prepared_only=False))
    if not Path(config.data.cohort).is_file():
        return f"{_NAME}not measured: there is no {config.data.cohort}"
    try:
        return _NAME + _table(config, *_measured(config, QUICK, prepared_only=True))
    except UserError as error:
        return f"{_NAME}not measured: {str(error).splitlines()[0]} (iac plan … --ceiling 60 reads scans)"


def grids(data: DataConfig) -> tuple[Spacing, ...]:
    """The planned voxel size and those of `FINER_MM` that are finer, along no axis coarser."""
    planned = data.grid.spacing_mm
    finer = [f for f in FINER_MM if f != planned and all(a <= b for a, b in zip(f, planned, strict=True))]
    return (planned, *finer)


def _measured(config: ExperimentConfig, most: int, *, prepared_only: bool) -> tuple[list[list[RoundTrip]], str]:
    """Round trips of each series with lesions, one for each of `grids`, and which series these are."""
    data = config.data
    cohort = read_cohort(data.cohort)
    directory = store_directory(data, cohort)
    seen = cohort.split("pretrain", "finetune", "dev")
    # a label that the table says is empty has no lesion to lose
    labelled = [s for s in seen if s.label and float(s.extra.get("label_volume_mm3") or 1) > 0]
    random.Random(0).shuffle(labelled)
    chosen = labelled
    if prepared_only:
        chosen = [s for s in labelled if (directory / s.series_id).is_dir()]
    jobs: list[Job] = [(s, data.grid, directory, grids(data)) for s in chosen[:most]]
    if not jobs:
        what = "is prepared with these settings" if labelled else "of training or development has a label"
        raise UserError(f"{data.cohort}: no series {what}")
    workers = 1 if prepared_only else data.prepare_workers
    trips, failed = [], 0
    for _, result in mapped(measure, jobs, workers, "measuring", "series", setting="data.prepare_workers"):
        failed += result is None
        trips += [result] if result else []
    if not trips:
        raise UserError(f"{data.cohort}: none of {len(jobs)} labels holds a lesion in its region of interest")
    words = (
        f"Dice of a faultless network on {len(trips)} series with lesions, of {len(jobs)} drawn from {len(chosen)} "
        f"{'prepared' if prepared_only else 'labelled'} ones of training and development"
    )
    return trips, words + (f"; {failed} could not be read (iac prepare says why)" if failed else "")


def measure(job: Job) -> list[RoundTrip] | None:
    """Round trips of one series, one for each spacing; empty without a lesion, None where it cannot be read."""
    series, grid, directory, spacings = job
    try:
        label, hu, thickness_mm = _region(series, grid, directory)
    except Exception as error:
        if in_words(error, "read") is None:
            raise
        return None
    if not label.data.any():
        return []
    commons = [label.grid.with_spacing(spacing, grid.roi_mm) for spacing in spacings]
    return [round_trip(label, hu, common, thickness_mm) for common in commons]


def _region(series: Series, grid: GridConfig, directory: Path) -> tuple[Volume, Volume, float]:
    """Label and HU of a region of interest on the scan's own voxels, and the slice thickness: prepared, or read."""
    folder = directory / series.series_id
    meta = read_meta(folder)
    if meta is not None:
        prepared = prepared_series(series, folder, meta)
        label = prepared.native_label()
        assert label is not None, "only labelled series are measured"
        hu = Volume(prepared.native_hu(), prepared.native_grid)
        return hu.with_data(label), hu, prepared.slice_thickness_mm
    scan = read_series(series)
    region = region_of_interest(scan, grid, center_lps_mm(series), age_years(series))
    mask = place(read_label(series, like=scan), region.grid, fill=0)
    return mask.with_data(mask.data.astype(bool)), region.volume, region.slice_thickness_mm


def _table(config: ExperimentConfig, trips: Sequence[Sequence[RoundTrip]], words: str) -> str:
    """Mean Dice and lesions lost of each grid, then Dice by slice thickness."""
    region = config.data.grid.roi_mm
    spacings = grids(config.data)
    voxels = [math.prod(math.ceil(m / s - 1e-6) for m, s in zip(region, spacing, strict=True)) for spacing in spacings]
    columns = [[trip[k] for trip in trips] for k in range(len(spacings))]
    names = [" × ".join(f"{s:g}" for s in spacing) for spacing in spacings]
    sizes = list(pairwise(SIZES_MM3))
    numbers = [lost(columns[0], 0.5, *size, protocol=False)[1] for size in sizes]
    heads = [f"{_class_words(*size)} ({n})" for size, n in zip(sizes, numbers, strict=True)]
    rows = [["grid, mm", "voxels", "at 0.5", "best threshold", "after the prior", *heads]]
    for name, column, n in zip(names, columns, voxels, strict=True):
        top = ceiling(column)
        gone = [
            (lost(column, 0.5, *size, protocol=False), lost(column, top.protocol_threshold, *size, protocol=True))
            for size in sizes
        ]
        rows.append(
            [
                name,
                f"{n / voxels[0]:.1f}",
                f"{top.half:.3f}",
                f"{top.best:.3f} at {top.best_threshold:g}",
                f"{top.protocol:.3f} at {top.protocol_threshold:g}",
                *(f"{a / n:.0%} → {b / n:.0%}" if n else "–" for (a, n), (b, _) in gone),
            ]
        )
    strata = strata_from_edges(config.evaluation.thickness_edges_mm)
    by_thickness = [["slice thickness", "series", *names]]
    for stratum, low, high in strata:
        inside = [k for k, trip in enumerate(trips) if low < trip[0].slice_thickness_mm <= high]
        if inside:
            tops = [ceiling(column, [column[k] for k in inside]) for column in columns]
            by_thickness.append(
                [stratum, str(len(inside)), *(f"{t.half:.3f} {t.best:.3f} {t.protocol:.3f}" for t in tops)]
            )
    return "\n".join(
        [
            words,
            *_aligned(rows),
            f"{_INDENT}last columns: lesions of that volume (their number) without a voxel at 0.5 → after the prior",
            "",
            *_aligned(by_thickness),
            f"{_INDENT}Dice at 0.5, at the best threshold, after the prior; both thresholds are those above",
        ]
    )


def _class_words(above_mm3: float, up_to_mm3: float) -> str:
    """A class of lesion volume, such as "≤ 5 mm³"."""
    if up_to_mm3 == math.inf:
        return f"> {above_mm3:g} mm³"
    return f"{above_mm3:g}–{up_to_mm3:g} mm³" if above_mm3 else f"≤ {up_to_mm3:g} mm³"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns below each other."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return [_INDENT + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
