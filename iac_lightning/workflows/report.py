"""Evaluated runs beside each other in one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort import Series, read_cohort
from data_modules.ct import read_mask, read_scan
from data_modules.errors import UserError
from iac_lightning.callbacks import read_history
from iac_lightning.evaluation import figures
from iac_lightning.evaluation.report import ExtraFigure, ModelResult, Overlay, ReportContext, write_report
from iac_lightning.evaluation.summary import example_series, read_series_table
from iac_lightning.runs import Run, load_run
from iac_lightning.schema import ExperimentConfig

QUESTION = "How well does each model segment and measure intracranial arterial calcification, and is one better?"


def report(runs: Sequence[Run], out: Path, split: str, caveat: str = "", command: str = "") -> Path:
    """Write the page from what `iac evaluate` left in each run.

    Args:
        runs: evaluated segmentation runs, in the order of the tables.
        out: folder of `index.html`.
        split: which evaluation.
        caveat: what the figures cannot say.
        command: how the page is made again; by default `iac report …`.

    Returns:
        Path of the page.

    Raises:
        UserError: when a run was not evaluated on the split, or two have the same name.
    """
    names = [run.config.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one run is called {', '.join(twice)}: give each run once, under a name of its own")
    labels = model_labels([run.config for run in runs])
    models = {run.config.name: model_result(run, label, split) for run, label in zip(runs, labels, strict=True)}
    first = runs[0]
    provenance = first.provenance
    git = provenance.get("git") or {}
    cohort = Path(first.config.data.cohort)
    sheet = cohort.parent / "contact_sheet.png"
    grid = first.config.data.grid
    context = ReportContext(
        title="Intracranial arterial calcification: models compared",
        question=QUESTION,
        caveat=caveat,
        split=split,
        seed=first.config.seed,
        command=command or f"iac report {' '.join(str(r.directory) for r in runs)} --out {out} --split {split}",
        git=" ".join([str(git.get("commit", "unknown")), "(with local changes)" if git.get("dirty") else ""]).strip(),
        fingerprint=str(provenance.get("data_fingerprint", "")),
        contact_sheet=sheet if sheet.exists() else None,
        data=[
            cohort_sentence(read_cohort(cohort).series),
            f"Networks see a common grid of {' × '.join(f'{s:g}' for s in grid.spacing_mm)} mm; every figure is "
            "computed on the native grid of each scan.",
        ],
        figures=[
            *(training_curves(run, label) for run, label in zip(runs, labels, strict=True)),
            *reconstructions(runs),
        ],
    )
    return write_report(out, models, context)


def model_result(run: Run, label: str, split: str) -> ModelResult:
    """What the page needs of one run."""
    folder = run.directory / "evaluation"
    path = folder / f"{split}.json"
    if not path.exists():
        raise UserError(f"{path} does not exist. Evaluate the run first: iac evaluate {run.directory} --split {split}")
    summary: dict[str, Any] = json.loads(path.read_text())
    table = read_series_table(folder / f"{split}.csv")
    finished = run.finished
    return ModelResult(
        name=run.config.name,
        label=label,
        table=table,
        summary=summary,
        threshold=summary["threshold"],
        prior_threshold=summary["prior_threshold"],
        parameters=finished.get("parameters"),
        train_seconds=sum(row.get("seconds", 0) for row in read_history(run.directory / "logs" / "history.jsonl")),
        overlays=overlays(run, table, split),
    )


def model_labels(configs: Sequence[ExperimentConfig]) -> list[str]:
    """A reader's name for each model; the run's name is added where two would be called the same."""
    labels = [model_label(config) for config in configs]
    return [
        label if labels.count(label) == 1 else f"{label} ({config.name})"
        for label, config in zip(labels, configs, strict=True)
    ]


def model_label(config: ExperimentConfig) -> str:
    """Such as ``ViT, MAE pre-trained``."""
    if config.model.name == "cnn":
        return f"CNN ({config.model.cnn.encoder}, nnU-Net-style)"
    return "ViT, MAE pre-trained" if config.init_from else "ViT, from scratch"


def overlays(run: Run, table: pd.DataFrame, split: str) -> list[Overlay]:
    """Best, median and worst scan of a model, label and prediction outlined."""
    series = {s.series_id: s for s in read_cohort(run.config.data.cohort).series}
    found = []
    for kind, series_id in example_series(table).items():
        item = series[series_id]
        scan = read_scan(item.image, series=item.extra.get("dicom_series") or None)
        assert item.label is not None
        mask = run.directory / "predictions" / split / f"{series_id}_mask.nii.gz"
        dice = float(table.loc[table["series_id"] == series_id, "dice"].iloc[0])
        figure = figures.overlay_figure(
            scan.volume,
            label=read_mask(item.label, like=scan.grid),
            prediction=read_mask(mask, like=scan.grid),
            probability=None,
            title=f"{kind}: {series_id}, Dice {dice:.2f}, {item.slice_thickness_mm:g} mm slices",
        )
        found.append(Overlay(kind=kind, series_id=series_id, dice=dice, png=figures.png(figure)))
    return found


def training_curves(run: Run, label: str) -> ExtraFigure:
    """Loss and development Dice by epoch."""
    rows = pd.DataFrame(read_history(run.directory / "logs" / "history.jsonl"))
    columns = [c for c in ("train/loss_epoch", "train/loss", "dev/dice") if c in rows][-2:]
    rows["epoch"] += 1
    figure = figures.training_figure(rows[["epoch", *columns]], f"{label}; seed {run.config.seed}")
    return ExtraFigure(
        title=f"Training: {label}",
        caption="Training loss, and Dice on the native grids of the development split at its best threshold, by epoch.",
        png=figures.png(figure),
    )


def reconstructions(runs: Sequence[Run]) -> list[ExtraFigure]:
    """What the masked autoencoders behind the runs restore."""
    found = []
    for source in dict.fromkeys(run.config.init_from for run in runs if run.config.init_from):
        path = Path(source) / "figures" / "reconstruction.png"
        if path.exists():
            config = load_run(Path(source)).config
            caption = (
                f"The masked autoencoder hides {config.model.mae.mask_ratio:.0%} of the tokens and restores them; "
                "a crop of a development scan, after the last epoch."
            )
            found.append(ExtraFigure(title="Pre-training", caption=caption, png=path.read_bytes()))
    return found


def cohort_sentence(series: Sequence[Series]) -> str:
    """Patients and series of each split, and the range of slice thickness."""
    parts = []
    for split in ("pretrain", "finetune", "dev", "test"):
        rows = [s for s in series if s.split == split]
        parts.append(f"{split} {len({s.patient_id for s in rows})} patients ({len(rows)} series)")
    thickness = [s.slice_thickness_mm for s in series]
    return f"Split by patient: {', '.join(parts)}. Slices of {min(thickness):g} to {max(thickness):g} mm."
