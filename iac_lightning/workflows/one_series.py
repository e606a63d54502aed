"""What is done with one series once the network has spoken: its own grid, files and numbers.

All of it is work of the host, by whichever process: it travels to helpers (`data_modules.processes.Helpers`), which
start fast because nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.cohort.look import RecordedLook, read_label
from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.nifti import write_nifti
from data_modules.scan.scan import Scan
from iac_lightning.evaluation.calibration.counts import ScanCounts, scan_counts
from iac_lightning.evaluation.calibration.held_out import ScanSums, sums_of_scan
from iac_lightning.evaluation.calibration.lesions import candidate_lesions
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.calibration.scaling import Part, Scaling
from iac_lightning.evaluation.metrics.lesions import components
from iac_lightning.evaluation.metrics.series import dice, series_metrics
from iac_lightning.evaluation.tables.series_table import SecondReader, series_row
from iac_lightning.modules.development import native_probability
from iac_lightning.workflows.prediction_files import (
    MASK_ENDING,
    PLAIN_MASK_ENDING,
    is_saved,
    saved_prediction,
    write_prediction,
)


@dataclass(frozen=True, kw_only=True)
class SeriesWork:
    """A series, and what the network says of it.

    Attributes:
        item: the series.
        raw_path: where its uncalibrated map is kept, on the scan's own grid; development series have one.
        raw_key: what that depends on.
        restrict_hu: darkest voxel that the network has learnt of.
        common: `[X, Y, Z]` uncalibrated, on the common grid; None: a map with the right key is on disk.
    """

    item: PreparedSeries
    raw_path: Path
    raw_key: dict[str, Any]
    restrict_hu: float | None
    common: Volume | None = None

    def is_saved(self) -> bool:
        """Whether the network need not be asked, as far as the key tells."""
        return is_saved(self.raw_path, self.raw_key)

    def on_region(self) -> Volume | None:
        """Uncalibrated probability on the native region, as the network said; None: it was not asked."""
        return None if self.common is None else native_probability(self.item, self.common, self.restrict_hu)


@dataclass(frozen=True, kw_only=True)
class EvaluationWork(SeriesWork):
    """A series that is measured against its label.

    Attributes:
        folder: where its maps are kept.
        calibration: what is applied.
        look: needed for the test split.
    """

    folder: Path
    calibration: Calibration
    look: RecordedLook | None = None

    @property
    def path(self) -> Path:
        """Where the calibrated map is kept."""
        return self.folder / f"{self.item.series.series_id}_probability.nii.gz"

    @property
    def key(self) -> dict[str, Any]:
        """What the calibrated map depends on."""
        own = self.calibration.scaling.of(self.item.slice_thickness_mm)
        return {**self.raw_key, "temperature": own.temperature, "bias": own.bias}

    def is_saved(self) -> bool:
        """Whether the network need not be asked, as far as the keys tell."""
        return is_saved(self.path, self.key) or super().is_saved()


def development_probability(work: SeriesWork) -> Volume | None:
    """Uncalibrated probability of a development series on its native region: saved, or read where it is saved.

    None: what is saved is damaged, and the network was not asked.
    """
    item = work.item
    saved = saved_prediction(work.raw_path, work.raw_key)
    if saved is not None:
        return place(saved, item.native_grid, 0.0)
    probability = work.on_region()
    if probability is not None:
        write_prediction(place(probability, read_series(item.series).grid, 0.0), work.raw_path, work.raw_key)
    return probability


def development_label(item: PreparedSeries) -> NDArray[np.bool_]:
    """The label of a series on its native region."""
    label: NDArray[np.bool_] = np.asarray(item.native_label()) > 0
    return label


def development_voxels(work: SeriesWork) -> Part | None:
    """Probabilities and labels of the voxels where the model says something; None as `development_probability`."""
    volume = development_probability(work)
    if volume is None:
        return None
    domain = volume.data > 0
    return volume.data[domain], development_label(work.item)[domain]


def development_counts(work: SeriesWork, scaling: Scaling) -> ScanCounts | None:
    """What a development series says of operating points; None as `development_probability`."""
    item = work.item
    raw = development_probability(work)
    if raw is None:
        return None
    whole = read_label(item.series, like=read_series(item.series))
    ids, n_lesions = components(whole.data)
    lesion_voxels = np.bincount(ids.ravel(), minlength=n_lesions + 1)[1:]
    lesions = place(whole.with_data(ids), item.native_grid, 0).data
    hu = Volume(np.asarray(item.native_hu()), item.native_grid)
    outside = int(np.count_nonzero(whole.data)) - int(np.count_nonzero(lesions))
    return scan_counts(raw, lesions, lesion_voxels, hu, item.slice_thickness_mm, scaling, n_outside=outside)


def development_candidates(work: SeriesWork, calibration: Calibration) -> Part | None:
    """Uncalibrated probabilities of the lesions that are marked in a development series, and which of them are any.

    None as `development_probability`.
    """
    raw = development_probability(work)
    if raw is None:
        return None
    item = work.item
    hu = Volume(np.asarray(item.native_hu()), item.native_grid)
    mask = calibration.masks(calibration.apply(raw, item.slice_thickness_mm), hu, item.slice_thickness_mm).mask
    return candidate_lesions(mask.data, raw.data, development_label(item))


def development_volumes(work: SeriesWork, calibration: Calibration) -> tuple[float, float] | None:
    """Predicted volume of a development series at the operating point, and labelled volume, mm³.

    None as `development_probability`.
    """
    raw = development_probability(work)
    if raw is None:
        return None
    item = work.item
    hu = Volume(np.asarray(item.native_hu()), item.native_grid)
    mask = calibration.masks(calibration.apply(raw, item.slice_thickness_mm), hu, item.slice_thickness_mm).mask
    label = read_label(item.series, like=read_series(item.series))
    predicted, labelled = (float(np.count_nonzero(m.data)) * m.grid.voxel_volume_mm3 for m in (mask, label))
    return predicted, labelled


class Evaluated(NamedTuple):
    """What is measured of a series.

    Attributes:
        row: of the table.
        sums: of its probabilities, before and after calibration.
    """

    row: dict[str, Any]
    sums: ScanSums


def evaluate_series(work: EvaluationWork) -> Evaluated | None:
    """Write one series' probability and masks on the scan's own grid, and measure them there.

    None: what is saved is damaged, and the network was not asked.
    """
    series, calibration = work.item.series, work.calibration
    scan = read_series(series)
    probability = calibrated_probability(work, scan.grid)
    if probability is None:
        return None
    label = read_label(series, like=scan, look=work.look)
    thickness_mm = work.item.slice_thickness_mm
    mask, plain = calibration.masks(probability, scan.volume, thickness_mm)
    write_nifti(mask, work.folder / f"{series.series_id}{MASK_ENDING}")
    write_nifti(plain, work.folder / f"{series.series_id}{PLAIN_MASK_ENDING}")
    row = series_row(
        series.series_id,
        series.patient_id,
        thickness_mm,
        series_metrics(mask, label, scan),
        series_metrics(plain, label, scan),
        series.true_volume_mm3,
        series_metrics(calibration.uncalibrated_mask(probability, thickness_mm), label, scan),
        second_reader(series, scan, label, mask, work.look),
    )
    return Evaluated(row, sums_of_scan(probability, mask, label, calibration, thickness_mm))


def second_reader(
    series: Series, scan: Scan, label: Volume, mask: Volume, look: RecordedLook | None
) -> SecondReader | None:
    """Values of the second reader's mask against the label and the result; None where there is no such mask.

    Args:
        series: of the cohort.
        scan: of the series.
        label: the first reader's mask, on the scan's grid.
        mask: the result, likewise.
        look: needed for the test split.
    """
    if series.label_2 is None:
        return None
    second = read_label(series, like=scan, look=look, second=True)
    return SecondReader(metrics=series_metrics(second, label, scan), dice=dice(mask.data, second.data))


def calibrated_probability(work: EvaluationWork, grid: Grid) -> Volume | None:
    """Calibrated probability on the scan's own grid: read if it is saved, else made and written; None as above."""
    saved = saved_prediction(work.path, work.key, like=grid)
    if saved is not None:
        return saved
    raw = saved_prediction(work.raw_path, work.raw_key, like=grid)
    if raw is None:
        region = work.on_region()
        if region is None:
            return None
        raw = place(region, grid, 0.0)
    probability = work.calibration.apply(raw, work.item.slice_thickness_mm)
    write_prediction(probability, work.path, work.key)
    return probability
