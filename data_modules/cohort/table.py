"""The cohort table: one row a series, patient-level splits, and the guard against leakage.

`cohort.csv` is the only registry of splits. Pre-training, fine-tuning, development and test all read it, and a
checkpoint carries salted hashes of the patients it has seen, so that a later stage can refuse to evaluate on them.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import math
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.sidecar import read_sidecar

SPLITS = ("pretrain", "finetune", "dev", "test")
"""Every patient belongs to one of these, or, before `assign_splits`, to none."""

COLUMNS = {
    "patient_id": "study code of the patient; letters, digits, '.', '_' and '-'",
    "series_id": "unique code of the series; letters, digits, '.', '_' and '-'",
    "image": "NIfTI file or DICOM folder, relative to the table (or absolute)",
    "label": "NIfTI mask on the image's grid; may be empty",
    "split": "pretrain, finetune, dev or test; may be empty until splits are assigned",
    "slice_thickness_mm": "how thick a slab one slice averages; above 0; may be empty where the file says it",
    "kernel": "convolution kernel; may be empty",
    "manufacturer": "maker of the scanner; may be empty",
}
"""Columns that every cohort table has, and what they hold. Further columns are kept in `Series.extra`."""

SPACING = ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")
"""All three or none; checked against the file."""

OPTIONAL_COLUMNS = {
    **dict.fromkeys(SPACING, "voxel size along one axis; above 0; may be empty, else checked against the file"),
    "true_volume_mm3": "calcium volume known by construction (phantom); may be empty",
    "label_volume_mm3": "calcium volume of the label; may be empty; stratifies splits where no true volume is known",
    "dicom_series": "SeriesInstanceUID, where a DICOM folder holds several series; may be empty",
}
"""Columns that are understood where they are present."""

SALT_FILE = "split_salt"
"""Beside the cohort table; created once, travels with the table, and is never put into a checkpoint."""

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_POSITIVE = ("slice_thickness_mm", *SPACING)
_VOLUMES = ("true_volume_mm3", "label_volume_mm3")
_LISTED_PROBLEMS = 20


@dataclass(frozen=True)
class Series:
    """One row of the cohort table.

    Attributes:
        image: absolute path of the NIfTI file or DICOM folder.
        label: absolute path of the mask, None where there is none. A mask may be empty of voxels.
        split: one of `SPLITS`, or "" where none is assigned yet.
        slice_thickness_mm: how thick a slab one slice averages as the table gives it; None where it is empty. What
            counts is `PreparedSeries.slice_thickness_mm` (without a region: of `cohort.series.read_series`).
        spacing_mm: voxel size along the x, y and z axes of the image as the table gives it, None where it does not;
            nothing goes by it, but a warning says where the file has another.
        true_volume_mm3: calcium volume known by construction, None on real scans.
        extra: all further columns, as strings.
    """

    patient_id: str
    series_id: str
    image: Path
    label: Path | None
    split: str
    slice_thickness_mm: float | None
    spacing_mm: tuple[float, float, float] | None = None
    kernel: str = ""
    manufacturer: str = ""
    true_volume_mm3: float | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """A validated cohort table; `series` in the order of its rows."""

    path: Path
    series: tuple[Series, ...]

    def split(self, *names: str) -> tuple[Series, ...]:
        """The series of the named splits, in the order of the table."""
        for name in names:
            if name not in SPLITS:
                raise UserError(f"unknown split {name!r}; expected one of {', '.join(SPLITS)}{_nearest(name, SPLITS)}")
        return tuple(s for s in self.series if s.split in names)

    def patients(self, *names: str) -> tuple[str, ...]:
        """Sorted ids of the patients of the named splits."""
        return tuple(sorted({s.patient_id for s in self.split(*names)}))


def read_table(path: Path | str) -> pd.DataFrame:
    """The cohort table as strings (ids keep their zeros), unchecked but for its form; for `assign_splits`.

    The index is the row number that a spreadsheet shows (the header is row 1).

    Raises:
        UserError: when the file is missing, empty, not UTF-8 text, or its rows and header disagree.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such cohort table; make one, or set data.cohort") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error}); expected comma-separated UTF-8 text") from None
    if not rows or not any(rows[1:]):
        raise UserError(f"{path}: the table has no rows; expected a header and one row a series")
    header = rows[0]
    problems = [f"row 1: column {name!r} occurs twice; keep one" for name in _repeated(header)]
    problems += [
        f"row {number}: {len(row)} cells under {len(header)} columns; quote cells that contain a comma"
        for number, row in enumerate(rows[1:], start=2)
        if row and len(row) != len(header)
    ]
    _raise_all(path, problems)
    numbered = {number: row for number, row in enumerate(rows[1:], start=2) if row}
    return pd.DataFrame(list(numbered.values()), index=list(numbered), columns=header, dtype=str)


def write_cohort(path: Path | str, table: pd.DataFrame) -> None:
    """Write the table as CSV so that readers see the old one or the new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            table.to_csv(file, index=False, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_cohort(path: Path | str) -> Cohort:
    """Read and validate a cohort table (`COLUMNS` describes it).

    Raises:
        UserError: listing all problems at once, each with row, column, value and remedy.
    """
    path = Path(os.path.abspath(path))
    table = read_table(path)
    problems = _column_problems(table)
    records = [(int(number), dict(zip(table.columns, row, strict=True))) for number, row in _rows(table)]
    for number, record in records:
        problems += [f"row {number}, column {column!r}: {text}" for column, text in _row_problems(record, path.parent)]
    problems += _repeated_values(records)
    problems += [
        f"column 'split': patient {patient!r} is in {' and '.join(splits)} (rows "
        f"{', '.join(str(n) for n, r in records if r.get('patient_id') == patient)}); a patient belongs to one split"
        for patient, splits in _conflicts((r.get("patient_id", ""), r.get("split", "")) for _, r in records).items()
    ]
    _raise_all(path, problems)
    return Cohort(path, tuple(_series(record, path.parent) for _, record in records))


def assign_splits(table: pd.DataFrame, fractions: Mapping[str, float], seed: int) -> pd.DataFrame:
    """Give every patient without a split one, so that patients per split come as near to `fractions` as can be.

    Patients are stratified by burden (no calcium, then tertiles of the positive volumes, or unknown) times tertiles
    of slice thickness (or unknown), both the median over the patient's series where the table gives them. Each stratum
    is shared out by largest remainder; then the totals are made exact by the moves that disturb the strata least. The
    result depends on ids, values and `seed`, not on the order of rows. Splits that are already assigned stay, and count
    towards the fractions.
    Where some patients have labels and others have none, those without go to `pretrain`.

    Args:
        table: columns `patient_id` and `slice_thickness_mm`; used where present: `split`, `label`,
            `true_volume_mm3`, `label_volume_mm3`.
        fractions: share of the patients by split, summing to 1.
        seed: decides which patients of a stratum go where.

    Returns:
        A copy of the table with `split` filled in every row.

    Raises:
        UserError: when the fractions or the values of the columns used make no sense.
    """
    _check_fractions(fractions)
    missing = [column for column in ("patient_id", "slice_thickness_mm") if column not in table]
    if missing:
        raise UserError(f"the cohort table lacks column {missing[0]!r}, which splits are assigned by; add it")
    names = [name for name in SPLITS if name in fractions]
    facts = _patient_facts(table)
    fixed = {patient: f["split"] for patient, f in facts.items() if f["split"]}
    free = [patient for patient in sorted(facts) if patient not in fixed]
    unlabelled = [patient for patient in free if not facts[patient]["labelled"]]
    if unlabelled and any(f["labelled"] for f in facts.values()):
        if not fractions.get("pretrain"):
            raise UserError(
                f"{len(unlabelled)} patients have no label (such as {unlabelled[0]!r}), and no share goes to "
                "'pretrain'; give 'pretrain' a share, add the labels or remove the rows"
            )
        fixed |= dict.fromkeys(unlabelled, "pretrain")
        free = [patient for patient in free if patient not in fixed]

    shares = np.array([fractions[name] for name in names]) / sum(fractions.values())
    wanted = _largest_remainder(len(facts) * shares, len(facts))
    open_places = np.maximum(0, wanted - np.array([list(fixed.values()).count(name) for name in names]))
    if open_places.sum() == 0:  # only where every patient is fixed, or none is left to place
        open_places = shares
    totals = _largest_remainder(open_places * len(free) / open_places.sum(), len(free))

    strata = _strata(facts, free)
    ideal = np.array([[len(members) * n / max(1, len(free)) for n in totals] for members in strata])
    counts = np.array([_largest_remainder(row, len(m)) for row, m in zip(ideal, strata, strict=True)], dtype=np.int64)
    rng = np.random.default_rng([seed])
    for members, row in zip(strata, _correct_totals(counts, ideal, totals), strict=True):
        order = rng.permutation(members).tolist()
        fixed |= dict(zip(order, np.repeat(names, row).tolist(), strict=True))
    result = table.copy()
    result["split"] = [fixed[str(patient)] for patient in table["patient_id"]]
    return result


def check_leakage(cohort: Cohort) -> None:
    """Refuse a cohort in which a patient is in two splits.

    Raises:
        UserError: naming the patients and their splits.
    """
    conflicts = _conflicts((s.patient_id, s.split) for s in cohort.series)
    _raise_all(
        cohort.path,
        [f"patient {p!r} is in {' and '.join(s)}; a patient belongs to one split" for p, s in conflicts.items()],
    )


def check_trains_on(series: Iterable[Series], allowed: Sequence[str]) -> None:
    """Refuse training series from other splits than `allowed`.

    Raises:
        UserError: naming the series.
    """
    wrong = [s for s in series if s.split not in allowed]
    if wrong:
        examples = ", ".join(f"{s.series_id} ({s.split or 'no split'})" for s in wrong[:3])
        raise UserError(
            f"{len(wrong)} training series come from other splits than {' and '.join(allowed)}: {examples}"
            f"{' …' if len(wrong) > 3 else ''}; training on them would leak: mend `split` in the cohort table"
        )


def split_salt(cohort_path: Path | str) -> str:
    """The secret that patient hashes of this cohort are salted with, created on first use.

    It lies in `split_salt` beside the table and travels with it, so machines that share the cohort folder get the
    same hashes, while a checkpoint alone does not let ids be guessed. Processes that create it at once agree.

    Raises:
        UserError: when it can be neither read nor created.
    """
    path = Path(cohort_path).absolute().with_name(SALT_FILE)
    try:
        if not path.exists():
            _create_salt(path)
        salt = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: the salt of the patient hashes cannot be read or created ({error}); make the folder writable "
            f"once, or copy {SALT_FILE} from where the cohort came from"
        ) from None
    if not re.fullmatch(r"[0-9a-f]{64}", salt):
        raise UserError(
            f"{path}: holds {len(salt)} characters, expected 64 hexadecimal digits; restore it from where the cohort "
            "came from (if no checkpoint is to be checked against it any more, delete it)"
        )
    return salt


def hash_patients(patient_ids: Iterable[str], salt: str) -> list[str]:
    """HMAC-SHA256 of each id under the cohort's salt, hexadecimal, in the order given."""
    return [hmac.new(salt.encode(), patient.encode(), hashlib.sha256).hexdigest() for patient in patient_ids]


def seen_patients(patient_ids: Iterable[str], salt: str) -> dict[str, Any]:
    """What a checkpoint carries about the patients it has learnt from: `{"salt_id": str, "hashes": [str, …]}`.

    `salt_id` tells whether two lists can be compared; neither it nor the sorted hashes reveal the salt or an id.
    """
    return {"salt_id": _salt_id(salt), "hashes": sorted(hash_patients(set(patient_ids), salt))}


def check_unseen(evaluated_patients: Iterable[str], seen: Mapping[str, Any], salt: str) -> str | None:
    """Refuse to evaluate on patients that a checkpoint has learnt from.

    Args:
        evaluated_patients: ids of the patients to evaluate on.
        seen: what `seen_patients` put into the checkpoint.
        salt: `split_salt` of the cohort that is evaluated.

    Returns:
        None where no patient was seen; a warning to show where the checkpoint comes from a cohort with another salt,
        so that nothing can be verified.

    Raises:
        UserError: when at least one patient was seen.
    """
    if seen["salt_id"] != _salt_id(salt):
        return (
            "the checkpoint was trained on a cohort with another split_salt: whether it has seen the evaluated "
            "patients cannot be verified. If it is the same cohort, copy split_salt from where it was trained."
        )
    patients = sorted(set(evaluated_patients))
    hashes = set(seen["hashes"])
    known = [p for p, digest in zip(patients, hash_patients(patients, salt), strict=True) if digest in hashes]
    if known:
        raise UserError(
            f"{len(known)} of {len(patients)} patients to evaluate on were seen in training, such as "
            f"{', '.join(known[:3])}; expected none: evaluate on other patients, or train on this cohort's splits again"
        )
    return None


def _rows(table: pd.DataFrame) -> Iterable[tuple[Any, list[str]]]:
    return zip(table.index, table.to_numpy().tolist(), strict=True)


def _series(record: dict[str, str], folder: Path) -> Series:
    known = {*COLUMNS, *SPACING, "true_volume_mm3"}
    true_volume = record.get("true_volume_mm3", "")
    x, y, z = (float(record.get(column) or math.nan) for column in SPACING)
    return Series(
        patient_id=record["patient_id"],
        series_id=record["series_id"],
        image=folder / record["image"],
        label=folder / record["label"] if record["label"] else None,
        split=record["split"],
        slice_thickness_mm=float(thickness) if (thickness := record["slice_thickness_mm"]) else None,
        spacing_mm=None if math.isnan(x) else (x, y, z),
        kernel=record["kernel"],
        manufacturer=record["manufacturer"],
        true_volume_mm3=float(true_volume) if true_volume else None,
        extra={column: value for column, value in record.items() if column not in known},
    )


def _column_problems(table: pd.DataFrame) -> list[str]:
    if len(table.columns) == 1 and re.search(r"[;\t]", table.columns[0]):
        return ["row 1: one column only, with ';' or tabs in its name; separate cells by commas"]
    unknown = [c for c in table.columns if c not in COLUMNS]
    return [
        f"column {column!r} is missing ({meaning}); add it{_nearest(column, unknown)}"
        for column, meaning in COLUMNS.items()
        if column not in table
    ]


def _row_problems(record: dict[str, str], folder: Path) -> Iterable[tuple[str, str]]:
    """(column, what is wrong) of one row; columns that are missing altogether are reported elsewhere."""
    for column in ("patient_id", "series_id"):
        value = record.get(column)
        if value is not None and not _SAFE_ID.fullmatch(value):
            yield column, f"{value!r} is not an id; use letters, digits, '.', '_', '-' (not first: '.', '-')"
    split = record.get("split", "")
    if split and split not in SPLITS:
        yield "split", f"{split!r} is unknown; use {', '.join(SPLITS)} or leave it empty{_nearest(split, SPLITS)}"
    if record.get("slice_thickness_mm") == "" and (problem := _thickness_problem(folder / record.get("image", ""))):
        yield "slice_thickness_mm", problem
    given = [column for column in SPACING if record.get(column)]
    if 0 < len(given) < len(SPACING):
        yield given[0], f"is given without {' and '.join(c for c in SPACING if c not in given)}; give all three or none"
    for column in _POSITIVE:
        if record.get(column) and not _number(record[column]) > 0:
            yield column, f"{record[column]!r}; expected a number of millimetres above 0"
    for column in _VOLUMES:
        if record.get(column) and not _number(record[column]) >= 0:
            yield column, f"{record[column]!r}; expected a volume in mm³ of at least 0, or nothing"
    if "image" in record and not (record["image"] and (folder / record["image"]).exists()):
        yield "image", f"{record['image']!r} does not exist; paths are relative to the table's folder"
    if record.get("label") and not (folder / record["label"]).is_file():
        yield "label", f"{record['label']!r} does not exist; paths are relative to the table's folder; empty: no label"


def _thickness_problem(image: Path) -> str:
    """Why the thickness may not be left to the file; empty where it may (DICOM headers are read in preparation)."""
    if not image.is_file():
        return ""
    try:
        known = read_sidecar(image).get("SliceThickness")
    except UserError as error:
        return f"'', and the file beside the image does not help: {error}"
    needed = "'' and no JSON file beside the NIfTI gives SliceThickness; expected a number of millimetres above 0"
    return "" if known is not None else needed


def _repeated_values(records: list[tuple[int, dict[str, str]]]) -> list[str]:
    """Series ids that occur twice, and images that two patients share (leakage in disguise)."""
    by_id: defaultdict[str, list[int]] = defaultdict(list)
    by_image: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for number, record in records:
        if record.get("series_id"):
            by_id[record["series_id"]].append(number)
        if record.get("image"):
            image = os.path.normpath(record["image"]), record.get("dicom_series", "")
            by_image[image].setdefault(record.get("patient_id", ""), number)
    problems = [
        f"column 'series_id': {name!r} occurs in rows {', '.join(map(str, numbers))}; give each series its own id"
        for name, numbers in by_id.items()
        if len(numbers) > 1
    ]
    return problems + [
        f"column 'image': {image!r} belongs to {len(owners)} patients (rows {', '.join(map(str, owners.values()))}); "
        "a scan belongs to one patient"
        for (image, _), owners in by_image.items()
        if len(owners) > 1
    ]


def _conflicts(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Patients that occur with two splits or more, and which."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for patient, split in pairs:
        if split:
            splits[patient].add(split)
    return {patient: sorted(found) for patient, found in sorted(splits.items()) if len(found) > 1}


def _raise_all(path: Path, problems: list[str]) -> None:
    if not problems:
        return
    lines = [f"{path}: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the cohort table"]
    lines += [f"  {problem}" for problem in problems[:_LISTED_PROBLEMS]]
    if len(problems) > _LISTED_PROBLEMS:
        lines.append(f"  … and {len(problems) - _LISTED_PROBLEMS} more")
    raise UserError("\n".join(lines))


def _nearest(name: str, choices: Iterable[str]) -> str:
    found = get_close_matches(name, list(choices), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _number(text: Any) -> float:
    """The number a cell holds; NaN where it holds none (or infinity)."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def _check_fractions(fractions: Mapping[str, float]) -> None:
    for name, share in fractions.items():
        if name not in SPLITS:
            raise UserError(f"unknown split {name!r}; use {', '.join(SPLITS)}{_nearest(name, SPLITS)}")
        if not share >= 0:
            raise UserError(f"the share of split {name!r} is {share}; expected at least 0")
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise UserError(f"the shares of the splits sum to {sum(fractions.values()):g}, expected 1: {dict(fractions)}")


def _patient_facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Per patient: split ("" where open), thickness and burden (NaN where unknown), whether any series is labelled."""
    filled = table.reindex(columns=["patient_id", "split", "label", "slice_thickness_mm", *_VOLUMES]).astype(object)
    filled = filled.where(filled.notna(), "").astype(str)
    conflicts = _conflicts(zip(filled["patient_id"], filled["split"], strict=True))
    if conflicts:
        name, splits = next(iter(conflicts.items()))
        raise UserError(f"patient {name!r} is in {' and '.join(splits)}; a patient belongs to one split")
    unknown = sorted({split for split in filled["split"] if split and split not in SPLITS})
    if unknown:
        raise UserError(f"unknown split {unknown[0]!r}; use {', '.join(SPLITS)}{_nearest(unknown[0], SPLITS)}")
    facts = {}
    for patient, rows in filled.groupby("patient_id"):
        thickness = [_number(cell) for cell in rows["slice_thickness_mm"] if cell]
        if not all(value > 0 for value in thickness):
            raise UserError(
                f"patient {patient!r} has a slice_thickness_mm that is neither empty nor a number above 0; "
                "mend the table"
            )
        burden = [_number(row[_VOLUMES[0]] or row[_VOLUMES[1]]) for _, row in rows.iterrows()]
        known = [value for value in burden if not math.isnan(value)]
        facts[str(patient)] = {
            "split": max(rows["split"]),
            "labelled": any(rows["label"]),
            "thickness": float(np.median(thickness)) if thickness else math.nan,
            "burden": float(np.median(known)) if known else math.nan,
        }
    return facts


def _strata(facts: dict[str, dict[str, Any]], free: list[str]) -> list[list[str]]:
    """The free patients by burden class and thickness class; classes are cut over all patients."""
    burden = np.array([f["burden"] for f in facts.values()])
    thickness = np.array([f["thickness"] for f in facts.values()])
    burden_cuts, thickness_cuts = _tertiles(burden[burden > 0]), _tertiles(thickness[thickness > 0])
    strata: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for patient in free:
        volume, thick = facts[patient]["burden"], facts[patient]["thickness"]
        volume_class = -1 if math.isnan(volume) else 0 if volume == 0 else 1 + int((volume > burden_cuts).sum())
        thickness_class = -1 if math.isnan(thick) else int((thick > thickness_cuts).sum())
        strata[volume_class, thickness_class].append(patient)
    return [strata[key] for key in sorted(strata)]


def _tertiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two cuts between three classes of equal size; none for no values."""
    return np.quantile(values, [1 / 3, 2 / 3]) if values.size else np.empty(0)


def _largest_remainder(ideal: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Integers that sum to `total`, nearest to `ideal` (which sums to it too); ties go to the first."""
    counts = np.floor(np.asarray(ideal) + 1e-9).astype(np.int64)
    remainder = np.round(ideal - counts, 9)
    counts[np.argsort(-remainder, kind="stable")[: total - int(counts.sum())]] += 1
    return counts


def _correct_totals(
    counts: NDArray[np.int64], ideal: NDArray[np.float64], totals: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Move single patients between splits, where it disturbs a stratum least, until columns sum to `totals`."""
    counts = counts.copy()
    while counts.size and (surplus := counts.sum(axis=0) - totals).any():
        over, under = int(surplus.argmax()), int(surplus.argmin())
        gain = np.round((counts - ideal)[:, over] - (counts - ideal)[:, under], 9)
        stratum = int(np.where(counts[:, over] > 0, gain, -np.inf).argmax())
        counts[stratum, over] -= 1
        counts[stratum, under] += 1
    return counts


def _create_salt(path: Path) -> None:
    salt = secrets.token_hex(32) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="ascii") as file:
            file.write(salt)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # atomic and exclusive: of two processes one wins, and the file is never half
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            with suppress(FileExistsError), path.open("x", encoding="ascii") as file:
                file.write(salt)
    finally:
        temporary.unlink(missing_ok=True)


def _salt_id(salt: str) -> str:
    return hashlib.sha256(b"salt id " + salt.encode()).hexdigest()[:16]
