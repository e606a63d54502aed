"""Speed and memory, as ratios against a peer that does the same work in the same run.

Absolute seconds depend on the machine; a ratio to a peer measured in turn with it (A B A B …) travels.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_table import PARTS, bench_table
from benchmarks.evaluation import bench_evaluation
from benchmarks.intake import bench_import
from benchmarks.mae_step import bench_mae_step
from benchmarks.patches import bench_patches
from benchmarks.process import measured
from benchmarks.settings_cost import bench_settings
from data_modules.files import write_json_atomic
from iac_lightning.config.reading import load_experiment
from iac_lightning.runs.directory import open_run
from iac_lightning.workflows.calibrate import calibration_file
from iac_lightning.workflows.trained import file_digest


def bench(
    out: Path,
    scan: Path | None,
    template: Path | None,
    run: Path | None,
    models: int = 2,
    series: int = 40,
    parts: Sequence[str] = PARTS,
) -> dict[str, Any]:
    """Measure all of it, write each part as JSON as soon as it is known, and print a table.

    Args:
        out: JSON file.
        scan: a real head CT to prepare and predict; without it that part is left out.
        template: template to register that scan to.
        run: segmentation run that predicts it; by default a network of the demo's sizes with random weights, which
            takes the same time.
        models: sets of predictions to evaluate.
        series: scans of each.
        parts: of `PARTS`; figures of the others that stand in `out` are forgotten.
    """
    results: dict[str, Any] = {
        "machine": {"cpu_count": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measures: dict[str, Callable[[], Any]] = {
            "patches": lambda: bench_patches(folder / "patches"),
            "mae_step": bench_mae_step,
            "settings": bench_settings,
            "evaluation": lambda: bench_evaluation(folder / "evaluation", models, series),
            "import": lambda: bench_import(folder / "import"),
        }
        todo = {part: measures[part] for part in PARTS if part in parts}
        if scan:
            todo["scan"] = lambda: bench_scan(folder, scan, template, run)
        for part, measure in todo.items():
            results[part] = measure()
            write_json_atomic(out, results)
    print(bench_table(results))
    return results


def bench_scan(folder: Path, scan: Path, template: Path | None, run: Path | None) -> dict[str, Any]:
    """Seconds and peak memory of whole processes: preparing a one-scan cohort, and predicting the scan."""
    if run is None:
        run = throwaway_run(folder)
    predict = ["predict", str(scan), str(folder / "prediction"), "--run", str(run), "--allow-phantom-model"]
    if template:
        predict += ["--template", str(template)]
    cohort = folder / "scan.csv"
    cohort.write_text(
        "patient_id,series_id,image,label,split,slice_thickness_mm,kernel,manufacturer\n"
        f"A,A_1,{scan.absolute()},,pretrain,5,,\n"
    )
    prepare = ["prepare", "experiments/demo/mae.yaml", f"data.cohort={cohort}", "data.prepare_workers=1"]
    if template:
        prepare.append(f"data.grid.template={template}")
    return {"prepare": measured(prepare), "predict": measured(predict)}


def throwaway_run(folder: Path, *settings: str) -> Path:
    """A run directory with the demo's network, or another, and random weights: timing does not need a trained one."""
    from iac_lightning.modules.segmentation_module import SegmentationModule

    config = load_experiment(
        Path("experiments/demo/vit_scratch.yaml"),
        ["name=bench", f"runs_dir={folder}", "tracking.enabled=false", *settings],
    )
    with open_run(config) as run:
        module = SegmentationModule(config)
        path = run.checkpoints_dir / "best.ckpt"
        checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, path)
        calibration = {"checkpoint_sha256": file_digest(path), "temperature": 1.0, "bias": 0.0}
        calibration |= {"n_series": 0, "n_patients": 0, "plain_threshold": 0.5, "plain_thickness": {"used": False}}
        point = {"aim": "balanced", "rule": "protocol", "least_lesion_mm3": 0.0, "threshold": 0.5}
        calibration["operating_point"] = {**point, "thickness": {"used": False}}
        write_json_atomic(calibration_file(run), calibration)
        return run.directory
