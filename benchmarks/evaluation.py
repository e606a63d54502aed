"""How fast predictions of several models are evaluated and reported, against MONAI's metrics on the same files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.process import alternate, measured
from data_modules.cohort.series import read_series
from data_modules.cohort.table import read_cohort, write_cohort
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.evaluation.metrics.lesions import protocol_prior
from iac_lightning.evaluation.metrics.surface import TOLERANCE_MM
from iac_lightning.workflows.external.predictions import Prediction, find_predictions, measure_prediction

SHAPE = (64, 64, 64)
SPACINGS_MM = ((0.45, 0.45, 0.625), (0.5, 0.5, 1.0), (0.43, 0.43, 3.0), (0.49, 0.49, 5.0))
SERIES_PER_PATIENT = 2
PEER_SERIES = 20
"""Most series of the comparison with the peer, which reads and measures one after the other."""


def bench_evaluation(folder: Path, models: int = 2, series: int = 40, workers: int = 2) -> dict[str, Any]:
    """Whole commands on a table of models × series, and one process against MONAI on some of its files.

    Every fourth model (from the second on) gives probabilities instead of masks.

    Args:
        folder: for the files.
        models: sets of predictions.
        series: scans of 64 × 64 × 64 voxels.
        workers: processes of `iac evaluate`.

    Returns:
        `evaluate` (all models one after the other) and `report`: `seconds`, `cpu_seconds`, `peak_memory_gib` (of all
        their processes together); `metrics`: milliseconds a series, ours and MONAI's, and their ratio.
    """
    cohort = make_table(folder, models, series)
    commands = [
        [
            *("evaluate", "--predictions", str(folder / f"model{m}"), "--cohort", str(cohort)),
            *("--split", "dev", "--workers", str(workers)),
        ]
        for m in range(models)
    ]
    parts = [measured(command) for command in commands]
    names = [str(folder / f"model{m}") for m in range(models)]
    found, problems = find_predictions(Path(names[0]), read_cohort(cohort).split("dev")[:PEER_SERIES])
    found = found[:PEER_SERIES]
    assert len(found) == min(series, PEER_SERIES), problems
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        peer, ours, ratio = alternate(lambda: seconds_monai(found), lambda: seconds_ours(found), 3)
    finally:
        torch.set_num_threads(threads)
    return {
        "models": models,
        "series": series,
        "shape": SHAPE,
        "workers": workers,
        "evaluate": {
            "seconds": sum(p["seconds"] for p in parts),
            "cpu_seconds": sum(p["cpu_seconds"] for p in parts),
            "peak_memory_gib": max(p["peak_memory_gib"] for p in parts),
        },
        "report": measured(["report", *names, "--split", "dev", "--out", str(folder / "report")]),
        "metrics": {
            "milliseconds": 1000 * float(np.median(ours)) / len(found),
            "monai_milliseconds": 1000 * float(np.median(peer)) / len(found),
            "ratio": ratio,
        },
    }


def seconds_ours(predictions: Sequence[Prediction]) -> float:
    """Seconds for all figures of each series, plain and after the protocol prior, files read."""
    start = time.perf_counter()
    for prediction in predictions:
        measured = measure_prediction(prediction)
        assert not isinstance(measured, str), measured
    return time.perf_counter() - start


def seconds_monai(predictions: Sequence[Prediction]) -> float:
    """Seconds for Dice, surface Dice and Hausdorff distance of the same two masks of each series by MONAI."""
    start = time.perf_counter()
    for prediction in predictions:
        monai_figures(prediction)
    return time.perf_counter() - start


def monai_figures(prediction: Prediction) -> list[dict[str, float]]:
    """Dice, `nsd_1mm` and `hd95_mm` by MONAI, after the annotation protocol and plain."""
    assert prediction.series.label is not None
    label = np.asarray(nib.load(prediction.series.label).dataobj) > 0
    mask = np.asarray(nib.load(prediction.path).dataobj) >= (prediction.threshold or 1)
    scan = read_series(prediction.series)
    result = protocol_prior(Volume(mask, scan.grid), scan.volume).data
    target = torch.from_numpy(label)[None, None].float()
    spacing = scan.grid.spacing_mm
    rows = []
    for predicted in (result, mask):
        p = torch.from_numpy(predicted)[None, None].float()
        surface = {"include_background": True, "spacing": spacing}
        rows.append(
            {
                "dice": float(compute_dice(p, target, ignore_empty=False)),
                "nsd_1mm": float(compute_surface_dice(p, target, class_thresholds=[TOLERANCE_MM], **surface)),
                "hd95_mm": float(compute_hausdorff_distance(p, target, percentile=95, **surface)),
            }
        )
    return rows


def make_table(folder: Path, models: int, series: int, seed: int = 0) -> Path:
    """A cohort of small scans with labels, and a folder of predictions for each model; files that exist are kept.

    Returns:
        Path of the cohort table.
    """
    rows = []
    for k in range(series):
        rng = np.random.default_rng([seed, k])
        name, patient = f"P{k // SERIES_PER_PATIENT:04d}_S{k % SERIES_PER_PATIENT}", f"P{k // SERIES_PER_PATIENT:04d}"
        spacing = SPACINGS_MM[int(rng.integers(len(SPACINGS_MM)))]
        grid = Grid(SHAPE, np.diag([*spacing, 1.0]))
        hu, label = invented_scan(rng)
        paths = (f"images/{name}.nii.gz", f"labels/{name}.nii.gz")
        rows.append((patient, name, *paths, "dev", spacing[2], *spacing, "", "", float("nan")))
        write_nifti(Volume(hu, grid), folder / paths[0])
        write_nifti(Volume(label, grid), folder / paths[1])
        for m in range(models):
            mask = invented_prediction(label, np.random.default_rng([seed, k, m]), quality=0.95 - 0.04 * m)
            if m % 4 == 1:
                blurred = ndimage.gaussian_filter(mask.astype(np.float32), 0.6) + rng.exponential(0.01, SHAPE)
                volume = Volume((np.clip(blurred, 0, 1) * 256).round().astype(np.float32) / np.float32(256), grid)
            else:
                volume = Volume(mask, grid)
            write_nifti(volume, folder / f"model{m}" / f"{name}.nii.gz")
    columns = ["patient_id", "series_id", "image", "label", "split", "slice_thickness_mm"]
    columns += ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "kernel", "manufacturer", "true_volume_mm3"]
    write_cohort(folder / "cohort.csv", pd.DataFrame(rows, columns=columns))
    return folder / "cohort.csv"


def invented_scan(rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """HU of brain, bone and air with noise, and sparse bright lesions of a few voxels (none in every fifth scan)."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + 0.5 * z**2)
    hu = np.where(radius < 0.9, 35.0, np.where(radius < 1.05, 900.0, -1000.0)) + rng.normal(0, 15, SHAPE)
    label = np.zeros(SHAPE, dtype=bool)
    for _ in range(0 if rng.random() < 0.2 else int(rng.integers(1, 8))):
        centre, extent = rng.integers(14, 50, 3), rng.integers(1, 5, 3)
        label[tuple(slice(c, c + e) for c, e in zip(centre, extent, strict=True))] = True
    hu[label] = rng.uniform(130, 700, int(label.sum()))
    return hu.round().astype(np.int16), label


def invented_prediction(label: NDArray[np.bool_], rng: np.random.Generator, quality: float) -> NDArray[np.bool_]:
    """The label with lesions lost, shifted by a voxel or grown, and some false alarms."""
    ids, n = ndimage.label(label)
    kept = np.isin(ids, 1 + np.flatnonzero(rng.random(n) < quality))
    if rng.random() < 0.5:
        kept = np.roll(kept, int(rng.integers(-1, 2)), axis=int(rng.integers(3)))
    if rng.random() < 0.3:
        kept = ndimage.binary_dilation(kept)
    for _ in range(int(rng.poisson(1.5))):
        corner = rng.integers(4, 56, 3)
        kept[tuple(slice(c, c + int(rng.integers(1, 4))) for c in corner)] = True
    return kept
