"""Damaged files beside a scan: masks, and the JSON that says what NIfTI has no room for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import read_mask
from data_modules.scan.reading import read_scan
from tests.fuzz import head, nifti_inputs
from tests.fuzz.head import Truth
from tests.fuzz.judging import Maker, Trial, Wanted

Generator = np.random.Generator


# --- masks ------------------------------------------------------------------------------------------------------


def mask_trial(path: Path, truth: NDArray[Any] | None = None, wanted: Wanted = Wanted.HONESTY) -> Trial:
    """A mask of the undamaged head; it must come back on the head's own voxels."""
    grid = Grid(head.SHAPE, head.affine())
    expected = (head.lesion_mask() if truth is None else truth) > 0

    def differs(found: Volume) -> str:
        if not found.grid.same_as(grid):
            return "lies on another grid"
        return "" if (found.data == expected).all() else f"{(found.data != expected).sum()} voxels differ"

    return Trial(lambda: read_mask(path, like=grid), differs, wanted, warnings=lambda _: ())


def save_mask(folder: Path, data: NDArray[Any] | None = None, affine: NDArray[np.float64] | None = None) -> Path:
    made = nifti_inputs.image(head.lesion_mask() if data is None else data, affine)
    return nifti_inputs.save(made, folder / "label.nii.gz")


def mask_in_another_axis_order(rng: Generator, folder: Path) -> Trial:
    orientation = np.column_stack([rng.permutation(3), rng.choice([-1, 1], 3)])
    found = nifti_inputs.image(head.lesion_mask()).as_reoriented(orientation)
    return mask_trial(nifti_inputs.save(found, folder / "label.nii.gz"), wanted=Wanted.VALUES)


def mask_of_another_type(rng: Generator, folder: Path) -> Trial:
    kind = rng.choice(["i2", "f4", "f8", ">i4", "u2"])
    return mask_trial(save_mask(folder, head.lesion_mask().astype(kind)), wanted=Wanted.VALUES)


def mask_of_several_labels(rng: Generator, folder: Path) -> Trial:
    return mask_trial(save_mask(folder, head.lesion_mask() * rng.integers(1, 9, head.SHAPE, np.uint8)))


def mask_elsewhere(rng: Generator, folder: Path) -> Trial:
    matrix = head.affine()
    matrix[:3, 3] += rng.choice([-1, 1], 3) * rng.uniform(0.3, 60)
    return mask_trial(save_mask(folder, affine=matrix), wanted=Wanted.REFUSAL)


def mask_mirrored_in_the_header(rng: Generator, folder: Path) -> Trial:
    """Flipped in the header alone: the voxels lie elsewhere."""
    matrix = head.affine()
    matrix[:, rng.integers(3)] *= -1
    return mask_trial(save_mask(folder, affine=matrix), wanted=Wanted.REFUSAL)


def mask_of_another_size(rng: Generator, folder: Path) -> Trial:
    return mask_trial(save_mask(folder, head.lesion_mask()[: rng.integers(20, 52)]), wanted=Wanted.REFUSAL)


def mask_of_other_spacing(rng: Generator, folder: Path) -> Trial:
    matrix = head.affine()
    matrix[:3, :3] *= rng.choice([0.5, 2.0, 1e-3, 1.1])
    return mask_trial(save_mask(folder, affine=matrix), wanted=Wanted.REFUSAL)


def no_mask_but_values(rng: Generator, folder: Path) -> Trial:
    values = [
        head.simulated_hu(),
        head.lesion_mask() * np.float32(rng.uniform(0.1, 0.9)),
        -head.lesion_mask().astype(np.int16),
        np.where(head.lesion_mask(), np.nan, 0).astype(np.float32),
        head.lesion_mask() * np.float32(1e30),
    ]
    return mask_trial(save_mask(folder, values[rng.integers(len(values))]))


def mask_cut_off(rng: Generator, folder: Path) -> Trial:
    path = save_mask(folder)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: int(rng.choice([0, 5, size // 2, size - 8, rng.integers(size)]))])
    return mask_trial(path, wanted=Wanted.REFUSAL)


def bit_flipped_in_mask(rng: Generator, folder: Path) -> Trial:
    path = save_mask(folder)
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    return mask_trial(path)


def bit_flipped_in_header_of_mask(rng: Generator, folder: Path) -> Trial:
    path = save_mask(folder)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[rng.integers(nifti_inputs.HEADER)] ^= 1 << rng.integers(8)
    path.write_bytes(gzip.compress(content))
    return mask_trial(path)


def mask_of_another_dimension(rng: Generator, folder: Path) -> Trial:
    mask = head.lesion_mask()
    if rng.random() < 0.3:
        return mask_trial(save_mask(folder, mask[..., None]), wanted=Wanted.VALUES)
    return mask_trial(save_mask(folder, np.stack([mask, mask], axis=-1)), wanted=Wanted.REFUSAL)


def mask_with_its_scans_slightly_long_quaternion(rng: Generator, folder: Path) -> Trial:
    found = nifti_inputs.image(head.lesion_mask())
    for name, value in zip(("quatern_b", "quatern_c", "quatern_d"), (0, 0, 1 + 2.4e-7), strict=True):
        found.header[name] = value
    return mask_trial(nifti_inputs.save(found, folder / "label.nii.gz"), wanted=Wanted.VALUES)


def no_mask(rng: Generator, folder: Path) -> Trial:
    path = folder / "label.nii.gz"
    if rng.random() < 0.5:
        path.write_bytes(rng.bytes(300))
    elif rng.random() < 0.5:
        path.mkdir()
    return mask_trial(path, wanted=Wanted.REFUSAL)


def mask_on_its_sheared_scan(rng: Generator, folder: Path) -> Trial:
    """Drawn on a file whose header is sheared, saved with that header: wherever the scan went, the mask went too."""
    matrix = head.affine()
    matrix[1, 2] = rng.uniform(0.4, 1.5)
    scan = nifti_inputs.save(nifti_inputs.image(affine=matrix), folder / "scan.nii.gz")
    label = save_mask(folder, affine=matrix)
    expected = head.lesion_mask().sum() * nib.affines.voxel_sizes(matrix).prod()

    def read() -> tuple[Any, Volume]:
        found = read_scan(scan)
        return found, read_mask(label, like=found)

    def differs(both: tuple[Any, Volume]) -> str:
        found, mask = both
        bright = found.hu[mask.data]
        if not mask.data.any() or np.mean(bright < 60) > 0.25:
            return "the mask does not lie on the calcium"
        volume = mask.data.sum() * mask.grid.voxel_volume_mm3
        return "" if abs(volume / expected - 1) < 0.3 else f"{volume:.0f} mm³ instead of {expected:.0f}"

    return Trial(read, differs, Wanted.HONESTY, warnings=lambda _: ())


MASKS: tuple[Maker, ...] = (
    mask_in_another_axis_order,
    mask_of_another_type,
    mask_of_several_labels,
    mask_elsewhere,
    mask_mirrored_in_the_header,
    mask_of_another_size,
    mask_of_other_spacing,
    no_mask_but_values,
    mask_cut_off,
    bit_flipped_in_mask,
    bit_flipped_in_header_of_mask,
    mask_of_another_dimension,
    mask_with_its_scans_slightly_long_quaternion,
    no_mask,
    mask_on_its_sheared_scan,
)


# --- sidecars ---------------------------------------------------------------------------------------------------


def sidecar_trial(
    folder: Path, text: str | bytes, truth: Truth | None = None, wanted: Wanted = Wanted.HONESTY
) -> Trial:
    path = nifti_inputs.save(nifti_inputs.image(), folder / "scan.nii.gz")
    (folder / "scan.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Trial(lambda: read_scan(path), (truth or Truth()).differs, wanted, names="thickness|sidecar|json|kernel")


def content(**changes: Any) -> str:
    return json.dumps(nifti_inputs.SIDECAR | changes)


def implausible_thickness(rng: Generator, folder: Path) -> Trial:
    value = rng.choice([0.004, 4e-3, 0.05, 50.0, 4000.0, 1e9, 1e-9, 1e300])
    return sidecar_trial(folder, content(SliceThickness=float(value)))


def no_number_for_thickness(rng: Generator, folder: Path) -> Trial:
    values = ["4,0", "four", [], {}, True, None, -4, 0, [4.0, 4.0], float("nan"), float("inf"), 10**400]
    return sidecar_trial(folder, content(SliceThickness=values[rng.integers(len(values))]))


def thickness_as_text(rng: Generator, folder: Path) -> Trial:
    return sidecar_trial(folder, content(SliceThickness=str(rng.choice(["4.0", "4", " 4.0 ", "4.0 mm", "4e0"]))))


def strange_words(rng: Generator, folder: Path) -> Trial:
    values: list[Any] = [["H31s"], 31, None, {"a": 1}, "H31s\u0000", "x" * 100000, True]
    key = str(rng.choice(["Manufacturer", "GantryDetectorTilt", "Modality", "SliceThickness"]))
    return sidecar_trial(folder, content(**{key: values[rng.integers(len(values))]}))


def of_another_modality(rng: Generator, folder: Path) -> Trial:
    value = rng.choice(["MR", "PT", "US", "SR"])
    return sidecar_trial(folder, content(Modality=str(value)), wanted=Wanted.REFUSAL)


def no_json(rng: Generator, folder: Path) -> Trial:
    texts = ["", "{", "[]", "null", "7", '"x"', "{'SliceThickness': 4}", "[" * 100000, "{}}", "\x00\x01"]
    return sidecar_trial(folder, texts[rng.integers(len(texts))])


def json_in_another_encoding(rng: Generator, folder: Path) -> Trial:
    encoding = rng.choice(["utf-8-sig", "utf-16", "latin-1"])
    text = json.dumps(nifti_inputs.SIDECAR | {"InstitutionName": "Spitäler Zürich"}, ensure_ascii=False)
    return sidecar_trial(folder, text.encode(str(encoding)))


def byte_changed_in_json(rng: Generator, folder: Path) -> Trial:
    """Where it is JSON still, a plausible number in it is the truth."""
    data = bytearray(content().encode())
    data[rng.integers(len(data))] = rng.integers(256)
    truth = Truth()
    try:
        said = json.loads(data)
        thickness, kernel = said.get("SliceThickness"), said.get("ConvolutionKernel", "")
        if isinstance(thickness, int | float) and 0.1 <= thickness <= 20:
            truth = Truth(thickness_mm=thickness, kernel=str(kernel))
        elif thickness is None:
            truth = Truth(thickness_mm=head.SPACING_MM[2], kernel=str(kernel))
    except (ValueError, AttributeError):
        pass
    return sidecar_trial(folder, bytes(data), truth)


def of_dcm2niix(rng: Generator, folder: Path) -> Trial:
    """dcm2niix writes the JSON for the plain name only."""
    ending = str(rng.choice(["_Tilt", "_Eq", "_1", "_Tilt_1", "_Tilt_Eq_1", "_Eq_1"]))
    path = nifti_inputs.save(nifti_inputs.image(), folder / f"head{ending}.nii.gz")
    (folder / f"head{ending}.json").rename(folder / "head.json")
    return Trial(lambda: read_scan(path), Truth().differs, names="thick")


def twice_the_same_key(rng: Generator, folder: Path) -> Trial:
    other = float(rng.choice([1.0, 8.0]))
    text = f'{{"SliceThickness": {other}, "ConvolutionKernel": "H31s", "SliceThickness": {head.THICKNESS_MM}}}'
    return sidecar_trial(folder, text)


SIDECARS: tuple[Maker, ...] = (
    implausible_thickness,
    no_number_for_thickness,
    thickness_as_text,
    strange_words,
    of_another_modality,
    no_json,
    json_in_another_encoding,
    byte_changed_in_json,
    of_dcm2niix,
    twice_the_same_key,
)
