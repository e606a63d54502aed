"""Temperature, bias and operating point of another program's model, from its probabilities of the development split.

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

import numpy as np

from data_modules.cohort.look import read_label
from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.prepare.labels import LARGEST_OF_SCAN, check_label
from data_modules.processes import mapped
from data_modules.scan.geometry import Volume
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import EvaluationConfig
from iac_lightning.evaluation.calibration.aims import Aim
from iac_lightning.evaluation.calibration.choosing import choose_point
from iac_lightning.evaluation.calibration.counts import ScanCounts, scan_counts
from iac_lightning.evaluation.calibration.fitting import Fitted, calibrate_voxels
from iac_lightning.evaluation.calibration.held_out import held_out_lesions
from iac_lightning.evaluation.calibration.lesions import candidate_lesions
from iac_lightning.evaluation.calibration.record import Calibration, reliability
from iac_lightning.evaluation.calibration.scaling import Part, Scaling
from iac_lightning.evaluation.metrics.lesions import components
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.workflows.external.predictions import (
    DOMAIN_HU,
    EXTERNAL_CUT,
    Prediction,
    find_predictions,
    raise_all,
    read_probabilities,
)

CALIBRATION_FILE = "calibration.json"


def calibrate_predictions(
    folder: Path,
    series: Sequence[Series],
    directory: Path,
    *,
    label: str,
    seed: int,
    workers: int,
    settings: EvaluationConfig,
) -> Calibration:
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
        settings: what the operating point is chosen for, and where strata of slice thickness part.

    Returns:
        The calibration, in the form of a run's (`workflows.calibrate.calibrate`).

    Raises:
        UserError: one that lists all missing, extra, unreadable or misplaced predictions and masks without
            probabilities; or when no development series has a lesion where the model predicts.
    """
    from iac_lightning.figures.calibration import reliability_figure  # workers do without matplotlib

    predictions, problems = find_predictions(folder, series, EXTERNAL_CUT)
    raise_all(problems, folder, len(series), "dev")
    directory.mkdir(parents=True, exist_ok=True)
    fitted = fit_domain(predictions, folder, directory, seed, workers)
    result = {
        **fitted.record,
        **choose_point(
            count_predictions(predictions, fitted.scaling, workers),
            [p.series.patient_id for p in predictions],
            seed,
            strata_from_edges(settings.thickness_edges_mm),
            Aim(
                name=settings.operating_point,
                most_false=settings.false_components_per_scan,
                keep_from_mm3=settings.keep_lesions_from_mm3,
            ),
        ),
        "domain": f"voxels of the whole scan with an uncalibrated probability above 0 and {DOMAIN_HU:g} HU and more",
        "checkpoint_sha256": None,
        "thickness_edges_mm": list(settings.thickness_edges_mm),
        "depends_on": fingerprint(predictions),
    }
    marked = partial(candidates_of, calibration=Calibration.from_dict(result))
    candidates = [part for _, part in mapped(marked, predictions, workers, "dev: lesions", "scan")]
    result["lesions"] = held_out_lesions(candidates, fitted.held, [p.series.patient_id for p in predictions])
    source = (
        f"{label}; {result['n_voxels']:,} voxels of {len(series)} development scans "
        f"({result['n_patients']} patients); seed {seed}"
    )
    figure = reliability_figure(reliability(result, "before"), reliability(result, "after"), source, result["after"])
    (directory / "figures").mkdir(exist_ok=True)
    figure.savefig(directory / "figures" / "reliability.png", dpi=150)
    write_json_atomic(directory / CALIBRATION_FILE, result)
    return Calibration.from_dict(result)


def fit_domain(predictions: Sequence[Prediction], folder: Path, directory: Path, seed: int, workers: int) -> Fitted:
    """The scaling from the voxels of the domain (`fitting.calibrate_voxels`).

    Args:
        predictions: probabilities of the development series.
        folder: where they lie, for errors.
        directory: for a temporary folder of the voxels.
        seed: of the sample that is fitted and of the bootstrap.
        workers: processes.

    Raises:
        UserError: when a file cannot be read, or the voxels calibrate nothing.
    """
    with TemporaryDirectory(dir=directory, prefix=".voxels_") as temporary:
        problems: list[str] = []
        thickness_mm: list[float] = []
        paths = [Path(temporary) / str(k) for k in range(len(predictions))]
        numbered = list(zip(paths, predictions, strict=True))
        steps = mapped(save_domain, numbered, workers, "dev: reading", "scan")
        for _, (problem, thickness) in steps:
            problems += [problem] if problem else []
            thickness_mm.append(thickness)
        raise_all(problems, folder, len(predictions), "dev")
        voxels = [(np.load(f"{path}_p.npy", mmap_mode="r"), np.load(f"{path}_y.npy", mmap_mode="r")) for path in paths]
        if not any(len(p) for p, _ in voxels):
            raise UserError(f"{folder}: no probability above 0 in voxels of {DOMAIN_HU:g} HU and more to calibrate")
        try:
            patients = [p.series.patient_id for p in predictions]
            return calibrate_voxels(voxels, patients, thickness_mm, seed, Path(temporary))
        except ValueError as error:
            raise UserError(f"{folder}: the development split cannot calibrate this model: {error}") from None


def save_domain(item: tuple[Path, Prediction]) -> tuple[str, float]:
    """Write probability and label of one series' domain as `<path>_p.npy` and `_y.npy`.

    Returns:
        What is wrong, or nothing; and the slice thickness of the whole scan (mm).
    """
    path, prediction = item
    try:
        probability, label, scan = development_volumes(prediction)
    except UserError as error:
        return error.kept, float("nan")
    domain = (probability.data > 0) & (scan.hu >= DOMAIN_HU)
    np.save(f"{path}_p.npy", probability.data[domain])
    np.save(f"{path}_y.npy", label.data[domain])
    return "", scan.slice_thickness_mm


def development_volumes(prediction: Prediction) -> tuple[Volume, Volume, Scan]:
    """Uncalibrated probability and label of a series on its native grid, and its scan."""
    scan = read_series(prediction.series)
    label = read_label(prediction.series, like=scan)
    check_label(label.data, scan.hu, prediction.series.label, LARGEST_OF_SCAN)
    return read_probabilities(prediction, scan), label, scan


def count_predictions(predictions: Sequence[Prediction], scaling: Scaling, workers: int) -> list[ScanCounts]:
    """What each development series says of operating points."""
    function = partial(count_prediction, scaling=scaling)
    return [counts for _, counts in mapped(function, predictions, workers, "dev: thresholds", "scan")]


def count_prediction(prediction: Prediction, scaling: Scaling) -> ScanCounts:
    """What one development series says of operating points; its slice thickness is the whole scan's."""
    raw, label, scan = development_volumes(prediction)
    lesions, n_lesions = components(label.data)
    lesion_voxels = np.bincount(lesions.ravel(), minlength=n_lesions + 1)[1:]
    thickness_mm = scan.slice_thickness_mm
    return scan_counts(raw, lesions, lesion_voxels, scan.volume, thickness_mm, scaling, domain_hu=DOMAIN_HU)


def candidates_of(prediction: Prediction, calibration: Calibration) -> Part:
    """Uncalibrated probabilities of the lesions that are marked in a development series, and which of them are any."""
    raw, label, scan = development_volumes(prediction)
    probability = calibration.apply(raw, scan.slice_thickness_mm)
    mask = calibration.masks(probability, scan.volume, scan.slice_thickness_mm).mask
    return candidate_lesions(mask.data, raw.data, label.data)


def fingerprint(predictions: Sequence[Prediction]) -> str:
    """First 16 hex digits of a hash over all development predictions and labels."""
    total = sha256()
    for prediction in predictions:
        assert prediction.series.label is not None
        for path in (prediction.npz or prediction.path, prediction.series.label):
            total.update(prediction.series.series_id.encode() + sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
