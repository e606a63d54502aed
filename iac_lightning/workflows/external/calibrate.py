"""Temperature, bias and thresholds of another program's model, from its probabilities of the development split.

The rules are those of `iac calibrate`. What differs is the domain. A model of this project says nothing (exactly 0)
outside its region of interest and in dark voxels, and its calibration looks at the rest. Another program's
probabilities are rarely exactly 0: over all voxels of a head any model looks calibrated, since nearly all of them are
obvious background. So here the domain is what this project's models see by default: voxels of at least `DOMAIN_HU`
with a probability above 0, of the whole scan, because the region that the program looked at is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_modules.cohort.look import read_label
from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.processes import mapped
from data_modules.scan.geometry import Volume
from data_modules.scan.scan import Scan
from iac_lightning.evaluation.calibration.record import calibrate_voxels, reliability
from iac_lightning.evaluation.calibration.scaling import THRESHOLDS, Scaling, apply, thresholds_by_thickness
from iac_lightning.evaluation.calibration.threshold import choose_threshold, dice_at_thresholds
from iac_lightning.evaluation.metrics.lesions import protocol_prior_probability
from iac_lightning.evaluation.statistics.strata import EDGES_MM, Stratum, strata_from_edges
from iac_lightning.workflows.external.predictions import (
    DEFAULT_THRESHOLD,
    Prediction,
    find_predictions,
    raise_all,
    read_probabilities,
)

CALIBRATION_FILE = "calibration.json"

DOMAIN_HU = 100.0
"""Darker voxels are outside the domain: the default of `loss.restrict_hu`, which this project's models have."""


def calibrate_predictions(
    folder: Path,
    series: Sequence[Series],
    directory: Path,
    *,
    label: str,
    seed: int,
    workers: int,
    edges_mm: Sequence[float] = EDGES_MM,
) -> dict[str, Any]:
    """Write `calibration.json` (in the form of a run's) and `figures/reliability.png`.

    Voxels of the domain lie on disk while they are looked at, so that memory does not grow with the number of series;
    each worker holds one series.

    Args:
        folder: probabilities of the development series, named after them.
        series: the development series, each with a label.
        directory: to write to.
        label: name of the model, for the figure.
        seed: of the sample that is fitted and of the bootstrap.
        workers: processes.
        edges_mm: where the strata part that may have a threshold of their own (`evaluation.thickness_edges_mm`).

    Returns:
        What `calibration.json` holds (`workflows.calibrate.calibrate`).

    Raises:
        UserError: one that lists all missing, extra, unreadable or misplaced predictions and masks without
            probabilities; or when no development series has a lesion where the model predicts.
    """
    from iac_lightning.figures.calibration import reliability_figure  # workers do without matplotlib

    found, problems = find_predictions(folder, series, DEFAULT_THRESHOLD)
    raise_all(problems, folder, len(series), "dev")
    patients = [s.patient_id for s in series]
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory, prefix=".voxels_") as temporary:
        numbered = list(zip((Path(temporary) / str(k) for k in range(len(found))), found, strict=True))
        steps = tqdm(
            mapped(save_domain, numbered, workers), total=len(found), desc="dev: reading", unit="scan", disable=None
        )
        raise_all([problem for problem in steps if problem], folder, len(series), "dev")
        voxels = [
            (np.load(f"{path}_p.npy", mmap_mode="r"), np.load(f"{path}_y.npy", mmap_mode="r")) for path, _ in numbered
        ]
        if not any(len(p) for p, _ in voxels):
            raise UserError(f"{folder}: no probability above 0 in voxels of {DOMAIN_HU:g} HU and more to calibrate")
        try:
            scaling, fitted = calibrate_voxels(voxels, patients, seed, Path(temporary))
        except ValueError as error:
            raise UserError(f"{folder}: the development split cannot calibrate this model: {error}") from None
    result = {
        **fitted,
        **choose_thresholds(found, scaling, seed, workers, strata_from_edges(edges_mm)),
        "domain": f"voxels of the whole scan with an uncalibrated probability above 0 and {DOMAIN_HU:g} HU and more",
        "checkpoint_sha256": None,
        "thickness_edges_mm": list(edges_mm),
        "depends_on": fingerprint(found),
    }
    source = (
        f"{label}; {result['n_voxels']:,} voxels of {len(series)} development scans "
        f"({result['n_patients']} patients); seed {seed}"
    )
    figure = reliability_figure(reliability(result, "before"), reliability(result, "after"), source)
    (directory / "figures").mkdir(exist_ok=True)
    figure.savefig(directory / "figures" / "reliability.png", dpi=150)
    write_json_atomic(directory / CALIBRATION_FILE, result)
    return result


def save_domain(item: tuple[Path, Prediction]) -> str:
    """Write probability and label of one series' domain as `<path>_p.npy` and `_y.npy`; what is wrong, or nothing."""
    path, prediction = item
    try:
        probability, label, scan = development_volumes(prediction)
    except UserError as error:
        return str(error)
    domain = (probability.data > 0) & (scan.hu >= DOMAIN_HU)
    np.save(f"{path}_p.npy", probability.data[domain])
    np.save(f"{path}_y.npy", label.data[domain])
    return ""


def development_volumes(prediction: Prediction) -> tuple[Volume, Volume, Scan]:
    """Uncalibrated probability and label of a series on its native grid, and its scan."""
    scan = read_series(prediction.series)
    return read_probabilities(prediction, scan.grid), read_label(prediction.series, like=scan.grid), scan


def choose_thresholds(
    found: Sequence[Prediction], scaling: Scaling, seed: int, workers: int, strata: Sequence[Stratum]
) -> dict[str, Any]:
    """Thresholds of calibrated probability with the best mean Dice, for the plain mask and after the protocol prior."""
    function = partial(development_dice, scaling=scaling)
    steps = tqdm(mapped(function, found, workers), total=len(found), desc="dev: thresholds", unit="scan", disable=None)
    plain, prior, lesions, unseen, thickness = (list(column) for column in zip(*steps, strict=True))
    patients = [p.series.patient_id for p in found]
    result: dict[str, Any] = {}
    for prefix, scores in (("", np.array(plain)), ("prior_", np.array(prior))):
        result[f"{prefix}threshold"], result[f"{prefix}dice"] = choose_threshold(scores, THRESHOLDS, lesions)
        result[f"{prefix}thickness"] = thresholds_by_thickness(scores, lesions, patients, thickness, seed, strata)
    return {**result, "n_with_lesion": sum(lesions), "n_lesion_voxels_unseen": sum(unseen)}


def development_dice(
    prediction: Prediction, scaling: Scaling
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool, int, float]:
    """Dice of a series at each of `THRESHOLDS`, plain and after the protocol prior; what else decides thresholds.

    Returns:
        Both Dice `[len(THRESHOLDS)]`, whether it has lesions, labelled voxels unseen, slice thickness in mm.
    """
    raw, label, scan = development_volumes(prediction)
    probability = raw.with_data(apply(raw.data, scaling.temperature, scaling.bias))
    outside = label.data & ((raw.data == 0) | (scan.hu < DOMAIN_HU))
    return (
        dice_at_thresholds(probability, label, THRESHOLDS),
        dice_at_thresholds(protocol_prior_probability(probability, scan.volume), label, THRESHOLDS),
        bool(label.data.any()),
        int(np.count_nonzero(outside)),
        scan.slice_thickness_mm,
    )


def fingerprint(found: Sequence[Prediction]) -> str:
    """First 16 hex digits of a hash over all development predictions and labels."""
    total = sha256()
    for prediction in found:
        assert prediction.series.label is not None
        for path in (prediction.npz or prediction.path, prediction.series.label):
            total.update(prediction.series.series_id.encode() + sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
