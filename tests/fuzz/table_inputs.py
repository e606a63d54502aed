"""Damaged cohort tables, and ordinary ones as other programs write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.cohort.table import Cohort, read_cohort
from data_modules.errors import UserError
from iac_lightning.cli import main
from tests.fuzz.judging import Maker, Trial, Wanted, spoken

Generator = np.random.Generator
Rows = list[dict[str, str]]

SPLITS = ("pretrain", "pretrain", "finetune", "finetune", "dev", "test", "test", "finetune")


def rows(splits: bool = True) -> Rows:
    """Eight patients, of whom the first has two series."""
    return [
        {
            "patient_id": f"P{k:02d}" if k != 8 else "P00",
            "series_id": f"S{k}",
            "image": f"i{k}.nii.gz",
            "label": f"i{k}.nii.gz" if k % 2 else "",
            "split": (SPLITS[k % 8] if splits else ""),
            "slice_thickness_mm": ["5", "0.8", "3.0"][k % 3],
            "kernel": "H31s",
            "manufacturer": "SIEMENS",
            "true_volume_mm3": ["", "12.5"][k % 2],
        }
        for k in range(9)
    ]


def write(folder: Path, table: Rows, **form: Any) -> Path:
    """As CSV; the files that it names are there and hold nothing."""
    for k in range(9):
        (folder / f"i{k}.nii.gz").write_bytes(b"x")
    file = io.StringIO()
    writer = csv.DictWriter(file, list(table[0]), lineterminator=form.get("end", "\n"), delimiter=form.get("by", ","))
    writer.writeheader()
    writer.writerows(table)
    text = form.get("before", "") + file.getvalue()
    path = folder / "cohort.csv"
    path.write_bytes(text.encode(form.get("encoding", "utf-8")))
    return path


def number(text: str) -> float | None:
    return float(text) if text else None


def facts(table: Rows) -> list[tuple[Any, ...]]:
    return [
        (
            row["patient_id"],
            row["series_id"],
            Path(row["image"]).name,
            row["split"],
            number(row["slice_thickness_mm"]),
            row["kernel"],
            number(row["true_volume_mm3"]),
        )
        for row in table
    ]


def found_facts(cohort: Cohort) -> list[tuple[Any, ...]]:
    return [
        (s.patient_id, s.series_id, s.image.name, s.split, s.slice_thickness_mm, s.kernel, s.true_volume_mm3)
        for s in cohort.series
    ]


def compare(expected: Sequence[Any], found: Sequence[Any]) -> str:
    if len(expected) != len(found):
        return f"{len(found)} rows instead of {len(expected)}"
    return next((f"{b} instead of {a}" for a, b in zip(expected, found, strict=True) if a != b), "")


def trial(path: Path, table: Rows | None = None, wanted: Wanted = Wanted.HONESTY, names: str = "") -> Trial:
    expected = facts(table or rows())
    return Trial(
        lambda: read_cohort(path),
        lambda cohort: compare(expected, found_facts(cohort)),
        wanted,
        warnings=lambda _: (),
        names=names,
    )


# --- what identifies --------------------------------------------------------------------------------------------

ODD_IDS = ("NA", "None", "null", "nan", "N-A", "True", "007", "1e5", "0x10", "1.0", "-inf"[1:], "1_000", "2024-01-02")


def ids_that_spell_something_else(rng: Generator, folder: Path) -> Trial:
    table = rows()
    for k in rng.choice(np.arange(1, 8), rng.integers(1, 4), replace=False):
        table[k]["patient_id"] = table[k]["series_id"] = f"{ODD_IDS[rng.integers(len(ODD_IDS))]}"
    names = {row["series_id"] for row in table}
    if len(names) < len(table):
        return trial(write(folder, table), table, Wanted.REFUSAL)
    return trial(write(folder, table), table, Wanted.VALUES)


def ids_of_one_patient_in_all_likelihood(rng: Generator, folder: Path) -> Trial:
    table = rows()
    pairs = (("7", "007"), ("a", "A"), ("P9", "P0009"), ("07", "7"), ("b1", "B1"), ("P1", "P1 "), ("P1", " P1"))
    table[4]["patient_id"], table[6]["patient_id"] = pairs[rng.integers(len(pairs))]
    found = trial(write(folder, table), table)
    return Trial(found.read, lambda _: "two patients without a word", warnings=lambda _: (), names="patient")


def no_ids(rng: Generator, folder: Path) -> Trial:
    table = rows()
    bad = ("", " ", "a b", "../x", ".hidden", "-x", "a/b", "é", "x\ny", "a\x00b", "💀", "a" * 300)
    table[rng.integers(9)][str(rng.choice(["patient_id", "series_id"]))] = bad[rng.integers(len(bad))]
    return trial(write(folder, table), table, Wanted.REFUSAL)


def series_twice(rng: Generator, folder: Path) -> Trial:
    table = rows()
    a, b = rng.choice(8, 2, replace=False)
    table[a]["series_id"] = table[b]["series_id"]
    return trial(write(folder, table), table, Wanted.REFUSAL)


def image_of_two_patients(rng: Generator, folder: Path) -> Trial:
    table = rows()
    a, b = rng.choice(np.arange(1, 8), 2, replace=False)
    table[a]["image"] = str(rng.choice(["", "./"])) + table[b]["image"]
    return trial(write(folder, table), table, Wanted.REFUSAL)


def patient_in_two_splits(rng: Generator, folder: Path) -> Trial:
    table = rows()
    table[8]["split"] = str(rng.choice(["finetune", "dev", "test"]))
    return trial(write(folder, table), table, Wanted.REFUSAL)


def no_split(rng: Generator, folder: Path) -> Trial:
    table = rows()
    table[rng.integers(1, 8)]["split"] = str(rng.choice(["train", "Test", "val", "dev ", "0", "NA"]))
    return trial(write(folder, table), table, Wanted.REFUSAL)


# --- cells ------------------------------------------------------------------------------------------------------


def no_thickness(rng: Generator, folder: Path) -> Trial:
    table = rows()
    bad = ("0", "-1", "nan", "inf", "five", "5 mm", "1e400", "0x5", "5;0", "NA")
    table[rng.integers(9)]["slice_thickness_mm"] = bad[rng.integers(len(bad))]
    path = write(folder, table)
    return Trial(lambda: read_cohort(path), lambda _: "no length", Wanted.REFUSAL)


def implausible_thickness(rng: Generator, folder: Path) -> Trial:
    table = rows()
    table[rng.integers(9)]["slice_thickness_mm"] = str(rng.choice(["0.008", "1e9", "5000", "0.0005", "1e-300"]))
    path = write(folder, table)
    return Trial(lambda: read_cohort(path), lambda _: "implausible", warnings=lambda _: (), names="thickness")


def no_volume(rng: Generator, folder: Path) -> Trial:
    table = rows()
    table[rng.integers(9)]["true_volume_mm3"] = str(rng.choice(["-1", "nan", "inf", "x", "1e400"]))
    path = write(folder, table)
    return Trial(lambda: read_cohort(path), lambda _: "no volume", Wanted.REFUSAL)


def decimal_commas(rng: Generator, folder: Path) -> Trial:
    table = rows()
    for row in table:
        row["slice_thickness_mm"] = row["slice_thickness_mm"].replace(".", ",")
    return trial(write(folder, table, by=";"))


def file_missing(rng: Generator, folder: Path) -> Trial:
    table, column = rows(), str(rng.choice(["image", "label"]))
    names = ("nowhere.nii.gz", "i1.nii.gz/x", "x" * 400, "i1\x00.nii.gz")
    table[1][column] = names[rng.integers(len(names))]
    return trial(write(folder, table), table, Wanted.REFUSAL)


# --- form -------------------------------------------------------------------------------------------------------


def in_the_form_of_a_spreadsheet(rng: Generator, folder: Path) -> Trial:
    form = [{"before": "\ufeff"}, {"end": "\r\n"}, {"before": "\ufeff", "end": "\r\n"}][rng.integers(3)]
    return trial(write(folder, rows(), **form), wanted=Wanted.VALUES)


def separated_otherwise(rng: Generator, folder: Path) -> Trial:
    return trial(write(folder, rows(), by=str(rng.choice([";", "\t", "|"])), end=str(rng.choice(["\n", "\r\n"]))))


def empty_rows(rng: Generator, folder: Path) -> Trial:
    path = write(folder, rows())
    lines = path.read_text().splitlines()
    for _ in range(rng.integers(1, 4)):
        lines.insert(int(rng.integers(1, len(lines) + 1)), str(rng.choice(["", "," * 8])))
    path.write_text("\n".join(lines) + "\n")
    return trial(path, wanted=Wanted.VALUES)


def in_another_encoding(rng: Generator, folder: Path) -> Trial:
    table = rows()
    table[2]["manufacturer"] = "Müller"
    return trial(write(folder, table, encoding=str(rng.choice(["latin-1", "utf-16", "utf-16-le", "utf-8-sig"]))), table)


def columns_changed(rng: Generator, folder: Path) -> Trial:
    path = write(folder, rows())
    header, *rest = path.read_text().split("\n")
    names = header.split(",")
    kind, k = rng.integers(5), int(rng.integers(7))
    if kind == 0:
        names[k] = names[k - 1]
    elif kind == 1:
        names[k] = names[k].upper()
    elif kind == 2:
        names[k] = ""
    elif kind == 3:
        names = names[:-1]
    else:
        names[k] = names[k].replace("_", " ")
    path.write_text("\n".join([",".join(names), *rest]))
    return trial(path)


def quotes_not_closed(rng: Generator, folder: Path) -> Trial:
    path = write(folder, rows())
    text = path.read_text()
    at = int(rng.integers(len(text)))
    path.write_text(text[:at] + '"' + text[at:])
    return csv_trial(path)


def byte_changed(rng: Generator, folder: Path) -> Trial:
    path = write(folder, rows())
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] = rng.integers(256)
    path.write_bytes(content)
    return csv_trial(path)


def cut_off(rng: Generator, folder: Path) -> Trial:
    path = write(folder, rows())
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])
    return csv_trial(path)


def csv_trial(path: Path) -> Trial:
    """What Python's own reader finds in the file is the truth: a changed name is a name."""

    def differs(cohort: Cohort) -> str:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = [row for row in csv.DictReader(file) if any(row.values())]
        return compare(facts(table), found_facts(cohort))

    return Trial(lambda: read_cohort(path), differs, warnings=lambda _: ())


def no_table(rng: Generator, folder: Path) -> Trial:
    path = folder / "cohort.csv"
    kind = rng.integers(7)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.write_bytes(rng.bytes(3000))
    elif kind == 2:
        path.write_text("")
    elif kind == 3:
        path.write_text("patient_id,series_id\n")
    elif kind == 4:
        path.write_text("a,b\n" + "x" * 200000 + ",1\n")
    elif kind == 5:
        path.symlink_to(path)
    return trial(path, wanted=Wanted.REFUSAL)


COHORTS: tuple[Maker, ...] = (
    ids_that_spell_something_else,
    ids_of_one_patient_in_all_likelihood,
    no_ids,
    series_twice,
    image_of_two_patients,
    patient_in_two_splits,
    no_split,
    no_thickness,
    implausible_thickness,
    no_volume,
    decimal_commas,
    file_missing,
    in_the_form_of_a_spreadsheet,
    separated_otherwise,
    empty_rows,
    in_another_encoding,
    columns_changed,
    quotes_not_closed,
    byte_changed,
    cut_off,
    no_table,
)


# --- `iac split` ------------------------------------------------------------------------------------------------


def split_trial(path: Path, *options: str) -> Trial:
    """Refused with the table as it was, or every row kept and each patient in one split."""
    before = path.read_bytes() if path.is_file() else b""
    others = {p.name for p in path.parent.iterdir()}

    def read() -> str:
        try:
            spoken(main, ["split", str(path), *options])
        except UserError:
            if path.is_file() and path.read_bytes() != before:
                return "refused, but the table was written all the same"
            raise
        return ""

    def differs(found: str) -> str:
        if found:
            return found
        if {p.name for p in path.parent.iterdir()} != others:
            return "left other files behind"
        tables = []
        for text in (before, path.read_bytes()):
            lines = text.decode("utf-8-sig").splitlines()
            by = max(",;\t", key=lines[0].count)
            tables.append([row for row in csv.DictReader(lines, delimiter=by) if any(row.values())])
        old, new = tables
        if [(r["patient_id"], r["series_id"]) for r in old] != [(r["patient_id"], r["series_id"]) for r in new]:
            return "rows or ids changed"
        splits: dict[str, set[str]] = {}
        for row in new:
            splits.setdefault(row["patient_id"].strip().lower().lstrip("p0"), set()).add(row["split"])
        return next((f"{who} is in {names}" for who, names in splits.items() if len(names) > 1), "")

    return Trial(read, differs, warnings=lambda _: ())


def split_ordinary(rng: Generator, folder: Path) -> Trial:
    path = write(folder, rows(splits=False))
    return split_trial(path, "--seed", str(rng.integers(9)))


def split_of_likely_duplicates(rng: Generator, folder: Path) -> Trial:
    table = rows(splits=False)
    for k in range(1, 8, 2):
        one = table[k]["patient_id"]
        table[k - 1]["patient_id"] = [f"{one} ", f" {one}", one.lower(), one.replace("P0", "P00")][rng.integers(4)]
    return split_trial(write(folder, table))


def split_of_a_bad_table(rng: Generator, folder: Path) -> Trial:
    table = rows(splits=False)
    column = str(rng.choice(["image", "slice_thickness_mm", "series_id", "split"]))
    table[rng.integers(9)][column] = str(rng.choice(["nowhere", "-1", "a b"]))
    return split_trial(write(folder, table))


def split_in_another_form(rng: Generator, folder: Path) -> Trial:
    forms = [{"by": ";"}, {"by": "\t"}, {"before": "\ufeff"}, {"end": "\r\n"}, {"encoding": "utf-16"}]
    return split_trial(write(folder, rows(splits=False), **forms[rng.integers(len(forms))]))


def split_with_odd_options(rng: Generator, folder: Path) -> Trial:
    options = [
        ["--fractions", "test=2"],
        ["--fractions", "test=-1", "dev=2"],
        ["--fractions", "nowhere=1"],
        ["--fractions", "test=nan"],
        ["--fractions", "test"],
        ["--seed", "-5"],
        ["--seed", "x"],
        ["--fractions", "test=0.5", "test=0.5"],
    ]
    return split_trial(write(folder, rows(splits=False)), *options[rng.integers(len(options))])


SPLIT: tuple[Maker, ...] = (
    split_ordinary,
    split_of_likely_duplicates,
    split_of_a_bad_table,
    split_in_another_form,
    split_with_odd_options,
)
