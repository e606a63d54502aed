"""A raw data set of nnU-Net v2 as rows of a cohort."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from data_modules.errors import UserError
from data_modules.intake.listed import Listed


def nnunet_rows(directory: Path, splits: Path | None = None, patient_pattern: str = "") -> list[Listed]:
    """Every case of a raw data set, with its label, split and fold.

    Of one fold train becomes `finetune` and val `dev`; of several each case has the fold that validates it, and fold 0
    decides between the two. `imagesTs` are `test`.

    Args:
        directory: such as `nnUNet_raw/Dataset501_IAC`.
        splits: `splits_final.json`; None: the one in the data set, or in its folder of `nnUNet_preprocessed`.
        patient_pattern: regular expression whose one group is the patient in a case's name; empty: each case is one.

    Raises:
        UserError: no such data set, no CT channel, an unusable pattern or list of splits.
    """
    described = _json(directory / "dataset.json", dict)
    ending = described.get("file_ending", ".nii.gz")
    if "ignore" in described.get("labels", {}):
        raise UserError(f"{directory / 'dataset.json'}: labels holds 'ignore', which no mask can say; remove it there")
    suffix = f"_{_channel(described, directory):04d}{ending}"
    pattern = _pattern(patient_pattern)
    split_of = _splits(splits or _found_splits(directory))
    rows = []
    for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        for image in sorted((directory / images).glob(f"*{suffix}")):
            case = image.name.removesuffix(suffix)
            label = directory / labels / f"{case}{ending}"
            split, fold = ("test", "") if images == "imagesTs" else split_of.get(case, ("", ""))
            patient = pattern.search(case) if pattern else None
            rows.append(
                Listed(
                    patient_id=patient[1] or "" if patient else "" if pattern else case,
                    series_id=case,
                    image=image,
                    label=label if label.is_file() else None,
                    split=split,
                    fold=fold,
                    problem=f"--patient-pattern does not match {case!r}" if pattern and not patient else "",
                )
            )
    return rows


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Expected a file of nnU-Net.") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, as nnU-Net writes it")
    return content


def _channel(described: dict[str, Any], directory: Path) -> int:
    names = described.get("channel_names", described.get("modality", {"0": "CT"}))
    ct = [number for number, name in names.items() if str(name).casefold() == "ct"]
    chosen = ct or list(names)
    if len(chosen) != 1:
        raise UserError(f"{directory / 'dataset.json'}: channel_names {names}; expected one channel named CT")
    return int(chosen[0])


def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"--patient-pattern {text!r}: no regular expression ({error})") from None
    if text and pattern.groups != 1:
        raise UserError(f"--patient-pattern {text!r}: has {pattern.groups} groups, expected one, such as '^(P[0-9]+)_'")
    return pattern if text else None


def _found_splits(directory: Path) -> Path | None:
    absolute = directory.absolute()
    preprocessed = absolute.parent.parent / "nnUNet_preprocessed" / absolute.name
    places = (absolute / "splits_final.json", preprocessed / "splits_final.json")
    return next((path for path in places if path.is_file()), None)


def _splits(path: Path | None) -> dict[str, tuple[str, str]]:
    """Split and fold of each case."""
    if path is None:
        return {}
    folds = _json(path, list)
    try:
        pairs = [(set(fold["train"]), set(fold["val"])) for fold in folds]
    except (KeyError, TypeError):
        raise UserError(f"{path}: expected a list of folds with 'train' and 'val'") from None
    if not pairs:
        return {}
    cases = set.union(*(train | val for train, val in pairs))
    held = {case: [k for k, (_, val) in enumerate(pairs) if case in val] for case in cases}
    if len(pairs) > 1 and any(len(numbers) != 1 for numbers in held.values()):
        raise UserError(f"{path}: of several folds each case is expected in 'val' of exactly one")
    return {
        case: ("dev" if 0 in held[case] else "finetune", str(held[case][0]) if len(pairs) > 1 else "") for case in cases
    }
