"""The whole path on a phantom cohort: pre-train, fine-tune with and without, opponents, evaluation, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.phantom.cohort import make_phantom_cohort
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.config.reading import load_experiment
from iac_lightning.report.words import interval, number
from iac_lightning.runs.directory import load_run
from iac_lightning.sweeps.local import cores
from iac_lightning.tracking.store import create_store

MODELS = ("vit_mae", "vit_scratch", "vit_depth0", "cnn")
"""`vit_depth0` is `vit_scratch` without its transformer blocks, trained the same way: what the blocks are worth."""
AT_ONCE = 2
"""Trainings at the same time: two single-threaded processes beat one with two threads."""
FRACTIONS = {"pretrain": 0.42, "finetune": 0.28, "dev": 0.12, "test": 0.18}
CAVEAT = (
    "This demonstration is made to be finished on two CPU cores in a quarter of an hour: small networks, few steps, "
    "simulated heads, one seed. It shows that every part works. It ranks nothing."
)
WITHOUT = (
    "Without tokens: each replaced by the mean of its crop. vit_depth0: tokeniser and decoder alone, trained as "
    "vit_scratch; the difference is what the transformer is worth."
)


def demo(experiments: Path, out: Path, data: Path, patients: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Run all of it; called again, it continues where it was.

    Args:
        experiments: folder with `mae.yaml` and a file for each of `MODELS`.
        out: results: `<out>/<model>/`, `<out>/results.json`, `<out>/report/index.html`.
        data: where the phantom cohort is made.
        patients: its size.
        overrides: settings for every experiment.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: naming the steps that failed.
    """
    start = time.monotonic()
    shared = [
        f"runs_dir={out.parent}",
        f"data.cohort={data / 'cohort.csv'}",
        *overrides,
    ]

    def settings(name: str) -> list[str]:
        own = [f"name={out.name}/{name}"]
        if name == "vit_mae":
            own.append(f"init_from={out / 'mae'}")
        return [*own, *shared]

    configs = {name: load_experiment(experiments / f"{name}.yaml", settings(name)) for name in ("mae", *MODELS)}
    stage("phantom cohort", start)
    make_phantom_cohort(data, patients, seed=0, workers=cores(), max_series=2, fractions=FRACTIONS)
    stage("volumes on the common grid", start)
    config = configs["mae"]
    config.data.prepare_workers = cores()
    prepare_cohort(config.data)
    create_store(config)
    stage("training: two models at once", start)
    jobs: dict[str, Future[str | None]] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name in (
            "mae",
            "cnn",
            "vit_scratch",
            "vit_depth0",
            "vit_mae",
        ):  # vit_mae waits for mae, which has begun long before
            earlier = jobs["mae"] if name == "vit_mae" else None
            jobs[name] = pool.submit(run_job, name, experiments / f"{name}.yaml", settings(name), out / name, earlier)
    failures = [failed for job in jobs.values() if (failed := job.result())]
    if failures:
        raise UserError(f"these steps of the demo failed: {', '.join(failures)}. Their messages stand above.")
    stage("report", start)
    results = collect(out)
    write_json_atomic(out / "results.json", results)
    from iac_lightning.workflows.reports.models import report

    page = report([load_run(out / name) for name in MODELS], out / "report", "test", caveat=CAVEAT)
    print(summary_lines(results, page, time.monotonic() - start))
    return results


def stage(name: str, start: float) -> None:
    """A heading with the time so far."""
    print(f"\n== {name}  ({time.monotonic() - start:.0f} s)", flush=True)


def run_job(
    name: str, experiment: Path, settings: Sequence[str], run: Path, earlier: Future[str | None] | None
) -> str | None:
    """Train one model and evaluate it, each in a process of its own; returns what failed, or None.

    Args:
        name: of the model.
        experiment: its YAML file.
        settings: that win over the file.
        run: its run directory.
        earlier: a job that it needs.
    """
    if earlier is not None and earlier.result():
        return None  # named already by the job that failed
    steps = [["pretrain" if name == "mae" else "finetune", str(experiment), *settings]]
    if name in MODELS:
        steps.append(["evaluate", str(run), "--split", "dev", "evaluation.controls=false"])  # asked on test alone
        steps.append(["evaluate", str(run), "--split", "test"])
    for step in steps:
        if run_step(step):
            return f"iac {step[0]} ({name})"
    return None


def run_step(step: Sequence[str]) -> int:
    """One `iac` command in a process of its own; returns its status.

    Its lines are passed on: on a terminal of their own, the progress bars of two trainings would overwrite each other.
    """
    threads = str(max(1, cores() // AT_ONCE))
    with subprocess.Popen(
        [sys.executable, "-m", "iac_lightning.cli", *step],
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    return process.returncode


def collect(out: Path) -> dict[str, Any]:
    """One entry a model, from its evaluation on the test split.

    `dice_mean_tokens` is the Dice with every token replaced by the mean of its crop; none of a CNN.
    """
    results = {}
    for name in MODELS:
        summary = json.loads((out / name / "evaluation" / "test.json").read_text(encoding="utf-8"))
        results[name] = {
            "dice": summary["dice"]["mean"],
            "dice_ci95": summary["dice"]["ci95"],
            "threshold": summary["threshold"],
            "volume_icc": summary["volume_icc"]["value"],
            "n_series": summary["n_series"],
            "n_patients": summary["n_patients"],
            "dice_mean_tokens": summary["controls"]["mean_tokens"]["dice"]["mean"] if "controls" in summary else None,
        }
    return results


def summary_lines(results: dict[str, Any], page: Path, seconds: float) -> str:
    """What the demo found, for the terminal."""
    lines = ["", f"{'model':12s}  test Dice [95 % CI over patients]  without tokens  volume ICC   scans / patients"]
    for name, r in results.items():
        dice = interval(r["dice"], *r["dice_ci95"])
        without, icc = number(r["dice_mean_tokens"], 3), number(r["volume_icc"], 2)
        lines.append(f"{name:12s}  {dice:33s} {without:>14s} {icc:>11s}       {r['n_series']} / {r['n_patients']}")
    return "\n".join([*lines, "", WITHOUT, CAVEAT, f"Report: {page}   ({seconds / 60:.1f} minutes)"])
