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

from data_modules.cohort.ids import normal_form
from data_modules.cohort.table import WHAT, Cohort, Series, split_conflicts
from data_modules.csv_files import raise_problems
from data_modules.errors import UserError
from data_modules.files import replacing
from data_modules.scan.content import shares_image

TRAINS_ON = {"pretrain": ("pretrain", "finetune"), "segment": ("finetune",)}
"""Splits that each task learns from. The development split validates; the test split is not even opened."""

SALT_FILE = "split_salt"
"""Beside the cohort table; created once, travels with the table, and is never put into a checkpoint."""

_LISTS = ("hashes", "alike", "images")


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


def seen_patients(
    patient_ids: Iterable[str],
    salt: str,
    images: Iterable[Sequence[str]] = (),
    tuned: tuple[Iterable[str], Iterable[Sequence[str]]] | None = None,
) -> dict[str, Any]:
    """What a checkpoint carries about the patients it has learnt from.

    `salt_id` tells whether the hashes of two lists can be compared; neither it nor the sorted `hashes` reveal the salt
    or an id. `alike` are hashes of what ids that are one in all likelihood have in common, `images` the digests of the
    scans (`scan.content`), which hold whatever the salt: who has not the scan cannot guess them.

    Args:
        patient_ids: of those it learns from.
        salt: of the cohort.
        images: digests of each of their scans.
        tuned: patients, and digests of each of their scans, by which the checkpoint and its thresholds are chosen.
    """
    patients, known = set(patient_ids), [digests for digests in images if digests]
    record = {
        "salt_id": _salt_id(salt),
        "hashes": sorted(hash_patients(patients, salt)),
        "alike": sorted(hash_patients({_normal(patient) for patient in patients}, salt)),
        **({"images": sorted({d for digests in known for d in digests}), "n_scans": len(known)} if known else {}),
    }
    return record | ({"tuned": seen_patients(tuned[0], salt, tuned[1])} if tuned else {})


def is_seen_patients(value: Any) -> bool:
    """Whether a value has the form of what a model carries about its patients: a list of what `seen_patients` gives."""
    return isinstance(value, list) and all(
        isinstance(record, dict)
        and isinstance(record.get("salt_id"), str)
        and isinstance(record.get("hashes"), list)
        and all(_is_text_list(record.get(name, [])) for name in _LISTS)
        and is_seen_patients([record["tuned"]] if "tuned" in record else [])
        for record in value
    )


def merged(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whom any of some models has seen, and was tuned on: one record a cohort, of the form of `seen_patients`."""
    by_salt: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_salt.setdefault(record["salt_id"], []).append(record)
    result: list[dict[str, Any]] = []
    for salt_id, group in sorted(by_salt.items()):
        known = [name for name in _LISTS if any(name in record for record in group)]
        lists = {name: sorted({value for record in group for value in record.get(name, ())}) for name in known}
        tuned = merged(r["tuned"] for r in group if "tuned" in r)
        result.append({"salt_id": salt_id, **lists, **({"tuned": tuned[0]} if tuned else {})})
    return result


def check_unseen(
    evaluated_patients: Iterable[str],
    seen: Mapping[str, Any],
    salt: str,
    images: Iterable[tuple[str, Sequence[str]]] = (),
    *,
    everyone: Iterable[str] = (),
    how: str = "seen in training",
) -> str | None:
    """Refuse to evaluate on patients that a checkpoint has learnt from, under whatever id.

    Args:
        evaluated_patients: ids of the patients to evaluate on.
        seen: what `seen_patients` put into the checkpoint.
        salt: `split_salt` of the cohort that is evaluated.
        images: patient and digests of each scan to evaluate on.
        everyone: ids of all patients of the table: where two of them are alike, it says that they are two people.
        how: they were seen, for the message.

    Returns:
        None where no patient was seen; a warning to show where the checkpoint comes from a cohort with another salt,
        and nothing, or no more than its scans, can be verified.

    Raises:
        UserError: when at least one patient was seen.
    """
    patients = sorted(set(evaluated_patients))
    comparable = seen["salt_id"] == _salt_id(salt)
    if comparable:
        known = _known_patients(patients, seen, salt, set(everyone))
        if known:
            raise UserError(
                f"{len(known)} of {len(patients)} patients to evaluate on were {how}, such as {', '.join(known[:3])}; "
                "expected none: evaluate on other patients, or train on this cohort's splits again"
            )
    scans, of_seen = list(images), set(seen.get("images", ()))
    copies = sorted({patient for patient, digests in scans if shares_image(digests, of_seen)})
    if copies:
        raise UserError(
            f"scans of {len(copies)} of {len(patients)} patients to evaluate on were {how}, such as of "
            f"{', '.join(copies[:3])}: the voxels are the same, whatever id or file they have now; expected none: "
            "evaluate on other patients, or train on this cohort's splits again"
        )
    if comparable:
        return None
    verified = bool(of_seen) and all(digests for _, digests in scans) and bool(scans)
    return (
        "the checkpoint was trained on a cohort with another split_salt: whether it has seen the evaluated patients "
        + ("can be verified by their scans alone, none of which was seen." if verified else "cannot be verified.")
        + " If it is the same cohort, copy split_salt from where it was trained."
    )


def is_seen(patient_id: str, seen: Mapping[str, Any], salt: str, digests: Sequence[str] = ()) -> bool:
    """Whether a checkpoint is known to have learnt from a patient, or from the scan that some digests are of.

    Arguments as for `check_unseen`.
    """
    by_id = seen["salt_id"] == _salt_id(salt) and hash_patients([patient_id], salt)[0] in seen["hashes"]
    return by_id or shares_image(digests, seen.get("images", ()))


def _known_patients(patients: Sequence[str], seen: Mapping[str, Any], salt: str, everyone: set[str]) -> list[str]:
    """Those of the patients that were seen, by their ids or by ones that are alike and stand in the table no more."""
    hashes, alike = set(seen["hashes"]), set(seen.get("alike", ()))

    def were(names: Sequence[str], known: set[str]) -> list[bool]:
        return [digest in known for digest in hash_patients(names, salt)]

    still_there = {_normal(p) for p, was in zip(everyone, were(list(everyone), hashes), strict=True) if was}
    exact, similar = were(patients, hashes), were([_normal(p) for p in patients], alike)
    return [
        p
        for p, is_same, is_like in zip(patients, exact, similar, strict=True)
        if is_same or (is_like and _normal(p) not in still_there)
    ]


def _normal(patient_id: str) -> str:
    return f"alike: {normal_form(patient_id) or patient_id}"


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(digest, str) for digest in value)


def _create_salt(path: Path) -> None:
    path.parent.stat()  # the cohort's folder, which is not made here
    with replacing(path, keeps_present=True) as temporary:
        temporary.write_text(secrets.token_hex(32) + "\n", encoding="ascii")


def _salt_id(salt: str) -> str:
    return hashlib.sha256(b"salt id " + salt.encode()).hexdigest()[:16]
