"""The one reader of CSV files: tables that people keep, and those that the project writes and people may save again.

Every cell is text, whatever it spells (`NA`, `007`, `1e5`), so that a name stays the name that was written. Numbers are
made of it where a column holds numbers, and a cell that holds none is named with its row.
"""

from __future__ import annotations

import csv
import io
import math
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.errors import UserError

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
"""What may stand between cells, and its name; which one it is, the header shows."""

MAX_BYTES = 256 * 2**20
"""A larger file is no table of series: a million rows take some 100 MB."""

_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"\xff\xfe": "UTF-16 text, as Excel's 'Unicode Text'",
    b"\xfe\xff": "UTF-16 text",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls)",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
}
_EXPORT = "expected CSV text in UTF-8: export or save it as 'CSV UTF-8'"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
_LISTED = 20


@dataclass(frozen=True)
class CsvForm:
    """How the text of a table is put, so that it can be written back in the same way.

    Attributes:
        separator: one of `SEPARATORS`.
        newline: end of a line.
        has_bom: whether the file begins with a byte order mark, by which Excel knows UTF-8.
        hint: a first line such as `sep=;`, by which Excel knows the separator; empty where there is none.
    """

    separator: str = ","
    newline: str = "\n"
    has_bom: bool = False
    hint: str = ""


@dataclass(frozen=True)
class CsvTable:
    """What a CSV file holds.

    Attributes:
        path: of the file.
        what: the table, in words for messages.
        cells: text; the index is the row number that a spreadsheet shows (the header is row 1).
        form: how it was put.
    """

    path: Path
    what: str
    cells: pd.DataFrame
    form: CsvForm

    def with_points(self, numeric: Collection[str]) -> pd.DataFrame:
        """The cells, with a decimal point where a number has a decimal comma.

        A comma is a decimal comma only where cells are separated by something else.

        Args:
            numeric: columns that hold numbers.

        Raises:
            UserError: naming numbers that may be meant either way ("1,234" beside "5.0").
        """
        columns = [column for column in self.cells if column in numeric]
        if self.form.separator == "," or not columns:
            return self.cells
        cells = self.cells.copy()
        values = pd.unique(cells[columns].to_numpy(dtype=object).ravel())
        commas = {value for value in values if _DECIMAL_COMMA.fullmatch(value.strip())}
        if commas and any("." in value and _NUMBER.fullmatch(value.strip()) for value in values):
            unclear = {value for value in values if _THOUSANDS.fullmatch(value.strip())}
            raise_problems(
                self.path,
                [
                    f"row {row}, column {column!r}: {value!r} may be meant with a decimal sign or with one between "
                    "thousands, for the table has decimal points and decimal commas; use points alone"
                    for column in columns
                    for row, value in cells[column].items()
                    if value in unclear
                ],
                self.what,
            )
        for column in columns:
            cells[column] = [value.replace(",", ".") if value in commas else value for value in cells[column]]
        return cells


def read_csv(
    path: Path | str, expected: Collection[str] = (), what: str = "table", remedy: str = "see that the path is right"
) -> CsvTable:
    """A CSV file as text, unchecked but for its form.

    UTF-8 with or without a byte order mark; separated by commas, semicolons or tabs; any ends of lines; cells in quotes
    may hold all of these. Rows without any text, and columns without name and text, are left out.

    Args:
        path: the file.
        expected: names of columns, by which the separator is recognised.
        what: the table, in words for messages.
        remedy: what to do where there is no such file.

    Raises:
        UserError: when there is no such file, it is no such text, or rows and header disagree (all rows are named).
    """
    path = Path(path)
    content = _read_bytes(path, what, remedy)
    text = _decode(content, path)
    hint = re.match(r'"?sep=([,;\t])"?[,;\t]*(\r\n|\r|\n)', text)
    body = text[hint.end() :] if hint else text
    separator = hint[1] if hint else _separator(body, expected)
    rows = {
        number: row
        for number, row in enumerate(_rows(body, separator, path, what), start=1)
        if any(cell.strip() for cell in row)
    }
    if len(rows) < 2:
        raise UserError(f"{path}: the {what} has no rows; expected a header and at least one row of cells below it")
    header = rows.pop(min(rows))
    if len(header) == 1 and len(expected) > 1:
        raise UserError(f"{path}: the {what} has one column only; separate its cells by commas, semicolons or tabs")
    filled = {k for row in rows.values() for k, cell in enumerate(row) if cell.strip()}
    named = [k for k, name in enumerate(header) if name.strip() or k in filled]
    columns = [header[k] for k in named]
    problems = [f"row 1: column {name!r} occurs twice; keep one" for name, n in Counter(columns).items() if n > 1]
    problems += [
        f"row {number}: {len(row)} cells under {len(header)} columns; quote cells that contain {SEPARATORS[separator]}"
        for number, row in rows.items()
        if len(row) != len(header)
    ]
    raise_problems(path, problems, what)
    cells = pd.DataFrame([[row[k] for k in named] for row in rows.values()], list(rows), columns, dtype=str)
    newline = re.search(r"\r\n|\r|\n", text)
    assert newline is not None, "there are two rows"
    form = CsvForm(separator, newline[0], content.startswith(_BOM), hint[0] if hint else "")
    return CsvTable(path, what, cells, form)


def read_typed(
    path: Path,
    text: Collection[str],
    numbers: Collection[str],
    what: str,
    remedy: str,
    float_precision: Literal["round_trip"] | None = None,
) -> pd.DataFrame:
    """A table that the project wrote: names as text, all else as numbers, as pandas understands them.

    Args:
        path: the file.
        text: columns of names, which stay what they are.
        numbers: columns that must be there beside them; these and all others hold numbers, or true and false.
        what: the table, in words for messages.
        remedy: what to do where it is not that table.
        float_precision: as of `pandas.read_csv`.

    Raises:
        UserError: as `read_csv`; when a column is missing, a name is empty, or another cell holds no number.
    """
    found = read_csv(path, (*text, *numbers), what, remedy)
    missing = [column for column in (*text, *numbers) if column not in found.cells]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}; {remedy}")
    others = [column for column in found.cells.columns.tolist() if column not in set(text)]
    cells = found.with_points(others).reset_index(drop=True)
    source = io.StringIO(cells[others].to_csv(index=False))
    values = pd.read_csv(source, float_precision=float_precision)
    raise_problems(path, _typed_problems(cells, values, found.cells.index.tolist(), text), what)
    return pd.DataFrame({column: cells[column] if column in set(text) else values[column] for column in cells})


def write_csv(cells: pd.DataFrame, form: CsvForm) -> bytes:
    """The bytes of a table in a form: `read_csv` of them gives the same cells."""
    lines = []
    for row in (cells.columns.tolist(), *cells.to_numpy(dtype=object).tolist()):
        line = io.StringIO()
        csv.writer(line, delimiter=form.separator, lineterminator="\r\n").writerow(row)  # quotes both in a cell
        lines.append(line.getvalue().removesuffix("\r\n"))
    text = form.hint + "".join(line + form.newline for line in lines)
    return (_BOM if form.has_bom else b"") + text.encode()


def as_text(column: pd.Series) -> NDArray[np.str_]:
    """A column of names as an array.

    `column.to_numpy(dtype=str)` cuts every name to the length of the first one where one is missing.

    Raises:
        TypeError: for a name that is not text, which no reader of the project gives.
    """
    values = column.tolist()
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"column {column.name!r} holds names that are not text")
    return np.array(values, dtype=np.str_)


def number_in(cell: str) -> float:
    """The number a cell holds; NaN where it holds none (or infinity)."""
    value = float(cell) if _NUMBER.fullmatch(cell.strip()) else math.nan
    return value if math.isfinite(value) else math.nan


def numbers_in(cell: str, count: int) -> tuple[float, ...]:
    """The numbers with decimal points that blanks separate in a cell; empty unless there are just so many."""
    values = tuple(number_in(word) for word in cell.split())
    return values if len(values) == count and not any(map(math.isnan, values)) else ()


def raise_problems(path: Path, problems: Sequence[str], what: str) -> None:
    """One error of all problems of a table, the first twenty in full; nothing where there is none."""
    if not problems:
        return
    lines = [f"{path}: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the {what}"]
    lines += [f"  {problem}" for problem in problems[:_LISTED]]
    if len(problems) > _LISTED:
        lines.append(f"  … and {len(problems) - _LISTED} more")
    raise UserError("\n".join(lines))


def _read_bytes(path: Path, what: str, remedy: str) -> bytes:
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise UserError(f"{path}: is a folder; expected the file of the {what}")
        if not stat.S_ISREG(facts.st_mode):
            raise UserError(f"{path}: is no ordinary file; expected the CSV file of the {what}")
        if facts.st_size > MAX_BYTES:
            raise UserError(
                f"{path}: {facts.st_size / 2**20:,.0f} MB; expected a {what} of at most {MAX_BYTES // 2**20} MB, which "
                "is some million rows: see that it is the right file"
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: there is no such {what}; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: the {what} cannot be read ({error.strerror}); see that you may read it") from None


def _decode(content: bytes, path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: for another kind of file, or text that is not UTF-8.
    """
    kind = next((name for start, name in _FOREIGN.items() if content.startswith(start)), "")
    if content.startswith(b"PK\x03\x04"):
        kind = "an Excel workbook (.xlsx)" if b"xl/" in content else "a ZIP archive or spreadsheet"
    if kind:
        raise UserError(f"{path}: cannot be read as a table: it is {kind}; {_EXPORT}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start : error.start + 1]
        raise UserError(
            f"{path}: cannot be read as a table: line {_line(content, error.start)} holds a byte that is not "
            f"UTF-8 (0x{byte.hex()}; in Latin-1 it is {byte.decode('latin-1')!r}); {_EXPORT}"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{path}: cannot be read as a table: line {_line(content, content.index(0))} holds NUL bytes, so "
            f"the file is damaged, binary or UTF-16; {_EXPORT}"
        )
    return text


def _line(content: bytes, position: int) -> int:
    return len(re.findall(rb"\r\n|\r|\n", content[:position])) + 1


def _separator(text: str, expected: Collection[str]) -> str:
    """The separator that makes most of the expected names of the first row; else, most cells."""
    wanted = {name.casefold() for name in expected}

    def found(separator: str) -> tuple[int, int]:
        try:
            cells = next(csv.reader(io.StringIO(text.lstrip("\r\n "), newline=""), delimiter=separator), [])
        except csv.Error:
            return 0, 0
        return len({cell.strip().casefold() for cell in cells} & wanted), len(cells)

    return max(SEPARATORS, key=found)


def _rows(text: str, separator: str, path: Path, what: str) -> Iterable[list[str]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    n_read = 0
    try:
        for row in rows:
            n_read += 1
            yield row
    except csv.Error as error:
        raise UserError(
            f"{path}: row {n_read + 1} of the {what} cannot be read ({error}); see that every quote that opens a cell "
            "is closed at its end, and that quotes within are doubled"
        ) from None


def _typed_problems(cells: pd.DataFrame, values: pd.DataFrame, rows: Sequence[int], text: Collection[str]) -> list[str]:
    """Names that are empty, and cells without the number, or truth, that their column holds."""

    def named(column: str, wrong: Any, why: str) -> list[str]:
        found = [(row, cell) for row, cell, is_wrong in zip(rows, cells[column], wrong, strict=True) if is_wrong]
        return [f"row {row}, column {column!r}: {cell!r}{why}" for row, cell in found]

    problems = [problem for column in text for problem in named(column, cells[column] == "", " is no name")]
    for column in values.columns.tolist():
        if values[column].dtype.kind in "biuf":
            continue
        is_truth = cells[column].str.strip().str.casefold().isin(["true", "false"])
        is_number = pd.to_numeric(cells[column], errors="coerce").notna() | values[column].isna()
        if is_truth.any():
            problems += named(column, ~is_truth, "; expected True or False")
        else:
            problems += named(column, ~is_number, "; expected a number")
    return problems
