"""Predictions of any program in a folder: which file belongs to which series, whether it fits, and what it scores.

Names that are understood, for a series (or nnU-Net case) `S`; `.nii`, `.nrrd`, `.mha` and capitals are taken as well:

- `S.nii.gz`: a mask where the file holds whole numbers, else a probability map;
- `S_mask.nii.gz`, `S_probability.nii.gz`, or both, as `iac` writes them (`S_mask_plain.nii.gz` beside them is left
  aside);
- `S.nii.gz` with `S.npz`, as nnU-Net writes them with `--save_probabilities`: `probabilities` `[classes, z, y, x]`.

Nothing here imports torch: it runs in worker processes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.cohort.look import RecordedLook, TestSetGuardError, read_label
from data_modules.cohort.series import read_series, table_remarks
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.prepare.labels import LARGEST_OF_SCAN, check_label
from data_modules.scan.fitting import same_voxels
from data_modules.scan.geometry import Volume
from data_modules.scan.image_files import ITK_SUFFIXES, NIFTI_SUFFIXES, has_suffix, image_stem
from data_modules.scan.nifti import fitted, read_mask, read_own_mask, read_probability
from data_modules.scan.scan import Scan
from data_modules.scan.stored import StoredHeader, read_header
from iac_lightning.evaluation.calibration.held_out import ScanSums, sums_of_scan
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.metrics.lesions import protocol_prior
from iac_lightning.evaluation.metrics.series import series_metrics
from iac_lightning.evaluation.tables.series_table import series_row
from iac_lightning.workflows.one_series import second_reader

EXTERNAL_CUT = 0.5
"""From which probability on a voxel is predicted, where nothing else is said."""

DOMAIN_HU = 100.0
"""Darker voxels are outside the domain that is calibrated: the default of `loss.restrict_hu`, which this project's
models have."""

_KNOWN = ({"plain"}, {"plain", "npz"}, {"mask"}, {"probability"}, {"mask", "probability"})
_UNREADABLE = (EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
_NOT_TIED = 1e-2
_MOST_CLASSES = 256
_LISTED = 20


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one series.

    Attributes:
        series: of the cohort.
        path: NIfTI of a mask or a probability map; for nnU-Net's `.npz`, the mask beside it.
        threshold: from which probability on a voxel is predicted; None for a mask.
        npz: nnU-Net's probabilities, where these are to be used.
        calibration: whose temperature, bias and thresholds (by the scan's thickness) take the place of `threshold`;
            None: probabilities as they are.
    """

    series: Series
    path: Path
    threshold: float | None
    npz: Path | None = None
    calibration: Calibration | None = None


def find_predictions(
    folder: Path, series: Sequence[Series], threshold: float | None = None
) -> tuple[list[Prediction], list[str]]:
    """The prediction of each series, and everything that is wrong with the folder.

    Headers are read, voxels are not. A mask is preferred to probabilities unless a threshold is given.

    Args:
        folder: holds the files, not in subfolders.
        series: all series of a split, each with a label.
        threshold: for probabilities; masks alone cannot take one.

    Returns:
        Predictions in the order of the series, and problems: missing, extra, ambiguous, unreadable, of the wrong shape
        or at another place than the scan.
    """
    files, extra = _files_by_series(folder, {s.series_id for s in series})
    predictions: list[Prediction] = []
    problems = []
    missing = [s.series_id for s in series if s.series_id not in files]
    for item in series:
        if item.series_id in files:
            try:
                predictions.append(_choose(item, files[item.series_id], threshold))
            except UserError as error:
                problems.append(error.kept)
    problems += [f"{name}: no prediction" for name in missing]
    problems += [f"{name}: no series of this split is called so" for name in extra]
    return predictions, problems


def raise_all(problems: Sequence[str], folder: Path, n_series: int, split: str) -> None:
    """One error for everything that is wrong, if anything is."""
    if not problems:
        return
    lines = [
        f"{folder}: {len(problems)} problem{'s' if len(problems) > 1 else ''} with the predictions of the {n_series} "
        f"series of split '{split}'; nothing was evaluated. Each series needs one prediction on its scan's own voxels: "
        "S.nii.gz, S_mask.nii.gz or S_probability.nii.gz for series S, and nothing else."
    ]
    lines += [f"  {problem}" for problem in problems[:_LISTED]]
    if len(problems) > _LISTED:
        lines.append(f"  … and {len(problems) - _LISTED} more")
    raise UserError("\n".join(lines))


def _files_by_series(folder: Path, names: set[str]) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """Files of each series by kind, and the names of files that belong to none."""
    files: defaultdict[str, dict[str, Path]] = defaultdict(dict)
    extra = []
    for path in sorted(folder.iterdir()):
        is_npz = has_suffix(path, (".npz",))
        if path.name.startswith(".") or not (is_npz or has_suffix(path, (*NIFTI_SUFFIXES, *ITK_SUFFIXES))):
            continue
        stem = path.name[:-4] if is_npz else image_stem(path)
        if not is_npz and stem.removesuffix("_mask_plain") in names - {stem}:
            continue
        candidates = {"npz" if is_npz else "plain": stem}
        if not is_npz:
            candidates |= {k: stem.removesuffix(f"_{k}") for k in ("mask", "probability") if stem.endswith(f"_{k}")}
        kind = next((kind for kind, name in candidates.items() if name in names), None)
        if kind is None:
            extra.append(path.name)
        elif kind in files[candidates[kind]]:
            extra.append(f"{path.name} (a second one)")
        else:
            files[candidates[kind]][kind] = path
    return files, extra


def _choose(series: Series, files: dict[str, Path], threshold: float | None) -> Prediction:
    """The file to use, checked by its header."""
    if set(files) not in _KNOWN:
        names = ", ".join(path.name for path in files.values())
        lacks = "an .npz needs the NIfTI beside it, which says where its voxels lie" if set(files) == {"npz"} else ""
        raise UserError(f"{series.series_id}: {names}: {lacks or 'more than one prediction'}")
    path = files.get("plain") or files.get("mask") or files["probability"]
    is_mask = "mask" in files or ("plain" in files and _holds_whole_numbers(path))
    npz = None
    if threshold is not None and is_mask:
        if "npz" in files:
            npz = files["npz"]
        elif "probability" in files:
            path = files["probability"]
        else:
            raise UserError(f"{path.name}: a mask; a threshold needs probabilities")
        is_mask = False
    header = _header(path)
    _check_place(header, series)
    if npz is not None:
        shape, expected = _npz_shape(npz), header.grid.shape[::-1]
        if len(shape) != 4 or not 2 <= shape[0] <= _MOST_CLASSES or shape[1:] != expected:
            raise UserError(f"{npz.name}: probabilities of shape {shape}, expected [classes, z, y, x] with {expected}")
    if is_mask:
        return Prediction(series, path, None)
    return Prediction(series, path, EXTERNAL_CUT if threshold is None else threshold, npz)


def _header(path: Path) -> StoredHeader:
    try:
        return read_header(path)
    except UserError as error:
        raise UserError(f"{path.name}: not a whole 3D NIfTI file ({error})") from None


def _holds_whole_numbers(path: Path) -> bool:
    header = _header(path)
    return header.dtype.kind in "iu" and header.slope == 1


def _check_place(header: StoredHeader, series: Series) -> None:
    """Compare a file's voxels with those of the label.

    Where slices are moved onto a right-angled grid (DICOM, sheared files), a prediction may lie on one and the label
    on the other: such a place is judged once the scan is read.

    Raises:
        UserError: where they lie more than 5 % of a voxel away.
    """
    assert series.label is not None
    grid, expected = header.grid, _header(series.label).grid
    if same_voxels(grid, expected):
        return
    if series.image.is_dir() or not _header(series.image).grid.is_orthogonal:
        return
    if sorted(grid.shape) != sorted(expected.shape):
        raise UserError(f"{header.path.name}: {grid.shape} voxels, the scan has {expected.shape}")
    place = [
        f"voxels of {' × '.join(f'{s:.3g}' for s in g.spacing_mm)} mm, axes {g.axis_codes}, the first at "
        f"({', '.join(f'{c:.2f}' for c in g.affine[:3, 3])}) mm"
        for g in (grid, expected)
    ]
    raise UserError(f"{header.path.name}: lies elsewhere than its scan: {place[0]}; the scan: {place[1]}")


def _npz_shape(path: Path) -> tuple[int, ...]:
    """Shape of nnU-Net's probabilities, from the header inside the archive."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("probabilities.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            return read(file)[0]
    except _UNREADABLE as error:
        raise UserError(f"{path.name}: not an archive with 'probabilities' ({error})") from None


def read_prediction(prediction: Prediction, scan: Scan) -> Volume:
    """The mask that is the result, after the annotation protocol: bool, on the scan's grid.

    Raises:
        UserError: when it cannot be read, does not fit, or nnU-Net's probabilities contradict its mask.
    """
    return read_masks(prediction, scan)[0]


def read_masks(prediction: Prediction, scan: Scan) -> tuple[Volume, Volume, Volume | None]:
    """The mask that is the result, after the annotation protocol; the plain one; the uncalibrated one.

    All on the scan's grid. A calibrated model has a threshold for each of the first two; only such a model has the
    third, at a probability of `EXTERNAL_CUT`.

    Raises:
        UserError: as `read_prediction`.
    """
    return read_all(prediction, scan)[:3]


def read_all(prediction: Prediction, scan: Scan) -> tuple[Volume, Volume, Volume | None, Volume | None]:
    """`read_masks`, and of a calibrated model the calibrated probabilities."""
    if prediction.threshold is None:
        mask = read_mask(prediction.path, like=scan)
        return protocol_prior(mask, scan.volume), mask, None, None
    raw, calibration = read_probabilities(prediction, scan), prediction.calibration
    if calibration is None:
        mask = raw.with_data(raw.data >= prediction.threshold)
        return protocol_prior(mask, scan.volume), mask, None, None
    probability = calibration.apply(raw, scan.slice_thickness_mm)
    mask, plain = calibration.masks(probability, scan.volume, scan.slice_thickness_mm)
    return mask, plain, raw.with_data(raw.data >= EXTERNAL_CUT), probability


def read_probabilities(prediction: Prediction, scan: Scan) -> Volume:
    """The predicted probabilities as the program wrote them, float32, on the scan's grid.

    Raises:
        UserError: when they cannot be read, do not fit, or nnU-Net's probabilities contradict its mask.
    """
    if prediction.npz is None:
        return read_probability(prediction.path, like=scan)
    mask = read_own_mask(prediction.path)  # whose axes are those of the array beside it
    foreground = mask.with_data(_read_npz(prediction.npz, mask.data))
    return fitted(foreground, scan, prediction.path, "prediction").volume


def _read_npz(path: Path, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probability `[X, Y, Z]` of anything but background, checked against nnU-Net's own mask of two classes."""
    try:
        with np.load(path) as archive:
            probabilities = archive["probabilities"]
    except _UNREADABLE as error:
        raise UserError(f"{path.name}: not an archive with 'probabilities' ({error})") from None
    foreground = (probabilities[1] if len(probabilities) == 2 else 1 - probabilities[0]).astype(np.float32).T
    if not np.isfinite(foreground).all() or foreground.min() < 0 or foreground.max() > 1:
        raise UserError(f"{path.name}: values from {foreground.min():g} to {foreground.max():g}, not probabilities")
    contradicts = (mask != (foreground > 0.5)) & (np.abs(foreground - 0.5) > _NOT_TIED)
    if len(probabilities) == 2 and contradicts.any():
        raise UserError(
            f"{path.name}: contradicts the mask beside it in {int(contradicts.sum())} voxels; both must come from one "
            "prediction, without postprocessing of the mask, the array's axes in the order z, y, x"
        )
    return foreground


class Measured(NamedTuple):
    """What is measured of a series.

    Attributes:
        row: of the table (`series_row`).
        warnings: of its scan.
        sums: of its probabilities, before and after calibration; None where they are not calibrated.
    """

    row: dict[str, Any]
    warnings: tuple[str, ...]
    sums: ScanSums | None


def measure_prediction(prediction: Prediction, look: RecordedLook | None = None) -> Measured | str:
    """What is measured of one series, or what is wrong with its files.

    Its slice thickness is the whole scan's: which region the program looked at is not known.

    Args:
        prediction: of the series.
        look: needed for a series of the test split.

    Raises:
        TestSetGuardError: without the look.
    """
    series = prediction.series
    try:
        scan = read_series(series)
        label = read_label(series, like=scan, look=look)
        check_label(label.data, scan.hu, series.label, LARGEST_OF_SCAN)
        mask, plain, uncalibrated, probability = read_all(prediction, scan)
        second = second_reader(series, scan, label, mask, look)
    except TestSetGuardError:
        raise
    except UserError as error:
        return error.kept
    row = series_row(
        series.series_id,
        series.patient_id,
        scan.slice_thickness_mm,
        series_metrics(mask, label, scan),
        series_metrics(plain, label, scan),
        series.true_volume_mm3,
        series_metrics(uncalibrated, label, scan) if uncalibrated else None,
        second,
    )
    label_mm3 = float(np.count_nonzero(label.data)) * scan.grid.voxel_volume_mm3
    sums = None
    if prediction.calibration is not None and probability is not None:
        thickness_mm, domain = scan.slice_thickness_mm, scan.hu >= DOMAIN_HU
        sums = sums_of_scan(probability, mask, label, prediction.calibration, thickness_mm, domain)
    remarks = table_remarks(series, scan.slice_thickness_mm, scan.grid.spacing_mm, label_mm3)
    return Measured(row, (*scan.warnings, *remarks), sums)
