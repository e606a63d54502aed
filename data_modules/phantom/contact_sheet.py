"""One picture to judge a phantom cohort by: three views of a few series, thin to thick, with the label's outline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.scan.geometry import Grid, Volume, canonical

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW_HU = (-150, 900)
"""Grey levels run from the first (black) to the second (white)."""

_SERIES = 8
_SCALE_BAR_MM = 20


def _load(path: Path) -> Volume:
    image = nib.load(path)
    data = np.asanyarray(image.dataobj)
    return canonical(Volume(data, Grid(data.shape, image.affine)))


def _choose(table: pd.DataFrame) -> pd.DataFrame:
    """Up to eight labelled series, evenly over the range of thickness, the last of them without plaque if there is."""
    labelled = table[table["label"] != ""].drop_duplicates("patient_id")
    labelled = labelled if len(labelled) else table.drop_duplicates("patient_id")
    with_plaque = labelled[labelled["true_volume_mm3"] > 0].sort_values(["slice_thickness_mm", "series_id"])
    without = labelled[labelled["true_volume_mm3"] == 0][:1]
    wanted = min(_SERIES - len(without), len(with_plaque))
    rows = np.unique(np.linspace(0, len(with_plaque) - 1, wanted).round().astype(int))
    return pd.concat([with_plaque.iloc[rows], without])


def _focus(label: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The voxel to cut the views through: the middle of the largest labelled lesion, else of the volume."""
    components, number = ndimage.label(label, np.ones((3, 3, 3)))
    if number == 0:
        return label.shape[0] // 2, label.shape[1] // 2, label.shape[2] // 2
    where = np.argwhere(components == 1 + np.argmax(np.bincount(components.ravel())[1:]))
    x, y, z = where[np.argmin(((where - where.mean(0)) ** 2).sum(1))]
    return int(x), int(y), int(z)


def _draw_view(
    axes: Axes, hu: NDArray[np.int16], label: NDArray[np.bool_], spacing: tuple[float, float], title: str
) -> None:
    extent = (0.0, hu.shape[0] * spacing[0], 0.0, hu.shape[1] * spacing[1])
    axes.imshow(
        hu.T, cmap="gray", origin="lower", extent=extent, vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], interpolation="nearest"
    )
    if label.any():
        # Outline voxels where they are: every voxel becomes a block, so that the line follows its edge.
        block = np.kron(label.T.astype(np.uint8), np.ones((4, 4), np.uint8))
        axes.contour(block, levels=[0.5], colors="#ff4d4d", linewidths=0.8, extent=extent, origin="lower")
    axes.set_title(title, fontsize=8, pad=2)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_contact_sheet(table: pd.DataFrame, root: Path, path: Path) -> None:
    """Draw up to eight series of a phantom cohort.

    Args:
        table: rows of the cohort table.
        root: folder that the table's paths are relative to.
        path: the PNG to write (replaced whole).
    """
    import matplotlib
    from matplotlib.figure import Figure

    chosen = _choose(table)
    lines = (len(chosen) + 1) // 2
    height = 0.6 + 3.4 * lines
    figure = Figure(figsize=(19, height), facecolor="white")
    grid = figure.add_gridspec(
        lines,
        7,
        width_ratios=(84, 84, 68, 4, 84, 84, 68),
        left=0.01,
        right=0.99,
        bottom=0.05 / height,
        top=1 - 1.0 / height,
        wspace=0.04,
        hspace=0.25,
    )
    for k, row in enumerate(chosen.to_dict("records")):
        image = _load(root / row["image"])
        label = _load(root / row["label"]).data > 0 if row["label"] else np.zeros(image.data.shape, bool)
        x, y, z = _focus(label)
        sx, sy, sz = image.grid.spacing_mm
        views = (
            ("axial", image.data[:, :, z], label[:, :, z], (sx, sy)),
            ("coronal", image.data[:, y], label[:, y], (sx, sz)),
            ("sagittal, front to the right", image.data[x], label[x], (sy, sz)),
        )
        for j, (name, hu, marked, spacing) in enumerate(views):
            axes = figure.add_subplot(grid[k // 2, 4 * (k % 2) + j])
            _draw_view(axes, hu, marked, spacing, name)
            if j < 2:
                axes.text(0.97, 0.93, "R", color="white", transform=axes.transAxes, ha="right", fontsize=8)
            if j == 0:
                axes.plot([4, 4 + _SCALE_BAR_MM], [3, 3], color="white", linewidth=2)
                axes.text(4 + _SCALE_BAR_MM / 2, 4.5, f"{_SCALE_BAR_MM} mm", color="white", ha="center", fontsize=7)
                caption = (
                    f"{row['series_id']}: {row['slice_thickness_mm']:g} mm slices every {row['spacing_z_mm']:g} mm, "
                    f"{row['spacing_x_mm']:.2f} mm pixels, {row['kernel']} ({row['kernel_kind']}), "
                    f"tilt {row['tilt_deg']:g}°\nplaque {row['true_volume_mm3']:.0f} mm³ true, "
                    f"{label.sum() * image.grid.voxel_volume_mm3:.0f} mm³ labelled ({label.sum()} voxels)"
                )
                axes.annotate(
                    caption, (0, 1), (0, 14), "axes fraction", "offset points", fontsize=8.5, ha="left", va="bottom"
                )
    figure.suptitle(
        f"Phantom cohort: {table['patient_id'].nunique()} patients, {len(table)} series. Window {WINDOW_HU[0]} to "
        f"{WINDOW_HU[1]} HU; red: label (protocol: circled and ≥ 130 HU); views cut the largest labelled lesion; "
        "R: patient's right.",
        fontsize=11,
        y=1 - 0.15 / height,
    )
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=80, format="png", metadata={"Software": f"matplotlib {matplotlib.__version__}"})
    os.replace(temporary, path)
