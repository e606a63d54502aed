"""From an anatomy to a CT series: where the slices lie, point spread, slice profile, noise, and a reader's label.

Signal model. HU averages over a slab (box profile of the slice thickness) and over the in-plane point spread of the
reconstruction kernel (Gaussian; sharp kernels also overshoot at edges). Noise starts white with
σ ∝ 1/√(thickness · pixel area) and is smoothed by the same kernel; overlapping slices share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.special import erf

from data_modules.phantom.anatomy import FINE_MM, Anatomy, Floats, apply_along
from data_modules.scan.geometry import Grid

CALCIUM_HU = 130
"""Least brightness of a labelled voxel (annotation protocol of Jin et al. 2025)."""

CIRCLE_MM = 1.0
"""How far around the plaque's footprint a reader draws the circle."""

NOISE_HU_MM = 17.5
"""Noise before smoothing, times √(thickness · pixel area), in HU · mm^1.5: about 4 HU at 5 mm with a soft kernel."""

_FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Reconstruction kernel.

    Attributes:
        name: as the sidecar gives it.
        kind: ``"soft"``, ``"medium"`` or ``"sharp"``.
        fwhm_mm: full width at half maximum of the in-plane point spread.
        edge: strength of the overshoot: (1 + edge) · G(fwhm) − edge · G(2 · fwhm).
    """

    name: str
    kind: str
    fwhm_mm: float
    edge: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Acquisition:
    """How one series is taken.

    Attributes:
        grid: where its voxels lie: right-angled, turned about the x axis when the gantry is tilted.
        slice_thickness_mm: width of the slab that one slice averages (slices run along array axis 2).
        kernel: reconstruction kernel.
        dose_noise: factor of the noise (1: the reference dose).
    """

    grid: Grid
    slice_thickness_mm: float
    kernel: Kernel
    dose_noise: float = 1.0


def profile_operator(
    n_out: int, first_mm: float, step_mm: float, n_in: int, first_in_mm: float, width_mm: float
) -> sparse.csr_array:
    """`[n_out, n_in]` float32: mean over boxes of `width_mm` of a signal constant over `FINE_MM` cells (exact)."""
    center = first_mm + step_mm * np.arange(n_out)[:, None]
    low = first_in_mm + FINE_MM * (np.arange(n_in)[None] - 0.5)
    overlap = np.minimum(center + width_mm / 2, low + FINE_MM) - np.maximum(center - width_mm / 2, low)
    return sparse.csr_array((np.clip(overlap, 0, None) / width_mm).astype(np.float32))


def blur_operator(
    n_out: int, first_mm: float, step_mm: float, n_in: int, first_in_mm: float, fwhm_mm: float, cell_mm: float = FINE_MM
) -> sparse.csr_array:
    """`[n_out, n_in]` float32: Gaussian point spread over a signal constant over cells of `cell_mm` (exact to 5 σ)."""
    sigma = fwhm_mm / _FWHM_PER_SIGMA
    edges = first_in_mm + cell_mm * (np.arange(n_in + 1)[None] - 0.5) - (first_mm + step_mm * np.arange(n_out))[:, None]
    below = 0.5 * (1 + erf(edges / (sigma * np.sqrt(2))))
    weights = np.diff(below, axis=1)
    weights[weights < 1e-6] = 0
    return sparse.csr_array(weights.astype(np.float32))


def tilt_deg(grid: Grid) -> float:
    """Angle by which a grid's slices are turned about the x axis; positive: the front edge goes up."""
    y = grid.directions[:, 1]
    return float(np.rad2deg(np.arctan2(y[2], y[1])))


@dataclass(frozen=True, eq=False)
class _Slabs:
    """A field averaged over the slabs of an acquisition, still fine in plane: `[X, Y, slices]`."""

    data: Floats
    first_x_mm: float
    first_y_mm: float


@dataclass(frozen=True, eq=False)
class _Frame:
    """The acquisition's own axes: world = center + rotation · local; x sign, local start and fine extent."""

    acquisition: Acquisition
    flip_x: bool
    rotation: NDArray[np.float64]
    first_mm: tuple[float, float, float]
    fine_first_mm: tuple[float, float]
    fine_shape: tuple[int, int]


def _frame(acquisition: Acquisition) -> _Frame:
    grid = acquisition.grid
    angle = np.deg2rad(tilt_deg(grid))
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    flip = np.diag([np.sign(grid.directions[0, 0]), 1.0, 1.0])
    assert np.allclose(grid.directions, rotation @ flip, atol=1e-6), "grids here turn about x only"
    spacing, shape = np.asarray(grid.spacing_mm), np.asarray(grid.shape)
    first = -(shape - 1) / 2 * spacing
    reach = [
        (shape[1] - 1) / 2 * spacing[1] + 5 * acquisition.kernel.fwhm_mm,
        (shape[2] - 1) / 2 * spacing[2] + acquisition.slice_thickness_mm / 2 + FINE_MM,
    ]
    fine_shape = [int(np.ceil(2 * r / FINE_MM)) for r in reach]
    fine_first = [-(n - 1) / 2 * FINE_MM for n in fine_shape]
    return _Frame(
        acquisition,
        bool(grid.directions[0, 0] < 0),
        rotation,
        (float(first[0]), float(first[1]), float(first[2])),
        (fine_first[0], fine_first[1]),
        (fine_shape[0], fine_shape[1]),
    )


def half_extent_mm(acquisition: Acquisition) -> tuple[float, float, float]:
    """Half the size of the world-aligned box around the origin that an acquisition looks at."""
    frame = _frame(acquisition)
    grid = acquisition.grid
    local = np.array(
        [
            -frame.first_mm[0] + 5 * acquisition.kernel.fwhm_mm,
            frame.fine_shape[0] * FINE_MM / 2,
            frame.fine_shape[1] * FINE_MM / 2,
        ]
    )
    x, y, z = np.abs(frame.rotation) @ local + np.abs(grid.center_ras_mm) + 2 * FINE_MM
    return float(x), float(y), float(z)


def _rotation_operator(frame: _Frame, fine: Grid) -> sparse.csr_array:
    """`[ny' · nz', ny · nz]`: linear interpolation in the y-z plane onto the acquisition's axes."""
    ny, nz = fine.shape[1], fine.shape[2]
    y, z = (first + FINE_MM * np.arange(n) for first, n in zip(frame.fine_first_mm, frame.fine_shape, strict=True))
    center = frame.acquisition.grid.center_ras_mm
    cos, sin = frame.rotation[1, 1], frame.rotation[2, 1]
    row = (center[1] + cos * y[:, None] - sin * z[None] - fine.affine[1, 3]) / FINE_MM
    column = (center[2] + sin * y[:, None] + cos * z[None] - fine.affine[2, 3]) / FINE_MM
    i, j = np.floor(row).astype(int).ravel(), np.floor(column).astype(int).ravel()
    u, v = row.ravel() - i, column.ravel() - j
    output = np.arange(i.size)
    rows, columns, weights = [], [], []
    for di, dj, weight in ((0, 0, (1 - u) * (1 - v)), (0, 1, (1 - u) * v), (1, 0, u * (1 - v)), (1, 1, u * v)):
        inside = (i + di >= 0) & (i + di < ny) & (j + dj >= 0) & (j + dj < nz) & (weight > 1e-6)
        rows.append(output[inside])
        columns.append((i + di)[inside] * nz + (j + dj)[inside])
        weights.append(weight[inside])
    places = (np.concatenate(rows), np.concatenate(columns))
    values = np.concatenate(weights).astype(np.float32)
    return sparse.coo_array((values, places), shape=(output.size, ny * nz)).tocsr()


def _slabs(field: Floats, fine: Grid, frame: _Frame) -> _Slabs:
    """Turn a fine field to the acquisition's axes and average it over each slab."""
    acquisition, center = frame.acquisition, frame.acquisition.grid.center_ras_mm
    n_slices, step = acquisition.grid.shape[2], acquisition.grid.spacing_mm[2]
    first_z_mm, first_y_mm = frame.fine_first_mm[1], frame.fine_first_mm[0]
    if abs(frame.rotation[2, 1]) > 1e-9:
        across = np.ascontiguousarray(field.transpose(1, 2, 0)).reshape(-1, field.shape[0])
        turned = (_rotation_operator(frame, fine) @ across).reshape(*frame.fine_shape, field.shape[0])
        field = turned.transpose(2, 0, 1)
    else:
        first_y_mm, first_z_mm = fine.affine[1, 3] - center[1], fine.affine[2, 3] - center[2]
    profile = profile_operator(
        n_slices, frame.first_mm[2], step, field.shape[2], first_z_mm, acquisition.slice_thickness_mm
    )
    return _Slabs(apply_along(profile, field, 2), float(fine.affine[0, 3] - center[0]), float(first_y_mm))


def _in_plane(slabs: _Slabs, frame: _Frame, fwhm_mm: float) -> Floats:
    """Blur slabs by a Gaussian and sample them on the pixels: `[X, Y, Z]` of the acquisition's grid."""
    grid = frame.acquisition.grid
    (nx, ny, _), (dx, dy, _) = grid.shape, grid.spacing_mm
    across = blur_operator(ny, frame.first_mm[1], dy, slabs.data.shape[1], slabs.first_y_mm, fwhm_mm)
    along = blur_operator(nx, frame.first_mm[0], dx, slabs.data.shape[0], slabs.first_x_mm, fwhm_mm)
    image = apply_along(along, apply_along(across, slabs.data, 1), 0)
    return image[::-1] if frame.flip_x else image


def image_field(field: Floats, fine: Grid, acquisition: Acquisition) -> Floats:
    """The noise-free image of a field on the fine grid, `[X, Y, Z]` float32 on the acquisition's grid.

    The field counts as 0 outside `fine`.
    """
    frame = _frame(acquisition)
    slabs, kernel = _slabs(field, fine, frame), acquisition.kernel
    image = _in_plane(slabs, frame, kernel.fwhm_mm)
    if kernel.edge:
        image = (1 + kernel.edge) * image - kernel.edge * _in_plane(slabs, frame, 2 * kernel.fwhm_mm)
    return image.astype(np.float32, copy=False)


def image_noise(acquisition: Acquisition, rng: np.random.Generator) -> Floats:
    """Noise of one series, HU, `[X, Y, Z]` float32."""
    grid, kernel, thickness = acquisition.grid, acquisition.kernel, acquisition.slice_thickness_mm
    (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.spacing_mm
    # White noise lives on the cells between the edges of all slabs, so that a slab's noise has variance 1 / thickness
    # and slabs share exactly what they overlap.
    starts = np.round(dz * np.arange(nz), 6)
    stops = np.round(starts + thickness, 6)
    edges = np.unique(np.concatenate([starts, stops]))
    width = np.diff(edges)
    held = (edges[None, :-1] >= starts[:, None]) & (edges[None, 1:] <= stops[:, None])
    slabs = sparse.csr_array((held * np.sqrt(width) / thickness).astype(np.float32))
    white = apply_along(slabs, rng.standard_normal((width.size, nx * ny), dtype=np.float32), 0).reshape(nz, nx, ny)

    smooth = np.moveaxis(white, 0, 2)
    out = np.zeros_like(smooth)
    passes = [(1 + kernel.edge, kernel.fwhm_mm)] + ([(-kernel.edge, 2 * kernel.fwhm_mm)] if kernel.edge else [])
    for weight, fwhm in passes:
        pixels = [_noise_operator(n, d, fwhm) for n, d in ((nx, dx), (ny, dy))]
        out = out + np.float32(weight) * apply_along(pixels[0], apply_along(pixels[1], smooth, 1), 0)
    return np.float32(acquisition.dose_noise * NOISE_HU_MM / np.sqrt(dx * dy)) * out


def _noise_operator(n: int, pixel_mm: float, fwhm_mm: float) -> sparse.csr_array:
    operator = blur_operator(n, 0.0, pixel_mm, n, 0.0, fwhm_mm, cell_mm=pixel_mm)
    inner = operator[[n // 2]]
    level = np.sqrt(inner.multiply(inner).sum() / operator.multiply(operator).sum(axis=1)).astype(np.float32)
    return sparse.csr_array(sparse.diags_array(np.asarray(level).ravel()) @ operator)  # as noisy at the edge


def _crop(anatomy: Anatomy) -> tuple[tuple[slice, slice, slice], Grid] | None:
    """The part of the fine grid that holds plaque, with a voxel to spare."""
    if anatomy.true_volume_mm3 == 0:
        return None
    slices, start = [], []
    for axis in range(3):
        used = np.flatnonzero(anatomy.plaque.any(axis=tuple(k for k in range(3) if k != axis)))
        first, last = max(0, int(used[0]) - 1), int(used[-1]) + 2
        slices.append(slice(first, last))
        start.append(first)
    box = (slices[0], slices[1], slices[2])
    shape = anatomy.plaque[box].shape
    return box, anatomy.grid.crop((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))


def read_label(anatomy: Anatomy, acquisition: Acquisition, hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """What a reader following the protocol marks on a series: `[X, Y, Z]`.

    On each slice the plaque's footprint in that slab is circled with `CIRCLE_MM` to spare; inside, voxels of
    ≥ `CALCIUM_HU` in the imaged HU count, save where bone (or other calcium) is the brighter part of the voxel;
    voxels without a labelled neighbour (of 26) are discarded.
    """
    label = np.zeros(hu.shape, dtype=bool)
    crop = _crop(anatomy)
    if crop is None:
        return label
    box, part = crop
    frame = _frame(acquisition)
    footprint = _in_plane(_slabs(anatomy.plaque[box], part, frame), frame, FINE_MM / 2) > 0.02
    if not footprint.any():
        return label
    dx, dy = acquisition.grid.spacing_mm[:2]
    rx, ry = int(CIRCLE_MM / dx), int(CIRCLE_MM / dy)
    x, y = np.meshgrid(dx * np.arange(-rx, rx + 1), dy * np.arange(-ry, ry + 1), indexing="ij")
    disc = (x**2 + y**2 <= CIRCLE_MM**2)[:, :, None]
    spans = [np.flatnonzero(footprint.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    starts = [max(0, int(s[0]) - pad) for s, pad in zip(spans, (rx, ry, 0), strict=True)]
    stops = [int(s[-1]) + pad + 1 for s, pad in zip(spans, (rx, ry, 0), strict=True)]
    area = np.s_[starts[0] : stops[0], starts[1] : stops[1], starts[2] : stops[2]]
    circled = ndimage.binary_dilation(footprint[area], disc) & (hu[area] >= CALCIUM_HU)
    plaque = image_field(anatomy.plaque_signal[box], part, acquisition)[area]
    # Bone beyond this margin reaches no voxel in the circle: neither through the slab nor through the point spread.
    margin = int(np.ceil((CIRCLE_MM + acquisition.slice_thickness_mm + 5 * acquisition.kernel.fwhm_mm) / FINE_MM))
    wide = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)
    around = anatomy.other_signal[wide]
    start = (wide[0].start, wide[1].start, wide[2].start)
    other = image_field(around, anatomy.grid.crop(start, around.shape), acquisition)[area]
    found = circled & (plaque >= other)
    neighbours = ndimage.convolve(found.astype(np.uint8), np.ones((3, 3, 3), np.uint8), mode="constant")
    label[area] = found & (neighbours > 1)
    return label


def image_series(
    anatomy: Anatomy, acquisition: Acquisition, rng: np.random.Generator, labelled: bool
) -> tuple[NDArray[np.int16], NDArray[np.bool_] | None]:
    """Image an anatomy: HU `[X, Y, Z]` int16 and, where wanted, the label `[X, Y, Z]`."""
    image = image_field(anatomy.hu, anatomy.grid, acquisition) + image_noise(acquisition, rng)
    hu = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return hu, read_label(anatomy, acquisition, hu) if labelled else None
