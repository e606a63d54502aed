"""The tables of a sweep's report as files: CSV for programs, LaTeX (booktabs) for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from data_modules.files import write_text_atomic
from iac_lightning.evaluation.ablation.claims import Claim
from iac_lightning.evaluation.ablation.effects import Effect
from iac_lightning.report.sweep.answer import SweepResult
from iac_lightning.report.sweep.tables import (
    SweepTable,
    claims_table,
    cost_table,
    design_table,
    differences_table,
    interactions_table,
    trends_table,
)
from iac_lightning.report.table_files import escape

CELL_COLUMNS = {
    "sweep": "name of the sweep",
    "run": "name of the cell, a run below the sweep's folder",
    "kind": "finetune or pretrain",
    "seed": "of the training",
    "state": "evaluated, trained, begun, failed or not run",
    "reason": "why a cell failed",
    "split": "that the cells are compared on",
    "dice": "mean Dice of this training over the scans with lesions",
    "cell_dice": "the same over all seeds of these levels",
    "cell_dice_low": "lower end of its 95 % interval over patients and seeds",
    "cell_dice_high": "upper end of its 95 % interval over patients and seeds",
    "train_seconds": "time of training",
    "parameters": "trainable numbers of the network",
}
"""Columns of `cells.csv`, and what they hold; between `kind` and `seed` stands one with the level of each axis."""


def write_tables(out: Path, sweeps: Sequence[SweepResult], claims: Sequence[Claim], where: str, command: str) -> None:
    """Write `cells`, `effects` and `claims`, each `.csv` and `.tex` (booktabs), beside the page."""
    write_text_atomic(out / "cells.csv", pd.concat([_cell_rows(s) for s in sweeps]).to_csv(index=False))
    write_text_atomic(out / "effects.csv", pd.concat([_effect_rows(s) for s in sweeps]).to_csv(index=False))
    write_text_atomic(out / "claims.csv", pd.DataFrame([asdict(c) for c in claims]).to_csv(index=False))
    cells, effects = [], []
    for sweep in sweeps:
        cells += [(design_table(sweep), f"{sweep.name}: cells"), (cost_table(sweep), f"{sweep.name}: cost")]
        if sweep.ablation:
            named = {
                "main effects": differences_table(sweep),
                "trends": trends_table(sweep),
                "interactions": interactions_table(sweep),
            }
            effects += [(table, f"{sweep.name}: {name}") for name, table in named.items() if table]
    verdicts = [(claims_table(claims, where), "Claims of the paper")]
    for name, tables in (("cells", cells), ("effects", effects), ("claims", verdicts)):
        text = "\n".join(latex(table, title, f"tab:{name}-{k}") for k, (table, title) in enumerate(tables))
        write_text_atomic(out / f"{name}.tex", f"% {command}\n% needs \\usepackage{{booktabs}}\n{text}")


_WRAPPED = 34
"""Columns of LaTeX tables with more characters than this are set in lines."""


def latex(table: SweepTable, title: str, label: str) -> str:
    """A table as LaTeX with booktabs' rules; its legend is the caption."""
    names = [f"{name} ({remark})" if remark else name for name, remark in table.header]
    rows = [[cell if isinstance(cell, str) else f"{cell[0]} [{cell[1]}]" for cell in row] for row in table.rows]
    columns = [escape(name) for name in names]
    frame = pd.DataFrame([[escape(cell) for cell in row] for row in rows])
    longest = [max(len(row[k]) for row in rows) for k in range(len(names))]
    aligned = "".join(
        r"p{0.19\linewidth}" if n > _WRAPPED else "l" if name in table.words else "r"
        for (name, _), n in zip(table.header, longest, strict=True)
    )
    styler = frame.style.hide(axis="index").format_index(lambda k: columns[int(str(k))], axis="columns")
    return styler.to_latex(
        hrules=True,
        column_format=aligned,
        caption=escape(f"{title}. {table.legend}"),
        label=label,
        position_float="centering",
    )


def _cell_rows(sweep: SweepResult) -> pd.DataFrame:
    found = sweep.ablation
    means = dict(zip(found.sample.cells, found.cells, strict=True)) if found else {}
    seeds = dict(zip(found.sample.cells, found.sample.seeds, strict=True)) if found else {}
    rows = []
    for cell in sweep.cells:
        row: dict[str, object] = {"sweep": sweep.name, "run": cell.name, "kind": cell.kind}
        row |= {name: cell.levels.get(name, "") for name in sweep.factors}
        row |= {"seed": cell.seed, "state": cell.state, "reason": cell.reason, "split": sweep.split}
        key = tuple(cell.levels.get(name, "") for name in sweep.factors)
        mean = means.get(key) if cell.kind != "pretrain" else None
        row["dice"] = seeds[key].get(cell.seed) if mean else None
        figure = (mean.estimate, mean.low, mean.high) if mean else (np.nan,) * 3
        row |= dict(zip(("cell_dice", "cell_dice_low", "cell_dice_high"), figure, strict=True))
        row |= {"train_seconds": cell.seconds, "parameters": cell.parameters}
        rows.append(row)
    return pd.DataFrame(rows)


def _effect_rows(sweep: SweepResult) -> pd.DataFrame:
    effects = sweep.ablation.effects if sweep.ablation else []
    names = ["sweep", "split", "metric", *Effect.__dataclass_fields__]
    rows = [{"sweep": sweep.name, "split": sweep.split, "metric": "dice", **asdict(e)} for e in effects]
    return pd.DataFrame(rows, columns=names)
