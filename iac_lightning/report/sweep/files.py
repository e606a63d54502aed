"""The tables of a sweep's report as files: CSV for programs, LaTeX (booktabs) for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_modules.files import write_text_atomic
from iac_lightning.evaluation.ablation.claims import Claim
from iac_lightning.evaluation.ablation.effects import Effect
from iac_lightning.evaluation.ablation.worth import Worth
from iac_lightning.report.page import Table
from iac_lightning.report.sweep.claims import claim_rows, claims_table
from iac_lightning.report.sweep.result import SweepResult
from iac_lightning.report.sweep.tables import (
    cost_table,
    design_table,
    differences_table,
    interactions_table,
    trends_table,
)
from iac_lightning.report.table_files import NEEDS, table_latex
from iac_lightning.report.worth import WORTH_COLUMNS, worth_rows, worth_table

CELL_COLUMNS = {
    "sweep": "name of the sweep",
    "run": "name of the cell, a run below the sweep's folder",
    "kind": "finetune or pretrain",
    "seed": "of the training",
    "fold": "that it held out; empty without folds",
    "state": "evaluated, trained, begun, failed or not run",
    "reason": "why a cell failed",
    "split": "that the cells are compared on",
    "dice": "mean Dice of this training over the scans with lesions; with folds, of those of its seed together",
    "cell_dice": "the same over all seeds of these levels",
    "cell_dice_low": "lower end of its 95 % interval over patients and seeds",
    "cell_dice_high": "upper end of its 95 % interval over patients and seeds",
    "train_seconds": "time of training",
    "parameters": "trainable numbers of the network",
}
"""Columns of `cells.csv`, and what they hold; between `kind` and `seed` stands one with the level of each axis."""


def write_tables(
    out: Path,
    sweeps: Sequence[SweepResult],
    claims: Sequence[Claim],
    worths: Sequence[Worth],
    where: str,
    command: str,
) -> None:
    """Write `cells`, `effects`, `claims` and `worth`, each `.csv` and `.tex` (booktabs), beside the page."""
    write_text_atomic(out / "cells.csv", pd.concat([_cell_rows(s) for s in sweeps]).to_csv(index=False))
    write_text_atomic(out / "effects.csv", pd.concat([_effect_rows(s) for s in sweeps]).to_csv(index=False))
    write_text_atomic(out / "claims.csv", pd.DataFrame(claim_rows(claims)).to_csv(index=False))
    worth_csv = pd.DataFrame(worth_rows(worths), columns=list(WORTH_COLUMNS)).to_csv(index=False)
    write_text_atomic(out / "worth.csv", worth_csv)
    cells: list[Table] = []
    effects: list[Table] = []
    for sweep in sweeps:
        cells += [_titled(design_table(sweep), sweep, "cells"), _titled(cost_table(sweep), sweep, "cost")]
        if sweep.ablation:
            tables = {
                "main effects": differences_table(sweep),
                "trends": trends_table(sweep),
                "interactions": interactions_table(sweep),
            }
            effects += [_titled(table, sweep, title) for title, table in tables.items() if table]
    verdicts = [replace(claims_table(claims, where), title="Claims of the paper")]
    arms = [replace(worth_table(worths, where), title="Transformer and pre-training")] if worths else []
    for name, rows in (("cells", cells), ("effects", effects), ("claims", verdicts), ("worth", arms)):
        floats = [table_latex(replace(table, name=f"{name}-{k}"), "") for k, table in enumerate(rows)]
        write_text_atomic(out / f"{name}.tex", "\n".join([f"% {command}\n{NEEDS}", *floats]))


def _titled(table: Table, sweep: SweepResult, title: str) -> Table:
    return replace(table, title=f"{sweep.name}: {title}")


def _cell_rows(sweep: SweepResult) -> pd.DataFrame:
    ablation = sweep.ablation
    means = dict(zip(ablation.sample.cells, ablation.cells, strict=True)) if ablation else {}
    seeds = dict(zip(ablation.sample.cells, ablation.sample.seeds, strict=True)) if ablation else {}
    rows = []
    for cell in sweep.cells:
        row: dict[str, object] = {"sweep": sweep.name, "run": cell.name, "kind": cell.kind}
        row |= {name: cell.levels.get(name, "") for name in sweep.factors}
        row |= {"seed": cell.seed, "fold": cell.fold, "state": cell.state, "reason": cell.reason, "split": sweep.split}
        key = tuple(cell.levels.get(name, "") for name in sweep.factors)
        mean = means.get(key) if cell.kind != "pretrain" else None
        row["dice"] = seeds[key].get(cell.seed) if mean else None
        value = (mean.estimate, mean.low, mean.high) if mean else (np.nan,) * 3
        row |= dict(zip(("cell_dice", "cell_dice_low", "cell_dice_high"), value, strict=True))
        row |= {"train_seconds": cell.seconds, "parameters": cell.parameters}
        rows.append(row)
    return pd.DataFrame(rows)


def _effect_rows(sweep: SweepResult) -> pd.DataFrame:
    effects = sweep.ablation.effects if sweep.ablation else []
    names = ["sweep", "split", "metric", *Effect.__dataclass_fields__]
    rows = [{"sweep": sweep.name, "split": sweep.split, "metric": "dice", **asdict(e)} for e in effects]
    return pd.DataFrame(rows, columns=names)
