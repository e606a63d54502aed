"""Labels changed to thicker slices against labels drawn on them: `python docs/results/thick_labels.py`.

Phantom heads are scanned with slices of 1 mm and again with thicker ones, and labelled on each by the phantom's reader.
What augmentation makes of the thin label is compared with what preparation makes of the thick one, on the common grid.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.batches.thick_labels import protocol_label
from data_modules.batches.transforms_slices import along_z, slice_operators
from data_modules.phantom.anatomy import Anatomy, build_anatomy
from data_modules.phantom.imaging import Acquisition, Kernel, image_series
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.resampling import resample_image, resample_occupancy

HEADS = 12
SIZE_MM = (60.0, 52.0, 48.0)
SPACING_MM = (0.8, 0.8, 1.6)
THICKER_MM = (2.0, 3.0, 4.0, 5.0, 6.0)
KERNELS = (
    Kernel(name="soft", kind="soft", fwhm_mm=1.3),
    Kernel(name="medium", kind="medium", fwhm_mm=1.0),
    Kernel(name="sharp", kind="sharp", fwhm_mm=0.7, edge=0.2),
)


def prepared(anatomy: Anatomy, kernel: Kernel, pixel_mm: float, thickness_mm: float) -> tuple[Tensor, Tensor]:
    """HU and occupancy `[1, 1, X, Y, Z]` on the common grid of a scan with touching slices."""
    origin = Grid((1, 1, 1), np.eye(4))
    grid = origin.with_spacing((pixel_mm, pixel_mm, thickness_mm), SIZE_MM)
    scan = Acquisition(grid=grid, slice_thickness_mm=thickness_mm, kernel=kernel)
    hu, label = image_series(anatomy, scan, np.random.default_rng(0), labelled=True)
    assert label is not None
    common = origin.with_spacing(SPACING_MM, SIZE_MM)
    image, occupancy = resample_image(Volume(hu, grid), common), resample_occupancy(Volume(label, grid), common)
    return torch.from_numpy(image.data)[None, None], torch.from_numpy(occupancy.data)[None, None]


def measured(label: Tensor, truth: Tensor) -> NDArray[np.float64]:
    """Voxels of at least a half, volume, overlap (soft Dice): of the label, of the truth, of both."""
    return np.array(
        [
            (label >= 0.5).sum(),
            (truth >= 0.5).sum(),
            label.sum(),
            truth.sum(),
            2 * torch.minimum(label, truth).sum() / (label.sum() + truth.sum()),
        ],
        dtype=np.float64,
    )


def main() -> None:
    """Print a table in Markdown."""
    found: dict[tuple[str, float], list[NDArray[np.float64]]] = {}
    for head in range(HEADS):
        rng = np.random.default_rng([2026, head])
        anatomy = build_anatomy(rng, float(rng.choice([40, 120, 300, 600])), (36.0, 32.0, 32.0))
        kernel, pixel_mm = KERNELS[head % len(KERNELS)], float(rng.choice([0.4, 0.45, 0.49]))
        hu, occupancy = prepared(anatomy, kernel, pixel_mm, 1.0)
        for thicker_mm in THICKER_MM:
            _, truth = prepared(anatomy, kernel, pixel_mm, thicker_mm)
            one = np.ones(1)
            slices = slice_operators(hu.shape[-1], SPACING_MM[2], SPACING_MM[2] * one, thicker_mm * one, 0 * one, one)
            to_thick, overlap, there_and_back = (
                torch.from_numpy(m).to(torch.float32) for m in (slices.to_thick, slices.overlap, slices.there_and_back)
            )
            for name, label in (
                ("occupancy", along_z(occupancy, there_and_back)),
                ("protocol", protocol_label(hu, occupancy, to_thick, overlap)),
            ):
                found.setdefault((name, thicker_mm), []).append(measured(label, truth))
    print("| label | slices | voxels ≥ 0.5, relative | volume, relative | overlap |\n|---|---|---|---|---|")
    for (name, thicker_mm), rows in sorted(found.items()):
        half, half_truth, volume, volume_truth, overlap_sum = np.sum(rows, axis=0)
        print(
            f"| {name} | {thicker_mm:g} mm | {half / half_truth:.2f} | {volume / volume_truth:.2f} | "
            f"{overlap_sum / len(rows):.2f} |"
        )


if __name__ == "__main__":
    main()
