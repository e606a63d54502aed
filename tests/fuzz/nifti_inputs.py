"""Damaged NIfTI files, and ordinary ones of rare kinds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from data_modules.scan.reading import read_scan
from tests.fuzz import head
from tests.fuzz.head import Truth
from tests.fuzz.judging import Maker, Trial, Wanted

Generator = np.random.Generator

HEADER = 348
SIDECAR = {"Modality": "CT", "SliceThickness": head.THICKNESS_MM, "ConvolutionKernel": head.KERNEL}


def image(data: NDArray[Any] | None = None, affine: NDArray[np.float64] | None = None) -> nib.Nifti1Image:
    """In millimetres, with the same geometry in sform and qform."""
    matrix = head.affine() if affine is None else affine
    made = nib.Nifti1Image(head.simulated_hu() if data is None else data, matrix)
    made.set_sform(matrix, code=1)
    if affine is None:
        made.set_qform(matrix, code=1)
    made.header.set_xyzt_units("mm")
    return made


def save(found: nib.Nifti1Image, path: Path, sidecar: dict[str, Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = found.to_bytes()
    path.write_bytes(gzip.compress(content, 1) if path.name.lower().endswith(".gz") else content)
    path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(sidecar or SIDECAR))
    return path


def trial(path: Path, truth: Truth | None = None, wanted: Wanted = Wanted.HONESTY, names: str = "") -> Trial:
    return Trial(lambda: read_scan(path), (truth or Truth()).differs, wanted, names=names)


# --- values that are not HU -------------------------------------------------------------------------------------


def of_values(change: Callable[[Generator, NDArray[np.float64]], NDArray[Any]], name: str, wanted: Wanted) -> Maker:
    """Files that hold other values."""

    def make(rng: Generator, folder: Path) -> Trial:
        data = change(rng, head.simulated_hu().astype(float))
        if data.dtype == float:
            data = np.rint(data).astype(np.int16 if np.abs(data).max() < 32767 else np.int32)
        return trial(save(image(data), folder / "scan.nii.gz"), wanted=wanted)

    make.__name__ = name
    return make


def behind_padding(rng: Generator, data: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    """Padding outside a round field of view."""
    x, y = np.meshgrid(np.linspace(-1, 1, data.shape[0]), np.linspace(-1, 1, data.shape[1]), indexing="ij")
    data[(x**2 + y**2) > rng.uniform(0.9, 1.3)] = value
    return data


def with_offset(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    return data + rng.choice([1000, 1024, 1023, 8192])


def with_offset_behind_padding(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    return behind_padding(rng, data + 1024, float(rng.choice([-2000, -1024, -3024, -2048])))


def inverted(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    return rng.choice([0, 0, 100]) - data


def inverted_and_padded(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    return behind_padding(rng, -data, -2000)


def clipped_above(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(data, rng.integers(80, 280))


def windowed(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    level, width = rng.integers(20, 60), rng.integers(80, 500)
    return np.clip(data, level - width // 2, level + width // 2)


def grey_values(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.uint8]:
    low, high = rng.integers(-1024, 0), rng.integers(100, 1500)
    return np.rint(255 * np.clip((data - low) / (high - low), 0, 1)).astype(np.uint8)


def constant(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.full_like(data, rng.choice([-1024, -1000, 0, 40, 1000]))


def magnetic_resonance(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    tissue = (data > -300) * rng.gamma(8, 60, data.shape)
    return tissue + np.abs(rng.normal(0, 8, data.shape))


def in_other_units(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float32]:
    return (data * rng.choice([2.0, 0.5, 10.0, 0.1, 1e6, 1e30])).astype(np.float32)


def not_finite(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float32]:
    data.flat[rng.integers(0, data.size, rng.integers(1, 50))] = rng.choice([np.nan, np.inf, -np.inf])
    return data.astype(np.float32)


def beyond_int16(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float32]:
    data.flat[rng.integers(0, data.size, 5)] = rng.choice([4e4, 1e9, 1e30])
    return data.astype(np.float32)


def zeros_in_some_slices(rng: Generator, data: NDArray[np.float64]) -> NDArray[np.float64]:
    data[..., rng.integers(4, 9)] = 0
    return data


VALUES = {
    Wanted.REFUSAL: (
        with_offset,
        with_offset_behind_padding,
        inverted,
        inverted_and_padded,
        clipped_above,
        windowed,
        grey_values,
        constant,
        magnetic_resonance,
    ),
    Wanted.HONESTY: (in_other_units, not_finite, beyond_int16, zeros_in_some_slices),
}


# --- the same values, stored otherwise --------------------------------------------------------------------------


def padded(rng: Generator, folder: Path) -> Trial:
    truth = behind_padding(rng, head.simulated_hu().astype(float), -1024)
    hu = np.where(truth == -1024, rng.choice([-2000, -3024, -1500]), truth).astype(np.int16)
    return trial(save(image(hu), folder / "scan.nii.gz"), Truth(hu=truth.astype(np.int16)), Wanted.VALUES)


def scaled_in_the_header(rng: Generator, folder: Path) -> Trial:
    slope, intercept = rng.choice([1.0, 0.5, 2.0, 0.1]), rng.choice([0.0, -1024.0, -1000.0])
    stored = np.rint((head.simulated_hu() - intercept) / slope)
    found = image(stored.astype(rng.choice([np.int16, np.float32, np.int32])))
    found.header.set_slope_inter(slope, intercept)
    return trial(save(found, folder / "scan.nii"), wanted=Wanted.VALUES)


def of_another_type(rng: Generator, folder: Path) -> Trial:
    kind = rng.choice(["<i4", ">i2", "<f4", "<f8", ">f4", ">i4"])
    made = nib.Nifti1Image(head.simulated_hu().astype(kind), head.affine(), image().header)
    made.set_data_dtype(np.dtype(str(kind)))
    return trial(save(made, folder / "scan.nii.gz"), wanted=Wanted.VALUES)


def no_sense_in_slope(rng: Generator, folder: Path) -> Trial:
    content = bytearray(image().to_bytes())
    content[112:116] = np.float32(rng.choice([0.0, np.nan, np.inf, -np.inf])).tobytes()
    content[116:120] = np.float32(rng.choice([0.0, np.nan, np.inf])).tobytes()
    path = save(image(), folder / "scan.nii")
    path.write_bytes(content)
    return trial(path)


def in_another_axis_order(rng: Generator, folder: Path) -> Trial:
    orientation = np.column_stack([rng.permutation(3), rng.choice([-1, 1], 3)])
    found = image().as_reoriented(orientation)
    found.header.set_dim_info()
    return trial(save(found, folder / "scan.nii.gz"), wanted=Wanted.VALUES)


def of_another_name(rng: Generator, folder: Path) -> Trial:
    name = rng.choice(["SCAN.NII.GZ", "Scan.Nii.gz", "scan.NII", "a b 'c'.nii.gz", "кт_头.nii", "x%20?y.nii.gz"])
    return trial(save(image(), folder / str(name)), wanted=Wanted.VALUES)


def of_another_compression(rng: Generator, folder: Path) -> Trial:
    path = save(image(), folder / "scan.nii")
    plain = path.read_bytes()
    if rng.random() < 0.5:
        path.write_bytes(gzip.compress(plain))
        return trial(path)
    path.rename(folder / "scan.nii.gz")
    return trial(folder / "scan.nii.gz")


def of_another_format(rng: Generator, folder: Path) -> Trial:
    path = folder / f"scan.{rng.choice(['nrrd', 'mha', 'mhd', 'hdr'])}"
    found = sitk.GetImageFromArray(head.simulated_hu().transpose(2, 1, 0))
    found.SetSpacing(head.SPACING_MM)
    found.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # LPS
    found.SetOrigin((head.affine()[:3, 3] * (-1, -1, 1)).tolist())
    sitk.WriteImage(found, str(path))
    return trial(path, Truth(thickness_mm=None, kernel=None))


# --- geometry ---------------------------------------------------------------------------------------------------


def size_of_another_unit(rng: Generator, folder: Path) -> Trial:
    matrix = head.affine()
    matrix[:3] *= rng.choice([1e-3, 1e3, 1e-6, 1e20, 1e-20])
    found = image(affine=matrix)
    if rng.random() < 0.3:
        found.header.set_xyzt_units("unknown")
    return trial(save(found, folder / "scan.nii.gz"), wanted=Wanted.REFUSAL)


def another_unit(rng: Generator, folder: Path) -> Trial:
    found = image()
    found.header["xyzt_units"] = rng.choice([0, 1, 3, 4, 5, 7, 255])
    return trial(save(found, folder / "scan.nii.gz"))


def no_invertible_affine(rng: Generator, folder: Path) -> Trial:
    matrix = head.affine()
    kind = rng.integers(4)
    if kind == 0:
        matrix[:3, rng.integers(3)] = 0
    elif kind == 1:
        matrix[rng.integers(3), rng.integers(4)] = rng.choice([np.nan, np.inf])
    elif kind == 2:
        matrix[:3, 1] = matrix[:3, 0]
    else:
        matrix[:3, :3] = 0
    path = save(image(), folder / "scan.nii")
    content = bytearray(path.read_bytes())
    content[280:328] = matrix[:3].astype(np.float32).tobytes()
    path.write_bytes(content)
    return trial(path)


def sform_of_zeros(rng: Generator, folder: Path) -> Trial:
    content = bytearray(image().to_bytes())
    content[254:256] = np.int16(rng.choice([0, 1, 2])).tobytes()
    content[280:328] = bytes(48)
    path = save(image(), folder / "scan.nii")
    path.write_bytes(content)
    return trial(path, wanted=Wanted.VALUES)


def long_quaternion(rng: Generator, folder: Path) -> Trial:
    found = image()
    found.header["quatern_b"], found.header["quatern_c"], found.header["quatern_d"] = (
        0,
        0,
        1 + rng.choice([2e-7, 1e-6, 1e-4]),
    )
    return trial(save(found, folder / "scan.nii.gz"))


def contradicting_forms(rng: Generator, folder: Path) -> Trial:
    found, matrix = image(), head.affine()
    matrix[:3, 3] += rng.normal(0, 40, 3)
    found.header["qoffset_x"], found.header["qoffset_y"], found.header["qoffset_z"] = matrix[:3, 3]
    return trial(save(found, folder / "scan.nii.gz"))


def stale_slice_axis(rng: Generator, folder: Path) -> Trial:
    found = image()
    found.header.set_dim_info(slice=int(rng.integers(2)))
    return trial(save(found, folder / "scan.nii.gz"))


def sheared(rng: Generator, folder: Path) -> Trial:
    matrix = head.affine()
    matrix[1, 2] = rng.uniform(-1.5, 1.5)
    return trial(save(image(affine=matrix), folder / "scan.nii.gz"), Truth(affine=matrix))


def other_dimensions(rng: Generator, folder: Path) -> Trial:
    hu = head.simulated_hu()
    kind = rng.integers(5)
    if kind == 0:
        return trial(save(image(hu[..., None]), folder / "scan.nii.gz"), wanted=Wanted.VALUES)
    changed = [np.stack([hu, hu], axis=-1), hu[..., 5], hu[:0], np.stack([hu] * 3, axis=-1)[..., None, :]][kind - 1]
    return trial(save(image(changed), folder / "scan.nii.gz"), wanted=Wanted.REFUSAL)


def no_grey_values(rng: Generator, folder: Path) -> Trial:
    hu = head.simulated_hu()
    if rng.random() < 0.5:
        return trial(save(image(hu.astype(np.complex64)), folder / "scan.nii.gz"), wanted=Wanted.REFUSAL)
    rgb = np.zeros(hu.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return trial(save(image(rgb), folder / "scan.nii.gz"), wanted=Wanted.REFUSAL)


# --- bytes ------------------------------------------------------------------------------------------------------


def cut_off(rng: Generator, folder: Path) -> Trial:
    path = save(image(), folder / rng.choice(["scan.nii", "scan.nii.gz"]))
    size = path.stat().st_size
    kept = int(rng.choice([0, 1, 40, 347, 352, size // 2, size - 1, size - 8, rng.integers(size)]))
    path.write_bytes(path.read_bytes()[:kept])
    return trial(path, wanted=Wanted.REFUSAL)


def bit_flipped_in_gzip(rng: Generator, folder: Path) -> Trial:
    path = save(image(), folder / "scan.nii.gz")
    content = bytearray(path.read_bytes())
    at = int(rng.choice([rng.integers(10), rng.integers(len(content)), len(content) - 1 - rng.integers(8)]))
    content[at] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    return trial(path)


def rubbish_behind_gzip(rng: Generator, folder: Path) -> Trial:
    path = save(image(), folder / "scan.nii.gz")
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 200))))
    return trial(path)


def bit_flipped_in_header(rng: Generator, folder: Path) -> Trial:
    path = save(image(), folder / "scan.nii")
    content = bytearray(path.read_bytes())
    content[rng.integers(HEADER)] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    return trial(path)


def rubbish_in_header(rng: Generator, folder: Path) -> Trial:
    path = save(image(), folder / "scan.nii")
    content = bytearray(path.read_bytes())
    at, length = int(rng.integers(40, 330)), int(rng.integers(2, 17))
    content[at : at + length] = rng.bytes(length)
    path.write_bytes(content)
    return trial(path)


def huge_dimensions(rng: Generator, folder: Path) -> Trial:
    path = save(image(), folder / "scan.nii")
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767, 32767, rng.choice([200, 32767])], dtype=np.int16).tobytes()
    path.write_bytes(content if rng.random() < 0.5 else gzip.compress(content))
    return trial(path, wanted=Wanted.REFUSAL)


def bit_flipped_in_voxels(rng: Generator, folder: Path) -> Trial:
    """Nothing guards a plain file: what it holds now is the truth."""
    path = save(image(), folder / "scan.nii")
    content = bytearray(path.read_bytes())
    content[rng.integers(352, len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    hu = np.frombuffer(content, np.int16, offset=352).reshape(head.SHAPE, order="F")
    return trial(path, Truth(hu=np.maximum(hu, -1024)))


def no_nifti(rng: Generator, folder: Path) -> Trial:
    path = folder / str(
        rng.choice(["scan.nii", "scan.nii.gz", "scan.dcm", "scan.zip", "scan", "scan.nrrd", "scan.mha"])
    )
    kind = rng.integers(5)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path)
    elif kind == 2:
        path.write_text("<html>404</html>")
    elif kind == 3:
        path.write_bytes(gzip.compress(rng.bytes(4000)))
    else:
        path.write_bytes(rng.bytes(int(rng.choice([0, 10, 5000]))))
    return trial(path, wanted=Wanted.REFUSAL)


def a_thickness_given(rng: Generator, folder: Path) -> Trial:
    """The file knows nothing of it; the caller's is plausible or not."""
    path = save(image(), folder / "scan.nii.gz", {"Modality": "CT"})
    given = float(rng.choice([0.0, -1.0, np.nan, np.inf, 1e9, 0.004, 4.0]))
    wanted = Wanted.VALUES if given == head.THICKNESS_MM else Wanted.REFUSAL
    return Trial(lambda: read_scan(path, slice_thickness_mm=given), Truth(kernel="").differs, wanted)


MAKERS: tuple[Maker, ...] = (
    *(of_values(change, change.__name__, wanted) for wanted, changes in VALUES.items() for change in changes),
    padded,
    scaled_in_the_header,
    of_another_type,
    no_sense_in_slope,
    in_another_axis_order,
    of_another_name,
    of_another_compression,
    of_another_format,
    size_of_another_unit,
    another_unit,
    no_invertible_affine,
    sform_of_zeros,
    long_quaternion,
    contradicting_forms,
    stale_slice_axis,
    sheared,
    other_dimensions,
    no_grey_values,
    cut_off,
    bit_flipped_in_gzip,
    rubbish_behind_gzip,
    bit_flipped_in_header,
    rubbish_in_header,
    huge_dimensions,
    bit_flipped_in_voxels,
    no_nifti,
    a_thickness_given,
)
