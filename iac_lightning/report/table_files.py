"""The tables of a page as files, with the values that the page shows: CSV for programs, LaTeX for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data_modules.files import write_text_atomic
from iac_lightning.report.page import Table
from iac_lightning.report.words import TableCell

NEEDS = r"% needs \usepackage{booktabs}"
"""First line of a file of LaTeX tables."""

_LONGEST = 34
"""Columns of LaTeX tables of words with more characters than this are set in lines."""

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
_INTERVAL = re.compile(r"[^;A-Za-z]+; [^;A-Za-z]+")
"""Both ends of an interval; anything else says in words why there is none."""


def write_table(table: Table, folder: Path, command: str) -> list[Path]:
    """Write `<name>.csv` and `<name>.tex`; returns both paths.

    Args:
        table: with a name.
        folder: where to.
        command: what makes it, where the table does not say.
    """
    paths = [folder / f"{table.name}.csv", folder / f"{table.name}.tex"]
    write_text_atomic(paths[0], table_frame(table).to_csv(index=False))
    write_text_atomic(paths[1], f"{NEEDS}\n{table_latex(table, command)}")
    return paths


def table_frame(table: Table) -> pd.DataFrame:
    """The table as programs read it: plain minus signs, empty for undefined, an interval in columns of its own.

    Where there is none, a further column says why and holds the patients' values. Marks of what is established are left
    out: their p stands in `analysis.json`.
    """
    columns: dict[str, list[str]] = {}
    for k, head in enumerate(table.header):
        cells = [row[k] for row in table.rows]
        name = _unique(_heading(head), columns)
        columns[name] = [_plain(c if isinstance(c, str) else c[0].removesuffix("*")) for c in cells]
        if any(not isinstance(c, str) for c in cells):
            small = ["" if isinstance(c, str) else c[1] for c in cells]
            ends = [tuple(text.split("; ")) if _INTERVAL.fullmatch(text) else ("", "") for text in small]
            columns[f"{name}, low"] = [_plain(low) for low, _ in ends]
            columns[f"{name}, high"] = [_plain(high) for _, high in ends]
            if any(text and not _INTERVAL.fullmatch(text) for text in small):
                columns[f"{name}, why no interval"] = ["" if _INTERVAL.fullmatch(t) else _plain(t) for t in small]
    return pd.DataFrame(columns)


def table_latex(table: Table, command: str) -> str:
    """The table as a LaTeX float with booktabs rules; its caption says what it was taken from and what makes it."""
    texts = [[_joined(cell) for cell in row] for row in table.rows]
    frame = pd.DataFrame(
        [[escape(text.removeprefix("+ ")) for text in row] for row in texts],
        columns=[_unique_latex(table.header, k) for k in range(len(table.header))],
    )
    frame.iloc[:, 0] = [
        (r"\quad " if row[0].startswith("+ ") else "") + text for row, text in zip(texts, frame.iloc[:, 0], strict=True)
    ]
    made = rf"\texttt{{{escape(table.command or command).replace('--', '-{}-')}}}" if table.command or command else ""
    caption = [escape(table.title and f"{table.title}."), escape(table.legend)]
    caption += [escape(table.source and f"n: {table.source}."), made and f"Made by {made}."]
    text: str = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="".join(_alignment(table, k, texts) for k in range(len(table.header))),
        position="htbp",
        position_float="centering",
        caption=" ".join(part for part in caption if part),
        label=f"tab:{table.name}",
    )
    return text


def _alignment(table: Table, k: int, texts: Sequence[Sequence[str]]) -> str:
    """How LaTeX sets a column: long ones of a table of words in lines, words flush left, numbers flush right."""
    if table.words and max((len(row[k]) for row in texts), default=0) > _LONGEST:
        return r"p{0.19\linewidth}"
    return "l" if k == 0 or table.header[k][0] in table.words else "r"


def escape(text: str) -> str:
    """Text as LaTeX sets it with any engine: its special characters, and signs that pdfLaTeX does not know."""
    return _SPECIAL.sub(lambda match: _LATEX[match.group()], text)


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


def _joined(cell: TableCell) -> str:
    return cell if isinstance(cell, str) else f"{cell[0]} [{cell[1]}]"


def _plain(text: str) -> str:
    text = text.replace("\u00a0", " ").replace("−", "-")
    return "" if text == "–" else text
