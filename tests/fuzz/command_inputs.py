"""Command lines: `iac predict` whose files and folders are not what it hopes for, and odd words for other commands."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from data_modules.errors import UserError
from iac_lightning.cli import main
from tests.fuzz import head, nifti_inputs, templates
from tests.fuzz.judging import Maker, Trial, Wanted, spoken

Generator = np.random.Generator

OUTPUTS = ("mask.nii.gz", "mask_plain.nii.gz", "probability.nii.gz", "overlay.png", "result.json")
MEASURED = ("volume_mm3", "n_lesions", "lesions", "volume_plain_mm3", "slice_thickness_mm")


def words(scan: Path, out: Path) -> list[str]:
    return ["predict", str(scan), str(out), "--bundle", str(templates.original("bundle"))]


@cache
def true_result(scan: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:  # each process its own
        out = Path(folder) / "true"
        spoken(main, words(scan, out))
        found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def undamaged() -> Path:
    return templates.original("data") / "A.nii.gz"


def digests(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file()] if os.path.isdir(folder) else []
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def trial(scan: Path, out: Path, wanted: Wanted = Wanted.HONESTY, *more: str) -> Trial:
    """Files that are not the command's stay as they are, results appear whole or not at all, and say the truth."""
    before = digests(out)
    theirs = {} if set(OUTPUTS) <= set(before) else before

    def changed() -> str:
        now = digests(out)
        lost = [name for name, digest in theirs.items() if now.get(name) != digest]
        if lost:
            return f"{', '.join(lost)} of the user's changed or lost"
        made = set(OUTPUTS) & (set(now) - set(theirs))
        return "" if not made or made == set(OUTPUTS) else f"results in part: {', '.join(sorted(made))}"

    def read() -> Any:
        try:
            spoken(main, [*words(scan, out), *more])
        except UserError:
            if found := changed():
                return found
            raise
        return None

    def differs(found: Any) -> str:
        if found or (found := changed()):
            return str(found)
        result, expected = json.loads((out / "result.json").read_text()), true_result(undamaged())
        other = [key for key in MEASURED if result[key] != expected[key]]
        if other:
            return f"{other[0]} is {result[other[0]]} instead of {expected[other[0]]}"
        mask, image = nib.load(out / "mask.nii.gz"), nib.load(undamaged())
        if mask.shape != image.shape or not np.allclose(mask.affine, image.affine, atol=1e-3):
            return "the mask is not on the grid of the file"
        return ""

    def warnings(_: Any) -> list[str]:
        path = out / "result.json"
        return list(json.loads(path.read_text())["warnings"]) if path.exists() else []

    return Trial(read, differs, wanted, warnings=warnings, usual=tuple(true_result(undamaged())["warnings"]))


def ordinary(rng: Generator, folder: Path) -> Trial:
    return trial(undamaged(), folder / "out", Wanted.VALUES)


def into_a_folder_of_the_user(rng: Generator, folder: Path) -> Trial:
    """Beside a mask that somebody drew, and the scan itself."""
    out = folder / "P01"
    scan = nifti_inputs.save(nifti_inputs.image(), out / "ct.nii.gz")
    for name in rng.choice(OUTPUTS, rng.integers(1, 3), replace=False):
        (out / str(name)).write_bytes(b"drawn by hand")
    if rng.random() < 0.4:
        scan.write_bytes(scan.read_bytes()[:1000])
    return trial(scan, out, Wanted.REFUSAL)


def a_damaged_scan_over_earlier_results(rng: Generator, folder: Path) -> Trial:
    out = folder / "out"
    out.mkdir()
    spoken(main, words(undamaged(), out))
    scan = nifti_inputs.save(nifti_inputs.image(), folder / "scan.nii.gz")
    scan.write_bytes(scan.read_bytes()[: -int(rng.choice([4, 8, 5000]))])

    def read() -> Any:
        spoken(main, words(scan, out))

    return Trial(read, lambda _: "accepted", Wanted.REFUSAL, warnings=lambda _: ())


def results_where_none_can_be(rng: Generator, folder: Path) -> Trial:
    kind = rng.integers(4)
    out = folder / "out"
    if kind == 0:
        out.write_text("a file")
    elif kind == 1:
        out.symlink_to(out)
    elif kind == 2:
        out = folder / ("x" * 300)
    else:
        (folder / "file").write_text("x")
        out = folder / "file" / "out"
    return trial(undamaged(), out, Wanted.REFUSAL)


def no_scan(rng: Generator, folder: Path) -> Trial:
    name = str(rng.choice(["nowhere.nii.gz", "empty", "x.zip", "x.dcm", "x.nrrd", "x.mha", "x.dcm.gz", "x.txt"]))
    if name == "empty":
        (folder / name).mkdir()
    elif name != "nowhere.nii.gz":
        (folder / name).write_bytes(rng.bytes(2000))
    return trial(folder / name, folder / "out", Wanted.REFUSAL)


def sheared(rng: Generator, folder: Path) -> Trial:
    """The mask must fit the file that was given, and the volume be about the same."""
    matrix = head.affine()
    matrix[1, 2] = rng.uniform(0.3, 1.2)
    scan, out = nifti_inputs.save(nifti_inputs.image(affine=matrix), folder / "scan.nii.gz"), folder / "out"

    def differs(_: Any) -> str:
        mask, image = nib.load(out / "mask.nii.gz"), nib.load(scan)
        if mask.shape != image.shape or not np.allclose(mask.affine, image.affine, atol=1e-3):
            return "the mask is not on the grid of the file"
        return ""

    return Trial(lambda: spoken(main, words(scan, out)), differs, Wanted.VALUES, warnings=lambda _: ())


def odd_options(rng: Generator, folder: Path) -> Trial:
    options = [
        ["--slice-thickness-mm", "-1"],
        ["--slice-thickness-mm", "nan"],
        ["--slice-thickness-mm", "thick"],
        ["--series", "3"],
        ["--template", str(folder / "nowhere.nii.gz")],
        ["--template", str(templates.original("bundle") / "model.json")],
        ["--run", "nowhere"],
        ["--no-such-option"],
    ]
    return trial(undamaged(), folder / "out", Wanted.REFUSAL, *options[rng.integers(len(options))])


def odd_words(rng: Generator, folder: Path) -> Trial:
    lines = [
        ["evaluate", str(folder / "nowhere")],
        ["evaluate", str(folder)],
        ["evaluate", str(templates.original("bundle")), "--split", "dev"],
        ["predict"],
        ["nonsense"],
        ["finetune", str(folder / "nowhere.yaml")],
        ["finetune", str(folder)],
        ["export", str(folder), str(folder / "out")],
        ["report", str(folder / "nowhere"), "--out", str(folder / "out")],
        ["compare", str(folder), str(folder)],
        ["prepare", "data.cohort=" + str(folder / "nowhere.csv"), "name=x"],
        ["config", "seed=x"],
        ["sweep", str(folder / "nowhere.yaml"), "--dry-run"],
        ["calibrate", str(folder)],
        ["phantom", str(folder / "p"), "--patients", "-1"],
        ["phantom", str(folder / "p"), "--patients", "0"],
        ["predict", "\udcff", str(folder / "out"), "--bundle", "\udcff"],
    ]
    chosen = lines[rng.integers(len(lines))]
    return Trial(lambda: spoken(main, chosen), lambda _: "accepted", Wanted.REFUSAL, warnings=lambda _: ())


MAKERS: tuple[Maker, ...] = (
    ordinary,
    into_a_folder_of_the_user,
    a_damaged_scan_over_earlier_results,
    results_where_none_can_be,
    no_scan,
    sheared,
    odd_options,
    odd_words,
)
