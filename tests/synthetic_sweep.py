"""Sweeps that nobody trained: evaluated tables with known effects, and the folders that `iac sweep` would leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_hash, to_yaml
from iac_lightning.evaluation.tables.series_table import COLUMNS, METRICS

REPOSITORY = Path(__file__).parent.parent
PATCHES = {"4×4×4": [4, 4, 4], "8×8×4": [8, 8, 4], "8×8×8": [8, 8, 8], "16×16×8": [16, 16, 8]}
UPSAMPLINGS = ("transposed", "interpolation", "pixelshuffle")


def invented(
    mean: float,
    key: Sequence[int],
    *,
    patients: int = 30,
    scans: int = 2,
    seed_sd: float = 0.01,
    patient_sd: float = 0.08,
    scan_sd: float = 0.03,
    per_mm: float = -0.02,
    gain: float = 0.05,
    bias: float = 0.0,
    cohort: int = 0,
) -> pd.DataFrame:
    """A table of a training: Dice around `mean` with effects of thickness, patient, training and scan.

    Args:
        mean: Dice at a slice thickness of 3 mm.
        key: of the training's own random draws.
        patients: every tenth has no lesion.
        scans: of each patient.
        seed_sd: spread of whole trainings.
        patient_sd: spread of the patients' difficulty, the same for all trainings of a cohort.
        scan_sd: spread of single scans of a training.
        per_mm: slope over slice thickness.
        gain: by which calibration improves Dice.
        bias: relative error of the volumes.
        cohort: of the shared draws.
    """
    shared, own = np.random.default_rng([cohort, 7]), np.random.default_rng([*key, 13])
    n = patients * scans
    patient = np.repeat(np.arange(patients), scans)
    thickness = np.asarray(shared.choice([0.8, 1.5, 3.0, 5.0, 7.5], n))
    lesion = patient % 10 != 9
    label = np.where(lesion, np.round(shared.gamma(1.5, 60, patients)[patient] * shared.uniform(0.8, 1.2, n) + 3, 2), 0)
    dice = mean + per_mm * (thickness - 3) + shared.normal(0, patient_sd, patients)[patient]
    dice = dice + own.normal(0, seed_sd) + own.normal(0, scan_sd, n)
    volume = np.where(lesion, label * np.exp(bias + own.normal(0, 0.15, n)), 0)
    table = pd.DataFrame(
        {
            "series_id": [f"p{p:03d}_s{s}" for p, s in zip(patient, np.tile(range(scans), patients), strict=True)],
            "patient_id": [f"p{p:03d}" for p in patient],
            "slice_thickness_mm": thickness,
            "has_lesion": lesion,
            "n_lesions": 2 * lesion,
            "n_small_lesions": 1 * lesion,
            "label_volume_mm3": label,
            "true_volume_mm3": np.nan,
            "label_agatston": np.nan,
        }
    )
    for prefix, shift in (("", 0.0), ("plain_", -0.02), ("uncalibrated_", -gain)):
        for name in METRICS:
            table[prefix + name] = np.nan
        table[f"{prefix}dice"] = np.where(lesion, dice + shift, 1.0)
        table[f"{prefix}volume_mm3"] = volume
        table[f"{prefix}both_empty"] = ~lesion
    assert set(COLUMNS) <= set(table)
    return table


@cache
def _loaded(experiment: str, overrides: tuple[str, ...]) -> ExperimentConfig:
    return load_experiment(REPOSITORY / "experiments" / experiment, overrides)


def write_run(
    directory: Path, table: pd.DataFrame, experiment: str, overrides: Sequence[str], seed: int, seconds: float
) -> str:
    """A finished, evaluated run; returns the hash of its settings."""
    (directory / "evaluation").mkdir(parents=True)
    config = replace(_loaded(experiment, tuple(overrides)), name=directory.name, seed=seed)
    (directory / "config.yaml").write_text(to_yaml(config))
    table.to_csv(directory / "evaluation" / "test.csv", index=False)
    (directory / "evaluation" / "test.json").write_text(json.dumps({"split": "test", "threshold": 0.3}))
    dev = table.assign(patient_id="d" + table["patient_id"], series_id="d" + table["series_id"])
    dev.to_csv(directory / "evaluation" / "dev.csv", index=False)
    (directory / "finished.json").write_text(json.dumps({"seconds": seconds, "parameters": 1_234_567}))
    return config_hash(config)


def write_sweep(
    folder: Path,
    axes: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]],
    mean: Callable[[Mapping[str, str]], float],
    *,
    seeds: Sequence[int] = (0, 1),
    missing: Callable[[Mapping[str, str], int], bool] = lambda levels, seed: False,
    report: Mapping[str, object] | None = None,
    table: Callable[[float, Sequence[int], Mapping[str, str]], pd.DataFrame] | None = None,
) -> Path:
    """A sweep's folder.

    Args:
        folder: where to.
        axes: factor to level to (experiment, or "" to keep that of another axis; settings).
        mean: expected Dice of a cell.
        seeds: of every cell.
        missing: which cells were not run.
        report: section `report` of `sweep.json`.
        table: makes the table of a cell from its mean, key and levels; by default `invented`.
    """
    make = table or (lambda mean, key, levels: invented(mean, key))
    cells = []
    for k, combination in enumerate(product(*axes.values())):
        levels = dict(zip(axes, combination, strict=True))
        chosen = [axes[name][level] for name, level in levels.items()]
        experiment = next((e for e, _ in chosen if e), "finetune/vit_scratch.yaml")
        for seed in seeds:
            name = ",".join(f"{a}={v}" for a, v in levels.items()) + f",seed={seed}"
            run = f"cell_{k:02d}_seed{seed}"
            overrides = [o for _, settings in chosen for o in settings]
            cell = {"name": name, "kind": "finetune", "levels": levels, "seed": seed, "run": run, "needs": []}
            cell |= {"experiment": experiment, "overrides": overrides, "config_hash": ""}
            if not missing(levels, seed):
                cell["config_hash"] = write_run(
                    folder / run, make(mean(levels), (k, seed), levels), experiment, overrides, seed, 600 + 60 * k
                )
            cells.append(cell)
    data = {"name": folder.name, "question": "Which patch size and which upsampling?", "split": "test"}
    data |= {"seeds": list(seeds), "axes": {name: list(levels) for name, levels in axes.items()}}
    data |= {"cells": cells, **({"report": dict(report)} if report else {})}
    (folder / "sweep.json").write_text(json.dumps(data, ensure_ascii=False))
    return folder


def patch_and_upsampling() -> dict[str, dict[str, tuple[str, Sequence[str]]]]:
    """Axes of four patch sizes and three upsamplings of the MAE-pre-trained ViT."""
    return {
        "patch size": {
            name: ("finetune/vit_mae.yaml", [f"model.vit.patch_size={size}"]) for name, size in PATCHES.items()
        },
        "upsampling": {name: ("", [f"model.decoder.upsampling={name}"]) for name in UPSAMPLINGS},
    }
