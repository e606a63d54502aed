"""A cohort as a raw data set of nnU-Net v2, with this project's patient splits.

`<out>/Dataset501_IAC/` holds `imagesTr`, `labelsTr` (splits finetune and dev), `imagesTs`, `labelsTs` (split test),
`dataset.json` and `splits_final.json` (one fold: train = finetune, val = dev), which nnU-Net reads from its folder of
preprocessed data. Series of `pretrain` have no labels and are left out. Case names are series ids, so predictions come
back by name (`iac evaluate --predictions`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from tqdm import tqdm

from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series, read_cohort
from data_modules.errors import UserError
from data_modules.files import remove_leftovers, replacing, write_json_atomic
from data_modules.prepare.labels import LARGEST_OF_SCAN, check_label
from data_modules.scan.geometry import Grid
from data_modules.scan.nifti import read_mask, write_nifti

FOLDERS = {"finetune": ("imagesTr", "labelsTr"), "dev": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}
"""Where the images and labels of each split go."""

_LISTED = 10


@dataclass(frozen=True)
class NnunetDataset:
    """What `export_nnunet` wrote.

    Attributes:
        directory: the raw data set.
        n_train: series to train on (finetune).
        n_val: series to validate on (dev).
        n_test: series to predict (test).
    """

    directory: Path
    n_train: int
    n_val: int
    n_test: int


def export_nnunet(
    cohort_path: Path, out: Path, dataset_id: int = 501, name: str = "IAC", copy: bool = False
) -> NnunetDataset:
    """Write the raw data set; called again, it goes on where it was stopped and renews what has changed.

    Images that nnU-Net reads as this project does (`.nii.gz`, 3D, axes at right angles, one orientation in the header)
    are linked, or copied with `copy`; all others (DICOM, sheared, uncompressed, …) are read and written as NIfTI on the
    scan's native grid. Labels are written as 0 and 1 on that grid. `dataset.json` comes last, so it stands for the
    whole.

    Args:
        cohort_path: the cohort table.
        out: folder for the data set's folder, such as nnU-Net's `nnUNet_raw`.
        dataset_id: nnU-Net's number, 1 to 999.
        name: letters, digits and '_'.
        copy: copy images instead of linking them, to take the data set elsewhere.

    Raises:
        UserError: no series to train on, series without label, an unusable id or name, or a folder that holds cases of
            other splits, which nnU-Net would take into its training.
    """
    if not 1 <= dataset_id <= 999 or not re.fullmatch(r"\w+", name, re.ASCII):
        raise UserError(
            f"data set {dataset_id}, name {name!r}: expected a number from 1 to 999 and a name of letters, digits, '_'"
        )
    cohort = read_cohort(cohort_path)
    train, val, test = (cohort.split(split) for split in ("finetune", "dev", "test"))
    series = (*train, *val, *test)
    unlabelled = [s.series_id for s in series if s.label is None]
    if not train or not val or unlabelled:
        raise UserError(
            f"{cohort.path}: {len(train)} finetune, {len(val)} dev and {len(test)} test series, {len(unlabelled)} of "
            f"them without label{_some(unlabelled)}. nnU-Net needs labelled series in finetune and dev; test ones need "
            "labels to be measured: fill the label column (an empty mask counts), or the splits (iac split)."
        )
    directory = Path(out).absolute() / f"Dataset{dataset_id:03d}_{name}"
    _refuse_other_cases(directory, series)
    for item in tqdm(series, desc="nnU-Net data set", unit="scan", disable=None):
        _export_series(item, directory, copy)
    write_json_atomic(
        directory / "splits_final.json",
        [{"train": sorted(s.series_id for s in train), "val": sorted(s.series_id for s in val)}],
    )
    write_json_atomic(
        directory / "dataset.json",
        {
            "name": name,
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "calcification": 1},
            "numTraining": len(train) + len(val),
            "file_ending": ".nii.gz",
        },
    )
    return NnunetDataset(directory, len(train), len(val), len(test))


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:_LISTED])}{' …' if len(names) > _LISTED else ''})" if names else ""


def _paths(item: Series, directory: Path) -> tuple[Path, Path]:
    images, labels = FOLDERS[item.split]
    return directory / images / f"{item.series_id}_0000.nii.gz", directory / labels / f"{item.series_id}.nii.gz"


def _refuse_other_cases(directory: Path, series: Sequence[Series]) -> None:
    """nnU-Net trains on whatever lies in `imagesTr`: a patient who has moved to another split must not stay there."""
    expected = {path for item in series for path in _paths(item, directory)}
    other = []
    for folder in sorted({name for names in FOLDERS.values() for name in names}):
        if (directory / folder).is_dir():
            remove_leftovers(directory / folder)
            other += [f"{folder}/{p.name}" for p in sorted((directory / folder).iterdir()) if p not in expected]
    if other:
        raise UserError(
            f"{directory}: holds {len(other)} files that do not belong to the cohort's splits{_some(other)}. nnU-Net "
            "would use them: remove them (and what nnU-Net preprocessed from them), or export to another folder."
        )


def _export_series(item: Series, directory: Path, copy: bool) -> None:
    image, label = _paths(item, directory)
    assert item.label is not None
    (directory / image.parent.name).mkdir(parents=True, exist_ok=True)
    linked = not copy and _is_plain(item.image)
    sources = (item.image, item.label)
    if _is_done(image, item.image, linked) and all(_is_newer(label, source) for source in sources):
        return
    scan = read_series(item)
    mask = read_mask(item.label, like=scan)
    check_label(mask.data, scan.hu, item.label, LARGEST_OF_SCAN)
    if linked:
        with replacing(image) as temporary:
            temporary.symlink_to(item.image)
    else:
        image.unlink(missing_ok=True)  # never write through an earlier link into the source
        write_nifti(scan.volume, image)
    write_nifti(mask, label)


def _is_plain(path: Path) -> bool:
    """Whether nnU-Net's reader (SimpleITK) sees the same voxels at the same places as `read_scan` does."""
    if not path.name.endswith(".nii.gz"):
        return False
    try:
        image = nib.load(path)
        qform, code = image.header.get_qform(coded=True)
    except (ImageFileError, HeaderDataError, OSError, ValueError):  # nnU-Net may stumble over it too
        return False
    if not isinstance(image, nib.Nifti1Image) or image.ndim != 3:
        return False
    grid = Grid(image.shape, image.affine)
    return grid.is_orthogonal and bool(code) and Grid(image.shape, qform).same_as(grid)


def _is_done(image: Path, source: Path, linked: bool) -> bool:
    if linked:
        return image.is_symlink() and image.resolve() == source.resolve()
    return not image.is_symlink() and _is_newer(image, source)


def _is_newer(target: Path, source: Path) -> bool:
    """Whether a file (they are written whole) was made after its source last changed; a folder's newest file counts."""
    if not target.exists():
        return False
    files = [source, *source.iterdir()] if source.is_dir() else [source]
    return target.stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in files)
