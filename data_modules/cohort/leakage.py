"""The guard against leakage: one split a patient, training on allowed splits, and no test on patients seen before.

A checkpoint carries salted hashes of the patients it has seen, so that a later stage can refuse to evaluate on them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_modules.cohort.table import WHAT, Cohort, Series, split_conflicts
from data_modules.csv_files import raise_problems
from data_modules.errors import UserError
from data_modules.files import replacing

TRAINS_ON = {"pretrain": ("pretrain", "finetune"), "segment": ("finetune",)}
"""Splits that each task learns from. The development split validates; the test split is not even opened."""

SALT_FILE = "split_salt"
"""Beside the cohort table; created once, travels with the table, and is never put into a checkpoint."""


def check_leakage(cohort: Cohort) -> None:
    """Refuse a cohort in which a patient is in two splits.

    Raises:
        UserError: naming the patients and their splits.
    """
    conflicts = split_conflicts((s.patient_id, s.split) for s in cohort.series)
    raise_problems(
        cohort.path,
        [f"patient {p!r} is in {' and '.join(s)}; a patient belongs to one split" for p, s in conflicts.items()],
        WHAT,
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


def is_seen_patients(value: Any) -> bool:
    """Whether a value has the form of what a model carries about its patients: a list of what `seen_patients` gives."""
    return isinstance(value, list) and all(
        isinstance(record, dict)
        and isinstance(record.get("salt_id"), str)
        and isinstance(record.get("hashes"), list)
        and all(isinstance(digest, str) for digest in record["hashes"])
        for record in value
    )


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


def is_seen(patient_id: str, seen: Mapping[str, Any], salt: str) -> bool:
    """Whether a checkpoint is known to have learnt from a patient; False where it comes from another cohort.

    Arguments as for `check_unseen`.
    """
    return seen["salt_id"] == _salt_id(salt) and hash_patients([patient_id], salt)[0] in seen["hashes"]


def _create_salt(path: Path) -> None:
    path.parent.stat()  # the cohort's folder, which is not made here
    with replacing(path, keeps_present=True) as temporary:
        temporary.write_text(secrets.token_hex(32) + "\n", encoding="ascii")


def _salt_id(salt: str) -> str:
    return hashlib.sha256(b"salt id " + salt.encode()).hexdigest()[:16]
