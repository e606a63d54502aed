"""The files of a page about models: the page, its tables and figures, and the numbers behind them in full precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from data_modules.files import write_text_atomic
from iac_lightning.evaluation.tables.comparison import Comparison, comparison_rows
from iac_lightning.evaluation.tables.model_result import ModelResult, model_rows
from iac_lightning.report.figure_files import write_figure
from iac_lightning.report.page import ExtraFigure, Table
from iac_lightning.report.table_files import write_table


def write_files(
    out_dir: Path, page: str, tables: Iterable[Table], figures: Iterable[ExtraFigure], command: str
) -> None:
    """Write `tables/`, `figures/` and last `index.html`; tables and figures of an earlier page are removed.

    Args:
        out_dir: folder, made when missing.
        page: HTML.
        tables: those with a name become files.
        figures: likewise.
        command: what makes them, where they do not say.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    for path in report_files(out_dir):
        if path.parent != out_dir:
            path.unlink()
    for table in tables:
        if table.name:
            write_table(table, out_dir / "tables", command)
    for figure in figures:
        if figure.name:
            write_figure(figure, out_dir / "figures", command)
    write_text_atomic(out_dir / "index.html", page)


def write_numbers(
    out_dir: Path, models: Mapping[str, ModelResult], results: Sequence[Comparison], plain: Sequence[Comparison]
) -> None:
    """Write `models.csv` and `comparisons.csv`.

    Args:
        out_dir: folder of the page.
        models: name to result.
        results: comparisons of the masks that are the result.
        plain: comparisons of the masks of a threshold alone.
    """
    write_text_atomic(out_dir / "models.csv", pd.DataFrame(model_rows(models)).to_csv(index=False))
    write_text_atomic(out_dir / "comparisons.csv", comparison_rows(results, plain).to_csv(index=False))


def report_files(out_dir: Path) -> list[Path]:
    """What a page consists of, the page itself included."""
    beside = ("index.html", "checklist.html", "models.csv", "comparisons.csv", "analysis.json")
    return [
        *(out_dir / name for name in beside if (out_dir / name).exists()),
        *sorted((out_dir / "tables").glob("*.csv")),
        *sorted((out_dir / "tables").glob("*.tex")),
        *sorted((out_dir / "figures").glob("*.png")),
    ]
