"""The built-in head model: the average of simulated heads in MNI space, which registration takes without a template.

`python -m data_modules.phantom.average_head TEMPLATE.nii.gz` makes it anew, bringing the average into MNI space by its
registration to a CT template there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from data_modules.errors import UserError
from data_modules.phantom.canvas import Frame
from data_modules.phantom.head import build_head
from data_modules.prepare.registration import WINDOW_HU, Registration, register_to_template
from data_modules.prepare.templates import MODEL_FILE
from data_modules.scan.geometry import AIR_HU, Grid, Volume
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan

_N_HEADS = 8
_CELL_MM = 2.0
_SPREAD = 0.04  # of head sizes along each axis, about the mean
_MNI_MM = 3.0
_LOW_MM, _HIGH_MM = (-96.0, -132.0, -84.0), (96.0, 102.0, 108.0)
_LOW_HU, _HIGH_HU = WINDOW_HU


def average_head() -> Scan:
    """The mean of heads of several sizes, in anatomical coordinates (the sella is the origin, RAS mm)."""
    heads, grid = [], None
    for number in range(_N_HEADS):
        rng = np.random.default_rng([13, number])
        size = rng.uniform(1 - _SPREAD, 1 + _SPREAD, 3)
        frame = Frame(np.diag(1 / size), np.zeros(3), np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3)))
        canvas, hu = build_head(frame, rng, _CELL_MM)
        grid = canvas.grid
        heads.append(np.clip(hu, AIR_HU, 1500))
    assert grid is not None, "there are several heads"
    mean = np.mean(heads, axis=0)
    return Scan(hu=np.rint(mean).astype(np.int16), grid=grid, slice_thickness_mm=_CELL_MM)


def in_mni_space(head: Scan, registration: Registration) -> Volume:
    """The head resampled into the space of the template that it was registered to, the head rest behind it left out."""
    body = ndimage.binary_opening(head.hu > -300, iterations=2)
    labels, _ = ndimage.label(body)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    kept = ndimage.binary_dilation(largest, iterations=4)
    hu = ndimage.gaussian_filter(np.where(kept, head.hu, AIR_HU).astype(np.float32), _MNI_MM / 2 / _CELL_MM)
    shape = tuple(round((high - low) / _MNI_MM) for low, high in zip(_LOW_MM, _HIGH_MM, strict=True))
    affine = np.diag([_MNI_MM, _MNI_MM, _MNI_MM, 1.0])
    affine[:3, 3] = _LOW_MM
    mapping = np.linalg.inv(head.grid.affine) @ registration.affine @ affine
    data = ndimage.affine_transform(hu, mapping[:3, :3], mapping[:3, 3], shape, order=1, cval=AIR_HU)
    return Volume(data, Grid((shape[0], shape[1], shape[2]), affine))


def write_model(template: Path, out: Path = MODEL_FILE) -> Registration:
    """Make the model and write it; returns the registration that placed it.

    Raises:
        UserError: when the template cannot be read, or the average head does not fit it.
    """
    head = average_head()
    registration = register_to_template(head, read_scan(template).volume)
    if not registration.ok:
        raise UserError(f"{template}: the simulated head does not fit it: {registration.reason}")
    volume = in_mni_space(head, registration)
    share = (np.clip(volume.data, _LOW_HU, _HIGH_HU) - _LOW_HU) / (_HIGH_HU - _LOW_HU)
    level = np.rint(64 * share).astype(np.uint8)  # 9 HU a step: finer ones take room and tell nothing
    np.savez_compressed(out, level=level, levels=64, window_hu=WINDOW_HU, affine=volume.grid.affine)
    return registration


if __name__ == "__main__":
    found = write_model(Path(sys.argv[1]))
    print(f"{MODEL_FILE}: {MODEL_FILE.stat().st_size / 1000:.0f} KB, similarity {found.similarity:.3f}")
