"""A BIDS data set with CT as rows of a cohort."""

from __future__ import annotations

from pathlib import Path

from data_modules.csv_files import read_csv
from data_modules.errors import UserError
from data_modules.intake.listed import Listed

LABELS = "derivatives/*/{folder}/{entities}*_mask.nii*"
"""Where masks are looked for: `folder` is that of the image below the data set, `entities` its name without `_ct`."""
_FOLDERS = ("ct", "anat")
_FACTS = ("age", "sex")


def bids_rows(dataset: Path, labels: str = LABELS) -> list[Listed]:
    """Every `*_ct.nii.gz` of `sub-*/[ses-*/](ct|anat)`, with its mask, and age and sex of `participants.tsv`.

    Args:
        dataset: the data set's folder.
        labels: pattern of masks below it, with `{folder}` and `{entities}`.

    Raises:
        UserError: no such folder, or an unusable pattern or `participants.tsv`.
    """
    if not dataset.is_dir():
        raise UserError(f"{dataset}: no such folder; expected a BIDS data set with sub-*/ct/*_ct.nii.gz")
    facts = _participants(dataset / "participants.tsv")
    rows = []
    for image in sorted(
        path
        for level in ("", "ses-*/")
        for folder in _FOLDERS
        for path in dataset.glob(f"sub-*/{level}{folder}/*_ct.nii*")
        if path.name.endswith((".nii", ".nii.gz"))
    ):
        below = image.relative_to(dataset)
        entities = image.name.rpartition("_ct.nii")[0]
        try:
            found = sorted(dataset.glob(labels.format(folder=below.parent.as_posix(), entities=entities)))
        except (KeyError, IndexError, ValueError, NotImplementedError) as error:
            raise UserError(f"--labels {labels!r}: expected a pattern such as {LABELS} ({error})") from None
        rows.append(
            Listed(
                patient_id=below.parts[0].removeprefix("sub-"),
                series_id=entities,
                image=image,
                label=found[0] if found else None,
                extra=facts.get(below.parts[0], {}),
                problem=f"{len(found)} masks, expected one: narrow --labels" if len(found) > 1 else "",
            )
        )
    return rows


def _participants(path: Path) -> dict[str, dict[str, str]]:
    """Age and sex by participant, where the table has them."""
    if not path.is_file():
        return {}
    cells = read_csv(path, ("participant_id", *_FACTS), "table of participants").cells
    if "participant_id" not in cells:
        raise UserError(f"{path}: no column participant_id; BIDS asks for one: add it")
    known = [name for name in _FACTS if name in cells]
    return {
        row["participant_id"]: {name: "" if row[name] == "n/a" else row[name] for name in known}
        for row in cells.to_dict(orient="records")
    }
