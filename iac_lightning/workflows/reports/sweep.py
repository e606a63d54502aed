"""Evaluated sweeps in one page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.look import GUARDED
from data_modules.errors import UserError
from iac_lightning.config.reading import config_hash, load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.ablation.ablation import Ablation, analyse_ablation
from iac_lightning.evaluation.ablation.cells import VARIANTS, Training
from iac_lightning.evaluation.ablation.claims import assess_claims
from iac_lightning.evaluation.ablation.recipes import Candidate
from iac_lightning.evaluation.clinical.risk import RiskCutoffs
from iac_lightning.evaluation.tables.summary import read_series_table
from iac_lightning.modules.callbacks import read_history
from iac_lightning.report.sweep.answer import EVALUATED, CellResult, SweepResult
from iac_lightning.report.sweep.page import PageContext, write_sweep_page
from iac_lightning.runs.looks import record_look
from iac_lightning.sweeps.state import PLAN, reading_plan

SEED = 0
"""Of the resamples: a sweep has many seeds, and its page must not depend on which came first."""


def all_sweeps(folders: Sequence[Path]) -> bool:
    """Whether the folders of a report are sweeps.

    Raises:
        UserError: when some are and some are not.
    """
    sweeps = [folder for folder in folders if (folder / PLAN).exists()]
    if sweeps and len(sweeps) < len(folders):
        others = [folder for folder in folders if folder not in sweeps]
        raise UserError(
            f"{', '.join(map(str, sweeps))} {'is a sweep' if len(sweeps) == 1 else 'are sweeps'}, "
            f"{', '.join(map(str, others))} not, and a page compares either sweeps or runs. Report them one after the "
            "other, or give the runs inside the sweep (its sub-folders) beside the other runs."
        )
    return bool(sweeps)


def sweep_report(folders: Sequence[Path], out: Path, command: str = "") -> Path:
    """Write the page of one sweep or several from what their cells left.

    Cells without a result are shown as such. Nothing but what is on disk decides the page: the same results give the
    same bytes.

    Args:
        folders: of the sweeps, each with `sweep.json`.
        out: folder of `index.html`, `cells`, `effects` and `claims` (`.csv` and `.tex`).
        command: how the page is made again; by default `iac report …`.

    Returns:
        Path of the page.

    Raises:
        UserError: when a folder is no sweep, or sweeps were evaluated on different scans.
    """
    plans = {folder: read_plan(folder) for folder in folders}
    names = [plan["name"] for plan in plans.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one sweep is called {', '.join(twice)}: give each sweep once, under its own name")
    splits = sorted({plan["split"] for plan in plans.values()})
    if len(splits) > 1:
        raise UserError(f"the sweeps were compared on different splits ({', '.join(splits)}); report them one by one")
    found = {folder: result(folder, plan) for folder, plan in plans.items()}
    pooled: dict[str, Candidate] = {}
    for folder, plan in plans.items():
        for candidate in candidates(folder, plan, found[folder]):
            pooled.setdefault(config_hash(candidate.config), candidate)
    claims = assess_claims(list(pooled.values()), cutoffs=fixed_cutoffs(plans), seed=SEED)
    title = f"Ablation: {names[0]}" if len(names) == 1 else f"Ablations: {', '.join(names)}"
    words = " ".join(shown(folder) for folder in folders)
    context = PageContext(
        title=title,
        seed=SEED,
        command=command or f"iac report {words} --out {shown(out)}",
        **provenance(plans, found),
    )
    return write_sweep_page(out, list(found.values()), claims, context)


def read_plan(folder: Path) -> dict[str, Any]:
    """What `iac sweep` planned, levels under the names that readers know (`report.roles`).

    Raises:
        UserError: when there is no plan, or it lacks something.
    """
    with reading_plan(folder) as plan:
        settings = plan.get("report") or {}
        roles: dict[str, dict[str, str]] = settings.get("roles") or {}

        def named(axis: str, level: Any) -> str:
            return str(roles.get(axis, {}).get(str(level), level))

        def renamed(levels: Mapping[str, Any]) -> dict[str, str]:
            return {axis: named(axis, level) for axis, level in levels.items()}

        numeric = settings.get("numeric") or {}
        return {
            "name": plan["name"],
            "question": plan.get("question") or "Which level of each factor gives the highest Dice?",
            "caveat": plan.get("caveat") or "",
            "split": plan.get("split", "test"),
            "factors": {axis: tuple(named(axis, level) for level in levels) for axis, levels in plan["axes"].items()},
            "cells": [
                {**{key: cell[key] for key in ("name", "kind", "seed", "run")}, "levels": renamed(cell["levels"])}
                | {"needs": cell.get("needs", [])}
                for cell in plan["cells"]
            ],
            "baseline": renamed(settings.get("baseline") or {}),
            "numeric": {a: {named(a, k): float(v) for k, v in found.items()} for a, found in numeric.items()},
            "variants": settings.get("variants"),
            "risk_cutoffs_mm3": settings.get("risk_cutoffs_mm3"),
        }


def result(folder: Path, plan: Mapping[str, Any]) -> SweepResult:
    """States of a sweep's cells, and the effects of its factors; a look at the test split is recorded with each."""
    split = plan["split"]
    cells = [cell_result(folder, cell, split) for cell in plan["cells"]]
    for row, cell in zip(cells, plan["cells"], strict=True):
        if split == GUARDED and row.kind != "pretrain" and row.state == EVALUATED:
            directory = folder / cell["run"]
            settings = config_hash(load_experiment(directory / "config.yaml"), "inference", "evaluation")
            weights = _json(directory / "evaluation" / f"{split}.json").get("checkpoint_sha256")
            record_look(directory, "sweep report", split, settings, weights)
    trainings = [
        Training(levels=row.levels, seed=row.seed, table=table_of(folder / cell["run"], split))
        for row, cell in zip(cells, plan["cells"], strict=True)
        if row.kind != "pretrain" and row.state == EVALUATED
    ]
    return SweepResult(
        name=plan["name"],
        question=plan["question"],
        caveat=plan["caveat"],
        split=split,
        factors=plan["factors"],
        cells=cells,
        ablation=ablation(trainings, plan) if trainings else None,
        seed=SEED,
    )


def ablation(trainings: Sequence[Training], plan: Mapping[str, Any]) -> Ablation:
    """Effects of the factors; calibration is one where the sweep names its variants and every table has both."""
    wanted = [v for v in VARIANTS if v in (plan["variants"] or ())]
    both = all(f"{VARIANTS[v]}dice" in t.table for t in trainings for v in wanted)
    return analyse_ablation(
        trainings,
        plan["factors"],
        baselines=plan["baseline"],
        numeric=plan["numeric"],
        variants=wanted if both else (),
        seed=SEED,
    )


def cell_result(folder: Path, cell: Mapping[str, Any], split: str) -> CellResult:
    """What became of a planned run."""
    directory = folder / cell["run"]
    note = _json(folder / "cells" / f"{cell['name']}.json")
    finished = _json(directory / "finished.json")
    trained = (directory / "finished.json").exists()
    if trained and (cell["kind"] == "pretrain" or (directory / "evaluation" / f"{split}.csv").exists()):
        state = EVALUATED if cell["kind"] != "pretrain" else "trained"
    elif note.get("state") == "failed":
        state = "failed"
    else:
        state = "trained" if trained else "begun" if (directory / "config.yaml").exists() else "not run"
    history = directory / "logs" / "history.jsonl"
    seconds = finished.get("seconds")
    if seconds is None and trained and history.exists():
        seconds = sum(row.get("seconds", 0) for row in read_history(history))
    return CellResult(
        name=cell["name"],
        kind=cell["kind"],
        levels=cell["levels"],
        seed=cell["seed"],
        state=state,
        reason=str(note.get("reason", "")) if state == "failed" else "",
        seconds=None if seconds is None else float(seconds),
        parameters=finished.get("parameters"),
        needs=tuple(cell["needs"]),
    )


def candidates(folder: Path, plan: Mapping[str, Any], found: SweepResult) -> list[Candidate]:
    """Evaluated trainings with their settings and those of their pre-training."""
    runs = {cell["name"]: folder / cell["run"] for cell in plan["cells"]}
    kinds = {cell["name"]: cell["kind"] for cell in plan["cells"]}
    rows = []
    for cell, row in zip(plan["cells"], found.cells, strict=True):
        if row.kind == "pretrain" or row.state != EVALUATED:
            continue
        directory = runs[cell["name"]]
        config = load_experiment(directory / "config.yaml")
        sources = [runs[name] for name in cell["needs"] if kinds.get(name) == "pretrain"]
        sources += [Path(config.init_from)] if config.init_from else []
        rows.append(
            Candidate(
                config=config,
                pretraining=_first_config(sources) if config.init_from else None,
                table=table_of(directory, plan["split"]),
                dev=table_of(directory, "dev") if (directory / "evaluation" / "dev.csv").exists() else None,
                stress=_stress(directory / "stress" / f"{plan['split']}.csv"),
            )
        )
    return rows


def table_of(directory: Path, split: str) -> pd.DataFrame:
    """Table of an evaluation."""
    return read_series_table(directory / "evaluation" / f"{split}.csv")


def fixed_cutoffs(plans: Mapping[Path, Mapping[str, Any]]) -> RiskCutoffs | None:
    """Cut-offs of the risk groups that a sweep's file fixes; the first that does counts."""
    for folder, plan in plans.items():
        limits = plan["risk_cutoffs_mm3"]
        if limits:
            try:
                none, low, medium = (float(limits.get(k, 0)) for k in ("none", "low", "medium"))
            except (AttributeError, TypeError, ValueError):
                raise UserError(
                    f"{folder / PLAN}: report.risk_cutoffs_mm3 is {limits!r}, expected {{none: 0, low: …, medium: …}}"
                ) from None
            return RiskCutoffs(none_mm3=none, low_mm3=low, medium_mm3=medium, source="fixed in the sweep's file")
    return None


def provenance(plans: Mapping[Path, Mapping[str, Any]], found: Mapping[Path, SweepResult]) -> dict[str, str]:
    """Code and data of the first evaluated cell."""
    for folder, plan in plans.items():
        for cell, row in zip(plan["cells"], found[folder].cells, strict=True):
            known = _json(folder / cell["run"] / "provenance.json") if row.state == EVALUATED else {}
            if known:
                git = known.get("git") or {}
                words = [str(git.get("commit", "unknown")), "(with local changes)" if git.get("dirty") else ""]
                return {"git": " ".join(words).strip(), "fingerprint": str(known.get("data_fingerprint", ""))}
    return {}


def shown(path: Path) -> str:
    """A path for readers: relative where that is possible, without other folders where it is not."""
    relative = Path(os.path.relpath(path)) if path.is_absolute() else path
    return f"…/{path.name}" if relative.parts[:1] == ("..",) else str(relative)


def _first_config(folders: Sequence[Path]) -> ExperimentConfig | None:
    for folder in folders:
        if (folder / "config.yaml").is_file():
            return load_experiment(folder / "config.yaml")
    return None


def _stress(path: Path) -> pd.DataFrame | None:
    return read_series_table(path) if path.exists() else None


def _json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return data
