"""Evaluated sweeps in one page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.look import GUARDED, RecordedLook
from data_modules.errors import UserError
from data_modules.files import shown_path
from iac_lightning.config.reading import load_stored
from iac_lightning.config.schema import EvaluationConfig, ExperimentConfig
from iac_lightning.config.stored import config_hash, decisive_settings
from iac_lightning.evaluation.ablation.ablation import Ablation, analyse_ablation
from iac_lightning.evaluation.ablation.cells import VARIANTS, Training
from iac_lightning.evaluation.ablation.claims import assess_claims
from iac_lightning.evaluation.ablation.recipes import Candidate
from iac_lightning.evaluation.ablation.worth import worths
from iac_lightning.evaluation.clinical.risk import RiskCutoffs
from iac_lightning.evaluation.tables.series_table import read_series_table
from iac_lightning.modules.callbacks import read_history
from iac_lightning.report.sweep.page import PageContext, write_sweep_page
from iac_lightning.report.sweep.result import EVALUATED, CellResult, SweepResult
from iac_lightning.report.worth import missing_arms
from iac_lightning.runs.directory import git_words
from iac_lightning.runs.looks import end_look, record_look
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.keys import old_cutoffs
from iac_lightning.sweeps.state import PLAN, reading_plan
from iac_lightning.workflows.guard import changed_tables, register_again
from iac_lightning.workflows.reports.evaluated import evaluated_digest, fixed_cutoffs, pretraining_settings

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
        out: folder of `index.html`, `cells`, `effects`, `claims` and `worth` (`.csv` and `.tex`).
        command: how the page is made again; by default `iac report …`.

    Returns:
        Path of the page.

    Raises:
        UserError: when a folder is no sweep, or sweeps were evaluated on different scans.
    """
    plans = [read_plan(folder) for folder in folders]
    names = [plan.name for plan in plans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one sweep is called {', '.join(twice)}: give each sweep once, under its own name")
    splits = sorted({plan.split for plan in plans})
    if len(splits) > 1:
        raise UserError(f"the sweeps were compared on different splits ({', '.join(splits)}); report them one by one")
    taken: list[RecordedLook] = []
    results = [sweep_result(plan, taken) for plan in plans]
    pooled: dict[str, Candidate] = {}
    for plan, result in zip(plans, results, strict=True):
        for config, candidate in candidates(plan, result):
            pooled.setdefault(config_hash(config), candidate)
    claims = assess_claims(list(pooled.values()), cutoffs=first_cutoffs(plans), seed=SEED)
    worth = worths(list(pooled.values()), seed=SEED)
    context = PageContext(
        title=f"Ablation: {names[0]}" if len(names) == 1 else f"Ablations: {', '.join(names)}",
        seed=SEED,
        command=command or f"iac report {' '.join(map(shown_path, folders))} --out {shown_path(out)}",
        missing_arms=missing_arms(worth, list(pooled.values())),
        attention=attention(plans),
        **code_and_data(plans, results),
    )
    page = write_sweep_page(out, results, claims, worth, context)
    for look in taken:
        end_look(look)
    return page


@dataclass(frozen=True, kw_only=True)
class ReportPlan:
    """What the report reads in a sweep's plan; levels under the names that readers know (`report.roles`).

    Attributes:
        folder: of the sweep.
        name: of the sweep.
        question: what it asks.
        caveat: what the numbers cannot say.
        split: on which its cells are compared.
        factors: factor to its levels.
        cells: all planned runs.
        baselines: factor to the level that others are compared with, where the file says.
        numeric: factor to level to number, where the file says.
        variants: with and without calibration, where the file asks for both.
        risk_cutoffs_mm3: of the risk groups, where they are fixed.
    """

    folder: Path
    name: str
    question: str
    caveat: str
    split: str
    factors: Mapping[str, Sequence[str]]
    cells: Sequence[Cell]
    baselines: Mapping[str, str]
    numeric: Mapping[str, Mapping[str, float]]
    variants: Sequence[str]
    risk_cutoffs_mm3: tuple[float, float, float] | None


def read_plan(folder: Path) -> ReportPlan:
    """What `iac sweep` planned.

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
        cells = [Cell.from_dict(cell) for cell in plan["cells"]]
        limits, before = plan.get("risk_cutoffs_mm3"), settings.get("risk_cutoffs_mm3")
        return ReportPlan(
            folder=folder,
            name=plan["name"],
            question=plan.get("question") or "Which level of each factor gives the highest Dice?",
            caveat=plan.get("caveat") or "",
            split=plan.get("split", "test"),
            factors={axis: tuple(named(axis, level) for level in levels) for axis, levels in plan["axes"].items()},
            cells=[replace(cell, levels=renamed(cell.levels)) for cell in cells],
            baselines=renamed(settings.get("baseline") or {}),
            numeric={a: {named(a, k): float(v) for k, v in levels.items()} for a, levels in numeric.items()},
            variants=settings.get("variants") or (),
            risk_cutoffs_mm3=tuple(limits) if limits else old_cutoffs(before) if before else None,
        )


def sweep_result(plan: ReportPlan, taken: list[RecordedLook]) -> SweepResult:
    """States of a sweep's cells, and the effects of its factors; a look at the test split is recorded with each.

    Args:
        plan: of the sweep.
        taken: the looks are added to it.
    """
    cells = [cell_result(plan, cell) for cell in plan.cells]
    trainings = []
    for group in whole_trainings(plan.cells, cells):
        directories = [plan.folder / cell.run for cell in group]
        if plan.split == GUARDED:
            (directory,) = directories  # folds are compared on their development sets
            config, summary = load_stored(directory / "config.yaml"), summary_of(directory, plan.split)
            settings, weights = config_hash(config, "inference", "evaluation"), summary.get("checkpoint_sha256")
            seen = evaluated_digest(directory)
            taken.append(record_look(directory, "sweep report", plan.split, settings, weights, seen))
            register_again(Path(config.data.cohort), taken[-1], "sweep report", summary)
        table = table_of(directories, plan.split)
        trainings.append(Training(levels=group[0].levels, seed=group[0].seed, table=table))
    return SweepResult(
        name=plan.name,
        question=plan.question,
        caveat=plan.caveat,
        split=plan.split,
        factors=plan.factors,
        cells=cells,
        ablation=ablation(trainings, plan) if trainings else None,
        seed=SEED,
    )


def summary_of(directory: Path, split: str) -> dict[str, Any]:
    """What an evaluation has summarised; empty before."""
    return _json(directory / "evaluation" / f"{split}.json")


def attention(plans: Sequence[ReportPlan]) -> list[str]:
    """What the files of evaluated cells say against a fair judgement, and of how many cells."""
    found: Counter[str] = Counter()
    for plan in plans:
        for directory in (plan.folder / cell.run for cell in plan.cells):
            if (directory / "evaluation" / f"{plan.split}.csv").exists():
                table = Path(load_stored(directory / "config.yaml").data.cohort)
                known = summary_of(directory, plan.split).get("guard") or {}
                found.update([*changed_tables(directory, plan.split, table), *known.get("findings", ())])
    return [f"{n} of the cells: {sentence}" for sentence, n in found.items()]


def whole_trainings(cells: Sequence[Cell], results: Sequence[CellResult]) -> list[list[Cell]]:
    """The evaluated fine-tunings, those of all folds of a combination and seed together; none where a fold lacks."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    lacking = set()
    for cell, row in zip(cells, results, strict=True):
        key = (*cell.levels.items(), cell.seed)
        if cell.kind == "pretrain":
            continue
        groups.setdefault(key, []).append(cell)
        if row.state != EVALUATED:
            lacking.add(key)
    return [group for key, group in groups.items() if key not in lacking]


def ablation(trainings: Sequence[Training], plan: ReportPlan) -> Ablation:
    """Effects of the factors; calibration is one where the sweep names its variants and every table has both."""
    wanted = [v for v in VARIANTS if v in plan.variants]
    both = all(f"{VARIANTS[v]}dice" in t.table for t in trainings for v in wanted)
    return analyse_ablation(
        trainings,
        plan.factors,
        baselines=plan.baselines,
        numeric=plan.numeric,
        variants=wanted if both else (),
        seed=SEED,
    )


def cell_result(plan: ReportPlan, cell: Cell) -> CellResult:
    """What became of a planned run."""
    directory = plan.folder / cell.run
    note = _json(plan.folder / "cells" / f"{cell.name}.json")
    finished = _json(directory / "finished.json")
    trained = (directory / "finished.json").exists()
    if trained and (cell.kind == "pretrain" or (directory / "evaluation" / f"{plan.split}.csv").exists()):
        state = EVALUATED if cell.kind != "pretrain" else "trained"
    elif note.get("state") == "failed":
        state = "failed"
    else:
        state = "trained" if trained else "begun" if (directory / "config.yaml").exists() else "not run"
    history = directory / "logs" / "history.jsonl"
    seconds = finished.get("seconds")
    if seconds is None and trained and history.exists():
        seconds = sum(row.get("seconds", 0) for row in read_history(history))
    return CellResult(
        name=cell.name,
        kind=cell.kind,
        levels=cell.levels,
        seed=cell.seed,
        state=state,
        reason=str(note.get("reason", "")) if state == "failed" else "",
        seconds=None if seconds is None else float(seconds),
        parameters=finished.get("parameters"),
        needs=cell.needs,
        fold=cell.fold,
    )


def candidates(plan: ReportPlan, result: SweepResult) -> list[tuple[ExperimentConfig, Candidate]]:
    """Evaluated trainings, each with its settings and those of its pre-training; of folds, those of the first."""
    runs = {cell.name: plan.folder / cell.run for cell in plan.cells}
    kinds = {cell.name: cell.kind for cell in plan.cells}
    rows = []
    for group in whole_trainings(plan.cells, result.cells):
        directories = [runs[cell.name] for cell in group]
        config = load_stored(directories[0] / "config.yaml")
        sources = [runs[name] for name in group[0].needs if kinds.get(name) == "pretrain"]
        candidate = Candidate(
            settings=decisive_settings(config),
            pretraining=pretraining_settings(config, sources),
            table=table_of(directories, plan.split),
            dev=_joined([directory / "evaluation" / "dev.csv" for directory in directories]),
            stress=_joined([directory / "stress" / f"{plan.split}.csv" for directory in directories]),
        )
        rows.append((config, candidate))
    return rows


def table_of(directories: Sequence[Path], split: str) -> pd.DataFrame:
    """Table of the evaluation of a run, or of the runs of all folds."""
    return pd.concat(
        [read_series_table(directory / "evaluation" / f"{split}.csv") for directory in directories], ignore_index=True
    )


def first_cutoffs(plans: Sequence[ReportPlan]) -> RiskCutoffs | None:
    """Cut-offs of the risk groups that a sweep fixes; the first that does counts."""
    limits = next((plan.risk_cutoffs_mm3 for plan in plans if plan.risk_cutoffs_mm3), None)
    return fixed_cutoffs(EvaluationConfig(risk_cutoffs_mm3=limits), "the sweep's file")


def code_and_data(plans: Sequence[ReportPlan], results: Sequence[SweepResult]) -> dict[str, str]:
    """Code and data of the first evaluated cell."""
    for plan, result in zip(plans, results, strict=True):
        for cell, row in zip(plan.cells, result.cells, strict=True):
            known = _json(plan.folder / cell.run / "provenance.json") if row.state == EVALUATED else {}
            if known:
                git = git_words(known.get("git") or {})
                return {"git": git, "fingerprint": str(known.get("data_fingerprint", ""))}
    return {}


def _joined(paths: Sequence[Path]) -> pd.DataFrame | None:
    """Tables one below the other; None where one is missing."""
    if not all(path.exists() for path in paths):
        return None
    return pd.concat([read_series_table(path) for path in paths], ignore_index=True)


def _json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return data
