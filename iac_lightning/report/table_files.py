"""The tables of a page as files, with the figures that the page shows: CSV for programs, LaTeX for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data_modules.files import write_text_atomic
from iac_lightning.report.page import Table
from iac_lightning.report.words import Cell

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "−": r"$-$",
    "–": "--",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "√": r"$\surd$",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "κ": r"$\kappa$",
    "α": r"$\alpha$",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "’": "'",
}
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))


def write_table(table: Table, folder: Path, command: str) -> list[Path]:
    """Write `<name>.csv` and `<name>.tex`; returns both paths.

    Args:
        table: with a name.
        folder: where to.
        command: what makes it, where the table does not say.
    """
    paths = [folder / f"{table.name}.csv", folder / f"{table.name}.tex"]
    write_text_atomic(paths[0], table_frame(table).to_csv(index=False))
    write_text_atomic(paths[1], table_latex(table, command))
    return paths


def table_frame(table: Table) -> pd.DataFrame:
    """The table as programs read it: plain minus signs, empty for undefined, an interval in columns of its own."""
    columns: dict[str, list[str]] = {}
    for k, head in enumerate(table.header):
        cells = [row[k] for row in table.rows]
        name = _unique(_heading(head), columns)
        columns[name] = [_plain(c if isinstance(c, str) else c[0]) for c in cells]
        if any(not isinstance(c, str) for c in cells):
            ends = [("", "") if isinstance(c, str) else tuple(c[1].split("; ")) for c in cells]
            columns[f"{name}, low"] = [_plain(low) for low, _ in ends]
            columns[f"{name}, high"] = [_plain(high) for _, high in ends]
    return pd.DataFrame(columns)


def table_latex(table: Table, command: str) -> str:
    """The table as a LaTeX float with booktabs rules; its caption says what it was taken from and what makes it."""
    frame = pd.DataFrame(
        [[escape(_joined(c).removeprefix("+ ")) for c in row] for row in table.rows],
        columns=[_unique_latex(table.header, k) for k in range(len(table.header))],
    )
    frame.iloc[:, 0] = [
        (r"\quad " if _joined(row[0]).startswith("+ ") else "") + text
        for row, text in zip(table.rows, frame.iloc[:, 0], strict=True)
    ]
    made = rf"\texttt{{{escape(table.command or command).replace('--', '-{}-')}}}" if table.command or command else ""
    caption = " ".join(part for part in (escape(table.title and f"{table.title}."), escape(table.legend)) if part)
    caption = " ".join(part for part in (caption, escape(f"n: {table.source}."), made and f"Made by {made}.") if part)
    text: str = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" + "r" * (len(table.header) - 1),
        position="htbp",
        position_float="centering",
        caption=caption,
        label=f"tab:{table.name}",
    )
    return "% needs \\usepackage{booktabs}\n" + text


def escape(text: str) -> str:
    """Text as LaTeX sets it with any engine: its special characters, and signs that pdfLaTeX does not know."""
    return _SPECIAL.sub(lambda found: _LATEX[found.group()], text)


def _heading(head: tuple[str, str]) -> str:
    return _plain(f"{head[0]} ({head[1]})" if head[1] else head[0])


def _unique(name: str, taken: dict[str, list[str]]) -> str:
    while name in taken:
        name += "'"
    return name


def _unique_latex(header: Sequence[tuple[str, str]], k: int) -> str:
    """Name above remark. Headings may repeat in LaTeX but not in a styled frame: empty groups tell them apart."""
    name, remark = (escape(part) for part in header[k])
    text = rf"\shortstack{{{name}\\{{\scriptsize {remark}}}}}" if remark else name
    return text + "{}" * sum(head == header[k] for head in header[:k])


def _joined(cell: Cell) -> str:
    return cell if isinstance(cell, str) else f"{cell[0]} [{cell[1]}]"


def _plain(text: str) -> str:
    text = text.replace("\u00a0", " ").replace("−", "-")
    return "" if text == "–" else text
